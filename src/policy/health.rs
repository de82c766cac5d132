//! Active health checks: when each is due, and what their results in a row make of an endpoint. What the verdict then
//! does to balancing stands in `ejection`, what it does to those who wait in `outage`.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

/// How often an endpoint is checked, and how many results in a row are a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    interval: Duration,
    timeout: Duration,
    unhealthy_after: u32,
    healthy_after: u32,
}

/// Why a [`Rhythm`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRhythm {
    /// No number of results in a row, or one that takes for ever.
    #[error("`healthy_after` must be between 1 and 100")]
    HealthyAfter,
    /// So often that checks are a load, or so seldom that they tell nothing.
    #[error("`interval` must be between 100ms and 1h")]
    Interval,
    /// No time to answer in.
    #[error("`timeout` must be at least 1ms")]
    Timeout,
    /// The next check would be due while one still waits.
    #[error("`timeout` must be less than `interval`: an endpoint is asked one thing at a time")]
    TimeoutNotBelowInterval,
    /// No number of results in a row, or one that takes for ever.
    #[error("`unhealthy_after` must be between 1 and 100")]
    UnhealthyAfter,
}

impl Rhythm {
    /// From check to check: seldom enough to be no load, often enough to tell something.
    pub const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

    /// Results in a row: one is a verdict, more than a hundred come too late for anybody.
    pub const COUNTS: RangeInclusive<u32> = 1..=100;

    /// Checks and builds: 100 ms ≤ `interval` ≤ 1 h, 1 ms ≤ `timeout` < `interval`, both counts between 1 and 100.
    pub fn new(
        interval: Duration,
        timeout: Duration,
        unhealthy_after: u32,
        healthy_after: u32,
    ) -> Result<Self, InvalidRhythm> {
        if !Self::INTERVALS.contains(&interval) {
            return Err(InvalidRhythm::Interval);
        }
        if timeout < Duration::from_millis(1) {
            return Err(InvalidRhythm::Timeout);
        }
        if timeout >= interval {
            return Err(InvalidRhythm::TimeoutNotBelowInterval);
        }
        if !Self::COUNTS.contains(&unhealthy_after) {
            return Err(InvalidRhythm::UnhealthyAfter);
        }
        if !Self::COUNTS.contains(&healthy_after) {
            return Err(InvalidRhythm::HealthyAfter);
        }
        Ok(Self { interval, timeout, unhealthy_after, healthy_after })
    }

    /// The time that a check gets where the operator has set none: 2 s, or half of a shorter interval.
    pub fn usual_timeout(interval: Duration) -> Duration {
        Self::default().timeout.min(interval / 2).max(Duration::from_millis(1))
    }

    /// From the beginning of a check to that of the next, on average.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How long a check may take, connecting included.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Failed checks in a row that make an endpoint unhealthy.
    pub fn unhealthy_after(&self) -> u32 {
        self.unhealthy_after
    }

    /// Passed checks in a row that make it healthy again.
    pub fn healthy_after(&self) -> u32 {
        self.healthy_after
    }

    /// How long after it has become known an endpoint is checked first; `random` lies between 0 and 1. Soon, because until
    /// then nothing is known, but not all of them in the same moment.
    pub fn first_wait(&self, random: f64) -> Duration {
        (self.interval / 10).min(MAX_FIRST).mul_f64(random.clamp(0.0, 1.0))
    }

    /// From the beginning of a check to that of the next: the interval, a tenth more or less, so that the checks of many
    /// endpoints, and of many proxies, drift apart.
    pub fn wait(&self, random: f64) -> Duration {
        self.interval.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
    }
}

impl Default for Rhythm {
    /// Every 5 s, for at most 2 s; unhealthy after 3 that failed, healthy after 2 that passed.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With anything else.
    Failed,
    /// With the answer that was asked for.
    Passed,
}

/// What the checks of an endpoint say about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Healthy,
    /// It does not.
    Unhealthy,
    /// Nothing yet: it is used until a check fails, as it would be without checks.
    #[default]
    Unproven,
}

/// What is known of one endpoint from its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    verdict: Verdict,
    /// Results in a row that speak against the verdict.
    against: u32,
}

impl Checked {
    /// Takes note of a check; gives the verdict if it has changed by it.
    ///
    /// The first one decides alone: nothing that was seen before speaks against it, and an endpoint that is down from the
    /// start shall not be waited for.
    pub fn note(&mut self, ending: Ending, rhythm: &Rhythm) -> Option<Verdict> {
        let (verdict, needed) = match (self.verdict, ending) {
            (Verdict::Unproven, Ending::Passed) => (Verdict::Healthy, 1),
            (Verdict::Unproven, Ending::Failed) => (Verdict::Unhealthy, 1),
            (Verdict::Healthy, Ending::Failed) => (Verdict::Unhealthy, rhythm.unhealthy_after),
            (Verdict::Unhealthy, Ending::Passed) => (Verdict::Healthy, rhythm.healthy_after),
            (Verdict::Healthy, Ending::Passed) | (Verdict::Unhealthy, Ending::Failed) => {
                self.against = 0;
                return None;
            }
        };
        self.against = self.against.saturating_add(1);
        if self.against < needed {
            return None;
        }
        *self = Self { verdict, against: 0 };
        Some(verdict)
    }

