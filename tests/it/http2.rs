//! HTTP/2 towards the caller: what becomes of its requests, and what a connection may do.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::support::client::request as http1_request;
use crate::support::http2::{
    Caller, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, head, request,
};
use crate::support::stent::Signal;
use crate::support::{Action, Backend, Config, Stent, alone, eventually, ms};

mod floods;

const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;

fn start(backend: &Backend) -> Stent {
    Stent::start(&Config::new(backend))
}

#[test]
fn one_port_speaks_what_its_caller_begins_with() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let answer = Caller::connect(stent.listener()).get("/two?a=b");
    assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
    assert_eq!(stent.client().get("/one").status, 200);
    let lines = stent.access_log(2);
    assert_eq!(lines[0].text("protocol"), Some("HTTP/2"));
    assert_eq!(lines[1].text("protocol"), Some("HTTP/1.1"));
    assert_eq!((lines[0].text("path"), lines[0].text("host")), (Some("/two"), Some("hosp.test")));
    let request = &backend.requests()[0];
    assert_eq!(request.target, "/two?a=b");
    assert_eq!(request.headers.only("host"), Some("hosp.test"));
    assert_eq!(request.headers.only("x-forwarded-host"), Some("hosp.test"));
    assert_eq!(request.headers.only("x-forwarded-proto"), Some("http"), "whatever the scheme claims");
    assert_eq!(request.headers.only("via"), Some("2 stent"), "the protocol that it came by");
    assert_eq!(answer.headers["via"], "1.1 stent", "and the one that its answer came by");
    assert_eq!(stent.metric("stent_http2_connections_total", &[]).to_bits(), 1f64.to_bits());
}

#[test]
fn a_listener_without_http2_refuses_its_preface() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.http2.enabled", false));
    let mut client = stent.client();
    client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    // Whether or not it says so in HTTP/1.1, it ends.
    let _ = client.try_response();
    assert!(client.is_closed());
    assert_eq!(stent.client().get("/").status, 200);
}

#[test]
fn many_requests_are_answered_at_once_and_in_any_order() {
    let backend = Backend::new(|request| match &*request.target {
        "/slow" => Action::answer(200, "slow").after(ms(300)),
        _ => Action::answer(200, "fast"),
    });
    let stent = start(&backend);
    let mut caller = Caller::connect(stent.listener());
    let slow = caller.begin(request("GET", "/slow", &[]), true);
    assert_eq!(caller.get("/").body, b"fast");
    assert_eq!(caller.answer(slow).unwrap().body, b"slow");
}

#[test]
fn crumbs_of_a_cookie_reach_the_backend_as_one() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
    Caller::connect(stent.listener()).request(request("GET", "/", &crumbs), b"", None).unwrap();
    assert_eq!(backend.requests()[0].headers.all("cookie"), ["a=1; b=2"]);
}

#[test]
fn a_request_whose_host_is_in_doubt_is_refused() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut caller = Caller::connect(stent.listener());
    for host in ["other.test", "hosp.test:80"] {
        let answer = caller.request(request("GET", "/", &[("host", host)]), b"", None).unwrap();
        assert_eq!(answer.status, 400, "{host}");
        assert!(!answer.headers.contains_key("connection"), "HTTP/2 knows no such field");
    }
    let mut frames = Frames::connect(stent.listener(), &[]);
    for (stream, fields) in [
        (1, &[(":method", "GET"), (":scheme", "http"), (":path", "/")][..]),
        (3, &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a@hosp.test")]),
        (5, &[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "a"), ("host", "a")]),
    ] {
        frames.send(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields)).unwrap();
        let refused = std::iter::from_fn(|| frames.next())
            .find(|frame| frame.stream == stream && (frame.kind == HEADERS || frame.kind == RST_STREAM))
            .unwrap();
        // The status 400 of HPACK's static table.
        assert!(refused.kind == RST_STREAM || refused.payload.first() == Some(&0x8c), "{refused:?}");
    }
    assert_eq!(backend.requests().len(), 0);
    assert_eq!(caller.get("/").status, 200, "the connection is whole");
}

