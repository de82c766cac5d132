//! What happens when there are more callers, connections or files than are allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, ms};

#[test]
fn callers_over_max_connections_wait_and_are_served_when_one_leaves() {
    let backend = Backend::new(|request| match &*request.target {
        "/hang" => Action::hang(),
        _ => Action::answer(200, "ok"),
    });
    let config = Config::new(&backend).set("listener.max_connections", 2);
    let stent = Stent::start(&config);
    let mut inside = [stent.client(), stent.client()];
    for client in &mut inside {
        client.send(&request("GET", "/hang", &[], b""));
    }
    backend.wait_for_requests(2);
    let [mut third, mut fourth] = [stent.client(), stent.client()];
    third.send(&request("GET", "/hang", &[], b""));
    fourth.send(&request("GET", "/fourth", &[], b""));
    stent.wait_for_metric("stent_accept_paused_total", &[], 1.0);
    stent.wait_for_metric("stent_downstream_connections", &[], 2.0);
    assert_eq!(backend.requests().len(), 2, "those who wait have no connection yet");
    let [first, _second] = inside;
    drop(first);
    assert_eq!(backend.wait_for_requests(3).len(), 3, "the third has the place of the first");
    stent.wait_for_metric("stent_accept_paused_total", &[], 2.0);
    stent.reload(&config.set("listener.max_connections", 3));
    assert_eq!(fourth.response().status, 200, "a reload that allows more lets more in");
}

#[test]
fn max_connections_of_a_cluster_holds_over_all_workers() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let backend = Backend::new({
        let (running, most) = (running, most.clone());
        move |_| {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            std::thread::sleep(ms(80));
            running.fetch_sub(1, Ordering::Relaxed);
            Action::answer(200, "ok")
        }
    });
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .set("cluster.hosp.max_connections", 2)
        .set("cluster.hosp.connection_wait", "5s");
    let stent = Stent::start(&config);
    let mut clients: Vec<Client> = (0..6).map(|_| stent.client()).collect();
    for round in 1..=2 {
        for client in &mut clients {
            client.send(&request("GET", "/", &[], b""));
        }
        assert!(stent.metric("stent_upstream_connections", &[]) <= 2.0);
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        assert_eq!(most.load(Ordering::Relaxed), 2, "two at a time, in round {round}");
    }
    let waits = |result| stent.metric("stent_upstream_connection_waits_total", &[("result", result)]);
    assert!(waits("ok") >= 4.0, "{}", waits("ok"));
    assert!(waits("refused") < 0.5, "{}", waits("refused"));
    assert!(stent.access_log(12).iter().all(|line| line.results() == ["200"]));
}

#[test]
fn a_wait_for_a_connection_ends_after_connection_wait_in_our_503_that_blames_no_endpoint() {
    let hanging = || {
        Backend::new(|request| match &*request.target {
            "/hang" => Action::hang(),
            _ => Action::answer(200, "ok"),
        })
    };
    let backends = [hanging(), hanging()];
    let config = Config::with_endpoints(&[backends[0].address(), backends[1].address()])
        .set("cluster.hosp.balance", "round_robin")
        .set("cluster.hosp.max_connections", 1)
        .set("cluster.hosp.connection_wait", "150ms")
        .set("cluster.hosp.ejection.consecutive_failures", 1);
    let stent = Stent::start(&config);
    let mut holders = [stent.client(), stent.client()];
    for (holder, backend) in holders.iter_mut().zip(&backends) {
        holder.send(&request("GET", "/hang", &[], b""));
        backend.wait_for_requests(1);
    }
    let mut client = stent.client();
    for _ in 0..2 {
        let start = Instant::now();
        let response = client.get("/");
        let took = start.elapsed();
        assert_eq!((response.status, response.headers.only("cache-control")), (503, Some("no-store")));
        assert!((ms(145)..ms(1000)).contains(&took), "{took:?}");
    }
    for line in stent.access_log(2) {
        assert_eq!(
            (line.text("origin"), line.text("error")),
            (Some("proxy"), Some("connection_limit_reached"))
        );
        assert_eq!(line.results(), ["connection_limit"], "a full pool is no reason to ask again");
        assert_eq!(line.attempts()[0].delivery, "never");
    }
    stent.wait_for_metric("stent_requests_total", &[("code", "503"), ("origin", "proxy")], 2.0);
    stent.wait_for_metric("stent_upstream_connection_waits_total", &[("result", "refused")], 2.0);
    stent.wait_for_metric("stent_endpoint_ejected", &[], 0.0);
    drop(holders);
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    assert!(backends.iter().all(|backend| backend.requests().len() == 3), "both are in balancing");
}

