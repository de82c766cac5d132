//! How many retries a cluster may add to its load: each request deposits `ratio`, each retry withdraws one, over a
//! sliding window, with a floor of `min_per_second`.
//!
//! Amounts are whole thousandths, so that a ratio of 0.6 is 0.6 (tower's budget makes 1.0 of it). The window slides
//! in ten steps. The state is ten words that workers share without a lock; the time comes from the caller.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetSettings {
    ratio_milli: u64,
    min_per_second: u32,
    window: Duration,
}

/// Why [`BudgetSettings`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidBudget {
    /// Not a ratio of retries to requests.
    #[error("`ratio` must be between 0.0 and 10.0")]
    Ratio,
    /// Too large to be a floor.
    #[error("`min_per_second` must be at most 100000")]
    MinPerSecond,
    /// Too short to count in, or so long that an outage is forgotten too late.
    #[error("`window` must be between 100ms and 10m")]
    Window,
}

impl BudgetSettings {
    /// Retries per request.
    pub const RATIOS: RangeInclusive<f64> = 0.0..=10.0;

    /// The most retries per second that can always be allowed.
    pub const FLOOR_MAX: u32 = 100_000;

    /// How long a request's deposit may last.
    pub const WINDOWS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(10);

    /// Checks and builds: 0 ≤ `ratio` ≤ 10 (kept to 0.001), `min_per_second` ≤ 100 000, 100 ms ≤ `window` ≤ 10 min.
    pub fn new(ratio: f64, min_per_second: u32, window: Duration) -> Result<Self, InvalidBudget> {
        if !Self::RATIOS.contains(&ratio) {
            return Err(InvalidBudget::Ratio);
        }
        if min_per_second > Self::FLOOR_MAX {
            return Err(InvalidBudget::MinPerSecond);
        }
        if !Self::WINDOWS.contains(&window) {
            return Err(InvalidBudget::Window);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0..=10000")]
        let ratio_milli = (ratio * 1000.0).round() as u64;
        Ok(Self { ratio_milli, min_per_second, window })
    }

    /// Retries per request.
    pub fn ratio(&self) -> f64 {
        self.ratio_milli as f64 / 1000.0
    }

    /// Retries per second that are always allowed.
    pub fn min_per_second(&self) -> u32 {
        self.min_per_second
    }

    /// How long a request's deposit lasts.
    pub fn window(&self) -> Duration {
        self.window
    }
}

impl Default for BudgetSettings {
    /// 0.2 retries per request and 10 per second, over 10 s.
    fn default() -> Self {
        Self { ratio_milli: 200, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// What a retry is likely to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// At least half of such attempts fail. All retries of this kind take at most half of the account, so that a path
    /// that never succeeds leaves something to the others.
    Doubtful,
    /// Most such attempts succeed.
    Good,
}

/// The account of one cluster.
#[derive(Debug)]
pub struct Budget {
    settings: BudgetSettings,
    slots: [AtomicU64; SLOTS],
    /// The doubtful among the retries of `slots`.
    doubtful: [AtomicU64; SLOTS],
}

impl Budget {
    /// An account that holds its floor and nothing else.
    pub fn new(settings: BudgetSettings) -> Self {
        Self { settings, slots: Default::default(), doubtful: Default::default() }
    }

    /// Notes a request. `now` is the time since any fixed moment, the same for all calls.
    pub fn deposit(&self, now: Duration) {
        Self::count(&self.slots, self.tick(now), |slot| slot.requests = (slot.requests + 1).min(COUNT_MAX));
    }

    /// Takes one retry out of the account; false if it does not hold one.
    pub fn withdraw(&self, prospect: Prospect, now: Duration) -> bool {
        let tick = self.tick(now);
        let add = |slot: &mut Slot| slot.retries = (slot.retries + 1).min(COUNT_MAX);
        let take_back = |slot: &mut Slot| slot.retries = slot.retries.saturating_sub(1);
        // Written first and read after: of two workers that race for the last retry at most one sees enough.
        Self::count(&self.slots, tick, add);
        if prospect == Prospect::Doubtful {
            Self::count(&self.doubtful, tick, add);
        }
        let (income, retries) = self.sums_milli(tick);
        let allowed = retries <= income
            && (prospect == Prospect::Good || Self::retries_milli(&self.doubtful, tick) <= income / 2);
        if !allowed {
            Self::count(&self.slots, tick, take_back);
            if prospect == Prospect::Doubtful {
                Self::count(&self.doubtful, tick, take_back);
            }
        }
        allowed
    }

    /// The retries that the account holds.
    pub fn available(&self, now: Duration) -> f64 {
        let (income, retries) = self.sums_milli(self.tick(now));
        income.saturating_sub(retries) as f64 / 1000.0
    }

    /// What came in within the window, and what the retries within it took, in thousandths of a retry.
    fn sums_milli(&self, tick: u64) -> (u64, u64) {
        let requests: u64 = Self::current(&self.slots, tick).map(|slot| slot.requests).sum();
        let window_milli = u64::try_from(self.settings.window.as_millis()).unwrap_or(u64::MAX);
        let floor = u64::from(self.settings.min_per_second) * window_milli;
        (requests * self.settings.ratio_milli + floor, Self::retries_milli(&self.slots, tick))
    }

    fn retries_milli(slots: &[AtomicU64; SLOTS], tick: u64) -> u64 {
        Self::current(slots, tick).map(|slot| slot.retries * 1000).sum()
    }

    /// The slots within the window.
    fn current(slots: &[AtomicU64; SLOTS], tick: u64) -> impl Iterator<Item = Slot> {
        let slots = slots.iter().map(|slot| Slot::unpack(slot.load(Ordering::Relaxed)));
        slots.filter(move |slot| slot.age(tick) < SLOTS as u64)
    }

    fn count(slots: &[AtomicU64; SLOTS], tick: u64, change: impl Fn(&mut Slot)) {
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of ten")]
        let slot = &slots[(tick % SLOTS as u64) as usize];
        slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mut slot = Slot::unpack(word);
            if slot.age(tick) != 0 {
                slot = Slot { tick: tick & TICK_MAX, requests: 0, retries: 0 };
            }
            change(&mut slot);
            Some(slot.pack())
        })
        .expect("the update always gives a value");
    }

