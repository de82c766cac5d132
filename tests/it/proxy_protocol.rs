//! The PROXY protocol on a listener that requires it: the address that it gives is the peer's.

use crate::support::client::request;
use crate::support::http2::{END_HEADERS, END_STREAM, Frames, HEADERS, PREFACE, SETTINGS, frame, head};
use crate::support::{Backend, Client, Config, Stent, ms};

const VERSION_1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\xc7\x38\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn requiring(backend: &Backend) -> Config {
    Config::new(backend).set("listener.proxy_protocol", "required")
}

fn ask(client: &mut Client, header: &[u8]) {
    client.send(&[header, &request("GET", "/", &[("X-Forwarded-For", "6.6.6.6")], b"")].concat());
    assert_eq!(client.response().status, 200);
}

#[test]
fn the_address_in_the_header_is_the_clients() {
    let backend = Backend::healthy();
    let stent = Stent::start(&requiring(&backend));
    for (place, (header, named)) in [
        (VERSION_1, "203.0.113.7"),
        (VERSION_2, "203.0.113.7"),
        (LOCAL, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        ask(&mut stent.client(), header);
        assert_eq!(backend.requests()[place].headers.all("x-forwarded-for"), [named]);
        assert_eq!(stent.access_log(place + 1)[place].text("client"), Some(named));
    }
}

#[test]
fn it_holds_for_every_request_of_the_connection() {
    let backend = Backend::healthy();
    let stent = Stent::start(&requiring(&backend));
    let mut client = stent.client();
    ask(&mut client, VERSION_2);
    ask(&mut client, b"");
    assert!(
        backend
            .requests()
            .iter()
            .all(|request| { request.headers.all("x-forwarded-for") == ["203.0.113.7"] })
    );
}

#[test]
fn trusted_proxies_are_matched_against_it() {
    let backend = Backend::healthy();
    let trusting = |network: &str| requiring(&backend).set("listener.trusted_proxies", vec![network]);
    ask(&mut Stent::start(&trusting("203.0.113.0/24")).client(), VERSION_1);
    assert_eq!(backend.requests()[0].headers.all("x-forwarded-for"), ["6.6.6.6, 203.0.113.7"]);
    ask(&mut Stent::start(&trusting("127.0.0.0/8")).client(), VERSION_1);
    assert_eq!(backend.requests()[1].headers.all("x-forwarded-for"), ["203.0.113.7"]);
}

#[test]
fn it_stands_before_http2_too() {
    let backend = Backend::healthy();
    let stent = Stent::start(&requiring(&backend));
    let mut frames = Frames::connect_silently(stent.listener());
    let head = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head("GET", "/", &[]));
    frames.write(&[VERSION_2, PREFACE, &frame(SETTINGS, 0, 0, &[]), &head].concat()).unwrap();
    assert!(frames.next_of(HEADERS).is_some());
    assert_eq!(backend.requests()[0].headers.all("x-forwarded-for"), ["203.0.113.7"]);
}

#[test]
fn a_header_in_pieces_is_taken() {
    let backend = Backend::healthy();
    let stent = Stent::start(&requiring(&backend));
    for header in [VERSION_1, VERSION_2] {
        let mut client = stent.client();
        for byte in header {
            client.send(&[*byte]);
        }
        ask(&mut client, b"");
    }
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn what_is_no_header_is_closed_without_a_word_and_counted() {
    let backend = Backend::healthy();
    let stent = Stent::start(&requiring(&backend));
    let long = [b"PROXY TCP4 ", &[b'1'; 120][..]].concat();
    for (bytes, error) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "absent"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "absent"),
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 51000\r\n", "malformed"),
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\n", "malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\xcb\0\x71\x07\x0a\0\0\x01\xc7\x38\x01\xbb", "malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "too_long"),
        (&long, "too_long"),
    ] {
        let labels = [("error", error)];
        let before = stent.metric("stent_proxy_protocol_errors_total", &labels);
        let mut client = stent.client();
        client.send(bytes);
        assert!(client.is_closed(), "{error}");
        stent.wait_for_metric("stent_proxy_protocol_errors_total", &labels, before + 1.0);
    }
    assert_eq!(backend.requests().len(), 0);
}

#[test]
fn a_second_header_is_no_request() {
    let backend = Backend::healthy();
    let stent = Stent::start(&requiring(&backend));
    for header in [VERSION_1, VERSION_2] {
        let mut client = stent.client();
        client.send(&[header, header, &request("GET", "/", &[], b"")].concat());
        assert_eq!(client.try_response().map_or(400, |response| response.status), 400);
        assert!(client.is_closed());
    }
    assert_eq!(backend.requests().len(), 0);
}

#[test]
fn a_header_that_does_not_come_in_time_ends_the_connection() {
    let backend = Backend::healthy();
    let config = requiring(&backend).set("listener.header_timeout", "200ms");
    let stent = Stent::start(&config);
    for beginning in [&b""[..], &VERSION_2[..20], &VERSION_1[..10]] {
        let mut client = stent.client();
        client.send(beginning);
        assert!(client.is_closed());
    }
    stent.wait_for_metric("stent_proxy_protocol_errors_total", &[("error", "timeout")], 3.0);
}

#[test]
fn after_its_header_a_connection_is_idle() {
    let backend = Backend::healthy();
    let config = requiring(&backend).set("listener.header_timeout", "200ms");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    client.send(VERSION_2);
    std::thread::sleep(ms(500));
    ask(&mut client, b"");
}

#[test]
fn without_it_a_header_is_a_bad_request() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let mut client = stent.client();
    client.send(&[VERSION_1, &request("GET", "/", &[], b"")].concat());
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    assert_eq!(backend.requests().len(), 0);
}
