//! When all of a cluster is down, and how it is tried and filled again: up → down → recovering → up. Times are durations
//! since any fixed moment, passed in.
//!
//! A cluster is down when so many attempts in a row have failed, at every endpoint in balancing, that chance does not
//! explain it. How many that is depends on how often attempts fail there anyway: with the rate p of the recent past a run
//! of n failures has the probability pⁿ, and [`needed`] asks for pⁿ ≤ 10⁻⁴, but for `enter_after` at least. Where failures
//! are rare (p ≤ 0.02) that is 3 in a row at most, at p = 0.2 it is 6, at p = 0.3 it is 8. So independent failures look like an
//! outage once in some 10⁴ attempts, and such an error costs those who come meanwhile one wait and one good answer. A busy
//! cluster makes 10⁴ attempts in a second: therefore a run has to last for 5 ms as well, which there are hundreds of
//! attempts, and elsewhere is soon over.

use std::time::Duration;

use thiserror::Error;

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSettings {
    max: usize,
    max_wait: Duration,
    enter_after: u32,
}

/// Why [`LineSettings`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidLine {
    /// A failure on its own is no outage.
    #[error("`enter_after` must be between 2 and 100: one failure is no outage")]
    EnterAfter,
    /// No wait at all, or one that no caller stays for.
    #[error("`max_wait` must be between 1ms and 1h")]
    MaxWait,
}

impl LineSettings {
    /// Checks and builds: 2 ≤ `enter_after` ≤ 100, 1 ms ≤ `max_wait` ≤ 1 h. With a `max` of 0 there is no line.
    pub fn new(max: usize, max_wait: Duration, enter_after: u32) -> Result<Self, InvalidLine> {
        if !(2..=MOST_NEEDED).contains(&enter_after) {
            return Err(InvalidLine::EnterAfter);
        }
        if !(Duration::from_millis(1)..=Duration::from_hours(1)).contains(&max_wait) {
            return Err(InvalidLine::MaxWait);
        }
        Ok(Self { max, max_wait, enter_after })
    }

    /// How many may wait at once, over all workers; 0 = there is no line.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The longest that one exchange waits in it, in all.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// The fewest failures in a row that are an outage.
    pub fn enter_after(&self) -> u32 {
        self.enter_after
    }
}

impl Default for LineSettings {
    /// 1024 exchanges, for at most 10 s each, after at least three failures in a row.
    fn default() -> Self {
        Self { max: 1024, max_wait: Duration::from_secs(10), enter_after: 3 }
    }
}

/// By what right an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The cluster was up.
    Free,
    /// It is the one that tries a cluster that is down.
    Probe,
    /// It was let go out of the line while the cluster recovers.
    Released,
}

/// Whether the failures of a run say something about the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Every endpoint in balancing has failed since the last success.
    All,
    /// Some endpoint has not been heard of.
    Some,
}

/// What may happen next to those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is no outage: nobody need wait.
    All,
    /// Nothing before this moment, unless an attempt ends.
    NotBefore(Duration),
    /// One of them may knock.
    Probe,
    /// The first of them may go.
    Release,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The outage begins.
    Down,
    /// Nothing that others need to know.
    Nothing,
    /// The cluster answers again.
    Recovering,
}

/// What is known of a cluster as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    settings: LineSettings,
    state: State,
    /// Failures since the last success.
    run: u32,
    /// When the first of them ended.
    run_began: Duration,
    /// The share of attempts that failed in the recent past, outages left out.
    rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down {
        /// Probes that failed.
        failed: u32,
        /// When the next one may knock.
        next: Duration,
        /// Until when the one that knocks is alone.
        probing: Option<Duration>,
    },
    Recovering {
        /// How many of those let go may be under way at once.
        window: u32,
        /// How many are.
        out: u32,
        /// When the window last grew by time.
        grown: Duration,
    },
}

impl Outage {
    /// A cluster that is up and of which nothing bad is known.
    pub fn new(settings: LineSettings) -> Self {
        Self { settings, state: State::Up, run: 0, run_began: Duration::ZERO, rate: USUAL_RATE }
    }

    /// Whether those who come have to wait for their turn.
    pub fn is_down(&self) -> bool {
        self.state != State::Up
    }

    /// Whether there is nothing for a success to change.
    pub fn is_calm(&self) -> bool {
        !self.is_down() && self.run == 0 && self.rate <= USUAL_RATE
    }

    /// Failures in a row that are an outage now.
    pub fn needed(&self) -> u32 {
        needed(self.rate).max(self.settings.enter_after)
    }

    /// What may happen next at `now`. What it allows has to be taken with [`Outage::begin`].
    pub fn next(&mut self, now: Duration) -> Next {
        match &mut self.state {
            State::Up => Next::All,
            State::Down { probing: Some(until), .. } if *until > now => Next::NotBefore(*until),
            State::Down { next, .. } if *next > now => Next::NotBefore(*next),
            State::Down { .. } => Next::Probe,
            State::Recovering { window, out, grown } => {
                // Answers that take long say nothing bad, and must not hold up the rest for as long.
                if now >= grown.saturating_add(STEP) {
                    (*window, *grown) = (window.saturating_mul(2), now);
                }
                if *out < *window { Next::Release } else { Next::NotBefore(grown.saturating_add(STEP)) }
            }
        }
    }

