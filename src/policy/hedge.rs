//! When a safe request that is still unanswered is sent a second time, and the first good answer taken.
//!
//! The idea, and the percentile as its measure, are those of "hedged requests" in Dean and Barroso, The Tail at Scale
//! (Communications of the ACM 56(2), 2013).

use std::time::Duration;

use http::Method;

use self::latency::{Latencies, Seen};
use crate::policy::request::Repeatable;
use crate::policy::settings::RetryPolicy;

pub mod latency;

/// What an operator sets: how long an attempt may be without an answer before a second one goes out beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HedgeAfter {
    /// For ever.
    #[default]
    Never,
    /// As long as this share of the route's own answers takes.
    Percentile(Percentile),
    /// So long; at least 1 ms.
    Time(Duration),
}

/// A share of answers, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentile(u8);

impl Percentile {
    /// Below the median most requests would be sent twice; above the 99th nearly none, and those after a long lesson.
    pub const BOUNDS: std::ops::RangeInclusive<u8> = 50..=99;

    /// Checks and builds: 50 to 99.
    pub fn new(percent: u8) -> Option<Self> {
        Self::BOUNDS.contains(&percent).then_some(Self(percent))
    }

    /// In percent.
    pub fn percent(self) -> u8 {
        self.0
    }

    /// How many requests have to be seen before the percentile counts as known: five should lie above it.
    pub fn least_seen(self) -> u32 {
        500_u32.div_ceil(100 - u32::from(self.0))
    }
}

/// A request, as far as it matters for whether it is hedged.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Whether it may be repeated at all.
    pub repeatable: Repeatable,
    /// Whether a body comes with it.
    pub has_body: bool,
    /// Whether its connection shall change to another protocol.
    pub is_upgrade: bool,
}

/// The rule that keeps a request from being hedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHedge {
    /// `max_attempts` leaves no room for a second.
    Attempts,
    /// A body streams to one endpoint at a time.
    Body,
    /// The method is not safe, or the operator does not let it be repeated.
    Method,
    /// The route does not hedge.
    Off,
    /// Two tunnels would be opened.
    Upgrade,
}

impl NoHedge {
    /// The rule in a sentence, for `stent explain`.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Attempts => "`max_attempts` is 1",
            Self::Body => "it has a body",
            Self::Method => {
                "only GET, HEAD and OPTIONS are, if they are in `methods` (RFC 9110 section 9.2.1)"
            }
            Self::Off => "`hedge` is off",
            Self::Upgrade => "it asks for an upgrade",
        }
    }
}

impl RetryPolicy {
    /// Whether a request is one that may be hedged.
    pub fn may_hedge(&self, request: &Candidate<'_>) -> Result<(), NoHedge> {
        if self.hedge == HedgeAfter::Never { Err(NoHedge::Off) } else { self.may_race(request) }
    }

    /// Whether a second attempt of a request may be made beside one that is slow.
    ///
    /// Retries may follow the operator's word that a method is idempotent; here nothing has gone wrong, so the method has
    /// to be safe by definition.
    pub fn may_race(&self, request: &Candidate<'_>) -> Result<(), NoHedge> {
        if self.max_attempts < 2 {
            Err(NoHedge::Attempts)
        } else if !request.method.is_safe() || request.repeatable != Repeatable::Always {
            Err(NoHedge::Method)
        } else if request.has_body {
            Err(NoHedge::Body)
        } else if request.is_upgrade {
            Err(NoHedge::Upgrade)
        } else {
            Ok(())
        }
    }
}

/// What became of a hedge; a label of `stent_hedges_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeEnd {
    /// It was sent, and failed.
    Failed,
    /// It was sent, and the caller left.
    Left,
    /// It was sent, and the first attempt answered well before it.
    Lost,
    /// It was not sent: the cluster's retry budget is spent.
    RefusedBudget,
    /// It was not sent: the cluster has all that it carries.
    RefusedLoad,
    /// It was not sent: all of the cluster is down, and requests wait in the outage queue.
    RefusedOutageQueue,
    /// It was sent, and its good answer came first.
    Won,
}

