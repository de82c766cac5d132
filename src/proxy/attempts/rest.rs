//! The attempts that follow an answer which broke on its way to the caller: the same loop, asked for less.

use std::pin::pin;

use tokio::time::{Instant, sleep_until};

use super::{Answer, Failure, Outbound, Transport, decide, line, run, wait_and_keep};
use crate::error::UpstreamError;
use crate::policy::retry::{Verdict, Veto};
use crate::proxy::exchange::Exchange;

/// Lays the break before the policy and, if that allows it, makes attempts until one brings an answer. Why there is none
/// is noted where a rule forbade it.
pub(in crate::proxy) async fn follow<T: Transport>(
    exchange: &mut Exchange,
    outbound: &Outbound<'_>,
    error: UpstreamError,
    transport: &T,
) -> Option<Answer> {
    let now = Instant::now();
    let broken = Err(Failure { error, limit: None });
    match decide(exchange, outbound, &broken, now) {
        Verdict::Retry { after, reason } if outbound.may_retry(now) => {
            let after = line::instead_of(after, outbound, &broken);
            exchange.retry(reason, after);
            let timer = pin!(sleep_until(now));
            wait_and_keep(broken, after, now, timer).await;
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
