//! When an attempt is followed by another, and what the caller gets when none follows.

use std::time::{Duration, SystemTime};

use crate::support::{Action, Backend, Config, Refused, Stent, eventually, ms, noise};

mod bodies;
mod timing;
mod transport;

#[test]
fn a_500_and_a_502_are_retried() {
    for status in [500, 502] {
        let backend = Backend::scripted([Action::answer(status, "failure"), Action::answer(200, "success")]);
        let stent = Stent::start(&Config::new(&backend));
        let response = stent.client().get("/patients");
        assert_eq!((response.status, response.text()), (200, "success".into()));
        assert_eq!(backend.requests().len(), 2);
        assert_eq!(stent.only_line().results(), [status.to_string(), "200".into()]);
        let reason = status.to_string();
        stent.wait_for_metric("stent_retries_total", &[("reason", &reason)], 1.0);
        stent.wait_for_metric("stent_retry_recovered_total", &[("route", "everything")], 1.0);
    }
}

#[test]
fn a_status_that_is_not_listed_is_passed_on_at_once() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for (count, status) in [400, 404, 429, 501, 503, 504].into_iter().enumerate() {
        backend.then([Action::answer(status, "as it is")]);
        let response = client.get("/patients");
        assert_eq!((response.status, response.text()), (status, "as it is".into()));
        assert_eq!(backend.requests().len(), count + 1);
    }
    let stopped = stent.metric("stent_retry_stopped_total", &[]);
    assert!(stopped.abs() < 1e-9, "what is no failure was not kept from a retry: {stopped}");
}

#[test]
fn the_operator_chooses_the_statuses() {
    let backend = Backend::scripted([Action::answer(503, ""), Action::answer(200, "success")]);
    let statuses: Vec<toml::Value> = vec![429.into(), "503-504".into()];
    let stent = Stent::start(&Config::new(&backend).retry("statuses", statuses));
    assert_eq!(stent.client().get("/").status, 200);
    backend.then([Action::answer(502, "")]);
    assert_eq!(stent.client().get("/").status, 502);
}

#[test]
fn an_error_that_is_not_listed_is_not_retried() {
    let backend = Backend::scripted([Action::reset()]);
    let stent = Stent::start(&Config::new(&backend).retry("errors", vec!["connect"]));
    assert_eq!(stent.client().get("/").status, 502);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn max_attempts_counts_the_first() {
    for most in [1, 3, 4] {
        let backend = Backend::new(|_| Action::answer(502, "still broken"));
        let stent = Stent::start(&Config::new(&backend).retry("max_attempts", most));
        assert_eq!(stent.client().get("/").status, 502);
        assert_eq!(backend.requests().len(), usize::try_from(most).unwrap());
        assert_eq!(stent.only_line().text("retry_stopped"), Some("attempts"));
        stent.wait_for_metric("stent_retry_stopped_total", &[("why", "attempts")], 1.0);
    }
}

#[test]
fn a_post_that_was_sent_is_not_repeated() {
    for (failure, status) in [(Action::answer(502, "failure"), 502), (Action::reset(), 502)] {
        let backend = Backend::scripted([failure]);
        let stent = Stent::start(&Config::new(&backend));
        assert_eq!(stent.client().post("/notes", "once").status, status);
        assert_eq!(backend.requests().len(), 1);
        assert_eq!(stent.only_line().text("retry_stopped"), Some("method"));
        stent.wait_for_metric("stent_retry_stopped_total", &[("why", "method")], 1.0);
    }
}

#[test]
fn a_post_with_an_idempotency_key_is_repeated_with_it() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend).honouring_keys());
    let response = stent.client().request("POST", "/notes", &[("Idempotency-Key", "k-1")], b"twice is once");
    assert_eq!(response.status, 200);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!(request.headers.only("idempotency-key"), Some("k-1"));
        assert_eq!(request.body, b"twice is once");
    }
}

