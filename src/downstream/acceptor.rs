//! Accepts connections and passes each on to whoever serves them.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderName;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use crate::descriptors::Use;
use crate::downstream::eviction::{ListenerId, Scope};
use crate::downstream::http2::Http2Settings;
use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::downstream::tls::{Tls, TlsSettings};
use crate::error::Shortage;
use crate::fields::Underscores;
use crate::fields::guard::OriginGuard;
use crate::record::metrics::{AcceptFault, ListenerMetrics};

/// What an operator sets for a listener, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Peers that are believed in the headers that they write.
    pub trusted_proxies: Vec<IpNet>,
    /// What they write besides `X-Forwarded-For`, `-Proto` and `-Port`.
    pub trusted_headers: Vec<HeaderName>,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// The longest silence inside a request body.
    pub body_timeout: Duration,
    /// How long a caller may take nothing of its answer.
    pub write_timeout: Duration,
    /// The largest request head, in bytes; at least 8 KiB.
    pub max_header_bytes: usize,
    /// Open connections; beyond them a new one waits until an idle one has closed for it.
    pub max_connections: usize,
    /// What is done about header names with underscores.
    pub underscores: Underscores,
    /// Headers by which some listener, this one or another, tells the upstream a verified subject. No caller may say
    /// them: routes are the same for all listeners, and the upstream cannot tell which one a request came by.
    pub subject_headers: Vec<HeaderName>,
    /// What every request must carry.
    pub origin_guard: Option<OriginGuard>,
    /// Whether replies and failures carry `Proxy-Status` (RFC 9209), which tells outsiders about our inside.
    pub emit_proxy_status: bool,
    /// How it speaks TLS; none for plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// What holds over HTTP/2.
    pub http2: Http2Settings,
}

#[cfg(test)]
impl ListenerSettings {
    /// The defaults, on a port that the system chooses.
    pub(crate) fn for_tests() -> Self {
        Self {
            address: "127.0.0.1:0".parse().unwrap(),
            trusted_proxies: Vec::new(),
            trusted_headers: Vec::new(),
            idle_timeout: Duration::from_secs(75),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_mins(1),
            max_header_bytes: 64 << 10,
            max_connections: 100,
            underscores: Underscores::default(),
            subject_headers: Vec::new(),
            origin_guard: None,
            emit_proxy_status: false,
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            http2: Http2Settings::default(),
        }
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    address: SocketAddr,
    phase: watch::Sender<Phase>,
}

/// How far a listener has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It accepts, and its connections stay open.
    Open,
    /// It has closed its socket, and its connections end as soon as they can.
    Draining,
}

/// What a listener and its connections have in common.
#[derive(Debug)]
struct Shared {
    id: ListenerId,
    current: ArcSwap<Current>,
    metrics: ListenerMetrics,
    /// Connections that count against `max_connections`.
    open: AtomicUsize,
    /// Connections that take their leave, and do not count.
    leaving: AtomicUsize,
    closed: Notify,
}

/// What new connections get, exchanged whole.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) settings: Arc<ListenerSettings>,
    tls: Option<Arc<Tls>>,
}

/// A connection on its way to whoever serves it.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, of no runtime yet.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// The listener's settings at this moment; a reload concerns later connections.
    pub settings: Arc<ListenerSettings>,
    /// What shakes hands first, if the listener speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// Tells when the connection shall end.
    pub phase: watch::Receiver<Phase>,
    /// Counts the connection while it lives.
    pub counted: OpenConnection,
}

/// Serves what a listener accepts.
pub trait Serve {
    /// Takes a connection over.
    fn serve(&self, accepted: Accepted);

    /// Closes a connection that carries nothing; false if there is none. One that was told to leave counts as closed.
    fn evict(&self, scope: Scope) -> impl Future<Output = bool> + Send;
}

impl<F: Fn(Accepted)> Serve for F {
    fn serve(&self, accepted: Accepted) {
        self(accepted);
    }

    fn evict(&self, _: Scope) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

/// Counts a connection of a listener.
#[derive(Debug)]
pub struct OpenConnection {
    shared: Arc<Shared>,
    has_left: Cell<bool>,
}

impl OpenConnection {
    /// The listener's settings now, which a reload may have changed since the connection came.
    pub(super) fn current(&self) -> Guard<Arc<Current>> {
        self.shared.current.load()
    }

