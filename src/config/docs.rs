//! The documentation of the keys, written from their declarations: `config/reference.toml`,
//! `docs/reference/configuration.md` and `config/stent.schema.json`.

use crate::config::keys::File;
use crate::config::kinds::Shape;
use crate::config::settings::Section;

mod page;
mod reference;
mod schema;

/// `config/reference.toml`: every key at its default.
pub fn reference() -> String {
    reference::write(&File::describe())
}

/// `docs/reference/configuration.md`: a table for each section.
pub fn page() -> String {
    page::write(&File::describe())
}

/// `config/stent.schema.json`: a JSON Schema, by which editors complete and check.
pub fn schema() -> String {
    schema::write(&File::describe())
}

/// A key as it is declared.
pub(super) struct KeyDoc {
    pub(super) name: &'static str,
    /// What it does, in one line.
    pub(super) text: String,
    /// What it was called in the release before.
    pub(super) was: Option<&'static str>,
    pub(super) form: Form,
}

/// What a key is.
pub(super) enum Form {
    /// It has a value.
    Value(Shape, Presence),
    /// It is a table with these keys.
    Table(Style, Vec<KeyDoc>),
    /// It was called otherwise.
    Renamed(&'static str, Box<Self>),
}

/// Whether a key has to be there, in TOML.
pub(super) enum Presence {
    /// It need not: this is its default.
    Default(String),
    /// It need not, and has no default; an example.
    Absent(&'static str),
    /// It has to; an example.
    Required(&'static str),
    /// It need not, and has no default, but most tables have it; an example.
    Usual(&'static str),
}

/// How a table is written.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) place: Place,
    /// It stands in one line.
    pub(super) is_inline: bool,
    /// The table at which its keys are documented.
    pub(super) like: Option<&'static str>,
}

/// How often a table is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Once, with all keys at their defaults if the file does not have it.
    Always,
    /// Once or not at all.
    Optional,
    /// Any number of times.
    List,
    /// Any number of times, each with a name; an example.
    Named(&'static str),
}

impl Style {
    /// A table with a header of its own.
    pub(super) fn new(place: Place) -> Self {
        Self { place, is_inline: false, like: None }
    }

    /// Its header at `path`.
    pub(super) fn header(self, path: &str) -> String {
        if self.place == Place::List { format!("[[{path}]]") } else { format!("[{path}]") }
    }
}

impl KeyDoc {
    /// The key `name`; `text` is its documentation, line by line.
    pub(super) fn new(name: &'static str, text: &[&str], form: Form) -> Self {
        let text = text.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        match form {
            Form::Renamed(old, form) => Self { name, text, was: Some(old), form: *form },
            form => Self { name, text, was: None, form },
        }
    }
}

#[cfg(test)]
mod renamed;
#[cfg(test)]
mod tests;
