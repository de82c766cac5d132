//! An answer held back until its body has come whole, so that one that breaks can still be retried.
//!
//! # Invariant
//!
//! An answer is held only where one that breaks could be made good. Size, time and memory are limited; only answers
//! share that memory. A body that is there with its head costs one look, no timer and no allocation. Held by `what_nothing_could_follow_is_not_held`,
//! `over_the_processes_memory_nothing_is_held` and `an_answer_that_is_there_with_its_head_was_not_held`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::error::UpstreamError;
use crate::policy::hold::{HoldEnd, HoldLimits};
use crate::policy::share::Holder;
use crate::proxy::pieces::{FirmBytes, FirmMemory, Origin, Pieces};
use crate::proxy::replay::AttemptBody;
use crate::record::metrics::RouteMetrics;
use crate::upstream::body::UpstreamBody;

/// The body of an answer on its way to the caller.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// Nothing of it has been read.
    Direct(UpstreamBody<AttemptBody>),
    /// What was read of it, and what may follow; boxed, so that other answers carry no room for it.
    Held(Box<Held>),
}

/// Part of an answer, and the body that brings the rest.
#[derive(Debug)]
pub(crate) struct Held {
    pieces: Pieces,
    trailers: Option<HeaderMap>,
    /// None once it has ended.
    rest: Option<UpstreamBody<AttemptBody>>,
    /// What the pieces take of the process's memory for answers.
    reserved: FirmBytes,
    /// When something last came.
    last: Instant,
}

/// What a hold keeps to, and where it is counted.
pub(super) struct Hold<'a> {
    pub(super) limits: HoldLimits,
    /// The exchange's deadline, which no hold outlasts.
    pub(super) deadline: Option<std::time::Instant>,
    pub(super) memory: &'a Arc<FirmMemory>,
    pub(super) holder: Holder,
    pub(super) metrics: &'a RouteMetrics,
}

impl Hold<'_> {
    /// Waits until `answer` is whole or a limit is reached. An error says that it broke.
    pub(super) async fn until_whole(
        &self,
        answer: Response<UpstreamBody<AttemptBody>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<Response<AnswerBody>, UpstreamError> {
        let (head, mut body) = answer.into_parts();
        let began = match self.first_look(&mut body).await {
            FirstLook::Whole(bytes) => {
                return Ok(Response::from_parts(head, AnswerBody::Direct(UpstreamBody::Kept(bytes))));
            }
            FirstLook::Broken(error) => {
                self.metrics.held(HoldEnd::Broken).inc();
                return Err(error);
            }
            FirstLook::Some(frame) => Some(frame),
            FirstLook::Nothing => None,
        };
        let mut ahead = Held::new(body, FirmBytes::new(self.memory.clone(), self.holder));
        let ended = match began.and_then(|frame| ahead.take(frame, self.limits.size)) {
            Some(end) => Ok(end),
            None => self.read_ahead(&mut ahead, timer.as_mut()).await,
        };
        self.metrics.held(*ended.as_ref().unwrap_or(&HoldEnd::Broken)).inc();
        ended.map(|_| Response::from_parts(head, ahead.into_body()))
    }

    /// Looks once at what has come with the head: for most answers that is all, and then nothing was held.
    async fn first_look(&self, body: &mut UpstreamBody<AttemptBody>) -> FirstLook {
        poll_fn(|cx| {
            Poll::Ready(match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => FirstLook::Nothing,
                Poll::Ready(None) => FirstLook::Whole(None),
                Poll::Ready(Some(Err(error))) => FirstLook::Broken(error),
                Poll::Ready(Some(Ok(frame))) if body.is_end_stream() && frame.is_data() => {
                    FirstLook::Whole(frame.into_data().ok().filter(|bytes| !bytes.is_empty()))
                }
                Poll::Ready(Some(Ok(frame))) => FirstLook::Some(frame),
            })
        })
        .await
    }

    async fn read_ahead(
        &self,
        held: &mut Held,
        mut timer: Pin<&mut Sleep>,
    ) -> Result<HoldEnd, UpstreamError> {
        let began = held.last;
        let until = |last: Instant| -> Instant {
            self.limits.until(began.into_std(), last.into_std(), self.deadline).into()
        };
        let mut is_set = false;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = held.poll_ahead(cx, self.limits.size) {
                    return Poll::Ready(ended);
                }
                // The timer is moved when it fires, not with each part.
                let end = until(held.last);
                if is_set {
                    ready!(timer.as_mut().poll(cx));
                    if end <= Instant::now() {
                        return Poll::Ready(Ok(HoldEnd::Time));
                    }
                }
                timer.as_mut().reset(end);
                is_set = true;
            }
        })
        .await
    }
}

