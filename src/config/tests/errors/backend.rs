//! What is said about how a cluster is reached: TLS, its files, and the protocol.

use super::*;

#[test]
fn tls_and_the_protocol_have_to_fit_the_endpoints() {
    assert_rejected(
        "backend/tls_and_the_protocol_have_to_fit_the_endpoints",
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
    );
}

#[test]
fn the_files_of_tls_towards_a_backend_are_read_when_the_file_is_checked() {
    assert_rejected(
        "backend/the_files_of_tls_towards_a_backend_are_read_when_the_file_is_checked",
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
    );
}

#[test]
fn statuses_of_grpc_have_names_and_numbers() {
    assert_rejected(
        "backend/statuses_of_grpc_have_names_and_numbers",
        &[
            r#"[retry]
grpc_statuses = ["unavailible", 17, 0, "ok", true, "internal", 14]
"#,
            LISTENER,
            CLUSTER,
            ROUTE,
        ],
    );
}

#[test]
fn unsafe_reuse_is_one_of_three_words() {
    assert_rejected(
        "backend/unsafe_reuse_is_one_of_three_words",
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
    );
}

#[test]
fn a_health_check_asks_for_a_path_within_its_interval() {
    assert_rejected(
        "backend/a_health_check_asks_for_a_path_within_its_interval",
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
    );
}

#[test]
fn a_health_check_says_what_is_no_path_no_time_and_no_status() {
    assert_rejected(
        "backend/a_health_check_says_what_is_no_path_no_time_and_no_status",
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
