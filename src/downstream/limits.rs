//! The time limits of a connection, which hyper does not have as Stent needs them.
//!
//! hyper's one header timeout is also its idle timeout. Behind an ALB the two must differ: an idle connection has to
//! outlive the ALB's 60 s, and a head must be whole within 10 s of its first byte.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use crate::downstream::acceptor::{ListenerSettings, Phase};

/// Says when a connection has used up its time, and when it shall end.
#[derive(Debug)]
pub(super) struct Limits {
    state: Rc<State>,
    settings: Arc<ListenerSettings>,
    phase: watch::Receiver<Phase>,
    timer: Pin<Box<Sleep>>,
}

/// What ends a connection from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// One of its limits has passed.
    OutOfTime,
    /// Its listener drains; told once.
    Draining,
}

impl Limits {
    pub(super) fn new(
        state: Rc<State>,
        settings: Arc<ListenerSettings>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let timer = Box::pin(sleep(settings.header_timeout.min(settings.idle_timeout)));
        Self { state, settings, phase, timer }
    }

    /// Waits for the next event. It may be given up and asked again.
    pub(super) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                () = self.timer.as_mut() => match self.state.next_check(&self.settings, Instant::now()) {
                    Some(at) => self.timer.as_mut().reset(at),
                    None => return Event::OutOfTime,
                },
                _ = self.phase.wait_for(|phase| *phase == Phase::Draining), if !self.state.is_draining() => {
                    self.state.is_draining.set(true);
                    self.timer.as_mut().reset(Instant::now());
                    return Event::Draining;
                }
            }
        }
    }
}

/// What a connection is doing, noted by its socket, its service and its bodies, and read when its timer fires. The
/// timer is set seldom and looks late rather than being moved with every request.
#[derive(Debug)]
pub(super) struct State {
    activity: Cell<Activity>,
    since: Cell<Instant>,
    /// Since when the caller has taken nothing of what we want to write.
    stalled: Cell<Option<Instant>>,
    is_draining: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// No byte of a next request has come.
    Idle,
    /// A request head is coming.
    Head,
    /// A request is being answered.
    Exchange,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            activity: Cell::new(Activity::Idle),
            since: Cell::new(now),
            stalled: Cell::new(None),
            is_draining: Cell::new(false),
        }
    }

    /// Whether the connection shall end as soon as it can.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Whether a request is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.activity.get() == Activity::Exchange
    }

    pub(super) fn begin_exchange(&self) {
        self.activity.set(Activity::Exchange);
    }

    fn end_exchange(&self) {
        self.activity.set(Activity::Idle);
        self.since.set(Instant::now());
    }

    pub(super) fn note_read(&self) {
        if self.activity.get() == Activity::Idle {
            self.activity.set(Activity::Head);
            self.since.set(Instant::now());
        }
    }

    pub(super) fn note_write(&self, is_stalled: bool) {
        match (is_stalled, self.stalled.get()) {
            (true, None) => self.stalled.set(Some(Instant::now())),
            (false, Some(_)) => self.stalled.set(None),
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Passes on how a flush ended. TLS takes what is written into a buffer of its own, so that only a flush shows that
    /// the caller takes nothing.
    pub(super) fn note_flush<T>(&self, flushed: Poll<T>) -> Poll<T> {
        self.note_write(flushed.is_pending());
        flushed
    }

    /// When to look again; none if the connection has used up its time.
    fn next_check(&self, settings: &ListenerSettings, now: Instant) -> Option<Instant> {
        let stalled_until = self.stalled.get().map(|since| since + settings.write_timeout);
        let until = match (self.activity.get(), self.is_draining.get()) {
            (Activity::Idle, false) => Some(self.since.get() + settings.idle_timeout),
            // A caller that has just connected, or just got an answer, may be sending: it is heard out.
            (Activity::Idle, true) => Some(self.since.get() + settings.idle_timeout.min(DRAINING_IDLE)),
            (Activity::Head, _) => Some(self.since.get() + settings.header_timeout),
            (Activity::Exchange, _) => None,
        };
        if stalled_until.is_some_and(|until| until <= now) || until.is_some_and(|until| until <= now) {
            return None;
        }
        let period = if self.is_draining.get() { DRAINING_PERIOD } else { period(settings) };
        let soonest = [until, stalled_until].into_iter().flatten().fold(now + period, Instant::min);
        Some(soonest)
    }
}

/// A body whose end makes its connection idle.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    inner: B,
    state: Rc<State>,
}

impl<B> Tracked<B> {
    pub(super) fn new(inner: B, state: Rc<State>) -> Self {
        Self { inner, state }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for Tracked<B> {
    fn drop(&mut self) {
        self.state.end_exchange();
    }
}

/// How long a draining connection may be idle.
const DRAINING_IDLE: Duration = Duration::from_secs(1);

/// How often a connection's limits are looked at: often enough that none is found to have passed.
fn period(settings: &ListenerSettings) -> Duration {
    let shortest = settings.header_timeout.min(settings.write_timeout).min(settings.idle_timeout);
    (shortest / 2).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
}

const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
const LONGEST_PERIOD: Duration = Duration::from_secs(5);

/// The same while it drains.
const DRAINING_PERIOD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
