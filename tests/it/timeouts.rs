//! Peers that fall silent, and how long each silence is borne.

use std::time::Instant;

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, ms};

#[test]
fn a_caller_silent_inside_its_body_for_body_timeout_gets_a_408() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.body_timeout", "300ms"));
    for framing in [("Content-Length", "10"), ("Transfer-Encoding", "chunked")] {
        let mut client = stent.client();
        client.send_head("PUT", "/", &[framing]);
        let start = Instant::now();
        client.send(b"2\r\nab\r\n");
        assert_eq!(client.response().status, 408, "{framing:?}");
        assert!((ms(295)..ms(1200)).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert!(client.is_closed());
    }
    for line in stent.access_log(2) {
        assert_eq!((line.status(), line.text("origin")), (408, Some("downstream")));
        assert_eq!(line.results(), ["cancelled"], "the endpoint is not to blame");
    }
    for connection in [1, 2] {
        backend.wait_until_closed(connection);
    }
    assert!(backend.requests().iter().all(|request| !request.complete), "the backend saw no clean end");
    stent.wait_for_metric("stent_upstream_connections", &[], 0.0);
}

#[test]
fn a_caller_that_goes_on_sending_is_not_silent() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.body_timeout", "300ms"));
    let mut client = stent.client();
    client.send_head("PUT", "/", &[("Content-Length", "1000")]);
    for byte in b"drops" {
        std::thread::sleep(ms(150));
        client.send(&[*byte; 200]);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.requests()[0].body.len(), 1000);
}

/// Otherwise a byte before each end of `body_timeout` would keep a connection to the backend for days.
#[test]
fn a_caller_that_drips_its_body_gets_a_408_when_its_pauses_add_up_to_body_timeout() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.body_timeout", "600ms"));
    let mut client = stent.client();
    let start = Instant::now();
    client.send_head("PUT", "/", &[("Content-Length", "1000")]);
    while client.try_send(b"x").is_ok() && start.elapsed() < ms(1200) {
        std::thread::sleep(ms(50));
    }
    assert_eq!(client.response().status, 408);
    assert!(client.is_closed());
    let line = stent.only_line();
    assert!((595.0..1800.0).contains(&(line.number("duration_us") / 1000.0)), "{line:?}");
    backend.wait_until_closed(1);
    assert!(!backend.requests()[0].complete);
}

#[test]
fn an_upstream_silent_inside_its_body_for_body_timeout_is_a_truncated_answer() {
    let stalls =
        ["Content-Length: 100\r\n\r\nhalf of it", "Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n"];
    for stall in stalls {
        // The connection stays open, as if the backend had more to say.
        let backend = Backend::scripted([Action::raw_kept_open(format!("HTTP/1.1 200 OK\r\n{stall}"))]);
        let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.body_timeout", "300ms"));
        let start = Instant::now();
        let response = stent.client().get("/");
        assert!(response.truncated, "the caller can tell: {response:?}");
        assert_eq!(response.text(), "half of it");
        assert!((ms(295)..ms(1200)).contains(&start.elapsed()), "{:?}", start.elapsed());
        let line = stent.only_line();
        assert_eq!(line.text("outcome"), Some("upstream_truncated"));
        assert_eq!(line.text("error"), Some("http_response_incomplete"));
        backend.wait_until_closed(1);
        stent.wait_for_metric("stent_upstream_connections", &[], 0.0);
    }
}

#[test]
fn an_upstream_that_goes_on_sending_is_not_silent() {
    let parts: [&[u8]; 4] = [b"one", b"two", b"three", b"four"];
    let backend = Backend::scripted([Action::slow_body(200, &parts, ms(150))]);
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.body_timeout", "300ms"));
    assert_eq!(stent.client().get("/").text(), "onetwothreefour");
}

