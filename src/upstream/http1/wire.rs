//! The bytes of one connection: a request out, its answer in, and so on, at the pace of whoever polls.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Fault;
use super::buffer::{Buffer, FIRST_READ, MAX_READ};
use super::chunked::Decoded;
use super::decode::Decoder;
use super::encode::{self, Plan, Size};
use super::head::{Framing, Head, HeadReader, Persistence, Question};
use super::upload::{MAX_SLICES, Upload, UploadFault};
use crate::error::{Delivery, UpstreamError};
use crate::upstream::stream::Stream;

/// The body of a request until its connection has it.
#[derive(Debug)]
pub(in crate::upstream) enum Outgoing<B> {
    /// It may not be read before the head has been written: if that fails, the request goes another way.
    Untouched(B),
    /// The request goes to an HTTP/1.1 connection, if not to this one then to another: its first part is written together
    /// with the head.
    Eager(B),
    /// A part has been read.
    Begun(Box<Upload<B>>),
    /// A connection has it.
    Gone,
}

/// What came of a request.
#[derive(Debug)]
pub(in crate::upstream) struct Answer {
    pub(in crate::upstream) head: Response<()>,
    pub(in crate::upstream) body: Start,
}

/// How the body of an answer begins.
#[derive(Debug)]
pub(in crate::upstream) enum Start {
    /// It comes by [`Wire::poll_body`].
    Flowing,
    /// The connection speaks another protocol now.
    Switched,
    /// All of it came with the head, and the connection is free.
    Whole(Option<Bytes>),
}

/// Why a request brought no answer.
#[derive(Debug)]
pub(in crate::upstream) enum Unanswered {
    /// It was sent, at least in part, or cannot be sent at all.
    Failed(UpstreamError),
    /// Not a byte of it was: it is still there.
    Unsent,
}

/// A connection without the state that a pool keeps of it. While it is idle it holds no buffer.
#[derive(Debug)]
pub(in crate::upstream) struct Wire<B> {
    stream: Stream,
    /// The most bytes of a head.
    limit: usize,
    stage: Stage,
    /// What is still to be sent, be the answer here or not.
    upload: Option<Box<Upload<B>>>,
    /// Something waits inside TLS.
    is_unflushed: bool,
    /// Data of the body that nobody has taken yet.
    data: Bytes,
    /// The most bytes of the body that the next read takes.
    reach: usize,
    persistence: Persistence,
}

#[derive(Debug)]
enum Stage {
    Body(Decoder),
    /// In the body of an answer that is none.
    Broken(Fault),
    Head(HeadReader),
    /// Between two exchanges.
    Idle,
    /// Good for no other exchange.
    Spent,
    Switched,
}

impl<B> Outgoing<B>
where
    B: Body,
{
    /// The body, if nothing of it has been read.
    pub(in crate::upstream) fn into_body(self) -> Option<B> {
        match self {
            Self::Untouched(body) | Self::Eager(body) => Some(body),
            Self::Begun(_) | Self::Gone => None,
        }
    }

    fn size(&self) -> Size {
        match self {
            Self::Untouched(body) | Self::Eager(body) if !body.is_end_stream() => {
                body.size_hint().exact().map_or(Size::Unknown, Size::Known)
            }
            Self::Begun(upload) => upload.size(),
            _ => Size::None,
        }
    }
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads the first part of the body, if it is there and may be read.
    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        head: &Parts,
        plan: Plan,
        size: Size,
    ) -> Result<(), UploadFault> {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Eager(body) if size != Size::None => {
                let mut upload = Box::new(upload(head, body, plan, size));
                let _ = upload.poll_part(cx)?;
                Self::Begun(upload)
            }
            body => body,
        };
        Ok(())
    }

    /// Hands the body over to the connection that has the head.
    fn go(&mut self, head: &Parts, plan: Plan, size: Size) -> Option<Box<Upload<B>>> {
        match std::mem::replace(self, Self::Gone) {
            Self::Begun(upload) => Some(upload),
            Self::Untouched(body) if size != Size::None => Some(Box::new(upload(head, body, plan, size))),
            _ => None,
        }
    }
}

fn upload<B>(head: &Parts, body: B, plan: Plan, size: Size) -> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    Upload::new(Some(body), plan, size, encode::announced_trailers(&head.headers))
}

