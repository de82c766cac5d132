//! Requests as they are written.

use http::{Method, Request};
use proptest::prelude::*;

use super::*;

fn encode(request: http::request::Builder, size: Size) -> Result<(String, Plan, Persistence), Fault> {
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let mut out = Vec::new();
    let (plan, persistence) = head(&mut out, &parts, size)?;
    Ok((String::from_utf8(out).unwrap(), plan, persistence))
}

#[test]
fn a_head_is_written_as_it_is_with_a_framing_of_its_body() {
    let request =
        |method| Request::builder().method(method).uri("/a?b=c").header("Host", "h").header("x-A", "1");
    let begin = "/a?b=c HTTP/1.1\r\nhost: h\r\nx-a: 1\r\n";
    for (size, framing, plan) in [
        (Size::Known(5), "content-length: 5\r\n", Plan::Length(5)),
        (Size::Unknown, "transfer-encoding: chunked\r\n", Plan::Chunked),
    ] {
        for method in [Method::GET, Method::POST] {
            let (text, planned, persistence) = encode(request(method.clone()), size).unwrap();
            assert_eq!(text, format!("{method} {begin}{framing}\r\n"));
            assert_eq!((planned, persistence), (plan, Persistence::Keep));
        }
    }
}

#[test]
fn a_request_without_a_body_has_a_length_where_its_method_anticipates_one() {
    for (method, framing) in [
        ("POST", "content-length: 0\r\n"),
        ("PUT", "content-length: 0\r\n"),
        ("PATCH", "content-length: 0\r\n"),
        ("GET", ""),
        ("HEAD", ""),
        ("DELETE", ""),
        ("OPTIONS", ""),
        ("REPORT", ""),
    ] {
        let (text, plan, persistence) =
            encode(Request::builder().method(method).uri("/"), Size::None).unwrap();
        assert_eq!(text, format!("{method} / HTTP/1.1\r\n{framing}\r\n"));
        assert_eq!((plan, persistence), (Plan::Length(0), Persistence::Keep));
    }
}

#[test]
fn one_framing_is_written_whatever_the_head_names() {
    let with = |fields: &[(&str, &str)], size| {
        let request = Request::builder().method("PUT").uri("/");
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        encode(request, size).map(|(text, plan, _)| (text, plan))
    };
    let text = |framing: &str| format!("PUT / HTTP/1.1\r\n{framing}\r\n");
    let length = |length| text(&format!("content-length: {length}\r\n"));
    assert_eq!(with(&[("content-length", "5")], Size::Unknown), Ok((length(5), Plan::Length(5))));
    assert_eq!(
        with(&[("content-length", "5"), ("content-length", "5")], Size::Known(5)).unwrap().0,
        length(5)
    );
    assert_eq!(with(&[("content-length", "0")], Size::None), Ok((length(0), Plan::Length(0))));
    let both = [("transfer-encoding", "gzip"), ("content-length", "5")];
    assert_eq!(with(&both, Size::Known(5)), Ok((text("transfer-encoding: chunked\r\n"), Plan::Chunked)));
    assert_eq!(with(&[("transfer-encoding", "chunked")], Size::None), Ok((length(0), Plan::Length(0))));
    for fields in [&[("content-length", "5"), ("content-length", "6")][..], &[("content-length", "+5")]] {
        assert!(with(fields, Size::Known(5)).is_err(), "{fields:?}");
    }
    assert!(with(&[("content-length", "5")], Size::None).is_err(), "a length that nothing would follow");
}

#[test]
fn a_target_in_any_form_is_written_as_one() {
    for (uri, written) in
        [("/", "/"), ("*", "*"), ("http://h:8/p?q", "http://h:8/p?q"), ("http://h", "http://h/")]
    {
        let (text, ..) = encode(Request::builder().uri(uri), Size::None).unwrap();
        assert_eq!(text, format!("GET {written} HTTP/1.1\r\n\r\n"));
    }
}

#[test]
fn a_request_that_ends_its_connection_says_so() {
    let (.., persistence) = encode(Request::builder().header("connection", "Close"), Size::None).unwrap();
    assert_eq!(persistence, Persistence::Close);
}

#[test]
fn only_announced_trailers_end_the_chunks() {
    let mut headers = HeaderMap::new();
    headers.insert(TRAILER, HeaderValue::from_static("x-sum, Content-Length,, X-Other"));
    let announced = announced_trailers(&headers);
    assert_eq!(announced, ["x-sum", "x-other"]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-smuggled", HeaderValue::from_static("1"));
    assert_eq!(chunks_end(Some(&trailers), &announced, true), "\r\n0\r\n\r\n");
    trailers.insert("x-sum", HeaderValue::from_static("2"));
    assert_eq!(chunks_end(Some(&trailers), &announced, true), "\r\n0\r\nx-sum: 2\r\n\r\n");
    assert_eq!(chunks_end(Some(&trailers), &announced, false), "0\r\nx-sum: 2\r\n\r\n");
    assert_eq!(chunks_end(None, &announced, false), "0\r\n\r\n");
}

proptest! {
    #[test]
    fn whatever_fields_a_request_has_its_head_is_one_head(
        fields in proptest::collection::vec(("[a-z!#$-]{1,8}", "[ -~\\t]{0,12}"), 0..8),
        length in proptest::option::of(0u64..100),
    ) {
        let request = Request::builder().uri("/p");
        let request = fields.iter().fold(request, |request, (name, value)| request.header(name, value));
        let size = length.map_or(Size::Unknown, Size::Known);
        let (text, ..) = encode(request, size).unwrap();
        prop_assert!(text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1, "{text:?}");
        prop_assert_eq!(text.matches('\n').count(), fields.len() + 3);
    }
}
