//! The way of an accepted connection: who is at its other end, which protocol it speaks, and then its requests.
//!
//! # Invariant
//!
//! A step of a connection reads nothing that it does not need, or gives it back. Held by
//! `http1_requests_cut_in_any_place_are_not_mistaken_for_http2`.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::Service;

use crate::downstream::acceptor::{Accepted, OpenConnection};
use crate::downstream::eviction::Roster;
use crate::downstream::forwarded::{Peer, Trusted, is_trusted};
use crate::downstream::http1::Application;
use crate::downstream::limits::{Event, Limits, State};
use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::downstream::settings::ListenerSettings;
use crate::downstream::stream::{Stream, Transport};
use crate::downstream::tls::{Handshaken, Protocol};
use crate::downstream::{http1, http2, proxy_protocol};
use crate::fields::Scheme;
#[cfg(feature = "bench")]
use crate::memory;
use crate::proxy::body::{Caller, Inbound, ProxyStatus, Refusal, RequestBody, Trust};
use crate::proxy::tls::TlsCaller;
use crate::proxy::upgrade::Handover;
use crate::record::metrics::{ListenerMetrics, PrefaceFault};

/// Serves a connection until it ends. `refused` is told of heads that hyper has refused by itself. While the connection is
/// on the `roster`, it can be asked to leave.
pub async fn serve<S, B>(
    accepted: Accepted,
    roster: &Roster,
    service: S,
    refused: impl Fn(IpAddr, StatusCode),
) where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted { stream, peer, settings, tls, phase, counted } = accepted;
    let Ok(mut stream) = TcpStream::from_std(stream) else { return };
    // Without it the last small part of an answer waits for an acknowledgement. A socket that refuses is closing.
    let _ = stream.set_nodelay(true);
    let state = Rc::new(State::new(Instant::now()));
    state.set_trusted(is_trusted(peer.ip().to_canonical(), &settings.trusted_proxies));
    let counted = Rc::new(counted);
    let entry = roster.list(counted.clone(), state.clone());
    let mut limits = Limits::new(state.clone(), settings.clone(), phase, Some(entry));
    let peer = if settings.proxy_protocol == ProxyProtocol::Required {
        state.expect_preface();
        // Boxed, so that the connection does not keep the room for the longest header.
        let named = Box::pin(limits.within(proxy_protocol::read(&mut stream))).await;
        let named = match named {
            Err(Event::Evicted) => return,
            Err(_) => Err(PrefaceFault::Timeout),
            Ok(read) => read,
        };
        match named {
            Ok(named) => {
                state.begin_idling();
                named.unwrap_or(peer)
            }
            Err(error) => {
                tracing::debug!(%peer, error = error.label(), "connection closed for its PROXY header");
                counted.metrics().proxy_protocol_error(error).inc();
                return;
            }
        }
    } else {
        peer
    };
    let (transport, scheme, tls, agreed) = match tls {
        None => (Transport::Plain(stream), Scheme::Http, None, None),
        Some(tls) => {
            // Boxed, so that plain connections do not carry the handshake's size.
            let handshake = limits.unless_evicted(Box::pin(tls.handshake(stream)));
            let Some(Some((stream, handshaken))) = handshake.await else { return };
            // It had a time of its own.
            state.begin_idling();
            let Handshaken { protocol, caller } = handshaken;
            (Transport::Tls(Box::new(stream)), Scheme::Https, Some(caller), Some(protocol))
        }
    };
    #[cfg(feature = "bench")]
    let transport = memory::answer().map_or(transport, Transport::Memory);
    let peer = Peer::new(peer, scheme);
    let trust = peer.trust(&settings.trusted_proxies);
    state.set_trusted(trust == Trust::Yes);
    let mut stream = Stream::new(transport, state.clone());
    let may_be_http2 = match agreed {
        Some(agreed) => agreed == Protocol::Http2,
        None => settings.http2.enabled,
    };
    let protocol = if may_be_http2 {
        match limits.within(recognise(&mut stream)).await {
            Ok(Ok(protocol)) if agreed.is_none_or(|agreed| agreed == protocol) => protocol,
            Ok(Err(error)) => {
                tracing::debug!(peer = %peer.address(), %error, "connection ended");
                return;
            }
            Ok(Ok(_)) | Err(_) => return,
        }
    } else {
        Protocol::Http1
    };
    let connection = Connection { peer, trust, settings, state, tls, counted };
    match protocol {
        Protocol::Http1 => {
            http1::serve(stream, &connection, limits, Application { service, refused }).await;
        }
        Protocol::Http2 => {
            connection.state.begin_http2();
            connection.metrics().http2_connections.inc();
            // Boxed, so that a connection of HTTP/1.1 has not the size of one of HTTP/2.
            Box::pin(http2::serve(stream, Rc::new(connection), limits, service)).await;
        }
    }
}

