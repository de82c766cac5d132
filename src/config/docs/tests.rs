//! Holds the documentation to the declarations; `UPDATE=1` writes it anew.

use super::*;
use crate::config::parse;
use crate::testing::generated;

#[test]
fn the_documentation_says_what_is_declared() {
    generated("config/reference.toml", &reference());
    generated("config/stent.schema.json", &schema());
    generated("docs/reference/configuration.md", &page());
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
