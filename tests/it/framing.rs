//! Where messages begin and end, in the versions and shapes that callers and backends use.

use crate::support::client::request;
use crate::support::http2;
use crate::support::{Action, Backend, Config, Stent, ms, noise};

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let backend = Backend::new(|request| {
        let pause = if request.target == "/1" { ms(150) } else { ms(0) };
        Action::answer(200, format!("{}{}", request.target, request.body.len())).after(pause)
    });
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let requests = [
        request("GET", "/1", &[], b""),
        request("POST", "/2", &[], b"between two others"),
        request("GET", "/none", &[("Host", "")], b""),
        request("GET", "/3", &[], b""),
    ];
    client.send(&requests[..2].concat());
    client.send(&requests[3]);
    for expected in ["/10", "/20", "/30"] {
        assert_eq!(client.response().text(), expected);
    }
    let received = backend.requests();
    assert_eq!(received.iter().map(|request| &*request.target).collect::<Vec<_>>(), ["/1", "/2", "/3"]);
    assert_eq!(received[1].body, b"between two others");
    // What follows a refused request is not looked at: where that ended is anybody's guess.
    client.send(&[&requests[0][..], &requests[2], &requests[3]].concat());
    assert_eq!(client.response().text(), "/10");
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    assert_eq!(backend.requests().len(), 4);
}

