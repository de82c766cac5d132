//! `[retry]`, `[cluster.NAME.retry]` and `[route.retry]`, and the policy that they make together.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, Method};

use crate::config::bounds::{GRACE, WAIT, m, ms, s, within};
use crate::config::build::misfit;
use crate::config::kinds::fields::header_name;
use crate::config::kinds::retry::{grpc_status, hedge, method, statuses};
use crate::config::kinds::{Kind, boolean, duration, integer, label, list_of, number, size};
use crate::config::report::Faults;
use crate::config::settings::settings;
use crate::config::spec::{Or, Spec};
use crate::config::tables::table;
use crate::config::units::show_duration;
use crate::error::ErrorClass;
use crate::policy::backoff::{self, Jitter, Mode};
use crate::policy::budget::BudgetSettings;
use crate::policy::grpc::GrpcStatusSet;
use crate::policy::hedge::HedgeAfter;
use crate::policy::hold::HoldLimits;
use crate::policy::resume::ResumeSettings;
use crate::policy::settings::{ErrorSet, RetryPolicy, StatusSet};

settings! {
    /// `[retry]`, `[cluster.NAME.retry]` and `[route.retry]`
    Retry layered: fields of RetryPolicy {
        /// Attempts in all, the first included; 1 never retries.
        max_attempts: Or<u32> = integer(1..=20).or(3);
        /// Answers that count as failures: statuses, and ranges such as "502-504".
        statuses: Or<StatusSet> = statuses().or([500, 502].into_iter().collect());
        /// Answers of gRPC over HTTP/2 that count as failures where they have no body: names such as "unavailable", or
        /// numbers from 1 to 16.
        grpc_statuses: Or<GrpcStatusSet> = list_of(grpc_status()).or(GrpcStatusSet::default());
        /// Failures without a complete answer that may be retried.
        errors: Or<ErrorSet> =
            list_of(label(ErrorClass::ALL, ErrorClass::label)).or(ErrorClass::ALL.into_iter().collect());
        /// Methods that are sent again even if the backend may have acted; [] resends only what was never sent.
        methods: Or<Vec<Method>> = list_of(method()).or(RetryPolicy::METHODS.into());
        /// A header such as "Idempotency-Key", for a cluster that acts only once on a repeated key. A request with one
        /// such value is sent again, whatever its method. It belongs in `[cluster.NAME.retry]`: `stent check` warns of
        /// it in `[retry]`. "" switches it off.
        idempotency_header: Or<Option<HeaderName>> = header_name().or(None);
        /// How long an attempt may be without a response head. Then a second attempt begins beside a GET, HEAD or OPTIONS
        /// without a body. All other requests have until `deadline`.
        per_try_timeout: Or<Duration> = duration(WAIT).or(s(10));
        /// The largest request body that is kept for a retry.
        body_limit: Or<usize> = size(0..=1 << 30).or(1 << 20);
        /// An answer up to this size is buffered until complete, so that one that breaks is retried; 0B buffers none.
        hold: Or<usize> = size(HOLD).or(128 << 10) => |policy| policy.hold.size;
        /// Stop buffering an answer after this much silence, and after five times as much in all.
        hold_time: Or<Duration> = duration(HOLD_TIME).or(ms(100)) => |policy| policy.hold.time;
        /// An answer to a GET that breaks later is resumed by a range request, where a strong validator allows it.
        resume: Or<bool> = boolean().or(true) => |policy| policy.resume.enabled;
        /// How long a resumption may take, from the break to the head of the rest.
        resume_time: Or<Duration> = duration(RESUME_TIME).or(s(10)) => |policy| policy.resume.time;
        /// When a GET, HEAD or OPTIONS without a body that is still unanswered is sent once more; the first good answer
        /// is taken. After "p95" (p50 to p99) of the route's own answers, or after a time such as "20ms". It costs budget.
        hedge: Or<HedgeAfter> = hedge().or(HedgeAfter::Never);
        /// The waits between attempts.
        backoff: Backoff = table().inline() => RetryPolicy::clone;
        /// How many retries a cluster may get; so it is no part of `[route.retry]`.
        budget: Budget = table().inline().sometimes() => |_| None;
    }
}

