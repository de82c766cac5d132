//! What happened, as plain data: the [`Record`] of one exchange. [`metrics`] counts it, [`log`] writes it down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Version};

use crate::error::{Delivery, Origin};
use crate::policy::grpc::GrpcStatus;
use crate::policy::resume::BreakEnd;
use crate::policy::verdict::Veto;

use self::words::words;

pub mod log;
pub mod metrics;
mod words;

/// One request and its final answer, written when the answer's body has ended, broken or been dropped.
#[derive(Debug)]
pub struct Record {
    /// When the request head had been read.
    pub at: SystemTime,
    /// The exchange's id, as sent in `X-Request-Id`.
    pub id: Box<str>,
    /// The client's address, found through the trusted proxies.
    pub client: IpAddr,
    /// The subject of the client certificate that the caller's connection was made with.
    pub client_subject: Option<Arc<str>>,
    /// What the caller spoke; none if its request was refused before it could become one.
    pub protocol: Option<Version>,
    /// The request method.
    pub method: Method,
    /// What the request asked for, copied so that the record keeps no network buffer alive.
    pub target: Target,
    /// The route, if one matched.
    pub route: Option<Arc<str>>,
    /// The route's cluster.
    pub cluster: Option<Arc<str>>,
    /// Which query values may be written.
    pub query: QueryPolicy,
    /// The status that the caller got, or 499 if it left before a response head.
    pub status: u16,
    /// Whose answer it was.
    pub origin: Origin,
    /// How the exchange ended.
    pub outcome: ExchangeOutcome,
    /// The RFC 9209 error type, if there was an error.
    pub error: Option<&'static str>,
    /// Bytes of request body read from the caller.
    pub bytes_in: u64,
    /// Bytes of response body passed to the caller.
    pub bytes_out: u64,
    /// From the request head to the end of the response body.
    pub duration: Duration,
    /// From the request head to the response head; none if there was none.
    pub time_to_head: Option<Duration>,
    /// In the outage queue, while all of the cluster was down; none if it never was there.
    pub outage_wait: Option<Duration>,
    /// In the admission queue, while the cluster had all that it carries; none if it never was there.
    pub admission_wait: Option<Duration>,
    /// Every attempt, in order.
    pub attempts: Vec<AttemptRecord>,
    /// The rule that forbade another attempt after a failed one.
    pub retry_stopped: Option<Veto>,
    /// How often the rest of an answer that had broken was joined on.
    pub resumed: u32,
    /// What became of an answer that broke after its head had gone to the caller; of the last break, if it was several.
    pub broken: Option<BreakEnd>,
}

/// One attempt at one endpoint.
#[derive(Debug)]
pub struct AttemptRecord {
    /// The endpoint's address.
    pub endpoint: Arc<str>,
    /// Whether it stood beside another.
    pub role: Role,
    /// What came of it.
    pub result: AttemptResult,
    /// How much of the request may have arrived.
    pub delivery: Delivery,
    /// From the request head to the attempt's start.
    pub started: Duration,
    /// From its start to the response head, the end of the hold or the error.
    pub duration: Duration,
}

/// How an attempt came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It was sent beside one that was unanswered.
    Hedge,
    /// It was the first, or followed one that had failed.
    Turn,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// A response head with this status.
    Status(u16),
    /// The same with a status of gRPC, in an answer without a body.
    Grpc(u16, GrpcStatus),
    /// An error of this kind.
    Error(&'static str),
    /// The exchange ended before the attempt did, or another beside it had answered.
    Cancelled,
}

impl AttemptResult {
    /// The status of the response head.
    fn status(self) -> Option<u64> {
        match self {
            Self::Status(status) | Self::Grpc(status, _) => Some(status.into()),
            Self::Error(_) | Self::Cancelled => None,
        }
    }

    /// The number of the status of gRPC.
    fn grpc_status(self) -> Option<u64> {
        if let Self::Grpc(_, grpc) = self { Some(grpc.number().into()) } else { None }
    }

    /// Why there is no response head.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Error(kind) => Some(kind),
            Self::Cancelled => Some("cancelled"),
            Self::Status(_) | Self::Grpc(..) => None,
        }
    }
}

words! {
    /// How an exchange ended.
    pub enum ExchangeOutcome {
        /// The caller left before it had the whole answer.
        ClientAbort = "client_abort",
        /// The caller got the upstream's whole answer, whatever its status.
        Ok = "ok",
        /// The proxy was stopped before the caller had the whole answer.
        ProxyAbort = "proxy_abort",
        /// The proxy answered by itself.
        Reply = "reply",
        /// The connection had changed to another protocol, and nothing passed for too long.
        TunnelIdle = "tunnel_idle",
        /// The upstream's answer broke off inside its body, and so did ours.
        UpstreamTruncated = "upstream_truncated",
    }
}

/// Which values of a query may be written down; the names always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QueryPolicy {
    /// All of them.
    Full,
    /// None: patients' names and numbers travel in queries.
    #[default]
    Redacted,
    /// Those of these parameters.
    Only(Arc<[Box<str>]>),
}

/// The texts of a request, in one allocation.
#[derive(Debug, Default)]
pub struct Target {
    text: Box<[u8]>,
    ends: [usize; 3],
}

impl Target {
    /// Copies the parts; a part that is absent is empty. Of an over-long part only so much is kept that the log still
    /// sees that it has to cut it: thousands of records may be waiting for their writer.
    pub fn new(host: &[u8], path: &str, query: &str, user_agent: &[u8]) -> Self {
        let kept = |part: &[u8]| part.len().min(Self::MAX_PART);
        let parts = [host, path.as_bytes(), query.as_bytes(), user_agent].map(|part| &part[..kept(part)]);
        let [host, path, query, _] = parts.map(<[u8]>::len);
        Self { text: parts.concat().into(), ends: [host, host + path, host + path + query] }
    }

    /// Twice what the log writes of a part.
    pub const MAX_PART: usize = 8 << 10;

    /// The host that the request was routed by.
    pub fn host(&self) -> &[u8] {
        &self.text[..self.ends[0]]
    }

    /// The path, as received.
    pub fn path(&self) -> &[u8] {
        &self.text[self.ends[0]..self.ends[1]]
    }

    /// The query without its `?`, as received.
    pub fn query(&self) -> &[u8] {
        &self.text[self.ends[1]..self.ends[2]]
    }

    /// The `User-Agent`.
    pub fn user_agent(&self) -> &[u8] {
        &self.text[self.ends[2]..]
    }
}
