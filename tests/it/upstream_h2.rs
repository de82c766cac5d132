//! HTTP/2 towards the backend: shared connections, refused and broken streams, gRPC.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier, Mutex, mpsc};

use bytes::Bytes;
use rustls::{ALL_VERSIONS, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::support::certificates::Authority;
use crate::support::client::request;
use crate::support::frames::{
    CANCEL, FrameBackend, FrameConnection, INTERNAL_ERROR, MAX_STREAMS, NO_ERROR, REFUSED_STREAM,
};
use crate::support::secure::{Handshake, SecureBackend, server};
use crate::support::{BOUND, Config, Stent, TempDir, eventually, noise};

/// Everything goes to the backend, by prior knowledge.
fn config(backend: &FrameBackend) -> Config {
    Config::with_endpoints(&[backend.address()])
        .set("cluster.hosp.protocol", "h2")
        .set("cluster.hosp.idle_timeout", "30s")
}

/// What each attempt of the only exchange ended with, and what was delivered.
fn attempts(stent: &Stent) -> Vec<(String, String)> {
    let line = stent.only_line();
    line.attempts().into_iter().map(|attempt| (attempt.result, attempt.delivery)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(result, delivery)| ((*result).to_owned(), (*delivery).to_owned())).collect()
}

fn assert_connections(stent: &Stent, active: f64, idle: f64) {
    stent.wait_for_metric("stent_upstream_connections", &[("state", "active")], active);
    stent.wait_for_metric("stent_upstream_connections", &[("state", "idle")], idle);
}

#[test]
fn requests_of_many_callers_share_a_connection() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        // Both are there before either is answered.
        let streams = [connection.request().unwrap(), connection.request().unwrap()];
        for stream in streams {
            connection.ok(stream, "shared");
        }
        connection.serve("later");
    });
    let stent = Stent::start(&config(&backend));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(stent.client().get("/").text(), "shared"));
        }
    });
    assert_eq!(stent.client().get("/").text(), "later");
    assert_eq!(backend.connections(), 1);
    assert_connections(&stent, 0.0, 1.0);
}

#[test]
fn another_connection_is_opened_when_the_endpoint_allows_no_more_streams() {
    let together = Arc::new(Barrier::new(2));
    let backend = FrameBackend::new(move |_, connection| {
        connection.open(&[(MAX_STREAMS, 1)]);
        let stream = connection.request().unwrap();
        together.wait();
        connection.ok(stream, "alone");
        connection.serve("later");
    });
    let stent = Stent::start(&config(&backend));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(stent.client().get("/").text(), "alone"));
        }
    });
    assert_eq!(backend.connections(), 2);
    assert_connections(&stent, 0.0, 2.0);
}

#[test]
fn a_request_waits_for_a_stream_when_no_connection_is_left_and_not_for_ever() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[(MAX_STREAMS, 1)]);
        // The first stays until its caller leaves.
        connection.request().unwrap();
        connection.reset().unwrap();
        connection.serve("served");
    });
    let limits = config(&backend).set("cluster.hosp.max_connections", 1);
    let stent = Stent::start(&limits.set("cluster.hosp.connection_wait", "50ms"));
    let mut first = stent.client();
    first.send_head("GET", "/", &[]);
    assert_connections(&stent, 1.0, 0.0);
    assert_eq!(stent.client().get("/").status, 503);
    stent.wait_for_metric("stent_upstream_connection_waits_total", &[("result", "refused")], 1.0);
    drop(first);
    assert_connections(&stent, 0.0, 1.0);
    assert_eq!(stent.client().get("/").text(), "served");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_stream_that_is_freed_goes_to_whoever_waits() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[(MAX_STREAMS, 1)]);
        connection.request().unwrap();
        connection.reset().unwrap();
        connection.serve("served");
    });
    let limits = config(&backend).set("cluster.hosp.max_connections", 1);
    let stent = Stent::start(&limits.set("cluster.hosp.connection_wait", "10s"));
    let mut first = stent.client();
    first.send_head("GET", "/", &[]);
    assert_connections(&stent, 1.0, 0.0);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| stent.client().get("/"));
        stent.wait_for_metric("stent_requests_in_flight", &[("route", "everything")], 2.0);
        drop(first);
        assert_eq!(second.join().unwrap().text(), "served");
    });
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_refused_post_is_sent_again_once_with_its_body() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let stream = connection.request().unwrap();
        connection.send_reset(stream, REFUSED_STREAM);
        let stream = connection.request().unwrap();
        connection.ok(stream, "done");
        assert_eq!(connection.request(), None, "no third");
    });
    let stent = Stent::start(&config(&backend));
    assert_eq!(stent.client().post("/", noise(5000)).text(), "done");
    assert_eq!(attempts(&stent), pairs(&[("reset", "never"), ("200", "answered")]));
    assert_eq!(backend.connections(), 1, "the connection is well");
}

