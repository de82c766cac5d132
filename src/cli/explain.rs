//! `stent explain`: what the proxy would do with a request whose attempts end as given. Pure, text in and text out;
//! the decisions are those of [`RetryPolicy::decide`], which the proxy asks too.

use std::fmt;
use std::time::Duration;

use http::header::UPGRADE;
use http::{HeaderMap, Method, StatusCode};

pub use self::request::{Given, Request};
use crate::cli::explain::page::{Page, Span, show};
use crate::cli::explain::place::{show_endpoints, show_pattern};
use crate::config::Config;
use crate::config::kinds::retry::show_statuses;
use crate::config::units::{show_duration, show_size};
use crate::error::{Delivery, ErrorClass, ProxyError, RequestFault, UpstreamErrorKind};
use crate::policy::admission::Limit;
use crate::policy::backoff::{Backoff, Jitter, Mode};
use crate::policy::expect::{self, Expect, Failure, Kind, Row, Secret, Subject};
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::{Candidate, HedgeAfter, NoHedge};
use crate::policy::hold::HoldLimits;
use crate::policy::outcome::Outcome;
use crate::policy::request::{BodyState, Repeatable};
use crate::policy::retry::{Circumstances, Untried};
use crate::policy::reuse::UnsafeReuse;
use crate::policy::settings::RetryPolicy;
use crate::policy::verdict::{Reason, Verdict, Veto};
use crate::route::redirect::{Answer, Place, Redirect};
use crate::route::{Action, RouteSettings};
use crate::upstream::protocol::Protocol;
use crate::upstream::settings::ClusterSettings;

mod page;
mod place;
mod repeat;
mod request;
mod route;

/// Tells which route and policy apply to `request`, and what follows each of the `outcomes`.
pub fn explain(config: &Config, request: &Request, outcomes: &[Given]) -> String {
    let mut page = Page::default();
    let host = if request.host().is_empty() { "no host" } else { request.host() };
    page.line("request", format_args!("{} {} ({host})", request.method, request.path()));

    let Some(route) = route::find(&mut page, config, request) else { return page.text };
    page.line("route", format_args!("{}: {}", route.name, show_pattern(&route.pattern)));
    if let Some(guard) = &route.origin_guard {
        page.more(format_args!("a request without the right {} gets 403", guard.header()));
    }
    let name = match &route.action {
        Action::Forward(name) => name,
        Action::Redirect(redirect) => {
            tell_redirect(&mut page, redirect, request);
            return page.text;
        }
    };
    // Its existence is checked when the configuration is read.
    let Some(cluster) = config.clusters.iter().find(|cluster| cluster.name == *name) else {
        return page.text;
    };
    page.line("cluster", format_args!("{}: {}", cluster.name, show_endpoints(cluster)));
    if request.body > route.max_body {
        page.reply(&ProxyError::BodyTooLarge { limit: route.max_body });
        return page.text;
    }

    let exchange = Exchange::new(config, request, route, cluster);
    exchange.show_policy(&mut page);
    let used = exchange.show_timeline(&mut page, outcomes);
    exchange.show_surprise(&mut page, &outcomes[..used]);
    exchange.show_budget(&mut page);
    page.text
}

/// A request on its route.
struct Exchange<'a> {
    request: &'a Request,
    route: &'a RouteSettings,
    policy: &'a RetryPolicy,
    cluster: &'a ClusterSettings,
    /// As the backend gets them.
    headers: HeaderMap,
    repeatable: Repeatable,
    body_kept: bool,
}

impl<'a> Exchange<'a> {
    fn new(
        config: &Config,
        request: &'a Request,
        route: &'a RouteSettings,
        cluster: &'a ClusterSettings,
    ) -> Self {
        let policy = &route.retry;
        let kept = policy.body_limit.min(config.server.replay_memory);
        let body_kept = request.body <= kept as u64;
        let headers = repeat::as_sent(request, route);
        let repeatable = policy.repeatable(&request.method, &headers);
        Self { request, route, policy, cluster, headers, repeatable, body_kept }
    }

