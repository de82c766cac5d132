//! Bounds what peers can write into the program's log: one line a minute for each kind of event and place.
//!
//! The evidence is the event alone: its call site is the kind, and the fields of [`PLACE_FIELDS`] are the place. One
//! caller is enough to use up a line. A bystander is an event of another kind or at another place, and loses nothing.
//! An event of the same kind and place is counted, and its line may come up to a minute late.
//!
//! The first line is written at once. Of those that follow within the minute one is held back, and is written when the
//! minute is over, with the number of those that were left out (`suppressed`). Events of one module about one place are
//! its successive states: a new kind of event discards the older line that is held back. So a minute after the last
//! change the last line in the log tells the present state.
//!
//! Two things are not throttled: what an operator causes (start, reload, stop, files that change), and the levels
//! `debug` and `trace`, which an operator asks for to see everything.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A format of lines that leaves out what is throttled.
pub(super) struct Throttled<F> {
    inner: F,
    throttle: Arc<Throttle>,
}

impl<F> Throttled<F> {
    pub(super) fn new(inner: F, throttle: Arc<Throttle>) -> Self {
        Self { inner, throttle }
    }
}

impl<S, N, F> FormatEvent<S, N> for Throttled<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let verdict = match Subject::of(event) {
            Some(subject) => self.throttle.judge(subject, Instant::now()),
            None => Verdict::Write { suppressed: 0 },
        };
        let format = || {
            let mut line = String::new();
            self.inner.format_event(context, Writer::new(&mut line), event).map(|()| line)
        };
        match verdict {
            Verdict::Write { suppressed: 0 } => self.inner.format_event(context, writer, event),
            Verdict::Write { suppressed } => writer.write_str(&with_count(format()?, suppressed)),
            Verdict::Hold(turn) => {
                self.throttle.hold(turn, format()?);
                Ok(())
            }
            Verdict::Count => Ok(()),
        }
    }
}

/// A line with the number of those that were left out before it: as the last key of a JSON object, or after a text.
fn with_count(mut line: String, suppressed: u64) -> String {
    let (is_json, end) = match line.strip_suffix("}\n") {
        Some(rest) if line.starts_with('{') => (true, rest.len()),
        _ => (false, line.trim_end_matches('\n').len()),
    };
    line.truncate(end);
    // Writing to a `String` cannot fail.
    let _ = if is_json {
        writeln!(line, ",\"suppressed\":{suppressed}}}")
    } else {
        writeln!(line, " suppressed={suppressed}")
    };
    line
}

/// What an event is about.
#[derive(Clone, Copy, Debug)]
struct Subject {
    /// The call site.
    kind: u64,
    /// The place, within the module that tells of it.
    place: u64,
}

impl Subject {
    /// None for what is not throttled.
    fn of(event: &Event<'_>) -> Option<Self> {
        let metadata = event.metadata();
        let is_exempt = EXEMPT.iter().any(|module| metadata.target().starts_with(module));
        if is_exempt || *metadata.level() > Level::INFO {
            return None;
        }
        let mut place = PlaceHasher(DefaultHasher::new());
        metadata.target().hash(&mut place.0);
        event.record(&mut place);
        let mut kind = DefaultHasher::new();
        metadata.callsite().hash(&mut kind);
        Some(Self { kind: kind.finish(), place: place.0.finish() })
    }
}

struct PlaceHasher(DefaultHasher);

impl Visit for PlaceHasher {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if PLACE_FIELDS.contains(&field.name()) {
            field.name().hash(&mut self.0);
            // Hashing cannot fail; a `Debug` that does is as good as another place.
            let _ = write!(self, "{value:?}");
        }
    }
}

impl Write for PlaceHasher {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.write(part.as_bytes());
        Ok(())
    }
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Its line is written, with this number of others that were left out before it.
    Write { suppressed: u64 },
    /// Its line is held back.
    Hold(Turn),
    /// A line that says as much is held back already.
    Count,
}

/// The right to hold a line back, unless a newer event has come meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    kind: u64,
    place: u64,
    number: u64,
}

