//! Accepts connections and passes each on to whoever serves them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderName;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::downstream::http2::Http2Settings;
use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::downstream::tls::{Tls, TlsSettings};
use crate::fields::Underscores;
use crate::fields::guard::OriginGuard;
use crate::record::metrics::ListenerMetrics;

/// What an operator sets for a listener, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
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
    /// Open connections; beyond them, callers wait in the system's backlog.
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
    current: ArcSwap<Current>,
    metrics: ListenerMetrics,
    open: AtomicUsize,
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
    pub stream: std::net::TcpStream,
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

/// Counts a connection of a listener.
#[derive(Debug)]
pub struct OpenConnection {
    shared: Arc<Shared>,
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
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
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
            open: AtomicUsize::new(0),
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
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Closes the socket, and lets connections end politely.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Accepts until [`Listener::drain`]. `serve` gets each connection.
    pub fn accept<F: Fn(Accepted)>(
        &self,
        socket: TcpListener,
        serve: F,
    ) -> impl Future<Output = ()> + use<F> {
        let (shared, mut phase) = (self.shared.clone(), self.phase.subscribe());
        async move {
            let serve = |(stream, peer): (TcpStream, SocketAddr), phase: &watch::Receiver<Phase>| match shared
                .accepted(stream, peer, phase.clone())
            {
                Ok(accepted) => serve(accepted),
                Err(error) => shared.note_error(&error),
            };
            loop {
                let accepted = tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| *phase == Phase::Draining) => break,
                    accepted = shared.accept_one(&socket) => accepted,
                };
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
    /// The next connection, when there is room for one.
    async fn accept_one(&self, socket: &TcpListener) -> (TcpStream, SocketAddr) {
        let mut is_paused = false;
        while self.current.load().settings.max_connections <= self.open.load(Ordering::Relaxed) {
            if !std::mem::replace(&mut is_paused, true) {
                self.metrics.paused.inc();
                tracing::warn!(address = %self.current.load().settings.address, "max_connections reached, not accepting");
            }
            self.closed.notified().await;
        }
        loop {
            match socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    self.note_error(&error);
                    if is_exhaustion(&error) {
                        // The connection stays in the backlog: asking at once would only burn a core.
                        sleep(EXHAUSTION_PAUSE).await;
                    }
                }
            }
        }
    }

    fn accepted(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        phase: watch::Receiver<Phase>,
    ) -> io::Result<Accepted> {
        let stream = stream.into_std()?;
        self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        let counted = OpenConnection { shared: self.clone() };
        let current = self.current.load();
        let (settings, tls) = (current.settings.clone(), current.tls.clone());
        Ok(Accepted { stream, peer, settings, tls, phase, counted })
    }

    fn note_error(&self, error: &io::Error) {
        let word = match error.raw_os_error() {
            Some(EMFILE | ENFILE) => "too_many_files",
            Some(ENOBUFS | ENOMEM) => "no_memory",
            _ if error.kind() == io::ErrorKind::ConnectionAborted => "aborted",
            _ => "other",
        };
        self.metrics.accept_error(word).inc();
        tracing::warn!(address = %self.current.load().settings.address, %error, "connection not accepted");
    }
}

/// A connection that waits in the backlog; none if nobody does.
async fn accept_waiting(socket: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|cx| match socket.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Whether the process or the machine has run out of something that time may give back.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// Connections that the system completes before we accept them; it cuts the figure to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// How long to wait for a file descriptor to come free.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

// Linux numbers; the standard library has no names for these errors.
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;
