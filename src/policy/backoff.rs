//! How long to wait before a retry.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

/// How the wait is spread, so that callers that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// Between half the step and the step.
    Equal,
    /// Between nothing and the step.
    Full,
    /// Exactly the step.
    None,
}

impl Jitter {
    /// Every kind, as the configuration spells them.
    pub const ALL: [Self; 3] = [Self::Equal, Self::Full, Self::None];

    /// The word in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Full => "full",
            Self::None => "none",
        }
    }
}

/// Whether waits follow how the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They shrink to almost nothing where recent attempts mostly succeeded: the failure was one of a kind.
    Adaptive,
    /// They are what the operator sets, always.
    Fixed,
}

impl Mode {
    /// Every mode, as the configuration spells them.
    pub const ALL: [Self; 2] = [Self::Adaptive, Self::Fixed];

    /// The word in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Fixed => "fixed",
        }
    }
}

/// Exponential backoff: the step before retry `n` is `base`·`factor`^(n−1), at most `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    base: Duration,
    factor: f64,
    max: Duration,
    jitter: Jitter,
    mode: Mode,
}

/// Why a [`Backoff`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidBackoff {
    /// A retry without a wait hammers the endpoint that has just failed.
    #[error("`base` must be at least 1ms: a retry without a wait hammers the endpoint that has just failed")]
    BaseTooShort,
    /// Waits that shrink are not backoff.
    #[error("`factor` must be between 1.0 and 100.0")]
    Factor,
    /// The cap lies below the first step.
    #[error("`max` must not be less than `base`")]
    MaxBelowBase,
    /// No caller waits that long.
    #[error("`max` must be at most 1h")]
    MaxTooLong,
}

impl Backoff {
    /// The shortest wait between two attempts at one endpoint while its cluster fails, whatever the jitter.
    pub const FLOOR: Duration = Duration::from_millis(1);

    /// The longest wait: no caller waits for longer.
    pub const LONGEST: Duration = Duration::from_hours(1);

    /// The growth from wait to wait: waits that shrink are not backoff.
    pub const FACTORS: RangeInclusive<f64> = 1.0..=100.0;

    /// The shortest wait of all. Not nothing: whatever made the endpoint fail gets a moment to pass, the runtime's other
    /// tasks get their turn, and no mistake in the estimate makes a loop that spins. Not more: of two retries a caller
    /// would feel each millisecond. It is shorter than a timer can measure: the loop gives everything else one turn.
    pub const QUICKEST: Duration = Duration::from_micros(100);

    /// Checks and builds, in adaptive mode: 1 ms ≤ `base` ≤ `max` ≤ 1 h, 1 ≤ `factor` ≤ 100.
    pub fn new(base: Duration, factor: f64, max: Duration, jitter: Jitter) -> Result<Self, InvalidBackoff> {
        if base < Self::FLOOR {
            return Err(InvalidBackoff::BaseTooShort);
        }
        if !Self::FACTORS.contains(&factor) {
            return Err(InvalidBackoff::Factor);
        }
        if max < base {
            return Err(InvalidBackoff::MaxBelowBase);
        }
        if max > Self::LONGEST {
            return Err(InvalidBackoff::MaxTooLong);
        }
        Ok(Self { base, factor, max, jitter, mode: Mode::Adaptive })
    }

    /// The same steps in another mode.
    #[must_use]
    pub fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// The wait before retry `retry` (the first is 1), where the next attempt succeeds with the chance `success`, for a
    /// `random` in [0, 1).
    pub fn wait(&self, retry: u32, success: f64, random: f64) -> Duration {
        let range = self.range(retry);
        let spread = range.end().saturating_sub(*range.start());
        let random = if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) };
        let whole = *range.start() + spread.mul_f64(random);
        match self.mode {
            Mode::Adaptive => whole.mul_f64(share_of_wait(success)).clamp(Self::QUICKEST, whole),
            Mode::Fixed => whole,
        }
    }

    /// The shortest and the longest wait before retry `retry` while the cluster fails.
    pub fn range(&self, retry: u32) -> RangeInclusive<Duration> {
        let step = self.step(retry);
        let shortest = match self.jitter {
            Jitter::Equal => step / 2,
            Jitter::Full => Duration::ZERO,
            Jitter::None => step,
        };
        shortest.max(Self::FLOOR)..=step
    }

    /// The step before jitter.
    fn step(&self, retry: u32) -> Duration {
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.base.as_secs_f64() * self.factor.powi(exponent);
        // An overflow gives infinity, which no Duration holds: the cap is the answer there too.
        Duration::try_from_secs_f64(seconds).map_or(self.max, |step| step.min(self.max))
    }

    /// The first step.
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The growth from one step to the next.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The longest step.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// How waits are spread.
    pub fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// Whether they follow how the cluster is.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

/// How much of the wait is waited where the next attempt succeeds with the chance `success`: all of it up to one half,
/// then steeply less: 18 % at 0.55, 3 % at 0.6, under 0.1 % at 0.7. Steep, because three answers in ten failing singly is
/// what a retry is for, and a wait does not make them fewer: their callers shall not feel the third one either.
fn share_of_wait(success: f64) -> f64 {
    let doubt = (1.0 - success) / (1.0 - FAILING);
    // Not a number is no reason for confidence.
    if doubt.is_nan() { 1.0 } else { doubt.clamp(0.0, 1.0).powi(16) }
}

/// The chance of success up to which a cluster counts as failing, and waits are whole.
const FAILING: f64 = 0.5;

