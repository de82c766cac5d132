//! The counters of the gate in front of a cluster.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::register::Builder;
use crate::policy::admission::Refused;

/// The metrics of all gates.
#[derive(Debug)]
pub(super) struct AdmissionVecs {
    limit: IntGaugeVec,
    in_flight: IntGaugeVec,
    lingering: IntGaugeVec,
    waiting: IntGaugeVec,
    waits: IntCounterVec,
    refused: IntCounterVec,
}

impl AdmissionVecs {
    pub(super) fn new(new: &Builder<'_>) -> Self {
        let gauges = |name, help| new.int_gauges(name, help, &["cluster"]);
        Self {
            limit: gauges(
                "admission_limit",
                "Attempts that the cluster may have in flight; 0 while there is no limit.",
            ),
            in_flight: gauges("admission_in_flight", "Attempts that the cluster has in flight."),
            lingering: gauges(
                "admission_lingering",
                "Attempts in flight that were given up and that the backend has not let go of.",
            ),
            waiting: gauges("admission_waiting", "Requests that wait because the cluster has all that it carries."),
            waits: new.counters(
                "admission_waits_total",
                "Waits for the limit, by their end: served, or left (by the caller); those in vain are refused as expired.",
                &["cluster", "result"],
            ),
            refused: new.counters(
                "admission_refused_total",
                "What was refused because the cluster has all that it carries: full (the queue), late (it would wait too long), expired (it did), retry (others wait for their first attempt).",
                &["cluster", "reason"],
            ),
        }
    }

    pub(super) fn of(&self, cluster: &str) -> AdmissionMetrics {
        AdmissionMetrics {
            limit: self.limit.with_label_values(&[cluster]),
            in_flight: self.in_flight.with_label_values(&[cluster]),
            lingering: self.lingering.with_label_values(&[cluster]),
            waiting: self.waiting.with_label_values(&[cluster]),
            served: self.waits.with_label_values(&[cluster, "served"]),
            left: self.waits.with_label_values(&[cluster, "left"]),
            refused: Refused::ALL.map(|reason| self.refused.with_label_values(&[cluster, reason.label()])),
        }
    }
}

/// Counters of a cluster's gate.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    /// What may be in flight; set before a scrape, like the other gauges here.
    pub limit: IntGauge,
    /// What is in flight.
    pub in_flight: IntGauge,
    /// What of it was given up.
    pub lingering: IntGauge,
    /// Those who wait.
    pub waiting: IntGauge,
    /// Waits that ended well.
    pub served: IntCounter,
    /// Waits that the caller ended.
    pub left: IntCounter,
    refused: [IntCounter; Refused::ALL.len()],
}

impl AdmissionMetrics {
    /// The counter of what was refused for `reason`.
    pub fn refused(&self, reason: Refused) -> &IntCounter {
        &self.refused[reason.index()]
    }
}
