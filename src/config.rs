//! The configuration file: [`load`] reads it, checks it whole, and gives either a [`Config`] or every error in it.

use std::net::SocketAddr;

use crate::app::ServerSettings;
use crate::downstream::acceptor::ListenerSettings;
use crate::record::log::AccessLogOutput;
use crate::route::RouteSettings;
use crate::upstream::cluster::ClusterSettings;

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
    /// `[cluster.NAME]`; at least one.
    pub clusters: Vec<ClusterSettings>,
    /// `[[route]]`; at least one, each with a cluster that exists.
    pub routes: Vec<RouteSettings>,
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
