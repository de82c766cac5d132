//! Opens a connection to an endpoint, over TLS where its URL says so, and starts the task that drives it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
#[cfg(feature = "bench")]
use crate::memory;
use crate::policy::reuse::announced_timeout;
use crate::upstream::cluster::Protocol;
use crate::upstream::endpoint::{Endpoint, OpenConnection};
use crate::upstream::http2::Handshaken;
use crate::upstream::stream::{Refusal, Stream};

/// A connection to an endpoint, in the protocol that it turned out to speak.
pub(super) enum Fresh<B> {
    /// For one exchange after the other. Boxed for good, because it passes through many hands with every exchange.
    Http1(Box<Connection<B>>),
    /// For many at once.
    Http2(Handshaken, OwnedSemaphorePermit),
}

/// Opens a connection within the cluster's `connect_timeout`, TLS and the first SETTINGS of HTTP/2 included. No error
/// of this function has sent anything of a request.
///
/// `on_room` is called whenever an HTTP/2 connection can take more than before, and when it has ended.
pub(super) async fn open<B>(
    endpoint: &Arc<Endpoint>,
    slot: OwnedSemaphorePermit,
    on_room: impl Fn() + 'static,
) -> Result<Fresh<B>, UpstreamError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let establish = async {
        let stream = dial(endpoint).await?;
        if speaks_http2(endpoint.settings.protocol, &stream)? {
            Ok(Fresh::Http2(Handshaken::new(endpoint, stream, on_room).await?, slot))
        } else {
            Ok(Fresh::Http1(Box::new(Connection::new(endpoint, stream, slot).await?)))
        }
    };
    let late = || Err(UpstreamError::new(UpstreamErrorKind::ConnectTimeout, Delivery::Never));
    let opened = timeout(endpoint.settings.connect_timeout, establish).await.unwrap_or_else(|_| late());
    let metrics = &endpoint.cluster_metrics;
    match &opened {
        Ok(_) => metrics.connected.inc(),
        Err(error) => metrics.connect_failed(error.kind).inc(),
    }
    opened
}

/// Connects, over TLS where its URL says so.
pub(super) async fn dial(endpoint: &Endpoint) -> Result<Stream, UpstreamError> {
    #[cfg(feature = "bench")]
    if let Some(stream) = memory::dial() {
        return Ok(Stream::Memory(stream));
    }
    let stream = TcpStream::connect(endpoint.address).await.map_err(UpstreamError::connect)?;
    // Without it a small request waits for the acknowledgement of the one before. A socket that refuses the option is
    // closing, which the first write will tell.
    let _ = stream.set_nodelay(true);
    match &endpoint.tls {
        None => Ok(Stream::Plain(stream)),
        Some(client) => client.handshake(stream).await,
    }
}

/// Whether a new connection speaks HTTP/2.
pub(super) fn speaks_http2(protocol: Protocol, stream: &Stream) -> Result<bool, UpstreamError> {
    let has_agreed = stream.agreed() == Some(b"h2");
    match (protocol, stream) {
        (Protocol::Http1, _) => Ok(false),
        (Protocol::H2, Stream::Plain(_)) => Ok(true),
        #[cfg(feature = "bench")]
        (Protocol::H2, Stream::Memory(_)) => Ok(true),
        // RFC 9113 section 3.2: over TLS it is ALPN that makes it HTTP/2.
        (Protocol::H2, Stream::Secured(_)) if !has_agreed => {
            Err(UpstreamError::new(UpstreamErrorKind::TlsProtocol, Delivery::Never))
        }
        (Protocol::H2 | Protocol::Auto, _) => Ok(has_agreed),
    }
}

/// An HTTP/1.1 connection to an endpoint. Dropping it closes it, whatever it is doing.
#[derive(Debug)]
pub(super) struct Connection<B> {
    sender: SendRequest<B>,
    driver: AbortHandle,
    rest: Rc<Rest>,
    promise: Promise,
    refusal: Option<Refusal>,
    _slot: OwnedSemaphorePermit,
    _counted: OpenConnection,
}

/// When a connection has been idle; its driver looks here when the endpoint closes it.
#[derive(Debug)]
struct Rest {
    is_idle: Cell<bool>,
    /// Since when it is idle, or had been when it was last used.
    since: Cell<Instant>,
    /// When it was last taken into use, or made.
    taken: Cell<Instant>,
}

