//! While all of a cluster is down requests wait in the outage queue, over all workers, and get through when it is back.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::support::client::request;
use crate::support::record::{Attempt, Line};
use crate::support::stent::Signal;
use crate::support::{Action, Backend, Client, Config, Stent, alone, eventually, ms};

/// The waits of the defaults, two workers, and four attempts.
fn config(backend: &Backend) -> Config {
    Config::new(backend)
        .set("server.workers", 2)
        .retry("max_attempts", 4)
        .retry("backoff.mode", "adaptive")
        .retry("backoff.base", "100ms")
        .retry("backoff.factor", 2.0)
        .retry("backoff.max", "2s")
        .retry("backoff.jitter", "equal")
        .set("cluster.hosp.outage_queue.max", 1024)
}

/// A backend whose answers have this status until it is set to another.
fn switched(status: u16) -> (Backend, Arc<AtomicU16>) {
    let now = Arc::new(AtomicU16::new(status));
    let status = now.clone();
    (Backend::new(move |_| Action::answer(status.load(Ordering::Relaxed), "said")), now)
}

/// Sends a request every 10 ms for this long, each by a caller of its own, while `meanwhile` goes on; those that did not
/// get 200.
fn load(stent: &Stent, count: u32, method: fn(u32) -> &'static str, meanwhile: impl FnOnce()) -> Vec<String> {
    let address = stent.listener();
    let start = Instant::now();
    let callers: Vec<_> = (0..count)
        .map(|number| {
            std::thread::spawn(move || {
                std::thread::sleep((start + ms(10) * number).saturating_duration_since(Instant::now()));
                let method = method(number);
                let body: &[u8] = if method == "GET" { b"" } else { b"x" };
                let path = format!("/{number}");
                let response =
                    Client::connect(address).request(method, &path, &[("Connection", "close")], body);
                (response.status != 200).then(|| format!("{method} {path}: {}", response.status))
            })
        })
        .collect();
    meanwhile();
    callers.into_iter().filter_map(|caller| caller.join().unwrap()).collect()
}

/// Spends requests on a cluster that is down, until the outage queue is in force, and says how many. They are POSTs, which do not
/// wait there for a retry.
fn find_down(stent: &Stent) -> usize {
    let mut requests = 0;
    eventually("the outage", || {
        assert_eq!(stent.client().post("/", "x").status, 502);
        requests += 1;
        (stent.metric("stent_outage", &[("cluster", "hosp")]) > 0.5).then_some(requests)
    })
}

#[test]
fn answers_that_are_bad_for_400_ms_cost_no_request_and_few_attempts() {
    let _alone = alone();
    let (backend, status) = switched(200);
    let stent = Stent::start(&config(&backend));
    let lost = load(
        &stent,
        250,
        |_| "GET",
        || {
            backend.wait_for_requests(100);
            status.store(502, Ordering::Relaxed);
            std::thread::sleep(ms(400));
            status.store(200, Ordering::Relaxed);
        },
    );
    assert!(lost.is_empty(), "{lost:?}");
    let attempts = backend.requests().len();
    assert!(attempts <= 287, "{attempts} attempts for 250 requests, more than 1.15 each");
    assert!(stent.metric("stent_outage_queue_total", &[("result", "served")]) >= 20.0);
    stent.wait_for_metric("stent_outage", &[], 0.0);
    stent.wait_for_metric("stent_outage_queue_waiting", &[], 0.0);
    let lines = stent.access_log(250);
    let waited = |line: &&Line| line.has_number("outage_wait_us");
    assert!(lines.iter().filter(waited).all(|line| line.number("outage_wait_us") < 2e6));
    assert!(lines.iter().filter(waited).count() >= 20);
}

#[test]
fn connections_refused_for_300_ms_cost_no_request_and_send_no_post_twice() {
    let _alone = alone();
    let backend = Backend::healthy();
    let stent = Stent::start(&config(&backend));
    let method = |number| if number % 2 == 0 { "POST" } else { "GET" };
    let lost = load(&stent, 200, method, || {
        backend.wait_for_requests(70);
        backend.stop();
        std::thread::sleep(ms(300));
        backend.start();
    });
    assert!(lost.iter().all(|lost| lost.starts_with("POST")), "{lost:?}");
    // What it was at work on when it stopped is cut off, and a POST among that may not be sent again.
    let lines = stent.access_log(200);
    let cut_off = lines.iter().filter(|line| {
        line.text("method") == Some("POST")
            && line.attempts().iter().any(|attempt| attempt.delivery == "maybe")
    });
    assert_eq!(lost.len(), cut_off.count(), "lost although nothing was sent: {lost:?}");
    assert_no_post_was_sent_twice(&backend);
    assert!(stent.metric("stent_outage_queue_total", &[("result", "served")]) >= 10.0);
}

