//! The admin listener: `/metrics`, `/livez` and `/readyz`, on a thread and a runtime of its own, so that no
//! busy worker delays a scrape.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

#[cfg(test)]
mod tests;

/// What the listener tells. Both are called on its thread, once per request, and must not block.
#[derive(Clone)]
pub struct AdminState {
    /// The body of `/metrics`, in the Prometheus text format.
    pub render: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
    /// The answer of `/readyz`.
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
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
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let for_connections = stopped.clone();
    select! {
        _ = stopped.changed() => {}
        () = accept(&listener, &state, limits, &for_connections, &places) => {}
    }
    drop(listener);
    let finished = places.acquire_many(CONNECTIONS);
    // What has not finished by then is cut off as the runtime ends.
    let _ = timeout(limits.stop_grace, finished).await;
}

async fn accept(
    listener: &TcpListener,
    state: &AdminState,
    limits: Limits,
    stopped: &watch::Receiver<()>,
    places: &Arc<Semaphore>,
) {
    let mut failing = false;
    // Without a free place nothing is accepted, and callers wait in the system's backlog.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                tokio::spawn(serve_connection(stream, state.clone(), limits, stopped.clone(), place));
            }
            Err(error) => {
                // Most likely there is no file descriptor left, and the connection stays in the backlog:
                // without a pause this would spin until there is one.
                if !failing {
                    tracing::warn!(%error, "the admin listener cannot accept; it goes on trying");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    state: AdminState,
    limits: Limits,
    mut stopped: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| ready(Ok::<_, Infallible>(answer(&request, &state))));
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
        "/livez" => |_| plain(StatusCode::OK, "alive\n"),
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
    header_timeout: Duration::from_secs(10),
    connection_timeout: Duration::from_secs(30),
    stop_grace: Duration::from_secs(2),
};

/// Connections at once.
const CONNECTIONS: u32 = 64;

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The text format's version, as <https://prometheus.io/docs/instrumenting/exposition_formats/> gives it.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
