//! The retry decision: [`RetryPolicy::decide`] looks at how an attempt ended and at what the exchange still allows, and
//! says whether another follows, after what wait, or which rule forbids it.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::StatusCode;

use crate::error::Delivery;
use crate::policy::outcome::Outcome;
use crate::policy::request::{BodyState, Repeatable};
use crate::policy::settings::RetryPolicy;
use crate::policy::verdict::{Reason, Verdict, Veto};

/// What stands around an outcome.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Attempts that `max_attempts` counts, the one that ended included. One that sent nothing costs none while the cluster
    /// is down.
    pub attempt: u32,
    /// Whether the request may be repeated.
    pub repeatable: Repeatable,
    /// Whether its body can be.
    pub body: BodyState,
    /// Whether the cluster has an endpoint in balancing that this exchange has not tried.
    pub untried: Untried,
    /// What is left until the deadline.
    pub time_left: Duration,
    /// The chance, in [0, 1], that the next attempt succeeds.
    pub chance: f64,
    /// A random number in [0, 1) for the jitter.
    pub random: f64,
}

/// Whether there is an endpoint left that the exchange has not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untried {
    /// None: the next attempt goes where one has failed.
    None,
    /// At least one.
    Some,
}

impl RetryPolicy {
    /// Less time than this before the deadline is no use for another attempt.
    pub const LEAST_USEFUL: Duration = Duration::from_millis(5);

    /// Decides on what follows `outcome`.
    ///
    /// The budget is the caller's to ask, after a [`Verdict::Retry`], so that a vetoed retry costs nothing.
    pub fn decide(&self, outcome: Outcome, around: &Circumstances) -> Verdict {
        let Some(reason) = self.reason(outcome) else { return Verdict::Return };
        let stop = |why| Verdict::Stop { why };
        let delivery = outcome.delivery();
        let never_sent = delivery == Delivery::Never;

        if around.attempt >= self.max_attempts {
            return stop(Veto::Attempts);
        }
        if reason == Reason::Status(StatusCode::SWITCHING_PROTOCOLS) {
            return stop(Veto::Upgrade);
        }
        if let Repeatable::OnlyIfNeverSent(rule) = around.repeatable
            && !never_sent
        {
            return stop(rule.veto());
        }
        match around.body {
            BodyState::Whole => {}
            // What is kept can be sent again and the rest follow it, unless the upstream has already judged a part.
            BodyState::Partial if delivery != Delivery::Answered => {}
            BodyState::Partial | BodyState::Lost => return stop(Veto::Body),
        }

        let asked = match outcome {
            Outcome::Answered { retry_after, .. } | Outcome::Grpc { retry_after, .. } => {
                retry_after.unwrap_or_default()
            }
            Outcome::Failed { .. } => Duration::ZERO,
        };
        if asked > self.retry_after_max || asked.saturating_add(Self::LEAST_USEFUL) > around.time_left {
            return stop(if asked > Duration::ZERO { Veto::RetryAfter } else { Veto::Deadline });
        }
        let after = if never_sent && around.untried == Untried::Some {
            Duration::ZERO
        } else {
            self.backoff.wait(around.attempt, around.chance, around.random).max(asked)
        };
        if after.saturating_add(Self::LEAST_USEFUL) > around.time_left {
            return stop(Veto::Deadline);
        }
        Verdict::Retry { after, reason }
    }

    /// The shortest and the longest wait that [`RetryPolicy::decide`] can give as the cluster is, for `stent explain`.
    pub fn wait_range(&self, outcome: Outcome, around: &Circumstances) -> RangeInclusive<Duration> {
        let wait = |random| match self.decide(outcome, &Circumstances { random, ..*around }) {
            Verdict::Retry { after, .. } => after,
            Verdict::Return | Verdict::Stop { .. } => Duration::ZERO,
        };
        wait(0.0)..=wait(1.0)
    }

    /// Whether the outcome is a failure in this policy's eyes, and which.
    fn reason(&self, outcome: Outcome) -> Option<Reason> {
        match outcome {
            Outcome::Answered { status, .. } => {
                self.statuses.contains(status).then_some(Reason::Status(status))
            }
            Outcome::Failed { class, .. } => {
                class.filter(|class| self.errors.contains(*class)).map(Reason::Error)
            }
            Outcome::Grpc { status, .. } => {
                self.grpc_statuses.contains(status).then_some(Reason::Grpc(status))
            }
        }
    }
}

#[cfg(test)]
mod tests;
