//! What is known of one key, in one word that workers share.

use std::time::Duration;

/// How often a key's attempts fail, and how many of the last in a row did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Tells keys of one set apart.
    pub(super) tag: u16,
    /// Attempts that it knows, at most `FULL`; 0 = an empty word.
    pub(super) attempts: u8,
    /// The share that fails, of `WHOLE`.
    share: u16,
    /// Learned failures since the last success, at most `MAX_ROW`.
    pub(super) row: u8,
    /// How many exchanges these came from, at most 3.
    exchanges: u8,
    /// The last of them, in 6 bits.
    last: u8,
    /// When it last learned, in ticks.
    tick: u16,
}

/// How an attempt ended, in the eyes of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a failure, in this exchange.
    Failure(u32),
    /// By any other answer.
    Success,
}

impl Bucket {
    /// A bucket of which only what it is born with is known.
    pub(super) fn born(tag: u16, share: f64, now: Duration) -> Self {
        Self { tag, attempts: 0, share: part(share), row: 0, exchanges: 0, last: 0, tick: tick(now) }
    }

    pub(super) fn unpack(word: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "each part is cut to its bits")]
        let bits = |shift: u32, count: u32| (word >> shift) as u16 & ((1u32 << count) - 1) as u16;
        #[expect(clippy::cast_possible_truncation, reason = "no more than 7 bits are asked for")]
        let byte = |shift, count| bits(shift, count) as u8;
        Self {
            tag: bits(48, 16),
            attempts: byte(41, 7),
            share: bits(27, 14),
            row: byte(22, 5),
            exchanges: byte(20, 2),
            last: byte(14, 6),
            tick: bits(0, 14),
        }
    }

    /// 16 bits of tag, 7 of attempts, 14 of share, 5 of row, 2 of exchanges, 6 of the last of these, 14 of tick.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.tag) << 48
            | u64::from(self.attempts) << 41
            | u64::from(self.share) << 27
            | u64::from(self.row) << 22
            | u64::from(self.exchanges) << 20
            | u64::from(self.last) << 14
            | u64::from(self.tick)
    }

    /// The share of attempts that fail.
    pub(super) fn share(self) -> f64 {
        f64::from(self.share) / f64::from(WHOLE)
    }

    /// The least share that the present row speaks for.
    pub(super) fn row_share(self) -> f64 {
        if self.row < 2 { 0.0 } else { 1.0 - 1.0 / f64::from(self.row) }
    }

    /// Whether the last eight attempts, of at least three exchanges, have all failed.
    pub(super) fn is_hopeless(self) -> bool {
        self.row >= HOPELESS_ROW && self.exchanges >= HOPELESS_EXCHANGES
    }

    /// Whether nothing has been heard of it for ten minutes.
    pub(super) fn is_forgotten(self, now: Duration) -> bool {
        let age = tick(now).wrapping_sub(self.tick) & TICKS;
        // Two workers read the clock at times of their own: one may be a tick ahead of the other.
        (MEMORY + 1..TICKS).contains(&age)
    }

    /// The bucket after one more attempt. What it was born with counts as `prior` attempts, and none of the last 64
    /// weighs less than an older one.
    #[must_use]
    pub(super) fn note(self, ending: Ending, prior: u8, now: Duration) -> Self {
        let attempts = (self.attempts + 1).min(FULL);
        let target = if ending == Ending::Success { 0 } else { i32::from(WHOLE) };
        let weight = i32::from(attempts.saturating_add(prior).min(FULL));
        let share = i32::from(self.share);
        // Rounded, so that a share comes within a 500th of what it tends to.
        let step = (target - share + (target - share).signum() * weight / 2) / weight;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1")]
        let known = Self { attempts, share: (share + step) as u16, tick: tick(now), ..self };
        match ending {
            Ending::Success => Self { row: 0, exchanges: 0, ..known },
            Ending::Failure(exchange) => {
                let last = (exchange & 63) as u8;
                let is_other = self.row == 0 || last != self.last;
                Self {
                    row: (self.row + 1).min(MAX_ROW),
                    exchanges: (self.exchanges + u8::from(is_other)).min(HOPELESS_EXCHANGES),
                    last,
                    ..known
                }
            }
        }
    }
}

/// The word that one more success leaves as it is, without its tag: full of attempts that nearly all succeeded, the last
/// of them in the present tick. Most words of a cluster that works look so, and need not be taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled(u64);

impl Settled {
    pub(super) fn at(now: Duration) -> Self {
        let bucket =
            Bucket { tag: 0, attempts: FULL, share: 0, row: 0, exchanges: 0, last: 0, tick: tick(now) };
        Self(bucket.pack())
    }

    /// Whether `word` is the settled one of the key with this tag.
    pub(super) fn is(self, word: u64, tag: u16) -> bool {
        word & !UNSETTLING == self.0 | u64::from(tag) << 48
    }
}

fn part(share: f64) -> u16 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1")]
    let part = (share.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u16;
    part
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "it wraps after 18 hours: a key silent for just as long counts as known, with an old share"
)]
fn tick(now: Duration) -> u16 {
    (now.as_secs() / TICK) as u16 & TICKS
}

