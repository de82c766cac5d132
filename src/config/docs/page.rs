//! `docs/reference/configuration.md`: a table for each section of the configuration.

use std::fmt::Write;

use crate::config::docs::{Form, KeyDoc, Place, Presence};

/// Writes the page.
pub(super) fn write(keys: &[KeyDoc]) -> String {
    let mut text = HEAD.to_owned();
    sections(&mut text, "", keys);
    text
}

fn sections(text: &mut String, path: &str, keys: &[KeyDoc]) {
    for key in keys {
        let Form::Table(style, keys) = &key.form else { continue };
        let path = match (path, style.place) {
            ("", Place::Named(_)) => format!("{}.NAME", key.name),
            ("", _) => key.name.to_owned(),
            _ => format!("{path}.{}", key.name),
        };
        let text_of_key = sentence(key);
        put(text, format_args!("\n## `{}`\n\n{text_of_key}\n", style.header(&path)));
        if style.like.is_some() {
            continue;
        }
        if keys.iter().any(|key| matches!(key.form, Form::Value(..))) {
            put(
                text,
                format_args!("\n| key | kind | bounds | default | what it does |\n|---|---|---|---|---|\n"),
            );
        }
        for key in keys {
            let Form::Value(shape, presence) = &key.form else { continue };
            let default = match presence {
                Presence::Default(value) => format!("`{value}`"),
                Presence::Absent(example) | Presence::Usual(example) => {
                    format!("absent; such as `{example}`")
                }
                Presence::Required(example) => format!("**required**, such as `{example}`"),
            };
            let row = [&format!("`{}`", key.name), &shape.name, &shape.bounds, &default, &sentence(key)];
            put(text, format_args!("| {} |\n", row.map(|cell| cell.replace('|', "\\|")).join(" | ")));
        }
        sections(text, &path, keys);
    }
}

fn sentence(key: &KeyDoc) -> String {
    let was = key.was.map(|old| format!(" In the release before it was called `{old}`."));
    format!("{}{}", key.text, was.unwrap_or_default())
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("writing to a string succeeds");
}

const HEAD: &str = "<!-- Written from the declarations in src/config by `UPDATE=1 cargo test --lib config::docs`. -->

# Configuration

Every table of the configuration file and every key in it. `stent check FILE` reports every error of a file, each with its
line. `stent check FILE --effective` prints what holds after merging. `config/reference.toml` is the same as a file.
`config/stent.schema.json` lets an editor complete and check: name it in the first line of a file, as `#:schema PATH`.

A duration is a whole number with a unit, as a string: `\"500us\"`, `\"250ms\"`, `\"2s\"`, `\"1m\"`, `\"1h\"`. A size too:
`\"512B\"`, `\"64KiB\"`, `\"20MiB\"`, `\"1GiB\"`; sizes count in steps of 1024.
";
