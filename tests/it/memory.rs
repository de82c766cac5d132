//! Bodies stream through: what the process holds does not grow with what passes.

use crate::support::client::request;
use crate::support::{Action, Backend, Client, Config, Stent, alone, eventually, ms, noise};

const MIB: u64 = 1 << 20;

#[test]
fn a_large_body_passes_both_ways_to_the_byte_and_is_not_collected() {
    let _alone = alone();
    let body = noise(20 << 20);
    let answer = body.clone();
    let backend = Backend::new(move |request| match &*request.method {
        "GET" => Action::answer(200, &answer),
        _ => Action::answer(200, "stored"),
    });
    let stent = Stent::start(&Config::new(&backend).set("route.max_body", "64MiB"));
    let mut client = stent.client();
    assert_eq!(client.put("/", "small").text(), "stored");
    let before = stent.memory();
    assert!(client.get("/").body == body, "down");
    assert_eq!(client.put("/", &body).text(), "stored");
    let parts: Vec<&[u8]> = body.chunks(1_000_003).collect();
    assert_eq!(client.request_chunked("POST", "/", &parts).text(), "stored");
    let requests = backend.requests();
    assert!(requests[2].body == body, "up, with a length");
    assert!(requests[3].body == body, "up, in chunks");
    let grown = stent.peak_memory().saturating_sub(before);
    println!("{} KiB more at the peak", grown / 1024);
    assert!(grown < 12 * MIB, "{grown} bytes more, for bodies of 20 MiB");
    let lines = stent.access_log(4);
    let length = body.len() as f64;
    assert!((lines[1].number("bytes_out") - length).abs() < 1e-9, "{:?}", lines[1]);
    assert!((lines[3].number("bytes_in") - length).abs() < 1e-9, "{:?}", lines[3]);
}

#[test]
fn slow_readers_of_large_answers_do_not_fill_memory() {
    const READERS: usize = 50;
    let _alone = alone();
    let backend = Backend::new(|request| match &*request.method {
        "HEAD" => Action::raw_kept_open("HTTP/1.1 200 OK\r\n\r\n"),
        _ => Action::answer(200, vec![b'x'; 5 << 20]),
    });
    let stent = Stent::start(&Config::new(&backend).set("server.workers", 2));
    assert_eq!(stent.client().request("HEAD", "/", &[], b"").status, 200);
    let before = stent.memory();
    let mut readers: Vec<Client> = (0..READERS).map(|_| stent.client()).collect();
    for reader in &mut readers {
        reader.send(&request("GET", "/", &[], b""));
    }
    backend.wait_for_requests(1 + READERS);
    // Nobody reads, so that what is held grows until it may grow no further.
    let mut held = 0;
    eventually("the standstill", || {
        std::thread::sleep(ms(100));
        let now = stent.memory();
        (std::mem::replace(&mut held, now) == now).then_some(())
    });
    for reader in &mut readers {
        let response = reader.response();
        assert_eq!((response.body.len(), response.truncated), (5 << 20, false));
    }
    let grown = stent.peak_memory().saturating_sub(before);
    println!("{} KiB more at the peak", grown / 1024);
    assert!(grown < 60 * MIB, "{grown} bytes more, for 50 answers of 5 MiB");
    assert!(stent.access_log(1 + READERS).iter().all(|line| line.text("outcome") == Some("ok")));
}

#[test]
fn an_idle_connection_gives_its_buffers_back_and_takes_the_next_request() {
    const CALLERS: usize = 500;
    let _alone = alone();
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.header_timeout", "4s"));
    let mut clients: Vec<Client> = (0..CALLERS).map(|_| stent.client()).collect();
    let before = stent.memory();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let busy = stent.memory().saturating_sub(before);
    let resting = eventually("the buffers' return", || {
        let held = stent.memory().saturating_sub(before);
        (held < busy / 2).then_some(held)
    });
    for client in &mut clients {
        // A head that comes in two pieces finds the connection as whole as one that comes at once.
        client.send(b"GET / HTTP/1.1\r\n");
    }
    for client in &mut clients {
        client.send(b"Host: hosp.example.org\r\n\r\n");
        assert_eq!(client.response().status, 200);
    }
    println!("{} KiB busy, {} KiB at rest", busy / 1024, resting / 1024);
}
