//! What an operator sets for a cluster, checked.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::uri::{Authority, PathAndQuery};

use crate::policy::admission::AdmissionSettings;
use crate::policy::budget::BudgetSettings;
use crate::policy::ejection::EjectionSettings;
use crate::policy::health::Rhythm;
use crate::policy::outage::OutageQueueSettings;
use crate::policy::reuse::UnsafeReuse;
use crate::policy::settings::StatusSet;
use crate::upstream::location::EndpointUrl;
use crate::upstream::protocol::Protocol;
use crate::upstream::tls::TlsSettings;

/// What an operator sets for a cluster, checked. All but `endpoints` identifies it over a reload: see [`ClusterSettings::split`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSettings {
    /// The label in metrics and in the record.
    pub name: Arc<str>,
    /// Where it is; at least one. Those of a running cluster change with a reload, and stand in
    /// [`Cluster::urls`](super::cluster::Cluster::urls).
    pub endpoints: Vec<EndpointUrl>,
    /// The protocol that they speak.
    pub protocol: Protocol,
    /// How TLS is spoken to them; none if they are reached over TCP alone.
    pub tls: Option<TlsSettings>,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Which unused connections may carry a request that must not be sent twice; not for HTTP/2, where an endpoint says
    /// what it has not acted on.
    pub unsafe_reuse: UnsafeReuse,
    /// The longest silence inside a response body.
    pub body_timeout: Duration,
    /// Connections to one endpoint, over all workers; at least 1.
    pub max_connections: usize,
    /// Exchanges on one HTTP/2 connection, where the endpoint does not allow fewer; at least 1.
    pub max_streams: usize,
    /// How long an attempt may wait for one of them.
    pub connection_wait: Duration,
    /// How many attempts may wait at once, per endpoint and worker.
    pub max_waiting: usize,
    /// The largest response head, in bytes; at least 8 KiB.
    pub max_header_bytes: usize,
    /// How often host names are resolved again.
    pub dns_refresh: Duration,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// When an endpoint leaves balancing.
    pub ejection: EjectionSettings,
    /// Who waits how long while all of it is down.
    pub outage_queue: OutageQueueSettings,
    /// What its endpoints are asked to know whether they work; none if they are not.
    pub health_check: Option<HealthCheck>,
    /// How much may be in flight, and who waits how long beyond that.
    pub admission: AdmissionSettings,
    /// The statuses that count as failures of an endpoint: `statuses` of the cluster's merged retry policy.
    pub failures: StatusSet,
    /// How many retries the cluster may get.
    pub budget: BudgetSettings,
}

impl ClusterSettings {
    /// What identifies the cluster over a reload, with no endpoint in it, and the endpoints. A cluster of equal identity
    /// keeps its outage queue, admission, budget and expectations, and the endpoints that stay keep what belongs to them.
    pub fn split(mut self) -> (Self, Vec<EndpointUrl>) {
        let endpoints = std::mem::take(&mut self.endpoints);
        (self, endpoints)
    }
}

/// How an endpoint is chosen among those in balancing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two chosen at random, the one with fewer requests in flight.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
}

/// What an operator sets for health checks, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// When an endpoint is checked, and what the results make of it.
    pub rhythm: Rhythm,
    /// GET or HEAD.
    pub method: Method,
    /// What is asked for.
    pub path: PathAndQuery,
    /// The host that is named; none for that of the endpoint.
    pub host: Option<Authority>,
    /// The answers of an endpoint that works.
    pub statuses: StatusSet,
}
