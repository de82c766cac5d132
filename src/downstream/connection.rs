//! The way of an accepted connection: who is at its other end, which protocol it speaks, and then its requests.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::Service;

use crate::downstream::acceptor::{Accepted, ListenerSettings};
use crate::downstream::forwarded::{Peer, Scheme};
use crate::downstream::http1;
use crate::downstream::limits::{Limits, State};
use crate::downstream::stream::{Stream, Transport};
use crate::proxy::body::{Caller, Inbound, ProxyStatus, RequestBody};
use crate::proxy::tls::TlsCaller;
use crate::proxy::upgrade::Handover;

/// Serves a connection until it ends. `refused` is told of heads that hyper has refused by itself.
pub async fn serve<S, B>(accepted: Accepted, service: S, refused: impl Fn(IpAddr, StatusCode))
where
    S: Service<Request<Inbound>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted { stream, peer, settings, tls, phase, counted: _counted } = accepted;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // Without it the last small part of an answer waits for an acknowledgement. A socket that refuses is closing.
    let _ = stream.set_nodelay(true);
    let (transport, scheme, tls) = match tls {
        None => (Transport::Plain(stream), Scheme::Http, None),
        Some(tls) => {
            // Boxed, so that plain connections do not carry the handshake's size.
            let Some((stream, handshaken)) = Box::pin(tls.handshake(stream)).await else { return };
            (Transport::Tls(Box::new(stream)), Scheme::Https, Some(handshaken.caller))
        }
    };
    let state = Rc::new(State::new(Instant::now()));
    let limits = Limits::new(state.clone(), settings.clone(), phase);
    let peer = Peer::new(peer, scheme, &settings.trusted_proxies);
    let stream = Stream::new(transport, state.clone());
    let connection = Connection { peer, settings, state, tls };
    http1::serve(stream, &connection, limits, service, refused).await;
}

/// What the requests of a connection have in common.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) settings: Arc<ListenerSettings>,
    pub(super) state: Rc<State>,
    pub(super) tls: Option<Rc<TlsCaller>>,
}

impl Connection {
    /// The request as the proxy takes it; `handover` is there if the connection can become a tunnel.
    pub(super) fn inbound(&self, request: Request<Incoming>, handover: Option<Handover>) -> Request<Inbound> {
        let (mut head, body) = request.into_parts();
        let settings = &self.settings;
        let client = self.peer.apply(&mut head.headers, &settings.trusted_proxies);
        let caller = Caller {
            client: client.unwrap_or(self.peer.address()),
            body_timeout: settings.body_timeout,
            proxy_status: if settings.emit_proxy_status { ProxyStatus::Emit } else { ProxyStatus::Omit },
            fault: client.err(),
            tls: self.tls.clone(),
        };
        Request::from_parts(head, Inbound { body: RequestBody::Incoming(body), caller, handover })
    }
}
