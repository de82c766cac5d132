//! Answers that are held until they are whole, so that one that breaks is retried like any other failure.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client::request;
use crate::support::frames::FrameBackend;
use crate::support::{Action, Backend, Config, Stent, noise};

const HELD: &str = "stent_held_answers_total";

/// A chunked answer of 64 KiB that neither goes on nor ends.
fn chunked_64k() -> Vec<u8> {
    let part = [b"4000\r\n".as_slice(), &noise(16 << 10), b"\r\n"].concat();
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    bytes.extend(part.repeat(4));
    bytes
}

fn patient(backend: &Backend) -> Config {
    // A hold ends for another reason, on however busy a machine.
    Config::new(backend).retry("hold_time", "10s")
}

#[test]
fn an_answer_that_breaks_in_its_body_is_retried_and_the_caller_sees_a_whole_one() {
    let unbounded = "HTTP/1.1 200 OK\r\n\r\nhalf of it";
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it";
    let breaking = [
        ("a length", Action::truncated(2048, 4096)),
        ("a length, nothing of it", Action::truncated(0, 5)),
        ("a length, reset", Action::raw(half).then_reset()),
        ("chunked", Action::chunked_truncated()),
        ("chunked, 64 KiB", Action::raw(chunked_64k())),
        ("chunked, 64 KiB, reset", Action::raw(chunked_64k()).then_reset()),
        ("until the end, reset", Action::raw(unbounded).then_reset()),
    ];
    for (what, first) in breaking {
        let backend = Backend::scripted([first, Action::answer(200, "the whole answer")]);
        let stent = Stent::start(&patient(&backend));
        let mut client = stent.client();
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (200, "the whole answer".into()), "{what}");
        assert_eq!(response.headers.content_length(), Some(16), "{what}");
        assert_eq!(client.get("/").text(), "ok", "the connection goes on: {what}");
        let line = &stent.access_log(2)[0];
        assert_eq!(line.results(), ["truncated", "200"], "{what}");
        assert_eq!(line.attempts()[0].delivery, "answered");
        assert_eq!((line.text("outcome"), line.text("error")), (Some("ok"), None));
        stent.wait_for_metric("stent_retries_total", &[("reason", "truncated")], 1.0);
        stent.wait_for_metric("stent_retry_recovered_total", &[], 1.0);
        stent.wait_for_metric("stent_attempts_total", &[("result", "truncated")], 1.0);
        stent.wait_for_metric(HELD, &[("end", "broken")], 1.0);
        stent.wait_for_metric("stent_held_bytes", &[], 0.0);
    }
}

#[test]
fn when_every_answer_breaks_the_caller_gets_a_502_that_is_whole() {
    for broken in [Action::truncated(2048, 4096), Action::chunked_truncated()] {
        let backend = Backend::scripted([broken.clone(), broken.clone(), broken]);
        let stent = Stent::start(&patient(&backend));
        let mut client = stent.client();
        let response = client.get("/");
        assert_eq!((response.status, response.truncated), (502, false));
        assert_eq!(response.headers.content_length(), Some(response.body.len()));
        assert_eq!(client.get("/").text(), "ok", "the connection goes on");
        let line = &stent.access_log(2)[0];
        assert_eq!(line.results(), ["truncated"; 3]);
        assert_eq!(
            (line.text("outcome"), line.text("error"), line.text("retry_stopped")),
            (Some("reply"), Some("http_response_incomplete"), Some("attempts"))
        );
        assert_eq!(line.text("origin"), Some("upstream"));
    }
}