/// All attempts fail.
const WHOLE: u16 = (1 << 14) - 1;
/// As many attempts make up a share.
const FULL: u8 = 64;
/// The bits of a word that may be anything in a settled one: of the share what is rounded away, and whose failure was last.
const UNSETTLING: u64 = 31 << 27 | 63 << 14;
/// The longest row that is told apart. The share speaks for longer ones.
const MAX_ROW: u8 = 31;
/// Failures in a row after which a retry is futile, and the exchanges that they have to come from: one caller with one
/// unlucky request proves nothing.
const HOPELESS_ROW: u8 = 8;
const HOPELESS_EXCHANGES: u8 = 3;
/// Seconds in a tick.
const TICK: u64 = 4;
const TICKS: u16 = (1 << 14) - 1;
/// Ticks of silence after which a key is forgotten: ten minutes.
const MEMORY: u16 = 150;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn born(share: f64) -> Bucket {
        Bucket::born(9, share, NOW)
    }

    fn after(bucket: Bucket, endings: impl IntoIterator<Item = Ending>) -> Bucket {
        endings.into_iter().fold(bucket, |bucket, ending| bucket.note(ending, 8, NOW))
    }

    #[test]
    fn what_it_is_born_with_counts_as_eight_attempts() {
        let one = after(born(0.0), [Ending::Failure(1)]);
        assert!((one.share() - 1.0 / 9.0).abs() < 0.001, "{}", one.share());
        let fails = after(born(0.009), (0..400).map(Ending::Failure));
        assert!(fails.share() > 0.99, "{}", fails.share());
        let works = after(fails, [Ending::Success; 600]);
        assert!(works.share() < 0.009, "{}", works.share());
    }

    #[test]
    fn a_row_speaks_before_the_share_does_and_one_success_ends_it() {
        let two = after(born(0.009), [Ending::Failure(1), Ending::Failure(2)]);
        assert!((two.row_share() - 0.5).abs() < 1e-9);
        assert!(after(two, [Ending::Success]).row_share() < 1e-9);
    }

    #[test]
    fn eight_failures_of_three_exchanges_make_it_hopeless() {
        assert!(!after(born(0.5), (0..7).map(Ending::Failure)).is_hopeless());
        assert!(after(born(0.5), (0..8).map(Ending::Failure)).is_hopeless());
        let of_two = (0..31).map(|number| Ending::Failure(u32::from(number >= 15)));
        assert!(!after(born(0.5), of_two).is_hopeless(), "two unlucky requests prove nothing");
        assert!(!after(born(0.5), (0..8).map(Ending::Failure).chain([Ending::Success])).is_hopeless());
    }

    #[test]
    fn ten_minutes_of_silence_are_forgotten() {
        let bucket = after(born(0.5), [Ending::Success]);
        assert!(!bucket.is_forgotten(NOW + Duration::from_mins(10)));
        assert!(bucket.is_forgotten(NOW + Duration::from_secs(608)));
    }

    #[test]
    fn a_bucket_that_learned_a_tick_ahead_of_this_workers_clock_is_not_forgotten() {
        assert!(
            !after(born(0.5), [Ending::Success]).is_forgotten(NOW.saturating_sub(Duration::from_secs(TICK)))
        );
    }

    proptest! {
        #[test]
        fn a_bucket_survives_its_word(word in any::<u64>()) {
            prop_assert_eq!(Bucket::unpack(word).pack(), word);
        }

        #[test]
        fn a_word_is_settled_exactly_if_a_success_leaves_it_as_it_is(
            word in any::<u64>(),
            near in (0u64..64, 0u64..64, 62u64..67),
            seconds in 0u64..200_000,
            prior in 0u8..=64,
        ) {
            let now = Duration::from_secs(seconds);
            // Chance alone never makes a settled word: this one nearly is.
            let (share, last, attempts) = near;
            let like = word & 0xffff << 48 | attempts << 41 | share << 27 | last << 14 | u64::from(tick(now));
            for word in [word, like] {
                let bucket = Bucket::unpack(word);
                let is_same = bucket.note(Ending::Success, prior, now).pack() == word;
                prop_assert_eq!(Settled::at(now).is(word, bucket.tag), is_same);
            }
        }

        #[test]
        fn any_sequence_keeps_the_bounds(
            share in 0.0f64..=1.0,
            prior in 0u8..=64,
            endings in proptest::collection::vec((any::<bool>(), any::<u32>()), 0..300),
        ) {
            let mut bucket = born(share);
            for (fails, exchange) in endings {
                let ending = if fails { Ending::Failure(exchange) } else { Ending::Success };
                let next = bucket.note(ending, prior, NOW);
                let moves_on =
                    if fails { next.share >= bucket.share } else { next.share <= bucket.share };
                prop_assert!(moves_on);
                prop_assert!(next.share <= WHOLE && next.attempts <= FULL && next.row <= MAX_ROW);
                prop_assert_eq!(Bucket::unpack(next.pack()), next);
                bucket = next;
            }
        }
    }
}
