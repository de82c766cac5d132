//! The process's account of request bodies kept for a retry, and the copies that stand in it.
//!
//! A copy takes memory with one atomic operation while the account has room. Only a copy that finds it full takes the lock, looks
//! at all the others and lets [`give_up`] choose which of them go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Origin, Pieces};
use crate::policy::share::{Claim, Demand, GivenUp, Holder, Stage, give_up, next_step};
use crate::record::metrics::Cells;

/// How many bytes of memory the copies of request bodies may hold in the process, and which copies there are.
///
/// It counts the memory that is held, which is more than the bytes of the bodies: a piece that keeps a read buffer alive counts
/// as the whole buffer.
#[derive(Debug)]
pub struct ReplayMemory {
    limit: AtomicUsize,
    /// Never raised over `limit`; it may be above one that has been lowered.
    used: AtomicUsize,
    /// Every copy that holds memory. Locked before a copy's own lock, never after it.
    copies: Mutex<Vec<Arc<Shared>>>,
    given_up: Cells<GivenUp>,
}

impl ReplayMemory {
    /// An account of `limit` bytes without copies. `given_up` counts the copies that are given up.
    pub fn new(limit: usize, given_up: Cells<GivenUp>) -> Self {
        Self { limit: limit.into(), used: AtomicUsize::new(0), copies: Mutex::default(), given_up }
    }

    /// Changes the limit. Copies over a lower one stay until the next part of a body wants in.
    pub fn change_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts a copy that is given up, or never begun.
    pub(in crate::proxy) fn count(&self, why: GivenUp) {
        self.given_up.with(why).inc();
    }

    #[cfg(test)]
    pub(crate) fn given_up(&self, why: GivenUp) -> u64 {
        self.given_up.with(why).get()
    }

