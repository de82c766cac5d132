//! What may be gone on with, and that whatever breaks how often, the caller gets each byte once and no other.

use proptest::prelude::*;

use super::*;
use crate::policy::request::SendOnce;
use crate::policy::settings::ErrorSet;

const TAG: &str = "\"v1\"";

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    headers
}

fn of(status: u16, fields: &[(&str, &str)], length: Option<u64>) -> Result<Resumable, BreakEnd> {
    RetryPolicy::default().resumable(&Flowing {
        method: &Method::GET,
        repeatable: Repeatable::Always,
        request_body: RequestBody::None,
        status: status.try_into().unwrap(),
        headers: &headers(fields),
        length,
    })
}

/// An answer of 100 bytes with these fields.
fn ok(fields: &[(&str, &str)]) -> Result<Resumable, BreakEnd> {
    of(200, &[fields, &[("accept-ranges", "bytes")]].concat(), Some(100))
}

fn is_rest(whole: &Resumable, delivered: u64, fields: &[(&str, &str)], length: u64) -> bool {
    let rest = whole.rest(delivered).unwrap();
    rest.is(StatusCode::PARTIAL_CONTENT, &headers(fields), Some(length))
}

fn asked(whole: &Resumable, delivered: u64) -> Option<(String, String)> {
    let mut headers = headers(&[("range", "bytes=1-2"), ("range", "x"), ("if-range", "\"other\"")]);
    whole.rest(delivered)?.ask(&mut headers);
    let text = |name| only(&headers, name).unwrap().to_str().unwrap().to_owned();
    Some((text(&RANGE), text(&IF_RANGE)))
}

#[test]
fn the_rest_of_a_whole_answer_is_asked_for_by_its_tag() {
    let whole = ok(&[("etag", TAG)]).unwrap();
    assert_eq!(asked(&whole, 0), Some(("bytes=0-99".into(), TAG.into())));
    assert_eq!(asked(&whole, 40), Some(("bytes=40-99".into(), TAG.into())));
    assert_eq!(asked(&whole, 99), Some(("bytes=99-99".into(), TAG.into())));
    assert_eq!(asked(&whole, 100), None, "nothing is missing");
    assert_eq!(asked(&whole, u64::MAX), None);
    assert_eq!(whole.holder(), Holder::Any);
}

#[test]
fn the_rest_of_a_range_that_the_caller_asked_for_lies_within_it() {
    let part = |range, length| of(206, &[("etag", TAG), ("content-range", range)], Some(length));
    let whole = part("bytes 500-599/1000", 100).unwrap();
    assert_eq!(asked(&whole, 40), Some(("bytes=540-599".into(), TAG.into())));
    assert!(is_rest(&whole, 40, &[("etag", TAG), ("content-range", "bytes 540-599/1000")], 60));
    assert_eq!(part("bytes 500-599/1000", 99), Err(BreakEnd::Ranges), "its length says otherwise");
    for range in [
        "bytes 500-599/*",
        "bytes 599-500/1000",
        "bytes 500-599/599",
        "bytes +1-+100/1000",
        "lines 500-599/1000",
        "bytes */1000",
        "bytes -599/1000",
        "bytes 0-99999999999999999999/99999999999999999999",
        "",
    ] {
        assert_eq!(part(range, 100), Err(BreakEnd::Ranges), "{range}");
    }
    let several = [("etag", TAG), ("content-type", "multipart/byteranges; boundary=x")];
    assert_eq!(of(206, &several, Some(100)), Err(BreakEnd::Ranges));
}

#[test]
fn only_a_tag_that_stands_for_each_byte_will_do() {
    for tag in ["W/\"v1\"", "v1", "\"v\"1\"", "\"", "w/\"v1\"", "\"a b\"", ""] {
        assert_eq!(ok(&[("etag", tag)]), Err(BreakEnd::Validator), "{tag}");
    }
    assert_eq!(ok(&[("etag", TAG), ("etag", "\"v2\"")]), Err(BreakEnd::Validator), "which of them?");
    assert!(ok(&[("etag", "\"\"")]).is_ok());
}

