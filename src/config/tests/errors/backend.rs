//! What is said about how a cluster is reached: TLS, its files, and the protocol.

use super::*;

#[test]
fn tls_and_the_protocol_have_to_fit_the_endpoints() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["https://10.0.1.10", "http://10.0.1.11"]
[cluster.hosp.tls]
verification = "off: whoever is on the way can read and change everything"
ca = "no.pem"

[cluster.plain]
endpoints = ["http://10.0.1.10"]
protocol = "auto"
[cluster.plain.tls]
server_name = "hosp.internal"

[cluster.odd]
endpoints = ["https://-"]
protocol = "h3"
[cluster.odd.tls]
ca = ""
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: a cluster speaks TLS to all of its endpoints or to none
 --> stent.toml:2:35
  |
2 | endpoints = ["https://10.0.1.10", "http://10.0.1.11"]
  |              -------------------  ^^^^^^^^^^^^^^^^^^ this
  |              |
  |              and this
  |
  = help: make two clusters of them

error: a `ca` is of no use where nothing is verified
 --> stent.toml:4:16
  |
4 | verification = "off: whoever is on the way can read and change everything"
  |                ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ off here
5 | ca = "no.pem"
  |      -------- while this says whom to trust
  |
  = help: remove `verification`

error: `auto` is settled in the TLS handshake
 --> stent.toml:9:12
  |
9 | protocol = "auto"
  |            ^^^^^^ no endpoint is https
  |
  = help: write "h2" or "http1", whichever the backend speaks without TLS

error: TLS settings for a cluster that is reached without TLS
  --> stent.toml:10:1
   |
10 | [cluster.plain.tls]
   | ^^^^^^^^^^^^^^^^^^^ no endpoint is https
   |
   = help: write the endpoints as https://HOST:PORT, or leave this table out

error: no certificate can hold for this host
  --> stent.toml:14:14
   |
14 | endpoints = ["https://-"]
   |              ^^^^^^^^^^^ not a name of TLS
   |
   = help: give `server_name` in the cluster's `tls` table

error: invalid `protocol`
  --> stent.toml:15:12
   |
15 | protocol = "h3"
   |            ^^^^ not one of its words
   |
   = help: did you mean `h2`?

error: invalid `ca`
  --> stent.toml:17:6
   |
17 | ca = ""
   |      ^^ not a path
   |
   = help: give the path of a file in PEM, such as "tls/hosp.pem"

7 errors in stent.toml
"#,
    );
}

#[test]
fn the_files_of_tls_towards_a_backend_are_read_when_the_file_is_checked() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["https://10.0.1.10"]
[cluster.hosp.tls]
ca = "/nowhere/ca.pem"
server_name = "https://hosp.internal"
verification = "none"
certificate = { chain = "/nowhere/stent.pem" }

[cluster.other]
endpoints = ["https://10.0.1.10"]
[cluster.other.tls]
ca = "/nowhere/ca.pem"
certificate = { chain = "/nowhere/stent.pem", key = "/nowhere/stent.key" }
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: cannot read the certificate file /nowhere/ca.pem: No such file or directory (os error 2)
 --> stent.toml:4:6
  |
4 | ca = "/nowhere/ca.pem"
  |      ^^^^^^^^^^^^^^^^^ this file
  |
  = help: check the path; a relative one starts at the configuration file's directory

error: invalid `server_name`
 --> stent.toml:5:15
  |
5 | server_name = "https://hosp.internal"
  |               ^^^^^^^^^^^^^^^^^^^^^^^ neither a host name nor an IP address
  |
  = help: a name as the backend's certificate has it, without scheme and port: "hosp.internal"

error: invalid `verification`
 --> stent.toml:6:16
  |
6 | verification = "none"
  |                ^^^^^^ neither of its words
  |
  = help: write "full", and `ca = "FILE"` if the backend's CA is one of your own; to do without, the whole phrase: "off: whoever is on the way can read and change everything"

