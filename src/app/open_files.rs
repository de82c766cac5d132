//! Whether the system lets the process have as many connections as the configuration allows.

use crate::config::Config;
use crate::descriptors::{self, Use};

/// Says that `max_connections` of listeners and clusters together cannot be had, if that is so.
pub(crate) fn warning(config: &Config) -> Option<String> {
    descriptors::hard_limit().and_then(|limit| shortfall(config, limit))
}

fn shortfall(config: &Config, limit: u64) -> Option<String> {
    let callers = config.listeners.iter().map(|listener| listener.max_connections);
    // A name may have many addresses, each of which is an endpoint. It counts as one, so that no warning is idle.
    let upstream = config.clusters.iter().map(|cluster| cluster.max_connections * cluster.endpoints.len());
    let connections = u64::try_from(callers.chain(upstream).sum::<usize>()).unwrap_or(u64::MAX);
    let needed = connections.saturating_add(Use::Upstream.reserve(limit)).saturating_add(OWN);
    (needed > limit).then(|| {
        format!(
            "max_connections of all listeners and clusters add up to {connections} connections, but the system allows \
             the process {limit} open files: raise its hard limit (LimitNOFILE= for systemd, --ulimit nofile= for \
             Docker) or lower max_connections"
        )
    })
}

/// What the process has open beside connections: event queues, listeners, logs.
const OWN: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_cannot_be_had_is_said_with_both_figures() {
        let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nmax_connections = 1000\n\
            [[listener]]\naddress = \"127.0.0.1:1\"\nmax_connections = 500\n\
            [cluster.c]\nendpoints = [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]\nmax_connections = 200\n\
            [[route]]\nname = \"r\"\npath = \"/*\"\ncluster = \"c\"\n";
        let config = config::parse(text, "stent.toml").unwrap();
        assert_eq!(shortfall(&config, 2000), None);
        let said = shortfall(&config, 1900).unwrap();
        assert!(said.contains("1900 connections") && said.contains("1900 open files"), "{said}");
        assert_eq!(shortfall(&config, u64::MAX), None, "no limit");
    }
}