/// How long the endpoint has promised to keep the connection while it is idle. Its first answer tells, for all: a look at
/// each would cost more than it brings.
#[derive(Clone, Copy, Debug)]
enum Promise {
    /// There was no answer yet.
    Unheard,
    /// It has promised nothing.
    None,
    /// So long.
    Timeout(Duration),
}

/// Why a request brought no response head.
#[derive(Debug)]
pub(super) enum SendFailure<B> {
    /// It was sent, at least in part, or cannot be sent at all.
    Sent(UpstreamError),
    /// Not a byte of it was: here it is again.
    Unsent(Box<Request<B>>),
}

impl<B> From<TrySendError<Request<B>>> for SendFailure<B> {
    fn from(mut failure: TrySendError<Request<B>>) -> Self {
        match failure.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Sent(UpstreamError::http(failure.into_error(), Delivery::Maybe)),
        }
    }
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    async fn new(
        endpoint: &Arc<Endpoint>,
        stream: Stream,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, UpstreamError> {
        let refusal = stream.refusal();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(endpoint.settings.max_header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::http(error, Delivery::Never))?;
        let now = Instant::now();
        let rest = Rc::new(Rest { is_idle: false.into(), since: now.into(), taken: now.into() });
        let (watched, of) = (rest.clone(), endpoint.clone());
        let driver = tokio::task::spawn_local(async move {
            let ended = connection.with_upgrades().await;
            // When we close it, the driver does not come so far.
            if watched.is_idle.get() {
                of.note_idle_close(watched.since.get().elapsed());
            }
            if let Err(error) = ended {
                tracing::debug!(endpoint = %of.label, %error, "upstream connection ended");
            }
        });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
            rest,
            promise: Promise::Unheard,
            refusal,
            _slot: slot,
            _counted: endpoint.count_connection(),
        })
    }

    /// Sends a request; the future waits for the response head, however long that takes. It is hyper's own, because one
    /// around it would be twice as large; its error is a [`SendFailure`].
    pub(super) fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.sender.try_send_request(request)
    }

    /// What an error of [`Connection::send`] means, if the endpoint has refused the TLS handshake only now.
    pub(super) fn explain(&self, error: UpstreamError) -> UpstreamError {
        if self.refusal.as_ref().is_some_and(Refusal::has_come) {
            return UpstreamError::new(UpstreamErrorKind::TlsAlert, Delivery::Never);
        }
        error
    }
}

impl<B> Connection<B> {
    /// Notes that no request uses it from now on.
    pub(super) fn begin_rest(&self) {
        self.rest.since.set(Instant::now());
        self.rest.is_idle.set(true);
    }

    /// Notes that a request uses it from `now` on.
    pub(super) fn end_rest(&self, now: Instant) {
        self.rest.is_idle.set(false);
        self.rest.taken.set(now);
    }

    /// Since when it has been idle, or had been when it was last used.
    pub(super) fn idle_since(&self) -> Instant {
        self.rest.since.get()
    }

    /// When its last request began. The endpoint may have sent the end of the answer, and begun to count, at any time
    /// since: we have it from buffers, after a caller that was slow to read, or after we were kept from looking.
    pub(super) fn last_taken(&self) -> Instant {
        self.rest.taken.get()
    }

    /// Keeps what an answer promises about the connection.
    pub(super) fn note_promise(&mut self, headers: &HeaderMap) {
        if matches!(self.promise, Promise::Unheard) {
            let field = headers.get(KEEP_ALIVE).and_then(|value| value.to_str().ok());
            self.promise = field.and_then(announced_timeout).map_or(Promise::None, Promise::Timeout);
        }
    }

    /// How long the endpoint has promised to keep it while it is idle, if it has.
    pub(super) fn promised(&self) -> Option<Duration> {
        match self.promise {
            Promise::Unheard | Promise::None => None,
            Promise::Timeout(timeout) => Some(timeout),
        }
    }

    /// Whether it waits for a request.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether the endpoint has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until it can take another request; false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        // hyper would go on writing a request body that nobody needs any more.
        self.driver.abort();
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
