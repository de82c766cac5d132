//! Opens a connection to an endpoint and starts the task that drives it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::upstream::endpoint::{Endpoint, OpenConnection};

/// An HTTP/1.1 connection to an endpoint. Dropping it closes it, whatever it is doing.
#[derive(Debug)]
pub(super) struct Connection<B> {
    sender: SendRequest<B>,
    driver: AbortHandle,
    /// Since when no request uses it.
    pub(super) idle_since: Instant,
    _slot: OwnedSemaphorePermit,
    _counted: OpenConnection,
}

/// Why a request brought no response head.
pub(super) enum SendFailure<B> {
    /// It was sent, at least in part.
    Sent(UpstreamError),
    /// Not a byte of it was: here it is again.
    Unsent(Box<Request<B>>),
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Connects within the cluster's `connect_timeout`. No error of this function has sent anything.
    pub(super) async fn open(
        endpoint: &Arc<Endpoint>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, UpstreamError> {
        let settings = &endpoint.settings;
        let stream = match timeout(settings.connect_timeout, TcpStream::connect(endpoint.address)).await {
            Ok(connected) => connected.map_err(UpstreamError::connect),
            Err(_) => Err(UpstreamError::new(UpstreamErrorKind::ConnectTimeout, Delivery::Never)),
        };
        let metrics = &endpoint.cluster_metrics;
        let stream = stream.inspect_err(|error| match error.kind {
            UpstreamErrorKind::ConnectRefused => metrics.connect_refused.inc(),
            UpstreamErrorKind::ConnectTimeout => metrics.connect_timeout.inc(),
            _ => metrics.connect_unreachable.inc(),
        })?;
        metrics.connected.inc();
        // Without it a small request waits for the acknowledgement of the one before. A socket that refuses the
        // option is closing, which the first write will tell.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(settings.max_header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| UpstreamError::http(error, Delivery::Never))?;
        let label = endpoint.label.clone();
        let driver = tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(endpoint = %label, %error, "upstream connection ended");
            }
        });
        Ok(Self {
            sender,
            driver: driver.abort_handle(),
            idle_since: Instant::now(),
            _slot: slot,
            _counted: endpoint.count_connection(),
        })
    }

    /// Sends a request; the future waits for the response head, however long that takes. It does not hold the request,
    /// which is large, and would be moved about with it.
    pub(super) fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendFailure<B>>> + use<B> {
        let answered = self.sender.try_send_request(request);
        async {
            answered.await.map_err(|mut failure| match failure.take_message() {
                Some(request) => SendFailure::Unsent(Box::new(request)),
                None => SendFailure::Sent(UpstreamError::http(failure.into_error(), Delivery::Maybe)),
            })
        }
    }
}

impl<B> Connection<B> {
    /// Whether it waits for a request.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether the endpoint has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until it can take another request; false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        // hyper would go on writing a request body that nobody needs any more.
        self.driver.abort();
    }
}
