//! The access log: one JSON line per exchange, made and written on a thread of its own.

use std::path::PathBuf;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogOutput {
    /// A file, opened for appending, and anew on SIGHUP.
    File(PathBuf),
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
}
