//! Health checks: what they ask, what their answers do to balancing and to those in the outage queue, and what they leave alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Instant;

use rustls::ALL_VERSIONS;

use crate::support::certificates::Authority;
use crate::support::client::request;
use crate::support::frames::FrameBackend;
use crate::support::secure::{Handshake, SecureBackend, server};
use crate::support::stent::Signal;
use crate::support::{Action, Backend, Client, Config, ReceivedRequest, Stent, TempDir, eventually, ms};

/// A backend whose checks and whose requests are answered with a status each, until that is changed.
struct Checked {
    backend: Backend,
    checks: Arc<AtomicU16>,
    requests: Arc<AtomicU16>,
}

impl Checked {
    fn new() -> Self {
        let (checks, requests) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let statuses = (checks.clone(), requests.clone());
        let backend = Backend::new(move |request| {
            let status = if is_check(request) { &statuses.0 } else { &statuses.1 };
            Action::answer(status.load(Ordering::Relaxed), "said")
        });
        Self { backend, checks, requests }
    }

    fn answer_checks_with(&self, status: u16) {
        self.checks.store(status, Ordering::Relaxed);
    }

    fn answer_requests_with(&self, status: u16) {
        self.requests.store(status, Ordering::Relaxed);
    }

    fn endpoint(&self) -> String {
        self.backend.address().to_string()
    }

    fn seen(&self) -> (usize, usize) {
        let requests = self.backend.requests();
        let checks = requests.iter().filter(|request| is_check(request)).count();
        (checks, requests.len() - checks)
    }

    /// Waits until that many checks more have come.
    fn wait_for_checks(&self, count: usize) {
        let before = self.seen().0;
        eventually("more checks", || (self.seen().0 >= before + count).then_some(()));
    }
}

fn is_check(request: &ReceivedRequest) -> bool {
    request.target == "/healthz"
}

/// Checks every 200 ms, two in a row.
fn checked(config: Config) -> Config {
    config
        .set("cluster.hosp.health_check.path", "/healthz")
        .set("cluster.hosp.health_check.interval", "200ms")
        .set("cluster.hosp.health_check.timeout", "180ms")
        .set("cluster.hosp.health_check.unhealthy_after", 2)
        .set("cluster.hosp.health_check.healthy_after", 2)
        .set("cluster.hosp.balance", "round_robin")
}

fn pair() -> ([Checked; 2], Config) {
    let backends = [Checked::new(), Checked::new()];
    let config = Config::with_endpoints(&[backends[0].backend.address(), backends[1].backend.address()]);
    (backends, checked(config))
}

/// Waits until checks say so of every endpoint, of which there is one.
fn wait_for_verdict(stent: &Stent, value: f64) {
    eventually(&format!("the verdict {value}"), || {
        let metrics = stent.metrics();
        metrics.labels("stent_endpoint_healthy")?;
        ((metrics.sum("stent_endpoint_healthy", &[]) - value).abs() < 1e-9).then_some(())
    });
}

fn wait_for_gauge(stent: &Stent, name: &str, backend: &Checked, value: f64) {
    stent.wait_for_metric(name, &[("cluster", "hosp"), ("endpoint", &backend.endpoint())], value);
}

