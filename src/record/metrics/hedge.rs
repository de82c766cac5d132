//! Metrics of hedges.

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec};

use super::register::Builder;
use crate::policy::hedge::HedgeEnd;

/// The metrics of all routes.
#[derive(Debug)]
pub(super) struct HedgeVecs {
    total: IntCounterVec,
    delay: GaugeVec,
}

impl HedgeVecs {
    pub(super) fn new(new: &Builder<'_>) -> Self {
        Self {
            total: new.counters(
                "hedges_total",
                "Requests sent once more while the first attempt was unanswered, or not for a rule, by what became of it.",
                &["route", "result"],
            ),
            delay: new.gauges(
                "hedge_delay_seconds",
                "How long an attempt is unanswered before it is hedged, where that is learned; 0 while too little is known.",
                &["route"],
            ),
        }
    }

    pub(super) fn of(&self, route: &str) -> HedgeMetrics {
        let delay = self.delay.with_label_values(&[route]);
        delay.set(0.0); // a route that is made anew on a reload has yet to learn
        HedgeMetrics {
            ends: HedgeEnd::ALL.map(|end| self.total.with_label_values(&[route, end.label()])),
            delay,
        }
    }
}

/// Counters of a route's hedges.
#[derive(Debug)]
pub struct HedgeMetrics {
    ends: [IntCounter; HedgeEnd::ALL.len()],
    /// The delay that was learned.
    pub delay: Gauge,
}

impl HedgeMetrics {
    /// The counter of hedges that came to this end.
    pub fn ended(&self, end: HedgeEnd) -> &IntCounter {
        &self.ends[end.index()]
    }
}
