//! Bounds of numbers, durations and sizes: whether a value keeps to them, and what to say if it does not.

use std::ops::{RangeFrom, RangeFull, RangeInclusive, RangeToInclusive};
use std::time::Duration;

/// From the least value to the most, both included; either may be missing.
#[derive(Clone, Copy)]
pub(super) struct Bounds<T> {
    least: Option<T>,
    most: Option<T>,
    reason: Option<&'static str>,
    help: Option<&'static str>,
}

/// Bounds that say why, or what to write instead.
pub(super) fn within<T>(range: impl Into<Bounds<T>>) -> Bounds<T> {
    range.into()
}

impl<T: Copy + PartialOrd> Bounds<T> {
    /// The same; an error says why.
    pub(super) fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// The same; an error says what to write instead.
    pub(super) fn or_else(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }

    /// Whether `value` keeps to them; a number that is none does not.
    pub(super) fn contains(&self, value: T) -> bool {
        self.least.is_none_or(|least| least <= value) && self.most.is_none_or(|most| value <= most)
    }

    /// The way out.
    pub(super) fn help(&self) -> Option<&'static str> {
        self.help
    }

    /// What a value must be, for an error.
    pub(super) fn rule(&self, show: impl Fn(T) -> String) -> String {
        let rule = match (self.least.map(&show), self.most.map(&show)) {
            (Some(least), Some(most)) => format!("between {least} and {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => "anything".to_owned(),
        };
        self.reason.map_or(rule.clone(), |reason| format!("{rule}: {reason}"))
    }

    /// The same, for the documentation.
    pub(super) fn describe(&self, show: impl Fn(T) -> String) -> String {
        match (self.least.map(&show), self.most.map(&show)) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => String::new(),
        }
    }

    /// The least and the most.
    pub(super) fn ends(&self) -> (Option<T>, Option<T>) {
        (self.least, self.most)
    }
}

impl<T> From<RangeInclusive<T>> for Bounds<T> {
    fn from(range: RangeInclusive<T>) -> Self {
        let (least, most) = range.into_inner();
        Self { least: Some(least), most: Some(most), reason: None, help: None }
    }
}

impl<T> From<RangeFrom<T>> for Bounds<T> {
    fn from(range: RangeFrom<T>) -> Self {
        Self { least: Some(range.start), most: None, reason: None, help: None }
    }
}

impl<T> From<RangeToInclusive<T>> for Bounds<T> {
    fn from(range: RangeToInclusive<T>) -> Self {
        Self { least: None, most: Some(range.end), reason: None, help: None }
    }
}

impl<T> From<RangeFull> for Bounds<T> {
    fn from(_: RangeFull) -> Self {
        Self { least: None, most: None, reason: None, help: None }
    }
}

/// Milliseconds.
pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Seconds.
pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Minutes.
pub(super) const fn m(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// Hours.
pub(super) const fn h(hours: u64) -> Duration {
    Duration::from_hours(hours)
}

/// A wait ends, and it is one.
pub(super) const WAIT: RangeInclusive<Duration> = ms(1)..=h(1);
/// A wait that may be none.
pub(super) const GRACE: RangeInclusive<Duration> = s(0)..=h(1);
