//! How recent attempts went, at a cluster or at one of its endpoints, and what that says about the next one.
//!
//! Two things are kept. The share of successes, an average in which each attempt weighs 1/64 and pushes the older ones
//! back: about the last hundred attempts, whatever time they took. And the failures in a row since the last success, which
//! stay out of the share until a success ends them. A share alone would need dozens of failures to notice that a backend
//! has gone; a row alone would call every backend that fails one answer in five down every few seconds. Together they
//! answer the question that matters: is this row longer than failures which come singly explain?
//!
//! Both fit into one word, with the second of the last attempt, so that workers share them by one atomic operation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A [`Window`] that workers share.
#[derive(Debug)]
pub struct SharedWindow(AtomicU64);

impl SharedWindow {
    /// Takes note of the end of an attempt.
    pub fn note(&self, ending: Ending, now: Duration) {
        let note = |word| {
            let noted = Window::unpack(word).note(ending, now).pack();
            (noted != word).then_some(noted)
        };
        // What need not be written is an `Err` here: most often the attempt succeeded like all before it.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, note);
    }

    /// What it says at `now`.
    pub fn at(&self, now: Duration) -> Recent {
        Window::unpack(self.0.load(Ordering::Relaxed)).at(now)
    }
}

impl Default for SharedWindow {
    fn default() -> Self {
        Self(AtomicU64::new(Window::default().pack()))
    }
}

/// What the shared word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When the last attempt ended, in seconds.
    last: u32,
    /// The share of successes before the present row of failures, of `WHOLE`.
    share: u32,
    /// Failures since the last success, at most `LONGEST_ROW`.
    row: u32,
}

/// How an attempt ended, in the eyes of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By an answer in the cluster's `statuses`, or without any.
    Failure,
    /// By any other answer.
    Success,
}

impl Window {
    /// From its word.
    pub fn unpack(word: u64) -> Self {
        let part = |shift: u32, bits: u32| {
            u32::try_from((word >> shift) & ((1 << bits) - 1)).expect("no part has more than 32 bits")
        };
        Self { last: part(32, 32), share: part(8, 24), row: part(0, 8) }
    }

    /// Its word: 32 bits of time, 24 of share, 8 of row.
    pub fn pack(self) -> u64 {
        u64::from(self.last) << 32 | u64::from(self.share) << 8 | u64::from(self.row)
    }

    /// The window after one more attempt. `now` is the time since any fixed moment, the same for all calls.
    ///
    /// While all succeed it changes once a second, so that workers seldom write to what they share.
    #[must_use]
    pub fn note(self, ending: Ending, now: Duration) -> Self {
        let (second, silence) = self.silence(now);
        let known = if silence > MEMORY { Self::default() } else { self };
        // Workers that report at once may come out of order: time only goes forward.
        let last = if silence > 0 { second } else { self.last };
        match ending {
            Ending::Failure => Self { last, row: (known.row + 1).min(LONGEST_ROW), ..known },
            Ending::Success => {
                let share = (0..known.row).fold(known.share, |share, _| share - (share >> WEIGHT));
                Self { last, share: share + ((WHOLE - share) >> WEIGHT), row: 0 }
            }
        }
    }

    /// What it says at `now`. What is older than ten seconds of silence is forgotten.
    pub fn at(self, now: Duration) -> Recent {
        if self.silence(now).1 > MEMORY {
            return Recent::WELL;
        }
        Recent { share: f64::from(self.share) / f64::from(WHOLE), row: self.row }
    }

    /// The second that `now` lies in, and how many have passed since the last attempt.
    fn silence(self, now: Duration) -> (u32, i32) {
        #[expect(clippy::cast_possible_truncation, reason = "it wraps after 136 years")]
        let second = now.as_secs() as u32;
        (second, second.wrapping_sub(self.last).cast_signed())
    }
}

impl Default for Window {
    /// Nothing is known, which counts as all well. A backend that works is the common case, and to be wrong costs
    /// little: in a healthy cluster two failures in a row already are a surprise.
    fn default() -> Self {
        Self { last: 0, share: WHOLE, row: 0 }
    }
}

/// How a cluster's recent attempts went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recent {
    /// The share of successes, in [0, 1], before the present row of failures.
    pub share: f64,
    /// Failures since the last success, over all exchanges.
    pub row: u32,
}