#[test]
fn a_full_line_gives_each_its_one_plain_attempt_and_a_caller_who_leaves_frees_a_place() {
    let (backend, _) = switched(502);
    let config = config(&backend)
        .backoff("3s")
        .set("cluster.hosp.outage_queue.max", 1)
        .set("cluster.hosp.outage_queue.enter_after", 2)
        .retry("max_attempts", 3)
        .set("route.deadline", "8s");
    let stent = Stent::start(&config);
    let before = find_down(&stent);
    let mut first = stent.client();
    first.send(&request("GET", "/waits", &[], b""));
    stent.wait_for_metric("stent_outage_queue_waiting", &[("cluster", "hosp")], 1.0);
    let (start, seen) = (Instant::now(), backend.requests().len());
    let response = stent.client().get("/full");
    assert!(start.elapsed() < ms(1000), "{:?}", start.elapsed());
    assert_eq!((response.status, backend.requests().len()), (502, seen + 1), "the backend's own answer");
    stent.wait_for_metric("stent_outage_queue_total", &[("result", "tried")], 1.0);
    let tried = &stent.access_log(before + 1)[before];
    assert_eq!((tried.text("origin"), tried.text("retry_stopped")), (Some("upstream"), Some("outage")));

    // The caller who leaves frees the place.
    drop(first);
    stent.wait_for_metric("stent_outage_queue_waiting", &[], 0.0);
    stent.wait_for_metric("stent_outage_queue_total", &[("result", "left")], 1.0);
    let mut second = stent.client();
    second.send(&request("GET", "/waits", &[], b""));
    stent.wait_for_metric("stent_outage_queue_waiting", &[], 1.0);
}

#[test]
fn one_that_waits_in_vain_is_tried_once_before_its_deadline() {
    let (backend, _) = switched(502);
    let config = config(&backend)
        .backoff("5s")
        .set("cluster.hosp.outage_queue.enter_after", 2)
        .retry("max_attempts", 1)
        .set("route.deadline", "1s");
    let stent = Stent::start(&config);
    find_down(&stent);
    let (start, before) = (Instant::now(), backend.requests().len());
    assert_eq!(stent.client().get("/").status, 502, "and not a 503 of ours");
    assert!((ms(200)..ms(900)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(backend.requests().len(), before + 1);
}

#[test]
fn a_path_that_always_fails_takes_nothing_from_a_path_that_works() {
    for endpoints in 1..=2 {
        let backends: Vec<_> = (0..endpoints)
            .map(|_| {
                Backend::new(|request| match request.target.as_str() {
                    "/bad" => Action::answer(500, "bad"),
                    _ => Action::answer(200, "good").after(ms(5)),
                })
            })
            .collect();
        let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
        let config = Config::with_endpoints(&addresses)
            .set("server.workers", 2)
            .set("cluster.hosp.outage_queue.max", 1024)
            .retry("max_attempts", 3);
        let stent = Stent::start(&config);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut client = stent.client();
                    while !done.load(Ordering::Relaxed) {
                        assert_eq!(client.get("/bad").status, 500);
                    }
                });
            }
            let mut client = stent.client();
            let took: Vec<_> = (0..200)
                .map(|_| {
                    let start = Instant::now();
                    assert_eq!(client.get("/good").status, 200);
                    start.elapsed()
                })
                .collect();
            done.store(true, Ordering::Relaxed);
            // A false alarm costs one probe of its own; a busy machine has its share.
            assert!(took.iter().all(|took| *took < ms(1000)), "{:?}", took.iter().max());
            assert!(took.iter().filter(|took| **took > ms(100)).count() <= 4, "{took:?}");
        });
        assert!(stent.metric("stent_retry_stopped_total", &[("why", "futile")]) > 10.0);
        assert!(stent.metric("stent_endpoint_ejected", &[]) < 0.5, "no endpoint is to blame");
    }
}

#[test]
fn those_in_line_are_served_while_the_process_drains() {
    let (backend, status) = switched(502);
    let config = config(&backend)
        .backoff("300ms")
        .retry("max_attempts", 2)
        .set("cluster.hosp.outage_queue.enter_after", 2);
    let mut stent = Stent::start(&config);
    find_down(&stent);
    let mut waiting: Vec<Client> = (0..6).map(|_| stent.client()).collect();
    for client in &mut waiting {
        client.send(&request("GET", "/waits", &[], b""));
    }
    stent.wait_for_metric("stent_outage_queue_waiting", &[], 6.0);
    stent.signal(Signal::Terminate);
    status.store(200, Ordering::Relaxed);
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    drop(waiting);
    assert!(stent.wait_exit().success());
}

#[test]
fn independent_failures_practically_never_form_a_line() {
    let _alone = alone();
    let count = std::sync::atomic::AtomicU64::new(0);
    let backend = Backend::new(move |_| {
        let mut random = fastrand::Rng::with_seed(count.fetch_add(1, Ordering::Relaxed));
        Action::answer(if random.f64() < 0.3 { 502 } else { 200 }, "said")
    });
    let config = config(&backend).backoff("5ms").retry("max_attempts", 8);
    let stent = Stent::start(&config);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let mut client = stent.client();
            std::thread::spawn(move || (0..500).filter(|_| client.get("/").status != 200).count())
        })
        .collect();
    let lost: usize = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert!(lost <= 1, "{lost} of 2000");
    let outages = stent.metric("stent_outages_total", &[("cluster", "hosp")]);
    assert!(outages <= 4.0, "{outages} false alarms");
}