impl HedgeEnd {
    /// Every end.
    pub const ALL: [Self; 7] = [
        Self::Failed,
        Self::Left,
        Self::Lost,
        Self::RefusedBudget,
        Self::RefusedLoad,
        Self::RefusedOutageQueue,
        Self::Won,
    ];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Left => "left",
            Self::Lost => "lost",
            Self::RefusedBudget => "refused_budget",
            Self::RefusedLoad => "refused_load",
            Self::RefusedOutageQueue => "refused_outage_queue",
            Self::Won => "won",
        }
    }
}

/// When a route's hedges go out, and what it has learned for that. Workers share it without a lock.
#[derive(Debug)]
pub struct Hedging {
    after: After,
}

#[derive(Debug)]
enum After {
    Learned(Box<Latencies>),
    Time(Duration),
}

impl Hedging {
    /// None where nothing is hedged.
    pub fn new(policy: &RetryPolicy) -> Option<Self> {
        let after = match policy.hedge {
            _ if policy.max_attempts < 2 => return None,
            HedgeAfter::Never => return None,
            HedgeAfter::Percentile(percentile) => After::Learned(Box::new(Latencies::new(percentile))),
            HedgeAfter::Time(time) => After::Time(time),
        };
        Some(Self { after })
    }

    /// How long an attempt is left alone; none while too little is known.
    pub fn delay(&self) -> Option<Duration> {
        match &self.after {
            After::Learned(latencies) => latencies.delay(),
            After::Time(time) => Some(*time),
        }
    }

    /// Notes how long an attempt that might have been hedged took, and gives what is known now if that was looked at
    /// again. `now` is the time since any fixed moment, the same for all calls.
    pub fn note(&self, seen: Seen, now: Duration) -> Option<Duration> {
        match &self.after {
            After::Learned(latencies) => latencies.note(seen, now).then(|| latencies.delay()).flatten(),
            After::Time(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::request::SendOnce;
    use proptest::prelude::*;

    fn policy() -> RetryPolicy {
        RetryPolicy { hedge: HedgeAfter::Time(Duration::from_millis(20)), ..RetryPolicy::default() }
    }

    fn candidate(method: &Method) -> Candidate<'_> {
        Candidate { method, repeatable: Repeatable::Always, has_body: false, is_upgrade: false }
    }

    #[test]
    fn nothing_is_hedged_by_default() {
        assert_eq!(RetryPolicy::default().may_hedge(&candidate(&Method::GET)), Err(NoHedge::Off));
        assert!(Hedging::new(&RetryPolicy::default()).is_none());
    }

    #[test]
    fn only_safe_requests_without_a_body_are_hedged() {
        for (method, expected) in [
            (Method::GET, Ok(())),
            (Method::HEAD, Ok(())),
            (Method::OPTIONS, Ok(())),
            (Method::POST, Err(NoHedge::Method)),
            (Method::PUT, Err(NoHedge::Method)),
            (Method::DELETE, Err(NoHedge::Method)),
        ] {
            assert_eq!(policy().may_hedge(&candidate(&method)), expected, "{method}");
        }
        let get = candidate(&Method::GET);
        let refused = |candidate| policy().may_hedge(&candidate).unwrap_err();
        assert_eq!(refused(Candidate { has_body: true, ..get }), NoHedge::Body);
        assert_eq!(refused(Candidate { is_upgrade: true, ..get }), NoHedge::Upgrade);
        let unlisted = Candidate { repeatable: Repeatable::OnlyIfNeverSent(SendOnce::Method), ..get };
        assert_eq!(refused(unlisted), NoHedge::Method);
    }

    #[test]
    fn a_single_attempt_is_never_hedged() {
        let policy = RetryPolicy { max_attempts: 1, ..policy() };
        assert_eq!(policy.may_hedge(&candidate(&Method::GET)), Err(NoHedge::Attempts));
        assert!(Hedging::new(&policy).is_none());
    }

    #[test]
    fn five_requests_should_lie_above_a_percentile_before_it_is_known() {
        let least = |percent| Percentile::new(percent).map(Percentile::least_seen);
        assert_eq!([50, 90, 95, 99].map(least), [Some(10), Some(50), Some(100), Some(500)]);
        assert_eq!([0, 49, 100, 255].map(least), [None; 4]);
    }

    proptest! {
        #[test]
        fn what_is_not_safe_is_never_hedged(method in "[A-Z]{1,10}", has_body in any::<bool>()) {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let candidate = Candidate { has_body, ..candidate(&method) };
            prop_assert!(policy().may_hedge(&candidate).is_err() || (method.is_safe() && !has_body));
        }
    }
}
