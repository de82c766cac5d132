//! What Prometheus scrapes. Handles are resolved once per route, cluster, endpoint and listener, because a look-up by
//! label hashes and locks; on the request path a counter is an index away.
//!
//! Each metric is declared once, in the module of its scope, by the macro of `declare`. `docs/reference/metrics.md` is
//! written from these declarations.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, IntCounter, Registry, TextEncoder};

use self::cluster::{AdmissionFamilies, ClusterFamilies, OutageQueueFamilies};
pub use self::cluster::{AdmissionMetrics, ClusterMetrics, OutageQueueMetrics};
pub use self::declare::Cells;
use self::declare::Families as _;
use self::endpoint::AllEndpoints;
pub use self::endpoint::{CheckAnswer, EjectionReason, EndpointMetrics, EndpointSeries};
pub use self::labels::Label;
pub use self::listener::{
    AcceptFault, HandshakeResult, Http2Fault, ListenerMetrics, PrefaceFault, Standing, TlsMetrics,
};
use self::listener::{CertificateFamilies, HandshakeFamilies, ListenerFamilies};
use self::process::ProcessFamilies;
pub use self::process::ProcessMetrics;
use self::route::RouteFamilies;
pub use self::route::RouteMetrics;

mod cluster;
mod declare;
mod endpoint;
mod labels;
mod listener;
mod process;
#[cfg(test)]
mod reference;
mod route;

/// All metrics of the process; those without a label are at hand.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    routes: RouteFamilies,
    clusters: ClusterFamilies,
    admissions: AdmissionFamilies,
    outage_queues: OutageQueueFamilies,
    endpoints: Arc<AllEndpoints>,
    listeners: ListenerFamilies,
    handshakes: HandshakeFamilies,
    certificates: Arc<CertificateFamilies>,
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let registry = Registry::new();
        let process = ProcessFamilies::register(&registry);
        let revision = option_env!("STENT_REVISION").unwrap_or("unknown");
        process.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
        registry.register(Box::new(ProcessCollector::for_self())).expect("each name is registered once");
        Self {
            process: process.of(&[]),
            routes: RouteFamilies::register(&registry),
            clusters: ClusterFamilies::register(&registry),
            admissions: AdmissionFamilies::register(&registry),
            outage_queues: OutageQueueFamilies::register(&registry),
            endpoints: AllEndpoints::register(&registry),
            listeners: ListenerFamilies::register(&registry),
            handshakes: HandshakeFamilies::register(&registry),
            certificates: Arc::new(CertificateFamilies::register(&registry)),
            registry,
        }
    }

    /// Sets the gauges of the memory that bodies hold.
    pub fn set_memory(&self, replay: usize, held: usize) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.replay_bytes.set(gauge(replay));
        self.held_bytes.set(gauge(held));
    }

    /// The handles of the route `name`.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let route = self.routes.of(&[name]);
        route.hedge_delay.set(0.0); // a route that is made anew on a reload has yet to learn
        route
    }

    /// The handles of the cluster `name`.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        self.clusters.of(&[name])
    }

    /// The handles of the gate in front of the cluster `name`.
    pub fn admission(&self, name: &str) -> AdmissionMetrics {
        self.admissions.of(&[name])
    }

    /// The handles of the outage queue of the cluster `name`.
    pub fn outage_queue(&self, name: &str) -> OutageQueueMetrics {
        self.outage_queues.of(&[name])
    }

    /// The handles of one endpoint.
    pub fn endpoint(&self, cluster: &str, endpoint: &str) -> Arc<EndpointMetrics> {
        self.endpoints.of([cluster, endpoint])
    }

    /// The handles of the listener at `address`.
    pub fn listener(&self, address: &str) -> ListenerMetrics {
        self.listeners.of(&[address])
    }

    /// The handles for TLS of the listener at `address`, whose certificates are called `names`.
    pub fn tls(&self, address: &str, names: &[&str]) -> TlsMetrics {
        TlsMetrics::new(self.handshakes.of(&[address]), &self.certificates, address, names)
    }

    /// The counter of what the guard of the route `name` refuses.
    pub fn origin_refused_by_route(&self, name: &str) -> IntCounter {
        self.listeners.origin_refused_total.with_label_values(&["", name])
    }

    /// Notes that a valid configuration was read.
    pub fn reload_succeeded(&self, now: SystemTime) {
        self.reload_successful.set(1);
        self.reload_success_timestamp.set(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }

    /// Notes that the configuration on disk is not valid.
    pub fn reload_failed(&self) {
        self.reload_successful.set(0);
    }

    /// Everything, in the Prometheus text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing to memory succeeds, and the registry holds no empty family");
        text
    }
}

impl Deref for Metrics {
    type Target = ProcessMetrics;

    fn deref(&self) -> &ProcessMetrics {
        &self.process
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

const DURATION: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::error::{Origin, UpstreamErrorKind};

    #[test]
    fn each_status_has_its_own_counter_and_the_unheard_of_share_one() {
        let metrics = Metrics::new();
        let route = metrics.route("r");
        route.requests(200, Origin::Upstream).inc();
        route.requests(999, Origin::Upstream).inc();
        route.requests(600, Origin::Upstream).inc();
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains(r#"stent_requests_total{code="200",origin="upstream",route="r"} 1"#), "{text}");
        assert!(
            text.contains(r#"stent_requests_total{code="other",origin="upstream",route="r"} 2"#),
            "{text}"
        );
    }

    #[test]
    fn an_endpoints_series_end_with_it() {
        let metrics = Metrics::new();
        let endpoint = metrics.endpoint("c", "10.0.0.1:80");
        endpoint.answered(StatusCode::OK).inc();
        endpoint.failed(UpstreamErrorKind::Dns).inc();
        endpoint.cancelled().inc();
        assert!(String::from_utf8(metrics.render()).unwrap().contains("10.0.0.1"));
        let again = metrics.endpoint("c", "10.0.0.1:80");
        drop(endpoint);
        assert!(String::from_utf8(metrics.render()).unwrap().contains("10.0.0.1"), "a reload keeps them");
        drop(again);
        assert!(!String::from_utf8(metrics.render()).unwrap().contains("10.0.0.1"));
    }
}
