//! The queue of the program's log, and the thread that writes it to standard error.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::app::logging::throttle::Throttle;
use crate::record::log::write_lines;

/// Takes lines and never waits. Clones share one queue.
#[derive(Clone, Debug)]
pub(super) struct LineQueue {
    messages: Sender<Message>,
    /// The bytes of the lines that are not yet written; they bound the queue.
    queued: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Lines lost in this process. A static, because the log is one for the process, and is there before the metrics.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many lines of the program's log were lost so far.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A descriptor of our own for standard error: the standard library's handle has a lock, which a stalled write holds.
pub(super) fn standard_error() -> Option<File> {
    io::stderr().as_fd().try_clone_to_owned().ok().map(File::from)
}

impl LineQueue {
    /// Starts the thread that writes to `output`; without one, every line is lost and counted.
    pub(super) fn start(output: Option<File>, throttle: Arc<Throttle>) -> io::Result<Self> {
        let (messages, received) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = Writer { output: output.map(Patient), is_torn: false, throttle, queued: queued.clone() };
        thread::Builder::new().name("program-log".into()).spawn(move || writer.run(&received))?;
        Ok(Self { messages, queued })
    }

    /// Queues whole lines. Where [`CAPACITY`] is used up they are lost and counted.
    pub(super) fn push(&self, lines: &[u8]) {
        let size = lines.len();
        if size == 0 {
            return;
        }
        let before = self.queued.fetch_add(size, Ordering::Relaxed);
        // Whatever is said first is taken, however long: the errors of a large configuration.
        let fits = before == 0 || before + size <= CAPACITY;
        if !fits || self.messages.send(Message::Line(lines.to_owned())).is_err() {
            self.queued.fetch_sub(size, Ordering::Relaxed);
            lose(count(lines));
        }
    }

    /// Waits until what was queued or held back has been written or lost, for at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let (done, is_done) = mpsc::sync_channel(1);
        if self.messages.send(Message::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(timeout);
        }
    }
}

impl Write for &LineQueue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// What runs on the thread.
struct Writer {
    output: Option<Patient>,
    /// Whether the last line written lacks its end, because a write failed inside it.
    is_torn: bool,
    throttle: Arc<Throttle>,
    queued: Arc<AtomicUsize>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            match messages.recv_timeout(HELD_PERIOD) {
                Ok(Message::Line(line)) => {
                    self.write(&line);
                    self.queued.fetch_sub(line.len(), Ordering::Relaxed);
                }
                Ok(Message::Flush(done)) => {
                    self.write_held(None);
                    // Nobody may wait for it any more.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.write_held(Some(Instant::now()));
        }
    }

    fn write_held(&mut self, now: Option<Instant>) {
        for line in self.throttle.due(now) {
            self.write(line.as_bytes());
        }
    }

    fn write(&mut self, lines: &[u8]) {
        match &mut self.output {
            Some(output) => {
                if let Err(lost) = write_lines(output, lines, &mut self.is_torn) {
                    lose(lost.lines);
                }
            }
            None => lose(count(lines)),
        }
    }
}

/// An output whose owner may have made it non-blocking: standard error is often shared with other processes. What finds
/// it full waits a while, on the log's own thread.
struct Patient(File);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            match self.0.write(bytes) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < FULL_PATIENCE =>
                {
                    thread::sleep(FULL_PAUSE);
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lose(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// A last line without an end is a line too.
fn count(lines: &[u8]) -> u64 {
    lines.split_inclusive(|byte| *byte == b'\n').map(|_| 1).sum()
}

/// The most bytes that wait to be written: some thousand lines.
const CAPACITY: usize = 1 << 20;

/// How often lines are looked for that were held back and are due.
const HELD_PERIOD: Duration = Duration::from_secs(1);

/// How long a non-blocking output may be full before a line is lost.
const FULL_PATIENCE: Duration = Duration::from_secs(1);
const FULL_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;

    fn queue(output: impl Into<OwnedFd>) -> LineQueue {
        LineQueue::start(Some(File::from(output.into())), Arc::default()).unwrap()
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = queue(writer);
        for line in ["one\n", "two\n", "three\nfour\n"] {
            queue.push(line.as_bytes());
        }
        let lines: Vec<_> = BufReader::new(reader).lines().take(4).map(Result::unwrap).collect();
        assert_eq!(lines, ["one", "two", "three", "four"]);
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = queue(writer);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let (begun, before) = (Instant::now(), dropped());
        // What the queue and the pipe hold, and as much again.
        for _ in 0..2 * (CAPACITY / line.len() + 64) {
            queue.push(&line);
        }
        assert!(dropped() - before >= 1000, "{}", dropped() - before);
        queue.flush(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(queue.queued.load(Ordering::Relaxed) <= CAPACITY);
        drop(reader);
    }

    #[test]
    fn a_reader_that_has_left_costs_lines_and_nothing_else() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (queue, before) = (queue(writer), dropped());
        queue.push(b"lost\nlost too\n");
        queue.flush(Duration::from_secs(10));
        assert!(dropped() - before >= 2);
    }

    #[test]
    fn a_full_disk_costs_lines_and_the_next_line_begins_anew() {
        let (queue, before) = (queue(File::options().append(true).open("/dev/full").unwrap()), dropped());
        queue.push(b"lost\n");
        queue.flush(Duration::from_secs(10));
        assert!(dropped() > before);
    }

    #[test]
    fn a_text_that_is_longer_than_the_queue_is_written_all_the_same() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = queue(writer);
        let text = "an error\n".repeat(2 * CAPACITY / 9);
        queue.push(text.as_bytes());
        drop(queue);
        let mut written = String::new();
        io::Read::read_to_string(&mut reader, &mut written).unwrap();
        assert_eq!(written.len(), text.len());
    }

    #[test]
    fn without_standard_error_lines_are_lost() {
        let (queue, before) = (LineQueue::start(None, Arc::default()).unwrap(), dropped());
        queue.push(b"lost\n");
        queue.flush(Duration::from_secs(10));
        assert!(dropped() > before);
    }
}