#[test]
fn a_post_is_repeated_where_the_operator_lists_it() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let config = Config::new(&backend).set("route.retry.methods", vec!["GET", "POST"]);
    let stent = Stent::start(&config);
    assert_eq!(stent.client().post("/notes", "safe here").status, 200);
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn a_post_whose_connection_was_refused_goes_to_another_endpoint_at_once() {
    let (refused, backend) = (Refused::new(), Backend::healthy());
    let config = Config::with_endpoints(&[refused.address(), backend.address()])
        .set("cluster.hosp.balance", "round_robin")
        .backoff("2s");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..4 {
        assert_eq!(client.post("/notes", "first delivery").status, 200);
    }
    assert_eq!(backend.requests().len(), 4);
    let retried: Vec<_> = stent.access_log(4).into_iter().filter(|line| line.attempts().len() == 2).collect();
    assert!(!retried.is_empty(), "round robin comes to the endpoint that refuses");
    for line in retried {
        let attempts = line.attempts();
        assert_eq!((&*attempts[0].result, &*attempts[0].delivery), ("connect_refused", "never"));
        assert_eq!(attempts[0].endpoint, refused.address().to_string());
        assert!(attempts[1].started < 1500.0, "an untried endpoint needs no wait: {attempts:?}");
    }
}

#[test]
fn a_post_whose_connection_was_refused_by_a_lone_endpoint_is_sent_when_it_is_back() {
    let backend = Backend::healthy();
    let config = Config::new(&backend).retry("max_attempts", 10).backoff("100ms");
    let stent = Stent::start(&config);
    backend.stop();
    let mut client = stent.client();
    client.send(&crate::support::client::request("POST", "/notes", &[], b"patience"));
    eventually("a refused attempt", || {
        (stent.metric("stent_attempts_total", &[("result", "connect_refused")]) >= 1.0).then_some(())
    });
    backend.start();
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.requests()[0].body, b"patience");
}

#[test]
fn a_retry_goes_to_an_endpoint_that_was_not_tried_while_there_is_one() {
    let failing = [Backend::new(|_| Action::answer(502, "")), Backend::new(|_| Action::answer(500, ""))];
    let working = Backend::healthy();
    let endpoints = [failing[0].address(), failing[1].address(), working.address()];
    for balance in ["p2c", "round_robin"] {
        let stent = Stent::start(&Config::with_endpoints(&endpoints).set("cluster.hosp.balance", balance));
        let mut client = stent.client();
        for _ in 0..12 {
            assert_eq!(client.get("/").status, 200);
        }
        for line in stent.access_log(12) {
            let mut tried: Vec<_> = line.attempts().into_iter().map(|attempt| attempt.endpoint).collect();
            let attempts = tried.len();
            tried.sort();
            tried.dedup();
            assert_eq!(tried.len(), attempts, "{line:?}");
        }
    }
}

#[test]
fn the_upstream_is_told_the_number_of_an_attempt_from_the_second_on_and_callers_cannot_forge_it() {
    let backend = Backend::scripted([Action::answer(502, ""), Action::answer(500, "")]);
    let stent = Stent::start(&Config::new(&backend));
    let response = stent.client().request("GET", "/", &[("X-Stent-Attempt", "9")], b"");
    assert_eq!(response.status, 200);
    let numbers: Vec<Vec<String>> = backend
        .requests()
        .iter()
        .map(|request| request.headers.all("x-stent-attempt").into_iter().map(String::from).collect())
        .collect();
    assert_eq!(numbers, [vec![], vec!["2".to_owned()], vec!["3".to_owned()]]);
}

#[test]
fn retry_after_is_the_least_wait() {
    let in_three_seconds = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    for value in [|| "1".to_owned(), in_three_seconds] {
        let value = &value();
        let backend = Backend::scripted([Action::answer_with(502, &[("Retry-After", value)], "")]);
        let stent = Stent::start(&Config::new(&backend));
        assert_eq!(stent.client().get("/").status, 200);
        let requests = backend.requests();
        let waited = requests[1].arrived - requests[0].arrived;
        // An HTTP-date has no fraction of a second, and the proxy has taken some of the time to start.
        assert!((ms(950)..ms(3500)).contains(&waited), "{value}: {waited:?}");
    }
}

