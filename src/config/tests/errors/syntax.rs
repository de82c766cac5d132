//! Errors of form: unknown keys, wrong types, tables that are missing or of the wrong kind, text that is no TOML.

use super::*;

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    assert_rejected(
        "syntax/an_unknown_key_names_the_nearest_known_one",
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
conect_timeout = "2s"
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn an_unknown_key_that_is_near_to_none_lists_them_all() {
    assert_rejected(
        "syntax/an_unknown_key_that_is_near_to_none_lists_them_all",
        &[
            r"[log]
colour = true
",
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn an_unknown_key_in_an_inline_table_is_found() {
    assert_rejected(
        "syntax/an_unknown_key_in_an_inline_table_is_found",
        &[
            r#"[retry]
backoff = { bas = "1s" }
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_wrong_type_says_what_it_is_and_what_it_should_be() {
    assert_rejected(
        "syntax/a_wrong_type_says_what_it_is_and_what_it_should_be",
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
    );
}

#[test]
fn a_single_table_where_a_list_belongs_is_shown_how() {
    assert_rejected(
        "syntax/a_single_table_where_a_list_belongs_is_shown_how",
        &[
            r#"[listener]
address = "127.0.0.1:8080"
"#,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_table_without_its_essentials_says_which() {
    assert_rejected(
        "syntax/a_table_without_its_essentials_says_which",
        &[r"[[listener]]

[cluster.hosp]

[[route]]
"],
    );
}

#[test]
fn nothing_to_do_is_an_error() {
    assert_rejected(
        "syntax/nothing_to_do_is_an_error",
        &[r#"[log]
level = "info"
"#],
    );
}

#[test]
fn a_syntax_error_does_not_hide_the_others() {
    assert_rejected(
        "syntax/a_syntax_error_does_not_hide_the_others",
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
    );
}

#[test]
fn an_unclosed_list_is_shown_where_it_begins() {
    assert_rejected(
        "syntax/an_unclosed_list_is_shown_where_it_begins",
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
    );
}
