//! Walks the spanned TOML tree: a [`Table`] hands out typed values, notes every wrong one with its place, and at its
//! end every key that nobody asked for.
//!
//! Not serde's derive, which stops at the first error.

use std::ops::Range;
use std::time::Duration;

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::config::bounds::Bounds;
use crate::config::report::{Fault, Faults, did_you_mean};
use crate::config::units::{InvalidQuantity, parse_duration, parse_size, show_duration, show_size};

/// What the file says for a key.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// Something wrong, which has been reported: to say that it is missing too would mislead.
    Broken,
    /// This.
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// The field with its value changed.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Broken => Field::Broken,
            Self::Given(value) => {
                let span = value.span();
                Field::Given(Spanned::new(span, change(value.into_inner())))
            }
        }
    }

    /// The value.
    pub(super) fn value(&self) -> Option<T>
    where
        T: Clone,
    {
        self.given().map(|value| value.get_ref().clone())
    }

    /// The value and its place.
    pub(super) fn given(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Broken => None,
        }
    }

    /// Where the value stands.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        self.given().map(Spanned::span)
    }

    /// Whether it was there and wrong.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

impl<T> Field<Vec<T>> {
    /// What is in the list; nothing if there is none.
    pub(super) fn list(&self) -> &[T] {
        self.given().map_or(&[], |list| list.get_ref())
    }
}

