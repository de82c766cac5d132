//! Each error as an operator sees it.

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
  = help: known here: `connect`, `tls`, `reset`, `timeout`, `protocol`

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
open = "10m"
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

error: `max_open` must not be less than `open`
 --> stent.toml:5:8
  |
5 | open = "10m"
  |        ^^^^^ does not fit
  |
  = help: here `open` is 10m and `max_open` is 5m

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

error: `[[route]]` has no `cluster`
 --> stent.toml:5:1
  |
5 | [[route]]
  | ^^^^^^^^^ `cluster` is missing
  |
  = help: add `cluster = "hosp"`

5 errors in stent.toml
"#,
    );
}

#[test]
fn a_listener_listens_at_an_ip_address() {
    assert_rejected(
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
        r#"error: invalid `address`
 --> stent.toml:2:11
  |
2 | address = "hosp.example.org:8080"
  |           ^^^^^^^^^^^^^^^^^^^^^^^ a host name
  |
  = help: a listener takes an IP address of this machine: "0.0.0.0:8080" for all of them

error: invalid `address`
 --> stent.toml:4:11
  |
4 | address = "127.0.0.1"
  |           ^^^^^^^^^^^ the port is missing
  |
  = help: write "127.0.0.1:8080"

error: invalid `address`
 --> stent.toml:6:11
  |
6 | address = ":8080"
  |           ^^^^^^^ the IP address is missing
  |
  = help: for all interfaces write "0.0.0.0:8080"

error: invalid `address`
 --> stent.toml:8:11
  |
8 | address = "http://127.0.0.1"
  |           ^^^^^^^^^^^^^^^^^^ not an address
  |
  = help: an address has no scheme and no path: "0.0.0.0:8080"

4 errors in stent.toml
"#,
    );
}

#[test]
fn two_listeners_at_one_address_point_at_both() {
    assert_rejected(
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
[[listener]]
address = "0.0.0.0:8080"
"#,
            CLUSTER,
            ROUTE,
        ],
        r#"error: two sockets at one address
 --> stent.toml:4:11
  |
2 | address = "127.0.0.1:8080"
  |           ---------------- by this one
3 | [[listener]]
4 | address = "0.0.0.0:8080"
  |           ^^^^^^^^^^^^^^ taken already

1 error in stent.toml
"#,
    );
}

#[test]
fn a_listener_at_the_admin_address_is_refused() {
    assert_rejected(
        &[
            r#"[[listener]]
address = "127.0.0.1:9901"
"#,
            CLUSTER,
            ROUTE,
        ],
        r#"error: two sockets at one address
 --> stent.toml:2:11
  |
2 | address = "127.0.0.1:9901"
  |           ^^^^^^^^^^^^^^^^ taken already
  |
  = help: `[admin] address` is 127.0.0.1:9901 by default

1 error in stent.toml
"#,
    );
}

#[test]
fn a_trusted_proxy_is_an_address_or_a_network() {
    assert_rejected(
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.7", "10.0.0.7/16", "cloudfront"]
"#,
            CLUSTER,
            ROUTE,
        ],
        r#"error: invalid `trusted_proxies`
 --> stent.toml:3:32
  |
3 | trusted_proxies = ["10.0.0.7", "10.0.0.7/16", "cloudfront"]
  |                                ^^^^^^^^^^^^^ an address inside the network, not the network
  |
  = help: write "10.0.0.0/16" for the network, or "10.0.0.7" for the one address

error: invalid `trusted_proxies`
 --> stent.toml:3:47
  |
3 | trusted_proxies = ["10.0.0.7", "10.0.0.7/16", "cloudfront"]
  |                                               ^^^^^^^^^^^^ neither an address nor a network
  |
  = help: an address or a network, such as "10.0.0.7" or "10.0.0.0/16"

2 errors in stent.toml
"#,
    );
}

#[test]
fn tls_and_the_proxy_protocol_are_not_there_yet() {
    assert_rejected(
        &[
            r#"[[listener]]
address = "127.0.0.1:8080"
proxy_protocol = "required"
[listener.tls]
min_version = "1.2"

[cluster.hosp]
endpoints = ["https://10.0.1.10"]
[cluster.hosp.tls]
ca = "ca.pem"
"#,
            ROUTE,
        ],
        r#"error: this version does not speak the PROXY protocol
 --> stent.toml:3:18
  |
3 | proxy_protocol = "required"
  |                  ^^^^^^^^^^ not supported yet
  |
  = help: write "off"; behind a load balancer that speaks HTTP, `trusted_proxies` finds the client

error: this version does not terminate TLS
 --> stent.toml:4:1
  |
4 | [listener.tls]
  | ^^^^^^^^^^^^^^ not supported yet
  |
  = help: let the load balancer terminate TLS, and listen here for its plain HTTP

error: invalid `endpoints`
 --> stent.toml:8:14
  |
8 | endpoints = ["https://10.0.1.10"]
  |              ^^^^^^^^^^^^^^^^^^^ https endpoints are not supported by this version
  |
  = help: use an http:// address inside a trusted network

error: this version does not speak TLS to a backend
 --> stent.toml:9:1
  |
9 | [cluster.hosp.tls]
  | ^^^^^^^^^^^^^^^^^^ not supported yet
  |
  = help: reach the backend over plain HTTP inside a trusted network

4 errors in stent.toml
"#,
    );
}

