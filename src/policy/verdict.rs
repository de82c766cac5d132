//! What follows an attempt: [`Verdict`], with the reason of a retry or the rule that forbids one.

use std::time::Duration;

use http::StatusCode;

use crate::error::ErrorClass;
use crate::policy::grpc::GrpcStatus;

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
