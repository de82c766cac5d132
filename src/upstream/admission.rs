//! The gate in front of a cluster: how many attempts are in flight, who waits for one to end, and in what order they go.
//! How many there may be is decided by [`Limiter`]; all workers share one gate, without a lock while nobody waits.
//!
//! # Invariant
//!
//! A place in flight is given back exactly once, whatever becomes of the attempt. Taking and giving it back are a
//! few atomic operations while nobody waits. An exchange in the outage queue, or one that waits for its own caller,
//! holds none. Held by `over_many_threads_no_more_than_the_limit_are_in_flight_and_no_place_is_lost`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use self::counts::Counts;
use self::seen::Seen;
use crate::policy::admission::limiter::{Limiter, Pressure};
use crate::policy::admission::{AdmissionSettings, Limit, Refused, expected_wait, fits, is_predictable};
use crate::record::metrics::AdmissionMetrics;
use crate::upstream::queue::{Owner, Place, Queue, Ticket};

mod counts;
mod seen;

/// The gate of a cluster.
#[derive(Debug)]
pub struct Admission {
    settings: AdmissionSettings,
    metrics: AdmissionMetrics,
    counts: Counts,
    /// Of those in flight, the ones that were given up and that the backend has not let go of.
    lingering: AtomicU32,
    /// Whether the limit is one to be kept, and not one that grows.
    is_holding: AtomicBool,
    seen: Seen,
    inner: Mutex<Inner>,
    /// What the times of `seen` count from.
    made: Instant,
}

#[derive(Debug)]
struct Inner {
    limiter: Limiter,
    /// What goes through per second where somebody waits; none if that is not known.
    rate: Option<f64>,
    /// Oldest first. For a waiter that was called, a place in flight is taken.
    queue: Queue<()>,
    /// Since the window began: somebody waited all the time, or at any time.
    was_never_empty: bool,
    has_held: bool,
}

/// Who wants to make an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Whether it has had one already.
    pub purpose: Purpose,
    /// Now.
    pub now: Instant,
    /// When its answer is of no more use.
    pub deadline: Instant,
}

/// What an attempt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is the first of its exchange.
    First,
    /// An earlier one has failed. It waits in no queue in which others wait for their first.
    Retry,
}

/// The cluster has all that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why this one does not wait, or does no longer.
    pub reason: Refused,
    /// When it may be worth coming again.
    pub retry_after: Duration,
}

/// What an attempt told about the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadSignal {
    /// It was answered, and well.
    Answered,
    /// It failed, or the answer says so.
    Failed,
    /// Nothing: it ended for another reason.
    Nothing,
}

impl Admission {
    /// A gate through which nobody has come.
    pub(super) fn new(settings: AdmissionSettings, metrics: AdmissionMetrics) -> Self {
        let limit = match settings.limit() {
            Limit::Fixed(limit) => limit.get(),
            Limit::Adaptive | Limit::Off => ANY,
        };
        let inner = Inner {
            limiter: Limiter::new(),
            rate: None,
            queue: Queue::new(settings.queue()),
            was_never_empty: false,
            has_held: false,
        };
        Self {
            settings,
            metrics,
            counts: Counts::new(limit),
            lingering: AtomicU32::new(0),
            is_holding: matches!(settings.limit(), Limit::Fixed(_)).into(),
            seen: Seen::default(),
            inner: Mutex::new(inner),
            made: Instant::now(),
        }
    }

    /// Whether it lets everything through, and counts nothing.
    pub fn is_off(&self) -> bool {
        self.settings.limit() == Limit::Off
    }

    /// Whether others wait for their first attempt, so that there is none to spare for a retry. Of an adaptive limit it
    /// is known that it holds them only after a while: until then it may be about to grow.
    pub fn refuses_retries(&self) -> bool {
        self.counts.has_waiters() && self.is_holding.load(Ordering::Relaxed)
    }

