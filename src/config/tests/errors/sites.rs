//! Errors in where requests come from and go to: listeners, endpoints and routes.

use super::*;

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
fn the_limits_of_http2_and_the_proxy_protocol_have_bounds_and_words() {
    assert_rejected(
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
        r#"error: invalid `proxy_protocol`
 --> stent.toml:3:18
  |
3 | proxy_protocol = "on"
  |                  ^^^^ not one of its words
  |
  = help: known here: `off`, `required`

error: `max_streams` must be between 1 and 10000
 --> stent.toml:5:15
  |
5 | max_streams = 0
  |               ^ out of bounds

error: `stream_window` must be between 64KiB and 64MiB
 --> stent.toml:6:17
  |
6 | stream_window = "1KiB"
  |                 ^^^^^^ out of bounds

error: unknown key `max_resets` in `[listener.http2]`
 --> stent.toml:7:1
  |
7 | max_resets = 1
  | ^^^^^^^^^^ not a key of Stent
  |
  = help: known here: `enabled`, `max_streams`, `max_cancelled`, `stream_window`, `connection_window`, `send_buffer`

error: a stream's window is larger than its connection's
  --> stent.toml:10:27
   |
10 | http2 = { stream_window = "2MiB" }
   |                           ^^^^^^ no stream can use more than `connection_window`
   |
   = help: raise `connection_window`, or lower `stream_window`

error: a stream's window is larger than its connection's
  --> stent.toml:13:27
   |
13 | http2 = { stream_window = "2MiB", connection_window = "1MiB" }
   |                           ^^^^^^                      ------ this one
   |                           |
   |                           no stream can use more than `connection_window`
   |
   = help: raise `connection_window`, or lower `stream_window`

6 errors in stent.toml
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
  |              ^^^^^^^^^^^^^^^^ an endpoint is a URL: http://HOST:PORT or https://HOST:PORT
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
  = help: set them apart by `scheme`, `host`, `path` or `methods`, or remove one

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