    /// Which tenth of a window `now` lies in, from 1, so that an untouched slot (tick 0) is never current.
    fn tick(&self, now: Duration) -> u64 {
        let tenth = self.settings.window.as_nanos() / SLOTS as u128;
        u64::try_from(now.as_nanos() / tenth).unwrap_or(u64::MAX - SLOTS as u64) + SLOTS as u64
    }
}

/// One tenth of the window: 20 bits of tick, 22 bits each of requests and retries.
#[derive(Clone, Copy)]
struct Slot {
    tick: u64,
    requests: u64,
    retries: u64,
}

impl Slot {
    fn unpack(word: u64) -> Self {
        Self { tick: word >> 44, requests: (word >> 22) & COUNT_MAX, retries: word & COUNT_MAX }
    }

    fn pack(self) -> u64 {
        self.tick << 44 | self.requests << 22 | self.retries
    }

    /// Ticks since this slot was current; the tick wraps after 2^20 (12 days of 1 s), long after its counts lapsed.
    fn age(self, tick: u64) -> u64 {
        tick.wrapping_sub(self.tick) & TICK_MAX
    }
}

const SLOTS: usize = 10;
const COUNT_MAX: u64 = (1 << 22) - 1;
const TICK_MAX: u64 = (1 << 20) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(ratio: f64, min_per_second: u32) -> Budget {
        Budget::new(BudgetSettings::new(ratio, min_per_second, Duration::from_secs(10)).unwrap())
    }

    fn withdrawals(budget: &Budget, now: Duration) -> u32 {
        let mut count = 0;
        while budget.withdraw(Prospect::Good, now) {
            count += 1;
        }
        count
    }

