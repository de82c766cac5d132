//! TLS towards the caller: the handshake, what it says about the caller, and certificates that are exchanged under it.
//!
//! # Invariant
//!
//! A listener has one `Tls` for all workers: one rustls configuration, one set of ticket keys, and the certificates
//! behind an `ArcSwap`. A changed certificate exchanges only the last of them, so that sessions live on. Only a
//! reload makes a new `Tls`. The ticket keys go over to it only if it trusts the same callers, because a resumed
//! session is not asked for its certificate again. Held by
//! `sessions_are_resumed_by_every_worker_and_across_a_swap`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::{self, CertificateError, CertificateSet};
use crate::proxy::tls::TlsCaller;
use crate::record::metrics::{HandshakeResult, TlsMetrics};

mod failure;
pub mod settings;
mod watch;

pub use self::settings::{ClientAuth, ClientAuthMode, ListedCertificate, TlsSettings, TlsVersion};

/// Why a listener cannot speak TLS.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate, its key or a CA cannot be used.
    #[error("{0}; {help}", help = .0.help())]
    Certificate(#[from] CertificateError),
    /// The library refuses, for want of randomness or because of a CA that cannot be used.
    #[error("cannot set up TLS: {0}")]
    Library(Arc<dyn std::error::Error + Send + Sync>),
}

/// What a listener needs to speak TLS, the same for all workers: certificates, tickets, trust.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    server: Arc<ServerConfig>,
    /// The CAs of client certificates; a session made under others must not be resumed.
    client_roots: Option<Arc<RootCertStore>>,
    certificates: Arc<ArcSwap<CertificateSet>>,
    /// What the files looked like before they were read.
    fingerprints: Vec<watch::Fingerprint>,
    metrics: TlsMetrics,
}

/// What a handshake agreed on.
#[derive(Debug)]
pub struct Handshaken {
    /// The protocol that follows.
    pub protocol: Protocol,
    /// What it said about the caller.
    pub caller: Rc<TlsCaller>,
}

/// What is spoken over a connection (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or nothing was agreed on.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// The protocol's name in ALPN.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

impl Tls {
    /// Reads the files that `settings` name. Sessions of `previous` can be resumed if it trusts the same clients.
    pub fn build(
        settings: &TlsSettings,
        previous: Option<&Self>,
        metrics: TlsMetrics,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let fingerprints =
            settings.certificates.iter().map(|listed| watch::Fingerprint::of(&listed.files)).collect();
        let load = || -> Result<_, TlsError> {
            let files = settings.certificates.iter().map(|listed| &listed.files);
            let certificates = files.map(|files| certificate::load(files, now));
            let certificates = CertificateSet::new(certificates.collect::<Result<_, CertificateError>>()?);
            let client_roots = match &settings.client_auth {
                Some(client_auth) => Some(Arc::new(certificate::load_roots(&client_auth.ca)?)),
                None => None,
            };
            let ticketer = match previous {
                Some(previous) if previous.trusts_alike(settings, client_roots.as_deref()) => {
                    previous.server.ticketer.clone()
                }
                _ => Ticketer::new().map_err(library)?,
            };
            let certificates = Arc::new(ArcSwap::from_pointee(certificates));
            let chooser = Arc::new(Chooser(certificates.clone()));
            let server = server_config(settings, client_roots.clone(), chooser, ticketer)?;
            Ok((certificates, client_roots, Arc::new(server)))
        };
        let (certificates, client_roots, server) = match load() {
            Ok(loaded) => loaded,
            Err(error) => {
                metrics.retire(previous.map(|previous| &previous.metrics));
                return Err(error);
            }
        };
        for (index, certificate) in certificates.load().certificates().iter().enumerate() {
            metrics.loaded(index, certificate.facts.not_after);
        }
        Ok(Self { settings: settings.clone(), server, client_roots, certificates, fingerprints, metrics })
    }

