//! A connection that changes to another protocol becomes a tunnel, and nothing that was not granted goes through it.

use crate::support::stent::Signal;
use crate::support::{Action, Backend, Config, Stent};

const WEBSOCKET: [(&str, &str); 4] = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[test]
fn a_granted_upgrade_is_a_tunnel_both_ways_and_one_line_of_the_record() {
    let backend = Backend::scripted([Action::switch_to("websocket")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let (status, headers) = client.upgrade("/chat", &WEBSOCKET, b"");
    assert_eq!((status, headers.only("upgrade")), (101, Some("websocket")));
    assert!(headers.lists("connection", "upgrade"));
    stent.wait_for_metric("stent_tunnels_open", &[("route", "everything")], 1.0);
    let large = vec![7; 100_000];
    for text in [&b"GET /smuggled HTTP/1.1\r\n\r\n"[..], b"\x00\xff", &large] {
        client.send(text);
        assert_eq!(client.read_raw(text.len()), text);
    }
    client.finish();
    assert!(client.is_closed(), "an end on one side is passed on to the other");
    let line = stent.only_line();
    assert_eq!((line.status(), line.text("outcome")), (101, Some("ok")));
    assert!(line.number("bytes_in") > 100_000.0);
    assert!((line.number("bytes_in") - line.number("bytes_out")).abs() < 1e-9);
    stent.wait_for_metric("stent_tunnels_open", &[("route", "everything")], 0.0);
    let requests = backend.requests();
    assert_eq!(requests.len(), 1, "what goes through a tunnel is nobody's request");
    assert_eq!(requests[0].headers.only("upgrade"), Some("websocket"));
    assert_eq!(requests[0].headers.only("connection"), Some("upgrade"));
    assert!(requests[0].headers.has("sec-websocket-key"));
}

#[test]
fn a_request_for_an_upgrade_is_retried_like_a_get_until_the_101() {
    let backend =
        Backend::scripted([Action::answer(502, ""), Action::reset(), Action::switch_to("WebSocket")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    assert_eq!(client.upgrade("/", &WEBSOCKET, b"early").0, 101);
    assert_eq!(client.read_raw(5), b"early", "what came behind the request goes into the tunnel");
    client.finish();
    assert!(client.is_closed());
    assert_eq!(stent.only_line().results(), ["502", "reset", "101"]);
}

#[test]
fn what_follows_a_refused_upgrade_is_a_request_of_its_own() {
    let backend = Backend::scripted([Action::answer(403, "no")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let next = b"GET /next HTTP/1.1\r\nHost: hosp.test\r\n\r\n";
    let (status, headers) = client.upgrade("/", &WEBSOCKET, next);
    assert_eq!((status, headers.has("upgrade")), (403, false));
    assert_eq!(client.read_raw(2), b"no");
    assert_eq!(client.response().text(), "ok");
    let targets: Vec<_> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/", "/next"]);
    assert_eq!(stent.access_log(2).len(), 2);
}

#[test]
fn a_change_that_the_route_does_not_allow_or_that_is_not_asked_for_properly_is_ignored() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let cases: [&[(&str, &str)]; 6] = [
        &[("Connection", "upgrade, http2-settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")],
        &[("Connection", "upgrade"), ("Upgrade", "tls/1.0")],
        &[("Connection", "upgrade"), ("Upgrade", "websocket, h2c")],
        &[("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "websocket")],
        &[("Upgrade", "websocket")],
        &[("Connection", "close, not-upgrade"), ("Upgrade", "websocket")],
    ];
    for headers in &cases[..5] {
        assert_eq!(client.request("GET", "/", headers, b"").status, 200, "{headers:?}");
    }
    assert_eq!(client.request("GET", "/", cases[5], b"").status, 200);
    let mut client = stent.client();
    assert_eq!(client.request("PUT", "/", &WEBSOCKET, b"a body").status, 200);
    for request in backend.requests() {
        assert!(!request.headers.has("upgrade"), "{request:?}");
        assert!(!request.headers.has("connection"), "{request:?}");
    }
}

#[test]
fn a_protocol_that_was_not_asked_for_is_a_502_and_never_a_tunnel() {
    let backend = Backend::scripted([
        Action::switch_to("websocket"),
        Action::switch_to("spdy"),
        Action::switch_to("h2c"),
    ]);
    let stent = Stent::start(&Config::new(&backend).retry("max_attempts", 1));
    assert_eq!(stent.client().get("/").status, 502);
    for _ in 0..2 {
        let (status, headers) = stent.client().upgrade("/", &WEBSOCKET, b"");
        assert_eq!((status, headers.has("upgrade")), (502, false));
    }
}

#[test]
fn other_protocols_pass_where_the_route_lists_them() {
    let backend = Backend::scripted([Action::switch_to("dicom/3")]);
    let config = Config::new(&backend).set("route.upgrades", vec!["DICOM/3"]);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    assert_eq!(client.upgrade("/", &[("Connection", "upgrade"), ("Upgrade", "dicom/3")], b"x").0, 101);
    assert_eq!(client.read_raw(1), b"x");
}

#[test]
fn a_tunnel_in_which_nothing_passes_is_closed() {
    let backend = Backend::scripted([Action::switch_to("websocket")]);
    let stent = Stent::start(&Config::new(&backend).set("route.tunnel_idle_timeout", "300ms"));
    let mut client = stent.client();
    assert_eq!(client.upgrade("/", &WEBSOCKET, b"x").0, 101);
    assert_eq!(client.read_raw(1), b"x");
    assert!(client.is_closed());
    let line = stent.only_line();
    assert_eq!(line.text("outcome"), Some("tunnel_idle"));
    assert!(line.number("duration_us") >= 300_000.0);
}

#[test]
fn a_tunnel_that_the_backend_breaks_ends_for_the_caller_and_is_never_begun_again() {
    let backend = Backend::scripted([Action::switch_to("websocket")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    assert_eq!(client.upgrade("/", &WEBSOCKET, b"!").0, 101);
    assert!(client.is_closed());
    let line = stent.only_line();
    assert_eq!(line.text("outcome"), Some("upstream_truncated"));
    assert_eq!(line.text("retry_stopped"), Some("upgrade"));
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_caller_that_leaves_a_tunnel_frees_its_connection_to_the_backend() {
    let backend = Backend::scripted([Action::switch_to("websocket")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    assert_eq!(client.upgrade("/", &WEBSOCKET, b"x").0, 101);
    assert_eq!(client.read_raw(1), b"x");
    client.reset();
    backend.wait_until_closed(1);
    assert_eq!(stent.only_line().text("outcome"), Some("client_abort"));
    stent.wait_for_metric("stent_upstream_connections", &[("cluster", "hosp")], 0.0);
    stent.wait_for_metric("stent_requests_in_flight", &[], 0.0);
}

#[test]
fn a_tunnel_goes_on_while_the_proxy_drains_and_ends_with_finish_grace() {
    let backend = Backend::scripted([Action::switch_to("websocket")]);
    let mut stent = Stent::start(&Config::new(&backend).set("server.finish_grace", "700ms"));
    let mut client = stent.client();
    assert_eq!(client.upgrade("/", &WEBSOCKET, b"x").0, 101);
    assert_eq!(client.read_raw(1), b"x");
    stent.signal(Signal::Terminate);
    stent.wait_for_log("the drain", |line| line.contains("draining"));
    client.send(b"still here");
    assert_eq!(client.read_raw(10), b"still here");
    assert!(stent.wait_exit().success());
    assert!(client.is_closed());
    assert_eq!(stent.only_line().text("outcome"), Some("proxy_abort"));
}
