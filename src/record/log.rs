//! The access log: one JSON line per exchange, made and written on a thread of its own.
//!
//! Workers hand records over through a bounded queue. A worker never waits while it sends: a line that finds
//! the queue full is lost and counted. Instead an exchange waits, bounded, *before* its response head
//! ([`LogSender::room`]), so that callers slow down before lines are lost.
//!
//! `line` says what stands in a line, `query` what of a query may, `destination` where the lines go.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{Notify, mpsc};

use crate::record::Record;
use crate::record::log::destination::Destination;
use crate::record::metrics::Metrics;

mod destination;
#[cfg(feature = "bench")]
pub(crate) mod in_place;
mod line;
mod query;
#[cfg(test)]
mod tests;

pub(crate) use self::destination::write_lines;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogOutput {
    /// A file, opened for appending, and anew on SIGHUP.
    File(PathBuf),
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
}

/// Opens the output and starts the thread that writes to it.
///
/// Fails if the file cannot be opened or the thread not be started.
pub fn start(output: &AccessLogOutput, metrics: &Metrics) -> io::Result<(LogSender, LogWriter)> {
    let destination = match output {
        AccessLogOutput::File(path) => Destination::file(path)?,
        AccessLogOutput::Off => return Ok((LogSender::off(), LogWriter { running: None })),
        AccessLogOutput::Stdout => Destination::stdout()?,
    };
    start_into(destination, CAPACITY, metrics)
}

fn start_into(
    destination: Destination,
    capacity: usize,
    metrics: &Metrics,
) -> io::Result<(LogSender, LogWriter)> {
    let (sender, orders, writer) = channel(destination, capacity, metrics);
    // Nothing is ever sent: that the thread has ended shows in the loss of its half.
    let (alive, ended) = sync_channel::<()>(1);
    let thread = thread::Builder::new().name("access-log".into()).spawn(move || writer.run(alive))?;
    Ok((sender, LogWriter { running: Some(Running { orders, thread, ended }) }))
}

fn channel(destination: Destination, capacity: usize, metrics: &Metrics) -> (LogSender, Orders, Writer) {
    let (records, queue) = mpsc::channel(capacity);
    let shared = Arc::new(Shared {
        reopen: AtomicBool::new(false),
        close: AtomicBool::new(false),
        drained: Notify::new(),
        lost: metrics.access_log_lost.clone(),
        waits: metrics.access_log_waits.clone(),
    });
    let sender = LogSender { queue: Some(Queue { records: records.clone(), shared: shared.clone() }) };
    let writer = Writer { queue, shared: shared.clone(), destination, batch: Vec::new() };
    (sender, Orders { records, shared }, writer)
}

/// The workers' end of the queue; clones share it.
#[derive(Clone, Debug)]
pub struct LogSender {
    queue: Option<Queue>,
}

/// An empty message only wakes the writer, which then looks for orders.
#[derive(Clone, Debug)]
struct Queue {
    records: mpsc::Sender<Option<Record>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reopen: AtomicBool,
    close: AtomicBool,
    drained: Notify,
    lost: IntCounter,
    waits: IntCounter,
}

impl LogSender {
    /// A sender whose records go nowhere.
    pub fn off() -> Self {
        Self { queue: None }
    }

    /// Whether records go nowhere, so that none need be made.
    pub fn is_off(&self) -> bool {
        self.queue.is_none()
    }

    /// Hands a record over, or loses and counts it if the queue is full or closed. Never waits.
    pub fn send(&self, record: Record) {
        if let Some(queue) = &self.queue
            && queue.records.try_send(Some(record)).is_err()
        {
            queue.shared.lost.inc();
        }
    }

    /// Returns at once while the queue is below 7/8 of its capacity; else waits until it is again, for at
    /// most 100 ms.
    ///
    /// To be awaited before a response head is sent: from then on the record can only be sent or lost.
    pub async fn room(&self) {
        if let Some(queue) = &self.queue
            && !queue.has_room()
        {
            queue.shared.waits.inc();
            // Boxed, because this seldom path would otherwise enlarge the future of every exchange.
            let fell = Box::pin(tokio::time::timeout(MAX_WAIT, queue.fallen()));
            // After the longest wait the caller gets its answer, and what is lost then is counted by `send`.
            let _ = fell.await;
        }
    }
}

