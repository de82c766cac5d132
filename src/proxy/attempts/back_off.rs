//! The wait before another attempt, and what is kept of the failed answer meanwhile.

use std::time::Duration;

use bytes::BytesMut;
use http::Response;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Attempts, Ended, Transport};
use crate::policy::verdict::Reason;
use crate::upstream::body::UpstreamBody;

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
                tokio::join!(wait, keep(answer, began + after.min(DRAIN_TIME))).1
            }
            Ok(answer) => {
                wait.await;
                keep(answer, began).await // what has come by now
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
async fn keep(answer: Answer, until: Instant) -> Option<Answer> {
    let (head, mut body) = answer.into_parts();
    let mut bytes = BytesMut::new();
    let read = async {
        while bytes.len() as u64 + body.size_hint().lower() <= DRAIN_LIMIT as u64 {
            match body.frame().await {
                None => return Some(true),
                Some(Err(_)) => return None,
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        }
        Some(false)
    };
    let is_whole = timeout_at(until, read).await.unwrap_or(Some(false))?;
    let read = (!bytes.is_empty()).then(|| bytes.freeze());
    let body = if is_whole { UpstreamBody::Kept(read).into() } else { body.after(read) };
    Some(Response::from_parts(head, body))
}

/// The most of a failed answer that is read, and kept.
const DRAIN_LIMIT: usize = 64 << 10;

/// What a timer can measure. A shorter wait is one turn of all that the worker has to do, its sockets included.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// How long a failed answer may take to end, where the next attempt has to wait at least as long.
const DRAIN_TIME: Duration = Duration::from_millis(50);
