//! Files that are no files: refused before they are opened, or used without waiting for them.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::command::{said, stent};
use crate::support::{Backend, Client, Config, Stent, TempDir, eventually, ms};

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo is installed").success());
}

#[test]
fn a_named_pipe_in_the_place_of_a_file_is_refused_at_once() {
    let backend = Backend::healthy();
    let directory = TempDir::new();
    let pipe = directory.path().join("pipe");
    fifo(&pipe);
    let path = pipe.to_str().unwrap();
    let guard = toml::Table::from_iter([
        ("header".into(), "X-Secret".into()),
        ("secret_files".into(), vec![path].into()),
    ]);
    let pair = toml::Table::from_iter([("chain".into(), path.into()), ("key".into(), path.into())]);
    let tls = toml::Table::from_iter([("certificates".into(), vec![pair].into())]);
    for (what, config) in [
        ("secret", Config::new(&backend).set("listener.origin_guard", guard)),
        ("certificate", Config::new(&backend).set("listener.tls", tls)),
    ] {
        let file = directory.path().join("stent.toml");
        std::fs::write(&file, config.text(&directory.path().join("access.log"))).unwrap();
        let begun = Instant::now();
        let output = stent(&["run".as_ref(), file.as_os_str()]);
        assert_eq!(output.status.code(), Some(2), "{what}: {:?}", said(&output));
        assert!(said(&output)[1].contains("not a "), "{what}: {:?}", said(&output));
        assert!(begun.elapsed() < ms(3000), "{what}: {:?}", begun.elapsed());
    }
    let output = stent(&["run".as_ref(), pipe.as_os_str()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output)[1].contains("it is a named pipe, not a file"), "{:?}", said(&output));
    let (output, _) = Stent::fail_to_start(Some(&Config::new(&backend).text(&pipe)));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output)[1].contains("it is a named pipe, not a file"), "{:?}", said(&output));
}

#[test]
fn check_reads_what_a_shell_gives_it_through_a_pipe() {
    let script = "\"$0\" check <(cat config/minimal.toml)";
    let output = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_stent")]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{:?}", said(&output));
}

#[test]
fn an_access_log_at_dev_stdout_goes_to_standard_output_whatever_that_is() {
    let backend = Backend::healthy();
    let directory = TempDir::new();
    // NGINX's image logs through such a link.
    let link = directory.path().join("access.log");
    symlink("/dev/stdout", &link).unwrap();
    for path in [Path::new("/dev/stdout"), Path::new("/proc/self/fd/1"), &link] {
        for is_socket in [false, true] {
            let file = directory.path().join("stent.toml");
            std::fs::write(&file, Config::new(&backend).text(path)).unwrap();
            let (mut reader, output): (Box<dyn Read>, Stdio) = if is_socket {
                let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
                (Box::new(reader), std::os::fd::OwnedFd::from(writer).into())
            } else {
                let (reader, writer) = std::io::pipe().unwrap();
                (Box::new(reader), writer.into())
            };
            let log = directory.path().join("log");
            let mut child = Command::new(env!("CARGO_BIN_EXE_stent"))
                .args(["run".as_ref(), file.as_os_str()])
                .stdout(output)
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let listener = eventually("the listener", || {
                let log = std::fs::read_to_string(&log).unwrap();
                let said = log.lines().find(|said| said.contains("\"listening\""))?;
                let said: serde_json::Value = serde_json::from_str(said).ok()?;
                said["fields"]["address"].as_str()?.parse().ok()
            });
            assert_eq!(Client::connect(listener).get("/seen").status, 200);
            assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
            assert_eq!(child.wait().unwrap().code(), Some(0));
            let mut lines = String::new();
            reader.read_to_string(&mut lines).unwrap();
            assert!(lines.contains("/seen") && lines.lines().count() == 1, "{path:?}: {lines}");
        }
    }
}
