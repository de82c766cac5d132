//! How `stent explain` looks: labels in one column, times in another.

use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::cli::explain::request::Given;
use crate::error::ProxyError;

/// A moment or a length of time that is known within bounds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) earliest: Duration,
    pub(super) latest: Duration,
}

impl Span {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { earliest: self.earliest + other.earliest, latest: self.latest + other.latest }
    }

    pub(super) fn since(self, begun: Self) -> Self {
        let (earliest, latest) =
            (self.earliest.saturating_sub(begun.earliest), self.latest.saturating_sub(begun.latest));
        Self { earliest: earliest.min(latest), latest: earliest.max(latest) }
    }

    pub(super) fn at_most(self, limit: Duration) -> Self {
        Self { earliest: self.earliest.min(limit), latest: self.latest.min(limit) }
    }
}

impl From<RangeInclusive<Duration>> for Span {
    fn from(range: RangeInclusive<Duration>) -> Self {
        let (earliest, latest) = range.into_inner();
        Self { earliest, latest }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.earliest == self.latest {
            return f.write_str(&show(self.latest));
        }
        write!(f, "{} to {}", show(self.earliest), show(self.latest))
    }
}

/// The answer as it is written, with its labels in one column.
#[derive(Default)]
pub(super) struct Page {
    pub(super) text: String,
}

impl Page {
    pub(super) fn line(&mut self, label: &str, rest: fmt::Arguments<'_>) {
        self.write(format_args!("{label:<9} {rest}"));
    }

    pub(super) fn more(&mut self, rest: fmt::Arguments<'_>) {
        self.line("", rest);
    }

    pub(super) fn section(&mut self, title: &str) {
        self.write(format_args!("\n{title}"));
    }

    pub(super) fn item(&mut self, rest: fmt::Arguments<'_>) {
        self.write(format_args!("  {rest}"));
    }

    pub(super) fn step(&mut self, attempt: u32, at: Span, what: &str) {
        let at = at.to_string();
        self.write(format_args!("  {at:>16}  attempt {attempt}: {what}"));
    }

    pub(super) fn decision(&mut self, rest: fmt::Arguments<'_>) {
        self.write(format_args!("  {:>16}  → {rest}", ""));
    }

    pub(super) fn answer(&mut self, what: &str, at: Span) {
        let at = at.to_string();
        self.write(format_args!("  {at:>16}  answer: {what}"));
    }

    pub(super) fn unused(&mut self, outcomes: &[Given], attempt: u32) {
        if !outcomes.is_empty() {
            let shown: Vec<_> = outcomes.iter().map(ToString::to_string).collect();
            let rest = shown.join(" ");
            self.write(format_args!("  {:>16}  not used: {rest} (nothing follows attempt {attempt})", ""));
        }
    }

    pub(super) fn reply(&mut self, error: &ProxyError) {
        self.line("answer", format_args!("{}, made by the proxy: {error}", error.status().as_u16()));
    }

    pub(super) fn write(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a string succeeds");
    }
}

/// A duration for people: at most three digits after the point, in seconds from one second on.
pub(super) fn show(duration: Duration) -> String {
    let rounded = |number: f64| format!("{number:.3}").trim_end_matches('0').trim_end_matches('.').to_owned();
    if duration.is_zero() {
        "0s".to_owned()
    } else if duration < Duration::from_secs(1) {
        format!("{}ms", rounded(duration.as_secs_f64() * 1000.0))
    } else {
        format!("{}s", rounded(duration.as_secs_f64()))
    }
}
