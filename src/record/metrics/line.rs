//! The counters of the line in front of a cluster that is down.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::register::Builder;

/// The metrics of all lines.
#[derive(Debug)]
pub(super) struct LineVecs {
    outage: IntGaugeVec,
    outages: IntCounterVec,
    waiting: IntGaugeVec,
    total: IntCounterVec,
    surprise: GaugeVec,
}

impl LineVecs {
    pub(super) fn new(new: &Builder<'_>) -> Self {
        Self {
            outage: new.int_gauges(
                "outage",
                "1 while every recent attempt at the cluster failed, or it recovers: requests to it wait in line or probe.",
                &["cluster"],
            ),
            outages: new.counters("outages_total", "Times that the failures of the cluster were taken for an outage.", &["cluster"]),
            waiting: new.int_gauges(
                "line_waiting",
                "Requests that wait in line because all of the cluster is down.",
                &["cluster"],
            ),
            total: new.counters(
                "line_total",
                "Waits in line, by their end: served (it was the request's turn), tried (the wait was in vain, and the request got one plain attempt), refused (the line was full or the deadline near), left (by the caller) or expired. A request is refused or expires only after an attempt of its own in the same outage.",
                &["cluster", "result"],
            ),
            surprise: new.gauges(
                "surprise",
                "How surprising the failures since the cluster's last success are together, in nats; 9.2 at every endpoint is an outage.",
                &["cluster"],
            ),
        }
    }

    pub(super) fn of(&self, cluster: &str) -> LineMetrics {
        let total = |result| self.total.with_label_values(&[cluster, result]);
        LineMetrics {
            outage: self.outage.with_label_values(&[cluster]),
            outages: self.outages.with_label_values(&[cluster]),
            waiting: self.waiting.with_label_values(&[cluster]),
            served: total("served"),
            refused: total("refused"),
            left: total("left"),
            expired: total("expired"),
            tried: total("tried"),
            surprise: self.surprise.with_label_values(&[cluster]),
        }
    }
}

/// Counters of a cluster's line.
#[derive(Clone, Debug)]
pub struct LineMetrics {
    /// 1 while the line is in force; set before a scrape.
    pub outage: IntGauge,
    /// Times that it came into force.
    pub outages: IntCounter,
    /// Those who wait; set before a scrape.
    pub waiting: IntGauge,
    /// Waits that ended with a turn.
    pub served: IntCounter,
    /// Waits that were not begun.
    pub refused: IntCounter,
    /// Waits that the caller ended.
    pub left: IntCounter,
    /// Waits that the clock ended.
    pub expired: IntCounter,
    /// Waits in vain that one plain attempt followed.
    pub tried: IntCounter,
    /// The weight of the present row of failures; set before a scrape.
    pub surprise: Gauge,
}
