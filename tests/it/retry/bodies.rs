//! Request bodies over a retry: copied while they stream, sent again whole, or not at all.

use crate::support::{Action, Backend, Config, Refused, Stent, eventually, noise};

#[test]
fn a_body_arrives_whole_at_the_second_attempt() {
    let body = noise(300_000);
    for failure in [Action::answer(502, ""), Action::reset()] {
        let backend = Backend::scripted([failure]);
        let stent = Stent::start(&Config::new(&backend));
        assert_eq!(stent.client().put("/scans/1", &body).status, 200);
        let requests = backend.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests.iter().all(|request| request.complete && request.body == body));
        assert_eq!(requests[1].headers.content_length(), Some(body.len()));
        stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
    }
}

#[test]
fn a_chunked_body_arrives_whole_at_the_second_attempt() {
    let body = noise(300_000);
    let parts: Vec<&[u8]> = body.chunks(7001).collect();
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().request_chunked("PUT", "/scans/1", &parts).status, 200);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.complete && request.body == body));
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
}

#[test]
fn a_body_that_broke_off_at_the_first_endpoint_arrives_whole_at_the_second() {
    let body = noise(500_000);
    let backend = Backend::scripted([Action::reset_before_body()]);
    let stent = Stent::start(&Config::new(&backend));
    assert_eq!(stent.client().put("/scans/1", &body).status, 200);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].body == body, "every byte is there, in order");
}

#[test]
fn a_body_over_body_limit_streams_on_and_is_not_sent_again() {
    let body = noise(400_000);
    let backend = Backend::scripted([Action::answer(502, "as it is")]);
    let stent = Stent::start(&Config::new(&backend).retry("body_limit", "64KiB"));
    let response = stent.client().put("/scans/1", &body);
    assert_eq!((response.status, response.text()), (502, "as it is".into()));
    let requests = backend.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].body == body, "the limit is one on the copy, not on the body");
    assert_eq!(stent.only_line().text("retry_stopped"), Some("body"));
    assert_eq!(stent.client().put("/scans/1", &body).status, 200);
    stent.wait_for_metric("stent_replay_overflow_total", &[], 2.0);
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
}

#[test]
fn a_body_over_the_processes_replay_memory_streams_on_and_is_not_sent_again() {
    let body = noise(400_000);
    let backend = Backend::scripted([Action::answer(502, "as it is")]);
    let stent = Stent::start(&Config::new(&backend).set("server.replay_memory", "64KiB"));
    let response = stent.client().put("/scans/1", &body);
    assert_eq!((response.status, response.text()), (502, "as it is".into()));
    assert!(backend.requests()[0].body == body, "the cap is one on the copy, not on the body");
    assert_eq!(stent.only_line().text("retry_stopped"), Some("body"));
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
}

#[test]
fn bodies_at_once_share_replay_memory_and_each_is_delivered() {
    const CALLERS: usize = 6;
    const CAP: f64 = 256.0 * 1024.0;
    let body = noise(150_000);
    let (first, rest) = body.split_at(100_000);
    let backend = Backend::healthy();
    let config = Config::new(&backend).set("server.workers", 2).set("server.replay_memory", "256KiB");
    let stent = Stent::start(&config);
    let mut clients: Vec<_> = (0..CALLERS).map(|_| stent.client()).collect();
    for client in &mut clients {
        client.send_head("PUT", "/scans/1", &[("Content-Length", &body.len().to_string())]);
        client.send(first);
    }
    // No more than two copies of the first parts fit, and the other bodies must do without.
    eventually("the end of four copies", || {
        (stent.metric("stent_replay_overflow_total", &[]) >= 4.0).then_some(())
    });
    let kept = stent.metric("stent_replay_bytes", &[]);
    assert!(kept > 0.0 && kept <= CAP, "{kept} bytes are kept");
    for client in &mut clients {
        client.send(rest);
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    let requests = backend.requests();
    assert_eq!(requests.len(), CALLERS);
    assert!(requests.iter().all(|request| request.complete && request.body == body));
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
    backend.then([Action::answer(502, "")]);
    assert_eq!(stent.client().put("/scans/1", &body).status, 200, "there is room again");
}

#[test]
fn a_retry_after_nothing_was_sent_does_not_need_the_copy() {
    let body = noise(400_000);
    let (refused, backend) = (Refused::new(), Backend::healthy());
    let config = Config::with_endpoints(&[refused.address(), backend.address()])
        .set("cluster.hosp.balance", "round_robin")
        .retry("body_limit", "1KiB");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    for _ in 0..4 {
        assert_eq!(client.post("/scans", &body).status, 200);
    }
    assert!(backend.requests().iter().all(|request| request.body == body));
    let attempts: usize = stent.access_log(4).iter().map(|line| line.attempts().len()).sum();
    assert!(attempts > 4, "round robin comes to the endpoint that refuses");
}

#[test]
fn a_body_that_goes_on_after_an_early_answer_arrives_whole_at_the_second_attempt() {
    let body = noise(900_000);
    let backend = Backend::scripted([Action::answer(500, "too early").before_body()]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send_head("PUT", "/scans/1", &[("Content-Length", &body.len().to_string())]);
    for part in body.chunks(100_000) {
        client.send(part);
    }
    assert_eq!(client.response().status, 200);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[1].body == body, "every byte is there, in order");
    drop(client);
    assert_eq!(stent.only_line().results(), ["500", "200"]);
    stent.wait_for_metric("stent_replay_bytes", &[], 0.0);
}

#[test]
fn an_early_answer_reaches_a_caller_that_waits_for_it() {
    let backend = Backend::scripted([Action::answer(500, "too early").before_body()]);
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send_head("PUT", "/scans/1", &[("Content-Length", "100000")]);
    client.send(&noise(1000));
    let response = client.response();
    assert_eq!((response.status, response.text()), (500, "too early".into()));
    drop(client);
    let line = stent.only_line();
    assert_eq!(line.text("retry_stopped"), Some("body"));
    assert_eq!(line.results(), ["500"]);
    stent.wait_for_metric("stent_retry_stopped_total", &[("why", "body")], 1.0);
    assert_eq!(backend.requests().len(), 1);
    // Half a request stands on that connection: another must not follow it there.
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(backend.requests()[1].connection, 2);
}
