//! TLS towards the caller: certificates, versions, sessions, callers' certificates, and files that change.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, SupportedProtocolVersion};
use toml::Value;

use crate::support::certificates::{Authority, Encryption, Issued};
use crate::support::tls::{Pki, TlsClient, der_of, text_of};
use crate::support::{Action, Backend, Client, Config, Stent, command, eventually};

static OLD: [&SupportedProtocolVersion; 1] = [&TLS12];
static NEW: [&SupportedProtocolVersion; 1] = [&TLS13];

const HANDSHAKES: &str = "stent_tls_handshakes_total";
const LOADED: &str = "stent_tls_certificate_load_successful";
const EXPIRY: &str = "stent_tls_certificate_expiry_timestamp_seconds";

/// A backend and a configuration with these certificates.
fn site(certificates: Vec<Value>) -> (Backend, Config) {
    let backend = Backend::healthy();
    let config = Config::new(&backend)
        .set("listener.tls.certificates", certificates)
        .set("listener.tls.watch_interval", "10ms");
    (backend, config)
}

fn connect(stent: &Stent, caller: &Arc<ClientConfig>, name: &str) -> TlsClient {
    TlsClient::connect(stent.listener(), caller, name).unwrap()
}

/// What keeps a caller from an answer.
fn refusal(stent: &Stent, caller: &Arc<ClientConfig>, name: &str) -> Option<String> {
    let answer = TlsClient::connect(stent.listener(), caller, name).and_then(|mut client| client.get(&[]));
    answer.err().map(|error| error.to_string())
}

#[test]
fn every_form_of_key_serves() {
    let pki = Pki::new();
    let (elliptic, rsa) =
        (|name: &str| pki.authority.issue(&[name]), |name: &str| pki.authority.issue_rsa(&[name]));
    let [pkcs8, sec1, pbkdf2, scrypt] =
        ["pkcs8.test", "sec1.test", "pbkdf2.test", "scrypt.test"].map(elliptic);
    let pkcs1 = rsa("pkcs1.test");
    let acm = rsa("acm.test");
    let costs = Encryption::Pbkdf2Sha256 { iterations: 2048 };
    let (_backend, config) = site(vec![
        pki.pair("pkcs8", &pkcs8),
        pki.pair_with_key("sec1", &sec1, &sec1.sec1(), None),
        pki.pair_with_key("pkcs1", &pkcs1, &pkcs1.pkcs1(), None),
        pki.pair_with_key("pbkdf2", &pbkdf2, &pbkdf2.encrypted("secret", costs), Some("secret\n")),
        pki.pair_with_key("acm", &acm, &acm.encrypted("secret", costs), Some("secret")),
        pki.pair_with_key(
            "scrypt",
            &scrypt,
            &scrypt.encrypted("secret", Encryption::Scrypt { cost: 1 << 10 }),
            Some("secret\n"),
        ),
    ]);
    let stent = Stent::start(&config);
    let caller = pki.caller().build();
    for (name, issued) in [
        ("pkcs8.test", &pkcs8),
        ("sec1.test", &sec1),
        ("pkcs1.test", &pkcs1),
        ("pbkdf2.test", &pbkdf2),
        ("acm.test", &acm),
        ("scrypt.test", &scrypt),
    ] {
        let mut client = connect(&stent, &caller, name);
        assert_eq!(client.shown(), der_of(&issued.pem), "{name}");
        assert_eq!(client.get(&[]).unwrap().status, 200, "{name}");
    }
}

#[test]
fn a_certificate_is_chosen_by_exact_name_then_by_wildcard_then_as_the_first() {
    let pki = Pki::new();
    let issue = |names: &[&str]| pki.authority.issue(names);
    let first = issue(&["first.test", "127.0.0.1", "unknown.test.invalid"]);
    let (wildcard, exact) = (issue(&["*.hosp.test"]), issue(&["ward.hosp.test"]));
    let (_backend, config) =
        site(vec![pki.pair("first", &first), pki.pair("wildcard", &wildcard), pki.pair("exact", &exact)]);
    let stent = Stent::start(&config);
    let caller = pki.caller().build();
    let shown = |name| connect(&stent, &caller, name).shown();
    assert_eq!(shown("ward.hosp.test"), der_of(&exact.pem));
    assert_eq!(shown("WARD.hosp.test"), der_of(&exact.pem));
    assert_eq!(shown("other.hosp.test"), der_of(&wildcard.pem));
    assert_eq!(shown("unknown.test.invalid"), der_of(&first.pem));
    // An address is not sent as a name.
    assert_eq!(shown("127.0.0.1"), der_of(&first.pem));
    // A caller has its keys before we have counted.
    stent.wait_for_metric(HANDSHAKES, &[("result", "ok")], 5.0);
}

