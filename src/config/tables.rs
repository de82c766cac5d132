//! What a declared key may be if it is a table: always there, optional, a list of tables, or tables with names.

use std::marker::PhantomData;
use std::ops::Deref;

use toml::Spanned;

use crate::config::docs::{Form, Place, Style};
use crate::config::effective::{inline, list_of_inline};
use crate::config::reader::{Field, Table};
use crate::config::settings::{Entries, Section, Shown};
use crate::config::spec::Spec;

/// The specification of a key that is a table with the keys of `S`.
pub(super) struct TableOf<S> {
    style: Style,
    refused: Option<Refused>,
    section: PhantomData<S>,
}

/// A key that the documentation names and one table does not take.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    pub(super) key: &'static str,
    pub(super) message: &'static str,
    pub(super) label: &'static str,
    pub(super) help: &'static str,
}

/// A table that is always there: where the file has none, each key has its default.
pub(super) fn table<S: Section>() -> TableOf<S> {
    TableOf { style: Style::new(Place::Always), refused: None, section: PhantomData }
}

/// A table that may be absent.
pub(super) fn optional<S: Section>() -> OptionalTable<S> {
    OptionalTable(TableOf { style: Style::new(Place::Optional), ..table() })
}

/// A list of tables; `prepare` looks at each of them first.
pub(super) fn tables<S: Section>(prepare: fn(&mut Table<'_>)) -> Tables<S> {
    Tables { table: TableOf { style: Style::new(Place::List), ..table() }, prepare }
}

/// Tables with names, which `name` tells of the checked value; `config/reference.toml` has one called `example`.
pub(super) fn named<S: Section>(example: &'static str, name: fn(&S::Checked) -> &str) -> NamedTables<S> {
    NamedTables { table: TableOf { style: Style::new(Place::Named(example)), ..table() }, name }
}

impl<S: Section> TableOf<S> {
    /// The same, written in one line.
    pub(super) fn inline(self) -> Self {
        Self { style: Style { is_inline: true, ..self.style }, ..self }
    }

    /// The same; its keys are documented at another table.
    pub(super) fn like(self, other: &'static str) -> Self {
        Self { style: Style { like: Some(other), ..self.style }, ..self }
    }

    /// The same without one key.
    pub(super) fn without(self, refused: Refused) -> Self {
        Self { refused: Some(refused), ..self }
    }

    fn entries(&self, entries: Entries) -> Shown {
        if self.style.is_inline { Shown::Value(inline(&entries)) } else { Shown::Table(entries) }
    }

    fn form(&self) -> Form {
        let is_refused = |key: &str| self.refused.is_some_and(|refused| refused.key == key);
        let keys = S::describe().into_iter().filter(|key| !is_refused(key.name)).collect();
        Form::Table(self.style, keys)
    }
}

impl<S: Section> Spec for TableOf<S> {
    type Raw = S;
    type Checked = S::Checked;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> S {
        let mut inner = table.table_or_empty(key);
        if let Some(Refused { key, message, label, help }) = self.refused {
            inner.refuse(key, message, label, help);
        }
        S::read(inner)
    }

    fn show(&self, checked: &S::Checked) -> Shown {
        self.entries(S::show(checked))
    }

    fn describe(&self) -> Form {
        self.form()
    }
}

/// See [`optional`].
pub(super) struct OptionalTable<S>(TableOf<S>);

impl<S: Section> OptionalTable<S> {
    /// See [`TableOf::inline`].
    pub(super) fn inline(self) -> Self {
        Self(self.0.inline())
    }

    /// See [`TableOf::like`].
    pub(super) fn like(self, other: &'static str) -> Self {
        Self(self.0.like(other))
    }
}

impl<S: Section> Spec for OptionalTable<S> {
    type Raw = Field<S>;
    type Checked = Option<S::Checked>;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Field<S> {
        table.table_field(key, S::read)
    }

    fn show(&self, checked: &Option<S::Checked>) -> Shown {
        checked.as_ref().map_or(Shown::Nothing, |checked| self.0.show(checked))
    }

    fn describe(&self) -> Form {
        self.0.form()
    }
}

/// See [`tables`].
pub(super) struct Tables<S> {
    table: TableOf<S>,
    prepare: fn(&mut Table<'_>),
}

impl<S: Section> Tables<S> {
    /// See [`TableOf::inline`].
    pub(super) fn inline(self) -> Self {
        Self { table: self.table.inline(), ..self }
    }
}

impl<S: Section> Spec for Tables<S> {
    type Raw = Field<Vec<Spanned<S>>>;
    type Checked = Vec<S::Checked>;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Self::Raw {
        table.tables(key).map(|tables| {
            let read = |mut table: Table<'_>| {
                (self.prepare)(&mut table);
                Spanned::new(table.header(), S::read(table))
            };
            tables.into_iter().map(read).collect()
        })
    }

    fn show(&self, checked: &Self::Checked) -> Shown {
        let shown: Vec<_> = checked.iter().map(S::show).collect();
        if self.table.style.is_inline { Shown::Value(list_of_inline(&shown)) } else { Shown::Tables(shown) }
    }

    fn describe(&self) -> Form {
        self.table.form()
    }
}

/// See [`named`].
pub(super) struct NamedTables<S: Section> {
    table: TableOf<S>,
    name: fn(&S::Checked) -> &str,
}

/// A table with a name, as the file has it.
#[derive(Clone)]
pub(super) struct Named<S> {
    pub(super) name: Spanned<Box<str>>,
    section: S,
}

impl<S> Deref for Named<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.section
    }
}

impl<S: Section> Spec for NamedTables<S> {
    type Raw = Field<Vec<Named<S>>>;
    type Checked = Vec<S::Checked>;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Self::Raw {
        table.named_tables(key).map(|tables| {
            let read = |(name, table): (Spanned<&str>, Table<'_>)| Named {
                name: Spanned::new(name.span(), (*name.get_ref()).into()),
                section: S::read(table),
            };
            tables.into_iter().map(read).collect()
        })
    }

    fn show(&self, checked: &Self::Checked) -> Shown {
        let named = |checked: &S::Checked| ((self.name)(checked).to_owned(), S::show(checked));
        Shown::Named(checked.iter().map(named).collect())
    }

    fn describe(&self) -> Form {
        self.table.form()
    }
}

/// For a list of tables that need no look first.
pub(super) fn as_they_are(_: &mut Table<'_>) {}
