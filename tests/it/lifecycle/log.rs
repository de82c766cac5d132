//! The program's log is best effort: whatever its reader does, requests, reloads, probes and the end go on.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use crate::support::client::request;
use crate::support::stent::{LogReader, Signal};
use crate::support::{Action, Backend, Client, Config, Stent, eventually, ms};

const DROPPED: &str = "stent_log_dropped_total";

fn outage_config(backend: &Backend) -> Config {
    Config::new(backend).set("server.workers", 2).set("cluster.hosp.outage_queue.max", 1024)
}

/// Sends a dozen requests at once to a backend that fails, so that the outage is worth a line; each gets its answer.
fn ride_out_an_outage(stent: &Stent, backend: &Backend) {
    backend.then((0..12).map(|_| Action::answer(502, "not now")));
    let address = stent.listener();
    let callers: Vec<_> = (0..12)
        .map(|number| {
            std::thread::spawn(move || Client::connect(address).get(&format!("/outage/{number}")).status)
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.join().expect("an answer"), 200);
    }
}

fn assert_stops_at_once(stent: &mut Stent) {
    let begun = Instant::now();
    stent.signal(Signal::Terminate);
    assert_eq!(stent.wait_exit().code(), Some(0));
    // The grace, the log's last second, and some room.
    assert!(begun.elapsed() < ms(4000), "{:?}", begun.elapsed());
}

#[test]
fn a_log_whose_reader_has_left_costs_lines_and_nothing_else() {
    let backend = Backend::healthy();
    let config = outage_config(&backend);
    let mut stent = Stent::start_with_log_reader(LogReader::Leaves, &config);
    assert_eq!(stent.client().get("/").status, 200);
    stent.reload(&config.set("route.deadline", "20s"));
    eventually("the lost lines of the reload", || (stent.metric(DROPPED, &[]) > 0.5).then_some(()));
    stent.reload_text("[server]\nwrokers = 1\n");
    stent.wait_for_metric("stent_config_last_reload_successful", &[], 0.0);
    ride_out_an_outage(&stent, &backend);
    assert_eq!(stent.admin_get("/readyz").status, 200);
    assert_stops_at_once(&mut stent);
}

#[test]
fn a_log_that_is_full_and_never_read_costs_lines_and_nothing_else() {
    let backend = Backend::healthy();
    let config = outage_config(&backend);
    let mut stent = Stent::start_with_log_reader(LogReader::Stalls, &config);
    // Its errors fill the pipe at once, and a few reloads the queue behind it.
    let mut bad = String::from("[cluster.hosp]\nendpoints = [\n");
    for number in 0..200 {
        writeln!(bad, "  \"no-url-{number}-{:x<4000}\",", "").unwrap();
    }
    bad += "]\n";
    stent.reload_text(&bad);
    stent.wait_for_metric("stent_config_last_reload_successful", &[], 0.0);
    eventually("a full log", || {
        stent.signal(Signal::Hangup);
        (stent.metric(DROPPED, &[]) > 0.5).then_some(())
    });
    assert_eq!(stent.client().get("/").status, 200);
    ride_out_an_outage(&stent, &backend);
    assert_eq!(stent.admin_get("/readyz").status, 200);
    assert_eq!(stent.admin_get("/livez").status, 200);
    stent.reload(&config.set("route.path", "/new/*"));
    assert_eq!(stent.client().get("/new/1").status, 200, "the reload has been done");
    assert_stops_at_once(&mut stent);
}

#[test]
fn what_callers_cause_is_one_line_a_minute_for_each_place_and_no_other_place_loses_its_line() {
    let backend = Backend::new(|_| Action::hang());
    let config = Config::new(&backend)
        .set("listener.max_connections", 1)
        .listener("address = \"127.0.0.2:0\"\nmax_connections = 1");
    let stent = Stent::start(&config);
    let [flooded, other] = stent.listeners()[..] else { panic!("two listeners") };
    // A caller whose request is under way leaves no room for the next, who waits for it to leave.
    let waits = |address: SocketAddr, times: usize| {
        let (mut inside, before) = (Client::connect(address), backend.requests().len());
        let waited = stent.metric("stent_accept_paused_total", &[]);
        for time in 1..=times {
            inside.send(&request("GET", "/", &[], b""));
            backend.wait_for_requests(before + time);
            let next = Client::connect(address);
            stent.wait_for_metric("stent_accept_paused_total", &[], waited + time as f64);
            inside = next;
        }
    };
    waits(flooded, 10);
    waits(other, 1);
    let said = |place: &str| {
        stent.count_in_log(&format!(
            "no room for a new connection, and none that is idle to close for it\",\"address\":\"{place}:0\""
        ))
    };
    eventually("the other listener's line", || (said("127.0.0.2") > 0).then_some(()));
    assert_eq!((said("127.0.0.1"), said("127.0.0.2")), (1, 1));
}

#[test]
fn a_log_whose_file_may_grow_no_more_costs_lines_and_nothing_else() {
    let backend = Backend::healthy();
    let mut command = Command::new("sh");
    // Some KiB. The system would end the process with SIGXFSZ.
    command.args(["-c", "ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_stent")]);
    let stent = Stent::start_within(command, &Config::new(&backend));
    let mut client = stent.client();
    eventually("lost lines", || {
        assert_eq!(client.get("/").status, 200);
        (stent.metric("stent_access_log_lost_total", &[]) > 0.5).then_some(())
    });
    assert_eq!(client.get("/").status, 200);
}