#[test]
fn requests_over_tls_are_forwarded_as_https() {
    let pki = Pki::new();
    let (backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    let stent = Stent::start(&config);
    let mut client = connect(&stent, &pki.caller().build(), "hosp.test");
    assert_eq!(client.get(&[("X-Forwarded-Proto", "gopher")]).unwrap().status, 200);
    assert_eq!(client.get(&[]).unwrap().status, 200, "the connection is kept");
    let request = backend.requests().remove(0);
    assert_eq!(request.headers.only("x-forwarded-proto"), Some("https"));
    assert!(stent.access_log(2)[0].fields().contains(&"client_subject"));
}

#[test]
fn the_oldest_version_is_the_configured_one_and_a_reload_changes_it() {
    let pki = Pki::new();
    let (_backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    let stent = Stent::start(&config);
    let (old, new) = (pki.caller().version(&OLD).build(), pki.caller().version(&NEW).build());
    assert_eq!(refusal(&stent, &old, "hosp.test"), None);
    assert_eq!(refusal(&stent, &new, "hosp.test"), None);
    stent.reload(&config.set("listener.tls.min_version", "1.3"));
    // A new configuration for TLS 1.2, so that no session of the old one is asked for.
    let old = pki.caller().version(&OLD).build();
    assert!(refusal(&stent, &old, "hosp.test").is_some());
    assert_eq!(refusal(&stent, &new, "hosp.test"), None);
    stent.wait_for_metric(HANDSHAKES, &[("result", "protocol")], 1.0);
}

#[test]
fn http2_and_http1_are_agreed_on() {
    let pki = Pki::new();
    let (_backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    let stent = Stent::start(&config);
    let agreed = |offered| connect(&stent, &pki.caller().offers(offered).build(), "hosp.test").protocol();
    assert_eq!(
        agreed(&["http/1.1", "h2"]).as_deref(),
        Some("h2"),
        "the better one, whatever the caller's order"
    );
    assert_eq!(agreed(&["http/1.1"]).as_deref(), Some("http/1.1"));
    assert_eq!(agreed(&[]), None);
    stent.reload(&config.set("listener.http2.enabled", false));
    let agreed = |offered| connect(&stent, &pki.caller().offers(offered).build(), "hosp.test").protocol();
    assert_eq!(agreed(&["h2", "http/1.1"]).as_deref(), Some("http/1.1"));
}

#[test]
fn aes_128_is_preferred_though_callers_name_aes_256_first() {
    let pki = Pki::new();
    let pair = pki.pair("hosp", &pki.authority.issue(&["hosp.test"]));
    let (_backend, config) = site(vec![pair]);
    let stent = Stent::start(&config);
    let suites = [&OLD, &NEW].map(|versions| {
        let mut client = connect(&stent, &pki.caller().version(versions).build(), "hosp.test");
        assert_eq!(client.get(&[]).unwrap().status, 200);
        client.suite().unwrap()
    });
    assert_eq!(
        suites,
        [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_128_GCM_SHA256]
    );
}

#[test]
fn sessions_are_resumed_by_every_worker_and_across_a_swap() {
    let pki = Pki::new();
    let pair = pki.pair("hosp", &pki.authority.issue(&["hosp.test"]));
    let (_backend, config) = site(vec![pair]);
    let stent = Stent::start(&config.set("server.workers", 2));
    let callers = [&OLD, &NEW].map(|versions| pki.caller().version(versions).build());
    for caller in &callers {
        let mut first = connect(&stent, caller, "hosp.test");
        assert!(!first.is_resumed());
        // Tickets of TLS 1.3 come with the answer.
        assert_eq!(first.get(&[]).unwrap().status, 200);
        // While the first connection is open, the next one goes to the other worker, and the third to the first.
        let mut second = connect(&stent, caller, "hosp.test");
        assert!(second.is_resumed());
        assert_eq!(second.get(&[]).unwrap().status, 200);
        let third = connect(&stent, caller, "hosp.test");
        assert!(third.is_resumed());
    }
    let renewed = pki.authority.issue(&["hosp.test"]);
    pki.pair("hosp", &renewed);
    let fresh = pki.caller().build();
    eventually("the exchange", || {
        let fresh = pki.caller().build();
        (connect(&stent, &fresh, "hosp.test").shown() == der_of(&renewed.pem)).then_some(())
    });
    assert!(!connect(&stent, &fresh, "hosp.test").is_resumed());
    for caller in &callers {
        assert!(connect(&stent, caller, "hosp.test").is_resumed());
    }
}

#[test]
fn a_handshake_ends_for_a_reason_that_is_counted() {
    let pki = Pki::new();
    let (_backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    let stent = Stent::start(&config.set("listener.tls.handshake_timeout", "100ms"));
    let counted = |result| stent.wait_for_metric(HANDSHAKES, &[("result", result)], 1.0);

    let mut silent = Client::connect(stent.listener());
    assert!(silent.is_closed());
    counted("timeout");

    drop(TcpStream::connect(stent.listener()).unwrap());
    counted("closed");

    let mut plain = TcpStream::connect(stent.listener()).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: hosp.test\r\n\r\n").unwrap();
    counted("protocol");

    let distrustful = pki.caller().trusts(&Authority::new("another CA")).build();
    assert!(refusal(&stent, &distrustful, "hosp.test").unwrap().contains("invalid peer certificate"));
    counted("alert");
    assert_eq!(stent.metric(HANDSHAKES, &[]).to_bits(), 4f64.to_bits());
}

#[test]
fn a_caller_over_tls_that_takes_nothing_for_write_timeout_is_cut_off() {
    let pki = Pki::new();
    let backend = Backend::new(|_| Action::answer(200, vec![b'x'; 32 << 20]));
    let config = Config::new(&backend)
        .set("listener.tls.certificates", vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))])
        .set("listener.write_timeout", "300ms")
        // A connection's limits are first looked at then.
        .set("listener.header_timeout", "300ms");
    let stent = Stent::start(&config);
    let mut client = connect(&stent, &pki.caller().build(), "hosp.test");
    client.send(&[]).unwrap();
    stent.wait_for_metric("stent_requests_in_flight", &[], 1.0);
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
    assert_eq!(stent.only_line().text("outcome"), Some("client_abort"));
}

/// A listener that wants callers' certificates of the CA `clients`, and tells the backend about them.
fn mutual(pki: &Pki, clients: &Authority, mode: &str) -> (Backend, Stent) {
    let (backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    let config = config
        .set("listener.tls.client_ca", pki.write("clients.pem", &clients.pem))
        .set("listener.tls.client_auth", mode)
        .set("listener.tls.client_subject_header", "X-Client-Subject");
    let stent = Stent::start(&config);
    (backend, stent)
}

#[test]
fn a_caller_must_show_a_certificate_where_it_is_required() {
    let (pki, clients) = (Pki::new(), Authority::new("clients"));
    let (_backend, stent) = mutual(&pki, &clients, "required");
    assert!(refusal(&stent, &pki.caller().build(), "hosp.test").is_some());
    let stranger = Authority::new("strangers").issue(&["ward7.test"]);
    assert!(refusal(&stent, &pki.caller().shows(&stranger).build(), "hosp.test").is_some());
    let expired = clients.issue_between(&["ward7.test"], (2001, 2002));
    assert!(refusal(&stent, &pki.caller().shows(&expired).build(), "hosp.test").is_some());
    stent.wait_for_metric(HANDSHAKES, &[("result", "certificate")], 3.0);
    let known = pki.caller().shows(&clients.issue(&["ward7.test"])).build();
    for round in 0..2 {
        let mut client = connect(&stent, &known, "hosp.test");
        assert_eq!(client.is_resumed(), round > 0);
        assert_eq!(client.get(&[]).unwrap().status, 200);
    }
    for line in stent.access_log(2) {
        assert_eq!(line.text("client_subject"), Some("CN=ward7.test"), "resumed or not");
    }
}

#[test]
fn the_subject_goes_to_the_backend_and_cannot_be_forged() {
    let (pki, clients) = (Pki::new(), Authority::new("clients"));
    let (backend, stent) = mutual(&pki, &clients, "optional");
    let forged = [
        ("X-Client-Subject", "CN=admin"),
        ("x_client_subject", "CN=admin"),
        ("X-CLIENT-SUBJECT", "CN=admin"),
        ("Connection", "X-Client-Subject"),
    ];
    let known = pki.caller().shows(&clients.issue(&["ward7.test"])).build();
    assert_eq!(connect(&stent, &known, "hosp.test").get(&forged).unwrap().status, 200);
    assert_eq!(connect(&stent, &pki.caller().build(), "hosp.test").get(&forged).unwrap().status, 200);
    let subjects: Vec<Vec<_>> = backend
        .requests()
        .iter()
        .map(|request| {
            let values = request
                .headers
                .iter()
                .filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-") == "x-client-subject");
            values.map(|(_, value)| value.to_owned()).collect()
        })
        .collect();
    assert_eq!(subjects, [vec!["CN=ward7.test".to_owned()], vec![]]);
    let lines = stent.access_log(2);
    let logged: Vec<_> = lines.iter().map(|line| line.text("client_subject")).collect();
    assert_eq!(logged, [Some("CN=ward7.test"), None]);
    // A bad certificate is worse than none.
    let stranger = Authority::new("strangers").issue(&["ward7.test"]);
    assert!(refusal(&stent, &pki.caller().shows(&stranger).build(), "hosp.test").is_some());
}

#[test]
fn the_subject_cannot_be_forged_on_another_listener_either() {
    let (pki, clients) = (Pki::new(), Authority::new("clients"));
    let (backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    let config = config
        .set("listener.tls.client_ca", pki.write("clients.pem", &clients.pem))
        .set("listener.tls.client_subject_header", "X-Client-Subject")
        .listener("address = '127.0.0.1:0'\ntrusted_proxies = ['127.0.0.0/8']\nunderscores = 'keep'");
    let stent = Stent::start(&config);
    let mut client = Client::connect(stent.listeners()[1]);
    let forged = [("Host", "hosp.test"), ("X-Client-Subject", "CN=admin"), ("X_Client_Subject", "CN=admin")];
    assert_eq!(client.request("GET", "/", &forged, b"").status, 200);
    let headers = &backend.requests()[0].headers;
    assert!(headers.iter().all(|(_, value)| value != "CN=admin"), "{headers:?}");
}

#[test]
fn sessions_do_not_outlive_the_trust_that_they_were_made_under() {
    let (pki, clients, others) = (Pki::new(), Authority::new("clients"), Authority::new("others"));
    let (backend, stent) = mutual(&pki, &clients, "required");
    let known = pki.caller().shows(&clients.issue(&["ward7.test"])).build();
    assert_eq!(connect(&stent, &known, "hosp.test").get(&[]).unwrap().status, 200);
    pki.write("clients.pem", &others.pem);
    stent.reload(
        &Config::new(&backend)
            .set("listener.tls.certificates", vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))])
            .set("listener.tls.client_ca", text_of(&pki.path("clients.pem"))),
    );
    assert!(refusal(&stent, &known, "hosp.test").is_some());
    let newcomer = pki.caller().shows(&others.issue(&["ward8.test"])).build();
    assert_eq!(refusal(&stent, &newcomer, "hosp.test"), None);
}

