//! Errors in what decides on retries and ejections.

use super::*;

#[test]
fn attempts_are_bounded() {
    assert_rejected(
        "retry/attempts_are_bounded",
        &[
            r#"[retry]
max_attempts = 0

[cluster.hosp.retry]
max_attempts = 21

[cluster.hosp]
endpoints = ["http://10.0.1.10"]
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn a_status_is_a_number_or_a_range_of_them() {
    assert_rejected(
        "retry/a_status_is_a_number_or_a_range_of_them",
        &[
            r#"[retry]
statuses = [99, "5xx", "504-502", true]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn an_error_class_is_one_of_ours() {
    assert_rejected(
        "retry/an_error_class_is_one_of_ours",
        &[
            r#"[retry]
errors = ["conect", "gateway-error"]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_method_is_a_token_in_the_case_that_callers_send() {
    assert_rejected(
        "retry/a_method_is_a_token_in_the_case_that_callers_send",
        &[
            r#"[retry]
methods = ["get", "GET POST"]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_header_name_is_a_token() {
    assert_rejected(
        "retry/a_header_name_is_a_token",
        &[
            r#"[retry]
idempotency_header = "Idempotency Key"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn backoff_without_a_wait_is_refused() {
    assert_rejected(
        "retry/backoff_without_a_wait_is_refused",
        &[
            r#"[retry]
backoff = { base = "0s", factor = 0.5 }
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_mode_of_backoff_that_does_not_exist_is_answered_with_those_that_do() {
    assert_rejected(
        "retry/a_mode_of_backoff_that_does_not_exist_is_answered_with_those_that_do",
        &[
            r#"[retry]
backoff = { mode = "adaptiv" }

[cluster.hosp.retry]
backoff = { mode = true }
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_backoff_whose_cap_lies_below_its_base_points_at_both() {
    assert_rejected(
        "retry/a_backoff_whose_cap_lies_below_its_base_points_at_both",
        &[
            r#"[retry]
backoff = { max = "1s" }

[cluster.hosp.retry]
backoff = { base = "2s" }

[cluster.hosp]
endpoints = ["http://10.0.1.10"]
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn a_budget_keeps_its_bounds() {
    assert_rejected(
        "retry/a_budget_keeps_its_bounds",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.retry]
budget = { ratio = 11, min_per_second = 100001, window = "1h" }
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn a_budget_at_a_route_is_refused() {
    assert_rejected(
        "retry/a_budget_at_a_route_is_refused",
        &[
            r#"[[route]]
name = "all"
path = "/*"
cluster = "hosp"
[route.retry]
budget = { ratio = 0.5 }
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn an_ejection_keeps_its_bounds() {
    assert_rejected(
        "retry/an_ejection_keeps_its_bounds",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.ejection]
consecutive_failures = 0
time = "10m"
max_ejected = 1.5
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn an_outage_queue_keeps_its_bounds() {
    assert_rejected(
        "retry/an_outage_queue_keeps_its_bounds",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.outage_queue]
max_wait = "0s"
enter_after = 1
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn a_hedge_is_off_a_percentile_or_a_time() {
    assert_rejected(
        "retry/a_hedge_is_off_a_percentile_or_a_time",
        &[
            r#"[retry]
hedge = "on"

[cluster.hosp.retry]
hedge = "p100"

[cluster.hosp]
endpoints = ["http://10.0.1.10"]

[[route]]
name = "one"
path = "/one"
cluster = "hosp"
[route.retry]
hedge = 20

[[route]]
name = "two"
path = "/two"
cluster = "hosp"
[route.retry]
hedge = "2h"

[[route]]
name = "three"
path = "/three"
cluster = "hosp"
[route.retry]
hedge = true
"#,
            LISTENER,
        ],
    );
}

#[test]
fn a_hedge_after_the_second_attempt_points_at_both() {
    assert_rejected(
        "retry/a_hedge_after_the_second_attempt_points_at_both",
        &[
            r#"[retry]
per_try_timeout = "1s"

[cluster.hosp]
endpoints = ["http://10.0.1.10"]

[[route]]
name = "all"
path = "/*"
cluster = "hosp"
[route.retry]
hedge = "1s"
"#,
            LISTENER,
        ],
    );
}

#[test]
fn a_promise_that_every_cluster_honours_keys_is_warned_about_with_its_line() {
    let text = ["[retry]\nidempotency_header = \"Idempotency-Key\"\n", LISTENER, CLUSTER, ROUTE].concat();
    let config = accepted(&text);
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert_said(
        "retry/a_promise_that_every_cluster_honours_keys_is_warned_about_with_its_line",
        warning.report(),
    );
    for quiet in
        ["[retry]\nidempotency_header = \"\"\n", "[cluster.hosp.retry]\nidempotency_header = \"K\"\n"]
    {
        assert!(accepted(&[LISTENER, CLUSTER, ROUTE, quiet].concat()).warnings.is_empty(), "{quiet}");
    }
}

#[test]
fn a_rule_that_sets_the_key_makes_it_the_same_for_every_request() {
    let rule = "[route.request_headers]\nset = { Idempotency-Key = \"k\" }\n";
    let honours = "[cluster.hosp.retry]\nidempotency_header = \"idempotency-key\"\n";
    assert_rejected(
        "retry/a_rule_that_sets_the_key_makes_it_the_same_for_every_request",
        &[LISTENER, CLUSTER, honours, ROUTE, rule],
    );
    let add = rule.replace("set", "add");
    assert!(parse(&[LISTENER, CLUSTER, honours, ROUTE, &add].concat(), "stent.toml").is_err());
    accepted(&[LISTENER, CLUSTER, ROUTE, rule].concat());
    let off = "[route.retry]\nidempotency_header = \"\"\n";
    accepted(&[LISTENER, CLUSTER, honours, ROUTE, rule, off].concat());
    let removed = "[route.request_headers]\nremove = [\"Idempotency-Key\"]\n";
    accepted(&[LISTENER, CLUSTER, honours, ROUTE, removed].concat());
}

#[test]
fn an_old_name_is_answered_with_the_new_one() {
    assert_rejected(
        "retry/an_old_name_is_answered_with_the_new_one",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.ejection]
open = "10s"
max_open = "5m"
[cluster.hosp.line]
max = 0
"#,
            LISTENER,
            ROUTE,
        ],
    );
}
