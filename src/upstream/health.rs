//! Health checks: a request of our own asks an endpoint whether it works, on a connection of its own, so that neither a
//! full nor a stale pool is a verdict. It goes by the way of callers' requests: address, TLS, protocol and limits are the
//! cluster's.
//!
//! # Invariant
//!
//! An endpoint comes back when neither its traffic nor its checks speak against it. Checks alone neither take a
//! cluster down, nor leave it without an endpoint, nor end an outage. One that passes lets one request try. Held by
//! `failed_checks_alone_take_an_endpoint_out_and_passed_ones_bring_it_back`,
//! `checks_that_all_fail_leave_as_many_in_balancing_as_max_ejected_does` and
//! `checks_that_fail_are_no_outage_and_keep_nobody_from_probing`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use thiserror::Error;
use tokio::time::timeout;

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::upstream::connect;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::http1::wire::{Outgoing, Unanswered, Wire};
use crate::upstream::location::EndpointHost;
use crate::upstream::settings::HealthCheck;
use crate::upstream::stream::Stream;

mod runner;

pub use self::runner::run;

/// Why a check failed.
#[derive(Clone, Debug, Error)]
pub(super) enum CheckFault {
    /// No whole answer.
    #[error("{error}")]
    Error {
        /// Why not.
        error: UpstreamError,
    },
    /// The answer has a status that none of an endpoint that works has.
    #[error("the answer is {status}")]
    Status {
        /// Which.
        status: StatusCode,
    },
}

impl CheckFault {
    fn late(kind: UpstreamErrorKind) -> Self {
        UpstreamError::new(kind, Delivery::Maybe).into()
    }
}

impl From<UpstreamError> for CheckFault {
    fn from(error: UpstreamError) -> Self {
        Self::Error { error }
    }
}

/// Checks an endpoint once.
async fn check(endpoint: Arc<Endpoint>, settings: Arc<HealthCheck>) -> Result<(), CheckFault> {
    let exchange = async {
        let dialled = timeout(endpoint.settings.connect_timeout, connect::dial(&endpoint)).await;
        let stream = dialled.map_err(|_| CheckFault::late(UpstreamErrorKind::ConnectTimeout))??;
        let status = if connect::speaks_http2(endpoint.settings.protocol, &stream)? {
            over_http2(&endpoint, &settings, stream).await?
        } else {
            over_http1(&endpoint, &settings, stream).await?
        };
        // A redirect is an answer like any other: where it leads to is not this endpoint.
        if settings.statuses.contains(status) { Ok(()) } else { Err(CheckFault::Status { status }) }
    };
    let limit = settings.rhythm.timeout();
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(CheckFault::late(UpstreamErrorKind::HeadTimeout)))
}

async fn over_http1(
    endpoint: &Endpoint,
    settings: &HealthCheck,
    stream: Stream,
) -> Result<StatusCode, UpstreamError> {
    let refusal = stream.refusal();
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = settings.method.clone();
    *request.uri_mut() = Uri::from(settings.path.clone());
    let authority = authority(endpoint, settings);
    let host = HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII");
    request.headers_mut().extend([
        (HOST, host),
        (USER_AGENT, AGENT),
        (ACCEPT, HeaderValue::from_static("*/*")),
        (CONNECTION, HeaderValue::from_static("close")),
    ]);
    let (head, body) = request.into_parts();
    let mut outgoing = Outgoing::Eager(body);
    let mut wire = Wire::new(stream, endpoint.settings.max_header_bytes);
    let answer = async {
        let answer = wire.send(&head, &mut outgoing).await.map_err(|unanswered| match unanswered {
            Unanswered::Failed(error) => error,
            Unanswered::Unsent => {
                UpstreamError::new(UpstreamErrorKind::ConnectionTerminated, Delivery::Never)
            }
        })?;
        let mut left = MAX_BODY;
        while left > 0
            && let Some(frame) = poll_fn(|cx| wire.poll_body(cx)).await
        {
            left = left.saturating_sub(frame?.data_ref().map_or(0, Bytes::len));
        }
        Ok(answer.head.status())
    };
    let answered: Result<_, UpstreamError> = answer.await;
    let refused = |error: UpstreamError| match &refusal {
        Some(refusal) if refusal.has_come() => {
            UpstreamError::new(UpstreamErrorKind::TlsAlert, error.delivery)
        }
        _ => error,
    };
    answered.map_err(refused)
}

async fn over_http2(
    endpoint: &Endpoint,
    settings: &HealthCheck,
    stream: Stream,
) -> Result<StatusCode, UpstreamError> {
    let failed = |error| UpstreamError::http2(error, Delivery::Maybe);
    let scheme = match stream {
        Stream::Plain(_) => Scheme::HTTP,
        Stream::Secured(_) => Scheme::HTTPS,
        #[cfg(feature = "bench")]
        Stream::Memory(_) => Scheme::HTTP,
    };
    let (sender, connection) = h2::client::Builder::new()
        .enable_push(false)
        .max_header_list_size(u32::try_from(endpoint.settings.max_header_bytes).unwrap_or(u32::MAX))
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(failed)?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority = Some(authority(endpoint, settings));
    uri.path_and_query = Some(settings.path.clone());
    let mut request = Request::new(());
    *request.method_mut() = settings.method.clone();
    *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are a URI");
    request.headers_mut().extend([(USER_AGENT, AGENT), (ACCEPT, HeaderValue::from_static("*/*"))]);
    let answer = async {
        let mut sender = sender.ready().await.map_err(failed)?;
        let (answer, _) = sender.send_request(request, true).map_err(failed)?;
        let (head, mut body) = answer.await.map_err(failed)?.into_parts();
        let mut left = MAX_BODY;
        while let Some(data) = body.data().await {
            let length = data.map_err(|_| incomplete())?.len();
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
            // A stream that has ended takes none back, and needs none.
            let _ = body.flow_control().release_capacity(length);
        }
        Ok(head.status)
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        ended = connection => match ended {
            Ok(()) => answer.await,
            // It knows better than the stream what has happened.
            Err(error) => Err(failed(error)),
        },
    }
}

/// The host that a check names.
fn authority(endpoint: &Endpoint, settings: &HealthCheck) -> Authority {
    let of_endpoint = || {
        let port = endpoint.address.port();
        let usual = if endpoint.tls.is_some() { 443 } else { 80 };
        let named = match &endpoint.host {
            EndpointHost::Name(name) if port == usual => Authority::try_from(&**name).ok(),
            EndpointHost::Name(name) => Authority::try_from(format!("{name}:{port}")).ok(),
            EndpointHost::Address(_) => None,
        };
        named.unwrap_or_else(|| Authority::try_from(&*endpoint.label).expect("an address is an authority"))
    };
    settings.host.clone().unwrap_or_else(of_endpoint)
}

fn incomplete() -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::ResponseIncomplete, Delivery::Answered)
}

/// How checks look in a backend's log.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("stent/", env!("CARGO_PKG_VERSION"), " (health check)"));

/// The most of an answer's body that has to come whole; of a longer one the rest is not asked for.
const MAX_BODY: usize = 64 << 10;
