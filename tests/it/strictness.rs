//! What is refused, bounded or cleaned, whoever sends it: requests on one side, answers on the other.
//!
//! The cases of `adversarial` go further; these name the rules.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::support::client::request;
use crate::support::{Action, BOUND, Backend, Client, Config, Response, Stent, TempDir, alone, ms};

/// The answer to these bytes, after which the connection must end.
fn last_answer(stent: &Stent, bytes: &[u8]) -> Response {
    let mut client = stent.client();
    client.send(bytes);
    let response = client.response();
    assert!(client.is_closed(), "the connection ends with {response:?}");
    response
}

#[test]
fn a_target_over_16_kib_gets_414_in_our_words_and_the_end() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let longest = format!("/{}", "a".repeat((16 << 10) - 1));
    assert_eq!(stent.client().get(&longest).status, 200);
    let response = last_answer(&stent, &request("GET", &format!("{longest}a"), &[], b""));
    assert_eq!((response.status, response.headers.only("cache-control")), (414, Some("no-store")));
    assert!(response.text().contains("too long"), "{}", response.text());
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(stent.access_log(2)[1].text("origin"), Some("downstream"));
}

/// hyper writes these answers by itself, without a body: there is no request yet that a reply could name.
#[test]
fn a_head_of_too_many_bytes_or_fields_gets_431_and_the_end() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.max_header_bytes", "8KiB"));
    let large = "h".repeat(17 << 10);
    let many: String = (0..101).map(|number| [&format!("X-{number}"), ": y\r\n"].concat()).collect();
    for head in [format!("X-Large: {large}\r\n"), many] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{head}\r\n");
        assert_eq!(last_answer(&stent, bytes.as_bytes()).status, 431);
    }
    assert!(backend.requests().is_empty());
    assert!(stent.access_log(2).iter().all(|line| line.status() == 431));
}

#[test]
fn a_head_of_the_limit_passes_and_one_of_a_byte_more_gets_431_and_the_end() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.max_header_bytes", "8KiB"));
    let head = |length: usize| {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Large: \r\n\r\n";
        head.replace("Large: ", &format!("Large: {}", "h".repeat(length - head.len())))
    };
    let mut client = stent.client();
    client.send(head(8 << 10).as_bytes());
    assert_eq!(client.response().status, 200);
    for length in [(8 << 10) + 1, 16 << 10] {
        let response = last_answer(&stent, head(length).as_bytes());
        assert_eq!((response.status, response.headers.only("cache-control")), (431, Some("no-store")));
        assert!(response.text().contains("too large"), "{}", response.text());
    }
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(stent.access_log(3)[1].text("method"), Some("GET"));
}

#[test]
fn a_method_that_nobody_implements_or_that_reflects_gets_501_and_the_end() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let long = "M".repeat(33);
    for line in ["TRACE /", "CONNECT backend.internal:22", "CONNECT a", &format!("{long} /")] {
        let bytes = format!("{line} HTTP/1.1\r\nHost: a\r\nCookie: secret=1\r\n\r\n");
        let response = last_answer(&stent, bytes.as_bytes());
        assert_eq!(response.status, 501, "{line}");
        assert!(!response.text().contains("secret"));
    }
    assert!(backend.requests().is_empty());
    let response = stent.client().request(&long[1..], "/", &[], b"");
    assert_eq!(response.status, 200, "an unknown method is the backend's to judge");
}

#[test]
fn options_of_the_whole_server_is_forwarded_and_an_asterisk_with_any_other_method_is_refused() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let response = last_answer(&stent, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(response.status, 400);
    let response = stent.client().request("OPTIONS", "*", &[], b"");
    assert!(matches!(response.status, 200 | 404), "{response:?}");
    assert!(backend.requests().iter().all(|request| request.target == "*" && request.method == "OPTIONS"));
}

#[test]
fn an_expectation_that_nobody_can_promise_gets_417() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    for expectation in ["200-ok", "x 100-continue", "100-continue, 100-continue", "100-continue=1", ""] {
        let bytes =
            format!("PUT / HTTP/1.1\r\nHost: a\r\nExpect: {expectation}\r\nContent-Length: 4\r\n\r\n");
        let response = last_answer(&stent, bytes.as_bytes());
        assert_eq!(response.status, 417, "{expectation:?}");
    }
    assert!(backend.requests().is_empty());
    let response = stent.client().request("PUT", "/", &[("Expect", "100-Continue")], b"body");
    assert_eq!(response.status, 200, "a word is a word in either case");
    assert!(!backend.requests()[0].headers.has("expect"), "it was answered here");
}