/// What was written of late. Its memory is bounded: at most [`PLACES`] places, and one for each kind beyond them, with
/// at most one line of [`MAX_HELD`] each.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    places: Mutex<HashMap<u64, Place>>,
}

#[derive(Debug, Default)]
struct Place {
    /// Kinds that were written, and until when no other line of theirs is.
    written: Vec<(u64, Instant)>,
    /// Events that were left out since the last line.
    suppressed: u64,
    /// Counts events, so that an older line does not take the place of a newer one.
    number: u64,
    held: Option<Held>,
}

/// The line that is held back: the first of the newest kind.
#[derive(Debug)]
struct Held {
    kind: u64,
    line: String,
}

impl Throttle {
    fn judge(&self, subject: Subject, now: Instant) -> Verdict {
        let mut places = self.lock();
        let Subject { kind, place: mut key } = subject;
        if !places.contains_key(&key) && places.len() >= PLACES {
            places.retain(|_, place| place.is_needed(now));
            if places.len() >= PLACES {
                // Too many places to tell them apart: from now on those of one kind are one.
                key = kind;
            }
        }
        let place = places.entry(key).or_default();
        place.number += 1;
        if place.next_line(kind).is_none_or(|next| next <= now) {
            place.wrote(kind, now);
            // What is held back is older, and this line supersedes it.
            place.held = None;
            return Verdict::Write { suppressed: std::mem::take(&mut place.suppressed) };
        }
        place.suppressed += 1;
        if place.held.as_ref().is_some_and(|held| held.kind == kind) {
            return Verdict::Count;
        }
        Verdict::Hold(Turn { kind, place: key, number: place.number })
    }

    fn hold(&self, turn: Turn, line: String) {
        if let Some(place) = self.lock().get_mut(&turn.place)
            && place.number == turn.number
        {
            place.held = (line.len() <= MAX_HELD).then_some(Held { kind: turn.kind, line });
        }
    }

    /// Takes the lines that were held back and whose minute is over by `now`, or all of them.
    pub(super) fn due(&self, now: Option<Instant>) -> Vec<String> {
        let mut places = self.lock();
        let lines = places.values_mut().filter_map(|place| place.take_due(now)).collect();
        if let Some(now) = now {
            places.retain(|_, place| place.is_needed(now));
        }
        lines
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn next_line(&self, kind: u64) -> Option<Instant> {
        self.written.iter().find(|(written, _)| *written == kind).map(|(_, until)| *until)
    }

    fn wrote(&mut self, kind: u64, now: Instant) {
        self.written.retain(|(written, _)| *written != kind);
        self.written.push((kind, now + BETWEEN_LINES));
    }

    fn take_due(&mut self, now: Option<Instant>) -> Option<String> {
        let kind = self.held.as_ref()?.kind;
        if let Some(now) = now {
            if self.next_line(kind).is_some_and(|next| next > now) {
                return None;
            }
            self.wrote(kind, now);
        }
        let Held { line, .. } = self.held.take()?;
        // The line itself is one of those that were counted.
        let others = std::mem::take(&mut self.suppressed).saturating_sub(1);
        Some(if others == 0 { line } else { with_count(line, others) })
    }

    /// Whether forgetting it would let a line through or lose a count.
    fn is_needed(&self, now: Instant) -> bool {
        self.held.is_some() || self.suppressed > 0 || self.written.iter().any(|(_, until)| *until > now)
    }
}

/// The fields that say where something happened. Their values come from the configuration, not from peers.
const PLACE_FIELDS: [&str; 8] =
    ["address", "certificate", "cluster", "endpoint", "host", "location", "path", "worker"];

/// Modules whose events an operator causes. The access log has a limit of its own for what a full disk causes.
const EXEMPT: [&str; 3] = ["stent::app", "stent::downstream::tls::watch", "stent::record::log"];

const BETWEEN_LINES: Duration = Duration::from_mins(1);

/// Places that are told apart.
const PLACES: usize = 1024;

/// The longest line that is held back, in bytes.
const MAX_HELD: usize = 8192;

#[cfg(test)]
mod tests;