impl Recent {
    /// Nothing fails, or nothing is known.
    pub const WELL: Self = Self { share: 1.0, row: 0 };

    /// Everything fails.
    pub const FAILING: Self = Self { share: 0.0, row: LONGEST_ROW };

    /// The chance, in [0, 1], that the next attempt of an exchange succeeds whose own last `failures` attempts have
    /// failed.
    ///
    /// Either the cluster is as it was, and `n` failures in a row had the chance (1 − share)^n, or it has broken down,
    /// which begins with one attempt in ten thousand and explains any row. Bayes's rule weighs the two. An exchange's own
    /// failures count as a row even if others succeeded in between: it may be its part of the backend that is broken.
    pub fn success(self, failures: u32) -> f64 {
        let row = self.row.max(failures).min(LONGEST_ROW);
        let share = self.share.clamp(0.0, 1.0);
        // Even the healthiest backend fails now and then.
        let single = (1.0 - share).max(LEAST_FAILURE).powi(row.cast_signed());
        share * single / (single + if row == 0 { 0.0 } else { ONSET })
    }

    /// Whether an attempt had better go where it went as it did at the `best`: by more than chance moves the shares of two
    /// that are alike.
    pub fn is_clearly_worse_than(self, best: Self) -> bool {
        self.success(0) + CLEARLY < best.success(0)
    }

    /// The state in which an exchange with so many failures has the best prospects, for `stent explain`. It is not
    /// [`Recent::WELL`]: where nothing ever failed, two failures in a row are an alarm.
    pub fn calmest(failures: u32) -> Self {
        let shares = (0..=100).map(|percent| Self { share: f64::from(percent) / 100.0, row: 0 });
        shares
            .max_by(|one, other| one.success(failures).total_cmp(&other.success(failures)))
            .unwrap_or(Self::WELL)
    }
}

