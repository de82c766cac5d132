//! The program's own log: to standard error, as text for people or JSON for machines.
//!
//! The log is best effort. A line goes into a bounded queue, and a thread of the log writes it, so that a reader of
//! standard error that stalls, closes or fails costs lines and nothing else. What a peer can cause is throttled.
//! `writer` holds the queue and its thread, `throttle` the rule for what is written at once, later or only counted.
//!
//! # Invariant
//!
//! Nothing in `run` writes to standard error but the log's thread. What a peer can cause is throttled in one place,
//! by call site and place. Held by `a_reader_that_stalls_costs_lines_and_no_time` and
//! `one_kind_at_one_place_gets_a_line_a_minute_and_the_next_counts_the_rest`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, stderr};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format;

use crate::app::logging::throttle::{Throttle, Throttled};
use crate::app::logging::writer::LineQueue;
use crate::config::{LogFormat, LogSettings};

mod throttle;
mod writer;

pub(super) use self::writer::dropped;

/// The log of this process. Nothing that is done with it waits for the reader of standard error, but for
/// [`ProgramLog::close`], which does so for at most 1 s.
pub(super) struct ProgramLog {
    queue: LineQueue,
    throttle: Arc<Throttle>,
}

impl ProgramLog {
    /// Starts the log's thread. Fails if the system gives none.
    pub(super) fn open() -> io::Result<Self> {
        let throttle = Arc::new(Throttle::default());
        let queue = LineQueue::start(writer::standard_error(), throttle.clone())?;
        Ok(Self { queue, throttle })
    }

    /// Writes a text as it is, for what has to be said before the log's settings are known.
    pub(super) fn print(&self, text: &str) {
        self.queue.push(text.as_bytes());
    }

    /// Sends events and panics here, for the rest of the process.
    pub(super) fn start(&self, settings: &LogSettings) {
        let is_terminal = stderr().is_terminal();
        let as_text = match settings.format {
            LogFormat::Auto => is_terminal,
            LogFormat::Json => false,
            LogFormat::Text => true,
        };
        let throttle = self.throttle.clone();
        let builder = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::from_level(settings.level))
            // It would go to standard error, past the queue.
            .log_internal_errors(false)
            .with_writer(self.queue.clone());
        // It fails only if a log was started before, which then serves as well.
        let _ = if as_text {
            let format = Throttled::new(format().with_ansi(is_terminal), throttle);
            tracing::subscriber::set_global_default(
                builder.with_ansi(is_terminal).event_format(format).finish(),
            )
        } else {
            let builder = builder.json().map_event_format(|format| Throttled::new(format, throttle));
            tracing::subscriber::set_global_default(builder.finish())
        };
        // The standard library's hook writes to standard error itself, and would wait there for its reader.
        panic::set_hook(Box::new(tell_of_panic));
    }

    /// Writes what is queued or held back, for at most 1 s.
    pub(super) fn close(self) {
        self.queue.flush(FLUSH_TIME);
    }
}

fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("");
    // Captured only if `RUST_BACKTRACE` asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    // A target of its own: a peer's bytes may be behind a panic, so that it is throttled by its location.
    tracing::error!(target: "stent::panic", thread, location, panic = message, backtrace, "panicked");
}

/// How long the end of the process waits for the log: far below a supervisor's patience.
const FLUSH_TIME: Duration = Duration::from_secs(1);