    /// What the checks so far say.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// The longest wait for a first check.
const MAX_FIRST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ending::{Failed, Passed};
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn rhythm(unhealthy_after: u32, healthy_after: u32) -> Rhythm {
        Rhythm::new(seconds(5), seconds(2), unhealthy_after, healthy_after).unwrap()
    }

    #[test]
    fn only_results_in_a_row_change_a_verdict() {
        let rhythm = rhythm(3, 2);
        let mut checked = Checked::default();
        assert_eq!(checked.note(Passed, &rhythm), Some(Verdict::Healthy));
        for _ in 0..10 {
            for ending in [Failed, Failed, Passed] {
                assert_eq!(checked.note(ending, &rhythm), None);
            }
        }
        for (ending, change) in [
            (Failed, None),
            (Failed, None),
            (Failed, Some(Verdict::Unhealthy)),
            (Failed, None),
            (Passed, None),
            (Failed, None),
            (Passed, None),
            (Passed, Some(Verdict::Healthy)),
        ] {
            assert_eq!(checked.note(ending, &rhythm), change);
        }
    }

    #[test]
    fn the_first_check_decides_alone() {
        for (ending, verdict) in [(Passed, Verdict::Healthy), (Failed, Verdict::Unhealthy)] {
            let mut checked = Checked::default();
            assert_eq!(checked.verdict(), Verdict::Unproven);
            assert_eq!(checked.note(ending, &rhythm(100, 100)), Some(verdict));
        }
    }

    #[test]
    fn a_rhythm_has_room_for_a_check() {
        let new = |interval, timeout| Rhythm::new(interval, timeout, 3, 2).map(drop);
        assert_eq!(new(seconds(5), seconds(5)), Err(InvalidRhythm::TimeoutNotBelowInterval));
        assert_eq!(new(seconds(5), Duration::ZERO), Err(InvalidRhythm::Timeout));
        assert_eq!(new(Duration::from_millis(99), Duration::from_millis(1)), Err(InvalidRhythm::Interval));
        assert_eq!(Rhythm::new(seconds(5), seconds(1), 0, 1), Err(InvalidRhythm::UnhealthyAfter));
        assert_eq!(Rhythm::new(seconds(5), seconds(1), 1, 101), Err(InvalidRhythm::HealthyAfter));
        let default = Rhythm::default();
        assert_eq!(Rhythm::usual_timeout(default.interval), default.timeout);
    }

    proptest! {
        #[test]
        fn a_verdict_changes_with_as_many_results_in_a_row_as_it_takes(
            endings in proptest::collection::vec(any::<bool>(), 1..200),
            unhealthy_after in 1u32..6,
            healthy_after in 1u32..6,
        ) {
            let rhythm = rhythm(unhealthy_after, healthy_after);
            let mut checked = Checked::default();
            let mut row: (bool, u32) = (endings[0], 0);
            for (number, passed) in endings.into_iter().enumerate() {
                row = if row.0 == passed { (passed, row.1 + 1) } else { (passed, 1) };
                let changed = checked.note(if passed { Passed } else { Failed }, &rhythm);
                let expected = if passed { Verdict::Healthy } else { Verdict::Unhealthy };
                let needed = if passed { healthy_after } else { unhealthy_after };
                if let Some(verdict) = changed {
                    prop_assert_eq!(verdict, expected);
                    prop_assert!(number == 0 || row.1 == needed);
                }
                // However it went before, so many in a row leave no doubt.
                prop_assert!(row.1 < needed || checked.verdict() == expected);
            }
        }

        #[test]
        fn waits_keep_to_a_tenth_and_leave_room_for_the_timeout(
            interval in 100u64..3_600_000,
            random in 0.0f64..=1.0,
        ) {
            let interval = Duration::from_millis(interval);
            let timeout = Rhythm::usual_timeout(interval);
            let rhythm = Rhythm::new(interval, timeout, 3, 2).unwrap();
            let wait = rhythm.wait(random);
            prop_assert!(wait >= interval.mul_f64(0.899) && wait <= interval.mul_f64(1.101));
            prop_assert!(timeout < wait);
            prop_assert!(rhythm.first_wait(random) <= (interval / 10).min(seconds(1)));
        }
    }
}
