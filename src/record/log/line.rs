//! What stands in a line: the fields of a [`Record`] as one JSON object, and how bytes from outside become
//! JSON texts.
//!
//! A line is valid JSON and exactly one line, whatever bytes came in: what is not UTF-8 becomes U+FFFD, and
//! every character that some viewer takes for the end of a line or for a command is escaped. A text of more
//! than 4 KiB is cut there, and ends in `…`. What is absent or empty is `null`.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::Version;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

use super::query;
use crate::policy::resume::BreakEnd;
use crate::policy::retry::Veto;
use crate::record::{AttemptRecord, AttemptResult, QueryPolicy, Record, Role};

/// A key as it stands in a line, in one piece with what is around it: `,"name":"`.
macro_rules! key {
    ($name:literal) => {
        Key(concat!(",\"", $name, "\":\""))
    };
}

/// Appends the record's line, its line feed included.
pub(super) fn write(record: &Record, line: &mut Vec<u8>) {
    let mut object = Object::begin(line);
    object.time(key!("time"), record.at);
    object.text(key!("id"), record.id.as_bytes());
    object.address(key!("client"), record.client);
    object.text(key!("client_subject"), record.client_subject.as_deref().unwrap_or_default().as_bytes());
    object.word(key!("protocol"), record.protocol.and_then(protocol));
    object.text(key!("method"), record.method.as_str().as_bytes());
    object.text(key!("host"), record.target.host());
    object.text(key!("path"), record.target.path());
    object.query(key!("query"), record.target.query(), &record.query);
    object.text(key!("route"), record.route.as_deref().unwrap_or_default().as_bytes());
    object.text(key!("cluster"), record.cluster.as_deref().unwrap_or_default().as_bytes());
    object.number(key!("status"), record.status.into());
    object.word(key!("origin"), Some(record.origin.label()));
    object.word(key!("outcome"), Some(record.outcome.label()));
    object.word(key!("error"), record.error);
    object.number(key!("bytes_in"), record.bytes_in);
    object.number(key!("bytes_out"), record.bytes_out);
    object.microseconds(key!("duration_us"), Some(record.duration));
    object.microseconds(key!("time_to_head_us"), record.time_to_head);
    object.microseconds(key!("outage_wait_us"), record.outage_wait);
    object.microseconds(key!("admission_wait_us"), record.admission_wait);
    object.text(key!("user_agent"), record.target.user_agent());
    object.attempts(key!("attempts"), &record.attempts);
    object.word(key!("retry_stopped"), record.retry_stopped.map(Veto::label));
    object.number(key!("resumed"), record.resumed.into());
    object.word(key!("broken"), record.broken.map(BreakEnd::label));
    object.end();
    line.push(b'\n');
}

