//! What kept a handshake from its end, in the few words of a metric.

use std::io;

use rustls::Error;

use crate::record::metrics::HandshakeResult;

/// The word for `error`.
pub(super) fn result(error: &io::Error) -> HandshakeResult {
    // tokio-rustls hands rustls's errors on inside its own, and gives no other way to them.
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => HandshakeResult::Certificate,
        Some(Error::AlertReceived(_)) => HandshakeResult::Alert,
        Some(_) => HandshakeResult::Protocol,
        None => HandshakeResult::Closed,
    }
}