/// A table whose keys are being read.
pub(super) struct Table<'a> {
    name: String,
    header: Range<usize>,
    /// None if the file does not have it.
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
    unsupported: Vec<&'static str>,
    renamed: Vec<(&'static str, &'static str)>,
    faults: &'a Faults,
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(super) fn root(tree: &'a Spanned<DeTable<'a>>, faults: &'a Faults) -> Self {
        Self::new("the file".to_owned(), tree.span(), Some(tree.get_ref()), faults)
    }

    fn new(name: String, header: Range<usize>, entries: Option<&'a DeTable<'a>>, faults: &'a Faults) -> Self {
        let (known, unsupported, renamed) = (Vec::new(), Vec::new(), Vec::new());
        Self { name, header, entries, known, unsupported, renamed, faults }
    }

    /// What errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where it begins.
    pub(super) fn header(&self) -> Range<usize> {
        self.header.clone()
    }

    /// The value of `key`, read by `read`.
    pub(super) fn field<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Item<'a>) -> Result<T, Fault>,
    ) -> Field<T> {
        let Some(value) = self.take(key) else { return Field::Absent };
        self.note(read(&Item { key, value }), value.span())
    }

    /// The values of the list `key`, each read by `read`.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Item<'a>) -> Result<T, Fault>,
    ) -> Field<Vec<Spanned<T>>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(array) = value.get_ref().as_array() else {
            return self.note(Err(Item { key, value }.wrong_type("a list")), value.span());
        };
        let items: Vec<_> =
            array.iter().map(|value| self.note(read(&Item { key, value }), value.span())).collect();
        let given: Option<Vec<_>> = items
            .into_iter()
            .map(|item| match item {
                Field::Given(value) => Some(value),
                Field::Absent | Field::Broken => None,
            })
            .collect();
        given.map_or(Field::Broken, |given| Field::Given(Spanned::new(value.span(), given)))
    }

    /// The table `key`; none too if it is something else, which is reported.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        let name = self.name_of(key);
        self.take(key).and_then(|value| self.as_table(key, name, value))
    }

    /// The table `key`, or an empty one in its place.
    pub(super) fn table_or_empty(&mut self, key: &'static str) -> Table<'a> {
        let (name, header, faults) = (self.name_of(key), self.header(), self.faults);
        self.table(key).unwrap_or_else(|| Table::new(name, header, None, faults))
    }

    /// The table `key`, read by `read`, where it matters whether it is there.
    pub(super) fn table_field<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Table<'a>) -> T,
    ) -> Field<T> {
        let span = self.value(key).map(Spanned::span);
        match (span, self.table(key)) {
            (None, _) => Field::Absent,
            (Some(_), None) => Field::Broken,
            (Some(span), Some(table)) => Field::Given(Spanned::new(span, read(table))),
        }
    }

    /// The tables `[[key]]`, in the order of the file.
    pub(super) fn tables(&mut self, key: &'static str) -> Field<Vec<Table<'a>>> {
        let name = format!("`[{}]`", self.name_of(key).trim_matches('`'));
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(array) = value.get_ref().as_array() else {
            let fault = Fault::at(
                value.span(),
                format!("`{key}` is a list of tables"),
                format!("this is {}", type_name(value.get_ref())),
            );
            return self.note(Err(fault.help(format!("begin each with {name}"))), value.span());
        };
        let tables: Vec<_> =
            array.iter().filter_map(|value| self.as_table(key, name.clone(), value)).collect();
        if tables.is_empty() && array.iter().next().is_some() {
            return Field::Broken;
        }
        Field::Given(Spanned::new(value.span(), tables))
    }

    /// The tables `[key.NAME]` and their names, in the order of the file.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Field<Vec<(Spanned<&'a str>, Table<'a>)>> {
        let Some(value) = self.take(key) else { return Field::Absent };
        let Some(entries) = value.get_ref().as_table() else {
            let fault = Item { key, value }.wrong_type("tables");
            return self.note(Err(fault.help(format!("begin each with `[{key}.NAME]`"))), value.span());
        };
        let mut named: Vec<_> = entries
            .iter()
            .filter_map(|(name, value)| {
                let (text, span) = (&**name.get_ref(), name.span());
                let table = self.as_table(key, format!("`[{key}.{}]`", text.escape_debug()), value)?;
                Some((Spanned::new(span, text), table))
            })
            .collect();
        if named.is_empty() && !entries.is_empty() {
            return Field::Broken;
        }
        named.sort_by_key(|(name, _)| name.span().start);
        Field::Given(Spanned::new(value.span(), named))
    }

    /// Whether `key` is a table in it.
    pub(super) fn has_table(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| value.get_ref().is_table())
    }

    /// Every value, whatever its key, in the order of the file; `read` gets the key too.
    pub(super) fn each<T>(self, read: impl Fn(&Spanned<&'a str>, &Item<'a>) -> Result<T, Fault>) -> Vec<T> {
        let mut entries: Vec<_> = self.entries.into_iter().flat_map(DeTable::iter).collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let read = |(key, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let name: &'a str = key.get_ref();
            let item = Item { key: name, value };
            self.note(read(&Spanned::new(key.span(), name), &item), value.span())
        };
        entries
            .into_iter()
            .map(read)
            .filter_map(|field| match field {
                Field::Given(value) => Some(value.into_inner()),
                Field::Absent | Field::Broken => None,
            })
            .collect()
    }

    /// Refuses `key`, which the documentation names and this place does not take.
    pub(super) fn refuse(&mut self, key: &'static str, message: &str, label: &str, help: &str) {
        self.unsupported.push(key);
        if let Some((key, value)) = self.entries.and_then(|entries| entries.get_key_value(key)) {
            let span = if value.get_ref().is_table() { value.span() } else { key.span() };
            self.faults.push(Fault::at(span, message, label).help(help));
        }
    }

    /// Notes that `key` was called `old` before.
    pub(super) fn rename(&mut self, old: &'static str, key: &'static str) {
        self.renamed.push((old, key));
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for key in self.entries.into_iter().flat_map(DeTable::keys) {
            let word = &**key.get_ref();
            if self.known.contains(&word) || self.unsupported.contains(&word) {
                continue;
            }
            let message = format!("unknown key `{}` in {}", word.escape_debug(), self.name);
            let fault = |label: &str, help: String| Fault::at(key.span(), message, label).help(help);
            self.faults.push(match self.renamed.iter().find(|(old, _)| *old == word) {
                Some((old, new)) => fault("an old name", format!("`{old}` is called `{new}` now")),
                None => fault("not a key of Stent", did_you_mean(word, self.known.iter().copied())),
            });
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        // One that is refused is no hint for a misspelled one.
        if !self.unsupported.contains(&key) {
            self.known.push(key);
        }
        self.value(key)
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entries.and_then(|entries| entries.get(key))
    }

    fn note<T>(&self, result: Result<T, Fault>, span: Range<usize>) -> Field<T> {
        match result {
            Ok(value) => Field::Given(Spanned::new(span, value)),
            Err(fault) => {
                self.faults.push(fault);
                Field::Broken
            }
        }
    }

    fn as_table(&self, key: &str, name: String, value: &'a Spanned<DeValue<'a>>) -> Option<Table<'a>> {
        if let Some(entries) = value.get_ref().as_table() {
            return Some(Table::new(name, value.span(), Some(entries), self.faults));
        }
        self.faults.push(Item { key, value }.wrong_type("a table"));
        None
    }

    fn name_of(&self, key: &str) -> String {
        match self.name.trim_matches(['`', '[', ']']) {
            "the file" => format!("`[{key}]`"),
            path => format!("`[{path}.{key}]`"),
        }
    }
}

