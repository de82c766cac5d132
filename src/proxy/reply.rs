//! Answers that the proxy makes itself, from the one table in [`crate::error`].

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Response};
use tokio::time::Instant;

use crate::error::{AfterReply, ProxyError};
use crate::proxy::body::{ProxyStatus, ResponseBody};
use crate::proxy::exchange::Exchange;
use crate::proxy::headers::X_REQUEST_ID;
use crate::upstream::body::UpstreamBody;

/// RFC 9209.
pub(crate) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Makes the reply to `error`; the exchange is over when its body is.
pub(crate) fn reply(
    mut exchange: Box<Exchange>,
    error: &ProxyError,
    proxy_status: ProxyStatus,
) -> Response<ResponseBody> {
    let status = error.status();
    exchange.reply(error, Instant::now());
    // The text tells the user what to say to whoever helps, and nothing about our inside.
    let text = format!(
        "{} {}\n{}\nrequest id: {}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("Error"),
        explanation(error),
        exchange.id
    );
    let length = HeaderValue::from(text.len());
    let request_id = HeaderValue::from_str(&exchange.id);
    // A reply to HEAD has no body, but the length that the one to GET would have (RFC 9110 section 9.3.2).
    let body = (exchange.method() != Method::HEAD).then(|| Bytes::from(text));

    let mut response = Response::new(ResponseBody::new(UpstreamBody::Kept(body), exchange));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, length);
    // CloudFront and browsers would otherwise go on showing the error when it is over.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = request_id {
        headers.insert(X_REQUEST_ID, id);
    }
    if let ProxyError::MethodNotAllowed { allow } = error
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        headers.insert(ALLOW, allow);
    }
    if error.after_reply() == AfterReply::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if proxy_status == ProxyStatus::Emit
        && let Ok(value) = HeaderValue::from_str(&format!("stent; error={}", error.token()))
    {
        headers.insert(PROXY_STATUS, value);
    }
    response
}

/// What a user may know.
fn explanation(error: &ProxyError) -> &'static str {
    match error {
        ProxyError::BadRequest(_) | ProxyError::CallerGone => "The request is malformed.",
        ProxyError::BodyTooLarge { .. } => "The request body is too large.",
        ProxyError::CallerSilent => "The request body did not arrive in time.",
        ProxyError::Misdirected => "This connection was made for another host.",
        ProxyError::DeadlineExceeded => "The service did not answer in time.",
        ProxyError::ExpectationFailed => "The request expects what cannot be promised.",
        ProxyError::Internal(_) => "The proxy failed.",
        ProxyError::LoopDetected => "The request came back to the proxy that forwarded it.",
        ProxyError::MethodNotAllowed { .. } | ProxyError::MethodUnsupported => {
            "The method is not allowed here."
        }
        ProxyError::NoEndpoint | ProxyError::Overloaded | ProxyError::ShuttingDown => {
            "The service is not available at the moment."
        }
        ProxyError::NoRoute => "There is nothing here.",
        ProxyError::TargetTooLong => "The address is too long.",
        ProxyError::Upstream(_) => "The service did not answer properly.",
    }
}
