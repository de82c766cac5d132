//! Errors of form: unknown keys, wrong types, tables that are missing or of the wrong kind, text that is no TOML.

use super::*;

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
conect_timeout = "2s"
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: unknown key `conect_timeout` in `[cluster.hosp]`
 --> stent.toml:3:1
  |
3 | conect_timeout = "2s"
  | ^^^^^^^^^^^^^^ not a key of Stent
  |
  = help: did you mean `connect_timeout`?

1 error in stent.toml
"#,
    );
}

#[test]
fn an_unknown_key_that_is_near_to_none_lists_them_all() {
    assert_rejected(
        &[
            r"[log]
colour = true
",
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r"error: unknown key `colour` in `[log]`
 --> stent.toml:2:1
  |
2 | colour = true
  | ^^^^^^ not a key of Stent
  |
  = help: known here: `level`, `format`

1 error in stent.toml
",
    );
}

#[test]
fn an_unknown_key_in_an_inline_table_is_found() {
    assert_rejected(
        &[
            r#"[retry]
backoff = { bas = "1s" }
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: unknown key `bas` in `[retry.backoff]`
 --> stent.toml:2:13
  |
2 | backoff = { bas = "1s" }
  |             ^^^ not a key of Stent
  |
  = help: did you mean `base`?

1 error in stent.toml
"#,
    );
}

#[test]
fn a_wrong_type_says_what_it_is_and_what_it_should_be() {
    assert_rejected(
        &[
            r#"[server]
workers = "4"
via = 1

[retry]
statuses = 502
budget = 0.2
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: `workers` takes a whole number
 --> stent.toml:2:11
  |
2 | workers = "4"
  |           ^^^ this is a string

error: `via` takes a string
 --> stent.toml:3:7
  |
3 | via = 1
  |       ^ this is a whole number

error: `statuses` takes a list
 --> stent.toml:6:12
  |
6 | statuses = 502
  |            ^^^ this is a whole number

error: `budget` takes a table
 --> stent.toml:7:10
  |
7 | budget = 0.2
  |          ^^^ this is a number with a fraction

4 errors in stent.toml
"#,
    );
}

#[test]
fn a_single_table_where_a_list_belongs_is_shown_how() {
    assert_rejected(
        &[
            r#"[listener]
address = "127.0.0.1:8080"
"#,
            CLUSTER,
            ROUTE,
        ],
        r"error: `listener` is a list of tables
 --> stent.toml:1:1
  |
1 | [listener]
  | ^^^^^^^^^^ this is a table
  |
  = help: begin each with `[[listener]]`

1 error in stent.toml
",
    );
}

#[test]
fn a_table_without_its_essentials_says_which() {
    assert_rejected(
        &[r"[[listener]]

[cluster.hosp]

[[route]]
"],
        r#"error: `[[listener]]` has no `address`
 --> stent.toml:1:1
  |
1 | [[listener]]
  | ^^^^^^^^^^^^ `address` is missing
  |
  = help: add `address = "0.0.0.0:8080"`

error: `[cluster.hosp]` has no `endpoints`
 --> stent.toml:3:1
  |
3 | [cluster.hosp]
  | ^^^^^^^^^^^^^^ `endpoints` is missing
  |
  = help: add `endpoints = ["http://10.0.1.10:8080"]`

error: `[[route]]` has no `name`
 --> stent.toml:5:1
  |
5 | [[route]]
  | ^^^^^^^^^ `name` is missing
  |
  = help: add `name = "screening"`

error: `[[route]]` has no `path`
 --> stent.toml:5:1
  |
5 | [[route]]
  | ^^^^^^^^^ `path` is missing
  |
  = help: add `path = "/api/*"`

error: `[[route]]` has neither `cluster` nor `redirect`
 --> stent.toml:5:1
  |
5 | [[route]]
  | ^^^^^^^^^ one of them is missing
  |
  = help: add `cluster = "hosp"`, or `redirect = { host = "new.example.org" }`

5 errors in stent.toml
"#,
    );
}

#[test]
fn nothing_to_do_is_an_error() {
    assert_rejected(
        &[r#"[log]
level = "info"
"#],
        r"error: there is no listener
--> stent.toml
 = help: add `[[listener]]` with an `address`; config/minimal.toml is the least that works

error: there is no cluster
--> stent.toml
 = help: add `[cluster.NAME]` with `endpoints`; config/minimal.toml is the least that works

error: there is no route
--> stent.toml
 = help: add `[[route]]` with a `name`, a `path` and a `cluster`; config/minimal.toml is the least that works

3 errors in stent.toml
",
    );
}

#[test]
fn a_syntax_error_does_not_hide_the_others() {
    assert_rejected(
        &[
            r#"[log]
level = info
format = "jsn"
max
[retry
max_attempts = 0
[server]
workers = "1"
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: invalid float, expected `inf`
 --> stent.toml:2:9
  |
2 | level = info
  |         ^^^^ not valid TOML here
  |
  = help: a string stands in quotes: "info"

error: invalid `format`
 --> stent.toml:3:10
  |
3 | format = "jsn"
  |          ^^^^^ not one of its words
  |
  = help: did you mean `json`?

error: key with no value, expected `=`
 --> stent.toml:4:4
  |
4 | max
  |    ^ not valid TOML here

error: unclosed table, expected `]`
 --> stent.toml:5:7
  |
5 | [retry
  |       ^ not valid TOML here

error: `workers` takes a whole number
 --> stent.toml:8:11
  |
8 | workers = "1"
  |           ^^^ this is a string

5 errors in stent.toml
"#,
    );
}

#[test]
fn an_unclosed_list_is_shown_where_it_begins() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"
connect_timeout = "2s"
[log]
level = "loud"
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: missing comma between array elements, expected `,`
 --> stent.toml:3:1
  |
2 | endpoints = ["http://10.0.1.10"
  |             - in the list that begins here
3 | connect_timeout = "2s"
  | ^ not valid TOML here

error: invalid `level`
 --> stent.toml:5:9
  |
5 | level = "loud"
  |         ^^^^^^ not one of its words
  |
  = help: known here: `error`, `warn`, `info`, `debug`, `trace`

2 errors in stent.toml
"#,
    );
}
