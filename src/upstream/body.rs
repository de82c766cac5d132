//! The body of an answer, as it comes from an endpoint or as it was kept.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::upstream::connect::Connection;
use crate::upstream::endpoint::InFlight;
use crate::upstream::http2::body::Multiplexed;
use crate::upstream::pool::Lease;

#[cfg(test)]
pub(crate) mod testing;

/// The body of an answer.
#[derive(Debug)]
pub enum UpstreamBody<B> {
    /// Kept in memory.
    Kept(Option<Bytes>),
    /// As it comes on a stream of a shared connection; boxed, so that an answer over HTTP/1.1 carries no room for it.
    Multiplexed(Box<Multiplexed<B>>),
    /// As it comes from the endpoint. Dropped before its end, it closes the connection.
    Streaming(Streaming<B>),
    /// From a test.
    #[cfg(test)]
    Scripted(testing::ScriptedAnswer),
    /// None: the connection has changed to another protocol.
    Switched(Switched<B>),
}

/// A connection that has changed to another protocol. It counts as a connection of its endpoint, and as an attempt in
/// flight, while it lives.
#[derive(Debug)]
pub struct Switched<B> {
    connection: Box<Connection<B>>,
    _in_flight: InFlight,
}

impl<B> Switched<B> {
    pub(super) fn new(connection: Box<Connection<B>>, in_flight: InFlight) -> Self {
        Self { connection, _in_flight: in_flight }
    }

    /// Its two directions.
    pub fn split(&mut self) -> (impl AsyncRead, impl AsyncWrite) {
        tokio::io::split(self.connection.raw())
    }
}

/// A body that comes from an endpoint.
#[derive(Debug)]
pub struct Streaming<B> {
    silence: Silence,
    flow: Flow<B>,
}

#[derive(Debug)]
enum Flow<B> {
    /// More is to come over this connection.
    Running(Lease<B>),
    /// It broke, which nobody has been told yet.
    Breaking(UpstreamError),
    Broken,
    Ended,
}

impl<B> Streaming<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    fn new(lease: Lease<B>, longest_silence: Duration) -> Self {
        let mut streaming = Self { silence: Silence::new(longest_silence), flow: Flow::Running(lease) };
        streaming.release_at_end();
        streaming
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let Flow::Running(lease) = &mut self.flow else { return Poll::Ready(self.take_error().map(Err)) };
        let Poll::Ready(frame) = lease.poll_body(cx) else {
            if self.silence.poll_too_long(cx).is_pending() {
                return Poll::Pending;
            }
            self.flow = Flow::Broken;
            let kind = UpstreamErrorKind::ResponseIncomplete;
            return Poll::Ready(Some(Err(UpstreamError::new(kind, Delivery::Answered))));
        };
        self.silence.note_frame();
        if let Some(Err(error)) = frame {
            // Whoever writes to the caller throws away on an error what it has not written yet. It gets a turn to do so.
            self.flow = Flow::Breaking(error);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.release_at_end();
        Poll::Ready(frame)
    }

    fn take_error(&mut self) -> Option<UpstreamError> {
        match std::mem::replace(&mut self.flow, Flow::Broken) {
            Flow::Breaking(error) => Some(error),
            flow => {
                self.flow = flow;
                None
            }
        }
    }

    fn release_at_end(&mut self) {
        if matches!(&self.flow, Flow::Running(lease) if lease.is_end_stream())
            && let Flow::Running(lease) = std::mem::replace(&mut self.flow, Flow::Ended)
        {
            lease.end();
        }
    }
}

impl<B> Streaming<B> {
    fn size_hint(&self) -> SizeHint {
        match &self.flow {
            Flow::Running(lease) => lease.size_hint(),
            Flow::Ended => SizeHint::with_exact(0),
            Flow::Breaking(_) | Flow::Broken => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.flow, Flow::Ended)
    }
}

impl<B> UpstreamBody<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// A body that comes over the connection of `lease`, which is given back at its end.
    pub(super) fn streaming(lease: Lease<B>, longest_silence: Duration) -> Self {
        Self::Streaming(Streaming::new(lease, longest_silence))
    }

    /// Whether some of it is still to come from its endpoint.
    pub fn is_coming(&self) -> bool {
        !matches!(self, Self::Kept(_)) && !self.is_end_stream()
    }

    /// Whether it keeps a connection that no other exchange can use meanwhile.
    pub fn is_on_connection(&self) -> bool {
        !matches!(self, Self::Multiplexed(_)) && self.is_coming()
    }
}

impl<B> Body for UpstreamBody<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut *self {
            Self::Kept(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Multiplexed(multiplexed) => multiplexed.poll(cx),
            Self::Streaming(streaming) => streaming.poll(cx),
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.poll(cx),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Kept(bytes) => bytes.is_none(),
            Self::Multiplexed(multiplexed) => multiplexed.is_end_stream(),
            Self::Streaming(streaming) => streaming.is_end_stream(),
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.is_end_stream(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Kept(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Multiplexed(multiplexed) => multiplexed.size_hint(),
            Self::Streaming(streaming) => streaming.size_hint(),
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

/// How long nothing has come. The timer is made when a body first makes us wait: most never do.
#[derive(Debug)]
pub(super) struct Silence {
    longest: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Something came since the timer was set.
    broken: bool,
}

impl Silence {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, timer: None, broken: false }
    }

    /// Notes that something came.
    pub(super) fn note_frame(&mut self) {
        self.broken = true;
    }

    pub(super) fn poll_too_long(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.longest)));
        if std::mem::take(&mut self.broken) {
            timer.as_mut().reset(Instant::now() + self.longest);
        }
        timer.as_mut().poll(cx)
    }
}
