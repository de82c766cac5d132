//! Ten thousand requests into every fault that the backend knows, and nothing is left behind.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Response, Stent, alone, eventually, ms, noise};

const REQUESTS: usize = 10_000;
const CALLERS: usize = 16;

#[test]
fn ten_thousand_requests_with_random_faults_leave_nothing_behind() {
    let _alone = alone();
    let random = Mutex::new(fastrand::Rng::with_seed(2));
    let backend = Backend::new(move |request| {
        let random = &mut *random.lock().unwrap();
        match request.headers.only("range") {
            Some(range) if random.bool() => rest_of_download(range),
            _ => fault(random),
        }
    });
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .set("route.deadline", "1s")
        .retry("per_try_timeout", "100ms")
        .retry("body_limit", "4KiB")
        .backoff("1ms");
    let stent = Stent::start(&config);
    let next = AtomicUsize::new(0);
    let statuses = Mutex::new(BTreeMap::<u16, usize>::new());
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (stent, next, statuses) = (&stent, &next, &statuses);
            scope.spawn(move || call(stent, caller, next, statuses));
        }
    });
    let statuses = statuses.into_inner().unwrap();
    assert_eq!(statuses.values().sum::<usize>(), REQUESTS, "every request got an answer");
    assert!(statuses[&200] > REQUESTS / 2, "most of them a good one: {statuses:?}");
    let lines = stent.access_log(REQUESTS);
    assert!(lines.iter().any(|line| line.attempts().len() == 3), "there were retries");

    // What was given up counts, under a limit, until the backend lets go of it.
    backend.release();
    eventually("an empty proxy", || {
        let metrics = stent.metrics();
        let left: f64 = [
            metrics.sum("stent_upstream_connections", &[("state", "active")]),
            metrics.sum("stent_replay_bytes", &[]),
            metrics.sum("stent_held_bytes", &[]),
            metrics.sum("stent_requests_in_flight", &[]),
            metrics.sum("stent_downstream_connections", &[]),
        ]
        .iter()
        .map(|count| count.abs())
        .sum();
        (left < 1e-9).then_some(())
    });
    let metrics = stent.metrics();
    let counted = metrics.sum("stent_requests_total", &[]);
    assert!((counted - REQUESTS as f64).abs() < 1e-9, "{counted} requests were counted");
    let lost = metrics.sum("stent_access_log_lost_total", &[]);
    assert!(lost.abs() < 1e-9, "{lost} lines were lost");
}

/// Sends requests of every kind until all have been sent.
fn call(stent: &Stent, caller: usize, next: &AtomicUsize, statuses: &Mutex<BTreeMap<u16, usize>>) {
    let mut random = fastrand::Rng::with_seed(caller as u64);
    let mut kept: Option<Client> = None;
    let body = noise(8000);
    while next.fetch_add(1, Ordering::Relaxed) < REQUESTS {
        let mut client = kept.take().unwrap_or_else(|| stent.client());
        let method = random.choice(["GET", "GET", "HEAD", "POST", "PUT", "PUT"]).unwrap();
        let body = match method {
            "GET" | "HEAD" => &[],
            _ => &body[..random.usize(1..body.len())],
        };
        let response = exchange(&mut client, &request(method, "/", &[], body));
        *statuses.lock().unwrap().entry(response.status).or_default() += 1;
        if !response.closes() {
            kept = Some(client);
        }
    }
}

fn exchange(client: &mut Client, bytes: &[u8]) -> Response {
    // An early answer may close the connection under a body that is still being sent; the answer counts.
    let _ = client.try_send(bytes);
    client.response()
}

/// Mostly an answer, else one of everything that can go wrong. A HEAD gets a body too, which is one fault more.
fn fault(random: &mut fastrand::Rng) -> Action {
    match random.u32(0..100) {
        0..70 => Action::answer(200, noise(random.usize(0..5000))),
        70..76 => Action::answer(502, "failure"),
        76..80 => Action::answer(500, vec![b'x'; random.usize(0..200_000)]),
        80..84 => Action::answer(200, "then gone").then_close(),
        84..87 => Action::reset(),
        87..89 => Action::reset_before_body(),
        89..91 => Action::close(),
        91..92 => Action::garbage(),
        92..94 => Action::truncated(100, 1000),
        94..95 => Action::chunked_truncated(),
        95..96 => Action::answer(500, "early").before_body(),
        96..97 => Action::answer(200, "late").after(ms(random.u64(0..150))),
        97..98 if random.bool() => broken_download(),
        97..98 => Action::chunked(200, &[b"a few", b" chunks"]).after_interim(103),
        98..99 => Action::half_head_then_stall(),
        _ => Action::hang(),
    }
}

/// More than is held breaks on its way to the caller, who may get the rest.
fn broken_download() -> Action {
    let head = format!("HTTP/1.1 200 OK\r\n{TAGGED}Content-Length: {DOWNLOAD}\r\n\r\n");
    Action::raw([head.as_bytes(), &vec![b'x'; DOWNLOAD / 2]].concat())
}

/// Half of what is missing, or all of it.
fn rest_of_download(range: &str) -> Action {
    let range = range.strip_prefix("bytes=").expect("a range of bytes");
    let (first, last) = range.split_once('-').expect("with both of its ends");
    let length = last.parse::<usize>().unwrap() + 1 - first.parse::<usize>().unwrap();
    let fields = format!("{TAGGED}Content-Range: bytes {range}/{DOWNLOAD}\r\n");
    let head = format!("HTTP/1.1 206 Partial Content\r\n{fields}Content-Length: {length}\r\n\r\n");
    let whole = [head.as_bytes(), &vec![b'x'; length]].concat();
    if length % 3 == 0 {
        Action::raw(&whole[..head.len() + length / 2])
    } else {
        Action::raw_kept_open(whole)
    }
}

const DOWNLOAD: usize = 200_000;
const TAGGED: &str = "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\n";