/// All attempts succeed.
const WHOLE: u32 = (1 << 24) - 1;
/// One attempt weighs 1/64: heavy enough to follow a backend within a second at 100 requests per second, light enough
/// that one which fails a fifth of its answers is never far from 0.8.
const WEIGHT: u32 = 6;
/// The longest row that is told apart; it takes two thirds off the share, so that an outage, however long, is made good by
/// as many successes.
const LONGEST_ROW: u32 = 63;
/// Seconds of silence after which nothing is known.
const MEMORY: i32 = 10;
/// The share of attempts that fail singly in a cluster that is well.
const LEAST_FAILURE: f64 = 0.005;
/// By how much the chances of two endpoints differ that are not alike.
const CLEARLY: f64 = 0.05;
/// The share of attempts with which an outage begins.
const ONSET: f64 = 0.0001;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(100);

    fn after(endings: impl IntoIterator<Item = Ending>) -> Window {
        endings.into_iter().fold(Window::default(), |window, ending| window.note(ending, NOW))
    }

    /// So many attempts of which each fails with this chance, and a success after them.
    fn flaky(rate: f64, attempts: u32, seed: u64) -> Window {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ending = |_| if rng.f64() < rate { Ending::Failure } else { Ending::Success };
        after((0..attempts).map(ending).chain([Ending::Success]))
    }

    fn failures(window: Window, count: u32) -> Recent {
        (0..count).fold(window, |window, _| window.note(Ending::Failure, NOW)).at(NOW)
    }

    #[test]
    fn while_all_succeed_the_word_changes_once_a_second() {
        let window = after([Ending::Success]);
        assert_eq!(window.note(Ending::Success, NOW + Duration::from_millis(999)), window);
        assert_ne!(window.note(Ending::Success, NOW + Duration::from_secs(1)), window);
        assert_eq!(window.at(NOW), Recent::WELL);
    }

    #[test]
    fn the_share_follows_what_a_flaky_cluster_does() {
        for rate in [0.0, 0.05, 0.2, 0.5, 0.8] {
            let shares: Vec<f64> = (0..200).map(|seed| flaky(rate, 400, seed).at(NOW).share).collect();
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            let deviation =
                shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / shares.len() as f64;
            // The success at the end of each adds 1/64 of what is missing.
            assert!((mean - (1.0 - rate)).abs() < 0.02, "{rate}: {mean}");
            assert!(deviation.sqrt() < 0.06, "{rate}: {}", deviation.sqrt());
        }
    }

    #[test]
    fn two_failures_in_a_row_alarm_a_cluster_that_never_fails_and_five_one_that_fails_a_fifth() {
        let well = after([Ending::Success; 200]);
        assert!(failures(well, 1).success(1) > 0.9);
        assert!(failures(well, 2).success(1) < 0.5);
        let flaky = Window { share: WHOLE / 5 * 4, ..well };
        assert!(failures(flaky, 1).success(1) > 0.79);
        assert!(failures(flaky, 3).success(1) > 0.78);
        assert!(failures(flaky, 5).success(1) < 0.65);
        assert!(failures(flaky, 6).success(1) < 0.4);
    }

    #[test]
    fn a_failure_on_its_own_makes_nothing_clearly_worse_and_two_in_a_row_do() {
        let well = after([Ending::Success; 200]);
        assert!(!failures(well, 1).is_clearly_worse_than(well.at(NOW)));
        assert!(failures(well, 2).is_clearly_worse_than(well.at(NOW)));
        assert!(flaky(0.5, 20, 1).at(NOW).is_clearly_worse_than(well.at(NOW)));
        assert!(!well.at(NOW).is_clearly_worse_than(failures(well, 9)));
    }

    #[test]
    fn an_exchanges_own_failures_alarm_it_alone() {
        assert!(Recent::WELL.success(2) < 0.5);
        assert!(Recent::WELL.success(1) > 0.9);
    }

    #[test]
    fn an_outage_however_long_is_made_good_by_a_hundred_successes() {
        let outage = (0..100_000).map(|_| Ending::Failure);
        let window = after(outage.chain([Ending::Success]));
        assert!(window.at(NOW).share < 0.4);
        let healed = (0..100).fold(window, |window, _| window.note(Ending::Success, NOW));
        assert!(healed.at(NOW).share > 0.85);
    }

    #[test]
    fn ten_seconds_of_silence_are_forgotten_and_a_report_out_of_order_forgets_nothing() {
        let window = after([Ending::Failure; 9]);
        assert_eq!(window.at(NOW + Duration::from_secs(10)).row, 9);
        assert_eq!(window.at(NOW + Duration::from_secs(11)), Recent::WELL);
        assert_eq!(window.note(Ending::Failure, NOW + Duration::from_secs(11)).row, 1);
        let late = window.note(Ending::Failure, NOW.checked_sub(Duration::from_secs(1)).unwrap());
        assert_eq!((late.row, late.last), (10, window.last));
    }

    #[test]
    fn the_calmest_state_has_room_for_failures_that_come_singly() {
        assert_eq!(Recent::calmest(0), Recent::WELL);
        assert!((0.9..1.0).contains(&Recent::calmest(2).share));
        assert!((0.75..0.95).contains(&Recent::calmest(4).share));
    }

    proptest! {
        #[test]
        fn a_window_survives_its_word(last in 0..=u32::MAX, share in 0..=WHOLE, row in 0..=LONGEST_ROW) {
            let window = Window { last, share, row };
            prop_assert_eq!(Window::unpack(window.pack()), window);
        }

        #[test]
        fn any_sequence_keeps_the_bounds(
            word in any::<u64>(),
            events in proptest::collection::vec((any::<bool>(), 0u64..=u64::MAX), 0..200),
        ) {
            let mut window = Window::unpack(word);
            for (fails, second) in events {
                let now = Duration::from_secs(second);
                window = window.note(if fails { Ending::Failure } else { Ending::Success }, now);
                prop_assert!(window.share <= WHOLE && window.row <= LONGEST_ROW);
                prop_assert!((0.0..=1.0).contains(&window.at(now).success(0)));
            }
        }

        #[test]
        fn each_further_failure_lowers_the_prospects(share in 0.0f64..=1.0, row in 0u32..70, own in 0u32..70) {
            let success = |row, own| Recent { share, row }.success(own);
            prop_assert!(success(row + 1, own) <= success(row, own));
            prop_assert!(success(row, own + 1) <= success(row, own));
            prop_assert!(success(row, own) <= share);
        }
    }
}
