//! The admin listener over loopback, asked by a client that writes its bytes by hand.

use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[test]
fn metrics_are_rendered_for_each_scrape() {
    let admin = start(ANY_PORT, state()).unwrap();
    let answer = ask(&admin, "GET /metrics");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.body, "stent_up 1\n");
    admin.stop().unwrap();
}

#[test]
fn readiness_follows_the_state_and_life_does_not() {
    let draining = Arc::new(AtomicBool::new(false));
    let seen = draining.clone();
    let ready = move || {
        if seen.load(Ordering::Relaxed) { Readiness::Unready("draining") } else { Readiness::Ready }
    };
    let admin = start(ANY_PORT, AdminState { ready: Arc::new(ready), ..state() }).unwrap();
    assert_eq!(ask(&admin, "GET /readyz").status_and_body(), (200, "ready\n"));
    draining.store(true, Ordering::Relaxed);
    assert_eq!(ask(&admin, "GET /readyz").status_and_body(), (503, "draining\n"));
    assert_eq!(ask(&admin, "GET /livez").status_and_body(), (200, "alive\n"));
}

#[test]
fn the_root_lists_the_paths_and_each_of_them_answers() {
    let admin = start(ANY_PORT, state()).unwrap();
    let answer = ask(&admin, "GET /");
    assert_eq!(answer.status_and_body(), (200, "/livez\n/metrics\n/readyz\n"));
    for path in answer.body.lines() {
        assert_eq!(ask(&admin, &format!("GET {path}")).status, 200, "{path}");
    }
    assert_eq!(ask(&admin, "GET /metrics/").status, 404);
}

#[test]
fn head_gets_the_head_alone() {
    let admin = start(ANY_PORT, state()).unwrap();
    let answer = ask(&admin, "HEAD /metrics");
    assert_eq!(answer.status_and_body(), (200, ""));
    assert_eq!(answer.header("content-length"), Some("11"));
}