#[test]
fn a_host_without_an_authority_is_enough() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "hosp.test")];
    frames.send(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields)).unwrap();
    assert_eq!(backend.wait_for_requests(1)[0].headers.only("host"), Some("hosp.test"));
}

#[test]
fn a_malformed_request_resets_its_stream_and_no_other() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    let mut stream = 1;
    for (name, value) in [
        ("connection", "keep-alive"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ] {
        let end = END_STREAM | END_HEADERS;
        frames.send(HEADERS, end, stream, &head("GET", "/", &[(name, value)])).unwrap();
        let reset = frames.next_of(RST_STREAM).unwrap();
        assert_eq!((reset.stream, reset.code()), (stream, PROTOCOL_ERROR), "{name}");
        stream += 2;
    }
    frames.get(stream, "/").unwrap();
    assert_eq!(frames.next_of(HEADERS).unwrap().stream, stream);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_field_that_cannot_be_one_reaches_no_backend() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    for (name, value) in [
        ("X-Upper", "1"),
        ("x", "a\r\nx-evil: 1"),
        ("x", "a\nx-evil: 1"),
        ("x", "a\0b"),
        ("x:y", "1"),
        ("", "1"),
        (":path", "/evil"),
        (":unknown", "1"),
        ("content-length", "5"),
        ("content-length", "a"),
    ] {
        let mut frames = Frames::connect(stent.listener(), &[]);
        let end = END_STREAM | END_HEADERS;
        frames.send(HEADERS, end, 1, &head("GET", "/", &[(name, value)])).unwrap();
        // h2 takes some for an error of the stream and some for one of the connection.
        let refused = std::iter::from_fn(|| frames.next())
            .find(|frame| matches!(frame.kind, RST_STREAM | GOAWAY | HEADERS))
            .unwrap();
        assert_ne!(refused.kind, HEADERS, "{name}: {value:?}");
    }
    let mut caller = Caller::connect(stent.listener());
    for (name, value) in [("x", " padded"), ("x\"y", "1"), ("con\"ent-length", "5")] {
        let mut request = request("GET", "/", &[]);
        let name = HeaderName::from_lowercase(name.as_bytes()).unwrap();
        request.headers_mut().insert(&name, HeaderValue::from_static(value));
        assert_eq!(caller.request(request, b"", None).unwrap().status, 400, "{name}: {value:?}");
    }
    assert_eq!(backend.requests().len(), 0);
}

#[test]
fn connect_is_refused_and_its_extension_not_offered() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    assert_eq!(frames.next_of(SETTINGS).unwrap().setting(8), None, "SETTINGS_ENABLE_CONNECT_PROTOCOL");
    let fields = [(":method", "CONNECT"), (":authority", "hosp.test:443")];
    frames.send(HEADERS, END_HEADERS, 1, &block(&fields)).unwrap();
    let answer = frames.next_of(HEADERS).unwrap();
    assert!(answer.payload.windows(3).any(|window| window == b"501") || has_huffman_501(&answer.payload));
    frames.send(HEADERS, END_HEADERS, 3, &head("CONNECT", "/", &[(":protocol", "websocket")])).unwrap();
    let reset = std::iter::from_fn(|| frames.next()).find(|frame| frame.stream == 3).unwrap();
    assert_eq!(reset.kind, RST_STREAM);
    assert_eq!(backend.requests().len(), 0);
    let line = stent.only_line();
    assert_eq!((line.status(), line.text("protocol")), (501, Some("HTTP/2")));
}

/// `501` in HPACK's Huffman code: 0x6c0 (10 bits: 011011 00000 00001), padded with ones.
fn has_huffman_501(payload: &[u8]) -> bool {
    payload.windows(2).any(|window| window == [0x6c, 0x01])
}