#[test]
fn a_request_for_another_certificates_host_is_misdirected() {
    let pki = Pki::new();
    let (backend, config) = site(vec![
        pki.pair("a", &pki.authority.issue(&["a.test", "www.a.test"])),
        pki.pair("b", &pki.authority.issue(&["*.b.test"])),
    ]);
    let stent = Stent::start(&config);
    let caller = pki.caller().build();
    let mut client = connect(&stent, &caller, "a.test");
    for (host, status) in [
        ("a.test", 200),
        ("www.a.test:8443", 200),
        ("x.b.test", 421),
        ("X.B.test.", 421),
        ("elsewhere.test", 200),
        ("b.test", 200),
    ] {
        assert_eq!(client.get(&[("Host", host)]).unwrap().status, status, "{host}");
    }
    assert_eq!(backend.requests().len(), 4);
    let lines = stent.access_log(6);
    let refused = lines.iter().find(|line| line.status() == 421).unwrap();
    assert_eq!(refused.text("error"), Some("http_request_error"));
    assert_eq!(refused.text("origin"), Some("downstream"));
}

#[test]
fn a_bad_pair_leaves_the_old_one_and_is_said_once() {
    let pki = Pki::new();
    let old = pki.authority.issue_between(&["hosp.test"], (2020, 2090));
    let pair = pki.pair("hosp", &old);
    let label = text_of(&pki.path("hosp.pem"));
    let (_backend, config) = site(vec![pair]);
    let stent = Stent::start(&config);
    let labels = [("name", label.as_str())];
    assert_eq!(stent.metric(LOADED, &labels).to_bits(), 1f64.to_bits());
    assert_eq!(stent.metric(EXPIRY, &labels).to_bits(), 3_786_912_000f64.to_bits(), "2090-01-01");
    let shown = || connect(&stent, &pki.caller().build(), "hosp.test").shown();

    let new = pki.authority.issue(&["hosp.test"]);
    pki.write("hosp.key", &new.pkcs8());
    stent.wait_for_metric(LOADED, &labels, 0.0);
    assert_eq!(shown(), der_of(&old.pem));
    let complaint = "certificate not exchanged, the old one stays";
    stent.wait_for_log("the complaint", |line| line.contains(complaint));

    let expired = pki.authority.issue_between(&["hosp.test"], (2001, 2002));
    pki.pair("hosp", &expired);
    stent.wait_for_log("the next complaint", |line| line.contains(complaint) && line.contains("expired at"));
    assert_eq!(shown(), der_of(&old.pem));

    pki.pair("hosp", &new);
    stent.wait_for_metric(LOADED, &labels, 1.0);
    assert_eq!(shown(), der_of(&new.pem));
    assert_eq!(stent.metric(EXPIRY, &labels).to_bits(), 4_070_908_800f64.to_bits(), "2099-01-01");
    let mismatches = stent.count_in_log("does not belong to the certificate");
    // The second pair came in two writes, between which they did not fit either.
    assert!((1..=3).contains(&mismatches), "{mismatches}");
    assert_eq!(stent.metric("stent_config_last_reload_successful", &[]).to_bits(), 1f64.to_bits());
}

