//! The tools of these tests do what they say: the client against the backend, without a proxy between them.

use std::io::ErrorKind;

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Refused, noise};

#[test]
fn a_refused_address_refuses() {
    let refused = Refused::new();
    let error = Client::try_connect(refused.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_backend_that_stops_refuses_until_it_starts_again_at_the_same_address() {
    let backend = Backend::healthy();
    let mut client = Client::connect(backend.address());
    assert_eq!(client.get("/").status, 200);
    for _ in 0..3 {
        backend.stop();
        assert!(client.is_closed(), "open connections end too");
        let error = Client::try_connect(backend.address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        backend.start();
        client = Client::connect(backend.address());
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn the_backend_records_what_came() {
    let backend = Backend::healthy();
    let mut client = Client::connect(backend.address());
    let body = noise(100_000);
    client.request("PUT", "/a?b", &[("X-A", "1")], &body);
    client.request_chunked("POST", "/c", &[&body[..10], &body[10..]]);
    let requests = backend.requests();
    assert_eq!((&*requests[0].method, &*requests[0].target), ("PUT", "/a?b"));
    assert_eq!((&*requests[1].method, requests[1].connection, requests[1].number), ("POST", 1, 2));
    assert!(requests.iter().all(|received| received.complete && received.body == body));
    assert_eq!(requests[0].raw, request("PUT", "/a?b", &[("X-A", "1")], &body));
}

#[test]
fn the_client_tells_each_kind_of_end_apart() {
    let ends = [
        (Action::close(), ErrorKind::UnexpectedEof),
        (Action::reset(), ErrorKind::ConnectionReset),
        (Action::half_head_then_close(), ErrorKind::InvalidData),
        (Action::garbage(), ErrorKind::InvalidData),
    ];
    for (action, kind) in ends {
        let backend = Backend::scripted([action]);
        let mut client = Client::connect(backend.address());
        client.send(&request("GET", "/", &[], b""));
        assert_eq!(client.try_response().unwrap_err().kind(), kind);
    }
    for action in [Action::truncated(10, 100), Action::chunked_truncated()] {
        let backend = Backend::scripted([action]);
        assert!(Client::connect(backend.address()).get("/").truncated);
    }
    let backend = Backend::scripted([Action::chunked(200, &[b"a", b"b"]).after_interim(103)]);
    let mut client = Client::connect(backend.address());
    let response = client.get("/");
    assert_eq!((response.text(), response.truncated), ("ab".into(), false));
    assert_eq!(client.get("/").text(), "ok");
}

#[test]
fn idle_connections_can_be_reset_and_closed() {
    let backend = Backend::healthy();
    let mut client = Client::connect(backend.address());
    client.get("/");
    backend.reset_connections();
    backend.wait_until_closed(1);
    client.try_send(b"GET").unwrap_or_default();
    assert!(client.is_closed());
}
