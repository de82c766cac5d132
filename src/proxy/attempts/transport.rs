//! What carries an attempt to its endpoint.

use http::Response;

use crate::error::UpstreamError;
use crate::proxy::replay::AttemptBody;
use crate::upstream::body::UpstreamBody;
use crate::upstream::pool::{Pools, Sending};

/// What a transport brings: an answer of which the head has come, or the reason why there is none.
pub(super) type Sent = Result<Response<UpstreamBody<AttemptBody>>, UpstreamError>;

/// What carries an attempt to its endpoint: a worker's pools, or a script in tests.
#[expect(async_fn_in_trait, reason = "a worker's futures stay on its thread: no `Send` is wanted")]
pub trait Transport {
    /// Sends a request with this body and waits for the response head.
    async fn send(
        &self,
        request: Sending<'_>,
        body: AttemptBody,
    ) -> Result<Response<UpstreamBody<AttemptBody>>, UpstreamError>;
}

impl Transport for Pools<AttemptBody> {
    // The future itself: one around it would hold the body a second time.
    fn send(&self, request: Sending<'_>, body: AttemptBody) -> impl Future<Output = Sent> {
        Pools::send(self, request, body)
    }
}
