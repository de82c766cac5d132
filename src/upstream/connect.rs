//! Opens a connection to an endpoint, over TLS where its URL says so.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::descriptors::Use;
use crate::error::{Delivery, Shortage, UpstreamError, UpstreamErrorKind};
#[cfg(feature = "bench")]
use crate::memory;
use crate::policy::reuse::announced_timeout;
use crate::upstream::endpoint::{Endpoint, OpenConnection};
use crate::upstream::http1::wire::{Answer, Outgoing, Raw, Unanswered, Wire};
use crate::upstream::http2::Handshaken;
use crate::upstream::protocol::Protocol;
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
/// Where this machine is short of descriptors or memory, `make_room` closes something, and the connect is tried once more.
/// `on_room` is called whenever an HTTP/2 connection can take more than before, and when it has ended.
pub(super) async fn open<B>(
    endpoint: &Arc<Endpoint>,
    slot: OwnedSemaphorePermit,
    make_room: impl AsyncFnOnce(),
    on_room: impl Fn() + 'static,
) -> Result<Fresh<B>, UpstreamError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let establish = async {
        let mut dialled = dial(endpoint).await;
        if let Err(error) = &dialled
            && error.shortage().is_some_and(Shortage::is_eased_by_closing)
        {
            make_room().await;
            dialled = dial(endpoint).await;
        }
        let stream = dialled?;
        if speaks_http2(endpoint.settings.protocol, &stream)? {
            Ok(Fresh::Http2(Handshaken::new(endpoint, stream, on_room).await?, slot))
        } else {
            Ok(Fresh::Http1(Box::new(Connection::new(endpoint, stream, slot))))
        }
    };
    let late = || Err(UpstreamError::new(UpstreamErrorKind::ConnectTimeout, Delivery::Never));
    let was_refusing = endpoint.is_refusing();
    let opened = timeout(endpoint.settings.connect_timeout, establish).await.unwrap_or_else(|_| late());
    let metrics = &endpoint.cluster_metrics;
    match &opened {
        Ok(_) => {
            metrics.connected.inc();
            if was_refusing {
                endpoint.note_opening();
            }
        }
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
    let stream = connect(endpoint.address).await?;
    // Without it a small request waits for the acknowledgement of the one before. A socket that refuses the option is
    // closing, which the first write will tell.
    let _ = stream.set_nodelay(true);
    match &endpoint.tls {
        None => Ok(Stream::Plain(stream)),
        Some(client) => Ok(Stream::secured(client.handshake(stream).await?)),
    }
}

/// Connects, unless that took one of the descriptors that stay in reserve.
async fn connect(address: SocketAddr) -> Result<TcpStream, UpstreamError> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(UpstreamError::connect)?;
    if Use::Upstream.is_reserved(&socket) {
        return Err(UpstreamError::connect(Shortage::of_files()));
    }
    let connected = socket.connect(address).await;
    connected.map_err(|error| match Shortage::of(&error) {
        Some(Shortage::Ports) if !has_own_address_towards(address) => {
            UpstreamError::new(UpstreamErrorKind::ConnectUnreachable, Delivery::Never)
        }
        _ => UpstreamError::connect(error),
    })
}

/// Whether this machine has an address from which `address` can be reached. Nothing is sent: connecting a UDP socket only
/// chooses a route and a source address. A machine without IPv6 fails here as it does over TCP, and one that lacks TCP
/// ports does not.
fn has_own_address_towards(address: SocketAddr) -> bool {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let chosen = UdpSocket::bind(any).and_then(|socket| socket.connect(address));
    // A shortage of descriptors shows nothing about addresses.
    !matches!(chosen, Err(error) if Shortage::of(&error) != Some(Shortage::Files))
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
    wire: Wire<B>,
    /// Since when it is idle, or had been when it was last used.
    idle_since: Instant,
    /// When it was last taken into use, or made.
    taken: Instant,
    promise: Promise,
    refusal: Option<Refusal>,
    ends_with_exchange: bool,
    _slot: OwnedSemaphorePermit,
    _counted: OpenConnection,
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
    /// Not a byte of it was: here is its body again.
    Unsent(B),
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    fn new(endpoint: &Arc<Endpoint>, stream: Stream, slot: OwnedSemaphorePermit) -> Self {
        let now = Instant::now();
        Self {
            refusal: stream.refusal(),
            wire: Wire::new(stream, endpoint.settings.max_header_bytes),
            idle_since: now,
            taken: now,
            promise: Promise::Unheard,
            ends_with_exchange: false,
            _slot: slot,
            _counted: endpoint.count_connection(),
        }
    }

    /// Sends a request and waits for the response head, however long that takes.
    pub(super) async fn send(
        &mut self,
        head: &Parts,
        outgoing: &mut Outgoing<B>,
    ) -> Result<Answer, Unanswered> {
        let answer = self.wire.send(head, outgoing).await;
        match &answer {
            Ok(answer) => self.note_promise(answer.head.headers()),
            // In TLS 1.3 the endpoint may refuse the handshake only now. The request has gone out: its delivery stays.
            Err(Unanswered::Failed(error)) if self.refusal.as_ref().is_some_and(Refusal::has_come) => {
                let refused = UpstreamError::new(UpstreamErrorKind::TlsAlert, error.delivery);
                return Err(Unanswered::Failed(refused));
            }
            Err(_) => {}
        }
        answer
    }

    /// Reads on in the body of the answer.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.wire.poll_body(cx)
    }

    /// Goes on sending the request while another reads its answer.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_rest(cx)
    }

    /// Waits until it can take another request; false if it never will.
    pub(super) async fn settle(&mut self) -> bool {
        self.wire.settle().await
    }
}

