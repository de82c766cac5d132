//! The files that hold secrets: read with the configuration, and never shown.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::config::report::{Fault, Faults};
use crate::fields::guard::{InvalidSecret, Secret};
use crate::files::FileKind;

/// Reads the secrets of a guard. Each file that cannot be used is a fault at its place, and each that others may read a
/// warning. Relative paths start at `directory`.
pub(super) fn read(
    files: Vec<Spanned<PathBuf>>,
    directory: &Path,
    faults: &Faults,
) -> Option<Vec<(PathBuf, Secret)>> {
    let secrets: Vec<_> = files
        .into_iter()
        .map(|file| {
            let span = file.span();
            let path = directory.join(file.into_inner());
            let shown = path.display();
            match read_one(&path) {
                Ok((secret, is_open)) => {
                    if is_open {
                        let advice = format!("chmod o-rwx {shown}");
                        faults.warn(format!("everybody may read the secret in {shown}; {advice}"));
                    }
                    Some((path, secret))
                }
                Err(Unusable::Unreadable(error)) => {
                    let fault = Fault::at(span, "a secret cannot be read", error.to_string());
                    let help = "name a file that the user whom Stent runs as may read; a relative path begins at the \
                                configuration's directory";
                    faults.push(fault.help(help));
                    None
                }
                Err(Unusable::Invalid(error)) => {
                    let fault = Fault::at(span, error.to_string(), "in this file");
                    faults.push(fault.help(help(error)));
                    None
                }
            }
        })
        .collect();
    secrets.into_iter().collect()
}

enum Unusable {
    Unreadable(io::Error),
    Invalid(InvalidSecret),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// The secret, and whether every user of the machine may read it.
fn read_one(path: &Path) -> Result<(Secret, bool), Unusable> {
    // Before it is opened, because opening a pipe waits for its writer.
    let kind = FileKind::of(path)?;
    if kind != FileKind::Regular {
        return Err(kind.refusal().into());
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut content = Vec::new();
    // A line end may follow the longest secret, and one byte more shows that it is too long.
    file.take(Secret::LONGEST as u64 + 3).read_to_end(&mut content)?;
    let secret = Secret::new(&content).map_err(Unusable::Invalid)?;
    Ok((secret, metadata.permissions().mode() & 0o004 != 0))
}

fn help(error: InvalidSecret) -> &'static str {
    match error {
        InvalidSecret::Character => {
            "one line of visible ASCII characters, without blanks at its ends: `openssl rand -hex 32`"
        }
        InvalidSecret::Empty | InvalidSecret::TooShort => "make one with `openssl rand -hex 32`",
        InvalidSecret::TooLong => "the file shall hold the secret and nothing else",
    }
}
