//! The gate in front of a cluster: how many attempts are in flight, who waits for one to end, and in what order they go.
//! How many there may be is decided by [`Limiter`]; all workers share one gate, without a lock while nobody waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use self::seen::Seen;
use crate::policy::admission::limiter::{Limiter, Pressure};
use crate::policy::admission::{AdmissionSettings, Limit, Refused, expected_wait, fits, is_predictable};
use crate::record::metrics::AdmissionMetrics;

mod seen;

/// The gate of a cluster.
#[derive(Debug)]
pub struct Admission {
    settings: AdmissionSettings,
    metrics: AdmissionMetrics,
    /// How many attempts may be in flight.
    limit: AtomicU32,
    /// How many are. Raised over `limit` only by [`Slot::step_in`]; it may be above one that has been lowered.
    in_flight: AtomicU32,
    /// The length of the queue, and whoever is about to join it.
    waiting: AtomicU32,
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
    /// Oldest first.
    queue: VecDeque<Arc<Waiter>>,
    /// Since the window began: somebody waited all the time, or at any time.
    was_never_empty: bool,
    has_held: bool,
}

/// One that waits.
#[derive(Debug, Default)]
struct Waiter {
    /// Set with `inner` locked, when it has left the queue: a place in flight is taken for it.
    is_let_through: AtomicBool,
    called: Notify,
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
            queue: VecDeque::new(),
            was_never_empty: false,
            has_held: false,
        };
        Self {
            settings,
            metrics,
            limit: limit.into(),
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
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
        self.waiting.load(Ordering::Relaxed) > 0 && self.is_holding.load(Ordering::Relaxed)
    }

    /// Attempts in flight, in all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
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
        // Whoever joins the queue says so before its last look at `in_flight`, and whoever leaves looks at `waiting` after:
        // in the one order of all these (SeqCst) one of the two sees the other.
        if self.waiting.load(Ordering::SeqCst) > 0 || !self.take() {
            return None;
        }
        Some(self.slot(now))
    }

    /// Waits for a place in flight. Whoever stops waiting frees its place at once.
    pub async fn enter(self: Arc<Self>, ask: Ask) -> Result<Slot, Refusal> {
        // Time for the answer is left, as far as that is known.
        let until = ask.deadline.checked_sub(self.seen.usual_latency()).unwrap_or(ask.now);
        let until = until.min(ask.now + self.settings.queue_time());
        let Some(waiter) = self.join(&ask, until)? else { return Ok(self.slot(ask.now)) };
        let place = Place { admission: self, waiter, is_left: false };
        // A call that comes before anybody waits for it is kept: none is lost.
        let _ = timeout_at(until, place.waiter.called.notified()).await;
        place.leave()
    }

    /// A place in the queue, or none because there is one in flight.
    fn join(&self, ask: &Ask, until: Instant) -> Result<Option<Arc<Waiter>>, Refusal> {
        let mut inner = self.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if inner.queue.is_empty() && self.take() {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Ok(None);
        }
        let wait = expected_wait(inner.queue.len(), inner.rate);
        let is_holding = self.is_holding.load(Ordering::Relaxed);
        let reason = if ask.purpose == Purpose::Retry && is_holding && !inner.queue.is_empty() {
            Some(Refused::Retry)
        } else if inner.queue.len() >= self.settings.queue() {
            Some(Refused::Full)
        } else if until <= ask.now
            || is_predictable(inner.queue.len(), self.in_flight())
                && !fits(wait, until.duration_since(ask.now))
        {
            Some(Refused::Late)
        } else {
            None
        };
        if let Some(reason) = reason {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(self.refuse(reason, wait));
        }
        let waiter = Arc::new(Waiter::default());
        inner.queue.push_back(waiter.clone());
        inner.has_held = true;
        // A place may have become free since the look above.
        self.advance(&mut inner);
        Ok(Some(waiter))
    }

    fn refuse(&self, reason: Refused, wait: Duration) -> Refusal {
        self.metrics.refused(reason).inc();
        Refusal { reason, retry_after: wait }
    }

    /// Takes a place in flight.
    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |in_flight| (in_flight < limit).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Gives a place in flight back.
    fn release(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.advance(&mut self.lock());
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.made).as_micros()).unwrap_or(u64::MAX)
    }

    fn slot(self: &Arc<Self>, now: Instant) -> Slot {
        Slot { admission: self.clone(), began: self.micros(now), is_aside: false }
    }

    /// Lets through whoever may go.
    fn advance(&self, inner: &mut Inner) {
        while !inner.queue.is_empty() && self.take() {
            if let Some(waiter) = inner.queue.pop_front() {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
                waiter.is_let_through.store(true, Ordering::Relaxed);
                waiter.called.notify_one();
            }
        }
        inner.was_never_empty &= !inner.queue.is_empty();
    }

    fn remove(&self, inner: &mut Inner, waiter: &Arc<Waiter>) {
        // Those who have waited longest leave most often.
        if let Some(place) = inner.queue.iter().position(|other| Arc::ptr_eq(other, waiter)) {
            inner.queue.remove(place);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            inner.was_never_empty &= !inner.queue.is_empty();
        }
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
                self.limit.store(inner.limiter.limit().unwrap_or(ANY), Ordering::Relaxed);
            }
            Limit::Fixed(_) => inner.rate = (pressure == Pressure::Full).then(|| window.ends_per_second()),
            Limit::Off => {}
        }
        self.advance(&mut inner);
        (inner.was_never_empty, inner.has_held) = (!inner.queue.is_empty(), false);
    }

    /// Whether an attempt that is given up counts until the backend lets go of it: where there is a limit.
    fn counts_lingering(&self) -> bool {
        self.limit.load(Ordering::Relaxed) < ANY
    }

    /// Room for one more that is given up. They never take all that the limiter allows, nor too many connections.
    fn take_lingering(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let most = match self.settings.limit() {
            Limit::Fixed(limit) => limit.get(),
            Limit::Adaptive | Limit::Off => limit / 2,
        };
        let most = most.min(MOST_LINGERING);
        let more = |lingering| (lingering < most).then_some(lingering + 1);
        self.lingering.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Sets the gauges that are only worth computing when somebody looks.
    pub(super) fn before_scrape(&self) {
        let limit = self.limit.load(Ordering::Relaxed);
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

/// A place in the queue, which is freed when whoever waits there stops.
struct Place {
    admission: Arc<Admission>,
    waiter: Arc<Waiter>,
    is_left: bool,
}

impl Place {
    /// The end of the wait: it was let through, or it was all in vain.
    fn leave(mut self) -> Result<Slot, Refusal> {
        self.is_left = true;
        let mut inner = self.admission.lock();
        if self.waiter.is_let_through.load(Ordering::Relaxed) {
            self.admission.metrics.served.inc();
            drop(inner);
            return Ok(self.admission.slot(Instant::now()));
        }
        self.admission.remove(&mut inner, &self.waiter);
        let wait = expected_wait(inner.queue.len(), inner.rate);
        Err(self.admission.refuse(Refused::Expired, wait))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        self.admission.metrics.left.inc();
        let mut inner = self.admission.lock();
        self.admission.remove(&mut inner, &self.waiter);
        drop(inner);
        if self.waiter.is_let_through.load(Ordering::Relaxed) {
            self.admission.release(); // let through, and gone before it heard
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
            self.admission.in_flight.fetch_add(1, Ordering::SeqCst);
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
const MOST_LINGERING: u32 = 128;

#[cfg(test)]
mod tests;
