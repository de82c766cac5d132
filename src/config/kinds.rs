//! What a value may be: a [`Kind`] reads it, shows it, and describes itself. Numbers, words and lists stand here, the
//! rest below.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use toml::Spanned;

use crate::config::bounds::Bounds;
use crate::config::effective::{list, quote};
use crate::config::reader::{Field, Item, Table, Whole};
use crate::config::report::Fault;
use crate::config::spec::{Defaulted, Optional, Required};
use crate::config::units::{show_duration, show_size};

pub(super) mod fields;
pub(crate) mod places;
pub(crate) mod retry;

/// What a key may say.
pub(super) trait Kind: Sized {
    /// The value once it has been read.
    type Value: Clone;

    /// Reads the value of a key, and reports what is wrong with it.
    fn field(&self, table: &mut Table<'_>, key: &'static str) -> Field<Self::Value>;

    /// The value as the file has it.
    fn show(&self, value: &Self::Value) -> String;

    /// What it is, for the documentation.
    fn shape(&self) -> Shape;

    /// A key of this kind with a default.
    fn or(self, default: Self::Value) -> Defaulted<Self> {
        Defaulted { kind: self, default }
    }

    /// A key of this kind that may be absent; the example is TOML.
    fn may(self, example: &'static str) -> Optional<Self> {
        Optional { kind: self, example, is_usual: false }
    }

    /// A key of this kind that has to be there; the example is TOML.
    fn must(self, example: &'static str) -> Required<Self> {
        Required { kind: self, example, advice: "", reference: example }
    }
}

/// A kind of which a list may have several.
pub(super) trait Single {
    /// The value once it has been read.
    type Value: Clone;

    /// Reads a value, or says what is wrong with it.
    fn read(&self, item: &Item<'_>) -> Result<Self::Value, Fault>;

    /// See [`Kind::show`].
    fn show(&self, value: &Self::Value) -> String;

    /// See [`Kind::shape`].
    fn shape(&self) -> Shape;
}

impl<K: Single> Kind for K {
    type Value = K::Value;

    fn field(&self, table: &mut Table<'_>, key: &'static str) -> Field<K::Value> {
        table.field(key, |item| self.read(item))
    }

    fn show(&self, value: &K::Value) -> String {
        Single::show(self, value)
    }

    fn shape(&self) -> Shape {
        Single::shape(self)
    }
}

/// A kind as the documentation has it.
pub(super) struct Shape {
    /// Its name.
    pub(super) name: String,
    /// What bounds it, in words.
    pub(super) bounds: String,
    /// The JSON Schema of its values.
    pub(super) schema: Value,
}

/// `true` or `false`.
pub(super) fn boolean() -> Boolean {
    Boolean
}

/// See [`boolean`].
pub(super) struct Boolean;

impl Single for Boolean {
    type Value = bool;

    fn read(&self, item: &Item<'_>) -> Result<bool, Fault> {
        item.boolean()
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn shape(&self) -> Shape {
        Shape { name: "boolean".into(), bounds: String::new(), schema: json!({ "type": "boolean" }) }
    }
}

/// A whole number.
pub(super) fn integer<N: Whole>(bounds: impl Into<Bounds<N>>) -> Integer<N> {
    Integer(bounds.into())
}

/// See [`integer`].
pub(super) struct Integer<N>(Bounds<N>);

impl<N: Whole> Single for Integer<N> {
    type Value = N;

    fn read(&self, item: &Item<'_>) -> Result<N, Fault> {
        item.integer(self.0)
    }

    fn show(&self, value: &N) -> String {
        value.to_string()
    }

    fn shape(&self) -> Shape {
        let mut schema = json!({ "type": "integer" });
        let (least, most) = self.0.ends();
        schema["minimum"] = least.map_or(json!(0), |least| json!(least));
        if let Some(most) = most {
            schema["maximum"] = json!(most);
        }
        let bounds = self.0.describe(|number| number.to_string());
        Shape { name: "whole number".into(), bounds, schema }
    }
}

/// A number.
pub(super) fn number(bounds: impl Into<Bounds<f64>>) -> Number {
    Number(bounds.into())
}

/// See [`number`].
pub(super) struct Number(Bounds<f64>);

impl Single for Number {
    type Value = f64;

    fn read(&self, item: &Item<'_>) -> Result<f64, Fault> {
        item.number(self.0)
    }

    fn show(&self, value: &f64) -> String {
        // A float in TOML has a point.
        format!("{value:?}")
    }

    fn shape(&self) -> Shape {
        let (least, most) = self.0.ends();
        let schema = json!({ "type": "number", "minimum": least, "maximum": most });
        Shape { name: "number".into(), bounds: self.0.describe(|number| format!("{number:?}")), schema }
    }
}

/// A duration.
pub(super) fn duration(bounds: impl Into<Bounds<Duration>>) -> Span {
    Span(bounds.into())
}

/// See [`duration`].
pub(super) struct Span(Bounds<Duration>);

impl Single for Span {
    type Value = Duration;

    fn read(&self, item: &Item<'_>) -> Result<Duration, Fault> {
        item.duration(self.0)
    }

    fn show(&self, value: &Duration) -> String {
        quote(&show_duration(*value))
    }

    fn shape(&self) -> Shape {
        let schema = json!({ "type": "string", "pattern": "^[0-9]+(us|ms|s|m|h)$" });
        Shape { name: "duration".into(), bounds: self.0.describe(show_duration), schema }
    }
}

/// A size in bytes.
pub(super) fn size<N: Bytes>(bounds: impl Into<Bounds<u64>>) -> Size<N> {
    Size(bounds.into(), PhantomData)
}

/// See [`size`].
pub(super) struct Size<N>(Bounds<u64>, PhantomData<N>);

/// A number of bytes.
pub(super) trait Bytes: Copy + TryFrom<u64> + TryInto<u64> {
    /// As much as there can be.
    const MAX: Self;
}

impl Bytes for u32 {
    const MAX: Self = Self::MAX;
}

impl Bytes for u64 {
    const MAX: Self = Self::MAX;
}

impl Bytes for usize {
    const MAX: Self = Self::MAX;
}

impl<N: Bytes> Single for Size<N> {
    type Value = N;