#[test]
fn max_waiting_bounds_the_queue_for_connections() {
    let backend = Backend::new(|request| match &*request.target {
        "/hang" => Action::hang(),
        _ => Action::answer(200, "ok"),
    });
    let config = Config::new(&backend)
        .set("cluster.hosp.max_connections", 1)
        .set("cluster.hosp.max_waiting", 2)
        .set("cluster.hosp.connection_wait", "8s");
    let stent = Stent::start(&config);
    let mut holder = stent.client();
    holder.send(&request("GET", "/hang", &[], b""));
    backend.wait_for_requests(1);
    let mut waiting = [stent.client(), stent.client()];
    for client in &mut waiting {
        client.send(&request("GET", "/", &[], b""));
    }
    stent.wait_for_metric("stent_requests_in_flight", &[], 3.0);
    let start = Instant::now();
    assert_eq!(stent.client().get("/").status, 503);
    assert!(start.elapsed() < ms(1000), "the queue was full already: {:?}", start.elapsed());
    drop(holder);
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    stent.wait_for_metric("stent_upstream_connection_waits_total", &[("result", "ok")], 2.0);
    assert_eq!(stent.client().get("/").status, 200);
}

#[test]
fn a_pooled_connection_older_than_idle_timeout_is_closed_and_not_used_again() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.idle_timeout", "1200ms"));
    let mut client = stent.client();
    for _ in 0..5 {
        assert_eq!(client.get("/").status, 200);
        std::thread::sleep(ms(300));
    }
    assert_eq!(backend.connections(), 1, "use makes a connection young again");
    // Idle connections are looked at twice in `idle_timeout`: this is past it, and may be before the next look.
    std::thread::sleep(ms(1000));
    let start = Instant::now();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(backend.connections(), 2);
    stent.wait_for_metric("stent_upstream_connections", &[("state", "idle")], 1.0);
    stent.wait_for_metric("stent_upstream_connections", &[("state", "idle")], 0.0);
    assert!((ms(1195)..ms(4500)).contains(&start.elapsed()), "{:?}", start.elapsed());
    backend.wait_until_closed(2);
}

#[test]
fn one_worker_does_not_keep_all_of_max_connections_from_another() {
    let backend = Backend::new(|_| Action::answer(200, "ok").after(ms(40)));
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .set("cluster.hosp.max_connections", 2)
        .set("cluster.hosp.connection_wait", "2s");
    let stent = Stent::start(&config);
    // They go to the two workers in turn, so that each half of them has a worker to itself.
    let mut clients: Vec<Client> = (0..8).map(|_| stent.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let (one, other): (Vec<_>, Vec<_>) =
        clients.into_iter().enumerate().partition(|(place, _)| place % 2 == 0);
    let until = Instant::now() + ms(1500);
    let ask = move |mut client: Client| {
        let mut refused = 0;
        while Instant::now() < until {
            refused += usize::from(client.get("/").status == 503);
        }
        refused
    };
    let refused = std::thread::scope(|scope| {
        let mut callers: Vec<_> =
            one.into_iter().map(|(_, client)| scope.spawn(move || ask(client))).collect();
        backend.wait_for_requests(8 + 8);
        callers.extend(other.into_iter().map(|(_, client)| scope.spawn(move || ask(client))));
        callers.into_iter().map(|caller| caller.join().unwrap()).sum::<usize>()
    });
    // Eight callers and two connections make a wait of three answers for each, a small part of what is allowed.
    assert_eq!(refused, 0, "a wait in turn is over long before connection_wait");
}
