//! What a SIGHUP leaves alone and what it makes anew.

use crate::support::client::request;
use crate::support::{Action, Backend, Config, Stent, ms};

fn backend() -> Backend {
    Backend::new(|request| match &*request.target {
        "/slow" => Action::answer(200, "slow").after(ms(500)),
        _ => Action::answer(200, "ok"),
    })
}

#[test]
fn a_changed_cluster_gets_new_connections_and_the_running_exchanges_of_the_old_one_finish() {
    let backend = backend();
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    let mut slow = stent.client();
    slow.send(&request("GET", "/slow", &[], b""));
    backend.wait_for_requests(1);
    assert_eq!(client.get("/").status, 200);
    stent.reload(&config.set("cluster.hosp.idle_timeout", "3s"));
    backend.wait_until_closed(2);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(backend.requests()[2].connection, 3, "the idle connections of the old cluster are closed");
    let answer = slow.response();
    assert_eq!((answer.text(), answer.truncated), ("slow".into(), false));
    backend.wait_until_closed(1);
    assert_eq!(slow.get("/").status, 200, "callers' connections live on");
    assert_eq!(backend.requests()[3].connection, 3);
    stent.wait_for_metric("stent_upstream_connections", &[], 1.0);
}

#[test]
fn a_cluster_that_did_not_change_keeps_its_connections_while_others_come_change_and_go() {
    let (kept, other) = (backend(), backend());
    let routes = |second: &str| {
        format!(
            "[[route]]\nname = \"kept\"\npath = \"/*\"\ncluster = \"hosp\"\n\
             [[route]]\nname = \"second\"\npath = \"/second/*\"\ncluster = \"{second}\"\n"
        )
    };
    let alone = Config::new(&kept);
    let url = format!("http://{}", other.address());
    let with_other = alone.clone().set("cluster.other.endpoints", vec![url]).routes(&routes("other"));
    let stent = Stent::start(&alone);
    let mut client = stent.client();
    assert_eq!(client.get("/second/1").status, 200);
    stent.reload(&with_other);
    assert_eq!((client.get("/1").status, client.get("/second/1").status), (200, 200));
    stent.reload(&with_other.set("cluster.other.max_connections", 7));
    assert_eq!((client.get("/2").status, client.get("/second/2").status), (200, 200));
    stent.reload(&alone);
    other.wait_until_closed(2);
    assert_eq!(client.get("/second/3").status, 200);
    assert_eq!((kept.connections(), other.connections()), (1, 2));
    assert_eq!((kept.requests().len(), other.requests().len()), (4, 2));
}

#[test]
fn a_cluster_that_did_not_change_keeps_its_budget() {
    let backend = Backend::new(|_| Action::answer(502, ""));
    let config = Config::new(&backend)
        .retry("max_attempts", 2)
        .retry("budget.ratio", 0.5)
        .retry("budget.min_per_second", 0)
        .retry("budget.window", "1m");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    // The first leaves half a retry, the second makes it a whole one and spends it, and so on.
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 502);
    }
    assert_eq!(backend.requests().len(), 5 + 2);
    stent.reload(&config.set("route.deadline", "20s"));
    assert_eq!(client.get("/").status, 502);
    assert_eq!(backend.requests().len(), 6 + 3, "the half that was left still counts");
}

#[test]
fn changed_limits_of_a_listener_hold_for_new_connections() {
    let backend = backend();
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let mut old = stent.client();
    assert_eq!(old.get("/").status, 200);
    stent.reload(&config.set("listener.idle_timeout", "200ms"));
    let mut new = stent.client();
    assert_eq!(new.get("/").status, 200);
    assert!(new.is_closed());
    assert_eq!(old.get("/").status, 200, "a connection keeps the limits that it began with");
    assert_eq!(stent.listeners().len(), 1);
}

#[test]
fn a_reload_that_needs_a_taken_address_changes_nothing() {
    let backend = backend();
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    let bad = config.clone().set("listener.address", &*address).set("route.path", "/new/*");
    stent.reload_text(&bad.text(&stent.access_log_path()));
    stent.wait_for_log("the address", |line| line.contains(&address) && line.contains("in use"));
    stent.wait_for_metric("stent_config_last_reload_successful", &[], 0.0);
    assert_eq!(client.get("/").status, 200, "the old routes are in force");
    assert_eq!(stent.client().get("/").status, 200, "the old listener accepts");
    stent.reload(&config);
}
#[test]
fn a_cluster_that_is_gone_has_no_connections_in_the_metrics() {
    let (kept, other) = (backend(), backend());
    let alone = Config::new(&kept);
    let routes = "[[route]]\nname = \"other\"\npath = \"/*\"\ncluster = \"other\"\n";
    let url = format!("http://{}", other.address());
    let stent = Stent::start(&alone.clone().set("cluster.other.endpoints", vec![url]).routes(routes));
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    stent.wait_for_metric("stent_upstream_connections", &[("cluster", "other")], 1.0);
    stent.reload(&alone);
    other.wait_until_closed(1);
    stent.wait_for_metric("stent_upstream_connections", &[("cluster", "other")], 0.0);
}

#[test]
fn an_exchange_that_began_before_a_reload_may_still_be_retried_after_it() {
    let backend = Backend::scripted([Action::answer(502, "not yet")]);
    let config = Config::new(&backend).backoff("700ms");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    stent.wait_for_metric("stent_attempts_total", &[("result", "502")], 1.0);
    stent.reload(&config.set("cluster.hosp.idle_timeout", "3s"));
    assert_eq!(backend.requests().len(), 1, "the wait is not over");
    assert_eq!(client.response().status, 200);
    assert_eq!(stent.only_line().results(), ["502", "200"]);
}
