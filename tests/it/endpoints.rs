//! Which endpoints a cluster has, and which of them are in balancing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, eventually, ms};

#[test]
fn every_address_of_a_host_name_is_an_endpoint() {
    let backend = Backend::healthy();
    let url = format!("http://localhost:{}", backend.address().port());
    let config = Config::new(&backend)
        .set("cluster.hosp.endpoints", vec![url])
        .set("cluster.hosp.dns_refresh", "100ms");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    let looked_up = |least: f64| {
        let labels = [("cluster", "hosp"), ("result", "ok")];
        (stent.metric("stent_dns_lookups_total", &labels) >= least).then_some(())
    };
    for round in 1..=3 {
        // Where `localhost` is ::1 too nobody listens there, and a refused attempt goes on to the next endpoint.
        assert_eq!(client.put("/", "found").status, 200);
        eventually("another look-up", || looked_up(f64::from(round)));
    }
    let endpoint = backend.address().to_string();
    assert!(stent.access_log(3).iter().all(|line| line.attempts().last().unwrap().endpoint == endpoint));
    assert_eq!(backend.connections(), 1, "an address that stays keeps its connections");
    assert!(stent.metric("stent_dns_lookups_total", &[("result", "error")]) < 0.5);
}

#[test]
fn a_reload_that_makes_a_cluster_of_names_anew_leaves_no_request_without_an_endpoint() {
    let backend = Backend::healthy();
    let url = format!("http://localhost:{}", backend.address().port());
    let config = |timeout| {
        Config::new(&backend)
            .set("cluster.hosp.endpoints", vec![url.clone()])
            .set("cluster.hosp.connect_timeout", timeout)
    };
    let stent = Stent::start(&config("1s"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = stent.client();
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/").status, 200);
                }
            });
        }
        for round in 0..20 {
            stent.reload(&config(if round % 2 == 0 { "2s" } else { "1s" }));
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_reload_to_a_name_that_does_not_resolve_is_refused_where_the_cluster_works() {
    let backend = Backend::healthy();
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    let lost = config.clone().set("cluster.hosp.endpoints", vec!["http://nowhere.invalid:8080"]);
    stent.reload_text(&lost.text(&stent.access_log_path()));
    stent.wait_for_metric("stent_config_last_reload_successful", &[], 0.0);
    assert_eq!(stent.client().get("/").status, 200);
    stent.reload(&config);
}

#[test]
fn a_name_that_does_not_resolve_is_looked_up_again_and_counted() {
    let backend = Backend::healthy();
    let config = Config::new(&backend)
        .set("cluster.hosp.endpoints", vec!["http://nowhere.invalid:8080"])
        .set("cluster.hosp.dns_refresh", "100ms");
    let stent = Stent::start(&config);
    eventually("three look-ups", || {
        (stent.metric("stent_dns_lookups_total", &[("result", "error")]) >= 3.0).then_some(())
    });
    assert_eq!(stent.client().get("/").status, 502);
    assert_eq!(stent.only_line().text("error"), Some("dns_error"));
    assert_eq!(stent.admin_get("/readyz").status, 200, "other clusters are none the worse");
}

#[test]
fn a_name_that_does_not_resolve_leaves_the_other_endpoints_of_its_cluster_in_use() {
    let backend = Backend::healthy();
    let urls = vec!["http://nowhere.invalid:8080".to_owned(), format!("http://{}", backend.address())];
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.endpoints", urls));
    let mut client = stent.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    assert!(stent.access_log(4).iter().all(|line| line.results() == ["200"]));
}

/// One endpoint answers 500 until it is mended, the other well until it is broken.
struct Pair {
    failing: Backend,
    working: Backend,
    mended: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    stent: Stent,
    client: Client,
}

impl Pair {
    fn start(open: &str) -> Self {
        let mended = Arc::new(AtomicBool::new(false));
        let failing = Backend::new({
            let mended = mended.clone();
            move |_| {
                if mended.load(Ordering::Relaxed) {
                    Action::answer(200, "mended").after(ms(250))
                } else {
                    Action::answer(500, "")
                }
            }
        });
        let broken = Arc::new(AtomicBool::new(false));
        let working = Backend::new({
            let broken = broken.clone();
            move |_| Action::answer(if broken.load(Ordering::Relaxed) { 500 } else { 200 }, "")
        });
        let stent = Stent::start(&Self::config(&failing, &working, open));
        Self { client: stent.client(), failing, working, mended, broken, stent }
    }

    fn config(failing: &Backend, working: &Backend, open: &str) -> Config {
        Config::with_endpoints(&[failing.address(), working.address()])
            .set("server.workers", 2)
            .set("cluster.hosp.balance", "round_robin")
            .set("cluster.hosp.ejection.consecutive_failures", 3)
            .set("cluster.hosp.ejection.time", open)
    }

    /// Sends requests until the failing endpoint is out of balancing.
    fn eject(&mut self) {
        for _ in 0..10 {
            assert_eq!(self.client.get("/").status, 200);
        }
        assert_eq!(self.failing.requests().len(), 3, "not one more than consecutive_failures");
        assert!(self.is_ejected());
    }

    fn is_ejected(&self) -> bool {
        let endpoint = self.failing.address().to_string();
        self.stent.metric("stent_endpoint_ejected", &[("endpoint", &endpoint)]) > 0.5
    }
}

#[test]
fn an_ejected_endpoint_that_works_again_is_found_when_the_others_fail() {
    type Ask = fn(&mut Client) -> u16;
    let get: Ask = |client| client.get("/").status;
    let post: Ask = |client| client.post("/", "once").status;
    for ask in [get, post] {
        let mut pair = Pair::start("5m");
        pair.eject();
        pair.mended.store(true, Ordering::Relaxed);
        pair.broken.store(true, Ordering::Relaxed);
        eventually("an answer of the mended one", || (ask(&mut pair.client) == 200).then_some(()));
        eventually("its return", || (!pair.is_ejected()).then_some(()));
    }
}

#[test]
fn an_ejected_endpoint_gets_one_probe_after_open_and_returns_when_that_is_answered() {
    let mut pair = Pair::start("300ms");
    pair.eject();
    let ejected = Instant::now();
    pair.mended.store(true, Ordering::Relaxed);
    // Callers at both workers, all the while that the probe takes.
    let mut clients: Vec<Client> = (0..6).map(|_| pair.stent.client()).collect();
    while pair.failing.requests().len() == 3 {
        assert!(ejected.elapsed() < ms(5000), "the endpoint is never tried");
        for client in &mut clients {
            client.send(&request("GET", "/", &[], b""));
        }
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        // The probe ended with its round.
        assert!(pair.failing.requests().len() <= 4, "exactly one request tries the endpoint");
    }
    let probe = pair.failing.requests()[3].arrived;
    let last_failure = pair.failing.requests()[2].arrived;
    assert!(probe - last_failure >= ms(295), "{:?}", probe - last_failure);
    eventually("the return", || (!pair.is_ejected()).then_some(()));
    let before = pair.failing.requests().len();
    for _ in 0..4 {
        assert_eq!(pair.client.get("/").status, 200);
    }
    assert_eq!(pair.failing.requests().len(), before + 2, "it has its turn again");
}

#[test]
fn a_reload_keeps_the_health_of_a_cluster_that_did_not_change() {
    let mut pair = Pair::start("60s");
    pair.eject();
    let config = Pair::config(&pair.failing, &pair.working, "60s").set("route.deadline", "20s");
    pair.stent.reload(&config);
    assert!(pair.is_ejected());
    for _ in 0..6 {
        assert_eq!(pair.client.get("/").status, 200);
    }
    assert_eq!(pair.failing.requests().len(), 3, "it is still out");
    pair.stent.reload(&config.set("cluster.hosp.idle_timeout", "3s"));
    for _ in 0..2 {
        assert_eq!(pair.client.get("/").status, 200);
    }
    assert!(pair.failing.requests().len() > 3, "a changed cluster begins anew");
}

#[test]
fn what_the_proxy_itself_answers_ejects_nobody() {
    let backends = [Backend::healthy(), Backend::healthy()];
    let config = Config::with_endpoints(&[backends[0].address(), backends[1].address()])
        .set("cluster.hosp.balance", "round_robin")
        .set("cluster.hosp.ejection.consecutive_failures", 1)
        .set("server.via", "edge-1")
        .set("listener.body_timeout", "100ms")
        .set("route.max_body", "1KiB")
        .retry("statuses", vec!["400-599"]);
    let stent = Stent::start(&config);
    for _ in 0..2 {
        let mut client = stent.client();
        client.send_head("PUT", "/silent", &[("Content-Length", "10")]);
        assert_eq!(client.response().status, 408);
        let mut client = stent.client();
        client.send_head("PUT", "/large", &[("Transfer-Encoding", "chunked")]);
        client.send_chunk(&[b'x'; 2000]);
        assert_eq!(client.response().status, 413);
        let mut client = stent.client();
        client.send_head("PUT", "/broken", &[("Transfer-Encoding", "chunked")]);
        client.send(b"no size\r\n");
        assert_eq!(client.response().status, 400);
        let looped = stent.client().request("GET", "/", &[("Via", "1.1 edge-1")], b"");
        assert_eq!(looped.status, 508);
        let mut leaving = stent.client();
        leaving.send_head("PUT", "/left", &[("Content-Length", "10")]);
        leaving.reset();
    }
    stent.access_log(10);
    stent.wait_for_metric("stent_endpoint_ejected", &[], 0.0);
    let mut client = stent.client();
    let before: Vec<usize> = backends.iter().map(|backend| backend.requests().len()).collect();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    for (backend, before) in backends.iter().zip(before) {
        assert_eq!(backend.requests().len(), before + 2, "both are in balancing");
    }
}
#[test]
fn an_endpoint_of_a_changed_cluster_begins_in_balancing_and_the_gauge_says_so() {
    let mut pair = Pair::start("60s");
    pair.eject();
    let config = Pair::config(&pair.failing, &pair.working, "60s");
    pair.stent.reload(&config.set("cluster.hosp.idle_timeout", "3s"));
    assert!(!pair.is_ejected());
}
