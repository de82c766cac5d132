//! A cluster gets what it carries and no more; what is over that waits, or is refused at no cost to the backend.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, alone, eventually, ms};

fn config(backend: &Backend) -> Config {
    Config::new(backend).set("server.workers", 2).backoff("10ms")
}

/// One server that takes `each` for an answer, lets whatever comes wait, and works on for callers that have left.
fn one_server(each: Duration) -> Backend {
    let free_at = Mutex::new(Instant::now());
    Backend::new(move |_| {
        let now = Instant::now();
        let mut free_at = free_at.lock().unwrap();
        *free_at = now.max(*free_at) + each;
        Action::answer(200, "ok").after(*free_at - now)
    })
}

/// A GET of its own connection, in a thread of its own.
fn get(stent: &Stent, path: &str) -> std::thread::JoinHandle<(crate::support::Response, Duration)> {
    let (address, path) = (stent.listener(), path.to_owned());
    std::thread::spawn(move || {
        let start = Instant::now();
        let response = Client::connect(address).request("GET", &path, &[("Connection", "close")], b"");
        (response, start.elapsed())
    })
}

#[test]
fn asked_for_twice_what_it_carries_a_cluster_gives_what_it_carries_and_recovers_at_once() {
    let _alone = alone();
    let backend = one_server(ms(10));
    let stent = Stent::start(&config(&backend).set("cluster.hosp.admission.queue_time", "500ms"));
    // So that it is known what is usual.
    let mut client = stent.client();
    (0..150).for_each(|_| assert_eq!(client.get("/").status, 200));
    let before = backend.requests().len();
    let start = Instant::now();
    let callers: Vec<_> = (0..800)
        .map(|number| {
            let address = stent.listener();
            std::thread::spawn(move || {
                // Users do not wait for each other.
                std::thread::sleep((start + ms(5) * number).saturating_duration_since(Instant::now()));
                Client::connect(address).request("GET", "/", &[("Connection", "close")], b"")
            })
        })
        .collect();
    let responses: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let good = responses.iter().filter(|response| response.status == 200).count();
    let capacity = 100.0 * start.elapsed().as_secs_f64();
    // How near it comes is shown by simulation: a machine that is busy otherwise stops the backend as well.
    assert!(good as f64 >= 0.3 * capacity, "{good} of {capacity}");
    let refused: Vec<_> = responses.iter().filter(|response| response.status != 200).collect();
    assert!(refused.len() > 50, "{}", refused.len());
    for response in &refused {
        assert_eq!((response.status, response.headers.has("retry-after")), (503, true), "{response:?}");
    }
    assert_eq!(backend.requests().len() - before, good, "what is refused costs the backend nothing");
    let response = stent.client().get("/");
    assert_eq!(response.status, 200);
    assert!(stent.metric("stent_endpoint_ejected", &[]).abs() < 1e-9);
    assert!(stent.metric("stent_outages_total", &[]).abs() < 1e-9);
}

#[test]
fn a_cluster_that_answers_well_is_never_refused_anything() {
    let backend = Backend::healthy();
    let stent = Stent::start(&config(&backend));
    let address = stent.listener();
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                (0..200).for_each(|_| assert_eq!(client.get("/").status, 200));
            });
        }
    });
    let metrics = stent.metrics();
    assert!(metrics.sum("stent_admission_refused_total", &[]).abs() < 1e-9);
    stent.wait_for_metric("stent_admission_in_flight", &[("cluster", "hosp")], 0.0);
    assert!(metrics.sum("stent_admission_waiting", &[]).abs() < 1e-9);
}

#[test]
fn a_number_is_kept_to_over_all_workers() {
    let backend = Backend::new(|_| Action::answer(200, "ok").after(ms(40)));
    let stent = Stent::start(
        &config(&backend)
            .set("cluster.hosp.admission.limit", 5)
            .set("cluster.hosp.admission.queue_time", "10s"),
    );
    let callers: Vec<_> = (0..40).map(|number| get(&stent, &format!("/{number}"))).collect();
    for caller in callers {
        assert_eq!(caller.join().unwrap().0.status, 200);
    }
    let arrived: Vec<_> = backend.requests().iter().map(|request| request.arrived).collect();
    // The sixth came when the first had its answer. Threads note the time a little late.
    for pair in arrived.windows(6) {
        assert!(pair[5] - pair[0] >= ms(20), "{:?}", pair[5] - pair[0]);
    }
    assert!(stent.metric("stent_admission_waits_total", &[("result", "served")]) >= 30.0);
    assert!((stent.metric("stent_admission_limit", &[]) - 5.0).abs() < 1e-9);
    let waited = stent.access_log(40).iter().filter(|line| line.has_number("admission_wait_us")).count();
    assert!(waited >= 30, "{waited}");
}