    /// Attempts in flight, in all workers.
    pub fn in_flight(&self) -> u32 {
        self.counts.in_flight()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Counts a retry that was not made because others wait.
    pub fn count_refused_retry(&self) {
        self.metrics.refused(Refused::Retry).inc();
    }

    /// A place in flight, if there is one and nobody waits for it.
    pub fn try_enter(self: &Arc<Self>, now: Instant) -> Option<Slot> {
        self.counts.try_take().then(|| self.slot(now))
    }

    /// Waits for a place in flight. Whoever stops waiting frees its place at once.
    pub async fn enter(self: Arc<Self>, ask: Ask) -> Result<Slot, Refusal> {
        // Time for the answer is left, as far as that is known.
        let until = ask.deadline.checked_sub(self.seen.usual_latency()).unwrap_or(ask.now);
        let until = until.min(ask.now + self.settings.queue_time());
        let Some(ticket) = self.join(&ask, until)? else { return Ok(self.slot(ask.now)) };
        let place = Place::new(&*self, ticket);
        let _ = timeout_at(until, place.news()).await;
        let mut inner = self.lock();
        if let Some(()) = place.leave(&mut inner.queue) {
            self.metrics.served.inc();
            drop(inner);
            return Ok(self.slot(Instant::now()));
        }
        self.counts.leave();
        inner.was_never_empty &= !inner.queue.is_empty();
        let wait = expected_wait(inner.queue.len(), inner.rate);
        Err(self.refuse(Refused::Expired, wait))
    }

    /// A place in the queue, or none because there is one in flight.
    fn join(&self, ask: &Ask, until: Instant) -> Result<Option<Ticket>, Refusal> {
        let mut inner = self.lock();
        self.counts.join();
        if inner.queue.is_empty() && self.counts.take() {
            self.counts.leave();
            return Ok(None);
        }
        let waiting = inner.queue.len();
        let wait = expected_wait(waiting, inner.rate);
        let is_retry =
            ask.purpose == Purpose::Retry && self.is_holding.load(Ordering::Relaxed) && waiting > 0;
        let is_late = until <= ask.now
            || is_predictable(waiting, self.in_flight()) && !fits(wait, until.duration_since(ask.now));
        let joined = match inner.queue.vacancy() {
            _ if is_retry => Err(Refused::Retry),
            None => Err(Refused::Full),
            Some(_) if is_late => Err(Refused::Late),
            Some(vacancy) => Ok(vacancy.join(())),
        };
        let ticket = joined.map_err(|reason| {
            self.counts.leave();
            self.refuse(reason, wait)
        })?;
        inner.has_held = true;
        // A place may have become free since the look above.
        self.advance(&mut inner);
        Ok(Some(ticket))
    }

    fn refuse(&self, reason: Refused, wait: Duration) -> Refusal {
        self.metrics.refused(reason).inc();
        Refusal { reason, retry_after: wait }
    }

    /// Gives a place in flight back.
    fn release(&self) {
        if self.counts.give_back() {
            self.advance(&mut self.lock());
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.made).as_micros()).unwrap_or(u64::MAX)
    }

    fn slot(self: &Arc<Self>, now: Instant) -> Slot {
        Slot { admission: self.clone(), began: self.micros(now), is_aside: false }
    }

    /// Lets those through that may go.
    fn advance(&self, inner: &mut Inner) {
        while let Some(next) = inner.queue.at(0)
            && self.counts.take()
        {
            self.counts.leave();
            next.call(());
        }
        inner.was_never_empty &= !inner.queue.is_empty();
    }

    /// Takes note of an attempt's end.
    fn note(&self, told: LoadSignal, took: Duration, now: Instant) {
        let now = now.saturating_duration_since(self.made);
        if self.seen.note(told, took, now) {
            self.look(now);
        }
    }

    /// Lets the limiter judge, if there is enough to judge by. Whoever finds another at it leaves it to the other.
    #[cold]
    fn look(&self, now: Duration) {
        let Ok(mut inner) = self.inner.try_lock() else { return };
        let pressure = match (inner.was_never_empty, inner.has_held) {
            (true, _) => Pressure::Full,
            (false, true) => Pressure::Some,
            (false, false) => Pressure::None,
        };
        let (mut window, counted) = self.seen.window(now);
        window.in_flight = self.in_flight();
        window.lingering = self.lingering.load(Ordering::Relaxed);
        window.pressure = pressure;
        if !inner.limiter.is_due(&window) {
            self.seen.postpone(now);
            return;
        }
        self.seen.begin(counted, now);
        match self.settings.limit() {
            Limit::Adaptive => {
                inner.limiter.note(&window);
                inner.rate = inner.limiter.held_to();
                self.is_holding.store(inner.rate.is_some(), Ordering::Relaxed);
                self.counts.set_limit(inner.limiter.limit().unwrap_or(ANY));
            }
            Limit::Fixed(_) => inner.rate = (pressure == Pressure::Full).then(|| window.ends_per_second()),
            Limit::Off => {}
        }
        self.advance(&mut inner);
        (inner.was_never_empty, inner.has_held) = (!inner.queue.is_empty(), false);
    }