impl Queue {
    fn has_room(&self) -> bool {
        self.records.capacity() > self.records.max_capacity() / 8
    }

    async fn fallen(&self) {
        loop {
            // Made before the look at the queue, so that a drain between the two is not missed.
            let drained = self.shared.drained.notified();
            if self.has_room() {
                return;
            }
            drained.await;
        }
    }
}

/// The handle of the thread that writes. Dropped without [`LogWriter::close`], the thread goes on until the
/// last [`LogSender`] is gone, and then writes what is left.
#[derive(Debug)]
pub struct LogWriter {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    orders: Orders,
    thread: JoinHandle<()>,
    ended: Receiver<()>,
}

#[derive(Debug)]
struct Orders {
    records: mpsc::Sender<Option<Record>>,
    shared: Arc<Shared>,
}

impl LogWriter {
    /// Has the file opened anew, so that a rotated one is let go of: for SIGHUP.
    ///
    /// Returns at once. A record sent after it has returned goes to the new file. If that cannot be opened,
    /// the old one stays in use and the error is logged.
    pub fn reopen(&self) {
        if let Some(running) = &self.running {
            running.orders.reopen();
        }
    }

    /// Writes what was sent so far, and ends the thread; what is sent later is lost and counted.
    ///
    /// Blocks the calling thread. Fails with [`io::ErrorKind::TimedOut`] if the output takes longer than
    /// `timeout`: the thread is then left to itself.
    pub fn close(self, timeout: Duration) -> io::Result<()> {
        let Some(Running { orders, thread, ended }) = self.running else { return Ok(()) };
        orders.close();
        match ended.recv_timeout(timeout) {
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                thread.join().map_err(|_| io::Error::other("the access log's thread panicked"))
            }
        }
    }
}

impl Orders {
    // `Relaxed` is enough for both: whatever is sent after the order carries it along, through the queue's
    // own ordering.

    fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn close(&self) {
        self.shared.close.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // A full queue needs no wake: its writer is at work.
        let _ = self.records.try_send(None);
    }
}

/// What runs on the thread.
struct Writer {
    queue: mpsc::Receiver<Option<Record>>,
    shared: Arc<Shared>,
    destination: Destination,
    /// Whole lines that are not yet written.
    batch: Vec<u8>,
}

impl Writer {
    /// Writes until the queue is closed and empty; `_alive` is let go of at the end, whatever it is.
    fn run(mut self, _alive: SyncSender<()>) {
        while let Some(message) = self.queue.blocking_recv() {
            self.take(message);
            // While records come, this thread sleeps by the clock and not on the queue: a worker that finds
            // it asleep on the queue pays a system call to wake it.
            loop {
                self.drain();
                thread::sleep(PAUSE);
                if self.queue.is_empty() {
                    break;
                }
            }
        }
        self.write();
    }

    /// Takes what the queue holds, and writes it.
    fn drain(&mut self) {
        while let Ok(message) = self.queue.try_recv() {
            self.take(message);
        }
        self.write();
        // Looked at after the queue, so that the wake that came with the order is not taken without it.
        if self.shared.close.load(Ordering::Relaxed) {
            // What was sent before stays in the queue; once it is taken, the queue reads as ended.
            self.queue.close();
        }
    }

    fn take(&mut self, message: Option<Record>) {
        // Looked at before each record, so that one sent after the order is not in the old file.
        if self.shared.reopen.load(Ordering::Relaxed) {
            self.shared.reopen.store(false, Ordering::Relaxed);
            self.write();
            self.destination.reopen();
        }
        if let Some(record) = message {
            line::write(&record, &mut self.batch);
            if self.batch.len() >= BATCH_BYTES {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        // Before the write, which may take long: the places in the queue are free already.
        self.shared.drained.notify_waiters();
        let lost = self.destination.write(&self.batch);
        self.shared.lost.inc_by(lost);
        self.batch.clear();
    }
}

/// Records in the queue; at 30,000 exchanges a second, a quarter of a second.
const CAPACITY: usize = 8192;

/// The longest that an exchange waits for the queue.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Between two rounds of a busy writer.
const PAUSE: Duration = Duration::from_millis(10);

/// Lines are written once they fill this, however long the queue is.
const BATCH_BYTES: usize = 256 * 1024;