error: a client certificate has no `key`
 --> stent.toml:7:15
  |
7 | certificate = { chain = "/nowhere/stent.pem" }
  |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `key` is missing
  |
  = help: write { chain = "tls/stent.pem", key = "tls/stent.key" }

error: cannot read the certificate file /nowhere/ca.pem: No such file or directory (os error 2)
  --> stent.toml:12:6
   |
12 | ca = "/nowhere/ca.pem"
   |      ^^^^^^^^^^^^^^^^^ this file
   |
   = help: check the path; a relative one starts at the configuration file's directory

error: cannot read the certificate file /nowhere/stent.pem: No such file or directory (os error 2)
  --> stent.toml:13:25
   |
13 | certificate = { chain = "/nowhere/stent.pem", key = "/nowhere/stent.key" }
   |                         ^^^^^^^^^^^^^^^^^^^^ this file
   |
   = help: check the path; a relative one starts at the configuration file's directory

6 errors in stent.toml
"#,
    );
}

#[test]
fn statuses_of_grpc_have_names_and_numbers() {
    assert_rejected(
        &[
            r#"[retry]
grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
        r#"error: invalid `grpc_statuses`
 --> stent.toml:2:18
  |
2 | grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
  |                  ^^^^^^^^^^^^^ not a status of gRPC
  |
  = help: did you mean `unavailable`?

error: `grpc_statuses` must be between 1 and 16
 --> stent.toml:2:33
  |
2 | grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
  |                                 ^^ out of bounds

error: `grpc_statuses` must be between 1 and 16
 --> stent.toml:2:37
  |
2 | grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
  |                                     ^ out of bounds

error: invalid `grpc_statuses`
 --> stent.toml:2:40
  |
2 | grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
  |                                        ^^^^ this is success
  |
  = help: list failures only, such as "unavailable"

error: `grpc_statuses` takes statuses of gRPC, by name or number
 --> stent.toml:2:46
  |
2 | grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
  |                                              ^^^^ this is a boolean

5 errors in stent.toml
"#,
    );
}

#[test]
fn unsafe_reuse_is_one_of_three_words() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
unsafe_reuse = "allways"

[cluster.other]
endpoints = ["http://10.0.1.10"]
unsafe_reuse = false
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: invalid `unsafe_reuse`
 --> stent.toml:3:16
  |
3 | unsafe_reuse = "allways"
  |                ^^^^^^^^^ not one of its words
  |
  = help: did you mean `always`?

error: `unsafe_reuse` takes a string
 --> stent.toml:7:16
  |
7 | unsafe_reuse = false
  |                ^^^^^ this is a boolean

2 errors in stent.toml
"#,
    );
}

#[test]
fn a_health_check_asks_for_a_path_within_its_interval() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.health_check]
host = "https://hosp.internal/"
method = "POST"
interval = "1s"
timeout = "1s"
statuses = []
unhealthy_after = 0
healthy_after = 101
retries = 3
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: `[cluster.hosp.health_check]` has no `path`
 --> stent.toml:3:1
  |
3 | [cluster.hosp.health_check]
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^^ `path` is missing
  |
  = help: add `path = "/healthz"`: a path that works exactly while the service does, and costs it little

error: invalid `host`
 --> stent.toml:4:8
  |
4 | host = "https://hosp.internal/"
  |        ^^^^^^^^^^^^^^^^^^^^^^^^ not a host
  |
  = help: a name or an address, with a port if need be, and without a scheme: "hosp.internal"

error: invalid `method`
 --> stent.toml:5:10
  |
5 | method = "POST"
  |          ^^^^^^ not one of its words
  |
  = help: known here: `GET`, `HEAD`

error: `timeout` must be less than `interval`: an endpoint is asked one thing at a time
 --> stent.toml:7:11
  |
6 | interval = "1s"
  |            ---- and this
7 | timeout = "1s"
  |           ^^^^ does not fit

