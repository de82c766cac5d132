//! Which fields are taken away, whom the guard lets pass, and what rules do.

use http::header::HeaderValue;
use proptest::prelude::*;

use super::guard::{InvalidGuard, InvalidSecret, OriginGuard, OriginRefused, Secret};
use super::rules::{HeaderRules, InvalidRule, Side};
use super::*;

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn name(text: &str) -> HeaderName {
    text.parse().unwrap()
}

#[test]
fn of_the_names_that_h2_reads_those_are_taken_that_are_tokens() {
    for byte in 0..=u8::MAX {
        let may_stand =
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
        // Beyond 64 bytes `http` reads a name in another way.
        for around in [&b""[..], b"x", &[b'x'; 80]] {
            let read = HeaderName::from_lowercase(&[around, &[byte], around].concat());
            assert_eq!(read.is_ok_and(|name| is_token(&name)), may_stand, "{byte}, {}", around.len());
        }
    }
}

#[test]
fn underscores_are_dropped_kept_or_refused() {
    let given = || headers(&[("x_user", "a"), ("x-user", "b"), ("accept", "c")]);
    let mut dropped = given();
    Underscores::Drop.apply(&mut dropped).unwrap();
    assert_eq!(names(&dropped), ["accept", "x-user"]);
    let mut kept = given();
    Underscores::Keep.apply(&mut kept).unwrap();
    assert_eq!(kept, given());
    assert_eq!(Underscores::Refuse.apply(&mut given()), Err(UnderscoreFound));
    Underscores::Refuse.apply(&mut headers(&[("x-user", "b")])).unwrap();
}

#[test]
fn another_spelling_of_a_reserved_name_passes_under_no_policy() {
    for alias in [
        "x_forwarded_for",
        "x-forwarded_proto",
        "x_real_ip",
        "x_request_id",
        "x_stent_attempt",
        "content_length",
        "transfer_encoding",
        "true_client_ip",
        "x_ssl_client_verify",
        "x_original_url",
        "keep_alive",
        "ssl_client_cert",
        "x.forwarded.for",
        "x~real~ip",
        "content.length",
        "transfer|encoding",
        "x-request.id",
    ] {
        for policy in [Underscores::Keep, Underscores::Drop] {
            let mut headers = headers(&[(alias, "evil"), ("x-b", "1")]);
            policy.apply(&mut headers).unwrap();
            assert_eq!(names(&headers), ["x-b"], "{alias}");
        }
    }
}

fn guard() -> OriginGuard {
    let secret = |text: &str| (text.into(), Secret::new(text.as_bytes()).unwrap());
    OriginGuard::new(name("x-origin-secret"), vec![secret("the-old-secret-0"), secret("the-new-secret-01")])
        .unwrap()
}

#[test]
fn any_one_of_the_secrets_opens_and_never_goes_on() {
    for value in ["the-old-secret-0", "the-new-secret-01"] {
        let mut headers = headers(&[("x-origin-secret", value), ("x_origin_secret", value), ("x-b", "1")]);
        assert_eq!(guard().admit(&mut headers), Ok(()));
        assert_eq!(names(&headers), ["x-b"]);
    }
}

#[test]
fn whatever_is_not_exactly_one_right_field_is_refused_and_taken_away() {
    for lines in [
        &[][..],
        &[("x-origin-secret", "")],
        &[("x-origin-secret", "the-old-secret-")],
        &[("x-origin-secret", "the-old-secret-00")],
        &[("x-origin-secret", "The-old-secret-0")],
        &[("x-origin-secret", "the-old-secret-0"), ("x-origin-secret", "the-old-secret-0")],
        &[("x-origin-secret", "the-old-secret-0"), ("x-origin-secret", "wrong")],
        &[("x_origin_secret", "the-old-secret-0")],
    ] {
        let mut headers = headers(lines);
        assert_eq!(guard().admit(&mut headers), Err(OriginRefused), "{lines:?}");
        assert!(headers.is_empty(), "{lines:?}");
    }
}

#[test]
fn a_guards_debug_output_names_no_secret() {
    let shown = format!(
        "{:?}",
        OriginGuard::new(name("x-a"), vec![("f".into(), Secret::new(b"0123456789abcdef").unwrap())])
    );
    assert!(shown.contains("x-a") && !shown.contains("0123456789abcdef"), "{shown}");
}

