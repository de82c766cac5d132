//! TLS towards the backend: whom the proxy trusts, what it shows, and what a failure means.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, AlertDescription, ProtocolVersion, ServerConfig};

use crate::support::certificates::{Authority, Issued};
use crate::support::secure::{Alerting, Handshake, SecureBackend, server};
use crate::support::{Config, Stent, TempDir, command};

/// Certificates in files, as an operator has them.
struct Files {
    directory: TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let (directory, authority) = (TempDir::new(), Authority::new("Test CA"));
        std::fs::write(directory.path().join("ca.pem"), &authority.pem).unwrap();
        Self { directory, authority }
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A certificate for 127.0.0.1 in a backend.
    fn local(&self) -> ServerConfig {
        server(&self.authority.issue(&["127.0.0.1"]), None, ALL_VERSIONS)
    }

    /// Everything goes to the address over TLS, and this CA is trusted.
    fn config(&self, address: SocketAddr) -> Config {
        secured(address).set("cluster.hosp.tls.ca", self.path("ca.pem"))
    }
}

/// Everything goes to the address over TLS.
fn secured(address: SocketAddr) -> Config {
    Config::with_endpoints(&[]).set("cluster.hosp.endpoints", vec![format!("https://{address}")])
}

/// Sends a POST and returns what its attempts ended with: nothing of it may have been sent.
fn failures(config: &Config) -> Vec<String> {
    let stent = Stent::start(config);
    assert_eq!(stent.client().post("/", "body").status, 502);
    let line = stent.only_line();
    assert!(line.attempts().iter().all(|attempt| attempt.delivery == "never"), "{line:?}");
    let results = line.results();
    stent.wait_for_metric("stent_upstream_connects_total", &[("result", &*results[0])], results.len() as f64);
    results
}

#[test]
fn a_certificate_of_the_given_ca_for_the_endpoints_address_is_trusted() {
    let files = Files::new();
    let backend = SecureBackend::new(files.local());
    let stent = Stent::start(&files.config(backend.address()));
    let response = stent.client().get("/");
    assert_eq!((response.status, &*response.text()), (200, "hello"));
    let Handshake::Done { server_name, protocol, .. } = &backend.handshakes()[0] else { panic!() };
    assert_eq!(*server_name, None, "an address is no name (RFC 6066 section 3)");
    assert_eq!(protocol.as_deref(), None, "this backend has no ALPN");
    stent.wait_for_metric("stent_upstream_connects_total", &[("result", "ok")], 1.0);
}

#[test]
fn server_name_is_what_is_asked_for_and_verified() {
    let files = Files::new();
    let issued = files.authority.issue(&["hosp.internal"]);
    let backend = SecureBackend::new(server(&issued, None, ALL_VERSIONS));
    let config = files.config(backend.address());
    assert_eq!(failures(&config), ["tls_certificate"; 3], "the address is not in the certificate");
    let stent = Stent::start(&config.set("cluster.hosp.tls.server_name", "hosp.internal"));
    assert_eq!(stent.client().get("/").status, 200);
    let handshakes = backend.handshakes();
    let Some(Handshake::Done { server_name, .. }) = handshakes.last() else { panic!("{handshakes:?}") };
    assert_eq!(server_name.as_deref(), Some("hosp.internal"));
}

#[test]
fn a_certificate_of_another_ca_or_another_time_is_refused_and_nothing_was_sent() {
    let files = Files::new();
    let stranger = Authority::new("Another CA").issue(&["127.0.0.1"]);
    let expired = files.authority.issue_between(&["127.0.0.1"], (2020, 2021));
    for issued in [stranger, expired] {
        let backend = SecureBackend::new(server(&issued, None, ALL_VERSIONS));
        assert_eq!(failures(&files.config(backend.address())), ["tls_certificate"; 3]);
    }
}

#[test]
fn without_a_ca_the_platform_says_whom_to_trust() {
    let files = Files::new();
    let backend = SecureBackend::new(files.local());
    let ca = files.path("ca.pem");
    let stent = Stent::start_with_environment(&[("SSL_CERT_FILE", &ca)], &secured(backend.address()));
    assert_eq!(stent.client().get("/").status, 200);
}

