//! Counters of TLS towards the caller.

use prometheus::{IntCounter, IntGauge, IntGaugeVec};

use super::Metrics;

/// How a handshake with a caller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// The caller ended it with an alert, as one that does not trust our certificate does.
    Alert,
    /// The caller's certificate is missing or not good.
    Certificate,
    /// The caller closed the connection.
    Closed,
    /// Well.
    Ok,
    /// What came was not TLS, or nothing that we have in common.
    Protocol,
    /// It took longer than `handshake_timeout`.
    Timeout,
}

impl HandshakeResult {
    /// Every result, in the order of their indices.
    pub const ALL: [Self; 6] =
        [Self::Alert, Self::Certificate, Self::Closed, Self::Ok, Self::Protocol, Self::Timeout];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Certificate => "certificate",
            Self::Closed => "closed",
            Self::Ok => "ok",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
        }
    }
}

/// Counters of a listener's TLS.
#[derive(Debug)]
pub struct TlsMetrics {
    handshakes: [IntCounter; HandshakeResult::ALL.len()],
    certificates: Vec<CertificateMetrics>,
    address: Box<str>,
    vectors: [IntGaugeVec; 2],
}

#[derive(Debug)]
struct CertificateMetrics {
    name: Box<str>,
    expiry: IntGauge,
    loaded: IntGauge,
}

impl TlsMetrics {
    pub(super) fn new(metrics: &Metrics, address: &str, names: &[&str]) -> Self {
        let vectors = [metrics.tls_certificate_expiry.clone(), metrics.tls_certificate_loaded.clone()];
        let certificate = |name: &&str| {
            let labels = [address, name];
            let [expiry, loaded] = vectors.each_ref().map(|vector| vector.with_label_values(&labels));
            CertificateMetrics { name: (*name).into(), expiry, loaded }
        };
        Self {
            handshakes: HandshakeResult::ALL
                .map(|result| metrics.tls_handshakes.with_label_values(&[address, result.label()])),
            certificates: names.iter().map(certificate).collect(),
            address: address.into(),
            vectors: vectors.clone(),
        }
    }

    /// The counter of handshakes that ended like this.
    pub fn handshake(&self, result: HandshakeResult) -> &IntCounter {
        &self.handshakes[result as usize]
    }

    /// Notes that the files of a certificate are good, and until when it holds.
    pub fn loaded(&self, index: usize, not_after: i64) {
        if let Some(certificate) = self.certificates.get(index) {
            certificate.expiry.set(not_after);
            certificate.loaded.set(1);
        }
    }

    /// Notes that the files of a certificate cannot be used.
    pub fn not_loaded(&self, index: usize) {
        if let Some(certificate) = self.certificates.get(index) {
            certificate.loaded.set(0);
        }
    }

    /// Ends the series of certificates that `successor` does not have: an alert on their expiry would never end.
    pub fn retire(&self, successor: Option<&Self>) {
        for certificate in &self.certificates {
            let stays = successor.is_some_and(|successor| {
                successor.certificates.iter().any(|other| other.name == certificate.name)
            });
            if !stays {
                for vector in &self.vectors {
                    // An error would only say that the series does not exist.
                    let _ = vector.remove_label_values(&[&*self.address, &*certificate.name]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_the_index_of_its_place() {
        for (place, result) in HandshakeResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, place);
        }
    }

    #[test]
    fn the_series_of_a_certificate_end_with_it() {
        let metrics = Metrics::new();
        let old = metrics.tls("a", &["gone.pem", "kept.pem"]);
        old.loaded(0, 1);
        let new = metrics.tls("a", &["kept.pem"]);
        new.loaded(0, 7);
        old.retire(Some(&new));
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(!text.contains("gone.pem"), "{text}");
        let line = "stent_tls_certificate_expiry_timestamp_seconds{listener=\"a\",name=\"kept.pem\"} 7\n";
        assert!(text.contains(line), "{text}");
        new.retire(None);
        assert!(!String::from_utf8(metrics.render()).unwrap().contains("kept.pem"));
    }
}
