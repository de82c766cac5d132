//! How a metric is declared: once, with its type, name, labels, help and the fields of its handles.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::labels::Label;

/// Declares the metrics that share their first labels, the scope:
///
/// ```text
/// pub struct Handles, Families [scope] {
///     IntCounter name_total [label] "Help." { field = "value", other: Enum }
///     Histogram name_seconds in BUCKETS "Help." { field }
/// }
/// ```
///
/// `Handles` has the fields: one series each, or one for each value of `Enum`, with a method of the field's name that
/// finds it. `Families` has the metrics themselves, and makes the handles of one scope. A metric without a field has
/// no handle: its series are made by hand.
macro_rules! metrics {
    (
        $(#[$about:meta])*
        $vis:vis struct $handles:ident, $families:ident [$($scope:ident),*] {
            $($kind:ident $name:ident $([$($label:ident),+])? $(in $buckets:ident)? $help:literal {
                $($field:ident $(= $word:literal)? $(: $values:ty)?),*
            })+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug)]
        $vis struct $handles {
            $($(
                #[doc = $help]
                $vis $field: metrics!(@handle $kind $($values)?),
            )*)+
        }

        impl $handles {
            $($($(
                #[doc = concat!("The series of `", stringify!($field), "` with this value.")]
                $vis fn $field(&self, value: $values) -> &$kind {
                    self.$field.with(value)
                }
            )?)*)+
        }

        #[derive(Debug)]
        #[allow(clippy::struct_field_names, reason = "the names are those of the metrics")]
        pub(super) struct $families {
            $(pub(super) $name: <$kind as $crate::record::metrics::declare::Kind>::Family,)+
        }

        impl $crate::record::metrics::declare::Families for $families {
            type Handles = $handles;

            const SCOPE: &'static [&'static str] = &[$(stringify!($scope)),*];

            fn register(registry: &prometheus::Registry) -> Self {
                use $crate::record::metrics::declare::{Kind, register};
                Self {
                    $($name: {
                        let labels = [Self::SCOPE, &[$($(stringify!($label)),+)?]].concat();
                        let buckets: &[f64] = metrics!(@or &[], $($buckets)?);
                        register(registry, $kind::family(stringify!($name), $help, &labels, buckets))
                    },)+
                }
            }

            fn of(&self, scope: &[&str]) -> $handles {
                use $crate::record::metrics::declare::Handle;
                $handles { $($($field: Handle::of(&self.$name, scope, &[$($word)?]),)*)+ }
            }

            fn end(&self, scope: &[&str], handles: &$handles) {
                use $crate::record::metrics::declare::Handle;
                $($(handles.$field.end(&self.$name, scope, &[$($word)?]);)*)+
            }

            #[cfg(test)]
            fn table() -> Vec<$crate::record::metrics::declare::Declared> {
                #[allow(unused_imports, reason = "not every scope has an enum")]
                use $crate::record::metrics::labels::{Words, values};
                use $crate::record::metrics::declare::{Declared, Kind};
                vec![$(Declared {
                    name: concat!("stent_", stringify!($name)),
                    kind: $kind::WORD,
                    help: $help,
                    scope: Self::SCOPE,
                    labels: &[$($(stringify!($label)),+)?],
                    values: <[Vec<Words>]>::concat(&[
                        $($(vec![vec![$word.into()]],)? $(values::<$values>(),)?)*
                    ]),
                },)+]
            }
        }
    };
    (@handle $kind:ident) => { $kind };
    (@handle $kind:ident $values:ty) => { $crate::record::metrics::declare::Cells<$values> };
    (@or $default:expr,) => { $default };
    (@or $default:expr, $given:expr) => { $given };
}
pub(super) use metrics;

/// The metrics of one scope.
pub(super) trait Families: Sized {
    /// What an owner of the scope holds.
    type Handles;

    /// The labels that all of them have.
    const SCOPE: &'static [&'static str];

    /// Makes and registers the metrics.
    fn register(registry: &Registry) -> Self;

    /// The handles of one scope, given by the values of its labels.
    fn of(&self, scope: &[&str]) -> Self::Handles;

    /// Ends the series of handles.
    fn end(&self, scope: &[&str], handles: &Self::Handles);

    /// What is declared.
    #[cfg(test)]
    fn table() -> Vec<Declared>;
}

