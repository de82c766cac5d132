//! One address of a backend: what all workers know about it together.
//!
//! # Invariant
//!
//! Only what the backend did feeds an endpoint's health. A reply of our own ejects none. Neither does a lack of
//! descriptors, memory or ports on this machine ([`Shortage`](crate::error::Shortage)): it is evidence of nothing.
//! Held by `our_own_limit_is_never_the_upstreams_fault` and
//! `a_connect_that_this_machine_could_not_make_blames_no_endpoint`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::policy::ejection::Health;
use crate::policy::expect::Lean;
use crate::policy::reuse::IdleLimit;
use crate::record::metrics::{ClusterMetrics, EndpointMetrics};
use crate::upstream::cluster::ClusterSettings;
use crate::upstream::tls::TlsClient;

/// One address of a cluster, shared by all workers.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in the process, so that a pool never mistakes a new endpoint for an old one at the same address.
    pub id: EndpointId,
    /// Where it is.
    pub address: SocketAddr,
    /// The address as text, for metrics and the record.
    pub label: Arc<str>,
    /// The host of its URL.
    pub(super) host: EndpointHost,
    /// The settings of its cluster.
    pub settings: Arc<ClusterSettings>,
    /// Its counters.
    pub metrics: Arc<EndpointMetrics>,
    /// The counters of its cluster.
    pub cluster_metrics: Arc<ClusterMetrics>,
    /// One permit for each connection that `max_connections` still allows.
    pub slots: Arc<Semaphore>,
    /// Told when an attempt finds no permit: workers close idle connections to give theirs back.
    pub wanted: Notify,
    /// Attempts that wait for a permit, in all workers.
    pub waiting: AtomicUsize,
    /// TLS, if that is how it is reached.
    pub(super) tls: Option<TlsClient>,
    /// Its HTTP/2 connections, in all workers.
    pub(super) shared: SharedCounts,
    /// By how much more attempts fail here than their keys do anyway; not kept where it is the only endpoint.
    pub(super) lean: Lean,
    /// Whether it refused a connection and none has opened since that was tried later.
    refusing: AtomicBool,
    idle_limit: IdleLimit,
    /// What the times of `idle_limit` count from.
    made: Instant,
    in_flight: AtomicUsize,
    open: AtomicUsize,
    retired: AtomicBool,
    health: Mutex<Health>,
    /// Whether `health` holds anything: spares the lock where all is well.
    troubled: AtomicBool,
}

/// How many HTTP/2 connections there are, and what they carry.
#[derive(Debug, Default)]
pub(super) struct SharedCounts {
    /// Open connections.
    pub(super) open: AtomicUsize,
    /// Those of them that carry at least one exchange.
    pub(super) busy: AtomicUsize,
    /// Exchanges that they carry.
    pub(super) streams: AtomicUsize,
}

/// Where an endpoint is: one address of a URL's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The address.
    pub address: SocketAddr,
    /// The host, for which its certificate has to hold.
    pub host: EndpointHost,
}

/// The identity of an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointId(u64);

impl Endpoint {
    /// A healthy endpoint without connections.
    pub fn new(
        location: &Location,
        settings: Arc<ClusterSettings>,
        metrics: Arc<EndpointMetrics>,
        cluster_metrics: Arc<ClusterMetrics>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let address = location.address;
        Self {
            id: EndpointId(NEXT.fetch_add(1, Ordering::Relaxed)),
            address,
            label: address.to_string().into(),
            host: location.host.clone(),
            metrics,
            cluster_metrics,
            slots: Arc::new(Semaphore::new(settings.max_connections)),
            wanted: Notify::new(),
            waiting: AtomicUsize::new(0),
            tls: settings.tls.as_ref().map(|tls| tls.client(&location.host)),
            shared: SharedCounts::default(),
            lean: Lean::default(),
            refusing: AtomicBool::new(false),
            idle_limit: IdleLimit::default(),
            made: Instant::now(),
            in_flight: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            health: Mutex::default(),
            troubled: AtomicBool::new(false),
            settings,
        }
    }

