//! Connections that die and answers that are none.

use crate::support::client::request;
use crate::support::stent::Signal;
use crate::support::{Action, Backend, Client, Config, Stent, ms, noise};

#[test]
fn a_connection_lost_before_the_response_head_is_retried() {
    for failure in [Action::reset(), Action::close(), Action::half_head_then_close()] {
        let what = format!("{failure:?}");
        let backend = Backend::scripted([failure]);
        let stent = Stent::start(&Config::new(&backend));
        assert_eq!(stent.client().get("/").status, 200, "{what}");
        let line = stent.only_line();
        assert_eq!(line.results(), ["reset", "200"], "{what}");
        assert_eq!(line.attempts()[0].delivery, "maybe");
        stent.wait_for_metric("stent_retries_total", &[("reason", "reset")], 1.0);
    }
}

#[test]
fn an_answer_that_is_not_http_is_retried() {
    let backend = Backend::scripted([Action::garbage()]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(stent.only_line().results(), ["protocol", "200"]);
}

#[test]
fn a_failure_without_any_answer_is_a_reply_of_the_proxy() {
    let cases = [(Action::reset(), "connection_terminated"), (Action::garbage(), "http_protocol_error")];
    for (failure, token) in cases {
        let backend = Backend::new(move |_| failure.clone());
        let stent = Stent::start(&Config::new(&backend));
        let response = stent.client().get("/");
        assert_eq!(response.status, 502);
        assert_eq!(response.headers.only("cache-control"), Some("no-store"));
        let line = stent.only_line();
        assert_eq!((line.text("outcome"), line.text("error")), (Some("reply"), Some(token)));
        assert_eq!(line.text("origin"), Some("upstream"));
        assert_eq!(line.attempts().len(), 3);
    }
}

/// The proxy stands still while the backend closes, so that it finds the end and the next request at the same time.
#[test]
fn a_post_on_a_stale_pooled_connection_is_sent_again_at_once_and_counts_no_attempt() {
    let backend = Backend::healthy();
    // By default a POST does not get a connection that has been idle for so long.
    let config = Config::new(&backend)
        .retry("max_attempts", 1)
        .backoff("5s")
        .set("cluster.hosp.unsafe_reuse", "always");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    for round in 1..=20 {
        assert_eq!(backend.connections(), round, "the connection was kept");
        stent.signal(Signal::Stop);
        if round % 2 == 0 {
            backend.close_connections();
        } else {
            backend.reset_connections();
        }
        backend.wait_until_closed(round);
        client.send(&request("POST", "/notes", &[], b"once"));
        stent.signal(Signal::Continue);
        let response = client.response();
        assert_eq!(response.status, 200, "round {round}");
    }
    assert_eq!(backend.requests().len(), 21);
    for line in stent.access_log(21) {
        assert_eq!(line.results(), ["200"]);
    }
    let retries = stent.metric("stent_retries_total", &[]);
    assert!(retries.abs() < 1e-9, "a stale connection costs no retry: {retries}");
}

#[test]
fn a_connection_closed_while_idle_costs_nothing() {
    let backend = Backend::new(|_| Action::answer(200, "ok").then_close());
    // Idle connections are looked at twice in `idle_timeout`, and only then is a closed one known to be none.
    let config = Config::new(&backend).retry("max_attempts", 1).set("cluster.hosp.idle_timeout", "200ms");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
        stent.wait_for_metric("stent_upstream_connections", &[], 0.0);
    }
}

#[test]
fn an_answered_connection_is_used_again() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.requests()[9].number, 10);
}

