//! The access log without its thread, so that what a line costs can be counted where it is made. Built for benches only.

use std::io;
use std::path::Path;

use crate::record::Record;
use crate::record::log::destination::Destination;
use crate::record::log::{CAPACITY, LogSender, Writer, channel, line};
use crate::record::metrics::Metrics;

/// What the thread would do, done when it is asked for.
pub(crate) struct InPlace {
    writer: Writer,
}

impl InPlace {
    /// A log into nothing.
    pub(crate) fn new(metrics: &Metrics) -> io::Result<(LogSender, Self)> {
        let (sender, _, writer) = channel(Destination::file(Path::new("/dev/null"))?, CAPACITY, metrics);
        Ok((sender, Self { writer }))
    }

    /// Takes what the queue holds, and writes it, as the thread does every few milliseconds.
    pub(crate) fn drain(&mut self) {
        self.writer.drain();
    }

    /// The next record in the queue, in the place of its line.
    pub(crate) fn next(&mut self) -> Option<Record> {
        self.writer.queue.try_recv().ok().flatten()
    }
}

/// Appends the line of a record.
pub(crate) fn write(record: &Record, lines: &mut Vec<u8>) {
    line::write(record, lines);
}
