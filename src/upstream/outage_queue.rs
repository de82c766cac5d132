//! The queue in front of a cluster that is down: who waits, in what order they go, and that each goes, expires or leaves
//! exactly once. [`Watch`] decides who goes, and when there is an outage; all workers share one queue.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::policy::expect::{self, Expect, Failure, Key, Kind, Secret};
use crate::policy::outage::{Candidate, Change, Next, OutageQueueSettings, Permit, PermitKind, Stake};
use crate::policy::watch::{Circumstances, Ended, Mode, Watch};
use crate::record::metrics::OutageQueueMetrics;
use crate::upstream::endpoint::EndpointId;
use crate::upstream::queue::{Owner, Place, Queue};

/// The outage queue of a cluster, and what is expected of its attempts.
#[derive(Debug)]
pub struct OutageQueue {
    settings: OutageQueueSettings,
    metrics: OutageQueueMetrics,
    pub(super) expect: Expect,
    /// What of `inner` everybody has to know, so that nobody locks while all is well.
    mode: AtomicU8,
    /// The weight of the row, as the bits of an `f64`.
    surprise: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    watch: Watch<EndpointId>,
    /// Oldest first. The first is roused when it has to look after the clock anew.
    queue: Queue<Permit, Waiter>,
    /// When to look again who may go.
    again: Duration,
}

/// One that waits.
#[derive(Debug)]
struct Waiter {
    candidate: Candidate,
    began: Duration,
}

/// Who wants to wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Wait<'a> {
    /// What it asks for.
    pub key: &'a Key,
    /// What it has to lose.
    pub stake: Stake,
    /// When the exchange began: the oldest go first, also those that have probed in vain and come back.
    pub began: Instant,
    /// When its last attempt ended, if it had one.
    pub last_attempt: Option<Instant>,
    /// The moment that times count from.
    pub start: Instant,
    /// Now.
    pub now: Instant,
    /// When it is of no more use.
    pub until: Instant,
    /// How much sooner it ends where an attempt of the exchange's own may follow, which takes its time as well.
    pub reserve: Duration,
}

/// The queue takes no more, or what is left of the exchange's time is too little, and it had an attempt of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it may be worth coming again.
    pub retry_after: Duration,
}

