//! What Prometheus scrapes. Handles are resolved once per route, cluster, endpoint and listener, because a look-up by
//! label hashes and locks; on the request path a counter is an index away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

use crate::error::{ErrorClass, Origin, UpstreamErrorKind};
use crate::policy::hold::HoldEnd;
use crate::policy::resume::BreakEnd;
use crate::policy::retry::{Reason, Veto};
use crate::policy::share::GivenUp;

pub use self::admission::AdmissionMetrics;
use self::codes::{CodeCounters, GrpcCounters};
pub use self::endpoint::EndpointMetrics;
pub use self::health::HealthMetrics;
use self::health::HealthVecs;
pub use self::hedge::HedgeMetrics;
use self::hedge::HedgeVecs;
pub use self::line::LineMetrics;
use self::line::LineVecs;
use self::register::Builder;
pub use self::tls::{HandshakeResult, TlsMetrics};

mod admission;
mod codes;
mod endpoint;
mod health;
mod hedge;
mod line;
mod register;
mod tls;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    attempts: IntCounterVec,
    attempt_duration: HistogramVec,
    retries: IntCounterVec,
    retry_recovered: IntCounterVec,
    retry_stopped: IntCounterVec,
    retry_wait: HistogramVec,
    held_answers: IntCounterVec,
    broken_answers: IntCounterVec,
    hedges: HedgeVecs,
    retry_budget_available: GaugeVec,
    cluster_recent_success: GaugeVec,
    requests_in_flight: IntGaugeVec,
    tunnels_open: IntGaugeVec,
    client_aborts: IntCounterVec,
    upstream_connections: IntGaugeVec,
    upstream_connects: IntCounterVec,
    upstream_connection_waits: IntCounterVec,
    upstream_idle_close_age: HistogramVec,
    upstream_safety_connects: IntCounterVec,
    endpoint_ejected: IntGaugeVec,
    endpoint_idle_limit: GaugeVec,
    health: HealthVecs,
    admissions: admission::AdmissionVecs,
    lines: LineVecs,
    dns_lookups: IntCounterVec,
    downstream_connections: IntGaugeVec,
    accept_errors: IntCounterVec,
    accept_paused: IntCounterVec,
    connections_evicted: IntCounterVec,
    tls_handshakes: IntCounterVec,
    tls_certificate_expiry: IntGaugeVec,
    tls_certificate_loaded: IntGaugeVec,
    http2_connections: IntCounterVec,
    http2_errors: IntCounterVec,
    proxy_protocol_errors: IntCounterVec,
    origin_refused: IntCounterVec,
    replay_bytes: IntGauge,
    held_bytes: IntGauge,
    /// Copies of request bodies that were given up, by [`GivenUp::index`].
    pub replay_overflow: [IntCounter; GivenUp::ALL.len()],
    /// Access-log lines that found the queue full and were lost.
    pub access_log_lost: IntCounter,
    /// Exchanges that waited for room in the access log's queue.
    pub access_log_waits: IntCounter,
    /// Lines of the program's own log that were lost.
    pub log_dropped: IntCounter,
    reload_successful: IntGauge,
    reload_success_timestamp: Gauge,
    endpoints: LiveEndpoints,
}

/// The endpoints whose series exist, by cluster and endpoint. A reload makes an endpoint anew while exchanges still use
/// the old one: both must count into the same series, and only the last may end them.
type LiveEndpoints = Arc<Mutex<HashMap<[String; 2], Weak<EndpointMetrics>>>>;

