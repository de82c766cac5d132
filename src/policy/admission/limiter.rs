//! The adaptive limit, learned from how answers come: a [`Window`] of them goes in, a limit comes out.
//!
//! It is the gradient limiter of Netflix's concurrency-limits (`Gradient2Limit`), which takes latency that grows over what
//! is usual for a queue in the backend, and holds the limit where the growth is within a tolerance. What is added keeps it
//! from holding back a cluster that answers well:
//!
//! - **No limit without a cause.** It begins without one, and loses it again by doubling. The first cause sets it to what
//!   is in flight then, or has lately been answered well, so that it ends growth and takes nothing away. It is lowered only
//!   while somebody waits all the time: only then is it what binds.
//! - **Little's law decides.** Answers per second = in flight / latency. Where a backend queues, fewer in flight bring as
//!   many answers as before, each sooner; where it is slow for another reason, they bring fewer. So each lowering is an
//!   experiment: one that costs answers is taken back, and the latency is the usual one from then on. An estimate of the
//!   usual latency that is too high, because it was learned in an overload, is found by lowering the limit now and then.
//!   Where there were more answers before there was a limit, the first experiment is to raise it.
//! - **Usual is a mean and its spread**, as TCP has it for its timer (RFC 6298). Where one answer in twenty takes four
//!   hundred times as long, means of sixteen vary much and say little; the tolerance grows with that.
//! - **Slower and fewer** answers, where it was not that more was asked for: then as much as is needed may be in flight,
//!   as long as the rate of answers recovers.
//! - **Refusals** by the backend are a cause as well, but only those beyond the usual share of failures, and only where no
//!   fewer answers than before are good: errors of chance, and outages, take good answers away, overload does not. Above
//!   the limit at which it refused, growth begins anew, slow at first, as in CUBIC (RFC 9438).
//!
//! # Invariant
//!
//! There is no limit until answers show an overload. A cut that costs answers is taken back. Held by
//! `asked_for_twice_what_it_carries_a_cluster_gives_what_it_carries_and_recovers_at_once`.

use std::time::Duration;

/// What was seen of a cluster since the last look.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Attempts that brought an answer that is no failure.
    pub answered: u32,
    /// Attempts that failed.
    pub failed: u32,
    /// From the start of an attempt to its response head, the mean of those that were answered.
    pub latency: Duration,
    /// The median of the latest of them.
    pub median: Duration,
    /// How long the window was.
    pub length: Duration,
    /// Attempts in flight at its end.
    pub in_flight: u32,
    /// Of these, those that were given up and that the backend has not let go of.
    pub lingering: u32,
    /// Whether the limit held anyone back.
    pub pressure: Pressure,
}

/// Whether more was asked for than the limit let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Nobody had to wait.
    None,
    /// Somebody had to, but not all the time.
    Some,
    /// Somebody waited all the time: what went through is what the limit lets through.
    Full,
}

impl Window {
    fn count(&self) -> f64 {
        f64::from(self.answered) + f64::from(self.failed)
    }

    fn seconds(&self) -> f64 {
        self.length.as_secs_f64()
    }

    /// Attempts that ended, per second.
    pub fn ends_per_second(&self) -> f64 {
        self.count() / self.seconds().max(1e-6)
    }

    /// Good answers per second.
    fn rate(&self) -> f64 {
        f64::from(self.answered) / self.seconds().max(1e-6)
    }

    /// The share of attempts that failed.
    fn failing(&self) -> f64 {
        f64::from(self.failed) / self.count().max(1.0)
    }
}

/// How many attempts a cluster may have in flight.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    limit: f64,
    usual: Option<Usual>,
    /// What the limit grows to at most, because the backend refused beyond it.
    ceiling: f64,
    /// Windows since it last refused.
    since_refusal: u32,
    /// So many have lately been in flight while all was well.
    proven: f64,
    /// What the limit let through before it was lowered.
    reference: Option<Point>,
    /// What it let through before it was raised to see whether that brings more.
    raised: Option<Point>,
    /// Since somebody waits all the time, raising it has brought nothing.
    is_tested: bool,
    /// Those who began under a higher limit are still to be answered.
    is_settling: bool,
    /// It is lowered without a cause, to see whether that costs anything.
    is_probing: bool,
    /// Windows in a row in which all was well although somebody waited.
    calm: u32,
    slump: Option<Slump>,
    held_to: Option<f64>,
}

