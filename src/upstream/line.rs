//! The line in front of a cluster that is down: who waits, in what order they go, and that each goes, expires or leaves
//! exactly once. [`Outage`] decides when; all workers share one line.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::error::Delivery;
use crate::policy::health::Ending;
use crate::policy::outage::{Change, LineSettings, Next, Outage, Pass, Spread};
use crate::record::metrics::LineMetrics;
use crate::upstream::cluster::Report;
use crate::upstream::endpoint::EndpointId;

/// The line of a cluster.
#[derive(Debug)]
pub struct Line {
    settings: LineSettings,
    metrics: LineMetrics,
    /// What of `inner` everybody has to know, so that nobody locks while all is well.
    mode: AtomicU8,
    inner: Mutex<Inner>,
    /// Told when there is something new for [`Line::knock`] to look at.
    knocker: Notify,
}

#[derive(Debug)]
struct Inner {
    outage: Outage,
    /// Those that have failed since the last success.
    failed: Vec<EndpointId>,
    /// Whether the last failure had sent nothing: then a knock costs even those nothing that may not be sent twice.
    refuses: bool,
    /// Oldest first.
    queue: VecDeque<Arc<Waiter>>,
}

/// One that waits.
#[derive(Debug)]
struct Waiter {
    means: Means,
    began: Duration,
    joined: Duration,
    until: Duration,
    /// Set with `inner` locked, when it has left the queue.
    pass: OnceLock<Pass>,
    /// Told when it may go, and when it has become the first, who looks after the clock.
    called: Notify,
}

/// What an exchange has to lose if it knocks in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Nothing, and it has not been tried yet: it tells more than one that has failed already.
    Fresh,
    /// It could be sent once more.
    Spare,
    /// It could be sent once more only if nothing of it was sent.
    SpareUnlessSent,
    /// The failure would be its answer.
    Nothing,
}

/// Who wants to wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// What it has to lose.
    pub means: Means,
    /// When the exchange began: the oldest go first, also those that have knocked in vain and come back.
    pub began: Instant,
    /// The moment that the line counts from.
    pub start: Instant,
    /// Now.
    pub now: Instant,
    /// When it is of no more use.
    pub until: Instant,
}

/// The line takes no more, or what is left of the exchange's time is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it may be worth coming again.
    pub retry_after: Duration,
}

/// The end of an attempt, as the line looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// What it told.
    pub report: Report,
    /// Where.
    pub endpoint: EndpointId,
    /// How much of the request may have arrived.
    pub delivery: Delivery,
}

impl Line {
    /// A line for a cluster that is up.
    pub(super) fn new(settings: LineSettings, metrics: LineMetrics) -> Self {
        let outage = Outage::new(settings);
        let inner = Inner { outage, failed: Vec::new(), refuses: false, queue: VecDeque::new() };
        Self {
            settings,
            metrics,
            mode: AtomicU8::new(CALM),
            inner: Mutex::new(inner),
            knocker: Notify::new(),
        }
    }

    /// Whether whoever wants to make an attempt has to ask [`Line::wait`] first.
    pub fn is_in_force(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == DOWN
    }

    /// Whether a success tells nothing new.
    pub(super) fn is_calm(&self) -> bool {
        self.mode.load(Ordering::Relaxed) == CALM
    }

