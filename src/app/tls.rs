//! The TLS of the listeners: made before anything is exchanged, because it can fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::task::spawn_blocking;

use crate::app::StartError;
use crate::downstream::acceptor::Listener;
use crate::downstream::settings::ListenerSettings;
use crate::downstream::tls::{Tls, TlsError};
use crate::record::metrics::Metrics;

/// A listener's settings and what it speaks TLS with.
pub(super) struct Prepared {
    pub(super) settings: ListenerSettings,
    pub(super) tls: Option<Arc<Tls>>,
    previous: Option<Arc<Tls>>,
}

/// Reads the certificates of all `listeners`; `current` are those that listen already, with their configured addresses.
pub(super) async fn prepare(
    listeners: &[ListenerSettings],
    current: &[(SocketAddr, Listener)],
    metrics: &Metrics,
) -> Result<Vec<Prepared>, StartError> {
    let mut prepared = Vec::new();
    for settings in listeners {
        let listening = current.iter().find(|(address, _)| *address == settings.address);
        let previous = listening.and_then(|(_, listener)| listener.tls());
        match build(settings, previous.clone(), metrics).await {
            Ok(tls) => prepared.push(Prepared { settings: settings.clone(), tls, previous }),
            Err(source) => {
                abandon(&prepared);
                return Err(StartError::Tls { address: settings.address, source });
            }
        }
    }
    Ok(prepared)
}

async fn build(
    settings: &ListenerSettings,
    previous: Option<Arc<Tls>>,
    metrics: &Metrics,
) -> Result<Option<Arc<Tls>>, TlsError> {
    let Some(tls) = settings.tls.clone() else { return Ok(None) };
    let names: Vec<_> = tls.certificates.iter().map(|listed| &*listed.label).collect();
    let metrics = metrics.tls(&settings.address.to_string(), &names);
    // Decrypting a key may take a second, in which a drain must not wait.
    let built = spawn_blocking(move || Tls::build(&tls, previous.as_deref(), metrics, SystemTime::now()));
    built.await.map_err(|error| TlsError::Library(Arc::new(error)))?.map(|tls| Some(Arc::new(tls)))
}

/// Takes back what metrics say of certificates that are not put in force after all.
pub(super) fn abandon<'p>(prepared: impl IntoIterator<Item = &'p Prepared>) {
    for Prepared { tls, previous, .. } in prepared {
        if let Some(tls) = tls {
            tls.metrics().retire(previous.as_deref().map(Tls::metrics));
        }
    }
}

impl Prepared {
    /// Watches the certificates' files from now on, in place of the previous ones'.
    pub(super) fn put_in_force(&self) {
        if let Some(previous) = &self.previous {
            previous.metrics().retire(self.tls.as_deref().map(Tls::metrics));
        }
        if let Some(tls) = &self.tls {
            tokio::spawn(tls.watch());
        }
    }
}
