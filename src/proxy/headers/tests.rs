//! Which heads are refused, and what is removed and added.

use http::Request;
use proptest::prelude::*;

use super::*;

fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn fault(target: &str, headers: &[(&str, &str)]) -> Option<RequestFault> {
    match normalize(&mut head(target, headers)) {
        Ok(()) => None,
        Err(ProxyError::BadRequest(fault)) => Some(fault),
        Err(other) => panic!("{other:?}"),
    }
}

fn via() -> Via {
    Via::new("stent").unwrap()
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_request_needs_exactly_one_host() {
    assert_eq!(fault("/", &[]), Some(RequestFault::HostCount));
    assert_eq!(fault("/", &[("host", "a"), ("host", "a")]), Some(RequestFault::HostCount));
    assert_eq!(fault("/", &[("host", "a")]), None);
}

#[test]
fn a_host_is_a_name_or_an_address_and_maybe_a_port() {
    for host in ["a", "A.example.org", "a:80", "10.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a_b", "a:"] {
        assert_eq!(fault("/", &[("host", host)]), None, "{host}");
    }
    for host in
        ["", "a b", "a,b", "a@b", "a/b", "a:b", "a:99999", "a:123456", "[::1", "::1]", "[x]", ":80", "a\tb"]
    {
        assert_eq!(fault("/", &[("host", host)]), Some(RequestFault::BadHost), "{host}");
    }
}

#[test]
fn only_chunked_alone_is_a_transfer_encoding() {
    let with = |codings: &[&str]| {
        let mut headers = vec![("host", "a")];
        headers.extend(codings.iter().map(|coding| ("transfer-encoding", *coding)));
        fault("/", &headers)
    };
    assert_eq!(with(&["chunked"]), None);
    assert_eq!(with(&["Chunked"]), None);
    for codings in [
        &["gzip, chunked"][..],
        &["chunked, chunked"],
        &["identity"],
        &["chunked", "chunked"],
        &["xchunked"],
        &[""],
        &["chunked;a=b"],
        &[",chunked"],
    ] {
        assert_eq!(with(codings), Some(RequestFault::AmbiguousLength), "{codings:?}");
    }
}

#[test]
fn an_absolute_target_takes_its_usual_form_and_decides_on_the_host() {
    let mut head = head("http://b.example.org:81/x?y", &[("host", "a")]);
    normalize(&mut head).unwrap();
    assert_eq!(head.uri, "/x?y");
    assert_eq!(head.headers[HOST], "b.example.org:81");
    assert_eq!(fault("ftp://a/x", &[("host", "a")]), Some(RequestFault::BadTarget));
    assert_eq!(fault("http://u@a/x", &[("host", "a")]), Some(RequestFault::BadTarget));
    assert_eq!(fault("a:80", &[("host", "a")]), Some(RequestFault::BadTarget));
    assert_eq!(fault("*", &[("host", "a")]), Some(RequestFault::BadTarget));
}

#[test]
fn the_host_is_read_without_its_port() {
    let read = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(value));
        host(&headers).to_owned()
    };
    assert_eq!(read("a:80"), "a");
    assert_eq!(read("a"), "a");
    assert_eq!(read("[::1]:80"), "[::1]");
    assert_eq!(read("[::1]"), "[::1]");
}

