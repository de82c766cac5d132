//! The counters of an endpoint, whose series end with it.

use std::sync::{OnceLock, PoisonError};

use http::StatusCode;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::LiveEndpoints;
use super::codes::{CodeCounters, GrpcCounters};
use super::health::HealthMetrics;
use crate::error::UpstreamErrorKind;
use crate::policy::grpc::GrpcStatus;

/// Counters of an endpoint.
#[derive(Debug)]
pub struct EndpointMetrics {
    pub(super) attempts_by_status: CodeCounters,
    pub(super) attempts_by_error: [OnceLock<IntCounter>; UpstreamErrorKind::ALL.len()],
    pub(super) attempts_by_grpc: GrpcCounters,
    pub(super) cancelled: OnceLock<IntCounter>,
    /// 1 while out of balancing.
    pub ejected: IntGauge,
    /// How long it keeps an idle connection; set before a scrape.
    pub idle_limit: Gauge,
    /// What its health checks told.
    pub health: HealthMetrics,
    pub(super) attempts: IntCounterVec,
    pub(super) ejections: IntGaugeVec,
    pub(super) idle_limits: GaugeVec,
    pub(super) live: LiveEndpoints,
    pub(super) labels: [String; 2],
}

impl EndpointMetrics {
    /// The counter of attempts that brought `status`.
    pub fn answered(&self, status: StatusCode) -> &IntCounter {
        self.attempts_by_status.get(status.as_u16())
    }

    /// The counter of attempts that failed with `kind`.
    pub fn failed(&self, kind: UpstreamErrorKind) -> &IntCounter {
        self.attempts_by_error[kind.index()].get_or_init(|| self.counter(kind.label()))
    }

    /// The counter of attempts that brought a failure of gRPC in a head of its own.
    pub fn answered_grpc(&self, status: GrpcStatus) -> &IntCounter {
        self.attempts_by_grpc.get(status, |label| self.counter(label))
    }

    /// The counter of attempts that ended because their caller left.
    pub fn cancelled(&self) -> &IntCounter {
        self.cancelled.get_or_init(|| self.counter("cancelled"))
    }

    fn counter(&self, result: &str) -> IntCounter {
        self.attempts.with_label_values(&[&*self.labels[0], &*self.labels[1], result])
    }
}

impl Drop for EndpointMetrics {
    fn drop(&mut self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.get(&self.labels).is_some_and(|other| other.strong_count() > 0) {
            return; // made anew since our last handle went
        }
        live.remove(&self.labels);
        let [cluster, endpoint] = &self.labels;
        // An error here would only say that the series does not exist.
        let _ = self.ejections.remove_label_values(&[cluster, endpoint]);
        let _ = self.idle_limits.remove_label_values(&[cluster, endpoint]);
        self.health.end();
        for code in self.attempts_by_status.used() {
            let _ = self.attempts.remove_label_values(&[&**cluster, &**endpoint, &*code]);
        }
        for kind in UpstreamErrorKind::ALL {
            if self.attempts_by_error[kind.index()].get().is_some() {
                let _ = self.attempts.remove_label_values(&[&**cluster, &**endpoint, kind.label()]);
            }
        }
        for status in self.attempts_by_grpc.used() {
            let _ = self.attempts.remove_label_values(&[&**cluster, &**endpoint, status.label()]);
        }
        if self.cancelled.get().is_some() {
            let _ = self.attempts.remove_label_values(&[&**cluster, &**endpoint, "cancelled"]);
        }
    }
}
