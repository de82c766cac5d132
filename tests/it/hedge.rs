//! Safe requests that are sent once more while they are unanswered, over real connections.

use std::sync::Mutex;
use std::time::Instant;

use crate::support::client::request;
use crate::support::frames::FrameBackend;
use crate::support::{Action, Backend, Config, Stent, eventually, ms};

const HEDGES: &str = "stent_hedges_total";

/// Far less than a per-try timeout, and far more than an answer takes.
fn hedging(config: Config) -> Config {
    config.retry("hedge", "50ms").set("cluster.hosp.balance", "round_robin")
}

/// Nothing runs any more, to the backend or from callers.
fn wait_until_empty(stent: &Stent) {
    eventually("an empty proxy", || {
        let metrics = stent.metrics();
        let left = metrics.sum("stent_upstream_connections", &[("state", "active")]).abs()
            + metrics.sum("stent_requests_in_flight", &[]).abs()
            + metrics.sum("stent_held_bytes", &[]).abs();
        (left < 1e-9).then_some(())
    });
}

#[test]
fn another_endpoint_answers_for_one_that_hangs_whose_connection_is_closed() {
    let hanging = Backend::new(|_| Action::hang());
    let well = Backend::healthy();
    let stent = Stent::start(&hedging(Config::with_endpoints(&[hanging.address(), well.address()])));
    assert_eq!(stent.client().get("/").text(), "ok");
    hanging.wait_until_closed(1);
    let line = stent.only_line();
    assert_eq!((line.results(), line.hedges()), (vec!["cancelled".into(), "200".into()], vec![false, true]));
    let attempts = line.attempts();
    assert_eq!(attempts[0].endpoint, hanging.address().to_string());
    assert_eq!(attempts[1].endpoint, well.address().to_string());
    assert!(attempts[1].started >= 50.0, "{attempts:?}");
    assert_eq!((line.text("outcome"), line.text("retry_stopped")), (Some("ok"), None));
    stent.wait_for_metric(HEDGES, &[("route", "everything"), ("result", "won")], 1.0);
    stent.wait_for_metric("stent_retries_total", &[], 0.0);
    stent.wait_for_metric("stent_retry_recovered_total", &[], 0.0);
    wait_until_empty(&stent);
}

#[test]
fn a_lone_endpoint_is_asked_again_on_another_connection_and_told_the_number() {
    let backend = Backend::scripted([Action::hang()]);
    let stent = Stent::start(&hedging(Config::new(&backend)));
    assert_eq!(stent.client().get("/").text(), "ok");
    backend.wait_until_closed(1);
    let requests = backend.requests();
    assert_eq!(requests.iter().map(|request| request.connection).collect::<Vec<_>>(), [1, 2]);
    let numbers: Vec<_> = requests.iter().map(|request| request.headers.only("x-stent-attempt")).collect();
    assert_eq!(numbers, [None, Some("2")]);
    wait_until_empty(&stent);
}

#[test]
fn a_first_attempt_that_answers_after_all_is_taken_and_its_hedge_closed() {
    let backend = Backend::scripted([Action::answer(200, "first").after(ms(150)), Action::hang()]);
    let stent = Stent::start(&hedging(Config::new(&backend)));
    let mut client = stent.client();
    assert_eq!(client.get("/").text(), "first");
    backend.wait_until_closed(2);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(backend.requests()[2].connection, 1, "the connection of the one that answered is kept");
    let lines = stent.access_log(2);
    assert_eq!(
        (lines[0].results(), lines[0].hedges()),
        (vec!["200".into(), "cancelled".into()], vec![false, true])
    );
    assert_eq!((lines[1].results(), lines[1].hedges()), (vec!["200".into()], vec![false]));
    stent.wait_for_metric(HEDGES, &[("result", "lost")], 1.0);
    wait_until_empty(&stent);
}

#[test]
fn by_default_nothing_is_sent_twice() {
    let backend = Backend::new(|_| Action::answer(200, "late").after(ms(150)));
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").text(), "late");
    assert_eq!(backend.requests().len(), 1);
    stent.wait_for_metric(HEDGES, &[], 0.0);
}

#[test]
fn what_is_not_safe_or_has_a_body_is_never_hedged() {
    let backend = Backend::new(|_| Action::answer(200, "late").after(ms(120)));
    let stent =
        Stent::start(&hedging(Config::new(&backend)).retry("methods", vec!["GET", "HEAD", "PUT", "POST"]));
    for (count, (method, body)) in [("POST", ""), ("PUT", "x"), ("GET", "x")].into_iter().enumerate() {
        let response = stent.client().request(method, "/", &[], body.as_bytes());
        assert_eq!((response.status, backend.requests().len()), (200, count + 1), "{method}");
    }
    assert_eq!(stent.client().request("HEAD", "/", &[("Connection", "close")], b"").status, 200);
    assert_eq!(backend.requests().len(), 5, "a HEAD is");
    stent.wait_for_metric(HEDGES, &[], 1.0);
}

