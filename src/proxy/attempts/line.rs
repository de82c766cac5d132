//! The wait in line, while all of the cluster is down, in the place of an attempt that would fail.

use std::time::Duration;

use tokio::time::Instant;

use super::{Answer, Failure, Outbound, asked_wait};
use crate::error::ProxyError;
use crate::policy::outage::Means;
use crate::policy::retry::{BodyState, Repeatable, RetryPolicy};
use crate::proxy::exchange::Exchange;
use crate::upstream::cluster::Asked;
use crate::upstream::line::{Refusal, Wait};

/// Waits for the exchange's turn, or for the end of the outage.
pub(super) async fn wait(
    exchange: &mut Exchange,
    outbound: &Outbound,
    now: Instant,
) -> Result<(), ProxyError> {
    let line = &outbound.cluster.line;
    let left = outbound.limits().left(exchange.body().upload(), now.into_std());
    let left = left.saturating_sub(RetryPolicy::LEAST_USEFUL);
    // One that has not been tried gets an attempt of its own at the end, which takes its time as well.
    let left = if exchange.attempt_number() == 0 { left / 2 } else { left };
    let key = outbound.cluster.key(&outbound.subject());
    let wait = Wait {
        key: &key,
        means: means(exchange, outbound),
        began: exchange.began(),
        last_attempt: exchange.last_attempt(),
        start: outbound.shared.start,
        now,
        until: now + left.min(line.max_wait().saturating_sub(exchange.in_line())),
    };
    let outcome = line.wait(wait).await;
    let waited = now.elapsed();
    match outcome {
        Ok(turn) => {
            exchange.leave_line(turn, waited);
            Ok(())
        }
        Err(Refusal { retry_after }) => {
            exchange.leave_line(None, waited);
            Err(ProxyError::Outage { retry_after })
        }
    }
}

/// What the exchange has to lose by an attempt that fails.
fn means(exchange: &Exchange, outbound: &Outbound) -> Means {
    if exchange.spent() + 1 >= outbound.policy().max_attempts {
        Means::Nothing
    } else if outbound.repeatable != Repeatable::Always || exchange.body().state() == BodyState::Lost {
        Means::SpareUnlessSent
    } else if exchange.attempt_number() == 0 {
        Means::Fresh
    } else {
        Means::Spare
    }
}

/// The wait before the next attempt: none but what the backend asked for, if a wait in line follows.
pub(super) fn instead_of(
    backoff: Duration,
    outbound: &Outbound,
    outcome: &Result<Answer, Failure>,
) -> Duration {
    if !outbound.cluster.line.is_in_force() {
        return backoff;
    }
    outcome.as_ref().ok().and_then(asked_wait).unwrap_or_default()
}

#[cfg(test)]
mod tests;
