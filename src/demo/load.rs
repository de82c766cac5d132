//! The demo's users: an open-loop load, in which each request is sent at its appointed time whether earlier ones were
//! answered or not, and its latency counts from that time.
//!
//! A closed loop would send less while the backend is slow, and so hide the very thing that the demo shows.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{Client, Failure};
use super::histogram::Histogram;
use super::plan::{Arrival, Plan};

/// How long a user waits for the whole answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What a load consists of.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadSettings {
    /// Requests per second.
    pub(super) rate: u32,
    /// Decides on gaps and requests.
    pub(super) seed: u64,
    /// When the plan begins.
    pub(super) epoch: std::time::Instant,
    /// How long a user waits for the whole answer.
    pub(super) patience: Duration,
}

/// Users that run on a thread of their own.
#[derive(Debug)]
pub(super) struct Load {
    tally: Arc<Tally>,
    halt: watch::Sender<Phase>,
    drained: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    /// Nothing new; what is under way may end.
    Halted,
    /// What is under way is dropped.
    Ended,
}

impl Load {
    /// Starts to send to `target`.
    pub(super) fn start(target: SocketAddr, settings: LoadSettings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tally = Arc::new(Tally::new());
        let (halt, mut phase) = watch::channel(Phase::Sending);
        let (drained_tell, drained) = oneshot::channel();
        let users = Users {
            start: settings.epoch.into(),
            patience: settings.patience,
            in_flight: most_in_flight(settings.rate),
            tally: tally.clone(),
        };
        let thread = thread::Builder::new().name("users".to_owned()).spawn(move || {
            let client = Arc::new(Client::new(target));
            let send = move |arrival: Arrival| {
                let client = client.clone();
                async move { client.send(&arrival).await }
            };
            runtime.block_on(async {
                let mut ended = phase.clone();
                tokio::select! {
                    () = users.drive(Plan::new(settings.rate, settings.seed), &mut phase, send) => {
                        // Nobody listens when the demo is being torn down.
                        let _ = drained_tell.send(());
                    }
                    _ = ended.wait_for(|phase| *phase == Phase::Ended) => {}
                }
            });
        })?;
        Ok(Self { tally, halt, drained, thread: Some(thread) })
    }

    /// What its users have seen so far.
    pub(super) fn figures(&self) -> Figures {
        self.tally.figures().clone()
    }

    /// Sends nothing new.
    pub(super) fn halt(&self) {
        self.halt.send_replace(Phase::Halted);
    }

    /// Waits until a halted load has its last answer; at most the users' patience.
    pub(super) async fn drained(&mut self) {
        // An error means that the thread is gone, and nothing is under way in it either.
        let _ = (&mut self.drained).await;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.halt.send_replace(Phase::Ended);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already, and the demo has nothing to add to it.
            let _ = thread.join();
        }
    }
}

/// What users have seen. A request counts once it has ended.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    /// Requests with a good answer.
    pub(super) good: u64,
    failures: [u64; Failure::ALL.len()],
    /// From the appointed time to the end of each good answer.
    pub(super) latency: Histogram,
}

impl Figures {
    /// Nothing seen.
    pub(super) fn new() -> Self {
        Self { good: 0, failures: [0; Failure::ALL.len()], latency: Histogram::new() }
    }

    /// Notes how a request ended.
    pub(super) fn note(&mut self, result: Result<(), Failure>, latency: Duration) {
        match result {
            Ok(()) => {
                self.good += 1;
                self.latency.record(latency);
            }
            Err(failure) => self.failures[failure as usize] += 1,
        }
    }

    /// Requests without a good answer.
    pub(super) fn failed(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// All requests that have ended.
    pub(super) fn requests(&self) -> u64 {
        self.good + self.failed()
    }

    /// Each kind of failure that occurred, with its count.
    pub(super) fn failures(&self) -> impl Iterator<Item = (Failure, u64)> {
        Failure::ALL.into_iter().zip(self.failures).filter(|(_, count)| *count > 0)
    }
}

#[derive(Debug)]
struct Tally(Mutex<Figures>);

impl Tally {
    fn new() -> Self {
        Self(Mutex::new(Figures::new()))
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who send a plan's requests.
#[derive(Debug)]
struct Users {
    start: Instant,
    patience: Duration,
    in_flight: u32,
    tally: Arc<Tally>,
}

impl Users {
    /// Sends each arrival at its time until halted, then waits for what is under way.
    async fn drive<F>(
        self,
        plan: impl Iterator<Item = Arrival>,
        phase: &mut watch::Receiver<Phase>,
        send: impl Fn(Arrival) -> F,
    ) where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let permits = Arc::new(Semaphore::new(self.in_flight as usize));
        for arrival in plan {
            let due = self.start + arrival.at;
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase != Phase::Sending) => break,
                () = sleep_until(due) => {}
            }
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                self.tally.figures().note(Err(Failure::NotStarted), Duration::ZERO);
                continue;
            };
            let (tally, exchange, until) = (self.tally.clone(), send(arrival), due + self.patience);
            tokio::spawn(async move {
                let result = timeout_at(until, exchange).await.unwrap_or(Err(Failure::Timeout));
                tally.figures().note(result, due.elapsed());
                drop(permit);
            });
        }
        // Each of them ends within the users' patience. The semaphore is never closed.
        let _ = permits.acquire_many(self.in_flight).await;
    }
}

/// A second's requests and some more: what waits out a burst behind Stent is less.
fn most_in_flight(rate: u32) -> u32 {
    (rate + 256).min(4096)
}

#[cfg(test)]
mod tests;
