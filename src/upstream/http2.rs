//! HTTP/2 connections to an endpoint, which many exchanges share, each on a stream of its own.
//!
//! Straight on `h2`, which hyper's client stands on too: it gives a request back that a dying connection did not take,
//! and tells refused streams from broken ones by type.
//!
//! # Invariant
//!
//! A connection takes no request before the endpoint's SETTINGS have come, never more than they allow, and none
//! after a GOAWAY. The windows of its streams fit into the connection's, so that no slow caller holds up another.
//! Held by `a_backend_that_never_says_what_it_allows_is_a_connect_timeout`,
//! `another_connection_is_opened_when_the_endpoint_allows_no_more_streams` and
//! `a_connection_that_is_going_away_ends_its_streams_and_takes_nothing_new`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body::Body;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::Instant;

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::upstream::connect::SendFailure;
use crate::upstream::endpoint::{Endpoint, OpenConnection};
use crate::upstream::http1::encode::anticipates_content;
use crate::upstream::stream::{Passed, Refusal, Stream, Watched};

pub mod body;

/// A connection whose endpoint has said what it allows.
pub(super) struct Handshaken {
    endpoint: Arc<Endpoint>,
    sender: SendRequest<Bytes>,
    state: Rc<State>,
    driver: Driver,
}

/// What the driver of a connection knows.
#[derive(Debug, Default)]
struct State {
    /// Streams that the endpoint allows; 0 until its SETTINGS have come.
    allowed: Cell<usize>,
    has_ended: Cell<bool>,
    error: RefCell<Option<h2::Error>>,
    passed: Rc<Passed>,
    /// Told when one of these has changed.
    changed: Notify,
}

impl Handshaken {
    /// Exchanges SETTINGS over `stream`. Until the endpoint's have come no request is sent: then its limit is known, and
    /// that it speaks HTTP/2 at all.
    pub(super) async fn new(
        endpoint: &Arc<Endpoint>,
        stream: Stream,
        on_room: impl Fn() + 'static,
    ) -> Result<Self, UpstreamError> {
        let refusal = stream.refusal();
        let state = Rc::new(State::default());
        let stream = Watched::new(stream, state.passed.clone());
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(0)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window(endpoint.settings.max_streams))
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(endpoint.settings.max_header_bytes).unwrap_or(u32::MAX))
            .handshake(stream)
            .await
            .map_err(|error| UpstreamError::http2(error, Delivery::Never))?;
        let task = drive(connection, state.clone(), endpoint.label.clone(), on_room);
        let driver = Driver(tokio::task::spawn_local(task).abort_handle());
        while state.allowed.get() == 0 {
            if state.has_ended.get() {
                return Err(Self::failure(&state, refusal.as_ref()));
            }
            state.changed.notified().await;
        }
        Ok(Self { endpoint: endpoint.clone(), sender, state, driver })
    }

    fn failure(state: &State, refusal: Option<&Refusal>) -> UpstreamError {
        if refusal.is_some_and(Refusal::has_come) {
            return UpstreamError::new(UpstreamErrorKind::TlsAlert, Delivery::Never);
        }
        match state.error.take() {
            Some(error) => UpstreamError::http2(error, Delivery::Never),
            None => UpstreamError::new(UpstreamErrorKind::ConnectionTerminated, Delivery::Never),
        }
    }
}

/// Drives a connection to its end.
async fn drive(
    mut connection: Connection<Watched, Bytes>,
    state: Rc<State>,
    endpoint: Arc<str>,
    on_room: impl Fn(),
) {
    let ended = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        let allowed = connection.max_concurrent_send_streams();
        if allowed > state.allowed.replace(allowed) {
            state.changed.notify_one();
            on_room();
        }
        polled
    });
    let ended = ended.await;
    state.has_ended.set(true);
    if let Err(error) = ended {
        tracing::debug!(%endpoint, %error, "upstream connection ended");
        state.error.replace(Some(error));
    }
    state.changed.notify_one();
    on_room();
}

