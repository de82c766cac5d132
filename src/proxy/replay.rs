//! A request body that can be sent again: copied while it streams, never collected first.
//!
//! # Invariant
//!
//! A request body is copied while it streams, and never beyond two limits: one per exchange, one for the process.
//! Over the first the copy goes; over the second `policy::share` says whose. The request never does. A copy that is to be
//! sent again stays. Held by `over_its_limit_the_copy_is_dropped_and_the_stream_goes_on` and
//! `a_copy_that_is_secured_stays_and_may_go_once_it_has_been_sent`.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error as ThisError;
use tokio::time::{Instant, timeout};

use crate::error::{ProxyError, RequestFault};
use crate::fields::rules::Side;
use crate::policy::deadline::{Stall, Upload};
use crate::policy::request::BodyState;
use crate::policy::resume::RequestBody as Presence;
use crate::policy::share::GivenUp;
use crate::proxy::body::RequestBody;
use crate::proxy::headers;
use crate::proxy::pieces::{Copy, Origin, Original, ReplayMemory};

/// What an exchange may keep of its request body.
#[derive(Clone, Debug)]
pub(crate) struct ReplayLimits {
    /// The most bytes to keep; 0 where no retry could need them.
    pub(crate) keep: usize,
    /// The largest body that the route takes.
    pub(crate) max_body: u64,
    /// The process-wide account.
    pub(crate) memory: Arc<ReplayMemory>,
    /// Whose body it is.
    pub(crate) client: IpAddr,
    /// The most memory that a part of it keeps alive.
    pub(crate) read_buffer: usize,
}

/// The request body of an exchange, from which each attempt gets its own [`AttemptBody`].
#[derive(Debug)]
pub(crate) struct Replay {
    /// None if the request has no body: then there is nothing to share, copy or count.
    state: Option<Rc<RefCell<State>>>,
    /// When the exchange began.
    began: Instant,
}

#[derive(Debug)]
struct State {
    source: RequestBody,
    /// The largest body that the route takes.
    max_body: u64,
    /// The most bytes to keep.
    keep: usize,
    /// None where no retry could need one, or it would be too large.
    copy: Option<Copy>,
    /// Whether the copy is kept from other exchanges.
    is_secured: bool,
    /// What came after the body; hyper bounds it.
    trailers: Option<HeaderMap>,
    received: u64,
    /// The length that the caller announced.
    announced: Option<u64>,
    ended: Option<Instant>,
    waiting_for: WaitingFor,
    /// Since when.
    since: Instant,
    /// How long the caller was waited for before that, in all.
    waited: Duration,
    /// The same for the upstream, less what it took.
    stall: Stall,
    fault: Option<ProxyError>,
    /// The attempt that may read; an older one whose connection is still closing must not take its bytes.
    reader: u32,
    /// Whoever waits for the end of the body.
    end_waker: Option<Waker>,
    /// Whether the attempt gets no more of it. It is not told, so that the answer that it has is not cut off.
    is_withheld: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitingFor {
    Caller,
    Upstream,
}

/// Why a request body ended before its time. The exchange knows more.
#[derive(Clone, Copy, Debug, ThisError)]
pub enum BodyError {
    /// Another attempt reads it now.
    #[error("the attempt was given up")]
    Abandoned,
    /// The caller's body cannot be read further.
    #[error("the caller's request body broke")]
    Broken,
}

impl Replay {
    /// No request body.
    pub(crate) fn none(now: Instant) -> Self {
        Self { state: None, began: now }
    }

    /// Takes charge of a request body. One that is announced to be over `max_body` is refused unread.
    pub(crate) fn new(source: RequestBody, limits: ReplayLimits, now: Instant) -> Result<Self, ProxyError> {
        if source.is_end_stream() {
            return Ok(Self::none(now));
        }
        let announced = source.size_hint().exact();
        if announced.is_some_and(|length| length > limits.max_body) {
            return Err(ProxyError::BodyTooLarge { limit: limits.max_body });
        }
        let ReplayLimits { keep, max_body, memory, client, read_buffer } = limits;
        let fits = announced.is_none_or(|length| usize::try_from(length).is_ok_and(|length| length <= keep));
        if !fits && keep > 0 {
            memory.count(GivenUp::BodyLimit);
        }
        let original = Original { holder: client.into(), origin: Origin::Buffers(read_buffer), announced };
        let copy = (fits && keep > 0).then(|| Copy::new(memory, original, now));
        let state = State {
            source,
            max_body,
            keep,
            copy,
            is_secured: false,
            trailers: None,
            received: 0,
            announced,
            ended: None,
            waiting_for: WaitingFor::Upstream,
            since: now,
            waited: Duration::ZERO,
            stall: Stall::default(),
            fault: None,
            reader: 0,
            end_waker: None,
            is_withheld: false,
        };
        Ok(Self { state: Some(Rc::new(RefCell::new(state))), began: now })
    }

