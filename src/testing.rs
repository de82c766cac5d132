//! Holds the pages that are written from the code to what the code says; compiled for tests only.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// Compares the file at `path`, from the package's folder, with `text`. `UPDATE=1` in the environment writes the file.
///
/// A stale file fails the calling test, with the lines that differ.
pub(crate) fn generated(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::create_dir_all(file.parent().expect("a file lies in a folder")).expect("the folder can be made");
        fs::write(&file, text).expect("the file can be written");
        return;
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == text,
        "{path} is stale; `UPDATE=1 cargo test` writes it\n{}",
        difference(&written, text)
    );
}

/// The lines between the first and the last that differ: `-` as written, `+` as the code says.
fn difference(written: &str, text: &str) -> String {
    let (written, text): (Vec<_>, Vec<_>) = (written.lines().collect(), text.lines().collect());
    let alike = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let first = alike(&mut written.iter().zip(&text));
    let last = alike(&mut written[first..].iter().rev().zip(text[first..].iter().rev()));
    let mut shown = format!("@@ line {}\n", first + 1);
    for (mark, lines) in [('-', &written), ('+', &text)] {
        for line in &lines[first..lines.len() - last] {
            writeln!(shown, "{mark}{line}").expect("writing to a string succeeds");
        }
    }
    shown
}

#[test]
fn a_difference_shows_the_lines_that_differ() {
    assert_eq!(difference("a\nb\nc\n", "a\nB\nnew\nc\n"), "@@ line 2\n-b\n+B\n+new\n");
    assert_eq!(difference("", "a\n"), "@@ line 1\n+a\n");
    assert_eq!(difference("a\na\n", "a\n"), "@@ line 2\n-a\n");
}
