//! The proxy as its operators run it: a child process with a file, signals, metrics and logs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::client::Client;
use super::record::Line;
use super::temp::TempDir;
use super::{BOUND, Config, Response, command, eventually};

/// A running proxy, killed when dropped; if its test has failed then, its log is printed.
#[derive(Debug)]
pub(crate) struct Stent {
    child: Child,
    directory: TempDir,
    log: Arc<Log>,
    /// Dropped with the proxy; a reader that stalls waits for that.
    _stalled: Sender<()>,
}

/// What the reader of the proxy's standard error does once the proxy is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogReader {
    /// Goes on reading.
    Reads,
    /// Closes its end of the pipe.
    Leaves,
    /// Reads no more, and keeps its end open.
    Stalls,
}

/// A signal that an operator sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// Go on after [`Signal::Stop`].
    Continue,
    /// Read the configuration again.
    Hangup,
    /// What Ctrl-C sends.
    Interrupt,
    /// Stand still.
    Stop,
    /// Drain and end.
    Terminate,
}

impl Stent {
    /// Starts the proxy and waits until it says that it is ready.
    pub(crate) fn start(config: &Config) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_stent")), config, LogReader::Reads)
    }

    /// The same with another reader of the log. What the proxy says once it is ready is not to be seen then.
    pub(crate) fn start_with_log_reader(reader: LogReader, config: &Config) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_stent")), config, reader)
    }

    /// The same with variables of the environment.
    pub(crate) fn start_with_environment(variables: &[(&str, &str)], config: &Config) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stent"));
        command.envs(variables.iter().copied());
        Self::launch(command, config, LogReader::Reads)
    }

    /// The same for a proxy that may have `most` files open, connections included.
    pub(crate) fn start_with_open_files(most: u32, config: &Config) -> Self {
        Self::start_after(&format!("ulimit -n {most}"), config)
    }

    /// The same after some commands of the shell, in the same process.
    pub(crate) fn start_after(commands: &str, config: &Config) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{commands}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_stent")]);
        Self::launch(command, config, LogReader::Reads)
    }

    /// The same inside a program that runs another, such as `unshare`.
    pub(crate) fn start_within(command: Command, config: &Config) -> Self {
        Self::launch(command, config, LogReader::Reads)
    }

    fn launch(mut command: Command, config: &Config, reads: LogReader) -> Self {
        let directory = TempDir::new();
        let log = Arc::new(Log::default());
        std::fs::write(directory.path().join(CONFIG), config.text(&directory.path().join(ACCESS_LOG)))
            .expect("the configuration can be written");
        let mut child = command
            .arg("run")
            .arg(directory.path().join(CONFIG))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            // What is free goes back to the system at once, and a thread's first small allocation takes a page and not
            // a huge one of 2 MiB: then the system's figures tell what is held, whenever they are read.
            .env("MIMALLOC_PURGE_DELAY", "0")
            .env("MIMALLOC_ALLOW_THP", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let reader = log.clone();
        let (stalled, end) = channel::<()>();
        std::thread::spawn(move || {
            let mut lines = stderr.lines().map_while(Result::ok);
            for line in lines.by_ref() {
                let is_last = reads != LogReader::Reads && line.contains("\"ready\"");
                reader.push(Some(line));
                if is_last {
                    if reads == LogReader::Stalls {
                        let _ = end.recv();
                    }
                    break;
                }
            }
            drop(lines);
            reader.push(None);
        });
        let stent = Self { child, directory, log, _stalled: stalled };
        stent.log.wait("the proxy is ready", |lines| messages(lines, "ready").next().map(drop));
        stent
    }

    /// Runs the proxy with a file that must stop it from starting, or none, and waits for its end.
    pub(crate) fn fail_to_start(config: Option<&str>) -> (Output, PathBuf) {
        let directory = TempDir::new();
        let path = directory.path().join(CONFIG);
        if let Some(config) = config {
            std::fs::write(&path, config).expect("the configuration can be written");
        }
        (command::stent(&["run".as_ref(), path.as_os_str()]), path)
    }

    /// The address of the first listener.
    pub(crate) fn listener(&self) -> SocketAddr {
        self.listeners()[0]
    }

    /// The addresses of all listeners that were ever opened, in that order.
    pub(crate) fn listeners(&self) -> Vec<SocketAddr> {
        messages(&self.log.lines(), "listening").filter_map(|fields| address(&fields)).collect()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        messages(&self.log.lines(), "admin listening")
            .find_map(|fields| address(&fields))
            .expect("the admin listener's line")
    }

    /// A new connection to the first listener.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.listener())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Continue => "-CONT",
            Signal::Hangup => "-HUP",
            Signal::Interrupt => "-INT",
            Signal::Stop => "-STOP",
            Signal::Terminate => "-TERM",
        };
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill is installed").success(), "the proxy runs");
    }

    /// Puts another configuration into the file, asks for it, and waits until it is in force.
    pub(crate) fn reload(&self, config: &Config) {
        let before = self.metrics().sum("stent_config_last_reload_success_timestamp_seconds", &[]);
        self.reload_text(&config.text(&self.access_log_path()));
        eventually("the reload", || {
            let metrics = self.metrics();
            let now = metrics.sum("stent_config_last_reload_success_timestamp_seconds", &[]);
            // A scrape may come between the two, so both are waited for.
            (now > before && metrics.sum("stent_config_last_reload_successful", &[]) > 0.5).then_some(())
        });
    }

    /// Puts a text into the configuration file and asks for it, be it good or not.
    pub(crate) fn reload_text(&self, text: &str) {
        std::fs::write(self.directory.path().join(CONFIG), text).expect("the configuration can be written");
        self.signal(Signal::Hangup);
    }

    /// Waits for the process to end.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        eventually("the proxy's end", || self.child.try_wait().expect("a child of ours"))
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let response = self.admin_get("/metrics");
        assert_eq!(response.status, 200);
        Metrics::parse(&response.text())
    }

    /// The sum of the series of this name whose labels include `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Waits until [`Stent::metric`] is `value`.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut seen = 0.0;
        eventually(&format!("{name}{labels:?} = {value}"), || {
            seen = self.metric(name, labels);
            ((seen - value).abs() < 1e-9).then_some(())
        });
    }

    pub(crate) fn admin_get(&self, path: &str) -> Response {
        Client::connect(self.admin()).get(path)
    }

    /// The access log, once it has `count` lines; more is an error.
    pub(crate) fn access_log(&self, count: usize) -> Vec<Line> {
        let lines = eventually(&format!("{count} lines of access log"), || {
            let text = std::fs::read_to_string(self.access_log_path()).unwrap_or_default();
            // A line that is still being written is not there yet.
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            (whole.lines().count() >= count).then(|| whole.to_owned())
        });
        let lines: Vec<Line> = lines.lines().map(Line::parse).collect();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// The first and only line of the access log.
    pub(crate) fn only_line(&self) -> Line {
        self.access_log(1).remove(0)
    }

    /// The memory that the process holds, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory_figure("VmRSS:")
    }

    /// The most memory that the process ever held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory_figure("VmHWM:")
    }

    fn memory_figure(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel counts memory");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kib * 1024
    }

    pub(crate) fn access_log_path(&self) -> PathBuf {
        self.directory.path().join(ACCESS_LOG)
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.path().join(CONFIG)
    }

    /// The first line of the program's log for which `wanted` holds.
    pub(crate) fn wait_for_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.log.wait(what, |lines| lines.iter().find(|line| wanted(line)).cloned())
    }

    /// The lines of the program's log that contain `text`.
    pub(crate) fn count_in_log(&self, text: &str) -> usize {
        self.log.lines().iter().filter(|line| line.contains(text)).count()
    }
}

