//! The body of an answer that comes on a stream of a shared connection.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::upstream::body::Silence;
use crate::upstream::pool::StreamLease;

/// A body on a stream. Dropped before its end, it resets the stream.
#[derive(Debug)]
pub struct Multiplexed<B> {
    incoming: RecvStream,
    /// What the announced length leaves to come.
    left: Option<u64>,
    silence: Silence,
    stage: Stage,
    lease: Option<StreamLease<B>>,
    /// Whether the head came before the request had been sent whole.
    came_early: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Data,
    Trailers,
    Ended,
}

impl<B> Multiplexed<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// The body of `response`, whose stream is free again when it has ended.
    pub(in crate::upstream) fn of(
        response: Response<RecvStream>,
        lease: StreamLease<B>,
        longest_silence: Duration,
    ) -> Response<Self> {
        let left = length(response.headers());
        response.map(|incoming| {
            let mut body = Self {
                came_early: lease.is_uploading(),
                incoming,
                left,
                silence: Silence::new(longest_silence),
                stage: Stage::Data,
                lease: Some(lease),
            };
            if body.incoming.is_end_stream() {
                body.end();
            }
            body
        })
    }

    pub(in crate::upstream) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let Poll::Ready(frame) = self.poll_incoming(cx) else {
            ready!(self.silence.poll_too_long(cx));
            return Poll::Ready(Some(Err(self.fail(None))));
        };
        self.silence.note_frame();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.end();
                }
                Some(Ok(frame))
            }
            None => {
                self.end();
                None
            }
            Some(Err(error)) if self.is_complete(&error) => {
                self.end();
                None
            }
            Some(Err(error)) => Some(Err(self.fail(Some(error)))),
        })
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.stage == Stage::Data {
            match ready!(self.incoming.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The caller takes it now. An error would say that the stream has ended, which the next look tells.
                    let _ = self.incoming.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.stage = Stage::Trailers,
            }
        }
        if self.stage == Stage::Ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.incoming.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    /// Whether a reset stream has brought the whole answer: an endpoint that wants no more of a request says so by a
    /// reset after its answer (RFC 9113 section 8.1), and h2 then forgets that the answer had ended.
    fn is_complete(&self, error: &h2::Error) -> bool {
        self.came_early
            && error.is_remote()
            && error.is_reset()
            && error.reason() == Some(Reason::NO_ERROR)
            && self.left.is_none_or(|left| left == 0)
    }

    fn fail(&mut self, error: Option<h2::Error>) -> UpstreamError {
        self.stage = Stage::Ended;
        self.lease = None;
        let mut failure = match error {
            Some(error) => UpstreamError::http2(error, Delivery::Answered),
            None => UpstreamError::new(UpstreamErrorKind::ResponseIncomplete, Delivery::Answered),
        };
        (failure.kind, failure.delivery) = (UpstreamErrorKind::ResponseIncomplete, Delivery::Answered);
        failure
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.lease = None;
    }

    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.stage == Stage::Ended
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

/// The announced length; h2 has refused one that is no number, and holds the data to it.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