    /// Whether an attempt that is given up counts until the backend lets go of it: where there is a limit.
    fn counts_lingering(&self) -> bool {
        self.counts.limit() < ANY
    }

    /// Room for one more that is given up. They take no more than half of the limit, nor too many connections. A limit of
    /// one is for a backend that does one thing at a time, so that one may have its place.
    fn take_lingering(&self) -> bool {
        let most = self.counts.limit().div_ceil(2).min(MAX_LINGERING);
        let more = |lingering| (lingering < most).then_some(lingering + 1);
        self.lingering.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Sets the gauges that are only worth computing when somebody looks.
    pub(super) fn before_scrape(&self) {
        let limit = self.counts.limit();
        self.metrics.limit.set(if limit == ANY { 0 } else { limit.into() });
        self.metrics.in_flight.set(self.in_flight().into());
        self.metrics.lingering.set(self.lingering.load(Ordering::Relaxed).into());
        self.metrics.waiting.set(i64::try_from(self.waiting()).unwrap_or(i64::MAX));
    }

    /// The cluster is no longer in the configuration: its gauges show nothing that nobody keeps up to date.
    pub(super) fn retire(&self) {
        for gauge in
            [&self.metrics.limit, &self.metrics.in_flight, &self.metrics.lingering, &self.metrics.waiting]
        {
            gauge.set(0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain values: a panic elsewhere cannot leave them half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owner for &Admission {
    type Right = ();
    type Waiter = ();

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<()>) -> T) -> T {
        let mut inner = self.lock();
        let seen = look(&mut inner.queue);
        inner.was_never_empty &= !inner.queue.is_empty();
        seen
    }

    fn left(&self, unheard: Option<()>) {
        self.metrics.left.inc();
        match unheard {
            Some(()) => self.release(), // let through, and gone before it heard
            None => self.counts.leave(),
        }
    }
}

/// A place in flight. Dropped, it goes to the next.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    /// Since when the backend has had its turn, in microseconds since the gate was made: an `Instant` would make the future of
    /// every request larger.
    began: u64,
    /// Whether the place is given back for now.
    is_aside: bool,
}

impl Slot {
    /// Gives the place back at `now`, with what came of it.
    pub fn end(self, told: LoadSignal, now: Instant) {
        let took = self.admission.micros(now).saturating_sub(self.began);
        self.admission.note(told, Duration::from_micros(took), now);
    }

    /// Gives the place back while the attempt waits for its caller.
    ///
    /// Evidence: the exchange has waited for its own caller, to which no other caller adds. If it is false, because the backend
    /// works while the body comes in, that work is in no count: the cluster then carries what it would without a limit, within
    /// `max_connections`.
    pub fn step_aside(&mut self) {
        if !std::mem::replace(&mut self.is_aside, true) {
            self.admission.release();
        }
    }

    /// Takes the place again once the request body has gone out, at `now`, from where on the attempt's time is the backend's. It
    /// does not wait for the place, because the backend has the request: others wait for as many to end.
    pub fn step_in(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_aside) {
            self.admission.counts.take_over_limit();
        }
        self.note_start(Some(now));
    }

    /// Notes since when the backend has had its turn.
    pub fn note_start(&mut self, at: Option<Instant>) {
        self.began = at.map_or(self.began, |at| self.began.max(self.admission.micros(at)));
    }

    /// Whether the place is given back for now.
    pub fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// Whether the attempt still counts when it is given up.
    pub fn counts_when_given_up(&self) -> bool {
        self.admission.counts_lingering()
    }

    /// Keeps the place for an attempt that is given up; none where too many such have one.
    pub fn linger(self) -> Option<LingeringSlot> {
        if !self.is_aside && self.admission.take_lingering() {
            Some(LingeringSlot { slot: Some(self) })
        } else {
            None
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_aside {
            self.admission.release();
        }
    }
}

/// The place in flight of an attempt that was given up.
#[derive(Debug)]
pub struct LingeringSlot {
    slot: Option<Slot>,
}

impl LingeringSlot {
    /// The backend has let go of it: with an answer, or without.
    pub fn end(mut self, told: LoadSignal) {
        if let Some(slot) = self.slot.take() {
            slot.admission.lingering.fetch_sub(1, Ordering::Relaxed);
            slot.end(told, Instant::now());
        }
    }
}

impl Drop for LingeringSlot {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.admission.lingering.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// No limit.
const ANY: u32 = u32::MAX;

/// However many a limit allows, no more connections than this are kept for answers that nobody wants.
const MAX_LINGERING: u32 = 128;

#[cfg(test)]
mod tests;