/// What of a body is there with its head.
enum FirstLook {
    Broken(UpstreamError),
    Nothing,
    Some(Frame<Bytes>),
    Whole(Option<Bytes>),
}

impl Held {
    fn new(rest: UpstreamBody<AttemptBody>, reserved: FirmBytes) -> Box<Self> {
        let (pieces, last) = (Pieces::default(), Instant::now());
        Box::new(Self { pieces, trailers: None, rest: Some(rest), reserved, last })
    }

    /// Reads until there is a reason to hold the answer no longer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<Result<HoldEnd, UpstreamError>> {
        loop {
            let Some(rest) = &mut self.rest else { return Poll::Ready(Ok(HoldEnd::Whole)) };
            match ready!(Pin::new(rest).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Some(end) = self.take(frame, limit) {
                        return Poll::Ready(Ok(end));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => self.rest = None,
            }
        }
    }

    /// Takes what came, be it over a limit or not: it has been read.
    fn take(&mut self, frame: Frame<Bytes>, limit: usize) -> Option<HoldEnd> {
        self.last = Instant::now();
        let end = match frame.into_data() {
            Ok(part) => self.take_part(&part, limit),
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                self.rest = None; // nothing follows them
                None
            }
        };
        if self.rest.as_ref().is_none_or(Body::is_end_stream) {
            self.rest = None;
            return Some(HoldEnd::Whole);
        }
        end
    }

    fn take_part(&mut self, part: &Bytes, limit: usize) -> Option<HoldEnd> {
        if part.is_empty() {
            return None; // an endpoint could send any number of these
        }
        let fits = self.pieces.length().saturating_add(part.len()) <= limit;
        let growth = self.pieces.growth(part.len(), Origin::Endpoint, usize::MAX);
        let is_reserved = fits && self.reserved.grow(growth.memory);
        self.pieces.add(part, if is_reserved { growth } else { growth.uncounted() });
        match (fits, is_reserved) {
            (true, true) => None,
            (true, false) => Some(HoldEnd::Memory),
            (false, _) => Some(HoldEnd::Size),
        }
    }

    /// Reads until the answer is whole, or is not to be had in `limit` bytes.
    pub(super) async fn read_small(&mut self, limit: usize) -> Result<(), UpstreamError> {
        poll_fn(|cx| {
            while self.size_hint().lower() <= limit as u64 {
                let Some(rest) = &mut self.rest else { break };
                match ready!(Pin::new(rest).poll_frame(cx)) {
                    Some(Ok(frame)) => drop(self.take(frame, limit)),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => self.rest = None,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The answer as it goes on to the caller. A whole one in one part is as good as one that was never held.
    pub(super) fn into_body(mut self: Box<Self>) -> AnswerBody {
        if self.rest.is_none() && self.trailers.is_none() && self.pieces.is_single() {
            return AnswerBody::Direct(UpstreamBody::Kept(self.pieces.pop().map(|piece| piece.bytes)));
        }
        AnswerBody::Held(self)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if let Some(piece) = self.pieces.pop() {
            self.reserved.shrink(piece.memory);
            return Poll::Ready(Some(Ok(Frame::data(piece.bytes))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.length() == 0
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.pieces.length() as u64;
        let rest = match &self.rest {
            Some(rest) => rest.size_hint(),
            // Behind an announced length HTTP/1.1 has no place for trailers.
            None if self.trailers.is_some() => SizeHint::default(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(held.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(held.saturating_add(upper));
        }
        hint
    }
}

impl From<UpstreamBody<AttemptBody>> for AnswerBody {
    fn from(body: UpstreamBody<AttemptBody>) -> Self {
        Self::Direct(body)
    }
}

impl AnswerBody {
    /// The body as one that can be read before its caller takes it, counted in `memory`.
    pub(super) fn into_held(self, memory: &Arc<FirmMemory>, holder: Holder) -> Box<Held> {
        match self {
            Self::Direct(body) => Held::new(body, FirmBytes::new(memory.clone(), holder)),
            Self::Held(held) => held,
        }
    }

    /// Whether some of it is still to come from an endpoint.
    pub(super) fn is_coming(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_coming(),
            Self::Held(held) => held.rest.is_some(),
        }
    }

    /// Whether it keeps a connection that no other exchange can use meanwhile.
    pub(super) fn is_on_connection(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_on_connection(),
            Self::Held(held) => held.rest.as_ref().is_some_and(UpstreamBody::is_on_connection),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut *self {
            Self::Direct(body) => Pin::new(body).poll_frame(cx),
            Self::Held(held) => held.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Held(held) => held.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct(body) => body.size_hint(),
            Self::Held(held) => held.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests;
