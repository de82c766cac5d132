//! The time limits of a connection, which hyper does not have as Stent needs them.
//!
//! hyper's one header timeout is also its idle timeout. Behind an ALB the two must differ: an idle connection has to
//! outlive the ALB's 60 s, and a head must be whole within 10 s of its first byte.
//!
//! # Invariant
//!
//! hyper and h2 know no time, so every state in which a caller can leave a connection has a limit here. Those of a
//! single stream are in `downstream::http2`. Held by
//! `a_head_that_comes_byte_by_byte_is_cut_off_after_header_timeout_in_all` and
//! `a_caller_that_takes_nothing_of_its_answer_for_write_timeout_is_cut_off`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep};

use crate::downstream::eviction::{Call, Entry, Standing};
use crate::downstream::settings::{ListenerSettings, Phase};
use crate::downstream::strict::StrictHeads;

/// Says when a connection has used up its time, and when it shall end.
#[derive(Debug)]
pub(super) struct Limits {
    state: Rc<State>,
    settings: Arc<ListenerSettings>,
    phase: watch::Receiver<Phase>,
    timer: Pin<Box<Sleep>>,
    /// For as long as it is here, the connection may be asked to leave.
    _entry: Option<Entry>,
}

/// What ends a connection from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// One of its limits has passed.
    OutOfTime,
    /// Its listener drains; told once.
    Draining,
    /// It carries nothing and is to leave for a new caller. It has promised to.
    Evicted,
    /// Nothing has come over HTTP/1.1 for a while, and nothing is on the way: it need not keep its buffers. Told once after
    /// a request.
    Resting,
}

impl Limits {
    pub(super) fn new(
        state: Rc<State>,
        settings: Arc<ListenerSettings>,
        phase: watch::Receiver<Phase>,
        entry: Option<Entry>,
    ) -> Self {
        let timer = Box::pin(sleep(settings.header_timeout.min(settings.idle_timeout)));
        Self { state, settings, phase, timer, _entry: entry }
    }

    /// Waits for the next event. It may be given up and asked again.
    pub(super) async fn event(&mut self) -> Event {
        loop {
            tokio::select! {
                biased;
                () = self.timer.as_mut() => {
                    let now = Instant::now();
                    let Some(at) = self.state.next_check(&self.settings, now) else { return Event::OutOfTime };
                    self.timer.as_mut().reset(at);
                    if self.state.comes_to_rest(&self.settings, now) {
                        return Event::Resting;
                    }
                }
                _ = self.phase.wait_for(|phase| *phase == Phase::Draining), if !self.state.is_draining() => {
                    self.state.is_draining.set(true);
                    self.timer.as_mut().reset(Instant::now());
                    return Event::Draining;
                }
                () = self.state.evicted() => {
                    // A leave-taking has a time of its own, which is shorter.
                    self.timer.as_mut().reset(Instant::now());
                    return Event::Evicted;
                }
            }
        }
    }

    /// What `stage` comes to, or the event that ends the connection before.
    pub(super) async fn within<F: Future>(&mut self, stage: F) -> Result<F::Output, Event> {
        let mut stage = pin!(stage);
        loop {
            tokio::select! {
                biased;
                output = stage.as_mut() => return Ok(output),
                event = self.event() => if matches!(event, Event::OutOfTime | Event::Evicted) {
                    return Err(event);
                },
            }
        }
    }

    /// What a stage with a time limit of its own comes to, or none if the connection has to leave before.
    pub(super) async fn unless_evicted<F: Future>(&self, stage: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = stage => Some(output),
            () = self.state.evicted() => None,
        }
    }
}

/// What a connection is doing, noted by its socket, its service and its bodies, and read when its timer fires. The
/// timer is set seldom and looks late rather than being moved with every request.
#[derive(Debug)]
pub(super) struct State {
    activity: Cell<Activity>,
    /// Requests that are being answered: over HTTP/2, several.
    running: Cell<usize>,
    since: Cell<Instant>,
    heads: Cell<Heads>,
    /// Since when the caller has taken nothing of what we want to write.
    stalled: Cell<Option<Instant>>,
    is_draining: Cell<bool>,
    /// Whether there was a request since the connection last came to rest.
    is_warm: Cell<bool>,
    /// Whether there ever was a request.
    has_served: Cell<bool>,
    /// Whether the peer is a trusted proxy.
    is_trusted: Cell<bool>,
    /// What looks at the bytes while they are requests of HTTP/1.1.
    requests: RefCell<Option<StrictHeads>>,
    call: Call,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// No byte of a next request has come.
    Idle,
    /// What must come before any request is due.
    Preface,
    /// A request head is coming.
    Head,
    /// A request is being answered.
    Exchange,
}

