//! How much may be in flight to a cluster at once, and who waits how long beyond that. What is learned is in [`limiter`].

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

pub mod limiter;

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionSettings {
    limit: Limit,
    queue: usize,
    queue_time: Duration,
}

/// How many attempts may be in flight to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// As many as it is found to carry.
    #[default]
    Adaptive,
    /// So many, over all workers.
    Fixed(NonZeroU32),
    /// Any number; nobody waits.
    Off,
}

/// Why [`AdmissionSettings`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidAdmission {
    /// No wait at all, or one that no caller stays for.
    #[error("`queue_time` must be between 1ms and 1h")]
    QueueTime,
}

impl AdmissionSettings {
    /// How long each may wait: it is a wait, and one that a caller stays for.
    pub const QUEUE_TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

    /// Checks and builds: 1 ms ≤ `queue_time` ≤ 1 h. With a `queue` of 0 nobody waits: what is over the limit is refused.
    pub fn new(limit: Limit, queue: usize, queue_time: Duration) -> Result<Self, InvalidAdmission> {
        if !Self::QUEUE_TIMES.contains(&queue_time) {
            return Err(InvalidAdmission::QueueTime);
        }
        Ok(Self { limit, queue, queue_time })
    }

    /// How many may be in flight.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// How many may wait at once, over all workers.
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// The longest that one waits, each time.
    pub fn queue_time(&self) -> Duration {
        self.queue_time
    }
}

impl Default for AdmissionSettings {
    /// What the cluster carries; 10 000 wait for at most 1 s each.
    fn default() -> Self {
        Self { limit: Limit::Adaptive, queue: 10_000, queue_time: Duration::from_secs(1) }
    }
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It waited for as long as it could.
    Expired,
    /// As many wait as may.
    Full,
    /// It would wait for longer than it can.
    Late,
    /// It has had its attempt, and others still wait for theirs.
    Retry,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Expired, Self::Full, Self::Late, Self::Retry];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Full => "full",
            Self::Late => "late",
            Self::Retry => "retry",
        }
    }
}

/// The wait that whoever joins a queue behind `waiting` others has to expect where `rate` go per second.
pub fn expected_wait(waiting: usize, rate: Option<f64>) -> Duration {
    let Some(rate) = rate.filter(|rate| *rate > 0.0) else { return Duration::ZERO };
    Duration::try_from_secs_f64((waiting as f64 + 1.0) / rate).unwrap_or(Duration::MAX)
}

/// Whether there are so many before one that the wait can be told from it: as many as are in flight at once. What is known of
/// the rate may come from a time that is over; as long as somebody goes through it is learned anew.
pub fn is_predictable(waiting: usize, in_flight: u32) -> bool {
    waiting > in_flight as usize
}

/// Whether a wait that is to be expected fits into the time that there is. Some of it is left to error: whoever waits in
/// vain would rather have been told at once.
pub fn fits(expected: Duration, time: Duration) -> bool {
    expected <= time.mul_f64(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_refused_before_it_is_in_vain() {
        let second = Duration::from_secs(1);
        assert_eq!(expected_wait(1_000_000, None), Duration::ZERO);
        assert_eq!(expected_wait(1_000_000, Some(0.0)), Duration::ZERO);
        assert_eq!(expected_wait(99, Some(200.0)), second / 2);
        assert_eq!(expected_wait(usize::MAX, Some(f64::MIN_POSITIVE)), Duration::MAX);
        assert!(fits(second / 2, second));
        assert!(!fits(second.mul_f64(0.95), second));
        assert!(fits(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn what_cannot_be_a_queue_is_refused() {
        let new = |time| AdmissionSettings::new(Limit::Adaptive, 1, time);
        assert_eq!(new(Duration::ZERO), Err(InvalidAdmission::QueueTime));
        assert_eq!(new(Duration::from_secs(3601)), Err(InvalidAdmission::QueueTime));
        assert_eq!(new(Duration::from_millis(1)).unwrap().queue_time(), Duration::from_millis(1));
    }
}