impl OutageQueue {
    /// The queue of a cluster that is up.
    pub(super) fn new(settings: OutageQueueSettings, metrics: OutageQueueMetrics, secret: Secret) -> Self {
        let fewest = (settings.max() > 0).then_some(settings.enter_after());
        let inner =
            Inner { watch: Watch::new(fewest), queue: Queue::new(settings.max()), again: Duration::ZERO };
        Self {
            settings,
            metrics,
            expect: Expect::new(secret),
            mode: AtomicU8::new(CALM),
            surprise: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    /// Whether an attempt has to ask [`OutageQueue::wait`] first.
    pub fn is_in_force(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == DOWN
    }

    /// Whether nothing has failed for ten minutes, so that a success tells nothing new.
    pub(super) fn is_calm(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == CALM
    }

    /// How surprising the failures since the last success are together, in nats; an outage is 9.2 at each endpoint.
    pub fn surprise(&self) -> f64 {
        f64::from_bits(self.surprise.load(Ordering::Relaxed))
    }

    /// The longest that an exchange waits here, in all.
    pub fn max_wait(&self) -> Duration {
        self.settings.max_wait()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Waits for a permit: none if there is no outage any more, or none for this key. An exchange that waits in vain, or
    /// finds the queue full, is refused only if it had an attempt since the outage began: else it gets one
    /// ([`HeldPermit::is_last`]). A caller that stops waiting frees its place at once.
    pub async fn wait(self: &Arc<Self>, wait: Wait<'_>) -> Result<Option<HeldPermit>, Refusal> {
        let since = |at: Instant| at.saturating_duration_since(wait.start);
        let mut now = since(wait.now);
        let (until, ticket) = {
            let mut inner = self.lock();
            if !inner.watch.is_down() {
                return Ok(None);
            }
            let has_failed = inner.was_tried(&wait);
            let until = since(wait.until);
            let until = if has_failed { until } else { until.saturating_sub(wait.reserve) };
            let Some(vacancy) = inner.queue.vacancy().filter(|_| until > now) else {
                return self.end_in_vain(&inner, &wait, &self.metrics.refused, now);
            };
            let candidate = Candidate {
                key: wait.key.id(),
                is_known_good: self.expect.is_known_good(wait.key, now),
                is_hopeless: self.expect.is_hopeless(wait.key, now),
                has_failed,
                stake: wait.stake,
                joined: now,
                until,
            };
            let began = since(wait.began);
            let ticket = vacancy.join_behind(Waiter { candidate, began }, |other| other.began <= began);
            match inner.watch.due(&candidate) {
                // Nothing has changed for the others, so there is no need to look at them.
                Some(due) if due > now && inner.again > now => {
                    if due < inner.again {
                        inner.again = due;
                        inner.queue.rouse_first();
                    }
                }
                _ => self.advance(&mut inner, now),
            }
            (until, ticket)
        };
        let place = Place::new(Waits { outage_queue: self, wait: &wait }, ticket);
        loop {
            let wake = {
                let mut inner = self.lock();
                if now >= inner.again && !inner.queue.is_called(&place) {
                    self.advance(&mut inner, now);
                }
                if now >= until || inner.queue.is_called(&place) {
                    let Some(permit) = place.leave(&mut inner.queue) else {
                        self.advance(&mut inner, now);
                        return self.end_in_vain(&inner, &wait, &self.metrics.expired, now);
                    };
                    self.metrics.served.inc();
                    return Ok((permit != Permit::FREE).then(|| self.hold(&wait, permit)));
                }
                // The first looks after the clock for all.
                if inner.queue.is_first(&place) { inner.again.min(until) } else { until }
            };
            let _ = timeout_at(wait.start + wake, place.news()).await;
            now = since(Instant::now());
        }
    }

    /// The end of a wait that brought no permit.
    fn end_in_vain(
        self: &Arc<Self>,
        inner: &Inner,
        wait: &Wait<'_>,
        counter: &prometheus::IntCounter,
        now: Duration,
    ) -> Result<Option<HeldPermit>, Refusal> {
        if inner.was_tried(wait) {
            counter.inc();
            return Err(Refusal {
                retry_after: inner.again.saturating_sub(now).min(self.settings.max_wait()),
            });
        }
        self.metrics.tried.inc();
        Ok(Some(self.hold(wait, Permit::LAST)))
    }

    fn hold(self: &Arc<Self>, wait: &Wait<'_>, permit: Permit) -> HeldPermit {
        HeldPermit { outage_queue: self.clone(), key: *wait.key, permit: Some(permit), start: wait.start }
    }

    /// Takes note of a health check that passed at an endpoint in balancing: one of those who wait may try the cluster.
    pub(super) fn check_passed(&self, now: Duration) {
        if self.is_in_force() {
            let mut inner = self.lock();
            inner.watch.check_passed();
            self.advance(&mut inner, now);
        }
    }

    /// Takes note of an attempt that succeeded.
    pub(super) fn succeeded(&self, ended: Ended<'_>) -> Change {
        if ended.permit == Permit::FREE && self.mode.load(Ordering::Relaxed) == USED {
            self.expect.note_success(ended.key, ended.now);
            return Change::Nothing;
        }
        let mut inner = self.lock();
        let change = inner.watch.succeeded(ended, &self.expect);
        self.advance(&mut inner, ended.now);
        change
    }

    /// Takes note of an attempt that failed.
    pub(super) fn failed<S, P>(
        &self,
        ended: Ended<'_>,
        failure: &Failure<'_, EndpointId>,
        circumstances: Circumstances<'_, EndpointId, S, P>,
    ) -> Change
    where
        S: FnOnce() -> String,
        P: FnOnce(u32) -> Duration,
    {
        let mut inner = self.lock();
        let change = inner.watch.failed(ended, failure, circumstances, &self.expect);
        if change == Change::Down {
            self.metrics.outages.inc();
        }
        self.advance(&mut inner, ended.now);
        change
    }

    /// The keys that the present or last outage was found by, for the log, and its seconds so far.
    pub(super) fn last_outage(&self, now: Duration) -> (String, f64) {
        let inner = self.lock();
        (inner.watch.shown().to_owned(), now.saturating_sub(inner.watch.since()).as_secs_f64())
    }

    /// Forgets what is expected, if nothing has failed for ten minutes; says whether it did.
    pub(super) fn forget_if_stale(&self, now: Duration) -> bool {
        let is_idle = |mode| mode != CALM && mode != DOWN;
        if !is_idle(self.mode.load(Ordering::Relaxed)) || !self.expect.is_stale(now) {
            return false;
        }
        let mut inner = self.lock();
        if !is_idle(self.mode.load(Ordering::Relaxed)) || !self.expect.is_stale(now) {
            return false; // something failed in between
        }
        inner.watch.forget();
        self.surprise.store(0, Ordering::Relaxed);
        self.expect.forget();
        self.mode.store(CALM, Ordering::Relaxed);
        true
    }

    /// Sets the gauges that are only worth computing when somebody looks.
    pub(super) fn before_scrape(&self) {
        let inner = self.lock();
        self.metrics.outage.set(inner.watch.is_down().into());
        self.metrics.waiting.set(i64::try_from(inner.queue.len()).unwrap_or(i64::MAX));
        self.metrics.surprise.set(inner.watch.surprise());
    }

    /// The cluster is no longer in the configuration: its gauges show nothing that nobody keeps up to date.
    pub(super) fn retire(&self) {
        self.metrics.outage.set(0);
        self.metrics.waiting.set(0);
        self.metrics.surprise.set(0.0);
    }

    /// Lets go whoever may go, and notes when to look again.
    fn advance(&self, inner: &mut Inner, now: Duration) {
        inner.again = loop {
            let waiting = inner.queue.iter().map(|waiter| &waiter.candidate);
            match inner.watch.next(waiting, now) {
                Next::Go(place, permit) => {
                    if let Some(next) = inner.queue.at(place) {
                        next.call(permit);
                    }
                }
                Next::NotBefore(at) => break at,
            }
        };
        let mode = match inner.watch.mode() {
            Mode::Idle => USED,
            Mode::Watched => WATCHED,
            Mode::Down => DOWN,
        };
        self.surprise.store(inner.watch.surprise().to_bits(), Ordering::Relaxed);
        self.mode.store(mode, Ordering::Relaxed);
        // It looks after the clock from here on, by the new time.
        inner.queue.rouse_first();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain values: a panic elsewhere cannot leave them half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What follows from what is expected of a cluster's attempts.
impl OutageQueue {
    /// How surprising a failure of this kind is.
    pub(super) fn weight(&self, kind: Kind, key: &Key, now: Duration) -> f64 {
        expect::weight(self.q(kind, key, now))
    }

    /// How often attempts fail in this way anyway.
    pub(super) fn q(&self, kind: Kind, key: &Key, now: Duration) -> f64 {
        match kind {
            Kind::Answered | Kind::Late => self.expect.q(key, now),
            Kind::Refused => self.expect.connection_q(),
        }
    }

    /// The chance that some attempt succeeds.
    pub(super) fn chance_of_any(&self) -> f64 {
        expect::chance_of_success(self.expect.cluster_q(), self.surprise())
    }

    /// The chance that the key's next attempt succeeds.
    pub(super) fn chance(&self, key: &Key, now: Duration) -> f64 {
        expect::chance_of_success(self.expect.q(key, now), self.surprise())
    }
}

impl Inner {
    /// Whether an exchange had an attempt that ended in the present outage.
    fn was_tried(&self, wait: &Wait<'_>) -> bool {
        wait.last_attempt.is_some_and(|at| at.saturating_duration_since(wait.start) >= self.watch.since())
    }
}

/// The outage queue, as the owner of one exchange's place.
struct Waits<'a> {
    outage_queue: &'a Arc<OutageQueue>,
    wait: &'a Wait<'a>,
}

impl Owner for Waits<'_> {
    type Right = Permit;
    type Waiter = Waiter;

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<Permit, Waiter>) -> T) -> T {
        look(&mut self.outage_queue.lock().queue)
    }

    fn left(&self, unheard: Option<Permit>) {
        let Self { outage_queue, wait } = self;
        outage_queue.metrics.left.inc();
        if let Some(permit) = unheard {
            drop(outage_queue.hold(wait, permit)); // called, and gone before it heard
        } else {
            let now = Instant::now().saturating_duration_since(wait.start);
            outage_queue.advance(&mut outage_queue.lock(), now);
        }
    }
}

/// The right to an attempt at a cluster that is down or recovers. Dropped before the attempt has told anything, it goes to
/// the next in the queue.
#[derive(Debug)]
pub struct HeldPermit {
    outage_queue: Arc<OutageQueue>,
    key: Key,
    permit: Option<Permit>,
    start: Instant,
}

impl HeldPermit {
    /// Whether the attempt is the one that an exchange gets whose wait was in vain: no retry follows it.
    pub fn is_last(&self) -> bool {
        self.permit.is_some_and(|permit| permit.kind() == PermitKind::Last)
    }

    /// The permit, of an attempt that has told something.
    pub(super) fn into_permit(mut self) -> Permit {
        self.permit.take().unwrap_or(Permit::FREE)
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let now = Instant::now().saturating_duration_since(self.start);
            let mut inner = self.outage_queue.lock();
            inner.watch.abandon(permit, &self.key);
            self.outage_queue.advance(&mut inner, now);
        }
    }
}

/// Nothing has failed for ten minutes: there is nothing to learn.
const CALM: u8 = 0;
/// Something failed of late: successes are learned.
const USED: u8 = 1;
/// They also end a row, or decide on a lesson.
const WATCHED: u8 = 2;
/// Attempts have to wait for their turn.
const DOWN: u8 = 3;

#[cfg(test)]
mod tests;
