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
        "",
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
        "",
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
        "",
    );
}