/// The task that drives a connection; dropped, it closes the connection.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection that carries exchanges. Dropped, it is closed: the pool holds it while it can take more, and each of its
/// exchanges until that has ended.
pub(super) struct SharedConnection {
    endpoint: Arc<Endpoint>,
    sender: SendRequest<Bytes>,
    state: Rc<State>,
    _driver: Driver,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// When the first exchange began that may still wait for the answer, and how much had come by then.
    asked: Cell<(Instant, u64)>,
    is_retired: Cell<bool>,
    _slot: OwnedSemaphorePermit,
    _counted: OpenConnection,
}

impl SharedConnection {
    pub(super) fn new(handshaken: Handshaken, slot: OwnedSemaphorePermit) -> Self {
        let Handshaken { endpoint, sender, state, driver } = handshaken;
        endpoint.connections.note_shared();
        Self {
            sender,
            state,
            _driver: driver,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            asked: Cell::new((Instant::now(), 0)),
            is_retired: Cell::new(false),
            _slot: slot,
            _counted: endpoint.count_connection(),
            endpoint,
        }
    }

    /// Whether it takes new exchanges, now or later: it is open, and neither side has given it up.
    pub(super) fn is_usable(&self) -> bool {
        // After a GOAWAY h2 is never ready again. A noop waker does: without a stream that waits to be opened, h2 has
        // nothing to wake for.
        let ready = || self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.is_retired.get() && !self.state.has_ended.get() && !matches!(ready(), Poll::Ready(Err(_)))
    }

    /// Whether another exchange fits on it.
    pub(super) fn has_room(&self) -> bool {
        self.streams.get() < self.state.allowed.get().min(self.endpoint.settings.max_streams)
    }

    /// Whether it carries nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0
    }

    /// Since when it carries nothing, if that is so.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    /// Lets it take nothing new.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
    }

    /// Notes that an exchange waits for its answer from now on.
    pub(super) fn note_asked(&self) {
        if self.asked.get().1 != self.reads() {
            self.asked.set((Instant::now(), self.reads()));
        }
    }

    /// Whether nothing at all has come for so long, though something was asked for.
    pub(super) fn is_silent_for(&self, time: Duration) -> bool {
        let (since, reads) = self.asked.get();
        reads == self.reads() && !self.is_idle() && since.elapsed() >= time
    }

    /// How much has come from the endpoint.
    pub(super) fn reads(&self) -> u64 {
        self.state.passed.reads()
    }

    /// Counts an exchange.
    pub(super) fn enter(&self) {
        let connections = &self.endpoint.connections;
        if self.streams.replace(self.streams.get() + 1) == 0 {
            connections.note_busy();
        }
        connections.begin_stream();
    }

    /// Counts an exchange that has ended.
    pub(super) fn leave(&self) {
        let connections = &self.endpoint.connections;
        connections.end_stream();
        self.streams.set(self.streams.get() - 1);
        if self.streams.get() == 0 {
            connections.note_idle();
            self.idle_since.set(Instant::now());
        }
    }

    /// Sends a request and waits for the response head. What is left of the request body is then sent by the
    /// [`Upload`]. Dropped, it resets the stream.
    pub(super) async fn send<B>(
        &self,
        parts: &Parts,
        body: B,
    ) -> Result<(Response<RecvStream>, Option<Upload>), SendFailure<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let has_body = !body.is_end_stream();
        let head = self.head(parts, body.size_hint().exact());
        let writes = self.state.passed.writes();
        // Nothing else runs between the two, so that what `send_request` refuses is the request, not the connection.
        if !self.is_usable() {
            return Err(SendFailure::Unsent(body));
        }
        let (response, stream) = self.sender.clone().send_request(head, !has_body).map_err(|error| {
            let mut error = UpstreamError::http2(error, Delivery::Never);
            error.kind = UpstreamErrorKind::Protocol;
            SendFailure::Sent(error)
        })?;
        let mut response = pin!(response);
        let failed = |error: h2::Error| SendFailure::Sent(UpstreamError::http2(error, Delivery::Maybe));
        if has_body {
            // The connection gets its turn, in which it notices that it has been closed, before the body is touched.
            let early = tokio::select! {
                biased;
                answered = &mut response => Some(answered),
                () = yield_now() => None,
            };
            if let Some(answered) = early {
                return match answered {
                    Ok(response) => Ok((response, Some(Upload::start(Pump::new(body, stream))))),
                    Err(_) if self.state.passed.writes() == writes => Err(SendFailure::Unsent(body)),
                    Err(error) => Err(failed(error)),
                };
            }
            let mut pump = Pump::new(body, stream);
            tokio::select! {
                biased;
                answered = &mut response => {
                    return answered.map(|response| (response, Some(Upload::start(pump)))).map_err(failed);
                }
                () = &mut pump => {}
            }
            return response.await.map(|response| (response, None)).map_err(failed);
        }
        drop(stream);
        match response.await {
            Ok(response) => Ok((response, None)),
            Err(_) if self.state.passed.writes() == writes => Err(SendFailure::Unsent(body)),
            Err(error) => Err(failed(error)),
        }
    }

    /// The head as HTTP/2 has it: the host in the target, and no fields of a connection (RFC 9113 section 8.2.2).
    fn head(&self, parts: &Parts, length: Option<u64>) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if self.endpoint.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
        let host = parts.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        uri.authority = host.or_else(|| Authority::try_from(&*self.endpoint.label).ok());
        let path = parts.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        let mut head = Request::new(());
        *head.method_mut() = parts.method.clone();
        *head.version_mut() = Version::HTTP_2;
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        let mut headers = parts.headers.clone();
        clean(&mut headers);
        if let Some(length) = length.filter(|length| *length > 0 || anticipates_content(&parts.method))
            && !headers.contains_key(CONTENT_LENGTH)
        {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        *head.headers_mut() = headers;
        head
    }
}

