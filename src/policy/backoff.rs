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

/// Exponential backoff: the step before retry `n` is `base`·`factor`^(n−1), at most `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    base: Duration,
    factor: f64,
    max: Duration,
    jitter: Jitter,
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
    /// The shortest wait between two attempts at one endpoint, whatever the jitter.
    pub const FLOOR: Duration = Duration::from_millis(1);

    /// Checks and builds: 1 ms ≤ `base` ≤ `max` ≤ 1 h, 1 ≤ `factor` ≤ 100.
    pub fn new(base: Duration, factor: f64, max: Duration, jitter: Jitter) -> Result<Self, InvalidBackoff> {
        if base < Self::FLOOR {
            return Err(InvalidBackoff::BaseTooShort);
        }
        if !(1.0..=100.0).contains(&factor) {
            return Err(InvalidBackoff::Factor);
        }
        if max < base {
            return Err(InvalidBackoff::MaxBelowBase);
        }
        if max > Duration::from_hours(1) {
            return Err(InvalidBackoff::MaxTooLong);
        }
        Ok(Self { base, factor, max, jitter })
    }

    /// The wait before retry `retry` (the first is 1), for a `random` in [0, 1).
    pub fn wait(&self, retry: u32, random: f64) -> Duration {
        let range = self.range(retry);
        let spread = range.end().saturating_sub(*range.start());
        let random = if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) };
        *range.start() + spread.mul_f64(random)
    }

    /// The shortest and the longest wait before retry `retry`.
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
}

impl Default for Backoff {
    /// 100 ms, doubled up to 2 s, equal jitter.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            factor: 2.0,
            max: Duration::from_secs(2),
            jitter: Jitter::Equal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn jitters() -> impl Strategy<Value = Jitter> {
        prop_oneof![Just(Jitter::Equal), Just(Jitter::Full), Just(Jitter::None)]
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_range_and_never_over_max(
            base in 1u64..10_000, factor in 1.0f64..=100.0, more in 0u64..100_000,
            jitter in jitters(), retry in 0u32..=u32::MAX, random in 0.0f64..1.0,
        ) {
            let max = Duration::from_millis(base + more);
            let backoff = Backoff::new(Duration::from_millis(base), factor, max, jitter).unwrap();
            let wait = backoff.wait(retry, random);
            prop_assert!(backoff.range(retry).contains(&wait));
            prop_assert!(wait <= max);
            prop_assert!(wait >= Backoff::FLOOR);
        }

        #[test]
        fn steps_never_shrink(base in 1u64..1000, factor in 1.0f64..10.0, retry in 1u32..64) {
            let backoff =
                Backoff::new(Duration::from_millis(base), factor, Duration::from_mins(1), Jitter::None).unwrap();
            prop_assert!(backoff.wait(retry, 0.5) <= backoff.wait(retry + 1, 0.5));
        }

        #[test]
        fn randomness_outside_its_interval_is_harmless(random in proptest::num::f64::ANY) {
            let backoff = Backoff::default();
            prop_assert!(backoff.range(1).contains(&backoff.wait(1, random)));
        }
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
