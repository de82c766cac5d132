//! The program's own log: to standard error, as text for people or JSON for machines.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, LogSettings};

/// Sends what the program says to standard error, for the rest of the process.
pub(super) fn start(settings: &LogSettings) {
    let builder =
        tracing_subscriber::fmt().with_max_level(LevelFilter::from_level(settings.level)).with_writer(stderr);
    let is_terminal = stderr().is_terminal();
    let as_text = match settings.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    // It fails only if a log was started before, which then serves as well.
    let _ = if as_text {
        tracing::subscriber::set_global_default(builder.with_ansi(is_terminal).finish())
    } else {
        tracing::subscriber::set_global_default(builder.json().finish())
    };
}
