//! A named group of endpoints.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::budget::BudgetSettings;
use crate::policy::ejection::EjectionSettings;
use crate::policy::retry::StatusSet;
use crate::upstream::endpoint::EndpointUrl;

/// What an operator sets for a cluster, checked. Two that are equal share their pools, health and budget over a reload.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSettings {
    /// The label in metrics and in the record.
    pub name: Arc<str>,
    /// Where it is; at least one.
    pub endpoints: Vec<EndpointUrl>,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// The longest silence inside a response body.
    pub body_timeout: Duration,
    /// Connections to one endpoint, over all workers; at least 1.
    pub max_connections: usize,
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
    /// The statuses that count as failures of an endpoint: `statuses` of the cluster's merged retry policy.
    pub failures: StatusSet,
    /// How many retries the cluster may get.
    pub budget: BudgetSettings,
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

/// x
#[derive(Debug)]
pub struct Cluster;