error: no answer could pass this check
 --> stent.toml:8:12
  |
8 | statuses = []
  |            ^^ empty
  |
  = help: leave `statuses` out for "200-299"

error: `unhealthy_after` must be between 1 and 100
 --> stent.toml:9:19
  |
9 | unhealthy_after = 0
  |                   ^ out of bounds

error: `healthy_after` must be between 1 and 100
  --> stent.toml:10:17
   |
10 | healthy_after = 101
   |                 ^^^ out of bounds

error: unknown key `retries` in `[cluster.hosp.health_check]`
  --> stent.toml:11:1
   |
11 | retries = 3
   | ^^^^^^^ not a key of Stent
   |
   = help: known here: `path`, `host`, `method`, `interval`, `timeout`, `statuses`, `unhealthy_after`, `healthy_after`

8 errors in stent.toml
"#,
    );
}

#[test]
fn a_health_check_says_what_is_no_path_no_time_and_no_status() {
    assert_rejected(
        &[
            r#"[cluster.hosp]
endpoints = ["http://10.0.1.10"]
[cluster.hosp.health_check]
path = "http://10.0.1.10/healthz"
interval = "10ms"
timeout = "0s"
statuses = ["200-299", 700]

[cluster.third]
endpoints = ["http://10.0.1.10"]
[cluster.third.health_check]
path = "/healthz#top"
timeout = "5s"
"#,
            LISTENER,
            ROUTE,
        ],
        r#"error: invalid `path`
 --> stent.toml:4:8
  |
4 | path = "http://10.0.1.10/healthz"
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^ not a path
  |
  = help: a path alone, such as "/healthz": every endpoint is asked, and `host` has a key of its own

error: `interval` must be between 100ms and 1h
 --> stent.toml:5:12
  |
5 | interval = "10ms"
  |            ^^^^^^ out of bounds

error: `timeout` must be at least 1ms
 --> stent.toml:6:11
  |
6 | timeout = "0s"
  |           ^^^^ out of bounds

error: `statuses` must be between 100 and 599
 --> stent.toml:7:24
  |
7 | statuses = ["200-299", 700]
  |                        ^^^ out of bounds

error: invalid `path`
  --> stent.toml:12:8
   |
12 | path = "/healthz#top"
   |        ^^^^^^^^^^^^^^ not a path
   |
   = help: leave out `#` and what follows it: a server is never sent that

error: `timeout` must be less than `interval`: an endpoint is asked one thing at a time
  --> stent.toml:13:11
   |
13 | timeout = "5s"
   |           ^^^^ does not fit
   |
   = help: `interval` is 5s by default

6 errors in stent.toml
"#,
    );
}

#[test]
fn a_health_check_needs_only_a_path_and_a_short_interval_shortens_its_timeout() {
    let check = |keys: &str| {
        let text = format!(
            "[cluster.hosp]\nendpoints = [\"http://10.0.1.10\"]\n[cluster.hosp.health_check]\n{keys}\n"
        );
        let config = accepted(&[&text, LISTENER, ROUTE].concat());
        let again = accepted(&effective(&config));
        assert_eq!(again.clusters, config.clusters, "the effective configuration says the same");
        config.clusters[0].health_check.clone().unwrap()
    };
    let least = check("path = \"/healthz\"");
    assert_eq!(least.rhythm, crate::policy::health::Rhythm::default());
    assert_eq!((least.method, least.host), (http::Method::GET, None));
    assert!(least.statuses.iter().eq(200..=299));
    let quick = check(
        "path = \"/healthz?deep=1\"\ninterval = \"1s\"\nhost = \"hosp.internal:8080\"\nmethod = \"HEAD\"",
    );
    assert_eq!(quick.rhythm.timeout(), Duration::from_millis(500));
    assert_eq!(quick.path.as_str(), "/healthz?deep=1");
    assert_eq!(quick.host.unwrap().as_str(), "hosp.internal:8080");
}
