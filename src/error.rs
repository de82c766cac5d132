//! What can go wrong with one attempt ([`UpstreamError`]) and with one exchange ([`ProxyError`]), and the one table
//! that gives each its status, its RFC 9209 token, its retry class and whose fault it is.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use thiserror::Error;

pub use self::shortage::Shortage;

mod shortage;

/// How much of a request may have reached the upstream when its attempt ended.
///
/// It decides whether a request that must not be sent twice may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No byte of this request was written.
    Never,
    /// Something was written and no answer came: the upstream may have acted on it.
    Maybe,
    /// A response head came.
    Answered,
}

impl Delivery {
    /// The word in the record.
    pub fn label(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Maybe => "maybe",
            Self::Answered => "answered",
        }
    }
}

/// Whose fault an answer is; a metric label and a field of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The caller's: its request was refused.
    Downstream,
    /// The proxy made the answer: no route, no endpoint, overloaded, draining, our bug.
    Proxy,
    /// The upstream's, be it an answer or the lack of one.
    Upstream,
}

impl Origin {
    /// Every origin.
    pub const ALL: [Self; 3] = [Self::Downstream, Self::Proxy, Self::Upstream];

    /// The word in metrics and in the record.
    pub fn label(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Proxy => "proxy",
            Self::Upstream => "upstream",
        }
    }
}

/// The classes of failed attempts that an operator names in `retry.errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Name not resolved, refused, unreachable, or not connected in time.
    Connect,
    /// An answer that is not HTTP.
    Protocol,
    /// Closed or reset before a response head.
    Reset,
    /// No response head within the per-try timeout.
    Timeout,
    /// A failed TLS handshake with the upstream.
    Tls,
    /// Broken inside the body, while the answer was held.
    Truncated,
}

impl ErrorClass {
    /// Every class, in the order in which `config/reference.toml` lists them.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Tls, Self::Reset, Self::Timeout, Self::Protocol, Self::Truncated];

    /// The word in the configuration, in metrics and for `stent explain`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Protocol => "protocol",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Truncated => "truncated",
        }
    }

    /// The class that the configuration calls `word`.
    pub fn from_label(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.label() == word)
    }
}

/// What went wrong with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpstreamErrorKind {
    /// The endpoint refused the connection.
    ConnectRefused,
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// No way to the endpoint.
    ConnectUnreachable,
    /// Every connection that `max_connections` allows stayed in use for `connection_wait`.
    ConnectionLimit,
    /// Closed or reset before a whole response head.
    ConnectionTerminated,
    /// The cluster's host names do not resolve.
    Dns,
    /// No response head in time.
    HeadTimeout,
    /// A response head over the limit.
    HeadTooLarge,
    /// This machine has no file descriptor, memory or port for a connection ([`Shortage`]). The endpoint was not asked.
    LocalResource,
    /// Bytes that are not an HTTP response, or one that was not asked for.
    Protocol,
    /// The response broke off inside its body.
    ResponseIncomplete,
    /// The endpoint refused the TLS handshake with an alert.
    TlsAlert,
    /// The endpoint's certificate is not one to be trusted under its name.
    TlsCertificate,
    /// No TLS, none that both sides speak, or not the protocol that was to be spoken inside it.
    TlsProtocol,
}

/// A row of the error table: everything that is known of an [`UpstreamErrorKind`].
struct Row {
    status: StatusCode,
    token: &'static str,
    label: &'static str,
    class: Option<ErrorClass>,
}

