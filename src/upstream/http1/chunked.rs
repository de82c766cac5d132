//! Follows a chunked body to its end, strictly (RFC 9112 section 7.1).

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Fault;
use super::head::MAX_FIELDS;

/// Where a chunked body stands. What it keeps is bounded: the trailers, and of the rest no byte.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// What is left of the chunk, or its size as far as it has come.
    left: u64,
    /// Digits of the size so far.
    digits: u32,
    /// Bytes in the lines of sizes that are no digits, of the whole body.
    extensions: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    /// Behind the size, blanks or an extension.
    Extension(Seen),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Where a trailer begins, or the end.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    Ended,
}

/// Whether an extension has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Blanks,
    Semicolon,
}

/// What a piece of a body held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Where its data is now.
    pub(crate) data: Range<usize>,
    /// How many bytes of the piece belong to the body.
    pub(crate) used: usize,
}

impl Chunked {
    pub(crate) fn new() -> Self {
        Self { state: State::Size, left: 0, digits: 0, extensions: 0, trailers: Vec::new() }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether trailers have come that nobody has taken.
    pub(crate) fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
    }

    /// Takes what has come, and moves the data of several chunks together.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        let mut data = 0..0;
        let mut at = 0;
        while at < bytes.len() && self.state != State::Ended {
            if self.state != State::Data {
                self.state = self.step(bytes[at])?;
                at += 1;
                continue;
            }
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let count = left.min(bytes.len() - at);
            if data.is_empty() {
                data = at..at + count;
            } else {
                bytes.copy_within(at..at + count, data.end);
                data.end += count;
            }
            at += count;
            self.left -= count as u64;
            if self.left == 0 {
                self.state = State::DataCr;
            }
        }
        Ok(Decoded { data, used: at })
    }

    /// Takes a byte that is not data.
    fn step(&mut self, byte: u8) -> Result<State, Fault> {
        let bad = |what| Err(Fault::Malformed(what));
        match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > MAX_DIGITS {
                    return bad("the size of a chunk is too large");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                Ok(State::Size)
            }
            (State::Size, _) if self.digits == 0 => bad("a chunk without a size"),
            (State::Size | State::Extension(_), b'\r') => Ok(State::SizeLf),
            (State::Size, b' ' | b'\t') => self.extend(Seen::Blanks),
            (State::Size | State::Extension(Seen::Blanks), b';') => self.extend(Seen::Semicolon),
            (State::Extension(seen), b' ' | b'\t') => self.extend(seen),
            (State::Extension(Seen::Semicolon), byte) if !byte.is_ascii_control() => {
                self.extend(Seen::Semicolon)
            }
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.left == 0 { State::Line } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::Line, b'\r') => Ok(State::EndLf),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => {
                self.trailers.extend_from_slice(b"\r\n");
                Ok(State::Line)
            }
            (State::Line | State::Trailer, byte) if byte != b'\n' => {
                if self.trailers.len() >= MAX_TRAILERS {
                    return bad("trailers over their limit");
                }
                self.trailers.push(byte);
                Ok(State::Trailer)
            }
            (State::EndLf, b'\n') => Ok(State::Ended),
            _ => bad("not a chunk"),
        }
    }

    fn extend(&mut self, seen: Seen) -> Result<State, Fault> {
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            return Err(Fault::Malformed("extensions of chunks over their limit"));
        }
        Ok(State::Extension(seen))
    }

    /// The trailers of a body that has ended, once; none if there are none.
    pub(crate) fn take_trailers(&mut self) -> Result<Option<HeaderMap>, Fault> {
        if self.trailers.is_empty() {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut self.trailers);
        bytes.extend_from_slice(b"\r\n");
        let malformed = || Fault::Malformed("a trailer that is none");
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let Ok(httparse::Status::Complete((length, fields))) = httparse::parse_headers(&bytes, &mut fields)
        else {
            return Err(malformed());
        };
        if length != bytes.len() {
            return Err(malformed());
        }
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
            trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| malformed())?);
        }
        Ok(Some(trailers))
    }
}

/// The most digits of a size: 64 bits, zeros in front of them included.
const MAX_DIGITS: u32 = 16;

/// The most bytes of extensions in a body, as hyper has it.
const MAX_EXTENSIONS: usize = 16 << 10;

/// The most bytes of trailers, as hyper has it.
const MAX_TRAILERS: usize = 16 << 10;

#[cfg(test)]
mod tests;