/// RFC 9110 section 10.1.1: such a caller may take an interim answer for the final one.
#[test]
fn an_http_1_0_caller_is_never_told_to_continue() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(b"PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    backend.wait_for_requests(1); // a 100 would have been sent by now
    client.send(b"body");
    assert_eq!(client.interim_status(), 200, "the first status is the final one");
}

#[test]
fn a_caller_that_waits_to_continue_gets_one_100_whatever_the_attempts() {
    let backend = Backend::scripted([Action::reset_before_body(), Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send_head("PUT", "/", &[("Expect", "100-continue"), ("Content-Length", "4")]);
    assert_eq!(client.interim_status(), 100);
    client.send(b"body");
    assert_eq!(client.interim_status(), 200, "and no other 100");
    let bodies: Vec<_> = backend.requests().into_iter().filter(|request| request.complete).collect();
    assert!(bodies.len() == 2 && bodies.iter().all(|request| request.body == b"body"), "{bodies:?}");
}

#[test]
fn trailers_of_a_request_are_sent_on_with_every_attempt_if_they_were_announced_and_are_allowed() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    let announced = "X-Sum, Authorization, Content-Length, X-Forwarded-For, Host, If-Match, X_Sum";
    client.send_head("PUT", "/", &[("Transfer-Encoding", "chunked"), ("Trailer", announced)]);
    client.send(b"3\r\nabc\r\n0\r\nX-Sum: 900150\r\nX-Silent: 1\r\nAuthorization: Basic eA==\r\nContent-Length: 9\r\n");
    client.send(b"X-Forwarded-For: 6.6.6.6\r\nHost: evil\r\nIf-Match: *\r\nX_Sum: 1\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.body, b"abc");
        assert_eq!(request.headers.only("trailer"), Some("x-sum"));
        let raw = String::from_utf8_lossy(&request.raw);
        let end = raw.split("\r\n\r\n").nth(1).unwrap();
        assert_eq!(end, "3\r\nabc\r\n0\r\nx-sum: 900150", "{raw}");
    }
    assert_eq!(client.get("/").status, 200, "the connection is in step");
}

#[test]
fn trailers_of_an_answer_are_sent_on_to_who_asked_for_them_if_they_are_allowed() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n\
                  3\r\nabc\r\n0\r\nX-Sum: 900150\r\nSet-Cookie: evil=1\r\nContent-Length: 9\r\n\r\n";
    let backend = Backend::new(move |_| Action::raw_kept_open(answer));
    let stent = Stent::start(&Config::new(&backend));
    for (te, wanted) in
        [("TE: trailers\r\n", "3\r\nabc\r\n0\r\nx-sum: 900150\r\n\r\n"), ("", "3\r\nabc\r\n0\r\n\r\n")]
    {
        let mut stream = TcpStream::connect(stent.listener()).unwrap();
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{te}Connection: TE, close\r\n\r\n").as_bytes())
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("\r\ntrailer: x-sum\r\n"), "{head}");
        assert_eq!(body, wanted);
    }
    assert_eq!(backend.connections(), 1, "the end of the trailers is the end of the answer");
    assert!(!backend.requests()[0].headers.has("te"), "what concerns our hop is ours to say");
}

#[test]
fn a_body_shorter_than_its_length_never_arrives_as_whole() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    for framing in [("Content-Length", "10"), ("Transfer-Encoding", "chunked")] {
        let mut client = stent.client();
        client.send_head("PUT", "/", &[framing]);
        client.send(b"5\r\nhel");
        drop(client);
    }
    assert!(stent.access_log(2).iter().all(|line| line.text("origin") == Some("downstream")));
    stent.wait_for_metric("stent_upstream_connections", &[], 0.0);
    assert!(backend.requests().iter().all(|request| !request.complete));
}

#[test]
fn what_follows_a_body_longer_than_its_length_is_no_part_of_it() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody and more\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    let [request] = &backend.requests()[..] else { panic!("one request") };
    assert_eq!(request.body, b"body");
}

