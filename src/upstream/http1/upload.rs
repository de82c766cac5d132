//! Sends the body of a request, as it comes from its source, and what was left of the head.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::encode::{Plan, Size, chunk_begin, chunks_end};
use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};

/// What is still to be sent of a request.
#[derive(Debug)]
pub(crate) struct Upload<B> {
    /// None once nothing more is wanted of it.
    body: Option<B>,
    /// For a length, what is left of it.
    plan: Plan,
    /// What was known of the body at first.
    size: Size,
    /// The trailers that may be sent.
    announced: Vec<HeaderName>,
    /// What comes next on the wire.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// There while more than [`MAX_QUEUED`] may wait.
    burst: Option<Burst>,
    /// The last chunk lacks its end.
    in_chunk: bool,
}

/// Why a request could not be sent whole.
#[derive(Debug)]
pub(crate) enum UploadFault {
    /// Its body broke, or is not as long as its head says.
    Body(&'static str),
    /// The connection broke.
    Connection(io::Error),
}

impl UploadFault {
    pub(crate) fn into_error(self, delivery: Delivery) -> UpstreamError {
        match self {
            Self::Body(what) => {
                UpstreamError::because(UpstreamErrorKind::ConnectionTerminated, delivery, what)
            }
            Self::Connection(error) => UpstreamError::broken(error, delivery),
        }
    }
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(crate) fn new(body: Option<B>, plan: Plan, size: Size, announced: Vec<HeaderName>) -> Self {
        let body = body.filter(|_| plan != Plan::Length(0));
        Self { body, plan, size, announced, queue: VecDeque::new(), queued: 0, burst: None, in_chunk: false }
    }

    /// Sends what there is, until all has been sent.
    pub(crate) fn poll<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<Result<(), UploadFault>>
    where
        S: AsyncWrite + Unpin,
    {
        loop {
            let before = self.queued;
            while self.has_room() {
                if self.poll_part(cx)?.is_pending() {
                    if self.queued - before < FAST {
                        break;
                    }
                    // The next part is worth a turn of the other tasks, one of which reads it: few large writes wake the
                    // endpoint less often than many small ones.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if self.queue.is_empty() {
                self.burst = None;
                return if self.body.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let count = self.gather(&mut slices);
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..count]));
            match written.map_err(UploadFault::Connection)? {
                0 => return Poll::Ready(Err(UploadFault::Connection(io::ErrorKind::WriteZero.into()))),
                written => self.advance(written),
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.body.is_none() || self.queue.len() + 2 >= MAX_SLICES {
            return false;
        }
        if self.queued >= MAX_QUEUED && self.burst.is_none() {
            self.burst = Burst::begin();
        }
        self.queued < if self.burst.is_some() { MAX_IN_BURST } else { MAX_QUEUED }
    }

    /// Takes the next part of the body into the queue.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, UploadFault> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { return Ok(Poll::Pending) };
        match frame {
            Some(Err(_)) => return Err(UploadFault::Body("the body of the request broke")),
            Some(Ok(frame)) => self.take(frame)?,
            None => self.end(None)?,
        }
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), UploadFault> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok().as_ref()),
        };
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.plan {
            Plan::Length(left) => {
                let rest = left.checked_sub(data.len() as u64);
                *left = rest.ok_or(UploadFault::Body("the body of the request is longer than its length"))?;
                if *left == 0 {
                    self.body = None;
                }
            }
            Plan::Chunked => {
                let begin = chunk_begin(data.len(), self.in_chunk);
                self.in_chunk = true;
                self.push(begin);
            }
        }
        self.push(data);
        if self.body.as_ref().is_some_and(Body::is_end_stream) {
            self.end(None)?;
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), UploadFault> {
        self.body = None;
        match self.plan {
            Plan::Length(0) => {}
            Plan::Length(_) => {
                return Err(UploadFault::Body("the body of the request is shorter than its length"));
            }
            Plan::Chunked => self.push(chunks_end(trailers, &self.announced, self.in_chunk)),
        }
        Ok(())
    }

    fn push(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }
}

impl<B> Upload<B> {
    /// What was known of the body before any of it was read.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Puts what was left of the head before all else.
    pub(crate) fn push_head(&mut self, rest: Bytes) {
        self.queued += rest.len();
        self.queue.push_front(rest);
    }

    /// Shows what comes next; gives the number of slices.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(bytes);
        }
        slices.len().min(self.queue.len())
    }

    /// Takes note that so many bytes have been written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.queued = self.queued.saturating_sub(written);
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.queue.pop_front();
        }
    }

    /// Whether all of it has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.body.is_none() && self.queue.is_empty()
    }
}

/// Lets an upload collect up to [`MAX_IN_BURST`]. Few on a thread may at once: endpoints can be slow to take it.
#[derive(Debug)]
struct Burst(());

thread_local! {
    static BURSTS: Cell<usize> = const { Cell::new(0) };
}

impl Burst {
    fn begin() -> Option<Self> {
        (BURSTS.get() < MAX_BURSTS).then(|| {
            BURSTS.set(BURSTS.get() + 1);
            Self(())
        })
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        BURSTS.set(BURSTS.get() - 1);
    }
}

/// No more is taken from a body while so much of it waits to be written.
const MAX_QUEUED: usize = 64 << 10;

/// The same in a burst.
const MAX_IN_BURST: usize = 1 << 20;

/// The bursts of a thread, of 16 MiB together.
const MAX_BURSTS: usize = 16;

/// A body of which so much comes in one turn comes fast. Fewer than a record of TLS or a frame of HTTP/2 holds.
const FAST: usize = 8 << 10;

/// The most pieces that are written at once.
pub(crate) const MAX_SLICES: usize = 16;

#[cfg(test)]
mod tests;
