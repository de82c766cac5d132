//! What a SIGHUP that changes the endpoints of a cluster leaves as it is: everything but those that come and go.

use std::time::Instant;

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, eventually, ms};

fn backend() -> Backend {
    Backend::new(|request| match &*request.target {
        "/slow" => Action::answer(200, "slow").after(ms(2000)),
        _ => Action::answer(200, "ok"),
    })
}

fn config(backends: &[&Backend]) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    Config::with_endpoints(&addresses).set("cluster.hosp.balance", "round_robin")
}

/// Begins a slow request and waits until one of these has it.
fn begin_slow(stent: &Stent, backends: &[&Backend]) -> Client {
    let count = || backends.iter().map(|backend| backend.requests().len()).sum::<usize>();
    let before = count();
    let mut client = stent.client();
    client.send(&request("GET", "/slow", &[], b""));
    eventually("the slow request", || (count() > before).then_some(()));
    client
}

#[test]
fn an_endpoint_that_is_removed_finishes_what_runs_and_gets_nothing_new() {
    let (stays, goes) = (backend(), backend());
    let stent = Stent::start(&config(&[&stays, &goes]));
    let mut slow = [begin_slow(&stent, &[&stays, &goes]), begin_slow(&stent, &[&stays, &goes])];
    let mut client = stent.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((stays.connections(), goes.connections()), (2, 2), "one busy and one idle at each");
    stent.reload(&config(&[&stays]));
    goes.wait_until_closed(2);
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    for slow in &mut slow {
        let answer = slow.response();
        assert_eq!((answer.status, answer.text(), answer.truncated), (200, "slow".into(), false));
    }
    goes.wait_until_closed(1);
    assert_eq!(goes.requests().len(), 2);
    assert_eq!(
        (stays.requests().len(), stays.connections()),
        (8, 2),
        "the one that stays keeps its connections"
    );
    let gone = goes.address().to_string();
    eventually("the end of its series", || (!stent.metrics().text().contains(&gone)).then_some(()));
    stent.wait_for_metric("stent_upstream_connections", &[], 2.0);
}

#[test]
fn an_endpoint_that_is_added_takes_its_share_and_the_others_keep_their_connections() {
    let (old, new) = (backend(), backend());
    let stent = Stent::start(&config(&[&old]));
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    let mut slow = begin_slow(&stent, &[&old]);
    stent.reload(&config(&[&new, &old]));
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(slow.response().text(), "slow");
    assert_eq!((old.requests().len(), new.requests().len()), (2 + 3, 3));
    assert!(old.connections() <= 2, "{} connections", old.connections());
    assert!(stent.access_log(8).iter().all(|line| line.results() == ["200"]));
}

