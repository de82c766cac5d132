//! What an operator sets about retries, checked: [`RetryPolicy`] and the sets that it is made of.

use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use crate::error::ErrorClass;
use crate::policy::backoff::Backoff;
use crate::policy::grpc::GrpcStatusSet;
use crate::policy::hedge::HedgeAfter;
use crate::policy::hold::HoldLimits;
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

impl RetryPolicy {
    /// The default of `methods`: all that RFC 9110 section 9.2.2 calls idempotent.
    pub const METHODS: [Method; 6] =
        [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            statuses: [500, 502].into_iter().collect(),
            grpc_statuses: GrpcStatusSet::default(),
            errors: ErrorClass::ALL.into_iter().collect(),
            methods: Self::METHODS.into(),
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