    fn show_policy(&self, page: &mut Page) {
        let policy = self.policy;
        let (most, deadline) = (policy.max_attempts, show_duration(self.route.deadline));
        let plural = if most == 1 { "" } else { "s" };
        page.line("policy", format_args!("at most {most} attempt{plural} within {deadline} (deadline)"));
        let errors: Vec<_> = policy.errors.iter().map(ErrorClass::label).collect();
        page.more(format_args!(
            "failures: statuses {}, errors [{}]",
            show_statuses(&policy.statuses).replace('"', ""),
            errors.join(", ")
        ));
        if !policy.grpc_statuses.is_empty() {
            let names: Vec<_> = policy.grpc_statuses.iter().map(GrpcStatus::name).collect();
            page.more(format_args!("gRPC, where an answer has no body: [{}]", names.join(", ")));
        }
        let per_try = show_duration(policy.per_try_timeout);
        if self.races() {
            page.more(format_args!(
                "after {per_try} without an answer a second attempt runs beside it; the first good answer wins"
            ));
        }
        self.show_hold(page);
        self.show_resume(page);
        self.show_hedge(page);
        let backoff = &policy.backoff;
        let jitter = match backoff.jitter() {
            Jitter::Equal => "half of it to all of it",
            Jitter::Full => "none of it to all of it",
            Jitter::None => "no jitter",
        };
        page.more(format_args!(
            "waits {} × {}, at most {}, {jitter}; a Retry-After of up to {} is kept",
            show_duration(backoff.base()),
            backoff.factor(),
            show_duration(backoff.max()),
            show_duration(policy.retry_after_max)
        ));
        if backoff.mode() == Mode::Adaptive {
            page.more(format_args!(
                "adaptive: that while the cluster fails, down to {} where such requests mostly succeed",
                show(Backoff::QUICKEST)
            ));
        }
        self.show_repeatable(page);
        if self.request.body > 0 {
            let (size, limit) = (show_size(self.request.body), show_size(policy.body_limit as u64));
            let kept = if self.body_kept { "kept" } else { "not kept" };
            page.more(format_args!("its body of {size} is {kept} for a retry (body_limit {limit})"));
        }
        self.show_outage_queue(page);
        self.show_admission(page);
    }

    fn show_admission(&self, page: &mut Page) {
        let admission = &self.cluster.admission;
        let when = match admission.limit() {
            Limit::Off => return,
            Limit::Adaptive => "while the cluster has all that it is found to carry".to_owned(),
            Limit::Fixed(limit) => format!("while the cluster has {limit} attempts in flight"),
        };
        let wait = show_duration(admission.queue_time().min(self.route.deadline));
        if admission.queue() == 0 {
            page.more(format_args!("refused with 503 {when}"));
        } else {
            page.more(format_args!("waits, at most {wait}, {when}, and is not retried while others wait"));
        }
    }

    fn show_outage_queue(&self, page: &mut Page) {
        let queue = &self.cluster.outage_queue;
        if queue.max() == 0 {
            return;
        }
        let wait = show_duration(queue.max_wait().min(self.route.deadline));
        page.more(format_args!(
            "waits in the outage queue, at most {wait}, while the cluster is down, and is tried once in any case"
        ));
    }

    fn show_hold(&self, page: &mut Page) {
        let hold = self.policy.hold;
        if self.holds(BodyState::Whole) {
            let (size, time) = (show_size(hold.size as u64), show_duration(hold.time));
            let longest = show_duration(hold.time * HoldLimits::LONGEST);
            page.more(format_args!(
                "answers of up to {size} are held until whole: {time} from the last byte, at most {longest} in all"
            ));
        } else {
            let why = if hold.size == 0 { "`hold` is 0B" } else { "no retry could mend one that breaks" };
            page.more(format_args!("answers are not held until whole: {why}"));
        }
    }

