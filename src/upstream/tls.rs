//! TLS towards the backend: whom a cluster trusts, under which name, and what a failed handshake means.
//!
//! # Invariant
//!
//! The handshake ends with the first byte of application data, in either direction. Once a byte of a request has
//! been written, no alert makes its delivery `Never`. Held by `only_some_alerts_belong_to_a_handshake` and
//! `an_alert_after_the_request_has_gone_out_does_not_make_a_post_repeatable`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    WantsVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::CertificateFiles;
use crate::error::UpstreamError;
use crate::upstream::location::EndpointHost;
use crate::upstream::protocol::Protocol;

/// How a cluster speaks TLS. One [`ClientConfig`] serves all its endpoints in all workers, so that they share the
/// sessions to resume.
#[derive(Clone)]
pub struct TlsSettings {
    parameters: TlsParameters,
    config: Arc<ClientConfig>,
}

/// What an operator sets for it, with the files read.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsParameters {
    /// Whose certificates are taken.
    pub trust: Trust,
    /// The file that says so, if it is not the platform.
    pub ca: Option<PathBuf>,
    /// What is shown to endpoints that ask who we are.
    pub identity: Option<Identity>,
    /// The name that certificates have to hold for, if it is not the host of each URL.
    pub server_name: Option<ServerName<'static>>,
    /// The protocol to be spoken inside.
    pub protocol: Protocol,
}

/// A client certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Where it came from.
    pub files: CertificateFiles,
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        // The first certificate names the key, so the key itself need not be compared.
        self.files == other.files && self.key.cert == other.key.cert
    }
}

/// Whose certificates a cluster takes.
#[derive(Clone)]
pub enum Trust {
    /// Anybody's: whoever stands between here and the backend can read and change everything.
    Anybody,
    /// Those that one of these has signed.
    Roots(Arc<RootCertStore>),
}

impl TlsSettings {
    /// TLS 1.2 or 1.3, as `parameters` say.
    pub fn new(parameters: TlsParameters) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder: rustls::ConfigBuilder<ClientConfig, WantsVerifier> =
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("aws-lc-rs has cipher suites for TLS 1.2 and 1.3");
        let builder = match &parameters.trust {
            Trust::Roots(roots) => builder.with_root_certificates(roots.clone()),
            Trust::Anybody => {
                let verifier = Arc::new(TrustAnybody::new(&provider));
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match &parameters.identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key.clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = parameters.protocol.alpn().iter().map(|name| name.to_vec()).collect();
        Self { parameters, config: Arc::new(config) }
    }

    /// Whether the backend's certificate is looked at.
    pub fn verifies(&self) -> bool {
        self.parameters.trust != Trust::Anybody
    }

    /// The file of CAs, if it is not the platform that says whom to trust.
    pub fn ca(&self) -> Option<&Path> {
        self.parameters.ca.as_deref()
    }

    /// The client certificate.
    pub fn identity(&self) -> Option<&Identity> {
        self.parameters.identity.as_ref()
    }

    /// The name that certificates have to hold for, if it is not the host of the URL.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.parameters.server_name.as_ref()
    }

    /// What a connection to an endpoint of `host` needs.
    pub(super) fn client(&self, host: &EndpointHost) -> TlsClient {
        let name = self.parameters.server_name.clone().or_else(|| server_name(host));
        TlsClient { connector: TlsConnector::from(self.config.clone()), name }
    }
}

/// The name that a certificate of `host` holds for; none if no certificate can hold for it.
pub fn server_name(host: &EndpointHost) -> Option<ServerName<'static>> {
    match host {
        EndpointHost::Address(address) => Some(ServerName::IpAddress(IpAddr::from(*address))),
        // SNI and certificates have no root's dot (RFC 6066 section 3).
        EndpointHost::Name(name) => {
            ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok()
        }
    }
}

