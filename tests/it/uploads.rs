//! Callers that are slow to send and backends that are slow to take: what the others notice of them, which is nothing.

use std::io::Read;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::Instant;

use crate::support::http2::{DATA, END_HEADERS, Frames, HEADERS, head};
use crate::support::{Action, Backend, Client, Config, Stent, alone, eventually, ms, noise};

/// A well backend that fails the first request for each path below `/fails-once/`.
fn fails_once() -> Backend {
    let seen = Mutex::new(Vec::new());
    Backend::new(move |request| {
        let mut seen = seen.lock().unwrap();
        if !request.target.starts_with("/fails-once/") || seen.contains(&request.target) {
            return Action::answer(200, "ok");
        }
        seen.push(request.target.clone());
        if request.method == "GET" { Action::chunked_truncated() } else { Action::answer(502, "") }
    })
}

fn config(backend: &Backend) -> Config {
    Config::new(backend)
        .set("server.workers", 2)
        .set("listener.trusted_proxies", vec!["127.0.0.0/8"])
        .set("server.replay_memory", "1MiB")
        .retry("hold_time", "10s")
        .backoff("1ms")
}

/// Begins an upload from this client's address, and stops before its end.
fn stall(stent: &Stent, client: &str, length: usize) -> Client {
    let mut stalled = stent.client();
    let fields = [("Content-Length", "900000"), ("X-Forwarded-For", client)];
    stalled.send_head("PUT", "/stalled", &fields);
    stalled.send(&noise(length));
    stalled
}

/// What another client's exchanges still get: retries of uploads, and whole answers.
fn assert_unharmed(stent: &Stent, client: &str, name: &str) {
    let path = format!("/fails-once/{name}");
    let body = noise(50_000);
    let response = stent.client().request("PUT", &path, &[("X-Forwarded-For", client)], &body);
    assert_eq!(response.status, 200, "an upload of {client} is retried");
    let path = format!("/fails-once/answer-{name}");
    let response = stent.client().request("GET", &path, &[("X-Forwarded-For", client)], b"");
    assert_eq!((response.status, response.text()), (200, "ok".into()), "an answer to {client} is whole");
}

#[test]
fn uploads_that_stop_before_their_end_take_retries_and_whole_answers_from_nobody() {
    let backend = fails_once();
    let stent = Stent::start(&config(&backend));
    let stalled: Vec<_> = (0..4).map(|_| stall(&stent, "203.0.113.1", 240_000)).collect();
    eventually("four copies", || (stent.metric("stent_replay_bytes", &[]) >= 700_000.0).then_some(()));
    assert_unharmed(&stent, "198.51.100.2", "other");
    // Nor from those who share their address.
    assert_unharmed(&stent, "203.0.113.1", "same");
    assert!(stent.metric("stent_replay_overflow_total", &[("reason", "slow")]) >= 1.0);
    assert!(stent.metric("stent_replay_bytes", &[]) <= f64::from(1 << 20));
    drop(stalled);
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
}

#[test]
fn an_upload_whose_copy_was_given_up_goes_on() {
    let backend = Backend::healthy();
    let stent = Stent::start(&config(&backend));
    let body = noise(900_000);
    let mut stalled = stent.client();
    stalled.send_head("PUT", "/stalled", &[("Content-Length", "900000")]);
    stalled.send(&body[..800_000]);
    eventually("a copy", || (stent.metric("stent_replay_bytes", &[]) >= 700_000.0).then_some(()));
    assert_eq!(stent.client().put("/other", noise(700_000)).status, 200);
    stalled.send(&body[800_000..]);
    assert_eq!(stalled.response().status, 200);
    assert!(backend.requests().iter().any(|request| request.target == "/stalled" && request.body == body));
}

#[test]
fn streams_that_stop_before_their_end_take_retries_and_whole_answers_from_nobody() {
    let backend = fails_once();
    let stent = Stent::start(&config(&backend));
    // All from one network, as one subscriber has it.
    let connections: Vec<_> = (1..=20)
        .map(|number| {
            let mut connection = Frames::connect(stent.listener(), &[]);
            let head = head("PUT", "/stalled", &[("x-forwarded-for", &format!("2001:db8::{number}"))]);
            connection.send(HEADERS, END_HEADERS, 1, &head).unwrap();
            (0..3).for_each(|_| connection.send(DATA, 0, 1, &[b'x'; 16 << 10]).unwrap());
            connection
        })
        .collect();
    eventually("their copies", || (stent.metric("stent_replay_bytes", &[]) >= 700_000.0).then_some(()));
    assert_unharmed(&stent, "198.51.100.2", "other");
    assert_unharmed(&stent, "2001:db8::ffff", "neighbour");
    drop(connections);
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
}