impl UpstreamErrorKind {
    /// Every kind, for metrics and tests.
    pub const ALL: [Self; 14] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectUnreachable,
        Self::ConnectionLimit,
        Self::ConnectionTerminated,
        Self::Dns,
        Self::HeadTimeout,
        Self::HeadTooLarge,
        Self::LocalResource,
        Self::Protocol,
        Self::ResponseIncomplete,
        Self::TlsAlert,
        Self::TlsCertificate,
        Self::TlsProtocol,
    ];

    /// The table. Statuses are those that RFC 9209 section 2.3 recommends for the token.
    fn row(self) -> Row {
        use ErrorClass::{Connect, Protocol, Reset, Timeout, Tls, Truncated};
        let row = |status, token, label, class| Row { status, token, label, class };
        let (bad, late, full) =
            (StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT, StatusCode::SERVICE_UNAVAILABLE);
        match self {
            Self::ConnectRefused => row(bad, "connection_refused", "connect_refused", Some(Connect)),
            Self::ConnectTimeout => row(late, "connection_timeout", "connect_timeout", Some(Connect)),
            Self::ConnectUnreachable => {
                row(bad, "destination_ip_unroutable", "connect_unreachable", Some(Connect))
            }
            Self::ConnectionLimit => row(full, "connection_limit_reached", "connection_limit", None),
            Self::ConnectionTerminated => row(bad, "connection_terminated", "reset", Some(Reset)),
            Self::Dns => row(bad, "dns_error", "dns", Some(Connect)),
            Self::HeadTimeout => row(late, "http_response_timeout", "timeout", Some(Timeout)),
            Self::HeadTooLarge => row(bad, "http_response_header_section_size", "head_too_large", None),
            // The token for a limit of the intermediary's own. No class: the connect was tried again already, and a
            // retry would only hold the caller's descriptor for longer.
            Self::LocalResource => row(full, "connection_limit_reached", "local_resource", None),
            Self::Protocol => row(bad, "http_protocol_error", "protocol", Some(Protocol)),
            Self::ResponseIncomplete => row(bad, "http_response_incomplete", "truncated", Some(Truncated)),
            Self::TlsAlert => row(bad, "tls_alert_received", "tls_alert", Some(Tls)),
            Self::TlsCertificate => row(bad, "tls_certificate_error", "tls_certificate", Some(Tls)),
            Self::TlsProtocol => row(bad, "tls_protocol_error", "tls_protocol", Some(Tls)),
        }
    }

    /// The status of the reply when this ends the exchange.
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// The error type of RFC 9209 section 2.3.
    pub fn token(self) -> &'static str {
        self.row().token
    }

    /// The word in metrics and in the record.
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// The class under which `retry.errors` may allow another attempt; none where no retry can help.
    pub fn class(self) -> Option<ErrorClass> {
        self.row().class
    }

    /// Whether the failure says something about the endpoint, rather than about our own limits.
    pub fn blames_endpoint(self) -> bool {
        !matches!(self, Self::Dns) && !self.is_own_limit()
    }

    /// Whether a limit of the proxy or of its machine stood in the way, and the endpoint was not asked.
    pub fn is_own_limit(self) -> bool {
        matches!(self, Self::ConnectionLimit | Self::LocalResource)
    }
}

/// Why one attempt brought no response.
#[derive(Clone, Debug, Error)]
#[error("{}", kind.label())]
pub struct UpstreamError {
    /// What happened.
    pub kind: UpstreamErrorKind,
    /// How much of the request may have arrived.
    pub delivery: Delivery,
    #[source]
    source: Option<Cause>,
}

/// The error below, kept for the program's log.
#[derive(Clone, Debug)]
pub enum Cause {
    /// From the operating system.
    Io(Arc<io::Error>),
    /// From the HTTP/1.1 codec.
    Http1(&'static str),
    /// From the HTTP/2 codec.
    Http2(Arc<h2::Error>),
    /// From TLS.
    Tls(Arc<rustls::Error>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Http1(what) => what.fmt(f),
            Self::Http2(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(),
            Self::Http1(_) => None,
            Self::Http2(error) => error.source(),
            Self::Tls(error) => error.source(),
        }
    }
}

impl UpstreamError {
    /// An error without a cause below it.
    pub fn new(kind: UpstreamErrorKind, delivery: Delivery) -> Self {
        Self { kind, delivery, source: None }
    }

    /// A connection that did not come to be; nothing was written.
    pub fn connect(error: io::Error) -> Self {
        let kind = match error.kind() {
            _ if Shortage::of(&error).is_some() => UpstreamErrorKind::LocalResource,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                UpstreamErrorKind::ConnectRefused
            }
            io::ErrorKind::TimedOut => UpstreamErrorKind::ConnectTimeout,
            _ => UpstreamErrorKind::ConnectUnreachable,
        };
        Self { kind, delivery: Delivery::Never, source: Some(Cause::Io(Arc::new(error))) }
    }

    /// What this machine lacked, where that is why no connection came to be.
    pub fn shortage(&self) -> Option<Shortage> {
        match &self.source {
            Some(Cause::Io(error)) if self.kind == UpstreamErrorKind::LocalResource => Shortage::of(error),
            _ => None,
        }
    }

    /// A connection that broke under an exchange.
    pub fn broken(error: io::Error, delivery: Delivery) -> Self {
        let kind = match delivery {
            Delivery::Answered => UpstreamErrorKind::ResponseIncomplete,
            Delivery::Never | Delivery::Maybe => UpstreamErrorKind::ConnectionTerminated,
        };
        Self { kind, delivery, source: Some(Cause::Io(Arc::new(error))) }
    }