    /// The counters of its listener.
    pub fn metrics(&self) -> &ListenerMetrics {
        &self.shared.metrics
    }

    /// Its listener.
    pub(super) fn listener(&self) -> ListenerId {
        self.shared.id
    }

    /// One that belongs to a listener without a socket.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let current = Current { settings: Arc::new(ListenerSettings::for_tests()), tls: None };
        let shared = Shared {
            id: ListenerId::new(),
            current: ArcSwap::from_pointee(current),
            metrics: crate::record::metrics::Metrics::new().listener("test"),
            open: AtomicUsize::new(1),
            leaving: AtomicUsize::new(0),
            closed: Notify::new(),
        };
        Self { shared: Arc::new(shared), has_left: Cell::new(false) }
    }

    /// Another of the same listener.
    #[cfg(test)]
    pub(super) fn beside(&self) -> Self {
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        Self { shared: self.shared.clone(), has_left: Cell::new(false) }
    }

    /// Gives its place to another connection; what is left of it is a leave-taking, and short.
    pub(super) fn leave(&self) {
        if !self.has_left.replace(true) {
            self.shared.leaving.fetch_add(1, Ordering::Relaxed);
            self.shared.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let count = if self.has_left.get() { &self.shared.leaving } else { &self.shared.open };
        count.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.connections.dec();
        self.shared.closed.notify_one();
    }
}

impl Listener {
    /// Binds the address and gives the socket to [`Listener::accept`]. Runs within a tokio runtime.
    pub fn bind(
        settings: ListenerSettings,
        tls: Option<Arc<Tls>>,
        metrics: ListenerMetrics,
    ) -> io::Result<(Self, TcpListener)> {
        let socket = match settings.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Otherwise connections of our predecessor that are still closing would keep us from its address.
        socket.set_reuseaddr(true)?;
        socket.bind(settings.address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        let shared = Shared {
            current: ArcSwap::from_pointee(Current { settings: Arc::new(settings), tls }),
            metrics,
            id: ListenerId::new(),
            open: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            closed: Notify::new(),
        };
        let (phase, _) = watch::channel(Phase::Open);
        Ok((Self { shared: Arc::new(shared), address, phase }, socket))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The settings that new connections get.
    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.shared.current.load().settings.clone()
    }

    /// What new connections shake hands with.
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.shared.current.load().tls.clone()
    }

    /// Gives new connections other settings; the address stays.
    pub fn change_settings(&self, settings: ListenerSettings, tls: Option<Arc<Tls>>) {
        self.shared.current.store(Arc::new(Current { settings: Arc::new(settings), tls }));
        self.shared.closed.notify_one(); // the new `max_connections` may allow more
    }

    /// Open connections.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed) + self.shared.leaving.load(Ordering::Relaxed)
    }

    /// Closes the socket, and lets connections end politely.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Accepts until [`Listener::drain`]. `server` gets each connection.
    ///
    /// At `max_connections`, and where descriptors are short, the newest connection is accepted and waits here until one
    /// that carries nothing has closed for it. Those after it wait in the system's backlog.
    pub fn accept<S: Serve>(&self, socket: TcpListener, server: S) -> impl Future<Output = ()> + use<S> {
        let (shared, mut phase) = (self.shared.clone(), self.phase.subscribe());
        async move {
            let serve = |(stream, peer), phase: &watch::Receiver<Phase>| {
                server.serve(shared.accepted(stream, peer, phase.clone()));
            };
            let mut warned = None;
            loop {
                let mut accepted = tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| *phase == Phase::Draining) => break,
                    accepted = shared.accept_one(&socket, &server) => accepted,
                };
                tokio::select! {
                    biased;
                    // It has been told that it is connected, as those in the backlog have.
                    _ = phase.wait_for(|phase| *phase == Phase::Draining) => {}
                    () = shared.make_room(&mut accepted.0, &server, &mut warned) => {}
                }
                serve(accepted, &phase);
            }
            // Whoever is in the backlog has been told that it is connected: closing now would cut it off.
            while let Some(accepted) = accept_waiting(&socket).await {
                serve(accepted, &phase);
            }
        }
    }
}

