//! Errors in what decides on retries and ejections.

use super::*;

#[test]
fn attempts_are_bounded() {
    assert_rejected(
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
        r"error: `max_attempts` must be between 1 and 20
 --> stent.toml:2:16
  |
2 | max_attempts = 0
  |                ^ out of bounds

error: `max_attempts` must be between 1 and 20
 --> stent.toml:5:16
  |
5 | max_attempts = 21
  |                ^^ out of bounds

2 errors in stent.toml
",
    );
}

#[test]
fn a_status_is_a_number_or_a_range_of_them() {
    assert_rejected(
        &[
            r#"[retry]
statuses = [99, "5xx", "504-502", true]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `statuses` must be between 100 and 599
 --> stent.toml:2:13
  |
2 | statuses = [99, "5xx", "504-502", true]
  |             ^^ out of bounds

error: invalid `statuses`
 --> stent.toml:2:17
  |
2 | statuses = [99, "5xx", "504-502", true]
  |                 ^^^^^ neither a status nor a range of them
  |
  = help: a status from 100 to 599, or a range: 502 or "502-504"

error: invalid `statuses`
 --> stent.toml:2:24
  |
2 | statuses = [99, "5xx", "504-502", true]
  |                        ^^^^^^^^^ this range is empty
  |
  = help: write "502-504"

error: `statuses` takes statuses and ranges of them
 --> stent.toml:2:35
  |
2 | statuses = [99, "5xx", "504-502", true]
  |                                   ^^^^ this is a boolean

4 errors in stent.toml
"#,
    );
}

#[test]
fn an_error_class_is_one_of_ours() {
    assert_rejected(
        &[
            r#"[retry]
errors = ["conect", "gateway-error"]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: invalid `errors`
 --> stent.toml:2:11
  |
2 | errors = ["conect", "gateway-error"]
  |           ^^^^^^^^ not one of its words
  |
  = help: did you mean `connect`?

error: invalid `errors`
 --> stent.toml:2:21
  |
2 | errors = ["conect", "gateway-error"]
  |                     ^^^^^^^^^^^^^^^ not one of its words
  |
  = help: known here: `connect`, `tls`, `reset`, `timeout`, `protocol`, `truncated`

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_method_is_a_token_in_the_case_that_callers_send() {
    assert_rejected(
        &[
            r#"[retry]
methods = ["get", "GET POST"]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: invalid `methods`
 --> stent.toml:2:12
  |
2 | methods = ["get", "GET POST"]
  |            ^^^^^ methods are told apart by case, and no caller sends this one
  |
  = help: write "GET"

error: invalid `methods`
 --> stent.toml:2:19
  |
2 | methods = ["get", "GET POST"]
  |                   ^^^^^^^^^^ not a method
  |
  = help: a method is a word such as "GET"

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_header_name_is_a_token() {
    assert_rejected(
        &[
            r#"[retry]
idempotency_header = "Idempotency Key"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: invalid `idempotency_header`
 --> stent.toml:2:22
  |
2 | idempotency_header = "Idempotency Key"
  |                      ^^^^^^^^^^^^^^^^^ not a header name
  |
  = help: a name such as "Idempotency-Key"; "" switches it off

1 error in stent.toml
"#,
    );
}

#[test]
fn backoff_without_a_wait_is_refused() {
    assert_rejected(
        &[
            r#"[retry]
backoff = { base = "0s", factor = 0.5 }
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `base` must be at least 1ms: a retry without a wait hammers the endpoint that has just failed
 --> stent.toml:2:20
  |
2 | backoff = { base = "0s", factor = 0.5 }
  |                    ^^^^ out of bounds

error: `factor` must be between 1.0 and 100.0
 --> stent.toml:2:35
  |
2 | backoff = { base = "0s", factor = 0.5 }
  |                                   ^^^ out of bounds

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_mode_of_backoff_that_does_not_exist_is_answered_with_those_that_do() {
    assert_rejected(
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
        r#"error: invalid `mode`
 --> stent.toml:2:20
  |
2 | backoff = { mode = "adaptiv" }
  |                    ^^^^^^^^^ not one of its words
  |
  = help: did you mean `adaptive`?

error: `mode` takes a string
 --> stent.toml:5:20
  |
5 | backoff = { mode = true }
  |                    ^^^^ this is a boolean

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_backoff_whose_cap_lies_below_its_base_points_at_both() {
    assert_rejected(
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
        r#"error: `max` must not be less than `base`
 --> stent.toml:2:19
  |
2 | backoff = { max = "1s" }
  |                   ^^^^ does not fit
...
5 | backoff = { base = "2s" }
  |                    ---- and this
  |
  = help: here `base` is 2s and `max` is 1s

1 error in stent.toml
"#,
    );
}

#[test]
fn a_budget_keeps_its_bounds() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.retry]
budget = { ratio = 11, min_per_second = 100001, window = "1h" }
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: `ratio` must be between 0.0 and 10.0
 --> stent.toml:4:20
  |
4 | budget = { ratio = 11, min_per_second = 100001, window = "1h" }
  |                    ^^ out of bounds

error: `min_per_second` must be at most 100000
 --> stent.toml:4:41
  |
4 | budget = { ratio = 11, min_per_second = 100001, window = "1h" }
  |                                         ^^^^^^ out of bounds

error: `window` must be between 100ms and 10m
 --> stent.toml:4:58
  |
4 | budget = { ratio = 11, min_per_second = 100001, window = "1h" }
  |                                                          ^^^^ out of bounds

3 errors in stent.toml
"#,
    );
}

#[test]
fn a_budget_at_a_route_is_refused() {
    assert_rejected(
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
        r"error: a budget belongs to a cluster
 --> stent.toml:6:10
  |
6 | budget = { ratio = 0.5 }
  |          ^^^^^^^^^^^^^^^ not in `[route.retry]`
  |
  = help: routes of one cluster share its budget: set it in `[cluster.NAME.retry]`

1 error in stent.toml
",
    );
}

#[test]
fn an_ejection_keeps_its_bounds() {
    assert_rejected(
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
        r#"error: `consecutive_failures` must be at least 1
 --> stent.toml:4:24
  |
4 | consecutive_failures = 0
  |                        ^ out of bounds

error: `max_time` must not be less than `time`
 --> stent.toml:5:8
  |
5 | time = "10m"
  |        ^^^^^ does not fit
  |
  = help: here `time` is 10m and `max_time` is 5m

error: `max_ejected` must be between 0.0 and 1.0
 --> stent.toml:6:15
  |
6 | max_ejected = 1.5
  |               ^^^ out of bounds

3 errors in stent.toml
"#,
    );
}

#[test]
fn an_outage_queue_keeps_its_bounds() {
    assert_rejected(
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
        r#"error: `max_wait` must be between 1ms and 1h
 --> stent.toml:4:12
  |
4 | max_wait = "0s"
  |            ^^^^ out of bounds
  |
  = help: `max = 0` switches the queue off

error: `enter_after` must be between 2 and 100: one failure is no outage
 --> stent.toml:5:15
  |
5 | enter_after = 1
  |               ^ out of bounds
  |
  = help: `max = 0` switches the queue off

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_hedge_is_off_a_percentile_or_a_time() {
    assert_rejected(
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
        r#"error: invalid `hedge`
 --> stent.toml:2:9
  |
2 | hedge = "on"
  |         ^^^^ neither a percentile nor a duration
  |
  = help: "off", a percentile of the route's own answers such as "p95", or a time such as "20ms"

error: invalid `hedge`
 --> stent.toml:5:9
  |
5 | hedge = "p100"
  |         ^^^^^^ not a percentile from 50 to 99
  |
  = help: "p95": once in twenty a second one goes out

error: `hedge` takes a duration
  --> stent.toml:15:9
   |
15 | hedge = 20
   |         ^^ a number without a unit
   |
   = help: with a unit, as a string: "20s"

error: `hedge` must be between 1ms and 1h
  --> stent.toml:22:9
   |
22 | hedge = "2h"
   |         ^^^^ out of bounds

error: `hedge` takes "off", a percentile or a duration
  --> stent.toml:29:9
   |
29 | hedge = true
   |         ^^^^ this is a boolean

5 errors in stent.toml
"#,
    );
}

#[test]
fn a_hedge_after_the_second_attempt_points_at_both() {
    assert_rejected(
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
        r#"error: `hedge` must be less than `per_try_timeout`, which begins a second attempt first
  --> stent.toml:12:9
   |
 2 | per_try_timeout = "1s"
   |                   ---- and this
...
12 | hedge = "1s"
   |         ^^^^ does not fit
   |
   = help: here `hedge` is 1s and `per_try_timeout` is 1s

1 error in stent.toml
"#,
    );
}

#[test]
fn a_promise_that_every_cluster_honours_keys_is_warned_about_with_its_line() {
    let text = ["[retry]\nidempotency_header = \"Idempotency-Key\"\n", LISTENER, CLUSTER, ROUTE].concat();
    let config = accepted(&text);
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    let expected = r#"warning: `idempotency_header` in `[retry]` promises for every cluster that it honours idempotency keys
 --> stent.toml:2:22
  |
2 | idempotency_header = "Idempotency-Key"
  |                      ^^^^^^^^^^^^^^^^^ for all clusters
  |
  = help: set it in `[cluster.NAME.retry]` of each cluster that acts only once on a repeated key"#;
    assert_eq!(warning.report(), expected, "is now:\n{}", warning.report());
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
        &[LISTENER, CLUSTER, honours, ROUTE, rule],
        r#"error: an idempotency key that is the same for every request
  --> stent.toml:12:9
   |
 6 | idempotency_header = "idempotency-key"
   |                      ----------------- which makes every request repeatable
...
12 | set = { Idempotency-Key = "k" }
   |         ^^^^^^^^^^^^^^^ is no key
   |
   = help: leave the key to the caller, or give this route `retry = { idempotency_header = "" }`

1 error in stent.toml
"#,
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
        r#"error: unknown key `open` in `[cluster.hosp.ejection]`
 --> stent.toml:4:1
  |
4 | open = "10s"
  | ^^^^ an old name
  |
  = help: `open` is called `time` now

error: unknown key `max_open` in `[cluster.hosp.ejection]`
 --> stent.toml:5:1
  |
5 | max_open = "5m"
  | ^^^^^^^^ an old name
  |
  = help: `max_open` is called `max_time` now

error: unknown key `line` in `[cluster.hosp]`
 --> stent.toml:6:15
  |
6 | [cluster.hosp.line]
  |               ^^^^ an old name
  |
  = help: `line` is called `outage_queue` now

3 errors in stent.toml
"#,
    );
}
