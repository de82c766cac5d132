//! `config/reference.toml`: every key at its default, with what it does beside it.

use std::fmt::Write;

use crate::config::docs::{Form, KeyDoc, Place, Presence, Style};

/// Writes the file.
pub(super) fn write(keys: &[KeyDoc]) -> String {
    let mut text = Reference(HEAD.to_owned());
    text.tables("", keys, false);
    text.0
}

struct Reference(String);

impl Reference {
    /// The values of a table; where it is `off`, as comments.
    fn values(&mut self, keys: &[KeyDoc], off: bool) {
        for key in keys {
            match &key.form {
                Form::Value(shape, presence) => {
                    let (value, is_off, words) = match presence {
                        Presence::Default(value) => (value.as_str(), off, ""),
                        Presence::Absent(value) => (*value, true, ""),
                        Presence::Required(value) => (*value, off, "Required. "),
                        Presence::Usual(value) => (*value, off, ""),
                    };
                    let text = format!("{words}{}{}", key.text, bounds(&shape.bounds));
                    self.line(&format!("{}{} = {value}", hash(is_off), key.name), &text);
                }
                // What is always there shows each key at its default, below; what need not be is one line.
                Form::Table(Style { place: Place::Optional, is_inline: true, .. }, keys) => {
                    let pairs =
                        keys.iter().filter_map(|key| Some(format!("{} = {}", key.name, example(key)?)));
                    let pairs = pairs.collect::<Vec<_>>().join(", ");
                    self.line(&format!("# {} = {{ {pairs} }}", key.name), &key.text);
                    for key in keys {
                        if let Form::Value(shape, _) = &key.form {
                            self.line("#", &format!("`{}`: {}{}", key.name, key.text, bounds(&shape.bounds)));
                        }
                    }
                }
                Form::Table(..) | Form::Renamed(..) => {}
            }
        }
    }

    /// The tables in a table.
    fn tables(&mut self, path: &str, keys: &[KeyDoc], off: bool) {
        for key in keys {
            let Form::Table(style, keys) = &key.form else { continue };
            if style.place == Place::Optional && style.is_inline {
                continue;
            }
            let path = match (path, style.place) {
                ("", Place::Named(name)) => format!("{}.{name}", key.name),
                ("", _) => key.name.to_owned(),
                _ => format!("{path}.{}", key.name),
            };
            let off = off || style.place == Place::Optional;
            self.0.push('\n');
            self.line(&format!("{}{}", hash(off), style.header(&path)), &key.text);
            if style.like.is_none() {
                self.values(keys, off);
                self.tables(&path, keys, off);
            }
        }
    }

    /// A line and its comment, which goes on below it where it is long.
    fn line(&mut self, line: &str, comment: &str) {
        let mut start = format!("{line:COLUMN$}");
        if !start.ends_with(' ') {
            start.push(' ');
        }
        let mut rest = comment.split(' ').peekable();
        while rest.peek().is_some() {
            let mut row = format!("{start}#");
            while let Some(word) = rest
                .next_if(|word| row.chars().count() + 1 + word.chars().count() <= WIDTH || row.ends_with('#'))
            {
                row.push(' ');
                row.push_str(word);
            }
            writeln!(self.0, "{}", row.replace(UNBROKEN, " ")).expect("writing to a string succeeds");
            start = " ".repeat(COLUMN);
        }
    }
}

fn hash(off: bool) -> &'static str {
    if off { "# " } else { "" }
}

fn bounds(bounds: &str) -> String {
    if bounds.is_empty() {
        return String::new();
    }
    let is_short = bounds.len() < WIDTH / 2;
    let bounds = if is_short { bounds.replace(' ', UNBROKEN) } else { bounds.to_owned() };
    format!(" [{bounds}]")
}

fn example(key: &KeyDoc) -> Option<&str> {
    match &key.form {
        Form::Value(_, Presence::Default(value)) => Some(value),
        Form::Value(_, Presence::Absent(value) | Presence::Required(value) | Presence::Usual(value)) => {
            Some(value)
        }
        Form::Table(..) | Form::Renamed(..) => None,
    }
}

/// A blank at which no line ends.
const UNBROKEN: &str = "\u{a0}";
/// Where comments begin.
const COLUMN: usize = 36;
/// Where lines end.
const WIDTH: usize = 120;

const HEAD: &str = "#:schema stent.schema.json
# Written from the declarations in src/config by `UPDATE=1 cargo test --lib config::docs`: do not edit it by hand.
#
# Every key, at its default. A required key has an example. A key that is absent by default is a comment.
# Bounds and words stand in brackets.
#
# Durations are whole numbers with a unit: \"500us\", \"250ms\", \"2s\", \"1m\", \"1h\". Sizes too: \"512B\", \"64KiB\", \"20MiB\",
# \"1GiB\"; they count in steps of 1024.
# `stent check FILE` reports every error of a file. `stent check FILE --effective` prints what holds after merging.
";