    /// Takes `bytes`, if they are free.
    fn take(&self, bytes: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes `bytes` for `newcomer`, at the cost of the copies that [`give_up`] chooses.
    #[cold]
    fn take_from_others(&self, bytes: usize, newcomer: &Shared) -> Result<(), GivenUp> {
        let copies = self.copies();
        // Other threads may take what has just been given back; not for ever, because each round gives up copies.
        while !self.take(bytes) {
            let limit = self.limit.load(Ordering::Relaxed);
            let missing = self.used().saturating_add(bytes).saturating_sub(limit);
            let others: Vec<_> =
                copies.iter().filter(|copy| !std::ptr::eq(Arc::as_ptr(copy), newcomer)).collect();
            let claims: Vec<_> = others.iter().map(|copy| copy.claim()).collect();
            let demand = Demand { more: bytes, missing, limit };
            for (index, why) in give_up(&claims, &newcomer.claim(), demand)? {
                let mut kept = others[index].lock();
                // It may have ended, or begun to be sent again, since it was looked at.
                if kept.stage == claims[index].stage && kept.give_up(self) {
                    self.count(why);
                }
            }
        }
        Ok(())
    }

    fn copies(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        // A list of plain values: a panic elsewhere cannot leave it half-written.
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy of a request body, in the hands of its exchange. Dropped, it gives its memory back.
#[derive(Debug)]
pub(in crate::proxy) struct Copy {
    memory: Arc<ReplayMemory>,
    shared: Arc<Shared>,
    origin: Origin,
    /// The length of the body, if it was announced.
    announced: Option<usize>,
}

/// The body that a copy is made of.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Original {
    /// Whose it is.
    pub(in crate::proxy) holder: Holder,
    /// What its parts lie in.
    pub(in crate::proxy) origin: Origin,
    /// Its length, if that was announced.
    pub(in crate::proxy) announced: Option<u64>,
}

/// What other exchanges may take away, from any thread.
#[derive(Debug)]
struct Shared {
    holder: Holder,
    /// Where it stands in the account's list. Changed with that locked.
    place: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// What has come, in the pieces in which it is sent again.
    pieces: Pieces,
    /// When it last grew by an eighth, and the size at which it does so again.
    progress: Instant,
    next_step: usize,
    stage: Stage,
    /// Whether the body has ended.
    is_whole: bool,
    is_lost: bool,
}

impl Copy {
    /// A copy without a byte.
    pub(in crate::proxy) fn new(memory: Arc<ReplayMemory>, original: Original, now: Instant) -> Self {
        let Original { holder, origin, announced } = original;
        let kept = Kept {
            pieces: Pieces::default(),
            progress: now,
            next_step: next_step(0),
            stage: Stage::Growing,
            is_whole: false,
            is_lost: false,
        };
        let shared = Arc::new(Shared { holder, place: AtomicUsize::new(UNLISTED), kept: Mutex::new(kept) });
        let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        Self { memory, shared, origin, announced }
    }

    /// Adds what has come, or gives the copy up. `most` is the length up to which the body may be kept.
    pub(in crate::proxy) fn keep(&self, part: &Bytes, most: usize, now: Instant) {
        let mut kept = self.shared.lock();
        if kept.is_lost || part.is_empty() {
            return;
        }
        let length = kept.pieces.length();
        if length.saturating_add(part.len()) > most {
            drop(kept);
            return self.give_up(GivenUp::BodyLimit);
        }
        let to_come = self.announced.map_or(usize::MAX, |announced| announced.saturating_sub(length));
        let growth = kept.pieces.growth(part.len(), self.origin, to_come);
        if !self.memory.take(growth.memory) {
            drop(kept);
            if let Err(why) = self.memory.take_from_others(growth.memory, &self.shared) {
                return self.give_up(why);
            }
            kept = self.shared.lock();
            if kept.is_lost {
                return self.memory.give_back(growth.memory); // another newcomer has taken it meanwhile
            }
        }
        let is_first = kept.pieces.memory() == 0;
        kept.pieces.add(part, growth);
        kept.note_progress(now);
        drop(kept);
        if is_first {
            self.enlist();
        }
    }

    /// Notes that the body has ended.
    pub(in crate::proxy) fn end(&self) {
        let mut kept = self.shared.lock();
        kept.is_whole = true;
        if kept.stage == Stage::Growing {
            kept.stage = Stage::Whole;
        }
    }

    /// Whether all that came is there still.
    pub(in crate::proxy) fn is_kept(&self) -> bool {
        !self.shared.lock().is_lost
    }

    /// Keeps other exchanges from taking it, until [`Copy::release`]. False if it is lost already.
    pub(in crate::proxy) fn secure(&self) -> bool {
        let mut kept = self.shared.lock();
        kept.stage = Stage::InUse;
        !kept.is_lost
    }

    /// Lets other exchanges take it again.
    pub(in crate::proxy) fn release(&self) {
        let mut kept = self.shared.lock();
        kept.stage = if kept.is_whole { Stage::Whole } else { Stage::Growing };
    }

    /// The piece of this number, from 0; none after the last, nor in a copy that is lost.
    pub(in crate::proxy) fn piece(&self, number: usize) -> Option<Bytes> {
        self.shared.lock().pieces.get(number)
    }

    /// Gives its memory back: no attempt follows.
    pub(in crate::proxy) fn forget(&self) {
        if self.shared.lock().give_up(&self.memory) {
            self.strike();
        }
    }

    fn give_up(&self, why: GivenUp) {
        self.memory.count(why);
        self.forget();
    }

    fn enlist(&self) {
        let mut copies = self.memory.copies();
        self.shared.place.store(copies.len(), Ordering::Relaxed);
        copies.push(self.shared.clone());
    }

    fn strike(&self) {
        let mut copies = self.memory.copies();
        let place = self.shared.place.swap(UNLISTED, Ordering::Relaxed);
        if place < copies.len() {
            copies.swap_remove(place);
            if let Some(moved) = copies.get(place) {
                moved.place.store(place, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.forget();
        if self.shared.place.load(Ordering::Relaxed) != UNLISTED {
            self.strike(); // another exchange took it
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whoever panics here leaves counts that are true, or an exchange that ends with it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Claim {
        let kept = self.lock();
        let (progress, stage) = (kept.progress.into_std(), kept.stage);
        Claim { holder: self.holder, bytes: kept.pieces.memory(), progress, stage }
    }
}

impl Kept {
    fn note_progress(&mut self, now: Instant) {
        let length = self.pieces.length();
        if length >= self.next_step {
            self.progress = now;
            self.next_step = next_step(length);
        }
    }

    /// Gives its memory back; false if it had none.
    fn give_up(&mut self, memory: &ReplayMemory) -> bool {
        self.is_lost = true;
        let held = std::mem::take(&mut self.pieces).memory();
        memory.give_back(held);
        held > 0
    }
}

/// The place of a copy that stands in no list.
const UNLISTED: usize = usize::MAX;

#[cfg(test)]
mod tests;
