//! The process's account of request bodies kept for a retry, and the copies that stand in it.
//!
//! A copy takes memory with one atomic operation while the account has room. Only a copy that finds it full takes the lock, looks
//! at all the others and lets [`give_up`] choose which of them go.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use crate::policy::share::{Claim, GivenUp, Holder, Stage, give_up, next_step};
use crate::proxy::tail::Tail;
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
    pub(super) fn count(&self, why: GivenUp) {
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
            for (index, why) in give_up(&claims, &newcomer.claim(), bytes, missing, limit)? {
                let mut pieces = others[index].lock();
                // It may have ended, or begun to be sent again, since it was looked at.
                if pieces.stage == claims[index].stage && pieces.give_up(self) {
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
pub(super) struct Copy {
    memory: Arc<ReplayMemory>,
    shared: Arc<Shared>,
    /// The most memory that one of the caller's parts keeps alive, whatever its length.
    buffer: usize,
    /// The length of the body, if it was announced.
    announced: Option<usize>,
}

/// What other exchanges may take away, from any thread.
#[derive(Debug)]
struct Shared {
    holder: Holder,
    /// Where it stands in the account's list. Changed with that locked.
    place: AtomicUsize,
    pieces: Mutex<Pieces>,
}

#[derive(Debug)]
struct Pieces {
    /// What has come, in the pieces in which it is sent again.
    list: Vec<Bytes>,
    /// The last of them, where small parts are joined.
    tail: Tail,
    /// Bytes of the body.
    length: usize,
    /// Bytes of memory that stand in the account for it.
    held: usize,
    /// When it last grew by an eighth, and the size at which it does so again.
    progress: Instant,
    next_step: usize,
    stage: Stage,
    /// Whether the body has ended.
    is_whole: bool,
    is_lost: bool,
}

impl Copy {
    /// A copy without a byte. Parts come out of read buffers of at most `buffer` bytes.
    pub(super) fn new(
        memory: Arc<ReplayMemory>,
        holder: Holder,
        buffer: usize,
        announced: Option<u64>,
        now: Instant,
    ) -> Self {
        let pieces = Pieces {
            list: Vec::new(),
            tail: Tail::default(),
            length: 0,
            held: 0,
            progress: now,
            next_step: next_step(0),
            stage: Stage::Growing,
            is_whole: false,
            is_lost: false,
        };
        let shared =
            Arc::new(Shared { holder, place: AtomicUsize::new(UNLISTED), pieces: Mutex::new(pieces) });
        let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        Self { memory, shared, buffer, announced }
    }

    /// Adds what has come, or gives the copy up. `most` is the length up to which the body may be kept.
    pub(super) fn keep(&self, part: &Bytes, most: usize, now: Instant) {
        let mut pieces = self.shared.lock();
        if pieces.is_lost || part.is_empty() {
            return;
        }
        if pieces.length.saturating_add(part.len()) > most {
            drop(pieces);
            return self.give_up(GivenUp::BodyLimit);
        }
        let growth = pieces.growth(part.len(), self.buffer, self.announced);
        let memory = growth.memory();
        if !self.memory.take(memory) {
            drop(pieces);
            if let Err(why) = self.memory.take_from_others(memory, &self.shared) {
                return self.give_up(why);
            }
            pieces = self.shared.lock();
            if pieces.is_lost {
                return self.memory.give_back(memory); // another newcomer has taken it meanwhile
            }
        }
        let is_first = pieces.held == 0;
        pieces.add(part, growth, now);
        drop(pieces);
        if is_first {
            self.enlist();
        }
    }

    /// Notes that the body has ended.
    pub(super) fn end(&self) {
        let mut pieces = self.shared.lock();
        pieces.is_whole = true;
        if pieces.stage == Stage::Growing {
            pieces.stage = Stage::Whole;
        }
    }

    /// Whether all that came is there still.
    pub(super) fn is_kept(&self) -> bool {
        !self.shared.lock().is_lost
    }

    /// Keeps other exchanges from taking it, until [`Copy::release`]. False if it is lost already.
    pub(super) fn secure(&self) -> bool {
        let mut pieces = self.shared.lock();
        pieces.stage = Stage::InUse;
        !pieces.is_lost
    }

    /// Lets other exchanges take it again.
    pub(super) fn release(&self) {
        let mut pieces = self.shared.lock();
        pieces.stage = if pieces.is_whole { Stage::Whole } else { Stage::Growing };
    }

    /// The piece of this number, from 0; none after the last, nor in a copy that is lost.
    pub(super) fn piece(&self, number: usize) -> Option<Bytes> {
        let mut pieces = self.shared.lock();
        if number >= pieces.list.len() {
            let last = pieces.tail.end();
            pieces.list.extend(last);
        }
        pieces.list.get(number).cloned()
    }

    /// Gives its memory back: no attempt follows.
    pub(super) fn forget(&self) {
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
    fn lock(&self) -> MutexGuard<'_, Pieces> {
        // Whoever panics here leaves counts that are true, or an exchange that ends with it.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Claim {
        let pieces = self.lock();
        let (progress, stage) = (pieces.progress.into_std(), pieces.stage);
        Claim { holder: self.holder, bytes: pieces.held, progress, stage }
    }
}

/// How a part is added, and what memory that takes.
#[derive(Clone, Copy, Debug)]
enum Growth {
    /// As it came, with the read buffer that it lies in.
    AsItCame { memory: usize },
    /// Copied to the end of the last block, and what does not fit there to a new one.
    Copied { block: usize },
}

impl Growth {
    fn memory(self) -> usize {
        match self {
            Self::AsItCame { memory } => memory,
            Self::Copied { block } => block,
        }
    }
}

impl Pieces {
    fn growth(&self, length: usize, buffer: usize, announced: Option<usize>) -> Growth {
        if length >= buffer.div_ceil(2) {
            return Growth::AsItCame { memory: length.max(buffer) };
        }
        let to_come = announced.map_or(usize::MAX, |announced| announced.saturating_sub(self.length));
        Growth::Copied { block: self.tail.growth(length, self.length, to_come) }
    }

    fn add(&mut self, part: &Bytes, growth: Growth, now: Instant) {
        match growth {
            Growth::AsItCame { .. } => {
                self.list.extend(self.tail.end());
                self.list.push(part.clone());
            }
            Growth::Copied { block } => self.list.extend(self.tail.add(part, block)),
        }
        self.length += part.len();
        self.held += growth.memory();
        if self.length >= self.next_step {
            self.progress = now;
            self.next_step = next_step(self.length);
        }
    }

    /// Gives its memory back; false if it had none.
    fn give_up(&mut self, memory: &ReplayMemory) -> bool {
        self.is_lost = true;
        (self.list, self.tail) = (Vec::new(), Tail::default());
        let held = mem::take(&mut self.held);
        memory.give_back(held);
        held > 0
    }
}

/// The place of a copy that stands in no list.
const UNLISTED: usize = usize::MAX;

#[cfg(test)]
mod tests;
