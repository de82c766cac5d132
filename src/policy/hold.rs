//! Whether an answer is held back until its body has come whole, and for how long.
//!
//! Once its head has gone to the caller an answer cannot be retried. Held for a moment, most answers can.

use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

use crate::error::ErrorClass;
use crate::policy::request::{BodyState, Repeatable};
use crate::policy::settings::RetryPolicy;

/// How much of an answer may be held, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// The most bytes of an answer's body to hold; 0 = no answer is held.
    pub size: usize,
    /// How long nothing of the body may come, from the head or the last byte on.
    pub time: Duration,
}

impl HoldLimits {
    /// A hold lasts at most so many times [`HoldLimits::time`], however steadily bytes drip in.
    pub const LONGEST: u32 = 5;

    /// The moment at which a hold ends that began at `began`, if nothing comes after `last`.
    pub fn until(&self, began: Instant, last: Instant, deadline: Option<Instant>) -> Instant {
        let until = (last + self.time).min(began + self.time * Self::LONGEST);
        deadline.map_or(until, |deadline| until.min(deadline))
    }
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { size: 128 << 10, time: Duration::from_millis(100) }
    }
}

/// An answer whose head has come, and the attempt that brought it.
#[derive(Clone, Copy, Debug)]
pub struct Arriving<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// The answer's status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// The length of its body, if that is known already.
    pub length: Option<u64>,
    /// Number of the attempt; the first is 1.
    pub attempt: u32,
    /// Whether the request may be repeated.
    pub repeatable: Repeatable,
    /// Whether its body can be.
    pub body: BodyState,
}

/// How a hold ended; a label of `stent_held_answers_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// The answer broke.
    Broken,
    /// The process keeps as many bytes as it may.
    Memory,
    /// The body is larger than is held.
    Size,
    /// Nothing came for too long, or it took too long in all.
    Time,
    /// The answer is whole.
    Whole,
}

impl HoldEnd {
    /// Every end.
    pub const ALL: [Self; 5] = [Self::Broken, Self::Memory, Self::Size, Self::Time, Self::Whole];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Memory => "memory",
            Self::Size => "size",
            Self::Time => "time",
            Self::Whole => "whole",
        }
    }
}

impl RetryPolicy {
    /// Whether this policy holds answers to such a request at all: only where one that breaks could be made good.
    pub fn holds(&self, repeatable: Repeatable, body: BodyState) -> bool {
        self.hold.size > 0
            && self.max_attempts > 1
            && self.errors.contains(ErrorClass::Truncated)
            && repeatable == Repeatable::Always
            && body == BodyState::Whole
    }

    /// Whether this answer is held.
    ///
    /// The last attempt's is, too: nothing can follow it, but one that breaks then becomes an earlier answer that was
    /// whole, or an honest 502, instead of half a download.
    pub fn may_hold(&self, answer: &Arriving<'_>) -> bool {
        let Arriving { method, status, headers, length, attempt, repeatable, body } = *answer;
        // A failure by its head is retried without a look at its body, as long as there is another attempt.
        let is_judged = attempt < self.max_attempts && self.statuses.contains(status);
        let has_body = *method != Method::HEAD && !status.is_informational() && !BODILESS.contains(&status);
        let is_small =
            length.is_none_or(|length| usize::try_from(length).is_ok_and(|length| length <= self.hold.size));
        self.holds(repeatable, body) && !is_judged && has_body && is_small && !is_stream(headers)
    }
}

/// Whether an answer says that its parts mean something before its end.
fn is_stream(headers: &HeaderMap) -> bool {
    let Some(media) = headers.get(CONTENT_TYPE) else { return false };
    let media = media.as_bytes().trim_ascii_start();
    STREAMS.iter().any(|(name, rest)| {
        let (start, end) = media.split_at(media.len().min(name.len()));
        start.eq_ignore_ascii_case(name) && rest.follows(end)
    })
}

/// What may follow the name of a media type.
#[derive(Clone, Copy)]
enum Rest {
    /// Anything: `application/grpc` is the beginning of `application/grpc+proto` and `application/grpc-web`.
    Any,
    /// Parameters or nothing.
    Parameters,
}

impl Rest {
    fn follows(self, rest: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Parameters => rest.first().is_none_or(|byte| matches!(byte, b';' | b' ' | b'\t')),
        }
    }
}

/// Media types whose parts are messages.
const STREAMS: [(&[u8], Rest); 2] =
    [(b"text/event-stream", Rest::Parameters), (b"application/grpc", Rest::Any)];

