//! Memory that answers are read to. The connections of a thread share it, so one that waits holds none.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// What one read brought. Dropped, its memory is there for the next read.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    /// Reads once, and no more than `most` bytes; fewer, where too much large memory is in use.
    pub(super) fn poll_read<S: AsyncRead>(
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<Self>> {
        let memory = SPARE.with_borrow_mut(|spare| spare.take(most));
        let mut buffer = Self { memory, filled: 0 };
        let most = most.min(buffer.memory.len());
        let mut room = ReadBuf::new(&mut buffer.memory[..most]);
        ready!(stream.poll_read(cx, &mut room))?;
        buffer.filled = room.filled().len();
        Poll::Ready(Ok(buffer))
    }

    /// The part `range`, for as long as anybody wants it. A large part keeps the memory, a small one is copied, so that data
    /// never holds more than four times its size, and no more than [`memory_of`] says.
    pub(super) fn extract(self, range: Range<usize>) -> Bytes {
        if memory_of(range.len()) < self.memory.len() {
            return Bytes::copy_from_slice(&self[range]);
        }
        Bytes::from_owner(self).slice(range)
    }
}

/// The most memory that so many bytes of an answer keep alive.
pub(crate) fn memory_of(length: usize) -> usize {
    match length {
        0..LEAST_KEPT => length,
        LEAST_KEPT..=FIRST_READ => FIRST_READ,
        _ => length.max(MAX_READ),
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.filled]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // Where the thread is about to end, there is no next read.
        let _ = SPARE.try_with(|spare| spare.borrow_mut().give(memory));
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// Memory of two sizes that nobody uses. What was given last is taken first, because the processor's cache still has it, and
/// all reads of a size share it, whereas an allocator keeps the lengths apart that the rests of bodies have.
#[derive(Debug, Default)]
struct Spare {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    /// Large pieces in use.
    large_in_use: usize,
}

impl Spare {
    fn take(&mut self, most: usize) -> Box<[u8]> {
        let (spare, size) = if most <= FIRST_READ || self.large_in_use >= MAX_LARGE_IN_USE {
            (&mut self.small, FIRST_READ)
        } else {
            self.large_in_use += 1;
            (&mut self.large, MAX_READ)
        };
        spare.pop().unwrap_or_else(|| vec![0; size].into())
    }

    fn give(&mut self, memory: Box<[u8]>) {
        let spare = if memory.len() <= FIRST_READ {
            &mut self.small
        } else {
            self.large_in_use = self.large_in_use.saturating_sub(1);
            &mut self.large
        };
        if spare.len() < MAX_SPARE {
            spare.push(memory);
        }
    }
}

/// The most that is read at once of a head and what comes with it, which may be 64 KiB, and then of a body as long as nobody
/// knows how fast it comes.
pub(super) const FIRST_READ: usize = 80 << 10;

/// The most that is read at once of a body that has filled every read so far: whoever writes it is woken as seldom.
pub(super) const MAX_READ: usize = 256 << 10;

/// Less of a read is copied.
const LEAST_KEPT: usize = FIRST_READ / 4;

/// Large pieces that a thread has in use at once, 8 MiB: however many callers are slow to take what has been read for them.
const MAX_LARGE_IN_USE: usize = 32;

/// Pieces of a size that are kept for the next reads: few are in use at a time where callers are quick.
const MAX_SPARE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a read of `most` bytes brings of data that has all come.
    async fn read(mut data: &[u8], most: usize) -> Buffer {
        std::future::poll_fn(|cx| Buffer::poll_read(Pin::new(&mut data), cx, most)).await.unwrap()
    }

    fn place(buffer: &Buffer) -> usize {
        buffer.memory.as_ptr().addr()
    }

    #[tokio::test]
    async fn a_read_brings_no_more_than_it_is_asked_for() {
        let data = vec![7; 2 * MAX_READ];
        for most in [1, 1000, FIRST_READ, FIRST_READ + 1, MAX_READ - 1, MAX_READ] {
            assert_eq!(*read(&data, most).await, data[..most]);
        }
        assert_eq!(read(&data, 2 * MAX_READ).await.len(), MAX_READ);
        assert!(read(b"", 1000).await.is_empty());
    }

    #[tokio::test]
    async fn what_was_given_back_last_is_used_first() {
        let data = vec![7; MAX_READ];
        for most in [FIRST_READ, MAX_READ] {
            let (one, other) = (read(&data, most).await, read(&data, most).await);
            let places = [place(&one), place(&other)];
            drop(one);
            drop(other);
            let (again, before) = (read(&data, most).await, read(&data, most).await);
            assert_eq!([place(&before), place(&again)], places);
        }
    }

    #[tokio::test]
    async fn small_data_does_not_hold_the_memory_that_it_was_read_into() {
        let data: Vec<u8> = (0..=255).cycle().take(MAX_READ).collect();
        let buffer = read(&data, MAX_READ).await;
        let at = place(&buffer);
        let small = buffer.extract(5..5 + FIRST_READ);
        assert_eq!(small, data[5..5 + FIRST_READ]);
        let buffer = read(&data, MAX_READ).await;
        assert_eq!(place(&buffer), at, "it is there for the next");
        let large = buffer.extract(5..6 + FIRST_READ);
        assert_eq!(large, data[5..6 + FIRST_READ]);
        assert_eq!(large.as_ptr().addr(), at + 5, "large data is not copied");
        let other = read(&data, MAX_READ).await;
        assert_ne!(place(&other), at, "nobody else's while it is in use");
        drop(large);
        assert_eq!(place(&read(&data, MAX_READ).await), at);
    }

    #[tokio::test]
    async fn slow_callers_hold_a_bounded_amount_of_large_memory() {
        let data = vec![7; MAX_READ];
        let mut held = Vec::new();
        for _ in 0..MAX_LARGE_IN_USE {
            held.push(read(&data, MAX_READ).await.extract(0..MAX_READ));
        }
        assert_eq!(read(&data, MAX_READ).await.len(), FIRST_READ);
        held.pop();
        assert_eq!(read(&data, MAX_READ).await.len(), MAX_READ);
        held.clear();
        SPARE.with_borrow(|spare| assert_eq!((spare.large_in_use, spare.large.len()), (0, MAX_SPARE)));
    }
}
