//! The client of the HTTP/1.1 cases: it sends the bytes and reads every answer until the line is quiet.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::backend::{all, find};

/// One answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The head without its end.
    pub(super) raw_head: Vec<u8>,
    pub(super) raw_body: Vec<u8>,
    /// Whether its framing says that all of it came.
    pub(super) complete: bool,
    /// What RFC 9112 does not allow.
    pub(super) faults: Vec<String>,
}

/// What came back on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Conversation {
    pub(super) answers: Vec<Answer>,
    pub(super) interims: Vec<u16>,
    /// Whether the proxy closed.
    pub(super) closed: bool,
    /// From the last byte of an answer, or from the start, to the end.
    pub(super) lingered: Duration,
    /// Bytes that are no answer.
    pub(super) rest: Vec<u8>,
}

/// When to stop listening.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// The proxy closed, or says nothing for longer than it may.
    Closed,
    /// So many answers came, and then nothing for a while.
    Answers(usize),
}

/// Sends `bytes` on a connection of its own and listens.
pub(super) fn talk(address: SocketAddr, bytes: &[u8], until: Until) -> Conversation {
    let mut stream = TcpStream::connect(address).expect("the proxy accepts");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(TICK)).unwrap();
    stream.set_write_timeout(Some(LONGEST)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        // A proxy that has refused may read no further; what it says is heard all the same.
        let writing = scope.spawn(move || writer.write_all(bytes));
        let mut reading = Reading::new(bytes);
        let mut last = start;
        let mut piece = [0; 16 * 1024];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break reading.close(),
                Ok(length) => {
                    reading.take(&piece[..length]);
                    last = Instant::now();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break reading.close(),
            }
            let talk = &reading.talk;
            let silence = last.elapsed();
            let is_refused = talk.answers.last().is_some_and(|answer| answer.status >= 400);
            let is_enough = match until {
                Until::Closed => false,
                Until::Answers(count) => talk.answers.len() >= count && !is_refused && silence >= QUIET,
            };
            let is_late = silence >= if talk.answers.is_empty() { LONGEST } else { CLOSING };
            if is_enough || is_late {
                break;
            }
        }
        reading.talk.lingered = last.elapsed();
        let _ = stream.shutdown(Shutdown::Both);
        drop(writing.join());
        reading.end()
    })
}

struct Reading {
    talk: Conversation,
    buffer: Vec<u8>,
    is_head: bool,
}

impl Reading {
    fn new(request: &[u8]) -> Self {
        Self { talk: Conversation::default(), buffer: Vec::new(), is_head: request.starts_with(b"HEAD ") }
    }

    fn take(&mut self, piece: &[u8]) {
        self.buffer.extend(piece);
        while let Some((answer, length)) = parse(&self.buffer, self.is_head, false) {
            self.push(answer, length);
        }
    }

    fn close(&mut self) {
        self.talk.closed = true;
    }

    fn push(&mut self, answer: Answer, length: usize) {
        self.buffer.drain(..length);
        if (100..200).contains(&answer.status) && answer.status != 101 {
            self.talk.interims.push(answer.status);
        } else {
            self.is_head = false; // no case has a second HEAD
            self.talk.answers.push(answer);
        }
    }

    fn end(mut self) -> Conversation {
        if let Some((answer, length)) = parse(&self.buffer, self.is_head, true) {
            self.push(answer, length);
        }
        self.talk.rest = self.buffer;
        self.talk
    }
}

/// The answer at the start of `bytes` and its length, if all of it is there or nothing more will come.
fn parse(bytes: &[u8], is_head: bool, has_ended: bool) -> Option<(Answer, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let mut answer = Answer { raw_head: bytes[..end].to_vec(), ..Answer::default() };
    let text: String = answer.raw_head.iter().copied().map(char::from).collect();
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let number =
        status_line.split(' ').nth(1).filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    if !status_line.starts_with("HTTP/1.") || number.is_none() {
        answer.faults.push(format!("the status line {status_line:?}"));
    }
    answer.status = number.unwrap_or_default();
    for line in lines {
        let is_clean = !line.chars().any(|character| character.is_ascii_control() && character != '\t');
        match line.split_once(':') {
            Some((name, value)) if is_clean && !name.contains(' ') && !name.is_empty() => {
                answer.headers.push((name.to_owned(), value.trim().to_owned()));
            }
            _ => answer.faults.push(format!("the field {line:?}")),
        }
    }
    let start = end + 4;
    let rest = &bytes[start..];
    let (lengths, codings) =
        (all(&answer.headers, "content-length"), all(&answer.headers, "transfer-encoding"));
    if lengths.len() + codings.len() > 1 {
        answer.faults.push(format!("two framings, {lengths:?} and {codings:?}"));
    }
    let has_body = !is_head && !matches!(answer.status, 100..200 | 204 | 304);
    let framed = if !has_body {
        Some((Vec::new(), 0))
    } else if let [coding] = codings[..] {
        if coding != "chunked" {
            answer.faults.push(format!("the coding {coding:?}"));
        }
        chunked(rest)
    } else if let [length] = lengths[..] {
        let length: usize = length.parse().unwrap_or(usize::MAX);
        rest.get(..length).map(|body| (body.to_vec(), length))
    } else {
        has_ended.then(|| (rest.to_vec(), rest.len()))
    };
    let (body, length) = match framed {
        Some(whole) => {
            answer.complete = true;
            whole
        }
        None if has_ended => (rest.to_vec(), rest.len()),
        None => return None,
    };
    (answer.body, answer.raw_body) = (body, rest[..length].to_vec());
    Some((answer, start + length))
}

/// A chunked body without extensions, and how many bytes it takes; none if it is not whole.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = at + find(&bytes[at..], b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..line]).ok()?, 16).ok()?;
        at = line + 2;
        if size == 0 {
            break;
        }
        body.extend(bytes.get(at..at + size)?);
        at += size;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    loop {
        let line = at + find(&bytes[at..], b"\r\n")?;
        let is_end = line == at;
        at = line + 2;
        if is_end {
            return Some((body, at));
        }
    }
}

/// How often it is looked whether to go on listening.
const TICK: Duration = Duration::from_millis(10);

/// A line this long without a byte is quiet.
const QUIET: Duration = Duration::from_millis(60);

/// How long after an answer a connection that has to close may stay open.
const CLOSING: Duration = Duration::from_secs(2);

/// No case may take longer to an answer; the proxy's own limits are far below.
const LONGEST: Duration = Duration::from_secs(5);
