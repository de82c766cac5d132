//! What an exchange asks of the gate in front of its cluster, and what a refusal comes to.

use http::StatusCode;
use tokio::time::Instant;

use super::{Answer, Concluded, Failure, Outbound, exhausted};
use crate::error::ProxyError;
use crate::policy::retry::{RetryPolicy, Veto};
use crate::proxy::admission::AdmissionLayer;
use crate::proxy::exchange::Exchange;
use crate::upstream::admission::{Ask, LoadSignal, Purpose, Refusal};

/// The gate, and who asks at it for an attempt.
pub(super) fn layer<'a>(exchange: &Exchange, outbound: &'a Outbound, now: Instant) -> AdmissionLayer<'a> {
    // Whoever has a turn at a cluster that was down has waited for it, and others with it.
    let is_first = exchange.attempt_number() == 0 || exchange.has_turn();
    let purpose = if is_first { Purpose::First } else { Purpose::Retry };
    let left = outbound.limits().left(exchange.body().upload(), now.into_std());
    let ask = Ask { purpose, now, deadline: now + left.saturating_sub(RetryPolicy::LEAST_USEFUL) };
    AdmissionLayer::new(&outbound.cluster.admission, ask)
}

/// The end of an exchange that gets no attempt, or no further one.
pub(super) fn refuse(
    exchange: &mut Exchange,
    kept: Option<Box<Answer>>,
    asked: Instant,
    refusal: Refusal,
) -> Result<Concluded, ProxyError> {
    exchange.leave_queue(asked.elapsed());
    if exchange.attempt_number() > 0 {
        exchange.stop_retrying(Veto::Overloaded);
    }
    exhausted(kept).ok_or(ProxyError::Overloaded { retry_after: refusal.retry_after })
}

/// What an attempt told about the load of its cluster.
pub(super) fn load_signal(outbound: &Outbound, outcome: &Result<Answer, Failure>) -> LoadSignal {
    let is_overload =
        |status| matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    match outcome {
        Ok(answer) if is_overload(answer.status()) => LoadSignal::Failed,
        Ok(answer) if outbound.policy().statuses.contains(answer.status()) => LoadSignal::Failed,
        Ok(_) => LoadSignal::Answered,
        Err(failure) if failure.error.kind.blames_endpoint() => LoadSignal::Failed,
        Err(_) => LoadSignal::Nothing,
    }
}