#[test]
fn a_client_certificate_is_shown_to_a_backend_that_asks_for_one() {
    let files = Files::new();
    let clients = Authority::new("Client CA");
    let issued = clients.issue(&["stent.internal"]);
    let identity = certificate(&files, &issued);
    for version in [&TLS12, &TLS13] {
        let local = files.authority.issue(&["127.0.0.1"]);
        let backend = SecureBackend::new(server(&local, Some(&clients), &[version]));
        let config = files.config(backend.address());
        let nameless = Stent::start(&config);
        assert_eq!(nameless.client().get("/").status, 502);
        let attempts = nameless.only_line().attempts();
        assert!(attempts.iter().all(|attempt| attempt.result == "tls_alert"), "{version:?} {attempts:?}");
        // In TLS 1.3 the proxy learns of the refusal only when it has sent the request.
        let delivery = if version.version == ProtocolVersion::TLSv1_3 { "maybe" } else { "never" };
        assert!(attempts.iter().all(|attempt| attempt.delivery == delivery), "{version:?} {attempts:?}");
        assert_eq!(attempts.len(), 3);
        let stent = Stent::start(&config.set("cluster.hosp.tls.certificate", identity.clone()));
        assert_eq!(stent.client().get("/").status, 200, "{version:?}");
        let handshakes = backend.handshakes();
        assert!(matches!(handshakes.last(), Some(Handshake::Done { client: true, .. })), "{handshakes:?}");
    }
}

#[test]
fn an_alert_after_the_request_has_gone_out_does_not_make_a_post_repeatable() {
    let files = Files::new();
    let alerts = [
        (0, AlertDescription::AccessDenied),
        (1, AlertDescription::CertificateExpired),
        (1, AlertDescription::AccessDenied),
        (2, AlertDescription::UnknownCA),
    ];
    for (after, alert) in alerts {
        let local = server(&files.authority.issue(&["127.0.0.1"]), None, &[&TLS13]);
        let backend = SecureBackend::alerting(local, Alerting { after, alert });
        // Such a POST may ride on a kept connection, as an answered one does after a moment of trust.
        let config = files.config(backend.address()).set("cluster.hosp.unsafe_reuse", "always");
        let stent = Stent::start(&config);
        let mut client = stent.client();
        for _ in 0..after {
            assert_eq!(client.get("/").status, 200);
        }
        assert_eq!(client.post("/notes", "once").status, 502, "{after} {alert:?}");
        let posts = backend.requests().iter().filter(|line| line.starts_with("POST")).count();
        assert_eq!(posts, 1, "{after} {alert:?}: the backend acted on it and must not get it again");
        assert_eq!(backend.handshakes().len(), 1, "{after} {alert:?}");
        let line = stent.access_log(after + 1).pop().unwrap();
        let attempts = line.attempts();
        assert_eq!((attempts.len(), &*attempts[0].delivery), (1, "maybe"), "{after} {alert:?}");
        // Only before the first answer is it the handshake that was refused.
        let result = if after == 0 { "tls_alert" } else { "reset" };
        assert_eq!(attempts[0].result, result, "{after} {alert:?}");
    }
}

#[test]
fn a_get_that_met_such_an_alert_is_sent_again() {
    let files = Files::new();
    let alerting = Alerting { after: 1, alert: AlertDescription::CertificateRevoked };
    let local = server(&files.authority.issue(&["127.0.0.1"]), None, &[&TLS13]);
    let backend = SecureBackend::alerting(local, alerting);
    let stent = Stent::start(&files.config(backend.address()));
    let mut client = stent.client();
    assert_eq!((client.get("/1").status, client.get("/2").status), (200, 200));
    assert_eq!(backend.requests(), ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1", "GET /2 HTTP/1.1"]);
}

fn certificate(files: &Files, issued: &Issued) -> toml::Table {
    let mut table = toml::Table::new();
    table.insert("chain".to_owned(), files.write("client.pem", &issued.pem).into());
    table.insert("key".to_owned(), files.write("client.key", &issued.pkcs8()).into());
    table
}

#[test]
fn a_backend_that_speaks_no_tls_is_a_tls_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let files = Files::new();
    assert_eq!(failures(&files.config(address)), ["tls_protocol"; 3]);
}

#[test]
fn a_handshake_that_does_not_end_is_a_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let files = Files::new();
    let config = files.config(listener.local_addr().unwrap());
    let stent = Stent::start(&config.set("cluster.hosp.connect_timeout", "50ms"));
    assert_eq!(stent.client().post("/", "body").status, 504);
    let line = stent.only_line();
    assert_eq!(line.results(), ["connect_timeout"; 3]);
    assert!(line.attempts().iter().all(|attempt| attempt.delivery == "never"));
}