#[test]
fn trailers_pass_both_ways() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 2\r\nContent-Length: 9\r\n\r\n";
    let backend = Backend::new(move |_| Action::raw_kept_open(answer));
    let stent = start(&backend);
    let mut caller = Caller::connect(stent.listener());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    trailers.insert("authorization", HeaderValue::from_static("x"));
    let head = request("POST", "/", &[("trailer", "x-sum, authorization")]);
    let answer = caller.request(head, b"abc", Some(trailers)).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"hello"[..]));
    let trailers = answer.trailers.unwrap();
    assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (1, &b"2"[..]));
    let request = backend.wait_for_requests(1).remove(0);
    assert_eq!(request.body, b"abc");
    let raw = String::from_utf8_lossy(&request.raw).to_lowercase();
    assert!(raw.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{raw:?}");
}

#[test]
fn a_body_without_a_length_passes_whatever_the_method() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut caller = Caller::connect(stent.listener());
    for method in ["GET", "POST", "PATCH", "DELETE"] {
        let answer = caller.request(request(method, "/", &[]), b"a body", None).unwrap();
        assert_eq!(answer.status, 200);
    }
    for request in backend.requests() {
        assert_eq!(request.body, b"a body", "{}", request.method);
    }
}

#[test]
fn a_failed_attempt_is_made_good_with_the_body_and_the_trailers_that_came() {
    let backend = Backend::scripted([Action::answer(500, ""), Action::answer(502, "")]);
    let stent = start(&backend);
    let mut caller = Caller::connect(stent.listener());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let head = request("PUT", "/", &[("trailer", "x-sum")]);
    let answer = caller.request(head, b"a body", Some(trailers)).unwrap();
    assert_eq!(answer.status, 200);
    for request in backend.requests() {
        assert_eq!(request.body, b"a body");
        assert!(request.raw.ends_with(b"0\r\nx-sum: 1\r\n\r\n"), "attempt {}", request.number);
    }
    assert_eq!(stent.only_line().results(), ["500", "502", "200"]);
}

#[test]
fn a_broken_answer_resets_its_stream_and_no_other() {
    let backend = Backend::scripted([Action::truncated(10, 100)]);
    let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
    let mut caller = Caller::connect(stent.listener());
    let broken = caller.request(request("GET", "/", &[]), b"", None).unwrap_err();
    assert!(broken.is_reset(), "{broken}");
    assert_eq!(caller.get("/").status, 200);
    assert_eq!(stent.access_log(2)[0].text("outcome"), Some("upstream_truncated"));
}

#[test]
fn a_request_that_its_caller_cancels_is_cancelled_upstream() {
    let backend = Backend::scripted([Action::hang()]);
    let stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    frames.get(1, "/").unwrap();
    backend.wait_for_requests(1);
    frames.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).unwrap();
    backend.wait_until_closed(1);
    let line = stent.only_line();
    assert_eq!((line.text("outcome"), line.status()), (Some("client_abort"), 499));
    frames.get(3, "/").unwrap();
    assert_eq!(frames.next_of(HEADERS).unwrap().stream, 3);
}

#[test]
fn a_caller_silent_inside_its_body_gets_a_408() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.body_timeout", "200ms"));
    let mut caller = Caller::connect(stent.listener());
    let pending = caller.begin(request("POST", "/", &[("content-length", "5")]), false);
    assert_eq!(caller.answer(pending).unwrap().status, 408);
    assert_eq!(caller.get("/").status, 200);
}

#[test]
fn a_stream_whose_caller_takes_nothing_is_reset_and_the_others_go_on() {
    let backend = Backend::new(|request| match &*request.target {
        "/large" => Action::answer(200, vec![b'x'; 1 << 20]),
        _ => Action::answer(200, ""),
    });
    let stent = Stent::start(&Config::new(&backend).set("listener.write_timeout", "300ms"));
    // No window for any stream.
    let mut frames = Frames::connect(stent.listener(), &[(4, 0)]);
    frames.get(1, "/large").unwrap();
    let reset = frames.next_of(RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.code()), (1, CANCEL));
    stent.wait_for_metric("stent_http2_errors_total", &[("error", "stalled")], 1.0);
    assert_eq!(stent.only_line().text("outcome"), Some("client_abort"));
    frames.get(3, "/").unwrap();
    assert_eq!(frames.next_of(HEADERS).unwrap().stream, 3);
}

