//! A 408 by which a backend closes an idle connection (RFC 9110 section 15.5.9).

use crate::support::{Action, Backend, Config, Stent, ms};

/// As HAProxy has it, with a length.
const CLOSING: &str = "HTTP/1.1 408 Request Time-out\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbye";

fn targets(backend: &Backend) -> Vec<(usize, String)> {
    backend.requests().into_iter().map(|request| (request.connection, request.target)).collect()
}

fn expected(requests: &[(usize, &str)]) -> Vec<(usize, String)> {
    requests.iter().map(|(connection, target)| (*connection, (*target).to_owned())).collect()
}

#[test]
fn a_request_that_meets_the_close_of_its_kept_connection_goes_out_again_at_no_cost() {
    for (method, body) in [("GET", ""), ("PUT", "kept and sent again")] {
        let backend = Backend::scripted([Action::answer(200, "warm"), Action::raw(CLOSING)]);
        let config = Config::new(&backend).retry("budget.ratio", 0.0).retry("budget.min_per_second", 0);
        let stent = Stent::start(&config);
        let mut client = stent.client();
        assert_eq!(client.get("/1").status, 200);
        assert_eq!(client.request(method, "/2", &[], body.as_bytes()).text(), "ok", "{method}");
        assert_eq!(targets(&backend), expected(&[(1, "/1"), (1, "/2"), (2, "/2")]), "{method}");
        assert!(backend.requests()[1..].iter().all(|request| request.body == body.as_bytes()), "{method}");
        let lines = stent.access_log(2);
        assert_eq!(lines[1].results(), ["200"], "no attempt is spent on it");
        assert!(stent.metrics().sum("stent_retries_total", &[]).abs() < 1e-9);
    }
}

#[test]
fn an_application_that_means_its_408_gets_one_request_more_and_never_a_third() {
    // Neither does it close, nor is it the only kept connection.
    let backend = Backend::new(|request| match &*request.target {
        "/late" => Action::answer(408, "I mean it"),
        "/warm" => Action::answer(200, "ok").after(ms(50)),
        _ => Action::answer(200, "ok"),
    });
    let stent = Stent::start(&Config::new(&backend));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(stent.client().get("/warm").status, 200));
        }
    });
    let warm = backend.requests().len();
    let response = stent.client().get("/late");
    assert_eq!((response.status, &*response.text()), (408, "I mean it"));
    assert_eq!(backend.requests().len() - warm, 2);
    assert_eq!(stent.client().get("/other").status, 200, "a bystander");
}

#[test]
fn a_408_on_a_new_connection_is_the_answer() {
    let backend = Backend::scripted([Action::raw(CLOSING)]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().get("/").text(), "bye");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_post_that_meets_a_408_is_not_sent_again() {
    let backend = Backend::scripted([Action::answer(200, ""), Action::raw(CLOSING)]);
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.unsafe_reuse", "always"));
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.post("/notes", "once").status, 408);
    assert_eq!(targets(&backend), expected(&[(1, "/"), (1, "/notes")]));
}

#[test]
fn a_408_that_came_before_the_request_costs_nobody_anything() {
    for method in ["GET", "POST"] {
        let backend = Backend::scripted([Action::answer(200, "").then_say(CLOSING, ms(20))]);
        // A POST may ride on any kept connection here, so that nothing but the close keeps it from this one.
        let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.unsafe_reuse", "always"));
        let mut client = stent.client();
        assert_eq!(client.get("/1").status, 200);
        backend.wait_until_closed(1);
        std::thread::sleep(ms(20)); // the close is on its way, and nobody here can see it arrive
        assert_eq!(client.request(method, "/2", &[], b"").status, 200, "{method}");
        assert_eq!(targets(&backend), expected(&[(1, "/1"), (2, "/2")]), "{method}");
    }
}

#[test]
fn a_408_to_a_slow_upload_is_its_callers() {
    let answer = Action::answer(408, "too slow").before_body();
    let backend =
        Backend::scripted([Action::answer(200, ""), answer.clone(), Action::answer(200, ""), answer]);
    let stent = Stent::start(&Config::new(&backend));
    // One that has sent nothing of its body yet, and one that has sent a part.
    for begun in ["", "half"] {
        let mut client = stent.client();
        assert_eq!(client.get("/").status, 200);
        client.send_head("PUT", "/notes/1", &[("Content-Length", "100")]);
        client.send(begun.as_bytes());
        let response = client.response();
        assert_eq!((response.status, &*response.text()), (408, "too slow"), "{begun:?}");
    }
    let puts = backend.requests().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(puts, 2, "one each");
}

#[test]
fn a_408_that_was_thought_over_is_the_answer() {
    let late = Action::answer(408, "took too long").after(ms(1100));
    let backend = Backend::scripted([Action::answer(200, ""), late]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/report").status, 408);
    assert_eq!(backend.requests().len(), 2);
}
