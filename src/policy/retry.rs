//! The retry decision: [`RetryPolicy::decide`] looks at how an attempt ended and at what the exchange still allows, and
//! says whether another follows, after what wait, or which rule forbids it.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use crate::error::{Delivery, ErrorClass};
use crate::policy::backoff::Backoff;
use crate::policy::grpc::{GrpcStatus, GrpcStatusSet};
use crate::policy::hedge::HedgeAfter;
use crate::policy::hold::HoldLimits;
use crate::policy::repeat::SendOnce;
use crate::policy::resume::ResumeSettings;

/// Everything about retries that an operator sets for a route; immutable and shared.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; 1 = never retry.
    pub max_attempts: u32,
    /// Response statuses that count as failures.
    pub statuses: StatusSet,
    /// Statuses of gRPC that count as failures, where an answer is one without a body.
    pub grpc_statuses: GrpcStatusSet,
    /// Classes of failed attempts that may be retried.
    pub errors: ErrorSet,
    /// Methods that may be sent again even though the upstream may have acted on them.
    pub methods: Vec<Method>,
    /// The cluster honours the idempotency keys in this header: a request with one may be sent again, whatever its method.
    pub idempotency_header: Option<HeaderName>,
    /// How long an attempt may take to bring a response head, where another could follow.
    pub per_try_timeout: Duration,
    /// The most of a request body that is kept for a retry, in bytes.
    pub body_limit: usize,
    /// How much of an answer is held back, and how long, so that one that breaks can be retried.
    pub hold: HoldLimits,
    /// Whether an answer that breaks after its head has gone to the caller is gone on with.
    pub resume: ResumeSettings,
    /// When a safe request that is still unanswered is sent once more.
    pub hedge: HedgeAfter,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// The longest wait that an upstream may ask for with `Retry-After`; a longer one is passed on to the caller.
    pub retry_after_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            statuses: [500, 502].into_iter().collect(),
            grpc_statuses: GrpcStatusSet::default(),
            errors: ErrorClass::ALL.into_iter().collect(),
            methods: vec![
                Method::GET,
                Method::HEAD,
                Method::OPTIONS,
                Method::TRACE,
                Method::PUT,
                Method::DELETE,
            ],
            idempotency_header: None,
            per_try_timeout: Duration::from_secs(10),
            body_limit: 1 << 20,
            hold: HoldLimits::default(),
            resume: ResumeSettings::default(),
            hedge: HedgeAfter::default(),
            backoff: Backoff::default(),
            retry_after_max: Duration::from_secs(5),
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response head came.
    Answered {
        /// Its status.
        status: StatusCode,
        /// The wait that its `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
    /// None came, or it broke while it was held.
    Failed {
        /// Its class; none if no retry can help.
        class: Option<ErrorClass>,
        /// How much of the request may have arrived.
        delivery: Delivery,
    },
    /// An answer of gRPC came that is whole with its head, and says that the call failed.
    Grpc {
        /// How.
        status: GrpcStatus,
        /// The wait that its `Retry-After` asks for.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// How much of the request may have arrived.
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::Answered { .. } | Self::Grpc { .. } => Delivery::Answered,
            Self::Failed { delivery, .. } => *delivery,
        }
    }
}

/// Whether a request may be sent again after the upstream may have acted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// Its method or its idempotency key says so.
    Always,
    /// Only if nothing of it was sent, by this rule.
    OnlyIfNeverSent(SendOnce),
}

impl Repeatable {
    /// Whether the request authenticates its connection, so that it has to have one for itself.
    pub fn needs_own_connection(self) -> bool {
        self == Self::OnlyIfNeverSent(SendOnce::Authentication)
    }
}

/// Whether the request body can be sent from its start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// Its copy was dropped for its size, or never kept.
    Lost,
    /// A copy of all that came so far is there, and more is to come.
    Partial,
    /// There is none, nothing of it was taken, or all of it is kept.
    Whole,
}

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

/// Why a retry is made; the label of `stent_retries_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The upstream answered with this status.
    Status(StatusCode),
    /// The attempt failed.
    Error(ErrorClass),
    /// The upstream answered with this status of gRPC.
    Grpc(GrpcStatus),
}

/// The rule that kept a failed attempt from being followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veto {
    /// `max_attempts` reached.
    Attempts,
    /// The request, or its answer, authenticates the connection.
    Authentication,
    /// The cluster's retry budget is spent.
    Budget,
    /// The request body cannot be sent again.
    Body,
    /// The caller has gone.
    Client,
    /// The request may have been acted on, and has a precondition that then holds no more.
    Condition,
    /// The wait would end after the deadline, or no useful time is left.
    Deadline,
    /// All that was asked for in this way of late has failed, while other requests succeeded.
    Futile,
    /// The request may have been acted on, and may not be repeated.
    Method,
    /// The cluster is down, and this was the one attempt of a request that had waited in vain.
    Outage,
    /// The cluster has all that it carries, and others wait for their first attempt.
    Overloaded,
    /// The upstream asked for a longer wait than allowed.
    RetryAfter,
    /// The response head already went to the caller.
    Started,
    /// The connection has become a tunnel.
    Upgrade,
}

