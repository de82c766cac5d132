//! The access log: one line for each exchange, true and whole, whatever came in.

use crate::support::client::request;
use crate::support::{Action, Backend, Config, Stent, ms};

#[test]
fn each_exchange_has_one_line_with_every_field() {
    let backend = Backend::scripted([Action::answer(502, ""), Action::answer(200, "answer")]);
    let stent = Stent::start(&Config::new(&backend));
    let headers = [("User-Agent", "curl/8"), ("Host", "hosp.example.org:8080"), ("X-Request-Id", "id-1")];
    stent.client().request("PUT", "/patients/7?full=1", &headers, b"question");
    let line = stent.only_line();
    let texts = [
        ("id", "id-1"),
        ("client", "127.0.0.1"),
        ("method", "PUT"),
        ("host", "hosp.example.org"),
        ("path", "/patients/7"),
        ("route", "everything"),
        ("cluster", "hosp"),
        ("origin", "upstream"),
        ("outcome", "ok"),
        ("user_agent", "curl/8"),
    ];
    for (field, value) in texts {
        let text = line.text(field).unwrap_or_else(|| panic!("no {field} in {line:?}"));
        // A host with its port is as good.
        assert!(text == value || field == "host" && text == "hosp.example.org:8080", "{field}: {text}");
    }
    assert_eq!(line.status(), 200);
    assert_eq!(line.text("error"), None);
    assert_eq!(line.text("retry_stopped"), None);
    for (field, value) in [("bytes_in", 8.0), ("bytes_out", 6.0)] {
        assert!((line.number(field) - value).abs() < 1e-9, "{field} in {line:?}");
    }
    let (to_head, duration) = (line.number("time_to_head_us"), line.number("duration_us"));
    assert!(0.0 < to_head && to_head <= duration && duration < 10e6, "{line:?}");
    assert!(is_rfc_3339_in_microseconds(line.text("time").unwrap()), "{line:?}");
    let fields = line.fields();
    for field in ["query", "error", "attempts", "retry_stopped"] {
        assert!(fields.contains(&field), "{field} is there even if it says nothing: {fields:?}");
    }
}

fn is_rfc_3339_in_microseconds(time: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.ddddddZ";
    time.len() == pattern.len()
        && time.bytes().zip(pattern.bytes()).all(|(byte, wanted)| match wanted {
            b'd' => byte.is_ascii_digit(),
            literal => byte == literal,
        })
}

#[test]
fn a_line_lists_every_attempt_in_order() {
    let backend = Backend::scripted([Action::answer(502, ""), Action::reset(), Action::answer(201, "ok")]);
    let stent = Stent::start(&Config::new(&backend).backoff("50ms"));
    assert_eq!(stent.client().get("/").status, 201);
    let attempts = stent.only_line().attempts();
    let endpoint = backend.address().to_string();
    let expected = [("502", "answered"), ("reset", "maybe"), ("201", "answered")];
    assert_eq!(attempts.len(), expected.len());
    for (attempt, (result, delivery)) in attempts.iter().zip(expected) {
        assert_eq!((&*attempt.result, &*attempt.delivery), (result, delivery));
        assert_eq!(attempt.endpoint, endpoint);
    }
    for pair in attempts.windows(2) {
        assert!(pair[1].started - pair[0].started >= 49.0, "the backoff lies between: {attempts:?}");
    }
}

#[test]
fn bytes_from_outside_cannot_forge_a_line() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.log_query", "full"));
    let forged = "%7B%22status%22:200,%22client%22:%226.6.6.6%22%7D";
    let requests: [&[u8]; 3] = [
        &request("GET", &format!("/a%0A{forged}%0d%0a?q=%0A{forged}"), &[("User-Agent", "encoded")], b""),
        b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: quote\" backslash\\ tab\t \xff\xfe \xe2\x80\xa8 end\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: \",\"client\":\"6.6.6.6\r\n\r\n",
    ];
    for bytes in requests {
        let mut client = stent.client();
        client.send(bytes);
        assert_eq!(client.response().status, 200);
    }
    // Each line is parsed on the way, and one too many would be an error.
    let lines = stent.access_log(requests.len());
    assert!(lines.iter().all(|line| line.text("client") == Some("127.0.0.1")));
    let agent = lines[1].text("user_agent").unwrap();
    assert!(agent.starts_with("quote\" backslash\\ tab\t") && agent.ends_with("end"), "{agent:?}");
    assert_eq!(lines[2].text("user_agent"), Some("\",\"client\":\"6.6.6.6"));
    let file = std::fs::read_to_string(stent.access_log_path()).unwrap();
    assert!(!file.contains('\u{2028}'), "some viewers end a line there");
}

