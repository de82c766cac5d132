//! How the process starts, changes its configuration, and ends.

use std::collections::HashSet;
use std::time::Instant;

use crate::support::client::request;
use crate::support::load::{Connections, Load, Tally};
use crate::support::stent::Signal;
use crate::support::{Action, Backend, Client, Config, Stent, eventually, ms};

mod endpoints;
mod files;
mod log;
mod names;
mod reload;
mod signals;
mod start;

#[test]
fn a_reload_applies_changed_routes() {
    let backend = Backend::healthy();
    let config = Config::new(&backend).set("route.path", "/old/*");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    assert_eq!((client.get("/old/1").status, client.get("/new/1").status), (200, 404));
    stent.reload(&config.set("route.path", "/new/*"));
    assert_eq!((client.get("/old/1").status, client.get("/new/1").status), (404, 200));
    assert_eq!(stent.listeners().len(), 1, "the listener was left alone");
}

#[test]
fn a_reload_with_a_bad_file_leaves_the_old_configuration_running() {
    let backend = Backend::healthy();
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    stent.reload_text("[server]\nworkers = 1\nwrokers = 2\n");
    stent.wait_for_metric("stent_config_last_reload_successful", &[], 0.0);
    let place = format!("{}:3", stent.config_path().display());
    stent.wait_for_log("each error with its place", |line| line.contains(&place));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(stent.admin_get("/readyz").status, 200);
    stent.reload(&config);
}

#[test]
fn a_reload_keeps_the_connections_and_the_running_exchanges_of_a_cluster_that_did_not_change() {
    let backend = Backend::new(|request| match &*request.target {
        "/slow" => Action::answer(200, "slow").after(ms(500)),
        _ => Action::answer(200, "ok"),
    });
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    let mut slow = stent.client();
    slow.send(&request("GET", "/slow", &[], b""));
    backend.wait_for_requests(2);
    stent.reload(&config.set("route.name", "renamed").set("route.deadline", "20s"));
    assert_eq!(slow.response().text(), "slow");
    let before = backend.connections();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(slow.get("/").status, 200, "callers' connections live on");
    assert_eq!(backend.connections(), before, "the pool is the old one");
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let backend = Backend::healthy();
    let config = Config::new(&backend).set("server.workers", 2).retry("max_attempts", 1);
    let stent = Stent::start(&config);
    let loads = [
        Load::start(stent.listener(), 4, Connections::KeptAlive),
        Load::start(stent.listener(), 2, Connections::OnePerRequest),
    ];
    for round in 0..8 {
        wait_for_more(&loads, 50);
        // A changed cluster gets new pools, a changed route none.
        let config = config.clone().set("route.deadline", format!("{}s", 10 + round));
        let config = if round % 2 == 0 { config } else { config.set("cluster.hosp.idle_timeout", "3s") };
        stent.reload(&config);
    }
    for tally in loads.map(Load::stop) {
        assert!(tally.lost.is_empty(), "{tally:?}");
        assert_eq!((tally.refused, tally.resent), (0, 0), "{tally:?}");
        assert!(tally.ok >= 400);
    }
    assert_each_came_once(&backend);
}

fn wait_for_more(loads: &[Load], count: u64) {
    for load in loads {
        load.wait_for_more(count);
    }
}

/// The load asks for each path once and the proxy never retries: twice means that an answer was lost.
fn assert_each_came_once(backend: &Backend) {
    let mut seen = HashSet::new();
    for request in backend.requests() {
        assert!(
            seen.insert(request.target.clone()),
            "sent again although the backend had it: {}",
            request.target
        );
    }
}

#[test]
fn a_changed_listener_address_binds_the_new_one_and_drains_the_old() {
    let backend = Backend::new(|request| match &*request.target {
        "/slow" => Action::answer(200, "slow").after(ms(500)),
        _ => Action::answer(200, "ok"),
    });
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let old = stent.listener();
    let mut idle = stent.client();
    assert_eq!(idle.get("/").status, 200);
    let mut slow = stent.client();
    slow.send(&request("GET", "/slow", &[], b""));
    backend.wait_for_requests(2);
    stent.reload(&config.set("listener.address", "127.0.0.2:0"));
    let new = eventually("the new listener", || stent.listeners().get(1).copied());
    assert!(new.ip().to_string() == "127.0.0.2", "{new}");
    assert_eq!(Client::connect(new).get("/").status, 200);
    let answer = slow.response();
    assert_eq!((answer.status, answer.text()), (200, "slow".into()), "running exchanges end well");
    eventually("the old listener's end", || Client::try_connect(old).is_err().then_some(()));
    assert!(idle.is_closed(), "connections of the old listener are closed when they are idle");
    assert_eq!(stent.admin_get("/readyz").status, 200);
}

#[test]
fn on_sigterm_readiness_fails_at_once_while_listeners_still_accept() {
    let backend = Backend::healthy();
    let mut stent = Stent::start(&Config::new(&backend).set("server.accept_grace", "1500ms"));
    assert_eq!(stent.admin_get("/readyz").status, 200);
    let mut kept = stent.client();
    assert_eq!(kept.get("/").status, 200);
    let start = Instant::now();
    stent.signal(Signal::Terminate);
    eventually("readiness to fail", || (stent.admin_get("/readyz").status == 503).then_some(()));
    assert!(start.elapsed() < ms(1000), "readiness fails at once: {:?}", start.elapsed());
    assert_eq!(stent.admin_get("/livez").status, 200);
    assert_eq!(stent.client().get("/").status, 200, "the load balancer may not have noticed yet");
    assert_eq!(kept.get("/").status, 200);
    assert!(stent.wait_exit().success());
    assert!(start.elapsed() >= ms(1450), "the grace was kept: {:?}", start.elapsed());
}

