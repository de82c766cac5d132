//! HTTP/2 towards the caller, by hyper and h2, with the limits that they leave to us.
//!
//! What h2 holds by itself: the announced number of streams, the size of a header list (and so floods of
//! CONTINUATION), resets of streams that nobody has looked at yet, and malformed frames. What it does not know: time,
//! and callers that begin requests only to cancel them.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Service, ServiceExt};

use crate::downstream::connection::Connection;
use crate::downstream::limits::{Event, Limits, Running};
use crate::downstream::stream::Stream;
use crate::error::RequestFault;
use crate::fields::is_token;
use crate::proxy::body::{Inbound, Refusal};
use crate::record::metrics::Http2Fault;

/// Serves requests until the connection ends.
pub(super) async fn serve<S, B>(stream: Stream, facts: Rc<Connection>, mut limits: Limits, service: S)
where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let streams = Streams::new(facts.clone());
    let resets = Rc::new(Resets { excess: Cell::default(), most: facts.settings.http2.max_cancelled });
    let http = service_fn({
        let (facts, streams, resets) = (facts.clone(), streams.clone(), resets.clone());
        move |request: Request<Incoming>| {
            let running = facts.state.begin_exchange();
            let cancellation = Cancellation { resets: resets.clone(), is_answered: false };
            let request = inbound(&facts, request);
            let (streams, service) = (streams.clone(), service.clone());
            async move {
                let mut cancellation = cancellation;
                let Ok(mut response) = service.oneshot(request).await;
                cancellation.is_answered = true;
                // It means something in HTTP/1.1 only; a connection that shall end says so by GOAWAY.
                response.headers_mut().remove(CONNECTION);
                streams.waits.set(Waits::for_caller());
                Ok::<_, Infallible>(response.map(|inner| StreamBody {
                    inner,
                    rest: Bytes::new(),
                    streams,
                    _running: running,
                }))
            }
        }
    });
    let mut connection = pin!(builder(&facts, streams).serve_connection(TokioIo::new(stream), http));
    if facts.state.is_draining() {
        // It was told so while it was still finding out what its caller speaks.
        connection.as_mut().graceful_shutdown();
    }
    loop {
        let mut served = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(End::Broken(error))),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending if resets.is_exceeded() => Poll::Ready(Err(End::TooManyResets)),
            Poll::Pending => Poll::Pending,
        });
        let event = tokio::select! {
            biased;
            ended = &mut served => {
                if let Err(end) = ended {
                    note_end(&end, &facts);
                }
                return;
            }
            event = limits.event() => event,
        };
        match event {
            // It is told that nothing more will be answered, and has the time of a draining connection to leave.
            Event::OutOfTime | Event::Evicted if facts.state.begin_draining() => {
                connection.as_mut().graceful_shutdown();
            }
            Event::OutOfTime | Event::Evicted => return,
            Event::Draining => {
                facts.state.restart_idle_clock();
                connection.as_mut().graceful_shutdown();
            }
            Event::Resting => {} // over HTTP/1.1 only
        }
    }
}

/// Why a connection ends before its caller closes it.
#[derive(Debug)]
enum End {
    Broken(hyper::Error),
    TooManyResets,
}

fn note_end(end: &End, facts: &Connection) {
    let peer = facts.peer.address();
    match end {
        End::Broken(error) => {
            tracing::debug!(%peer, %error, "connection ended");
            facts.metrics().http2_error(Http2Fault::Connection).inc();
        }
        End::TooManyResets => {
            tracing::debug!(%peer, "connection closed: too many cancelled requests");
            facts.metrics().http2_error(Http2Fault::Resets).inc();
        }
    }
}

fn builder(facts: &Connection, streams: Streams) -> http2::Builder<Streams> {
    let settings = &facts.settings.http2;
    let mut builder = http2::Builder::new(streams);
    builder
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(u32::try_from(facts.settings.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buf_size(settings.send_buffer as usize)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS);
    builder
}

/// The request as the proxy takes it: with the `Host` and the one `Cookie` that HTTP/1.1 has instead of
/// `:authority` and crumbs.
fn inbound(facts: &Connection, request: Request<Incoming>) -> Request<Inbound> {
    let (mut head, body) = request.into_parts();
    join_cookies(&mut head.headers);
    let mut fault = move_authority(&mut head).and_then(|()| check_fields(&head.headers)).err();
    if head.headers.len() > MAX_FIELDS {
        fault = Some(RequestFault::TooManyFields);
        head.headers.clear();
    }
    let mut request = facts.inbound(Request::from_parts(head, body), None);
    let caller = &mut request.body_mut().caller;
    caller.refusal = fault.map(Refusal::Fault).or(caller.refusal);
    request
}

/// Makes `:authority` the `Host` (RFC 9113 section 8.3.1). The scheme, which anybody can claim, goes with it.
fn move_authority(head: &mut Parts) -> Result<(), RequestFault> {
    if let Some(authority) = head.uri.authority() {
        let is_same =
            |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
        if !head.headers.get_all(HOST).iter().all(is_same) {
            return Err(RequestFault::BadHost);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| RequestFault::BadHost)?;
        head.headers.insert(HOST, host);
    }
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        let target = head.uri.path_and_query().cloned();
        head.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    Ok(())
}

/// Refuses what h2 takes and RFC 9113 section 8.2.1 does not: names that are none in HTTP/1.1, and blanks around a value,
/// which it would lose.
fn check_fields(headers: &HeaderMap) -> Result<(), RequestFault> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_padded =
        |value: &HeaderValue| is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last());
    let is_plain = headers.keys().all(is_token) && !headers.values().any(is_padded);
    if is_plain { Ok(()) } else { Err(RequestFault::BadHead) }
}