#[test]
fn a_retry_that_waits_goes_to_an_endpoint_that_has_come_since() {
    let (old, new) = (Backend::new(|_| Action::answer(502, "")), backend());
    let stent = Stent::start(&config(&[&old]).backoff("3s"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    stent.wait_for_metric("stent_attempts_total", &[("result", "502")], 1.0);
    stent.reload(&config(&[&new]).backoff("3s"));
    assert_eq!(client.response().status, 200);
    assert_eq!((old.requests().len(), new.requests().len()), (1, 1));
}

#[test]
fn those_who_wait_in_an_outage_are_served_by_an_endpoint_that_a_reload_brings() {
    let (failing, well) = (Backend::new(|_| Action::answer(502, "")), backend());
    // The waits between probes are longer than the test: a new endpoint is tried without one.
    let config = |backends: &[&Backend]| {
        config(backends)
            .set("cluster.hosp.outage_queue.max", 100)
            .set("cluster.hosp.outage_queue.max_wait", "30s")
            .set("route.deadline", "10m")
            .retry("max_attempts", 10)
            .backoff("2m")
    };
    let stent = Stent::start(&config(&[&failing]));
    eventually("the outage", || {
        assert_eq!(stent.client().post("/", "x").status, 502);
        (stent.metric("stent_outage", &[("cluster", "hosp")]) > 0.5).then_some(())
    });
    let mut waiting: Vec<_> = (0..5).map(|_| stent.client()).collect();
    for client in &mut waiting {
        client.send(&request("GET", "/", &[], b""));
    }
    stent.wait_for_metric("stent_outage_queue_waiting", &[], 5.0);
    let seen = failing.requests().len();
    let outages = stent.metric("stent_outages_total", &[]);
    let start = Instant::now();
    stent.reload(&config(&[&well]));
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
    assert_eq!((failing.requests().len(), well.requests().len()), (seen, 5));
    stent.wait_for_metric("stent_outage", &[], 0.0);
    assert!((stent.metric("stent_outages_total", &[]) - outages).abs() < 0.5, "it was one outage");
}

#[test]
fn an_outage_goes_on_where_the_endpoint_that_a_reload_brings_fails_too() {
    let fails = || Backend::new(|_| Action::answer(502, ""));
    let (old, new) = (fails(), fails());
    let config = |backends: &[&Backend]| config(backends).set("cluster.hosp.outage_queue.max", 100);
    let stent = Stent::start(&config(&[&old]));
    eventually("the outage", || {
        assert_eq!(stent.client().post("/", "x").status, 502);
        (stent.metric("stent_outage", &[("cluster", "hosp")]) > 0.5).then_some(())
    });
    stent.reload(&config(&[&old, &new]));
    assert!(stent.metric("stent_outage", &[("cluster", "hosp")]) > 0.5);
    assert_eq!(stent.client().post("/", "x").status, 502);
    assert!(stent.metric("stent_outage", &[("cluster", "hosp")]) > 0.5);
    assert!((stent.metric("stent_outages_total", &[]) - 1.0).abs() < 0.5, "it is the same outage");
}

#[test]
fn a_cluster_whose_endpoints_change_keeps_its_budget() {
    let fails = || Backend::new(|_| Action::answer(502, ""));
    let (old, new) = (fails(), fails());
    let config = |backends: &[&Backend]| {
        config(backends)
            .retry("max_attempts", 2)
            .retry("budget.ratio", 0.5)
            .retry("budget.min_per_second", 0)
            .retry("budget.window", "1m")
    };
    let stent = Stent::start(&config(&[&old]));
    let mut client = stent.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 502);
    }
    assert_eq!(old.requests().len(), 5 + 2);
    stent.reload(&config(&[&new]));
    assert_eq!(client.get("/").status, 502);
    assert_eq!(new.requests().len(), 2, "the half that was left still counts");
}

#[test]
fn an_endpoint_that_stays_stays_ejected() {
    let (failing, well, other) = (Backend::new(|_| Action::answer(500, "")), backend(), backend());
    let config = |backends: &[&Backend]| {
        config(backends)
            .set("cluster.hosp.ejection.consecutive_failures", 3)
            .set("cluster.hosp.ejection.time", "1m")
    };
    let stent = Stent::start(&config(&[&failing, &well]));
    let mut client = stent.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(failing.requests().len(), 3);
    stent.reload(&config(&[&failing, &well, &other]));
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(failing.requests().len(), 3);
    assert!(other.requests().len() >= 3, "it has its share");
    let endpoint = failing.address().to_string();
    let ejected = || stent.metric("stent_endpoint_ejected", &[("endpoint", &endpoint)]);
    assert!(ejected() > 0.5);
    stent.reload(&config(&[&well, &other]));
    eventually("the end of its series", || (!stent.metrics().text().contains(&endpoint)).then_some(()));
    stent.reload(&config(&[&failing, &well, &other]));
    assert_eq!(client.get("/").status, 200);
    assert!(ejected() < 0.5, "one that comes back begins healthy");
}

#[test]
fn checks_follow_the_endpoints() {
    let (stays, goes, comes) = (backend(), backend(), backend());
    let config = |backends: &[&Backend]| {
        config(backends)
            .set("cluster.hosp.health_check.path", "/healthz")
            .set("cluster.hosp.health_check.interval", "200ms")
            .set("cluster.hosp.health_check.timeout", "180ms")
    };
    let healthy = |stent: &Stent, backend: &Backend| {
        let endpoint = backend.address().to_string();
        stent.wait_for_metric("stent_endpoint_healthy", &[("endpoint", &endpoint)], 1.0);
    };
    let stent = Stent::start(&config(&[&stays, &goes]));
    healthy(&stent, &stays);
    healthy(&stent, &goes);
    stent.reload(&config(&[&stays, &comes]));
    let gone = goes.requests().len();
    healthy(&stent, &comes);
    healthy(&stent, &stays);
    let (one, other) = (stays.requests().len(), comes.requests().len());
    eventually("further checks", || {
        (stays.requests().len() > one + 3 && comes.requests().len() > other + 3).then_some(())
    });
    assert!(goes.requests().len() <= gone + 1, "one may have been under way");
    let gone = goes.address().to_string();
    eventually("the end of its series", || (!stent.metrics().text().contains(&gone)).then_some(()));
}