#[test]
fn hedges_keep_to_the_retry_budget() {
    let backend = Backend::new(|_| Action::answer(200, "late").after(ms(120)));
    let config = hedging(Config::new(&backend)).retry("budget.ratio", 0.5).retry("budget.min_per_second", 0);
    let stent = Stent::start(&config.retry("budget.window", "10m"));
    let mut client = stent.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backend.requests().len(), 9);
    stent.wait_for_metric(HEDGES, &[("result", "lost")], 3.0);
    stent.wait_for_metric(HEDGES, &[("result", "refused_budget")], 3.0);
}

#[test]
fn a_caller_that_leaves_closes_both() {
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&hedging(Config::new(&backend)));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(2);
    drop(client);
    backend.wait_until_closed(1);
    backend.wait_until_closed(2);
    let line = stent.only_line();
    assert_eq!((line.status(), line.text("outcome")), (499, Some("client_abort")));
    assert_eq!((line.results(), line.hedges()), (vec!["cancelled".to_owned(); 2], vec![false, true]));
    stent.wait_for_metric(HEDGES, &[("result", "left")], 1.0);
    wait_until_empty(&stent);
}

#[test]
fn over_http2_the_stream_that_lost_is_reset_and_the_connection_goes_on() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let first = connection.request().unwrap();
        let hedge = connection.request().unwrap();
        connection.ok(hedge, "from the hedge");
        assert_eq!(connection.reset().map(|(stream, _)| stream), Some(first));
        connection.serve("from the same connection");
    });
    let config = Config::with_endpoints(&[backend.address()]).set("cluster.hosp.protocol", "h2");
    let stent = Stent::start(&config.retry("hedge", "50ms"));
    let mut client = stent.client();
    assert_eq!(client.get("/").text(), "from the hedge");
    assert_eq!(client.get("/").text(), "from the same connection");
    assert_eq!(backend.connections(), 1);
    assert_eq!(stent.access_log(2)[0].results(), ["cancelled", "200"]);
    wait_until_empty(&stent);
}

#[test]
fn a_percentile_is_learned_and_then_a_request_that_hangs_is_answered_soon() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).retry("hedge", "p95"));
    let mut client = stent.client();
    for _ in 0..100 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert!(stent.metric("stent_hedge_delay_seconds", &[("route", "everything")]) >= 0.001);
    backend.then([Action::hang()]);
    let start = Instant::now();
    assert_eq!(client.get("/").text(), "ok");
    assert!(start.elapsed() < ms(5000), "the per-try timeout is 10 s");
    assert_eq!(stent.access_log(101).last().unwrap().results(), ["cancelled", "200"]);
}

#[test]
fn two_thousand_hedged_requests_with_random_faults_leave_nothing_behind() {
    let random = Mutex::new(fastrand::Rng::with_seed(8));
    let backend = Backend::new(move |_| match random.lock().unwrap().u32(0..100) {
        0..70 => Action::answer(200, "whole"),
        70..80 => Action::answer(200, "late").after(ms(8)),
        80..88 => Action::answer(502, "failure").after(ms(4)),
        88..91 => Action::reset(),
        91..94 => Action::truncated(100, 1000),
        94..97 => Action::half_head_then_stall(),
        _ => Action::hang(),
    });
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .retry("hedge", "3ms")
        .retry("max_attempts", 5)
        .retry("per_try_timeout", "60ms")
        // The last attempt has no other end, should it hang.
        .set("route.deadline", "2s")
        // Under a limit, an attempt that is given up is in flight for as long as the backend hangs.
        .set("cluster.hosp.admission.limit", "off")
        .backoff("1ms");
    let stent = Stent::start(&config);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = stent.client();
                for _ in 0..250 {
                    let response = client.get("/");
                    assert!(!response.truncated, "{response:?}");
                    if response.closes() {
                        client = stent.client();
                    }
                }
            });
        }
    });
    let lines = stent.access_log(2000);
    let hedged: usize =
        lines.iter().map(|line| line.hedges().into_iter().filter(|hedge| *hedge).count()).sum();
    assert!(hedged > 200, "{hedged} hedges");
    // One after 3 ms, and after 60 ms one beside what is slow.
    assert!(lines.iter().all(|line| line.hedges().into_iter().filter(|hedge| *hedge).count() <= 4));
    assert!(lines.iter().all(|line| line.attempts().len() <= 5), "hedges are attempts");
    wait_until_empty(&stent);
    let (metrics, came) = (stent.metrics(), backend.requests().len());
    let ended = ["won", "lost", "failed", "left"].map(|result| metrics.sum(HEDGES, &[("result", result)]));
    assert!((ended.iter().sum::<f64>() - hedged as f64).abs() < 1e-9, "{ended:?} of {hedged}");
    let attempts: usize = lines.iter().map(|line| line.attempts().len()).sum();
    assert!(came <= attempts, "{came} requests came, and {attempts} attempts are on record");
}
