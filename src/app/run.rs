//! `stent run`: the process from its first line to its last, and the signals that it obeys meanwhile.
//!
//! # Invariant
//!
//! Nothing waits without a bound for a file, a name, a thread or a reader of the log. What may take long runs
//! beside the thread that obeys signals, and a reload changes nothing before all of that is over. Held by
//! `a_signal_to_stop_is_obeyed_while_a_reload_waits_for_names` and
//! `a_signal_to_stop_is_obeyed_before_the_configuration_is_read`.

use std::io::{self, Write, stderr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, spawn_blocking};

use crate::app::logging::ProgramLog;
use crate::app::{Running, StartError, open_files, start};
use crate::config::{self, Config, ConfigErrors};
use crate::descriptors;

/// `stent run`: reads the file, starts, obeys signals, and returns when all is over.
///
/// What may take long (files, names, keys) runs on threads of its own, so that a signal to stop is obeyed at any time.
pub fn run(path: &Path) -> ExitCode {
    let (runtime, mut signals, log) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            // The exit code says it too, where nobody takes the text.
            let _ = writeln!(stderr(), "cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(lead(path, &log, &mut signals));
    // A file or a name server that does not answer keeps its thread, and must not keep the process.
    runtime.shutdown_background();
    log.close();
    code
}

fn prepare() -> io::Result<(Runtime, Signals, ProgramLog)> {
    // The thread that starts stays for reloads: the run time of the process's threads, which tools read, only grows.
    let runtime = Builder::new_current_thread().enable_all().thread_keep_alive(KEEP_ALIVE).build()?;
    let signals = {
        let _runtime = runtime.enter();
        Signals::new()?
    };
    Ok((runtime, signals, ProgramLog::open()?))
}

async fn lead(path: &Path, log: &ProgramLog, signals: &mut Signals) -> ExitCode {
    let loaded = select! {
        () = signals.stop.received() => return ExitCode::SUCCESS,
        loaded = load(path, config::load) => loaded,
    };
    let config = match loaded {
        Ok(Ok(config)) => config,
        Ok(Err(errors)) => {
            log.print(&format!("{errors}\n"));
            return ExitCode::from(2);
        }
        Err(error) => {
            log.print(&format!("cannot read the configuration: {error}\n"));
            return ExitCode::FAILURE;
        }
    };
    log.start(&config.log);
    match descriptors::raise_limit() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    warn(&config);
    let starting = spawn_blocking(move || start(&config));
    let started = select! {
        // What has been started so far ends with the process, and serves nobody yet.
        () = signals.stop.received() => return ExitCode::SUCCESS,
        started = starting => started.unwrap_or_else(|error| Err(StartError::System(error.into()))),
    };
    match started {
        Ok(running) => {
            obey(&running, path, signals).await;
            running.join();
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%error, "not started");
            ExitCode::FAILURE
        }
    }
}

/// Reads a file on a thread of its own.
async fn load(
    path: &Path,
    read: fn(&Path) -> Result<Config, ConfigErrors>,
) -> Result<Result<Config, ConfigErrors>, JoinError> {
    let path = path.to_owned();
    spawn_blocking(move || read(&path)).await
}

/// Waits for signals and does what they say, until the end has begun.
async fn obey(running: &Running, path: &Path, signals: &mut Signals) {
    loop {
        select! {
            () = signals.stop.received() => break,
            _ = signals.hangup.recv() => {}
        }
        // A reload that is not over by then is given up, and the old configuration drains.
        select! {
            () = signals.stop.received() => break,
            () = reload(running, path) => {}
        }
    }
    running.drain();
    select! {
        () = signals.stop.received() => running.stop_now(),
        () = running.closed() => {}
    }
}

/// Reads the file anew. Whatever is wrong with it is logged and leaves the old configuration in force.
async fn reload(running: &Running, path: &Path) {
    const FAILED: &str = "configuration not reloaded, the old one stays in force";
    match load(path, config::load_again).await {
        Ok(Ok(config)) => {
            warn(&config);
            match running.reload(config).await {
                Ok(()) => tracing::info!("configuration reloaded"),
                Err(error) => tracing::error!(%error, "{FAILED}"),
            }
        }
        Ok(Err(errors)) => {
            running.metrics.reload_failed();
            tracing::error!(%errors, "{FAILED}");
        }
        Err(error) => {
            running.metrics.reload_failed();
            tracing::error!(%error, "{FAILED}");
        }
    }
}

/// Says what is allowed and should be changed all the same.
fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = open_files::warning(config) {
        tracing::warn!("{warning}");
    }
}

/// The signals that the process obeys. None of them is lost from the moment that this exists.
struct Signals {
    hangup: Signal,
    stop: StopSignals,
    /// Never looked at. Without it, a log that reaches the limit of a file's size would end the process.
    _file_size: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            stop: StopSignals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            },
            _file_size: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }
}

/// The signals that end the process.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    async fn received(&mut self) {
        select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// How long a thread that reads files or starts waits for its next task.
const KEEP_ALIVE: Duration = Duration::from_hours(24);

/// Linux's number; tokio has no name for it.
const SIGXFSZ: i32 = 25;