#[test]
fn a_tls_failure_at_one_endpoint_is_made_good_at_another_whatever_the_method() {
    let files = Files::new();
    let bad = SecureBackend::new(server(&Authority::new("Other").issue(&["127.0.0.1"]), None, ALL_VERSIONS));
    let good = SecureBackend::new(files.local());
    let urls = [bad.address(), good.address()].map(|address| format!("https://{address}"));
    let config = files
        .config(good.address())
        .set("cluster.hosp.endpoints", urls.to_vec())
        .set("cluster.hosp.balance", "round_robin");
    let stent = Stent::start(&config);
    assert_eq!(stent.client().post("/", "body").status, 200);
    assert_eq!(stent.only_line().results(), ["tls_certificate", "200"]);
    stent.wait_for_metric("stent_retries_total", &[("reason", "tls")], 1.0);
}

#[test]
fn sessions_are_resumed_by_all_workers() {
    let files = Files::new();
    for version in [&TLS12, &TLS13] {
        let local = files.authority.issue(&["127.0.0.1"]);
        let backend = SecureBackend::new(server(&local, None, &[version]));
        let stent = Stent::start(&files.config(backend.address()).set("server.workers", 2));
        // Two callers at once, so that both workers have one.
        let mut callers = [stent.client(), stent.client()];
        for _ in 0..3 {
            for caller in &mut callers {
                assert_eq!(caller.get("/").status, 200);
            }
        }
        let resumed: Vec<bool> = backend
            .handshakes()
            .iter()
            .map(|handshake| matches!(handshake, Handshake::Done { resumed: true, .. }))
            .collect();
        assert_eq!(resumed, [false, true, true, true, true, true], "{version:?}");
    }
}

#[test]
fn verification_can_be_switched_off_only_by_its_whole_phrase_and_is_warned_about() {
    let stranger = Authority::new("Another CA").issue(&["elsewhere.example"]);
    let backend = SecureBackend::new(server(&stranger, None, ALL_VERSIONS));
    let phrase = "off: whoever is on the way can read and change everything";
    let config = secured(backend.address()).set("cluster.hosp.tls.verification", phrase);
    let stent = Stent::start(&config);
    assert_eq!(stent.client().get("/").status, 200);
    let is_warning = |line: &str| line.contains("WARN") && line.contains("certificate is not verified");
    stent.wait_for_log("a warning", is_warning);
    let checked = command::stent(&["check".as_ref(), stent.config_path().as_os_str()]);
    let [_, errors] = command::said(&checked);
    assert!(checked.status.success() && errors.contains("certificate is not verified"), "{errors}");

    let short = secured(backend.address()).set("cluster.hosp.tls.verification", "off");
    let text = short.text(std::path::Path::new("/dev/null"));
    let (output, _) = Stent::fail_to_start(Some(&text));
    let [_, errors] = command::said(&output);
    assert!(errors.contains("neither of its words") && errors.contains(phrase), "{errors}");
}

#[test]
fn the_effective_configuration_names_the_files_and_reads_back() {
    let files = Files::new();
    let identity = certificate(&files, &files.authority.issue(&["stent.internal"]));
    let config = files
        .config("127.0.0.1:1".parse().unwrap())
        .set("cluster.hosp.tls.server_name", "hosp.internal")
        .set("cluster.hosp.tls.certificate", identity);
    let effective = |text: &str| {
        let path = files.write("stent.toml", text);
        let output = command::stent(&["check", &path, "--effective"]);
        assert!(output.status.success(), "{output:?}");
        command::said(&output)[0].clone()
    };
    let text = effective(&config.text(std::path::Path::new("/dev/null")));
    assert!(text.contains(&format!("ca = {:?}", files.path("ca.pem"))), "{text}");
    assert!(text.contains(&format!("key = {:?}", files.path("client.key"))), "{text}");
    assert_eq!(effective(&text), text);
}

#[test]
fn a_ca_that_changes_is_taken_with_a_reload() {
    let files = Files::new();
    let other = Authority::new("The next CA");
    let backend = SecureBackend::new(server(&other.issue(&["127.0.0.1"]), None, ALL_VERSIONS));
    let config = files.config(backend.address());
    let stent = Stent::start(&config);
    assert_eq!(stent.client().get("/").status, 502);
    files.write("ca.pem", &other.pem);
    stent.reload(&config);
    assert_eq!(stent.client().get("/").status, 200);
}
