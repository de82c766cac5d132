//! A full listener: connections that carry nothing close for new callers, and no others do.

use std::time::Instant;

use crate::support::client::request;
use crate::support::http2::{Caller, Frames, GOAWAY, HEADERS, PREFACE};
use crate::support::tls::{Pki, TlsClient};
use crate::support::{Action, Backend, Client, Config, Stent, eventually, ms};

/// A listener that takes so many.
fn full_at(most: u32, backend: &Backend) -> Config {
    Config::new(backend).set("listener.max_connections", most)
}

/// The same, whose callers are trusted proxies.
fn trusting(most: u32, backend: &Backend) -> Config {
    full_at(most, backend).set("listener.trusted_proxies", vec!["127.0.0.0/8"])
}

fn evicted(stent: &Stent, standing: &str) -> f64 {
    stent.metric("stent_connections_evicted_total", &[("standing", standing)])
}

/// A backend that answers `/hang` only when it is released.
fn hanging() -> Backend {
    Backend::new(|request| match &*request.target {
        "/hang" => Action::hang(),
        _ => Action::answer(200, "ok"),
    })
}

#[test]
fn silent_callers_never_shut_a_user_out() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(4, &backend).set("server.workers", 2));
    let _silent: Vec<Client> = (0..9).map(|_| stent.client()).collect();
    let begun = Instant::now();
    assert_eq!(stent.client().get("/").status, 200);
    assert!(begun.elapsed() < ms(10_000), "not after header_timeout: {:?}", begun.elapsed());
    assert!(evicted(&stent, "silent") >= 6.0, "four were in, and five before the user");
    assert!(evicted(&stent, "idle") + evicted(&stent, "trusted") < 0.5);
}

#[test]
fn the_silent_close_before_a_user_who_has_had_an_answer() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(3, &backend));
    let mut user = stent.client();
    assert_eq!(user.get("/").status, 200);
    let _silent: Vec<Client> = (0..2).map(|_| stent.client()).collect();
    std::thread::sleep(ms(1100));
    let _more: Vec<Client> = (0..2).map(|_| stent.client()).collect();
    eventually("two have closed for two", || (evicted(&stent, "silent") > 1.5).then_some(()));
    std::thread::sleep(ms(1100));
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(user.get("/").status, 200, "its connection is as good as before");
    assert!(evicted(&stent, "idle") < 0.5);
}

#[test]
fn whoever_says_less_than_a_request_is_silent() {
    let backend = Backend::healthy();
    // Over HTTP/2 without a request, before a PROXY header, and in the middle of a handshake.
    let stent = Stent::start(&full_at(1, &backend));
    let mut frames = Frames::connect(stent.listener(), &[]);
    assert_eq!(stent.client().get("/").status, 200);
    assert!(frames.next_of(GOAWAY).is_some());
    assert!((evicted(&stent, "silent") - 1.0).abs() < 1e-9);

    let stent = Stent::start(&full_at(1, &backend).set("listener.proxy_protocol", "required"));
    let mut half = stent.client();
    half.send(b"PROXY TCP4 203.0");
    let mut user = stent.client();
    user.send(&[b"PROXY UNKNOWN\r\n", &request("GET", "/", &[], b"")[..]].concat());
    assert_eq!(user.response().status, 200);
    assert!(half.is_closed());
    assert!(stent.metric("stent_proxy_protocol_errors_total", &[]) < 0.5, "it was no error of its own");

    let pki = Pki::new();
    let certificate = pki.pair("hosp", &pki.authority.issue(&["hosp.test"]));
    let stent = Stent::start(&full_at(1, &backend).set("listener.tls.certificates", vec![certificate]));
    let mut half = stent.client();
    half.send(b"\x16\x03\x01\x02\x00");
    let mut user = TlsClient::connect(stent.listener(), &pki.caller().build(), "hosp.test").unwrap();
    assert_eq!(user.get(&[]).unwrap().status, 200);
    assert!(half.is_closed());
}

#[test]
fn of_idle_strangers_the_longest_idle_closes() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(3, &backend));
    let mut idle: Vec<Client> = (0..3).map(|_| stent.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status, 200);
    }
    // The first was used again.
    assert_eq!(idle[0].get("/").status, 200);
    assert_eq!(stent.client().get("/").status, 200);
    assert!(idle[1].is_closed());
    assert_eq!((idle[0].get("/").status, idle[2].get("/").status), (200, 200));
    assert!((evicted(&stent, "idle") - 1.0).abs() < 1e-9);
}

#[test]
fn a_flood_of_idle_strangers_keeps_no_user_out() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(4, &backend).set("server.workers", 2));
    let mut flood = Vec::new();
    for _ in 0..12 {
        // After a request with a body, what is unread of it is heard out before the connection closes.
        let mut client = stent.client();
        assert_eq!(client.post("/", "x").status, 200);
        flood.push(client);
    }
    assert!(evicted(&stent, "idle") >= 8.0);
}

#[test]
fn a_trusted_proxys_connection_closes_only_after_five_idle_seconds() {
    let backend = Backend::healthy();
    let stent = Stent::start(&trusting(2, &backend));
    let mut proxies = [stent.client(), stent.client()];
    for proxy in &mut proxies {
        assert_eq!(proxy.get("/").status, 200);
    }
    let begun = Instant::now();
    let mut next = stent.client();
    next.send(&request("GET", "/", &[], b""));
    while begun.elapsed() < ms(3000) {
        std::thread::sleep(ms(500));
        assert_eq!(proxies[1].get("/").status, 200, "requests meet no close");
    }
    assert_eq!(next.response().status, 200);
    assert!(begun.elapsed() >= ms(4900), "{:?}", begun.elapsed());
    assert!(proxies[0].is_closed());
    assert_eq!(proxies[1].get("/").status, 200);
    assert!((evicted(&stent, "trusted") - 1.0).abs() < 1e-9);
}

