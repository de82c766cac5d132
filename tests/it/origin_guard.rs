//! The origin guard: who knows the secret comes in, and nobody learns it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Backend, Config, Stent, TempDir};

const OLD: &str = "the-old-secret-of-the-origin";
const NEW: &str = "the-new-secret-of-the-origin";

fn secret(directory: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, format!("{content}\n")).unwrap();
    path
}

fn guarded(config: Config, place: &str, files: &[&Path]) -> Config {
    let files: Vec<_> = files.iter().map(|file| file.to_str().unwrap().to_owned()).collect();
    config
        .set(&format!("{place}.origin_guard.header"), "X-Origin-Secret")
        .set(&format!("{place}.origin_guard.secret_files"), files)
}

#[test]
fn only_exactly_one_right_secret_comes_in_and_it_goes_no_further() {
    let directory = TempDir::new();
    let (old, new) = (secret(&directory, "old", OLD), secret(&directory, "new", NEW));
    let backend = Backend::healthy();
    let stent = Stent::start(&guarded(Config::new(&backend), "listener", &[&old, &new]));
    let mut client = stent.client();
    for lines in [
        &[][..],
        &[("X-Origin-Secret", "wrong")],
        &[("X-Origin-Secret", "")],
        &[("X-Origin-Secret", OLD), ("X-Origin-Secret", OLD)],
        &[("X-Origin-Secret", OLD), ("X-Origin-Secret", "wrong")],
        &[("X_Origin_Secret", OLD)],
    ] {
        let response = client.request("GET", "/", lines, b"");
        assert_eq!(response.status, 403, "{lines:?}");
        assert!(!response.text().contains(OLD));
    }
    assert!(backend.requests().is_empty());
    for value in [OLD, NEW] {
        let lines = [("X-Origin-Secret", value), ("X_Origin_Secret", value)];
        assert_eq!(client.request("GET", "/", &lines, b"").status, 200);
    }
    for request in backend.requests() {
        assert!(!String::from_utf8_lossy(&request.raw).to_lowercase().contains("origin"), "{request:?}");
    }
    let lines = stent.access_log(8);
    assert!(lines[..6].iter().all(|line| line.text("error") == Some("http_request_denied")));
    assert!(lines[..6].iter().all(|line| line.text("origin") == Some("downstream")));
    stent.wait_for_metric("stent_origin_refused_total", &[("listener", "127.0.0.1:0"), ("route", "")], 6.0);
    stent.wait_for_metric("stent_requests_total", &[("code", "403"), ("origin", "downstream")], 6.0);
    let log = fs::read_to_string(stent.access_log_path()).unwrap();
    assert!(!log.contains(OLD) && !log.contains(NEW));
    assert_eq!(stent.count_in_log(OLD) + stent.count_in_log(NEW), 0);
    assert!(!stent.metrics().text().contains(OLD));
}

#[test]
fn a_refusal_tells_nothing_about_routes_or_requests() {
    let directory = TempDir::new();
    let old = secret(&directory, "old", OLD);
    let backend = Backend::healthy();
    let config = guarded(Config::new(&backend), "listener", &[&old]).set("route.path", "/there");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    let mut bodies: Vec<String> = Vec::new();
    for (method, path) in [("GET", "/there"), ("GET", "/nowhere"), ("BREW", "/there")] {
        let response = client.request(method, path, &[("X-Request-Id", "1")], b"");
        assert_eq!(response.status, 403, "{method} {path}");
        bodies.push(response.text());
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    let right = [("X-Origin-Secret", OLD)];
    assert_eq!(client.request("GET", "/nowhere", &right, b"").status, 404);
}

#[test]
fn a_route_has_a_guard_of_its_own() {
    let directory = TempDir::new();
    let old = secret(&directory, "old", OLD);
    let routes = format!(
        "[[route]]\nname = \"open\"\npath = \"/*\"\ncluster = \"hosp\"\n\
         [[route]]\nname = \"guarded\"\npath = \"/admin/*\"\ncluster = \"hosp\"\n\
         [route.response_headers]\nset = {{ Strict-Transport-Security = \"max-age=1\" }}\n\
         [route.origin_guard]\nheader = \"X-Origin-Secret\"\nsecret_files = [{:?}]\n",
        old.to_str().unwrap()
    );
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.underscores", "keep").routes(&routes));
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    let refused = client.get("/admin/");
    assert_eq!(refused.status, 403);
    assert_eq!(refused.headers.only("strict-transport-security"), Some("max-age=1"));
    let lines = [("X-Origin-Secret", OLD), ("X_Origin-Secret", OLD)];
    assert_eq!(client.request("GET", "/admin/", &lines, b"").status, 200);
    assert!(!String::from_utf8_lossy(&backend.requests()[1].raw).contains(OLD));
    stent.wait_for_metric("stent_origin_refused_total", &[("listener", ""), ("route", "guarded")], 1.0);
    assert_eq!(stent.access_log(3)[1].text("route"), Some("guarded"));
}

#[test]
fn a_rotated_secret_opens_connections_that_were_there_before() {
    let directory = TempDir::new();
    let file = secret(&directory, "secret", OLD);
    let backend = Backend::healthy();
    let config = guarded(Config::new(&backend), "listener", &[&file]);
    let stent = Stent::start(&config);
    let mut client = stent.client();
    let mut ask = |value: &str| client.request("GET", "/", &[("X-Origin-Secret", value)], b"").status;
    assert_eq!((ask(OLD), ask(NEW)), (200, 403));
    fs::write(&file, NEW).unwrap();
    stent.reload(&config);
    assert_eq!((ask(OLD), ask(NEW)), (403, 200));
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn a_secret_that_is_gone_leaves_the_old_one_in_force() {
    let directory = TempDir::new();
    let file = secret(&directory, "secret", OLD);
    let backend = Backend::healthy();
    let config = guarded(Config::new(&backend), "listener", &[&file]);
    let stent = Stent::start(&config);
    fs::write(&file, "short\n").unwrap();
    stent.reload_text(&config.text(&stent.access_log_path()));
    stent.wait_for_metric("stent_config_last_reload_successful", &[], 0.0);
    let right = [("X-Origin-Secret", OLD)];
    assert_eq!(stent.client().request("GET", "/", &right, b"").status, 200);
    assert_eq!(stent.client().get("/").status, 403);
}
