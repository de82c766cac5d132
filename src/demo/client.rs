//! A user's HTTP client: keep-alive connections to one address, no retries.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::hosp::IDEMPOTENCY_KEY;
use super::plan::Arrival;

/// A client of one address.
#[derive(Debug)]
pub(super) struct Client {
    address: SocketAddr,
    host: HeaderValue,
    idle: Mutex<Vec<Idle>>,
}

/// Why a user has no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection, or an answer that broke off.
    Broken,
    /// Too many were under way for this one to be sent.
    NotStarted,
    /// A status of 500 or more.
    ServerError,
    /// None within the user's patience.
    Timeout,
    /// Another status than a success, or another's content.
    Wrong,
}

impl Failure {
    /// Every one.
    pub(super) const ALL: [Self; 5] =
        [Self::Broken, Self::NotStarted, Self::ServerError, Self::Timeout, Self::Wrong];

    /// The words in the summary.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Broken => "connection broken",
            Self::NotStarted => "not sent, too many under way",
            Self::ServerError => "5xx",
            Self::Timeout => "timed out",
            Self::Wrong => "wrong answer",
        }
    }
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

impl Client {
    /// A client without connections.
    pub(super) fn new(address: SocketAddr) -> Self {
        let host = HeaderValue::try_from(address.to_string()).expect("an address is a header value");
        Self { address, host, idle: Mutex::new(Vec::new()) }
    }

    /// Sends one request and reads its whole answer. The caller bounds the time.
    pub(super) async fn send(&self, arrival: &Arrival) -> Result<(), Failure> {
        let mut request = self.request(arrival);
        let (response, mut sender) = loop {
            let kept = self.take();
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await.ok_or(Failure::Broken)?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => break (response, sender),
                // Nothing was written on a connection that had died while idle: any browser takes another one.
                Err(mut error) => match error.take_message().filter(|_| !fresh) {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken),
                },
            }
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|_| Failure::Broken)?.to_bytes();
        if sender.ready().await.is_ok() {
            self.keep(sender);
        }
        if status.is_server_error() {
            return Err(Failure::ServerError);
        }
        let expected = body.windows(arrival.expects.len()).any(|part| part == arrival.expects.as_bytes());
        if status.is_success() && expected { Ok(()) } else { Err(Failure::Wrong) }
    }

    fn request(&self, arrival: &Arrival) -> Request<Full<Bytes>> {
        let post = arrival.post.as_ref();
        let mut request = Request::new(Full::new(post.map(|post| post.body.clone()).unwrap_or_default()));
        *request.method_mut() = arrival.method.clone();
        *request.uri_mut() = arrival.path.parse().expect("the plan's paths are paths");
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        if let Some(post) = post {
            let key = HeaderValue::try_from(&post.idempotency_key).expect("hexadecimal is a header value");
            headers.insert(IDEMPOTENCY_KEY, key);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        // It ends when the sender is dropped; its error reaches the request that it carries.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Some(sender)
    }

    /// The connection used last, since those at the bottom are the likeliest to have been closed.
    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| !kept.sender.is_closed() && kept.since.elapsed() < IDLE_AT_MOST);
        idle.pop().map(|kept| kept.sender)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_KEPT {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }
}

const ANSWER_LIMIT: usize = 1 << 20;
const IDLE_KEPT: usize = 64;
/// Less than either side keeps an idle connection.
const IDLE_AT_MOST: Duration = Duration::from_secs(20);