#[test]
fn a_secret_loses_one_line_end_and_is_long_enough_to_be_one() {
    assert_eq!(Secret::new(b"0123456789abcdef\n"), Secret::new(b"0123456789abcdef"));
    assert_eq!(Secret::new(b"0123456789abcdef\r\n"), Secret::new(b"0123456789abcdef"));
    assert_eq!(Secret::new(b""), Err(InvalidSecret::Empty));
    assert_eq!(Secret::new(b"\n"), Err(InvalidSecret::Empty));
    assert_eq!(Secret::new(b"0123456789abcde\n"), Err(InvalidSecret::TooShort));
    assert_eq!(Secret::new(&[b'a'; 1784]), Err(InvalidSecret::TooLong));
    for bad in [
        "0123456789abcdef\n\n",
        " 0123456789abcdef",
        "0123456789\0abcdef",
        "0123456789\tabcdef",
        "0123456789abcdeé",
    ] {
        assert_eq!(Secret::new(bad.as_bytes()), Err(InvalidSecret::Character), "{bad:?}");
    }
}

#[test]
fn a_guard_asks_for_a_header_of_its_own_and_has_a_secret() {
    for header in ["host", "x-forwarded-for", "te", "x_secret", "x-request-id", "proxy"] {
        assert_eq!(OriginGuard::check_header(&name(header)), Err(InvalidGuard::Header), "{header}");
    }
    assert_eq!(OriginGuard::new(name("x-a"), Vec::new()), Err(InvalidGuard::Count));
}

#[test]
fn rules_remove_then_set_then_add() {
    let value = HeaderValue::from_static;
    let rules = HeaderRules::new(
        Side::Response,
        [name("x-a"), name("x-b")],
        [(name("x-b"), value("set")), (name("x-c"), value("set"))],
        [(name("x-c"), value("added")), (name("x-d"), value("added"))],
    )
    .unwrap();
    let mut changed = headers(&[("x-a", "1"), ("x-b", "1"), ("x-b", "2"), ("x-c", "1"), ("x-e", "1")]);
    rules.apply(&mut changed);
    let expected =
        headers(&[("x-b", "set"), ("x-c", "set"), ("x-c", "added"), ("x-d", "added"), ("x-e", "1")]);
    assert_eq!(changed, expected);
}

#[test]
fn no_rule_touches_framing_or_identity() {
    for framing in [
        "connection",
        "content-length",
        "transfer-encoding",
        "host",
        "via",
        "upgrade",
        "te",
        "trailer",
        "content_length",
    ] {
        for side in [Side::Request, Side::Response] {
            assert_eq!(side.check(&name(framing)), Err(InvalidRule::Framing), "{framing}");
        }
    }
    assert_eq!(Side::Request.check(&name("x-forwarded-for")), Err(InvalidRule::Identity));
    assert_eq!(Side::Request.check(&name("x_forwarded_for")), Err(InvalidRule::Identity));
    assert_eq!(Side::Request.check(&name("expect")), Err(InvalidRule::Framing));
    for allowed in ["x-forwarded-proto", "authorization", "cookie", "accept-encoding"] {
        assert_eq!(Side::Request.check(&name(allowed)), Ok(()), "{allowed}");
    }
    for allowed in ["strict-transport-security", "server", "set-cookie", "x-request-id", "cache-control"] {
        assert_eq!(Side::Response.check(&name(allowed)), Ok(()), "{allowed}");
    }
    let rules = HeaderRules::new(Side::Request, [name("te")], [], []);
    assert_eq!(rules, Err(InvalidRule::Framing));
}

proptest! {
    #[test]
    fn no_spelling_brings_a_claim_past_any_policy(at in 0usize..16, claim in 0usize..6, sign in 0usize..14) {
        let claim = ["x-forwarded-for", "x-real-ip", "x-request-id", "content-length", "x-amzn-mtls-a", "client-cert"][claim];
        let hyphens: Vec<_> = claim.match_indices('-').map(|(at, _)| at).collect();
        let mut spelled = claim.as_bytes().to_vec();
        spelled[hyphens[at % hyphens.len()]] = b"_.~!#$%&'*+^`|"[sign];
        for policy in [Underscores::Drop, Underscores::Keep] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_bytes(&spelled).unwrap(), HeaderValue::from_static("evil"));
            policy.apply(&mut headers).unwrap();
            prop_assert!(headers.is_empty());
        }
    }
}