    #[test]
    fn without_traffic_the_floor_of_a_window_is_there() {
        assert_eq!(withdrawals(&budget(0.2, 10), Duration::ZERO), 100);
        assert_eq!(withdrawals(&budget(0.2, 0), Duration::ZERO), 0);
    }

    #[test]
    fn a_deposit_lasts_one_window() {
        let budget = budget(1.0, 0);
        budget.deposit(Duration::from_secs(5));
        assert!((budget.available(Duration::from_millis(14_999)) - 1.0).abs() < 1e-9);
        assert!(budget.available(Duration::from_secs(15)) < 1e-9);
    }

    #[test]
    fn a_withdrawal_is_forgotten_after_one_window() {
        let budget = budget(0.0, 1);
        assert_eq!(withdrawals(&budget, Duration::from_secs(100)), 10);
        assert_eq!(withdrawals(&budget, Duration::from_secs(109)), 0);
        assert_eq!(withdrawals(&budget, Duration::from_secs(110)), 10);
    }

    #[test]
    fn a_refused_withdrawal_takes_nothing() {
        let budget = budget(0.5, 0);
        budget.deposit(Duration::ZERO);
        assert!(!budget.withdraw(Prospect::Good, Duration::ZERO));
        budget.deposit(Duration::ZERO);
        assert!(budget.withdraw(Prospect::Good, Duration::ZERO));
    }

    #[test]
    fn doubtful_retries_leave_half_of_the_account_to_the_others() {
        let budget = budget(0.0, 10);
        let mut doubtful = 0;
        while budget.withdraw(Prospect::Doubtful, Duration::ZERO) {
            doubtful += 1;
        }
        assert_eq!((doubtful, withdrawals(&budget, Duration::ZERO)), (50, 50));
        // Where the others have taken all, nothing is kept for doubtful ones.
        assert!(!budget.withdraw(Prospect::Doubtful, Duration::ZERO));
    }

    #[test]
    fn of_threads_that_race_none_overdraws() {
        let budget = budget(0.0, 50);
        let won: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| withdrawals(&budget, Duration::ZERO))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(won <= 500, "{won}");
    }

    proptest! {
        #[test]
        fn the_ratio_is_exact_to_a_thousandth(milli in 0u32..=10_000, requests in 0u32..500) {
            let budget = budget(f64::from(milli) / 1000.0, 0);
            for _ in 0..requests {
                budget.deposit(Duration::from_secs(3));
            }
            prop_assert_eq!(withdrawals(&budget, Duration::from_secs(4)), requests * milli / 1000);
        }

        #[test]
        fn the_balance_is_what_a_plain_list_of_events_gives(
            events in proptest::collection::vec((0u64..40_000, any::<bool>()), 0..200),
        ) {
            let budget = budget(0.25, 2);
            let mut events = events;
            events.sort_unstable();
            let mut kept: Vec<(u64, bool)> = Vec::new();
            for (millis, retry) in events {
                let now = Duration::from_millis(millis);
                if retry {
                    if budget.withdraw(Prospect::Good, now) {
                        kept.push((millis / 1000, true));
                    }
                } else {
                    budget.deposit(now);
                    kept.push((millis / 1000, false));
                }
                let current: Vec<_> = kept.iter().filter(|(tick, _)| millis / 1000 - tick < 10).collect();
                let requests = current.iter().filter(|(_, retry)| !retry).count();
                let retries = current.len() - requests;
                let expected = (20.0 + requests as f64 * 0.25 - retries as f64).max(0.0);
                prop_assert!((budget.available(now) - expected).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn what_cannot_be_a_budget_is_refused() {
        let seconds = Duration::from_secs(10);
        assert_eq!(BudgetSettings::new(-0.1, 1, seconds), Err(InvalidBudget::Ratio));
        assert_eq!(BudgetSettings::new(f64::NAN, 1, seconds), Err(InvalidBudget::Ratio));
        assert_eq!(BudgetSettings::new(0.2, 100_001, seconds), Err(InvalidBudget::MinPerSecond));
        assert_eq!(BudgetSettings::new(0.2, 1, Duration::from_millis(99)), Err(InvalidBudget::Window));
    }
}