#[test]
fn a_caller_that_takes_nothing_of_its_answer_for_write_timeout_is_cut_off() {
    // More than the buffers of the system and of the proxy hold.
    let backend = Backend::scripted([Action::answer(200, vec![b'x'; 64 << 20])]);
    let config = Config::new(&backend)
        .set("listener.write_timeout", "500ms")
        // A connection's limits are first looked at then; later looks may be seconds apart.
        .set("listener.header_timeout", "500ms");
    let stent = Stent::start(&config);
    let start = Instant::now();
    let mut client = stent.client();
    client.send(&request("GET", "/", &[], b""));
    backend.wait_until_closed(1);
    assert!((ms(495)..ms(3000)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(stent.only_line().text("outcome"), Some("client_abort"));
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
    stent.wait_for_metric("stent_upstream_connections", &[], 0.0);
    assert!(client.try_response().is_ok_and(|response| response.truncated));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_cut_off_after_header_timeout_in_all() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.header_timeout", "400ms"));
    let mut client = stent.client();
    let took = drip(&mut client);
    assert!((ms(395)..ms(1000)).contains(&took), "{took:?}");
    assert!(backend.requests().is_empty());
    let line = stent.only_line();
    assert_eq!((line.status(), line.text("origin")), (408, Some("downstream")));
}

#[test]
fn a_head_that_stops_half_way_is_answered_with_408() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.header_timeout", "300ms"));
    let mut client = stent.client();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: ");
    let response = client.response();
    assert_eq!((response.status, response.truncated, response.closes()), (408, false, true));
    assert!(response.headers.lists("cache-control", "no-store"));
    assert!(response.text().ends_with("The request head did not arrive in time.\n"), "{}", response.text());
    assert!(client.is_closed());
}

/// A connection's limits are looked at every 5 s at least, so that a head may take that much longer.
#[test]
fn a_later_head_that_comes_byte_by_byte_is_cut_off_too() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.header_timeout", "400ms"));
    let mut client = stent.client();
    assert_eq!(client.get("/").status, 200);
    let took = drip(&mut client);
    assert!((ms(395)..ms(6000)).contains(&took), "{took:?}");
    assert_eq!(backend.requests().len(), 1);
}

/// Sends a head that never ends, a byte each 20 ms, until the proxy closes the connection.
fn drip(client: &mut Client) -> std::time::Duration {
    let start = Instant::now();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Drops: ";
    let mut drops = head.iter().chain(std::iter::repeat(&b'x'));
    client.send(&[*drops.next().unwrap()]);
    while client.try_send(&[*drops.next().unwrap()]).is_ok() {
        assert!(start.elapsed() < crate::support::BOUND, "the proxy hears it out");
        std::thread::sleep(ms(20));
    }
    start.elapsed()
}

#[test]
fn an_idle_connection_is_closed_after_idle_timeout_and_not_before() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.idle_timeout", "600ms"));
    let start = Instant::now();
    let mut silent = stent.client();
    let mut used = stent.client();
    for _ in 0..3 {
        std::thread::sleep(ms(250));
        assert_eq!(used.get("/").status, 200, "it was in use within the time");
    }
    let last_use = Instant::now();
    assert!(silent.is_closed());
    assert!((ms(595)..ms(1500)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(used.is_closed());
    // A look that meets an exchange puts the next one off by 5 s.
    assert!((ms(595)..ms(6500)).contains(&last_use.elapsed()), "{:?}", last_use.elapsed());
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
    assert_eq!(stent.access_log(3).len(), 3, "no exchange was begun, so none is on record");
}

#[test]
fn a_running_exchange_is_not_idle() {
    let backend = Backend::healthy();
    backend.then([Action::answer(200, "in the end").after(ms(900))]);
    let config = Config::new(&backend)
        .set("listener.idle_timeout", "300ms")
        .set("listener.header_timeout", "300ms")
        .set("listener.body_timeout", "300ms")
        .set("listener.write_timeout", "300ms");
    let stent = Stent::start(&config);
    assert_eq!(stent.client().get("/").text(), "in the end");
}

#[test]
fn a_connection_that_nobody_accepts_is_given_up_after_connect_timeout() {
    // A listener whose backlog is full answers to no further caller.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, ms(200)) {
        queued.push(stream);
    }
    let config = Config::with_endpoints(&[address])
        .set("cluster.hosp.connect_timeout", "200ms")
        .retry("max_attempts", 2);
    let stent = Stent::start(&config);
    let start = Instant::now();
    assert_eq!(stent.client().post("/", "once").status, 504);
    assert!((ms(400)..ms(1500)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let line = stent.only_line();
    assert_eq!(line.results(), ["connect_timeout"; 2]);
    assert_eq!(line.text("error"), Some("connection_timeout"));
    stent.wait_for_metric("stent_upstream_connects_total", &[("result", "connect_timeout")], 2.0);
}