/// Reads as much as tells HTTP/2, which begins with a request that HTTP/1.1 does not have (RFC 9113 section 3.4).
async fn recognise(stream: &mut Stream) -> io::Result<Protocol> {
    let mut seen = [0; PREFACE.len() + FRAME_HEAD];
    let mut length = 0;
    loop {
        let wanted = if length < PREFACE.len() { PREFACE.len() } else { seen.len() };
        let count = stream.read(&mut seen[length..wanted]).await?;
        length += count;
        let is_http2 = length >= PREFACE.len() && seen.starts_with(PREFACE);
        if count == 0 || !is_http2 && !PREFACE.starts_with(&seen[..length]) || length == seen.len() {
            // h2 would wait for ever for the settings that must come first, and mistake any other frame for them.
            if is_http2 && seen[PREFACE.len() + FRAME_TYPE] != SETTINGS {
                return Err(io::ErrorKind::InvalidData.into());
            }
            stream.give_back(&seen[..length]);
            return Ok(if is_http2 { Protocol::Http2 } else { Protocol::Http1 });
        }
    }
}

/// How every HTTP/2 connection begins; a SETTINGS frame follows.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes before a frame's payload.
const FRAME_HEAD: usize = 9;

/// Where in them the frame's type stands.
const FRAME_TYPE: usize = 3;

/// The type of a SETTINGS frame.
const SETTINGS: u8 = 4;

/// What the requests of a connection have in common.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    /// Whether the peer was trusted when it connected.
    trust: Trust,
    pub(super) settings: Arc<ListenerSettings>,
    pub(super) state: Rc<State>,
    pub(super) tls: Option<Rc<TlsCaller>>,
    counted: Rc<OpenConnection>,
}

impl Connection {
    /// The counters of its listener.
    pub(super) fn metrics(&self) -> &ListenerMetrics {
        self.counted.metrics()
    }

    /// The request as the proxy takes it; `handover` is there if the connection can become a tunnel.
    pub(super) fn inbound(&self, request: Request<Incoming>, handover: Option<Handover>) -> Request<Inbound> {
        let (mut head, body) = request.into_parts();
        let settings = &self.settings;
        let current = self.counted.current();
        let screened = self.counted.screen(&current.settings, &mut head.headers);
        let trust = self.trust_by(&current.settings);
        let trusted = Trusted {
            proxies: &current.settings.trusted_proxies,
            headers: &current.settings.trusted_headers,
        };
        let client = self.peer.apply(&mut head.headers, trust, trusted);
        let caller = Caller {
            client: client.unwrap_or(self.peer.address()),
            // What HTTP/2 reads goes into buffers of unknown size.
            read_buffer: if handover.is_some() { http1::read_buffer(settings) } else { usize::MAX },
            body_timeout: settings.body_timeout,
            proxy_status: if settings.emit_proxy_status { ProxyStatus::Emit } else { ProxyStatus::Omit },
            refusal: screened.err().or(client.err().map(Refusal::Fault)),
            trust,
            tls: self.tls.clone(),
        };
        Request::from_parts(head, Inbound { body: RequestBody::Incoming(body), caller, handover })
    }

    /// Whether the peer is trusted by settings that a reload may have changed since it connected.
    fn trust_by(&self, current: &Arc<ListenerSettings>) -> Trust {
        if Arc::ptr_eq(current, &self.settings) {
            return self.trust; // nearly always
        }
        let trust = self.peer.trust(&current.trusted_proxies);
        self.state.set_trusted(trust == Trust::Yes);
        trust
    }
}
