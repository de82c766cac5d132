//! How long a route's backend takes to answer, learned from attempts of which some were not let finish.
//!
//! The times are kept in a log-linear histogram (as in Tene's `HdrHistogram`, and in Hartmann and Schlossnagle's
//! Circllhist, 2020): 32 buckets for each doubling, so that a time is known to 1/32 of itself. What was cancelled, because
//! a hedge won or the caller left, took at least so long. To leave such attempts out would make the slow ones vanish:
//! hedges would come earlier and earlier, until every request is sent twice. To count them as answers would make what is
//! slower than a hedge seem as fast as one. So they are what statistics calls censored, and the percentile is that of the
//! product-limit estimator (Kaplan and Meier, 1958).
//!
//! Old times fade. What counts is the last one to two hundred for p95, five times as many for p99 and half as many for
//! p90, or those of the last second or two where more come: few, so that a bad minute of the backend is soon forgotten.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::policy::hedge::Percentile;

/// What an attempt told about how long an answer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The head of a good one came after so long.
    Answer(Duration),
    /// None had come after so long, when the attempt failed or was given up.
    NoneWithin(Duration),
}

/// What is known of a route's answers, shared by workers.
#[derive(Debug)]
pub struct Latencies {
    percentile: Percentile,
    answers: [AtomicU32; BUCKETS],
    others: [AtomicU32; BUCKETS],
    /// Attempts noted; it wraps.
    noted: AtomicU32,
    /// The percentile, in microseconds; 0 while too little is known.
    delay: AtomicU64,
    /// When what was noted last faded, in milliseconds.
    faded: AtomicU64,
}

impl Latencies {
    /// Nothing is known yet.
    pub fn new(percentile: Percentile) -> Self {
        Self {
            percentile,
            answers: [const { AtomicU32::new(0) }; BUCKETS],
            others: [const { AtomicU32::new(0) }; BUCKETS],
            noted: AtomicU32::new(0),
            delay: AtomicU64::new(0),
            faded: AtomicU64::new(0),
        }
    }

    /// The percentile, at most 1/32 too high, at least 1 ms and at most 65.5 s; none until [`Percentile::least_seen`]
    /// attempts were noted. Where a smaller share is ever answered, the longest time that an answer took.
    pub fn delay(&self) -> Option<Duration> {
        let micros = self.delay.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Notes an attempt; true if the percentile was looked at again, which is for one in twenty.
    pub fn note(&self, seen: Seen, now: Duration) -> bool {
        let count = match seen {
            Seen::Answer(after) => &self.answers[bucket(after)],
            Seen::NoneWithin(time) => &self.others[bucket(time)],
        };
        count.fetch_add(1, Ordering::Relaxed);
        let is_due = (self.noted.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(PERIOD);
        if is_due {
            self.look_again(now);
        }
        is_due
    }

    fn look_again(&self, now: Duration) {
        let load = |count: &AtomicU32| count.load(Ordering::Relaxed);
        let (answers, others) = (self.answers.each_ref().map(load), self.others.each_ref().map(load));
        let total = answers.iter().chain(&others).map(|count| u64::from(*count)).sum();
        let least = u64::from(self.percentile.least_seen());
        let share = f64::from(self.percentile.percent()) / 100.0;
        let place = quantile(&answers, &others, total, share).filter(|_| total >= least);
        self.delay.store(place.map_or(0, upper_edge), Ordering::Relaxed);

        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let faded = self.faded.load(Ordering::Relaxed);
        let is_due = total >= 2 * least && now.saturating_sub(faded) >= LEAST_FADE;
        // Of several workers one does it.
        let takes_it = || self.faded.compare_exchange(faded, now, Ordering::Relaxed, Ordering::Relaxed);
        if is_due && takes_it().is_ok() {
            fade(&self.answers);
            fade(&self.others);
        }
    }
}

/// Takes half of every count away. What halving leaves over goes to the next bucket: rounded away, the thin tail would
/// be lost, and it is the tail that is looked for.
fn fade(counts: &[AtomicU32]) {
    let mut over = 0;
    for count in counts {
        let whole = count.load(Ordering::Relaxed);
        let half = whole.midpoint(over);
        over = (whole ^ over) & 1;
        // Others add meanwhile. None takes away for as long as it takes to get here again.
        let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            Some((count + half).saturating_sub(whole))
        });
    }
}

/// The bucket in which the product-limit estimate of the answered share reaches `share`, or else the last with an answer.
fn quantile(answers: &[u32], others: &[u32], total: u64, share: f64) -> Option<usize> {
    let mut last = None;
    let (mut left, mut unanswered) = (total, 1.0);
    for (place, (answers, others)) in answers.iter().zip(others).enumerate() {
        if *answers > 0 {
            unanswered *= 1.0 - f64::from(*answers) / left as f64;
            last = Some(place);
            if unanswered <= 1.0 - share + ROUNDING {
                break;
            }
        }
        left = left.saturating_sub(u64::from(*answers) + u64::from(*others));
    }
    last
}

/// Bucket 0 is what takes less than a millisecond; those of each doubling follow.
fn bucket(time: Duration) -> usize {
    // In parts of a millisecond.
    let steps = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).saturating_mul(STEPS) / 1000;
    let Some(doubling) = (steps / STEPS).checked_ilog2() else { return 0 };
    let step = (steps >> doubling) - STEPS;
    let place = 1 + u64::from(doubling) * STEPS + step;
    usize::try_from(place).map_or(BUCKETS - 1, |place| place.min(BUCKETS - 1))
}

/// Where a bucket ends, in microseconds.
fn upper_edge(bucket: usize) -> u64 {
    let Some(place) = bucket.checked_sub(1) else { return 1000 };
    let (doubling, step) = (place as u64 / STEPS, place as u64 % STEPS);
    (((STEPS + step + 1) << doubling) * 1000).div_ceil(STEPS)
}

/// Buckets for each doubling, of which there are 16.
const STEPS: u64 = 32;

/// From 1 ms to 65.5 s, and what is less.
const BUCKETS: usize = 1 + 16 * 32;

/// How many attempts there are from one look at the percentile to the next.
const PERIOD: u32 = 20;

/// Nothing is forgotten sooner than after so many milliseconds, lest one bad moment is all that is remembered.
const LEAST_FADE: u64 = 1000;

/// What products of quotients may be off by.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests;
