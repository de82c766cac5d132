//! The attempts that follow an answer which broke on its way to the caller: the same loop, asked for less.

use std::pin::pin;

use tokio::time::{Instant, sleep_until};

use super::{Answer, Failure, Outbound, Transport, decide, line, run, wait_and_keep};
use crate::error::UpstreamError;
use crate::policy::retry::{Verdict, Veto};
use crate::proxy::Surroundings;
use crate::proxy::exchange::Exchange;
use crate::route::Route;

/// Lays the break before the policy and, if that allows it, makes attempts until one brings an answer. Why there is none
/// is noted where a rule forbade it.
pub(in crate::proxy) async fn follow<T: Transport>(
    exchange: &mut Exchange,
    route: &Route,
    outbound: &Outbound<'_>,
    error: UpstreamError,
    transport: &T,
    around: &Surroundings,
) -> Option<Answer> {
    let now = Instant::now();
    let broken = Err(Failure { error, limit: None });
    match decide(exchange, route, outbound, &broken, around, now) {
        Verdict::Retry { after, reason } if outbound.may_retry(around.since_start(now)) => {
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
    run(exchange, route, outbound, transport, around).await.ok().map(|concluded| concluded.answer)
}