#[test]
fn a_date_will_do_if_it_was_long_past_and_there_is_no_tag() {
    let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    let dated = |date| ok(&[modified, ("date", date)]);
    let whole = dated("Sun, 06 Nov 1994 08:50:37 GMT").unwrap();
    assert_eq!(asked(&whole, 1), Some(("bytes=1-99".into(), modified.1.into())));
    assert_eq!(whole.holder(), Holder::Same);
    for date in ["Sun, 06 Nov 1994 08:50:36 GMT", "Sun, 06 Nov 1994 08:49:00 GMT", "today"] {
        assert_eq!(dated(date), Err(BreakEnd::Validator), "{date}");
    }
    assert_eq!(ok(&[modified]), Err(BreakEnd::Validator), "no date to compare it with");
    let weak = [modified, ("date", "Sun, 06 Nov 1994 09:49:37 GMT"), ("etag", "W/\"v1\"")];
    assert_eq!(ok(&weak), Err(BreakEnd::Validator), "RFC 9110 section 13.1.5: not beside a tag");
}

#[test]
fn why_an_answer_cannot_be_gone_on_with_has_a_name() {
    let (tag, ranges) = (("etag", TAG), ("accept-ranges", "bytes"));
    assert_eq!(of(200, &[tag], Some(100)), Err(BreakEnd::Ranges));
    assert_eq!(of(200, &[tag, ("accept-ranges", "none")], Some(100)), Err(BreakEnd::Ranges));
    assert!(of(200, &[tag, ("accept-ranges", "lines, Bytes")], Some(100)).is_ok());
    assert_eq!(of(200, &[tag, ranges], None), Err(BreakEnd::Length));
    assert_eq!(of(404, &[tag, ranges], Some(100)), Err(BreakEnd::Status));
    let fields = headers(&[tag, ranges]);
    let get = Flowing {
        method: &Method::GET,
        repeatable: Repeatable::Always,
        request_body: RequestBody::None,
        status: StatusCode::OK,
        headers: &fields,
        length: Some(100),
    };
    let default = RetryPolicy::default();
    assert!(default.resumable(&get).is_ok());
    for method in [Method::HEAD, Method::POST, Method::PUT] {
        assert_eq!(default.resumable(&Flowing { method: &method, ..get }), Err(BreakEnd::Method));
    }
    let with_body = Flowing { request_body: RequestBody::Some, ..get };
    assert_eq!(default.resumable(&with_body), Err(BreakEnd::Method));
    let unlisted = Flowing { repeatable: Repeatable::OnlyIfNeverSent(SendOnce::Method), ..get };
    assert_eq!(default.resumable(&unlisted), Err(BreakEnd::Off));
    let resume = ResumeSettings { enabled: false, ..ResumeSettings::default() };
    for policy in [
        RetryPolicy { resume, ..default.clone() },
        RetryPolicy { max_attempts: 1, ..default.clone() },
        RetryPolicy { errors: ErrorSet::default(), ..default },
    ] {
        assert_eq!(policy.resumable(&get), Err(BreakEnd::Off));
    }
}

#[test]
fn nothing_but_the_exact_rest_of_the_same_version_is_taken() {
    let form = [("content-type", "text/plain"), ("content-encoding", "gzip")];
    let whole = ok(&[&[("etag", TAG)][..], &form].concat()).unwrap();
    let (tag, range) = (("etag", TAG), ("content-range", "bytes 40-99/100"));
    assert!(is_rest(&whole, 40, &[tag, range, form[0], form[1]], 60));
    assert!(is_rest(&whole, 40, &[tag, range], 60), "what the asker knows need not be repeated");
    for (what, fields, length) in [
        ("no tag", &[range][..], 60),
        ("another tag", &[("etag", "\"v2\""), range], 60),
        ("a weak tag", &[("etag", "W/\"v1\""), range], 60),
        ("two tags", &[tag, tag, range], 60),
        ("no range", &[tag], 60),
        ("two ranges", &[tag, range, range], 60),
        ("it begins earlier", &[tag, ("content-range", "bytes 39-99/100")], 61),
        ("it begins later", &[tag, ("content-range", "bytes 41-99/100")], 59),
        ("it ends earlier", &[tag, ("content-range", "bytes 40-98/100")], 59),
        ("another total", &[tag, ("content-range", "bytes 40-99/101")], 60),
        ("no total", &[tag, ("content-range", "bytes 40-99/*")], 60),
        ("too short", &[tag, range], 59),
        ("too long", &[tag, range], 61),
        ("another form", &[tag, range, ("content-encoding", "br")], 60),
        ("in another form as well", &[tag, range, form[1], ("content-encoding", "br")], 60),
        ("another media type", &[tag, range, ("content-type", "multipart/byteranges; boundary=x")], 60),
    ] {
        assert!(!is_rest(&whole, 40, fields, length), "{what}");
    }
    let rest = whole.rest(40).unwrap();
    assert!(!rest.is(StatusCode::PARTIAL_CONTENT, &headers(&[tag, range]), None), "no length");
    for status in [200, 203, 304, 412, 416, 502] {
        let status = StatusCode::from_u16(status).unwrap();
        assert!(!rest.is(status, &headers(&[tag, range]), Some(60)), "{status}");
    }
}

