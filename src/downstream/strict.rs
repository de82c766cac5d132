//! Makes hyper refuse two kinds of HTTP/1.1 heads that it takes: with a bare LF as a line end, and with both framings.
//!
//! hyper hides both: it drops a `Content-Length` that follows a `Transfer-Encoding`, and tells no line end from another. So
//! the bytes are looked at on their way to it. Where a head is to be refused, one byte of it becomes a NUL, which hyper
//! answers with 400 and a closed connection.
//!
//! # Invariant
//!
//! No byte of a body and no byte of a tunnel is ever changed. Held by
//! `bodies_and_what_follows_them_pass_unchanged_however_they_are_cut`.

use memchr::memchr;

/// Where in the requests of a connection the next byte stands.
#[derive(Debug, Default)]
pub(super) struct StrictHeads {
    at: At,
    /// The part of a line of a head that an earlier read brought.
    begun: Vec<u8>,
    fields: Fields,
    /// What has come after a request for another protocol that is not yet answered.
    spoken: Vec<u8>,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Head,
    /// So many bytes of a body follow.
    Body(u64),
    /// A chunked body.
    Size(u64),
    /// What follows a chunk's size in its line.
    Extension(u64),
    /// So many bytes of a chunk follow, its line end included.
    Chunk(u64),
    /// After the last chunk.
    Trailers(Trailer),
    /// After a head that asks for another protocol, until it is known whether it got it.
    Asked,
    /// hyper gets no further.
    Refused,
}

/// How far the line of a trailer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    Empty,
    EmptyCr,
    Some,
    SomeCr,
}

/// What the lines of a head have said so far.
#[derive(Debug, Default)]
struct Fields {
    has_request_line: bool,
    length: Option<u64>,
    is_chunked: bool,
    asks_for_upgrade: bool,
}

impl StrictHeads {
    /// Looks at what goes to hyper.
    pub(super) fn look(&mut self, bytes: &mut [u8]) {
        let mut place = 0;
        while place < bytes.len() {
            place += match self.at {
                At::Head => self.head(&mut bytes[place..]),
                At::Asked => {
                    // No more than fits into hyper's buffer, which holds it as well.
                    self.spoken.extend_from_slice(&bytes[place..]);
                    return;
                }
                At::Refused => return,
                _ => self.body(&bytes[place..]),
            };
        }
    }

    /// Notes that a request is answered, and its connection goes on with HTTP. Whether what has come since can be taken for
    /// requests.
    pub(super) fn stay(&mut self) -> bool {
        if !matches!(self.at, At::Asked) {
            return true; // nearly always
        }
        self.at = At::Head;
        let mut spoken = std::mem::take(&mut self.spoken);
        self.look(&mut spoken);
        !matches!(self.at, At::Refused)
    }

    /// Looks at the lines of a head, and tells how many bytes were its own.
    fn head(&mut self, bytes: &mut [u8]) -> usize {
        let mut start = 0;
        while let Some(length) = memchr(b'\n', &bytes[start..]) {
            let end = start + length;
            let is_end = if self.begun.is_empty() {
                self.fields.read(&bytes[start..end])
            } else {
                let mut line = std::mem::take(&mut self.begun);
                line.extend_from_slice(&bytes[start..end]);
                self.fields.read(&line)
            };
            start = end + 1;
            match is_end {
                Line::Middle => {}
                Line::Bare => return self.refuse(bytes, end),
                Line::End => {
                    let fields = std::mem::take(&mut self.fields);
                    self.at = match (fields.is_chunked, fields.length) {
                        (true, Some(_)) => return self.refuse(bytes, end),
                        (true, None) => At::Size(0),
                        (false, Some(length @ 1..)) => At::Body(length),
                        (false, _) if fields.asks_for_upgrade => At::Asked,
                        (false, _) => At::Head,
                    };
                    return start;
                }
            }
        }
        self.begun.extend_from_slice(&bytes[start..]);
        bytes.len()
    }

    fn refuse(&mut self, bytes: &mut [u8], at: usize) -> usize {
        bytes[at] = 0;
        self.at = At::Refused;
        bytes.len()
    }

    /// Goes over bytes of a body, at least one, and tells how many.
    fn body(&mut self, bytes: &[u8]) -> usize {
        let skip = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let byte = bytes[0];
        match self.at {
            At::Body(left) => {
                let count = skip(left);
                self.at = match left - count as u64 {
                    0 => At::Head,
                    left => At::Body(left),
                };
                count
            }
            At::Chunk(left) => {
                let count = skip(left);
                self.at = match left - count as u64 {
                    0 => At::Size(0),
                    left => At::Chunk(left),
                };
                count
            }
            At::Size(size) | At::Extension(size) if byte == b'\n' => {
                self.at =
                    if size == 0 { At::Trailers(Trailer::Empty) } else { At::Chunk(size.saturating_add(2)) };
                1
            }
            At::Size(size) => {
                self.at = match char::from(byte).to_digit(16) {
                    Some(digit) => At::Size(size.saturating_mul(16).saturating_add(digit.into())),
                    None => At::Extension(size),
                };
                1
            }
            At::Trailers(trailer) => {
                self.at = match (trailer, byte) {
                    (Trailer::Empty, b'\r') => At::Trailers(Trailer::EmptyCr),
                    (Trailer::Some, b'\r') => At::Trailers(Trailer::SomeCr),
                    (Trailer::EmptyCr, b'\n') => At::Head,
                    (Trailer::SomeCr, b'\n') => At::Trailers(Trailer::Empty),
                    _ => At::Trailers(Trailer::Some),
                };
                1
            }
            // The rest of the line says nothing about the body's length.
            At::Extension(_) | At::Head | At::Asked | At::Refused => {
                memchr(b'\n', bytes).unwrap_or(bytes.len())
            }
        }
    }
}

/// What a line of a head is.
enum Line {
    Middle,
    /// The empty line.
    End,
    /// One that ends with LF alone.
    Bare,
}

impl Fields {
    /// Reads a line, which comes without its LF.
    fn read(&mut self, line: &[u8]) -> Line {
        let Some((b'\r', line)) = line.split_last() else { return Line::Bare };
        let Some(first) = line.first() else {
            // hyper skips empty lines before a request (RFC 9112 section 2.2).
            return if self.has_request_line { Line::End } else { Line::Middle };
        };
        if !std::mem::replace(&mut self.has_request_line, true) {
            return Line::Middle;
        }
        match first | 0x20 {
            b'c' => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.length = self.length.or(Some(number(value)));
                }
            }
            b't' => self.is_chunked |= value_of(line, b"transfer-encoding").is_some(),
            b'u' => self.asks_for_upgrade |= value_of(line, b"upgrade").is_some(),
            _ => {}
        }
        Line::Middle
    }
}

/// The value of a field of this name, if the line is one.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(b":")?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

/// A length, of which hyper has the last word: what is no number it refuses.
fn number(value: &[u8]) -> u64 {
    let digits = value.trim_ascii().iter();
    digits
        .fold(0, |sum: u64, digit| sum.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0'))))
}

#[cfg(test)]
mod tests;