    /// Whether a session that was made here may go on under other settings: a resumed one is not asked for its
    /// certificate again.
    fn trusts_alike(&self, settings: &TlsSettings, client_roots: Option<&RootCertStore>) -> bool {
        let mode = |settings: &TlsSettings| settings.client_auth.as_ref().map(|auth| auth.mode);
        let roots = |roots: Option<&RootCertStore>| roots.map(|roots| roots.roots.clone());
        mode(&self.settings) == mode(settings) && roots(self.client_roots.as_deref()) == roots(client_roots)
    }

    /// Shakes hands within the time that the settings give. A failure is counted, and ends the connection.
    pub async fn handshake<S>(&self, stream: S) -> Option<(TlsStream<S>, Handshaken)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let accept = TlsAcceptor::from(self.server.clone()).accept(stream);
        let stream = match timeout(self.settings.handshake_timeout, accept).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let result = failure::result(&error);
                tracing::debug!(%error, result = result.label(), "TLS handshake failed");
                self.metrics.handshake(result).inc();
                return None;
            }
            Err(_) => {
                self.metrics.handshake(HandshakeResult::Timeout).inc();
                return None;
            }
        };
        let handshaken = self.handshaken(&stream);
        let result = if handshaken.is_some() { HandshakeResult::Ok } else { HandshakeResult::Certificate };
        self.metrics.handshake(result).inc();
        Some((stream, handshaken?))
    }

    /// What the handshake said; none if it showed a certificate that does not hold any more.
    fn handshaken<S>(&self, stream: &TlsStream<S>) -> Option<Handshaken> {
        let (_, session) = stream.get_ref();
        let subject = match session.peer_certificates().and_then(<[_]>::first) {
            Some(certificate) => Some(certificate::peer_subject(certificate, SystemTime::now())?.into()),
            None => None,
        };
        let is_http2 = session.alpn_protocol() == Some(Protocol::Http2.name());
        let caller = TlsCaller {
            server_name: session.server_name().map(Into::into),
            subject,
            subject_header: self.settings.client_auth.as_ref().and_then(|auth| auth.subject_header.clone()),
            certificates: self.certificates.clone(),
        };
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        Some(Handshaken { protocol, caller: Rc::new(caller) })
    }

    /// Looks after the files for as long as this lives, and exchanges certificates that change.
    pub fn watch(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        watch::run(Arc::downgrade(self))
    }

    /// The metrics of its certificates and handshakes.
    pub fn metrics(&self) -> &TlsMetrics {
        &self.metrics
    }
}

fn server_config(
    settings: &TlsSettings,
    client_roots: Option<Arc<RootCertStore>>,
    chooser: Arc<Chooser>,
    ticketer: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider());
    let versions: &[&SupportedProtocolVersion] = match settings.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(library)?;
    let mode = settings.client_auth.as_ref().map(|auth| auth.mode);
    let builder = match (client_roots, mode) {
        (Some(roots), Some(mode)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match mode {
                ClientAuthMode::Optional => verifier.allow_unauthenticated(),
                ClientAuthMode::Required => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(library)?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(chooser);
    server.alpn_protocols = settings.protocols.iter().map(|protocol| protocol.name().to_vec()).collect();
    server.ticketer = ticketer;
    server.ignore_client_order = true;
    Ok(server)
}

/// What encrypts and signs. AES-128 with SHA-256 comes first, as in Mozilla's recommendations: a handshake hashes a
/// lot, and processors that have instructions for SHA-256 often have none for SHA-384.
fn provider() -> CryptoProvider {
    use rustls::CipherSuite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TLS13_AES_128_GCM_SHA256,
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            TLS13_AES_128_GCM_SHA256
                | TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

fn library(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Library(Arc::new(error))
}

/// Chooses from the certificates in force at the moment of the handshake.
#[derive(Debug)]
struct Chooser(Arc<ArcSwap<CertificateSet>>);

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().choose(hello.server_name()).map(|certificate| certificate.certified_key.clone())
    }
}
