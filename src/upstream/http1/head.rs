//! Reads the head of an answer, and finds out what follows it (RFC 9112 sections 2 to 6).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::{Fault, spare};
use crate::policy::authentication::binds_connection;

/// The head of a final answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    pub(crate) persistence: Persistence,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Chunked,
    /// So many bytes; 0 where there is no body.
    Length(u64),
    /// Bytes of another protocol.
    Switched,
    UntilClosed,
}

/// Whether the connection can carry another exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    Close,
    Keep,
}

/// What of a request decides how its answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// HEAD: no body follows, whatever the head announces.
    Head,
    Other,
}

impl From<&Method> for Question {
    fn from(method: &Method) -> Self {
        if *method == Method::HEAD { Self::Head } else { Self::Other }
    }
}

/// Reads the head of one answer, in whatever pieces it comes. Interim answers before it are passed over.
#[derive(Debug)]
pub(crate) struct HeadReader {
    question: Question,
    /// The most bytes of a head.
    limit: usize,
    /// What has come of a head that is not whole: mostly a head comes in one piece, and nothing is kept.
    partial: BytesMut,
    /// Below this length another look at `partial` pays only if a line has ended there that was empty.
    look_again: usize,
    interims: u32,
}

impl HeadReader {
    /// Reads the answer to `question`.
    pub(crate) fn new(question: Question, limit: usize) -> Self {
        Self { question, limit, partial: BytesMut::new(), look_again: 0, interims: 0 }
    }

    /// Takes what has come. Once the head is whole, it tells how many of `bytes` belong to it.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Option<(Head, usize)>, Fault> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            let before = self.partial.len();
            let parsed = if before == 0 {
                parse(within(rest, self.limit), self.question)?
            } else {
                self.partial.extend_from_slice(within(rest, self.limit.saturating_sub(before)));
                let length = self.partial.len();
                let is_due = length >= self.look_again.min(self.limit)
                    || has_empty_line(&self.partial[before.saturating_sub(3)..]);
                if !is_due {
                    return Ok(None);
                }
                parse(&self.partial, self.question)?
            };
            match parsed {
                Some(Parsed::Final(head, length)) => {
                    self.partial = BytesMut::new();
                    return Ok(Some((head, used + length.saturating_sub(before))));
                }
                Some(Parsed::Interim(length)) => {
                    self.interims += 1;
                    if self.interims > MAX_INTERIMS {
                        return Err(Fault::Malformed("interim answers without end"));
                    }
                    self.partial.clear();
                    self.look_again = 0;
                    used += length.saturating_sub(before);
                }
                None => {
                    if before == 0 {
                        self.partial.extend_from_slice(within(rest, self.limit));
                    }
                    if self.partial.len() >= self.limit {
                        return Err(Fault::HeadTooLarge);
                    }
                    // A head that comes byte by byte is not parsed from its start for each.
                    self.look_again = self.partial.len() * 2;
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// What is wrong with an answer whose connection ends here.
    pub(crate) fn end(&mut self) -> Fault {
        match parse(&self.partial, self.question) {
            Err(fault) if !self.partial.is_empty() => fault,
            _ => Fault::Incomplete,
        }
    }
}

fn within(bytes: &[u8], limit: usize) -> &[u8] {
    &bytes[..bytes.len().min(limit)]
}

fn has_empty_line(bytes: &[u8]) -> bool {
    let is_end = |at: usize| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
    bytes.iter().enumerate().any(|(at, byte)| *byte == b'\n' && is_end(at))
}

/// A head that is whole, and its length.
enum Parsed {
    Final(Head, usize),
    /// One that another follows.
    Interim(usize),
}

fn parse(bytes: &[u8], question: Question) -> Result<Option<Parsed>, Fault> {
    let mut slots = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut rules = ParserConfig::default();
    // It goes no further, as a proxy has to see to (RFC 9112 section 5.1).
    rules.allow_spaces_after_header_name_in_responses(true);
    let length = match rules.parse_response_with_uninit_headers(&mut parsed, bytes, &mut slots) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::HeadTooLarge),
        Err(_) => return Err(Fault::Malformed("not the head of an answer")),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Fault::Malformed("not a status"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(Parsed::Interim(length)));
    }
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let (mut headers, says) = read_fields(bytes, length, parsed.headers)?;
    let (framing, persistence) = settle(status, version, question, &says)?;
    if says.encoding.is_some() && matches!(framing, Framing::Chunked) && says.has_length {
        headers.remove(CONTENT_LENGTH);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    let reason = parsed.reason.unwrap_or_default();
    if status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Parsed::Final(Head { response, framing, persistence }, length)))
}

