//! One worker's connections: newest first, so that in quiet times the rest grow old and close.
//!
//! Nothing here is shared between threads but the counts in [`Endpoint`]; `max_connections` holds over all workers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::policy::retry::Repeatable;
use crate::policy::reuse::UnsafeReuse;
use crate::upstream::admission::{Slot, Told};
use crate::upstream::body::{Switched, UpstreamBody};
use crate::upstream::connect::{self, Connection, Fresh, SendFailure};
use crate::upstream::endpoint::{Endpoint, EndpointId, InFlight};
use crate::upstream::http2::SharedConnection;

mod linger;
mod shared;
pub(super) use self::shared::StreamLease;
use self::shared::{Joiner, Permit};

/// A worker's pools, one per endpoint.
#[derive(Debug)]
pub struct Pools<B> {
    // A worker knows few endpoints: a scan is faster than hashing.
    pools: RefCell<Vec<(EndpointId, Rc<Pool<B>>)>>,
}

/// How far an attempt has come; it outlives the attempt when that is cut off.
#[derive(Debug, Default)]
pub struct Progress {
    sent: Cell<bool>,
    /// Its place in flight, until somebody else keeps it.
    slot: RefCell<Option<Slot>>,
}

impl Progress {
    /// That of an attempt which has a place in flight.
    pub fn with_slot(slot: Option<Slot>) -> Self {
        Self { sent: Cell::default(), slot: slot.into() }
    }

    /// Gives the place in flight back, if the attempt still has it.
    pub fn end(&self, told: Told, now: Instant) {
        if let Some(slot) = self.slot.take() {
            slot.end(told, now);
        }
    }

    /// How much of the request may have arrived, if the attempt ended now without an answer.
    pub fn delivery(&self) -> Delivery {
        if self.sent.get() { Delivery::Maybe } else { Delivery::Never }
    }

    /// Notes whether a connection has the request.
    pub fn set_sent(&self, sent: bool) {
        self.sent.set(sent);
    }
}

