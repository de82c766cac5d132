//! Errors in single values: durations, sizes, words, names, and figures out of bounds.

use super::*;

#[test]
fn a_duration_needs_a_unit() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
connect_timeout = 10
idle_timeout = "10"
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: `connect_timeout` takes a duration
 --> stent.toml:3:19
  |
3 | connect_timeout = 10
  |                   ^^ a number without a unit
  |
  = help: with a unit, as a string: "10s"

error: `idle_timeout` takes a duration
 --> stent.toml:4:16
  |
4 | idle_timeout = "10"
  |                ^^^^ a unit is missing
  |
  = help: with a unit: "10s"

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_duration_with_a_fraction_is_answered_with_a_whole_number() {
    assert_rejected(
        &[
            r#"[retry]
per_try_timeout = "1.5s"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `per_try_timeout` takes a duration
 --> stent.toml:2:19
  |
2 | per_try_timeout = "1.5s"
  |                   ^^^^^^ only whole numbers
  |
  = help: write "1500ms"

1 error in stent.toml
"#,
    );
}

#[test]
fn a_size_in_steps_of_1000_is_not_guessed() {
    assert_rejected(
        &[
            r#"[retry]
body_limit = "1MB"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `body_limit` takes a size
 --> stent.toml:2:14
  |
2 | body_limit = "1MB"
  |              ^^^^^ not a known unit
  |
  = help: write "1MiB"

1 error in stent.toml
"#,
    );
}

#[test]
fn a_wait_is_never_none_and_never_endless() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
connect_timeout = "0s"
idle_timeout = "2h"
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: `connect_timeout` must be between 1ms and 1h
 --> stent.toml:3:19
  |
3 | connect_timeout = "0s"
  |                   ^^^^ out of bounds

error: `idle_timeout` must be between 1ms and 1h
 --> stent.toml:4:16
  |
4 | idle_timeout = "2h"
  |                ^^^^ out of bounds

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_head_is_bounded_on_both_sides() {
    assert_rejected(
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
        r#"error: `max_header_bytes` must be between 8KiB and 1MiB
 --> stent.toml:3:20
  |
3 | max_header_bytes = "4KiB"
  |                    ^^^^^^ out of bounds

error: `max_header_bytes` must be between 8KiB and 1MiB
 --> stent.toml:7:20
  |
7 | max_header_bytes = "2MiB"
  |                    ^^^^^^ out of bounds

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_hold_is_bounded() {
    assert_rejected(
        &[
            r#"[retry]
hold = "17MiB"
hold_time = "0s"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `hold` must be between 0B and 16MiB
 --> stent.toml:2:8
  |
2 | hold = "17MiB"
  |        ^^^^^^^ out of bounds

error: `hold_time` must be between 1ms and 10s
 --> stent.toml:3:13
  |
3 | hold_time = "0s"
  |             ^^^^ out of bounds

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_resumption_is_bounded() {
    assert_rejected(
        &[
            r#"[retry]
resume = "yes"
resume_time = "1ms"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `resume` takes `true` or `false`
 --> stent.toml:2:10
  |
2 | resume = "yes"
  |          ^^^^^ this is a string

error: `resume_time` must be between 10ms and 10m
 --> stent.toml:3:15
  |
3 | resume_time = "1ms"
  |               ^^^^^ out of bounds

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_kept_body_is_bounded() {
    assert_rejected(
        &[
            r#"[retry]
body_limit = "2GiB"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `body_limit` must be between 0B and 1GiB
 --> stent.toml:2:14
  |
2 | body_limit = "2GiB"
  |              ^^^^^^ out of bounds

1 error in stent.toml
"#,
    );
}

#[test]
fn a_word_that_is_not_known_names_the_nearest() {
    assert_rejected(
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
        r#"error: invalid `level`
 --> stent.toml:2:9
  |
2 | level = "warning"
  |         ^^^^^^^^^ not one of its words
  |
  = help: did you mean `warn`?

error: invalid `format`
 --> stent.toml:3:10
  |
3 | format = "jsn"
  |          ^^^^^ not one of its words
  |
  = help: did you mean `json`?

error: invalid `output`
 --> stent.toml:6:10
  |
6 | output = "stdot"
  |          ^^^^^^^ neither a known output nor a path
  |
  = help: "stdout", "off" or a path; for a file of that name write "./stdot"

3 errors in stent.toml
"#,
    );
}

#[test]
fn a_name_is_a_label() {
    assert_rejected(
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
        r#"error: a route cannot be called `none`
 --> stent.toml:2:8
  |
2 | name = "none"
  |        ^^^^^^ reserved
  |
  = help: in metrics it stands for requests that no route takes; choose another name

error: invalid route name
 --> stent.toml:6:8
  |
6 | name = "a b"
  |        ^^^^^ a character that a label cannot carry
  |
  = help: it labels metrics and log lines: 1 to 64 printable ASCII characters, no spaces, no quotes

error: invalid route name
  --> stent.toml:10:8
   |
10 | name = ""
   |        ^^ empty
   |
   = help: it labels metrics and log lines: 1 to 64 printable ASCII characters, no spaces, no quotes

error: invalid cluster name
  --> stent.toml:14:10
   |
14 | [cluster."Köln"]
   |          ^^^^^^ a character that a label cannot carry
   |
   = help: it labels metrics and log lines: 1 to 64 printable ASCII characters, no spaces, no quotes

4 errors in stent.toml
"#,
    );
}

#[test]
fn logged_queries_are_a_word_or_a_list() {
    assert_rejected(
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
        r#"error: invalid `log_query`
 --> stent.toml:5:13
  |
5 | log_query = "page"
  |             ^^^^^^ not one of its words
  |
  = help: known here: `full`, `redacted`; parameter names go into a list: ["page"]

1 error in stent.toml
"#,
    );
}

#[test]
fn a_tunnel_of_http_would_pass_by_the_routes() {
    assert_rejected(
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
        r#"error: invalid `upgrades`
 --> stent.toml:5:26
  |
5 | upgrades = ["websocket", "h2c"]
  |                          ^^^^^ not a protocol that may be tunnelled
  |
  = help: through a tunnel of HTTP, requests would pass by the routes; leave it out

1 error in stent.toml
"#,
    );
}
