//! Answers that the proxy makes itself, from the one table in [`crate::error`].

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::error::{AfterReply, ProxyError, RequestFault};
use crate::proxy::body::{ProxyStatus, RequestBody, ResponseBody};
use crate::proxy::exchange::Exchange;
use crate::proxy::headers::{self, X_REQUEST_ID};
use crate::route::Route;
use crate::route::redirect::{Answer, Place, Redirect};
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
        exchange.id()
    );
    let length = HeaderValue::from(text.len());
    let request_id = HeaderValue::from_str(exchange.id());
    let route = exchange.route().cloned();
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
    if let Some(retry_after) = error.retry_after() {
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if error.after_reply() == AfterReply::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if proxy_status == ProxyStatus::Emit
        && let Ok(value) = HeaderValue::from_str(&format!("stent; error={}", error.token()))
    {
        headers.insert(PROXY_STATUS, value);
    }
    if let Some(route) = route {
        route.settings.response_headers.apply(headers);
    }
    response
}

/// Where a caller is led, and how.
#[derive(Debug)]
pub(crate) struct Moved {
    status: StatusCode,
    location: HeaderValue,
    cache_control: &'static str,
    after: AfterReply,
}

impl Moved {
    /// What `redirect` says to the request.
    pub(crate) fn new(
        redirect: &Redirect,
        route: &Route,
        head: &Parts,
        body: &RequestBody,
    ) -> Result<Self, ProxyError> {
        let authority = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let place = Place { scheme: headers::scheme(&head.headers), authority, target: &head.uri };
        let location = match redirect.answer(&place) {
            Ok(Answer::Location(location)) => location,
            Ok(Answer::Loop) => return Err(ProxyError::LoopDetected),
            // A byte of the target that no field may hold.
            Err(_) => return Err(ProxyError::BadRequest(RequestFault::BadTarget)),
        };
        Ok(Self {
            status: redirect.status(),
            location,
            // For an hour: a mistake that browsers may keep for ever cannot be taken back. A cache that callers share
            // might not tell schemes apart, and would then send the ones that came by HTTPS to where they are.
            cache_control: match (redirect.is_permanent(), route.settings.pattern.scheme) {
                (true, None) => "max-age=3600",
                (true, Some(_)) => "private, max-age=3600",
                (false, _) => "no-store",
            },
            // Nobody reads the body.
            after: if body.is_end_stream() { AfterReply::KeepAlive } else { AfterReply::Close },
        })
    }
}

/// Makes the reply that leads a caller elsewhere. It has no body: what it says stands in `Location`.
pub(crate) fn redirect(mut exchange: Box<Exchange>, moved: &Moved) -> Response<ResponseBody> {
    exchange.redirect(moved.status, Instant::now());
    let route = exchange.route().cloned();
    let request_id = HeaderValue::from_str(exchange.id());
    let mut response = Response::new(ResponseBody::new(UpstreamBody::Kept(None), exchange));
    *response.status_mut() = moved.status;
    let headers = response.headers_mut();
    headers.insert(LOCATION, moved.location.clone());
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(moved.cache_control));
    if let Ok(id) = request_id {
        headers.insert(X_REQUEST_ID, id);
    }
    if moved.after == AfterReply::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(route) = route {
        route.settings.response_headers.apply(headers);
    }
    response
}

/// What a user may know.
fn explanation(error: &ProxyError) -> &'static str {
    match error {
        ProxyError::BadRequest(RequestFault::HeadTooLarge | RequestFault::TooManyFields) => {
            "The request head is too large."
        }
        ProxyError::BadRequest(_) | ProxyError::CallerGone => "The request is malformed.",
        ProxyError::BodyTooLarge { .. } => "The request body is too large.",
        ProxyError::CallerSilent => "The request body did not arrive in time.",
        ProxyError::Misdirected => "This connection was made for another host.",
        ProxyError::DeadlineExceeded => "The service did not answer in time.",
        ProxyError::ExpectationFailed => "The request expects what cannot be promised.",
        ProxyError::Internal(_) => "The proxy failed.",
        ProxyError::LoopClaimed | ProxyError::LoopDetected => {
            "The request came back to the proxy that forwarded it."
        }
        ProxyError::MethodNotAllowed { .. } | ProxyError::MethodUnsupported => {
            "The method is not allowed here."
        }
        ProxyError::NoEndpoint
        | ProxyError::Outage { .. }
        | ProxyError::Overloaded { .. }
        | ProxyError::ShuttingDown => "The service is not available at the moment.",
        ProxyError::NoRoute => "There is nothing here.",
        ProxyError::OriginRefused => "The request is not allowed.",
        ProxyError::TargetTooLong => "The address is too long.",
        ProxyError::Upstream(error) if error.kind.is_own_limit() => {
            "The service is not available at the moment."
        }
        ProxyError::Upstream(_) => "The service did not answer properly.",
    }
}
