//! A process that has few file descriptors: callers take none from requests, and a lack of them blames no endpoint.

use std::time::Instant;

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, alone, eventually, ms};

/// So many files fit in 64: a quarter is kept from callers, and half of the rest is the proxy's own.
const FEW: u32 = 64;

/// An endpoint that anything would eject, and a cluster that anything would declare down.
fn strict(backend: &Backend) -> Config {
    Config::new(backend)
        .set("cluster.hosp.ejection.consecutive_failures", 1)
        .set("cluster.hosp.outage_queue.max", 100)
        .set("cluster.hosp.outage_queue.enter_after", 2)
}

fn hanging() -> Backend {
    Backend::new(|request| match &*request.target {
        "/hang" => Action::hang(),
        _ => Action::answer(200, "ok"),
    })
}

fn assert_nobody_is_blamed(stent: &Stent) {
    assert!(stent.metric("stent_endpoint_ejected", &[]) < 0.5);
    assert!(stent.metric("stent_outages_total", &[]) < 0.5);
}

#[test]
fn a_flood_of_callers_takes_no_descriptor_from_healthy_requests() {
    let _alone = alone();
    let backend = Backend::healthy();
    let stent = Stent::start_with_open_files(FEW, &strict(&backend));
    let mut users: Vec<Client> = (0..4).map(|_| stent.client()).collect();
    for user in &mut users {
        assert_eq!(user.get("/").status, 200);
    }
    let flood: Vec<Client> = (0..200).map(|_| stent.client()).collect();
    stent.wait_for_metric("stent_accept_paused_total", &[], 1.0);
    let begun = Instant::now();
    while begun.elapsed() < ms(2500) {
        for user in &mut users {
            // A POST may need a connection of its own.
            assert_eq!(user.get("/").status, 200);
            assert_eq!(user.post("/", "x").status, 200);
        }
        std::thread::sleep(ms(20));
    }
    assert!(stent.metric("stent_upstream_connects_total", &[("result", "local_resource")]) < 0.5);
    assert!(stent.metric("stent_accept_errors_total", &[]) < 0.5, "accept never fails");
    assert!(stent.metric("stent_connections_evicted_total", &[("standing", "silent")]) > 10.0);
    assert!(stent.metric("process_cpu_seconds_total", &[]) < 2.0, "nothing spins");
    assert_nobody_is_blamed(&stent);
    stent.reload(&strict(&backend).set("cluster.hosp.max_connections", 7));
    drop(flood);
    assert_eq!(stent.client().get("/").status, 200);
    stent.wait_for_metric("stent_downstream_connections", &[], 4.0);
    for user in &mut users {
        assert_eq!(user.get("/").status, 200);
    }
}