#[test]
fn a_stream_that_is_reset_for_another_reason_may_have_been_acted_on() {
    for (method, expected) in
        [("POST", &[("reset", "maybe")][..]), ("GET", &[("reset", "maybe"), ("200", "answered")][..])]
    {
        let backend = FrameBackend::new(|_, connection| {
            connection.open(&[]);
            let stream = connection.request().unwrap();
            connection.send_reset(stream, INTERNAL_ERROR);
            connection.serve("again");
        });
        let stent = Stent::start(&config(&backend));
        let response = stent.client().request(method, "/", &[], b"");
        assert_eq!(response.status, if method == "GET" { 200 } else { 502 });
        assert_eq!(attempts(&stent), pairs(expected), "{method}");
    }
}

#[test]
fn a_request_that_a_goaway_leaves_out_is_sent_again_elsewhere() {
    let backend = FrameBackend::new(|number, connection| {
        connection.open(&[]);
        if number > 1 {
            return connection.serve("second");
        }
        let stream = connection.request().unwrap();
        connection.go_away(stream - 1, NO_ERROR);
        while connection.next().is_some() {}
    });
    let stent = Stent::start(&config(&backend));
    assert_eq!(stent.client().post("/", noise(5000)).text(), "second");
    assert_eq!(attempts(&stent), pairs(&[("reset", "never"), ("200", "answered")]));
    assert_eq!(backend.connections(), 2);
}

#[test]
fn a_connection_that_is_going_away_ends_its_streams_and_takes_nothing_new() {
    let backend = FrameBackend::new(|number, connection| {
        connection.open(&[]);
        if number > 1 {
            return connection.serve("second");
        }
        let stream = connection.request().unwrap();
        connection.answer(stream, &[(":status", "200")], false);
        connection.go_away(stream, NO_ERROR);
        connection.data(stream, b"first", true);
        while let Some(frame) = connection.next() {
            assert!(frame.stream <= stream, "{frame:?}");
        }
    });
    let stent = Stent::start(&config(&backend));
    assert_eq!(stent.client().post("/", "a").text(), "first");
    assert_eq!(stent.client().post("/", "b").text(), "second");
    for line in stent.access_log(2) {
        assert_eq!(line.results(), ["200"], "no attempt is lost with a connection that went away");
    }
    assert_connections(&stent, 0.0, 1.0);
}

#[test]
fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let stream = connection.request().unwrap();
        connection.ok(stream, "once");
    });
    let stent = Stent::start(&config(&backend));
    for count in 1..=3 {
        assert_eq!(stent.client().post("/", "body").text(), "once");
        assert_connections(&stent, 0.0, 0.0);
        assert_eq!(backend.connections(), count);
    }
    assert!(stent.access_log(3).iter().all(|line| line.results() == ["200"]));
}