    /// The body for the next attempt, from its start. Whatever an earlier attempt still holds is cut off.
    pub(crate) fn attempt(&self) -> AttemptBody {
        let Some(state) = &self.state else {
            return AttemptBody { state: None, reader: 0, next: 0, sent: 0, trailers: Trailers::Sent };
        };
        let mut current = state.borrow_mut();
        current.reader += 1;
        current.is_withheld = false;
        let reader = current.reader;
        AttemptBody { state: Some(state.clone()), reader, next: 0, sent: 0, trailers: Trailers::Due }
    }

    /// Whether the body can be sent again from its start.
    pub(crate) fn state(&self) -> BodyState {
        let Some(state) = &self.state else { return BodyState::Whole };
        let state = state.borrow();
        if state.received == 0 && state.ended.is_none() && state.fault.is_none() {
            return BodyState::Whole; // untouched
        }
        match (state.copy.as_ref().is_some_and(Copy::is_kept), state.ended) {
            (false, _) => BodyState::Lost,
            (true, Some(_)) => BodyState::Whole,
            (true, None) => BodyState::Partial,
        }
    }

    /// Notes that an attempt has failed: another may need the copy, and it is no longer the caller who is waited for. Gives what
    /// [`Replay::state`] gives, which holds until that attempt has sent the copy.
    pub(crate) fn secure(&self) -> BodyState {
        if let Some(state) = &self.state {
            let mut state = state.borrow_mut();
            if state.ended.is_none() {
                state.wait_for(WaitingFor::Upstream);
            }
            state.is_secured = state.copy.as_ref().is_some_and(Copy::secure);
        }
        self.state()
    }

    /// Gives the copy up: no attempt follows.
    pub(crate) fn forget(&self) {
        if let Some(state) = &self.state {
            state.borrow_mut().copy = None;
        }
    }

    /// Where the upload stands.
    pub(crate) fn upload(&self) -> Upload {
        let Some(state) = &self.state else {
            return Upload::Received { at: self.began.into_std(), stalled: Duration::ZERO };
        };
        let state = state.borrow();
        let stalled = state.stall.time();
        match (state.ended, state.waiting_for) {
            (Some(at), _) => Upload::Received { at: at.into_std(), stalled },
            (None, WaitingFor::Caller) => {
                Upload::AwaitingCaller { since: state.silent_since().into_std(), stalled }
            }
            (None, WaitingFor::Upstream) => {
                Upload::AwaitingUpstream { since: state.since.into_std(), stalled }
            }
        }
    }

    /// Since when the upstream has had all that came of the body, or has been the one that is waited for; none without a
    /// body. Time before that is the caller's.
    pub(crate) fn handed_over(&self) -> Option<Instant> {
        self.state.as_ref().map(|state| state.borrow().since)
    }

    /// How long the caller has been waited for in all, by `now`.
    pub(crate) fn caller_time(&self, now: Instant) -> Duration {
        let Some(state) = &self.state else { return Duration::ZERO };
        let state = state.borrow();
        let is_waiting = state.ended.is_none() && state.waiting_for == WaitingFor::Caller;
        let current = if is_waiting { now.duration_since(state.since) } else { Duration::ZERO };
        state.waited.saturating_add(current)
    }

    /// Waits for the end of the upload.
    pub(crate) async fn ended(&self) {
        std::future::poll_fn(|cx| {
            let Some(state) = &self.state else { return Poll::Ready(()) };
            let mut state = state.borrow_mut();
            if state.ended.is_some() {
                return Poll::Ready(());
            }
            state.end_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Takes the rest of the body into the copy, in the place of the attempt that was sending it, which gets no more. Ends
    /// with the body, with the copy, or when the caller pauses for longer than `pause`.
    pub(crate) async fn complete(&self, pause: Duration) {
        let Some(state) = &self.state else { return };
        state.borrow_mut().is_withheld = true;
        let part = || std::future::poll_fn(|cx| state.borrow_mut().poll_part(cx));
        while self.state() == BodyState::Partial {
            let Ok(Some(Ok(_))) = timeout(pause, part()).await else { break };
        }
    }

    /// What the caller did wrong with its body, if anything.
    pub(crate) fn fault(&self) -> Option<ProxyError> {
        self.state.as_ref()?.borrow().fault.clone()
    }

    /// Whether there is one at all.
    pub(crate) fn presence(&self) -> Presence {
        if self.state.is_none() { Presence::None } else { Presence::Some }
    }

    /// Bytes that came from the caller.
    pub(crate) fn received(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.borrow().received)
    }
}

impl State {
    /// Reads the next part for the current attempt.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if self.fault.is_some() {
                return Poll::Ready(Some(Err(BodyError::Broken)));
            }
            if self.ended.is_some() {
                return Poll::Ready(None);
            }
            let Poll::Ready(frame) = Pin::new(&mut self.source).poll_frame(cx) else {
                // Only from here on is it the caller that is slow: during a backoff it is not read at all.
                if self.waiting_for != WaitingFor::Caller {
                    self.wait_for(WaitingFor::Caller);
                }
                return Poll::Pending;
            };
            self.wait_for(WaitingFor::Upstream);
            match frame {
                Some(Ok(frame)) => {
                    let part = match frame.into_data() {
                        Ok(part) => part,
                        Err(frame) => {
                            self.take_trailers(frame);
                            continue;
                        }
                    };
                    if self.source.is_end_stream() {
                        self.end();
                    }
                    return Poll::Ready(Some(self.take(part)));
                }
                Some(Err(error)) => self.fault = Some(fault(&error)),
                None => self.end(),
            }
        }
    }

