//! Holds the documentation to the declarations; `UPDATE=1` writes it anew.

use std::path::Path;
use std::{env, fs};

use super::*;
use crate::config::parse;

#[test]
fn the_documentation_says_what_is_declared() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        ("config/reference.toml", reference()),
        ("config/stent.schema.json", schema()),
        ("docs/reference/configuration.md", page()),
    ];
    let mut stale = Vec::new();
    for (name, text) in files {
        let path = root.join(name);
        if env::var_os("UPDATE").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        if there != text {
            stale.push(format!("--- {name}\n+++ as declared\n{}", difference(&there, &text)));
        }
    }
    let stale = stale.concat();
    assert!(stale.is_empty(), "`UPDATE=1 cargo test --lib config::docs` writes what is stale:\n{stale}");
}

/// The lines between the first and the last that differ.
fn difference(there: &str, text: &str) -> String {
    let (there, text): (Vec<_>, Vec<_>) = (there.lines().collect(), text.lines().collect());
    let begin = there.iter().zip(&text).take_while(|(one, other)| one == other).count();
    let (there, text) = (&there[begin..], &text[begin..]);
    let end = there.iter().rev().zip(text.iter().rev()).take_while(|(one, other)| one == other).count();
    let lines = |sign: char, lines: &[&str]| {
        let lines = lines[..lines.len() - end].iter();
        lines.map(|line| format!("{sign}{line}\n")).collect::<Vec<_>>().concat()
    };
    format!("@@ line {} @@\n{}{}", begin + 1, lines('-', there), lines('+', text))
}

#[test]
fn a_difference_shows_the_lines_that_differ() {
    assert_eq!(difference("a\nb\nc\nd\n", "a\nx\ny\nd\n"), "@@ line 2 @@\n-b\n-c\n+x\n+y\n");
    assert_eq!(difference("", "a\n"), "@@ line 1 @@\n+a\n");
    assert_eq!(difference("a\na\n", "a\n"), "@@ line 2 @@\n-a\n");
}

#[test]
fn every_key_has_its_text() {
    fn check(keys: &[KeyDoc]) {
        for key in keys {
            assert!(key.text.ends_with('.'), "{}: {}", key.name, key.text);
            if let Form::Table(_, keys) = &key.form {
                check(keys);
            }
        }
    }
    check(&File::describe());
}

#[test]
fn every_example_is_one() {
    // What is off by default is switched on, but for what excludes something else and what names files.
    let text: String = reference()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.contains(" = ") && !key.starts_with("redirect") || key.starts_with('[') => {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let errors = parse(&text, "stent.toml").unwrap_err();
    let is_about_files =
        |message: &&str| message.starts_with("cannot read") || message.starts_with("a secret");
    let others: Vec<_> = errors.messages().filter(|message| !is_about_files(message)).collect();
    let expected = [
        "TLS settings for a cluster that is reached without TLS",
        // Its keys are documented at the listener's guard.
        "`[route.origin_guard]` has no `header`",
        "`[route.origin_guard]` has no `secret_files`",
    ];
    assert_eq!(others, expected, "{errors}");
}
