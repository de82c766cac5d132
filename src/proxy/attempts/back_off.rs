//! The wait before another attempt, and what is kept of the failed answer meanwhile.

use std::time::Duration;

use http::Response;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Attempts, Ended, Transport};
use crate::policy::retry::Reason;
use crate::proxy::exchange::Exchange;

impl<T: Transport> Attempts<'_, T> {
    /// Waits before the next attempt, as long as the policy says. Meanwhile a failed answer is read, so that its connection
    /// can be used again, and kept, in case nothing better comes.
    pub(super) async fn back_off(&mut self, ended: Ended, after: Duration, reason: Reason) {
        let began = self.now;
        let after = self.instead_of(after, &ended);
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
            Err(_) => {
                wait.await;
                None
            }
        };
        if let Some(answer) = kept {
            self.kept = Some(Box::new(answer));
        }
        self.now = Instant::now();
    }
}

/// Reads an answer whole, if it is small and comes soon. Else what was read of it is kept with the rest: the next attempt
/// does not wait for a body that trickles, and the caller may need it all the same. None if it breaks.
async fn keep(answer: Answer, exchange: &Exchange, until: Instant) -> Option<Answer> {
    if !answer.body().is_coming() {
        return Some(answer);
    }
    let (head, body) = answer.into_parts();
    let mut held = body.into_held(exchange.answer_memory(), exchange.client().into());
    let read = timeout_at(until, held.read_small(DRAIN_LIMIT)).await;
    if matches!(read, Ok(Err(_))) {
        return None;
    }
    Some(Response::from_parts(head, held.into_body()))
}

/// The most of a failed answer that is read, and kept.
const DRAIN_LIMIT: usize = 64 << 10;

/// What a timer can measure. A shorter wait is one turn of all that the worker has to do, its sockets included.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// How long a failed answer may take to end, where the next attempt has to wait at least as long.
const DRAIN_TIME: Duration = Duration::from_millis(50);