#[test]
fn a_stream_whose_caller_takes_a_little_now_and_then_is_not_reset() {
    let backend = Backend::new(|_| Action::answer(200, vec![b'x'; 100_000]));
    let stent = Stent::start(&Config::new(&backend).set("listener.write_timeout", "500ms"));
    let mut frames = Frames::connect(stent.listener(), &[(4, 0)]);
    frames.get(1, "/").unwrap();
    let mut taken = 0;
    while taken < 100_000 {
        std::thread::sleep(ms(200));
        frames.send(WINDOW_UPDATE, 0, 1, &20_000u32.to_be_bytes()).unwrap();
        frames.send(WINDOW_UPDATE, 0, 0, &20_000u32.to_be_bytes()).unwrap();
        let wanted = (taken + 20_000).min(100_000);
        while taken < wanted {
            let frame = frames.next_of(DATA).unwrap();
            taken += frame.payload.len();
        }
    }
    assert_eq!(stent.only_line().text("outcome"), Some("ok"));
}

#[test]
fn a_connection_without_requests_is_idle_whatever_it_pings() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.idle_timeout", "400ms"));
    let mut frames = Frames::connect(stent.listener(), &[]);
    let start = std::time::Instant::now();
    let pinger = std::thread::spawn({
        let address = stent.listener();
        move || {
            let mut pinging = Frames::connect(address, &[]);
            while pinging.send(6, 0, 0, b"12345678").is_ok() {
                std::thread::sleep(ms(50));
            }
        }
    });
    let rest = frames.rest();
    assert!(rest.iter().any(|frame| frame.kind == GOAWAY), "{rest:?}");
    assert!((ms(390)..ms(3000)).contains(&start.elapsed()), "{:?}", start.elapsed());
    pinger.join().unwrap();
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
}

#[test]
fn a_preface_must_be_whole_within_header_timeout_and_its_settings_must_follow() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.header_timeout", "300ms"));
    for beginning in [&PREFACE[..10], PREFACE, &[PREFACE, &[0, 0, 0]].concat()] {
        let mut frames = Frames::connect_silently(stent.listener());
        frames.write(beginning).unwrap();
        assert_eq!(frames.rest(), [], "closed without a word");
    }
    let mut frames = Frames::connect_silently(stent.listener());
    frames.write(&[PREFACE, &frame(6, 0, 0, b"12345678")].concat()).unwrap();
    assert_eq!(frames.rest(), []);
}

#[test]
fn a_draining_connection_says_so_and_finishes_what_runs() {
    let backend = Backend::new(|_| Action::answer(200, "slow").after(ms(600)));
    let mut stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    let mut idle = Frames::connect(stent.listener(), &[]);
    frames.get(1, "/").unwrap();
    backend.wait_for_requests(1);
    stent.signal(Signal::Terminate);
    assert!(idle.next_of(GOAWAY).is_some());
    let rest = frames.rest();
    let place = |kind| rest.iter().position(|frame| frame.kind == kind);
    assert!(place(GOAWAY) < place(HEADERS), "told before the answer: {rest:?}");
    assert!(rest.iter().any(|frame| frame.kind == DATA && frame.payload == b"slow"));
    assert!(stent.wait_exit().success());
}

#[test]
fn http1_requests_cut_in_any_place_are_not_mistaken_for_http2() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let bytes = http1_request("PRIVATE", "/", &[], b"");
    for cut in [1, 2, 3, 4, 10] {
        let mut client = stent.client();
        client.send(&bytes[..cut]);
        std::thread::sleep(ms(20));
        client.send(&bytes[cut..]);
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn memory_returns_when_callers_leave() {
    let _alone = alone();
    let backend = Backend::new(|_| Action::answer(200, vec![b'x'; 1 << 20]));
    let stent = start(&backend);
    for _ in 0..5 {
        let mut frames = Frames::connect(stent.listener(), &[(4, 1000)]);
        (0..100).for_each(|number| frames.get(1 + 2 * number, "/").unwrap());
        eventually("an answer", || frames.next_of(DATA));
    }
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
    stent.wait_for_metric("stent_requests_in_flight", &[], 0.0);
}
