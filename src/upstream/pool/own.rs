//! A connection that one exchange has for itself, because it is being authenticated for one user ([`authentication`]).
//!
//! It is opened for the exchange and ends with it, so that nobody else ever rides on it. This goes for HTTP/2 as well: RFC
//! 9113 knows no authenticated connections, but a backend that makes one would authenticate every stream on it.
//!
//! The evidence is the scheme in the request's `Authorization`. A caller who makes it up gets a connection that is closed
//! again, within `max_connections`; kept connections stay for the others.
//!
//! # Invariant
//!
//! A connection that a backend authenticates for a user carries one exchange only, over HTTP/2 as well. Held by
//! `the_connection_of_an_authenticated_user_carries_nobody_else`.
//!
//! [`authentication`]: crate::policy::authentication

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use http_body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::shared::{Carrier, Permit};
use super::{Pool, Progress, Waiting};
use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::upstream::connect::{self, Connection, Fresh};
use crate::upstream::http2::SharedConnection;

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Opens an HTTP/1.1 connection that does not go back into the pool.
    pub(super) async fn open_own(&self, progress: &Progress) -> Result<Box<Connection<B>>, UpstreamError> {
        let slot = self.own_slot(progress).await?;
        match connect::open(&self.endpoint, slot, async || self.make_room().await, || {}).await? {
            Fresh::Http1(mut connection) => {
                connection.end_with_exchange();
                Ok(connection)
            }
            Fresh::Http2(..) => Err(Self::out_of_place()),
        }
    }

    /// The same in a pool that speaks HTTP/2. That connection stays unknown to the pool, and closes with its one stream.
    pub(super) async fn own_carrier(
        self: &Rc<Self>,
        progress: &Progress,
    ) -> Result<Carrier<B>, UpstreamError> {
        let slot = self.own_slot(progress).await?;
        Ok(match connect::open(&self.endpoint, slot, async || self.make_room().await, || {}).await? {
            Fresh::Http1(mut connection) => {
                connection.end_with_exchange();
                Carrier::Connection(connection)
            }
            Fresh::Http2(handshaken, slot) => {
                let connection = Rc::new(SharedConnection::new(handshaken, slot));
                connection.enter();
                Carrier::Stream(Permit { connection, pool: self.clone(), waiting: Cell::new(None) })
            }
        })
    }

    /// Leave to open a connection, after at most `connection_wait`. While it waits, connections that come back are closed
    /// for it in the order of the slots' queue, as for the exchanges of other workers.
    async fn own_slot(&self, progress: &Progress) -> Result<OwnedSemaphorePermit, UpstreamError> {
        if let Some(slot) = self.free_slot() {
            return Ok(slot);
        }
        let (settings, metrics) = (&self.endpoint.settings, &self.endpoint.cluster_metrics);
        let refused = || {
            metrics.waits_refused.inc();
            Err(UpstreamError::new(UpstreamErrorKind::ConnectionLimit, Delivery::Never))
        };
        if self.endpoint.connections.waiting() >= settings.max_waiting {
            return refused();
        }
        let _waiting = Waiting::begin(&self.endpoint, progress);
        match timeout(settings.connection_wait, self.endpoint.connections.slot()).await {
            Ok(Some(slot)) => {
                metrics.waits_served.inc();
                Ok(slot)
            }
            Ok(None) | Err(_) => refused(),
        }
    }
}
