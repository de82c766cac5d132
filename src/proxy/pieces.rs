//! The kept parts of a body, and the accounts of the memory that they take.
//!
//! A request's copy (`Copy`) and an answer that is read before its caller takes it are both `Pieces`. Two accounts
//! bound them. A copy can be given up for another one, since its request goes on without it: [`ReplayMemory`]. What was read
//! of an answer cannot, since it is nowhere else: [`FirmMemory`].
//!
//! # Invariant
//!
//! The accounts count the memory that is held, which is more than the bytes of the bodies. A small part is copied to a block,
//! so that it does not keep a read buffer alive; a large part is kept as it came. Held by
//! `a_small_part_does_not_hold_the_buffer_that_it_was_read_into`,
//! `a_large_part_is_kept_as_it_came_and_counts_as_its_buffer` and `every_byte_is_given_back_once`.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::upstream::http1::memory_of;

mod copies;
mod firm;
mod tail;
pub use self::copies::ReplayMemory;
pub(in crate::proxy) use self::copies::{Copy, Original};
pub(in crate::proxy) use self::firm::FirmBytes;
pub use self::firm::FirmMemory;
use self::tail::Tail;

/// Parts of a body in their order, and the memory that stands in an account for each.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Pieces {
    /// Most bodies have one, and need no list.
    first: Option<Piece>,
    more: VecDeque<Piece>,
    /// The end of `more`, where small parts are joined.
    tail: Tail,
    tail_memory: usize,
    length: usize,
    memory: usize,
}

/// One of them.
#[derive(Debug)]
pub(in crate::proxy) struct Piece {
    pub(in crate::proxy) bytes: Bytes,
    /// Bytes of memory that stand in the account for it.
    pub(in crate::proxy) memory: usize,
}

/// What the parts of a body lie in as they come.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) enum Origin {
    /// Read buffers of at most so many bytes: a caller's body.
    Buffers(usize),
    /// The frames and buffers of an endpoint.
    Endpoint,
}

/// How a part is added, and what memory that takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Growth {
    /// The size of the new block that it is copied to; 0 where it fits the last one. None where it stays as it came.
    block: Option<usize>,
    pub(in crate::proxy) memory: usize,
}

impl Growth {
    /// The same where the account has no room for it.
    pub(in crate::proxy) fn uncounted(self) -> Self {
        Self { memory: 0, ..self }
    }
}

impl Origin {
    /// The memory that a part of `length` bytes keeps alive; none if it is small, and copied.
    fn kept_alive(self, length: usize) -> Option<usize> {
        match self {
            Self::Buffers(size) => (length >= size.div_ceil(2)).then(|| length.max(size)),
            Self::Endpoint => (length >= SMALL_PART).then(|| memory_of(length)),
        }
    }
}

impl Pieces {
    /// What a part of `length` bytes takes. At most `to_come` bytes are expected, those included.
    pub(in crate::proxy) fn growth(&self, length: usize, origin: Origin, to_come: usize) -> Growth {
        if let Some(memory) = origin.kept_alive(length) {
            return Growth { block: None, memory };
        }
        let block = self.tail.growth(length, self.length, to_come);
        Growth { block: Some(block), memory: block }
    }

    /// Adds a part in the way that [`Pieces::growth`] said.
    pub(in crate::proxy) fn add(&mut self, part: &Bytes, growth: Growth) {
        let Growth { block, memory } = growth;
        if let Some(block) = block {
            if let Some(bytes) = self.tail.add(part, block) {
                let memory = std::mem::take(&mut self.tail_memory);
                self.push(Piece { bytes, memory });
            }
            self.tail_memory += memory;
        } else {
            self.join_tail();
            self.push(Piece { bytes: part.clone(), memory });
        }
        self.length += part.len();
        self.memory += memory;
    }

    /// The piece of this number, from 0; none after the last.
    pub(in crate::proxy) fn get(&mut self, number: usize) -> Option<Bytes> {
        if number >= self.listed() {
            self.join_tail();
        }
        let piece = if number == 0 { self.first.as_ref() } else { self.more.get(number - 1) };
        piece.map(|piece| piece.bytes.clone())
    }

    /// Takes the first piece out. After it [`Pieces::get`] counts anew.
    pub(in crate::proxy) fn pop(&mut self) -> Option<Piece> {
        if self.listed() == 0 {
            self.join_tail();
        }
        let piece = self.first.take().or_else(|| self.more.pop_front())?;
        self.length -= piece.bytes.len();
        self.memory -= piece.memory;
        Some(piece)
    }

    /// Whether it is one piece, or none.
    pub(in crate::proxy) fn is_single(&mut self) -> bool {
        self.join_tail();
        self.more.is_empty()
    }

    /// Bytes of the body.
    pub(in crate::proxy) fn length(&self) -> usize {
        self.length
    }

    /// Bytes of memory that stand in the account.
    pub(in crate::proxy) fn memory(&self) -> usize {
        self.memory
    }

    fn listed(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    fn join_tail(&mut self) {
        if let Some(bytes) = self.tail.end() {
            let memory = std::mem::take(&mut self.tail_memory);
            self.push(Piece { bytes, memory });
        }
    }

    fn push(&mut self, piece: Piece) {
        if self.listed() == 0 {
            self.first = Some(piece);
        } else {
            self.more.push_back(piece);
        }
    }
}

/// Parts of answers below this, which are all frames of HTTP/2, are copied together. A larger one is memory of its own, or
/// the read buffer that it lies in.
const SMALL_PART: usize = (16 << 10) + 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origins() -> impl Strategy<Value = Origin> {
        prop_oneof![(0usize..40_000).prop_map(Origin::Buffers), Just(Origin::Endpoint)]
    }

    proptest! {
        #[test]
        fn what_was_added_is_there_by_number_and_comes_out_in_its_order(
            sizes in prop::collection::vec((1usize..30_000, any::<bool>()), 0..20), origin in origins(),
        ) {
            let (mut pieces, mut whole, mut memory) = (Pieces::default(), Vec::new(), 0);
            for (size, is_looked_at) in sizes {
                let part = Bytes::from(vec![u8::try_from(size % 251).unwrap(); size]);
                let growth = pieces.growth(size, origin, usize::MAX);
                pieces.add(&part, growth);
                whole.extend_from_slice(&part);
                memory += growth.memory;
                prop_assert_eq!((pieces.length(), pieces.memory()), (whole.len(), memory));
                if is_looked_at {
                    let parts: Vec<_> = (0..).map_while(|number| pieces.get(number)).collect();
                    prop_assert_eq!(parts.concat(), whole.clone());
                }
            }
            let out: Vec<_> = std::iter::from_fn(|| pieces.pop()).collect();
            prop_assert_eq!(out.iter().map(|piece| piece.memory).sum::<usize>(), memory);
            prop_assert_eq!(out.into_iter().flat_map(|piece| piece.bytes).collect::<Vec<_>>(), whole);
            prop_assert_eq!((pieces.length(), pieces.memory()), (0, 0));
        }
    }
}