#[test]
fn of_a_thousand_requests_at_10_percent_broken_answers_no_caller_sees_one() {
    let count = AtomicUsize::new(0);
    let backend = Backend::new(move |_| match count.fetch_add(1, Ordering::Relaxed) % 30 {
        0 => Action::truncated(2048, 4096),
        10 => Action::chunked_truncated(),
        20 => Action::raw(chunked_64k()),
        number if number % 2 == 0 => Action::chunked(200, &[b"a whole", b" answer"]),
        _ => Action::answer(200, "a whole answer"),
    });
    let stent = Stent::start(&patient(&backend).backoff("1ms"));
    let mut client = stent.client();
    for number in 0..1000 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (200, "a whole answer".into()), "request {number}");
    }
    assert_eq!(backend.requests().len(), 1112);
}

#[test]
fn an_answer_that_turns_out_whole_is_given_its_length() {
    let parts: [&[u8]; 3] = [b"one", b"two", b"three"];
    for action in [
        Action::slow_body(200, &parts, crate::support::ms(20)),
        Action::raw("HTTP/1.1 200 OK\r\n\r\nonetwothree"),
    ] {
        let what = format!("{action:?}");
        let backend = Backend::scripted([action]);
        let stent = Stent::start(&patient(&backend));
        let mut client = stent.client();
        let response = client.get("/");
        assert_eq!(response.text(), "onetwothree", "{what}");
        assert_eq!(response.headers.content_length(), Some(11), "{what}");
        assert!(!response.headers.has("transfer-encoding"), "{what}");
        assert_eq!(client.get("/").text(), "ok");
        stent.wait_for_metric(HELD, &[("end", "whole")], 1.0);
    }
}

/// Its chunks came together with its head, so that one look was enough.
#[test]
fn an_answer_that_comes_whole_is_given_its_length_and_was_never_held() {
    let backend = Backend::scripted([Action::raw_kept_open(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
    )]);
    let stent = Stent::start(&patient(&backend));
    let response = stent.client().get("/");
    assert_eq!((response.text(), response.headers.content_length()), ("onetwo".into(), Some(6)));
    assert!(!response.headers.has("transfer-encoding"), "{response:?}");
    let held = stent.metrics().sum(HELD, &[]);
    assert!(held.abs() < 1e-9, "{held} answers were held");
}

#[test]
fn trailers_come_through_a_hold() {
    let head = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    let backend =
        Backend::scripted([Action::raw_kept_open(format!("{head}4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n"))]);
    let stent = Stent::start(&patient(&backend));
    let mut client = stent.client();
    let response = client.request("GET", "/", &[("TE", "trailers")], b"");
    assert_eq!((response.text(), response.headers.is_chunked()), ("body".into(), true));
    assert!(response.raw.ends_with(b"0\r\nx-sum: 1\r\n\r\n"), "{}", String::from_utf8_lossy(&response.raw));
    stent.wait_for_metric(HELD, &[("end", "whole")], 1.0);
}

#[test]
fn an_answer_over_the_limit_flows_and_breaks_for_the_caller_too() {
    for large in [Action::truncated(4096, 128 << 10), Action::raw(chunked_64k())] {
        let what = format!("{large:?}").chars().take(80).collect::<String>();
        let backend = Backend::scripted([large]);
        let stent = Stent::start(&patient(&backend).retry("hold", "32KiB"));
        let mut client = stent.client();
        client.send(&request("GET", "/", &[], b""));
        let is_whole = client.try_response().is_ok_and(|response| !response.truncated);
        assert!(!is_whole, "the caller can tell: {what}");
        let line = stent.only_line();
        assert_eq!(line.results(), ["200"], "{what}");
        assert_eq!(line.text("outcome"), Some("upstream_truncated"));
        assert_eq!(line.text("retry_stopped"), Some("started"));
    }
}

