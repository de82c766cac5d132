//! One declaration per key: [`settings!`] makes of a table's keys the table as the file has it, its reader, its layers,
//! its text for `--effective`, and its documentation.

use crate::config::docs::KeyDoc;
use crate::config::reader::{Field, Table};

/// A table of keys.
pub(super) trait Section: Clone {
    /// What it is once it has been checked.
    type Checked;

    /// Reads every key, and reports what is wrong with any of them.
    fn read(table: Table<'_>) -> Self;

    /// The checked values, as the file would have them.
    fn show(checked: &Self::Checked) -> Entries;

    /// What each key is.
    fn describe() -> Vec<KeyDoc>;
}

/// What goes over a lower layer key by key: `[route.retry]` over `[cluster.NAME.retry]` over `[retry]`.
pub(super) trait Layered {
    /// This layer, and the lower one where this one says nothing.
    fn over(&self, lower: &Self) -> Self;
}

impl<T: Clone> Layered for Field<T> {
    fn over(&self, lower: &Self) -> Self {
        match self {
            Self::Absent => lower.clone(),
            Self::Broken | Self::Given(_) => self.clone(),
        }
    }
}

/// The keys of a table and what they say.
pub(super) type Entries = Vec<(&'static str, Shown)>;

/// What a key says, to be written as TOML.
pub(super) enum Shown {
    /// The key is absent.
    Nothing,
    /// `key = VALUE`
    Value(String),
    /// `[key]`
    Table(Entries),
    /// `[[key]]`, any number of times.
    Tables(Vec<Entries>),
    /// `[key.NAME]`, each with its name.
    Named(Vec<(String, Entries)>),
}

/// Applies a function to a checked value, so that the compiler knows the type of its argument.
pub(super) fn at<C, T>(checked: &C, place: impl Fn(&C) -> T) -> T {
    place(checked)
}

/// Declares a table of the configuration.
///
/// ```text
/// settings! {
///     /// `[retry]`
///     Retry layered: fields of RetryPolicy {
///         /// How long a resumed download may take.
///         resume_time: Or<Duration> = duration(ms(10)..=m(10)).or(s(10)) => |policy| policy.resume.time;
///     }
/// }
/// ```
///
/// A key has its text, its name, the type that the file's table holds, its specification ([`Spec`]: kind, bounds,
/// default), and its place in the checked value. Without a place it is the field of its name (`fields of`), or what the
/// method of its name returns (`methods of`). Where the checked value has exactly these fields (`all of`), the table has
/// a method `checked` that makes it. A `layered` table can go over a lower one.
///
/// [`Spec`]: crate::config::spec::Spec
macro_rules! settings {
    ($(#[doc = $text:literal])* $name:ident layered: $form:ident of $checked:ty { $($keys:tt)* }) => {
        settings! { $(#[doc = $text])* $name: $form of $checked { $($keys)* } }
        settings! { @layered $name { $($keys)* } }
    };
    ($(#[doc = $text:literal])* $name:ident: all of $checked:ident $keys:tt) => {
        settings! { $(#[doc = $text])* $name: fields of $checked $keys }
        settings! { @checked $name $checked $keys }
    };
    ($(#[doc = $text:literal])* $name:ident: $form:ident of $checked:ty {
        $($(#[doc = $doc:literal])* $key:ident: $raw:ty = $spec:expr $(=> $place:expr)?;)*
    }) => {
        $(#[doc = $text])*
        #[derive(Clone)]
        pub(in crate::config) struct $name {
            $($(#[doc = $doc])* pub(in crate::config) $key: $raw,)*
        }

        impl $crate::config::settings::Section for $name {
            type Checked = $checked;

            fn read(mut table: $crate::config::reader::Table<'_>) -> Self {
                let section = Self {
                    $($key: $crate::config::spec::Spec::read(settings!(@spec $raw, $spec), &mut table, stringify!($key)),)*
                };
                table.finish();
                section
            }

            fn show(checked: &$checked) -> $crate::config::settings::Entries {
                vec![$((
                    stringify!($key),
                    $crate::config::spec::Spec::show(
                        settings!(@spec $raw, $spec),
                        &settings!(@place $form checked $key $($place)?),
                    ),
                ),)*]
            }

            fn describe() -> Vec<$crate::config::docs::KeyDoc> {
                vec![$($crate::config::docs::KeyDoc::new(
                    stringify!($key),
                    &[$($doc),*],
                    $crate::config::spec::Spec::describe(settings!(@spec $raw, $spec)),
                ),)*]
            }
        }
    };
    (@spec $raw:ty, $spec:expr) => { &$crate::config::spec::typed::<$raw, _>($spec) };
    (@place fields $checked:ident $key:ident) => { $checked.$key };
    (@place methods $checked:ident $key:ident) => { $checked.$key() };
    (@place $form:ident $checked:ident $key:ident $place:expr) => {
        $crate::config::settings::at($checked, $place)
    };
    (@layered $name:ident {
        $($(#[doc = $doc:literal])* $key:ident: $raw:ty = $spec:expr $(=> $place:expr)?;)*
    }) => {
        impl $crate::config::settings::Layered for $name {
            fn over(&self, lower: &Self) -> Self {
                Self { $($key: self.$key.over(&lower.$key),)* }
            }
        }
    };
    (@checked $name:ident $checked:ident {
        $($(#[doc = $doc:literal])* $key:ident: $raw:ty = $spec:expr;)*
    }) => {
        impl $name {
            /// The checked values.
            pub(in crate::config) fn checked(&self) -> $checked {
                $checked { $($key: self.$key.value(),)* }
            }
        }
    };
}

pub(super) use settings;