impl Default for Backoff {
    /// 100 ms, doubled up to 2 s, equal jitter, adaptive.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(2),
            jitter: Jitter::Equal,
            mode: Mode::Adaptive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::expect;
    use proptest::prelude::*;

    fn jitters() -> impl Strategy<Value = Jitter> {
        prop_oneof![Just(Jitter::Equal), Just(Jitter::Full), Just(Jitter::None)]
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_range_and_never_over_max(
            base in 1u64..10_000, factor in 1.0f64..=100.0, more in 0u64..100_000,
            jitter in jitters(), retry in 0u32..=u32::MAX, success in 0.0f64..=1.0, random in 0.0f64..1.0,
        ) {
            let max = Duration::from_millis(base + more);
            let backoff = Backoff::new(Duration::from_millis(base), factor, max, jitter).unwrap().in_mode(Mode::Fixed);
            let wait = backoff.wait(retry, success, random);
            prop_assert!(backoff.range(retry).contains(&wait));
            prop_assert!(wait <= max);
            prop_assert!(wait >= Backoff::FLOOR);
        }

        #[test]
        fn waits_never_shrink_from_retry_to_retry(
            base in 1u64..1000, factor in 1.0f64..10.0, retry in 1u32..64, success in 0.0f64..=1.0,
        ) {
            let backoff =
                Backoff::new(Duration::from_millis(base), factor, Duration::from_mins(1), Jitter::None).unwrap();
            for mode in Mode::ALL {
                let backoff = backoff.in_mode(mode);
                prop_assert!(backoff.wait(retry, success, 0.5) <= backoff.wait(retry + 1, success, 0.5));
            }
        }

        #[test]
        fn numbers_outside_their_intervals_are_harmless(
            success in proptest::num::f64::ANY, random in proptest::num::f64::ANY,
        ) {
            let backoff = Backoff::default();
            let range = Backoff::QUICKEST..=*backoff.range(1).end();
            prop_assert!(range.contains(&backoff.wait(1, success, random)));
            prop_assert!(backoff.range(1).contains(&backoff.in_mode(Mode::Fixed).wait(1, success, random)));
        }

        #[test]
        fn an_adaptive_wait_grows_as_success_falls_from_almost_nothing_to_the_fixed_one(
            base in 1u64..10_000, jitter in jitters(), retry in 1u32..100,
            one in 0.0f64..=1.0, other in 0.0f64..=1.0, random in 0.0f64..1.0,
        ) {
            let base = Duration::from_millis(base);
            let backoff = Backoff::new(base, 2.0, 10 * base, jitter).unwrap();
            let wait = |success| backoff.wait(retry, success, random);
            prop_assert!(wait(one.max(other)) <= wait(one.min(other)));
            prop_assert!(wait(one) >= Backoff::QUICKEST);
            let fixed = backoff.in_mode(Mode::Fixed).wait(retry, one, random);
            prop_assert!(wait(one) <= fixed);
            prop_assert_eq!(wait(one / 2.0), fixed);
        }
    }

    /// The longest waits by the share of a key's attempts that fail and the failures in a row, as `docs/guide/retries.md` has them.
    #[test]
    fn the_curve_is_the_documented_one() {
        let longest = |q: f64, row: i32| {
            let success = expect::chance_of_success(q, f64::from(row) * expect::weight(q));
            let wait = Backoff::default().wait(1, success, 1.0);
            (wait.as_secs_f64() * 10_000.0).round() / 10.0
        };
        let rows = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5];
        let table = rows.map(|q| [1, 2, 3, 4, 6, 8].map(|row| longest(q, row)));
        let expected = [
            [0.1, 100.0, 100.0, 100.0, 100.0, 100.0],
            [0.1, 0.1, 40.1, 100.0, 100.0, 100.0],
            [0.1, 0.1, 0.1, 100.0, 100.0, 100.0],
            [0.1, 0.1, 0.1, 0.1, 100.0, 100.0],
            [0.1, 0.1, 0.1, 0.1, 1.5, 100.0],
            [2.8, 2.9, 2.9, 3.1, 4.9, 51.1],
            [100.0, 100.0, 100.0, 100.0, 100.0, 100.0],
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn the_default_waits_are_the_documented_ones() {
        let ranges: Vec<_> = (1..=6).map(|retry| Backoff::default().range(retry).into_inner()).collect();
        let millis = |low, high| (Duration::from_millis(low), Duration::from_millis(high));
        assert_eq!(
            ranges,
            [
                millis(50, 100),
                millis(100, 200),
                millis(200, 400),
                millis(400, 800),
                millis(800, 1600),
                millis(1000, 2000)
            ]
        );
    }

    #[test]
    fn what_cannot_be_a_backoff_is_refused() {
        let millis = Duration::from_millis;
        let new = |base, factor, max| Backoff::new(base, factor, max, Jitter::Equal);
        assert_eq!(new(Duration::ZERO, 2.0, millis(5)), Err(InvalidBackoff::BaseTooShort));
        assert_eq!(new(millis(10), 0.5, millis(50)), Err(InvalidBackoff::Factor));
        assert_eq!(new(millis(10), f64::NAN, millis(50)), Err(InvalidBackoff::Factor));
        assert_eq!(new(millis(10), 2.0, millis(5)), Err(InvalidBackoff::MaxBelowBase));
        assert_eq!(new(millis(10), 2.0, Duration::from_secs(3601)), Err(InvalidBackoff::MaxTooLong));
    }
}