#[test]
fn a_caller_that_leaves_cancels_its_stream_and_no_other() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let stream = connection.request().unwrap();
        assert_eq!(connection.reset(), Some((stream, CANCEL)));
        let stream = connection.request().unwrap();
        connection.answer(stream, &[(":status", "200")], false);
        connection.data(stream, b"a part", false);
        assert_eq!(connection.reset(), Some((stream, CANCEL)), "inside its answer");
        connection.serve("well");
    });
    let stent = Stent::start(&config(&backend));
    let mut leaving = stent.client();
    leaving.send_head("GET", "/", &[]);
    assert_connections(&stent, 1.0, 0.0);
    drop(leaving);
    assert_connections(&stent, 0.0, 1.0);
    let mut leaving = stent.client();
    leaving.send_head("GET", "/", &[]);
    assert_eq!(leaving.interim_status(), 200);
    drop(leaving);
    assert_connections(&stent, 0.0, 1.0);
    assert_eq!(stent.client().get("/").text(), "well");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn an_answer_that_breaks_off_is_cut_short_for_the_caller_too() {
    // A reset without an error ends an answer only where it ends the request that nobody reads any more.
    let ends: [fn(&mut FrameConnection, u32); 3] = [
        |connection, _| connection.close(),
        |connection, stream| connection.send_reset(stream, INTERNAL_ERROR),
        |connection, stream| connection.send_reset(stream, NO_ERROR),
    ];
    for end in ends {
        let (go, told) = mpsc::channel();
        let told = Mutex::new(told);
        let backend = FrameBackend::new(move |_, connection| {
            connection.open(&[]);
            let stream = connection.request().unwrap();
            connection.answer(stream, &[(":status", "200")], false);
            connection.data(stream, b"a part", false);
            told.lock().unwrap().recv().unwrap();
            end(connection, stream);
            while connection.next().is_some() {}
        });
        let stent = Stent::start(&config(&backend).retry("hold", "0B"));
        let mut caller = stent.client();
        caller.send_head("GET", "/", &[]);
        assert_eq!(caller.interim_status(), 200, "the head goes on before the body ends");
        go.send(()).unwrap();
        assert_eq!(stent.only_line().text("outcome"), Some("upstream_truncated"));
        stent.wait_for_metric("stent_upstream_connections", &[("state", "active")], 0.0);
    }
}

#[test]
fn a_connection_that_dies_before_an_answer_is_a_reset() {
    let backend = FrameBackend::new(|number, connection| {
        connection.open(&[]);
        if number > 1 {
            return connection.serve("second");
        }
        connection.request().unwrap();
    });
    let stent = Stent::start(&config(&backend));
    assert_eq!(stent.client().get("/").text(), "second");
    assert_eq!(attempts(&stent), pairs(&[("reset", "maybe"), ("200", "answered")]));
}

#[test]
fn an_answer_that_needs_no_more_of_the_request_is_whole() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let head = connection.head().unwrap();
        assert!(!head.ends_stream());
        connection.answer(head.stream, &[(":status", "413")], false);
        connection.data(head.stream, b"too much", true);
        connection.send_reset(head.stream, NO_ERROR);
        connection.serve("next");
    });
    let stent = Stent::start(&config(&backend));
    let mut caller = stent.client();
    caller.send_head("POST", "/", &[("Content-Length", "1000000")]);
    caller.send(b"a beginning");
    let response = caller.response();
    assert_eq!((response.status, &*response.text(), response.truncated), (413, "too much", false));
    assert_eq!(stent.client().get("/").text(), "next");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_connection_that_has_fallen_silent_is_left_when_an_exchange_on_it_is_given_up() {
    let backend = FrameBackend::new(|number, connection| {
        connection.open(&[]);
        if number > 1 {
            return connection.serve("second");
        }
        // Answered once, so that no frame of its opening is still to come in the silence.
        let stream = connection.request().unwrap();
        connection.ok(stream, "first");
        while connection.next().is_some() {}
    });
    let stent = Stent::start(&config(&backend).retry("per_try_timeout", "1500ms"));
    let mut caller = stent.client();
    assert_eq!(caller.get("/").text(), "first");
    assert_eq!(caller.get("/").text(), "second");
    assert_eq!(stent.access_log(2)[1].results(), ["timeout", "200"]);
    assert_connections(&stent, 0.0, 1.0);
}