/// Each stands still after its first part, so that the caller sees the head only where it is not held.
#[test]
fn events_calls_and_answers_to_what_may_not_be_repeated_are_not_held() {
    let answer = |media: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nTransfer-Encoding: chunked\r\n\r\n");
        Action::raw_kept_open(format!("{head}4\r\ndata\r\n"))
    };
    let cases = [
        ("GET", "text/event-stream"),
        ("GET", "text/event-stream;charset=utf-8"),
        ("GET", "application/grpc"),
        ("POST", "text/html"),
    ];
    for (method, media) in cases {
        let backend = Backend::scripted([answer(media)]);
        let stent = Stent::start(&patient(&backend).retry("hold_time", "10s"));
        let mut client = stent.client();
        client.send(&request(method, "/", &[], b""));
        assert_eq!(client.interim_status(), 200, "{method} {media}");
    }
    let backend = Backend::scripted([answer("text/html")]);
    let stent = Stent::start(&patient(&backend).retry("hold", "0B"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert_eq!(client.interim_status(), 200, "`hold` is off");
}

#[test]
fn a_post_with_an_idempotency_key_is_held_and_sent_again() {
    let backend = Backend::scripted([Action::chunked_truncated()]);
    let stent = Stent::start(&patient(&backend).honouring_keys());
    let response = stent.client().request("POST", "/", &[("Idempotency-Key", "7")], b"once");
    assert_eq!((response.status, response.text()), (200, "ok".into()));
    let bodies: Vec<_> = backend.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [b"once", b"once"]);
}

#[test]
fn over_the_processes_memory_nothing_is_held_and_the_answer_flows() {
    let backend = Backend::scripted([Action::raw_kept_open(chunked_64k())]);
    let stent = Stent::start(&patient(&backend).set("server.answer_memory", "16KiB"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert_eq!(client.interim_status(), 200);
    stent.wait_for_metric(HELD, &[("end", "memory")], 1.0);
    stent.wait_for_metric("stent_held_bytes", &[], 0.0);
}

#[test]
fn a_hold_ends_after_hold_time_and_the_answer_flows() {
    let backend = Backend::scripted([Action::raw_kept_open(
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it",
    )]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert_eq!(client.interim_status(), 200);
    stent.wait_for_metric(HELD, &[("end", "time")], 1.0);
}

#[test]
fn a_caller_that_leaves_during_a_hold_ends_it_at_once() {
    let half = format!("HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n{}", "x".repeat(4000));
    let backend = Backend::scripted([Action::raw_kept_open(half)]);
    let stent = Stent::start(&patient(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    stent.wait_for_metric("stent_held_bytes", &[], 4000.0);
    let replay = stent.metric("stent_replay_bytes", &[]);
    assert!(replay.abs() < 1e-9, "an answer is no request body: {replay}");
    drop(client);
    backend.wait_until_closed(1);
    stent.wait_for_metric("stent_held_bytes", &[], 0.0);
    let line = stent.only_line();
    assert_eq!((line.text("outcome"), line.results()), (Some("client_abort"), vec!["cancelled".into()]));
}

#[test]
fn an_endpoint_whose_answers_break_is_ejected() {
    let broken = Backend::new(|_| Action::chunked_truncated());
    let well = Backend::healthy();
    let config = Config::with_endpoints(&[broken.address(), well.address()])
        .retry("hold_time", "10s")
        .set("cluster.hosp.balance", "round_robin")
        .set("cluster.hosp.ejection.consecutive_failures", 2);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "ok");
    }
    let endpoint = broken.address().to_string();
    stent.wait_for_metric("stent_endpoint_ejected", &[("endpoint", &endpoint)], 1.0);
    assert_eq!(broken.requests().len(), 2);
}

#[test]
fn a_stream_that_is_reset_in_its_body_is_retried() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let stream = connection.request().unwrap();
        connection.answer(stream, &[(":status", "200")], false);
        connection.data(stream, b"half of it", false);
        connection.send_reset(stream, 2);
        connection.serve("the whole answer");
    });
    let config = Config::with_endpoints(&[backend.address()])
        .set("cluster.hosp.protocol", "h2")
        .retry("hold_time", "10s");
    let stent = Stent::start(&config);
    let response = stent.client().get("/");
    assert_eq!((response.status, response.text()), (200, "the whole answer".into()));
    assert_eq!(stent.only_line().results(), ["truncated", "200"]);
}
