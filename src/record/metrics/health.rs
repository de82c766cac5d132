//! The counters of health checks.

use std::sync::OnceLock;

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

use super::register::Builder;
use crate::error::UpstreamErrorKind;

/// The metrics of all health checks.
#[derive(Debug)]
pub(super) struct HealthVecs {
    checks: IntCounterVec,
    healthy: IntGaugeVec,
}

impl HealthVecs {
    pub(super) fn new(new: &Builder<'_>) -> Self {
        Self {
            checks: new.counters(
                "health_checks_total",
                "Health checks by their end: ok, status (of an endpoint that does not work) or a kind of error.",
                &["cluster", "endpoint", "result"],
            ),
            healthy: new.int_gauges(
                "endpoint_healthy",
                "1 while the endpoint passes its health checks, 0 while it fails them; absent where there are none.",
                &["cluster", "endpoint"],
            ),
        }
    }

    pub(super) fn of(&self, [cluster, endpoint]: &[String; 2]) -> HealthMetrics {
        HealthMetrics {
            checks: self.checks.clone(),
            healthy: self.healthy.clone(),
            labels: [cluster.clone(), endpoint.clone()],
            passed: OnceLock::new(),
            refused: OnceLock::new(),
            failed: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

/// Counters of one endpoint's health checks; a series exists once there is something to count.
#[derive(Debug)]
pub struct HealthMetrics {
    checks: IntCounterVec,
    healthy: IntGaugeVec,
    labels: [String; 2],
    passed: OnceLock<IntCounter>,
    refused: OnceLock<IntCounter>,
    failed: [OnceLock<IntCounter>; UpstreamErrorKind::ALL.len()],
}

impl HealthMetrics {
    /// The counter of checks that passed.
    pub fn passed(&self) -> &IntCounter {
        self.passed.get_or_init(|| self.counter("ok"))
    }

    /// The counter of checks whose answer had a wrong status.
    pub fn refused(&self) -> &IntCounter {
        self.refused.get_or_init(|| self.counter("status"))
    }

    /// The counter of checks that failed with `kind`.
    pub fn failed(&self, kind: UpstreamErrorKind) -> &IntCounter {
        self.failed[kind.index()].get_or_init(|| self.counter(kind.label()))
    }

    /// Notes a verdict. It changes seldom, and not on the way of a request.
    pub fn set_healthy(&self, is_healthy: bool) {
        let [cluster, endpoint] = &self.labels;
        self.healthy.with_label_values(&[cluster, endpoint]).set(is_healthy.into());
    }

    /// Takes the verdict back: nobody keeps it up to date.
    pub fn forget(&self) {
        let [cluster, endpoint] = &self.labels;
        // An error here would only say that the series does not exist.
        let _ = self.healthy.remove_label_values(&[cluster, endpoint]);
    }

    /// Ends the series.
    pub(super) fn end(&self) {
        self.forget();
        let [cluster, endpoint] = &self.labels;
        let kinds = UpstreamErrorKind::ALL.iter().map(|kind| kind.label());
        for result in ["ok", "status"].into_iter().chain(kinds) {
            let _ = self.checks.remove_label_values(&[&**cluster, &**endpoint, result]);
        }
    }

    fn counter(&self, result: &str) -> IntCounter {
        let [cluster, endpoint] = &self.labels;
        self.checks.with_label_values(&[&**cluster, &**endpoint, result])
    }
}
