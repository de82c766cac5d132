//! The attempts that follow an answer which broke on its way to the caller: the same loop, asked for less.

use std::pin::pin;

use tokio::time::{Instant, sleep_until};

use super::keep::wait_and_keep;
use super::{Answer, Ended, Failure, Outbound, Transport, decide, run};
use crate::error::UpstreamError;
use crate::policy::retry::{Verdict, Veto};
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
    let broken = Err(Failure { error, limit: None });
    let verdict = decide(exchange, outbound, &broken, now);
    match verdict {
        Verdict::Retry { after, reason } if outbound.may_retry(now) => {
            let timer = pin!(sleep_until(now));
            let ended = Ended { outcome: broken, verdict, at: now };
            wait_and_keep(exchange, outbound, ended, after, reason, timer).await;
        }
        Verdict::Retry { .. } => {
            exchange.stop_retrying(Veto::Budget);
            return None;
        }
        Verdict::Stop { why } => {
            exchange.stop_retrying(why);
            return None;
        }
        Verdict::Return => return None,
    }
    run(exchange, outbound, transport).await.ok().map(|concluded| concluded.answer)
}
