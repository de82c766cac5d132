//! One address of a backend: what all workers know about it together.
//!
//! # Invariant
//!
//! Only what the backend did feeds an endpoint's health. A reply of our own ejects none. Neither does a lack of
//! descriptors, memory or ports on this machine ([`Shortage`](crate::error::Shortage)): it is evidence of nothing.
//! Held by `our_own_limit_is_never_the_upstreams_fault` and
//! `a_connect_that_this_machine_could_not_make_blames_no_endpoint`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::policy::expect::Lean;
use crate::policy::reuse::IdleLimit;
use crate::record::metrics::{ClusterMetrics, EndpointMetrics};
use crate::upstream::location::{EndpointHost, Location};
use crate::upstream::settings::ClusterSettings;
use crate::upstream::tls::TlsClient;

pub(super) mod connections;
mod standing;

use self::connections::Connections;
pub use self::standing::Standing;

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
    /// Whether it is in balancing.
    pub standing: Standing,
    /// How many connections it has, and who wants one.
    pub(super) connections: Connections,
    /// TLS, if that is how it is reached.
    pub(super) tls: Option<TlsClient>,
    /// By how much more attempts fail here than their keys do anyway; not kept where it is the only endpoint.
    pub(super) lean: Lean,
    /// Whether it refused a connection and none has opened since that was tried later.
    refusing: AtomicBool,
    idle_limit: IdleLimit,
    /// What the times of `idle_limit` count from.
    made: Instant,
    in_flight: AtomicUsize,
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
            standing: Standing::default(),
            connections: Connections::new(settings.max_connections),
            tls: settings.tls.as_ref().map(|tls| tls.client(&location.host)),
            lean: Lean::default(),
            refusing: AtomicBool::new(false),
            idle_limit: IdleLimit::default(),
            made: Instant::now(),
            in_flight: AtomicUsize::new(0),
            settings,
        }
    }

    /// Whether it is there: at this address, by the same name, for which its certificate has to hold.
    pub(super) fn is_at(&self, location: &Location) -> bool {
        self.address == location.address && self.host == location.host
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
        self.connections.open()
    }

    /// Those of them that carry an exchange.
    pub fn active_connections(&self) -> usize {
        self.connections.active(self.in_flight())
    }

    /// Whether each connection that it may have carries an exchange.
    pub fn is_full(&self) -> bool {
        self.active_connections() >= self.settings.max_connections
    }

    /// Counts a connection until the guard is dropped.
    pub fn count_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections.note_open();
        OpenConnection { endpoint: self.clone() }
    }

    /// Takes the endpoint out of use: its idle connections are closed, those in use when they are done.
    pub fn retire(&self) {
        self.standing.retire();
        self.metrics.ejected.set(0);
        self.metrics.set_healthy(None);
        self.connections.ask_for_idle();
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
        self.endpoint.connections.note_closed();
    }
}