#[test]
fn an_http_1_0_caller_gets_one_answer_and_the_end_unless_it_asks_for_more() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(b"GET /1 HTTP/1.0\r\nHost: hosp.test\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.text()), (200, "ok".into()));
    assert!(client.is_closed());

    let mut client = stent.client();
    for _ in 0..3 {
        client.send(b"GET /1 HTTP/1.0\r\nHost: hosp.test\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "ok".into()));
        assert!(response.headers.lists("connection", "keep-alive"), "the caller is told: {response:?}");
    }
    client.send(b"POST /2 HTTP/1.0\r\nHost: hosp.test\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.response().status, 200);
    assert!(client.is_closed());
    assert_eq!(backend.requests()[4].body, b"body");
    assert_eq!(backend.connections(), 1, "towards the backend it is HTTP/1.1 as ever");
}

/// RFC 9112 section 6.1: nothing chunked for a caller that may not know of it.
#[test]
fn an_http_1_0_caller_gets_no_chunks() {
    let parts: [&[u8]; 2] = [b"a few", b" chunks"];
    let backend = Backend::new(move |_| Action::chunked(200, &parts));
    let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
    for keep_alive in ["", "Connection: keep-alive\r\n"] {
        let mut client = stent.client();
        client.send(format!("GET / HTTP/1.0\r\nHost: hosp.test\r\n{keep_alive}\r\n").as_bytes());
        let response = client.response();
        assert!(!response.headers.has("transfer-encoding"), "{response:?}");
        assert_eq!((response.text(), response.truncated), ("a few chunks".into(), false));
        assert!(client.is_closed());
    }
    assert!(stent.access_log(2).iter().all(|line| line.text("outcome") == Some("ok")));
}

#[test]
fn chunks_of_an_http_1_0_caller_are_refused() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(b"PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    assert!(backend.requests().is_empty());
}

#[test]
fn a_refused_request_of_an_http_1_0_caller_that_would_go_on_ends_its_connection_too() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.max_body", "1KiB"));
    let large = format!(
        "PUT / HTTP/1.0\r\nHost: a\r\nContent-Length: 2000\r\nConnection: keep-alive\r\n\r\n{:2000}",
        ""
    );
    let cases = [
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\nConnection: keep-alive\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 400),
        (&*large, 413),
    ];
    for (bytes, status) in cases {
        let mut client = stent.client();
        let next = "GET /smuggled HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
        client.send(format!("{bytes}{next}").as_bytes());
        assert_eq!(client.response().status, status);
        assert!(client.is_closed());
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn a_large_answer_that_only_the_end_of_its_connection_ends_arrives_whole() {
    let body = noise(3 << 20);
    let bytes = [b"HTTP/1.1 200 OK\r\n\r\n", &*body].concat();
    let backend = Backend::new(move |_| Action::raw(&bytes));
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert!(response.body == body && !response.truncated, "{} bytes came", response.body.len());
    }
    let mut old = stent.client();
    old.send(b"GET / HTTP/1.0\r\nHost: hosp.test\r\n\r\n");
    assert!(old.response().body == body);
    assert_eq!(backend.connections(), 3, "such a connection carries one answer");
}

#[test]
fn an_answer_without_a_length_that_is_reset_is_truncated() {
    let backend = Backend::scripted([Action::raw("HTTP/1.1 200 OK\r\n\r\nhalf of").then_reset()]);
    let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert!(client.try_response().is_ok_and(|response| response.truncated));
    assert_eq!(stent.only_line().text("outcome"), Some("upstream_truncated"));
}

/// RFC 9110 sections 9.3.2, 15.3.5 and 15.4.5. What follows each shows that both connections are in step.
#[test]
fn answers_without_a_body_end_with_their_head() {
    let raw = |head: &str| Action::raw_kept_open(format!("HTTP/1.1 {head}\r\n\r\n"));
    let cases = [
        ("GET", raw("204 No Content"), 204, None),
        ("PUT", raw("204 No Content"), 204, None),
        ("GET", raw("304 Not Modified\r\nETag: \"a\""), 304, None),
        ("GET", raw("304 Not Modified\r\nContent-Length: 1234"), 304, Some("1234")),
        ("HEAD", raw("200 OK\r\nContent-Length: 1234"), 200, Some("1234")),
        ("HEAD", raw("200 OK\r\nTransfer-Encoding: chunked"), 200, None),
        ("HEAD", raw("404 Not Found\r\nContent-Length: 0"), 404, Some("0")),
        ("HEAD", raw("200 OK"), 200, None),
        ("GET", raw("200 OK\r\nContent-Length: 0"), 200, Some("0")),
    ];
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let count = cases.len();
    for (method, action, status, length) in cases {
        let what = format!("{method} {action:?}");
        backend.then([action]);
        let response = client.request(method, "/", &[], b"");
        assert_eq!((response.status, response.body.len()), (status, 0), "{what}");
        // The length on a 304 says nothing of this message (RFC 9110 section 8.6) and may stay away.
        let announced = response.headers.only("content-length");
        assert!(announced == length || status == 304 && announced.is_none(), "{what}: {response:?}");
        if status == 204 {
            assert!(!response.headers.has("transfer-encoding"), "{what}: {response:?}");
        }
        assert_eq!(client.get("/").text(), "ok", "after {what}");
    }
    assert_eq!(backend.connections(), 1);
    for line in stent.access_log(2 * count) {
        assert_eq!(line.text("outcome"), Some("ok"), "{line:?}");
    }
}

#[test]
fn a_reply_of_the_proxy_to_head_has_no_body() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.path", "/only"));
    let mut client = stent.client();
    let length = client.get("/other").body.len().to_string();
    let response = client.request("HEAD", "/other", &[], b"");
    assert_eq!((response.status, response.headers.only("content-length")), (404, Some(&*length)));
    assert_eq!(client.get("/only").text(), "ok");
}

/// RFC 9112 sections 7.1.1 and 7.1.2: a recipient ignores extensions that it does not know, and trailers that nobody
/// announced are dropped.
#[test]
fn chunk_extensions_and_trailers_do_not_disturb_a_body() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\n\r\n";
    let backend = Backend::new(move |_| Action::raw_kept_open(answer));
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for _ in 0..2 {
        client.send_head("PUT", "/", &[("Transfer-Encoding", "chunked"), ("Trailer", "X-Other")]);
        client.send(b"3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Smuggled: 1\r\n\r\n");
        assert_eq!(client.response().text(), "hello");
    }
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.body, b"abc");
        assert!(!String::from_utf8_lossy(&request.raw).contains("Smuggled"), "nobody announced it");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_chunked_body_passes_whatever_the_method() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for method in ["GET", "POST", "DELETE"] {
        assert_eq!(client.request_chunked(method, "/", &[b"a ", b"body"]).status, 200);
    }
    for request in backend.requests() {
        assert_eq!(request.body, b"a body", "{}", request.method);
    }
}

