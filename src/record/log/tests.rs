//! The queue and its writer: order, loss, room, rotation, failure and end.

use std::env;
use std::fs::{self, File};
use std::future::{Future, poll_fn};
use std::io::{self, Read, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::pin::pin;
use std::process::{self, Command};
use std::sync::atomic::AtomicU32;
use std::task::Poll;
use std::time::SystemTime;

use http::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::error::Origin;
use crate::record::{ExchangeOutcome, QueryPolicy, Target};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn lines_are_written_in_the_order_in_which_they_were_sent() {
    let folder = Folder::new();
    let (sender, writer) = start(&folder.output(), &Metrics::new()).unwrap();
    for number in 0..1000 {
        sender.send(record(number));
    }
    writer.close(LONG).unwrap();
    assert_eq!(folder.numbers("access.log"), (0..1000).collect::<Vec<_>>());
}

#[test]
fn many_threads_lose_no_line_when_the_log_is_closed() {
    let folder = Folder::new();
    let metrics = Metrics::new();
    let (sender, writer) = start(&folder.output(), &metrics).unwrap();
    thread::scope(|scope| {
        for worker in 0..4 {
            let sender = sender.clone();
            scope.spawn(move || (0..1500).for_each(|number| sender.send(record(worker * 1500 + number))));
        }
    });
    writer.close(LONG).unwrap();
    let mut numbers = folder.numbers("access.log");
    numbers.sort_unstable();
    assert_eq!(numbers, (0..6000).collect::<Vec<_>>());
    assert_eq!(metrics.access_log_lost.get(), 0);
}

#[test]
fn what_is_sent_after_the_close_is_counted_as_lost() {
    let folder = Folder::new();
    let metrics = Metrics::new();
    let (sender, writer) = start(&folder.output(), &metrics).unwrap();
    sender.send(record(1));
    writer.close(LONG).unwrap();
    sender.send(record(2));
    assert_eq!(folder.numbers("access.log"), [1]);
    assert_eq!(metrics.access_log_lost.get(), 1);
}

#[test]
fn the_thread_ends_when_its_handle_and_every_sender_are_gone() {
    let folder = Folder::new();
    let (sender, mut writer) = start(&folder.output(), &Metrics::new()).unwrap();
    sender.send(record(1));
    drop(sender);
    let Running { orders, thread, ended } = writer.running.take().unwrap();
    drop(orders);
    assert_eq!(ended.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    thread.join().unwrap();
    assert_eq!(folder.numbers("access.log"), [1]);
}

#[test]
fn a_full_queue_loses_and_counts_and_writes_all_else() {
    let (mut reader, writer_end) = pipe().unwrap();
    let metrics = Metrics::new();
    let (sender, writer) = start_into(into(writer_end), 8, &metrics).unwrap();
    // Nobody reads the pipe, so that the writer blocks once it is full, and then the queue fills.
    let mut sent = 0;
    while metrics.access_log_lost.get() == 0 {
        sender.send(record(sent));
        sent += 1;
        assert!(sent < 10_000_000, "the queue has no end");
    }
    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        numbers(&text)
    });
    writer.close(LONG).unwrap();
    let written = reading.join().unwrap();
    assert_eq!(written, (0..sent - 1).collect::<Vec<_>>());
}

