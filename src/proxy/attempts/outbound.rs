//! A request as the upstream shall get it, and what its route and its cluster allow it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::HeaderValue;
use http::request::Parts;
use tokio::time::Instant;

use super::send::{Arrived, Failure};
use super::transport::Sent;
use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::policy::budget::Prospect;
use crate::policy::deadline::TimeLimits;
use crate::policy::expect::{DOUBTFUL, Subject};
use crate::policy::request::Repeatable;
use crate::policy::settings::RetryPolicy;
use crate::proxy::Shared;
use crate::proxy::exchange::Exchange;
use crate::proxy::headers::{self, X_STENT_ATTEMPT};
use crate::route::Route;
use crate::upstream::balance::Pick;
use crate::upstream::cluster::{Asked, Cluster};
use crate::upstream::endpoint::EndpointId;

/// A request as the upstream shall get it, and all that the loop needs to know of it.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) route: Arc<Route>,
    pub(crate) shared: Rc<Shared>,
    /// Each attempt shares it, and so needs no copy.
    pub(crate) head: Rc<Parts>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) repeatable: Repeatable,
    /// The protocol that the connection shall change to.
    pub(crate) upgrade: Option<Box<HeaderValue>>,
    /// How long the exchange may take, and how long its caller may be silent inside the body. The route has the other
    /// limits.
    pub(crate) deadline: Duration,
    pub(crate) caller_silence: Duration,
    pub(crate) aim: Aim,
}

/// What an answer is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// To be the caller's.
    Answer,
    /// To bring the rest of one that broke.
    Rest {
        /// The one endpoint that has it, if not every one has.
        only: Option<EndpointId>,
    },
}

impl Asked for Outbound {
    fn subject(&self) -> Subject<'_> {
        let settings = &self.route.settings;
        let rest = settings.pattern.path.rest_of(self.head.uri.path());
        Subject { route: &settings.name, method: &self.head.method, rest }
    }
}

impl Outbound {
    pub(super) fn policy(&self) -> &RetryPolicy {
        &self.route.settings.retry
    }

    /// The endpoint for the next attempt.
    pub(super) fn pick(&self, exchange: &Exchange, now: Instant) -> Option<Pick> {
        match self.aim {
            Aim::Rest { only: Some(endpoint) } => self.cluster.pick_only(endpoint),
            _ => self.shared.pick(&self.cluster, exchange.book.tried(), self.repeatable, now),
        }
    }

    /// Whether the next attempt may go where none has failed.
    pub(super) fn has_untried(&self, exchange: &Exchange) -> bool {
        !matches!(self.aim, Aim::Rest { only: Some(_) }) && self.cluster.has_untried(exchange.book.tried())
    }

    pub(super) fn limits(&self) -> TimeLimits {
        let per_try = self.policy().per_try_timeout;
        TimeLimits { deadline: self.deadline, per_try, caller_silence: self.caller_silence }
    }

    /// Whether the budget allows another attempt. One that goes through the outage queue costs it nothing: that is bounded by
    /// itself.
    pub(super) fn may_retry(&self, now: Instant) -> bool {
        self.cluster.outage_queue.is_in_force() || self.withdraw(now)
    }

    /// Takes an attempt out of the retry budget, if that holds it.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        let now = self.shared.since_start(now);
        let q = self.cluster.outlook(&self.subject(), now).q;
        let prospect = if q >= DOUBTFUL { Prospect::Doubtful } else { Prospect::Good };
        self.cluster.budget.withdraw(prospect, now)
    }

    /// Whether all requests like this one have failed of late while others succeeded.
    pub(super) fn is_futile(&self, now: Instant) -> bool {
        let now = self.shared.since_start(now);
        self.cluster.is_futile(&self.cluster.key(&self.subject()), self.shared.random(), now)
    }

    /// Whether others wait for their first attempt, so that there is none to spare for another one.
    pub(super) fn refuses_retries(&self) -> bool {
        let refuses = self.cluster.admission.refuses_retries() && !self.cluster.outage_queue.is_in_force();
        if refuses {
            self.cluster.admission.count_refused_retry();
        }
        refuses
    }

    /// The head of the attempt of this number; that of the first is not copied.
    pub(super) fn head_of(&self, number: u32) -> Rc<Parts> {
        let mut head = self.head.clone();
        if number > 1 {
            Rc::make_mut(&mut head).headers.insert(X_STENT_ATTEMPT, HeaderValue::from(number));
        }
        head
    }

    /// The outcome of an attempt whose head has come, or which has failed.
    pub(super) fn take(&self, sent: Sent) -> Result<Arrived, Failure> {
        sent.and_then(|answer| self.accept(answer)).map_err(|error| Failure { error, limit: None })
    }

    /// Turns a change to a protocol that was not asked for into the failure that it is: what follows it is no HTTP.
    fn accept(&self, answer: Arrived) -> Sent {
        let is_granted =
            || self.upgrade.as_ref().is_some_and(|asked| headers::grants(answer.headers(), asked));
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS && !is_granted() {
            return Err(UpstreamError::new(UpstreamErrorKind::Protocol, Delivery::Maybe));
        }
        Ok(answer)
    }

    /// Whether an outcome is one that the caller should get. Calls of gRPC, which fail in other ways, are POSTs.
    pub(super) fn is_good(&self, outcome: &Result<Arrived, Failure>) -> bool {
        outcome.as_ref().is_ok_and(|answer| !self.policy().statuses.contains(answer.status()))
    }
}