#[test]
fn announced_trailers_pass_both_ways_to_a_caller_that_takes_them() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n\
                  5\r\nhello\r\n0\r\nX-Sum: 2\r\nSet-Cookie: a=1\r\n\r\n";
    let backend = Backend::new(move |_| Action::raw_kept_open(answer));
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let head = [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum, Cookie"), ("TE", "trailers")];
    client.send_head("POST", "/", &head);
    client.send(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nCookie: b=2\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "hello");
    assert_eq!(response.headers.only("trailer"), Some("x-sum"));
    let raw = String::from_utf8_lossy(&response.raw).to_lowercase();
    assert!(raw.ends_with("0\r\nx-sum: 2\r\n\r\n"), "{raw:?}");
    let request = backend.wait_for_requests(1).remove(0);
    let raw = String::from_utf8_lossy(&request.raw).to_lowercase();
    assert!(raw.ends_with("0\r\nx-sum: 1\r\n\r\n"), "{raw:?}");
}

#[test]
fn an_answer_with_trailers_is_whole_and_its_connection_is_used_again() {
    for head in ["", "Trailer: X-Sum\r\n"] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        );
        let backend = Backend::new(move |_| Action::raw_kept_open(&answer));
        let stent = Stent::start(&Config::new(&backend));
        let mut client = stent.client();
        for _ in 0..2 {
            let response = client.get("/");
            assert_eq!((response.text(), response.truncated), ("hello".into(), false));
        }
        for line in stent.access_log(2) {
            assert_eq!(line.text("outcome"), Some("ok"));
        }
        assert_eq!(backend.connections(), 1);
    }
}

#[test]
fn an_http_1_0_caller_is_not_promised_a_connection_that_the_answer_ends() {
    let backend = Backend::new(|_| Action::chunked(200, &[b"a few", b" chunks"]));
    let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
    let mut client = stent.client();
    client.send(b"GET / HTTP/1.0\r\nHost: hosp.test\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "a few chunks");
    assert!(!response.headers.lists("connection", "keep-alive"), "only the end tells where it ends");
}

#[test]
fn a_request_without_a_body_has_a_length_where_its_method_anticipates_one() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let (mut client, mut caller) = (stent.client(), http2::Caller::connect(stent.listener()));
    let methods = [
        ("POST", Some("0")),
        ("PUT", Some("0")),
        ("PATCH", Some("0")),
        ("GET", None),
        ("HEAD", None),
        ("DELETE", None),
        ("OPTIONS", None),
    ];
    for (method, length) in methods {
        client.send_head(method, "/", &[]);
        assert_eq!(client.response().status, 200, "{method}");
        assert_eq!(
            caller.request(http2::request(method, "/", &[]), b"", None).unwrap().status,
            200,
            "{method}"
        );
        let requests = backend.requests();
        for request in &requests[requests.len() - 2..] {
            assert_eq!(request.headers.only("content-length"), length, "{request:?}");
            assert!(!request.headers.has("transfer-encoding"), "{request:?}");
        }
    }
}

#[test]
fn a_retry_of_a_request_without_a_body_has_its_length_too() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut caller = http2::Caller::connect(stent.listener());
    assert_eq!(caller.request(http2::request("PUT", "/", &[]), b"", None).unwrap().status, 200);
    let lengths: Vec<_> = backend.requests().iter().map(|request| request.headers.content_length()).collect();
    assert_eq!(lengths, [Some(0); 2]);
}