    /// What the HTTP/1.1 codec found wrong.
    pub fn because(kind: UpstreamErrorKind, delivery: Delivery, what: &'static str) -> Self {
        Self { kind, delivery, source: Some(Cause::Http1(what)) }
    }

    /// An HTTP/2 stream that broke before its response head. `delivery` is what is known beside the error, which may
    /// know better: a peer that refuses a stream, or leaves it out of its GOAWAY, has not acted on it (RFC 9113
    /// sections 6.8 and 8.7).
    pub fn http2(error: h2::Error, delivery: Delivery) -> Self {
        use UpstreamErrorKind::{ConnectionTerminated, Protocol};
        let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let (kind, delivery) = match &error {
            // h2 gives a remote GOAWAY as the error of those streams only that lie above its last stream.
            error if error.is_remote() && (error.is_go_away() || is_refused) => {
                (ConnectionTerminated, Delivery::Never)
            }
            // A head over our limit is among these: h2 does not tell it from a malformed one.
            error if error.is_library() => (Protocol, delivery),
            _ => (ConnectionTerminated, delivery),
        };
        Self { kind, delivery, source: Some(Cause::Http2(Arc::new(error))) }
    }

    /// A TLS handshake that failed; nothing was written inside it.
    pub fn tls(error: rustls::Error) -> Self {
        let kind = match error {
            rustls::Error::AlertReceived(_) => UpstreamErrorKind::TlsAlert,
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::InvalidCertRevocationList(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::UnsupportedNameType => UpstreamErrorKind::TlsCertificate,
            _ => UpstreamErrorKind::TlsProtocol,
        };
        Self { kind, delivery: Delivery::Never, source: Some(Cause::Tls(Arc::new(error))) }
    }

    /// A connection that broke inside the TLS handshake; nothing was written inside it.
    pub fn tls_broken(error: io::Error) -> Self {
        let kind = UpstreamErrorKind::TlsProtocol;
        Self { kind, delivery: Delivery::Never, source: Some(Cause::Io(Arc::new(error))) }
    }
}

/// What is wrong with a request that is refused with 400, or 431 where it is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestFault {
    /// A body that does not follow its framing.
    #[error("the request body does not follow its framing")]
    BadBody,
    /// A `Host` that is no authority, or that differs from the target's.
    #[error("the Host header is not a valid authority")]
    BadHost,
    /// A head that the parser refused.
    #[error("the request head cannot be parsed")]
    BadHead,
    /// A target that is neither a path nor an absolute `http` URI.
    #[error("the request target is not a path")]
    BadTarget,
    /// Both `Content-Length` and `Transfer-Encoding`, or a `Transfer-Encoding` that is not exactly `chunked`.
    #[error("the request body's length is ambiguous")]
    AmbiguousLength,
    /// A path that can be read as those of routes that ask different things of a request.
    #[error("the path can be read as that of another route")]
    AmbiguousPath,
    /// More than 30 addresses in `X-Forwarded-For`, where a trusted proxy sent them.
    #[error("X-Forwarded-For lists too many addresses")]
    ForwardedTooLong,
    /// A head of more bytes than the listener takes.
    #[error("the request head is too large")]
    HeadTooLarge,
    /// None, or more than one `Host`.
    #[error("the request needs exactly one Host header")]
    HostCount,
    /// More fields than the proxy takes.
    #[error("the request head has too many fields")]
    TooManyFields,
    /// A header name with an underscore, which the listener refuses.
    #[error("a header name holds an underscore")]
    Underscore,
}

