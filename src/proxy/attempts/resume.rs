//! The attempts that follow an answer which broke on its way to the caller: the same loop, asked for less.

use std::pin::pin;

use tokio::time::{Instant, sleep_until};

use super::{Answer, Attempts, End, Failure, Outbound, Transport};
use crate::error::UpstreamError;
use crate::policy::verdict::{Verdict, Veto};
use crate::proxy::exchange::Exchange;

/// Lays the break before the policy and, if that allows it, makes attempts until one brings an answer. Why there is none
/// is noted where a rule forbade it.
pub(in crate::proxy) async fn follow<T: Transport>(
    exchange: &mut Exchange,
    outbound: &Outbound,
    error: UpstreamError,
    transport: &T,
) -> Option<Answer> {
    let now = Instant::now();
    let timer = pin!(sleep_until(now));
    let mut attempts = Attempts { exchange, outbound, transport, timer, kept: None, now };
    let broken = Err(Failure { error, limit: None });
    match attempts.decide(&broken) {
        Verdict::Retry { after, reason } if outbound.may_retry(now) => {
            attempts.back_off(broken, after, reason).await.ok()?;
        }
        Verdict::Retry { .. } => {
            attempts.exchange.stop_retrying(Veto::Budget);
            return None;
        }
        Verdict::Stop { why } => {
            attempts.exchange.stop_retrying(why);
            return None;
        }
        Verdict::Return => return None,
    }
    attempts.run().await.or_else(End::into_concluded).ok().map(|concluded| concluded.answer)
}
