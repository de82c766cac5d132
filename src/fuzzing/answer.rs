//! An answer read by the pure part of the HTTP/1.1 codec alone, in any pieces, for one run of a fuzzer.

use http::{HeaderMap, Response};

use crate::fuzzing::strict::{self, text};
use crate::upstream::http1::Fault;
use crate::upstream::http1::chunked::Decoded;
use crate::upstream::http1::decode::Decoder;
use crate::upstream::http1::head::{Framing, HeadReader, Persistence, Question};

/// What was read of a connection that carries one answer.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) head: Option<Response<()>>,
    pub(crate) framing: Option<Framing>,
    pub(crate) persistence: Persistence,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// The bytes of the answer, interim ones included.
    pub(crate) used: usize,
    /// How the answer ended, if it did.
    pub(crate) end: Option<Result<(), Fault>>,
}

impl Reading {
    /// Reads `pieces`, after which the connection is closed.
    pub(crate) fn of<'a>(
        pieces: impl IntoIterator<Item = &'a [u8]>,
        question: Question,
        limit: usize,
    ) -> Self {
        let mut reading = Self {
            head: None,
            framing: None,
            persistence: Persistence::Close,
            data: Vec::new(),
            trailers: None,
            used: 0,
            end: None,
        };
        let mut reader = HeadReader::new(question, limit);
        let mut decoder = None;
        for piece in pieces {
            let ended = reading.read(piece, &mut reader, &mut decoder);
            if let Some(end) = ended.transpose() {
                reading.end = Some(end);
                return reading;
            }
        }
        reading.end = Some(match &mut decoder {
            None => Err(reader.end()),
            Some(decoder) => decoder.close(),
        });
        reading
    }

    /// Reads a piece; tells when the answer has ended.
    fn read(
        &mut self,
        piece: &[u8],
        reader: &mut HeadReader,
        decoder: &mut Option<Decoder>,
    ) -> Result<Option<()>, Fault> {
        let mut begin = 0;
        if decoder.is_none() {
            let Some((head, used)) = reader.read(piece)? else {
                self.used += piece.len();
                return Ok(None);
            };
            begin = used;
            self.used += used;
            *decoder = Some(Decoder::new(head.framing));
            (self.framing, self.persistence) = (Some(head.framing), head.persistence);
            self.head = Some(head.response);
        }
        let Some(decoder) = decoder else { return Ok(None) };
        let mut rest = piece[begin..].to_vec();
        let Decoded { data, used } = decoder.decode(&mut rest)?;
        assert!(used <= rest.len() && data.end <= used, "{data:?} of {used}");
        self.used += used;
        self.data.extend_from_slice(&rest[data]);
        if !decoder.is_ended() {
            assert_eq!(used, rest.len(), "what comes before the end is all of the body");
            return Ok(None);
        }
        self.trailers = decoder.take_trailers()?;
        Ok(Some(()))
    }
}

/// Whatever an endpoint answers: it is read alike in whatever pieces it comes, no more is kept of it than came, and
/// where a strict reader finds an answer, ours finds the same. The first byte chooses the question, the second the
/// pieces, the others are the answer.
pub fn response_decoder(bytes: &[u8]) {
    let [choice, cut, answer @ ..] = bytes else { return };
    let (question, method) =
        if choice % 2 == 0 { (Question::Other, "GET") } else { (Question::Head, "HEAD") };
    let limit = if choice & 2 == 0 { 64 << 10 } else { 512 };
    let whole = Reading::of([answer], question, limit);
    let mut random = fastrand::Rng::with_seed((*cut).into());
    let mut pieces = Vec::new();
    let mut rest = answer;
    while !rest.is_empty() {
        let longest = if *cut == 0 { 1 } else { usize::from(*cut) };
        let (piece, after) = rest.split_at(random.usize(1..=longest).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    let cut = Reading::of(pieces, question, limit);
    check_alike(&whole, &cut, answer);
    assert!(whole.data.len() <= answer.len());
    if whole.end == Some(Ok(())) {
        check_strict(&whole, answer, method);
    }
}

fn check_alike(whole: &Reading, cut: &Reading, answer: &[u8]) {
    let shown = || text(answer);
    assert_eq!(whole.end, cut.end, "{}", shown());
    assert_eq!((whole.framing, whole.persistence), (cut.framing, cut.persistence), "{}", shown());
    let head = |reading: &Reading| {
        reading.head.as_ref().map(|head| (head.status(), head.version(), head.headers().clone()))
    };
    assert_eq!(head(whole), head(cut), "{}", shown());
    // Of a body that breaks, more is delivered where it came in pieces.
    if whole.end == Some(Ok(())) {
        assert_eq!(
            (&whole.data, &whole.trailers, whole.used),
            (&cut.data, &cut.trailers, cut.used),
            "{}",
            shown()
        );
    }
}

/// What the strict reader takes for an answer is as long as we take it for, and of the same status.
fn check_strict(reading: &Reading, answer: &[u8], method: &str) {
    let mut at = 0;
    loop {
        let Ok(Some(message)) = strict::response(&answer[at..], method) else { return };
        let Some(length) = message.length else { return };
        at += length;
        if message.is_final() {
            let status = message.status();
            assert_eq!(status, reading.head.as_ref().map(|head| head.status().as_u16()), "{}", text(answer));
            assert_eq!(at, reading.used, "{}", text(answer));
            return;
        }
    }
}

#[cfg(test)]
mod tests;