    /// Attempts that run, and answers that flow, in all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts an attempt until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { endpoint: self.clone() }
    }

    /// Open connections, in all workers.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Those of them that carry an exchange.
    pub fn active_connections(&self) -> usize {
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let own = self.open_connections().saturating_sub(count(&self.shared.open));
        // Attempts that are still connecting, or wait for a stream, are in flight, but hold no connection.
        let in_flight = self.in_flight().saturating_sub(count(&self.shared.streams));
        (count(&self.shared.busy) + in_flight.min(own)).min(self.open_connections())
    }

    /// Counts a connection until the guard is dropped.
    pub fn count_connection(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { endpoint: self.clone() }
    }

    /// Takes the endpoint out of use: its idle connections are closed, those in use when they are done.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.metrics.set_healthy(None);
        self.wanted.notify_waiters();
    }

    /// Whether it is out of use.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Notes that a connection was found open after it had been idle for `age`.
    pub(super) fn note_idle_survival(&self, age: Duration) {
        self.idle_limit.note_survival(age);
    }

    /// Notes that the endpoint closed a connection that had been idle for `age`.
    pub(super) fn note_idle_close(&self, age: Duration) {
        self.cluster_metrics.idle_close_age.observe(age.as_secs_f64());
        self.idle_limit.note_close(age, self.made.elapsed());
    }

    /// How long it keeps an idle connection, as far as is known.
    pub fn idle_limit(&self) -> Duration {
        self.idle_limit.known(self.made.elapsed())
    }

    /// The idle time within which a connection is good for a request that must not be sent twice, where the endpoint has
    /// promised to keep it as long as `announced`.
    pub(super) fn reusable_age(&self, announced: Option<Duration>) -> Duration {
        self.idle_limit.reusable(announced, self.made.elapsed()).min(self.settings.idle_timeout)
    }

    /// Notes that it let no connection open.
    pub(super) fn note_refusal(&self) {
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// Notes that a connection opened which was tried after the endpoint had refused one.
    pub(super) fn note_opening(&self) {
        self.refusing.store(false, Ordering::Relaxed);
    }

    /// Whether it refused a connection and none has opened since that was tried later.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Whether there is anything in its health to look at.
    pub fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// Its health, to be looked at or changed; [`Endpoint::is_troubled`] follows.
    pub fn with_health<R>(&self, change: impl FnOnce(&mut Health) -> R) -> R {
        // Health is a plain value: a panic elsewhere cannot leave it half-written.
        let mut health: MutexGuard<'_, _> = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut health);
        self.troubled.store(!health.is_clean(), Ordering::Relaxed);
        result
    }
}

/// Counts an attempt at its endpoint while it lives.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection to its endpoint while it lives.
#[derive(Debug)]
pub struct OpenConnection {
    endpoint: Arc<Endpoint>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.endpoint.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An endpoint as the configuration names it: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    /// Whether it is reached over TLS.
    pub scheme: EndpointScheme,
    /// The host.
    pub host: EndpointHost,
    /// The port; 80 or 443 if the URL has none.
    pub port: u16,
}

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointScheme {
    /// TCP alone.
    Http,
    /// TLS.
    Https,
}

impl EndpointScheme {
    /// The word before `://`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A host that is an address, or a name whose every address is an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointHost {
    /// An IP address.
    Address(IpAddr),
    /// A name to be resolved.
    Name(Box<str>),
}

/// Why a text is not an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidEndpoint {
    /// Neither `http://…` nor `https://…`.
    #[error("an endpoint is a URL: http://HOST:PORT or https://HOST:PORT")]
    Scheme,
    /// No host, or no valid one.
    #[error("the host is neither an IP address nor a host name")]
    Host,
    /// Not a port.
    #[error("the port must be between 1 and 65535")]
    Port,
    /// A path, query, fragment or user, all of which would be ignored.
    #[error("an endpoint is a host and a port, without user, path or query: requests keep their own path")]
    Extra,
}

