//! The client of the HTTP/2 cases, which speaks in frames, and what must follow them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::backend::Received;
use super::cases::{Case, Expect, latin1};
use super::judge::{self, Wrong};

/// What came back on one connection.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// Final statuses; 0 where the status is one that only a whole HPACK decoder could tell.
    pub(super) statuses: Vec<u16>,
    /// How many answers came whole.
    pub(super) ended: usize,
    /// The codes of the streams that were reset.
    pub(super) resets: Vec<u32>,
    /// The code of GOAWAY.
    pub(super) goaway: Option<u32>,
    pub(super) max_streams: Option<u32>,
    pub(super) closed: bool,
    /// Whether all bytes could be sent.
    pub(super) sent: bool,
}

/// Both sides of a case.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) talk: Conversation,
    pub(super) requests: Vec<Received>,
    pub(super) rows: usize,
    /// By how many bytes the proxy grew.
    pub(super) growth: u64,
}

/// Sends the case's bytes and listens until it is told, or nothing more comes.
pub(super) fn talk(address: SocketAddr, case: &Case, expect: Expect) -> Conversation {
    let bytes = bytes(case);
    let mut stream = TcpStream::connect(address).expect("the proxy accepts");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(TICK)).unwrap();
    stream.set_write_timeout(Some(LONGEST)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || writer.write_all(&bytes).is_ok());
        let (mut talk, mut buffer) = (Conversation::default(), Vec::new());
        let (mut last, mut piece) = (Instant::now(), [0; 16 * 1024]);
        loop {
            match stream.read(&mut piece) {
                Ok(0) => talk.closed = true,
                Ok(length) => {
                    buffer.extend(&piece[..length]);
                    take_frames(&mut buffer, &mut talk);
                    last = Instant::now();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => talk.closed = true,
            }
            let is_told = match expect {
                Expect::GoawayAndClose => writing.is_finished() && is_absorbable(case),
                _ => talk.ended > 0 || !talk.resets.is_empty() || talk.goaway.is_some(),
            };
            let silence = last.elapsed();
            if talk.closed || is_told && writing.is_finished() && silence >= QUIET || silence >= LONGEST {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        talk.sent = writing.join().unwrap_or(false);
        talk
    })
}

/// `raw` and what is repeated after it.
fn bytes(case: &Case) -> Vec<u8> {
    let mut bytes = case.bytes();
    let Some(unit) = &case.repeat_unit else { return bytes };
    if unit.starts_with("<HEADERS") {
        for number in 0..u32::try_from(case.repeat_times).expect("a moderate number") {
            bytes.extend(headers_frame(1 + 2 * number));
        }
        return bytes;
    }
    // Silence is what it is about, and a byte in 5 s is silence to a proxy that waits for less.
    if unit.starts_with('<') {
        return bytes;
    }
    let repeated = latin1(unit).repeat(case.repeat_times);
    if unit.len() < FRAME_HEAD {
        let mut last = PREFACE;
        while let Some(length) = frame_length(&bytes[last..]).filter(|length| last + length < bytes.len()) {
            last += length;
        }
        let length = u32::try_from(bytes.len() - last - FRAME_HEAD + repeated.len()).expect("one frame");
        bytes[last..last + 3].copy_from_slice(&length.to_be_bytes()[1..]);
    }
    bytes.extend(repeated);
    bytes
}

/// The head of a POST whose body is still to come.
fn headers_frame(stream: u32) -> Vec<u8> {
    let block = b"\0\x07:method\x04POST\0\x07:scheme\x04http\0\x0a:authority\x01a\0\x05:path\x03/h2";
    let length = u8::try_from(block.len()).expect("a short block");
    [&[0, 0, length, HEADERS, END_HEADERS][..], &stream.to_be_bytes(), block].concat()
}

/// The length of the frame at the start of `bytes`, its head included.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..FRAME_HEAD)?;
    Some(FRAME_HEAD + (usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])))
}

fn take_frames(buffer: &mut Vec<u8>, talk: &mut Conversation) {
    while let Some(length) = frame_length(buffer).filter(|length| *length <= buffer.len()) {
        let frame: Vec<u8> = buffer.drain(..length).collect();
        let (kind, flags, payload) = (frame[3], frame[4], &frame[FRAME_HEAD..]);
        let number = |at: usize| {
            payload.get(at..at + 4).map(|four| u32::from_be_bytes(four.try_into().expect("four bytes")))
        };
        match kind {
            HEADERS => {
                let status = status(payload);
                if !(100..200).contains(&status) {
                    talk.statuses.push(status);
                }
            }
            RST_STREAM => talk.resets.extend(number(0)),
            SETTINGS => {
                let setting = payload.chunks_exact(6).find(|entry| entry[..2] == [0, MAX_CONCURRENT_STREAMS]);
                let value =
                    setting.map(|entry| u32::from_be_bytes(entry[2..].try_into().expect("four bytes")));
                talk.max_streams = talk.max_streams.or(value);
            }
            GOAWAY => talk.goaway = talk.goaway.or(number(4)),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            talk.ended += 1;
        }
    }
}