/// One value and the key that it belongs to.
pub(super) struct Item<'a> {
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Item<'a> {
    /// A string.
    pub(super) fn text(&self) -> Result<&'a str, Fault> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("`true` or `false`"))
    }

    /// A whole number within bounds.
    pub(super) fn integer<N: Whole>(&self, bounds: impl Into<Bounds<N>>) -> Result<N, Fault> {
        let (number, bounds) =
            (self.whole().ok_or_else(|| self.wrong_type("a whole number"))?, bounds.into());
        let Ok(number) = N::try_from(number) else {
            // It is beyond the end that is not named, so both are.
            let (least, most) = bounds.ends();
            let all = Bounds::from(least.unwrap_or(N::MIN)..=most.unwrap_or(N::MAX));
            return Err(self.out_of(&all, |number| number.to_string()));
        };
        self.within(number, bounds, |number| number.to_string())
    }

    /// A number within bounds.
    pub(super) fn number(&self, bounds: impl Into<Bounds<f64>>) -> Result<f64, Fault> {
        let float = || self.value.get_ref().as_float()?.as_str().parse().ok();
        let whole = || Some(self.whole()? as f64);
        let number = float().or_else(whole).ok_or_else(|| self.wrong_type("a number"))?;
        self.within(number, bounds.into(), |number| format!("{number:?}"))
    }

    /// A duration within bounds.
    pub(super) fn duration(&self, bounds: impl Into<Bounds<Duration>>) -> Result<Duration, Fault> {
        let duration = self.quantity("a duration", "s", parse_duration)?;
        self.within(duration, bounds.into(), show_duration)
    }

    /// A size in bytes, within bounds.
    pub(super) fn size(&self, bounds: impl Into<Bounds<u64>>) -> Result<u64, Fault> {
        let size = self.quantity("a size", "KiB", parse_size)?;
        self.within(size, bounds.into(), show_size)
    }

    /// One of a few words.
    pub(super) fn choice<T: Clone>(&self, choices: &[(&str, T)]) -> Result<T, Fault> {
        let word = self.text()?;
        let chosen = choices.iter().find(|(name, _)| *name == word);
        chosen.map(|(_, value)| value.clone()).ok_or_else(|| {
            let names = choices.iter().map(|(name, _)| *name);
            self.invalid("not one of its words", &did_you_mean(word, names))
        })
    }

    /// A list of strings, if it is a list at all.
    pub(super) fn texts(&self) -> Option<Result<Vec<&'a str>, Fault>> {
        let array = self.value.get_ref().as_array()?;
        Some(array.iter().map(|value| Item { key: self.key, value }.text()).collect())
    }

    /// A whole number, if it is one that a program counts with.
    pub(super) fn whole(&self) -> Option<i128> {
        let integer = self.value.get_ref().as_integer()?;
        i128::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    /// An error at this value: what is wrong with it, and what to write instead.
    pub(super) fn invalid(&self, label: &str, help: &str) -> Fault {
        self.fault(format!("invalid `{}`", self.key), label).help(help)
    }

    /// An error at this value.
    pub(super) fn fault(&self, message: impl Into<String>, label: &str) -> Fault {
        Fault::at(self.value.span(), message, label)
    }

    /// This value has another type than `expected`.
    pub(super) fn wrong_type(&self, expected: &str) -> Fault {
        let label = format!("this is {}", type_name(self.value.get_ref()));
        self.fault(format!("`{}` takes {expected}", self.key), &label)
    }

    fn within<T: Copy + PartialOrd>(
        &self,
        value: T,
        bounds: Bounds<T>,
        show: impl Fn(T) -> String,
    ) -> Result<T, Fault> {
        if bounds.contains(value) { Ok(value) } else { Err(self.out_of(&bounds, show)) }
    }

    fn out_of<T: Copy + PartialOrd>(&self, bounds: &Bounds<T>, show: impl Fn(T) -> String) -> Fault {
        let message = format!("`{}` must be {}", self.key, bounds.rule(show));
        let fault = self.fault(message, "out of bounds");
        bounds.help().into_iter().fold(fault, Fault::help)
    }

    fn quantity<T>(
        &self,
        what: &str,
        unit: &str,
        parse: impl Fn(&str) -> Result<T, InvalidQuantity>,
    ) -> Result<T, Fault> {
        if let Some(number) = self.whole() {
            let label = "a number without a unit";
            let help = format!("with a unit, as a string: \"{number}{unit}\"");
            return Err(self.fault(format!("`{}` takes {what}", self.key), label).help(help));
        }
        let text = self
            .value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong_type(&format!("{what}, as a string with a unit")))?;
        parse(text).map_err(|error| {
            self.fault(format!("`{}` takes {what}", self.key), &error.message).help(error.help)
        })
    }
}

/// A type of whole numbers.
pub(super) trait Whole: TryFrom<i128> + Copy + PartialOrd + ToString + Serialize {
    /// The least.
    const MIN: Self;
    /// The most.
    const MAX: Self;
}

impl Whole for u8 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
}

impl Whole for u16 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
}

impl Whole for u32 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
}

impl Whole for usize {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