#[test]
fn small_parts_of_bodies_hold_little_more_than_their_bytes() {
    const CALLERS: usize = 24;
    const PARTS: usize = 300;
    let _alone = alone();
    let backend = Backend::healthy();
    let stent = Stent::start(&config(&backend).set("server.replay_memory", "64MiB"));
    let mut clients: Vec<_> = (0..CALLERS).map(|_| stent.client()).collect();
    for client in &mut clients {
        client.send_head("PUT", "/", &[("Transfer-Encoding", "chunked")]);
    }
    let before = stent.memory();
    let part = noise(1100);
    for _ in 0..PARTS {
        for client in &mut clients {
            client.send_chunk(&part);
        }
    }
    let least = (CALLERS * PARTS * part.len()) as f64;
    eventually("all of the copies", || (stent.metric("stent_replay_bytes", &[]) >= least).then_some(()));
    let counted = stent.metric("stent_replay_bytes", &[]);
    assert!(counted <= 2.0 * least, "{counted} of {least}");
    let grown = stent.memory().saturating_sub(before);
    // A part that kept its read buffer would hold seven times its size.
    assert!((grown as f64) < 4.0 * least, "{grown} of {least}");
}

#[test]
fn callers_that_are_slow_to_send_keep_nobody_from_the_backend() {
    let backend = Backend::healthy();
    let config = config(&backend).set("cluster.hosp.admission.limit", 8);
    let stent = Stent::start(&config);
    let mut slow: Vec<_> = (0..8).map(|_| stent.client()).collect();
    for client in &mut slow {
        client.send_head("POST", "/slow", &[("Content-Length", "2000")]);
        client.send(&noise(1000));
    }
    backend.wait_for_requests(8);
    let mut other = stent.client();
    (0..30).for_each(|_| assert_eq!(other.get("/").status, 200));
    stent.wait_for_metric("stent_admission_in_flight", &[], 0.0);
    assert!(stent.metric("stent_admission_refused_total", &[]).abs() < 1e-9);
    for client in &mut slow {
        client.send(&noise(1000));
    }
    for client in &mut slow {
        assert_eq!(client.response().status, 200);
    }
    stent.wait_for_metric("stent_admission_in_flight", &[], 0.0);
    stent.wait_for_metric("stent_attempt_duration_seconds_count", &[], 38.0);
    // The backend answers at once; the callers took their time.
    let total = stent.metric("stent_attempt_duration_seconds_sum", &[]);
    assert!(total < 0.4, "{total}");
}

/// A backend that reads a head, and then a byte of the body each 100 ms, or none.
fn takes_little(takes_any: bool) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut bytes = vec![0; 1024];
                let _ = stream.read(&mut bytes);
                while !takes_any || matches!(stream.read(&mut bytes[..1]), Ok(1)) {
                    std::thread::sleep(ms(100));
                }
            });
        }
    });
    address
}

#[test]
fn a_backend_that_stops_reading_an_upload_is_given_up_at_the_deadline() {
    for takes_any in [false, true] {
        let config = Config::with_endpoints(&[takes_little(takes_any)]).set("route.deadline", "1s");
        let stent = Stent::start(&config);
        let mut client = stent.client();
        client.send_head("POST", "/", &[("Transfer-Encoding", "chunked")]);
        let start = Instant::now();
        // Until the buffers of both systems are full.
        std::thread::scope(|scope| {
            let status = scope.spawn(|| {
                let chunk = noise(1000);
                while start.elapsed() < ms(10_000) {
                    let Ok(()) = client.try_send(&[b"3e8\r\n", &chunk[..], b"\r\n"].concat()) else { break };
                }
                client.try_response().map(|response| response.status).ok()
            });
            assert!(status.join().unwrap().is_none_or(|status| status == 504));
        });
        let line = stent.only_line();
        assert_eq!(line.status(), 504, "{line:?}");
        assert!((0.9..6.0).contains(&(line.number("duration_us") / 1e6)), "{line:?}");
    }
}
