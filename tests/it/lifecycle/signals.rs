//! Signals are obeyed from the first line of the program on.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support::stent::Signal;
use crate::support::{Backend, Config, Stent, TempDir, eventually, ms};

/// A proxy whose configuration comes through a pipe, which is still open: it is about to start.
fn starting() -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_stent"))
        .args(["run", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the proxy starts");
    let caught = |signal: u32| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("Linux");
        let mask =
            status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask").trim().to_owned();
        u64::from_str_radix(&mask, 16).expect("a mask") & 1 << (signal - 1) != 0
    };
    eventually("the first line of the program", || (caught(1) && caught(2) && caught(15)).then_some(()));
    child
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.expect("kill is installed").success(), "the proxy runs");
}

#[test]
fn a_hangup_before_the_configuration_is_read_is_a_reload_after_the_start() {
    let backend = Backend::healthy();
    let directory = TempDir::new();
    let mut child = starting();
    signal(&child, "-HUP");
    let text = Config::new(&backend).text(&directory.path().join("access.log"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("\"ready\"")), "the proxy starts all the same");
    let refused = lines.next().expect("what became of the reload");
    assert!(refused.contains("it is a pipe, not a file"), "{refused}");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_to_stop_is_obeyed_before_the_configuration_is_read() {
    for name in ["-TERM", "-INT"] {
        let mut child = starting();
        let begun = Instant::now();
        signal(&child, name);
        let status = eventually("the end", || child.try_wait().expect("a child of ours"));
        assert_eq!(status.code(), Some(0));
        assert!(begun.elapsed() < ms(2000), "{name}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_pause_of_the_whole_process_is_held_against_no_worker() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("server.workers", 2));
    for _ in 0..2 {
        stent.signal(Signal::Stop);
        // Time is what is tried here: longer than a worker may be silent.
        std::thread::sleep(ms(2600));
        stent.signal(Signal::Continue);
        let end = Instant::now() + ms(700);
        while Instant::now() < end {
            assert_eq!(stent.admin_get("/livez").status, 200);
        }
    }
}
