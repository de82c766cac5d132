//! One worker's connections: newest first, so that in quiet times the rest grow old and close.
//!
//! Nothing here is shared between threads but the counts in [`Endpoint`]; `max_connections` holds over all workers.
//!
//! # Invariant
//!
//! The pool sends no request twice, with one exception. It replaces a kept connection that the backend closed
//! before anything of the request was written. That is no attempt. A general client resends by itself, unseen by
//! the record, so the pool is our own. Held by
//! `a_post_on_a_stale_pooled_connection_is_sent_again_at_once_and_counts_no_attempt`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{coop, yield_now};
use tokio::time::{Instant, sleep, timeout};

use crate::descriptors::Relief;
use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::policy::request::{Repeatable, SendOnce};
use crate::policy::reuse::UnsafeReuse;
use crate::upstream::admission::{LoadSignal, Slot};
use crate::upstream::body::{Switched, UpstreamBody};
use crate::upstream::connect::{self, Connection, Fresh};
use crate::upstream::endpoint::{Endpoint, EndpointId, InFlight, connections};
use crate::upstream::http1::wire::{Answer, Outgoing, Start, Unanswered};
use crate::upstream::http2::SharedConnection;
use crate::upstream::queue::{Owner, Place, Queue};
use crate::upstream::settings::ClusterSettings;

mod lease;
mod linger;
mod own;
mod room;
mod shared;
pub(super) use self::lease::Lease;
pub(super) use self::shared::StreamLease;
use self::shared::{Joined, Permit};

/// A worker's pools, one per endpoint.
#[derive(Debug)]
pub struct Pools<B> {
    pools: Rc<Siblings<B>>,
    relief: Relief,
}

/// All pools of a worker. It knows few endpoints: a scan is faster than hashing.
type Siblings<B> = RefCell<Vec<(EndpointId, Rc<Pool<B>>)>>;

/// A request on its way to an endpoint, but for its body.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// Where it goes.
    pub endpoint: &'a Arc<Endpoint>,
    /// Its head.
    pub head: &'a Rc<Parts>,
    /// Whether it may be sent again.
    pub repeatable: Repeatable,
    /// How far it has come.
    pub progress: &'a Progress,
}

/// How far an attempt has come; it outlives the attempt when that is cut off.
#[derive(Debug, Default)]
pub struct Progress {
    sent: Cell<bool>,
    /// Whether it waits because all of `max_connections` are in use.
    is_queued: Cell<bool>,
    /// Whether another attempt of the same exchange is slow beside it.
    is_beside: bool,
    kept: Cell<Kept>,
    /// Its place in flight, until somebody else keeps it.
    slot: RefCell<Option<Slot>>,
}

impl Progress {
    /// That of an attempt which has a place in flight.
    pub fn with_slot(slot: Option<Slot>) -> Self {
        Self { slot: slot.into(), ..Self::default() }
    }

    /// That of an attempt beside one that is slow.
    pub fn beside(slot: Option<Slot>) -> Self {
        Self { is_beside: true, ..Self::with_slot(slot) }
    }

    /// Whether another attempt of the same exchange is slow beside it.
    pub fn is_beside(&self) -> bool {
        self.is_beside
    }

    /// Gives the place in flight back, if the attempt still has it. Its time is the backend's since `handed_over`, if that is
    /// later than its start.
    pub fn end(&self, told: LoadSignal, handed_over: Option<Instant>, now: Instant) {
        if let Some(mut slot) = self.slot.take() {
            slot.note_start(handed_over);
            slot.end(told, now);
        }
    }

    /// Whether a place in flight is held for it.
    pub fn holds_place(&self) -> bool {
        self.slot.borrow().as_ref().is_some_and(|slot| !slot.is_aside())
    }

    /// Gives the place back while the caller is the one who is slow.
    pub fn step_aside(&self) {
        if let Some(slot) = &mut *self.slot.borrow_mut() {
            slot.step_aside();
        }
    }

    /// Takes the place again: the request body has gone out at `now`.
    pub fn step_in(&self, now: Instant) {
        if let Some(slot) = &mut *self.slot.borrow_mut() {
            slot.step_in(now);
        }
    }

    /// How much of the request may have arrived, if the attempt ended now without an answer.
    pub fn delivery(&self) -> Delivery {
        if self.sent.get() { Delivery::Maybe } else { Delivery::Never }
    }