#[test]
fn a_length_of_an_answer_that_is_a_list_becomes_one_plain_length() {
    let backend = Backend::scripted([
        Action::raw_kept_open("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
        Action::raw_kept_open("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.headers.only("content-length"), response.text()), (Some("5"), "hello".into()));
    }
    // Nobody else has looked at a length that no body follows.
    for length in ["abc", "5, 6", "+5", ""] {
        backend.then([Action::raw_kept_open(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"))]);
        let response = client.request("HEAD", "/", &[], b"");
        assert!(
            response.status == 502 || !response.headers.has("content-length"),
            "{length:?}: {response:?}"
        );
    }
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn an_answer_that_comes_before_its_request_is_nobodys() {
    let unasked = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno";
    let early = Action::raw_kept_open(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes{unasked}"));
    let backend = Backend::scripted([early]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").text(), "yes");
    backend.wait_until_closed(1);
    assert_eq!(stent.client().get("/").text(), "ok");
}

#[test]
fn a_head_without_end_from_the_upstream_is_a_502_at_its_limit() {
    let _alone = alone();
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-More: of the same\r\n".repeat(400_000));
    let backend = Backend::new(move |request| match &*request.target {
        "/endless" => Action::raw(&endless),
        _ => Action::answer(200, "ok"),
    });
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").text(), "ok");
    let before = stent.memory();
    assert_eq!(stent.client().get("/endless").status, 502);
    let growth = stent.peak_memory().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} bytes for a head that is refused at 64 KiB");
    assert_eq!(stent.client().get("/").text(), "ok");
}

#[test]
fn interim_answers_without_number_take_no_memory() {
    let _alone = alone();
    let interims = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(200_000);
    let backend = Backend::new(move |request| match &*request.target {
        "/endless" => Action::raw(&interims),
        _ => Action::answer(200, "ok"),
    });
    let stent = Stent::start(&Config::new(&backend).retry("max_attempts", 1));
    assert_eq!(stent.client().get("/").text(), "ok");
    let before = stent.memory();
    assert_eq!(stent.client().get("/endless").status, 502);
    let growth = stent.peak_memory().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} bytes for 9 MB of answers that nobody gets");
    assert_eq!(stent.client().get("/").text(), "ok");
}

#[test]
fn pipelined_requests_behind_one_that_takes_long_are_not_read() {
    let _alone = alone();
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&Config::new(&backend));
    let before = stent.memory();
    let mut stream = TcpStream::connect(stent.listener()).unwrap();
    stream.set_write_timeout(Some(ms(500))).unwrap();
    let flood = request("GET", "/", &[], b"").repeat(10_000);
    let mut written = 0;
    let error = loop {
        match stream.write(&flood) {
            Ok(length) => written += length,
            Err(error) => break error,
        }
        assert!(written < 64 << 20, "somebody reads all of it");
    };
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    assert_eq!(backend.requests().len(), 1, "one at a time");
    let growth = stent.peak_memory().saturating_sub(before);
    assert!(growth < 4 << 20, "{growth} bytes for requests that wait");
}

#[test]
fn every_idempotent_method_is_retried() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let backend =
            Backend::scripted([Action::raw_kept_open("HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n")]);
        let stent = Stent::start(&Config::new(&backend));
        assert_eq!(stent.client().request(method, "/", &[], b"").status, 200, "{method}");
        assert_eq!(backend.requests().len(), 2, "{method}");
    }
}

#[test]
fn nothing_of_a_discarded_answer_reaches_the_caller() {
    let failure = Action::answer_with(500, &[("Set-Cookie", "a=1"), ("X-Failed", "1")], "failure");
    let backend = Backend::scripted([failure]);
    let stent = Stent::start(&Config::new(&backend));
    let response = stent.client().get("/");
    assert_eq!((response.status, response.text()), (200, "ok".into()));
    assert!(!response.headers.has("set-cookie") && !response.headers.has("x-failed"), "{response:?}");
    assert_eq!(stent.only_line().results(), ["500", "200"]);
}

#[test]
fn a_caller_that_wants_the_connection_closed_gets_its_retry_first() {
    let backend = Backend::scripted([Action::answer(500, "failure")]);
    let stent = Stent::start(&Config::new(&backend));
    let response = last_answer(&stent, &request("GET", "/", &[("Connection", "close")], b""));
    assert_eq!((response.status, response.text()), (200, "ok".into()));
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn what_the_admin_listener_serves_is_not_on_the_public_one() {
    let backend = Backend::new(|request| Action::answer(404, &request.target));
    let stent = Stent::start(&Config::new(&backend));
    for path in ["/metrics", "/livez", "/readyz"] {
        let response = Client::connect(stent.listener()).get(path);
        assert_eq!((response.status, response.text()), (404, path.to_owned()), "the backend's own answer");
    }
}

/// Whoever closes on bytes that it has not read sends an RST, which can overtake the answer, and makes a load balancer
/// invent a 502.
#[test]
fn a_refusal_reaches_a_caller_that_is_still_sending_and_ends_with_fin() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.max_body", "64KiB"));
    let body = vec![b'x'; 1 << 20];
    let chunk = [b"100000\r\n", &body[..], b"\r\n0\r\n\r\n"].concat();
    let length = body.len().to_string();
    let large_head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "h".repeat(200 << 10));
    let put = |framing: &str| format!("PUT / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
    let cases = [
        (413, [put(&format!("Content-Length: {length}")), body].concat()),
        (413, [put("Transfer-Encoding: chunked"), chunk].concat()),
        (431, large_head.into_bytes()),
    ];
    for (status, bytes) in cases.into_iter().cycle().take(9) {
        let mut stream = TcpStream::connect(stent.listener()).unwrap();
        let (first, more) = bytes.split_at(128 << 10);
        stream.write_all(first).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("FIN and no RST");
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        for piece in more.chunks(16 << 10).take(10) {
            stream.write_all(piece).unwrap_or_else(|error| panic!("after {status}: {error}"));
        }
    }
}

/// The same where nothing is wrong with the request but that its body is of no use to anybody.
#[test]
fn an_answer_ahead_of_the_body_reaches_a_caller_that_is_still_sending_and_ends_with_fin() {
    let backend = Backend::new(|_| Action::answer(401, "who are you?").before_body());
    let secret = TempDir::new();
    std::fs::write(secret.path().join("secret"), "0123456789abcdef").unwrap();
    let routes = format!(
        r#"
[[route]]
name = "redirect"
path = "/old"
scheme = "http"
redirect = {{ scheme = "https" }}
[[route]]
name = "guarded"
path = "/guarded"
cluster = "hosp"
origin_guard = {{ header = "X-Origin", secret_files = [{:?}] }}
[[route]]
name = "early"
path = "/early"
cluster = "hosp"
"#,
        secret.path().join("secret")
    );
    let stent = Stent::start(&Config::new(&backend).routes(&routes));
    for (status, path) in [(308, "/old"), (403, "/guarded"), (401, "/early"), (404, "/nowhere")] {
        let mut stream = TcpStream::connect(stent.listener()).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &[b'x'; 16 << 10]].concat()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {text}");
        for _ in 0..10 {
            stream.write_all(&[b'x'; 16 << 10]).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
}

#[test]
fn a_head_with_a_bare_lf_or_with_both_framings_is_answered_with_400_and_closed() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    for head in [
        "GET / HTTP/1.1\r\nHost: hosp.test\nX: y\r\n\r\n",
        "GET / HTTP/1.1\nHost: hosp.test\n\n",
        "GET / HTTP/1.1\r\nHost: hosp.test\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: hosp.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: hosp.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut client = stent.client();
        client.send(head.as_bytes());
        assert_eq!(client.response().status, 400, "{head:?}");
        assert!(client.is_closed(), "{head:?}");
    }
    assert!(backend.requests().is_empty());
    // After a request that is well, and after a body with line ends of its own.
    let mut client = stent.client();
    assert_eq!(client.put("/", "a\nb\n\n").status, 200);
    assert_eq!(client.get("/").status, 200);
    client.send(b"GET / HTTP/1.1\r\nHost: hosp.test\n\r\n");
    assert_eq!(client.response().status, 400);
    assert_eq!(backend.requests()[0].body, b"a\nb\n\n");
}

#[test]
fn what_follows_a_change_of_protocol_that_was_not_granted_is_never_taken_for_a_request() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let ask = b"GET /1 HTTP/1.1\r\nHost: hosp.test\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
    let mut client = stent.client();
    client.send(&[&ask[..], b"GET /2 HTTP/1.1\nHost: hosp.test\r\n\r\n"].concat());
    let response = client.response();
    assert!(response.status == 200 && response.closes());
    assert!(client.is_closed());
    // One that waits for its answer, as it must (RFC 9110 section 7.8), goes on.
    let mut client = stent.client();
    client.send(ask);
    let response = client.response();
    assert!(response.status == 200 && !response.closes());
    assert_eq!(client.get("/3").status, 200);
    let targets: Vec<String> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/1", "/1", "/3"]);
}
