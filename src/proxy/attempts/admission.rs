//! Admission to the cluster: an attempt begins when the cluster may have one more in flight.

use std::sync::Arc;

use http::{Response, StatusCode};
use tokio::time::Instant;

use super::send::Failure;
use super::{Attempts, End, Outbound, Transport};
use crate::error::ProxyError;
use crate::policy::settings::RetryPolicy;
use crate::policy::verdict::Veto;
use crate::proxy::rare;
use crate::upstream::admission::{Admission, Ask, LoadSignal, Purpose, Refusal, Slot};

/// What comes of asking for admission.
pub(super) enum Entry {
    /// An attempt may begin, with this place in flight.
    Attempt(Option<Slot>),
    /// The whole cluster went down during the wait.
    Outage,
}

impl<T: Transport> Attempts<'_, T> {
    /// Waits until the cluster may have one more attempt in flight.
    pub(super) async fn enter(&mut self) -> Result<Entry, End> {
        let Admitted { slot, has_waited } = match admit(&self.outbound.cluster.admission, self.ask()).await {
            Ok(admitted) => admitted,
            Err(refusal) => return Err(self.refuse(refusal)),
        };
        if has_waited {
            let asked = std::mem::replace(&mut self.now, Instant::now());
            self.exchange.book.leave_queue(self.now.duration_since(asked));
            if self.outbound.cluster.outage_queue.is_in_force() && !self.exchange.book.has_permit() {
                return Ok(Entry::Outage);
            }
        }
        Ok(Entry::Attempt(slot))
    }

    /// Who asks for admission.
    fn ask(&self) -> Ask {
        // An exchange that has a permit at a cluster that was down has waited for it, and others with it.
        let is_first = self.exchange.book.attempt_number() == 0 || self.exchange.book.has_permit();
        let purpose = if is_first { Purpose::First } else { Purpose::Retry };
        let left = self.outbound.limits().left(self.exchange.body().upload(), self.now.into_std());
        Ask { purpose, now: self.now, deadline: self.now + left.saturating_sub(RetryPolicy::LEAST_USEFUL) }
    }

    /// The end of an exchange that gets no attempt, or no further one.
    fn refuse(&mut self, refusal: Refusal) -> End {
        self.exchange.book.leave_queue(self.now.elapsed());
        if self.exchange.book.attempt_number() > 0 {
            self.exchange.stop_retrying(Veto::Overloaded);
        }
        self.give_up(ProxyError::Overloaded { retry_after: refusal.retry_after })
    }
}

/// Admission that was granted.
struct Admitted {
    /// None where nothing is counted.
    slot: Option<Slot>,
    has_waited: bool,
}

/// Asks for admission and, where there is no place in flight, waits for one.
async fn admit(admission: &Arc<Admission>, ask: Ask) -> Result<Admitted, Refusal> {
    if admission.is_off() {
        return Ok(Admitted { slot: None, has_waited: false });
    }
    if let Some(slot) = admission.try_enter(ask.now) {
        return Ok(Admitted { slot: Some(slot), has_waited: false });
    }
    let slot = rare(admission.clone().enter(ask)).await?;
    Ok(Admitted { slot: Some(slot), has_waited: true })
}

/// What an attempt says about the load of its cluster.
pub(super) fn load_signal<B>(outbound: &Outbound, ended: &Result<Response<B>, Failure>) -> LoadSignal {
    let is_overload =
        |status| matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if outbound.cluster.outage_queue.is_in_force() {
        // Failures at once and then a queue let go: neither says what the cluster carries.
        return LoadSignal::Nothing;
    }
    match ended {
        Ok(answer) if is_overload(answer.status()) => LoadSignal::Failed,
        Ok(answer) if outbound.policy().statuses.contains(answer.status()) => LoadSignal::Failed,
        Ok(_) => LoadSignal::Answered,
        Err(failure) if failure.error.kind.blames_endpoint() => LoadSignal::Failed,
        Err(_) => LoadSignal::Nothing,
    }
}

#[cfg(test)]
mod tests;
