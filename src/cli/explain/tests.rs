//! What `stent explain` says.

use super::*;
use crate::config;

const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:8080"

[retry.backoff]
mode = "fixed"

[cluster.hosp]
endpoints = ["http://10.0.1.10:8080"]
[cluster.hosp.retry]
max_attempts = 4
budget = { ratio = 0.5 }

[cluster.pair]
endpoints = ["http://10.0.2.10", "http://10.0.2.11"]
[cluster.pair.retry]
idempotency_header = "Idempotency-Key"

[[route]]
name = "screening"
host = "hosp.example.org"
path = "/api/screenings/{id}"
methods = ["GET", "POST"]
cluster = "hosp"
[route.retry]
methods = ["GET", "POST"]
backoff = { mode = "adaptive" }

[[route]]
name = "upload"
path = "/documents/*"
cluster = "hosp"
max_body = "100MiB"
[route.retry]
methods = []

[[route]]
name = "pair"
path = "/pair"
cluster = "pair"

[[route]]
name = "single"
path = "/single"
cluster = "hosp"
[route.retry]
max_attempts = 1

[[route]]
name = "hurried"
path = "/hurried"
cluster = "hosp"
deadline = "70ms"

[[route]]
name = "hedged"
path = "/hedged"
cluster = "pair"
[route.retry]
hedge = "20ms"

[[route]]
name = "learned"
path = "/learned"
cluster = "hosp"
[route.retry]
hedge = "p95"

[[route]]
name = "call"
path = "/a.B/C"
cluster = "pair"
[route.retry]
methods = ["POST"]
grpc_statuses = ["unavailable"]
"#;

fn explained(line: &str, host: &str, headers: &[&str], body: u64, outcomes: &str) -> String {
    let headers: Vec<_> = headers.iter().map(ToString::to_string).collect();
    let request = Request::new(line, Some(host).filter(|host| !host.is_empty()), &headers, body).unwrap();
    let outcomes: Vec<Given> = outcomes.split_whitespace().map(|word| word.parse().unwrap()).collect();
    explain(&config::parse(CONFIG, "stent.toml").unwrap(), &request, &outcomes)
}

/// The lines of the timeline alone.
fn timeline(line: &str, headers: &[&str], body: u64, outcomes: &str) -> String {
    let text = explained(line, "hosp.example.org", headers, body, outcomes);
    let (_, rest) = text.split_once("as healthy\n").unwrap_or_else(|| panic!("{text}"));
    rest.split_once("\n\n").unwrap().0.to_owned()
}

#[track_caller]
fn assert_timeline(actual: &str, expected: &str) {
    let trim = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    assert_eq!(trim(actual), trim(expected.trim()), "is now:\n{actual}");
}

#[test]
fn the_whole_page() {
    let text = explained("POST /api/screenings/7?x=1", "hosp.example.org:443", &[], 0, "502 502 200");
    let expected = r"request   POST /api/screenings/7 (hosp.example.org)
route     screening: hosp.example.org, /api/screenings/{id}, GET, POST
cluster   hosp: 1 endpoint
policy    at most 4 attempts within 55s (deadline)
          failures: statuses [500, 502], errors [connect, tls, reset, timeout, protocol, truncated]
          answers of up to 128KiB are held until whole: 100ms from the last byte, at most 500ms in all
          waits 100ms × 2, at most 2s, half of it to all of it; a Retry-After of up to 5s is kept
          adaptive: that while the cluster fails, down to 0.1ms where such requests mostly succeed
          POST is in `methods`: sent again even if the backend may have acted on it
          an attempt whose connection broke may still be carried out by the backend, after a later one
          waits in the outage queue, at most 10s, while the cluster is down, and is tried once in any case
          waits, at most 1s, while the cluster has all that it is found to carry, and is not retried while others wait

timeline, from the end of the request body; an answer counts as instant, an endpoint as healthy
                0s  attempt 1: 502
                    → retry after 0.1ms at best, 50ms to 100ms while the cluster fails, at the same endpoint: 502 is in `statuses`
    0.1ms to 100ms  attempt 2: 502
                    → retry after 0.1ms at best, 100ms to 200ms while the cluster fails, at the same endpoint: 502 is in `statuses`
    0.2ms to 300ms  attempt 3: 200
    0.2ms to 300ms  answer: the 200 of attempt 3

surprise, where nothing failed before and nothing else is asked for meanwhile; 9.2 is an outage
  key: screening: POST
  attempt 1: 0.9 % of such attempts fail anyway, so it weighs 4.7; 4.7 together
  attempt 2: 0.9 % of such attempts fail anyway, so it weighs 4.7; 9.4 together
  attempt 3: a success, which ends the row

budget, shared by all requests to the cluster; each retry takes 1 out of it
  income: 0.5 per request over the last 10s, and 10 per second in any case
  cost at failure rate p: p + p² + p³ retries per request; 0.11 at p = 0.1, 0.42 at p = 0.3
  the ratio carries p up to 0.34; above it, what exceeds the income is stopped (budget)
";
    assert_eq!(text, expected, "is now:\n{text}");
}

