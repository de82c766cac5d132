//! What all workers see of a cluster's answers between two looks of its limiter: counted with a few relaxed additions.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::LoadSignal;
use crate::policy::admission::limiter::{Pressure, Window};

/// The counts of the current window. Times are microseconds since the gate was made.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Answered in the upper half, failed in the lower one.
    ends: AtomicU64,
    /// The time that the answered ones took, together.
    time: AtomicU64,
    /// The time that each of the latest of them took.
    latest: [AtomicU32; LATEST],
    /// When the window began.
    began: AtomicU64,
    /// When it is worth a look.
    look: AtomicU64,
    /// The mean time of the window before.
    usual: AtomicU64,
}

/// What a window was made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    ends: u64,
    time: u64,
}

impl Seen {
    /// Counts an attempt, and says whether it may be time for a look.
    pub(super) fn note(&self, told: LoadSignal, took: Duration, now: Duration) -> bool {
        let one = match told {
            LoadSignal::Answered => 1 << 32,
            LoadSignal::Failed => 1,
            LoadSignal::Nothing => return false,
        };
        let (answered, failed) = split(self.ends.fetch_add(one, Ordering::Relaxed));
        if told == LoadSignal::Answered {
            let took = micros(took);
            self.time.fetch_add(took, Ordering::Relaxed);
            let place = answered as usize % LATEST;
            self.latest[place].store(u32::try_from(took).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
        answered.saturating_add(failed) >= LEAST && micros(now) >= self.look.load(Ordering::Relaxed)
    }

    /// What has been seen since the window began, of the gate itself nothing; and what [`Seen::begin`] takes for it.
    pub(super) fn window(&self, now: Duration) -> (Window, Counted) {
        let counted =
            Counted { ends: self.ends.load(Ordering::Relaxed), time: self.time.load(Ordering::Relaxed) };
        let (answered, failed) = split(counted.ends);
        let mut latest = [0; LATEST];
        let count = (answered as usize).min(LATEST);
        for (copy, took) in latest.iter_mut().zip(&self.latest[..count]) {
            *copy = took.load(Ordering::Relaxed);
        }
        let latest = &mut latest[..count];
        let median = if latest.is_empty() { 0 } else { *latest.select_nth_unstable(count / 2).1 };
        let window = Window {
            answered,
            failed,
            latency: Duration::from_micros(counted.time) / answered.max(1),
            median: Duration::from_micros(median.into()),
            length: now.saturating_sub(Duration::from_micros(self.began.load(Ordering::Relaxed))),
            in_flight: 0,
            lingering: 0,
            pressure: Pressure::None,
        };
        (window, counted)
    }

    /// Begins the next window. What others count meanwhile belongs to it.
    pub(super) fn begin(&self, counted: Counted, now: Duration) {
        let answered = split(counted.ends).0;
        if answered > 0 {
            self.usual.store(counted.time / u64::from(answered), Ordering::Relaxed);
        }
        self.ends.fetch_sub(counted.ends, Ordering::Relaxed);
        self.time.fetch_sub(counted.time, Ordering::Relaxed);
        self.began.store(micros(now), Ordering::Relaxed);
        self.look.store(0, Ordering::Relaxed);
    }

    /// There is not enough yet.
    pub(super) fn postpone(&self, now: Duration) {
        self.look.store(micros(now + PAUSE), Ordering::Relaxed);
    }

    /// The time that an answer took of late.
    pub(super) fn usual_latency(&self) -> Duration {
        Duration::from_micros(self.usual.load(Ordering::Relaxed))
    }
}

fn split(ends: u64) -> (u32, u32) {
    let part = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (part(ends >> 32), part(ends))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Answers that the median is of.
const LATEST: usize = 32;

/// Fewer than this are never enough for a look.
const LEAST: u32 = 15;

/// How soon to look again.
const PAUSE: Duration = Duration::from_millis(1);