    /// The longest that an exchange waits here, in all.
    pub fn max_wait(&self) -> Duration {
        self.settings.max_wait()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Waits for a turn: none if there is no outage any more. Whoever stops waiting frees its place at once.
    pub async fn wait(self: &Arc<Self>, wait: Wait) -> Result<Option<Turn>, Refusal> {
        let since = |at: Instant| at.saturating_duration_since(wait.start);
        let (mut now, until) = (since(wait.now), since(wait.until));
        let mut place = {
            let mut inner = self.lock();
            if !inner.outage.is_down() {
                return Ok(None);
            }
            let pause = inner.outage.pause(now);
            if now.saturating_add(pause) >= until || inner.queue.len() >= self.settings.max() {
                self.metrics.refused.inc();
                return Err(Refusal { retry_after: pause });
            }
            let waiter = Arc::new(Waiter {
                means: wait.means,
                began: since(wait.began),
                joined: now,
                until,
                pass: OnceLock::new(),
                called: Notify::new(),
            });
            inner.join(waiter.clone());
            self.advance(&mut inner, now);
            inner.rouse();
            Place { line: self.clone(), waiter, start: wait.start, is_left: false }
        };
        loop {
            let wake = {
                let mut inner = self.lock();
                if let Some(pass) = place.waiter.pass.get() {
                    place.is_left = true;
                    self.metrics.served.inc();
                    let turn = Turn { line: self.clone(), pass: Some(*pass), start: wait.start };
                    return Ok((*pass != Pass::Free).then_some(turn));
                }
                if now >= until {
                    place.is_left = true;
                    inner.remove(&place.waiter);
                    self.advance(&mut inner, now);
                    inner.rouse();
                    self.metrics.expired.inc();
                    return Err(Refusal { retry_after: inner.outage.pause(now) });
                }
                // The first looks after the clock for all.
                let is_first = inner.queue.front().is_some_and(|first| Arc::ptr_eq(first, &place.waiter));
                let again = if is_first { self.advance(&mut inner, now) } else { None };
                again.map_or(until, |at| at.min(until))
            };
            // A call that comes before anybody waits for it is kept: none is lost.
            let _ = timeout_at(wait.start + wake, place.waiter.called.notified()).await;
            now = since(Instant::now());
        }
    }

    /// Waits until a health check shall knock in the place of a request. To be awaited by one at a time.
    pub async fn knock(self: &Arc<Self>, start: Instant) -> Turn {
        loop {
            let again = {
                let now = start.elapsed();
                let mut inner = self.lock();
                let is_asked = inner.outage.is_down() && inner.outage.believes_checks();
                match is_asked.then(|| inner.outage.next(now)) {
                    Some(Next::Probe) => {
                        inner.outage.begin(Pass::Check, now);
                        inner.rouse();
                        return Turn { line: self.clone(), pass: Some(Pass::Check), start };
                    }
                    Some(Next::NotBefore(at)) => Some(at),
                    None | Some(Next::All | Next::Release | Next::Try) => None,
                }
            };
            let told = self.knocker.notified();
            match again {
                Some(at) => drop(timeout_at(start + at, told).await),
                None => told.await,
            }
        }
    }

    /// Takes note of a health check: of each that passed at an endpoint in balancing, and of each that knocked.
    pub(super) fn report_check(
        &self,
        turn: Option<Turn>,
        ending: Ending,
        begun: Duration,
        pause: impl FnOnce(u32) -> Duration,
        now: Duration,
    ) -> Change {
        let mut inner = self.lock();
        let change = match (ending, turn.map(Turn::into_pass)) {
            (Ending::Passed, Some(pass)) => inner.outage.success(pass, now),
            (Ending::Failed, Some(pass)) => inner.outage.failure(pass, Spread::All, pause, now),
            (Ending::Passed, None) => inner.outage.check_passed(begun, now),
            (Ending::Failed, None) => return Change::Nothing,
        };
        self.advance(&mut inner, now);
        inner.rouse();
        change
    }

    /// Takes note of the end of an attempt; see [`Cluster::tell_line`](super::cluster::Cluster::tell_line).
    pub(super) fn report(
        &self,
        turn: Option<Turn>,
        finished: Finished,
        in_balancing: &[EndpointId],
        pause: impl FnOnce(u32) -> Duration,
        now: Duration,
    ) -> Change {
        let Finished { report, endpoint, delivery } = finished;
        let mut inner = self.lock();
        let pass = turn.map_or(Pass::Free, Turn::into_pass);
        let change = match report {
            Report::Success => {
                inner.failed.clear();
                inner.outage.success(pass, now)
            }
            Report::Failure => {
                if !inner.failed.contains(&endpoint) {
                    // What is no longer in balancing need not be remembered.
                    inner.failed.retain(|failed| in_balancing.contains(failed));
                    inner.failed.push(endpoint);
                }
                inner.refuses = delivery == Delivery::Never;
                let all = in_balancing.iter().all(|endpoint| inner.failed.contains(endpoint));
                let spread = if all { Spread::All } else { Spread::Some };
                inner.outage.failure(pass, spread, pause, now)
            }
            Report::Nothing => {
                inner.outage.abandon(pass);
                Change::Nothing
            }
        };
        if change == Change::Down {
            self.metrics.outages.inc();
        }
        self.advance(&mut inner, now);
        inner.rouse();
        change
    }

    /// Sets the gauges that are only worth computing when somebody looks.
    pub(super) fn before_scrape(&self) {
        let inner = self.lock();
        self.metrics.outage.set(inner.outage.is_down().into());
        self.metrics.waiting.set(i64::try_from(inner.queue.len()).unwrap_or(i64::MAX));
    }

    /// The cluster is no longer in the configuration: its gauges show nothing that nobody keeps up to date.
    /// Nor does anybody check it: who still waits knocks itself.
    pub(super) fn retire(&self) {
        self.metrics.outage.set(0);
        self.metrics.waiting.set(0);
        let mut inner = self.lock();
        inner.outage.doubt_checks();
        inner.rouse();
    }

    /// Lets go whoever may go, and says when to look again.
    fn advance(&self, inner: &mut Inner, now: Duration) -> Option<Duration> {
        let first = inner.queue.front().cloned();
        let again = loop {
            if inner.queue.is_empty() {
                inner.outage.line_is_empty();
                break None;
            }
            match inner.outage.next(now) {
                Next::NotBefore(at) => break Some(at),
                Next::All => inner.call(0, Pass::Free),
                Next::Probe => match inner.prober(now) {
                    Ok(place) => {
                        inner.outage.begin(Pass::Probe, now);
                        inner.call(place, Pass::Probe);
                    }
                    Err(at) => break Some(at),
                },
                Next::Try => match inner.affordable(now) {
                    Ok(place) => {
                        inner.outage.begin(Pass::Released, now);
                        inner.call(place, Pass::Released);
                    }
                    Err(at) => break Some(at),
                },
                Next::Release => {
                    // Those whose time is over expire by their own clock.
                    match inner.queue.iter().position(|waiter| waiter.until > now) {
                        Some(place) => {
                            inner.outage.begin(Pass::Released, now);
                            inner.call(place, Pass::Released);
                        }
                        None => break None,
                    }
                }
            }
        };
        // It has to look after the clock from here on.
        let is_same = |one: &Arc<Waiter>| first.as_ref().is_some_and(|first| Arc::ptr_eq(first, one));
        if !inner.queue.front().is_none_or(is_same) {
            inner.rouse();
        }
        let mode = match &inner.outage {
            outage if outage.is_down() => DOWN,
            outage if outage.is_calm() => CALM,
            _ => WATCHED,
        };
        self.mode.store(mode, Ordering::Relaxed);
        if mode == DOWN {
            self.knocker.notify_one();
        }
        again
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain values: a panic elsewhere cannot leave them half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn join(&mut self, waiter: Arc<Waiter>) {
        // Nearly always it is the youngest.
        let older = self.queue.iter().rposition(|other| other.began <= waiter.began);
        self.queue.insert(older.map_or(0, |place| place + 1), waiter);
    }

    /// Whose turn it is to knock, by its place; or when to look again.
    fn prober(&self, now: Duration) -> Result<usize, Duration> {
        if self.outage.believes_checks() { self.impatient(now) } else { self.affordable(now) }
    }

    /// Who has the least to lose, by its place; or when to look again.
    fn affordable(&self, now: Duration) -> Result<usize, Duration> {
        let in_time = |waiter: &Waiter| waiter.until > now;
        let spare = |waiter: &Waiter| match waiter.means {
            Means::Fresh | Means::Spare => true,
            Means::SpareUnlessSent => self.refuses,
            Means::Nothing => false,
        };
        let position = |wanted: &dyn Fn(&Waiter) -> bool| {
            self.queue.iter().position(|waiter| in_time(waiter) && wanted(waiter))
        };
        let found = position(&|waiter| waiter.means == Means::Fresh)
            .or_else(|| position(&spare))
            .or_else(|| position(&|waiter| waiter.patience_ends() <= now));
        let soonest =
            || self.queue.iter().filter(|waiter| in_time(waiter)).map(|waiter| waiter.patience_ends());
        found.ok_or_else(|| soonest().min().unwrap_or(Duration::MAX))
    }

    /// Who has waited long enough for health checks to knock, by its place; or when somebody will have.
    fn impatient(&self, now: Duration) -> Result<usize, Duration> {
        let in_time = self.queue.iter().enumerate().filter(|(_, waiter)| waiter.until > now);
        let soonest = in_time.map(|(place, waiter)| (waiter.trust_ends(), place)).min();
        let (ends, place) = soonest.ok_or(Duration::MAX)?;
        if ends <= now { Ok(place) } else { Err(ends) }
    }

    /// Lets the one at `place` go.
    fn call(&mut self, place: usize, pass: Pass) {
        if let Some(waiter) = self.queue.remove(place) {
            // It is called once, for it leaves the queue by that.
            let _ = waiter.pass.set(pass);
            waiter.called.notify_one();
        }
    }

    fn remove(&mut self, waiter: &Arc<Waiter>) {
        self.queue.retain(|other| !Arc::ptr_eq(other, waiter));
    }

    /// Has the first look at the clock anew.
    fn rouse(&self) {
        if let Some(first) = self.queue.front() {
            first.called.notify_one();
        }
    }
}

impl Waiter {
    /// Until when it waits for another to knock, if its failure would be its answer.
    fn patience_ends(&self) -> Duration {
        self.after(LAST_PATIENCE)
    }

    /// Until when it leaves it to health checks to knock.
    fn trust_ends(&self) -> Duration {
        self.after(LONGEST_TRUST)
    }

    /// So long after it has joined, or when half of its time is over.
    fn after(&self, longest: Duration) -> Duration {
        self.joined.saturating_add(longest.min(self.until.saturating_sub(self.joined) / 2))
    }
}

/// A place in the line, which is freed when whoever waits there stops.
struct Place {
    line: Arc<Line>,
    waiter: Arc<Waiter>,
    start: Instant,
    is_left: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        self.line.metrics.left.inc();
        let now = Instant::now().saturating_duration_since(self.start);
        let mut inner = self.line.lock();
        inner.remove(&self.waiter);
        if let Some(pass) = self.waiter.pass.get() {
            inner.outage.abandon(*pass); // called, and gone before it heard
        }
        self.line.advance(&mut inner, now);
        inner.rouse();
    }
}

/// The right to an attempt at a cluster that is down or recovers. Dropped before the attempt has told anything, it goes to
/// the next in line.
#[derive(Debug)]
pub struct Turn {
    line: Arc<Line>,
    pass: Option<Pass>,
    start: Instant,
}

impl Turn {
    fn into_pass(mut self) -> Pass {
        self.pass.take().unwrap_or(Pass::Free)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            let now = Instant::now().saturating_duration_since(self.start);
            let mut inner = self.line.lock();
            inner.outage.abandon(pass);
            self.line.advance(&mut inner, now);
            inner.rouse();
        }
    }
}

const CALM: u8 = 0;
/// Something failed of late: successes have to be counted.
const WATCHED: u8 = 1;
const DOWN: u8 = 2;

/// How long one whose failure would be its answer waits for another that can knock at less cost, or half of its time.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long one waits for health checks to find the cluster up, or half of its time: they may ask for something that it
/// will never answer as they want it.
const LONGEST_TRUST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