/// What the fields of a head say about what follows.
#[derive(Default)]
struct Says {
    close: bool,
    keep_alive: bool,
    /// The connection has become one user's.
    is_bound: bool,
    encoding: Option<Encoding>,
    has_length: bool,
    /// None if it is no number, or several that differ.
    length: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Chunked,
    /// Another, or several: nobody has asked for any, and we could not undo it.
    Other,
}

impl Says {
    fn note(&mut self, name: &HeaderName, value: &[u8]) {
        if *name == CONNECTION {
            self.close |= list(value).any(|word| word.eq_ignore_ascii_case(b"close"));
            self.keep_alive |= list(value).any(|word| word.eq_ignore_ascii_case(b"keep-alive"));
        } else if *name == CONTENT_LENGTH {
            for word in list(value) {
                let length = number(word);
                let is_first = !self.has_length;
                self.length = length.filter(|length| is_first || self.length == Some(*length));
                self.has_length = true;
            }
        } else if *name == TRANSFER_ENCODING {
            let is_chunked = self.encoding.is_none() && value.eq_ignore_ascii_case(b"chunked");
            self.encoding = Some(if is_chunked { Encoding::Chunked } else { Encoding::Other });
        }
    }
}

fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// A length: digits and nothing else, no sign, no blank, and no more of them than a number of ours holds (RFC 9110 section
/// 8.6).
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    let push = |number: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    if digits.is_empty() { None } else { digits.iter().try_fold(0, push) }
}

/// Makes a map of the fields of a head, which is `length` bytes long. Their values share one copy of it, so that
/// whoever keeps one does not keep all that was read with it.
fn read_fields(bytes: &[u8], length: usize, fields: &[Header<'_>]) -> Result<(HeaderMap, Says), Fault> {
    let (mut headers, mut says) = (spare::take(), Says::default());
    headers.reserve(fields.len());
    let origin = bytes.as_ptr().addr();
    let begin = fields.first().map_or(length, |field| field.name.as_ptr().addr() - origin);
    let copy = Bytes::copy_from_slice(&bytes[begin..length]);
    for field in fields {
        let malformed = || Fault::Malformed("a field that is none");
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let at = field.value.as_ptr().addr() - origin - begin;
            HeaderValue::from_maybe_shared(copy.slice(at..at + field.value.len())).map_err(|_| malformed())?
        };
        says.note(&name, field.value);
        says.is_bound |= binds_connection(field.name, field.value);
        headers.append(name, value);
    }
    Ok((headers, says))
}

/// RFC 9112 sections 6.3 and 9.3.
fn settle(
    status: StatusCode,
    version: Version,
    question: Question,
    says: &Says,
) -> Result<(Framing, Persistence), Fault> {
    let is_old = version == Version::HTTP_10;
    let is_kept = !says.close && !says.is_bound && (!is_old || says.keep_alive);
    let persistence = if is_kept { Persistence::Keep } else { Persistence::Close };
    Ok(match (status.as_u16(), says.encoding) {
        (101, _) => (Framing::Switched, Persistence::Close),
        (204 | 304, _) => (Framing::Length(0), persistence),
        _ if question == Question::Head => (Framing::Length(0), persistence),
        (_, Some(_)) if is_old => return Err(Fault::Malformed("a transfer coding in HTTP/1.0")),
        (_, Some(Encoding::Other)) => {
            return Err(Fault::Malformed("a transfer coding that nobody asked for"));
        }
        // Whoever sends both may have been made to: what follows such an answer is not to be trusted.
        (_, Some(Encoding::Chunked)) if says.has_length => (Framing::Chunked, Persistence::Close),
        (_, Some(Encoding::Chunked)) => (Framing::Chunked, persistence),
        (_, None) if says.has_length => {
            let length = says.length.ok_or(Fault::Malformed("a length that is none"))?;
            (Framing::Length(length), persistence)
        }
        (_, None) => (Framing::UntilClosed, Persistence::Close),
    })
}

/// The most fields of a head, as hyper has it.
pub(super) const MAX_FIELDS: usize = 100;

/// The most interim answers before a final one.
const MAX_INTERIMS: u32 = 128;

#[cfg(test)]
mod tests;
