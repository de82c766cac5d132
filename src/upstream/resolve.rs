//! Keeps a cluster's endpoints as its host names resolve.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

use crate::upstream::cluster::Cluster;
use crate::upstream::endpoint::{EndpointHost, Location};

/// What each endpoint URL of a cluster last resolved to.
#[derive(Debug, Default)]
pub struct Resolver {
    known: Vec<Vec<Location>>,
}

impl Resolver {
    /// Whether the cluster has a name to resolve.
    pub fn is_needed(cluster: &Cluster) -> bool {
        cluster.settings.endpoints.iter().any(|url| matches!(url.host, EndpointHost::Name(_)))
    }

    /// Resolves every name once. A name that fails keeps what it last resolved to, and is counted and logged.
    pub async fn refresh(&mut self, cluster: &Cluster) {
        self.known.resize_with(cluster.settings.endpoints.len(), Vec::new);
        for (url, known) in cluster.settings.endpoints.iter().zip(&mut self.known) {
            match &url.host {
                EndpointHost::Address(address) => *known = vec![url.at(*address)],
                EndpointHost::Name(name) => match look_up(name, url.port).await {
                    Ok(addresses) => {
                        cluster.metrics.dns_resolved.inc();
                        *known = addresses.into_iter().map(|address| url.at(address)).collect();
                    }
                    Err(error) => {
                        cluster.metrics.dns_failed.inc();
                        tracing::warn!(
                            cluster = %cluster.settings.name, host = %name, %error, kept = known.len(),
                            "endpoint name does not resolve"
                        );
                    }
                },
            }
        }
        cluster.set_locations(&self.known.concat());
    }

    /// Resolves again every `dns_refresh`, sooner while there is no address at all, until the cluster is gone.
    pub async fn run(mut self, cluster: Weak<Cluster>) {
        loop {
            let Some(pause) = cluster.upgrade().map(|cluster| pause(&cluster)) else { return };
            sleep(pause).await;
            let Some(cluster) = cluster.upgrade() else { return };
            self.refresh(&cluster).await;
        }
    }
}

fn pause(cluster: &Arc<Cluster>) -> Duration {
    let refresh = cluster.settings.dns_refresh;
    if cluster.endpoints().is_empty() { refresh.min(UNRESOLVED_PAUSE) } else { refresh }
}

async fn look_up(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let found = timeout(LOOK_UP_TIMEOUT, lookup_host((name, port)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer from the resolver"))??;
    let mut addresses: Vec<_> = found.map(|address| SocketAddr::ip(&address)).collect();
    // The order of answers turns; ours must not, or every refresh would look like a change.
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// The system's resolver may take longer; an answer after this is of no use for this round.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon a cluster without any address is tried again.
const UNRESOLVED_PAUSE: Duration = Duration::from_secs(1);
