//! What Prometheus is told, and what can be learned from it.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::client::request;
use crate::support::{Action, Backend, Config, Refused, Stent, eventually, noise};

/// Names and labels, as dashboards and alerts are written against them.
const PROMISED: &[(&str, &[&str])] = &[
    ("stent_requests_total", &["code", "origin", "route"]),
    ("stent_request_duration_seconds_count", &["route"]),
    ("stent_attempts_total", &["cluster", "endpoint", "result"]),
    ("stent_attempt_duration_seconds_count", &["cluster"]),
    ("stent_retries_total", &["reason", "route"]),
    ("stent_retry_recovered_total", &["route"]),
    ("stent_retry_stopped_total", &["route", "why"]),
    ("stent_retry_wait_seconds_count", &["cluster"]),
    ("stent_retry_budget_available", &["cluster"]),
    ("stent_cluster_recent_success", &["cluster"]),
    ("stent_held_answers_total", &["end", "route"]),
    ("stent_hedge_delay_seconds", &["route"]),
    ("stent_hedges_total", &["result", "route"]),
    ("stent_held_bytes", &[]),
    ("stent_replay_bytes", &[]),
    ("stent_replay_overflow_total", &["reason"]),
    ("stent_requests_in_flight", &["route"]),
    ("stent_client_aborts_total", &["route"]),
    ("stent_upstream_connections", &["cluster", "state"]),
    ("stent_upstream_connects_total", &["cluster", "result"]),
    ("stent_upstream_idle_close_age_seconds_count", &["cluster"]),
    ("stent_upstream_safety_connects_total", &["cluster"]),
    ("stent_endpoint_ejected", &["cluster", "endpoint"]),
    ("stent_endpoint_ejections_total", &["cluster", "endpoint", "reason"]),
    ("stent_endpoint_idle_limit_seconds", &["cluster", "endpoint"]),
    ("stent_downstream_connections", &["listener"]),
    ("stent_config_last_reload_successful", &[]),
    ("stent_config_last_reload_success_timestamp_seconds", &[]),
    ("stent_build_info", &["revision", "version"]),
    ("process_cpu_seconds_total", &[]),
    ("process_open_fds", &[]),
    ("process_resident_memory_bytes", &[]),
];

#[test]
fn every_promised_metric_is_there_after_some_traffic() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().put("/", noise(1000)).status, 200);
    stent.access_log(1);
    let metrics = stent.metrics();
    let wrong: Vec<_> = PROMISED
        .iter()
        .filter(|(name, labels)| metrics.labels(name).as_deref() != Some(labels))
        .map(|(name, labels)| format!("{name}{labels:?}, but {:?}", metrics.labels(name)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", metrics.text());
}

/// Total, original and retry rate; success as users see it, and success underneath.
#[test]
fn the_five_questions_have_answers() {
    let backend = Backend::new(|request| {
        let attempt = request.headers.only("x-stent-attempt").unwrap_or("1");
        let status = match (&*request.target, attempt) {
            ("/flaky", "1" | "2") | ("/broken", _) => 502,
            _ => 200,
        };
        Action::answer(status, "")
    });
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for (path, count) in [("/fine", 5), ("/flaky", 3), ("/broken", 2)] {
        for _ in 0..count {
            client.get(path);
        }
    }
    stent.access_log(10);
    let metrics = stent.metrics();
    let questions = [
        ("original requests", metrics.sum("stent_requests_total", &[]), 10.0),
        ("total attempts", metrics.sum("stent_attempts_total", &[]), 5.0 + 3.0 * 3.0 + 2.0 * 3.0),
        ("retries", metrics.sum("stent_retries_total", &[]), 3.0 * 2.0 + 2.0 * 2.0),
        ("failures that users see", metrics.sum("stent_requests_total", &[("code", "502")]), 2.0),
        (
            "failures underneath",
            metrics.sum("stent_attempts_total", &[("result", "502")]),
            3.0 * 2.0 + 2.0 * 3.0,
        ),
        ("requests saved", metrics.sum("stent_retry_recovered_total", &[]), 3.0),
        ("waits", metrics.sum("stent_retry_wait_seconds_count", &[]), 10.0),
    ];
    for (question, answer, expected) in questions {
        assert!((answer - expected).abs() < 1e-9, "{question}: {answer}, expected {expected}");
    }
}

#[test]
fn a_client_abort_is_not_a_5xx() {
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    drop(client);
    stent.wait_for_metric("stent_client_aborts_total", &[("route", "everything")], 1.0);
    stent.access_log(1);
    let metrics = stent.metrics();
    for code in ["500", "502", "503", "504"] {
        assert!(metrics.sum("stent_requests_total", &[("code", code)]) < 0.5, "{}", metrics.text());
    }
    assert!(metrics.sum("stent_retry_stopped_total", &[("why", "attempts")]) < 0.5);
}

#[test]
fn our_503_and_the_upstreams_differ_in_origin() {
    let backend = Backend::new(|request| match &*request.target {
        "/hang" => Action::hang(),
        _ => Action::answer(503, ""),
    });
    let config = Config::new(&backend)
        .set("cluster.hosp.max_connections", 1)
        .set("cluster.hosp.connection_wait", "50ms");
    let stent = Stent::start(&config);
    assert_eq!(stent.client().get("/").status, 503);
    let mut holder = stent.client();
    holder.send(&request("GET", "/hang", &[], b""));
    backend.wait_for_requests(2);
    assert_eq!(stent.client().get("/").status, 503);
    let count = |origin| stent.metric("stent_requests_total", &[("code", "503"), ("origin", origin)]);
    assert!((count("upstream") - 1.0).abs() < 1e-9);
    assert!((count("proxy") - 1.0).abs() < 1e-9);
    drop(holder);
}

#[test]
fn an_ejected_endpoint_shows_and_gets_no_traffic_until_it_is_probed() {
    let broken = Backend::new(|_| Action::answer(502, ""));
    let working = Backend::healthy();
    let config = Config::with_endpoints(&[broken.address(), working.address()])
        .set("cluster.hosp.balance", "round_robin")
        .set("cluster.hosp.ejection.consecutive_failures", 3)
        .set("cluster.hosp.ejection.time", "1s");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(broken.requests().len(), 3);
    let endpoint = broken.address().to_string();
    stent.wait_for_metric("stent_endpoint_ejected", &[("endpoint", &endpoint)], 1.0);
    eventually("a probe", || {
        assert_eq!(client.get("/").status, 200);
        (broken.requests().len() > 3).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(broken.requests().len(), 4, "one request probes, and its failure ejects anew");
    let ejections = [("endpoint", &*endpoint), ("reason", "failures")];
    stent.wait_for_metric("stent_endpoint_ejections_total", &ejections, 1.0);
}

#[test]
fn a_lone_endpoint_is_never_ejected() {
    let backend = Backend::new(|_| Action::answer(502, "as it is"));
    let config =
        Config::new(&backend).retry("max_attempts", 1).set("cluster.hosp.ejection.consecutive_failures", 1);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "as it is");
    }
    stent.wait_for_metric("stent_endpoint_ejected", &[], 0.0);
}

#[test]
fn the_format_is_one_that_promtool_accepts() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let refused = Refused::new();
    let stent = Stent::start(&Config::with_endpoints(&[backend.address(), refused.address()]));
    stent.client().put("/", noise(1000));
    stent.access_log(1);
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("promtool is not installed: the format was not checked by it");
        return;
    };
    let text = stent.metrics().text().to_owned();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}
