//! What is passed on of a head, what is not, and which requests are refused for theirs.

use crate::support::backend::ReceivedRequest;
use crate::support::{Action, Backend, Config, Stent};

/// What the backend gets of one GET with these headers.
fn forwarded(config: impl Fn(Config) -> Config, headers: &[(&str, &str)]) -> (ReceivedRequest, Stent) {
    let backend = Backend::healthy();
    let stent = Stent::start(&config(Config::new(&backend)));
    assert_eq!(stent.client().request("GET", "/", headers, b"").status, 200);
    (backend.requests().remove(0), stent)
}

fn untrusting(config: Config) -> Config {
    config
}

fn trusting(config: Config) -> Config {
    config.set("listener.trusted_proxies", vec!["127.0.0.0/8", "10.0.0.0/16"])
}

#[test]
fn hop_by_hop_headers_of_a_request_stay_with_their_hop() {
    let (request, _stent) = forwarded(
        untrusting,
        &[
            ("Connection", "keep-alive, X-Private"),
            ("Connection", "x-also-private"),
            ("X-Private", "1"),
            ("X-Also-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("X-Public", "1"),
        ],
    );
    let hop_by_hop = [
        "x-private",
        "x-also-private",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    for name in hop_by_hop {
        assert!(!request.headers.has(name), "{name}: {:?}", request.headers);
    }
    for name in ["x-private", "x-also-private"] {
        assert!(!request.headers.lists("connection", name));
    }
    assert_eq!(request.headers.only("x-public"), Some("1"));
}

#[test]
fn hop_by_hop_headers_of_an_answer_stay_with_their_hop() {
    let backend = Backend::scripted([Action::answer_with(
        200,
        &[
            ("Connection", "X-Private, keep-alive"),
            ("X-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Upgrade", "h2c"),
            ("X-Public", "1"),
        ],
        "ok",
    )]);
    let stent = Stent::start(&Config::new(&backend));
    let response = stent.client().get("/");
    for name in ["x-private", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!response.headers.has(name), "{name}: {:?}", response.headers);
    }
    assert_eq!(response.headers.only("x-public"), Some("1"));
    assert_eq!(response.text(), "ok");
}

#[test]
fn connection_cannot_name_away_what_a_message_needs() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let headers = [("Connection", "Host, Content-Length, X-Forwarded-For")];
    assert_eq!(stent.client().request("PUT", "/", &headers, b"body").status, 200);
    let request = backend.requests().remove(0);
    assert_eq!(request.headers.only("host"), Some("hosp.test"));
    assert_eq!(request.body, b"body");
    assert_eq!(request.headers.only("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn host_and_target_arrive_as_they_were_sent() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let target = "/a%2Fb/%7Ec//d;e?x=%41&y=a+b&&z";
    stent.client().request("GET", target, &[("Host", "HOSP.example.org:8443")], b"");
    let request = backend.requests().remove(0);
    assert_eq!(request.headers.only("host"), Some("HOSP.example.org:8443"));
    assert_eq!(request.target, target);
    assert_eq!(request.method, "GET");
    assert!(request.raw.starts_with(format!("GET {target} HTTP/1.1\r\n").as_bytes()));
    assert!(request.body.is_empty() && !request.headers.has("content-length"));
}

#[test]
fn forwarded_headers_of_an_untrusted_peer_are_replaced() {
    let (request, stent) = forwarded(
        untrusting,
        &[
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-For", "7.7.7.7, 8.8.8.8"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Forwarded-Port", "666"),
        ],
    );
    assert_eq!(request.headers.only("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.headers.only("x-forwarded-proto"), Some("http"));
    assert_eq!(request.headers.only("x-forwarded-host"), Some("hosp.test"));
    assert!(request.headers.iter().all(|(_, value)| value != "666"), "{:?}", request.headers);
    assert!(!request.headers.has("forwarded"), "nothing of the kind is invented");
    assert_eq!(stent.only_line().text("client"), Some("127.0.0.1"));
}

#[test]
fn the_client_is_found_right_to_left_through_trusted_proxies() {
    let (request, stent) = forwarded(
        trusting,
        &[("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.0.0.7"), ("X-Forwarded-Proto", "https")],
    );
    let addresses = request.headers.all("x-forwarded-for").join(", ");
    assert_eq!(addresses, "6.6.6.6, 203.0.113.9, 10.0.0.7, 127.0.0.1", "our peer is appended");
    assert_eq!(request.headers.only("x-forwarded-proto"), Some("https"), "a trusted proxy knows");
    assert_eq!(stent.only_line().text("client"), Some("203.0.113.9"), "the leftmost is the attacker's");
}

#[test]
fn an_over_long_forwarded_for_is_refused_and_not_cut() {
    let backend = Backend::healthy();
    let stent = Stent::start(&trusting(Config::new(&backend)));
    let long = vec!["10.0.0.7"; 31].join(", ");
    let response = stent.client().request("GET", "/", &[("X-Forwarded-For", &long)], b"");
    assert_eq!(response.status, 400);
    assert!(backend.requests().is_empty());
}

#[test]
fn via_is_added_to_what_is_there() {
    let (request, _stent) = forwarded(|config| config.set("server.via", "edge-1"), &[("Via", "1.0 fred")]);
    assert_eq!(request.headers.all("via").join(", "), "1.0 fred, 1.1 edge-1");
}

#[test]
fn a_request_that_comes_back_is_answered_with_502() {
    let backend = Backend::healthy();
    let stent = Stent::start(&trusting(Config::new(&backend)).set("server.via", "edge-1"));
    let response = stent.client().request("GET", "/", &[("Via", "1.1 other, 1.1 Edge-1")], b"");
    assert_eq!(response.status, 502);
    assert!(backend.requests().is_empty());
    assert_eq!(stent.only_line().text("error"), Some("proxy_loop_detected"));
}

#[test]
fn a_stranger_who_names_us_in_via_has_made_the_loop_up() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("server.via", "edge-1"));
    let response = stent.client().request("GET", "/", &[("Via", "1.1 other, 1.1 Edge-1")], b"");
    assert_eq!(response.status, 508);
    assert!(backend.requests().is_empty());
    let line = stent.only_line();
    assert_eq!((line.text("error"), line.text("origin")), (Some("proxy_loop_detected"), Some("downstream")));
}

/// What an ALB's caller may say of itself, for the ALB passes it on.
const SAID_THROUGH_A_BALANCER: &[(&str, &str)] = &[
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-User", "evil"),
    ("X-Real-IP", "evil"),
    ("Client-Cert", "evil"),
    ("X-SSL-Client-Verify", "evil"),
    ("X-Amzn-Oidc-Identity", "evil"),
    ("CF-Connecting-IP", "evil"),
    ("X.Forwarded.For", "evil"),
    ("X~Real~IP", "evil"),
    ("X_Real_IP", "evil"),
];

#[test]
fn behind_a_trusted_proxy_only_what_it_writes_itself_is_believed() {
    let (request, stent) = forwarded(trusting, SAID_THROUGH_A_BALANCER);
    assert!(!String::from_utf8_lossy(&request.raw).contains("evil"), "{:?}", request.headers);
    assert_eq!(request.headers.only("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(request.headers.only("x-forwarded-proto"), Some("https"));
    assert_eq!(request.headers.only("x-forwarded-port"), Some("443"));
    assert_eq!(request.headers.only("x-forwarded-host"), Some("hosp.test"));
    assert_eq!(stent.only_line().text("client"), Some("203.0.113.9"));
}

#[test]
fn trusted_headers_are_believed_from_trusted_proxies_alone() {
    let more = |config: Config| {
        config.set("listener.trusted_headers", vec!["X-Amzn-Oidc-Identity", "X-Forwarded-Host"])
    };
    let (request, _stent) = forwarded(|config| more(trusting(config)), SAID_THROUGH_A_BALANCER);
    assert_eq!(request.headers.only("x-amzn-oidc-identity"), Some("evil"));
    assert_eq!(request.headers.only("x-forwarded-host"), Some("evil.example"));
    assert!(!request.headers.has("x-real-ip"));
    let (request, _stent) = forwarded(more, SAID_THROUGH_A_BALANCER);
    assert!(!String::from_utf8_lossy(&request.raw).contains("evil"), "{:?}", request.headers);
}

#[test]
fn the_forwarded_host_is_the_one_that_the_target_names() {
    for config in [untrusting, trusting] {
        let backend = Backend::healthy();
        let stent = Stent::start(&config(Config::new(&backend)));
        let target = "http://real.example/x";
        let headers = [("Host", "other.example"), ("X-Forwarded-Host", "third.example")];
        assert_eq!(stent.client().request("GET", target, &headers, b"").status, 200);
        let request = backend.requests().remove(0);
        assert_eq!(request.headers.only("host"), Some("real.example"));
        assert_eq!(request.headers.only("x-forwarded-host"), Some("real.example"));
    }
}

#[test]
fn trust_that_a_reload_takes_away_ends_with_the_next_request() {
    let backend = Backend::healthy();
    let stent = Stent::start(&trusting(Config::new(&backend)));
    let mut client = stent.client();
    let mut ask = || {
        client.request("GET", "/", &[("X-Forwarded-For", "203.0.113.9")], b"");
        backend.requests().pop().unwrap().headers.only("x-forwarded-for").unwrap().to_owned()
    };
    assert_eq!(ask(), "203.0.113.9, 127.0.0.1");
    stent.reload(&Config::new(&backend));
    assert_eq!(ask(), "127.0.0.1");
    stent.reload(&trusting(Config::new(&backend)));
    assert_eq!(ask(), "203.0.113.9, 127.0.0.1");
    assert!(stent.access_log(3).iter().all(|line| line.text("outcome").is_some()));
}

#[test]
fn a_user_in_a_target_is_refused_and_stands_in_no_log() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    for head in [
        "GET http://user:secret@hosp.test/ HTTP/1.1\r\nHost: hosp.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user:secret@hosp.test\r\n\r\n",
    ] {
        let mut client = stent.client();
        client.send(head.as_bytes());
        assert_eq!(client.response().status, 400);
    }
    assert!(backend.requests().is_empty());
    let lines = stent.access_log(2);
    assert!(lines.iter().all(|line| line.text("host") == Some("hosp.test")), "{lines:?}");
    let log = std::fs::read_to_string(stent.access_log_path()).unwrap();
    assert!(!log.contains("secret"));
    assert_eq!(stent.count_in_log("secret"), 0);
}

#[test]
fn a_request_id_is_kept() {
    let (request, stent) = forwarded(untrusting, &[("X-Request-Id", "abc-123")]);
    assert_eq!(request.headers.only("x-request-id"), Some("abc-123"));
    assert_eq!(stent.only_line().text("id"), Some("abc-123"));
}

#[test]
fn a_request_id_is_made_where_there_is_none_and_is_the_same_over_attempts() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.get("/");
    client.get("/");
    let requests = backend.requests();
    let ids: Vec<_> = requests.iter().map(|request| request.headers.only("x-request-id").unwrap()).collect();
    assert_eq!(ids[0], ids[1], "one exchange, one id");
    assert_ne!(ids[1], ids[2], "another exchange, another id");
    assert_eq!(stent.access_log(2)[0].text("id"), Some(ids[0]));
}

#[test]
fn a_head_request_gets_the_length_and_no_body() {
    let backend =
        Backend::scripted([Action::raw_kept_open("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let response = client.request("HEAD", "/", &[], b"");
    assert_eq!(response.headers.only("content-length"), Some("5000"));
    assert_eq!(client.get("/").text(), "ok", "the connection is in step");
}

/// Each must be refused before anything whole reaches the backend, and the connection closed.
#[test]
fn an_ambiguous_or_malformed_request_is_refused_with_400_and_a_closed_connection() {
    let cases = [
        ("no Host", "GET / HTTP/1.1\r\n\r\n"),
        ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("a Host that is no authority", "GET / HTTP/1.1\r\nHost: a/b c\r\n\r\n"),
        (
            "differing lengths",
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        ),
        ("a list of lengths", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd"),
        ("a signed length", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
        ("gzip, chunked", "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (
            "chunked twice",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        ),
        ("identity", "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n"),
        ("obs-fold", "GET / HTTP/1.1\r\nHost: a\r\nX-Folded: b\r\n c\r\n\r\n"),
        ("a space before a colon", "GET / HTTP/1.1\r\nHost: a\r\nX-Spaced : b\r\n\r\n"),
        ("a space before the length's colon", "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc"),
        ("a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-Broken: b\rc\r\n\r\n"),
        ("a NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-Broken: b\0c\r\n\r\n"),
        ("no version", "GET /\r\nHost: a\r\n\r\n"),
        (
            "a chunk without a size",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a chunk longer than its size",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a chunk ended by bare LF",
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        ),
    ];
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        let mut client = stent.client();
        // What follows would be the smuggled request.
        client.send(&[bytes.as_bytes(), b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        match client.try_response() {
            Ok(response) if response.status == 400 && client.is_closed() => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    wrong.extend(
        backend
            .requests()
            .into_iter()
            .filter(|request| request.complete)
            .map(|request| format!("{request:?}")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(stent.client().get("/").status, 200, "nobody else suffers");
}

/// RFC 9112 section 2.2 lets a recipient take a bare LF for the end of a line. Other parsers do not, so that it hides fields.
#[test]
fn a_bare_lf_in_a_head_ends_the_connection_and_nothing_reaches_the_backend() {
    for bytes in ["GET /lf HTTP/1.1\r\nHost: a\nX-Next: b\r\n\r\n", "GET /lf HTTP/1.1\nHost: a\n\n"] {
        let backend = Backend::healthy();
        let stent = Stent::start(&Config::new(&backend));
        let mut client = stent.client();
        client.send(bytes.as_bytes());
        assert_eq!(client.response().status, 400);
        assert!(client.is_closed());
        assert!(backend.requests().is_empty());
    }
}

/// RFC 9112 section 6.3 lets a server refuse it, or believe `chunked` and close.
#[test]
fn a_request_with_two_framings_is_refused_or_taken_as_chunked_and_its_connection_closed() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    for headers in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 30\r\nTransfer-Encoding: chunked",
    ] {
        let before = backend.requests().len();
        let mut client = stent.client();
        let request = format!("PUT / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n5\r\nwhole\r\n0\r\n\r\n");
        client.send(&[request.as_bytes(), b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        let response = client.response();
        assert!(client.is_closed(), "{headers:?}: the connection ends with the answer");
        let requests = backend.requests().split_off(before);
        if response.status == 400 {
            assert!(requests.is_empty());
        } else {
            assert_eq!((response.status, requests.len()), (200, 1), "{headers:?}");
            assert_eq!(requests[0].body, b"whole");
            assert!(!(requests[0].headers.has("content-length") && requests[0].headers.is_chunked()));
        }
    }
}

#[test]
fn a_caller_is_told_to_continue_once_there_is_a_connection_for_its_body() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send_head("PUT", "/scans/1", &[("Expect", "100-continue"), ("Content-Length", "4")]);
    assert_eq!(client.interim_status(), 100);
    client.send(b"body");
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.requests()[0].body, b"body");
}

#[test]
fn a_caller_is_not_told_to_continue_where_no_connection_is_to_be_had() {
    let backend = Backend::healthy();
    backend.stop();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send_head("PUT", "/scans/1", &[("Expect", "100-continue"), ("Content-Length", "4")]);
    assert_eq!(client.interim_status(), 502, "the body was never asked for");
    assert_eq!(stent.only_line().results(), ["connect_refused"; 3]);
}