/// Makes one `Cookie` of many (RFC 9113 section 8.2.3): HTTP/1.1 has but one, and its servers read only that.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// Counts cancelled requests against answered ones: a caller that only ever cancels makes work for the backend without
/// ever reaching the limit of streams ("rapid reset").
#[derive(Debug)]
struct Resets {
    excess: Cell<u32>,
    most: u32,
}

impl Resets {
    fn is_exceeded(&self) -> bool {
        self.excess.get() > self.most
    }
}

/// Notes how a request ended, when it is dropped.
#[derive(Debug)]
struct Cancellation {
    resets: Rc<Resets>,
    is_answered: bool,
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        let excess = &self.resets.excess;
        excess.set(if self.is_answered {
            excess.get().saturating_sub(1)
        } else {
            excess.get().saturating_add(1)
        });
    }
}

/// Runs the streams of a connection, each as a task, and ends those whose caller takes nothing.
#[derive(Clone, Debug)]
struct Streams {
    /// For whom the stream waits that is being polled now.
    waits: Rc<Cell<Waits>>,
    facts: Rc<Connection>,
}

/// For whom a stream waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// For the backend, or for us.
    ForUs,
    /// For its caller to take something, since then.
    ForCaller(Instant),
}

impl Waits {
    fn for_caller() -> Self {
        Self::ForCaller(Instant::now())
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // Boxed, because a task is moved about while it is made and when it ends, and a stream is large.
        tokio::task::spawn_local(self.clone().run(Box::pin(stream)));
    }
}

impl Streams {
    fn new(facts: Rc<Connection>) -> Self {
        Self { waits: Rc::new(Cell::new(Waits::ForUs)), facts }
    }

    /// Polls a stream to its end. If its caller takes nothing of the answer for `write_timeout`, it is dropped, and
    /// with it what it holds; h2 then resets it.
    async fn run<F: Future<Output = ()>>(self, stream: F) {
        let mut stream = pin!(stream);
        let mut waits = Waits::ForUs;
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        let limit = self.facts.settings.write_timeout;
        poll_fn(move |cx| {
            self.waits.set(waits);
            let polled = stream.as_mut().poll(cx);
            waits = self.waits.get();
            if polled.is_ready() {
                return polled;
            }
            let Waits::ForCaller(since) = waits else { return Poll::Pending };
            // Made when first needed, and then only looked at: most streams never wait.
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(since + limit)));
            while timer.as_mut().poll(cx).is_ready() {
                if since + limit <= Instant::now() {
                    tracing::debug!(peer = %self.facts.peer.address(), "stream reset: nothing was taken of it");
                    self.facts.metrics().http2_error(Http2Fault::Stalled).inc();
                    return Poll::Ready(());
                }
                timer.as_mut().reset(since + limit);
            }
            Poll::Pending
        })
        .await;
    }
}

/// The body of an answer, in pieces of one frame: h2 buffers a piece as soon as it may send a byte of it.
#[derive(Debug)]
struct StreamBody<B> {
    inner: B,
    rest: Bytes,
    streams: Streams,
    _running: Running,
}

impl<B: Body<Data = Bytes> + Unpin> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
                self.streams.waits.set(Waits::ForUs);
                return Poll::Pending;
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        self.streams.waits.set(Waits::for_caller());
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// As many fields as hyper takes over HTTP/1.1. The cookies count as one.
const MAX_FIELDS: usize = 100;

/// Streams that were reset before they could be looked at: beyond them h2 closes the connection.
const MAX_PENDING_RESETS: usize = 20;

/// Streams that h2 had to reset for the caller's errors ("MadeYouReset"): beyond them it closes the connection.
const MAX_ERROR_RESETS: usize = 100;

/// h2's own frame size, the smallest that a caller must take.
const PIECE: usize = 16 << 10;

#[cfg(test)]
mod tests;
