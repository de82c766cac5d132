//! HTTP/1.1 towards an endpoint: a codec of our own, driven by the exchange that uses it.
//!
//! A general client puts a task and a channel between a request and its connection, which cost more than all the rest of
//! it. Here the exchange's own task writes the request and reads the answer. What needs no socket is pure: [`encode`]
//! writes heads, [`head`] reads them, [`decode`] and [`chunked`] follow a body to its end. [`wire`] does the rest, with the
//! memory of [`buffer`]; [`spare`] keeps a map's from one answer to the next.

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
