//! What keeps the process from starting, and what does not.

use std::net::TcpListener;

use crate::support::{Backend, Config, Stent};

#[test]
fn a_port_in_use_is_a_clear_message_and_exit_1() {
    let backend = Backend::healthy();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["listener.address", "admin.address"] {
        let config = Config::new(&backend).set(key, &*address);
        let (output, _) = Stent::fail_to_start(Some(&config.text("/dev/null".as_ref())));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&address) && stderr.contains("in use"), "{key}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_missing_file_is_a_clear_message_and_exit_2() {
    let (output, path) = Stent::fail_to_start(None);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(path.to_str().unwrap()) && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn a_malformed_file_is_every_error_with_its_place_and_exit_2() {
    let config = "[server]\nworkers = \"many\"\n\n[admin]\nadress = \"127.0.0.1:0\"\n";
    let (output, path) = Stent::fail_to_start(Some(config));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for line in [2, 5] {
        assert!(stderr.contains(&format!("{}:{line}", path.display())), "line {line}: {stderr}");
    }
    assert!(stderr.contains("address"), "the nearest key is named: {stderr}");
}

#[test]
fn a_file_that_is_no_toml_is_an_error_with_its_place_and_exit_2() {
    let (output, path) = Stent::fail_to_start(Some("[server]\nworkers = \n"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(&format!("{}:2", path.display())), "{stderr}");
}

#[test]
fn an_endpoint_that_does_not_resolve_is_no_reason_not_to_start() {
    let backend = Backend::healthy();
    let config = Config::new(&backend)
        .set("cluster.hosp.endpoints", vec!["http://nowhere.invalid:8080"])
        .retry("max_attempts", 1);
    let stent = Stent::start(&config);
    stent.wait_for_log("the name that does not resolve", |line| line.contains("nowhere.invalid"));
    assert_eq!(stent.client().get("/").status, 502);
    assert_eq!(stent.only_line().text("error"), Some("dns_error"));
}