    fn read(&self, item: &Item<'_>) -> Result<N, Fault> {
        // Only a 32-bit machine reaches the maximum, and there it is as good as unlimited.
        Ok(N::try_from(item.size(self.0)?).unwrap_or(N::MAX))
    }

    fn show(&self, value: &N) -> String {
        quote(&show_size((*value).try_into().unwrap_or(u64::MAX)))
    }

    fn shape(&self) -> Shape {
        let schema = json!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" });
        Shape { name: "size".into(), bounds: self.0.describe(show_size), schema }
    }
}

/// One of a few words.
pub(super) fn word<T, const N: usize>(words: [(&'static str, T); N]) -> Word<T, N> {
    Word(words)
}

/// One of a few words, each of which is the label of its value.
pub(super) fn label<T: Copy, const N: usize>(values: [T; N], label: fn(T) -> &'static str) -> Word<T, N> {
    Word(values.map(|value| (label(value), value)))
}

/// See [`word`].
pub(super) struct Word<T, const N: usize>([(&'static str, T); N]);

impl<T, const N: usize> Word<T, N> {
    /// The words and what they mean.
    pub(super) const fn new(words: [(&'static str, T); N]) -> Self {
        Self(words)
    }
}

impl<T: Clone + PartialEq, const N: usize> Single for Word<T, N> {
    type Value = T;

    fn read(&self, item: &Item<'_>) -> Result<T, Fault> {
        item.choice(&self.0)
    }

    fn show(&self, value: &T) -> String {
        quote(self.0.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word))
    }

    fn shape(&self) -> Shape {
        let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
        let bounds = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(", ");
        Shape { name: "word".into(), bounds, schema: json!({ "enum": words }) }
    }
}

/// A list, collected to a vector or a set.
pub(super) fn list_of<C, K: Single>(kind: K) -> List<C, K> {
    List(kind, PhantomData)
}

/// See [`list_of`].
pub(super) struct List<C, K>(K, PhantomData<C>);

/// What a list is collected to.
pub(super) trait Collection<T>: Clone + FromIterator<T> {
    /// What is in it, in its order.
    fn items(&self) -> Vec<T>;
}

impl<T: Clone> Collection<T> for Vec<T> {
    fn items(&self) -> Vec<T> {
        self.clone()
    }
}

impl<T: Clone> Collection<T> for Arc<[T]> {
    fn items(&self) -> Vec<T> {
        self.to_vec()
    }
}

impl<C: Collection<K::Value>, K: Single> Kind for List<C, K> {
    type Value = C;

    fn field(&self, table: &mut Table<'_>, key: &'static str) -> Field<C> {
        let items = table.list(key, |item| self.0.read(item));
        items.map(|items| items.into_iter().map(Spanned::into_inner).collect())
    }

    fn show(&self, value: &C) -> String {
        list(value.items().iter().map(|item| self.0.show(item)))
    }

    fn shape(&self) -> Shape {
        self.0.shape().in_list()
    }
}

/// A list whose values keep their places, for what is checked later.
pub(super) fn placed<K: Single>(kind: K) -> Placed<K> {
    Placed(kind)
}

/// See [`placed`].
pub(super) struct Placed<K>(K);

/// Values that have left the file, as [`placed`] has them.
pub(super) fn unplaced<T: Clone>(values: impl IntoIterator<Item = T>) -> Vec<Spanned<T>> {
    values.into_iter().map(|value| Spanned::new(0..0, value)).collect()
}

impl<K: Single> Kind for Placed<K> {
    type Value = Vec<Spanned<K::Value>>;

    fn field(&self, table: &mut Table<'_>, key: &'static str) -> Field<Self::Value> {
        table.list(key, |item| self.0.read(item))
    }

    fn show(&self, value: &Self::Value) -> String {
        list(value.iter().map(|item| self.0.show(item.get_ref())))
    }

    fn shape(&self) -> Shape {
        self.0.shape().in_list()
    }
}

impl Shape {
    /// The shape of a list of such values.
    pub(super) fn in_list(self) -> Self {
        let Self { name, bounds, schema } = self;
        Self { name: format!("list: {name}"), bounds, schema: json!({ "type": "array", "items": schema }) }
    }
}

/// A kind that is read and shown by two functions.
pub(super) struct Custom<T> {
    /// Its name in the documentation.
    pub(super) name: &'static str,
    /// Its types in JSON.
    pub(super) types: &'static [&'static str],
    /// See [`Single::read`].
    pub(super) read: fn(&Item<'_>) -> Result<T, Fault>,
    /// See [`Kind::show`].
    pub(super) show: fn(&T) -> String,
}

impl<T: Clone> Single for Custom<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>) -> Result<T, Fault> {
        (self.read)(item)
    }

    fn show(&self, value: &T) -> String {
        (self.show)(value)
    }

    fn shape(&self) -> Shape {
        let types = if let [one] = self.types { json!(one) } else { json!(self.types) };
        Shape { name: self.name.into(), bounds: String::new(), schema: json!({ "type": types }) }
    }
}

/// In JSON as in TOML, a string.
pub(super) const TEXT: &[&str] = &["string"];
/// A string or a whole number.
pub(super) const TEXT_OR_WHOLE: &[&str] = &["string", "integer"];