impl EndpointUrl {
    /// Reads `http://10.0.1.10:8080`, `http://[2001:db8::1]`, `https://hosp.internal`; one final slash is allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let secured = text.strip_prefix("https://").map(|authority| (EndpointScheme::Https, authority));
        let plain = || text.strip_prefix("http://").map(|authority| (EndpointScheme::Http, authority));
        let (scheme, authority) = secured.or_else(plain).ok_or(InvalidEndpoint::Scheme)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(InvalidEndpoint::Extra);
        }
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(InvalidEndpoint::Host)?;
            let address = address.parse().map_err(|_| InvalidEndpoint::Host)?;
            (EndpointHost::Address(IpAddr::V6(address)), port)
        } else {
            let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
            (EndpointHost::parse(host)?, port)
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(InvalidEndpoint::Port)?
            }
            None if port.is_empty() => match scheme {
                EndpointScheme::Http => 80,
                EndpointScheme::Https => 443,
            },
            _ => return Err(InvalidEndpoint::Port),
        };
        Ok(Self { scheme, host, port })
    }

    /// The endpoint at one of its host's addresses.
    pub fn at(&self, address: IpAddr) -> Location {
        Location { address: SocketAddr::new(address, self.port), host: self.host.clone() }
    }
}

impl EndpointHost {
    fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        // A name whose last label is all digits is a mistyped address, not a name (RFC 3696 section 2).
        // The root's dot at the end is the resolver's business: with it, no search list is tried (RFC 1034 section 3.1).
        let name = text.strip_suffix('.').unwrap_or(text);
        let mistyped =
            || name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if name.is_empty()
            || name.len() > 253
            || text.starts_with('.')
            || !text.bytes().all(valid)
            || mistyped()
        {
            return Err(InvalidEndpoint::Host);
        }
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        use EndpointScheme::{Http, Https};
        let at = |scheme, text: &str, port| {
            Ok(EndpointUrl { scheme, host: EndpointHost::Address(text.parse().unwrap()), port })
        };
        let address = |text: &str, port| at(Http, text, port);
        assert_eq!(EndpointUrl::parse("http://10.0.1.10:8080"), address("10.0.1.10", 8080));
        assert_eq!(EndpointUrl::parse("http://10.0.1.10/"), address("10.0.1.10", 80));
        assert_eq!(EndpointUrl::parse("http://[::1]:81"), address("::1", 81));
        assert_eq!(
            EndpointUrl::parse("http://Hosp.internal"),
            Ok(EndpointUrl { scheme: Http, host: EndpointHost::Name("hosp.internal".into()), port: 80 })
        );
        assert_eq!(
            EndpointUrl::parse("http://hosp.internal.:8080"),
            Ok(EndpointUrl { scheme: Http, host: EndpointHost::Name("hosp.internal.".into()), port: 8080 })
        );
        assert_eq!(EndpointUrl::parse("https://10.0.1.10"), at(Https, "10.0.1.10", 443));
        assert_eq!(EndpointUrl::parse("https://10.0.1.10:8443/"), at(Https, "10.0.1.10", 8443));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, error) in [
            ("10.0.1.10:8080", InvalidEndpoint::Scheme),
            ("ftp://a", InvalidEndpoint::Scheme),
            ("https://", InvalidEndpoint::Host),
            ("HTTPS://a", InvalidEndpoint::Scheme),
            ("http://", InvalidEndpoint::Host),
            ("http://a b", InvalidEndpoint::Host),
            ("http://.", InvalidEndpoint::Host),
            ("http://10.0.1.300.", InvalidEndpoint::Host),
            ("http://10.0.1.300", InvalidEndpoint::Host),
            ("http://[::1", InvalidEndpoint::Host),
            ("http://a:0", InvalidEndpoint::Port),
            ("http://a:65536", InvalidEndpoint::Port),
            ("http://a:", InvalidEndpoint::Port),
            ("http://a:+1", InvalidEndpoint::Port),
            ("http://[::1]x", InvalidEndpoint::Port),
            ("http://a/api", InvalidEndpoint::Extra),
            ("http://u@a", InvalidEndpoint::Extra),
        ] {
            assert_eq!(EndpointUrl::parse(text), Err(error), "{text}");
        }
    }
}
