//! Downloads that break on their way to the caller: what can be gone on with arrives whole, and nothing else is joined on.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::backend::ReceivedRequest;
use crate::support::client::request;
use crate::support::frames::FrameBackend;
use crate::support::http2::{self, Caller};
use crate::support::{Action, Backend, Config, Response, Stent, noise};

const BROKEN: &str = "stent_broken_answers_total";
const TAG: &str = "\"v1\"";
const TAGGED: &str = "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n";
const SIZE: usize = 200_000;

/// A head, and the first `sent` bytes of `body`.
fn head_and(status: u16, fields: &str, body: &[u8], sent: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Scripted\r\n{fields}").into_bytes();
    write!(bytes, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
    bytes.extend_from_slice(&body[..sent]);
    bytes
}

/// The whole resource, of which `sent` bytes come.
fn download(fields: &str, body: &[u8], sent: usize) -> Action {
    Action::raw(head_and(200, fields, body, sent))
}

/// What the request asks for of `body`, of which at most `sent` bytes come.
fn ranged(request: &ReceivedRequest, fields: &str, body: &[u8], sent: usize) -> Action {
    let range = request.headers.only("range").expect("a range is asked for").strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let part = &body[first..=last];
    let fields = format!("{fields}Content-Range: bytes {first}-{last}/{}\r\n", body.len());
    let bytes = head_and(206, &fields, part, sent.min(part.len()));
    if sent < part.len() { Action::raw(bytes) } else { Action::raw_kept_open(bytes) }
}

/// A backend that has `body` under a tag, and breaks each of these transfers after so many bytes of it.
fn breaking(body: Vec<u8>, breaks: &'static [usize]) -> Backend {
    let next = AtomicUsize::new(0);
    Backend::new(move |request| {
        let sent = breaks.get(next.fetch_add(1, Ordering::Relaxed)).copied().unwrap_or(usize::MAX);
        if request.headers.has("range") {
            ranged(request, TAGGED, &body, sent)
        } else {
            let bytes = head_and(200, TAGGED, &body, sent.min(body.len()));
            if sent < body.len() { Action::raw(bytes) } else { Action::raw_kept_open(bytes) }
        }
    })
}

fn flowing(backend: &Backend) -> Config {
    Config::new(backend).retry("max_attempts", 4)
}

fn assert_whole(response: &Response, body: &[u8]) {
    assert_eq!((response.status, response.truncated), (200, false));
    assert_eq!(response.headers.content_length(), Some(body.len()));
    // Not `assert_eq`: nobody reads 200 KB of bytes.
    assert!(response.body == body, "each byte once, and no other");
}

/// Sends a GET that must break for the caller as it broke for the proxy, with no more than the first part of `body`.
fn assert_breaks(stent: &Stent, method: &str, body: &[u8], what: &str) {
    let mut client = stent.client();
    client.send(&request(method, "/", &[], b""));
    if let Ok(response) = client.try_response() {
        assert!(response.truncated, "the caller can tell: {what}");
        assert!(body.starts_with(&response.body), "nothing else was joined on: {what}");
    }
    let line = stent.only_line();
    assert_eq!(line.text("outcome"), Some("upstream_truncated"), "{what}");
    assert_eq!(line.text("error"), Some("http_response_incomplete"), "{what}");
    assert!(line.number("resumed").abs() < 1e-9, "{what}");
}

#[test]
fn a_download_that_breaks_arrives_whole() {
    let body = noise(SIZE);
    let whole = body.clone();
    let reset = Backend::new(move |request| {
        if request.headers.has("range") {
            ranged(request, TAGGED, &whole, usize::MAX)
        } else {
            download(TAGGED, &whole, 150_000).then_reset()
        }
    });
    let closed = |breaks| breaking(body.clone(), breaks);
    for (what, backend, resumed) in [
        ("closed", closed(&[150_000]), 1),
        ("closed with the head", closed(&[0]), 1),
        ("closed before the last byte", closed(&[SIZE - 1]), 1),
        ("reset", reset, 1),
        ("twice", closed(&[100_000, 50_000]), 2),
        ("three times, once after the head", closed(&[150_000, 0, 1]), 3),
    ] {
        let stent = Stent::start(&flowing(&backend));
        let mut client = stent.client();
        assert_whole(&client.get("/"), &body);
        let line = &stent.access_log(1)[0];
        let expected: Vec<_> = [&["200"][..], &["206"].repeat(resumed)].concat();
        assert_eq!(line.results(), expected, "{what}");
        assert_eq!((line.text("outcome"), line.text("error")), (Some("ok"), None), "{what}");
        assert_eq!(line.text("broken"), Some("resumed"), "{what}");
        assert!((line.number("resumed") - resumed as f64).abs() < 1e-9, "{what}");
        assert!((line.number("bytes_out") - SIZE as f64).abs() < 1e-9, "{what}");
        stent.wait_for_metric(BROKEN, &[("end", "resumed")], resumed as f64);
        stent.wait_for_metric("stent_retries_total", &[("reason", "truncated")], resumed as f64);
        stent.wait_for_metric("stent_retry_recovered_total", &[], 1.0);
        stent.wait_for_metric("stent_retry_stopped_total", &[], 0.0);
        for asked in &backend.requests()[1..] {
            assert_eq!(asked.headers.only("if-range"), Some(TAG), "{what}");
            assert_eq!(asked.headers.only("host"), Some("hosp.test"), "{what}");
        }
        assert_eq!(client.get("/").status, 200, "the connection goes on: {what}");
    }
}

#[test]
fn what_is_not_exactly_the_rest_is_not_joined_on() {
    let body = noise(SIZE);
    let cut = 150_000;
    let (rest, other) = (&body[cut..], noise(SIZE + 1));
    let part = |fields: &str, bytes: &[u8]| Action::raw_kept_open(head_and(206, fields, bytes, bytes.len()));
    let range = format!("Content-Range: bytes {cut}-{}/{SIZE}\r\n", SIZE - 1);
    let tagged = format!("ETag: {TAG}\r\n{range}");
    let chunked =
        format!("HTTP/1.1 206 Scripted\r\n{tagged}Transfer-Encoding: chunked\r\n\r\n3\r\nXXX\r\n0\r\n\r\n");
    for (what, second) in [
        ("another tag", part(&format!("ETag: \"v2\"\r\n{range}"), rest)),
        ("a weak tag", part(&format!("ETag: W/{TAG}\r\n{range}"), rest)),
        ("no tag", part(&range, rest)),
        ("another total", part(&tagged.replace(&format!("/{SIZE}"), &format!("/{}", SIZE + 1)), rest)),
        ("another start", part(&tagged.replace("150000-", "149999-"), &body[cut - 1..])),
        ("another end", part(&tagged.replace("-199999/", "-199998/"), &rest[1..])),
        ("another form", part(&format!("{tagged}Content-Encoding: gzip\r\n"), rest)),
        ("too short", part(&tagged, &rest[1..])),
        ("no length", Action::raw_kept_open(chunked)),
        ("several parts", part(&format!("{tagged}Content-Type: multipart/byteranges; boundary=x\r\n"), rest)),
        ("a new version", download("ETag: \"v2\"\r\nAccept-Ranges: bytes\r\n", &other, SIZE + 1)),
        ("the whole again", download(TAGGED, &body, SIZE)),
        ("no such range", Action::answer_with(416, &[("Content-Range", "bytes */100")], "")),
        ("not changed", Action::raw_kept_open(format!("HTTP/1.1 304 Scripted\r\nETag: {TAG}\r\n\r\n"))),
    ] {
        let backend = Backend::scripted([download(TAGGED, &body, cut), second]);
        let stent = Stent::start(&flowing(&backend));
        assert_breaks(&stent, "GET", &body[..cut], what);
        let line = stent.only_line();
        assert_eq!(line.text("broken"), Some("changed"), "{what}");
        assert_eq!(line.text("retry_stopped"), Some("started"), "{what}");
        assert_eq!(backend.requests().len(), 2, "{what}");
        stent.wait_for_metric(BROKEN, &[("end", "changed")], 1.0);
    }
}

#[test]
fn what_cannot_be_told_from_another_version_breaks_as_ever() {
    let body = noise(SIZE);
    let chunked = format!("HTTP/1.1 200 OK\r\n{TAGGED}Transfer-Encoding: chunked\r\n\r\n");
    let chunked = [chunked.as_bytes(), b"8000\r\n", &body[..0x8000], b"\r\n"].concat();
    let cases = [
        ("validator", "GET", download("Accept-Ranges: bytes\r\n", &body, 150_000)),
        ("validator", "GET", download("ETag: W/\"v1\"\r\nAccept-Ranges: bytes\r\n", &body, 150_000)),
        ("ranges", "GET", download("ETag: \"v1\"\r\n", &body, 150_000)),
        ("ranges", "GET", download("ETag: \"v1\"\r\nAccept-Ranges: none\r\n", &body, 150_000)),
        ("length", "GET", Action::raw(chunked)),
        ("status", "GET", Action::raw(head_and(404, TAGGED, &body, 150_000))),
        ("method", "PUT", download(TAGGED, &body, 150_000)),
        ("off", "POST", download(TAGGED, &body, 150_000)),
    ];
    for (why, method, first) in cases {
        let backend = Backend::scripted([first]);
        let stent = Stent::start(&flowing(&backend).retry("hold", "16KiB"));
        assert_breaks(&stent, method, &body, why);
        let line = stent.only_line();
        assert_eq!((line.text("broken"), line.text("retry_stopped")), (Some(why), Some("started")));
        assert_eq!(backend.requests().len(), 1, "{why}");
        stent.wait_for_metric(BROKEN, &[("end", why)], 1.0);
    }
    let backend = breaking(body.clone(), &[150_000]);
    let stent = Stent::start(&flowing(&backend).retry("resume", false));
    assert_breaks(&stent, "GET", &body, "`resume` is off");
}

#[test]
fn head_has_no_body_that_could_break() {
    let backend = Backend::scripted([download(TAGGED, &noise(SIZE), 0)]);
    let stent = Stent::start(&flowing(&backend));
    let response = stent.client().request("HEAD", "/", &[], b"");
    assert_eq!((response.status, response.truncated), (200, false));
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_coded_answer_is_gone_on_with_in_its_coding() {
    // To a proxy the coded bytes are the answer: which they are is for the two ends.
    let body = noise(SIZE);
    let fields =
        "ETag: \"v1-gzip\"\r\nAccept-Ranges: bytes\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\n";
    let whole = body.clone();
    let backend = Backend::new(move |request| {
        assert_eq!(request.headers.only("accept-encoding"), Some("gzip"));
        if request.headers.has("range") {
            ranged(request, fields, &whole, usize::MAX)
        } else {
            download(fields, &whole, 123_456)
        }
    });
    let stent = Stent::start(&flowing(&backend));
    let response = stent.client().request("GET", "/", &[("Accept-Encoding", "gzip")], b"");
    assert_whole(&response, &body);
    assert_eq!(response.headers.only("content-encoding"), Some("gzip"));
    assert_eq!(backend.requests()[1].headers.only("if-range"), Some("\"v1-gzip\""));
}

#[test]
fn a_part_that_the_caller_asked_for_arrives_whole() {
    let body = noise(SIZE);
    let whole = body.clone();
    let count = AtomicUsize::new(0);
    let backend = Backend::new(move |request| {
        let sent = if count.fetch_add(1, Ordering::Relaxed) == 0 { 140_000 } else { usize::MAX };
        ranged(request, "ETag: \"v1\"\r\n", &whole, sent)
    });
    let stent = Stent::start(&flowing(&backend));
    let headers = [("Range", "bytes=1000-179999"), ("If-Range", TAG)];
    let response = stent.client().request("GET", "/", &headers, b"");
    assert_eq!((response.status, response.truncated), (206, false));
    assert_eq!(response.headers.only("content-range"), Some("bytes 1000-179999/200000"));
    assert!(response.body == body[1000..180_000]);
}

#[test]
fn a_date_will_do_where_there_is_no_tag() {
    let body = noise(SIZE);
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    let fields = format!(
        "Last-Modified: {modified}\r\nDate: Mon, 07 Nov 1994 08:49:37 GMT\r\nAccept-Ranges: bytes\r\n"
    );
    let whole = body.clone();
    let backend = Backend::new(move |request| {
        if request.headers.has("range") {
            ranged(request, &fields, &whole, usize::MAX)
        } else {
            download(&fields, &whole, 150_000)
        }
    });
    let stent = Stent::start(&flowing(&backend));
    assert_whole(&stent.client().get("/"), &body);
    assert_eq!(backend.requests()[1].headers.only("if-range"), Some(modified));
}

#[test]
fn a_silent_backend_counts_as_a_break() {
    let body = noise(SIZE);
    let whole = body.clone();
    let backend = Backend::new(move |request| {
        if request.headers.has("range") {
            ranged(request, TAGGED, &whole, usize::MAX)
        } else {
            Action::raw_kept_open(head_and(200, TAGGED, &whole, 150_000))
        }
    });
    let stent = Stent::start(&flowing(&backend).set("cluster.hosp.body_timeout", "100ms"));
    assert_whole(&stent.client().get("/"), &body);
}

#[test]
fn failures_on_the_way_to_the_rest_are_retried_within_the_attempts() {
    let body = noise(SIZE);
    let whole = body.clone();
    let count = AtomicUsize::new(0);
    let backend = Backend::new(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        0 => download(TAGGED, &whole, 150_000),
        1 => Action::answer(502, "failure"),
        2 => Action::reset(),
        _ => ranged(request, TAGGED, &whole, usize::MAX),
    });
    let stent = Stent::start(&flowing(&backend));
    assert_whole(&stent.client().get("/"), &body);
    assert_eq!(stent.only_line().results(), ["200", "502", "reset", "206"]);

    let backend = Backend::scripted([
        download(TAGGED, &body, 150_000),
        Action::reset(),
        Action::answer(500, ""),
        Action::close(),
    ]);
    let stent = Stent::start(&flowing(&backend));
    assert_breaks(&stent, "GET", &body[..150_000], "no attempt is left");
    let line = stent.only_line();
    assert_eq!((line.text("broken"), line.text("retry_stopped")), (Some("failed"), Some("attempts")));
}

#[test]
fn a_rest_that_does_not_come_within_resume_time_is_given_up() {
    let body = noise(SIZE);
    let backend = Backend::scripted([download(TAGGED, &body, 150_000), Action::hang()]);
    let stent = Stent::start(&flowing(&backend).retry("resume_time", "200ms"));
    assert_breaks(&stent, "GET", &body[..150_000], "time is up");
    assert_eq!(stent.only_line().results(), ["200", "timeout"]);
}

#[test]
fn a_restart_in_the_middle_of_a_download_is_waited_out_in_line() {
    let body = noise(SIZE);
    let (whole, count) = (body.clone(), AtomicUsize::new(0));
    let backend = Backend::new(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        0 => download(TAGGED, &whole, 150_000),
        1 => Action::hang(),
        _ => ranged(request, TAGGED, &whole, usize::MAX),
    });
    let config = flowing(&backend)
        .set("cluster.hosp.outage_queue.max", 10)
        .set("cluster.hosp.outage_queue.enter_after", 2);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    std::thread::scope(|scope| {
        let whole = scope.spawn(|| client.get("/"));
        backend.wait_for_requests(2);
        backend.stop();
        stent.wait_for_metric("stent_outages_total", &[], 1.0);
        backend.start();
        assert_whole(&whole.join().unwrap(), &body);
    });
    assert!(stent.only_line().has_number("outage_wait_us"));
}