impl Veto {
    /// Every veto.
    pub const ALL: [Self; 14] = [
        Self::Attempts,
        Self::Authentication,
        Self::Budget,
        Self::Body,
        Self::Client,
        Self::Condition,
        Self::Deadline,
        Self::Futile,
        Self::Method,
        Self::Outage,
        Self::Overloaded,
        Self::RetryAfter,
        Self::Started,
        Self::Upgrade,
    ];

    /// The word in metrics and in the record.
    pub fn label(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Authentication => "authentication",
            Self::Budget => "budget",
            Self::Body => "body",
            Self::Client => "client",
            Self::Condition => "condition",
            Self::Deadline => "deadline",
            Self::Futile => "futile",
            Self::Method => "method",
            Self::Outage => "outage",
            Self::Overloaded => "overloaded",
            Self::RetryAfter => "retry_after",
            Self::Started => "started",
            Self::Upgrade => "upgrade",
        }
    }

    /// The rule in a sentence, for `stent explain`.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Attempts => "`max_attempts` is reached",
            Self::Authentication => {
                "NTLM and Negotiate authenticate a connection, and a retry would go out on another (RFC 4559 section 6)"
            }
            Self::Budget => "the cluster's retry budget is spent",
            Self::Body => "the request body cannot be sent again from its start",
            Self::Client => "the caller has gone",
            Self::Condition => {
                "the backend may have acted on the request, and then its precondition fails (RFC 9110 section 13.1.1)"
            }
            Self::Deadline => "the wait would end after the deadline, or leave no useful time",
            Self::Futile => {
                "its last 8 attempts, by at least 3 requests of this kind, have failed while others succeeded"
            }
            Self::Outage => "the cluster is down, and the request has waited for as long as it may",
            Self::Method => {
                "the backend may have acted on the request, and its method is not in `methods` (RFC 9110 section 9.2.2)"
            }
            Self::Overloaded => {
                "the cluster has all that it carries, and others wait for their first attempt"
            }
            Self::RetryAfter => {
                "the backend asked for a longer wait than `retry_after_max` or than the deadline leaves"
            }
            Self::Started => "the response head already went to the caller",
            Self::Upgrade => {
                "after 101 the connection is a tunnel, and what went through it cannot be sent again"
            }
        }
    }
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The outcome is not one that this policy retries: it is the answer.
    Return,
    /// Another attempt after this wait, if the budget allows.
    Retry {
        /// The wait.
        after: Duration,
        /// What it answers to.
        reason: Reason,
    },
    /// The outcome is a failure, and this rule makes it the answer.
    Stop {
        /// The rule.
        why: Veto,
    },
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

/// A set of response statuses, 100 to 599.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusSet([u64; 8]);

impl StatusSet {
    /// Whether it holds `status`; false for anything above 599.
    pub fn contains(&self, status: StatusCode) -> bool {
        let (word, bit) = Self::place(status.as_u16());
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Its statuses, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        (100..600).filter(|status| {
            let (word, bit) = Self::place(*status);
            self.0[word] & bit != 0
        })
    }

    fn place(status: u16) -> (usize, u64) {
        let offset = usize::from(status).wrapping_sub(100);
        (offset / 64, 1 << (offset % 64))
    }
}

impl FromIterator<u16> for StatusSet {
    /// Statuses outside 100 to 599 are left out.
    fn from_iter<I: IntoIterator<Item = u16>>(statuses: I) -> Self {
        let mut set = Self::default();
        for status in statuses.into_iter().filter(|status| (100..600).contains(status)) {
            let (word, bit) = Self::place(status);
            set.0[word] |= bit;
        }
        set
    }
}

/// A set of [`ErrorClass`]es.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorSet(u8);

impl ErrorSet {
    /// Whether it holds `class`.
    pub fn contains(self, class: ErrorClass) -> bool {
        self.0 & (1 << class as u8) != 0
    }

    /// Its classes.
    pub fn iter(self) -> impl Iterator<Item = ErrorClass> {
        ErrorClass::ALL.into_iter().filter(move |class| self.contains(*class))
    }
}

impl FromIterator<ErrorClass> for ErrorSet {
    fn from_iter<I: IntoIterator<Item = ErrorClass>>(classes: I) -> Self {
        Self(classes.into_iter().fold(0, |set, class| set | 1 << class as u8))
    }
}

/// The wait that a `Retry-After` asks for: seconds or an HTTP-date (RFC 9110 section 10.2.3), seen at `now`.
///
/// What parses as neither is none. A date in the past is no wait.
pub fn retry_after(value: &str, now: std::time::SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit is a very long wait, not none.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests;