#[test]
fn under_a_date_the_form_must_be_said_again() {
    let dates =
        [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("date", "Mon, 07 Nov 1994 08:49:37 GMT")];
    let (range, gzip) = (("content-range", "bytes 40-99/100"), ("content-encoding", "gzip"));
    let whole = ok(&[&dates[..], &[gzip]].concat()).unwrap();
    assert!(is_rest(&whole, 40, &[dates[0], range, gzip], 60));
    assert!(!is_rest(&whole, 40, &[dates[0], range], 60));
    assert!(!is_rest(&whole, 40, &[range, gzip], 60), "nor does it go without the date");
    let plain = ok(&dates).unwrap();
    assert!(!is_rest(&plain, 40, &[dates[0], range, gzip], 60));
}

/// What a backend makes of a request for a range: it reads what was asked for from its text.
fn serve<'a>(resource: &'a [u8], request: &HeaderMap) -> (HeaderMap, &'a [u8]) {
    assert_eq!(only(request, &IF_RANGE).unwrap(), TAG);
    let range = only(request, &RANGE).unwrap().to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let range = format!("bytes {first}-{last}/{}", resource.len());
    (headers(&[("etag", TAG), ("content-range", &range)]), &resource[first..=last])
}

proptest! {
    #[test]
    fn whatever_breaks_how_often_the_caller_gets_each_byte_once(
        resource in prop::collection::vec(any::<u8>(), 1..400),
        cut in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()),
        breaks in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let places = (cut.0.index(resource.len()), cut.1.index(resource.len()));
        let (first, last) = (places.0.min(places.1), places.0.max(places.1));
        let (whole, promised) = if cut.2 {
            let range = format!("bytes {first}-{last}/{}", resource.len());
            let promised = &resource[first..=last];
            let fields = [("etag", TAG), ("content-range", &range)];
            (of(206, &fields, Some(promised.len() as u64)), promised)
        } else {
            let fields = [("etag", TAG), ("accept-ranges", "bytes")];
            (of(200, &fields, Some(resource.len() as u64)), &resource[..])
        };
        let whole = whole.unwrap();
        let mut flowing = promised;
        let mut delivered = Vec::new();
        for place in breaks {
            delivered.extend_from_slice(&flowing[..place.index(flowing.len() + 1)]);
            let Some(rest) = whole.rest(delivered.len() as u64) else { break };
            let mut request = headers(&[("range", "bytes=7-")]);
            rest.ask(&mut request);
            let (fields, bytes) = serve(&resource, &request);
            prop_assert!(rest.is(StatusCode::PARTIAL_CONTENT, &fields, Some(bytes.len() as u64)));
            flowing = bytes;
        }
        if delivered.len() < promised.len() {
            delivered.extend_from_slice(flowing);
        }
        prop_assert_eq!(delivered, promised);
    }

    #[test]
    fn what_lies_about_its_place_is_never_taken(
        total in 1u64..50, delivered in 0u64..50, first in 0u64..50, last in 0u64..50,
        said in 1u64..50, length in prop::option::of(0u64..50),
    ) {
        let whole = of(200, &[("etag", TAG), ("accept-ranges", "bytes")], Some(total)).unwrap();
        if let Some(rest) = whole.rest(delivered) {
            let range = format!("bytes {first}-{last}/{said}");
            let fields = headers(&[("etag", TAG), ("content-range", &range)]);
            let is_exact = first == delivered && last == total - 1 && said == total
                && length == Some(total - delivered);
            prop_assert_eq!(rest.is(StatusCode::PARTIAL_CONTENT, &fields, length), is_exact);
        } else {
            prop_assert!(delivered >= total);
        }
    }

    #[test]
    fn no_text_makes_a_range_that_is_none(text in "bytes [0-9]{0,21}-[0-9]{0,21}/[0-9*]{0,21}|[ -~]{0,30}") {
        if let Some(range) = ContentRange::parse(&text.parse().unwrap()) {
            prop_assert!(range.first <= range.last && range.last < range.total);
        }
    }
}
