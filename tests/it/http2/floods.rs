//! Callers that mean harm: each is bounded in what it makes the proxy hold and do, and the others are served.

use std::io::ErrorKind;

use super::*;
use crate::support::http2::{CONTINUATION, PING};

const REFUSED_STREAM: u32 = 7;
const MIB: u64 = 1 << 20;

#[test]
fn no_more_streams_are_open_than_are_announced() {
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&Config::new(&backend).set("listener.http2.max_streams", 2));
    let mut frames = Frames::connect(stent.listener(), &[]);
    assert_eq!(frames.next_of(SETTINGS).unwrap().setting(3), Some(2));
    for stream in [1, 3, 5] {
        frames.get(stream, "/").unwrap();
    }
    let reset = frames.next_of(RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.code()), (5, REFUSED_STREAM));
    assert_eq!(backend.wait_for_requests(2).len(), 2);
}

#[test]
fn a_head_over_the_limit_gets_a_431_and_the_connection_goes_on() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.max_header_bytes", "8KiB"));
    let mut caller = Caller::connect(stent.listener());
    let large = "x".repeat(9000);
    let answer = caller.request(request("GET", "/", &[("x-large", &large)]), b"", None);
    // h2 tells a caller of its own kind before it sends such a head.
    assert!(answer.is_err() || answer.unwrap().status == 431);
    let mut frames = Frames::connect(stent.listener(), &[]);
    assert_eq!(frames.next_of(SETTINGS).unwrap().setting(6), Some(8 << 10));
    frames.send(HEADERS, END_STREAM | END_HEADERS, 1, &head("GET", "/", &[("x-large", &large)])).unwrap();
    let answer = frames.next_of(HEADERS).unwrap();
    assert_eq!((answer.stream, answer.flags & END_STREAM), (1, END_STREAM));
    frames.get(3, "/").unwrap();
    assert_eq!(frames.next_of(HEADERS).unwrap().stream, 3);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_head_of_too_many_fields_is_refused_and_on_record() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut caller = Caller::connect(stent.listener());
    let names: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
    let fields: Vec<_> = names.iter().map(|name| (&**name, "1")).collect();
    assert_eq!(caller.request(request("GET", "/", &fields), b"", None).unwrap().status, 431);
    let crumbs = vec![("cookie", "a=1"); 150];
    assert_eq!(caller.request(request("GET", "/", &crumbs), b"", None).unwrap().status, 200);
    assert_eq!(stent.access_log(2)[0].status(), 431);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_caller_that_only_cancels_is_cut_off_however_slowly_it_does() {
    let backend = Backend::new(|_| Action::hang());
    let stent = Stent::start(&Config::new(&backend).set("listener.http2.max_cancelled", 10));
    let mut frames = Frames::connect(stent.listener(), &[]);
    for number in 0..11 {
        frames.get(1 + 2 * number, "/").unwrap();
        // So that it is a request of its own, and not one that was taken back before anybody saw it.
        backend.wait_for_requests(usize::try_from(number).unwrap() + 1);
        frames.send(RST_STREAM, 0, 1 + 2 * number, &CANCEL.to_be_bytes()).unwrap();
    }
    eventually("the last cancellation", || (stent.access_log(11).len() == 11).then_some(()));
    // Its next frame is its last.
    let _ = frames.send(PING, 0, 0, b"12345678");
    frames.rest();
    stent.wait_for_metric("stent_http2_errors_total", &[("error", "resets")], 1.0);
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
}

#[test]
fn a_burst_of_cancelled_requests_ends_the_connection() {
    let backend = Backend::new(|request| match &*request.target {
        "/" => Action::hang(),
        _ => Action::answer(200, ""),
    });
    let stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    let mut burst = Vec::new();
    for number in 0..2000 {
        burst.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * number, &head("GET", "/", &[])));
        burst.extend(frame(RST_STREAM, 0, 1 + 2 * number, &CANCEL.to_be_bytes()));
    }
    let _ = frames.write(&burst);
    frames.rest();
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
    assert!(backend.requests().len() <= 300, "{}", backend.requests().len());
    assert_eq!(Caller::connect(stent.listener()).get("/other").status, 200);
}

