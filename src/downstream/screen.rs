//! What a listener asks of a request's fields before anything is routed by them.

use http::HeaderMap;

use crate::downstream::acceptor::OpenConnection;
use crate::downstream::settings::ListenerSettings;
use crate::error::RequestFault;
use crate::fields::remove_spellings;
use crate::proxy::body::Refusal;

impl OpenConnection {
    /// Asks for the listener's secret, then looks for names with underscores, and takes away what only we may say:
    /// whoever has no secret learns nothing.
    ///
    /// The settings are those in force now ([`OpenConnection::current`]) and not those of the connection's start. A load
    /// balancer keeps connections for days, and a secret that has been exchanged must open them too.
    pub(super) fn screen(&self, settings: &ListenerSettings, headers: &mut HeaderMap) -> Result<(), Refusal> {
        if let Some(guard) = &settings.origin_guard
            && guard.admit(headers).is_err()
        {
            self.metrics().origin_refused.inc();
            return Err(Refusal::Origin);
        }
        settings.underscores.apply(headers).map_err(|_| Refusal::Fault(RequestFault::Underscore))?;
        for name in &settings.subject_headers {
            remove_spellings(headers, name);
        }
        Ok(())
    }
}