#[test]
fn hop_by_hop_headers_and_those_that_connection_names_are_removed() {
    let head = head(
        "/",
        &[
            ("connection", "keep-alive, X-Private"),
            ("connection", "x-other"),
            ("x-private", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy", "http://evil"),
            ("proxy-authorization", "Basic eA=="),
            ("expect", "100-continue"),
            ("x-stent-attempt", "7"),
            ("x-kept", "1"),
        ],
    );
    let mut headers = head.headers;
    clean_request(&mut headers, Version::HTTP_11, &via(), Trust::No).unwrap();
    assert_eq!(names(&headers), ["via", "x-kept"]);
}

#[test]
fn a_message_goes_on_announcing_the_trailers_that_may_be_some() {
    let mut headers = HeaderMap::new();
    headers.append("trailer", HeaderValue::from_static("X-Sum,, content-length"));
    headers.append("trailer", HeaderValue::from_static("Server-Timing, \"no name\", x_sum"));
    headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    let mut request = headers.clone();
    clean_request(&mut request, Version::HTTP_11, &via(), Trust::No).unwrap();
    assert_eq!(request["trailer"], "x-sum, server-timing");
    clean_response(&mut headers);
    assert_eq!(names(&headers), ["trailer"]);
    assert_eq!(headers["trailer"], "x-sum, server-timing, x_sum");
}

#[test]
fn a_list_of_equal_lengths_is_one_and_what_is_none_goes() {
    let settled = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_LENGTH, HeaderValue::from_static(value));
        }
        clean_response(&mut headers);
        let all: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().cloned().collect();
        all
    };
    for values in [&["5"][..], &["5, 5"], &["5", "5"], &["5,5", "5"]] {
        assert_eq!(settled(values), ["5"], "{values:?}");
    }
    for values in [&["5, 6"][..], &["5", "6"], &["abc"], &["+5"], &[""], &["5,"], &["18446744073709551616"]] {
        assert!(settled(values).is_empty(), "{values:?}");
    }
}

#[test]
fn connection_cannot_take_away_what_routing_framing_and_the_client_rest_on() {
    let listed = "host, content-length, x-forwarded-for, x-request-id, via, close";
    let head = head(
        "/",
        &[
            ("connection", listed),
            ("host", "a"),
            ("content-length", "1"),
            ("x-forwarded-for", "1"),
            ("x-request-id", "1"),
        ],
    );
    let mut headers = head.headers;
    clean_request(&mut headers, Version::HTTP_11, &via(), Trust::No).unwrap();
    assert_eq!(names(&headers), ["content-length", "host", "via", "x-forwarded-for", "x-request-id"]);
}

#[test]
fn a_request_that_has_been_here_is_a_loop() {
    let loops = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(VIA, HeaderValue::from_static(value));
        clean_request(&mut headers, Version::HTTP_11, &via(), Trust::No).is_err()
    };
    for value in ["1.1 stent", "1.0 alb, 1.1 stent (comment)", "HTTP/1.1  stent", "1.1 Stent"] {
        assert!(loops(value), "{value}");
    }
    for value in ["1.1 stent2", "1.1 cloudfront", "stent", "", ",", "1.1 not stent"] {
        assert!(!loops(value), "{value}");
    }
}

#[test]
fn a_plain_request_id_is_kept_and_anything_else_replaced() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut id = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(value).unwrap());
        let id = request_id(&mut headers, &mut random);
        assert_eq!(headers[X_REQUEST_ID], *id);
        assert_eq!(headers.get_all(X_REQUEST_ID).iter().count(), 1);
        id.into_string()
    };
    assert_eq!(id("Root=1-67891233-abcdef"), "Root=1-67891233-abcdef");
    let long = "a".repeat(129);
    for value in ["", "a b", "a\"b", &long] {
        let made = id(value);
        assert_eq!(made.len(), 32);
        assert!(made.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

#[test]
fn however_many_request_ids_come_one_goes_on() {
    for count in 2..6 {
        for first in ["plain", "not plain"] {
            let mut headers = HeaderMap::new();
            headers.append(X_REQUEST_ID, HeaderValue::from_static(first));
            for _ in 1..count {
                headers.append(X_REQUEST_ID, HeaderValue::from_static("another"));
            }
            let id = request_id(&mut headers, &mut fastrand::Rng::with_seed(5));
            assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [&*id], "{count} {first}");
            assert_eq!(id.len(), 32, "none of several can be told to be the one");
        }
    }
}

#[test]
fn an_answer_loses_what_concerned_the_upstream_connection() {
    let head = head(
        "/",
        &[
            ("connection", "close, x-a"),
            ("x-a", "1"),
            ("keep-alive", "1"),
            ("proxy-authenticate", "Basic"),
            ("etag", "1"),
        ],
    );
    let mut headers = head.headers;
    clean_response(&mut headers);
    assert_eq!(names(&headers), ["etag"]);
}

proptest! {
    #[test]
    fn no_value_of_connection_or_via_panics(connection in proptest::collection::vec(any::<u8>(), 0..80)) {
        let Ok(value) = HeaderValue::from_bytes(&connection) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, value.clone());
        headers.insert(VIA, value.clone());
        headers.insert(HOST, value);
        let _ = host(&headers);
        let _ = clean_request(&mut headers, Version::HTTP_11, &via(), Trust::No);
        prop_assert!(headers.contains_key(HOST));
    }

    #[test]
    fn an_authority_holds_nothing_that_ends_or_splits_it(value in proptest::collection::vec(any::<u8>(), 0..40)) {
        if is_authority(&value) {
            prop_assert!(!value.iter().any(|byte| b" ,@/\\\r\n\t\0?#".contains(byte)));
        }
    }
}