#[test]
fn a_close_gives_up_after_its_timeout_when_the_output_is_stuck() {
    let (mut reader, writer_end) = pipe().unwrap();
    let metrics = Metrics::new();
    let (sender, writer) = start_into(into(writer_end), CAPACITY, &metrics).unwrap();
    // Far more than a pipe holds.
    for number in 0..4000 {
        sender.send(record(number));
    }
    let error = writer.close(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(numbers(&text).len(), 4000);
}

#[tokio::test(start_paused = true)]
async fn room_is_there_at_once_below_seven_eighths() {
    let folder = Folder::new();
    let metrics = Metrics::new();
    let (sender, _orders, _writer) = channel(folder.destination(), 16, &metrics);
    for number in 0..13 {
        sender.send(record(number));
    }
    let begin = Instant::now();
    sender.room().await;
    assert_eq!((begin.elapsed(), metrics.access_log_waits.get()), (Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn room_waits_at_most_its_bound_and_counts() {
    let folder = Folder::new();
    let metrics = Metrics::new();
    let (sender, _orders, _writer) = channel(folder.destination(), 16, &metrics);
    for number in 0..14 {
        sender.send(record(number));
    }
    let begin = Instant::now();
    sender.room().await;
    // Tokio's clock counts whole milliseconds and rounds a wait up.
    assert!((MAX_WAIT..=MAX_WAIT + Duration::from_millis(1)).contains(&begin.elapsed()));
    assert_eq!(metrics.access_log_waits.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn room_is_released_when_the_queue_falls() {
    let folder = Folder::new();
    let metrics = Metrics::new();
    let (sender, _orders, mut writer) = channel(folder.destination(), 16, &metrics);
    for number in 0..16 {
        sender.send(record(number));
    }
    let begin = Instant::now();
    let (mut first, mut second) = (pin!(sender.room()), pin!(sender.room()));
    poll_fn(|context| {
        assert!(first.as_mut().poll(context).is_pending());
        assert!(second.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    writer.drain();
    first.await;
    second.await;
    assert_eq!((begin.elapsed(), metrics.access_log_waits.get()), (Duration::ZERO, 2));
}

#[test]
fn after_a_rotation_the_new_file_gets_what_is_sent_after_reopen() {
    let folder = Folder::new();
    let (sender, writer) = start(&folder.output(), &Metrics::new()).unwrap();
    sender.send(record(1));
    fs::rename(folder.file("access.log"), folder.file("access.log.1")).unwrap();
    writer.reopen();
    sender.send(record(2));
    writer.close(LONG).unwrap();
    let (old, new) = (folder.numbers("access.log.1"), folder.numbers("access.log"));
    // A record that was still queued goes to either file; one sent after the order goes to the new one only.
    assert!(new.ends_with(&[2]) && !old.contains(&2), "{old:?} {new:?}");
    assert_eq!([old, new].concat(), [1, 2]);
}

#[test]
fn an_idle_writer_lets_go_of_a_rotated_file() {
    let folder = Folder::new();
    let (_sender, writer) = start(&folder.output(), &Metrics::new()).unwrap();
    fs::rename(folder.file("access.log"), folder.file("access.log.1")).unwrap();
    writer.reopen();
    writer.close(LONG).unwrap();
    assert!(fs::exists(folder.file("access.log")).unwrap());
}

#[test]
fn a_file_that_cannot_be_opened_anew_leaves_the_old_one_in_use() {
    let folder = Folder::new();
    let inner = folder.file("inner");
    fs::create_dir(&inner).unwrap();
    let output = AccessLogOutput::File(inner.join("access.log"));
    let (sender, writer) = start(&output, &Metrics::new()).unwrap();
    fs::rename(&inner, folder.file("moved")).unwrap();
    writer.reopen();
    sender.send(record(1));
    writer.close(LONG).unwrap();
    assert_eq!(folder.numbers("moved/access.log"), [1]);
}

#[test]
fn a_full_disk_loses_and_counts_lines_until_there_is_space_again() {
    let folder = Folder::new();
    let metrics = Metrics::new();
    // The kernel's file that is always full, behind a link that can be turned.
    symlink("/dev/full", folder.file("access.log")).unwrap();
    let (sender, _orders, mut writer) = channel(folder.destination(), 16, &metrics);
    for number in 0..3 {
        sender.send(record(number));
    }
    writer.drain();
    assert_eq!(metrics.access_log_lost.get(), 3);
    fs::remove_file(folder.file("access.log")).unwrap();
    writer.destination.reopen();
    sender.send(record(3));
    writer.drain();
    assert_eq!(folder.numbers("access.log"), [3]);
    assert_eq!(metrics.access_log_lost.get(), 3);
}

#[test]
fn a_closed_pipe_loses_and_counts_lines_and_ends_nothing() {
    let (reader, writer_end) = pipe().unwrap();
    drop(reader);
    let metrics = Metrics::new();
    let (sender, writer) = start_into(into(writer_end), 16, &metrics).unwrap();
    sender.send(record(1));
    sender.send(record(2));
    writer.close(LONG).unwrap();
    assert_eq!(metrics.access_log_lost.get(), 2);
}

#[test]
fn others_may_not_read_the_file() {
    let folder = Folder::new();
    let (_sender, _writer) = start(&folder.output(), &Metrics::new()).unwrap();
    let mode = fs::metadata(folder.file("access.log")).unwrap().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_file_that_exists_is_appended_to() {
    let folder = Folder::new();
    for number in 0..2 {
        let (sender, writer) = start(&folder.output(), &Metrics::new()).unwrap();
        sender.send(record(number));
        writer.close(LONG).unwrap();
    }
    assert_eq!(folder.numbers("access.log"), [0, 1]);
}

#[test]
fn an_output_that_cannot_be_opened_is_an_error() {
    let folder = Folder::new();
    let output = AccessLogOutput::File(folder.file("absent/access.log"));
    assert_eq!(start(&output, &Metrics::new()).unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// Runs itself anew, because standard output is the process's.
#[test]
fn standard_output_gets_whole_lines() {
    const CHILD: &str = "STENT_TEST_STDOUT";
    if env::var_os(CHILD).is_none() {
        let name = "record::log::tests::standard_output_gets_whole_lines";
        let mut child = Command::new(env::current_exe().unwrap());
        let output = child.args(["--exact", name]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: String =
            text.lines().filter_map(|line| Some(format!("{}\n", &line[line.find('{')?..]))).collect();
        assert_eq!(numbers(&lines), [1, 2], "{text}");
        return;
    }
    let (sender, writer) = start(&AccessLogOutput::Stdout, &Metrics::new()).unwrap();
    sender.send(record(1));
    sender.send(record(2));
    writer.reopen();
    writer.close(LONG).unwrap();
}

#[tokio::test]
async fn a_log_that_is_off_takes_and_counts_nothing() {
    let metrics = Metrics::new();
    let (sender, writer) = start(&AccessLogOutput::Off, &metrics).unwrap();
    assert!(sender.is_off());
    sender.room().await;
    sender.send(record(1));
    writer.reopen();
    writer.close(Duration::ZERO).unwrap();
    assert_eq!((metrics.access_log_lost.get(), metrics.access_log_waits.get()), (0, 0));
}

/// A record that is told from others by its number, in `bytes_in`.
fn record(number: u64) -> Record {
    Record {
        at: SystemTime::UNIX_EPOCH,
        id: "id".into(),
        client: [127, 0, 0, 1].into(),
        client_subject: None,
        protocol: None,
        method: Method::GET,
        target: Target::new(b"hosp.example.org", "/", "", b""),
        route: None,
        cluster: None,
        query: QueryPolicy::Redacted,
        status: 200,
        origin: Origin::Upstream,
        outcome: ExchangeOutcome::Ok,
        error: None,
        bytes_in: number,
        bytes_out: 0,
        duration: Duration::ZERO,
        time_to_head: None,
        outage_wait: None,
        admission_wait: None,
        attempts: Vec::new(),
        retry_stopped: None,
        resumed: 0,
        broken: None,
    }
}

/// The numbers of the records in `text`, of which every line must be whole.
fn numbers(text: &str) -> Vec<u64> {
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["bytes_in"].as_u64().unwrap())
        .collect()
}

fn into(pipe: impl Into<OwnedFd>) -> Destination {
    Destination::new(File::from(pipe.into()))
}

/// A folder of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("stent-access-log-{}-{number}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn output(&self) -> AccessLogOutput {
        AccessLogOutput::File(self.file("access.log"))
    }

    fn destination(&self) -> Destination {
        Destination::file(&self.file("access.log")).unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<u64> {
        numbers(&fs::read_to_string(self.file(name)).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
