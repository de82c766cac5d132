//! What an operator sets for a listener, checked, and how far a listener has come.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::downstream::tls::TlsSettings;
use crate::fields::Underscores;
use crate::fields::guard::OriginGuard;

/// What an operator sets for a listener, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Peers that are believed in the headers that they write.
    pub trusted_proxies: Vec<IpNet>,
    /// What they write besides `X-Forwarded-For`, `-Proto` and `-Port`.
    pub trusted_headers: Vec<HeaderName>,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// The longest silence inside a request body.
    pub body_timeout: Duration,
    /// How long a caller may take nothing of its answer.
    pub write_timeout: Duration,
    /// The largest request head, in bytes; at least 8 KiB.
    pub max_header_bytes: usize,
    /// Open connections; beyond them a new one waits until an idle one has closed for it.
    pub max_connections: usize,
    /// What is done about header names with underscores.
    pub underscores: Underscores,
    /// Headers by which some listener, this one or another, tells the upstream a verified subject. No caller may say
    /// them: routes are the same for all listeners, and the upstream cannot tell which one a request came by.
    pub subject_headers: Vec<HeaderName>,
    /// What every request must carry.
    pub origin_guard: Option<OriginGuard>,
    /// Whether replies and failures carry `Proxy-Status` (RFC 9209), which tells outsiders about our inside.
    pub emit_proxy_status: bool,
    /// How it speaks TLS; none for plain HTTP.
    pub tls: Option<TlsSettings>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// What holds over HTTP/2.
    pub http2: Http2Settings,
}

#[cfg(test)]
impl ListenerSettings {
    /// The defaults, on a port that the system chooses.
    pub(crate) fn for_tests() -> Self {
        Self {
            address: "127.0.0.1:0".parse().unwrap(),
            trusted_proxies: Vec::new(),
            trusted_headers: Vec::new(),
            idle_timeout: Duration::from_secs(75),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_mins(1),
            max_header_bytes: 64 << 10,
            max_connections: 100,
            underscores: Underscores::default(),
            subject_headers: Vec::new(),
            origin_guard: None,
            emit_proxy_status: false,
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            http2: Http2Settings::default(),
        }
    }
}

/// What an operator sets for HTTP/2 on a listener, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// Whether callers may speak it.
    pub enabled: bool,
    /// Requests at once on a connection.
    pub max_streams: u32,
    /// Bytes of a request body that may be under way unread, per stream.
    pub stream_window: u32,
    /// The same for all streams of a connection.
    pub connection_window: u32,
    /// Bytes of an answer that wait for the caller, per stream.
    pub send_buffer: u32,
    /// Requests that a caller may cancel before their answer, beyond those that it lets be answered.
    pub max_cancelled: u32,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_streams: 100,
            stream_window: 64 << 10,
            connection_window: 1 << 20,
            send_buffer: 64 << 10,
            max_cancelled: 200,
        }
    }
}

/// How far a listener has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It accepts, and its connections stay open.
    Open,
    /// It has closed its socket, and its connections end as soon as they can.
    Draining,
}
