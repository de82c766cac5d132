//! The checked configuration written as TOML that reads back to the same, for `stent check --effective`.

use std::fmt::Write;

use crate::config::Config;
use crate::config::keys::File;
use crate::config::settings::{Entries, Section, Shown};

/// Writes every key with the value that holds, the merged retry policy of each route among them.
pub fn effective(config: &Config) -> String {
    let mut text = String::new();
    write_table(&mut text, "", &File::show(config));
    text
}

/// Writes the values of a table, then the tables in it: TOML gives what follows a header to that header.
fn write_table(text: &mut String, path: &str, entries: &Entries) {
    for (key, shown) in entries {
        if let Shown::Value(value) = shown {
            write_line(text, format_args!("{key} = {value}"));
        }
    }
    for (key, shown) in entries {
        let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
        match shown {
            Shown::Nothing | Shown::Value(_) => {}
            Shown::Table(entries) => write_section(text, &format!("[{path}]"), &path, entries),
            Shown::Tables(tables) => {
                for entries in tables {
                    write_section(text, &format!("[[{path}]]"), &path, entries);
                }
            }
            Shown::Named(tables) => {
                for (name, entries) in tables {
                    let path = format!("{path}.{}", key_name(name));
                    write_section(text, &format!("[{path}]"), &path, entries);
                }
            }
        }
    }
}

fn write_section(text: &mut String, header: &str, path: &str, entries: &Entries) {
    let gap = if text.is_empty() { "" } else { "\n" };
    write_line(text, format_args!("{gap}{header}"));
    write_table(text, path, entries);
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string succeeds");
}

/// A table in one line; what is in it is values.
pub(super) fn inline(entries: &Entries) -> String {
    let pairs: Vec<_> = entries.iter().filter_map(|(key, shown)| pair(key, shown)).collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn pair(key: &str, shown: &Shown) -> Option<String> {
    let Shown::Value(value) = shown else { return None };
    Some(format!("{key} = {value}"))
}

/// A list of tables, one in a line.
pub(super) fn list_of_inline(tables: &[Entries]) -> String {
    let lines: Vec<_> = tables.iter().map(|entries| format!("\n    {},", inline(entries))).collect();
    format!("[{}\n]", lines.concat())
}

/// A list of values.
pub(super) fn list(values: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", values.into_iter().collect::<Vec<_>>().join(", "))
}

/// A string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A key goes without quotes where it can.
pub(super) fn key_name(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quote(name) }
}