/// A key of ours, which needs no escape: [`key!`] makes it.
#[derive(Clone, Copy)]
struct Key(&'static str);

/// A JSON object under way. Keys and small values go in as few pieces as possible: each costs a look at the room left.
struct Object<'a> {
    line: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Object<'a> {
    fn begin(line: &'a mut Vec<u8>) -> Self {
        let start = line.len();
        Self { line, start }
    }

    /// The comma before the first key becomes the brace.
    fn end(self) {
        self.line[self.start] = b'{';
        self.line.push(b'}');
    }

    /// Begins a value that is no text.
    #[inline]
    fn key(&mut self, key: Key) {
        self.line.extend_from_slice(&key.0.as_bytes()[..key.0.len() - 1]);
    }

    /// Begins a text, with its quote.
    #[inline]
    fn text_key(&mut self, key: Key) {
        self.line.extend_from_slice(key.0.as_bytes());
    }

    #[inline]
    fn null(&mut self, key: Key) {
        self.key(key);
        self.line.extend_from_slice(b"null");
    }

    /// One of our own labels, none of which holds anything to escape.
    #[inline]
    fn word(&mut self, key: Key, word: Option<&str>) {
        let Some(word) = word else { return self.null(key) };
        self.text_key(key);
        self.line.extend_from_slice(word.as_bytes());
        self.line.push(b'"');
    }

    /// A text from outside, or from the configuration.
    #[inline]
    fn text(&mut self, key: Key, text: &[u8]) {
        self.pieces(key, text, escape);
    }

    fn query(&mut self, key: Key, query: &[u8], policy: &QueryPolicy) {
        self.pieces(key, query, |line, query| query::pieces(query, policy, |piece| escape(line, piece)));
    }

    /// A text that `fill` makes of at most the first 4 KiB of `source`.
    fn pieces(&mut self, key: Key, source: &[u8], fill: impl FnOnce(&mut Vec<u8>, &[u8])) {
        if source.is_empty() {
            return self.null(key);
        }
        let kept = cut(source);
        self.text_key(key);
        fill(self.line, kept);
        if kept.len() < source.len() {
            self.line.extend_from_slice("…".as_bytes());
        }
        self.line.push(b'"');
    }

    fn address(&mut self, key: Key, address: IpAddr) {
        self.text_key(key);
        match address {
            // Every line has one, and `write!` would cost as much as a third of the rest.
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.line.push(b'.');
                    }
                    self.line.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
                }
            }
            IpAddr::V6(address) => write!(self.line, "{address}").expect(MEMORY),
        }
        self.line.push(b'"');
    }

    /// Something that is so; what is not so has no key.
    fn flag(&mut self, key: Key) {
        self.key(key);
        self.line.extend_from_slice(b"true");
    }

    #[inline]
    fn number(&mut self, key: Key, number: u64) {
        self.key(key);
        self.line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn microseconds(&mut self, key: Key, duration: Option<Duration>) {
        match duration {
            Some(duration) => self.number(key, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)),
            None => self.null(key),
        }
    }

    /// RFC 3339, in UTC, always with six digits of the second's fraction.
    fn time(&mut self, key: Key, time: SystemTime) {
        // A clock outside the years -9999 to 9999 is wrong anyway; 1970 is at least plainly so.
        let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
        self.text_key(key);
        PRINTER.print_timestamp(&time, &mut *self.line).expect(MEMORY);
        self.line.push(b'"');
    }

    fn attempts(&mut self, key: Key, attempts: &[AttemptRecord]) {
        self.key(key);
        self.line.push(b'[');
        for (place, attempt) in attempts.iter().enumerate() {
            if place > 0 {
                self.line.push(b',');
            }
            write_attempt(attempt, self.line);
        }
        self.line.push(b']');
    }
}

/// The name of a protocol, as in `SERVER_PROTOCOL` and as other logs have it.
fn protocol(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("HTTP/1.0"),
        Version::HTTP_11 => Some("HTTP/1.1"),
        Version::HTTP_2 => Some("HTTP/2"),
        _ => None,
    }
}

fn write_attempt(attempt: &AttemptRecord, line: &mut Vec<u8>) {
    let mut object = Object::begin(line);
    object.text(key!("endpoint"), attempt.endpoint.as_bytes());
    if attempt.role == Role::Hedge {
        object.flag(key!("hedge"));
    }
    match attempt.result {
        AttemptResult::Status(status) => object.number(key!("status"), status.into()),
        AttemptResult::Grpc(status, grpc) => {
            object.number(key!("status"), status.into());
            object.number(key!("grpc_status"), grpc.number().into());
        }
        AttemptResult::Error(kind) => object.word(key!("error"), Some(kind)),
        AttemptResult::Cancelled => object.word(key!("error"), Some("cancelled")),
    }
    object.word(key!("delivery"), Some(attempt.delivery.label()));
    object.microseconds(key!("start_us"), Some(attempt.started));
    object.microseconds(key!("duration_us"), Some(attempt.duration));
    object.end();
}

/// The first 4 KiB of a text, without a character that the cut would split.
fn cut(text: &[u8]) -> &[u8] {
    let Some(next) = text.get(LONGEST_TEXT) else { return text };
    let mut next = *next;
    let mut end = LONGEST_TEXT;
    // A character has at most three continuation bytes; in what is not UTF-8, longer runs of them mean
    // nothing.
    while is_continuation(next) && end > LONGEST_TEXT - 3 {
        end -= 1;
        next = text[end];
    }
    &text[..end]
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

fn escape(line: &mut Vec<u8>, text: &[u8]) {
    // Nearly every text is of this kind, and is copied whole.
    if text.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        line.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            escape_character(line, character);
        }
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_character(line: &mut Vec<u8>, character: char) {
    match character {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        // JSON asks for C0 only. DEL and C1 hold commands to terminals and U+0085, a line end to some
        // viewers, as U+2028 and U+2029 are; the marks for writing direction make a line read other than it
        // is.
        '\0'..='\u{1f}'
        | '\u{7f}'..='\u{9f}'
        | '\u{200e}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => write!(line, "\\u{:04x}", u32::from(character)).expect(MEMORY),
        _ => line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Bytes of a text beyond which it is cut.
const LONGEST_TEXT: usize = 4096;

/// The bytes that stand in a JSON text as they are.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

const MEMORY: &str = "writing to memory succeeds";

#[cfg(test)]
mod tests;
