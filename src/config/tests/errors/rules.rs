//! Errors in redirects, header rules and origin guards.

use std::fs;
use std::path::PathBuf;

use super::*;

/// A file with a secret that is none, or one; removed with the test.
struct SecretFile(PathBuf);

impl SecretFile {
    fn new(name: &str, content: &[u8], mode: u32) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("stent-secret-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Self(path)
    }

    fn shown(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn guarded(files: &[&str]) -> String {
    let files: Vec<_> = files.iter().map(|file| format!("{file:?}")).collect();
    let guard = format!(
        "[listener.origin_guard]\nheader = \"X-Origin-Secret\"\nsecret_files = [{}]\n",
        files.join(", ")
    );
    [LISTENER, &guard, CLUSTER, ROUTE].concat()
}

fn messages(text: &str) -> Vec<String> {
    let errors = parse(text, "stent.toml").unwrap_err();
    errors.messages().map(ToString::to_string).collect()
}

fn redirecting(route: &str, redirect: &str) -> String {
    format!("{LISTENER}[[route]]\nname = \"moved\"\npath = \"/*\"\n{route}\nredirect = {redirect}\n")
}

#[test]
fn a_route_either_forwards_or_redirects() {
    assert_rejected(
        "rules/a_route_either_forwards_or_redirects",
        &[
            LISTENER,
            CLUSTER,
            r#"[[route]]
name = "all"
path = "/*"
cluster = "hosp"
redirect = { host = "new.example.org" }
"#,
        ],
    );
}

#[test]
fn what_is_no_redirect_is_answered_with_one() {
    for (redirect, message) in [
        ("{ }", "a redirect changes the scheme, the host or the port"),
        ("{ status = 308 }", "a redirect changes the scheme, the host or the port"),
        (r#"{ host = "a.org", status = 200 }"#, "invalid `status`"),
        (r#"{ host = "https://a.org" }"#, "invalid `host`"),
        (r#"{ host = "a.org:8443" }"#, "invalid `host`"),
        (r#"{ host = "2001:db8::1" }"#, "invalid `host`"),
        (r#"{ host = "a.org/x" }"#, "invalid `host`"),
        (r#"{ host = "a.org\r\nX: y" }"#, "invalid `host`"),
        ("{ port = 0 }", "`port` must be between 1 and 65535"),
        (r#"{ scheme = "ftp" }"#, "invalid `scheme`"),
        (r#""https://a.org""#, "`redirect` takes a table"),
    ] {
        assert_eq!(messages(&redirecting("", redirect)), [message], "{redirect}");
    }
}

#[test]
fn a_redirect_back_to_itself_is_refused_with_the_way_out() {
    assert_rejected(
        "rules/a_redirect_back_to_itself_is_refused_with_the_way_out",
        &[
            LISTENER,
            r#"[[route]]
name = "to-https"
path = "/*"
redirect = { scheme = "https" }
"#,
        ],
    );
    for (route, redirect) in [
        ("host = \"a.org\"", r#"{ host = "A.org" }"#),
        ("host = \"a.org\"\nscheme = \"https\"", r#"{ host = "a.org", scheme = "https" }"#),
        ("scheme = \"http\"", r#"{ scheme = "http" }"#),
    ] {
        assert_eq!(
            messages(&redirecting(route, redirect)),
            ["this redirect leads back to itself"],
            "{route}"
        );
    }
    for (route, redirect) in [
        ("scheme = \"http\"", r#"{ scheme = "https" }"#),
        ("host = \"a.org\"", r#"{ host = "b.org" }"#),
        ("host = \"a.org\"", r#"{ host = "a.org", port = 8443 }"#),
        ("host = \"*.a.org\"", r#"{ host = "a.org" }"#),
        ("", r#"{ host = "b.org" }"#),
    ] {
        accepted(&redirecting(route, redirect));
    }
}

#[test]
fn a_redirect_takes_no_keys_of_a_backend() {
    let text = redirecting("deadline = \"1s\"\nmax_body = \"1KiB\"", r#"{ host = "b.org" }"#)
        + "[route.retry]\nmax_attempts = 1\n[route.request_headers]\nremove = [\"Cookie\"]\n";
    let expected = ["deadline", "max_body", "retry", "request_headers"]
        .map(|key| format!("a redirect takes no `{key}`"))
        .to_vec();
    let mut found = messages(&text);
    found.sort();
    let mut expected = expected;
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn only_redirects_need_no_cluster() {
    assert!(accepted(&redirecting("", r#"{ host = "b.org" }"#)).clusters.is_empty());
    assert_eq!(messages(LISTENER), ["there is no cluster", "there is no route"]);
}

#[test]
fn a_header_rule_names_what_it_may() {
    assert_rejected(
        "rules/a_header_rule_names_what_it_may",
        &[
            LISTENER,
            CLUSTER,
            ROUTE,
            r#"[route.request_headers]
remove = ["Cookie", "X-Forwarded-For", "a b"]
set = { Connection = "close", X-Good = "1" }
add = { X-Empty = "", X-Wide = "é", X-Blank = " a" }
[route.response_headers]
set = { Content_Length = "5", X-Number = 5 }
"#,
        ],
    );
}

#[test]
fn a_header_is_named_once_in_a_list() {
    let rules = "[route.response_headers]\nset = { X-A = \"1\", x-a = \"2\" }\nremove = [\"X-B\", \"x-b\"]\n";
    let found = messages(&[LISTENER, CLUSTER, ROUTE, rules].concat());
    assert_eq!(found, ["a header is named twice", "a header is named twice"]);
}

#[test]
fn a_guard_without_a_usable_secret_is_refused_and_the_secret_not_shown() {
    let short = SecretFile::new("short", b"hunter2\n", 0o600);
    let empty = SecretFile::new("empty", b"\n", 0o600);
    let lines = SecretFile::new("lines", b"0123456789abcdef\nfedcba9876543210\n", 0o600);
    let long = SecretFile::new("long", &[b'a'; 4000], 0o600);
    let files = [&short, &empty, &lines, &long].map(SecretFile::shown);
    let mut names: Vec<_> = files.iter().map(String::as_str).collect();
    names.push("no/such/file");
    names.push("/dev/null");
    let report = parse(&guarded(&names), "stent.toml").unwrap_err();
    assert_eq!(
        report.messages().collect::<Vec<_>>(),
        [
            "the secret is shorter than 16 bytes",
            "the secret is empty",
            "the secret holds characters that a header cannot carry",
            "the secret is longer than 1783 bytes",
            "a secret cannot be read",
            "a secret cannot be read",
        ]
    );
    let report = report.to_string();
    assert!(!report.contains("hunter2") && !report.contains("0123456789abcdef"), "{report}");
    assert!(report.contains("openssl rand -hex 32"), "{report}");
    assert_eq!(messages(&guarded(&[])), ["a guard takes 1 to 16 secrets"]);
}

#[test]
fn a_secret_that_everybody_may_read_is_warned_about_and_shown_nowhere() {
    let secret = SecretFile::new("open", b"0123456789abcdef\n", 0o644);
    let config = accepted(&guarded(&[&secret.shown()]));
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    let said = warning.to_string();
    assert!(said.contains(&secret.shown()) && said.contains("chmod o-rwx"), "{said}");
    let written = effective(&config);
    assert_eq!(accepted(&written), config);
    for shown in [written, format!("{config:?}"), warning.report().to_owned()] {
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
    }
    let secret = SecretFile::new("closed", b"0123456789abcdef\n", 0o640);
    assert!(accepted(&guarded(&[&secret.shown()])).warnings.is_empty());
}

#[test]
fn a_guard_asks_for_a_header_of_its_own() {
    let secret = SecretFile::new("header", b"0123456789abcdef\n", 0o600);
    let text = guarded(&[&secret.shown()]);
    for header in ["Host", "X-Forwarded-For", "X_Secret", "Connection"] {
        let found = messages(&text.replace("X-Origin-Secret", header));
        assert_eq!(found, ["this header cannot carry a secret"], "{header}");
    }
    assert_eq!(messages(&text.replace("X-Origin-Secret", "a b")), ["invalid `header`"]);
    let inner = format!(
        "[route.origin_guard]\nheader = \"x-origin-secret\"\nsecret_files = [{:?}]\n",
        secret.shown()
    );
    assert_eq!(messages(&(text + &inner)), ["two guards ask for one header"]);
}

#[test]
fn a_guard_lacks_neither_header_nor_files() {
    let text = [LISTENER, "[listener.origin_guard]\n", CLUSTER, ROUTE].concat();
    assert_eq!(
        messages(&text),
        ["`[listener.origin_guard]` has no `header`", "`[listener.origin_guard]` has no `secret_files`"]
    );
}
