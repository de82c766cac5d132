//! The last block of a body that is kept: small parts are copied to it, so that none of them keeps a read buffer alive.

use bytes::{Bytes, BytesMut};

/// A block with room for more. Blocks grow with the body, so that a small one does not hold a large one.
#[derive(Debug, Default)]
pub(super) struct Tail(BytesMut);

impl Tail {
    /// The size of the block that `length` bytes need behind the `before` that the body has; 0 if they fit. At most `to_come`
    /// bytes are expected, those included.
    pub(super) fn growth(&self, length: usize, before: usize, to_come: usize) -> usize {
        let rest = length.saturating_sub(self.room());
        if rest == 0 {
            return 0;
        }
        before.clamp(FIRST_BLOCK, MAX_BLOCK).min(to_come.saturating_sub(self.room())).max(rest)
    }

    /// Adds `part`, with a new block of `growth` bytes for what does not fit. The block before it is given back then.
    pub(super) fn add(&mut self, part: &[u8], growth: usize) -> Option<Bytes> {
        let (fits, rest) = part.split_at(part.len().min(self.room()));
        self.0.extend_from_slice(fits);
        if rest.is_empty() {
            return None;
        }
        let full = self.end();
        self.0 = BytesMut::with_capacity(growth);
        self.0.extend_from_slice(rest);
        full
    }

    /// What has been added since the last end. The room behind it stays.
    pub(super) fn end(&mut self) -> Option<Bytes> {
        (!self.0.is_empty()).then(|| self.0.split().freeze())
    }

    fn room(&self) -> usize {
        self.0.capacity() - self.0.len()
    }
}

/// The least memory that a part is copied to, where no less is expected.
const FIRST_BLOCK: usize = 512;

/// The most memory that is taken at once for small parts.
const MAX_BLOCK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_added_comes_back_and_no_block_is_larger_than_it_said(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..3000), any::<bool>()), 0..40),
        ) {
            let (mut tail, mut whole, mut back, mut memory) = (Tail::default(), vec![], vec![], 0);
            for (part, ends) in &parts {
                let growth = tail.growth(part.len(), whole.len(), usize::MAX);
                memory += growth;
                back.extend(tail.add(part, growth));
                whole.extend_from_slice(part);
                prop_assert!(tail.0.capacity() <= growth.max(tail.0.capacity()));
                if *ends {
                    back.extend(tail.end());
                }
            }
            back.extend(tail.end());
            prop_assert_eq!(back.concat(), whole.clone());
            prop_assert!(memory >= whole.len() && memory <= 2 * whole.len() + 2 * FIRST_BLOCK);
        }
    }

    #[test]
    fn a_body_of_a_known_length_takes_a_block_of_that_length() {
        assert_eq!(Tail::default().growth(4, 0, 13), 13);
        assert_eq!(Tail::default().growth(4, 0, usize::MAX), FIRST_BLOCK);
        assert_eq!(Tail::default().growth(4, 1 << 20, usize::MAX), MAX_BLOCK);
    }
}
