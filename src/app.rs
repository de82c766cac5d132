//! The wiring: a configuration becomes running parts, is exchanged for another, and drains.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::app::control::Control;
use crate::config::Config;
use crate::downstream::tls::TlsError;
use crate::record::metrics::Metrics;

mod control;
mod logging;
pub(crate) mod open_files;
pub(crate) mod parts;
mod run;
mod tls;

pub use self::run::run;

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
    /// A reload would leave a cluster that works without an endpoint.
    #[error(
        "cluster {cluster} would have no endpoint: no host of its `endpoints` resolves; the old ones stay"
    )]
    Unresolved {
        /// The cluster's name.
        cluster: Arc<str>,
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
    spawned.spawn(move || control.run(runtime, orders))
}
