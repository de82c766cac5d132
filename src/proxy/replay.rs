//! A request body that can be sent again: copied while it streams, never collected first.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use prometheus::IntCounter;
use thiserror::Error as ThisError;
use tokio::time::{Instant, timeout};

use crate::error::{ProxyError, RequestFault};
use crate::fields::rules::Side;
use crate::policy::deadline::Upload;
use crate::policy::resume::RequestBody as Presence;
use crate::policy::retry::BodyState;
use crate::proxy::body::RequestBody;
use crate::proxy::headers;

/// How many bytes of request bodies, and of answers held, the process may keep.
#[derive(Debug)]
pub struct ReplayMemory {
    limit: AtomicUsize,
    used: AtomicUsize,
    held: AtomicUsize,
    overflows: IntCounter,
}

impl ReplayMemory {
    /// Nothing is kept yet. `overflows` counts the copies that are given up for a limit.
    pub fn new(limit: usize, overflows: IntCounter) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            overflows,
        }
    }

    /// Changes the limit; what is kept over the new one stays until its exchange ends.
    pub fn change_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes that are kept now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Those of them that are of answers.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn reserve(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.limit.load(Ordering::Relaxed);
        if !fits {
            self.release(bytes);
        }
        fits
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The part of a held answer in the account of [`ReplayMemory`], until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    memory: Arc<ReplayMemory>,
    bytes: usize,
}

impl HeldBytes {
    /// Nothing yet.
    pub(crate) fn new(memory: Arc<ReplayMemory>) -> Self {
        Self { memory, bytes: 0 }
    }

    /// Reserves so many more, if there is room.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let fits = self.memory.reserve(bytes);
        if fits {
            self.memory.held.fetch_add(bytes, Ordering::Relaxed);
            self.bytes += bytes;
        }
        fits
    }

    /// Gives so many back, or what there is.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.memory.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.release(bytes);
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// What an exchange may keep of its request body.
#[derive(Clone, Debug)]
pub(crate) struct ReplayLimits {
    /// The most bytes to keep; 0 where no retry could need them.
    pub(crate) keep: usize,
    /// The largest body that the route takes.
    pub(crate) max_body: u64,
    /// The process-wide account.
    pub(crate) memory: Arc<ReplayMemory>,
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
    limits: ReplayLimits,
    /// The copy, in the pieces in which it is sent again.
    kept: Vec<Bytes>,
    /// The end of the copy, where small parts are joined: a piece per byte would cost 32 times its size.
    tail: BytesMut,
    kept_bytes: usize,
    copy: Copying,
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
    fault: Option<ProxyError>,
    /// The attempt that may read; an older one whose connection is still closing must not take its bytes.
    reader: u32,
    /// Whoever waits for the end of the body.
    end_waker: Option<Waker>,
    /// Whether the attempt gets no more of it. It is not told, so that the answer that it has is not cut off.
    is_withheld: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copying {
    /// All that came is kept.
    Whole,
    /// A limit was reached, or no retry could need it.
    Dropped,
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
        let keep = u64::try_from(limits.keep).unwrap_or(u64::MAX);
        let fits = announced.is_none_or(|length| length <= keep);
        if !fits && keep > 0 {
            limits.memory.overflows.inc();
        }
        let state = State {
            source,
            limits,
            kept: Vec::new(),
            tail: BytesMut::new(),
            kept_bytes: 0,
            trailers: None,
            copy: if fits && keep > 0 { Copying::Whole } else { Copying::Dropped },
            received: 0,
            announced,
            ended: None,
            waiting_for: WaitingFor::Upstream,
            since: now,
            waited: Duration::ZERO,
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
        current.join_tail();
        let reader = current.reader;
        AttemptBody { state: Some(state.clone()), reader, next: 0, sent: 0, trailers: Trailers::Due }
    }

    /// Whether the body can be sent again from its start.
    pub(crate) fn state(&self) -> BodyState {
        let Some(state) = &self.state else { return BodyState::Whole };
        let state = state.borrow();
        match (state.received, state.copy, state.ended) {
            (0, _, None) if state.fault.is_none() => BodyState::Whole, // untouched
            (_, Copying::Dropped, _) => BodyState::Lost,
            (_, Copying::Whole, Some(_)) => BodyState::Whole,
            (_, Copying::Whole, None) => BodyState::Partial,
        }
    }

    /// Gives the copy up: no attempt follows.
    pub(crate) fn forget(&self) {
        if let Some(state) = &self.state {
            state.borrow_mut().drop_copy();
        }
    }

    /// Where the upload stands.
    pub(crate) fn upload(&self) -> Upload {
        let Some(state) = &self.state else { return Upload::Received(self.began.into_std()) };
        let state = state.borrow();
        match (state.ended, state.waiting_for) {
            (Some(at), _) => Upload::Received(at.into_std()),
            (None, WaitingFor::Caller) => Upload::AwaitingCaller { since: state.silent_since().into_std() },
            (None, WaitingFor::Upstream) => Upload::AwaitingUpstream { since: state.since.into_std() },
        }
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
        if self.waiting_for == WaitingFor::Caller {
            self.waited += now.duration_since(self.since);
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
        if self.received > self.limits.max_body {
            self.fault = Some(ProxyError::BodyTooLarge { limit: self.limits.max_body });
            return Err(BodyError::Broken);
        }
        self.keep(&part);
        Ok(part)
    }

    fn take_trailers(&mut self, frame: Frame<Bytes>) {
        if let Ok(mut trailers) = frame.into_trailers() {
            headers::clean_trailers(&mut trailers, Side::Request);
            self.trailers = (!trailers.is_empty()).then_some(trailers);
            self.end(); // nothing follows them
        }
    }

    fn keep(&mut self, part: &Bytes) {
        if self.copy == Copying::Dropped {
            return;
        }
        let fits = self.kept_bytes + part.len() <= self.limits.keep && self.limits.memory.reserve(part.len());
        if !fits {
            self.limits.memory.overflows.inc();
            self.drop_copy();
            return;
        }
        self.kept_bytes += part.len();
        if part.len() < SMALL_PART {
            self.tail.extend_from_slice(part);
        } else {
            self.join_tail();
            self.kept.push(part.clone());
        }
    }

    fn join_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.kept.push(tail);
        }
    }

    fn drop_copy(&mut self) {
        self.copy = Copying::Dropped;
        self.kept = Vec::new();
        self.tail = BytesMut::new();
        self.limits.memory.release(std::mem::take(&mut self.kept_bytes));
    }

    fn end(&mut self) {
        self.ended = Some(self.since);
        if let Some(waker) = &self.end_waker {
            waker.wake_by_ref();
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.limits.memory.release(self.kept_bytes);
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
            let piece = state.kept.get(self.next).cloned();
            self.next += 1;
            Poll::Ready(Some(piece.ok_or(BodyError::Broken)))
        } else {
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
const LEAST_RATE: u64 = 500;

/// Parts below this are copied together; larger ones are kept as they came, without a copy.
pub(super) const SMALL_PART: usize = 1024;

#[cfg(test)]
mod tests;