impl Metrics {
    /// Registers every metric.
    #[expect(clippy::too_many_lines, reason = "one list of all metrics is easier to read than several")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let new = Builder { registry: &registry };
        let replay_overflow = new.counters(
            "replay_overflow_total",
            "Request bodies whose copy was given up, or not begun: over `body_limit`, or because `replay_memory` was full.",
            &["reason"],
        );
        let metrics = Self {
            requests: new.counters(
                "requests_total",
                "Requests by the status that the caller got and by whose answer it was.",
                &["route", "code", "origin"],
            ),
            request_duration: new.histograms(
                "request_duration_seconds",
                "Time from the request head to the end of the response body, or to the head of a 101.",
                &["route"],
                DURATION_BUCKETS,
            ),
            attempts: new.counters(
                "attempts_total",
                "Attempts by the status or the kind of error that they ended with.",
                &["cluster", "endpoint", "result"],
            ),
            attempt_duration: new.histograms(
                "attempt_duration_seconds",
                "Time from the start of an attempt, or from the end of its request body if that is later, to its response head, the end of its hold or its error.",
                &["cluster"],
                DURATION_BUCKETS,
            ),
            retries: new.counters(
                "retries_total",
                "Attempts after the first, by the failure that they answer to.",
                &["route", "reason"],
            ),
            retry_recovered: new.counters(
                "retry_recovered_total",
                "Requests that a retry saved: the answer is no failure, and more than one attempt was made.",
                &["route"],
            ),
            retry_stopped: new.counters(
                "retry_stopped_total",
                "Failed attempts that no retry followed, by the rule that forbade it.",
                &["route", "why"],
            ),
            retry_wait: new.histograms(
                "retry_wait_seconds",
                "Waits before retries.",
                &["cluster"],
                WAIT_BUCKETS,
            ),
            held_answers: new.counters(
                "held_answers_total",
                "Answers that were held because their bodies had not come whole with their heads, by how the hold ended.",
                &["route", "end"],
            ),
            broken_answers: new.counters(
                "broken_answers_total",
                "Answers that broke after their heads had gone to the callers: resumed, or why not.",
                &["route", "end"],
            ),
            hedges: HedgeVecs::new(&new),
            retry_budget_available: new.gauges(
                "retry_budget_available",
                "Retries that the cluster's budget holds now.",
                &["cluster"],
            ),
            cluster_recent_success: new.gauges(
                "cluster_recent_success",
                "The chance that an attempt succeeds, over all kinds of requests: a busy path that always fails lowers it.",
                &["cluster"],
            ),
            requests_in_flight: new.int_gauges(
                "requests_in_flight",
                "Requests whose answer has not ended.",
                &["route"],
            ),
            tunnels_open: new.int_gauges(
                "tunnels_open",
                "Connections that have changed to another protocol, such as WebSocket.",
                &["route"],
            ),
            client_aborts: new.counters(
                "client_aborts_total",
                "Exchanges that the caller left before it had the whole answer.",
                &["route"],
            ),
            upstream_connections: new.int_gauges(
                "upstream_connections",
                "Open connections to the backend.",
                &["cluster", "state"],
            ),
            upstream_connects: new.counters(
                "upstream_connects_total",
                "Attempts to open a connection to the backend.",
                &["cluster", "result"],
            ),
            upstream_connection_waits: new.counters(
                "upstream_connection_waits_total",
                "Attempts that found `max_connections` in use, by whether they got a connection in time.",
                &["cluster", "result"],
            ),
            upstream_idle_close_age: new.histograms(
                "upstream_idle_close_age_seconds",
                "How long connections had been idle that the backend closed.",
                &["cluster"],
                IDLE_BUCKETS,
            ),
            upstream_safety_connects: new.counters(
                "upstream_safety_connects_total",
                "New connections for requests that must not be sent twice, past idle ones that might be closing.",
                &["cluster"],
            ),
            endpoint_ejected: new.int_gauges(
                "endpoint_ejected",
                "1 while the endpoint is out of balancing.",
                &["cluster", "endpoint"],
            ),
            endpoint_idle_limit: new.gauges(
                "endpoint_idle_limit_seconds",
                "How long the endpoint keeps an idle HTTP/1.1 connection, as far as is known.",
                &["cluster", "endpoint"],
            ),
            health: HealthVecs::new(&new),
            admissions: admission::AdmissionVecs::new(&new),
            lines: LineVecs::new(&new),
            dns_lookups: new.counters(
                "dns_lookups_total",
                "Look-ups of endpoints' host names.",
                &["cluster", "result"],
            ),
            downstream_connections: new.int_gauges(
                "downstream_connections",
                "Open connections from callers.",
                &["listener"],
            ),
            accept_errors: new.counters(
                "accept_errors_total",
                "Connections that could not be accepted, by the operating system's reason.",
                &["listener", "error"],
            ),
            accept_paused: new.counters(
                "accept_paused_total",
                "Connections that had to wait because `max_connections` or the file descriptors were in use.",
                &["listener"],
            ),
            connections_evicted: new.counters(
                "connections_evicted_total",
                "Connections from callers, carrying nothing, that closed for new ones: silent, idle or a trusted proxy's.",
                &["listener", "standing"],
            ),
            origin_refused: new.counters(
                "origin_refused_total",
                "Requests without the secret that a listener or a route asks for; the label of the other is empty.",
                &["listener", "route"],
            ),
            tls_handshakes: new.counters(
                "tls_handshakes_total",
                "TLS handshakes with callers, by how they ended.",
                &["listener", "result"],
            ),
            tls_certificate_expiry: new.int_gauges(
                "tls_certificate_expiry_timestamp_seconds",
                "Until when the certificate in force holds, in seconds since 1970.",
                &["listener", "name"],
            ),
            tls_certificate_loaded: new.int_gauges(
                "tls_certificate_load_successful",
                "1 if the certificate's files were good when last read, else 0 (and the old one is in force).",
                &["listener", "name"],
            ),
            http2_connections: new.counters(
                "http2_connections_total",
                "Connections from callers that spoke HTTP/2.",
                &["listener"],
            ),
            http2_errors: new.counters(
                "http2_errors_total",
                "HTTP/2 connections and streams that ended for what their callers did, by the reason.",
                &["listener", "error"],
            ),
            proxy_protocol_errors: new.counters(
                "proxy_protocol_errors_total",
                "Connections that were closed because they did not begin with a PROXY header, by the reason.",
                &["listener", "error"],
            ),
            replay_bytes: new
                .int_gauge("replay_bytes", "Bytes of memory that request bodies kept for a retry hold."),
            held_bytes: new.int_gauge(
                "held_bytes",
                "Bytes of memory that answers hold which wait until they are whole, or for a caller to take them.",
            ),
            replay_overflow: GivenUp::ALL.map(|why| replay_overflow.with_label_values(&[why.label()])),
            access_log_lost: new
                .counter("access_log_lost_total", "Access-log lines lost because the queue stayed full."),
            access_log_waits: new.counter(
                "access_log_waits_total",
                "Exchanges that waited for room in the access log's queue.",
            ),
            log_dropped: new.counter(
                "log_dropped_total",
                "Lines of the program's own log lost because standard error failed or its reader was too slow.",
            ),
            reload_successful: new.int_gauge(
                "config_last_reload_successful",
                "1 if the configuration was valid when last read, else 0.",
            ),
            reload_success_timestamp: new.gauge(
                "config_last_reload_success_timestamp_seconds",
                "When a valid configuration was last read, in seconds since 1970.",
            ),
            registry: registry.clone(),
            endpoints: Arc::default(),
        };
        let build_info = new.int_gauges("build_info", "The version that runs.", &["version", "revision"]);
        let revision = option_env!("STENT_REVISION").unwrap_or("unknown");
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), revision]).set(1);
        new.register(ProcessCollector::for_self());
        metrics
    }

    /// Sets the gauges of the memory that bodies hold.
    pub fn set_memory(&self, replay: usize, held: usize) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.replay_bytes.set(gauge(replay));
        self.held_bytes.set(gauge(held));
    }

    /// The handles of the route `name`.
    pub fn route(&self, name: &str) -> RouteMetrics {
        let requests = Origin::ALL.map(|origin| {
            let (vec, route) = (self.requests.clone(), name.to_owned());
            CodeCounters::new(move |code| vec.with_label_values(&[&*route, code, origin.label()]))
        });
        let (vec, route) = (self.retries.clone(), name.to_owned());
        RouteMetrics {
            requests,
            duration: self.request_duration.with_label_values(&[name]),
            retries_by_status: CodeCounters::new(move |code| vec.with_label_values(&[&*route, code])),
            retries_by_error: ErrorClass::ALL
                .map(|class| self.retries.with_label_values(&[name, class.label()])),
            retries_by_grpc: GrpcCounters::default(),
            retries: (self.retries.clone(), name.to_owned()),
            recovered: self.retry_recovered.with_label_values(&[name]),
            stopped: Veto::ALL.map(|why| self.retry_stopped.with_label_values(&[name, why.label()])),
            held: HoldEnd::ALL.map(|end| self.held_answers.with_label_values(&[name, end.label()])),
            broken: BreakEnd::ALL.map(|end| self.broken_answers.with_label_values(&[name, end.label()])),
            hedges: self.hedges.of(name),
            in_flight: self.requests_in_flight.with_label_values(&[name]),
            tunnels_open: self.tunnels_open.with_label_values(&[name]),
            client_aborts: self.client_aborts.with_label_values(&[name]),
        }
    }

    /// The handles of the cluster `name`.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        let connects = |result| self.upstream_connects.with_label_values(&[name, result]);
        ClusterMetrics {
            attempt_duration: self.attempt_duration.with_label_values(&[name]),
            retry_wait: self.retry_wait.with_label_values(&[name]),
            budget_available: self.retry_budget_available.with_label_values(&[name]),
            recent_success: self.cluster_recent_success.with_label_values(&[name]),
            connections_active: self.upstream_connections.with_label_values(&[name, "active"]),
            connections_idle: self.upstream_connections.with_label_values(&[name, "idle"]),
            connected: connects("ok"),
            connect_failures: CONNECT_FAILURES.map(|kind| connects(kind.label())),
            waits_served: self.upstream_connection_waits.with_label_values(&[name, "ok"]),
            waits_refused: self.upstream_connection_waits.with_label_values(&[name, "refused"]),
            idle_close_age: self.upstream_idle_close_age.with_label_values(&[name]),
            safety_connects: self.upstream_safety_connects.with_label_values(&[name]),
            dns_resolved: self.dns_lookups.with_label_values(&[name, "ok"]),
            dns_failed: self.dns_lookups.with_label_values(&[name, "error"]),
        }
    }

    /// The handles of the gate in front of the cluster `name`.
    pub fn admission(&self, name: &str) -> AdmissionMetrics {
        self.admissions.of(name)
    }

    /// The handles of the line of the cluster `name`.
    pub fn line(&self, name: &str) -> LineMetrics {
        self.lines.of(name)
    }

    /// The handles of one endpoint. Its series end when the handles are dropped, so that addresses which come and go
    /// in DNS do not pile up.
    pub fn endpoint(&self, cluster: &str, endpoint: &str) -> Arc<EndpointMetrics> {
        let labels = [cluster.to_owned(), endpoint.to_owned()];
        let mut live = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = live.get(&labels).and_then(Weak::upgrade) {
            return metrics;
        }
        let (vec, by_status) = (self.attempts.clone(), labels.clone());
        let metrics = Arc::new(EndpointMetrics {
            attempts_by_status: CodeCounters::new(move |code| {
                vec.with_label_values(&[&*by_status[0], &*by_status[1], code])
            }),
            attempts_by_grpc: GrpcCounters::default(),
            attempts_by_error: std::array::from_fn(|_| OnceLock::new()),
            cancelled: OnceLock::new(),
            ejected: self.endpoint_ejected.with_label_values(&[cluster, endpoint]),
            idle_limit: self.endpoint_idle_limit.with_label_values(&[cluster, endpoint]),
            health: self.health.of(&labels),
            attempts: self.attempts.clone(),
            ejections: self.endpoint_ejected.clone(),
            idle_limits: self.endpoint_idle_limit.clone(),
            live: self.endpoints.clone(),
            labels: labels.clone(),
        });
        live.insert(labels, Arc::downgrade(&metrics));
        metrics
    }

    /// The handles of the listener at `address`.
    pub fn listener(&self, address: &str) -> ListenerMetrics {
        ListenerMetrics {
            connections: self.downstream_connections.with_label_values(&[address]),
            paused: self.accept_paused.with_label_values(&[address]),
            http2_connections: self.http2_connections.with_label_values(&[address]),
            origin_refused: self.origin_refused.with_label_values(&[address, ""]),
            evicted: self.connections_evicted.clone(),
            errors: self.accept_errors.clone(),
            http2_errors: self.http2_errors.clone(),
            proxy_protocol_errors: self.proxy_protocol_errors.clone(),
            address: address.into(),
        }
    }

    /// The handles for TLS of the listener at `address`, whose certificates are called `names`.
    pub fn tls(&self, address: &str, names: &[&str]) -> TlsMetrics {
        TlsMetrics::new(self, address, names)
    }

    /// The counter of what the guard of the route `name` refuses.
    pub fn origin_refused_by_route(&self, name: &str) -> IntCounter {
        self.origin_refused.with_label_values(&["", name])
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

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counters of a route.
#[derive(Debug)]
pub struct RouteMetrics {
    requests: [CodeCounters; Origin::ALL.len()],
    /// From the request head to the end of the response body.
    pub duration: Histogram,
    retries_by_status: CodeCounters,
    retries_by_error: [IntCounter; ErrorClass::ALL.len()],
    retries_by_grpc: GrpcCounters,
    retries: (IntCounterVec, String),
    /// Requests that a retry saved.
    pub recovered: IntCounter,
    stopped: [IntCounter; Veto::ALL.len()],
    held: [IntCounter; HoldEnd::ALL.len()],
    broken: [IntCounter; BreakEnd::ALL.len()],
    /// What became of its hedges.
    pub hedges: HedgeMetrics,
    /// Requests whose answer has not ended.
    pub in_flight: IntGauge,
    /// Connections that have changed to another protocol.
    pub tunnels_open: IntGauge,
    /// Exchanges that the caller left.
    pub client_aborts: IntCounter,
}

impl RouteMetrics {
    /// The counter of requests answered with `status` by `origin`.
    pub fn requests(&self, status: u16, origin: Origin) -> &IntCounter {
        self.requests[origin.index()].get(status)
    }

    /// The counter of retries for `reason`.
    pub fn retries(&self, reason: Reason) -> &IntCounter {
        match reason {
            Reason::Status(status) => self.retries_by_status.get(status.as_u16()),
            Reason::Error(class) => {
                let place = ErrorClass::ALL.iter().position(|other| *other == class);
                &self.retries_by_error[place.expect("ALL holds every class")]
            }
            Reason::Grpc(status) => {
                let (retries, route) = &self.retries;
                self.retries_by_grpc.get(status, |label| retries.with_label_values(&[&**route, label]))
            }
        }
    }

    /// The counter of retries that `why` forbade.
    pub fn stopped(&self, why: Veto) -> &IntCounter {
        &self.stopped[why.index()]
    }

    /// The counter of held answers whose hold came to this end.
    pub fn held(&self, end: HoldEnd) -> &IntCounter {
        &self.held[end.index()]
    }

    /// The counter of answers that broke on their way to the caller, and came to this end.
    pub fn broken(&self, end: BreakEnd) -> &IntCounter {
        &self.broken[end.index()]
    }
}

/// Counters of a cluster.
#[derive(Debug)]
pub struct ClusterMetrics {
    /// From an attempt's start to its end.
    pub attempt_duration: Histogram,
    /// Waits before retries.
    pub retry_wait: Histogram,
    /// What the budget holds; set before a scrape.
    pub budget_available: Gauge,
    /// The chance that an attempt succeeds; set before a scrape.
    pub recent_success: Gauge,
    /// Connections that carry a request.
    pub connections_active: IntGauge,
    /// Connections in a pool.
    pub connections_idle: IntGauge,
    /// Connections opened.
    pub connected: IntCounter,
    connect_failures: [IntCounter; CONNECT_FAILURES.len()],
    /// Waits for one of `max_connections` that ended well.
    pub waits_served: IntCounter,
    /// Waits that ended in a refusal.
    pub waits_refused: IntCounter,
    /// How long connections had been idle that the endpoint closed.
    pub idle_close_age: Histogram,
    /// Connections opened although there were idle ones.
    pub safety_connects: IntCounter,
    /// Look-ups that gave addresses.
    pub dns_resolved: IntCounter,
    /// Look-ups that failed.
    pub dns_failed: IntCounter,
}

impl ClusterMetrics {
    /// The counter of connections that did not come to be for `kind`.
    pub fn connect_failed(&self, kind: UpstreamErrorKind) -> &IntCounter {
        let place = CONNECT_FAILURES.iter().position(|other| *other == kind);
        &self.connect_failures[place.unwrap_or(0)]
    }
}

/// How opening a connection can fail; what else may happen counts as the first.
const CONNECT_FAILURES: [UpstreamErrorKind; 9] = [
    UpstreamErrorKind::ConnectUnreachable,
    UpstreamErrorKind::ConnectRefused,
    UpstreamErrorKind::ConnectTimeout,
    UpstreamErrorKind::ConnectionTerminated,
    UpstreamErrorKind::LocalResource,
    UpstreamErrorKind::Protocol,
    UpstreamErrorKind::TlsAlert,
    UpstreamErrorKind::TlsCertificate,
    UpstreamErrorKind::TlsProtocol,
];

/// Counters of a listener.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Open connections.
    pub connections: IntGauge,
    /// Connections that had to wait for room.
    pub paused: IntCounter,
    /// Connections that spoke HTTP/2.
    pub http2_connections: IntCounter,
    /// Requests without the secret that it asks for.
    pub origin_refused: IntCounter,
    evicted: IntCounterVec,
    errors: IntCounterVec,
    http2_errors: IntCounterVec,
    proxy_protocol_errors: IntCounterVec,
    address: Arc<str>,
}

impl ListenerMetrics {
    /// The counter of failed accepts for `error`, one of a few fixed words.
    pub fn accept_error(&self, error: &'static str) -> IntCounter {
        self.errors.with_label_values(&[&*self.address, error])
    }

    /// The counter of connections of this standing, one of a few fixed words, that closed for new ones.
    pub fn evicted(&self, standing: &'static str) -> IntCounter {
        self.evicted.with_label_values(&[&*self.address, standing])
    }

    /// The counter of HTTP/2 connections and streams that ended for `error`, one of a few fixed words.
    pub fn http2_error(&self, error: &'static str) -> IntCounter {
        self.http2_errors.with_label_values(&[&*self.address, error])
    }

    /// The counter of connections closed for their PROXY header, or for the lack of one, for `error`, one of a few
    /// fixed words.
    pub fn proxy_protocol_error(&self, error: &'static str) -> IntCounter {
        self.proxy_protocol_errors.with_label_values(&[&*self.address, error])
    }
}

const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];
const WAIT_BUCKETS: &[f64] = &[0.001, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0];
const IDLE_BUCKETS: &[f64] = &[0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 4.0, 5.0, 10.0, 30.0, 60.0];

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

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
