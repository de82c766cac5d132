//! Names that no name server answers for hold nothing up: not the start beyond one bound, and not the end at all.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::stent::Signal;
use crate::support::{Backend, Config, Stent, TempDir, ms};

/// A proxy in a network of its own, in which the name server is silent; none where the system allows no such network.
fn start_without_name_server(config: &Config) -> Option<(Stent, Duration)> {
    const WORLD: &str = "ip link set lo up && ip route add 192.0.2.1/32 dev lo && \
        echo nameserver 192.0.2.1 >\"$0.resolv\" && mount --bind \"$0.resolv\" /etc/resolv.conf";
    let directory = TempDir::new();
    let marker = directory.path().join("x");
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rmn", "sh", "-c", script]).arg(&marker);
        command
    };
    if !within(WORLD).output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this system gives no network namespace");
        return None;
    }
    let mut command = within(&format!("{WORLD} && exec \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_stent"));
    let begun = Instant::now();
    let stent = Stent::start_within(command, config);
    Some((stent, begun.elapsed()))
}

fn config(names: &[&str]) -> Config {
    let urls: Vec<String> = names.iter().map(|name| format!("http://{name}.example:8080")).collect();
    Config::new(&Backend::healthy()).set("cluster.hosp.endpoints", urls)
}

#[test]
fn silent_name_servers_hold_up_the_start_within_one_bound_and_the_end_not_at_all() {
    let config = config(&["a", "b", "c", "d"]).set("cluster.other.endpoints", vec!["http://e.example:8080"]);
    let Some((mut stent, started)) = start_without_name_server(&config) else { return };
    assert!(started < ms(8000), "five names, one bound of 5 s: {started:?}");
    let begun = Instant::now();
    stent.signal(Signal::Terminate);
    assert_eq!(stent.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < ms(2000), "{:?}", begun.elapsed());
}

#[test]
fn a_signal_to_stop_is_obeyed_while_a_reload_waits_for_names() {
    let Some((mut stent, _)) = start_without_name_server(&config(&["a"])) else { return };
    // A secret that everybody may read is warned of before the names are asked for.
    let directory = TempDir::new();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let guard = toml::Table::from_iter([
        ("header".into(), "X-Secret".into()),
        ("secret_files".into(), vec![secret.to_str().unwrap()].into()),
    ]);
    let changed = config(&["b"]).set("server.accept_grace", "30s").set("listener.origin_guard", guard);
    stent.reload_text(&changed.text(&stent.access_log_path()));
    stent.wait_for_log("the reload", |line| line.contains("everybody may read the secret"));
    let begun = Instant::now();
    stent.signal(Signal::Terminate);
    assert_eq!(stent.wait_exit().code(), Some(0));
    assert!(begun.elapsed() < ms(2000), "{:?}", begun.elapsed());
}

/// A name server that gives every name the address that it is told.
struct NameServer {
    address: Arc<Mutex<[u8; 4]>>,
}

impl NameServer {
    /// Where this process may not have the port of name servers, there is none.
    fn start(at: &str, address: [u8; 4]) -> Option<Self> {
        let socket = UdpSocket::bind((at, 53)).ok()?;
        let address = Arc::new(Mutex::new(address));
        let told = address.clone();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, caller)) = socket.recv_from(&mut question) {
                // The name ends with an empty label; its type and class follow.
                let name = question[12..length].iter().position(|byte| *byte == 0).unwrap() + 13;
                let is_ipv4 = question[name..name + 2] == [0, 1];
                let mut answer = question[..name + 4].to_vec();
                answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
                if is_ipv4 {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    answer.extend(*told.lock().unwrap());
                }
                let _ = socket.send_to(&answer, caller);
            }
        });
        Some(Self { address })
    }
}

#[test]
fn a_backend_that_comes_back_at_another_address_is_found_soon() {
    const SERVER: &str = "127.0.77.1";
    const WORLD: &str =
        "echo nameserver 127.0.77.1 >\"$0.resolv\" && mount --bind \"$0.resolv\" /etc/resolv.conf";
    let directory = TempDir::new();
    let marker = directory.path().join("x");
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", script]).arg(&marker);
        command
    };
    // Nobody listens there.
    let server = NameServer::start(SERVER, [127, 0, 0, 2]);
    let is_possible = within(WORLD).output().is_ok_and(|output| output.status.success());
    let Some(server) = server.filter(|_| is_possible) else {
        eprintln!("skipped: this system gives no mount namespace or no port 53");
        return;
    };
    let backend = Backend::healthy();
    let url = format!("http://hosp.example:{}", backend.address().port());
    let mut command = within(&format!("{WORLD} && exec \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_stent"));
    let stent = Stent::start_within(command, &Config::new(&backend).set("cluster.hosp.endpoints", vec![url]));
    assert_eq!(stent.client().get("/").status, 502);
    *server.address.lock().unwrap() = [127, 0, 0, 1];
    let begun = Instant::now();
    while stent.client().get("/").status != 200 {
        assert!(begun.elapsed() < ms(5000), "{:?}", begun.elapsed());
    }
    assert!(begun.elapsed() < ms(5000), "{:?}", begun.elapsed());
}