#[test]
fn a_caller_that_leaves_during_a_resumption_ends_it() {
    let body = noise(SIZE);
    let backend = Backend::scripted([download(TAGGED, &body, 150_000), Action::hang()]);
    let stent = Stent::start(&flowing(&backend));
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    assert_eq!(client.interim_status(), 200);
    backend.wait_for_requests(2);
    drop(client);
    backend.wait_until_closed(2);
    let line = stent.only_line();
    assert_eq!((line.text("outcome"), line.text("broken")), (Some("client_abort"), Some("client")));
    assert_eq!(line.results(), ["200", "cancelled"]);
    stent.wait_for_metric("stent_requests_in_flight", &[], 0.0);
    stent.wait_for_metric("stent_upstream_connections", &[("state", "active")], 0.0);
}

#[test]
fn a_caller_over_http2_gets_its_download_whole_too() {
    let body = noise(SIZE);
    let backend = breaking(body.clone(), &[150_000, 10_000]);
    let stent = Stent::start(&flowing(&backend));
    let answer = Caller::connect(stent.listener()).get("/");
    assert_eq!((answer.status, answer.headers["content-length"].to_str().unwrap()), (200, "200000"));
    assert!(answer.body == body);
    assert_eq!(stent.only_line().results(), ["200", "206", "206"]);

    let backend = Backend::scripted([download(TAGGED, &body, 150_000), Action::answer(200, "another")]);
    let stent = Stent::start(&flowing(&backend));
    let mut caller = Caller::connect(stent.listener());
    assert!(caller.request(http2::request("GET", "/", &[]), b"", None).is_err(), "its stream is reset");
    assert_eq!(stent.only_line().text("broken"), Some("changed"));
}

