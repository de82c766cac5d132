//! The command line: `run`, `check`, `explain`, `health` and `demo`.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, Colour, Config, ConfigErrors};
use crate::demo::DemoOptions;
use crate::{app, demo};

pub mod explain;
mod health;

/// Keeps traffic flowing through a failing backend.
#[derive(Debug, Parser)]
#[command(name = "stent", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy until SIGTERM or SIGINT; SIGHUP reads the configuration anew
    Run {
        /// The configuration
        #[arg(default_value = "/etc/stent/stent.toml")]
        config: PathBuf,
    },
    /// Check a configuration and report everything that is wrong with it
    Check {
        /// The configuration
        config: PathBuf,
        /// Print what holds after defaults and merging, as TOML
        #[arg(long)]
        effective: bool,
    },
    /// Show what would happen to a request whose attempts end as given
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArguments),
    /// Ask a running Stent whether it is well: exit code 0 if the answer is 200
    Health {
        /// What to ask
        #[arg(default_value = "http://127.0.0.1:9901/readyz")]
        url: String,
    },
    /// Show Stent at work in front of an embedded flaky backend
    Demo {
        /// How long the load lasts, in seconds
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=DemoOptions::SECONDS_MAX))]
        seconds: u64,
        /// Requests per second, straight to the backend and again through Stent
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=i64::from(DemoOptions::RATE_MAX)))]
        rate: u32,
        /// The share of the backend's answers that fail, from 0 to 1
        #[arg(long, default_value_t = 0.12, value_parser = share)]
        failure_rate: f64,
        /// Keep running after the summary, until Ctrl-C
        #[arg(long)]
        hold: bool,
    },
}

#[derive(Debug, Args)]
struct ExplainArguments {
    /// The configuration
    config: PathBuf,
    /// The request: a method and a path, such as 'POST /api/screenings/7'
    request: String,
    /// How its attempts end: a status (502, 502:retry-after=3, grpc-14), connect, tls, reset, timeout, protocol or truncated
    outcomes: Vec<explain::Given>,
    /// The host that the request names
    #[arg(long)]
    host: Option<String>,
    /// A request header; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The size of the request body, such as 20KiB
    #[arg(long, value_name = "SIZE", default_value = "0B", value_parser = size)]
    body: u64,
}

/// Runs the command that the process was started with, and tells how it ended: 0 well, 1 failed while running, 2 a
/// wrong configuration or command line.
pub fn main() -> ExitCode {
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = if io::stderr().is_terminal() && !no_colour { Colour::Terminal } else { Colour::None };
    Terminal { out: &mut io::stdout(), errors: &mut io::stderr(), colour }.run(env::args_os())
}

/// The command line as clap knows it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Where a command writes.
struct Terminal<'a> {
    out: &'a mut dyn Write,
    errors: &'a mut dyn Write,
    colour: Colour,
}

impl Terminal<'_> {
    fn run(&mut self, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let arguments = match Arguments::try_parse_from(arguments) {
            Ok(arguments) => arguments,
            Err(error) if error.use_stderr() => return self.fail(&error.to_string()),
            // `--help` and `--version`
            Err(answer) => return self.print(&answer.to_string()),
        };
        match arguments.command {
            Command::Run { config } => app::run(&config),
            Command::Check { config, effective } => match config::load(&config) {
                Ok(checked) => {
                    let of_system = app::open_files::warning(&checked);
                    // The exit code does not depend on them.
                    for warning in &checked.warnings {
                        let _ = writeln!(self.errors, "{}\n", warning.report());
                    }
                    if let Some(warning) = of_system {
                        let _ = writeln!(self.errors, "warning: {warning}\n");
                    }
                    self.print(&if effective {
                        config::effective(&checked)
                    } else {
                        summary(&config, &checked)
                    })
                }
                Err(errors) => self.report(&errors),
            },
            Command::Explain(arguments) => self.explain(&arguments),
            Command::Health { url } => match health::ask(&url) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    // The exit code says it too, where nobody takes the text.
                    let _ = writeln!(self.errors, "error: {error}");
                    ExitCode::FAILURE
                }
            },
            Command::Demo { seconds, rate, failure_rate, hold } => {
                demo::run(&DemoOptions { seconds, rate, failure_rate, hold })
            }
        }
    }

    fn explain(&mut self, arguments: &ExplainArguments) -> ExitCode {
        let ExplainArguments { request, host, headers, body, .. } = arguments;
        let request = match explain::Request::new(request, host.as_deref(), headers, *body) {
            Ok(request) => request,
            Err(error) => return self.fail(&format!("error: {error}\n")),
        };
        match config::load(&arguments.config) {
            Ok(config) => self.print(&explain::explain(&config, &request, &arguments.outcomes)),
            Err(errors) => self.report(&errors),
        }
    }

    fn print(&mut self, text: &str) -> ExitCode {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            // Whoever reads only the first lines has what it wants.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        }
    }

    fn report(&mut self, errors: &ConfigErrors) -> ExitCode {
        self.fail(&errors.render(self.colour))
    }

    fn fail(&mut self, text: &str) -> ExitCode {
        // The exit code says it too, where nobody takes the text.
        let _ = self.errors.write_all(text.as_bytes());
        ExitCode::from(USAGE)
    }
}

/// What `check` says of a good file.
fn summary(path: &Path, config: &Config) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "ok: {}: {}, {}, {}\n",
        path.display(),
        count(config.listeners.len(), "listener"),
        count(config.clusters.len(), "cluster"),
        count(config.routes.len(), "route")
    )
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share lies between 0 and 1, such as 0.12".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    config::units::parse_size(text).map_err(|error| format!("{}; {}", error.message, error.help))
}

const USAGE: u8 = 2;
const EXPLAIN_HELP: &str = "Example:
  stent explain config/hosp.toml 'POST /api/screenings/7' --host hosp.example.org 502 502 200
";

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