#[test]
fn what_is_refused_is_told_when_to_come_again_and_is_nobodys_failure() {
    let backend = Backend::scripted([Action::hang()]);
    let stent = Stent::start(
        &config(&backend).set("cluster.hosp.admission.limit", 1).set("cluster.hosp.admission.queue", 0),
    );
    let first = get(&stent, "/first");
    backend.wait_for_requests(1);
    let (response, _) = get(&stent, "/second").join().unwrap();
    assert_eq!((response.status, response.headers.only("retry-after")), (503, Some("1")));
    let line = stent.only_line();
    assert_eq!((line.text("origin"), line.text("error")), (Some("proxy"), Some("connection_limit_reached")));
    assert!(line.attempts().is_empty());
    assert_eq!(backend.requests().len(), 1);
    assert!((stent.metric("stent_admission_refused_total", &[("reason", "full")]) - 1.0).abs() < 1e-9);
    backend.release();
    first.join().unwrap();
    assert_eq!(stent.client().get("/").status, 200);
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let backend = Backend::scripted([Action::hang()]);
    let stent = Stent::start(
        &config(&backend)
            .set("cluster.hosp.admission.limit", 1)
            .set("cluster.hosp.admission.queue_time", "20s")
            .set("route.deadline", "700ms"),
    );
    let first = get(&stent, "/first");
    backend.wait_for_requests(1);
    let (response, took) = get(&stent, "/second").join().unwrap();
    assert_eq!(response.status, 503);
    assert!((ms(500)..ms(3000)).contains(&took), "{took:?}");
    backend.release();
    first.join().unwrap();
}

#[test]
fn a_retry_gives_way_to_those_who_wait_for_their_first_attempt() {
    let backend = Backend::scripted([
        Action::answer(502, "bad").after(ms(700)),
        Action::answer(200, "ok").after(ms(300)),
    ]);
    let stent = Stent::start(
        &config(&backend)
            .set("cluster.hosp.admission.limit", 1)
            .set("cluster.hosp.admission.queue_time", "10s"),
    );
    let first = get(&stent, "/first");
    backend.wait_for_requests(1);
    let others = [get(&stent, "/second"), get(&stent, "/third")];
    stent.wait_for_metric("stent_admission_waiting", &[], 2.0);
    let (response, _) = first.join().unwrap();
    assert_eq!((response.status, response.text().as_str()), (502, "bad"));
    for other in others {
        assert_eq!(other.join().unwrap().0.status, 200);
    }
    assert_eq!(backend.requests().len(), 3);
    let lines = stent.access_log(3);
    assert_eq!(lines.iter().filter(|line| line.text("retry_stopped") == Some("overloaded")).count(), 1);
    assert!((stent.metric("stent_admission_refused_total", &[("reason", "retry")]) - 1.0).abs() < 1e-9);
}

#[test]
fn an_attempt_that_timed_out_counts_until_the_backend_lets_go_of_it() {
    let backend = Backend::scripted([Action::hang()]);
    let stent = Stent::start(
        &config(&backend)
            .set("cluster.hosp.admission.limit", 1)
            .set("cluster.hosp.admission.queue_time", "300ms")
            .set("route.deadline", "500ms"),
    );
    assert_eq!(stent.client().request("PUT", "/first", &[], b"x").status, 504);
    // The next one finds the place taken.
    assert_eq!(stent.client().get("/").status, 503);
    assert_eq!(backend.requests().len(), 1);
    stent.wait_for_metric("stent_admission_lingering", &[("cluster", "hosp")], 1.0);
    stent.wait_for_metric("stent_admission_in_flight", &[("cluster", "hosp")], 1.0);
    backend.release();
    stent.wait_for_metric("stent_admission_in_flight", &[("cluster", "hosp")], 0.0);
    stent.wait_for_metric("stent_admission_lingering", &[("cluster", "hosp")], 0.0);
    backend.wait_until_closed(1);
    assert_eq!(stent.client().get("/").status, 200);
}

#[test]
fn what_a_caller_leaves_behind_counts_until_the_backend_lets_go_of_it() {
    let backend = Backend::scripted([Action::hang()]);
    let stent = Stent::start(&config(&backend).set("cluster.hosp.admission.limit", 1));
    let mut caller = stent.client();
    caller.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    drop(caller);
    stent.wait_for_metric("stent_admission_lingering", &[("cluster", "hosp")], 1.0);
    backend.release();
    stent.wait_for_metric("stent_admission_in_flight", &[("cluster", "hosp")], 0.0);
    assert_eq!(stent.client().get("/").status, 200);
}

#[test]
fn whatever_becomes_of_attempts_every_place_comes_back() {
    let random = Mutex::new(fastrand::Rng::with_seed(5));
    let backend = Backend::new(move |_| match random.lock().unwrap().u8(0..20) {
        0 => Action::hang(),
        1 => Action::reset(),
        2 => Action::close(),
        3 => Action::garbage(),
        4 => Action::truncated(100, 1000),
        5 | 6 => Action::answer(502, "bad"),
        7 => Action::answer(200, "late").after(ms(80)),
        _ => Action::answer(200, "ok").after(ms(2)),
    });
    let config = config(&backend)
        .set("cluster.hosp.admission.limit", 6)
        .set("cluster.hosp.admission.queue_time", "100ms")
        .set("route.deadline", "500ms")
        .retry("per_try_timeout", "50ms");
    let mut stent = Stent::start(&config);
    let address = stent.listener();
    std::thread::scope(|scope| {
        for caller in 0..16u64 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(caller);
                for _ in 0..60 {
                    let mut client = Client::connect(address);
                    client.send(&request("GET", "/", &[("Connection", "close")], b""));
                    if random.u8(0..10) > 0 {
                        client.response();
                    }
                }
            });
        }
    });
    backend.release();
    eventually("no places taken", || {
        let metrics = stent.metrics();
        let names = ["in_flight", "waiting", "lingering"].map(|name| format!("stent_admission_{name}"));
        let left: f64 = names.iter().map(|name| metrics.sum(name, &[]).abs()).sum();
        (left < 1e-9).then_some(())
    });
    assert!(stent.client().get("/").status > 0);
    stent.signal(crate::support::stent::Signal::Terminate);
    assert!(stent.wait_exit().success());
}