    /// How long it is until something can become better, as far as that is known at `now`.
    pub fn pause(&self, now: Duration) -> Duration {
        match self.state {
            State::Down { probing: Some(until), .. } if until > now => Duration::ZERO,
            State::Down { next, .. } => next.saturating_sub(now),
            State::Up | State::Recovering { .. } => Duration::ZERO,
        }
    }

    /// Notes that an exchange goes on with `pass`; to be followed by [`Outage::success`], [`Outage::failure`] or
    /// [`Outage::abandon`].
    pub fn begin(&mut self, pass: Pass, now: Duration) {
        match (&mut self.state, pass) {
            (State::Down { probing, .. }, Pass::Probe) => *probing = Some(now.saturating_add(PATIENCE)),
            (State::Recovering { out, .. }, Pass::Released) => *out = out.saturating_add(1),
            _ => {}
        }
    }

    /// The exchange ended without telling anything, for example because its caller left.
    pub fn abandon(&mut self, pass: Pass) {
        match (&mut self.state, pass) {
            (State::Down { probing, .. }, Pass::Probe) => *probing = None,
            (State::Recovering { out, .. }, Pass::Released) => *out = out.saturating_sub(1),
            _ => {}
        }
    }

    /// An attempt succeeded. One that began before the outage does not end it: only a probe does.
    pub fn success(&mut self, pass: Pass, now: Duration) -> Change {
        match &mut self.state {
            State::Down { failed, .. } if pass == Pass::Probe => {
                // Over with the first knock: it may have been chance, from which the rate shall learn.
                if *failed == 0 {
                    self.learn_run();
                }
                self.run = 0;
                self.state = State::Recovering { window: FIRST_WINDOW, out: 0, grown: now };
                Change::Recovering
            }
            State::Down { .. } => Change::Nothing,
            State::Up => {
                self.learn_success();
                Change::Nothing
            }
            State::Recovering { window, out, .. } => {
                if pass == Pass::Released {
                    (*window, *out) = (window.saturating_add(1), out.saturating_sub(1));
                }
                self.learn_success();
                Change::Nothing
            }
        }
    }

    /// An attempt failed. `wait` gives the pause before the next probe from the number of those that have failed, the
    /// first pause being 1.
    pub fn failure(
        &mut self,
        pass: Pass,
        spread: Spread,
        wait: impl FnOnce(u32) -> Duration,
        now: Duration,
    ) -> Change {
        if let State::Down { failed, next, probing } = &mut self.state {
            if pass == Pass::Probe {
                *failed = failed.saturating_add(1);
                *next = now.saturating_add(wait(failed.saturating_add(1)));
                *probing = None;
            }
            return Change::Nothing;
        }
        if self.run == 0 {
            self.run_began = now;
        }
        self.run = self.run.saturating_add(1);
        if self.settings.max > 0 && spread == Spread::All && self.is_no_chance(now) {
            self.state = State::Down { failed: 0, next: now.saturating_add(wait(1)), probing: None };
            return Change::Down;
        }
        if let State::Recovering { window, out, grown } = &mut self.state {
            if pass == Pass::Released {
                *out = out.saturating_sub(1);
            }
            (*window, *grown) = ((*window / 2).max(1), now);
        }
        Change::Nothing
    }

    /// Whether the present run is longer than chance explains.
    fn is_no_chance(&self, now: Duration) -> bool {
        self.run >= self.needed() && now.saturating_sub(self.run_began) >= LEAST_SPAN
    }

    /// Nobody waits any more: a cluster that recovers is up.
    pub fn line_is_empty(&mut self) {
        if let State::Recovering { .. } = self.state {
            self.state = State::Up;
        }
    }

    fn learn_success(&mut self) {
        self.learn_run();
        self.rate = (self.rate * (1.0 - WEIGHT)).max(USUAL_RATE);
    }

    fn learn_run(&mut self) {
        let exponent = i32::try_from(self.run).unwrap_or(i32::MAX);
        self.rate = 1.0 - (1.0 - self.rate) * (1.0 - WEIGHT).powi(exponent);
        self.run = 0;
    }
}

/// Failures in a row that chance does not explain where attempts fail at `rate`.
pub fn needed(rate: f64) -> u32 {
    let rate = rate.clamp(USUAL_RATE, 0.99);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a quotient of two negative logarithms, at most 917"
    )]
    let needed = (CHANCE.ln() / rate.ln()).ceil() as u32;
    needed.min(MOST_NEEDED)
}

/// The probability below which a run of failures is not put down to chance.
const CHANCE: f64 = 1e-4;

/// A cluster that fails more seldom is taken for one that fails that often; there two in a row are no chance.
const USUAL_RATE: f64 = 0.009;

/// The shortest time that a run of failures has to last. Whoever fails in it waits before the next attempt anyway.
const LEAST_SPAN: Duration = Duration::from_millis(5);

/// What one attempt weighs in the rate: the last hundred or so make it up.
const WEIGHT: f64 = 1.0 / 64.0;

/// However often a cluster fails, that many in a row are an outage.
const MOST_NEEDED: u32 = 100;

/// How long a probe is alone. After that the next may knock: the request may be one that takes its time.
const PATIENCE: Duration = Duration::from_secs(1);

/// One good answer lets two go.
const FIRST_WINDOW: u32 = 2;

/// How long the window stays as it is without an answer.
const STEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