/// How a cluster answers while load does nothing to it.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// In seconds, as a mean.
    latency: f64,
    /// By how much the means of windows vary, from one to the next: not with a trend.
    spread: f64,
    /// That of the last window.
    last: f64,
    /// In seconds, as a median.
    median: f64,
    /// The share of attempts that fail.
    failing: f64,
    /// Good answers per second, as of late.
    rate: f64,
    /// Attempts that are answered, in flight at once: rate times latency.
    busy: f64,
    /// So many windows make it up, up to [`FIRST`].
    windows: u32,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    limit: f64,
    rate: f64,
    count: f64,
}

/// A time in which answers are late and fewer than before.
#[derive(Clone, Copy, Debug, Default)]
struct Slump {
    best_rate: f64,
    /// Seconds without a better one.
    stale: f64,
}

/// What a window says, against what is usual.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// How much longer latency could be without being late: below 1 it is.
    room: f64,
    is_refused: bool,
    /// More fail than is usual.
    is_failing: bool,
}

impl Signs {
    fn is_slow(&self) -> bool {
        self.room < 1.0
    }
}

impl Limiter {
    /// No limit, and nothing known.
    pub fn new() -> Self {
        Self {
            limit: NONE,
            usual: None,
            ceiling: NONE,
            since_refusal: 0,
            proven: 0.0,
            reference: None,
            raised: None,
            is_tested: false,
            is_settling: false,
            is_probing: false,
            calm: 0,
            slump: None,
            held_to: None,
        }
    }