/// Equal if they trust, show and speak the same: then a reload keeps the connections.
impl PartialEq for TlsSettings {
    fn eq(&self, other: &Self) -> bool {
        self.parameters == other.parameters
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anybody, Self::Anybody) => true,
            (Self::Roots(one), Self::Roots(other)) => one.roots == other.roots,
            _ => false,
        }
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parameters.fmt(f)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("Anybody"),
            Self::Roots(roots) => write!(f, "Roots({})", roots.len()),
        }
    }
}

/// TLS to one endpoint.
pub(super) struct TlsClient {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// Makes the handshake; no error of it has sent anything of a request.
    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, UpstreamError> {
        let Some(name) = self.name.clone() else {
            return Err(UpstreamError::tls(Error::UnsupportedNameType));
        };
        match self.connector.connect(name, stream).await {
            Ok(stream) => Ok(stream),
            Err(error) => match tls_error(&error) {
                Some(cause) => Err(UpstreamError::tls(cause.clone())),
                None => Err(UpstreamError::tls_broken(error)),
            },
        }
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The TLS error inside an I/O error. tokio-rustls gives it in no other way.
pub(super) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether this alert belongs to a handshake: a conforming server sends it instead of ending the handshake.
pub(super) fn is_handshake_alert(error: &Error) -> bool {
    use AlertDescription as Alert;
    let Error::AlertReceived(alert) = error else { return false };
    matches!(
        alert,
        Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::DecryptError
            | Alert::HandshakeFailure
            | Alert::NoCertificate
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
    )
}

/// Takes every certificate. The signatures of the handshake are checked all the same, which only tells that the peer has
/// the key of the certificate that it shows.
#[derive(Debug)]
struct TrustAnybody {
    algorithms: WebPkiSupportedAlgorithms,
}

impl TrustAnybody {
    fn new(provider: &CryptoProvider) -> Self {
        Self { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::location::EndpointUrl;

    fn settings(trust: Trust, protocol: Protocol) -> TlsSettings {
        TlsSettings::new(TlsParameters { trust, ca: None, identity: None, server_name: None, protocol })
    }

    #[test]
    fn settings_are_equal_if_they_trust_and_speak_the_same() {
        let empty = || Trust::Roots(Arc::new(RootCertStore::empty()));
        let one = settings(empty(), Protocol::H2);
        assert_eq!(one, settings(empty(), Protocol::H2), "built anew, as by a reload");
        assert_ne!(one, settings(empty(), Protocol::Auto));
        assert_ne!(one, settings(Trust::Anybody, Protocol::H2));
    }

    #[test]
    fn what_is_offered_follows_the_protocol() {
        let offered = |protocol| settings(Trust::Anybody, protocol).config.alpn_protocols.clone();
        assert_eq!(offered(Protocol::Http1), [b"http/1.1"]);
        assert_eq!(offered(Protocol::H2), [b"h2"]);
        assert_eq!(offered(Protocol::Auto), [&b"h2"[..], b"http/1.1"]);
    }

    #[test]
    fn the_name_to_verify_is_the_urls_host() {
        let name = |url| server_name(&EndpointUrl::parse(url).unwrap().host);
        assert_eq!(name("https://hosp.internal:8443"), ServerName::try_from("hosp.internal").ok());
        assert_eq!(name("https://[2001:db8::1]"), ServerName::try_from("2001:db8::1").ok());
        assert_eq!(name("https://-"), None);
    }

    #[test]
    fn only_some_alerts_belong_to_a_handshake() {
        for (alert, expected) in [
            (AlertDescription::CertificateRequired, true),
            (AlertDescription::UnknownCA, true),
            (AlertDescription::InternalError, false),
            (AlertDescription::BadRecordMac, false),
            (AlertDescription::CloseNotify, false),
        ] {
            assert_eq!(is_handshake_alert(&Error::AlertReceived(alert)), expected, "{alert:?}");
        }
        assert!(!is_handshake_alert(&Error::DecryptError));
    }
}