#[test]
fn an_endpoint_that_always_fails_beside_a_good_one_is_no_outage() {
    let failing = Backend::new(|_| Action::answer(500, ""));
    let working = Backend::new(|_| Action::answer(200, "").after(ms(20)));
    let config = Config::with_endpoints(&[failing.address(), working.address()])
        .set("server.workers", 2)
        .set("cluster.hosp.outage_queue.max", 1024);
    let stent = Stent::start(&config);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let mut client = stent.client();
            std::thread::spawn(move || (0..20).all(|_| client.get("/").status == 200))
        })
        .collect();
    assert!(callers.into_iter().all(|caller| caller.join().unwrap()));
    assert!(stent.metric("stent_outages_total", &[]) < 0.5);
}

#[test]
fn those_in_line_are_served_though_a_reload_replaces_their_cluster() {
    let (backend, status) = switched(502);
    let config = config(&backend)
        .backoff("300ms")
        .retry("max_attempts", 2)
        .set("cluster.hosp.outage_queue.enter_after", 2);
    let stent = Stent::start(&config);
    let before = find_down(&stent);
    let mut client = stent.client();
    client.send(&request("POST", "/waits", &[], b"x"));
    stent.wait_for_metric("stent_outage_queue_waiting", &[], 1.0);
    stent.reload(&config.set("cluster.hosp.body_timeout", "30s"));
    status.store(200, Ordering::Relaxed);
    assert_eq!(client.response().status, 200);
    let waited = stent.access_log(before + 1)[before].number("outage_wait_us");
    assert!((1.0..5e6).contains(&waited), "{waited}");
    assert!(stent.metric("stent_outage", &[]) < 0.5, "the new cluster knows nothing bad");
}

/// Kinds that always fail, that fail by chance and that never do, slow ones, POSTs, and outages of all of them.
#[test]
fn requests_of_many_kinds_with_random_faults_leave_nothing_behind_and_no_post_goes_twice() {
    let _alone = alone();
    let (begun, random) = (Instant::now(), Mutex::new(fastrand::Rng::with_seed(21)));
    let backend = Backend::new(move |request| {
        let is_outage = begun.elapsed().as_millis() % 300 > 220;
        let chance = random.lock().unwrap().u32(0..100);
        match (request.target.split('/').nth(1), chance) {
            _ if is_outage => Action::answer(502, "down"),
            (Some("bad"), _) => Action::answer(500, "always"),
            (Some("slow"), 0..20) => Action::answer(200, "slow").after(ms(90)),
            (Some("slow"), 20..25) => Action::hang(),
            (_, 0..5) => Action::answer(502, "by chance"),
            (_, 5..8) => Action::reset(),
            _ => Action::answer(200, "good"),
        }
    });
    let config = config(&backend)
        .retry("backoff.base", "20ms")
        .retry("per_try_timeout", "60ms")
        .set("route.deadline", "3s")
        .set("cluster.hosp.admission.limit", "off");
    let stent = Stent::start(&config);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let stent = &stent;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                let mut client = stent.client();
                for turn in 0..150 {
                    let kind = ["good", "bad", "slow", "flaky", "patients"][random.usize(..5)];
                    let path = format!("/{kind}/{number}-{turn}");
                    let response =
                        if random.u32(..5) == 0 { client.post(&path, "x") } else { client.get(&path) };
                    assert!(!response.truncated, "{response:?}");
                    if response.closes() {
                        client = stent.client();
                    }
                }
            });
        }
    });
    let lines = stent.access_log(1200);
    assert!(lines.iter().all(|line| line.attempts().len() <= 16));
    let has_its_share = |line: &Line| {
        let is_free = |attempt: &Attempt| attempt.delivery == "never";
        line.attempts().len() <= 4 || line.attempts().iter().any(is_free)
    };
    assert!(lines.iter().all(has_its_share), "more than `max_attempts`, and all of them sent");
    for gauge in ["stent_outage_queue_waiting", "stent_requests_in_flight"] {
        stent.wait_for_metric(gauge, &[], 0.0);
    }
    assert_no_post_was_sent_twice(&backend);
    assert!(stent.metric("stent_outages_total", &[]) >= 1.0);
    assert!(stent.metric("stent_hedges_total", &[]) >= 1.0, "something ran beside a slow attempt");
    // What was found out in all that ends with the faults.
    assert!(stent.metric("stent_requests_total", &[("code", "503"), ("origin", "proxy")]) < 20.0);
}

fn assert_no_post_was_sent_twice(backend: &Backend) {
    let mut posts: Vec<_> = backend
        .requests()
        .into_iter()
        .filter(|request| request.method == "POST")
        .map(|post| post.target)
        .collect();
    let count = posts.len();
    posts.sort_unstable();
    posts.dedup();
    assert_eq!(count, posts.len(), "a POST was sent twice");
}