#[test]
fn certificates_can_be_swapped_a_hundred_times_under_load() {
    let pki = Pki::new();
    let put = |generation: usize, issued: &Issued| {
        pki.write(&format!("archive{generation}/hosp.pem"), &issued.pem);
        pki.write(&format!("archive{generation}/hosp.key"), &issued.pkcs8());
    };
    // As certbot does it: a link to the directory of the day, replaced in one step.
    let link = |generation: usize| {
        let _ = fs::remove_file(pki.path("next"));
        symlink(pki.path(&format!("archive{generation}")), pki.path("next")).unwrap();
        fs::rename(pki.path("next"), pki.path("live")).unwrap();
    };
    let mut current = pki.authority.issue(&["hosp.test"]);
    put(0, &current);
    link(0);
    let mut pair = toml::Table::new();
    pair.insert("chain".into(), text_of(&pki.path("live/hosp.pem")).into());
    pair.insert("key".into(), text_of(&pki.path("live/hosp.key")).into());
    let (_backend, config) = site(vec![pair.into()]);
    let stent = Stent::start(&config.set("server.workers", 2));

    let (is_over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = stent.listener();
    let config = pki.caller().build();
    std::thread::scope(|scope| {
        let mut callers = Vec::new();
        for number in 0..4 {
            let (is_over, answered, config) = (&is_over, &answered, &config);
            // Two keep their connection through all swaps; two shake hands anew for each request.
            callers.push(scope.spawn(move || {
                let mut kept = TlsClient::connect(address, config, "hosp.test").unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    let status = if number < 2 {
                        kept.get(&[]).unwrap().status
                    } else {
                        TlsClient::connect(address, config, "hosp.test").unwrap().get(&[]).unwrap().status
                    };
                    assert_eq!(status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for generation in 1..=100 {
            current = pki.authority.issue(&["hosp.test"]);
            if generation % 2 == 0 {
                put(generation, &current);
                link(generation);
            } else {
                // As a script does it: one file after the other, and for a moment they do not fit.
                pki.write("live/hosp.pem", &current.pem);
                pki.write("live/hosp.key", &current.pkcs8());
            }
            let before = answered.load(Ordering::Relaxed);
            eventually("the exchange", || {
                let shown = TlsClient::connect(address, &pki.caller().build(), "hosp.test").unwrap().shown();
                (shown == der_of(&current.pem)).then_some(())
            });
            eventually("the load goes on", || {
                let is_dead = callers.iter().any(std::thread::ScopedJoinHandle::is_finished);
                (is_dead || answered.load(Ordering::Relaxed) > before).then_some(())
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) >= 100);
    let failed = stent.metric(HANDSHAKES, &[]) - stent.metric(HANDSHAKES, &[("result", "ok")]);
    assert_eq!(failed.to_bits(), 0f64.to_bits(), "failed handshakes");
    let refused =
        stent.metric("stent_requests_total", &[]) - stent.metric("stent_requests_total", &[("code", "200")]);
    assert_eq!(refused.to_bits(), 0f64.to_bits(), "failed requests");
}

#[test]
fn a_certificate_that_is_no_longer_configured_is_no_longer_measured() {
    let pki = Pki::new();
    let kept = pki.pair("kept", &pki.authority.issue(&["kept.test"]));
    let gone = pki.pair("gone", &pki.authority.issue(&["gone.test"]));
    let (_backend, config) = site(vec![kept.clone(), gone]);
    let stent = Stent::start(&config);
    assert_eq!(stent.metric(LOADED, &[]).to_bits(), 2f64.to_bits());
    stent.reload(&config.set("listener.tls.certificates", vec![kept]));
    assert_eq!(stent.metric(LOADED, &[]).to_bits(), 1f64.to_bits());
    let caller = pki.caller().build();
    assert_eq!(refusal(&stent, &caller, "kept.test"), None);
    assert!(refusal(&stent, &caller, "gone.test").is_some());
}

#[test]
fn a_certificate_that_cannot_serve_is_found_before_the_start() {
    let pki = Pki::new();
    let expired = pki.authority.issue_between(&["hosp.test"], (2001, 2002));
    let (good, other) = (pki.authority.issue(&["hosp.test"]), pki.authority.issue(&["hosp.test"]));
    let (_backend, config) = site(vec![
        pki.pair("expired", &expired),
        pki.pair_with_key("mismatch", &good, &other.pkcs8(), None),
        pki.pair_with_key(
            "locked",
            &good,
            &good.encrypted("secret", Encryption::Pbkdf2Sha256 { iterations: 1000 }),
            Some("Secret"),
        ),
    ]);
    let (output, _path) = Stent::fail_to_start(Some(&config.text(&pki.path("access.log"))));
    let report = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{report}");
    for part in [
        "expired.pem expired at 2002-01-01T00:00:00Z",
        "mismatch.key does not belong to the certificate in ",
        "locked.pass does not decrypt the key in ",
        "3 errors in ",
    ] {
        assert!(report.contains(part), "{part}:\n{report}");
    }
    assert_eq!(report.matches("this file").count(), 3, "{report}");
}

#[test]
fn a_key_that_others_may_read_is_warned_about_by_check_and_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new();
    let (_backend, config) = site(vec![pki.pair("hosp", &pki.authority.issue(&["hosp.test"]))]);
    fs::set_permissions(pki.path("hosp.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let stent = Stent::start(&config);
    stent.wait_for_log("the warning", |line| line.contains("open to other users (mode 644)"));
    let output = command::stent(&["check".as_ref(), stent.config_path().as_os_str()]);
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    assert!(warnings.starts_with("warning: the key ") && warnings.contains("chmod 600"), "{warnings}");
}
