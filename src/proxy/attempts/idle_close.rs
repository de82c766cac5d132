//! A 408 by which a backend closes an idle connection, and which crosses the next request on its way (RFC 9110 section
//! 15.5.9).
//!
//! Such a request goes out once more, on a new connection, as it does where a kept connection turns out closed: within the
//! same attempt, and at no cost to the budget. The evidence is the one answer: a 408 on a kept HTTP/1.1 connection, soon
//! after the request. If it is false, because the application means it, the backend gets one request more, and the second
//! 408 is the answer. A second 408 comes on a new connection, so that none is sent a third time.
//!
//! # Invariant
//!
//! Within an attempt a request goes out twice in this one case only. Held by
//! `an_application_that_means_its_408_gets_one_request_more_and_never_a_third`.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::Outbound;
use super::send::Attempt;
use super::transport::Sent;
use crate::policy::deadline::Upload;
use crate::policy::request::{BodyState, Repeatable};
use crate::proxy::exchange::Exchange;
use crate::upstream::pool::Progress;

/// Whether a request that may be repeated has met the close of its connection.
///
/// An answer to an upload that has not ended is about that upload, and belongs to its caller.
pub(super) fn has_met(answered: &Sent, exchange: &Exchange, outbound: &Outbound, attempt: &Attempt) -> bool {
    is_one(answered, &attempt.progress, attempt.started) && {
        let body = exchange.body();
        outbound.repeatable == Repeatable::Always
            && body.state() == BodyState::Whole
            && matches!(body.upload(), Upload::Received { .. })
    }
}

/// Whether the answer to an attempt that began at `started` is such a close.
pub(super) fn is_one(answered: &Sent, progress: &Progress, started: Instant) -> bool {
    let is_refusal = matches!(answered, Ok(answer) if answer.status() == StatusCode::REQUEST_TIMEOUT);
    is_refusal && progress.used_kept() && started.elapsed() <= LATEST
}

/// Two that cross meet within a round trip. What takes longer was thought over.
const LATEST: Duration = Duration::from_secs(1);