/// The status at the start of a header block, as h2 writes it: from the static table, or a literal of three digits.
fn status(block: &[u8]) -> u16 {
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest, // a new size of the dynamic table, below 31
        block => block,
    };
    let literal =
        |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        [0x08 | 0x18 | 0x48, 3, text @ ..] if text.len() >= 3 => literal(&text[..3]),
        [0x08 | 0x18 | 0x48, length, text @ ..] if length & 0x80 != 0 => literal(&digits(text)),
        _ => 0,
    }
}

/// Three digits in HPACK's Huffman code: 0 to 2 have five bits, the others six.
fn digits(code: &[u8]) -> Vec<u8> {
    let mut bits = code.iter().take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    bits <<= 8 * (4 - code.len().min(3));
    let mut digits = Vec::new();
    for _ in 0..3 {
        let (five, six) = (bits >> 27, bits >> 26);
        let (digit, length) = if five < 3 { (five, 5) } else { (six.wrapping_sub(0b01_1001) + 3, 6) };
        digits.push(b'0' + u8::try_from(digit).unwrap_or(0));
        bits <<= length;
    }
    digits
}

/// What is wrong; nothing if the case has passed.
pub(super) fn judge(case: &Case, expect: Expect, seen: &Seen) -> Vec<String> {
    let mut wrong = Wrong::default();
    let Seen { talk, requests, rows, growth } = seen;
    let complete: Vec<&Received> = requests.iter().filter(|request| request.complete).collect();
    let is_refusal = |status: &u16| matches!(status, 400..=499 | 501 | 505);
    let is_stream_error = talk.closed
        || talk.goaway.is_some()
        || !talk.resets.is_empty()
        || !talk.statuses.is_empty() && talk.statuses.iter().all(is_refusal);
    let is_rejected = is_stream_error && complete.is_empty();
    let is_forwarded = complete.len() == 1
        && complete[0].target == "/h2"
        && talk.statuses == [200]
        && talk.ended == 1
        && talk.resets.iter().all(|code| *code == NO_ERROR);
    let holds = match expect {
        Expect::ForwardNormalised | Expect::TrailersFiltered => is_forwarded,
        Expect::RejectOrForward => is_rejected || is_forwarded,
        Expect::StreamError | Expect::StreamErrorUnlessEnabled => is_rejected,
        Expect::GoawayAndClose => {
            let is_only_refused = talk.statuses.contains(&431) || !talk.resets.is_empty();
            talk.closed || is_absorbable(case) && talk.sent || is_header_list(case) && is_only_refused
        }
        Expect::RefusedStream => {
            talk.max_streams.is_some() && (talk.resets.contains(&REFUSED_STREAM) || talk.goaway.is_some())
        }
        Expect::StreamTimeout => requests.len() == 1 && (talk.closed || !talk.resets.is_empty()),
        Expect::RequestTimeout => {
            complete.is_empty() && (talk.closed || talk.statuses == [408] || !talk.resets.is_empty())
        }
        _ => false,
    };
    wrong.unless(holds, || format!("not {expect:?}: {talk:?}, {} complete requests", complete.len()));
    for request in requests {
        wrong.unless(!request.target.starts_with("/smuggled"), || "a request was smuggled".into());
        wrong.unless(request.faults.is_empty(), || format!("the backend got {:?}", request.faults));
    }
    // What the backend did for a caller that was cut off is on record all the same.
    wrong.unless(complete.len() <= *rows, || format!("{rows} rows for {} requests", complete.len()));
    let most = case.assert.max_rss_growth_mb.unwrap_or(MAX_GROWTH) << 20;
    wrong.unless(*growth <= most, || format!("it grew by {growth} bytes"));
    judge::backend_assertions(case, requests, &mut wrong);
    wrong.0
}

/// Floods of SETTINGS, PING and PRIORITY cost little, and may also be taken in or held back.
fn is_absorbable(case: &Case) -> bool {
    let unit = case.repeat_unit.as_deref().map(latin1).unwrap_or_default();
    matches!(unit.get(3), Some(&(SETTINGS | PING | PRIORITY)))
}

/// A header list over the limit may be refused without the end of the connection.
fn is_header_list(case: &Case) -> bool {
    let unit = case.repeat_unit.as_deref().map(latin1).unwrap_or_default();
    !unit.is_empty() && (unit.len() < FRAME_HEAD || unit[3] == CONTINUATION)
}

/// The bytes before the first frame.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;

const MAX_CONCURRENT_STREAMS: u8 = 3;

const TICK: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// How many MiB a case may cost that names no number.
const MAX_GROWTH: u64 = 32;