impl<B> Pools<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// No connections yet.
    pub fn new() -> Self {
        Self { pools: RefCell::default() }
    }

    /// Sends a request to `endpoint` and waits for the response head.
    ///
    /// A pooled connection that turns out closed before anything was written costs nothing: the request goes to the
    /// next one, and in the end to a new one. Where it may have met the close on its way, only one that is `repeatable`
    /// can be sent again: another gets no HTTP/1.1 connection that may be closing. Waiting for a connection and connecting are bounded; waiting for the
    /// response is the caller's to bound.
    pub async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        mut request: Request<B>,
        repeatable: Repeatable,
        progress: &Progress,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let mut in_flight = endpoint.begin();
        let pool = self.pool(endpoint);
        if endpoint.settings.protocol.may_be_http2() {
            // Boxed, so that a request over HTTP/1.1 carries no room for it.
            return Box::pin(pool.send_shared(request, repeatable, progress, in_flight)).await;
        }
        loop {
            progress.set_sent(false);
            let pooled = pool.take_for(repeatable).await;
            let is_new = pooled.is_none();
            let mut connection = match pooled {
                Some(connection) => connection,
                // Boxed, because it is seldom needed and would make every request's future larger, which is moved about.
                None => Box::pin(pool.open()).await?,
            };
            progress.set_sent(true);
            let answered;
            (connection, in_flight, answered) = if progress.counts_when_given_up() {
                // Boxed, because it may outlive the attempt.
                let send = async move {
                    let answered = connection.send(request).await;
                    (connection, in_flight, answered)
                };
                linger::until_let_go(Box::pin(send), progress, |(_, _, answered)| told(answered)).await
            } else {
                let answered = connection.send(request).await;
                (connection, in_flight, answered)
            };
            match answered.map_err(SendFailure::from) {
                Ok(response) => return Ok(pool.answer(response, connection, in_flight)),
                Err(SendFailure::Sent(error)) => return Err(connection.explain(error)),
                Err(SendFailure::Unsent(unsent)) => request = *unsent,
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
        pools.retain(|(_, pool)| !pool.endpoint.is_retired());
        let pool = Rc::new(Pool {
            endpoint: endpoint.clone(),
            idle: RefCell::default(),
            waiters: RefCell::default(),
            shared: RefCell::default(),
            joiners: RefCell::default(),
            is_opening: Cell::default(),
            has_chosen_http1: Cell::default(),
            giving_way: RefCell::default(),
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
    waiters: RefCell<VecDeque<oneshot::Sender<Granted<B>>>>,
    /// HTTP/2 connections that can take more, in the order in which they fill.
    shared: RefCell<Vec<Rc<SharedConnection>>>,
    /// Attempts of this worker that wait for the connection that is being opened for all of them.
    joiners: RefCell<Vec<Joiner<B>>>,
    is_opening: Cell<bool>,
    /// Whether an endpoint that had the choice took HTTP/1.1: then connections are opened side by side.
    has_chosen_http1: Cell<bool>,
    /// The HTTP/2 connection that goes so that another worker gets its slot.
    giving_way: RefCell<Weak<SharedConnection>>,
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
        while let Some(connection) = idle.pop_back() {
            let now = *now.get_or_insert_with(Instant::now);
            if now.duration_since(connection.idle_since()) >= self.endpoint.settings.idle_timeout {
                idle.clear(); // all the others are older
                return None;
            }
            if connection.is_ready() {
                connection.end_rest(now);
                return Some(connection);
            }
        }
        None
    }

    /// An idle connection for a request that may, or must not, be sent twice.
    async fn take_for(&self, repeatable: Repeatable) -> Option<Box<Connection<B>>> {
        match repeatable {
            Repeatable::Always => self.take_idle(),
            Repeatable::OnlyIfNeverSent => self.take_unsafe().await,
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
                // hyper knows of a close only what the connection's driver has seen. A task that yields is woken after
                // the system was asked for news, and after the tasks that these concern.
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
        while idle.front().is_some_and(|oldest| !oldest.is_ready()) {
            idle.pop_front();
        }
        self.endpoint.note_idle_survival(now.duration_since(idle.front()?.idle_since()));
        while idle.back().is_some_and(|newest| !newest.is_ready()) {
            idle.pop_back();
        }
        let newest = idle.back()?;
        // To learn, idleness is counted from the end of an answer, to be used from its beginning: each errs to the safe
        // side.
        if now.duration_since(newest.last_taken()) >= self.endpoint.reusable_age(newest.promised()) {
            return None;
        }
        newest.end_rest(now);
        idle.pop_back()
    }

    /// Takes note of a kept connection that was found closed only when it should have carried a request.
    fn note_stale(&self, connection: &Connection<B>) {
        self.endpoint.note_idle_close(connection.idle_since().elapsed());
    }

    /// Leave to open a connection, if there is any left, or an idle connection that nobody wanted has one.
    fn free_slot(&self) -> Option<OwnedSemaphorePermit> {
        let acquire = || self.endpoint.slots.clone().try_acquire_owned().ok();
        acquire().or_else(|| {
            let unwanted = self.idle.borrow_mut().pop_front()?;
            drop(unwanted);
            acquire()
        })
    }

    /// A connection that is not from the pool, unless one comes back while all of `max_connections` are in use.
    async fn open(&self) -> Result<Box<Connection<B>>, UpstreamError> {
        let slot = match self.free_slot() {
            Some(slot) => slot,
            None => match self.wait().await? {
                Granted::Connection(connection) => return Ok(connection),
                Granted::Slot(slot) => slot,
                Granted::Stream(_) => return Err(Self::out_of_place()),
            },
        };
        match connect::open(&self.endpoint, slot, || {}).await? {
            Fresh::Http1(connection) => Ok(connection),
            Fresh::Http2(..) => Err(Self::out_of_place()),
        }
    }

    /// HTTP/2 in a pool that does not speak it, which cannot be.
    fn out_of_place() -> UpstreamError {
        UpstreamError::new(UpstreamErrorKind::Protocol, Delivery::Never)
    }

    /// Waits for a connection of this worker or for a slot, at most `connection_wait`.
    async fn wait(&self) -> Result<Granted<B>, UpstreamError> {
        let metrics = &self.endpoint.cluster_metrics;
        let refused = || {
            metrics.waits_refused.inc();
            UpstreamError::new(UpstreamErrorKind::ConnectionLimit, Delivery::Never)
        };
        let settings = &self.endpoint.settings;
        let returned = {
            let mut waiters = self.waiters.borrow_mut();
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.len() >= settings.max_waiting {
                return Err(refused());
            }
            let (give, returned) = oneshot::channel();
            waiters.push_back(give);
            returned
        };
        let _waiting = Waiting::begin(&self.endpoint);
        let granted = async {
            tokio::select! {
                biased;
                Ok(granted) = returned => Some(granted),
                slot = self.endpoint.slots.clone().acquire_owned() => slot.ok().map(Granted::Slot),
            }
        };
        match timeout(settings.connection_wait, granted).await {
            Ok(Some(granted)) => {
                metrics.waits_served.inc();
                Ok(granted)
            }
            Ok(None) | Err(_) => Err(refused()),
        }
    }

    /// Makes an answer of a response head; its body gives the connection back when it ends.
    fn answer(
        self: Rc<Self>,
        mut response: Response<Incoming>,
        mut connection: Box<Connection<B>>,
        in_flight: InFlight,
    ) -> Response<UpstreamBody<B>> {
        connection.note_promise(response.headers());
        let longest_silence = self.endpoint.settings.body_timeout;
        let lease = Lease { connection, pool: self, _in_flight: in_flight };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = hyper::upgrade::on(&mut response);
            return response.map(|_| UpstreamBody::Switched(Switched::new(upgrade, lease)));
        }
        response.map(|incoming| UpstreamBody::streaming(incoming, lease, longest_silence))
    }

    /// Takes a connection back whose answer has ended.
    fn put(self: Rc<Self>, mut connection: Box<Connection<B>>) {
        if connection.is_closed() {
            return;
        }
        if connection.is_ready() {
            self.offer(connection);
            return;
        }
        // The answer came before the end of the request, or the driver has yet to see the end of the answer.
        tokio::task::spawn_local(async move {
            if timeout(SETTLE_TIME, connection.ready()).await == Ok(true) {
                self.offer(connection);
            }
        });
    }

    /// Gives a free connection to who waits for one, or keeps it.
    fn offer(&self, mut connection: Box<Connection<B>>) {
        if self.endpoint.is_retired() {
            return;
        }
        let mut waiters = self.waiters.borrow_mut();
        waiters.retain(|waiter| !waiter.is_closed());
        if self.endpoint.waiting.load(Ordering::Relaxed) > waiters.len() {
            // Another worker waits as well. Its attempt stands in the line for slots, and this one's do too: closing
            // gives the slot to whoever came first, where handing over would keep it here for ever.
            return;
        }
        while let Some(waiter) = waiters.pop_front() {
            match waiter.send(Granted::Connection(connection)) {
                Err(Granted::Connection(returned)) => connection = returned,
                Ok(()) | Err(_) => return,
            }
        }
        connection.begin_rest();
        self.idle.borrow_mut().push_back(connection);
    }

    /// Closes connections that have been idle too long, or whose slot another worker needs.
    async fn keep(self: Rc<Self>) {
        let settings = &self.endpoint.settings;
        let period = (settings.idle_timeout / 2).max(SHORTEST_KEEPING);
        while !self.endpoint.is_retired() {
            tokio::select! {
                () = self.endpoint.wanted.notified() => {
                    self.idle.borrow_mut().clear();
                    self.close_idle(Instant::now(), true);
                }
                () = sleep(period) => {
                    let now = Instant::now();
                    // A call for slots can come while nobody listens, between two turns of this loop.
                    let is_wanted = self.endpoint.waiting.load(Ordering::Relaxed) > 0;
                    self.idle.borrow_mut().retain(|connection| {
                        let age = now.duration_since(connection.idle_since());
                        if !connection.is_closed() {
                            self.endpoint.note_idle_survival(age);
                        }
                        !is_wanted && !connection.is_closed() && age < settings.idle_timeout
                    });
                    self.close_idle(now, is_wanted);
                }
            }
        }
        self.idle.borrow_mut().clear();
        self.close_idle(Instant::now(), true);
    }
}

/// Counts an attempt that waits for a connection, and lets all workers know.
struct Waiting<'a> {
    endpoint: &'a Endpoint,
}

impl<'a> Waiting<'a> {
    fn begin(endpoint: &'a Endpoint) -> Self {
        endpoint.waiting.fetch_add(1, Ordering::Relaxed);
        endpoint.wanted.notify_waiters();
        Self { endpoint }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.endpoint.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The use of a connection by one exchange. Dropped, it closes the connection.
#[derive(Debug)]
pub(super) struct Lease<B> {
    connection: Box<Connection<B>>,
    pool: Rc<Pool<B>>,
    _in_flight: InFlight,
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Gives the connection back, because its answer has ended.
    pub(super) fn end(self) {
        self.pool.put(self.connection);
    }
}

/// What a late answer tells about the load.
fn told<E>(answered: &Result<Response<Incoming>, E>) -> Told {
    match answered {
        Ok(response) if response.status().is_server_error() => Told::Failed,
        Ok(_) => Told::Answered,
        Err(_) => Told::Nothing,
    }
}

/// How long a connection may take to be ready again after its answer has ended.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Idle connections are looked at no more often than this.
const SHORTEST_KEEPING: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