#[test]
fn an_upgrade_is_asked_for_by_one_protocol_that_connection_names_and_the_route_allows() {
    let allowed: [Box<str>; 2] = ["websocket".into(), "dicom/3".into()];
    let asked = |fields: &[(&str, &str)], body| {
        upgrade(&head("/", fields), body, &allowed).map(|value| value.to_str().unwrap().to_owned())
    };
    let plain = [("connection", "keep-alive , Upgrade"), ("upgrade", "WebSocket")];
    assert_eq!(asked(&plain, BodyPresence::None).as_deref(), Some("WebSocket"));
    assert_eq!(asked(&plain, BodyPresence::Some), None);
    assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", "h2c")], BodyPresence::None), None);
    assert_eq!(asked(&[("connection", "upgraded"), ("upgrade", "websocket")], BodyPresence::None), None);
    assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], BodyPresence::None), None);
    let mut old = head("/", &plain);
    old.version = Version::HTTP_10;
    assert_eq!(upgrade(&old, BodyPresence::None, &allowed), None, "RFC 9110 section 7.8");
}

#[test]
fn a_101_grants_the_one_protocol_that_was_asked_for() {
    let granted = |fields: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(UPGRADE, HeaderValue::from_static(field));
        }
        grants(&headers, &HeaderValue::from_static("websocket"))
    };
    assert!(granted(&["WebSocket"]));
    assert!(!granted(&["h2c"]) && !granted(&[]) && !granted(&["websocket", "h2c"]));
}

#[test]
fn trailers_are_passed_without_what_belongs_into_a_head() {
    let fields = [
        ("x-sum", "1"),
        ("grpc-status", "0"),
        ("content-length", "9"),
        ("transfer-encoding", "chunked"),
        ("host", "evil"),
        ("authorization", "x"),
        ("cookie", "a=1"),
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("via", "1.1 evil"),
        ("x-request-id", "1"),
        ("connection", "x-sum"),
        ("x-stent-attempt", "2"),
        ("if-match", "*"),
        ("set-cookie", "a=1"),
        ("client-cert", ":eA==:"),
        ("x_sum", "1"),
    ];
    let mut trailers = head("/", &fields).headers;
    trailers.insert(HeaderName::from_lowercase(b"x\"sum").unwrap(), HeaderValue::from_static("1"));
    let cleaned = |side| {
        let mut trailers = trailers.clone();
        clean_trailers(&mut trailers, side);
        names(&trailers).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(cleaned(Side::Request), ["grpc-status", "x-sum"]);
    // A backend can mean nothing but what it says; calls of gRPC end with metadata of any name.
    assert_eq!(cleaned(Side::Response), ["grpc-status", "x-sum", "x_sum"]);
}

proptest! {
    #[test]
    fn whatever_passes_for_a_host_can_be_said_over_http2(
        host in "[a-z0-9._~%-]{1,8}(:[0-9]{0,6})?|\\[[0-9a-f:.]{2,9}\\](:[0-9]{0,2})?",
    ) {
        if is_authority(host.as_bytes()) {
            prop_assert!(Authority::try_from(&*host).is_ok(), "{host}");
        }
    }
}
