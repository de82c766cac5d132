//! The metrics of a listener, of its TLS, and of its certificates.

use std::sync::Arc;

use prometheus::{IntCounter, IntGauge};

use super::declare::{Families as _, metrics};
use super::labels::labels;
use crate::record::words::words;

metrics! {
    /// The counters of a listener.
    pub struct ListenerMetrics, ListenerFamilies [listener] {
        IntGauge downstream_connections
            "Open connections from callers."
            { connections }
        IntCounter accept_errors_total [error]
            "Connections that could not be accepted, by the operating system's reason."
            { accept_error: AcceptFault }
        IntCounter accept_paused_total
            "Connections that had to wait because `max_connections` or the file descriptors were in use."
            { paused }
        IntCounter connections_evicted_total [standing]
            "Connections without a request that closed to make room for new ones: silent (never had a request), idle, or trusted (idle, from a trusted proxy)."
            { evicted: Standing }
        IntCounter origin_refused_total [route]
            "Requests without the secret that a listener or a route requires; the label of the other is empty."
            { origin_refused = "" }
        IntCounter http2_connections_total
            "Connections from callers that spoke HTTP/2."
            { http2_connections }
        IntCounter http2_errors_total [error]
            "HTTP/2 connections and streams that ended because of their callers, by the reason."
            { http2_error: Http2Fault }
        IntCounter proxy_protocol_errors_total [error]
            "Connections that were closed because they did not begin with a PROXY header, by the reason."
            { proxy_protocol_error: PrefaceFault }
    }
}

words! {
    /// Why a connection could not be accepted.
    pub enum AcceptFault {
        /// The caller had closed it.
        Aborted = "aborted",
        /// The system lacks memory.
        NoMemory = "no_memory",
        /// Anything else.
        Other = "other",
        /// The process, or the system, has no descriptor left.
        TooManyFiles = "too_many_files",
    }
}

words! {
    /// Why a connection or a stream of HTTP/2 ended.
    pub enum Http2Fault {
        /// A fault of the connection.
        Connection = "connection",
        /// The caller cancelled too many requests.
        Resets = "resets",
        /// The caller did not take what was sent.
        Stalled = "stalled",
    }
}

words! {
    /// Why a PROXY header was not accepted.
    pub enum PrefaceFault {
        /// There is none.
        Absent = "absent",
        /// The connection ended inside it.
        Closed = "closed",
        /// It is malformed.
        Malformed = "malformed",
        /// It did not come in time.
        Timeout = "timeout",
        /// It is too long.
        TooLong = "too_long",
    }
}

words! {
    /// What a connection is that carries nothing, in the order in which they close.
    pub enum Standing {
        /// It never brought a request.
        Silent = "silent",
        /// It is idle after a request; its peer is no trusted proxy.
        Idle = "idle",
        /// It is idle after a request; its peer is a trusted proxy.
        Trusted = "trusted",
    }
}

metrics! {
    /// The counters of a listener's handshakes.
    pub(super) struct HandshakeMetrics, HandshakeFamilies [listener] {
        IntCounter tls_handshakes_total [result]
            "TLS handshakes with callers, by how they ended."
            { ended: HandshakeResult }
    }
}

words! {
    /// How a handshake with a caller ended.
    pub enum HandshakeResult {
        /// The caller ended it with an alert, as one that does not trust our certificate does.
        Alert = "alert",
        /// The caller's certificate is missing or not good.
        Certificate = "certificate",
        /// The caller closed the connection.
        Closed = "closed",
        /// Well.
        Ok = "ok",
        /// What came was not TLS, or nothing that we have in common.
        Protocol = "protocol",
        /// It took longer than `handshake_timeout`.
        Timeout = "timeout",
    }
}

labels!(true: HandshakeResult);
labels!(false: AcceptFault Http2Fault PrefaceFault Standing);

metrics! {
    /// The gauges of a certificate.
    pub(super) struct CertificateMetrics, CertificateFamilies [listener, name] {
        IntGauge tls_certificate_expiry_timestamp_seconds
            "When the certificate in force expires, in seconds since 1970."
            { expiry }
        IntGauge tls_certificate_load_successful
            "1 if the certificate's files were valid when last read, else 0 (the old certificate stays in force)."
            { loaded }
    }
}

/// The metrics of a listener's TLS.
#[derive(Debug)]
pub struct TlsMetrics {
    handshakes: HandshakeMetrics,
    families: Arc<CertificateFamilies>,
    address: Box<str>,
    certificates: Vec<(Box<str>, CertificateMetrics)>,
}

impl TlsMetrics {
    pub(super) fn new(
        handshakes: HandshakeMetrics,
        families: &Arc<CertificateFamilies>,
        address: &str,
        names: &[&str],
    ) -> Self {
        let certificates = names.iter().map(|name| ((*name).into(), families.of(&[address, name]))).collect();
        Self { handshakes, families: families.clone(), address: address.into(), certificates }
    }

    /// The counter of handshakes that ended like this.
    pub fn handshake(&self, result: HandshakeResult) -> &IntCounter {
        self.handshakes.ended(result)
    }

    /// Notes that the files of a certificate are good, and until when it holds.
    pub fn loaded(&self, index: usize, not_after: i64) {
        if let Some((_, certificate)) = self.certificates.get(index) {
            certificate.expiry.set(not_after);
            certificate.loaded.set(1);
        }
    }

    /// Notes that the files of a certificate cannot be used.
    pub fn not_loaded(&self, index: usize) {
        if let Some((_, certificate)) = self.certificates.get(index) {
            certificate.loaded.set(0);
        }
    }

    /// Ends the series of certificates that `successor` does not have: an alert on their expiry would never end.
    pub fn retire(&self, successor: Option<&Self>) {
        for (name, certificate) in &self.certificates {
            let stays = successor
                .is_some_and(|successor| successor.certificates.iter().any(|(other, _)| other == name));
            if !stays {
                self.families.end(&[&self.address, name], certificate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::metrics::Metrics;

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