#[test]
fn on_sigterm_a_running_exchange_may_finish() {
    for signal in [Signal::Terminate, Signal::Interrupt] {
        let backend = Backend::new(|_| Action::answer(200, "in the end").after(ms(800)));
        let mut stent = Stent::start(&Config::new(&backend));
        let mut client = stent.client();
        client.send(&request("POST", "/notes", &[], b"once"));
        backend.wait_for_requests(1);
        stent.signal(signal);
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "in the end".into()));
        assert!(client.is_closed());
        assert_eq!(stent.wait_exit().code(), Some(0));
        assert_eq!(stent.only_line().text("outcome"), Some("ok"), "the log is flushed");
    }
}

#[test]
fn an_exchange_that_outlasts_finish_grace_does_not_keep_the_process() {
    let backend = Backend::new(|_| Action::hang());
    let mut stent = Stent::start(&Config::new(&backend).set("server.finish_grace", "300ms"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    let start = Instant::now();
    stent.signal(Signal::Terminate);
    assert_eq!(stent.wait_exit().code(), Some(0), "a drain that was cut short is no failure");
    assert!((ms(350)..ms(3000)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(client.try_response().is_err(), "its caller gets no half of an answer");
    assert_eq!(stent.access_log(1).len(), 1, "it has a line all the same");
}

/// Whether it still accepts or waits for what runs.
#[test]
fn a_second_signal_stops_at_once() {
    for (accept_grace, signal) in
        [("30s", Signal::Interrupt), ("30s", Signal::Terminate), ("0s", Signal::Terminate)]
    {
        let backend = Backend::new(|_| Action::hang());
        let config = Config::new(&backend).set("server.accept_grace", accept_grace);
        let mut stent = Stent::start(&config.set("server.finish_grace", "30s"));
        let mut client = stent.client();
        client.send(&request("GET", "/", &[], b""));
        backend.wait_for_requests(1);
        stent.signal(Signal::Terminate);
        if accept_grace == "0s" {
            eventually("the end of accepting", || {
                Client::try_connect(stent.listener()).is_err().then_some(())
            });
        } else {
            eventually("the drain", || (stent.admin_get("/readyz").status == 503).then_some(()));
        }
        let start = Instant::now();
        stent.signal(signal);
        assert_eq!(stent.wait_exit().code(), Some(0));
        assert!(start.elapsed() < ms(1000), "{:?}", start.elapsed());
        backend.wait_until_closed(1);
    }
}

#[test]
fn finish_grace_ends_early_when_nothing_runs_any_more() {
    let backend = Backend::healthy();
    let mut stent = Stent::start(&Config::new(&backend).set("server.finish_grace", "30s"));
    let mut idle = stent.client();
    assert_eq!(idle.get("/").status, 200);
    let silent = stent.client();
    let start = Instant::now();
    stent.signal(Signal::Terminate);
    assert!(idle.is_closed());
    assert_eq!(stent.wait_exit().code(), Some(0));
    assert!(start.elapsed() < ms(3000), "idle connections keep nobody: {:?}", start.elapsed());
    drop(silent);
}

#[test]
fn sigterm_under_load_loses_no_request() {
    let backend = Backend::healthy();
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .set("server.accept_grace", "700ms")
        .retry("max_attempts", 1);
    let mut stent = Stent::start(&config);
    let loads = [
        Load::start(stent.listener(), 6, Connections::KeptAlive),
        Load::start(stent.listener(), 2, Connections::OnePerRequest),
    ];
    wait_for_more(&loads, 100);
    stent.signal(Signal::Terminate);
    // All of this is still within the grace, where nobody may be refused.
    wait_for_more(&loads, 50);
    assert_eq!(stent.wait_exit().code(), Some(0));
    let tallies = loads.map(Load::join);
    for tally in &tallies {
        assert!(tally.lost.is_empty(), "{tally:?}");
        assert!(tally.ok >= 150, "{tally:?}");
    }
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    assert_eq!(sum(|tally| tally.refused), 8, "each caller went on until it was refused: {tallies:?}");
    assert_each_came_once(&backend);
    let lines = std::fs::read_to_string(stent.access_log_path()).unwrap().lines().count() as u64;
    assert_eq!(lines, sum(|tally| tally.ok), "a line for each answer");
}
#[test]
fn a_second_signal_while_listeners_still_accept_leaves_a_line_for_what_was_cut() {
    for accept_grace in ["30s", "0s"] {
        let backend = Backend::new(|_| Action::hang());
        let mut stent = Stent::start(&Config::new(&backend).set("server.accept_grace", accept_grace));
        let mut client = stent.client();
        client.send(&request("GET", "/", &[], b""));
        backend.wait_for_requests(1);
        stent.signal(Signal::Terminate);
        if accept_grace == "0s" {
            eventually("the end of accepting", || {
                Client::try_connect(stent.listener()).is_err().then_some(())
            });
        } else {
            eventually("the drain", || (stent.admin_get("/readyz").status == 503).then_some(()));
        }
        stent.signal(Signal::Terminate);
        stent.wait_exit();
        assert_eq!(stent.access_log(1).len(), 1, "accept_grace = {accept_grace}");
    }
}

#[test]
fn what_finish_grace_cuts_off_is_not_called_a_client_abort() {
    let backend = Backend::new(|_| Action::hang());
    let mut stent = Stent::start(&Config::new(&backend).set("server.finish_grace", "300ms"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    stent.signal(Signal::Terminate);
    stent.wait_exit();
    assert_ne!(stent.only_line().text("outcome"), Some("client_abort"), "the caller is still there");
}
