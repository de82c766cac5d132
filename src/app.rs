//! The wiring: a configuration becomes running parts, is exchanged for another, and drains.

use std::time::Duration;

/// What an operator sets for the process, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Worker threads; at least 1.
    pub workers: usize,
    /// After SIGTERM, how long listeners still accept.
    pub accept_grace: Duration,
    /// After that, how long running exchanges may take.
    pub finish_grace: Duration,
    /// The most bytes of request bodies kept for retries, in the process.
    pub replay_memory: usize,
    /// Our name in `Via`; a request that already carries it has come back to us.
    pub via: Box<str>,
}