impl<B> Connection<B> {
    /// Notes that no request uses it from now on.
    pub(super) fn begin_rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Notes that a request uses it from `now` on.
    pub(super) fn end_rest(&mut self, now: Instant) {
        self.taken = now;
    }

    /// Since when it has been idle, or had been when it was last used.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// When its last request began. The endpoint may have sent the end of the answer, and begun to count, at any time
    /// since: we have it from buffers, after a caller that was slow to read, or after we were kept from looking.
    pub(super) fn last_taken(&self) -> Instant {
        self.taken
    }

    /// Keeps what an answer promises about the connection.
    fn note_promise(&mut self, headers: &HeaderMap) {
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

    /// Keeps it from carrying another exchange after this one.
    pub(super) fn end_with_exchange(&mut self) {
        self.ends_with_exchange = true;
    }

    /// Whether it carries one exchange only.
    pub(super) fn ends_with_exchange(&self) -> bool {
        self.ends_with_exchange
    }

    /// Whether it waits for a request.
    pub(super) fn is_ready(&self) -> bool {
        self.wire.is_ready()
    }

    /// Whether something of the request has not been sent.
    pub(super) fn is_sending(&self) -> bool {
        self.wire.is_sending()
    }

    /// Whether it will never take another request.
    pub(super) fn is_spent(&self) -> bool {
        self.wire.is_spent()
    }

    /// Whether the endpoint has closed it while it was idle, as far as is known without asking the system. `waker` is
    /// woken when there is news.
    pub(super) fn has_news(&mut self, waker: &Waker) -> bool {
        self.wire.has_news(waker)
    }

    /// Waits until the endpoint closes it while it is idle.
    pub(super) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.poll_news(cx)
    }

    /// Whether nothing of the answer is left.
    pub(super) fn is_end_stream(&self) -> bool {
        self.wire.is_end_stream()
    }

    /// What is known of the rest of the answer's body.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.wire.size_hint()
    }

    /// Its bytes, after a change of protocol.
    pub(super) fn raw(&mut self) -> Raw<'_> {
        self.wire.raw()
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::Command;

    use tokio::net::TcpListener;

    use super::*;

    /// Runs itself anew in a network of its own, with four ports and without IPv6. Where the system does not allow that,
    /// nothing is tested.
    #[tokio::test]
    async fn a_lack_of_ports_is_ours_and_a_lack_of_an_address_is_the_endpoints() {
        const POOR: &str = "STENT_TEST_POOR_NETWORK";
        const NAME: &str =
            "upstream::connect::tests::a_lack_of_ports_is_ours_and_a_lack_of_an_address_is_the_endpoints";
        if env::var_os(POOR).is_none() {
            let network = "ip link set lo up && cd /proc/sys/net && echo 40000 40003 > ipv4/ip_local_port_range \
                && echo 1 > ipv6/conf/all/disable_ipv6";
            let in_network = |script: String| {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]);
                command.arg(env::current_exe().unwrap()).env(POOR, "1").output()
            };
            if !in_network(network.to_owned()).is_ok_and(|output| output.status.success()) {
                return;
            }
            let output = in_network(format!("{network} && exec \"$0\" --exact {NAME}")).unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut open = Vec::new();
        let error = loop {
            match connect(address).await {
                Ok(stream) => open.push(stream),
                Err(error) => break error,
            }
        };
        assert!(open.len() <= 4, "{}", open.len());
        assert_eq!((error.kind, error.shortage()), (UpstreamErrorKind::LocalResource, Some(Shortage::Ports)));
        let error = connect("[::1]:9".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind, UpstreamErrorKind::ConnectUnreachable);
    }
}