#[test]
fn a_check_is_a_request_of_its_own_that_counts_nowhere_else() {
    let backend = Checked::new();
    let config = checked(Config::new(&backend.backend))
        .set("cluster.hosp.health_check.path", "/healthz?deep=1")
        .set("cluster.hosp.health_check.host", "hosp.internal");
    let stent = Stent::start(&config);
    let checks = backend.backend.wait_for_requests(3);
    for (place, check) in checks.iter().enumerate() {
        assert_eq!((&*check.method, &*check.target), ("GET", "/healthz?deep=1"));
        assert_eq!(check.headers.only("host"), Some("hosp.internal"));
        assert_eq!(check.headers.only("connection"), Some("close"));
        assert!(check.headers.only("user-agent").unwrap().contains("health check"));
        assert_eq!((check.connection, check.number), (place + 1, 1), "each has a connection of its own");
        assert!(check.body.is_empty());
    }
    let metrics = stent.metrics();
    let labels: Option<Vec<&str>> = Some(vec!["cluster", "endpoint", "result"]);
    assert_eq!(metrics.labels("stent_health_checks_total"), labels);
    assert_eq!(metrics.labels("stent_endpoint_healthy"), Some(vec!["cluster", "endpoint"]));
    eventually("three that passed", || {
        (stent.metric("stent_health_checks_total", &[("result", "ok")]) >= 3.0).then_some(())
    });
    for name in ["stent_requests_total", "stent_attempts_total", "stent_upstream_connects_total"] {
        assert!(metrics.sum(name, &[]) < 0.5, "{name}");
    }
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backend, 1.0);
    assert_eq!(stent.client().get("/").status, 200);
    stent.access_log(1);
}

#[test]
fn failed_checks_alone_take_an_endpoint_out_and_passed_ones_bring_it_back() {
    let (backends, config) = pair();
    let stent = Stent::start(&config);
    let mut client = stent.client();
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backends[1], 1.0);
    backends[1].answer_checks_with(503);
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 1.0);
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backends[1], 0.0);
    let line = stent.wait_for_log("the reason", |line| line.contains("endpoint fails its health checks"));
    assert!(line.contains("503") && line.contains(&backends[1].endpoint()), "{line}");
    let before = backends[1].seen().1;
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backends[1].seen().1, before);
    backends[1].answer_checks_with(204);
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 0.0);
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backends[1].seen().1, before + 3, "it has its turn again");
    assert!(stent.metric("stent_health_checks_total", &[("result", "status")]) >= 2.0);
    assert_eq!(stent.count_in_log("endpoint restored"), 1);
}

#[test]
fn an_endpoint_that_failed_both_ways_comes_back_when_both_have_healed() {
    let (backends, config) = pair();
    let config = config
        .set("cluster.hosp.ejection.consecutive_failures", 2)
        .set("cluster.hosp.ejection.time", "100ms");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backends[1], 1.0);
    backends[1].answer_requests_with(500);
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 1.0);
    backends[1].answer_checks_with(500);
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backends[1], 0.0);
    // `open` is over and requests would be served, but checks fail: no request is spent on trying it.
    backends[1].answer_requests_with(200);
    let before = backends[1].seen().1;
    backends[1].wait_for_checks(3);
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backends[1].seen().1, before);
    // Checks pass: traffic has to show it too.
    backends[1].answer_checks_with(200);
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backends[1], 1.0);
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 1.0);
    eventually("the request that tries it", || {
        assert_eq!(client.get("/").status, 200);
        (stent.metric("stent_endpoint_ejected", &[]) < 0.5).then_some(())
    });
    assert!(backends[1].seen().1 > before);
}

#[test]
fn what_hangs_breaks_off_leads_elsewhere_or_refuses_does_not_pass() {
    type Answer = fn() -> Action;
    let cases: [(Answer, &str); 6] = [
        (Action::hang, "timeout"),
        (|| Action::endless_body(200), "timeout"),
        (|| Action::truncated(3, 10), "truncated"),
        (|| Action::answer_with(302, &[("Location", "/elsewhere")], ""), "status"),
        (Action::garbage, "protocol"),
        (Action::close, "reset"),
    ];
    for (action, result) in cases {
        let backend = Backend::new(
            move |request| {
                if is_check(request) { action() } else { Action::answer(200, "fine") }
            },
        );
        let stent = Stent::start(&checked(Config::new(&backend)));
        eventually(result, || {
            (stent.metric("stent_health_checks_total", &[("result", result)]) >= 2.0).then_some(())
        });
        assert!(stent.metric("stent_health_checks_total", &[("result", "ok")]) < 0.5, "{result}");
        wait_for_verdict(&stent, 0.0);
        // It stands alone, so it stays in use, and what checks say is no outage.
        assert_eq!(stent.client().get("/").status, 200);
        assert!(stent.metric("stent_endpoint_ejected", &[]) < 0.5);
        assert!(backend.requests().iter().all(|request| request.target != "/elsewhere"));
    }
    let backend = Checked::new();
    backend.backend.stop();
    let stent = Stent::start(&checked(Config::new(&backend.backend)));
    wait_for_verdict(&stent, 0.0);
    assert!(stent.metric("stent_health_checks_total", &[("result", "connect_refused")]) >= 1.0);
}