#[test]
fn connections_are_closed_when_they_are_idle_and_with_a_reload_that_drops_them() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        connection.serve("served");
    });
    let stent = Stent::start(&config(&backend).set("cluster.hosp.idle_timeout", "50ms"));
    assert_eq!(stent.client().get("/").status, 200);
    assert_connections(&stent, 0.0, 0.0);
    stent.reload(&config(&backend));
    assert_eq!(stent.client().get("/").status, 200);
    assert_connections(&stent, 0.0, 1.0);
    let (gone, told) = mpsc::channel();
    let gone = Mutex::new(gone);
    let other = FrameBackend::new(move |_, connection| {
        connection.open(&[]);
        connection.serve("other");
        gone.lock().unwrap().send(()).unwrap();
    });
    stent.reload(&config(&other));
    assert_eq!(stent.client().get("/").text(), "other");
    stent.reload(&config(&backend));
    told.recv_timeout(BOUND).expect("the connection to a backend that is no longer configured is closed");
}

#[test]
fn a_backend_that_speaks_no_http2_fails_before_anything_is_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let stent = Stent::start(&Config::with_endpoints(&[address]).set("cluster.hosp.protocol", "h2"));
    assert_eq!(stent.client().post("/", "body").status, 502);
    assert_eq!(attempts(&stent), pairs(&[("protocol", "never"); 3]));
}

#[test]
fn an_answer_with_a_name_that_no_caller_could_be_given_is_a_failure() {
    let backend = FrameBackend::new(|_, connection| {
        connection.open(&[]);
        let stream = connection.request().unwrap();
        connection.answer(stream, &[(":status", "200"), ("x\"y", "1")], true);
        connection.serve("later");
    });
    let stent = Stent::start(&config(&backend));
    assert_eq!(stent.client().get("/").text(), "later");
    assert_eq!(attempts(&stent), pairs(&[("protocol", "maybe"), ("200", "answered")]));
    assert_connections(&stent, 0.0, 1.0);
    assert_eq!(backend.connections(), 1, "no other stream is broken by it");
}

#[test]
fn a_backend_that_never_says_what_it_allows_is_a_connect_timeout() {
    let backend = FrameBackend::new(|_, connection| while connection.next().is_some() {});
    let stent = Stent::start(&config(&backend).set("cluster.hosp.connect_timeout", "50ms"));
    assert_eq!(stent.client().get("/").status, 504);
    assert_eq!(attempts(&stent), pairs(&[("connect_timeout", "never"); 3]));
}