/// Why an exchange ends with a reply of the proxy's own.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The request is malformed.
    #[error("bad request: {0}")]
    BadRequest(RequestFault),
    /// The request body is larger than the route allows.
    #[error("the request body is over the limit of {limit} bytes")]
    BodyTooLarge {
        /// The route's `max_body`, in bytes.
        limit: u64,
    },
    /// The caller went away while its request body was being read.
    #[error("the caller has gone")]
    CallerGone,
    /// The caller sent nothing of its request body for the listener's `body_timeout`.
    #[error("the request body did not arrive in time")]
    CallerSilent,
    /// No answer before the route's deadline.
    #[error("no answer from the backend before the deadline")]
    DeadlineExceeded,
    /// The request expects what the proxy cannot promise.
    #[error("the request expects more than to be told to continue")]
    ExpectationFailed,
    /// An invariant of ours did not hold.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The request names this proxy in `Via`, and comes from a caller who may write there what it likes.
    #[error("the request says that it came through this proxy already")]
    LoopClaimed,
    /// The request has already passed through this proxy.
    #[error("the request came back to the proxy that forwarded it")]
    LoopDetected,
    /// Routes match the path, none of them the method.
    #[error("the method is not allowed here")]
    MethodNotAllowed {
        /// The value of `Allow`: the methods that the path's routes take.
        allow: Arc<str>,
    },
    /// The method is not one that the proxy forwards.
    #[error("the method is not supported")]
    MethodUnsupported,
    /// The request's host has a certificate of its own on this listener, and the connection was made for another one.
    #[error("the connection was made for another host")]
    Misdirected,
    /// Every endpoint of the cluster is out of balancing.
    #[error("no backend is available")]
    NoEndpoint,
    /// No route matches the host and path.
    #[error("no route for this host and path")]
    NoRoute,
    /// The request lacks the secret that the listener or the route asks for.
    #[error("the request did not come by the way that it must")]
    OriginRefused,
    /// All of the cluster is down, and its outage queue is full or leads nowhere in time.
    #[error("the backend is down")]
    Outage {
        /// When it may be worth coming again.
        retry_after: Duration,
    },
    /// The cluster has all the work that it may have, and those who wait already take all the time there is.
    #[error("the backend has all that it can carry")]
    Overloaded {
        /// When it may be worth coming again.
        retry_after: Duration,
    },
    /// The process is stopping.
    #[error("the proxy is shutting down")]
    ShuttingDown,
    /// The request target is longer than any that the proxy forwards.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The last attempt failed and no earlier one brought an answer.
    #[error("the backend failed: {0}")]
    Upstream(#[source] UpstreamError),
}

/// Whether the caller's connection may carry another request after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterReply {
    /// Its framing is in doubt, or the proxy is stopping.
    Close,
    /// It is intact.
    KeepAlive,
}

impl ProxyError {
    /// The status of the reply.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(RequestFault::HeadTooLarge | RequestFault::TooManyFields) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::BadRequest(_) | Self::CallerGone => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::CallerSilent => StatusCode::REQUEST_TIMEOUT,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::LoopClaimed => StatusCode::LOOP_DETECTED,
            Self::LoopDetected => StatusCode::BAD_GATEWAY,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::MethodUnsupported => StatusCode::NOT_IMPLEMENTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoEndpoint | Self::Outage { .. } | Self::Overloaded { .. } | Self::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::OriginRefused => StatusCode::FORBIDDEN,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Upstream(error) => error.kind.status(),
        }
    }

    /// The error type of RFC 9209 section 2.3, for `Proxy-Status` and the record.
    pub fn token(&self) -> &'static str {
        match self {
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::CallerGone
            | Self::CallerSilent
            | Self::ExpectationFailed
            | Self::MethodNotAllowed { .. }
            | Self::MethodUnsupported
            | Self::Misdirected
            | Self::NoRoute
            | Self::TargetTooLong => "http_request_error",
            Self::DeadlineExceeded => "http_response_timeout",
            Self::Internal(_) => "proxy_internal_error",
            Self::LoopClaimed | Self::LoopDetected => "proxy_loop_detected",
            Self::NoEndpoint | Self::Outage { .. } => "destination_unavailable",
            Self::OriginRefused => "http_request_denied",
            Self::Overloaded { .. } => "connection_limit_reached",
            Self::ShuttingDown => "proxy_internal_response",
            Self::Upstream(error) => error.kind.token(),
        }
    }

    /// Whose fault it is.
    pub fn origin(&self) -> Origin {
        match self {
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::CallerGone
            | Self::CallerSilent
            | Self::ExpectationFailed
            | Self::LoopClaimed
            | Self::MethodNotAllowed { .. }
            | Self::MethodUnsupported
            | Self::Misdirected
            | Self::OriginRefused
            | Self::TargetTooLong => Origin::Downstream,
            Self::Internal(_)
            | Self::LoopDetected
            | Self::NoEndpoint
            | Self::NoRoute
            | Self::Outage { .. }
            | Self::Overloaded { .. }
            | Self::ShuttingDown => Origin::Proxy,
            Self::Upstream(error) if error.kind.is_own_limit() => Origin::Proxy,
            Self::DeadlineExceeded | Self::Upstream(_) => Origin::Upstream,
        }
    }

    /// When it may be worth coming again, where the reply says so (RFC 9110 section 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Outage { retry_after } | Self::Overloaded { retry_after } => Some(*retry_after),
            Self::Upstream(error) if error.kind == UpstreamErrorKind::LocalResource => Some(SHORTAGE_PAUSE),
            _ => None,
        }
    }

    /// Whether the caller's connection ends with the reply.
    pub fn after_reply(&self) -> AfterReply {
        match self {
            Self::BadRequest(_)
            | Self::BodyTooLarge { .. }
            | Self::CallerGone
            | Self::CallerSilent
            | Self::ExpectationFailed
            | Self::MethodUnsupported
            | Self::ShuttingDown
            | Self::TargetTooLong => AfterReply::Close,
            _ => AfterReply::KeepAlive,
        }
    }
}

