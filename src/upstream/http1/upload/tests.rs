//! Bodies of requests as they are sent.

use std::task::Waker;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// A body in parts; none is a pause.
struct Parts(VecDeque<Option<Frame<Bytes>>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.0.pop_front() {
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Ready(None),
        }
    }
}

/// Takes at most so many bytes at once, and none every other time.
struct Narrow {
    width: usize,
    is_open: bool,
    written: Vec<u8>,
}

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_open = !self.is_open;
        if !self.is_open {
            return Poll::Pending;
        }
        let count = self.width.min(bytes.len());
        self.written.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

type Part = Option<Frame<Bytes>>;

/// A part, and none for a pause.
fn data<'a>(text: impl Into<Option<&'a str>>) -> Part {
    text.into().map(|text| Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}

fn send(parts: Vec<Option<Frame<Bytes>>>, plan: Plan, width: usize) -> Result<String, UploadFault> {
    let announced = vec![HeaderName::from_static("x-sum")];
    let mut upload = Upload::new(Some(Parts(parts.into())), plan, Size::Unknown, announced);
    let mut stream = Narrow { width, is_open: false, written: Vec::new() };
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10_000 {
        if let Poll::Ready(sent) = upload.poll(&mut cx, &mut stream) {
            sent?;
            assert!(upload.is_done());
            return Ok(String::from_utf8(stream.written).unwrap());
        }
    }
    panic!("an upload never ends");
}

#[test]
fn a_body_of_known_length_goes_as_it_is() {
    for width in [1, 3, 100] {
        let parts = vec![data("he"), None, data(""), data("llo"), None, None, data(" world")];
        assert_eq!(send(parts, Plan::Length(11), width).unwrap(), "hello world");
        assert_eq!(send(vec![], Plan::Length(0), width).unwrap(), "");
    }
}

#[test]
fn a_body_of_unknown_length_goes_in_chunks_with_its_announced_trailers() {
    let trailers = HeaderMap::from_iter([
        (HeaderName::from_static("x-sum"), HeaderValue::from_static("1")),
        (HeaderName::from_static("x-smuggled"), HeaderValue::from_static("1")),
    ]);
    for width in [1, 3, 100] {
        let parts = vec![data("he"), None, data(""), data("llo, world")];
        let chunks = "2\r\nhe\r\na\r\nllo, world\r\n";
        assert_eq!(send(parts.clone_parts(), Plan::Chunked, width).unwrap(), format!("{chunks}0\r\n\r\n"));
        let mut parts = parts;
        parts.extend([None, Some(Frame::trailers(trailers.clone()))]);
        let sent = send(parts, Plan::Chunked, width).unwrap();
        assert_eq!(sent, format!("{chunks}0\r\nx-sum: 1\r\n\r\n"));
        assert_eq!(send(vec![], Plan::Chunked, width).unwrap(), "0\r\n\r\n");
    }
}

/// Frames cannot be cloned.
trait CloneParts {
    fn clone_parts(&self) -> Self;
}

impl CloneParts for Vec<Option<Frame<Bytes>>> {
    fn clone_parts(&self) -> Self {
        let clone = |frame: &Frame<Bytes>| Frame::data(frame.data_ref().expect("data").clone());
        self.iter().map(|frame| frame.as_ref().map(clone)).collect()
    }
}

#[test]
fn a_body_that_is_not_as_long_as_announced_is_never_sent_as_whole() {
    for (parts, why) in [
        (vec![data("hell")], "shorter"),
        (vec![], "shorter"),
        (vec![data("hello world")], "longer"),
        (vec![data("hell"), None, data("o w")], "longer"),
        (vec![data("hell"), Some(Frame::trailers(HeaderMap::new()))], "shorter"),
    ] {
        let fault = send(parts, Plan::Length(5), 100).unwrap_err();
        assert!(matches!(fault, UploadFault::Body(what) if what.contains(why)), "{fault:?}");
    }
}

/// Notes how long each write is; takes nothing while it is shut.
#[derive(Default)]
struct Noting {
    is_shut: bool,
    writes: Vec<usize>,
}

impl AsyncWrite for Noting {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_shut {
            return Poll::Pending;
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.writes.push(length);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An upload of parts of these lengths, each followed by a pause, and an unknown rest.
fn upload(lengths: &[usize]) -> Upload<Parts> {
    let parts = lengths.iter().flat_map(|&length| [Some(Frame::data(vec![b'x'; length].into())), None]);
    // The body goes on after them, but nobody knows when.
    let parts = parts.chain(std::iter::repeat_with(|| None).take(1000)).collect();
    Upload::new(Some(Parts(parts)), Plan::Length(u64::MAX), Size::Unknown, Vec::new())
}

/// What has been written after each turn.
fn turns<const N: usize>(upload: &mut Upload<Parts>, stream: &mut Noting) -> [Vec<usize>; N] {
    std::array::from_fn(|_| {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(upload.poll(&mut cx, stream).is_pending());
        stream.writes.clone()
    })
}

#[test]
fn parts_that_come_fast_are_written_together() {
    let mut stream = Noting::default();
    let written = turns(&mut upload(&[FAST, 60 << 10, 60 << 10]), &mut stream);
    assert_eq!(written, [vec![], vec![], vec![], vec![FAST + (120 << 10)]]);
}

#[test]
fn a_part_that_does_not_come_fast_is_written_at_once() {
    let written = turns(&mut upload(&[FAST - 1, 1]), &mut Noting::default());
    assert_eq!(written, [[FAST - 1, 1]]);
}

#[test]
fn a_burst_is_written_when_it_is_full() {
    let mut stream = Noting::default();
    let parts = vec![MAX_QUEUED + (16 << 10); MAX_SLICES];
    let written: [Vec<usize>; MAX_SLICES] = turns(&mut upload(&parts), &mut stream);
    let in_one = MAX_IN_BURST.div_ceil(parts[0]);
    assert!(in_one < MAX_SLICES - 1, "bytes fill it, and not pieces");
    assert!(written[in_one - 2].is_empty());
    assert_eq!(written[in_one - 1], [in_one * parts[0]]);
}

#[test]
fn the_end_of_a_body_is_written_at_once() {
    let mut upload = upload(&[64 << 10]);
    upload.plan = Plan::Length(64 << 10);
    let mut stream = Noting::default();
    let sent = upload.poll(&mut Context::from_waker(Waker::noop()), &mut stream);
    assert!(sent.is_ready());
    assert_eq!(stream.writes, [64 << 10]);
}

#[test]
fn slow_endpoints_have_a_bounded_amount_waiting() {
    let parts = vec![16 << 10; 90];
    let mut uploads: Vec<_> = (0..=MAX_BURSTS).map(|_| upload(&parts)).collect();
    let mut stream = Noting { is_shut: true, ..Noting::default() };
    let mut wait = |upload: &mut Upload<Parts>| {
        let _: [Vec<usize>; 100] = turns(upload, &mut stream);
        upload.queued
    };
    // So much fits into the pieces that are written at once.
    let most = (MAX_SLICES - 2) * (16 << 10);
    assert!(most > MAX_QUEUED);
    let queued: Vec<_> = uploads.iter_mut().map(&mut wait).collect();
    assert_eq!(queued[..MAX_BURSTS], [most; MAX_BURSTS]);
    assert_eq!(queued[MAX_BURSTS], MAX_QUEUED);
    uploads.remove(0);
    assert_eq!(wait(&mut upload(&parts)), most, "who ends makes room for another");
    let one = &mut uploads[0];
    stream.is_shut = false;
    let _: [Vec<usize>; 200] = turns(one, &mut stream);
    assert_eq!((one.queued, BURSTS.get()), (0, MAX_BURSTS - 2), "what has been written holds nothing");
    drop(uploads);
    assert_eq!(BURSTS.get(), 0);
}

proptest! {
    #[test]
    fn any_parts_arrive_in_their_order(
        parts in proptest::collection::vec(proptest::option::of("[a-z]{0,9}"), 0..40),
        width in 1usize..50,
    ) {
        let whole: String = parts.iter().flatten().map(String::as_str).collect();
        let frames = || parts.iter().map(|part| data(part.as_deref())).collect();
        prop_assert_eq!(&send(frames(), Plan::Length(whole.len() as u64), width).unwrap(), &whole);
        let sent = send(frames(), Plan::Chunked, width).unwrap();
        let chunks = parts.iter().flatten().filter(|part| !part.is_empty());
        let chunks: Vec<_> = chunks.map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
        prop_assert_eq!(sent, chunks.concat() + "0\r\n\r\n");
    }
}
