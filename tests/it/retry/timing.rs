//! Waits, timeouts and deadlines, and the caller who does not wait.

use std::time::Instant;

use crate::support::client::request;
use crate::support::{Action, Backend, Config, Stent, eventually, ms};

#[test]
fn a_hanging_attempt_with_a_body_has_until_the_deadline_and_is_sent_once() {
    for stall in [Action::hang(), Action::half_head_then_stall()] {
        let backend = Backend::scripted([stall]);
        let config = Config::new(&backend).retry("per_try_timeout", "100ms").set("route.deadline", "400ms");
        let stent = Stent::start(&config);
        let start = Instant::now();
        assert_eq!(stent.client().put("/", "x").status, 504);
        assert!(start.elapsed() >= ms(395));
        assert_eq!(backend.requests().len(), 1);
        backend.wait_until_closed(1);
        assert_eq!(stent.only_line().results(), ["timeout"]);
    }
}

#[test]
fn a_slow_get_goes_on_beside_a_second_attempt_and_the_first_good_answer_wins() {
    let backend = Backend::scripted([Action::answer(200, "first").after(ms(400)), Action::hang()]);
    let config = Config::new(&backend).retry("per_try_timeout", "150ms").retry("max_attempts", 2);
    let stent = Stent::start(&config);
    assert_eq!(stent.client().get("/").text(), "first");
    assert_eq!(stent.only_line().results(), ["200", "cancelled"]);
    let backend = Backend::scripted([Action::hang(), Action::answer(200, "second")]);
    let stent = Stent::start(&Config::new(&backend).retry("per_try_timeout", "150ms"));
    assert_eq!(stent.client().get("/").text(), "second");
    assert_eq!(stent.only_line().results(), ["timeout", "200"]);
    stent.wait_for_metric("stent_hedges_total", &[("result", "won")], 1.0);
}

#[test]
fn the_last_attempt_has_no_per_try_timeout() {
    let slow = || Action::answer(200, "slow").after(ms(400));
    for (most, script) in [(1, vec![slow()]), (2, vec![Action::hang(), slow()])] {
        let backend = Backend::scripted(script);
        let config = Config::new(&backend).retry("per_try_timeout", "100ms").retry("max_attempts", most);
        let stent = Stent::start(&config);
        let response = stent.client().get("/");
        assert_eq!((response.status, response.text()), (200, "slow".into()), "{most} attempts");
    }
}

#[test]
fn a_write_has_no_per_try_timeout() {
    for method in ["POST", "PUT", "DELETE"] {
        let backend = Backend::new(|_| Action::answer(201, "slow").after(ms(250)));
        let stent = Stent::start(&Config::new(&backend).retry("per_try_timeout", "100ms"));
        // So often that a kind of request that fails would be known as hopeless.
        for round in 1..=10 {
            let response = stent.client().request(method, "/notes", &[], b"do not cut me");
            assert_eq!((response.status, backend.requests().len()), (201, round), "{method}");
        }
    }
}

#[test]
fn no_answer_before_the_deadline_is_a_504_at_the_deadline() {
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&Config::new(&backend).set("route.deadline", "300ms"));
    let start = Instant::now();
    let response = stent.client().get("/");
    let took = start.elapsed();
    assert_eq!(response.status, 504);
    assert!((ms(295)..ms(600)).contains(&took), "{took:?}");
    let line = stent.only_line();
    assert_eq!(line.text("error"), Some("http_response_timeout"));
    backend.wait_until_closed(1);
}

#[test]
fn attempts_and_waits_together_never_outlast_the_deadline() {
    for (pause, backoff) in [(ms(0), "70ms"), (ms(60), "30ms"), (ms(120), "10ms")] {
        let backend = Backend::new(move |_| Action::answer(502, "late or not").after(pause));
        let config = Config::new(&backend)
            .retry("max_attempts", 20)
            .retry("per_try_timeout", "90ms")
            .set("route.deadline", "400ms")
            .backoff(backoff);
        let stent = Stent::start(&config);
        let start = Instant::now();
        let response = stent.client().get("/");
        let took = start.elapsed();
        assert!(matches!(response.status, 502 | 504), "{}", response.status);
        assert!(took < ms(650), "{took:?} with answers after {pause:?} and waits of {backoff}");
        assert!(backend.requests().len() > 1, "there was time for a retry");
    }
}

#[test]
fn a_backoff_that_would_end_after_the_deadline_is_not_begun() {
    let backend = Backend::new(|_| Action::answer(502, "what there is"));
    let config = Config::new(&backend).set("route.deadline", "800ms").backoff("500ms");
    let stent = Stent::start(&config);
    let start = Instant::now();
    let response = stent.client().get("/");
    assert_eq!((response.status, response.text()), (502, "what there is".into()));
    assert!(start.elapsed() < ms(780), "it is no use to wait for a deadline: {:?}", start.elapsed());
    assert_eq!(backend.requests().len(), 2);
    assert_eq!(stent.only_line().text("retry_stopped"), Some("deadline"));
}

#[test]
fn a_slow_upload_does_not_eat_the_deadline() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend).set("route.deadline", "400ms"));
    let mut client = stent.client();
    client.send_head("PUT", "/scans/1", &[("Content-Length", "8")]);
    for byte in b"slow put" {
        std::thread::sleep(ms(90));
        client.send(&[*byte]);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.requests()[1].body, b"slow put");
}

#[test]
fn a_caller_who_leaves_during_a_backoff_ends_the_exchange_at_once() {
    let backend = Backend::new(|_| Action::answer(502, ""));
    let stent = Stent::start(&Config::new(&backend).backoff("5s"));
    for reset in [false, true] {
        let before = backend.requests().len();
        let mut client = stent.client();
        client.send(&request("GET", "/", &[], b""));
        backend.wait_for_requests(before + 1);
        stent.wait_for_metric("stent_attempts_total", &[("result", "502")], (before + 1) as f64);
        let start = Instant::now();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        let line = stent.access_log(before + 1).remove(before);
        assert!(start.elapsed() < ms(2000), "the backoff was not cut: {:?}", start.elapsed());
        assert_eq!(line.text("outcome"), Some("client_abort"));
        assert_eq!(line.results(), ["502"]);
        assert_eq!(backend.requests().len(), before + 1, "nothing is sent for a caller who has gone");
    }
    stent.wait_for_metric("stent_client_aborts_total", &[("route", "everything")], 2.0);
    stent.wait_for_metric("stent_requests_in_flight", &[], 0.0);
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
}

#[test]
fn a_caller_who_leaves_during_an_attempt_cancels_it_at_once() {
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    let start = Instant::now();
    drop(client);
    backend.wait_until_closed(1);
    assert!(start.elapsed() < ms(2000), "{:?}", start.elapsed());
    let line = stent.only_line();
    assert_eq!(line.text("outcome"), Some("client_abort"));
    assert_eq!(line.results(), ["cancelled"]);
    eventually("the connection's end", || {
        (stent.metric("stent_upstream_connections", &[]) < 0.5).then_some(())
    });
}

#[test]
fn a_discarded_body_that_does_not_end_holds_up_the_retry_only_briefly() {
    let backend = Backend::scripted([Action::endless_body(502)]);
    let stent = Stent::start(&Config::new(&backend));
    let start = Instant::now();
    assert_eq!(stent.client().get("/").status, 200);
    assert!(start.elapsed() < ms(1000), "{:?}", start.elapsed());
    backend.wait_until_closed(1);
}