#[test]
fn without_a_descriptor_for_a_connect_the_answer_is_our_503_and_blames_nobody() {
    let backend = hanging();
    let stent = Stent::start_with_open_files(FEW, &strict(&backend).retry("max_attempts", 1));
    // As many callers as there is room for, and then each wants a connection to the backend.
    let mut callers = fill(&stent);
    let all = callers.len();
    assert!(all > 16, "{all}");
    for caller in &mut callers {
        caller.send(&request("GET", "/hang", &[], b""));
    }
    let refused =
        |stent: &Stent| stent.metric("stent_requests_total", &[("code", "503"), ("origin", "proxy")]);
    let count = eventually("every request is sent or refused", || {
        let count = refused(&stent);
        let asked = backend.requests().len() as f64;
        (count + asked >= all as f64 - 0.5).then_some(count)
    });
    assert!(count >= 1.0);
    stent.wait_for_metric("stent_requests_in_flight", &[], all as f64 - count);
    assert_nobody_is_blamed(&stent);
    assert!(stent.metric("stent_upstream_connects_total", &[("result", "local_resource")]) >= count);
    backend.release(); // which breaks those that hang
    let answers: Vec<_> = callers.iter_mut().filter_map(|caller| caller.try_response().ok()).collect();
    let ours: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert!(ours.iter().all(|answer| answer.text().contains("not available at the moment")), "{ours:?}");
    assert!((ours.len() as f64 - count).abs() < 1e-9, "{}", ours.len());
    for answer in ours {
        assert_eq!(
            (answer.headers.only("retry-after"), answer.headers.only("cache-control")),
            (Some("1"), Some("no-store"))
        );
    }
    let lines = eventually("the lines of those refused", || {
        let text = std::fs::read_to_string(stent.access_log_path()).unwrap();
        let lines: Vec<String> =
            text.lines().filter(|line| line.contains("local_resource")).map(str::to_owned).collect();
        (lines.len() as f64 >= count).then_some(lines)
    });
    for line in lines {
        assert!(line.contains(r#""origin":"proxy""#) && line.contains("connection_limit_reached"), "{line}");
        assert!(line.contains(r#""delivery":"never""#), "{line}");
    }
    drop(callers);
    eventually("new callers are served", || (stent.client().get("/").status == 200).then_some(()));
    // Those that broke together may look like an outage; what was refused for want of a descriptor was none.
    assert!(stent.metric("stent_endpoint_ejected", &[]) < 0.5);
}

#[test]
fn silent_callers_give_up_their_descriptors_for_the_requests_of_others() {
    let backend = hanging();
    let stent = Stent::start_with_open_files(FEW, &strict(&backend));
    let mut callers = fill(&stent);
    // All have been silent for a second, and six of them stay so.
    std::thread::sleep(ms(1100));
    let active = callers.len() - 6;
    let room = 8; // what is sure to be left for upstream connections
    assert!(active > room, "{active}");
    // The longest silent close first, the very first of them for the caller that waited for a place.
    for (place, caller) in callers.iter_mut().rev().take(active).enumerate() {
        caller.send(&request("GET", "/hang", &[], b""));
        backend.wait_for_requests(place + 1);
    }
    // A connection that closes is counted after its descriptor is free.
    eventually("a silent caller is closed", || {
        (stent.metric("stent_connections_evicted_total", &[("standing", "silent")]) >= 1.0).then_some(())
    });
    assert!(stent.metric("stent_requests_total", &[("code", "503")]) < 0.5);
    assert_nobody_is_blamed(&stent);
}

#[test]
fn a_health_check_that_finds_no_descriptor_is_no_verdict() {
    let backend = hanging();
    let config = strict(&backend)
        .set("cluster.hosp.health_check.path", "/")
        .set("cluster.hosp.health_check.interval", "1s")
        .set("cluster.hosp.health_check.unhealthy_after", 1);
    let stent = Stent::start_with_open_files(FEW, &config);
    stent.wait_for_metric("stent_endpoint_healthy", &[], 1.0);
    let mut callers = fill(&stent);
    for caller in &mut callers {
        caller.send(&request("GET", "/hang", &[], b""));
    }
    eventually("a check without a descriptor", || {
        (stent.metric("stent_health_checks_total", &[("result", "local_resource")]) >= 1.0).then_some(())
    });
    assert!((stent.metric("stent_endpoint_healthy", &[]) - 1.0).abs() < 1e-9);
    assert_nobody_is_blamed(&stent);
}

#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let backend = Backend::healthy();
    let stent = Stent::start_after("ulimit -Sn 40; ulimit -Hn 300", &Config::new(&backend));
    assert!((stent.metric("process_max_fds", &[]) - 300.0).abs() < 0.5);
    stent.wait_for_log("a warning", |line| {
        line.contains("11024 connections") && line.contains("300 open files")
    });
}

/// Callers that have not sent anything, as many as the proxy takes at once.
fn fill(stent: &Stent) -> Vec<Client> {
    let mut callers = Vec::new();
    let open = |stent: &Stent| stent.metric("stent_downstream_connections", &[]);
    while stent.metric("stent_accept_paused_total", &[]) < 0.5 {
        callers.push(stent.client());
        let has_come = || open(stent) + 0.5 >= callers.len() as f64;
        let is_full = || stent.metric("stent_accept_paused_total", &[]) > 0.5;
        eventually("it is accepted or waits", || (has_come() || is_full()).then_some(()));
    }
    // The last one waits.
    callers.pop();
    callers
}