    /// How many may be in flight; none = any number.
    pub fn limit(&self) -> Option<u32> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 4 and a million"
        )]
        let limit = self.limit as u32;
        (self.limit < NONE).then_some(limit)
    }

    /// The good answers per second that it is held to; none where nothing holds it.
    pub fn held_to(&self) -> Option<f64> {
        self.held_to
    }

    /// Whether a window holds enough to judge by: so many attempts, and all that began under the last limit. Where rates
    /// are compared it takes more.
    pub fn is_due(&self, window: &Window) -> bool {
        let is_lowered = self.reference.is_some_and(|reference| self.limit < LOWERED * reference.limit);
        let compares = window.pressure == Pressure::Full && is_lowered;
        let least = if compares { LEAST_TO_COMPARE } else { LEAST };
        let mostly_fails = window.failing() > 0.5; // refusals come faster than answers, and drain the queue
        let is_sinking = self.slump.is_some() && window.pressure == Pressure::None;
        let settled = if mostly_fails || is_sinking { Duration::ZERO } else { window.latency };
        window.count() >= f64::from(least) && window.length >= settled.max(SHORTEST)
    }

    /// Learns from a window.
    pub fn note(&mut self, window: &Window) {
        let Some(mut usual) = self.usual else {
            if window.answered > 0 {
                self.usual = Some(Usual::first(window));
            }
            return;
        };
        if usual.windows < FIRST {
            usual.begin(window);
            self.usual = Some(usual);
            return;
        }
        let signs = usual.read(window);
        self.proven *= (-window.seconds() / MEMORY).exp();
        let was_settling = std::mem::take(&mut self.is_settling);
        if window.pressure == Pressure::Full {
            self.slump = None;
            if !was_settling {
                self.hold(&mut usual, window, signs);
            }
        } else {
            (self.reference, self.held_to, self.is_probing, self.calm) = (None, None, false, 0);
            (self.raised, self.is_tested) = (None, false);
            if !was_settling {
                self.watch(&mut usual, window, signs);
            }
        }
        self.usual = Some(usual);
        // Attempts that the backend may never let go of must not take all there is.
        let least = LEAST_LIMIT + 2.0 * f64::from(window.lingering);
        self.limit = self.limit.clamp(least, NONE);
    }

    /// The limit is not what binds.
    fn watch(&mut self, usual: &mut Usual, window: &Window, signs: Signs) {
        if !signs.is_slow() {
            self.slump = None;
        } else if self.is_slump(usual, window) {
            return;
        }
        // Late answers that stay as they are, with a limit on them that nobody needs, are what is usual now.
        let is_stable = self.limit < NONE && window.pressure == Pressure::None && !signs.is_failing;
        usual.learn(window, signs, is_stable);
        let in_flight = f64::from(window.in_flight);
        if signs.is_refused {
            self.ceiling = in_flight.max(window.rate() * window.latency.as_secs_f64()).max(LEAST_LIMIT);
            self.since_refusal = 0;
            self.limit = self.limit.min(self.ceiling.max(self.proven));
        } else if signs.is_slow() {
            // Where somebody had to wait now and then, it is nearly enough.
            let stop = (ROOM * in_flight).max(self.proven);
            self.limit =
                if window.pressure == Pressure::Some { 1.1 * self.limit } else { self.limit.min(stop) };
        } else {
            self.proven = self.proven.max(in_flight);
            self.grow(FASTEST);
        }
    }

    /// Whether answers are late because each takes longer, and not because too many are asked for: there are fewer of
    /// them, and they become more.
    fn is_slump(&mut self, usual: &mut Usual, window: &Window) -> bool {
        let rate = window.rate();
        if rate >= 0.8 * usual.rate {
            self.slump = None;
            return false;
        }
        let slump = self.slump.get_or_insert_default();
        if rate > 1.1 * slump.best_rate {
            *slump = Slump { best_rate: rate, stale: 0.0 };
        } else {
            slump.stale += window.seconds();
        }
        let goes_on = slump.stale <= PATIENCE;
        if !goes_on {
            usual.rate = rate;
            self.slump = None;
        }
        goes_on
    }

    /// The limit binds: what goes through is what it lets through.
    fn hold(&mut self, usual: &mut Usual, window: &Window, signs: Signs) {
        let point = Point { limit: self.limit, rate: window.rate(), count: window.count() };
        if let Some(before) = self.raised.take() {
            if before.is_worth_less_than(&point) && !signs.is_refused {
                usual.accept(window);
                (self.reference, self.held_to, self.is_settling) = (None, None, true);
                self.limit *= FASTEST;
            } else {
                self.limit = before.limit;
                (self.is_tested, self.is_settling) = (true, true);
            }
            return;
        }
        if signs.is_slow() && !self.is_tested && point.rate < 0.8 * usual.rate {
            // There have been more. Would more in flight bring them back? Of a small limit it takes many more to tell.
            self.raised = Some(point);
            self.limit *= 1.0 + (4.0 / self.limit.sqrt()).clamp(0.25, 1.0);
            (self.held_to, self.is_settling) = (None, true);
            return;
        }
        if let Some(reference) = self.reference
            && reference.is_worth_more_than(&point)
        {
            self.limit = reference.limit;
            if !std::mem::take(&mut self.is_probing) {
                self.limit *= ROOM;
                self.ceiling = self.ceiling.max(self.limit);
                usual.accept(window);
            }
            (self.reference, self.is_settling, self.calm) = (None, true, 0);
            return;
        }
        if window.answered > 0 {
            let (latency, median) = (window.latency.as_secs_f64(), window.median.as_secs_f64());
            usual.latency += 0.3 * (latency - usual.latency).min(0.0);
            usual.median += 0.3 * (median - usual.median).min(0.0);
            if std::mem::take(&mut self.is_probing) {
                // As many answers with fewer in flight: then this latency is all that need be tolerated.
                usual.latency = usual.latency.min(latency / TOLERANCE);
                usual.median = usual.median.min(median / TOLERANCE);
            }
        }
        if self.reference.is_none_or(|reference| point.limit >= reference.limit) {
            self.reference = Some(point);
        }
        usual.follow(window);
        let is_held = signs.room < HELD || signs.is_refused;
        let smoothed = |held: f64| held + window.seconds().min(0.5) * (point.rate - held);
        self.held_to = is_held.then(|| self.held_to.map_or(point.rate, smoothed));
        if signs.is_refused {
            self.lower((0.8 * self.limit).max(usual.busy.min(0.98 * self.limit)));
            self.ceiling = self.limit;
            self.since_refusal = 0;
        } else if signs.is_slow() {
            self.lower(self.limit * signs.room.clamp(STEEPEST, 1.0));
        } else if self.calm >= PROBE_AFTER && self.ceiling > ROOM * self.limit {
            self.calm = 0;
            self.reference = Some(point);
            self.is_probing = true;
            self.is_settling = true;
            self.limit *= STEEPEST;
        } else {
            self.calm += 1;
            self.grow(signs.room.clamp(1.0, FASTEST));
        }
    }

    fn lower(&mut self, limit: f64) {
        self.limit = limit;
        self.proven = self.proven.min(limit);
        (self.is_settling, self.calm) = (true, 0);
    }

    fn grow(&mut self, factor: f64) {
        self.since_refusal = self.since_refusal.saturating_add(1);
        let age = f64::from(self.since_refusal);
        self.ceiling = (self.ceiling * (1.0 + (1e-4 * age * age).min(0.25))).min(NONE);
        self.limit = (self.limit * factor).min(self.ceiling.max(self.limit));
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Usual {
    fn first(window: &Window) -> Self {
        let latency = window.latency.as_secs_f64();
        let median = window.median.as_secs_f64();
        Self {
            latency,
            spread: latency / 2.0,
            last: latency,
            median,
            failing: window.failing(),
            rate: window.rate(),
            busy: 0.0,
            windows: 1,
        }
    }

    /// Those that are answered first are those that are answered soon: one window is not enough to begin with.
    fn begin(&mut self, window: &Window) {
        self.windows += 1;
        let weight = 1.0 / f64::from(self.windows);
        let mean = |mean: &mut f64, of: f64| *mean += weight * (of - *mean);
        mean(&mut self.failing, window.failing());
        if window.answered > 0 {
            let latency = window.latency.as_secs_f64();
            mean(&mut self.spread, (latency - self.last).abs());
            mean(&mut self.latency, latency);
            mean(&mut self.median, window.median.as_secs_f64());
            self.last = latency;
            self.rate = window.rate();
        }
    }

    /// The latency that is not late.
    fn tolerated(&self) -> f64 {
        let Self { latency, spread, .. } = *self;
        (TOLERANCE * latency).max(latency + SLACK).max(latency + 4.0 * spread)
    }

    fn read(&self, window: &Window) -> Signs {
        let room = |tolerated: f64, latency: Duration| tolerated / latency.as_secs_f64().max(1e-6);
        let mean = room(self.tolerated(), window.latency);
        let median = room((TOLERANCE * self.median).max(self.median + SLACK), window.median);
        // A queue makes nearly all of them late.
        let room = if window.answered == 0 { 1.0 } else { mean.max(median) };
        let more = window.failing() - self.failing;
        let noise = ((self.failing * (1.0 - self.failing) + 0.01) / window.count().max(1.0)).sqrt();
        let is_failing = more > noise.max(0.05);
        let certainly = more > (3.0 * noise).max(0.05);
        // In an outage there are fewer good answers than before, in an overload there are not.
        let least = (0.9 - 1.0 / f64::from(window.answered.max(1)).sqrt()).max(0.5);
        let is_answering = window.answered > 0 && window.rate() >= least * self.rate;
        Signs { room, is_failing, is_refused: is_answering && (certainly || (room < 1.0 && is_failing)) }
    }

    /// This is how it answers, whatever the load.
    fn accept(&mut self, window: &Window) {
        self.latency = self.latency.max(window.latency.as_secs_f64());
        self.median = self.median.max(window.median.as_secs_f64());
        self.failing = window.failing();
    }

    /// Follows the answers of a cluster that is asked for all that it gives.
    fn follow(&mut self, window: &Window) {
        let weight = (2.0 * window.seconds()).min(1.0);
        self.rate += weight * (window.rate() - self.rate);
        self.busy += weight * (window.rate() * window.latency.as_secs_f64() - self.busy);
    }

    fn learn(&mut self, window: &Window, signs: Signs, is_stable: bool) {
        // By time: what grows slowly is not to be followed.
        let fastest = if is_stable { 0.3 } else { 0.1 };
        let weight = (window.seconds() / LEARNING).min(fastest);
        if window.answered > 0 {
            let latency = window.latency.as_secs_f64();
            self.spread += weight * ((latency - self.last).abs() - self.spread);
            self.latency += weight * (latency - self.latency);
            self.median += weight * (window.median.as_secs_f64() - self.median);
            self.last = latency;
        }
        let weight = if signs.is_failing { 0.1 } else { 0.3 } * window.seconds().min(1.0);
        self.failing += weight * (window.failing() - self.failing);
        if !signs.is_slow() {
            self.rate += 0.1 * (window.rate() - self.rate);
        }
    }
}

impl Point {
    /// Whether a higher limit brought more answers, by more than chance: closer to in proportion than to none.
    fn is_worth_less_than(&self, higher: &Self) -> bool {
        let asked = higher.limit / self.limit.max(1.0) - 1.0;
        let gained = higher.rate / self.rate.max(1e-6) - 1.0;
        gained > 0.5 * asked && gained > (1.0 / self.count.max(1.0) + 1.0 / higher.count.max(1.0)).sqrt()
    }

    /// Whether a lower limit brought fewer answers, by more than chance: closer to in proportion than to none.
    fn is_worth_more_than(&self, lower: &Self) -> bool {
        let kept = lower.limit / self.limit.max(1.0);
        let noise = (1.0 / self.count.max(1.0) + 1.0 / lower.count.max(1.0)).sqrt();
        kept < LOWERED && lower.rate < self.rate * (1.0 - 0.5 * (1.0 - kept) - noise)
    }
}

/// More than any cluster has in flight: no limit.
const NONE: f64 = 1_000_000.0;

/// A limit below this would only measure how fast we are ourselves.
const LEAST_LIMIT: f64 = 4.0;

/// Windows of which it is learned what is usual, before anything is held against it.
const FIRST: u32 = 5;

/// Attempts in a window, so that its mean says something.
const LEAST: u32 = 16;

/// The same where its rate is compared with another's.
const LEAST_TO_COMPARE: u32 = 48;

/// A window that is shorter says more about the system's scheduler than about the backend.
const SHORTEST: Duration = Duration::from_millis(20);

/// Latency may grow to so much of the usual one, as in Gradient2. A backend of any width is busy at 1, and an estimate of the
/// usual latency may be wrong by as much without any loss.
const TOLERANCE: f64 = 2.0;

/// And by so many seconds: what a caller does not feel, and more than our own work adds at full load.
const SLACK: f64 = 0.050;

/// The limit begins with so much more than is in flight, and goes back to so much more than was enough.
const ROOM: f64 = 1.2;

/// In one window it grows at most by this, as in TCP's slow start.
const FASTEST: f64 = 2.0;

/// And shrinks at most to this.
const STEEPEST: f64 = 0.6;

/// Below this share a limit counts as lowered.
const LOWERED: f64 = 0.95;

/// With less room than this the limit is near what the cluster carries.
const HELD: f64 = 1.5;

/// So many windows at the limit without a cause to change it are followed by one at a lower limit.
const PROBE_AFTER: u32 = 12;

/// Seconds without progress after which answers that are late and fewer are a cause.
const PATIENCE: f64 = 1.0;

/// Seconds in which what is usual is learned anew.
const LEARNING: f64 = 10.0;

/// Seconds in which what has been proven fades.
const MEMORY: f64 = 60.0;

#[cfg(test)]
mod estimates;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
