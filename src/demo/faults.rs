//! What goes wrong with each answer of the demo's HOSP: pure, from a seed and the time since the demo's start.

use std::time::Duration;

use fastrand::Rng;
use http::{Method, StatusCode};

/// How an answer fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No answer for as long as the peer cares to wait.
    Hang,
    /// The connection is reset.
    Reset,
    /// A 500 or a 502.
    Status(StatusCode),
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    /// How long HOSP works on it.
    pub(super) delay: Duration,
    /// Whether it is carried out: a POST that fails may still have been, which is why nobody may blindly repeat it.
    pub(super) executes: bool,
    /// What goes wrong, if anything does.
    pub(super) fault: Option<Fault>,
}

/// The fates of HOSP's requests, one after the other.
#[derive(Debug)]
pub(super) struct Faults {
    rng: Rng,
    /// The share of answers that fail outside of bursts.
    single: f64,
    /// How long a burst lasts.
    burst: Duration,
}

impl Faults {
    /// Fates of which `failure_rate` (0 to 1) are failures, the bursts among them.
    pub(super) fn new(failure_rate: f64, seed: u64) -> Self {
        let rate = failure_rate.clamp(0.0, 1.0);
        let bursting = Self::burst_share(rate);
        let single = (rate - bursting) / (1.0 - bursting);
        Self { rng: Rng::with_seed(seed), single, burst: Self::burst_length(rate) }
    }

    /// How long a burst lasts, for a share of failing answers.
    pub(super) fn burst_length(failure_rate: f64) -> Duration {
        BURST_PERIOD.mul_f64(Self::burst_share(failure_rate.clamp(0.0, 1.0)))
    }

    /// The share of time that is a burst: small enough to leave most failures single ones.
    fn burst_share(rate: f64) -> f64 {
        (rate / 4.0).min(MAX_BURSTING)
    }

    /// The fate of a request with this method that comes `elapsed` after the start.
    pub(super) fn next(&mut self, elapsed: Duration, method: &Method) -> Fate {
        // Each request takes the same four numbers, so that one fate does not shift those after it.
        let [fails, kind, executes, work] = std::array::from_fn(|_| self.rng.f64());
        let bursting = self.bursting(elapsed);
        let fault = (bursting || fails < self.single).then(|| match kind {
            // In a burst HOSP is down, not slow; and a POST that hangs would only tell the same story twice.
            k if k < HANG_SHARE && !bursting && method == Method::GET => Fault::Hang,
            k if k < HANG_SHARE + RESET_SHARE => Fault::Reset,
            k if k < f64::midpoint(HANG_SHARE + RESET_SHARE, 1.0) => {
                Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            _ => Fault::Status(StatusCode::BAD_GATEWAY),
        });
        let delay = SHORTEST_WORK + MEAN_WORK.mul_f64(-(1.0 - work).ln());
        Fate { delay: delay.min(MAX_WORK), executes: fault.is_none() || executes < 0.5, fault }
    }

    fn bursting(&self, elapsed: Duration) -> bool {
        let place = Duration::from_nanos(
            u64::try_from(elapsed.as_nanos() % BURST_PERIOD.as_nanos()).unwrap_or(u64::MAX),
        );
        place >= BURST_START && place < BURST_START + self.burst
    }
}

/// How often a burst comes.
pub(super) const BURST_PERIOD: Duration = Duration::from_secs(10);
/// Where in its period it begins: late enough that the first table shows single failures alone.
const BURST_START: Duration = Duration::from_secs(3);
const MAX_BURSTING: f64 = 0.03;
const HANG_SHARE: f64 = 0.03;
const RESET_SHARE: f64 = 0.09;
const SHORTEST_WORK: Duration = Duration::from_millis(2);
const MEAN_WORK: Duration = Duration::from_millis(5);
const MAX_WORK: Duration = Duration::from_millis(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// The fates of requests that come evenly over whole periods.
    fn fates(rate: f64, count: u32, method: &Method) -> Vec<(Duration, Fate)> {
        let mut faults = Faults::new(rate, 1);
        (0..count)
            .map(|number| {
                let elapsed = BURST_PERIOD * 100 * number / count;
                (elapsed, faults.next(elapsed, method))
            })
            .collect()
    }

    #[test]
    fn the_share_that_fails_is_the_one_asked_for() {
        for rate in [0.0, 0.01, 0.12, 0.5, 1.0] {
            let count = 100_000;
            let failed = fates(rate, count, &Method::GET).iter().filter(|(_, f)| f.fault.is_some()).count();
            let share = failed as f64 / f64::from(count);
            let deviation = (rate * (1.0 - rate) / f64::from(count)).sqrt();
            assert!((share - rate).abs() <= 4.0 * deviation, "{rate}: {share}");
        }
    }

    #[test]
    fn in_a_burst_every_answer_fails_and_at_once() {
        let mut bursting = 0;
        for (elapsed, fate) in fates(0.12, 100_000, &Method::GET) {
            let place = elapsed.as_millis() % 10_000;
            if (3_000..3_300).contains(&place) {
                bursting += 1;
                assert!(matches!(fate.fault, Some(Fault::Reset | Fault::Status(_))), "{elapsed:?} {fate:?}");
            }
        }
        assert_eq!(bursting, 3_000);
    }

    #[test]
    fn a_post_never_hangs_and_half_of_the_failing_ones_are_carried_out() {
        let fates = fates(0.5, 20_000, &Method::POST);
        assert!(fates.iter().all(|(_, fate)| fate.fault != Some(Fault::Hang)));
        let failing: Vec<_> = fates.iter().filter(|(_, fate)| fate.fault.is_some()).collect();
        let executed = failing.iter().filter(|(_, fate)| fate.executes).count();
        let share = executed as f64 / failing.len() as f64;
        assert!((share - 0.5).abs() < 0.02, "{share}");
        assert!(fates.iter().all(|(_, fate)| fate.executes || fate.fault.is_some()));
    }

    #[test]
    fn the_same_seed_gives_the_same_fates() {
        assert_eq!(fates(0.12, 1_000, &Method::GET), fates(0.12, 1_000, &Method::GET));
    }
}