impl Drop for Stent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log\n{}\n---", self.log.lines().join("\n"));
            let access_log = std::fs::read_to_string(self.access_log_path()).unwrap_or_default();
            let tail: Vec<&str> = access_log.lines().rev().take(20).collect();
            eprintln!("--- the access log, last line first\n{}\n---", tail.join("\n"));
        }
    }
}

/// What the proxy wrote to its standard error.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Adds a line; none is the end.
    fn push(&self, line: Option<String>) {
        let mut state = self.lock();
        state.ended |= line.is_none();
        state.lines.extend(line);
        self.changed.notify_all();
    }

    fn lines(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&[String]) -> Option<T>) -> T {
        let mut result = None;
        let waiting = self.changed.wait_timeout_while(self.lock(), BOUND, |state| {
            result = found(&state.lines);
            result.is_none() && !state.ended
        });
        let state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        let log = state.lines.join("\n");
        drop(state);
        result.unwrap_or_else(|| panic!("waited in vain: {what}; the proxy's log:\n{log}"))
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fields of the log lines with this message.
fn messages<'a>(lines: &'a [String], message: &'a str) -> impl Iterator<Item = Value> + 'a {
    let fields = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    fields.map(|line| line["fields"].clone()).filter(move |fields| fields["message"] == message)
}

fn address(fields: &Value) -> Option<SocketAddr> {
    fields["address"].as_str().and_then(|text| text.parse().ok())
}

/// A scrape of `/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    text: String,
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { text: text.to_owned(), series: lines.map(Series::parse).collect() }
    }

    /// The scrape as it came.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The sum of the series of this name whose labels include `labels`; 0 if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |series: &&Series| {
            series.name == name
                && labels.iter().all(|(key, value)| series.labels.get(*key).is_some_and(|v| v == value))
        };
        self.series.iter().filter(wanted).map(|series| series.value).sum()
    }

    /// The label names of the first series of this name; none if there is no such series.
    pub(crate) fn labels(&self, name: &str) -> Option<Vec<&str>> {
        let series = self.series.iter().find(|series| series.name == name)?;
        Some(series.labels.keys().map(String::as_str).collect())
    }
}

impl Series {
    /// Reads `name{label="value",…} 1.5`; the proxy's label values hold no quotes or commas.
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("no label in {line:?}"));
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        Self {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().unwrap_or_else(|_| panic!("no number in {line:?}")),
        }
    }
}

const CONFIG: &str = "stent.toml";
const ACCESS_LOG: &str = "access.log";