impl<B> Wire<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// A connection on which nothing has been said yet. A head of more than `limit` bytes is refused.
    pub(in crate::upstream) fn new(stream: Stream, limit: usize) -> Self {
        Self {
            stream,
            limit,
            stage: Stage::Idle,
            upload: None,
            is_unflushed: false,
            data: Bytes::new(),
            reach: FIRST_READ,
            persistence: Persistence::Keep,
        }
    }

    /// Sends a request and waits for the head of its answer, however long that takes. Dropped, it leaves a connection
    /// that is in the middle of an exchange, if `outgoing` has gone.
    pub(in crate::upstream) fn send(
        &mut self,
        head: &Parts,
        outgoing: &mut Outgoing<B>,
    ) -> impl Future<Output = Result<Answer, Unanswered>> {
        poll_fn(|cx| self.poll_send(cx, head, outgoing))
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        head: &Parts,
        outgoing: &mut Outgoing<B>,
    ) -> Poll<Result<Answer, Unanswered>> {
        if matches!(self.stage, Stage::Idle) {
            ready!(self.poll_begin(cx, head, outgoing))?;
        }
        self.poll_answer(cx).map_err(Unanswered::Failed)
    }

    /// Writes as much of a request as fits at once. From the first byte on it is the connection's.
    fn poll_begin(
        &mut self,
        cx: &mut Context<'_>,
        head: &Parts,
        outgoing: &mut Outgoing<B>,
    ) -> Poll<Result<(), Unanswered>> {
        let mut bytes = HEAD.take();
        bytes.clear();
        let begun = self.poll_begin_with(cx, head, outgoing, &mut bytes);
        if bytes.capacity() <= MAX_KEPT {
            HEAD.set(bytes);
        }
        begun
    }

    fn poll_begin_with(
        &mut self,
        cx: &mut Context<'_>,
        head: &Parts,
        outgoing: &mut Outgoing<B>,
        bytes: &mut Vec<u8>,
    ) -> Poll<Result<(), Unanswered>> {
        let size = outgoing.size();
        let (plan, persistence) = encode::head(bytes, head, size)
            .map_err(|fault| Unanswered::Failed(fault.into_error(Delivery::Never)))?;
        outgoing
            .begin(cx, head, plan, size)
            .map_err(|fault| Unanswered::Failed(fault.into_error(Delivery::Never)))?;
        let written = match ready!(self.poll_write_with(cx, bytes, outgoing)) {
            Ok(written @ 1..) => written,
            // What TLS was given it may have sent in part before it failed.
            Err(error) if self.stream.is_secured() => {
                return Poll::Ready(Err(Unanswered::Failed(UpstreamError::broken(error, Delivery::Maybe))));
            }
            Ok(0) | Err(_) => return Poll::Ready(Err(Unanswered::Unsent)),
        };
        let mut upload = outgoing.go(head, plan, size);
        if written < bytes.len() {
            let rest = Bytes::copy_from_slice(&bytes[written..]);
            upload.get_or_insert_with(|| Box::new(Upload::new(None, plan, size, Vec::new()))).push_head(rest);
        } else if let Some(upload) = &mut upload {
            upload.advance(written - bytes.len());
        }
        self.upload = upload.filter(|upload| !upload.is_done());
        self.is_unflushed = self.stream.is_secured();
        self.persistence = persistence;
        let question = Question::from(&head.method);
        self.stage = Stage::Head(HeadReader::new(question, self.limit));
        Poll::Ready(Ok(()))
    }

    /// Writes the head and what is there of the body.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        head: &[u8],
        outgoing: &Outgoing<B>,
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let Outgoing::Begun(upload) = outgoing else { return stream.poll_write(cx, head) };
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        slices[0] = IoSlice::new(head);
        let count = 1 + upload.gather(&mut slices[1..]);
        stream.poll_write_vectored(cx, &slices[..count])
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, UpstreamError>> {
        if let Poll::Ready(Err(fault)) = self.poll_upload(cx) {
            match fault {
                UploadFault::Body(_) => {
                    return Poll::Ready(Err(self.spend(fault.into_error(Delivery::Maybe))));
                }
                // It may have answered before it closed.
                UploadFault::Connection(_) => self.give_up_upload(),
            }
        }
        loop {
            let buffer = match ready!(self.poll_read(cx, FIRST_READ)) {
                Ok(buffer) => buffer,
                Err(error) => {
                    return Poll::Ready(Err(self.spend(UpstreamError::broken(error, Delivery::Maybe))));
                }
            };
            let Stage::Head(reader) = &mut self.stage else {
                return Poll::Ready(Err(self.spend(Fault::Incomplete.into_error(Delivery::Maybe))));
            };
            let read = if buffer.is_empty() { Err(reader.end()) } else { reader.read(&buffer) };
            match read {
                Ok(None) => {}
                Ok(Some((head, used))) => {
                    return Poll::Ready(self.answer(head, buffer, used));
                }
                Err(fault) => return Poll::Ready(Err(self.spend(fault.into_error(Delivery::Maybe)))),
            }
        }
    }

    /// Makes an answer of a head, which took the first `used` bytes of `buffer`, and what came with it.
    fn answer(&mut self, head: Head, mut buffer: Buffer, used: usize) -> Result<Answer, UpstreamError> {
        let Head { response: head, framing, persistence } = head;
        if persistence == Persistence::Close {
            self.persistence = persistence;
        }
        if framing == Framing::Switched {
            if self.upload.is_some() {
                let what = Fault::Malformed("a change of protocol inside a request");
                return Err(self.spend(what.into_error(Delivery::Maybe)));
            }
            let rest = used..buffer.len();
            self.data = buffer.extract(rest);
            self.stage = Stage::Switched;
            return Ok(Answer { head, body: Start::Switched });
        }
        self.reach = FIRST_READ;
        let mut decoder = Decoder::new(framing);
        let piece = decoder.decode(&mut buffer[used..]);
        self.stage = Stage::Body(decoder);
        self.take(piece, buffer, used);
        let is_whole = matches!(framing, Framing::Length(_)) && self.end_if_whole();
        let body = if is_whole {
            Start::Whole(Some(std::mem::take(&mut self.data)).filter(|data| !data.is_empty()))
        } else {
            Start::Flowing
        };
        Ok(Answer { head, body })
    }

    /// Reads on in the body of the answer. What is left of the request is sent by [`Wire::poll_rest`], which may wait for
    /// other things.
    pub(in crate::upstream) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        loop {
            if !self.data.is_empty() {
                let data = std::mem::take(&mut self.data);
                self.end_if_whole();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let Stage::Body(decoder) = &mut self.stage else {
                return Poll::Ready(self.take_fault().map(Err));
            };
            if decoder.is_ended() {
                let trailers = decoder.take_trailers();
                self.end();
                return Poll::Ready(match trailers {
                    Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
                    Err(fault) => Some(Err(self.spend(fault.into_error(Delivery::Answered)))),
                });
            }
            let most = decoder.worth_reading(self.reach);
            match ready!(self.poll_read(cx, most)) {
                Ok(buffer) if buffer.is_empty() => self.close(),
                Ok(mut buffer) => {
                    if buffer.len() == self.reach {
                        self.reach = (2 * self.reach).min(MAX_READ);
                    }
                    let Stage::Body(decoder) = &mut self.stage else { continue };
                    let piece = decoder.decode(&mut buffer);
                    self.take(piece, buffer, 0);
                }
                Err(error) => {
                    return Poll::Ready(Some(Err(
                        self.spend(UpstreamError::broken(error, Delivery::Answered))
                    )));
                }
            }
        }
    }

    /// Sends what is left of the request, and ends when there is nothing left, or no way for it.
    pub(in crate::upstream) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_upload(cx)).is_err() {
            self.give_up_upload();
        }
        Poll::Ready(())
    }

    /// Takes what was decoded of the bytes behind the first `before` of `buffer`.
    fn take(&mut self, piece: Result<Decoded, Fault>, buffer: Buffer, before: usize) {
        match piece {
            Ok(Decoded { data, used }) => {
                if before + used < buffer.len() {
                    // The endpoint has said what nobody asked for; what it says next is nobody's either.
                    self.persistence = Persistence::Close;
                }
                self.data = buffer.extract(data.start + before..data.end + before);
            }
            Err(fault) => self.stage = Stage::Broken(fault),
        }
    }

    /// Takes note that the endpoint has closed the connection inside a body.
    fn close(&mut self) {
        self.persistence = Persistence::Close;
        if let Stage::Body(decoder) = &mut self.stage
            && let Err(fault) = decoder.close()
        {
            self.stage = Stage::Broken(fault);
        }
    }

    /// Ends the exchange, if nothing of its answer is left.
    fn end_if_whole(&mut self) -> bool {
        let is_whole = matches!(&self.stage, Stage::Body(decoder) if decoder.is_whole());
        if is_whole {
            self.end();
        }
        is_whole
    }

    fn end(&mut self) {
        self.stage = match self.persistence {
            Persistence::Keep => Stage::Idle,
            Persistence::Close => Stage::Spent,
        };
    }

    /// Ends the connection's use with an error.
    fn spend(&mut self, error: UpstreamError) -> UpstreamError {
        self.stage = Stage::Spent;
        self.upload = None;
        error
    }

    fn take_fault(&mut self) -> Option<UpstreamError> {
        let Stage::Broken(fault) = self.stage else { return None };
        Some(self.spend(fault.into_error(Delivery::Answered)))
    }

    fn give_up_upload(&mut self) {
        self.upload = None;
        self.is_unflushed = false;
        self.persistence = Persistence::Close;
        if matches!(self.stage, Stage::Idle) {
            self.stage = Stage::Spent;
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFault>> {
        if let Some(upload) = &mut self.upload {
            self.is_unflushed = self.stream.is_secured();
            let sent = upload.poll(cx, &mut self.stream);
            if sent.is_pending() && self.is_unflushed {
                // What could not be taken waits for this as well.
                let _ = Pin::new(&mut self.stream).poll_flush(cx);
            }
            ready!(sent)?;
            self.upload = None;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(UploadFault::Connection)?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until the rest of the request has been sent, after the answer has ended; false if the connection will never
    /// take another.
    pub(in crate::upstream) async fn settle(&mut self) -> bool {
        poll_fn(|cx| {
            let is_sent = match self.poll_upload(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => false,
            };
            if self.poll_news(cx).is_ready() {
                return Poll::Ready(false);
            }
            if is_sent { Poll::Ready(self.is_ready()) } else { Poll::Pending }
        })
        .await
    }
}

impl<B> Wire<B> {
    fn poll_read(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Buffer>> {
        Buffer::poll_read(Pin::new(&mut self.stream), cx, most)
    }

    /// Whether it waits for a request.
    pub(in crate::upstream) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Idle) && self.upload.is_none() && !self.is_unflushed
    }

    /// Whether something of the request has not been sent.
    pub(in crate::upstream) fn is_sending(&self) -> bool {
        self.upload.is_some() || self.is_unflushed
    }

    /// Whether it will never take another request.
    pub(in crate::upstream) fn is_spent(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// Whether the endpoint has closed the idle connection or said something, as far as is known without asking the
    /// system. `waker` is woken when there is news.
    pub(in crate::upstream) fn has_news(&mut self, waker: &Waker) -> bool {
        self.stream.may_have_news() && self.poll_news(&mut Context::from_waker(waker)).is_ready()
    }

    /// Waits until the endpoint closes the idle connection, or says something on it.
    pub(in crate::upstream) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(drop)
    }

    /// Whether nothing of the answer is left.
    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Spent) && self.data.is_empty()
    }

    /// What is known of the rest of the answer's body.
    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        let data = self.data.len() as u64;
        match &self.stage {
            Stage::Body(decoder) => decoder.size_hint(data),
            Stage::Broken(_) => SizeHint::default(),
            _ => SizeHint::with_exact(data),
        }
    }

    /// The connection itself, after a change of protocol.
    pub(in crate::upstream) fn raw(&mut self) -> Raw<'_> {
        Raw { ahead: &mut self.data, stream: &mut self.stream }
    }
}

/// A connection that carries no HTTP.
#[derive(Debug)]
pub(in crate::upstream) struct Raw<'a> {
    /// What came together with the end of HTTP.
    ahead: &'a mut Bytes,
    stream: &'a mut Stream,
}

impl AsyncRead for Raw<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut *self.stream).poll_read(cx, buffer);
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Raw<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

thread_local! {
    /// Where heads of requests are written.
    static HEAD: Cell<Vec<u8>> = Cell::default();
}

/// A larger head's memory is not kept for the next.
const MAX_KEPT: usize = 64 << 10;

#[cfg(test)]
mod tests;