#[test]
fn a_long_answer_passes_with_its_first_part() {
    let backend = Backend::new(|_| Action::answer(200, vec![b'x'; 1 << 20]));
    let stent =
        Stent::start(&checked(Config::new(&backend)).set("cluster.hosp.health_check.timeout", "90ms"));
    wait_for_verdict(&stent, 1.0);
    backend.wait_until_closed(1);
}

/// Waits in the outage queue are long, and probes seldom enough to be counted.
fn with_line(config: Config) -> Config {
    checked(config)
        .set("server.workers", 2)
        .set("cluster.hosp.outage_queue.max", 100)
        .set("cluster.hosp.health_check.interval", "10s")
        .retry("max_attempts", 4)
        .backoff("50ms")
}

/// Callers who wait in the outage queue, POSTs among them.
fn callers(stent: &Stent, count: usize) -> Vec<Client> {
    let send = |number| {
        let mut client = stent.client();
        let (method, body): (_, &[u8]) = if number % 2 == 0 { ("GET", b"") } else { ("POST", b"x") };
        client.send(&request(method, "/waits", &[], body));
        client
    };
    (0..count).map(send).collect()
}

#[test]
fn a_check_that_passes_lets_one_request_try_a_cluster_that_is_down() {
    let backend = Checked::new();
    let config = with_line(Config::new(&backend.backend)).backoff("10s");
    let stent = Stent::start(&config.set("cluster.hosp.health_check.interval", "200ms"));
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backend, 1.0);
    backend.answer_checks_with(502);
    backend.answer_requests_with(502);
    let mut first = Vec::new();
    eventually("the outage", || {
        first.extend(callers(&stent, 1));
        (stent.metric("stent_outage", &[]) > 0.5).then_some(())
    });
    let mut waiting = callers(&stent, 1);
    eventually("one that waits", || (stent.metric("stent_outage_queue_waiting", &[]) > 0.5).then_some(()));
    // Requests alone would try it again after 5 s at the earliest.
    backend.answer_requests_with(200);
    backend.answer_checks_with(200);
    let mended = Instant::now();
    assert_eq!(waiting[0].response().status, 200);
    assert!(mended.elapsed() < ms(3000), "{:?}", mended.elapsed());
    for client in &mut first {
        client.response();
    }
}

#[test]
fn a_check_that_is_wrong_about_a_cluster_holds_nobody_in_line() {
    for status in [404, 200] {
        let backend = Checked::new();
        backend.answer_checks_with(status);
        let stent = Stent::start(&with_line(Config::new(&backend.backend)));
        wait_for_verdict(&stent, if status == 200 { 1.0 } else { 0.0 });
        assert_eq!(stent.client().get("/").status, 200);
        backend.answer_requests_with(502);
        let mut waiting = callers(&stent, 1);
        stent.wait_for_metric("stent_outage", &[], 1.0);
        backend.answer_requests_with(200);
        let mended = Instant::now();
        assert_eq!(waiting[0].response().status, 200);
        assert!(mended.elapsed() < ms(1500), "{:?}", mended.elapsed());
    }
}

