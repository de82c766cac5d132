//! The connections to one endpoint, counted over all workers: how many there may be, which attempts wait for one, and what
//! they carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How many connections there are, and who wants one.
#[derive(Debug)]
pub(in crate::upstream) struct Connections {
    /// One permit for each that `max_connections` still allows.
    slots: Arc<Semaphore>,
    /// Told when an attempt finds no slot: workers close idle connections to give theirs back.
    wanted: Notify,
    /// Attempts that wait for a slot.
    waiting: AtomicUsize,
    /// Open connections.
    open: AtomicUsize,
    /// Those of them that speak HTTP/2.
    shared: AtomicUsize,
    /// Those of the shared ones that carry at least one exchange.
    busy: AtomicUsize,
    /// Exchanges that the shared ones carry.
    streams: AtomicUsize,
}

impl Connections {
    /// None yet, and at most so many.
    pub(super) fn new(max: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(max)),
            wanted: Notify::new(),
            waiting: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            shared: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
        }
    }

    /// Leave to open one, if there is any left.
    pub(in crate::upstream) fn try_slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Leave to open one, in the order in which it was asked for.
    pub(in crate::upstream) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().acquire_owned().await.ok()
    }

    /// Counts an attempt that waits for a slot until the guard is dropped, and asks all workers for one.
    pub(in crate::upstream) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.ask_for_idle();
        Waiting { connections: self }
    }

    /// Attempts that wait for a slot.
    pub(in crate::upstream) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Asks all workers to close what is idle.
    pub(in crate::upstream) fn ask_for_idle(&self) {
        self.wanted.notify_waiters();
    }

    /// Waits until somebody asks for what is idle. A call counts from here on, before the first poll too.
    pub(in crate::upstream) fn asked_for_idle(&self) -> Notified<'_> {
        self.wanted.notified()
    }

    /// Open connections.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that carry an exchange, where so many attempts are in flight.
    pub(super) fn active(&self, in_flight: usize) -> usize {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let own = self.open().saturating_sub(count(&self.shared));
        // Attempts that are still connecting, or wait for a stream, are in flight, but hold no connection.
        let in_flight = in_flight.saturating_sub(count(&self.streams));
        (count(&self.busy) + in_flight.min(own)).min(self.open())
    }

    pub(super) fn note_open(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that one that is open speaks HTTP/2.
    pub(in crate::upstream) fn note_shared(&self) {
        self.shared.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that one that speaks HTTP/2 has closed.
    pub(in crate::upstream) fn note_shared_closed(&self) {
        self.shared.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that a shared one carries something again.
    pub(in crate::upstream) fn note_busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a shared one carries nothing any more.
    pub(in crate::upstream) fn note_idle(&self) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes an exchange on a shared one.
    pub(in crate::upstream) fn begin_stream(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the end of an exchange on a shared one.
    pub(in crate::upstream) fn end_stream(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes all slots away that nobody has.
    #[cfg(test)]
    pub(in crate::upstream) fn forget_slots(&self) {
        self.slots.forget_permits(self.slots.available_permits());
    }

    /// One slot more.
    #[cfg(test)]
    pub(in crate::upstream) fn free_slot(&self) {
        self.slots.add_permits(1);
    }
}

/// Counts an attempt that waits for a slot while it lives.
#[derive(Debug)]
pub(in crate::upstream) struct Waiting<'a> {
    connections: &'a Connections,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.connections.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
