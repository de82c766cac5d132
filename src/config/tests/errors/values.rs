//! Errors in single values: durations, sizes, words, names, and figures out of bounds.

use super::*;

#[test]
fn a_duration_needs_a_unit() {
    assert_rejected(
        "values/a_duration_needs_a_unit",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
connect_timeout = 10
idle_timeout = "10"
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn a_duration_with_a_fraction_is_answered_with_a_whole_number() {
    assert_rejected(
        "values/a_duration_with_a_fraction_is_answered_with_a_whole_number",
        &[
            r#"[retry]
per_try_timeout = "1.5s"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_size_in_steps_of_1000_is_not_guessed() {
    assert_rejected(
        "values/a_size_in_steps_of_1000_is_not_guessed",
        &[
            r#"[retry]
body_limit = "1MB"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_wait_is_never_none_and_never_endless() {
    assert_rejected(
        "values/a_wait_is_never_none_and_never_endless",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
connect_timeout = "0s"
idle_timeout = "2h"
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn a_head_is_bounded_on_both_sides() {
    assert_rejected(
        "values/a_head_is_bounded_on_both_sides",
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
max_header_bytes = "4KiB"

[cluster.hosp]
endpoints = ["http://10.0.1.10"]
max_header_bytes = "2MiB"
"#,
            ROUTE,
        ],
    );
}

#[test]
fn a_hold_is_bounded() {
    assert_rejected(
        "values/a_hold_is_bounded",
        &[
            r#"[retry]
hold = "17MiB"
hold_time = "0s"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_resumption_is_bounded() {
    assert_rejected(
        "values/a_resumption_is_bounded",
        &[
            r#"[retry]
resume = "yes"
resume_time = "1ms"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_kept_body_is_bounded() {
    assert_rejected(
        "values/a_kept_body_is_bounded",
        &[
            r#"[retry]
body_limit = "2GiB"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_word_that_is_not_known_names_the_nearest() {
    assert_rejected(
        "values/a_word_that_is_not_known_names_the_nearest",
        &[
            r#"[log]
level = "warning"
format = "jsn"

[access_log]
output = "stdot"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_name_is_a_label() {
    assert_rejected(
        "values/a_name_is_a_label",
        &[
            r#"[[route]]
name = "none"
path = "/a"
cluster = "hosp"
[[route]]
name = "a b"
path = "/b"
cluster = "hosp"
[[route]]
name = ""
path = "/c"
cluster = "hosp"

[cluster."Köln"]
endpoints = ["http://a"]
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn logged_queries_are_a_word_or_a_list() {
    assert_rejected(
        "values/logged_queries_are_a_word_or_a_list",
        &[
            r#"[[route]]
name = "all"
path = "/*"
cluster = "hosp"
log_query = "page"
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn a_tunnel_of_http_would_pass_by_the_routes() {
    assert_rejected(
        "values/a_tunnel_of_http_would_pass_by_the_routes",
        &[
            r#"[[route]]
name = "all"
path = "/*"
cluster = "hosp"
upgrades = ["websocket", "h2c"]
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}
