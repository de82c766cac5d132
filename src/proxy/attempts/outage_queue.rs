//! The wait in the outage queue, while all of the cluster is down, in the place of an attempt that would fail.

use std::time::Duration;

use tokio::time::Instant;

use super::judge::asked_wait;
use super::{Attempts, End, Ended, Transport};
use crate::error::ProxyError;
use crate::policy::outage::Stake;
use crate::policy::request::{BodyState, Repeatable};
use crate::policy::settings::RetryPolicy;
use crate::upstream::cluster::Asked;
use crate::upstream::outage_queue::{Refusal, Wait};

impl<T: Transport> Attempts<'_, T> {
    /// Waits for a permit, or for the end of the outage.
    pub(super) async fn wait_out_outage(&mut self) -> Result<(), End> {
        let Self { outbound, now: joined, .. } = *self;
        let queue = &outbound.cluster.outage_queue;
        let left = outbound.limits().left(self.exchange.body().upload(), joined.into_std());
        let left = left.saturating_sub(RetryPolicy::LEAST_USEFUL);
        let longest = left.min(queue.max_wait().saturating_sub(self.exchange.book.outage_wait()));
        let key = outbound.cluster.key(&outbound.subject());
        let wait = Wait {
            key: &key,
            stake: self.stake(),
            began: self.exchange.began(),
            last_attempt: self.exchange.book.last_attempt(),
            start: outbound.shared.start,
            now: joined,
            until: joined + longest,
            reserve: longest.saturating_sub(left / 2),
        };
        let outcome = queue.wait(wait).await;
        self.now = Instant::now();
        let waited = self.now.duration_since(joined);
        match outcome {
            Ok(permit) => {
                self.exchange.book.leave_outage_queue(permit, waited);
                Ok(())
            }
            Err(Refusal { retry_after }) => {
                self.exchange.book.leave_outage_queue(None, waited);
                Err(self.give_up(ProxyError::Outage { retry_after }))
            }
        }
    }

    /// What the exchange has to lose by an attempt that fails.
    fn stake(&self) -> Stake {
        let exchange = &*self.exchange;
        if exchange.book.spent() + 1 >= self.outbound.policy().max_attempts {
            Stake::Nothing
        } else if self.outbound.repeatable != Repeatable::Always || exchange.body().state() == BodyState::Lost
        {
            Stake::SpareUnlessSent
        } else if exchange.book.attempt_number() == 0 {
            Stake::Fresh
        } else {
            Stake::Spare
        }
    }

    /// The wait before the next attempt: none but what the backend asked for, if a wait in the outage queue follows.
    pub(super) fn instead_of(&self, backoff: Duration, ended: &Ended) -> Duration {
        if !self.outbound.cluster.outage_queue.is_in_force() {
            return backoff;
        }
        ended.as_ref().ok().and_then(asked_wait).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