#[test]
fn an_endpoint_is_a_url_without_a_path() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["10.0.1.10:8080", "http://10.0.1.10/api", "http://a:99999"]
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: invalid `endpoints`
 --> stent.toml:2:14
  |
2 | endpoints = ["10.0.1.10:8080", "http://10.0.1.10/api", "http://a:99999"]
  |              ^^^^^^^^^^^^^^^^ an endpoint is a URL: http://HOST:PORT
  |
  = help: write "http://10.0.1.10:8080"

error: invalid `endpoints`
 --> stent.toml:2:32
  |
2 | endpoints = ["10.0.1.10:8080", "http://10.0.1.10/api", "http://a:99999"]
  |                                ^^^^^^^^^^^^^^^^^^^^^^ an endpoint is a host and a port, without user, path or query: requests keep their own path
  |
  = help: leave only `http://HOST:PORT`

error: invalid `endpoints`
 --> stent.toml:2:56
  |
2 | endpoints = ["10.0.1.10:8080", "http://10.0.1.10/api", "http://a:99999"]
  |                                                        ^^^^^^^^^^^^^^^^ the port must be between 1 and 65535
  |
  = help: write it like "http://10.0.1.10:8080" or "http://hosp.internal:8080"

3 errors in stent.toml
"#,
    );
}

#[test]
fn endpoints_are_there_and_each_once() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = []
[cluster.medizone]
endpoints = ["http://a", "http://A:80/"]
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: a cluster needs at least one endpoint
 --> stent.toml:2:13
  |
2 | endpoints = []
  |             ^^ empty
  |
  = help: write ["http://10.0.1.10:8080"]

error: an endpoint is listed twice
 --> stent.toml:4:26
  |
4 | endpoints = ["http://a", "http://A:80/"]
  |              ----------  ^^^^^^^^^^^^^^ again here
  |              |
  |              first here

2 errors in stent.toml
"#,
    );
}

#[test]
fn an_unknown_cluster_names_the_nearest() {
    assert_rejected(
        &[
            r#"[[route]]
name = "all"
path = "/*"
cluster = "hops"
"#,
            LISTENER,
            CLUSTER,
        ],
        r#"error: unknown cluster `hops`
 --> stent.toml:4:11
  |
4 | cluster = "hops"
  |           ^^^^^^ no such cluster
  |
  = help: did you mean `hosp`?

1 error in stent.toml
"#,
    );
}

#[test]
fn two_routes_for_the_same_requests_point_at_both() {
    assert_rejected(
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
        r#"error: two routes take the same requests, and neither is more specific
 --> stent.toml:8:8
  |
3 | path = "/a/{id}"
  |        --------- and this one
...
8 | path = "/a/{key}"
  |        ^^^^^^^^^^ this path
  |
  = help: set them apart by `host`, `path` or `methods`, or remove one

1 error in stent.toml
"#,
    );
}

#[test]
fn two_routes_of_one_name_point_at_both() {
    assert_rejected(
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
        r#"error: two routes are called `a`
 --> stent.toml:6:8
  |
2 | name = "a"
  |        --- first here
...
6 | name = "a"
  |        ^^^ again here
  |
  = help: the name labels metrics and log lines, so each route needs its own

1 error in stent.toml
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
fn a_pattern_says_what_is_wrong_with_it() {
    assert_rejected(
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
        r#"error: invalid `host`
 --> stent.toml:3:8
  |
3 | host = "a.*.org"
  |        ^^^^^^^^^ not a host name; `*.example.org` is the only wildcard
  |
  = help: a name without scheme, port or path: "hosp.example.org"

error: invalid `path`
 --> stent.toml:4:8
  |
4 | path = "api"
  |        ^^^^^ a path begins with `/`
  |
  = help: write it like "/api/screenings/{id}"

error: a route without methods takes no request
 --> stent.toml:5:11
  |
5 | methods = []
  |           ^^ empty
  |
  = help: leave `methods` out to take them all

3 errors in stent.toml
"#,
    );
}

#[test]
fn a_path_holds_its_wildcards_in_whole_segments() {
    assert_rejected(
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
        r#"error: invalid `path`
 --> stent.toml:3:8
  |
3 | path = "/a/*/b"
  |        ^^^^^^^^ `*` stands for the rest of a path: only as the last segment, `/*`
  |
  = help: for everything below /api write "/api/*"

error: invalid `path`
 --> stent.toml:7:8
  |
7 | path = "/a/{id}.json"
  |        ^^^^^^^^^^^^^^ `{name}` stands for one whole segment: letters, digits and `_` between braces
  |
  = help: write it like "/api/screenings/{id}"

error: invalid `path`
  --> stent.toml:11:8
   |
11 | path = "/a b?c"
   |        ^^^^^^^^ a path holds no spaces, control characters, `?` or `#`, and only ASCII; percent-encode the rest
   |
   = help: write a space as `%20`; a query takes no part in routing

3 errors in stent.toml
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
