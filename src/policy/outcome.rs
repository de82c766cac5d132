//! How an attempt ended: [`Outcome`], and the wait that an answer asks for.

use std::time::Duration;

use http::StatusCode;

use crate::error::{Delivery, ErrorClass};
use crate::policy::grpc::GrpcStatus;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head came.
    Answered {
        /// Its status.
        status: StatusCode,
        /// The wait that its `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// None came, or it broke while it was held.
    Failed {
        /// Its class; none if no retry can help.
        class: Option<ErrorClass>,
        /// How much of the request may have arrived.
        delivery: Delivery,
    },
    /// An answer of gRPC came that is whole with its head, and says that the call failed.
    Grpc {
        /// How.
        status: GrpcStatus,
        /// The wait that its `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// How much of the request may have arrived.
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::Answered { .. } | Self::Grpc { .. } => Delivery::Answered,
            Self::Failed { delivery, .. } => *delivery,
        }
    }
}

/// The wait that a `Retry-After` asks for: seconds or an HTTP-date (RFC 9110 section 10.2.3), seen at `now`.
///
/// What parses as neither is none. A date in the past is no wait.
pub fn retry_after(value: &str, now: std::time::SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit is a very long wait, not none.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}
