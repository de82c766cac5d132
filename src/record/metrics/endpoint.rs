//! The metrics of an endpoint, whose series end with it.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::StatusCode;
use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use super::declare::{Families as _, metrics};
use super::labels::labels;
use crate::error::UpstreamErrorKind;
use crate::policy::grpc::GrpcStatus;
use crate::record::words::words;

metrics! {
    /// The counters of an endpoint.
    pub struct EndpointSeries, EndpointFamilies [cluster, endpoint] {
        IntCounter attempts_total [result]
            "Attempts by the status or the kind of error that they ended with."
            { by_status: StatusCode, by_error: UpstreamErrorKind, by_grpc: GrpcStatus, unfinished: Unfinished }
        IntGauge endpoint_ejected
            "1 while the endpoint is out of balancing."
            { ejected }
        IntCounter endpoint_ejections_total [reason]
            "Times that the endpoint left balancing, by what spoke against it: `failures` (of requests) or `health_checks`."
            { ejections: EjectionReason }
        Gauge endpoint_idle_limit_seconds
            "How long the endpoint keeps an idle HTTP/1.1 connection, as far as is known."
            { idle_limit }
        IntCounter health_checks_total [result]
            "Health checks by their end: ok, status (the answer had a wrong one) or a kind of error."
            { checks_answered: CheckAnswer, checks_failed: UpstreamErrorKind }
        IntGauge endpoint_healthy
            "1 while the endpoint passes its health checks, 0 while it fails them; absent without checks."
            {}
    }
}

words! {
    /// An attempt without an outcome.
    pub enum Unfinished {
        /// The exchange ended before the attempt did, or another beside it had answered.
        Cancelled = "cancelled",
    }
}

words! {
    /// The answer to a health check.
    pub enum CheckAnswer {
        /// That of an endpoint that works.
        Ok = "ok",
        /// Its status is that of an endpoint that does not work.
        Status = "status",
    }
}

words! {
    /// What spoke against an endpoint that left balancing.
    pub enum EjectionReason {
        /// Requests that failed.
        Failures = "failures",
        /// Health checks that failed.
        HealthChecks = "health_checks",
    }
}

labels!(true: EjectionReason);
labels!(false: CheckAnswer Unfinished);

/// The counters of an endpoint. Its series end when this is dropped, so that addresses which come and go in DNS do not
/// pile up.
#[derive(Debug)]
pub struct EndpointMetrics {
    series: EndpointSeries,
    all: Arc<AllEndpoints>,
    labels: [String; 2],
}

impl EndpointMetrics {
    /// The counter of attempts that brought `status`.
    pub fn answered(&self, status: StatusCode) -> &IntCounter {
        self.by_status(status)
    }

    /// The counter of attempts that failed with `kind`.
    pub fn failed(&self, kind: UpstreamErrorKind) -> &IntCounter {
        self.by_error(kind)
    }

    /// The counter of attempts that brought a failure of gRPC in a head of its own.
    pub fn answered_grpc(&self, status: GrpcStatus) -> &IntCounter {
        self.by_grpc(status)
    }

    /// The counter of attempts that ended because their caller left.
    pub fn cancelled(&self) -> &IntCounter {
        self.unfinished(Unfinished::Cancelled)
    }

    /// Notes what its health checks say; none takes that back, because nobody keeps it up to date.
    pub fn set_healthy(&self, is_healthy: Option<bool>) {
        // It changes seldom, and not on the way of a request.
        let family = &self.all.families.endpoint_healthy;
        match is_healthy {
            Some(is_healthy) => family.with_label_values(&self.labels).set(is_healthy.into()),
            // An error would only say that the series does not exist.
            None => _ = family.remove_label_values(&self.labels),
        }
    }
}

impl Deref for EndpointMetrics {
    type Target = EndpointSeries;

    fn deref(&self) -> &EndpointSeries {
        &self.series
    }
}

impl Drop for EndpointMetrics {
    fn drop(&mut self) {
        let mut live = self.all.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.get(&self.labels).is_some_and(|other| other.strong_count() > 0) {
            return; // made anew since our last handle went
        }
        live.remove(&self.labels);
        self.all.families.end(&self.labels.each_ref().map(String::as_str), &self.series);
        self.set_healthy(None);
    }
}

/// The metrics of all endpoints.
#[derive(Debug)]
pub(super) struct AllEndpoints {
    families: EndpointFamilies,
    /// The endpoints whose series exist. A reload makes an endpoint anew while exchanges still use the old one: both
    /// must count into the same series, and only the last may end them.
    live: Mutex<HashMap<[String; 2], Weak<EndpointMetrics>>>,
}

impl AllEndpoints {
    pub(super) fn register(registry: &Registry) -> Arc<Self> {
        Arc::new(Self { families: EndpointFamilies::register(registry), live: Mutex::default() })
    }

    pub(super) fn of(self: &Arc<Self>, scope: [&str; 2]) -> Arc<EndpointMetrics> {
        let labels = scope.map(str::to_owned);
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = live.get(&labels).and_then(Weak::upgrade) {
            return metrics;
        }
        let series = self.families.of(&scope);
        let metrics = Arc::new(EndpointMetrics { series, all: self.clone(), labels: labels.clone() });
        live.insert(labels, Arc::downgrade(&metrics));
        metrics
    }
}