    fn wait_for(&mut self, whom: WaitingFor) {
        let now = Instant::now();
        let time = now.duration_since(self.since);
        match self.waiting_for {
            WaitingFor::Caller => self.waited += time,
            WaitingFor::Upstream => self.stall.wait(time),
        }
        self.waiting_for = whom;
        self.since = now;
    }

    /// Since when the caller counts as silent. A byte now and then does not end a silence: it is worth the time that it
    /// takes at the least rate, and the rest of earlier waits is added to this one.
    fn silent_since(&self) -> Instant {
        let earned = Duration::from_micros(self.received.saturating_mul(1_000_000 / LEAST_RATE));
        self.since.checked_sub(self.waited.saturating_sub(earned)).unwrap_or(self.since)
    }

    fn take(&mut self, part: Bytes) -> Result<Bytes, BodyError> {
        self.received = self.received.saturating_add(part.len() as u64);
        if self.received > self.max_body {
            self.fault = Some(ProxyError::BodyTooLarge { limit: self.max_body });
            return Err(BodyError::Broken);
        }
        self.stall.take(part.len() as u64);
        if let Some(copy) = &self.copy {
            copy.keep(&part, self.keep, self.since);
        }
        Ok(part)
    }

    /// The piece of this number, to be sent again.
    fn piece(&mut self, number: usize) -> Option<Bytes> {
        let piece = self.copy.as_ref()?.piece(number)?;
        self.stall.take(piece.len() as u64);
        Some(piece)
    }

    /// Lets others have the copy again: it has been sent.
    fn release(&mut self) {
        if std::mem::take(&mut self.is_secured)
            && let Some(copy) = &self.copy
        {
            copy.release();
        }
    }

    fn take_trailers(&mut self, frame: Frame<Bytes>) {
        if let Ok(mut trailers) = frame.into_trailers() {
            headers::clean_trailers(&mut trailers, Side::Request);
            self.trailers = (!trailers.is_empty()).then_some(trailers);
            self.end(); // nothing follows them
        }
    }

    fn end(&mut self) {
        self.ended = Some(self.since);
        if let Some(copy) = &self.copy {
            copy.end();
        }
        if let Some(waker) = &self.end_waker {
            waker.wake_by_ref();
        }
    }
}

/// The request body as one attempt sends it: first what is kept, then what comes.
#[derive(Debug)]
pub struct AttemptBody {
    state: Option<Rc<RefCell<State>>>,
    reader: u32,
    /// The next kept piece to send; past the last one, the source.
    next: usize,
    sent: u64,
    trailers: Trailers,
}

/// Whether an attempt has sent what follows the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailers {
    Due,
    Sent,
}

impl AttemptBody {
    /// What follows the body, once.
    fn trailers(&mut self) -> Option<HeaderMap> {
        if std::mem::replace(&mut self.trailers, Trailers::Sent) == Trailers::Sent {
            return None;
        }
        self.state.as_ref().and_then(|state| state.borrow().trailers.clone())
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(state) = &self.state else { return Poll::Ready(None) };
        let mut state = state.borrow_mut();
        if state.reader != self.reader {
            return Poll::Ready(Some(Err(BodyError::Abandoned)));
        }
        if state.is_withheld {
            return Poll::Pending;
        }
        let is_replaying = self.sent < state.received;
        let part = if is_replaying {
            let piece = state.piece(self.next);
            self.next += 1;
            Poll::Ready(Some(piece.ok_or(BodyError::Broken)))
        } else {
            state.release();
            state.poll_part(cx)
        };
        if let Poll::Ready(Some(Ok(part))) = &part {
            self.sent += part.len() as u64;
        }
        part
    }
}

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.poll_part(cx) {
            Poll::Ready(None) => Poll::Ready(self.trailers().map(|trailers| Ok(Frame::trailers(trailers)))),
            part => part.map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state.as_ref().is_none_or(|state| {
            let state = state.borrow();
            let has_sent_all =
                self.sent == state.received && (state.trailers.is_none() || self.trailers == Trailers::Sent);
            state.reader == self.reader && state.ended.is_some() && has_sent_all
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            None => SizeHint::with_exact(0),
            Some(state) => match state.borrow().announced {
                Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
                None => SizeHint::default(),
            },
        }
    }
}

/// Tells a caller that left from one that sent nonsense. hyper has no predicate for a broken body: the I/O error below
/// it says which, and its kind is part of the standard library's contract.
fn fault(error: &hyper::Error) -> ProxyError {
    let mut source: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                    ProxyError::BadRequest(RequestFault::BadBody)
                }
                _ => ProxyError::CallerGone,
            };
        }
        source = error.source();
    }
    ProxyError::CallerGone
}

/// How many bytes of a body in a second keep a caller from counting as silent: far less than any phone manages.
const LEAST_RATE: u64 = Stall::LEAST_RATE;

#[cfg(test)]
mod tests;
