//! One connection from a caller: HTTP/1.1 by hyper, and the time limits that hyper does not have.
//!
//! hyper's one header timeout is also its idle timeout. Behind an ALB the two must differ: an idle connection has to
//! outlive the ALB's 60 s, and a head must be whole within 10 s of its first byte.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::downstream::acceptor::{Accepted, ListenerSettings, OpenConnection, Phase};
use crate::downstream::forwarded::Peer;
use crate::proxy::body::{Caller, Inbound, ProxyStatus, Refusal, RequestBody};

/// Serves a connection until it ends. `refused` is told of heads that hyper has refused by itself.
pub async fn serve<S, B>(accepted: Accepted, service: S, refused: impl Fn(IpAddr, StatusCode))
where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted { stream, peer, settings, mut phase, counted } = accepted;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // Without it the last small part of an answer waits for an acknowledgement. A socket that refuses is closing.
    let _ = stream.set_nodelay(true);
    let peer = Rc::new(Peer::new(peer, &settings.trusted_proxies));
    let state = Rc::new(State::new(Instant::now()));
    let io = TokioIo::new(Watched { stream, state: state.clone() });
    let http = service_fn(|request: Request<Incoming>| {
        state.begin_exchange();
        let version = request.version();
        let request = inbound(request, &peer, &settings, &counted);
        let (state, service) = (state.clone(), service.clone());
        async move {
            let Ok(mut response) = service.oneshot(request).await;
            if state.is_draining.get() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if version == Version::HTTP_10 && ends_connection(&response) {
                // Otherwise hyper promises a caller of HTTP/1.0 to keep the connection that it then closes.
                *response.version_mut() = Version::HTTP_10;
            }
            Ok::<_, Infallible>(response.map(|inner| Tracked { inner, state }))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(settings.max_header_bytes)
            .serve_connection(io, http)
    );
    let mut timer = pin!(sleep(settings.header_timeout.min(settings.idle_timeout)));
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    note_end(&error, &peer, &refused);
                }
                return;
            }
            () = timer.as_mut() => match state.next_check(&settings, Instant::now()) {
                Some(at) => timer.as_mut().reset(at),
                None => return,
            },
            _ = phase.wait_for(|phase| *phase == Phase::Draining), if !state.is_draining.get() => {
                state.is_draining.set(true);
                if state.activity.get() == Activity::Exchange {
                    connection.as_mut().graceful_shutdown();
                }
                timer.as_mut().reset(Instant::now());
            }
        }
    }
}

fn inbound(
    request: Request<Incoming>,
    peer: &Peer,
    settings: &Arc<ListenerSettings>,
    counted: &OpenConnection,
) -> Request<Inbound> {
    let (mut head, body) = request.into_parts();
    let screened = counted.screen(&mut head.headers);
    let client = peer.apply(&mut head.headers, &settings.trusted_proxies);
    let caller = Caller {
        client: client.unwrap_or(peer.address()),
        body_timeout: settings.body_timeout,
        proxy_status: if settings.emit_proxy_status { ProxyStatus::Emit } else { ProxyStatus::Omit },
        refusal: screened.err().or(client.err().map(Refusal::Fault)),
    };
    Request::from_parts(head, Inbound { body: RequestBody::Incoming(body), caller })
}

/// Whether nothing can follow an answer to HTTP/1.0: its end is the connection's end, or it says so.
fn ends_connection<B: Body>(response: &Response<B>) -> bool {
    response.body().size_hint().exact().is_none() || response.headers().contains_key(CONNECTION)
}

fn note_end(error: &hyper::Error, peer: &Peer, refused: &impl Fn(IpAddr, StatusCode)) {
    tracing::debug!(peer = %peer.address(), %error, "connection ended");
    if error.is_parse_too_large() {
        refused(peer.address(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    } else if error.is_parse() {
        refused(peer.address(), StatusCode::BAD_REQUEST);
    }
}

/// What a connection is doing, noted by its socket, its service and its bodies, and read when its timer fires. The
/// timer is set seldom and looks late rather than being moved with every request.
#[derive(Debug)]
struct State {
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
    fn new(now: Instant) -> Self {
        Self {
            activity: Cell::new(Activity::Idle),
            since: Cell::new(now),
            stalled: Cell::new(None),
            is_draining: Cell::new(false),
        }
    }

    fn begin_exchange(&self) {
        self.activity.set(Activity::Exchange);
    }

    fn end_exchange(&self) {
        self.activity.set(Activity::Idle);
        self.since.set(Instant::now());
    }

    fn note_read(&self) {
        if self.activity.get() == Activity::Idle {
            self.activity.set(Activity::Head);
            self.since.set(Instant::now());
        }
    }

    fn note_write(&self, is_stalled: bool) {
        match (is_stalled, self.stalled.get()) {
            (true, None) => self.stalled.set(Some(Instant::now())),
            (false, Some(_)) => self.stalled.set(None),
            (true, Some(_)) | (false, None) => {}
        }
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

/// A socket that notes what passes.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    state: Rc<State>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.state.note_read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.state.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.state.note_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body whose end makes its connection idle.
#[derive(Debug)]
struct Tracked<B> {
    inner: B,
    state: Rc<State>,
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
