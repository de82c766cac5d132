//! The whole file, and the tables of the process: `[server]`, `[admin]`, `[log]`, `[access_log]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::thread;
use std::time::Duration;

use toml::Spanned;
use tracing::Level;

use crate::config::ServerSettings;
use crate::config::bounds::{GRACE, s};
use crate::config::keys::cluster::Cluster;
use crate::config::keys::listener::Listener;
use crate::config::keys::retry::Retry;
use crate::config::keys::route::{Route, without_backend};
use crate::config::kinds::places::{log_output, socket_address, via};
use crate::config::kinds::{Kind, duration, integer, size, word};
use crate::config::reader::Field;
use crate::config::settings::settings;
use crate::config::spec::{Or, Spec};
use crate::config::tables::{Named, as_they_are, named, table, tables};
use crate::config::{Config, LogFormat, LogSettings};
use crate::record::log::AccessLogOutput;
use crate::upstream::settings::ClusterSettings;

pub(super) mod cluster;
pub(super) mod listener;
pub(super) mod retry;
pub(super) mod route;

settings! {
    /// The whole file.
    File: fields of Config {
        /// The process.
        server: Server = table();
        /// The admin listener: `/metrics`, `/livez` and `/readyz`.
        admin: Admin = table();
        /// The program's own log, on standard error.
        log: Log = table();
        /// The access log: one JSON line per exchange.
        access_log: AccessLog = table();
        /// A listener: where callers connect. Any number of them, each at an address of its own.
        listener: Field<Vec<Spanned<Listener>>> = tables(as_they_are) => |config| config.listeners.clone();
        /// Defaults for every cluster and route. `[cluster.NAME.retry]` and `[route.retry]` replace them key by key.
        retry: Retry = table().sometimes() => |_| None;
        /// A cluster: a named group of endpoints. Any number of them. The name labels metrics and log lines: 1 to 64
        /// printable ASCII characters, without spaces and quotes.
        cluster: Field<Vec<Named<Cluster>>> =
            named("main", |cluster: &ClusterSettings| &cluster.name) => |config| config.clusters.clone();
        /// A route: which requests go together, and where they go. Any number of them. The most specific one takes a
        /// request, wherever it stands in the file.
        route: Field<Vec<Spanned<Route>>> = tables(without_backend) => |config| config.routes.clone();
    }
}

settings! {
    /// `[server]`
    Server: all of ServerSettings {
        /// Worker threads; 0 means one per core.
        workers: Or<usize> = integer(0..=1024).or(0);
        /// After SIGTERM, `/readyz` fails and listeners still accept for this time.
        accept_grace: Or<Duration> = duration(GRACE).or(s(15));
        /// After that, nothing new is accepted, and running exchanges may take this time to finish.
        finish_grace: Or<Duration> = duration(GRACE).or(s(60));
        /// The most memory of request bodies that are kept for retries, over the whole process; 0B keeps none.
        replay_memory: Or<usize> = size(0..=1 << 40).or(256 << 20);
        /// The most memory of answers that are buffered until complete, over the whole process; 0B buffers none.
        answer_memory: Or<usize> = size(0..=1 << 40).or(256 << 20);
        /// Our name in the `Via` header. A request that already carries it is a loop.
        via: Or<Box<str>> = via().or("stent".into());
    }
}

impl Server {
    /// The settings, with the threads counted.
    pub(super) fn settings(&self) -> ServerSettings {
        let settings = self.checked();
        let workers = match settings.workers {
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers,
        };
        ServerSettings { workers, ..settings }
    }
}

settings! {
    /// `[admin]`
    Admin: fields of SocketAddr {
        /// Where the admin listener listens. Keep it away from the public.
        address: Or<SocketAddr> = socket_address().or(ADMIN) => |address| *address;
    }
}

settings! {
    /// `[log]`
    Log: all of LogSettings {
        /// The least severe level that is written.
        level: Or<Level> = word([
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ]).or(Level::INFO);
        /// How a line looks: "auto" is text on a terminal and JSON elsewhere.
        format: Or<LogFormat> = word([
            ("auto", LogFormat::Auto),
            ("json", LogFormat::Json),
            ("text", LogFormat::Text),
        ]).or(LogFormat::Auto);
    }
}

settings! {
    /// `[access_log]`
    AccessLog: fields of AccessLogOutput {
        /// "stdout", "off", or a path: a file (reopened on SIGHUP), `/dev/stderr` or `/dev/null`.
        output: Or<AccessLogOutput> = log_output().or(AccessLogOutput::Stdout) => AccessLogOutput::clone;
    }
}

/// Where the admin listener is by default.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
