//! What a TLS handshake said about a caller, and what follows from it for each of its requests.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::certificate::CertificateSet;
use crate::error::ProxyError;
use crate::fields::remove_spellings;

/// What is known of a caller that came over TLS, once for all its requests.
#[derive(Debug)]
pub struct TlsCaller {
    /// The name that it asked for (SNI).
    pub server_name: Option<Box<str>>,
    /// The subject of its verified certificate.
    pub subject: Option<Arc<str>>,
    /// In which header the upstream is told the subject.
    pub subject_header: Option<HeaderName>,
    /// The listener's certificates, now and later.
    pub certificates: Arc<ArcSwap<CertificateSet>>,
}

impl TlsCaller {
    /// Refuses a request for a host with a certificate of its own, on a connection that was made for another one:
    /// browsers reuse connections, and the caller has not seen that certificate (RFC 9110 section 15.5.20).
    pub(crate) fn check(&self, host: &str) -> Result<(), ProxyError> {
        match &self.server_name {
            Some(name) if self.certificates.load().is_misdirected(name, host) => Err(ProxyError::Misdirected),
            _ => Ok(()),
        }
    }

    /// Tells the upstream who the caller is, and only that. The listener has taken away what callers say there, but by
    /// its settings of now, and a reload may have given the header another name since this connection came.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        let Some(name) = &self.subject_header else { return };
        remove_spellings(headers, name);
        if let Some(Ok(subject)) = self.subject.as_deref().map(HeaderValue::from_str) {
            headers.insert(name.clone(), subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(subject: Option<&str>) -> TlsCaller {
        TlsCaller {
            server_name: None,
            subject: subject.map(Into::into),
            subject_header: Some(HeaderName::from_static("x-client-subject")),
            certificates: Arc::new(ArcSwap::from_pointee(CertificateSet::new(Vec::new()))),
        }
    }

    #[test]
    fn the_subject_cannot_be_forged_by_any_spelling() {
        for subject in [None, Some("CN=ward 7")] {
            let mut headers = HeaderMap::new();
            for name in ["X-Client-Subject", "x_client_subject", "X-Client_Subject", "x.client.subject"] {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "CN=admin".parse().unwrap());
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "CN=root".parse().unwrap());
            }
            headers.append("x-client-subjects", "another".parse().unwrap());
            caller(subject).mark(&mut headers);
            let left: Vec<_> = headers.values().map(|value| value.to_str().unwrap()).collect();
            let expected: Vec<_> = ["another"].into_iter().chain(subject).collect();
            assert_eq!(left, expected);
        }
    }
}
