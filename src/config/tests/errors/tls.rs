//! Errors in `[listener.tls]`; those of the files themselves are told in `certificate`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::certificate::testing::Authority;

/// A directory with a good pair, gone with the test.
struct Pair(std::path::PathBuf);

impl Pair {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("stent-config-{name}-{}", std::process::id()));
        fs::create_dir_all(directory.join("tls")).unwrap();
        let authority = Authority::new("a CA");
        let issued = authority.issue(&["hosp.test"]);
        let pair = Self(directory);
        for (file, text) in [("ca.pem", &authority.pem), ("a.pem", &issued.pem), ("a.key", &issued.pkcs8())] {
            let path = pair.0.join("tls").join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        pair
    }

    fn parse(&self, tls: &str) -> Result<Config, ConfigErrors> {
        self.parse_with_route(tls, "")
    }

    fn parse_with_route(&self, tls: &str, route: &str) -> Result<Config, ConfigErrors> {
        let text = [LISTENER, "[listener.tls]\n", tls, CLUSTER, ROUTE, route].concat();
        parse(&text, self.0.join("stent.toml").to_str().unwrap())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn paths_start_at_the_configuration_files_directory_and_everything_reads_back() {
    let pair = Pair::new("paths");
    let tls = "certificates = [{ chain = \"tls/a.pem\", key = \"tls/a.key\" }]\n\
               min_version = \"1.3\"\nhandshake_timeout = \"3s\"\nwatch_interval = \"5s\"\n\
               client_ca = \"tls/ca.pem\"\nclient_auth = \"optional\"\nclient_subject_header = \"X-Who\"\n";
    let config = pair.parse(tls).unwrap_or_else(|errors| panic!("{errors}"));
    let settings = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(settings.certificates[0].files.chain, pair.0.join("tls/a.pem"));
    assert_eq!(&*settings.certificates[0].label, "tls/a.pem");
    let mut again = accepted(&effective(&config));
    // The label is the path as it is written, and the effective one is written out in full.
    let written = again.listeners[0].tls.as_mut().unwrap();
    written.certificates[0].label = "tls/a.pem".into();
    assert_eq!(again, config);
}

#[test]
fn tls_needs_a_certificate_and_a_certificate_its_two_files() {
    let pair = Pair::new("needs");
    for (tls, message) in [
        ("min_version = \"1.2\"\n", "`[listener.tls]` has no certificate"),
        ("certificates = []\n", "`[listener.tls]` has no certificate"),
        ("certificates = [{ chain = \"tls/a.pem\" }]\n", "a certificate has no `key`"),
        ("certificates = [{ key = \"tls/a.key\" }]\n", "a certificate has no `chain`"),
        ("certificates = [{ chain = \"\", key = \"tls/a.key\" }]\n", "invalid `chain`"),
    ] {
        let errors = pair.parse(tls).unwrap_err();
        assert_eq!(errors.messages().collect::<Vec<_>>(), [message], "{errors}");
    }
}

#[test]
fn what_rests_on_callers_certificates_needs_their_ca() {
    let pair = Pair::new("callers");
    let good = "certificates = [{ chain = \"tls/a.pem\", key = \"tls/a.key\" }]\n";
    for (tls, messages) in [
        ("client_auth = \"required\"\n", &["`client_auth` needs a `client_ca`"][..]),
        ("client_subject_header = \"X-Who\"\n", &["`client_subject_header` needs a `client_ca`"]),
        (
            "client_ca = \"tls/ca.pem\"\nclient_subject_header = \"Host\"\n",
            &["invalid `client_subject_header`"],
        ),
        (
            "client_ca = \"tls/ca.pem\"\nclient_subject_header = \"Proxy-Authorization\"\n",
            &["invalid `client_subject_header`"],
        ),
        (
            "client_ca = \"tls/ca.pem\"\nclient_subject_header = \"X_Who\"\n",
            &["invalid `client_subject_header`"],
        ),
        ("client_ca = 7\nclient_auth = \"required\"\n", &["`client_ca` takes a string"]),
        (
            "client_auth = \"maybe\"\nmin_version = \"1.1\"\nwatch_interval = \"1ms\"\n",
            &[
                "invalid `client_auth`",
                "invalid `min_version`",
                "`watch_interval` must be between 10ms and 1h",
            ],
        ),
    ] {
        let errors = pair.parse(&[good, tls].concat()).unwrap_err();
        assert_eq!(errors.messages().collect::<Vec<_>>(), messages, "{errors}");
    }
}

#[test]
fn no_route_asks_callers_for_the_header_of_their_subjects() {
    let pair = Pair::new("guard");
    let tls = "certificates = [{ chain = \"tls/a.pem\", key = \"tls/a.key\" }]\n\
               client_ca = \"tls/ca.pem\"\nclient_subject_header = \"X-Who\"\n";
    let guard = "[route.origin_guard]\nheader = \"X-Who\"\nsecret_files = [\"tls/a.key\"]\n";
    let errors = pair.parse_with_route(tls, guard).unwrap_err();
    assert!(
        errors.messages().any(|message| message == "a guard asks for the header of callers' subjects"),
        "{errors}"
    );
    let config = pair.parse(tls).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.listeners[0].subject_headers, ["x-who"]);
}

#[test]
fn an_error_in_a_file_points_at_its_name_and_says_the_way_out() {
    let pair = Pair::new("files");
    let tls = "certificates = [\n{ chain = \"tls/a.pem\", key = \"tls/b.key\" },\n\
               { chain = \"tls/a.pem\", key = \"tls/a.key\" },\n]\nclient_ca = \"tls/a.key\"\n";
    let errors = pair.parse(tls).unwrap_err().to_string();
    let directory = pair.0.display();
    for part in [
        format!("cannot read the key file {directory}/tls/b.key: No such file or directory"),
        "                              ^^^^^^^^^^^ this file\n".to_owned(),
        "a relative one starts at the configuration file's directory".to_owned(),
        "error: a certificate is listed twice\n".to_owned(),
        format!("the certificate file {directory}/tls/a.key holds no certificate"),
        "3 errors in ".to_owned(),
    ] {
        assert!(errors.contains(&part), "{part}\n{errors}");
    }
}
