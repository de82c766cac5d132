//! Follows the body of an answer to its end, however that is marked (RFC 9112 section 6.3).

use http::HeaderMap;
use http_body::SizeHint;

use super::Fault;
use super::chunked::{Chunked, Decoded};
use super::head::Framing;

/// Where a body stands.
#[derive(Debug)]
pub(crate) enum Decoder {
    Chunked(Chunked),
    /// So many bytes are to come.
    Length(u64),
    UntilClosed,
    /// Its connection was closed, which was its end.
    Closed,
}

impl Decoder {
    /// The body that follows a head; none after a change of protocol.
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Chunked => Self::Chunked(Chunked::new()),
            Framing::Length(length) => Self::Length(length),
            Framing::Switched => Self::Length(0),
            Framing::UntilClosed => Self::UntilClosed,
        }
    }

    /// Whether nothing more belongs to it.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            Self::Chunked(chunked) => chunked.is_ended(),
            Self::Length(left) => *left == 0,
            Self::UntilClosed => false,
            Self::Closed => true,
        }
    }

    /// Takes what has come. Bytes beyond those that it used are none of this answer.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        let used = match self {
            Self::Chunked(chunked) => return chunked.decode(bytes),
            Self::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= used as u64;
                used
            }
            Self::UntilClosed => bytes.len(),
            Self::Closed => 0,
        };
        Ok(Decoded { data: 0..used, used })
    }

    /// Takes note that the connection was closed.
    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        match self {
            Self::UntilClosed => *self = Self::Closed,
            body if !body.is_ended() => return Err(Fault::Incomplete),
            _ => {}
        }
        Ok(())
    }

    /// What followed a body that has ended, once.
    pub(crate) fn take_trailers(&mut self) -> Result<Option<HeaderMap>, Fault> {
        match self {
            Self::Chunked(chunked) => chunked.take_trailers(),
            _ => Ok(None),
        }
    }

    /// Whether it has ended, and nothing follows it.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Chunked(chunked) => chunked.is_ended() && !chunked.has_trailers(),
            body => body.is_ended(),
        }
    }

    /// What its head says of what is to come, behind data of so many bytes.
    pub(crate) fn size_hint(&self, data: u64) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(left.saturating_add(data)),
            _ => SizeHint::default(),
        }
    }

    /// The most bytes that are worth reading at once. One more than belongs to the body: if it comes, the endpoint has
    /// sent what nobody asked for, and if not, the system need not be asked again whether anything has.
    pub(crate) fn worth_reading(&self, most: usize) -> usize {
        match self {
            Self::Length(left) => usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(most),
            _ => most,
        }
    }
}
