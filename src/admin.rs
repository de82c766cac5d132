//! The admin listener: `/metrics`, `/livez` and `/readyz`, on a thread and a runtime of its own, so that no
//! busy worker delays a scrape.
//!
//! # Invariant
//!
//! No connection keeps a probe from its answer: at the limit one makes room, the silent ones first. Held by
//! `silent_connections_in_any_number_keep_nobody_from_an_answer` and
//! `at_the_limit_a_silent_connection_goes_before_one_that_is_being_answered`.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

#[cfg(test)]
mod tests;

/// What the listener tells and does. All are called on its thread and must not block, the first three once per request.
#[derive(Clone)]
pub struct AdminState {
    /// The body of `/metrics`, in the Prometheus text format.
    pub render: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
    /// The answer of `/readyz`.
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// The answer of `/livez`.
    pub alive: Arc<dyn Fn() -> Liveness + Send + Sync>,
    /// Called every 500 ms, later only while the thread itself is kept from it.
    pub turn: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").finish_non_exhaustive()
    }
}

/// Whether new requests should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// They should.
    Ready,
    /// They should not, for this reason, such as `draining`.
    Unready(&'static str),
}

/// Whether the process works, or had better be started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It works.
    Alive,
    /// It does not, for this reason.
    Stuck(String),
}

/// Binds `address` and answers there until [`Admin::stop`], or until the handle is dropped.
///
/// Fails if the address cannot be bound or the thread not be started.
pub fn start(address: SocketAddr, state: AdminState) -> io::Result<Admin> {
    start_within(address, state, LIMITS)
}

fn start_within(address: SocketAddr, state: AdminState, limits: Limits) -> io::Result<Admin> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    // Nothing is ever sent through either channel: the loss of one half is the message.
    let (stop, stopped) = watch::channel(());
    let (alive, ended) = sync_channel::<()>(1);
    let thread = thread::Builder::new().name("admin".into()).spawn(move || {
        let _alive = alive;
        runtime.block_on(serve(listener, state, limits, stopped));
    })?;
    Ok(Admin { address, stop, thread, ended, stop_grace: limits.stop_grace })
}

/// The handle of the running listener.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
    ended: Receiver<()>,
    stop_grace: Duration,
}

impl Admin {
    /// Where it listens, with the port that the system chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener, lets running requests finish for at most 2 s, and joins the thread.
    ///
    /// Blocks the calling thread. Fails with [`io::ErrorKind::TimedOut`] if the thread has not ended in 4 s,
    /// because a call into the [`AdminState`] does not return; it is then left to itself.
    pub fn stop(self) -> io::Result<()> {
        drop(self.stop);
        match self.ended.recv_timeout(self.stop_grace * 2) {
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                self.thread.join().map_err(|_| io::Error::other("the admin listener's thread panicked"))
            }
        }
    }
}

async fn serve(listener: TcpListener, state: AdminState, limits: Limits, mut stopped: watch::Receiver<()>) {
    let mut connections = Connections::default();
    let mut turns = interval(TURN);
    // After a pause of the whole process there is one turn to make up for, not one for each that was missed.
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        select! {
            _ = stopped.changed() => break,
            _ = turns.tick() => (state.turn)(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.make_room();
                    connections.add(|has_asked| {
                        serve_connection(stream, state.clone(), limits, stopped.clone(), has_asked)
                    });
                    // What the connection has sent already is looked at before the next can take its place.
                    yield_now().await;
                }
                Err(error) => {
                    // Most likely there is no file descriptor left, and the connection stays in the backlog:
                    // without a pause this would spin until there is one.
                    tracing::warn!(%error, "the admin listener cannot accept; it goes on trying");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // What has not finished by then is cut off as the runtime ends.
    let _ = timeout(limits.stop_grace, connections.finish()).await;
}

/// The open connections, at most [`CONNECTIONS`].
///
/// At the limit one of them is given up for the next. So no caller that is silent or does not read keeps a probe from its
/// answer. The evidence is the limit itself: it takes that many open connections, of one caller or of many. If all of
/// them mean well, the one that has had most time has to ask again.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// In the order in which they were accepted; some may have ended.
    open: Vec<Connection>,
}

struct Connection {
    task: AbortHandle,
    /// Set once it has sent a whole request.
    has_asked: Arc<AtomicBool>,
}

impl Connections {
    /// At the limit gives up the oldest connection that has not sent a whole request, else the oldest of all.
    fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.task.is_finished());
        if self.open.len() >= CONNECTIONS {
            let silent =
                self.open.iter().position(|connection| !connection.has_asked.load(Ordering::Relaxed));
            self.open.remove(silent.unwrap_or(0)).task.abort();
        }
    }

    fn add<F: Future<Output = ()> + Send + 'static>(&mut self, serve: impl FnOnce(Arc<AtomicBool>) -> F) {
        let has_asked = Arc::<AtomicBool>::default();
        let task = self.tasks.spawn(serve(has_asked.clone()));
        self.open.push(Connection { task, has_asked });
    }

    /// Waits for the end of all.
    async fn finish(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn serve_connection(
    stream: TcpStream,
    state: AdminState,
    limits: Limits,
    mut stopped: watch::Receiver<()>,
    has_asked: Arc<AtomicBool>,
) {
    let service = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        ready(Ok::<_, Infallible>(answer(&request, &state)))
    });
    // One request per connection: scrapes are rare, and no idle connection then takes a place or is closed
    // just as its next scrape comes.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = timeout(limits.connection_timeout, async {
        select! {
            served = connection.as_mut() => return served,
            _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    });
    // A caller that leaves, stalls or sends no HTTP is its own affair.
    let _ = served.await;
}

fn answer<B>(request: &Request<B>, state: &AdminState) -> Response<Full<Bytes>> {
    let page: fn(&AdminState) -> Response<Full<Bytes>> = match request.uri().path() {
        "/" => |_| plain(StatusCode::OK, "/livez\n/metrics\n/readyz\n"),
        "/livez" => |state| match (state.alive)() {
            Liveness::Alive => plain(StatusCode::OK, "alive\n"),
            Liveness::Stuck(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/metrics" => |state| reply(StatusCode::OK, METRICS_TYPE, (state.render)()),
        "/readyz" => |state| match (state.ready)() {
            Readiness::Ready => plain(StatusCode::OK, "ready\n"),
            Readiness::Unready(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        _ => |_| plain(StatusCode::NOT_FOUND, "not found\n"),
    };
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return page(state);
    }
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    reply(status, TEXT_TYPE, body)
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // A cached readiness is a wrong one.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What the tests shorten.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// From the accepted connection to the end of a request head.
    header_timeout: Duration,
    /// From the accepted connection to the last byte of the answer.
    connection_timeout: Duration,
    /// How long running requests may take to finish at the end.
    stop_grace: Duration,
}

const LIMITS: Limits = Limits {
    header_timeout: Duration::from_secs(1),
    connection_timeout: Duration::from_secs(30),
    stop_grace: Duration::from_secs(2),
};

/// Connections at once.
const CONNECTIONS: usize = 64;

/// Between two calls of [`AdminState::turn`].
const TURN: Duration = Duration::from_millis(500);

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The text format's version, as <https://prometheus.io/docs/instrumenting/exposition_formats/> gives it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
