//! What must not be sent twice: keys that are none, and writes with a precondition.

use crate::support::{Action, Backend, Config, Refused, Stent, TempDir, command};

/// Sends a request whose first attempt fails, and says how often it went out, the status, and the rule that stopped it.
fn sent(config: &Config, backend: &Backend, method: &str, headers: &[(&str, &str)]) -> (usize, u16, String) {
    let stent = Stent::start(config);
    let before = backend.requests().len();
    let status = stent.client().request(method, "/notes/1", headers, b"first").status;
    let stopped = stent.only_line().text("retry_stopped").unwrap_or("never").to_owned();
    if stopped != "never" {
        stent.wait_for_metric("stent_retry_stopped_total", &[("why", &stopped)], 1.0);
    }
    (backend.requests().len() - before, status, stopped)
}

fn once(status: u16, why: &str) -> (usize, u16, String) {
    (1, status, why.to_owned())
}

fn twice() -> (usize, u16, String) {
    (2, 200, "never".to_owned())
}

#[test]
fn by_default_no_key_of_a_caller_makes_a_post_repeatable() {
    for failure in [Action::answer(502, ""), Action::reset()] {
        let backend = Backend::scripted([failure]);
        let key = [("Idempotency-Key", "8e03978e-40d5-43dd-bc93-6894a57f9324")];
        assert_eq!(sent(&Config::new(&backend), &backend, "POST", &key), once(502, "method"));
    }
}

#[test]
fn only_exactly_one_key_that_reaches_the_backend_makes_a_post_repeatable() {
    let backend = Backend::healthy();
    let config = Config::new(&backend).honouring_keys();
    let post = |config: &Config, headers: &[(&str, &str)]| {
        backend.then([Action::answer(502, "")]);
        sent(config, &backend, "POST", headers)
    };
    let key = ("Idempotency-Key", "k-1");
    assert_eq!(post(&config, &[key]), twice());
    for headers in [
        &[("Idempotency-Key", "")][..],
        &[("Idempotency-Key", " \t")],
        &[("Idempotency-Key", "\"\"")],
        &[key, ("Idempotency-Key", "k-2")],
        &[key, ("Idempotency-Key", "")],
        &[("Idempotency-Key", "k-1, k-2")],
        &[key, ("Connection", "Idempotency-Key")],
        &[key, ("Connection", "keep-alive, idempotency-key")],
    ] {
        assert_eq!(post(&config, headers), once(502, "method"), "{headers:?}");
    }
    let removed = config.clone().set("route.request_headers.remove", vec!["Idempotency-Key"]);
    assert_eq!(post(&removed, &[key]), once(502, "method"));
    let other = config.set("cluster.hosp.retry.idempotency_header", "X-Operation-Id");
    assert_eq!(post(&other, &[key]), once(502, "method"));
    assert_eq!(post(&other, &[("X-Operation-Id", "o-1")]), twice());
}

#[test]
fn a_key_that_a_rule_sets_is_no_key_and_a_promise_for_all_clusters_is_warned_about() {
    let backend = Backend::healthy();
    let directory = TempDir::new();
    let check = |config: &Config| {
        let path = directory.path().join("stent.toml");
        std::fs::write(&path, config.text(std::path::Path::new("/dev/null"))).unwrap();
        let output = command::stent(&["check".as_ref(), path.as_os_str()]);
        let [_, errors] = command::said(&output);
        (output.status.success(), errors)
    };
    let constant =
        Config::new(&backend).honouring_keys().set("route.request_headers.set.Idempotency-Key", "k");
    let (is_good, errors) = check(&constant);
    assert!(!is_good && errors.contains("the same for every request"), "{errors}");

    let (is_good, errors) = check(&Config::new(&backend).honouring_keys());
    assert!(is_good && errors.is_empty(), "{errors}");
    let (is_good, errors) = check(&Config::new(&backend).retry("idempotency_header", "Idempotency-Key"));
    assert!(is_good && errors.starts_with("warning: `idempotency_header` in `[retry]`"), "{errors}");
    assert!(
        errors.contains("stent.toml:") && errors.contains("^^^") && errors.contains("help: "),
        "{errors}"
    );
}

const CONDITIONS: [(&str, &str); 4] = [
    ("If-None-Match", "*"),
    ("If-Match", "\"1\""),
    ("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT"),
    ("If", "([\"1\"])"),
];

#[test]
fn a_conditional_write_that_may_have_arrived_is_an_honest_failure() {
    let backend = Backend::healthy();
    let config =
        Config::new(&backend).set("cluster.hosp.retry.methods", vec!["GET", "PUT", "DELETE", "PATCH"]);
    for condition in CONDITIONS {
        for method in ["PUT", "DELETE", "PATCH"] {
            backend.then([Action::reset()]);
            let reset = sent(&config, &backend, method, &[condition]);
            assert_eq!(reset, once(502, "condition"), "{method} {condition:?}");
            backend.then([Action::answer(500, "")]);
            let failed = sent(&config, &backend, method, &[condition]);
            assert_eq!(failed, once(500, "condition"), "{method} {condition:?}");
        }
        backend.then([Action::reset()]);
        assert_eq!(sent(&config, &backend, "GET", &[condition]), twice(), "{condition:?}");
    }
}

#[test]
fn a_conditional_write_is_judged_as_the_backend_sees_it() {
    let backend = Backend::healthy();
    let config = Config::new(&backend);
    let put = |config: &Config, headers: &[(&str, &str)]| {
        backend.then([Action::answer(502, "")]);
        sent(config, &backend, "PUT", headers)
    };
    let condition = ("If-Match", "\"1\"");
    assert_eq!(put(&config, &[condition]), once(502, "condition"));
    assert_eq!(put(&config, &[condition, ("Connection", "If-Match")]), twice());
    assert_eq!(put(&config, &[("If-Range", "\"1\"")]), twice(), "no precondition of a write");
    let removed = config.clone().set("route.request_headers.remove", vec!["If-Match"]);
    assert_eq!(put(&removed, &[condition]), twice());
    let added = config.clone().set("route.request_headers.set.If-Match", "*");
    assert_eq!(put(&added, &[]), once(502, "condition"));
    let key = ("Idempotency-Key", "k-1");
    assert_eq!(put(&config.honouring_keys(), &[condition, key]), twice(), "the backend acts once on it");
}

#[test]
fn a_conditional_write_of_which_nothing_was_sent_goes_to_another_endpoint() {
    let (refused, backend) = (Refused::new(), Backend::healthy());
    let config = Config::with_endpoints(&[refused.address(), backend.address()])
        .set("cluster.hosp.balance", "round_robin");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..2 {
        assert_eq!(client.request("PUT", "/notes/1", &[CONDITIONS[0]], b"first").status, 200);
    }
    assert_eq!(backend.requests().len(), 2);
}