    /// Why it failed, if a limit cuts it off now. What waits for a connection has not asked the endpoint.
    pub fn cut_off(&self) -> UpstreamError {
        let delivery = self.delivery();
        let kind = match delivery {
            Delivery::Never if self.is_queued.get() => UpstreamErrorKind::ConnectionLimit,
            Delivery::Never => UpstreamErrorKind::ConnectTimeout,
            Delivery::Maybe | Delivery::Answered => UpstreamErrorKind::HeadTimeout,
        };
        UpstreamError::new(kind, delivery)
    }

    /// Notes whether a connection has the request.
    pub fn set_sent(&self, sent: bool) {
        self.sent.set(sent);
    }

    /// Whether it has gone to an HTTP/1.1 connection that had been kept idle.
    pub fn used_kept(&self) -> bool {
        self.kept.get() == Kept::Used
    }

    /// Lets it begin anew, on no connection that was kept.
    pub fn begin_anew(&self) {
        self.sent.set(false);
        self.kept.set(Kept::Refused);
    }

    fn refuses_kept(&self) -> bool {
        self.kept.get() == Kept::Refused
    }

    /// Notes whether the connection that takes it had been kept. Begun anew, it counts as on a new one for good.
    fn note_kept(&self, is_kept: bool) {
        if !self.refuses_kept() {
            self.kept.set(if is_kept { Kept::Used } else { Kept::Allowed });
        }
    }
}

/// What an attempt has to do with kept HTTP/1.1 connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kept {
    /// It may use one.
    #[default]
    Allowed,
    /// It must not.
    Refused,
    /// It has one.
    Used,
}

impl<B> Pools<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// No connections yet, and nobody who would give up a descriptor for one.
    pub fn new() -> Self {
        Self::with_relief(Relief::none())
    }

    /// No connections yet. Where descriptors are short and this worker has no idle connection, `relief` is asked.
    pub fn with_relief(relief: Relief) -> Self {
        Self { pools: Rc::default(), relief }
    }

    /// Sends a request to its endpoint and waits for the response head.
    ///
    /// A pooled connection that turns out closed before anything was written costs nothing: the request goes to the
    /// next one, and in the end to a new one. Where it may have met the close on its way, only one that is `repeatable`
    /// can be sent again: another gets no HTTP/1.1 connection that may be closing. Waiting for a connection and connecting are bounded; waiting for the
    /// response is the caller's to bound.
    pub async fn send(
        &self,
        request: Sending<'_>,
        body: B,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let Sending { endpoint, head, repeatable, progress } = request;
        let mut in_flight = endpoint.begin();
        let pool = self.pool(endpoint);
        if endpoint.settings.protocol.may_be_http2() {
            // Boxed, so that a request over HTTP/1.1 carries no room for it.
            return Box::pin(pool.send_shared(request, body, in_flight)).await;
        }
        let mut outgoing = Outgoing::Eager(body);
        loop {
            progress.set_sent(false);
            let pooled = if progress.refuses_kept() { None } else { pool.take_for(repeatable).await };
            let is_new = pooled.is_none();
            progress.note_kept(!is_new);
            let mut connection = match pooled {
                Some(connection) => connection,
                // Boxed, because it is seldom needed and would make every request's future larger, which is moved about.
                None => Box::pin(pool.open(repeatable, progress)).await?,
            };
            progress.set_sent(true);
            let answered = if progress.counts_when_given_up() {
                // Boxed, because it may outlive the attempt.
                let head = head.clone();
                let send = Box::pin(async move {
                    let answered = connection.send(&head, &mut outgoing).await;
                    (connection, in_flight, outgoing, answered)
                });
                let answered;
                (connection, in_flight, outgoing, answered) =
                    linger::until_let_go(send, progress, |(.., answered)| told(answered)).await;
                answered
            } else {
                connection.send(head, &mut outgoing).await
            };
            match answered {
                Ok(answer) => return Ok(pool.answer(answer, connection, in_flight)),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::Unsent) => {}
            }
            if is_new {
                progress.set_sent(false);
                return Err(UpstreamError::new(UpstreamErrorKind::ConnectionTerminated, Delivery::Never));
            }
            pool.note_stale(&connection);
        }
    }

    fn pool(&self, endpoint: &Arc<Endpoint>) -> Rc<Pool<B>> {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(id, _)| *id == endpoint.id) {
            return pool.clone();
        }
        let ClusterSettings { max_waiting, max_streams, .. } = *endpoint.settings;
        let pool = Rc::new(Pool {
            endpoint: endpoint.clone(),
            idle: RefCell::default(),
            waiters: Queue::new(max_waiting).into(),
            shared: RefCell::default(),
            // As many as the connection that is being opened may carry wait for that, and no more than ever for another.
            joiners: Queue::new(max_waiting.saturating_add(max_streams)).into(),
            is_opening: Cell::default(),
            has_chosen_http1: Cell::default(),
            giving_way: RefCell::default(),
            keeper: RefCell::new(Waker::noop().clone()),
            siblings: Rc::downgrade(&self.pools),
            relief: self.relief.clone(),
        });
        pools.push((endpoint.id, pool.clone()));
        tokio::task::spawn_local(pool.clone().keep());
        pool
    }
}

