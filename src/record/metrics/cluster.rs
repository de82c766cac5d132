//! The metrics of a cluster: its attempts and connections, the gate in front of it, and its outage queue.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::DURATION;
use super::declare::metrics;
use super::labels::ConnectFailure;
use crate::error::UpstreamErrorKind;
use crate::policy::admission::Refused;

metrics! {
    /// The counters of a cluster. Gauges are set before a scrape.
    pub struct ClusterMetrics, ClusterFamilies [cluster] {
        Histogram attempt_duration_seconds in DURATION
            "Time from the start of an attempt (or the end of its request body, if that is later) to its response head, the end of its hold or its error."
            { attempt_duration }
        Histogram retry_wait_seconds in WAIT
            "Waits before retries."
            { retry_wait }
        Gauge retry_budget_available
            "Retries that the cluster's budget allows now."
            { budget_available }
        Gauge cluster_recent_success
            "The chance that an attempt succeeds, over all kinds of requests: a busy path that always fails lowers it."
            { recent_success }
        IntGauge upstream_connections [state]
            "Open connections to the backend."
            { connections_active = "active", connections_idle = "idle" }
        IntCounter upstream_connects_total [result]
            "Attempts to open a connection to the backend."
            { connected = "ok", connect_failures: ConnectFailure }
        IntCounter upstream_connection_waits_total [result]
            "Attempts that found `max_connections` in use, by whether they got a connection in time."
            { waits_served = "ok", waits_refused = "refused" }
        Histogram upstream_idle_close_age_seconds in IDLE
            "Idle time of the connections that the backend closed."
            { idle_close_age }
        IntCounter upstream_safety_connects_total
            "New connections for requests that must not be sent twice, opened because the backend might be closing the idle ones."
            { safety_connects }
        IntCounter dns_lookups_total [result]
            "Look-ups of endpoints' host names."
            { dns_resolved = "ok", dns_failed = "error" }
    }
}

impl ClusterMetrics {
    /// The counter of connections that did not come to be for `kind`.
    pub fn connect_failed(&self, kind: UpstreamErrorKind) -> &IntCounter {
        self.connect_failures(ConnectFailure(kind))
    }
}

metrics! {
    /// The counters of the gate in front of a cluster. Gauges are set before a scrape.
    pub struct AdmissionMetrics, AdmissionFamilies [cluster] {
        IntGauge admission_limit
            "Attempts that the cluster may have in flight; 0 while there is no limit."
            { limit }
        IntGauge admission_in_flight
            "Attempts that the cluster has in flight."
            { in_flight }
        IntGauge admission_lingering
            "Attempts in flight that were given up and that the backend still works on."
            { lingering }
        IntGauge admission_waiting
            "Requests that wait for the admission limit."
            { waiting }
        IntCounter admission_waits_total [result]
            "Waits for the admission limit, by their end: served, or left (by the caller). A wait in vain counts as refused with the reason expired."
            { served = "served", left = "left" }
        IntCounter admission_refused_total [reason]
            "Requests and retries that the admission limit refused: full (the queue was), late (the wait would have been too long), expired (the wait was too long), retry (others waited for their first attempt)."
            { refused: Refused }
    }
}

metrics! {
    /// The counters of a cluster's outage queue. Gauges are set before a scrape.
    pub struct OutageQueueMetrics, OutageQueueFamilies [cluster] {
        IntGauge outage
            "1 while every recent attempt at the cluster failed, or while it recovers: requests to it wait in the outage queue or probe."
            { outage }
        IntCounter outages_total
            "Times that the failures of the cluster were taken for an outage."
            { outages }
        IntGauge outage_queue_waiting
            "Requests that wait in the outage queue because all of the cluster is down."
            { waiting }
        IntCounter outage_queue_total [result]
            "Waits in the outage queue, by their end: served (the request's turn came), tried (the wait was in vain, and the request got one plain attempt), refused (the queue was full or the deadline near), left (by the caller) or expired. A request is refused or expires only after an attempt of its own in the same outage."
            { served = "served", tried = "tried", refused = "refused", left = "left", expired = "expired" }
        Gauge surprise
            "How surprising the failures since the cluster's last success are together, in nats; 9.2 at every endpoint is an outage."
            { surprise }
    }
}

const WAIT: &[f64] = &[0.001, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0];
const IDLE: &[f64] = &[0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 4.0, 5.0, 10.0, 30.0, 60.0];