/// A metric as the reference shows it.
#[cfg(test)]
#[derive(Clone)]
pub(super) struct Declared {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
    pub(super) scope: &'static [&'static str],
    pub(super) labels: &'static [&'static str],
    /// The values of `labels`, one list for each series that is known beforehand.
    pub(super) values: Vec<super::labels::Words>,
}

/// Registers a metric. Names and labels are constants, so nothing here can fail.
pub(super) fn register<F: Collector + Clone + 'static>(
    registry: &Registry,
    family: prometheus::Result<F>,
) -> F {
    let family = family.expect("names and labels are valid");
    registry.register(Box::new(family.clone())).expect("each name is registered once");
    family
}

/// A type of metric.
pub(super) trait Kind {
    /// All its series.
    type Family: Collector + Clone;

    /// The type's name in the text format.
    #[cfg(test)]
    const WORD: &'static str;

    /// Makes the metric, under the one prefix.
    fn family(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> prometheus::Result<Self::Family>;
}

/// What a field of a scope's handles holds of a metric.
pub(super) trait Handle<F> {
    /// Finds or makes the series of this scope; `word` is the value of a further label.
    fn of(family: &F, scope: &[&str], word: &[&str]) -> Self;

    /// Ends the series.
    fn end(&self, family: &F, scope: &[&str], word: &[&str]);
}

macro_rules! kinds {
    ($($kind:ident $family:ident $word:literal $options:expr;)+) => {$(
        impl Kind for $kind {
            type Family = $family;

            #[cfg(test)]
            const WORD: &'static str = $word;

            fn family(name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> prometheus::Result<$family> {
                $family::new($options(Opts::new(name, help).namespace("stent"), buckets), labels)
            }
        }

        impl Handle<$family> for $kind {
            fn of(family: &$family, scope: &[&str], word: &[&str]) -> Self {
                family.with_label_values(&[scope, word].concat())
            }

            fn end(&self, family: &$family, scope: &[&str], word: &[&str]) {
                // An error would only say that the series does not exist.
                let _ = family.remove_label_values(&[scope, word].concat());
            }
        }
    )+};
}

kinds! {
    Gauge GaugeVec "gauge" |options: Opts, _: &[f64]| options;
    Histogram HistogramVec "histogram" |options, buckets: &[f64]| HistogramOpts::from(options).buckets(buckets.to_vec());
    IntCounter IntCounterVec "counter" |options: Opts, _: &[f64]| options;
    IntGauge IntGaugeVec "gauge" |options: Opts, _: &[f64]| options;
}

/// One counter for each value of a label; finding one is an index. Clones share the counters.
#[derive(Clone)]
pub struct Cells<L> {
    counters: Arc<[OnceLock<IntCounter>]>,
    family: IntCounterVec,
    scope: Arc<[String]>,
    label: PhantomData<L>,
}

impl<L: Label> Cells<L> {
    /// The counter of this value.
    pub fn with(&self, value: L) -> &IntCounter {
        self.at(value.index())
    }

    fn at(&self, index: usize) -> &IntCounter {
        self.counters[index].get_or_init(|| self.family.with_label_values(&self.labels(index)))
    }

    fn labels(&self, index: usize) -> Vec<String> {
        let words = L::words(index).into_iter().map(Into::into);
        self.scope.iter().cloned().chain(words).collect()
    }

    fn used(&self) -> impl Iterator<Item = usize> {
        let counters = self.counters.iter().enumerate();
        counters.filter(|(_, counter)| counter.get().is_some()).map(|(index, _)| index)
    }
}

impl<L: Label> Handle<IntCounterVec> for Cells<L> {
    fn of(family: &IntCounterVec, scope: &[&str], _: &[&str]) -> Self {
        let cells = Self {
            counters: (0..L::COUNT).map(|_| OnceLock::new()).collect(),
            family: family.clone(),
            scope: scope.iter().map(ToString::to_string).collect(),
            label: PhantomData,
        };
        if L::FROM_START {
            (0..L::COUNT).for_each(|index| _ = cells.at(index));
        }
        cells
    }

    fn end(&self, family: &IntCounterVec, _: &[&str], _: &[&str]) {
        for index in self.used() {
            // An error would only say that the series does not exist.
            let _ = family.remove_label_values(&self.labels(index));
        }
    }
}

impl<L: Label> fmt::Debug for Cells<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.used().map(|index| self.labels(index))).finish()
    }
}