#[test]
fn a_flood_of_errors_that_the_proxy_must_reset_ends_the_connection() {
    let backend = Backend::new(|_| Action::hang());
    let stent = start(&backend);
    let mut frames = Frames::connect(stent.listener(), &[]);
    let mut flood = Vec::new();
    for number in 0..500 {
        flood.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * number, &head("GET", "/", &[])));
        // A window of more than 2^31 - 1 is an error of the stream, which we have to reset.
        flood.extend(frame(WINDOW_UPDATE, 0, 1 + 2 * number, &0x7fff_ffffu32.to_be_bytes()));
    }
    let _ = frames.write(&flood);
    frames.rest();
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let _alone = alone();
    let backend = Backend::healthy();
    let stent = start(&backend);
    let before = stent.memory();
    for payload in [block(&[("x", &"y".repeat(100))]), Vec::new()] {
        let mut frames = Frames::connect(stent.listener(), &[]);
        frames.send(HEADERS, END_STREAM, 1, &head("GET", "/", &[])).unwrap();
        let piece = frame(CONTINUATION, 0, 1, &payload).repeat(100);
        let refused = (0..1000).any(|_| frames.write(&piece).is_err());
        assert!(refused || frames.rest().iter().any(|frame| frame.kind == GOAWAY));
    }
    assert!(stent.peak_memory() < before + 16 * MIB);
    assert_eq!(backend.requests().len(), 0);
    assert_eq!(Caller::connect(stent.listener()).get("/").status, 200);
}

/// Sends `unit` for as long as the proxy takes it, and reads nothing.
fn flood(stent: &Stent, unit: &[u8]) {
    let before = stent.memory();
    let mut frames = Frames::connect(stent.listener(), &[]);
    let piece = unit.repeat(1000);
    for _ in 0..300 {
        match frames.write(&piece) {
            Ok(()) => {}
            // It reads no further, or has closed.
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    assert!(stent.peak_memory() < before + 16 * MIB, "{} MiB", (stent.peak_memory() - before) / MIB);
    assert_eq!(Caller::connect(stent.listener()).get("/").status, 200, "others are served");
    drop(frames);
    stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
}

fn short_write_timeout(backend: &Backend) -> Stent {
    Stent::start(&Config::new(backend).set("listener.write_timeout", "500ms"))
}

#[test]
fn a_flood_of_pings_is_bounded() {
    let _alone = alone();
    let backend = Backend::healthy();
    flood(&short_write_timeout(&backend), &frame(PING, 0, 0, b"12345678"));
}

#[test]
fn a_flood_of_settings_is_bounded() {
    let _alone = alone();
    let backend = Backend::healthy();
    flood(&short_write_timeout(&backend), &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]));
}

#[test]
fn a_flood_of_empty_data_is_bounded() {
    let _alone = alone();
    let backend = Backend::healthy();
    let stent = short_write_timeout(&backend);
    let before = stent.memory();
    let mut frames = Frames::connect(stent.listener(), &[]);
    frames.send(HEADERS, END_HEADERS, 1, &head("POST", "/", &[])).unwrap();
    let piece = frame(DATA, 0, 1, b"").repeat(1000);
    let _ = (0..200).try_for_each(|_| frames.write(&piece));
    assert!(stent.peak_memory() < before + 16 * MIB);
    assert_eq!(Caller::connect(stent.listener()).get("/").status, 200);
}

#[test]
fn answers_that_nobody_takes_hold_no_more_than_a_buffer_each() {
    let _alone = alone();
    let backend = Backend::new(|_| Action::answer(200, vec![b'x'; 4 << 20]));
    let stent = start(&backend);
    let before = stent.memory();
    // One byte of window each: enough for h2 to take a piece of every answer into its buffer.
    let mut frames = Frames::connect(stent.listener(), &[(4, 1)]);
    (0..100).for_each(|number| frames.get(1 + 2 * number, "/").unwrap());
    (0..100).for_each(|_| drop(frames.next_of(DATA).unwrap()));
    assert!(stent.peak_memory() < before + 64 * MIB, "{} MiB", (stent.peak_memory() - before) / MIB);
}