#[test]
fn a_post_that_nobody_declared_safe_is_stopped_by_name_and_rule() {
    assert_timeline(&timeline("POST /pair", &[], 0, "502 200"), "
0s  attempt 1: 502
→ no more (method): the backend may have acted on the request, and its method is not in `methods` (RFC 9110 section 9.2.2)
0s  answer: the 502 of attempt 1
not used: 200 (nothing follows attempt 1)");
}

#[test]
fn a_download_that_breaks_is_told_to_be_gone_on_with_where_it_is() {
    let text = |line, headers: &[&str], body| explained(line, "", headers, body, "truncated");
    let resumed = "one that breaks later is gone on with, within 10s, if";
    assert!(text("GET /pair", &[], 0).contains(resumed));
    for page in [text("PUT /pair", &[], 0), text("POST /pair", &["idempotency-key: 7"], 0)] {
        assert!(!page.contains("one that breaks later"), "{page}");
    }
    assert!(
        text("GET /pair", &[], 7).contains("one that breaks later is cut off there: no retry could mend it")
    );
}

#[test]
fn what_must_not_be_sent_twice_is_told_which_connection_it_gets() {
    let line = "its connection: new, or used well within the time";
    let text = explained("POST /pair", "", &[], 0, "");
    assert!(text.contains(line), "{text}");
    let text = explained("POST /pair", "", &["idempotency-key: 7"], 0, "");
    assert!(!text.contains("its connection"), "{text}");
}

#[test]
fn an_idempotency_key_makes_it_repeatable() {
    assert_timeline(
        &timeline("POST /pair", &["Idempotency-Key: 7"], 0, "reset 200"),
        "
0s  attempt 1: reset: the backend may have acted on it
→ retry after 50ms to 100ms, at an endpoint not yet tried: `reset` is in `errors`
50ms to 100ms  attempt 2: 200
50ms to 100ms  answer: the 200 of attempt 2",
    );
    let text = explained("POST /pair", "", &["idempotency-key: 7"], 0, "");
    assert!(text.contains("it carries idempotency-key: sent again even if"), "{text}");
}

#[test]
fn a_request_is_judged_as_the_backend_gets_it() {
    for headers in [
        &["Idempotency-Key:"][..],
        &["Idempotency-Key: 7", "Idempotency-Key: 8"],
        &["Idempotency-Key: 7", "Connection: close, idempotency-key"],
    ] {
        let text = explained("POST /pair", "", headers, 0, "reset");
        assert!(text.contains("no more (method)"), "{headers:?} {text}");
    }
    let unknown = explained("POST /api/a", "", &["Idempotency-Key: 7"], 0, "reset");
    assert!(!unknown.contains("it carries"), "the cluster honours no keys: {unknown}");
}

#[test]
fn a_conditional_write_is_told_apart_from_one_that_may_be_repeated() {
    let text = explained("PUT /pair", "", &["If-Match: \"1\""], 0, "reset");
    assert!(
        text.contains("it has a precondition, which a second copy would fail: sent again only if"),
        "{text}"
    );
    assert!(
        text.contains("no more (condition): the backend may have acted on the request, and then"),
        "{text}"
    );
    let keyed = explained("PUT /pair", "", &["If-Match: \"1\"", "Idempotency-Key: 7"], 0, "reset 200");
    assert!(keyed.contains("it carries idempotency-key: sent again even if"), "{keyed}");
    assert!(
        explained("GET /pair", "", &["If-None-Match: \"1\""], 0, "reset 200").contains("GET is in `methods`")
    );
}

#[test]
fn a_log_in_is_told_to_have_a_connection_of_its_own() {
    let text = explained("GET /pair", "", &["Authorization: NTLM TlRMTVNTUAABAAAA"], 0, "reset");
    assert!(text.contains("its Authorization authenticates a connection: sent again only if"), "{text}");
    assert!(text.contains("its connection: its own, closed after the answer"), "{text}");
    assert!(text.contains("no more (authentication): NTLM and Negotiate"), "{text}");
    let hedged = explained("GET /hedged", "", &["Authorization: Negotiate YII="], 0, "");
    assert!(hedged.contains("not hedged: NTLM and Negotiate"), "{hedged}");
}

#[test]
fn what_a_repeated_write_can_mean_is_told_where_it_can_happen() {
    let (late, gone) = ("may still be carried out by the backend", "may get 404 for what was a success");
    let text = |line| explained(line, "", &[], 0, "timeout");
    assert!(text("PUT /pair").contains(late) && !text("PUT /pair").contains(gone));
    assert!(text("DELETE /pair").contains(late) && text("DELETE /pair").contains(gone));
    for line in ["GET /pair", "POST /pair", "PUT /single", "DELETE /single"] {
        assert!(!text(line).contains(late) && !text(line).contains(gone), "{line}");
    }
}

#[test]
fn an_answer_that_breaks_is_retried_where_it_was_held() {
    assert_timeline(
        &timeline("GET /pair", &[], 0, "truncated truncated 200"),
        "
0s  attempt 1: truncated: the answer broke inside its body
→ retry after 50ms to 100ms, at an endpoint not yet tried: `truncated` is in `errors`
50ms to 100ms  attempt 2: truncated: the answer broke inside its body
→ retry after 100ms to 200ms, at an endpoint already tried: `truncated` is in `errors`
150ms to 300ms  attempt 3: 200
150ms to 300ms  answer: the 200 of attempt 3",
    );
    assert_timeline(
        &timeline("GET /pair", &[], 0, "truncated truncated truncated"),
        "
0s  attempt 1: truncated: the answer broke inside its body
→ retry after 50ms to 100ms, at an endpoint not yet tried: `truncated` is in `errors`
50ms to 100ms  attempt 2: truncated: the answer broke inside its body
→ retry after 100ms to 200ms, at an endpoint already tried: `truncated` is in `errors`
150ms to 300ms  attempt 3: truncated: the answer broke inside its body
→ no more (attempts): `max_attempts` is reached
150ms to 300ms  answer: 502, made by the proxy",
    );
    assert_timeline(
        &timeline("POST /pair", &[], 0, "truncated 200"),
        "
0s  attempt 1: truncated: the answer broke inside its body
→ no more (started): the response head already went to the caller
0s  answer: that of attempt 1, cut off where it broke
not used: 200 (nothing follows attempt 1)",
    );
    let text = explained("POST /pair", "", &[], 0, "200");
    assert!(text.contains("answers are not held until whole: no retry could mend one that breaks"), "{text}");
}

#[test]
fn an_untried_endpoint_is_tried_at_once_if_nothing_was_sent() {
    assert_timeline(
        &timeline("POST /pair", &[], 0, "connect tls 200"),
        "
0s  attempt 1: connect after 0s to 2s: nothing was sent
→ retry at once, at an endpoint not yet tried: `connect` is in `errors`
0s to 2s  attempt 2: tls: nothing was sent
→ retry after 100ms to 200ms, at an endpoint already tried: `tls` is in `errors`
100ms to 2.2s  attempt 3: 200
100ms to 2.2s  answer: the 200 of attempt 3",
    );
}

#[test]
fn a_timeout_takes_the_per_try_time_and_the_last_one_what_the_deadline_leaves() {
    assert_timeline(
        &timeline("GET /pair", &[], 0, "timeout timeout timeout"),
        "
0s  attempt 1: timeout after 10s: the backend may have acted on it
→ attempt 2 begins beside it; the first good answer wins
10s  attempt 2: timeout after 10s: the backend may have acted on it
→ attempt 3 begins in its place, beside attempt 1; the first good answer wins
20s  attempt 3: timeout after 35s: the backend may have acted on it
→ no more: the deadline of 55s has passed
55s  answer: 504, made by the proxy",
    );
    assert_timeline(
        &timeline("PUT /pair", &[], 0, "timeout timeout timeout"),
        "
0s  attempt 1: timeout after 55s: the backend may have acted on it
→ no more: the deadline of 55s has passed
55s  answer: 504, made by the proxy
not used: timeout timeout (nothing follows attempt 1)",
    );
    assert_timeline(
        &timeline("GET /single", &[], 0, "timeout"),
        "
0s  attempt 1: timeout after 55s: the backend may have acted on it
→ no more: the deadline of 55s has passed
55s  answer: 504, made by the proxy",
    );
}

#[test]
fn a_wait_that_only_sometimes_fits_the_deadline_says_so() {
    assert_timeline(
        &timeline("GET /hurried", &[], 0, "502 502"),
        "
0s  attempt 1: 502
→ retry after 50ms to 100ms, at the same endpoint: 502 is in `statuses`
→ unless time is short by then (deadline): the wait would end after the deadline, or leave no useful time
50ms to 65ms  attempt 2: 502
→ no more (deadline): the wait would end after the deadline, or leave no useful time
50ms to 65ms  answer: the 502 of attempt 2",
    );
}

#[test]
fn retry_after_is_kept_or_passed_on() {
    assert_timeline(&timeline("GET /pair", &[], 0, "502:retry-after=3 502:retry-after=30"), "
0s  attempt 1: 502, Retry-After: 3
→ retry after 3s, at an endpoint not yet tried: 502 is in `statuses`, Retry-After kept
3s  attempt 2: 502, Retry-After: 30
→ no more (retry_after): the backend asked for a longer wait than `retry_after_max` or than the deadline leaves
3s  answer: the 502 of attempt 2");
}

#[test]
fn an_earlier_real_answer_is_better_than_an_invented_one() {
    assert_timeline(
        &timeline("GET /pair", &[], 0, "502 reset reset"),
        "
0s  attempt 1: 502
→ retry after 50ms to 100ms, at an endpoint not yet tried: 502 is in `statuses`
50ms to 100ms  attempt 2: reset: the backend may have acted on it
→ retry after 100ms to 200ms, at an endpoint already tried: `reset` is in `errors`
150ms to 300ms  attempt 3: reset: the backend may have acted on it
→ no more (attempts): `max_attempts` is reached
150ms to 300ms  answer: the 502 of attempt 1, the last that the backend gave",
    );
    assert_timeline(
        &timeline("GET /single", &[], 0, "connect"),
        "
0s  attempt 1: connect after 0s to 2s: nothing was sent
→ no more (attempts): `max_attempts` is reached
0s to 2s  answer: 502 or 504, made by the proxy",
    );
}

#[test]
fn a_body_too_large_to_keep_matters_only_once_some_of_it_was_sent() {
    assert_timeline(&timeline("PUT /documents/a", &[], 20 << 20, "connect connect reset"), "
0s  attempt 1: connect after 0s to 2s: nothing was sent
→ retry after 50ms to 100ms, at the same endpoint: `connect` is in `errors`
50ms to 2.1s  attempt 2: connect after 0s to 2s: nothing was sent
→ retry after 100ms to 200ms, at the same endpoint: `connect` is in `errors`
150ms to 4.3s  attempt 3: reset: the backend may have acted on it
→ no more (method): the backend may have acted on the request, and its method is not in `methods` (RFC 9110 section 9.2.2)
150ms to 4.3s  answer: 502, made by the proxy");
    assert_timeline(
        &timeline("PUT /pair", &[], 20 << 20, "502"),
        "
0s  attempt 1: 502
→ no more (body): the request body cannot be sent again from its start
0s  answer: the 502 of attempt 1",
    );
}

#[test]
fn a_request_for_an_upgrade_is_retried_until_it_is_granted() {
    assert_timeline(
        &timeline("GET /pair", &["Upgrade: websocket"], 0, "502 101"),
        "
0s  attempt 1: 502
→ retry after 50ms to 100ms, at an endpoint not yet tried: 502 is in `statuses`
50ms to 100ms  attempt 2: 101
50ms to 100ms  answer: the 101 of attempt 2",
    );
}

#[test]
fn outcomes_that_run_out_or_are_left_over_are_named() {
    assert_timeline(
        &timeline("GET /pair", &[], 0, "502"),
        "
0s  attempt 1: 502
→ retry after 50ms to 100ms, at an endpoint not yet tried: 502 is in `statuses`
50ms to 100ms  attempt 2: how it ends is not given",
    );
    assert_timeline(
        &timeline("GET /pair", &[], 0, "200 502 502:retry-after=3 reset"),
        "
0s  attempt 1: 200
0s  answer: the 200 of attempt 1
not used: 502 502, Retry-After: 3 reset (nothing follows attempt 1)",
    );
}

#[test]
fn a_request_that_no_route_takes_gets_404_or_405() {
    let text = explained("GET /api/screenings/7", "", &[], 0, "200");
    assert_eq!(
        text,
        r"request   GET /api/screenings/7 (no host)
route     none takes this host and path; there are:
          screening        hosp.example.org, /api/screenings/{id}, GET, POST
          pair             any host, /pair, any method
          single           any host, /single, any method
          hurried          any host, /hurried, any method
          hedged           any host, /hedged, any method
          learned          any host, /learned, any method
          call             any host, /a.B/C, any method
          upload           any host, /documents/*, any method
          some of them want a host: give one with --host
answer    404, made by the proxy: no route for this host and path
",
        "is now:\n{text}"
    );
    let text = explained("DELETE /api/screenings/7", "", &["Host: hosp.example.org"], 0, "200");
    assert_eq!(
        text,
        r"request   DELETE /api/screenings/7 (hosp.example.org)
route     none takes DELETE here
answer    405, made by the proxy: the method is not allowed here
          Allow: GET, HEAD, POST
",
        "is now:\n{text}"
    );
}

#[test]
fn a_redirect_is_told_with_its_location() {
    let config = "[[listener]]\naddress = \"127.0.0.1:8080\"\n[[route]]\nname = \"moved\"\nscheme = \"http\"\n\
                  path = \"/*\"\nredirect = { scheme = \"https\", host = \"new.example.org\" }\n";
    let config = config::parse(config, "stent.toml").unwrap();
    let told = |headers: &[String]| {
        explain(&config, &Request::new("POST /a//b?c=d", Some("old.example.org"), headers, 0).unwrap(), &[])
    };
    let expected = r"request   POST /a//b (old.example.org)
route     moved: http, any host, /*, any method
answer    308, made by the proxy: a redirect, no attempt is made
          Location: https://new.example.org/a//b?c=d
";
    assert_eq!(told(&[]), expected, "is now:\n{}", told(&[]));
    assert!(told(&["X-Forwarded-Proto: https".to_owned()]).contains("none takes this host and path"));
}

#[test]
fn a_body_over_the_routes_limit_gets_413() {
    let text = explained("PUT /documents/a", "", &[], 101 << 20, "200");
    assert!(
        text.ends_with(
            "answer    413, made by the proxy: the request body is over the limit of 104857600 bytes\n"
        ),
        "{text}"
    );
}

#[test]
fn the_cost_of_retries_is_the_documented_one() {
    assert_eq!(format!("{:.2}", retries_per_request(0.3, 3)), "0.39");
    assert_eq!(format!("{:.3}", retries_per_request(0.3, 4)), "0.417");
    assert_eq!(carried(2.0, 3), None);
    assert_eq!(format!("{:.3}", carried(0.39, 3).unwrap()), "0.300");
    assert_eq!([power(1), power(2), power(19)], ["p", "p²", "p¹⁹"]);
    let text = explained("GET /single", "", &[], 0, "200");
    assert!(text.contains("cost: none, a single attempt has no retries"), "{text}");
}

#[test]
fn the_waits_are_those_that_the_policy_can_give() {
    let config = config::parse(CONFIG, "stent.toml").unwrap();
    let policy = &config.routes.iter().find(|route| &*route.name == "pair").unwrap().retry;
    let text = timeline("GET /pair", &[], 0, "502 502");
    for attempt in 1..=2 {
        let range = Span::from(policy.backoff.range(attempt));
        assert!(text.contains(&format!("retry after {range}, ")), "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_answered_with_its_form() {
    for word in
        ["", "5", "600", "99", "+200", "5xx", "Connect", "502:", "502:retry-after=x", "502:x=1", "connect:x"]
    {
        assert!(word.parse::<Given>().is_err(), "{word:?}");
    }
    for line in ["", "GET", "/api", "GET api", "G T /", "GET /a b", "GET http://a/"] {
        assert!(Request::new(line, None, &[], 0).is_err(), "{line:?}");
    }
    for header in ["x", "a b: c", "a: \u{1}"] {
        assert!(Request::new("GET /", None, &[header.to_owned()], 0).is_err(), "{header:?}");
    }
}

#[test]
fn a_host_loses_its_port_and_nothing_else() {
    for (given, host) in
        [("a.org:80", "a.org"), ("a.org", "a.org"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")]
    {
        assert_eq!(Request::new("GET /", Some(given), &[], 0).unwrap().host(), host);
    }
}

#[test]
fn a_failed_call_of_grpc_is_told_by_name_and_number() {
    let text = explained("POST /a.B/C", "", &[], 0, "grpc-14 grpc-13 200");
    for part in [
        "gRPC, where an answer has no body: [unavailable]",
        "attempt 1: grpc-14 (unavailable)",
        "`unavailable` is in `grpc_statuses`",
        "answer: the grpc-13 of attempt 2",
        "not used: 200",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let text = explained("POST /pair", "", &[], 0, "grpc-14");
    assert!(text.contains("answer: the grpc-14 of attempt 1"), "{text}");
}

#[test]
fn a_hedge_is_told_with_its_time_and_where_it_goes() {
    let told = |line: &str, body: u64| explained(line, "", &[], body, "");
    let text = told("GET /hedged", 0);
    let line = "hedged: if unanswered after 20ms it is sent once more, to another endpoint; the first good answer is taken";
    assert!(text.contains(line), "{text}");
    let text = told("GET /learned", 0);
    let line = "hedged: if unanswered when 95 % of the route's answers have come (known after 100 requests) it is sent once more, to the same endpoint;";
    assert!(text.contains(line), "{text}");
    let text = told("POST /hedged", 0);
    assert!(text.contains("not hedged: only GET, HEAD and OPTIONS are, if they are in `methods`"), "{text}");
    assert!(told("GET /hedged", 5).contains("not hedged: it has a body"));
    assert!(!told("GET /pair", 0).contains("hedge"), "it is off");
}

#[test]
fn a_hedge_stands_beside_the_first_attempt_that_takes_long() {
    assert_timeline(
        &timeline("GET /hedged", &[], 0, "timeout timeout"),
        "
0s  attempt 1: timeout after 10s: the backend may have acted on it
→ attempt 2, a hedge, beside it after 20ms: taken to fail as well
→ attempt 3 begins in its place, beside attempt 1; the first good answer wins
10s  attempt 3: timeout after 45s: the backend may have acted on it
→ no more: the deadline of 55s has passed
55s  answer: 504, made by the proxy",
    );
}

#[test]
fn the_page_says_how_surprising_each_failure_is() {
    let page = explained("GET /pair", "hosp.example.org", &[], 0, "502 timeout connect 502");
    let (_, surprise) = page.split_once("surprise").unwrap();
    let lines: Vec<_> = surprise.lines().skip(1).take_while(|line| !line.is_empty()).collect();
    assert_eq!(
        lines,
        [
            "  key: pair: GET",
            "  attempt 1: 0.9 % of such attempts fail anyway, so it weighs 4.7; 4.7 together",
            "  attempt 2: 0.9 % of such attempts fail anyway, so it weighs 4.7; no evidence of an outage: slow is not broken",
            "  attempt 3: 0.9 % of such attempts fail anyway, so it weighs 4.7; 9.4 together",
        ]
    );
    // What follows the last attempt tells nothing.
    let page = explained("GET /pair", "hosp.example.org", &[], 0, "connect connect connect 502");
    assert!(page.contains("14.1 together: an outage, if every endpoint has failed alike"), "{page}");
    assert!(!page.contains("attempt 4:"), "{page}");
}