#[test]
fn other_methods_are_refused_and_told_which_are_not() {
    let admin = start(ANY_PORT, state()).unwrap();
    for method in ["POST", "DELETE", "OPTIONS"] {
        let answer = ask(&admin, &format!("{method} /metrics"));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
}

#[test]
fn no_answer_may_be_cached() {
    let admin = start(ANY_PORT, state()).unwrap();
    for request in ["GET /readyz", "GET /metrics", "GET /absent", "POST /metrics"] {
        assert_eq!(ask(&admin, request).header("cache-control"), Some("no-store"), "{request}");
    }
}

#[test]
fn an_address_in_use_is_an_error() {
    let admin = start(ANY_PORT, state()).unwrap();
    assert_eq!(start(admin.address(), state()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn a_caller_that_sends_no_head_is_cut_off() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..LIMITS };
    let admin = start_within(ANY_PORT, state(), limits).unwrap();
    let mut silent = connect(&admin);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    let mut slow = connect(&admin);
    slow.write_all(b"GET /metr").unwrap();
    // Hyper may say why before it closes; that it closes is the rule.
    slow.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_caller_that_takes_no_answer_is_cut_off() {
    let limits = Limits { connection_timeout: Duration::from_millis(50), stop_grace: LONG, ..LIMITS };
    let admin = start_within(ANY_PORT, large(), limits).unwrap();
    let mut stalled = connect(&admin);
    stalled.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    stalled.read_exact(&mut [0; 1]).unwrap();
    // Waits for the connection, which ends because its time is over and not because its answer is.
    admin.stop().unwrap();
    let mut received = Vec::new();
    let _ = stalled.read_to_end(&mut received);
    assert!(received.len() < LARGE, "{}", received.len());
}

/// Limits that nothing in a test reaches: what makes room is then the newcomer alone.
const PATIENT: Limits = Limits { header_timeout: LONG, connection_timeout: LONG, ..LIMITS };

fn assert_answers_at_once(admin: &Admin) {
    let begin = Instant::now();
    assert_eq!(ask(admin, "GET /readyz").status, 200);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn silent_connections_in_any_number_keep_nobody_from_an_answer() {
    let admin = start_within(ANY_PORT, state(), PATIENT).unwrap();
    let mut silent = Vec::new();
    for number in [64, 1000] {
        while silent.len() < number {
            silent.push(connect(&admin));
        }
        assert_answers_at_once(&admin);
    }
}

#[test]
fn connections_that_send_a_part_of_a_head_keep_nobody_from_an_answer() {
    let admin = start_within(ANY_PORT, state(), PATIENT).unwrap();
    let slow: Vec<_> = (0..200)
        .map(|_| {
            let mut slow = connect(&admin);
            slow.write_all(b"GET /metrics HTTP/1.1\r\nhost:").unwrap();
            slow
        })
        .collect();
    assert_answers_at_once(&admin);
    drop(slow);
}

#[test]
fn connections_that_do_not_read_their_answers_keep_nobody_from_one() {
    let admin = start_within(ANY_PORT, large(), PATIENT).unwrap();
    let mut stalled = Vec::new();
    for _ in 0..CONNECTIONS + 6 {
        let mut connection = connect(&admin);
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        connection.read_exact(&mut [0; 1]).unwrap();
        stalled.push(connection);
    }
    assert_answers_at_once(&admin);
}

#[test]
fn at_the_limit_a_silent_connection_goes_before_one_that_is_being_answered() {
    let admin = start_within(ANY_PORT, large(), PATIENT).unwrap();
    let mut scrape = connect(&admin);
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    scrape.read_exact(&mut [0; 1]).unwrap();
    let mut oldest = connect(&admin);
    let silent: Vec<_> = (2..CONNECTIONS).map(|_| connect(&admin)).collect();
    assert_answers_at_once(&admin);
    assert!(matches!(oldest.read(&mut [0; 1]), Ok(0) | Err(_)), "the oldest silent one made room");
    let mut rest = Vec::new();
    scrape.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > LARGE, "the scrape went on");
    drop(silent);
}

#[test]
fn life_follows_the_state_and_says_why_not() {
    let alive = || Liveness::Stuck("worker 1 is stuck".to_owned());
    let admin = start(ANY_PORT, AdminState { alive: Arc::new(alive), ..state() }).unwrap();
    assert_eq!(ask(&admin, "GET /livez").status_and_body(), (503, "worker 1 is stuck\n"));
    assert_eq!(ask(&admin, "GET /readyz").status, 200);
}

#[test]
fn stop_finishes_what_runs_and_closes_the_listener() {
    let admin = start(ANY_PORT, large()).unwrap();
    let address = admin.address();
    let mut scrape = connect(&admin);
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    // Once the first byte is here the request runs, and the rest is more than the kernel keeps for us.
    scrape.read_exact(&mut [0; 1]).unwrap();
    let stopping = thread::spawn(move || admin.stop());
    let begin = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(begin.elapsed() < LONG, "the listener still accepts");
        thread::yield_now();
    }
    let mut rest = Vec::new();
    scrape.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > LARGE);
    stopping.join().unwrap().unwrap();
}

#[test]
fn stop_waits_no_longer_than_its_grace() {
    let limits = Limits { stop_grace: Duration::from_millis(50), ..LIMITS };
    let admin = start_within(ANY_PORT, state(), limits).unwrap();
    let mut unfinished = connect(&admin);
    unfinished.write_all(b"GET /metr").unwrap();
    ask(&admin, "GET /livez");
    admin.stop().unwrap();
    assert!(matches!(unfinished.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn a_panic_in_one_scrape_stops_no_other() {
    let render = || panic!("a collector panicked");
    let admin = start(ANY_PORT, AdminState { render: Arc::new(render), ..state() }).unwrap();
    for _ in 0..=CONNECTIONS {
        let mut scrape = connect(&admin);
        scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        assert!(matches!(scrape.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert_eq!(ask(&admin, "GET /livez").status, 200);
    admin.stop().unwrap();
}

/// Runs itself anew in a process that may open few files, because a limit holds for a whole process.
#[test]
fn the_listener_survives_a_lack_of_file_descriptors() {
    const FEW: &str = "STENT_TEST_FEW_FILES";
    if env::var_os(FEW).is_none() {
        let name = "admin::tests::the_listener_survives_a_lack_of_file_descriptors";
        let script = format!("ulimit -n 64 && exec \"$0\" --exact {name}");
        let output =
            Command::new("sh").arg("-c").arg(script).arg(env::current_exe().unwrap()).env(FEW, "1").output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let admin = start(ANY_PORT, state()).unwrap();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // The client takes the one descriptor that is left, so that the listener has none to accept with.
    files.pop();
    let mut client = connect(&admin);
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(files);
    client.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(Answer::read(&mut client).status, 200);
}

const LONG: Duration = Duration::from_secs(30);

/// More than the kernel keeps of an answer that nobody reads.
const LARGE: usize = 32 * 1024 * 1024;

fn state() -> AdminState {
    AdminState {
        render: Arc::new(|| b"stent_up 1\n".to_vec()),
        ready: Arc::new(|| Readiness::Ready),
        alive: Arc::new(|| Liveness::Alive),
        turn: Arc::new(|| {}),
    }
}

fn large() -> AdminState {
    AdminState { render: Arc::new(|| vec![b'#'; LARGE]), ..state() }
}

fn connect(admin: &Admin) -> TcpStream {
    let stream = TcpStream::connect(admin.address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn ask(admin: &Admin, request: &str) -> Answer {
    let mut stream = connect(admin);
    write!(stream, "{request} HTTP/1.1\r\nhost: stent.example.org\r\n\r\n").unwrap();
    Answer::read(&mut stream)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// Reads to the end of the connection, which is the end of the answer.
    fn read(stream: &mut TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name))
            .map(|(_, value)| value)
    }

    fn status_and_body(&self) -> (u16, &str) {
        (self.status, &self.body)
    }
}
