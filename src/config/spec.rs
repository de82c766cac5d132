//! What a declared key may be: a value with a default, without one, or required. Tables stand in `tables`.

use std::ops::{Deref, Range};

use toml::Spanned;

use crate::config::docs::{Form, Presence};
use crate::config::kinds::Kind;
use crate::config::reader::{Field, Table};
use crate::config::report::{Fault, Faults};
use crate::config::settings::{Layered, Shown};

/// The specification of a key.
pub(super) trait Spec: Sized {
    /// What the file's table holds for it.
    type Raw;
    /// What it is once it has been checked.
    type Checked;

    /// Reads it, and reports what is wrong with it.
    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Self::Raw;

    /// The checked value, as the file would have it.
    fn show(&self, checked: &Self::Checked) -> Shown;

    /// What it is, for the documentation.
    fn describe(&self) -> Form;

    /// The same; until the release before this one it was called `old`, which is now an error with a hint.
    fn was(self, old: &'static str) -> Was<Self> {
        Was { spec: self, old }
    }

    /// The same; in some configurations it has no effect and is not shown.
    fn sometimes(self) -> Sometimes<Self> {
        Sometimes { spec: self }
    }
}

/// The specification itself: what the file's table holds tells the compiler what it leaves open.
pub(super) fn typed<R, S: Spec<Raw = R>>(spec: S) -> S {
    spec
}

/// A value with a default, as the file has it.
#[derive(Clone)]
pub(super) struct Or<T> {
    field: Field<T>,
    default: T,
}

impl<T: Clone> Or<T> {
    /// The value or the default. A broken one gives the default too: its configuration is refused anyway.
    pub(super) fn value(&self) -> T {
        self.field.value().unwrap_or_else(|| self.default.clone())
    }
}

impl<T> Deref for Or<T> {
    type Target = Field<T>;

    fn deref(&self) -> &Field<T> {
        &self.field
    }
}

impl<T: Clone> Layered for Or<T> {
    fn over(&self, lower: &Self) -> Self {
        Self { field: self.field.over(&lower.field), default: self.default.clone() }
    }
}

/// A value that has to be there, as the file has it.
#[derive(Clone)]
pub(super) struct Must<T> {
    field: Field<T>,
    key: &'static str,
    table: String,
    header: Range<usize>,
    help: String,
}

impl<T: Clone> Must<T> {
    /// The value and its place. A missing one is reported, one that is wrong has been.
    pub(super) fn value(&self, faults: &Faults) -> Option<Spanned<T>> {
        if let Field::Absent = self.field {
            let message = format!("{} has no `{}`", self.table, self.key);
            let fault = Fault::at(self.header.clone(), message, format!("`{}` is missing", self.key));
            faults.push(fault.help(self.help.clone()));
        }
        self.field.given().cloned()
    }
}

impl<T> Deref for Must<T> {
    type Target = Field<T>;

    fn deref(&self) -> &Field<T> {
        &self.field
    }
}

/// See [`Kind::or`].
pub(super) struct Defaulted<K: Kind> {
    pub(super) kind: K,
    pub(super) default: K::Value,
}

impl<K: Kind> Spec for Defaulted<K> {
    type Raw = Or<K::Value>;
    type Checked = K::Value;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Or<K::Value> {
        Or { field: self.kind.field(table, key), default: self.default.clone() }
    }

    fn show(&self, checked: &K::Value) -> Shown {
        Shown::Value(self.kind.show(checked))
    }

    fn describe(&self) -> Form {
        Form::Value(self.kind.shape(), Presence::Default(self.kind.show(&self.default)))
    }
}

/// See [`Kind::may`].
pub(super) struct Optional<K> {
    pub(super) kind: K,
    pub(super) example: &'static str,
    pub(super) is_usual: bool,
}

impl<K> Optional<K> {
    /// The same; most tables have it, so `config/reference.toml` does too.
    pub(super) fn usual(self) -> Self {
        Self { is_usual: true, ..self }
    }
}

impl<K: Kind> Spec for Optional<K> {
    type Raw = Field<K::Value>;
    type Checked = Option<K::Value>;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Field<K::Value> {
        self.kind.field(table, key)
    }

    fn show(&self, checked: &Option<K::Value>) -> Shown {
        checked.as_ref().map_or(Shown::Nothing, |value| Shown::Value(self.kind.show(value)))
    }

    fn describe(&self) -> Form {
        let presence = if self.is_usual { Presence::Usual } else { Presence::Absent };
        Form::Value(self.kind.shape(), presence(self.example))
    }
}

/// See [`Kind::must`].
pub(super) struct Required<K> {
    pub(super) kind: K,
    pub(super) example: &'static str,
    pub(super) advice: &'static str,
    pub(super) reference: &'static str,
}

impl<K> Required<K> {
    /// The same; where it is missing, this follows the example.
    pub(super) fn advice(self, advice: &'static str) -> Self {
        Self { advice, ..self }
    }

    /// The same with another example in `config/reference.toml`.
    pub(super) fn reference(self, reference: &'static str) -> Self {
        Self { reference, ..self }
    }
}

impl<K: Kind> Spec for Required<K> {
    type Raw = Must<K::Value>;
    type Checked = K::Value;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> Must<K::Value> {
        let Self { kind, example, advice, .. } = self;
        Must {
            field: kind.field(table, key),
            key,
            table: table.name().to_owned(),
            header: table.header(),
            help: format!("add `{key} = {example}`{advice}"),
        }
    }

    fn show(&self, checked: &K::Value) -> Shown {
        Shown::Value(self.kind.show(checked))
    }

    fn describe(&self) -> Form {
        Form::Value(self.kind.shape(), Presence::Required(self.reference))
    }
}

/// See [`Spec::was`].
pub(super) struct Was<S> {
    spec: S,
    old: &'static str,
}

impl<S: Spec> Spec for Was<S> {
    type Raw = S::Raw;
    type Checked = S::Checked;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> S::Raw {
        table.rename(self.old, key);
        self.spec.read(table, key)
    }

    fn show(&self, checked: &S::Checked) -> Shown {
        self.spec.show(checked)
    }

    fn describe(&self) -> Form {
        Form::Renamed(self.old, Box::new(self.spec.describe()))
    }
}

/// See [`Spec::sometimes`].
pub(super) struct Sometimes<S> {
    spec: S,
}

impl<S: Spec> Spec for Sometimes<S> {
    type Raw = S::Raw;
    type Checked = Option<S::Checked>;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> S::Raw {
        self.spec.read(table, key)
    }

    fn show(&self, checked: &Option<S::Checked>) -> Shown {
        checked.as_ref().map_or(Shown::Nothing, |checked| self.spec.show(checked))
    }

    fn describe(&self) -> Form {
        self.spec.describe()
    }
}