#[test]
fn a_retry_after_that_is_too_long_is_passed_on() {
    for deadline in ["25s", "1s"] {
        let backend = Backend::scripted([Action::answer_with(502, &[("Retry-After", "4")], "come back")]);
        let config = Config::new(&backend)
            .set("route.deadline", deadline)
            .retry("backoff.retry_after_max", if deadline == "25s" { "3s" } else { "5s" });
        let stent = Stent::start(&config);
        let response = stent.client().get("/");
        assert_eq!((response.status, response.text()), (502, "come back".into()));
        assert_eq!(response.headers.only("retry-after"), Some("4"));
        assert_eq!(backend.requests().len(), 1);
        assert_eq!(stent.only_line().text("retry_stopped"), Some("retry_after"));
    }
}

#[test]
fn when_attempts_are_exhausted_the_caller_gets_the_last_answer_byte_for_byte() {
    let body = noise(20_000);
    let last = Action::answer_with(500, &[("Content-Type", "x/y"), ("X-Backend", "third")], &body);
    let backend = Backend::scripted([Action::answer(500, "first"), Action::answer(502, "second"), last]);
    let stent = Stent::start(&Config::new(&backend));
    let response = stent.client().get("/");
    assert_eq!(response.status, 500);
    assert!(response.body == body, "the body is the third answer's");
    assert_eq!(response.headers.only("x-backend"), Some("third"));
    assert_eq!(response.headers.only("content-type"), Some("x/y"));
    let line = stent.only_line();
    assert_eq!((line.text("origin"), line.text("outcome")), (Some("upstream"), Some("ok")));
}

#[test]
fn a_real_answer_of_an_earlier_attempt_beats_an_invented_one() {
    let real = Action::answer_with(502, &[("X-Backend", "real")], "what the backend said");
    let backend = Backend::scripted([real, Action::reset(), Action::close()]);
    let stent = Stent::start(&Config::new(&backend));
    let response = stent.client().get("/");
    assert_eq!((response.status, response.text()), (502, "what the backend said".into()));
    assert_eq!(response.headers.only("x-backend"), Some("real"));
    let line = stent.only_line();
    assert_eq!(line.results(), ["502", "reset", "reset"]);
    assert_eq!((line.text("origin"), line.text("outcome")), (Some("upstream"), Some("ok")));
    assert_eq!(line.text("retry_stopped"), Some("attempts"));
}

#[test]
fn an_empty_budget_stops_retries() {
    let backend = Backend::new(|_| Action::answer(502, "as it is"));
    let config = Config::new(&backend).retry("budget.ratio", 0.0).retry("budget.min_per_second", 0);
    let stent = Stent::start(&config);
    let response = stent.client().get("/");
    assert_eq!((response.status, response.text()), (502, "as it is".into()));
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(stent.only_line().text("retry_stopped"), Some("budget"));
    stent.wait_for_metric("stent_retry_stopped_total", &[("why", "budget")], 1.0);
}

#[test]
fn the_budget_grows_by_its_ratio_with_each_request() {
    let backend = Backend::new(|_| Action::answer(502, ""));
    let config = Config::new(&backend)
        .retry("max_attempts", 2)
        .retry("budget.ratio", 0.3)
        .retry("budget.min_per_second", 0)
        .retry("budget.window", "1m");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 502);
    }
    assert_eq!(backend.requests().len(), 20 + 6, "0.3 retries for each of 20 requests");
}

#[test]
fn workers_share_a_budget() {
    let backend = Backend::new(|_| Action::answer(502, ""));
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .retry("max_attempts", 2)
        .retry("budget.ratio", 0.3)
        .retry("budget.min_per_second", 0)
        .retry("budget.window", "1m")
        .backoff("1ms");
    let stent = Stent::start(&config);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = stent.client();
                for _ in 0..25 {
                    assert_eq!(client.get("/").status, 502);
                }
            });
        }
    });
    let retries = backend.requests().len() - 200;
    // Each request finds what those before it have left; the last ones may not reach a whole retry.
    assert!((58..=60).contains(&retries), "{retries} retries for 200 requests at 0.3");
    let counted = stent.metric("stent_retries_total", &[]);
    assert!((counted - retries as f64).abs() < 1e-9, "{counted} retries were counted");
    assert!(stent.metric("stent_retry_budget_available", &[("cluster", "hosp")]) < 2.0);
}
