//! What an operator sets for TLS towards the caller, checked.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::certificate::CertificateFiles;
use crate::downstream::tls::Protocol;

/// `[listener.tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// At least one; the first serves callers that ask for no name, or for one that none of them has.
    pub certificates: Vec<ListedCertificate>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// What is offered by ALPN, the preferred first.
    pub protocols: Vec<Protocol>,
    /// How long a handshake may take in all.
    pub handshake_timeout: Duration,
    /// How often the certificates' files are looked at.
    pub watch_interval: Duration,
    /// Whether callers show certificates too.
    pub client_auth: Option<ClientAuth>,
}

/// A certificate and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedCertificate {
    /// Its label in metrics: the chain's path as the configuration has it.
    pub label: Box<str>,
    /// Its files.
    pub files: CertificateFiles,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246, with forward secrecy and authenticated ciphers only.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// Mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// PEM: the CAs of client certificates.
    pub ca: PathBuf,
    /// Whether a caller must have one.
    pub mode: ClientAuthMode,
    /// In which header the upstream is told the verified subject.
    pub subject_header: Option<HeaderName>,
}

/// Whether a caller must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// A caller may show none; one that it shows must be good.
    Optional,
    /// A caller without one is turned away.
    Required,
}
