//! What every test stands on: the proxy as a child process, a backend that can lie, a client that sees every byte.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) mod backend;
#[path = "../../src/certificate/testing.rs"]
#[allow(dead_code, reason = "the tests beside the code make keys in more forms")]
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod frames;
pub(crate) mod http2;
pub(crate) mod load;
pub(crate) mod message;
pub(crate) mod record;
pub(crate) mod secure;
pub(crate) mod stent;
mod temp;
pub(crate) mod tls;

pub(crate) use backend::{Action, Backend, ReceivedRequest, Refused};
pub(crate) use client::{Client, Response};
pub(crate) use config::Config;
pub(crate) use record::Line;
pub(crate) use stent::Stent;
pub(crate) use temp::TempDir;

/// The longest that anything in a test is waited for.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// Milliseconds, which nearly every duration in a test is given in.
pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Asks `probe` until it has an answer; for what another process does and no socket announces.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {BOUND:?} in vain: {what}");
        std::thread::sleep(ms(5));
    }
}

/// Keeps what depends on the machine's pace or memory apart from its like: such tests run one at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in which every place differs from its neighbours, so that a lost or doubled piece shows.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    (0..length).map(|_| random.u8(..)).collect()
}
