//! An account of memory that nobody can take back: what stands in it is nowhere else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::share::{Holder, may_hold_firmly};

/// How many bytes of memory may be held in the process that cannot be given up for others, and whose they are: of answers.
///
/// It is looked at only for bodies that have not come whole with their heads, and so may have a lock.
#[derive(Debug)]
pub struct FirmMemory {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: usize,
    used: usize,
    /// Those that hold any.
    callers: HashMap<Holder, usize>,
}

impl FirmMemory {
    /// An account of `limit` bytes in which nothing is held.
    pub fn new(limit: usize) -> Self {
        Self { inner: Mutex::new(Inner { limit, used: 0, callers: HashMap::new() }) }
    }

    /// Changes the limit. What is held over a lower one stays until its callers have taken it.
    pub fn change_limit(&self, limit: usize) {
        self.lock().limit = limit;
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.lock().used
    }

    fn take(&self, holder: Holder, bytes: usize) -> bool {
        let mut inner = self.lock();
        let own = inner.callers.get(&holder).copied().unwrap_or_default();
        let may = may_hold_firmly(own, bytes, inner.used, inner.limit);
        if may && bytes > 0 {
            inner.used += bytes;
            inner.callers.insert(holder, own + bytes);
        }
        may
    }

    fn give_back(&self, holder: Holder, bytes: usize) {
        let mut inner = self.lock();
        inner.used -= bytes;
        if let Some(own) = inner.callers.get_mut(&holder) {
            *own -= bytes;
            if *own == 0 {
                inner.callers.remove(&holder);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain values: a panic elsewhere cannot leave them half-written.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one body holds of a [`FirmMemory`], until it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct FirmBytes {
    memory: Arc<FirmMemory>,
    holder: Holder,
    bytes: usize,
}

impl FirmBytes {
    /// Nothing yet.
    pub(in crate::proxy) fn new(memory: Arc<FirmMemory>, holder: Holder) -> Self {
        Self { memory, holder, bytes: 0 }
    }

    /// Takes so many more, if the caller may have them.
    pub(in crate::proxy) fn grow(&mut self, bytes: usize) -> bool {
        let may = self.memory.take(self.holder, bytes);
        self.bytes += if may { bytes } else { 0 };
        may
    }

    /// Gives so many back.
    pub(in crate::proxy) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.bytes -= bytes;
            self.memory.give_back(self.holder, bytes);
        }
    }
}

impl Drop for FirmBytes {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn caller(number: u8) -> Holder {
        IpAddr::from([192, 0, 2, number]).into()
    }

    #[test]
    fn callers_that_take_nothing_of_their_answers_leave_room_for_others() {
        let memory = Arc::new(FirmMemory::new(1000));
        let mut greedy: Vec<_> = (0..30).map(|_| FirmBytes::new(memory.clone(), caller(1))).collect();
        let held = greedy.iter_mut().filter_map(|held| held.grow(100).then_some(())).count();
        assert_eq!((held, memory.used()), (5, 500), "alone it may have a half");
        let mut bystander = FirmBytes::new(memory.clone(), caller(2));
        assert!(bystander.grow(100) && !greedy[0].grow(1));
        drop(greedy);
        assert_eq!(memory.used(), 100);
        drop(bystander);
        assert!(memory.used() == 0 && memory.lock().callers.is_empty());
    }

    proptest! {
        #[test]
        fn every_byte_is_given_back_once(
            steps in prop::collection::vec((0usize..6, 0usize..300, any::<bool>()), 0..100),
        ) {
            let memory = Arc::new(FirmMemory::new(1000));
            let new = |number: usize| FirmBytes::new(memory.clone(), caller(u8::try_from(number % 3).unwrap()));
            let mut held: Vec<_> = (0..6).map(new).collect();
            for (index, bytes, grows) in steps {
                if grows {
                    held[index].grow(bytes);
                } else {
                    held[index].shrink(bytes);
                }
                prop_assert_eq!(memory.used(), held.iter().map(|held| held.bytes).sum::<usize>());
                prop_assert!(memory.used() <= 1000);
            }
            drop(held);
            prop_assert!(memory.used() == 0 && memory.lock().callers.is_empty());
        }
    }
}