    /// What follows if an answer breaks when it is held no more.
    fn show_resume(&self, page: &mut Page) {
        if self.resumes() {
            let time = show_duration(self.policy.resume.time);
            page.more(format_args!(
                "one that breaks later is gone on with, within {time}, if it has a length, byte ranges and a strong validator"
            ));
        } else if self.request.method == Method::GET {
            let is_on = self.policy.resume.enabled;
            let why = if is_on { "no retry could mend it" } else { "`resume` is false" };
            page.more(format_args!("one that breaks later is cut off there: {why}"));
        }
    }

    fn resumes(&self) -> bool {
        self.policy.resumes(&self.request.method, self.repeatable) && self.request.body == 0
    }

    fn show_hedge(&self, page: &mut Page) {
        match self.may_hedge() {
            Err(NoHedge::Off) => {}
            Err(_) if self.repeatable.needs_own_connection() => {
                page.more(format_args!("not hedged: {}", Veto::Authentication.rule()));
            }
            Err(why) => page.more(format_args!("not hedged: {}", why.rule())),
            Ok(()) => {
                let place =
                    if self.cluster.endpoints.len() > 1 { "another endpoint" } else { "the same endpoint" };
                page.more(format_args!(
                    "hedged: if unanswered {} it is sent once more, to {place}; the first good answer is taken",
                    self.hedge_delay()
                ));
            }
        }
    }

    fn may_hedge(&self) -> Result<(), NoHedge> {
        self.policy.may_hedge(&self.candidate())
    }

