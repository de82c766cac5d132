//! Errors in where requests come from and go to: listeners, endpoints and routes.

use super::*;

#[test]
fn a_listener_listens_at_an_ip_address() {
    assert_rejected(
        "sites/a_listener_listens_at_an_ip_address",
        &[
            r#"[[listener]]
address = "hosp.example.org:8080"
[[listener]]
address = "127.0.0.1"
[[listener]]
address = ":8080"
[[listener]]
address = "http://127.0.0.1"
"#,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn two_listeners_at_one_address_point_at_both() {
    assert_rejected(
        "sites/two_listeners_at_one_address_point_at_both",
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
[[listener]]
address = "0.0.0.0:8080"
"#,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_listener_at_the_admin_address_is_refused() {
    assert_rejected(
        "sites/a_listener_at_the_admin_address_is_refused",
        &[
            r#"[[listener]]
address = "127.0.0.1:9901"
"#,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn a_trusted_proxy_is_an_address_or_a_network() {
    assert_rejected(
        "sites/a_trusted_proxy_is_an_address_or_a_network",
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.7", "10.0.0.7/16", "cloudfront"]
"#,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn the_limits_of_http2_and_the_proxy_protocol_have_bounds_and_words() {
    assert_rejected(
        "sites/the_limits_of_http2_and_the_proxy_protocol_have_bounds_and_words",
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
proxy_protocol = "on"
[listener.http2]
max_streams = 0
stream_window = "1KiB"
max_resets = 1
[[listener]]
address = "127.0.0.1:8081"
http2 = { stream_window = "2MiB" }
[[listener]]
address = "127.0.0.1:8082"
http2 = { stream_window = "2MiB", connection_window = "1MiB" }
"#,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn an_endpoint_is_a_url_without_a_path() {
    assert_rejected(
        "sites/an_endpoint_is_a_url_without_a_path",
        &[
            r#"[cluster.hosp]
endpoints = ["10.0.1.10:8080", "http://10.0.1.10/api", "http://a:99999"]
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn endpoints_are_there_and_each_once() {
    assert_rejected(
        "sites/endpoints_are_there_and_each_once",
        &[
            r#"[cluster.hosp]
endpoints = []
[cluster.medizone]
endpoints = ["http://a", "http://A:80/"]
"#,
            LISTENER,
            ROUTE,
        ],
    );
}

#[test]
fn an_unknown_cluster_names_the_nearest() {
    assert_rejected(
        "sites/an_unknown_cluster_names_the_nearest",
        &[
            r#"[[route]]
name = "all"
path = "/*"
cluster = "hops"
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn two_routes_for_the_same_requests_point_at_both() {
    assert_rejected(
        "sites/two_routes_for_the_same_requests_point_at_both",
        &[
            r#"[[route]]
name = "one"
path = "/a/{id}"
methods = ["GET", "POST"]
cluster = "hosp"
[[route]]
name = "two"
path = "/a/{key}"
methods = ["POST"]
cluster = "hosp"
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn two_routes_of_one_name_point_at_both() {
    assert_rejected(
        "sites/two_routes_of_one_name_point_at_both",
        &[
            r#"[[route]]
name = "a"
path = "/a"
cluster = "hosp"
[[route]]
name = "a"
path = "/b"
cluster = "hosp"
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn a_pattern_says_what_is_wrong_with_it() {
    assert_rejected(
        "sites/a_pattern_says_what_is_wrong_with_it",
        &[
            r#"[[route]]
name = "all"
host = "a.*.org"
path = "api"
methods = []
cluster = "hosp"
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}

#[test]
fn a_path_holds_its_wildcards_in_whole_segments() {
    assert_rejected(
        "sites/a_path_holds_its_wildcards_in_whole_segments",
        &[
            r#"[[route]]
name = "a"
path = "/a/*/b"
cluster = "hosp"
[[route]]
name = "b"
path = "/a/{id}.json"
cluster = "hosp"
[[route]]
name = "c"
path = "/a b?c"
cluster = "hosp"
"#,
            LISTENER,
            CLUSTER,
        ],
    );
}