impl Drop for SharedConnection {
    fn drop(&mut self) {
        self.endpoint.connections.note_shared_closed();
    }
}

impl fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedConnection")
            .field("endpoint", &self.endpoint.label)
            .field("streams", &self.streams)
            .field("is_retired", &self.is_retired)
            .finish_non_exhaustive()
    }
}

fn clean(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    for name in [HOST, CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if headers.get_all(TE).iter().any(|value| value != "trailers") {
        headers.remove(TE);
    }
}

/// Sends a request body, as the peer's windows allow. Done, the body has ended, broken or become useless.
struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// What did not fit the window yet.
    rest: Bytes,
}

impl<B> Pump<B> {
    fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, rest: Bytes::new() }
    }
}

impl<B> Future for Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { body, stream, rest } = &mut *self;
        loop {
            // A stream that the peer has reset takes nothing more, which an idle body would not notice. An error of the
            // stream itself is told to whoever waits for the response.
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if !rest.is_empty() {
                stream.reserve_capacity(rest.len());
                let Some(Ok(room)) = std::task::ready!(stream.poll_capacity(cx)) else {
                    return Poll::Ready(());
                };
                let piece = rest.split_to(room.min(rest.len()));
                let is_last = rest.is_empty() && body.is_end_stream();
                if stream.send_data(piece, is_last).is_err() || is_last {
                    return Poll::Ready(());
                }
                continue;
            }
            match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *rest = data,
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            let _ = stream.send_trailers(trailers);
                            return Poll::Ready(());
                        }
                    }
                },
                None => {
                    let _ = stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
                Some(Err(_)) => {
                    // An end would make a whole request of half a body.
                    stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// The rest of a request body, sent while the answer comes. Dropped, it is given up.
#[derive(Debug)]
pub(super) struct Upload(AbortHandle);

impl Upload {
    fn start<B>(pump: Pump<B>) -> Self
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        Self(tokio::task::spawn_local(pump).abort_handle())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a stream may send before it is read. A caller that takes nothing holds so much of an answer.
const STREAM_WINDOW: u32 = 128 << 10;

/// Room for the windows of all streams: callers that are slow must not hold up those that are not.
fn connection_window(streams: usize) -> u32 {
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    // The most that RFC 9113 section 6.9.1 allows.
    STREAM_WINDOW.saturating_mul(streams).min((1 << 31) - 1)
}

/// What of a request body waits in memory for the peer's window.
const SEND_BUFFER: usize = 64 << 10;