settings! {
    /// `backoff` in a `retry` table.
    Backoff layered: fields of RetryPolicy {
        /// "adaptive": the waits below while the cluster fails, almost none where such requests mostly succeed. "fixed":
        /// always the waits below.
        mode: Or<Mode> = label(Mode::ALL, Mode::label).or(Mode::Adaptive) => |policy| policy.backoff.mode();
        /// The first wait.
        base: Or<Duration> = duration(
            within(backoff::Backoff::FLOOR..).because("a retry without a wait hammers the endpoint that has just failed")
        ).or(ms(100)) => |policy| policy.backoff.base();
        /// The growth from wait to wait.
        factor: Or<f64> = number(backoff::Backoff::FACTORS).or(2.0) => |policy| policy.backoff.factor();
        /// The longest wait; at least `base`.
        max: Or<Duration> = duration(..=backoff::Backoff::LONGEST).or(s(2)) => |policy| policy.backoff.max();
        /// How each wait is spread: "equal" from half of it to all, "full" from none to all, "none" not at all.
        jitter: Or<Jitter> = label(Jitter::ALL, Jitter::label).or(Jitter::Equal) => |policy| policy.backoff.jitter();
        /// The longest Retry-After that is waited for; an answer with a longer one goes to the caller.
        retry_after_max: Or<Duration> = duration(GRACE).or(s(5));
    }
}

settings! {
    /// `budget` in a `retry` table.
    Budget layered: methods of BudgetSettings {
        /// Retries per request, kept to 0.001.
        ratio: Or<f64> = number(BudgetSettings::RATIOS).or(0.2);
        /// Retries per second that are always allowed.
        min_per_second: Or<u32> = integer(..=BudgetSettings::FLOOR_MAX).or(10);
        /// How long a request counts.
        window: Or<Duration> = duration(BudgetSettings::WINDOWS).or(s(10));
    }
}

/// None, or what a page and its data may weigh; a download that is held as a whole only comes later.
const HOLD: RangeInclusive<u64> = 0..=16 << 20;
/// What is held reaches the caller so much later, and at most five times that.
const HOLD_TIME: RangeInclusive<Duration> = ms(1)..=s(10);
/// Beyond that no caller believes that anything comes.
const RESUME_TIME: RangeInclusive<Duration> = ms(10)..=m(10);

impl Retry {
    /// The policy of this table, after it has been laid over the lower ones.
    pub(in crate::config) fn policy(&self, faults: &Faults) -> RetryPolicy {
        let policy = RetryPolicy {
            max_attempts: self.max_attempts.value(),
            statuses: self.statuses.value(),
            grpc_statuses: self.grpc_statuses.value(),
            errors: self.errors.value(),
            methods: self.methods.value(),
            idempotency_header: self.idempotency_header.value(),
            per_try_timeout: self.per_try_timeout.value(),
            body_limit: self.body_limit.value(),
            hold: HoldLimits { size: self.hold.value(), time: self.hold_time.value() },
            resume: ResumeSettings { enabled: self.resume.value(), time: self.resume_time.value() },
            hedge: self.hedge.value(),
            backoff: self.backoff.build(faults),
            retry_after_max: self.backoff.retry_after_max.value(),
        };
        self.check_hedge(&policy, faults);
        policy
    }

    /// A hedge that would never be sent is a slip.
    fn check_hedge(&self, policy: &RetryPolicy, faults: &Faults) {
        let HedgeAfter::Time(time) = policy.hedge else { return };
        let per_try = policy.per_try_timeout;
        let is_too_late = time >= per_try && policy.errors.contains(ErrorClass::Timeout);
        if is_too_late && !self.per_try_timeout.is_broken() && !self.errors.is_broken() {
            let (hedge, per_try) = (show_duration(time), show_duration(per_try));
            let help = format!("here `hedge` is {hedge} and `per_try_timeout` is {per_try}");
            let message = "`hedge` must be less than `per_try_timeout`, which begins a second attempt first";
            misfit(faults, &message, [self.hedge.span(), self.per_try_timeout.span()], help);
        }
    }
}

impl Backoff {
    fn build(&self, faults: &Faults) -> backoff::Backoff {
        let (base, max) = (self.base.value(), self.max.value());
        let backoff = backoff::Backoff::new(base, self.factor.value(), max, self.jitter.value());
        // Each value keeps to its own bounds, so it is two that do not fit. A stand-in for a broken one says nothing.
        let backoff = backoff.unwrap_or_else(|error| {
            if !self.base.is_broken() && !self.max.is_broken() {
                let (base, max) = (show_duration(base), show_duration(max));
                let help = format!("here `base` is {base} and `max` is {max}");
                misfit(faults, &error, [self.max.span(), self.base.span()], help);
            }
            backoff::Backoff::default()
        });
        backoff.in_mode(self.mode.value())
    }
}

impl Budget {
    /// The checked settings.
    pub(in crate::config) fn build(&self) -> BudgetSettings {
        BudgetSettings::new(self.ratio.value(), self.min_per_second.value(), self.window.value())
            .expect("each value keeps to its bounds")
    }
}
