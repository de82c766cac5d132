//! `stent demo`: an embedded flaky HOSP and an open-loop load that goes, side by side, straight to it and through Stent.

mod client;
mod faults;
mod histogram;
mod hosp;
mod ledger;
mod load;
mod plan;
mod show;
mod stent;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{interval_at, sleep_until};

use self::hosp::Hosp;
use self::load::{Load, LoadSettings};
use self::show::{Look, Screen, Side, View};
use self::stent::StentCounts;
use crate::app::{self, Running, StartError};
use crate::config::{self, ConfigErrors};

/// What the command line says.
#[derive(Clone, Debug, PartialEq)]
pub struct DemoOptions {
    /// How long the load lasts; at least 1.
    pub seconds: u64,
    /// Requests per second, each way; 1 to 20 000.
    pub rate: u32,
    /// The share of HOSP's answers that fail, 0 to 1.
    pub failure_rate: f64,
    /// Whether everything goes on after the summary, until Ctrl-C.
    pub hold: bool,
}

impl DemoOptions {
    /// The most requests per second that make sense in one process on a loopback.
    pub const RATE_MAX: u32 = 20_000;
    /// As long as anybody may want to look on; `--hold` goes on for longer.
    pub const SECONDS_MAX: u64 = 24 * 60 * 60;

    fn check(&self) -> Result<(), DemoError> {
        if !(1..=Self::SECONDS_MAX).contains(&self.seconds) {
            return Err(DemoError::Options("`--seconds` must be between 1 and 86400"));
        }
        if !(1..=Self::RATE_MAX).contains(&self.rate) {
            return Err(DemoError::Options("`--rate` must be between 1 and 20000"));
        }
        if !(0.0..=1.0).contains(&self.failure_rate) {
            return Err(DemoError::Options("`--failure-rate` must be between 0.0 and 1.0"));
        }
        Ok(())
    }
}

