//! HTTP/1.1 towards the caller, by hyper.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tower::{Service, ServiceExt};

use crate::downstream::connection::Connection;
use crate::downstream::idle::next_request;
use crate::downstream::limits::{Event, Limits, Tracked};
use crate::downstream::settings::ListenerSettings;
use crate::downstream::stream::Stream;
use crate::error::RequestFault;
use crate::proxy::body::{Inbound, Refusal};
use crate::proxy::upgrade::Handover;

/// What the requests of a connection are for.
pub(super) struct Application<S, R> {
    /// Answers them.
    pub(super) service: S,
    /// Is told of heads that hyper has refused by itself.
    pub(super) refused: R,
}

/// Serves requests until the connection ends.
pub(super) async fn serve<S, B>(
    stream: Stream,
    facts: &Connection,
    mut limits: Limits,
    application: Application<S, impl Fn(IpAddr, StatusCode)>,
) where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Application { service, refused } = application;
    let handover = Handover::default();
    // Whether the connection, if it ends now, ends on bytes that nobody has read: the rest of a body that was answered
    // before its end, or what follows a request after which we close.
    let may_be_unread = Cell::new(false);
    let http = service_fn(|request: Request<Incoming>| {
        let running = facts.state.begin_exchange();
        let (version, has_body) = (request.version(), !request.body().is_end_stream());
        let (handover, mut service, may_be_unread) = (handover.clone(), service.clone(), &may_be_unread);
        async move {
            let Ok(service) = service.ready().await;
            let Ok(mut response) = service.call(inbound(facts, request, handover)).await;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS && !facts.state.stay() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            may_be_unread.set(has_body || response.headers().contains_key(CONNECTION));
            if facts.state.is_draining() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if version == Version::HTTP_10 && ends_connection(&response) {
                // Otherwise hyper promises a caller of HTTP/1.0 to keep the connection that it then closes.
                *response.version_mut() = Version::HTTP_10;
            }
            Ok::<_, Infallible>(response.map(|body| Tracked::new(body, running)))
        }
    });
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).max_buf_size(read_buffer(&facts.settings));
    // Not pinned for good: after a 101, or to rest, the socket is taken out of it.
    facts.state.begin_requests();
    let mut connection = builder.serve_connection(TokioIo::new(stream), &http);
    loop {
        let event = tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    note_end(&error, facts, &refused);
                    if !error.is_parse() {
                        return;
                    }
                    may_be_unread.set(true);
                }
                break;
            }
            event = limits.event() => event,
        };
        match event {
            Event::OutOfTime if facts.state.is_half_way_through_a_head() => {
                refused(facts.peer.address(), StatusCode::REQUEST_TIMEOUT);
                drop(limits); // from here on nobody answers the question whether it leaves
                // Boxed, because it is seldom needed and would make every connection larger.
                return Box::pin(connection.into_parts().io.into_inner().say_last(LATE_HEAD)).await;
            }
            Event::OutOfTime => return,
            Event::Evicted => break,
            Event::Draining if facts.state.is_busy() => Pin::new(&mut connection).graceful_shutdown(),
            Event::Resting if !may_be_unread.get() => {
                facts.state.end_requests();
                // Boxed, so that a connection that works has no room for it.
                let next = Box::pin(next_request(connection.into_parts(), &mut limits)).await;
                let Some(stream) = next else { return };
                facts.state.begin_requests();
                connection = builder.serve_connection(TokioIo::new(stream), &http);
            }
            Event::Draining | Event::Resting => {}
        }
    }
    drop(limits); // a tunnel is no idle connection
    if let Some(tunnel) = handover.take() {
        let parts = connection.into_parts();
        facts.state.end_requests();
        // Boxed, because few connections become one, and it would make every connection three times as large.
        Box::pin(tunnel.run(parts.io.into_inner(), parts.read_buf)).await;
    } else if may_be_unread.get() {
        // Boxed, because it is seldom needed and would make every connection larger.
        Box::pin(connection.into_parts().io.into_inner().linger_close()).await;
    }
}

/// The request as the proxy takes it: refused if its head is over the limit, for hyper takes somewhat longer ones.
fn inbound(facts: &Connection, request: Request<Incoming>, handover: Handover) -> Request<Inbound> {
    let is_too_large = head_length(&request) > facts.settings.max_header_bytes;
    let mut request = facts.inbound(request, Some(handover));
    if is_too_large {
        // Whoever lacks the listener's secret learns nothing else.
        request.body_mut().caller.refusal.get_or_insert(Refusal::Fault(RequestFault::HeadTooLarge));
    }
    request
}

/// The bytes of a request's head, without blanks that mean nothing.
fn head_length<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    request.method().as_str().len() + target + "  HTTP/1.1\r\n\r\n".len() + fields.sum::<usize>()
}

/// The most that hyper reads at once, and the size of the buffer that a body read so lies in.
pub(super) fn read_buffer(settings: &ListenerSettings) -> usize {
    settings.max_header_bytes + BODY_ROOM
}

/// What hyper may read at once beyond the longest head: its one limit is for heads and for pieces of bodies. With the default
/// limit, a body of 64 KiB then comes in one piece with its head, where it would else take another read and another write.
/// A head that makes use of it is refused by [`inbound`], a longer one by hyper.
const BODY_ROOM: usize = 8 << 10;

/// The reply to a head that did not end in time. The codec has no request yet that it could answer.
const LATE_HEAD: &str = "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 61\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n\
    408 Request Timeout\nThe request head did not arrive in time.\n";

/// Whether nothing can follow an answer to HTTP/1.0: its end is the connection's end, or it says so.
fn ends_connection<B: Body>(response: &Response<B>) -> bool {
    response.body().size_hint().exact().is_none() || response.headers().contains_key(CONNECTION)
}

fn note_end(error: &hyper::Error, facts: &Connection, refused: &impl Fn(IpAddr, StatusCode)) {
    let peer = facts.peer.address();
    tracing::debug!(%peer, %error, "connection ended");
    if error.is_parse_too_large() {
        refused(peer, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    } else if error.is_parse() {
        refused(peer, StatusCode::BAD_REQUEST);
    }
}
