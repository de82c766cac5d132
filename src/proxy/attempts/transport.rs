//! What carries an attempt to its endpoint.

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::request::Parts;

use crate::error::UpstreamError;
use crate::policy::request::Repeatable;
use crate::proxy::replay::AttemptBody;
use crate::upstream::body::UpstreamBody;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::pool::{Pools, Progress};

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

/// A request on its way to an endpoint, but for its body.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// Where it goes.
    pub endpoint: &'a Arc<Endpoint>,
    /// Its head.
    pub head: &'a Rc<Parts>,
    /// Whether it may be sent again.
    pub repeatable: Repeatable,
    /// How far it has come.
    pub progress: &'a Progress,
}

impl Transport for Pools<AttemptBody> {
    // The future itself: one around it would hold the body a second time.
    fn send(&self, request: Sending<'_>, body: AttemptBody) -> impl Future<Output = Sent> {
        let Sending { endpoint, head, repeatable, progress } = request;
        Pools::send(self, endpoint, head, body, repeatable, progress)
    }
}
