//! `/livez` over a worker that is really blocked.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::sync_channel;
use std::thread;

use tokio::runtime::Builder;

use super::*;
use crate::worker::turn;

fn livez(admin: &Admin) -> String {
    let mut stream = TcpStream::connect(admin.address()).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn wait_for_livez(admin: &Admin, status: &str) -> String {
    let begun = std::time::Instant::now();
    loop {
        let answer = livez(admin);
        if answer.starts_with(status) {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{answer}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn livez_fails_while_a_workers_event_loop_is_blocked_and_names_the_worker() {
    let heartbeats = Arc::new(Heartbeats::new(2));
    let start_worker = |number, block: std::sync::mpsc::Receiver<()>| {
        let heartbeats = heartbeats.clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            turn(&runtime, &heartbeats, number, async move {
                // This keeps the whole event loop until the test lets go of it.
                let _ = block.recv();
                let _ = ended.await;
            });
        });
        (end, thread)
    };
    let (release, blocked) = sync_channel::<()>(1);
    let (free, not_blocked) = sync_channel::<()>(1);
    drop(free);
    let workers = [start_worker(0, not_blocked), start_worker(1, blocked)];
    let state = AdminState {
        render: Arc::new(Vec::new),
        ready: Arc::new(|| Readiness::Ready),
        alive: {
            let heartbeats = heartbeats.clone();
            Arc::new(move || liveness(&heartbeats))
        },
        turn: {
            let heartbeats = heartbeats.clone();
            Arc::new(move || heartbeats.look())
        },
    };
    let admin = admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), state).unwrap();
    assert!(livez(&admin).starts_with("HTTP/1.1 200 "), "nothing is known against it yet");
    let answer = wait_for_livez(&admin, "HTTP/1.1 503 ");
    assert!(answer.ends_with("worker 1 is stuck\n"), "{answer}");
    drop(release);
    wait_for_livez(&admin, "HTTP/1.1 200 ");
    for (end, thread) in workers {
        drop(end);
        thread.join().unwrap();
    }
    admin.stop().unwrap();
}
