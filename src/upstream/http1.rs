//! HTTP/1.1 towards an endpoint: a codec of our own, driven by the exchange that uses it.
//!
//! A general client puts a task and a channel between a request and its connection, which cost more than all the rest of
//! it. Here the exchange's own task writes the request and reads the answer. What needs no socket is pure: [`encode`]
//! writes heads, [`head`] reads them, [`decode`] and [`chunked`] follow a body to its end. [`wire`] does the rest, with the
//! memory of [`buffer`]; [`spare`] keeps a map's from one answer to the next.
//!
//! # Invariants
//!
//! - A connection has no task: its exchange writes and reads, both at once. What is half done lies in the connection,
//!   never in a future. A task sends the rest only where an answer overtakes its request. An idle connection holds no
//!   buffer, and the pool's keeper has its waker. Held by `an_early_answer_is_read_while_the_request_is_still_sent`
//!   and `a_request_of_which_nothing_was_written_goes_to_the_next_connection_whole`.
//! - A byte that belongs to no answer, a length beside a coding, or a body that breaks spends the connection. What
//!   two parsers could read differently is no answer. An answer is read alike, however it is cut into pieces. Held by
//!   `a_byte_that_belongs_to_no_answer_spends_the_connection` and
//!   `a_length_or_a_coding_that_two_readers_could_take_differently_is_refused`.

mod buffer;
pub(crate) mod chunked;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod head;
pub(crate) mod spare;
mod upload;
pub(super) mod wire;

pub(crate) use self::buffer::memory_of;

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};

/// Why bytes are not the answer that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A head over a limit.
    HeadTooLarge,
    /// Something that is not HTTP/1.1, or that two parsers could read differently.
    Malformed(&'static str),
    /// The connection ended before the answer did.
    Incomplete,
}

impl Fault {
    /// The end of an attempt. Behind the head of an answer, whatever is wrong leaves the answer incomplete.
    fn into_error(self, delivery: Delivery) -> UpstreamError {
        let (kind, what) = match self {
            Self::HeadTooLarge => (UpstreamErrorKind::HeadTooLarge, "a head over the limit"),
            Self::Malformed(what) => (UpstreamErrorKind::Protocol, what),
            Self::Incomplete => {
                (UpstreamErrorKind::ConnectionTerminated, "the connection ended before the answer did")
            }
        };
        let kind = if delivery == Delivery::Answered { UpstreamErrorKind::ResponseIncomplete } else { kind };
        UpstreamError::because(kind, delivery, what)
    }
}
