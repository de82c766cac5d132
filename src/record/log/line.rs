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
#[cfg(test)]
use crate::error::{Delivery, Origin, UpstreamErrorKind};
use crate::policy::resume::BreakEnd;
use crate::policy::verdict::Veto;
#[cfg(test)]
use crate::record::ExchangeOutcome;
use crate::record::{AttemptRecord, QueryPolicy, Record, Role};

/// A key as it stands in a line, in one piece with what is around it: `,"name":"`.
macro_rules! key {
    ($name:literal) => {
        Key(concat!(",\"", $name, "\":\""))
    };
}

/// Declares the fields of an object in their order: how each is written, whether it is always there, and what it means.
/// The writer and the table of the reference both come from this, so that neither knows a field that the other lacks.
macro_rules! fields {
    ($write:ident $table:ident |$object:ident, $record:ident: $type:ty|
        $($key:literal $method:ident($($value:expr),+) $presence:ident $meaning:literal $(in $values:expr)?;)+
    ) => {
        #[inline]
        fn $write($object: &mut Object<'_>, $record: &$type) {
            $($object.$method(key!($key), $($value),+);)+
        }

        #[cfg(test)]
        fn $table() -> Vec<reference::Field> {
            vec![$(reference::Field {
                key: $key,
                kind: stringify!($method),
                presence: reference::Presence::$presence,
                meaning: $meaning,
                values: <[Vec<&str>]>::concat(&[$(Vec::from($values))?]),
            }),+]
        }
    };
}

/// Appends the record's line, its line feed included.
pub(super) fn write(record: &Record, line: &mut Vec<u8>) {
    let mut object = Object::begin(line);
    write_exchange(&mut object, record);
    object.end();
    line.push(b'\n');
}

fields! {
    write_exchange exchange_fields |object, record: Record|
    "time" time(record.at) Always
        "When the request head had been read: RFC 3339, in UTC, with six digits of the second's fraction.";
    "id" text(record.id.as_bytes()) Always
        "The id of the exchange, as sent in `X-Request-Id`.";
    "client" address(record.client) Always
        "The client's address, found through the trusted proxies.";
    "client_subject" text(record.client_subject.as_deref().unwrap_or_default().as_bytes()) OrNull
        "The subject of the client certificate; `null` without one.";
    "protocol" word(record.protocol.and_then(protocol)) OrNull
        "The caller's protocol; `null` if the request was refused before it became one."
        in ["HTTP/1.0", "HTTP/1.1", "HTTP/2"];
    "method" text(record.method.as_str().as_bytes()) Always
        "The request method.";
    "host" text(record.target.host()) OrNull
        "The host that the request was routed by.";
    "path" text(record.target.path()) OrNull
        "The path, as received.";
    "query" query(record.target.query(), &record.query) OrNull
        "The query; `***` stands for each value that the route's `log_query` does not allow.";
    "route" text(record.route.as_deref().unwrap_or_default().as_bytes()) OrNull
        "The route; `null` if none matched.";
    "cluster" text(record.cluster.as_deref().unwrap_or_default().as_bytes()) OrNull
        "The route's cluster.";
    "status" number(record.status.into()) Always
        "The status that the caller got, or 499 if the caller left before a response head.";
    "origin" word(Some(record.origin.label())) Always
        "Whose answer it was."
        in Origin::ALL.map(Origin::label);
    "outcome" word(Some(record.outcome.label())) Always
        "How the exchange ended."
        in ExchangeOutcome::ALL.map(ExchangeOutcome::label);
    "error" word(record.error) OrNull
        "The error type of [RFC 9209](https://www.rfc-editor.org/rfc/rfc9209#section-2.3); `null` without an error.";
    "bytes_in" number(record.bytes_in) Always
        "Bytes of the request body that came from the caller.";
    "bytes_out" number(record.bytes_out) Always
        "Bytes of the response body that went to the caller.";
    "duration_us" microseconds(Some(record.duration)) Always
        "The time from the request head to the end of the response body.";
    "time_to_head_us" microseconds(record.time_to_head) OrNull
        "The time from the request head to the response head; `null` if there was none.";
    "outage_wait_us" microseconds(record.outage_wait) OrNull
        "The time in the outage queue, while all of the cluster was down; `null` if the request never waited there.";
    "admission_wait_us" microseconds(record.admission_wait) OrNull
        "The time in the admission queue, while the cluster had all that it carries; `null` if the request never waited there.";
    "user_agent" text(record.target.user_agent()) OrNull
        "The `User-Agent` field.";
    "attempts" attempts(&record.attempts) Always
        "Every attempt, in order; empty if there was none.";
    "retry_stopped" word(record.retry_stopped.map(Veto::label)) OrNull
        "The rule that forbade another attempt after a failed one."
        in Veto::ALL.map(Veto::label);
    "resumed" number(record.resumed.into()) Always
        "How often the rest of a broken answer was joined on.";
    "broken" word(record.broken.map(BreakEnd::label)) OrNull
        "What became of an answer that broke after its head had gone to the caller, at the last break."
        in BreakEnd::ALL.map(BreakEnd::label);
}

fields! {
    write_attempt attempt_fields |object, attempt: AttemptRecord|
    "endpoint" text(attempt.endpoint.as_bytes()) Always
        "The endpoint's address.";
    "hedge" flag(attempt.role == Role::Hedge) OrAbsent
        "`true` for an attempt that was sent beside one that was unanswered.";
    "status" number_if(attempt.result.status()) OrAbsent
        "The status of the response head.";
    "grpc_status" number_if(attempt.result.grpc_status()) OrAbsent
        "The number of the gRPC status, in an answer without a body.";
    "error" word_if(attempt.result.error()) OrAbsent
        "Why the attempt failed; `cancelled` if the exchange ended before it, or another attempt beside it had answered."
        in UpstreamErrorKind::ALL.map(UpstreamErrorKind::label);
    "delivery" word(Some(attempt.delivery.label())) Always
        "How much of the request may have reached the endpoint."
        in [Delivery::Never, Delivery::Maybe, Delivery::Answered].map(Delivery::label);
    "start_us" microseconds(Some(attempt.started)) Always
        "The time from the request head to the start of the attempt.";
    "duration_us" microseconds(Some(attempt.duration)) Always
        "The time from the start of the attempt to the response head, the end of the hold or the error.";
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
    #[inline]
    fn flag(&mut self, key: Key, is_so: bool) {
        if is_so {
            self.key(key);
            self.line.extend_from_slice(b"true");
        }
    }

    #[inline]
    fn number(&mut self, key: Key, number: u64) {
        self.key(key);
        self.line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// A number; without one there is no key.
    #[inline]
    fn number_if(&mut self, key: Key, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    /// One of our own labels; without one there is no key.
    #[inline]
    fn word_if(&mut self, key: Key, word: Option<&str>) {
        if word.is_some() {
            self.word(key, word);
        }
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
            let mut object = Object::begin(self.line);
            write_attempt(&mut object, attempt);
            object.end();
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

/// The first 4 KiB of a text, without a character that the cut would split.
fn cut(text: &[u8]) -> &[u8] {
    let Some(next) = text.get(MAX_TEXT) else { return text };
    let mut next = *next;
    let mut end = MAX_TEXT;
    // A character has at most three continuation bytes; in what is not UTF-8, longer runs of them mean
    // nothing.
    while is_continuation(next) && end > MAX_TEXT - 3 {
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
const MAX_TEXT: usize = 4096;

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
mod reference;
#[cfg(test)]
mod tests;