impl<B> Default for Pools<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

/// A worker's connections to one endpoint.
#[derive(Debug)]
struct Pool<B> {
    endpoint: Arc<Endpoint>,
    /// The newest at the back.
    idle: RefCell<VecDeque<Box<Connection<B>>>>,
    /// Attempts of this worker that wait for a connection, the first at the front.
    waiters: RefCell<Queue<Granted<B>>>,
    /// HTTP/2 connections that can take more, in the order in which they fill.
    shared: RefCell<Vec<Rc<SharedConnection>>>,
    /// Attempts of this worker that wait for the connection that is being opened for all of them.
    joiners: RefCell<Queue<Joined<B>>>,
    is_opening: Cell<bool>,
    /// Whether an endpoint that had the choice took HTTP/1.1: then connections are opened side by side.
    has_chosen_http1: Cell<bool>,
    /// The HTTP/2 connection that goes so that another worker gets its slot.
    giving_way: RefCell<Weak<SharedConnection>>,
    /// Wakes the task that looks after idle connections.
    keeper: RefCell<Waker>,
    /// The pools that may close a connection where descriptors are short; this one is among them.
    siblings: Weak<Siblings<B>>,
    relief: Relief,
}

/// What a wait for a connection gave.
#[derive(Debug)]
enum Granted<B> {
    /// Somebody's connection.
    Connection(Box<Connection<B>>),
    /// Leave to open one.
    Slot(OwnedSemaphorePermit),
    /// Room on a shared one.
    Stream(Permit<B>),
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// The newest idle connection that is open and not too old.
    fn take_idle(&self) -> Option<Box<Connection<B>>> {
        let mut idle = self.idle.borrow_mut();
        let mut now = None;
        while let Some(mut connection) = idle.pop_back() {
            let now = *now.get_or_insert_with(Instant::now);
            if now.duration_since(connection.idle_since()) >= self.endpoint.settings.idle_timeout {
                idle.clear(); // all the others are older
                return None;
            }
            if self.is_open(&mut connection, now) {
                connection.end_rest(now);
                return Some(connection);
            }
        }
        None
    }

    /// Whether an idle connection is open still, as far as is known. If not, that is learned from.
    fn is_open(&self, connection: &mut Connection<B>, now: Instant) -> bool {
        let is_open = !connection.has_news(&self.keeper.borrow());
        if !is_open {
            self.endpoint.note_idle_close(now.duration_since(connection.idle_since()));
        }
        is_open
    }

    /// An idle connection for a request that may, or must not, be sent twice.
    async fn take_for(&self, repeatable: Repeatable) -> Option<Box<Connection<B>>> {
        match repeatable {
            Repeatable::Always => self.take_idle(),
            Repeatable::OnlyIfNeverSent(SendOnce::Authentication) => None,
            Repeatable::OnlyIfNeverSent(_) => self.take_unsafe().await,
        }
    }

    /// An idle connection that may carry a request that must not be sent twice: the newest, if it is open and has not
    /// been idle so long that the endpoint may be closing it.
    async fn take_unsafe(&self) -> Option<Box<Connection<B>>> {
        if self.idle.borrow().is_empty() {
            return None;
        }
        match self.endpoint.settings.unsafe_reuse {
            UnsafeReuse::Always => return self.take_idle(),
            UnsafeReuse::Never => {}
            UnsafeReuse::Learned => {
                // Of a close we know what the runtime's driver has heard. A task that yields is woken after the system was
                // asked for news.
                yield_now().await;
                if let Some(connection) = self.take_young() {
                    return Some(connection);
                }
            }
        }
        let mut idle = self.idle.borrow_mut();
        if !idle.is_empty() {
            self.endpoint.cluster_metrics.safety_connects.inc();
        }
        // The new one takes the place of one that was no good, so that the pool does not grow with each such request.
        // The oldest stays: by lasting it shows how long the endpoint keeps connections.
        if idle.len() > 1 {
            idle.pop_back();
        }
        None
    }