    /// Whether a second attempt runs beside one that is slow.
    fn races(&self) -> bool {
        let policy = self.policy;
        policy.may_race(&self.candidate()).is_ok() && policy.errors.contains(ErrorClass::Timeout)
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            method: &self.request.method,
            repeatable: self.repeatable,
            has_body: self.request.body > 0,
            is_upgrade: self.request.headers.contains_key(UPGRADE),
        }
    }

    /// Whether a hedge is sent beside this attempt: one for each request, beside the first that has no answer for long.
    fn is_hedged(&self, outcomes: &[Given], index: usize) -> bool {
        let is_long =
            |given: &Given| matches!(given.0, Outcome::Failed { class: Some(ErrorClass::Timeout), .. });
        let has_room = index + 1 < self.policy.max_attempts as usize;
        has_room && outcomes.iter().position(is_long) == Some(index) && self.may_hedge().is_ok()
    }

    /// After what time a hedge goes out.
    fn hedge_delay(&self) -> String {
        match self.policy.hedge {
            HedgeAfter::Never => "for ever".to_owned(),
            HedgeAfter::Percentile(percentile) => {
                let (percent, least) = (percentile.percent(), percentile.least_seen());
                format!("when {percent} % of the route's answers have come (known after {least} requests)")
            }
            HedgeAfter::Time(time) => format!("after {}", show_duration(time)),
        }
    }

    fn holds(&self, body: BodyState) -> bool {
        self.policy.holds(self.repeatable, body) && self.request.method != Method::HEAD
    }

    /// Whether the caller has the head of the broken answer already.
    fn has_begun(&self, outcome: Outcome, body: BodyState) -> bool {
        let is_broken = matches!(outcome, Outcome::Failed { class: Some(ErrorClass::Truncated), .. });
        is_broken && !self.holds(body)
    }

    /// Which connection a request gets that must not be sent twice.
    fn show_reuse(&self, page: &mut Page) {
        if self.cluster.protocol == Protocol::H2 {
            return;
        }
        let connection = match self.cluster.unsafe_reuse {
            UnsafeReuse::Learned => {
                "new, or used well within the time after which the endpoint closes idle ones"
            }
            UnsafeReuse::Never => "never one that was idle",
            UnsafeReuse::Always => "any, also one that the endpoint may be closing",
        };
        page.more(format_args!("its connection: {connection} (unsafe_reuse)"));
    }

    fn show_timeline(&self, page: &mut Page, outcomes: &[Given]) -> usize {
        page.section(
            "timeline, from the end of the request body; an answer counts as instant, an endpoint as healthy",
        );
        let mut clock = Span::default();
        let mut last_answer = None;
        let mut body = BodyState::Whole;
        let mut attempt = 0;
        for (index, given) in outcomes.iter().enumerate() {
            attempt += 1;
            let (number, begun) = (attempt, clock);
            let is_hedged = self.is_hedged(outcomes, index);
            attempt += u32::from(is_hedged);
            // As long as no attempt has taken anything of the body, there is nothing that a copy would be needed for.
            if given.0.delivery() != Delivery::Never && !self.body_kept {
                body = BodyState::Lost;
            }
            let at = |elapsed, luck| self.around(attempt, body, elapsed, luck);
            clock = clock.plus(self.duration(given.0, &at, begun)).at_most(self.route.deadline);
            page.step(number, begun, &Self::tell(*given, clock.since(begun)));
            if is_hedged {
                let when = self.hedge_delay();
                page.decision(format_args!(
                    "attempt {attempt}, a hedge, beside it {when}: taken to fail as well"
                ));
            }
            match given.0 {
                Outcome::Answered { status, .. } => last_answer = Some((status, attempt)),
                Outcome::Grpc { .. } => last_answer = Some((StatusCode::OK, attempt)),
                Outcome::Failed { .. } => {}
            }
            if self.has_begun(given.0, body) {
                page.decision(format_args!("no more ({}): {}", Veto::Started.label(), Veto::Started.rule()));
                let unless = if self.resumes() { ", unless the rest of it can be had" } else { "" };
                page.answer(&format!("that of attempt {attempt}, cut off where it broke{unless}"), clock);
                page.unused(&outcomes[index + 1..], attempt);
                return index + 1;
            }
            if clock.earliest >= self.route.deadline {
                page.decision(format_args!(
                    "no more: the deadline of {} has passed",
                    show(self.route.deadline)
                ));
                page.answer(&Self::answer(given.0, last_answer, attempt, true), clock);
                page.unused(&outcomes[index + 1..], attempt);
                return index + 1;
            }
            let early = self.policy.decide(given.0, &at(clock.earliest, Luck::Good));
            let late = self.policy.decide(given.0, &at(clock.latest, Luck::Bad));
            match early {
                Verdict::Retry { reason: Reason::Error(ErrorClass::Timeout), .. } if self.races() => {
                    let next = attempt + 1;
                    page.decision(format_args!(
                        "{}; the first good answer wins",
                        if attempt == 1 {
                            format!("attempt {next} begins beside it")
                        } else {
                            format!("attempt {next} begins in its place, beside attempt 1")
                        }
                    ));
                }
                Verdict::Retry { reason, .. } => {
                    // Without the deadline, whose part in it is told apart.
                    let unhurried =
                        |luck| Circumstances { time_left: Duration::MAX, ..at(Duration::ZERO, luck) };
                    let wait = Wait {
                        at_best: self.policy.wait_range(given.0, &unhurried(Luck::Good)).into(),
                        failing: self.policy.wait_range(given.0, &unhurried(Luck::Bad)).into(),
                    };
                    page.decision(format_args!("{}", self.tell_retry(wait, reason, given.0, attempt)));
                    if let Verdict::Stop { why } = late {
                        page.decision(format_args!(
                            "unless time is short by then ({}): {}",
                            why.label(),
                            why.rule()
                        ));
                    }
                    // No wait is begun that would leave less.
                    let latest = self.route.deadline.saturating_sub(RetryPolicy::LEAST_USEFUL);
                    clock = clock.plus(wait.span()).at_most(latest);
                }
                Verdict::Return => {
                    page.answer(&Self::answer(given.0, last_answer, attempt, false), clock);
                    page.unused(&outcomes[index + 1..], attempt);
                    return index + 1;
                }
                Verdict::Stop { why } => {
                    page.decision(format_args!("no more ({}): {}", why.label(), why.rule()));
                    page.answer(&Self::answer(given.0, last_answer, attempt, false), clock);
                    page.unused(&outcomes[index + 1..], attempt);
                    return index + 1;
                }
            }
        }
        page.step(attempt + 1, clock, "how it ends is not given");
        outcomes.len()
    }

    /// How long the attempt takes to end like that.
    fn duration(&self, outcome: Outcome, at: &impl Fn(Duration, Luck) -> Circumstances, begun: Span) -> Span {
        match outcome {
            // Refused at once, or given up.
            Outcome::Failed { class: Some(ErrorClass::Connect), .. } => {
                Span { earliest: Duration::ZERO, latest: self.cluster.connect_timeout }
            }
            Outcome::Failed { class: Some(ErrorClass::Timeout), .. } => {
                let left = |at: Duration| self.route.deadline.saturating_sub(at);
                let verdict = self.policy.decide(outcome, &at(begun.earliest, Luck::Good));
                let could_follow = self.races() && matches!(verdict, Verdict::Retry { .. });
                let limit = |at| {
                    if could_follow { self.policy.per_try_timeout.min(left(at)) } else { left(at) }
                };
                Span { earliest: limit(begun.earliest), latest: limit(begun.latest) }
            }
            _ => Span::default(),
        }
    }

    fn around(&self, attempt: u32, body: BodyState, elapsed: Duration, luck: Luck) -> Circumstances {
        // Untried endpoints come first, so each attempt takes one away.
        let is_untried = self.cluster.endpoints.len() > attempt as usize;
        let (chance, random) = match luck {
            Luck::Good => (1.0 - expect::LEAST, 0.0),
            Luck::Bad => (0.0, 1.0),
        };
        Circumstances {
            attempt,
            repeatable: self.repeatable,
            body,
            untried: if is_untried { Untried::Some } else { Untried::None },
            time_left: self.route.deadline.saturating_sub(elapsed),
            chance,
            random,
        }
    }

    fn tell(given: Given, took: Span) -> String {
        match given.0 {
            Outcome::Answered { .. } | Outcome::Grpc { .. } => given.to_string(),
            Outcome::Failed { delivery, .. } => {
                let sent = match delivery {
                    Delivery::Never => "nothing was sent",
                    Delivery::Maybe => "the backend may have acted on it",
                    Delivery::Answered => "the answer broke inside its body",
                };
                let took = if took.latest.is_zero() { String::new() } else { format!(" after {took}") };
                format!("{given}{took}: {sent}")
            }
        }
    }

    fn tell_retry(&self, wait: Wait, reason: Reason, outcome: Outcome, attempt: u32) -> String {
        let reason = match reason {
            Reason::Status(status) => format!("{} is in `statuses`", status.as_u16()),
            Reason::Error(class) => format!("`{}` is in `errors`", class.label()),
            Reason::Grpc(status) => format!("`{}` is in `grpc_statuses`", status.name()),
        };
        let untried = self.cluster.endpoints.len() > attempt as usize;
        let place = match (untried, self.cluster.endpoints.len()) {
            (true, _) => "an endpoint not yet tried",
            (false, 1) => "the same endpoint",
            (false, _) => "an endpoint already tried",
        };
        let asked = matches!(
            outcome,
            Outcome::Answered { retry_after: Some(wait), .. } | Outcome::Grpc { retry_after: Some(wait), .. }
                if !wait.is_zero()
        );
        let asked = if asked { ", Retry-After kept" } else { "" };
        if wait.failing.latest.is_zero() {
            return format!("retry at once, at {place}: {reason}");
        }
        format!("retry after {wait}, at {place}: {reason}{asked}")
    }

    /// What the failures say about the cluster.
    fn show_surprise(&self, page: &mut Page, outcomes: &[Given]) {
        let kind = |outcome| match outcome {
            Outcome::Answered { status, .. } => {
                self.policy.statuses.contains(status).then_some(Kind::Answered)
            }
            Outcome::Grpc { .. } => None,
            Outcome::Failed { delivery: Delivery::Never, .. } => Some(Kind::Refused),
            Outcome::Failed { class: Some(ErrorClass::Timeout), .. } => Some(Kind::Late),
            Outcome::Failed { .. } => Some(Kind::Answered),
        };
        if outcomes.iter().all(|given| kind(given.0).is_none()) {
            return;
        }
        page.section(
            "surprise, where nothing failed before and nothing else is asked for meanwhile; 9.2 is an outage",
        );
        let (expect, mut row, now) = (Expect::new(Secret::new(1, 2)), Row::new(), Duration::ZERO);
        let subject = self.subject();
        let key = expect.key(&subject);
        page.item(format_args!("key: {}", subject.show()));
        for (number, kind) in (1..).zip(outcomes.iter().map(|given| kind(given.0))) {
            let Some(kind) = kind else {
                page.item(format_args!("attempt {number}: a success, which ends the row"));
                row.end(now + Duration::from_nanos(1), &expect, now);
                continue;
            };
            let q = if kind == Kind::Refused { expect.connection_q() } else { expect.q(&key, now) };
            let weight = expect::weight(q);
            let failure = Failure { kind, endpoint: 0, key: &key, exchange: 1, weight, in_flight: 0 };
            row.note(&failure, &expect, String::new, now);
            let (sum, floor) = (row.surprise(), self.cluster.outage_queue.enter_after());
            let is_outage = row.is_surprising(floor, [0].into_iter(), 0, Duration::MAX);
            let tells = match kind {
                Kind::Late => "no evidence of an outage: slow is not broken".to_owned(),
                _ if is_outage => format!("{sum:.1} together: an outage, if every endpoint has failed alike"),
                _ => format!("{sum:.1} together"),
            };
            page.item(format_args!(
                "attempt {number}: {:.1} % of such attempts fail anyway, so it weighs {weight:.1}; {tells}",
                q * 100.0
            ));
        }
    }

    fn subject(&self) -> Subject<'_> {
        let rest = self.route.pattern.path.rest_of(self.request.path());
        Subject { route: &self.route.name, method: &self.request.method, rest }
    }

    /// What the caller gets, when nothing follows `outcome`.
    fn answer(
        outcome: Outcome,
        last_answer: Option<(StatusCode, u32)>,
        attempt: u32,
        deadline_passed: bool,
    ) -> String {
        match (outcome, last_answer) {
            (Outcome::Answered { status, .. }, _) => format!("the {} of attempt {attempt}", status.as_u16()),
            (Outcome::Grpc { status, .. }, _) => format!("the {} of attempt {attempt}", status.label()),
            (Outcome::Failed { .. }, Some((status, attempt))) => {
                format!("the {} of attempt {attempt}, the last that the backend gave", status.as_u16())
            }
            (Outcome::Failed { .. }, None) if deadline_passed => {
                format!("{}, made by the proxy", ProxyError::DeadlineExceeded.status().as_u16())
            }
            (Outcome::Failed { class, .. }, None) => {
                let mut statuses: Vec<_> = UpstreamErrorKind::ALL
                    .into_iter()
                    .filter(|kind| kind.class() == class)
                    .map(|kind| kind.status().as_u16())
                    .collect();
                statuses.sort_unstable();
                statuses.dedup();
                let statuses: Vec<_> = statuses.iter().map(ToString::to_string).collect();
                format!("{}, made by the proxy", statuses.join(" or "))
            }
        }
    }

    fn show_budget(&self, page: &mut Page) {
        let budget = &self.cluster.budget;
        page.section("budget, shared by all requests to the cluster; each retry takes 1 out of it");
        page.item(format_args!(
            "income: {} per request over the last {}, and {} per second in any case",
            budget.ratio(),
            show_duration(budget.window()),
            budget.min_per_second()
        ));
        let most = self.policy.max_attempts;
        if most == 1 {
            page.item(format_args!("cost: none, a single attempt has no retries"));
            return;
        }
        let terms: Vec<_> = (1..most).map(power).collect();
        let shown = if terms.len() > 4 {
            format!("{} + {} + … + {}", terms[0], terms[1], terms[terms.len() - 1])
        } else {
            terms.join(" + ")
        };
        page.item(format_args!(
            "cost at failure rate p: {shown} retries per request; {:.2} at p = 0.1, {:.2} at p = 0.3",
            retries_per_request(0.1, most),
            retries_per_request(0.3, most)
        ));
        match carried(budget.ratio(), most) {
            Some(rate) => page.item(format_args!(
                "the ratio carries p up to {rate:.2}; above it, what exceeds the income is stopped (budget)"
            )),
            None => page.item(format_args!("the ratio carries every retry, even if all attempts fail")),
        }
    }
}