/// Whether bytes on an idle connection begin a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heads {
    /// Over HTTP/1.1 nothing else can come.
    Timed,
    /// Over HTTP/2 it may be a ping, which must not keep a connection open.
    Untimed,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            activity: Cell::new(Activity::Idle),
            running: Cell::new(0),
            since: Cell::new(now),
            heads: Cell::new(Heads::Timed),
            stalled: Cell::new(None),
            is_draining: Cell::new(false),
            is_warm: Cell::new(false),
            has_served: Cell::new(false),
            is_trusted: Cell::new(false),
            requests: RefCell::default(),
            call: Call::default(),
        }
    }

    /// Notes whether the peer is a trusted proxy.
    pub(super) fn set_trusted(&self, is_trusted: bool) {
        self.is_trusted.set(is_trusted);
    }

    /// From now on the bytes are requests of HTTP/1.1; the next one begins a head.
    pub(super) fn begin_requests(&self) {
        self.requests.replace(Some(StrictHeads::default()));
    }

    /// From now on the bytes are anything.
    pub(super) fn end_requests(&self) {
        self.requests.take();
    }

    /// Looks at what the protocol gets.
    pub(super) fn look(&self, bytes: &mut [u8]) {
        if let Some(requests) = &mut *self.requests.borrow_mut() {
            requests.look(bytes);
        }
    }

    /// Notes that a request is answered in HTTP. Whether the connection can carry another.
    pub(super) fn stay(&self) -> bool {
        self.requests.borrow_mut().as_mut().is_none_or(StrictHeads::stay)
    }

    /// Asks the connection to leave.
    pub(super) fn call(&self) -> &Call {
        &self.call
    }

    /// Since when it does what it does.
    pub(super) fn since(&self) -> Instant {
        self.since.get()
    }

    /// What it is if it carries nothing and may close for a new caller; else none. A part of a head is something, and so is
    /// the end of an answer that the caller has not taken.
    pub(super) fn standing(&self, now: Instant) -> Option<Standing> {
        let carries_nothing = matches!(self.activity.get(), Activity::Idle | Activity::Preface)
            && self.stalled.get().is_none()
            && !self.is_draining();
        let idle = now.saturating_duration_since(self.since.get());
        Standing::of(idle, self.has_served.get(), self.is_trusted.get()).filter(|_| carries_nothing)
    }

    /// Waits until the connection is asked to leave, and carries nothing then either.
    async fn evicted(&self) {
        loop {
            let reply = poll_fn(|cx| self.call.poll_asked(cx)).await;
            // The connection is polled before this. A task that yields is woken after the system was asked for news, so
            // that by then it has read what has come, and is not idle any more.
            yield_now().await;
            if self.standing(Instant::now()).is_some() && reply.send(()).is_ok() {
                return;
            }
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

    /// Whether a part of a request head has come, and nothing of an answer waits to be written before a reply to it.
    pub(super) fn is_half_way_through_a_head(&self) -> bool {
        self.activity.get() == Activity::Head && self.stalled.get().is_none()
    }

    /// Notes a request that is being answered for as long as the guard lives.
    pub(super) fn begin_exchange(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        self.activity.set(Activity::Exchange);
        self.is_warm.set(true);
        self.has_served.set(true);
        Running { state: self.clone() }
    }

    fn end_exchange(&self) {
        let running = self.running.get().saturating_sub(1);
        self.running.set(running);
        if running == 0 {
            self.begin_idling();
        }
    }

    /// Notes that nothing is under way.
    pub(super) fn begin_idling(&self) {
        self.activity.set(Activity::Idle);
        self.since.set(Instant::now());
    }

    /// Notes that HTTP/2 has begun.
    pub(super) fn begin_http2(&self) {
        self.heads.set(Heads::Untimed);
        self.begin_idling();
    }

    /// Notes that an idle connection shall end; false if it is not idle, or that was noted before.
    pub(super) fn begin_draining(&self) -> bool {
        let begins = !self.is_busy() && !self.is_draining.replace(true);
        if begins {
            self.begin_idling();
        }
        begins
    }

    /// Gives a connection that is idle the time to take leave.
    pub(super) fn restart_idle_clock(&self) {
        if !self.is_busy() {
            self.begin_idling();
        }
    }

    /// Notes that what must come before any request is due, within the time of a head.
    pub(super) fn expect_preface(&self) {
        self.activity.set(Activity::Preface);
        self.since.set(Instant::now());
    }

    /// Notes a first byte: from now on the time of a head runs.
    fn expect_head(&self) {
        self.activity.set(Activity::Head);
        self.since.set(Instant::now());
    }

    pub(super) fn note_read(&self) {
        if self.activity.get() == Activity::Idle && self.heads.get() == Heads::Timed {
            self.expect_head();
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

    /// Whether the caller takes nothing of what we want to write.
    #[cfg(test)]
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.get().is_some()
    }

    /// Whether it has been idle, with all written, for as long as its limits are left alone.
    fn comes_to_rest(&self, settings: &ListenerSettings, now: Instant) -> bool {
        let rests = self.activity.get() == Activity::Idle
            && self.heads.get() == Heads::Timed
            && self.stalled.get().is_none()
            && now >= self.since.get() + period(settings);
        rests && self.is_warm.replace(false)
    }

    /// When to look again; none if the connection has used up its time.
    fn next_check(&self, settings: &ListenerSettings, now: Instant) -> Option<Instant> {
        let stalled_until = self.stalled.get().map(|since| since + settings.write_timeout);
        let until = match (self.activity.get(), self.is_draining.get()) {
            (Activity::Idle, false) => Some(self.since.get() + settings.idle_timeout),
            // A caller that has just connected, or just got an answer, may be sending: it is heard out.
            (Activity::Idle, true) => Some(self.since.get() + settings.idle_timeout.min(DRAINING_IDLE)),
            (Activity::Head | Activity::Preface, _) => Some(self.since.get() + settings.header_timeout),
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

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Running {
    state: Rc<State>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.state.end_exchange();
    }
}

/// The body of an answer, whose end is the end of its exchange.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    inner: B,
    _running: Running,
}

impl<B> Tracked<B> {
    pub(super) fn new(inner: B, running: Running) -> Self {
        Self { inner, _running: running }
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

/// How long a draining connection may be idle.
const DRAINING_IDLE: Duration = Duration::from_secs(1);

/// How often a connection's limits are looked at: often enough that none is found to have passed.
fn period(settings: &ListenerSettings) -> Duration {
    let shortest = settings.header_timeout.min(settings.write_timeout).min(settings.idle_timeout);
    (shortest / 2).clamp(SHORTEST_PERIOD, MAX_PERIOD)
}

const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
const MAX_PERIOD: Duration = Duration::from_secs(5);

/// The same while it drains.
const DRAINING_PERIOD: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