    /// The newest connection, if it is well inside what the endpoint is known to keep.
    fn take_young(&self) -> Option<Box<Connection<B>>> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        while idle.front_mut().is_some_and(|oldest| !self.is_open(oldest, now)) {
            idle.pop_front();
        }
        self.endpoint.note_idle_survival(now.duration_since(idle.front()?.idle_since()));
        while idle.back_mut().is_some_and(|newest| !self.is_open(newest, now)) {
            idle.pop_back();
        }
        let newest = idle.back()?;
        // To learn, idleness is counted from the end of an answer, to be used from its beginning: each errs to the safe
        // side.
        if now.duration_since(newest.last_taken()) >= self.endpoint.reusable_age(newest.promised()) {
            return None;
        }
        let mut newest = idle.pop_back()?;
        newest.end_rest(now);
        Some(newest)
    }

    /// Takes note of a kept connection that was found closed only when it should have carried a request.
    fn note_stale(&self, connection: &Connection<B>) {
        self.endpoint.note_idle_close(connection.idle_since().elapsed());
    }

    /// Leave to open a connection, if there is any left, or an idle connection that nobody wanted has one.
    fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        let connections = &self.endpoint.connections;
        connections.try_slot().or_else(|| {
            let unwanted = self.idle.borrow_mut().pop_front()?;
            drop(unwanted);
            connections.try_slot()
        })
    }

    /// A connection that is not from the pool, unless one comes back while all of `max_connections` are in use.
    async fn open(
        &self,
        repeatable: Repeatable,
        progress: &Progress,
    ) -> Result<Box<Connection<B>>, UpstreamError> {
        if repeatable.needs_own_connection() {
            return self.open_own(progress).await;
        }
        let slot = match self.free_slot() {
            Some(slot) => slot,
            None => match self.wait(progress).await? {
                Granted::Connection(connection) => return Ok(connection),
                Granted::Slot(slot) => slot,
                Granted::Stream(_) => return Err(Self::out_of_place()),
            },
        };
        match connect::open(&self.endpoint, slot, async || self.make_room().await, || {}).await? {
            Fresh::Http1(connection) => Ok(connection),
            Fresh::Http2(..) => Err(Self::out_of_place()),
        }
    }

    /// HTTP/2 in a pool that does not speak it, which cannot be.
    fn out_of_place() -> UpstreamError {
        UpstreamError::new(UpstreamErrorKind::Protocol, Delivery::Never)
    }

    /// Waits for a connection of this worker or for a slot, at most `connection_wait`.
    async fn wait(&self, progress: &Progress) -> Result<Granted<B>, UpstreamError> {
        let metrics = &self.endpoint.cluster_metrics;
        let refused = || {
            metrics.waits_refused.inc();
            UpstreamError::new(UpstreamErrorKind::ConnectionLimit, Delivery::Never)
        };
        let settings = &self.endpoint.settings;
        let ticket =
            self.waiters.borrow_mut().vacancy().map(|vacancy| vacancy.join(())).ok_or_else(refused)?;
        let place = Place::new(self, ticket);
        let _waiting = Waiting::begin(&self.endpoint, progress);
        let slot = async {
            tokio::select! {
                biased;
                () = place.news() => None,
                slot = self.endpoint.connections.slot() => slot.map(Granted::Slot),
            }
        };
        let slot = timeout(settings.connection_wait, slot).await;
        let granted = place.leave(&mut self.waiters.borrow_mut()).or_else(|| slot.ok().flatten());
        let granted = granted.ok_or_else(refused)?;
        metrics.waits_served.inc();
        Ok(granted)
    }

    /// Makes a response of an answer; its body gives the connection back when it ends.
    fn answer(
        self: Rc<Self>,
        answer: Answer,
        connection: Box<Connection<B>>,
        in_flight: InFlight,
    ) -> Response<UpstreamBody<B>> {
        let Answer { head, body } = answer;
        let longest_silence = self.endpoint.settings.body_timeout;
        let body = match body {
            Start::Whole(data) => {
                self.put(connection);
                UpstreamBody::Kept(data)
            }
            Start::Flowing => {
                UpstreamBody::streaming(Lease::new(connection, self, in_flight), longest_silence)
            }
            Start::Switched => UpstreamBody::Switched(Switched::new(connection, in_flight)),
        };
        head.map(|()| body)
    }

    /// Takes a connection back whose answer has ended.
    fn put(self: Rc<Self>, mut connection: Box<Connection<B>>) {
        if connection.is_spent() || connection.ends_with_exchange() {
            return;
        }
        if connection.is_ready() {
            self.offer(connection);
            return;
        }
        // The answer came before the end of the request.
        tokio::task::spawn_local(async move {
            if timeout(SETTLE_TIME, connection.settle()).await == Ok(true) {
                self.offer(connection);
            }
        });
    }

    /// Gives a free connection to who waits for one, or keeps it.
    fn offer(&self, mut connection: Box<Connection<B>>) {
        if self.endpoint.standing.is_retired() {
            return;
        }
        if self.is_wanted_elsewhere() {
            // The other worker's attempt waits for a slot, as this worker's do: closing gives the slot to the first of
            // them, where handing over would keep it here for ever.
            return;
        }
        let mut waiters = self.waiters.borrow_mut();
        if let Some(next) = waiters.at(0) {
            next.call(Granted::Connection(connection));
            return;
        }
        drop(waiters);
        connection.begin_rest();
        if Self::has_closed(&mut connection, &mut Context::from_waker(&self.keeper.borrow())) {
            return;
        }
        self.idle.borrow_mut().push_back(connection);
    }

    /// Whether the endpoint has closed an idle connection; if not, there will be a wake when it does.
    fn has_closed(connection: &mut Connection<B>, cx: &mut Context<'_>) -> bool {
        // A task that has used up its turn would be told to ask again, which nobody does.
        let polled = std::pin::pin!(coop::unconstrained(poll_fn(|cx| connection.poll_news(cx)))).poll(cx);
        polled.is_ready()
    }

    /// Lets go of the idle connections that the endpoint has closed, and learns from each.
    fn poll_idle(&self, cx: &mut Context<'_>) {
        if !self.keeper.borrow().will_wake(cx.waker()) {
            self.keeper.replace(cx.waker().clone());
        }
        let now = Instant::now();
        self.idle.borrow_mut().retain_mut(|connection| {
            let has_closed = Self::has_closed(connection, cx);
            if has_closed {
                self.endpoint.note_idle_close(now.duration_since(connection.idle_since()));
            }
            !has_closed
        });
    }

    /// Closes connections that have been idle too long, or whose slot another worker needs.
    async fn keep(self: Rc<Self>) {
        let settings = &self.endpoint.settings;
        let period = (settings.idle_timeout / 2).max(SHORTEST_KEEPING);
        while !self.endpoint.standing.is_retired() {
            tokio::select! {
                biased;
                () = poll_fn(|cx| { self.poll_idle(cx); Poll::Pending }) => {}
                () = self.endpoint.connections.asked_for_idle() => {
                    self.idle.borrow_mut().clear();
                    self.close_idle(Instant::now(), true);
                }
                () = sleep(period) => {
                    let now = Instant::now();
                    // A call for slots can come while nobody listens, between two turns of this loop.
                    let is_wanted = self.endpoint.connections.waiting() > 0;
                    self.idle.borrow_mut().retain(|connection| {
                        let age = now.duration_since(connection.idle_since());
                        self.endpoint.note_idle_survival(age);
                        !is_wanted && age < settings.idle_timeout
                    });
                    self.close_idle(now, is_wanted);
                }
            }
        }
        self.idle.borrow_mut().clear();
        self.close_idle(Instant::now(), true);
        // The worker forgets the endpoint, and the metrics end its series with its last exchange.
        if let Some(siblings) = self.siblings.upgrade() {
            siblings.borrow_mut().retain(|(_, pool)| !Rc::ptr_eq(pool, &self));
        }
    }
}