#[test]
fn a_stream_of_the_backend_that_is_reset_is_gone_on_with() {
    let body = Arc::new(noise(30_000));
    let whole = body.clone();
    let backend = FrameBackend::new(move |_, connection| {
        connection.open(&[]);
        let fields = [("etag", TAG), ("accept-ranges", "bytes")];
        let stream = connection.request().unwrap();
        connection.answer(
            stream,
            &[&[(":status", "200"), ("content-length", "30000")], &fields[..]].concat(),
            false,
        );
        connection.data(stream, &whole[..10_000], false);
        connection.send_reset(stream, 2);
        let stream = connection.request().unwrap();
        let range =
            [(":status", "206"), ("content-length", "20000"), ("content-range", "bytes 10000-29999/30000")];
        connection.answer(stream, &[&range, &fields[..]].concat(), false);
        connection.data(stream, &whole[10_000..20_000], false);
        connection.data(stream, &whole[20_000..], true);
        connection.serve("not asked for");
    });
    let config =
        Config::with_endpoints(&[backend.address()]).set("cluster.hosp.protocol", "h2").retry("hold", "0B");
    let stent = Stent::start(&config);
    let response = stent.client().get("/");
    assert_whole(&response, &body);
    assert_eq!(stent.only_line().results(), ["200", "206"]);
    assert_eq!(backend.connections(), 1);
}