/// Refuses the first call, as gRPC does where there is nothing to say, and serves the next ones.
fn unavailable_once(_: usize, connection: &mut FrameConnection) {
    connection.open(&[]);
    let stream = connection.request().unwrap();
    let fields =
        [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14"), ("a", "b")];
    connection.answer(stream, &fields, true);
    connection.serve("answer");
}

#[test]
fn a_call_of_grpc_that_failed_without_a_body_is_sent_again_where_the_route_says_so() {
    let backend = FrameBackend::new(unavailable_once);
    let config =
        config(&backend).retry("grpc_statuses", vec!["unavailable"]).retry("methods", vec!["GET", "POST"]);
    let stent = Stent::start(&config);
    let response = stent.client().request("POST", "/", &[("TE", "trailers")], b"message");
    assert_eq!(response.text(), "answer");
    let line = stent.only_line();
    assert_eq!(line.results(), ["200", "200"]);
    assert_eq!(line.attempt_field(0, "grpc_status"), 14);
    stent.wait_for_metric("stent_retries_total", &[("reason", "grpc-14")], 1.0);
    stent.wait_for_metric("stent_attempts_total", &[("result", "grpc-14")], 1.0);
    stent.wait_for_metric("stent_retry_recovered_total", &[("route", "everything")], 1.0);
}

#[test]
fn a_failed_call_of_grpc_that_may_not_be_repeated_reaches_the_caller_as_it_is() {
    for config_of in [
        |config: Config| config,
        |config: Config| config.retry("grpc_statuses", vec![14]),
        |config: Config| config.retry("grpc_statuses", vec!["internal"]).retry("methods", vec!["POST"]),
    ] {
        let backend = FrameBackend::new(unavailable_once);
        let stent = Stent::start(&config_of(config(&backend)));
        let response = stent.client().post("/", "message");
        assert_eq!((response.status, response.headers.only("grpc-status")), (200, Some("14")));
        assert_eq!(stent.only_line().results(), ["200"]);
    }
}

#[test]
fn faults_of_every_kind_leave_nothing_behind() {
    const REQUESTS: usize = 600;
    let random = Mutex::new(fastrand::Rng::with_seed(3));
    let backend = FrameBackend::new(move |_, connection| {
        connection.open(&[(MAX_STREAMS, 3)]);
        while let Some(stream) = connection.request() {
            let draw = random.lock().unwrap().u32(0..100);
            match draw {
                0..4 => connection.send_reset(stream, REFUSED_STREAM),
                4..8 => connection.send_reset(stream, INTERNAL_ERROR),
                8..10 => return connection.go_away(stream - 1, NO_ERROR),
                10..12 => return connection.go_away(stream, INTERNAL_ERROR),
                12..15 => {
                    connection.answer(stream, &[(":status", "200")], false);
                    connection.data(stream, b"a part", false);
                    connection.send_reset(stream, CANCEL);
                }
                15..16 => return,
                16..18 => {} // never answered
                18..22 => connection.answer(stream, &[(":status", "502")], true),
                _ => connection.ok(stream, "well"),
            }
        }
    });
    let config = config(&backend)
        .set("server.workers", 2)
        .set("cluster.hosp.max_connections", 2)
        .retry("per_try_timeout", "100ms")
        .set("route.deadline", "2s")
        .backoff("1ms");
    let stent = Stent::start(&config);
    let good = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..REQUESTS / 6 {
                    let mut caller = stent.client();
                    caller.send(&request("PUT", "/", &[], b"body"));
                    // An answer that breaks off at once may take its head with it.
                    if caller
                        .try_response()
                        .is_ok_and(|response| response.status == 200 && !response.truncated)
                    {
                        good.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let good = good.into_inner();
    assert!(good > REQUESTS * 4 / 5, "{good} of {REQUESTS}");
    assert_eq!(stent.access_log(REQUESTS).len(), REQUESTS);
    eventually("an empty proxy", || {
        let metrics = stent.metrics();
        let left = metrics.sum("stent_upstream_connections", &[("state", "active")])
            + metrics.sum("stent_requests_in_flight", &[])
            + metrics.sum("stent_replay_bytes", &[]);
        (left.abs() < 1e-9).then_some(())
    });
}

#[test]
fn the_host_the_body_and_te_reach_the_backend_and_its_trailers_the_caller() {
    let address = echo(None);
    let stent = Stent::start(&Config::with_endpoints(&[address]).set("cluster.hosp.protocol", "h2"));
    let body = noise(300_000);
    let headers = [("TE", "trailers, deflate"), ("Connection", "TE, x-hop"), ("X-Hop", "1")];
    let response = stent.client().request("POST", "/a?b=c", &headers, &body);
    assert_eq!((response.status, response.truncated), (200, false));
    assert!(response.body == body, "{} of {} bytes", response.body.len(), body.len());
    let only = |name| response.headers.only(name);
    assert_eq!(only("x-target"), Some("http://hosp.test/a?b=c"));
    assert_eq!(only("x-te"), Some("trailers"));
    assert_eq!(only("x-length"), Some("300000"));
    assert_eq!(only("x-host"), Some("absent"));
    assert_eq!(only("x-hop"), Some("absent"));
}

#[test]
fn over_http2_too_a_request_without_a_body_has_a_length_where_its_method_anticipates_one() {
    let address = echo(None);
    let stent = Stent::start(&Config::with_endpoints(&[address]).set("cluster.hosp.protocol", "h2"));
    let mut client = stent.client();
    for (method, length) in
        [("POST", "0"), ("PUT", "0"), ("PATCH", "0"), ("GET", "absent"), ("DELETE", "absent")]
    {
        client.send_head(method, "/", &[]);
        assert_eq!(client.response().headers.only("x-length"), Some(length), "{method}");
    }
}

#[test]
fn auto_takes_what_the_backend_prefers_and_connects_once() {
    let directory = TempDir::new();
    let authority = Authority::new("Test CA");
    std::fs::write(directory.path().join("ca.pem"), &authority.pem).unwrap();
    let ca = directory.path().join("ca.pem");
    let local = |protocols: &[&[u8]]| {
        let mut config = server(&authority.issue(&["127.0.0.1"]), None, ALL_VERSIONS);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    };
    let secured = |address: SocketAddr, protocol: &str| {
        Config::with_endpoints(&[])
            .set("cluster.hosp.endpoints", vec![format!("https://{address}")])
            .set("cluster.hosp.tls.ca", ca.to_str().unwrap())
            .set("cluster.hosp.protocol", protocol)
    };

    let address = echo(Some(local(&[b"h2", b"http/1.1"])));
    for protocol in ["auto", "h2"] {
        let stent = Stent::start(&secured(address, protocol));
        let response = stent.client().post("/", "body");
        assert_eq!(response.headers.only("x-target"), Some("https://hosp.test/"), "{protocol}");
    }

    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let backend = SecureBackend::new(local(protocols));
        let stent = Stent::start(&secured(backend.address(), "auto"));
        for count in 1..=3 {
            assert_eq!(stent.client().get("/").text(), "hello");
            let handshakes = backend.handshakes();
            assert_eq!(handshakes.len(), count, "one connection per answer, as this backend closes");
            let Handshake::Done { protocol, .. } = &handshakes[0] else { panic!() };
            assert_eq!(protocol.as_deref(), protocols.first().copied());
        }
        let stent = Stent::start(&secured(backend.address(), "h2"));
        assert_eq!(stent.client().get("/").status, 502);
        assert!(matches!(&*stent.only_line().results()[0], "tls_protocol" | "tls_alert"));
    }
}

#[test]
fn a_call_of_grpc_passes_both_ways_with_its_trailers() {
    let address = echo(None);
    let stent = Stent::start(&Config::with_endpoints(&[address]).set("cluster.hosp.protocol", "h2"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = async {
        let socket = TcpStream::connect(stent.listener()).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://hosp.test/a.B/C")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"first"), false).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        assert_eq!(head.headers["x-te"], "trailers");
        assert_eq!(head.headers["via"], "2 stent", "the protocol that the answer came by");
        // The answer comes while the request is still being sent.
        assert_eq!(body.data().await.unwrap().unwrap(), "first");
        stream.send_data(Bytes::from_static(b"second"), true).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "second");
        while let Some(rest) = body.data().await {
            assert_eq!(rest.unwrap(), "");
        }
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    };
    runtime.block_on(async { timeout(BOUND, call).await.unwrap() });
    assert_eq!(stent.only_line().text("outcome"), Some("ok"));
}

/// A real server of HTTP/2 that sends back what it got, and `grpc-status: 0` behind it.
fn echo(tls: Option<ServerConfig>) -> SocketAddr {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    // It ends with the test process.
    std::thread::spawn(move || {
        runtime.block_on(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => serve_echo(socket).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(socket).await {
                                serve_echo(stream).await;
                            }
                        }
                    }
                });
            }
        });
    });
    address
}

async fn serve_echo(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let field = |name| head.headers.get(name).map_or("absent", |value| value.to_str().unwrap());
            let response = http::Response::builder()
                .header("x-target", head.uri.to_string())
                .header("x-te", field("te"))
                .header("x-length", field("content-length"))
                .header("x-host", field("host"))
                .header("x-hop", field("x-hop"))
                .header("trailer", "grpc-status")
                .body(())
                .unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                stream.send_data(data, false).unwrap();
            }
            let _ = stream.send_data(Bytes::new(), false);
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            let _ = stream.send_trailers(trailers);
        });
    }
}
