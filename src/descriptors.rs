//! File descriptors: how many the process may have, which of them stay in reserve, and whom to ask for one.
//!
//! # Invariant
//!
//! The system gives out the lowest free descriptor, so a part that keeps none above a number leaves those to
//! others. Callers keep none in the last quarter. Connects keep none in the last few, which are for logs, reloads
//! and the admin listener. Held by `a_flood_of_callers_takes_no_descriptor_from_healthy_requests`.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::time::Duration;

use rlimit::Resource;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Raises the soft limit of open files to the hard one, and gives it. It belongs before the first [`Use::is_reserved`].
///
/// A soft limit protects programs that use `select`, which this one does not.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = Resource::NOFILE.get()?;
    if soft < hard {
        Resource::NOFILE.set(hard, hard)?;
    }
    Ok(hard)
}

/// The most files that the process could have open: its hard limit. None if the system does not tell.
pub fn hard_limit() -> Option<u64> {
    Resource::NOFILE.get().ok().map(|(_, hard)| hard)
}

/// What a new descriptor is for. Each use leaves the highest numbers to the uses that matter more.
///
/// The system gives out the lowest free number (POSIX.1-2017, XSH 2.14), and none at or above the limit. A use that keeps no
/// number of its reserve therefore leaves that many descriptors to others, without a count of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A caller's connection. It leaves a quarter of the limit, at most 1024: open connections need upstream ones.
    Caller,
    /// A connection to an endpoint. It leaves a sixteenth of the limit, at most 64, to logs, reloads and the admin
    /// listener.
    Upstream,
}

impl Use {
    /// Whether `descriptor` is one of those that this use leaves to others.
    pub fn is_reserved(self, descriptor: &impl AsFd) -> bool {
        is_reserved(number(descriptor), self.reserve(limit()), limit())
    }

    /// Moves a connection to a number that is not reserved; false if none is free. It must not be registered with a runtime.
    pub fn settle(self, stream: &mut TcpStream) -> bool {
        if !self.is_reserved(stream) {
            return true;
        }
        match stream.try_clone() {
            Ok(lower) if !self.is_reserved(&lower) => {
                *stream = lower;
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// How many descriptors this use leaves under a limit.
    pub fn reserve(self, limit: u64) -> u64 {
        match self {
            Self::Caller => (limit / 4).min(1024),
            Self::Upstream => (limit / 16).min(64),
        }
    }
}

fn number(descriptor: &impl AsFd) -> u64 {
    u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or(0)
}

fn is_reserved(number: u64, reserve: u64, limit: u64) -> bool {
    number >= limit - reserve
}

/// The soft limit in force, read once. Without one that the system tells, nothing is reserved.
fn limit() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| Resource::NOFILE.get().map_or(u64::MAX, |(soft, _)| soft))
}

/// Asks for a descriptor where nothing is left to close but connections of other threads.
#[derive(Clone, Debug)]
pub struct Relief {
    requests: mpsc::Sender<oneshot::Sender<()>>,
}

impl Relief {
    /// The one side asks; whoever closes idle connections holds the other.
    pub fn channel() -> (Self, ReliefRequests) {
        let (requests, asked) = mpsc::channel(MAX_REQUESTS);
        (Self { requests }, ReliefRequests { asked })
    }

    /// Nobody is there to give up anything.
    pub fn none() -> Self {
        Self::channel().0
    }

    /// Waits until an idle connection has been closed somewhere, if that is soon.
    pub async fn wait(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.try_send(answer).is_ok() {
            // Without an answer the caller tries all the same, and fails as it would have failed before.
            let _ = timeout(PATIENCE, answered).await;
        }
    }
}

/// Where requests for relief arrive.
#[derive(Debug)]
pub struct ReliefRequests {
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

impl ReliefRequests {
    /// The next request; none if nobody can ask any more. It is answered when a connection has been closed, or none can be.
    pub async fn next(&mut self) -> Option<oneshot::Sender<()>> {
        loop {
            let answer = self.asked.recv().await?;
            if !answer.is_closed() {
                return Some(answer);
            }
        }
    }
}

/// How many may ask at once; more are refused at once.
const MAX_REQUESTS: usize = 64;

/// How long a connect may wait for a descriptor.
const PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_use_leaves_room_for_those_that_matter_more() {
        for limit in [16, 64, 1024, 20_000, 1 << 30, u64::MAX] {
            let [caller, upstream] = [Use::Caller, Use::Upstream].map(|which| which.reserve(limit));
            assert!(0 < upstream && upstream < caller && caller < limit, "{limit}: {caller}, {upstream}");
        }
        assert_eq!([Use::Caller, Use::Upstream].map(|which| which.reserve(64)), [16, 4]);
        assert_eq!([Use::Caller, Use::Upstream].map(|which| which.reserve(1 << 20)), [1024, 64]);
    }

    #[test]
    fn the_highest_numbers_are_reserved() {
        assert!(!is_reserved(47, 16, 64));
        assert!(is_reserved(48, 16, 64));
    }

    #[test]
    fn a_number_far_below_the_limit_is_free_for_all() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!Use::Caller.is_reserved(&file) && !Use::Upstream.is_reserved(&file));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_relief_waits_for_an_answer_but_not_for_long() {
        let begun = tokio::time::Instant::now();
        Relief::none().wait().await;
        assert!(begun.elapsed().is_zero(), "nobody is there to answer");
        let (relief, mut requests) = Relief::channel();
        tokio::join!(relief.wait(), async { requests.next().await.unwrap().send(()).unwrap() });
        assert!(begun.elapsed().is_zero());
        relief.wait().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        let late = relief.wait();
        tokio::join!(late, async { requests.next().await.unwrap().send(()).unwrap() });
        assert_eq!(begun.elapsed(), PATIENCE, "a request that was given up is skipped");
    }
}
