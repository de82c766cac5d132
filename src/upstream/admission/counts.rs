//! How many attempts are in flight, and how many wait for one to end: counted over all workers, without a lock.

use std::sync::atomic::Ordering;

// From the parent, so that the loom model can bring an atomic of its own.
use super::AtomicU32;

/// The counters.
///
/// No lost wake-up: a joiner raises `waiting`, then reads `in_flight`; a leaver lowers `in_flight`, then reads `waiting`.
/// Under `SeqCst` one of them sees the other's write.
#[derive(Debug)]
pub(super) struct Counts {
    /// How many attempts may be in flight.
    pub(super) limit: AtomicU32,
    /// How many are. Only [`Counts::take_over_limit`] raises it over `limit`; it may be above one that has been lowered.
    in_flight: AtomicU32,
    /// The length of the queue, and the callers that are about to join it.
    pub(super) waiting: AtomicU32,
}

impl Counts {
    /// Nothing is in flight, and nobody waits.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), in_flight: AtomicU32::new(0), waiting: AtomicU32::new(0) }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes a place in flight, if there is one and nobody waits for it.
    pub(super) fn try_take(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.take()
    }

    /// Takes a place in flight, if there is one.
    pub(super) fn take(&self) -> bool {
        let limit = self.limit();
        let more = |in_flight| (in_flight < limit).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Takes a place in flight, whatever the limit.
    pub(super) fn take_over_limit(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives a place in flight back. If it is true, somebody may wait for it: the caller lets the next through.
    #[must_use]
    pub(super) fn give_back(&self) -> bool {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Counts a caller that joins the queue, before it looks for a place in flight for the last time.
    pub(super) fn join(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a caller that left the queue, or did not join it.
    pub(super) fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
