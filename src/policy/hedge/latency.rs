//! How long a route's backend takes to answer, learned from attempts of which some were not let finish.
//!
//! Two windows of times count, the one that fills and the one before. Each is a log-linear histogram (as in Tene's
//! `HdrHistogram`): 32 buckets for each doubling, so that a time is known to 1/32 of itself. For p95 the two hold the last
//! one to two hundred attempts, for p99 five times as many and for p90 half as many, or those of the last second or two
//! where more come: few, so that a bad minute of the backend is soon forgotten.
//!
//! An attempt that was cancelled, because a hedge won or the caller left, counts as long as it ran. It outlasted the delay,
//! so it stays above the percentile, where its answer would have been: hedges do not come earlier and earlier, until every
//! request is sent twice. Nor do they come later and later where more hang than the percentile leaves: the delay is at most
//! the longest time that an answer took. A failure before the delay says nothing about how long an answer takes.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
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
    windows: [Window; 2],
    /// Which of the windows fills.
    filling: AtomicUsize,
    /// Attempts noted; it wraps.
    noted: AtomicU32,
    /// The percentile, in microseconds; 0 while too little is known.
    delay: AtomicU64,
    /// When the window that fills began, in milliseconds.
    began: AtomicU64,
}

/// The times of some attempts.
#[derive(Debug)]
struct Window {
    counts: [AtomicU32; BUCKETS],
    /// The end of the last bucket with an answer, in microseconds; 0 without one.
    longest_answer: AtomicU64,
}

impl Latencies {
    /// Nothing is known yet.
    pub fn new(percentile: Percentile) -> Self {
        Self {
            percentile,
            windows: [Window::new(), Window::new()],
            filling: AtomicUsize::new(0),
            noted: AtomicU32::new(0),
            delay: AtomicU64::new(0),
            began: AtomicU64::new(0),
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
        let window = &self.windows[self.filling.load(Ordering::Relaxed)];
        let place = match (seen, self.delay()) {
            (Seen::Answer(after), _) => {
                let place = bucket(after);
                window.longest_answer.fetch_max(upper_edge(place), Ordering::Relaxed);
                place
            }
            (Seen::NoneWithin(time), Some(delay)) if time < delay => return false,
            (Seen::NoneWithin(time), Some(_)) => bucket(time),
            // Nobody knows yet what is slow: hedges had better come late than early.
            (Seen::NoneWithin(_), None) => BUCKETS - 1,
        };
        window.counts[place].fetch_add(1, Ordering::Relaxed);
        let is_due = (self.noted.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(PERIOD);
        if is_due {
            self.look_again(now);
        }
        is_due
    }

    fn look_again(&self, now: Duration) {
        let least = u64::from(self.percentile.least_seen());
        let total = self.windows.iter().map(Window::total).sum();
        let delay = if total < least { 0 } else { self.quantile(total) };
        self.delay.store(delay, Ordering::Relaxed);

        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let began = self.began.load(Ordering::Relaxed);
        let filling = self.filling.load(Ordering::Relaxed);
        let is_full = self.windows[filling].total() >= least && now.saturating_sub(began) >= LEAST_LENGTH;
        // Of several workers one does it.
        let takes_it = || self.began.compare_exchange(began, now, Ordering::Relaxed, Ordering::Relaxed);
        if is_full && takes_it().is_ok() {
            self.windows[1 - filling].clear();
            self.filling.store(1 - filling, Ordering::Relaxed);
        }
    }

    /// The end of the bucket in which the percentile of `total` times is, or of the last with an answer; 0 without one.
    fn quantile(&self, total: u64) -> u64 {
        let rank = (total * u64::from(self.percentile.percent())).div_ceil(100);
        let [one, other] = &self.windows;
        let mut seen = 0;
        let place = one.counts.iter().zip(&other.counts).position(|(one, other)| {
            seen += load(one) + load(other);
            seen >= rank
        });
        let longest =
            one.longest_answer.load(Ordering::Relaxed).max(other.longest_answer.load(Ordering::Relaxed));
        upper_edge(place.unwrap_or(BUCKETS - 1)).min(longest)
    }
}

impl Window {
    fn new() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS], longest_answer: AtomicU64::new(0) }
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(load).sum()
    }

    fn clear(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.longest_answer.store(0, Ordering::Relaxed);
    }
}

fn load(count: &AtomicU32) -> u64 {
    u64::from(count.load(Ordering::Relaxed))
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

/// A window is at least so many milliseconds long, lest one bad moment is all that is remembered.
const LEAST_LENGTH: u64 = 1000;

#[cfg(test)]
mod tests;