#[test]
fn the_body_of_a_discarded_answer_is_read_so_that_its_connection_lives() {
    let backend = Backend::scripted([
        Action::answer(502, "x".repeat(2000)),
        Action::chunked(500, &[b"the second", b" failure"]),
    ]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(backend.requests().len(), 3);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_discarded_body_of_more_than_64_kib_costs_its_connection() {
    let backend = Backend::scripted([Action::answer(502, vec![b'x'; 8 << 20])]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(backend.connections(), 2);
    backend.wait_until_closed(1);
}

#[test]
fn an_earlier_answer_that_is_large_or_slow_holds_up_no_retry_and_is_given_if_nothing_better_comes() {
    let slow: [&[u8]; 2] = [b"what the", b" backend said"];
    let large = vec![b'x'; (64 << 10) + 1];
    let cases = [
        ("large", Action::answer(502, &large), large.clone()),
        ("large, in chunks", Action::chunked(502, &[&large, &large]), [&large[..], &large[..]].concat()),
        ("slow", Action::slow_body(502, &slow, ms(150)), slow.concat()),
    ];
    for (what, first, body) in cases {
        let backend = Backend::scripted([first, Action::reset(), Action::close()]);
        let stent = Stent::start(&Config::new(&backend));
        let response = stent.client().get("/");
        assert_eq!((response.status, response.truncated), (502, false), "{what}");
        assert!(response.body == body, "{what}");
        assert_eq!(stent.only_line().results(), ["502", "reset", "reset"], "{what}");
    }
}

#[test]
fn an_earlier_answer_that_breaks_is_not_kept_and_the_caller_gets_our_reply() {
    let backend = Backend::scripted([Action::truncated(10, 100), Action::reset(), Action::close()]);
    // It says 200, which makes it no better.
    let stent = Stent::start(&Config::new(&backend).retry("statuses", vec![200, 502]));
    let response = stent.client().get("/");
    assert_eq!((response.status, response.truncated), (502, false));
    assert_eq!(response.headers.only("cache-control"), Some("no-store"));
    assert!(response.text().contains("request id"), "{}", response.text());
    let line = stent.only_line();
    assert_eq!((line.text("outcome"), line.text("error")), (Some("reply"), Some("connection_terminated")));
    assert_eq!(line.results()[1..], ["reset", "reset"]);
    backend.wait_until_closed(1);
}

#[test]
fn an_earlier_answer_of_64_kib_is_kept() {
    let body = noise(64 << 10);
    let backend = Backend::scripted([Action::answer(502, &body), Action::reset(), Action::close()]);
    // The time is for reading what the backend has sent, on a machine that may be busy.
    let stent = Stent::start(&Config::new(&backend).backoff("50ms"));
    let response = stent.client().get("/");
    assert_eq!(response.status, 502);
    assert!(response.body == body, "{} bytes of the kept answer", response.body.len());
    assert_eq!(stent.only_line().text("outcome"), Some("ok"));
}

#[test]
fn a_body_that_breaks_off_breaks_off_for_the_caller_too_and_is_not_retried() {
    for failure in [Action::truncated(10, 100), Action::truncated(0, 5), Action::chunked_truncated()] {
        let what = format!("{failure:?}");
        let backend = Backend::scripted([failure]);
        let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
        let mut client = stent.client();
        client.send(&request("GET", "/", &[], b""));
        // The head may have waited for the body's first bytes, and then nothing at all is sent.
        let is_whole = client.try_response().is_ok_and(|response| !response.truncated);
        assert!(!is_whole, "the caller can tell: {what}");
        assert_eq!(backend.requests().len(), 1);
        let line = stent.only_line();
        assert_eq!(line.text("outcome"), Some("upstream_truncated"), "{what}");
        assert_eq!(line.text("error"), Some("http_response_incomplete"));
        assert_eq!(line.text("retry_stopped"), Some("started"));
        stent.wait_for_metric("stent_retry_stopped_total", &[("why", "started")], 1.0);
    }
}

#[test]
fn a_body_that_is_reset_in_its_middle_breaks_off_for_the_caller_too() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it";
    let backend = Backend::scripted([Action::raw(half).then_reset()]);
    let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert!(client.try_response().is_ok_and(|response| response.truncated));
    assert_eq!(stent.only_line().text("outcome"), Some("upstream_truncated"));
}

#[test]
fn a_101_that_was_not_asked_for_is_a_502() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: secret\r\nConnection: upgrade\r\n\r\n";
    let backend = Backend::new(move |_| Action::raw_kept_open(switching));
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert_eq!(client.interim_status(), 502, "no 101 comes before it");
    let line = stent.only_line();
    assert_eq!(line.text("error"), Some("http_protocol_error"));
}

#[test]
fn a_huge_response_head_is_a_502_and_not_retried() {
    let backend = Backend::new(|_| Action::huge_head(2 << 20));
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").status, 502);
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(stent.only_line().text("error"), Some("http_response_header_section_size"));
}

#[test]
fn interim_answers_of_the_upstream_are_no_answer() {
    let backend = Backend::scripted([
        Action::answer(200, "final").after_interim(103).after_interim(100),
        Action::answer(502, "").after_interim(102),
        Action::answer(200, "final"),
    ]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (200, "final".into()));
    }
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_second_answer_is_never_given_to_the_next_request() {
    let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let twice = [answer("mine"), answer("somebody else's")].concat();
    let backend = Backend::scripted([Action::raw_kept_open(twice)]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    assert_eq!(client.get("/").text(), "mine");
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(Client::connect(stent.listener()).get("/").text(), "ok");
    assert_eq!(backend.requests()[1].connection, 2);
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let backend = Backend::scripted([Action::raw("HTTP/1.1 200 OK\r\n\r\nuntil the end")]);
    let stent = Stent::start(&Config::new(&backend));
    let response = stent.client().get("/");
    assert_eq!((response.text(), response.truncated), ("until the end".into(), false));
    assert_eq!(stent.only_line().text("outcome"), Some("ok"));
}