/// How soon descriptors, memory or ports may be free again.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_label_of_its_own_and_the_index_of_its_place() {
        let mut labels: Vec<_> = UpstreamErrorKind::ALL.iter().map(|kind| kind.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), UpstreamErrorKind::ALL.len());
        for (place, kind) in UpstreamErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }

    #[test]
    fn statuses_are_those_that_rfc_9209_recommends() {
        let expected = [
            ("connection_refused", 502),
            ("connection_timeout", 504),
            ("connection_limit_reached", 503),
            ("connection_terminated", 502),
            ("dns_error", 502),
            ("http_response_timeout", 504),
            ("http_response_header_section_size", 502),
            ("http_protocol_error", 502),
            ("http_response_incomplete", 502),
            ("destination_ip_unroutable", 502),
            ("tls_alert_received", 502),
            ("tls_certificate_error", 502),
            ("tls_protocol_error", 502),
        ];
        for kind in UpstreamErrorKind::ALL {
            let status = expected.iter().find(|(token, _)| *token == kind.token()).map(|(_, status)| *status);
            assert_eq!(Some(kind.status().as_u16()), status, "{}", kind.token());
        }
    }

    #[test]
    fn only_the_peer_can_say_that_it_has_not_acted_on_a_stream() {
        let own = UpstreamError::http2(h2::Reason::REFUSED_STREAM.into(), Delivery::Maybe);
        assert_eq!((own.kind, own.delivery), (UpstreamErrorKind::ConnectionTerminated, Delivery::Maybe));
    }

    #[test]
    fn a_failed_handshake_has_sent_nothing_and_may_be_retried_as_tls() {
        use rustls::{AlertDescription, CertificateError, PeerMisbehaved};
        for (error, kind) in [
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), UpstreamErrorKind::TlsAlert),
            (CertificateError::Expired.into(), UpstreamErrorKind::TlsCertificate),
            (PeerMisbehaved::TooMuchEarlyDataReceived.into(), UpstreamErrorKind::TlsProtocol),
        ] {
            let error = UpstreamError::tls(error);
            assert_eq!((error.kind, error.delivery), (kind, Delivery::Never));
            assert_eq!(error.kind.class(), Some(ErrorClass::Tls));
            assert!(error.kind.blames_endpoint());
        }
    }

    #[test]
    fn our_own_limit_is_never_the_upstreams_fault() {
        for kind in [UpstreamErrorKind::ConnectionLimit, UpstreamErrorKind::LocalResource] {
            let limit = UpstreamError::new(kind, Delivery::Never);
            assert_eq!(ProxyError::Upstream(limit).origin(), Origin::Proxy);
            assert!(!kind.blames_endpoint());
            assert_eq!((kind.status().as_u16(), kind.class()), (503, None));
        }
    }

    #[test]
    fn a_connect_that_this_machine_could_not_make_blames_no_endpoint() {
        const EPERM: i32 = 1;
        const EACCES: i32 = 13;
        const ENETUNREACH: i32 = 101;
        const EHOSTUNREACH: i32 = 113;
        for code in [11, 12, 23, 24, 98, 99, 105] {
            let error = UpstreamError::connect(io::Error::from_raw_os_error(code));
            assert_eq!(
                (error.kind, error.delivery),
                (UpstreamErrorKind::LocalResource, Delivery::Never),
                "{code}"
            );
            assert!(ProxyError::Upstream(error).retry_after().is_some());
        }
        for code in [EPERM, EACCES, ENETUNREACH, EHOSTUNREACH] {
            let error = UpstreamError::connect(io::Error::from_raw_os_error(code));
            assert_eq!(
                error.kind,
                UpstreamErrorKind::ConnectUnreachable,
                "another endpoint may be allowed: {code}"
            );
            assert!(error.kind.blames_endpoint());
        }
    }

    #[test]
    fn a_class_is_found_by_the_word_that_it_prints() {
        for class in ErrorClass::ALL {
            assert_eq!(ErrorClass::from_label(class.label()), Some(class));
        }
        assert_eq!(ErrorClass::from_label("gateway-error"), None);
    }
}