#[test]
fn query_values_are_redacted_unless_the_route_allows_them() {
    for (policy, query) in [
        (None, "patient=***&name=***&page=***"),
        (Some(toml::Value::from(vec!["page"])), "patient=***&name=***&page=3"),
        (Some("full".into()), "patient=4711&name=Meier&page=3"),
    ] {
        let backend = Backend::healthy();
        let mut config = Config::new(&backend);
        if let Some(policy) = policy {
            config = config.set("route.log_query", policy);
        }
        let stent = Stent::start(&config);
        stent.client().get("/search?patient=4711&name=Meier&page=3");
        assert_eq!(stent.only_line().text("query"), Some(query));
        assert_eq!(backend.requests()[0].target, "/search?patient=4711&name=Meier&page=3");
    }
}

#[test]
fn a_line_is_written_when_the_answers_body_has_ended_and_not_before() {
    let backend = Backend::scripted([Action::slow_body(200, &[b"one", b"two", b"three"], ms(100))]);
    let stent = Stent::start(&Config::new(&backend).retry("hold", "0B"));
    assert_eq!(stent.client().get("/").text(), "onetwothree");
    let line = stent.only_line();
    assert!(line.number("duration_us") >= 295e3, "{line:?}");
    assert!(line.number("time_to_head_us") < 150e3, "{line:?}");
    assert!((line.number("bytes_out") - 11.0).abs() < 1e-9, "{line:?}");
}

#[test]
fn a_caller_who_leaves_inside_the_answers_body_is_a_client_abort() {
    let backend = Backend::scripted([Action::endless_body(200)]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_for_requests(1);
    stent.wait_for_metric("stent_attempts_total", &[("result", "200")], 1.0);
    drop(client);
    let line = stent.only_line();
    assert_eq!((line.text("outcome"), line.status()), (Some("client_abort"), 200));
    backend.wait_until_closed(1);
}

#[test]
fn a_head_that_is_refused_before_it_is_a_request_has_a_line_too() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.max_header_bytes", "8KiB"));
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Huge: {}\r\n\r\n", "h".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Many: 1\r\n".repeat(200));
    let cases: [(&[u8], u64); 5] = [
        (b"\x16\x03\x01 this is not HTTP\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (huge.as_bytes(), 431),
        (many.as_bytes(), 431),
    ];
    for (place, (bytes, status)) in cases.into_iter().enumerate() {
        let mut client = stent.client();
        // The refusal may come before the last byte is sent.
        let _ = client.try_send(bytes);
        let answer = client.try_response().map(|response| u64::from(response.status));
        let line = stent.access_log(place + 1).remove(place);
        assert_eq!((line.status(), line.text("method")), (status, Some("-")), "case {place}");
        assert_eq!((line.text("client"), line.text("route")), (Some("127.0.0.1"), None));
        assert_eq!((line.text("origin"), line.text("outcome")), (Some("downstream"), Some("reply")));
        assert_eq!(line.text("error"), Some("http_request_error"));
        assert!(line.attempts().is_empty());
        // Closing on unread bytes sends RST, which can overtake the answer.
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer == status), "case {place}");
    }
    assert!(backend.requests().is_empty());
    let count = |code| stent.metric("stent_requests_total", &[("code", code), ("origin", "downstream")]);
    assert!((count("400") - 3.0).abs() < 1e-9 && (count("431") - 2.0).abs() < 1e-9);
    stent.wait_for_metric("stent_requests_in_flight", &[], 0.0);
}

#[test]
fn the_log_file_is_opened_anew_on_sighup() {
    let backend = Backend::healthy();
    let config = Config::new(&backend);
    let stent = Stent::start(&config);
    stent.client().get("/before");
    assert_eq!(stent.only_line().text("path"), Some("/before"));
    let rotated = stent.access_log_path().with_extension("log.1");
    std::fs::rename(stent.access_log_path(), &rotated).unwrap();
    stent.reload(&config);
    stent.client().get("/after");
    assert_eq!(stent.only_line().text("path"), Some("/after"));
    assert_eq!(std::fs::read_to_string(rotated).unwrap().lines().count(), 1);
}
