//! The wiring: a configuration becomes running parts, is exchanged for another, and drains.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::app::control::Control;
use crate::config::{self, Config};
use crate::downstream::tls::TlsError;
use crate::record::metrics::Metrics;

mod control;
mod logging;
pub(crate) mod parts;
mod tls;

/// What an operator sets for the process, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Worker threads; at least 1.
    pub workers: usize,
    /// After SIGTERM, how long listeners still accept.
    pub accept_grace: Duration,
    /// After that, how long running exchanges may take.
    pub finish_grace: Duration,
    /// The most bytes of memory that request bodies kept for retries hold, in the process.
    pub replay_memory: usize,
    /// The same for answers held until they are whole.
    pub answer_memory: usize,
    /// Our name in `Via`; a request that already carries it has come back to us.
    pub via: Box<str>,
}

/// Why the process cannot start, or cannot take a new configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The access log's file cannot be opened.
    #[error("cannot open the access log {}: {source}", path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The admin address is not to be had.
    #[error("cannot listen on the admin address {address}: {source}{}", hint(source))]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A listener's address is not to be had.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listener {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A listener's certificates cannot be used.
    #[error("cannot speak TLS on {address}: {source}")]
    Tls {
        /// The listener's address.
        address: SocketAddr,
        /// Why not.
        source: TlsError,
    },
    /// The system gives no thread or no event queue.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// The way out of an address that is not to be had.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process has it; `ss -ltnp` tells which)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has it)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

/// A running Stent. Dropped, it stops at once.
#[derive(Debug)]
pub struct Running {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    metrics: Arc<Metrics>,
    commands: mpsc::UnboundedSender<Command>,
    thread: JoinHandle<()>,
}

/// What the control thread can be told.
enum Command {
    Drain,
    Reload(Box<Config>, oneshot::Sender<Result<(), StartError>>),
    StopNow,
}

impl Running {
    /// Where it listens, in the order of the configuration.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Takes a new configuration; on an error the old one stays in force, whole.
    pub async fn reload(&self, config: Config) -> Result<(), StartError> {
        let (answer, answered) = oneshot::channel();
        // Neither half can be gone before the control thread is, and then there is nothing to reload.
        let _ = self.commands.send(Command::Reload(config.into(), answer));
        let result = answered.await.unwrap_or(Ok(()));
        match &result {
            Ok(()) => self.metrics.reload_succeeded(SystemTime::now()),
            Err(_) => self.metrics.reload_failed(),
        }
        result
    }

    /// Begins to drain: not ready, then not accepting, then closed.
    pub fn drain(&self) {
        let _ = self.commands.send(Command::Drain);
    }

    /// Drains and waits for the end, which `accept_grace` and `finish_grace` bound.
    pub fn stop(self) {
        self.drain();
        self.join();
    }

    /// Gives up whatever still runs.
    fn stop_now(&self) {
        let _ = self.commands.send(Command::StopNow);
    }

    /// Waits until the control thread has begun its last step, which is short.
    async fn closed(&self) {
        self.commands.closed().await;
    }

    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }
}

/// Starts everything. When it returns, callers are accepted.
pub fn start(config: &Config) -> Result<Running, StartError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (commands, orders) = mpsc::unbounded_channel();
    let control = Control::start(config, &runtime)?;
    let running = Running {
        listeners: control.listener_addresses(),
        admin: control.admin_address(),
        metrics: control.metrics(),
        commands,
        thread: spawn_control(runtime, control, orders)?,
    };
    running.metrics.reload_succeeded(SystemTime::now());
    tracing::info!("ready");
    Ok(running)
}

fn spawn_control(
    runtime: Runtime,
    control: Control,
    orders: mpsc::UnboundedReceiver<Command>,
) -> io::Result<JoinHandle<()>> {
    let spawned = std::thread::Builder::new().name("stent-control".into());
    spawned.spawn(move || control.run(&runtime, orders))
}

/// `stent run`: reads the file, starts, obeys signals, and returns when all is over.
pub fn run(path: &Path) -> ExitCode {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    logging::start(&config.log);
    warn(&config);
    match serve(path, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "not started");
            ExitCode::FAILURE
        }
    }
}

fn serve(path: &Path, config: &Config) -> Result<(), StartError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Before the start, so that a signal that comes meanwhile is not lost.
    let (hangup, stop) = {
        let _runtime = runtime.enter();
        (signal(SignalKind::hangup())?, StopSignals::new()?)
    };
    warn(config);
    let running = start(config)?;
    runtime.block_on(obey(&running, path, hangup, stop));
    running.join();
    Ok(())
}

/// Waits for signals and does what they say, until the end has begun.
async fn obey(running: &Running, path: &Path, mut hangup: Signal, mut stop: StopSignals) {
    loop {
        tokio::select! {
            () = stop.received() => break,
            _ = hangup.recv() => reload(running, path).await,
        }
    }
    running.drain();
    tokio::select! {
        () = stop.received() => running.stop_now(),
        () = running.closed() => {}
    }
}

/// Reads the file anew. Whatever is wrong with it is logged and leaves the old configuration in force.
async fn reload(running: &Running, path: &Path) {
    match config::load(path) {
        Ok(config) => {
            warn(&config);
            match running.reload(config).await {
                Ok(()) => tracing::info!("configuration reloaded"),
                Err(error) => {
                    tracing::error!(%error, "configuration not reloaded, the old one stays in force");
                }
            }
        }
        Err(errors) => {
            running.metrics.reload_failed();
            tracing::error!(%errors, "configuration not reloaded, the old one stays in force");
        }
    }
}

/// Says what is allowed and should be changed all the same.
fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// The signals that end the process.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
