//! Accepts connections and hands each to the worker that has the fewest.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// What an operator sets for a listener, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
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
    /// Open connections; beyond them, callers wait in the system's backlog.
    pub max_connections: usize,
    /// Whether replies and failures carry `Proxy-Status` (RFC 9209), which tells outsiders about our inside.
    pub emit_proxy_status: bool,
}