impl Shared {
    async fn accept_one<S: Serve>(&self, socket: &TcpListener, server: &S) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = socket.accept().await;
            match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok(accepted) => return accepted,
                Err(error) => {
                    self.note_error(&error);
                    if Shortage::of(&error).is_some() {
                        // The connection stays in the backlog: asking at once would only burn a core.
                        server.evict(Scope::Process).await;
                        sleep(EXHAUSTION_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Waits until the listener may have another connection, and the process another descriptor for a caller.
    async fn make_room<S: Serve>(&self, newest: &mut TcpStream, server: &S, warned: &mut Option<Instant>) {
        let mut is_paused = false;
        loop {
            let scope = if self.current.load().settings.max_connections <= self.open.load(Ordering::Relaxed) {
                Scope::Listener(self.id)
            } else if Use::Caller.settle(newest) {
                return;
            } else {
                Scope::Process
            };
            if self.leaving.load(Ordering::Relaxed) < MAX_LEAVING && server.evict(scope).await {
                if scope == Scope::Process {
                    until_settled(newest).await;
                }
                continue;
            }
            if !std::mem::replace(&mut is_paused, true) {
                self.metrics.paused.inc();
                self.warn_of_no_room(scope, warned);
            }
            tokio::select! {
                () = self.closed.notified() => {}
                // Meanwhile one may have been idle for long enough, or another listener's may have closed.
                () = sleep(EXHAUSTION_PAUSE) => {}
            }
        }
    }

    /// At most once a minute: callers decide how often it happens, and the metric counts it.
    fn warn_of_no_room(&self, scope: Scope, warned: &mut Option<Instant>) {
        if warned.is_some_and(|warned| warned.elapsed() < WARNING_PERIOD) {
            return;
        }
        *warned = Some(Instant::now());
        let lacking = match scope {
            Scope::Listener(_) => "max_connections",
            Scope::Process => "file descriptors",
        };
        let address = self.current.load().settings.address;
        tracing::warn!(%address, lacking, "no room for a new connection, and none that is idle to close for it");
    }

    fn accepted(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        phase: watch::Receiver<Phase>,
    ) -> Accepted {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        let counted = OpenConnection { shared: self.clone(), has_left: Cell::new(false) };
        let current = self.current.load();
        let (settings, tls) = (current.settings.clone(), current.tls.clone());
        Accepted { stream, peer, settings, tls, phase, counted }
    }

    fn note_error(&self, error: &io::Error) {
        let fault = match Shortage::of(error) {
            Some(Shortage::Files) => AcceptFault::TooManyFiles,
            Some(Shortage::Memory) => AcceptFault::NoMemory,
            _ if error.kind() == io::ErrorKind::ConnectionAborted => AcceptFault::Aborted,
            _ => AcceptFault::Other,
        };
        self.metrics.accept_error(fault).inc();
        tracing::warn!(address = %self.current.load().settings.address, %error, "connection not accepted");
    }
}

/// A connection that waits in the backlog; none if nobody does.
async fn accept_waiting(socket: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|cx| match socket.poll_accept(cx) {
        Poll::Ready(accepted) => {
            Poll::Ready(accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))).ok())
        }
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits until a descriptor has come free for the newest connection, for as long as a connection may take to close that was told to.
async fn until_settled(newest: &mut TcpStream) {
    for _ in 0..CLOSING_LOOKS {
        if Use::Caller.settle(newest) {
            return;
        }
        sleep(CLOSING_PERIOD).await;
    }
}

/// Connections that the system completes before we accept them; it cuts the figure to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How long to wait for a place or a file descriptor to come free.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// How often, and how many times, to look whether a descriptor has come free.
const CLOSING_PERIOD: Duration = Duration::from_millis(1);
const CLOSING_LOOKS: u32 = 100;

/// The most connections of a listener that take their leave beside `max_connections`.
const MAX_LEAVING: usize = 1024;

const WARNING_PERIOD: Duration = Duration::from_mins(1);