#[test]
fn a_reload_keeps_what_checks_have_told_and_ends_those_that_are_no_longer_wanted() {
    let (backends, config) = pair();
    let stent = Stent::start(&config);
    backends[1].answer_checks_with(503);
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 1.0);
    stent.reload(&config.clone().set("route.deadline", "20s"));
    backends[1].wait_for_checks(3);
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 1.0);
    assert_eq!(stent.count_in_log("endpoint fails its health checks"), 1, "no verdict was given again");

    stent.reload(&config.set("cluster.hosp.idle_timeout", "3s"));
    wait_for_gauge(&stent, "stent_endpoint_ejected", &backends[1], 1.0);
    // A changed cluster begins anew. That it says so again within a minute is left out of the log.
    wait_for_gauge(&stent, "stent_endpoint_healthy", &backends[1], 0.0);
    assert_eq!(stent.count_in_log("endpoint fails its health checks"), 1);

    let plain = Config::with_endpoints(&[backends[0].backend.address(), backends[1].backend.address()]);
    stent.reload(&plain.set("cluster.hosp.balance", "round_robin"));
    assert_eq!(stent.metrics().labels("stent_endpoint_healthy"), None);
    assert!(stent.metric("stent_endpoint_ejected", &[]) < 0.5);
    // One may have been under way.
    let before = backends[0].seen().0;
    std::thread::sleep(ms(500));
    assert!(backends[0].seen().0 <= before + 1);
    let mut client = stent.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backends[1].seen().1, 2);
}

#[test]
fn the_process_ends_though_a_check_hangs() {
    let backend = Backend::new(|_| Action::hang());
    let config = checked(Config::new(&backend))
        .set("cluster.hosp.health_check.interval", "1h")
        .set("cluster.hosp.health_check.timeout", "30m");
    let mut stent = Stent::start(&config);
    backend.close_connections();
    // The first check of so long an interval comes within a second.
    backend.wait_for_requests(1);
    stent.signal(Signal::Terminate);
    assert!(stent.wait_exit().success());
}

#[test]
fn a_check_speaks_tls_as_requests_do() {
    let (directory, authority) = (TempDir::new(), Authority::new("Test CA"));
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let config = |backend: &SecureBackend, name: &str| {
        let url = format!("https://{}", backend.address());
        checked(Config::with_endpoints(&[]))
            .set("cluster.hosp.endpoints", vec![url])
            .set("cluster.hosp.tls.ca", ca.to_str().unwrap())
            .set("cluster.hosp.tls.server_name", name)
            .set("cluster.hosp.health_check.interval", "1s")
            .set("cluster.hosp.health_check.timeout", "900ms")
    };
    let backend = SecureBackend::new(server(&authority.issue(&["hosp.internal"]), None, ALL_VERSIONS));
    let stent = Stent::start(&config(&backend, "hosp.internal"));
    wait_for_verdict(&stent, 1.0);
    let Handshake::Done { server_name, .. } = &backend.handshakes()[0] else { panic!("no handshake") };
    assert_eq!(server_name.as_deref(), Some("hosp.internal"));

    let stent = Stent::start(&config(&backend, "other.internal"));
    wait_for_verdict(&stent, 0.0);
    assert!(stent.metric("stent_health_checks_total", &[("result", "tls_certificate")]) >= 1.0);
}

#[test]
fn a_check_speaks_http2_where_requests_do() {
    let is_up = Arc::new(AtomicBool::new(true));
    let backend = FrameBackend::new({
        let is_up = is_up.clone();
        move |_, connection| {
            connection.open(&[]);
            let Some(stream) = connection.request() else { return };
            if is_up.load(Ordering::Relaxed) {
                connection.answer(stream, &[(":status", "204")], true);
            }
        }
    });
    let config = checked(Config::with_endpoints(&[backend.address()]))
        .set("cluster.hosp.protocol", "h2")
        .set("cluster.hosp.health_check.method", "HEAD");
    let stent = Stent::start(&config);
    wait_for_verdict(&stent, 1.0);
    is_up.store(false, Ordering::Relaxed);
    wait_for_verdict(&stent, 0.0);
}