/// Statuses whose answers have no body (RFC 9110 section 6.4.1).
const BODILESS: [StatusCode; 2] = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::request::SendOnce;

    fn headers(media: Option<&str>) -> HeaderMap {
        media.map(|media| (CONTENT_TYPE, media.parse().unwrap())).into_iter().collect()
    }

    fn arriving<'a>(method: &'a Method, headers: &'a HeaderMap) -> Arriving<'a> {
        Arriving {
            method,
            status: StatusCode::OK,
            headers,
            length: None,
            attempt: 1,
            repeatable: Repeatable::Always,
            body: BodyState::Whole,
        }
    }

    fn held(change: impl FnOnce(&mut Arriving<'_>)) -> bool {
        let (method, headers) = (Method::GET, headers(Some("text/html; charset=utf-8")));
        let mut answer = arriving(&method, &headers);
        change(&mut answer);
        RetryPolicy::default().may_hold(&answer)
    }

    #[test]
    fn an_answer_that_could_be_made_good_is_held_whatever_its_status_says() {
        assert!(held(|_| {}));
        for status in [200, 206, 404, 429, 503] {
            assert!(held(|answer| answer.status = status.try_into().unwrap()), "{status}");
        }
        assert!(held(|answer| answer.length = Some(128 << 10)));
        assert!(held(|answer| answer.attempt = 3), "of the last attempt too");
    }

    #[test]
    fn what_nothing_could_follow_is_not_held() {
        assert!(!held(|answer| answer.repeatable = Repeatable::OnlyIfNeverSent(SendOnce::Method)));
        assert!(!held(|answer| answer.body = BodyState::Lost));
        assert!(!held(|answer| answer.body = BodyState::Partial));
        let (method, headers) = (Method::GET, HeaderMap::new());
        let answer = arriving(&method, &headers);
        let default = RetryPolicy::default();
        let off = HoldLimits { size: 0, ..HoldLimits::default() };
        let unlisted = ErrorClass::ALL.into_iter().filter(|class| *class != ErrorClass::Truncated);
        assert!(!RetryPolicy { hold: off, ..default.clone() }.may_hold(&answer));
        assert!(!RetryPolicy { max_attempts: 1, ..default.clone() }.may_hold(&answer));
        assert!(!RetryPolicy { errors: unlisted.collect(), ..default }.may_hold(&answer));
    }

    #[test]
    fn a_failure_by_its_head_is_held_only_where_it_is_the_answer() {
        assert!(!held(|answer| answer.status = StatusCode::BAD_GATEWAY));
        assert!(held(|answer| (answer.status, answer.attempt) = (StatusCode::BAD_GATEWAY, 3)));
    }

    #[test]
    fn streams_are_told_by_their_media_type() {
        for (media, is_held) in [
            ("text/event-stream", false),
            ("Text/Event-Stream; charset=utf-8", false),
            ("text/event-streams", true),
            ("application/grpc", false),
            ("application/grpc+proto", false),
            ("application/grpc-web-text", false),
            ("application/json", true),
            ("", true),
            ("text", true),
        ] {
            let (method, headers) = (Method::GET, headers(Some(media)));
            assert_eq!(RetryPolicy::default().may_hold(&arriving(&method, &headers)), is_held, "{media}");
        }
    }

    fn media() -> impl Strategy<Value = Option<&'static str>> {
        prop::sample::select(vec![
            None,
            Some("text/html"),
            Some("text/event-stream"),
            Some("application/grpc"),
        ])
    }

    proptest! {
        #[test]
        fn what_must_flow_is_never_held(
            size in 0usize..1 << 20,
            length in prop::option::of(0u64..1 << 20),
            status in 100u16..600,
            is_head in any::<bool>(),
            attempt in 1u32..6,
            media in media(),
        ) {
            let hold = HoldLimits { size, ..HoldLimits::default() };
            let policy = RetryPolicy { hold, ..RetryPolicy::default() };
            let method = if is_head { Method::HEAD } else { Method::GET };
            let headers = headers(media);
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Arriving { status, length, attempt, ..arriving(&method, &headers) };
            if policy.may_hold(&answer) {
                prop_assert!(size > 0 && !is_head && !matches!(status.as_u16(), 100..200 | 204 | 304));
                prop_assert!(length.is_none_or(|length| length <= size as u64));
                prop_assert!(matches!(media, None | Some("text/html")));
                prop_assert!(attempt >= policy.max_attempts || !policy.statuses.contains(status));
            }
        }

        #[test]
        fn a_larger_limit_holds_no_less(
            size in 0usize..1 << 20, more in 0usize..1 << 20, length in prop::option::of(0u64..1 << 21),
        ) {
            let policy = |size| RetryPolicy { hold: HoldLimits { size, ..HoldLimits::default() }, ..RetryPolicy::default() };
            let (method, headers) = (Method::GET, HeaderMap::new());
            let answer = Arriving { length, ..arriving(&method, &headers) };
            prop_assert!(!policy(size).may_hold(&answer) || policy(size + more).may_hold(&answer));
        }

        #[test]
        fn a_hold_ends_after_a_silence_in_all_and_at_the_deadline(
            time in 1u64..10_000, came in 0u64..100_000, deadline in prop::option::of(0u64..100_000),
        ) {
            let ms = Duration::from_millis;
            let limits = HoldLimits { size: 1, time: ms(time) };
            let began = Instant::now();
            let until = limits.until(began, began + ms(came), deadline.map(|at| began + ms(at)));
            let expected = (came + time).min(5 * time).min(deadline.unwrap_or(u64::MAX));
            prop_assert_eq!(until, began + ms(expected));
        }
    }
}
