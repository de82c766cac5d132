//! `chain`, `key` and `passphrase_file`: the files of a certificate, as listeners and clusters name them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml::Spanned;

use crate::certificate::{self, Certificate, CertificateError, CertificateFiles, FileRole};
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, Faults};

/// The table as the file has it.
pub(super) struct RawCertificate {
    header: Range<usize>,
    chain: Field<String>,
    key: Field<String>,
    passphrase_file: Field<String>,
}

/// How a table of this kind is called in errors.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

/// A certificate whose files are named.
pub(super) struct Named {
    /// The chain's path as the configuration has it.
    pub(super) chain: Spanned<String>,
    pub(super) files: CertificateFiles,
    /// None if the files are no good, which has been reported.
    pub(super) certificate: Option<Certificate>,
}

impl RawCertificate {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let certificate = Self {
            header: table.header(),
            chain: table.field("chain", file),
            key: table.field("key", file),
            passphrase_file: table.field("passphrase_file", file),
        };
        table.finish();
        certificate
    }

    /// Reads the files; none if the table does not name them.
    pub(super) fn load(&self, kind: &Kind, directory: &Path, faults: &Faults) -> Option<Named> {
        let required = |field: &Field<String>, key: &str| match field {
            Field::Given(path) => Some(path.clone()),
            Field::Broken => None,
            Field::Absent => {
                let message = format!("{} has no `{key}`", kind.name);
                let fault = Fault::at(self.header.clone(), message, format!("`{key}` is missing"));
                faults.push(fault.help(format!("write {}", kind.example)));
                None
            }
        };
        // Both, so that both are reported.
        let (chain, key) = (required(&self.chain, "chain"), required(&self.key, "key"));
        let (chain, key) = (chain?, key?);
        if self.passphrase_file.is_broken() {
            return None;
        }
        let passphrase_file = self.passphrase_file.given();
        let files = CertificateFiles {
            chain: resolve(directory, chain.get_ref()),
            key: resolve(directory, key.get_ref()),
            passphrase_file: passphrase_file.map(|path| resolve(directory, path.get_ref())),
        };
        let certificate = match certificate::load(&files, SystemTime::now()) {
            Ok(loaded) => {
                loaded.warnings.iter().for_each(|warning| faults.warn(warning));
                Some(loaded)
            }
            Err(error) => {
                let span = match error.role() {
                    FileRole::Chain => chain.span(),
                    FileRole::Key => key.span(),
                    FileRole::Passphrase => passphrase_file.map_or(key.span(), Spanned::span),
                };
                faults.push(unusable(&error, span));
                None
            }
        };
        Some(Named { chain, files, certificate })
    }
}

/// The path of a file, as it stands there.
pub(super) fn file(item: &Item<'_>) -> Result<String, Fault> {
    let text = item.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err(item.invalid("not a path", "give the path of a file in PEM, such as \"tls/hosp.pem\""));
    }
    Ok(text.to_owned())
}

/// What is wrong with a file, at the place that names it.
pub(super) fn unusable(error: &CertificateError, span: Range<usize>) -> Fault {
    Fault::at(span, error.to_string(), "this file").help(error.help())
}

/// A path as the process finds it, wherever it runs.
pub(super) fn resolve(directory: &Path, path: &str) -> PathBuf {
    let path = directory.join(path);
    std::path::absolute(&path).unwrap_or(path)
}