/// Runs the demo and prints it to stdout. The code is 0 if it ran, also if a signal ended it sooner; 1 if something
/// could not start or the output could not be written.
pub fn run(options: &DemoOptions) -> ExitCode {
    match Stage::start(options).and_then(|stage| stage.play(options)) {
        Ok(()) => ExitCode::SUCCESS,
        // `stent demo | head` has seen what it wanted.
        Err(DemoError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stent demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why the demo did not run to its end.
#[derive(Debug, Error)]
enum DemoError {
    #[error("{0}")]
    Options(&'static str),
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
    #[error("cannot start {what}: {source}")]
    Part { what: &'static str, source: io::Error },
    #[error("the demo's own configuration is refused: {0}")]
    Configuration(ConfigErrors),
    #[error("cannot start Stent: {0}")]
    Stent(#[source] StartError),
}

/// Starts the Stent under demonstration as `stent run` would.
fn start_stent(hosp: SocketAddr) -> Result<Running, DemoError> {
    let text = stent::configuration(hosp);
    let config = config::parse(&text, "demo.toml").map_err(DemoError::Configuration)?;
    app::start(&config).map_err(DemoError::Stent)
}

/// Everything that runs. The fields are dropped in this order: users first, so that nobody sees a backend go.
struct Stage {
    straight: Load,
    through: Load,
    stent: Running,
    hosp_straight: Hosp,
    hosp_behind: Hosp,
    epoch: Instant,
}

impl Stage {
    fn start(options: &DemoOptions) -> Result<Self, DemoError> {
        options.check()?;
        let part = |what| move |source| DemoError::Part { what, source };
        let epoch = Instant::now() + LEAD;
        let hosp = || Hosp::start(options.failure_rate, SEED, epoch).map_err(part("HOSP"));
        let (hosp_straight, hosp_behind) = (hosp()?, hosp()?);
        let stent = start_stent(hosp_behind.address())?;
        let settings = LoadSettings { rate: options.rate, seed: SEED, epoch, patience: load::PATIENCE };
        let load = |target| Load::start(target, settings).map_err(part("the load"));
        let no_listener = || part("Stent")(io::Error::other("it has no listener"));
        let loads = stent
            .listeners()
            .first()
            .ok_or_else(no_listener)
            .and_then(|listener| Ok((load(hosp_straight.address())?, load(*listener)?)));
        match loads {
            Ok((straight, through)) => {
                Ok(Self { straight, through, stent, hosp_straight, hosp_behind, epoch })
            }
            Err(error) => {
                stent.stop();
                Err(error)
            }
        }
    }

    /// Shows what happens until the time or the spectator's patience is over, and takes everything down.
    fn play(mut self, options: &DemoOptions) -> Result<(), DemoError> {
        let part = |what| move |source| DemoError::Part { what, source };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(part("a runtime"))?;
        let mut screen = Screen::new(BufWriter::new(io::stdout().lock()), look());
        let played = runtime.block_on(async {
            let mut signals = Signals::new().map_err(part("the signal handlers"))?;
            self.scenes(options, &mut screen, &mut signals).await.map_err(DemoError::Output)
        });
        let Self { straight, through, stent, .. } = self;
        drop((straight, through));
        stent.stop();
        played
    }

    async fn scenes(
        &mut self,
        options: &DemoOptions,
        screen: &mut Screen<impl Write>,
        signals: &mut Signals,
    ) -> io::Result<()> {
        screen.print(&show::intro(options, self.stent.admin()))?;
        let end = Duration::from_secs(options.seconds);
        let scene = Scene { end: Some(end), until: format!("of {} s", options.seconds) };
        let mut ended = self.watch(&scene, screen, signals).await?;
        if options.hold && ended == Ended::InTime {
            let view = self.view(end).await;
            screen.print(&show::summary(options, &view, look()))?;
            let admin = self.stent.admin();
            screen.print(&format!("It goes on until Ctrl-C:  curl http://{admin}/metrics\n"))?;
            let scene = Scene { end: None, until: "until Ctrl-C".to_owned() };
            ended = self.watch(&scene, screen, signals).await?;
        }
        let sent_for = match ended {
            Ended::InTime => end,
            Ended::BySignal => self.epoch.elapsed(),
        };
        self.drain(signals).await;
        let view = self.view(sent_for).await;
        screen.print(&show::summary(options, &view, look()))
    }

    /// Renews the view until the scene's end or a signal.
    async fn watch(
        &self,
        scene: &Scene,
        screen: &mut Screen<impl Write>,
        signals: &mut Signals,
    ) -> io::Result<Ended> {
        let period = look().interval();
        // On whole periods of the load, so that the figures are those of 5, 10, 15 s.
        let passed = self.epoch.elapsed().div_duration_f64(period).floor();
        let first = self.epoch + period.mul_f64(passed + 1.0);
        let mut ticks = interval_at(first.into(), period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let end = async {
            match scene.end {
                Some(end) => sleep_until((self.epoch + end).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = signals.next() => return Ok(Ended::BySignal),
                () = &mut end => return Ok(Ended::InTime),
                _ = ticks.tick() => {
                    let view = self.view(self.epoch.elapsed()).await;
                    screen.update(&view, &scene.until)?;
                }
            }
        }
    }

    /// Lets the requests under way end, so that each that was sent is counted; another signal cuts it short.
    async fn drain(&mut self, signals: &mut Signals) {
        self.straight.halt();
        self.through.halt();
        let drained = async {
            tokio::join!(self.straight.drained(), self.through.drained());
        };
        tokio::select! {
            () = drained => {}
            () = signals.next() => {}
        }
    }

    async fn view(&self, elapsed: Duration) -> View {
        let side = |load: &Load, hosp: &Hosp| Side { users: load.figures(), hosp: hosp.counts() };
        View {
            elapsed,
            straight: side(&self.straight, &self.hosp_straight),
            stent: side(&self.through, &self.hosp_behind),
            counts: StentCounts::scrape(self.stent.admin()).await,
        }
    }
}

/// A stretch of the demo.
struct Scene {
    end: Option<Duration>,
    until: String,
}

/// How a stretch of the demo came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    BySignal,
    InTime,
}

/// Ctrl-C, and SIGTERM for a demo in a container, where it would otherwise be ignored.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn look() -> Look {
    if !io::stdout().is_terminal() {
        Look::Lines
    } else if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        Look::Table
    } else {
        Look::ColourTable
    }
}

/// The same for both columns and every run, so that two runs can be compared.
const SEED: u64 = 0x57e7;
/// From the start of the first part to the first request, so that both loads begin together.
const LEAD: Duration = Duration::from_millis(300);
