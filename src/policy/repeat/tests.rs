//! Which heads make a request repeatable, and which keep it from being repeated.

use http::HeaderValue;

use super::*;

fn keyed() -> RetryPolicy {
    let idempotency_header = Some(HeaderName::from_static("idempotency-key"));
    RetryPolicy { idempotency_header, ..RetryPolicy::default() }
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields =
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name, value);
    }
    headers
}

fn post(policy: &RetryPolicy, fields: &[(&'static str, &'static str)]) -> Repeatable {
    policy.repeatable(&Method::POST, &headers(fields))
}

const BY_METHOD: Repeatable = Repeatable::OnlyIfNeverSent(SendOnce::Method);
const BY_CONDITION: Repeatable = Repeatable::OnlyIfNeverSent(SendOnce::Condition);
const BY_AUTHENTICATION: Repeatable = Repeatable::OnlyIfNeverSent(SendOnce::Authentication);

#[test]
fn a_key_counts_only_for_a_cluster_that_honours_keys() {
    let key = [("idempotency-key", "7")];
    assert_eq!(post(&keyed(), &key), Repeatable::Always);
    assert_eq!(post(&RetryPolicy::default(), &key), BY_METHOD, "the default honours none");
    assert_eq!(post(&keyed(), &[("x-request-id", "7")]), BY_METHOD);
}

#[test]
fn the_operators_word_makes_a_post_repeatable() {
    let listed = RetryPolicy { methods: vec![Method::POST], ..RetryPolicy::default() };
    assert_eq!(post(&listed, &[]), Repeatable::Always);
    assert_eq!(listed.repeatable(&Method::GET, &HeaderMap::new()), BY_METHOD);
    assert_eq!(RetryPolicy::default().repeatable(&Method::PATCH, &HeaderMap::new()), BY_METHOD);
}

#[test]
fn a_key_is_exactly_one_value_and_not_an_empty_one() {
    const NAME: &str = "idempotency-key";
    for value in ["8e03978e-40d5-43dd-bc93-6894a57f9324", "\"a, b\"", " 7 "] {
        assert_eq!(post(&keyed(), &[(NAME, value)]), Repeatable::Always, "{value:?}");
    }
    for value in ["", " ", "\t", "\"\"", "\" \"", "7, 8", "7,", "\"a\", \"b\""] {
        assert_eq!(post(&keyed(), &[(NAME, value)]), BY_METHOD, "{value:?}");
    }
    assert_eq!(post(&keyed(), &[(NAME, "7"), (NAME, "8")]), BY_METHOD);
    assert_eq!(
        post(&keyed(), &[(NAME, "7"), (NAME, "7")]),
        BY_METHOD,
        "which one a backend takes is its secret"
    );
    assert_eq!(post(&keyed(), &[(NAME, "7"), (NAME, "")]), BY_METHOD);
}

#[test]
fn a_conditional_write_is_not_repeated_by_itself() {
    let fields = [
        ("if-match", "\"1\""),
        ("if-none-match", "*"),
        ("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("if", "(<urn:uuid:181d4fae-7d8c-11d0-a765-00a0c91e6bf2>)"),
        ("if-schedule-tag-match", "\"1\""),
    ];
    let policy = RetryPolicy {
        methods: vec![Method::PUT, Method::DELETE, Method::PATCH, Method::POST, Method::GET, Method::HEAD],
        ..keyed()
    };
    for field in fields {
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::POST] {
            assert_eq!(policy.repeatable(&method, &headers(&[field])), BY_CONDITION, "{method} {field:?}");
            let honoured = headers(&[field, ("idempotency-key", "7")]);
            assert_eq!(policy.repeatable(&method, &honoured), Repeatable::Always, "{method} {field:?}");
        }
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(
                policy.repeatable(&method, &headers(&[field])),
                Repeatable::Always,
                "{method} {field:?}"
            );
        }
    }
    let unlisted = RetryPolicy::default();
    assert_eq!(unlisted.repeatable(&Method::POST, &headers(&fields)), BY_METHOD, "the simpler rule is told");
}

#[test]
fn what_is_no_precondition_of_a_write_changes_nothing() {
    let fields =
        [("if-range", "\"1\""), ("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"), ("ifx", "1")];
    for field in fields {
        let put = RetryPolicy::default().repeatable(&Method::PUT, &headers(&[field]));
        assert_eq!(put, Repeatable::Always, "{field:?}");
    }
}

#[test]
fn what_authenticates_its_connection_is_never_repeated_key_or_not() {
    for scheme in ["NTLM TlRMTVNTUAADAAAA", "negotiate YII="] {
        let fields = headers(&[("authorization", scheme), ("idempotency-key", "7")]);
        for method in [Method::GET, Method::PUT, Method::POST] {
            assert_eq!(keyed().repeatable(&method, &fields), BY_AUTHENTICATION, "{method} {scheme}");
        }
    }
    let basic = headers(&[("authorization", "Basic dTpw")]);
    assert_eq!(keyed().repeatable(&Method::GET, &basic), Repeatable::Always);
}
