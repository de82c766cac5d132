//! What follows an attempt: the policy's verdict, where another attempt is of use and is paid for.

use std::time::{Duration, SystemTime};

use http::Response;
use http::header::{DATE, RETRY_AFTER};
use httpdate::parse_http_date;
use tokio::time::{Instant, timeout};

use super::transport::Transport;
use super::{Attempts, Ended, grpc_status};
use crate::error::Delivery;
use crate::policy::authentication;
use crate::policy::outcome::{Outcome, retry_after};
use crate::policy::request::{BodyState, Repeatable, SendOnce};
use crate::policy::retry::{Circumstances, Untried};
use crate::policy::verdict::{Verdict, Veto};
use crate::proxy::rare;
use crate::upstream::cluster::Asked;

impl<T: Transport> Attempts<'_, T> {
    /// What follows the end of an attempt.
    pub(super) async fn judge(&mut self, ended: &Ended) -> Verdict {
        let mut verdict = self.decide(ended);
        let is_ahead_of_body = matches!(verdict, Verdict::Stop { why: Veto::Body })
            && self.exchange.body().state() == BodyState::Partial;
        if is_ahead_of_body {
            rare(self.drain_request_body()).await;
            verdict = self.decide(ended);
        }
        self.afford(verdict, ended)
    }

    /// Reads the rest of the request body, if it comes without a pause: only a whole copy can be sent again.
    async fn drain_request_body(&mut self) {
        // A caller that does pause may be waiting for this very answer.
        let _ = timeout(self.outbound.deadline, self.exchange.body().complete(PAUSE)).await;
        self.now = Instant::now();
    }

    /// Lays an attempt's end and the exchange's state before the policy.
    pub(super) fn decide(&self, ended: &Ended) -> Verdict {
        let policy = self.outbound.policy();
        let outcome = match ended {
            Ok(answer) if policy.statuses.contains(answer.status()) => {
                Outcome::Answered { status: answer.status(), retry_after: asked_wait(answer) }
            }
            Ok(answer) => {
                match grpc_status(answer).filter(|status| policy.grpc_statuses.contains(*status)) {
                    Some(status) => Outcome::Grpc { status, retry_after: asked_wait(answer) },
                    None => return Verdict::Return, // the common case, spared the rest
                }
            }
            Err(failure) => failure.outcome(),
        };
        let repeatable = match ended {
            Ok(answer) if authentication::is_demanded(answer.headers()) => {
                Repeatable::OnlyIfNeverSent(SendOnce::Authentication)
            }
            Ok(_) | Err(_) => self.outbound.repeatable,
        };
        self.verdict(outcome, repeatable)
    }

    /// Lays an outcome and the exchange's state before the policy.
    pub(super) fn verdict(&self, outcome: Outcome, repeatable: Repeatable) -> Verdict {
        let (exchange, outbound) = (&*self.exchange, self.outbound);
        let has_untried = outbound.has_untried(exchange);
        let since_start = outbound.shared.since_start(self.now);
        outbound.policy().decide(
            outcome,
            &Circumstances {
                attempt: exchange.book.spent().max(1),
                repeatable,
                body: exchange.body().secure(),
                untried: if has_untried { Untried::Some } else { Untried::None },
                time_left: outbound.limits().left(exchange.body().upload(), self.now.into_std()),
                chance: outbound.cluster.outlook(&outbound.subject(), since_start).chance,
                random: outbound.shared.random(),
            },
        )
    }

    /// What comes of a verdict where another attempt has to be of use, and paid for.
    fn afford(&self, verdict: Verdict, ended: &Ended) -> Verdict {
        let Verdict::Retry { .. } = verdict else { return verdict };
        let stop = |why| Verdict::Stop { why };
        if self.exchange.book.has_last_permit() {
            return stop(Veto::Outage);
        }
        let was_sent = ended.as_ref().err().is_none_or(|failure| failure.error.delivery != Delivery::Never);
        if was_sent && self.outbound.is_futile(self.now) {
            return stop(Veto::Futile);
        }
        if self.outbound.refuses_retries() {
            return stop(Veto::Overloaded);
        }
        if self.outbound.may_retry(self.now) { verdict } else { stop(Veto::Budget) }
    }
}

/// The wait that the backend asked for, if it did. A date counts from the answer's own `Date`, so that a backend whose clock is
/// wrong means the wait that it wrote.
pub(super) fn asked_wait<B>(answer: &Response<B>) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let date = answer.headers().get(DATE).and_then(|date| parse_http_date(date.to_str().ok()?).ok());
    retry_after(value, date.unwrap_or_else(SystemTime::now))
}

/// How long a caller may pause that has its answer already, as far as the backend is concerned.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_to_come_again_counts_from_the_answers_own_date() {
        let answer = |fields: &[(&str, &str)]| {
            let builder = fields
                .iter()
                .fold(Response::builder(), |builder, (name, value)| builder.header(*name, *value));
            asked_wait(&builder.body(()).unwrap())
        };
        let after = ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT");
        let date = ("date", "Sun, 06 Nov 1994 08:49:30 GMT");
        assert_eq!(answer(&[after, date]), Some(Duration::from_secs(7)));
        assert_eq!(answer(&[("date", "now"), after]), Some(Duration::ZERO), "long ago by our own clock");
        assert_eq!(answer(&[("retry-after", "3"), date]), Some(Duration::from_secs(3)));
        assert_eq!(answer(&[date]), None);
    }
}
