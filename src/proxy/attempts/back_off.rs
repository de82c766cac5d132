//! The wait before another attempt, and what is kept of the failed answer meanwhile.

use std::time::Duration;

use http::Response;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Attempts, End, Ended, Transport};
use crate::policy::verdict::{Reason, Veto};
use crate::proxy::exchange::Exchange;
use crate::upstream::endpoint::Endpoint;

impl<T: Transport> Attempts<'_, T> {
    /// Waits before the next attempt, as long as the policy says. Meanwhile a failed answer is read, so that its connection
    /// can be used again, and kept, in case nothing better comes. One that keeps the last connection ends the exchange.
    pub(super) async fn back_off(
        &mut self,
        ended: Ended,
        after: Duration,
        reason: Reason,
    ) -> Result<(), End> {
        let after = self.instead_of(after, &ended);
        let ended = match ended {
            Ok(answer) => self.let_go(answer).await?.ok_or(()),
            Err(_) => Err(()),
        };
        let began = self.now;
        self.exchange.retry(reason, after);
        let wait = async {
            if after >= TIMER_STEP {
                self.timer.as_mut().reset(began + after);
                self.timer.as_mut().await;
            } else if !after.is_zero() {
                yield_now().await; // a timer would take its time and cost more
            }
        };
        let kept = match ended {
            Ok(answer) if after >= TIMER_STEP => {
                let until = began + after.min(DRAIN_TIME);
                tokio::join!(wait, keep(answer, self.exchange, until)).1
            }
            Ok(answer) => {
                wait.await;
                keep(answer, self.exchange, began).await // what has come by now
            }
            Err(()) => {
                wait.await;
                None
            }
        };
        if let Some(answer) = kept {
            self.kept = Some(Box::new(answer));
        }
        self.now = Instant::now();
        Ok(())
    }

    /// Reads a failed answer for a moment, where its connection is wanted: each of its endpoint's is in use, or a wait in the
    /// outage queue follows. None if it breaks. If all are in use still and it has one of them, it is the exchange's end.
    ///
    /// Exchanges that keep such connections while they wait would leave none to probe with, or to wait for.
    async fn let_go(&mut self, answer: Answer) -> Result<Option<Answer>, End> {
        if !answer.body().is_on_connection()
            || !(self.is_short() || self.outbound.cluster.outage_queue.is_in_force())
        {
            return Ok(Some(answer));
        }
        let kept = keep(answer, self.exchange, self.now + DRAIN_TIME).await;
        self.now = Instant::now();
        match kept {
            Some(answer) if answer.body().is_on_connection() && self.is_short() => {
                self.exchange.stop_retrying(Veto::Overloaded);
                Err(End::Kept(Box::new(answer)))
            }
            kept => Ok(kept),
        }
    }

    /// Whether each connection that the endpoint of the last answer may have is in use, and no other endpoint has room.
    fn is_short(&self) -> bool {
        let answered_by = self.exchange.book.answered_by();
        let endpoints = self.outbound.cluster.endpoints();
        let is_that = |endpoint: &Endpoint| Some(endpoint.id) == answered_by;
        endpoints.iter().any(|endpoint| is_that(endpoint) && endpoint.is_full())
            && !endpoints.iter().any(|other| !is_that(other) && other.standing.is_open() && !other.is_full())
    }
}

/// Reads an answer whole, if it is small and comes soon. Else what was read of it is kept with the rest: the next attempt
/// does not wait for a body that trickles, and the caller may need it all the same. None if it breaks.
async fn keep(answer: Answer, exchange: &Exchange, until: Instant) -> Option<Answer> {
    if !answer.body().is_coming() {
        return Some(answer);
    }
    let (head, body) = answer.into_parts();
    let mut begun = body.into_held(exchange.answer_memory(), exchange.client().into());
    let read = timeout_at(until, begun.read_small(DRAIN_LIMIT)).await;
    if matches!(read, Ok(Err(_))) {
        return None;
    }
    Some(Response::from_parts(head, begun.into_body()))
}

/// The most of a failed answer that is read, and kept.
const DRAIN_LIMIT: usize = 64 << 10;

/// What a timer can measure. A shorter wait is one turn of all that the worker has to do, its sockets included.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// How long a failed answer may take to end, where the next attempt has to wait at least as long.
const DRAIN_TIME: Duration = Duration::from_millis(50);