impl<B> Owner for &Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Right = Granted<B>;
    type Waiter = ();

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<Granted<B>>) -> T) -> T {
        look(&mut self.waiters.borrow_mut())
    }

    fn left(&self, unheard: Option<Granted<B>>) {
        match unheard {
            Some(Granted::Connection(connection)) => self.offer(connection),
            // Each goes to the next when it is dropped.
            Some(Granted::Slot(_) | Granted::Stream(_)) | None => {}
        }
    }
}

/// Counts an attempt that waits for a connection, and lets all workers know.
struct Waiting<'a> {
    _counted: connections::Waiting<'a>,
    progress: &'a Progress,
}

impl<'a> Waiting<'a> {
    fn begin(endpoint: &'a Endpoint, progress: &'a Progress) -> Self {
        progress.is_queued.set(true);
        Self { _counted: endpoint.connections.wait(), progress }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.progress.is_queued.set(false);
    }
}

/// What a late answer tells about the load.
fn told(answered: &Result<Answer, Unanswered>) -> LoadSignal {
    match answered {
        Ok(answer) if answer.head.status().is_server_error() => LoadSignal::Failed,
        Ok(_) => LoadSignal::Answered,
        Err(_) => LoadSignal::Nothing,
    }
}

/// How long a connection may take to be ready again after its answer has ended.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Idle connections are looked at no more often than this.
const SHORTEST_KEEPING: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