/// What explaining cannot know: how the cluster is, and the jitter.
#[derive(Clone, Copy)]
enum Luck {
    /// The cluster is as well as it can be, and the jitter short.
    Good,
    /// The cluster fails, and the jitter is long.
    Bad,
}

/// A wait, by how the cluster is.
#[derive(Clone, Copy)]
struct Wait {
    at_best: Span,
    failing: Span,
}

impl Wait {
    fn span(self) -> Span {
        Span { earliest: self.at_best.earliest, latest: self.failing.latest }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at_best == self.failing {
            return write!(f, "{}", self.failing);
        }
        write!(f, "{} at best, {} while the cluster fails", self.at_best, self.failing)
    }
}

/// p + p² + … + p^(n−1)
fn retries_per_request(rate: f64, max_attempts: u32) -> f64 {
    (1..max_attempts)
        .scan(1.0, |power, _| {
            *power *= rate;
            Some(*power)
        })
        .sum()
}

/// The failure rate at which retries use up the ratio; none if they never do.
fn carried(ratio: f64, max_attempts: u32) -> Option<f64> {
    if retries_per_request(1.0, max_attempts) <= ratio {
        return None;
    }
    // The sum grows with the rate, so halving the interval finds it; 32 halvings are finer than what is printed.
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..32 {
        let middle = f64::midpoint(low, high);
        if retries_per_request(middle, max_attempts) <= ratio { low = middle } else { high = middle }
    }
    Some(low)
}

fn power(exponent: u32) -> String {
    let digits = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    if exponent == 1 {
        return "p".to_owned();
    }
    let exponent = exponent.to_string();
    std::iter::once('p').chain(exponent.bytes().map(|digit| digits[usize::from(digit - b'0')])).collect()
}

/// Where the caller is led, by the code that leads it.
fn tell_redirect(page: &mut Page, redirect: &Redirect, request: &Request) {
    let place = Place { scheme: request.scheme(), authority: &request.authority, target: &request.target };
    match redirect.answer(&place) {
        Ok(Answer::Location(location)) => {
            let status = redirect.status().as_u16();
            page.line("answer", format_args!("{status}, made by the proxy: a redirect, no attempt is made"));
            page.more(format_args!("Location: {}", String::from_utf8_lossy(location.as_bytes())));
        }
        Ok(Answer::Loop) => page.reply(&ProxyError::LoopDetected),
        Err(_) => page.reply(&ProxyError::BadRequest(RequestFault::BadTarget)),
    }
}

#[cfg(test)]
mod tests;