#[test]
fn over_http2_the_caller_is_told_by_goaway_and_what_was_on_its_way_is_answered() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(1, &backend));
    let mut frames = Frames::connect(stent.listener(), &[]);
    frames.get(1, "/").unwrap();
    assert!(frames.next_of(HEADERS).is_some());
    let mut user = stent.client();
    user.send(&request("GET", "/", &[], b""));
    let told = frames.next_of(GOAWAY).unwrap();
    assert_eq!(
        (told.code(), &told.payload[..4]),
        (0, &[0x7f, 0xff, 0xff, 0xff][..]),
        "nothing is refused yet"
    );
    frames.get(3, "/crossing").unwrap();
    assert!(frames.next_of(HEADERS).is_some());
    assert_eq!(user.response().status, 200);
}

#[test]
fn a_real_http2_client_hears_of_it_before_its_next_request() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(1, &backend));
    let mut caller = Caller::connect(stent.listener());
    assert_eq!(caller.get("/").status, 200);
    assert_eq!(stent.client().get("/").status, 200);
    assert!(caller.is_told_to_go(), "NO_ERROR, and no reset");
    assert!((evicted(&stent, "idle") - 1.0).abs() < 1e-9);
}

#[test]
fn callers_of_http2_that_ignore_goaway_hold_nobody_up() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(8, &backend));
    let _deaf: Vec<Frames> = (0..16).map(|_| Frames::connect(stent.listener(), &[])).collect();
    assert_eq!(stent.client().get("/").status, 200);
    stent.wait_for_metric("stent_downstream_connections", &[], 8.0);
}

#[test]
fn a_connection_with_a_request_under_way_never_closes_for_another() {
    let backend = hanging();
    let stent = Stent::start(&full_at(4, &backend));
    let mut waiting = stent.client();
    waiting.send(&request("GET", "/hang", &[], b""));
    let mut uploading = stent.client();
    uploading.send_head("POST", "/", &[("Transfer-Encoding", "chunked")]);
    uploading.send_chunk(b"first");
    let mut multiplexed = Frames::connect(stent.listener(), &[]);
    multiplexed.get(1, "/hang").unwrap();
    let mut half_a_head = stent.client();
    half_a_head.send(b"GET / HTTP/1.1\r\nHost: ho");
    backend.wait_for_requests(3);
    let mut next = stent.client();
    next.send(&request("GET", "/next", &[], b""));
    std::thread::sleep(ms(2500));
    assert_eq!(backend.requests().len(), 3, "the next one waits");
    stent.wait_for_metric("stent_accept_paused_total", &[], 1.0);
    assert!(evicted(&stent, "silent") + evicted(&stent, "idle") < 0.5);
    half_a_head.send(b"sp.test\r\n\r\n");
    assert_eq!(half_a_head.response().status, 200);
    uploading.send_chunk(b"");
    assert_eq!(uploading.response().status, 200);
    assert_eq!(next.response().status, 200, "one is idle for a second, and closes");
}

#[test]
fn a_tunnel_is_no_idle_connection() {
    let backend = Backend::scripted([Action::switch_to("websocket")]);
    let stent = Stent::start(&full_at(1, &backend));
    let mut tunnel = stent.client();
    let (status, _) = tunnel.upgrade("/", &[("Connection", "upgrade"), ("Upgrade", "websocket")], b"");
    assert_eq!(status, 101);
    let mut next = stent.client();
    next.send(&request("GET", "/", &[], b""));
    std::thread::sleep(ms(1500));
    tunnel.send(b"still here");
    assert_eq!(tunnel.read_raw(10), b"still here");
    tunnel.finish();
    assert!(tunnel.is_closed());
    assert_eq!(next.response().status, 200);
}

#[test]
fn half_a_head_keeps_its_place_until_header_timeout_and_no_longer() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(1, &backend).set("listener.header_timeout", "2s"));
    let mut slow = stent.client();
    slow.send(b"GET / HT");
    let begun = Instant::now();
    let mut user = stent.client();
    assert_eq!(user.get("/").status, 200);
    assert!(begun.elapsed() >= ms(1900), "{:?}", begun.elapsed());
    assert_eq!(slow.response().status, 408, "it is told, as on a listener with room");
    assert!(evicted(&stent, "silent") < 0.5);
}

#[test]
fn a_connection_that_rests_without_buffers_can_close_too() {
    let backend = Backend::healthy();
    // Half of the shortest limit: it comes to rest after a second.
    let stent = Stent::start(&full_at(1, &backend).set("listener.header_timeout", "2s"));
    let mut idle = stent.client();
    assert_eq!(idle.get("/").status, 200);
    std::thread::sleep(ms(3500));
    assert_eq!(stent.client().get("/").status, 200);
    assert!(idle.is_closed());
}

#[test]
fn below_the_limit_nobody_closes() {
    let backend = Backend::healthy();
    let stent = Stent::start(&full_at(3, &backend));
    let mut idle = stent.client();
    assert_eq!(idle.get("/").status, 200);
    let _silent = stent.client();
    std::thread::sleep(ms(1500));
    // The third takes the last place, and nobody waits for another.
    assert_eq!(stent.client().get("/").status, 200);
    assert_eq!(idle.get("/").status, 200);
    assert_eq!(Frames::connect_silently(stent.listener()).write(PREFACE).ok(), Some(()));
    assert!(evicted(&stent, "idle") < 0.5);
}
