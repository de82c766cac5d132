//! The configuration file: [`load`] reads it, checks it whole, and gives either a [`Config`] or every error in it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use crate::config::keys::File;
use crate::config::reader::Table;
use crate::config::report::{Fault, Faults};
use crate::config::settings::Section;
use crate::downstream::settings::ListenerSettings;
use crate::record::log::AccessLogOutput;
use crate::route::RouteSettings;
use crate::upstream::settings::ClusterSettings;

pub use self::docs::{page, reference, schema};
pub use self::effective::effective;
pub use self::report::{Colour, ConfigErrors, Warning};

mod bounds;
mod build;
mod certificate_files;
mod cluster_tls;
mod docs;
mod effective;
mod health_check;
mod idempotency;
mod keys;
pub(crate) mod kinds;
mod listener_tls;
mod reader;
mod relations;
mod report;
mod secrets;
mod settings;
mod source;
mod spec;
mod syntax;
mod tables;
pub(crate) mod units;

/// A configuration in which everything has been checked and merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`
    pub server: ServerSettings,
    /// `[admin] address`
    pub admin: SocketAddr,
    /// `[log]`
    pub log: LogSettings,
    /// `[access_log] output`
    pub access_log: AccessLogOutput,
    /// `[[listener]]`; at least one, each at an address of its own.
    pub listeners: Vec<ListenerSettings>,
    /// `[cluster.NAME]`; at least one, unless every route is a redirect.
    pub clusters: Vec<ClusterSettings>,
    /// `[[route]]`; at least one, each with a redirect or a cluster that exists.
    pub routes: Vec<RouteSettings>,
    /// What is allowed and should be changed all the same.
    pub warnings: Vec<Warning>,
}

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

/// The program's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the program's own log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object.
    Json,
    /// For people.
    Text,
}

/// Reads and checks the file at `path`, or what comes through an unnamed pipe within 5 s, as from `<(…)` in a shell.
///
/// # Errors
/// Everything that is wrong with it, at once; or the one thing that kept it from being read.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_source(path, source::read)
}

/// The same for the configuration of a running process: only a file can be read a second time.
///
/// # Errors
/// As for [`load`].
pub fn load_again(path: &Path) -> Result<Config, ConfigErrors> {
    load_source(path, source::read_file)
}

fn load_source(path: &Path, read: fn(&Path) -> io::Result<Vec<u8>>) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let unreadable = |reason: String, help: &str| {
        let fault = Fault::new(format!("cannot read the configuration: {reason}")).help(help);
        ConfigErrors::new(&name, "", vec![fault])
    };
    let bytes = read(path).map_err(|error| {
        let help = "name a file that this user may read; config/minimal.toml is the least that works";
        unreadable(error.to_string(), help)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
        unreadable(format!("line {line} is not UTF-8"), "save the file as UTF-8, as TOML requires")
    })?;
    parse(&text, &name)
}

/// Reads and checks `text`; `file_name` is what the errors call it, and relative paths start at its directory.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigErrors> {
    let (tree, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(ConfigErrors::new(file_name, text, syntax::faults(text)));
    }
    let faults = Faults::default();
    let file = File::read(Table::root(&tree, &faults));
    let directory = Path::new(file_name).parent().unwrap_or(Path::new(""));
    let config = build::build(&file, directory, &faults);
    match faults.into_parts() {
        (none, warnings) if none.is_empty() => {
            Ok(Config { warnings: Warning::all(file_name, text, warnings), ..config })
        }
        (faults, _) => Err(ConfigErrors::new(file_name, text, faults)),
    }
}

#[cfg(test)]
mod tests;
