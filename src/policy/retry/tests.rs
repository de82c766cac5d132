//! Every rule of the retry decision, by enumeration and by property.

use super::*;
use crate::error::ErrorClass;
use crate::policy::backoff::{Backoff, Jitter, Mode};
use crate::policy::grpc::GrpcStatus;
use crate::policy::outcome::retry_after;
use crate::policy::request::SendOnce;
use crate::policy::settings::StatusSet;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> RetryPolicy {
    RetryPolicy { backoff: adaptive().in_mode(Mode::Fixed), ..RetryPolicy::default() }
}

fn adaptive() -> Backoff {
    Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(2), Jitter::None).unwrap()
}

fn around() -> Circumstances {
    Circumstances {
        attempt: 1,
        repeatable: Repeatable::Always,
        body: BodyState::Whole,
        untried: Untried::None,
        time_left: 25 * SECOND,
        chance: 0.99,
        random: 0.5,
    }
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status: StatusCode::from_u16(status).unwrap(), retry_after: None }
}

fn asked(status: u16, wait: Duration) -> Outcome {
    Outcome::Answered { status: StatusCode::from_u16(status).unwrap(), retry_after: Some(wait) }
}

fn failed(class: ErrorClass, delivery: Delivery) -> Outcome {
    Outcome::Failed { class: Some(class), delivery }
}

fn stop(why: Veto) -> Verdict {
    Verdict::Stop { why }
}

fn outcomes() -> Vec<Outcome> {
    let mut all: Vec<_> = [200, 204, 301, 404, 429, 500, 501, 502, 503, 504].map(answered).into();
    all.push(asked(502, SECOND));
    all.push(asked(502, 30 * SECOND));
    for delivery in [Delivery::Never, Delivery::Maybe] {
        all.extend(ErrorClass::ALL.map(|class| failed(class, delivery)));
        all.push(Outcome::Failed { class: None, delivery });
    }
    all
}

/// Calls `check` with every combination of outcome and circumstances.
fn each_case(check: impl Fn(Outcome, Circumstances, Verdict)) {
    let policy = policy();
    for outcome in outcomes() {
        for attempt in 1..=4 {
            for repeatable in [Repeatable::Always, Repeatable::OnlyIfNeverSent(SendOnce::Method)] {
                for body in [BodyState::Whole, BodyState::Partial, BodyState::Lost] {
                    for untried in [Untried::None, Untried::Some] {
                        for time_left in [Duration::ZERO, Duration::from_millis(150), 25 * SECOND] {
                            let around =
                                Circumstances { attempt, repeatable, body, untried, time_left, ..around() };
                            check(outcome, around, policy.decide(outcome, &around));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_retry_is_made_only_if_every_rule_allows_it() {
    each_case(|outcome, around, verdict| {
        let Verdict::Retry { after, .. } = verdict else { return };
        assert!(around.attempt < 3);
        assert_ne!(around.body, BodyState::Lost);
        assert!(around.body == BodyState::Whole || outcome.delivery() != Delivery::Answered);
        assert!(outcome.delivery() == Delivery::Never || around.repeatable == Repeatable::Always);
        assert!(after + RetryPolicy::LEAST_USEFUL <= around.time_left);
        assert!(after >= Backoff::FLOOR || outcome.delivery() == Delivery::Never);
        match outcome {
            Outcome::Grpc { .. } => unreachable!("no case here is one of gRPC"),
            Outcome::Answered { status, retry_after } => {
                assert!(status == 500 || status == 502);
                assert!(after >= retry_after.unwrap_or_default());
                assert!(retry_after.unwrap_or_default() <= 5 * SECOND);
            }
            Outcome::Failed { class, .. } => assert!(class.is_some()),
        }
    });
}

#[test]
fn a_failure_is_never_returned_without_the_name_of_its_veto() {
    each_case(|outcome, _, verdict| {
        let is_failure = match outcome {
            Outcome::Grpc { .. } => false,
            Outcome::Answered { status, .. } => status == 500 || status == 502,
            Outcome::Failed { class, .. } => class.is_some(),
        };
        assert_eq!(verdict == Verdict::Return, !is_failure, "{outcome:?} {verdict:?}");
    });
}

#[test]
fn only_the_listed_statuses_are_retried_never_a_class() {
    for status in 100..600 {
        let retried = policy().decide(answered(status), &around()) != Verdict::Return;
        assert_eq!(retried, status == 500 || status == 502, "{status}");
    }
}

#[test]
fn an_error_class_that_is_not_listed_is_returned() {
    let policy = RetryPolicy { errors: [ErrorClass::Connect].into_iter().collect(), ..policy() };
    assert_eq!(policy.decide(failed(ErrorClass::Reset, Delivery::Maybe), &around()), Verdict::Return);
    assert_ne!(policy.decide(failed(ErrorClass::Connect, Delivery::Never), &around()), Verdict::Return);
}

#[test]
fn max_attempts_counts_the_first() {
    for max_attempts in 1..5 {
        let policy = RetryPolicy { max_attempts, ..policy() };
        let attempts = (1..).take_while(|attempt| {
            matches!(
                policy.decide(answered(502), &Circumstances { attempt: *attempt, ..around() }),
                Verdict::Retry { .. }
            )
        });
        assert_eq!(attempts.count() + 1, max_attempts as usize);
    }
}

#[test]
fn a_post_is_retried_only_if_nothing_of_it_was_sent() {
    let around = Circumstances { repeatable: Repeatable::OnlyIfNeverSent(SendOnce::Method), ..around() };
    assert_eq!(policy().decide(answered(502), &around), stop(Veto::Method));
    assert_eq!(policy().decide(failed(ErrorClass::Reset, Delivery::Maybe), &around), stop(Veto::Method));
    assert!(matches!(
        policy().decide(failed(ErrorClass::Connect, Delivery::Never), &around),
        Verdict::Retry { .. }
    ));
}

#[test]
fn an_answer_before_the_whole_request_body_is_not_retried_but_a_reset_is() {
    let around = Circumstances { body: BodyState::Partial, ..around() };
    assert_eq!(policy().decide(answered(500), &around), stop(Veto::Body));
    assert!(matches!(
        policy().decide(failed(ErrorClass::Reset, Delivery::Maybe), &around),
        Verdict::Retry { .. }
    ));
    let lost = Circumstances { body: BodyState::Lost, ..around };
    assert_eq!(policy().decide(failed(ErrorClass::Reset, Delivery::Maybe), &lost), stop(Veto::Body));
}

#[test]
fn retry_after_is_a_floor_for_the_wait() {
    assert_eq!(
        policy().decide(asked(502, 3 * SECOND), &around()),
        Verdict::Retry { after: 3 * SECOND, reason: Reason::Status(StatusCode::BAD_GATEWAY) }
    );
    assert_eq!(
        policy().decide(asked(502, Duration::ZERO), &around()),
        Verdict::Retry { after: Duration::from_millis(100), reason: Reason::Status(StatusCode::BAD_GATEWAY) }
    );
}

#[test]
fn the_waits_follow_how_the_cluster_is() {
    let policy = RetryPolicy { backoff: adaptive(), ..policy() };
    let after = |chance, attempt| {
        let around = Circumstances { attempt, chance, ..around() };
        let Verdict::Retry { after, .. } = policy.decide(answered(502), &around) else { panic!() };
        after
    };
    let millis = Duration::from_millis;
    assert_eq!(after(0.99, 1), Backoff::QUICKEST, "one of a kind");
    assert_eq!(after(0.7, 2), Backoff::QUICKEST, "what fails singly is not helped by a wait");
    assert_eq!(after(0.5, 1), millis(100), "somebody else's failures, in an outage");
    assert_eq!(after(0.0, 2), millis(200));
}

#[test]
fn retry_after_is_a_floor_for_an_adaptive_wait_too() {
    let policy = RetryPolicy { backoff: adaptive(), ..policy() };
    let reason = Reason::Status(StatusCode::BAD_GATEWAY);
    let retry = |after| Verdict::Retry { after, reason };
    assert_eq!(policy.decide(asked(502, SECOND), &around()), retry(SECOND));
    assert_eq!(policy.decide(asked(502, Duration::ZERO), &around()), retry(Backoff::QUICKEST));
}

#[test]
fn a_retry_after_over_its_maximum_or_over_the_deadline_is_passed_on() {
    assert_eq!(policy().decide(asked(502, 6 * SECOND), &around()), stop(Veto::RetryAfter));
    let short = Circumstances { time_left: 2 * SECOND, ..around() };
    assert_eq!(policy().decide(asked(502, 3 * SECOND), &short), stop(Veto::RetryAfter));
}

#[test]
fn a_wait_that_would_end_after_the_deadline_is_not_begun() {
    let at = |millis| Circumstances { time_left: Duration::from_millis(millis), ..around() };
    assert_eq!(policy().decide(answered(502), &at(104)), stop(Veto::Deadline));
    assert!(matches!(policy().decide(answered(502), &at(105)), Verdict::Retry { .. }));
}

#[test]
fn after_a_connect_failure_an_untried_endpoint_is_tried_at_once() {
    let around = Circumstances { untried: Untried::Some, ..around() };
    let connect = failed(ErrorClass::Connect, Delivery::Never);
    assert_eq!(
        policy().decide(connect, &around),
        Verdict::Retry { after: Duration::ZERO, reason: Reason::Error(ErrorClass::Connect) }
    );
    assert!(matches!(
        policy().decide(answered(502), &around),
        Verdict::Retry { after, .. } if after == Duration::from_millis(100)
    ));
}

#[test]
fn explain_shows_the_waits_that_decide_can_give() {
    let policy = RetryPolicy::default();
    let failing = Circumstances { chance: 0.0, ..around() };
    assert_eq!(
        policy.wait_range(answered(502), &failing),
        Duration::from_millis(50)..=Duration::from_millis(100)
    );
    assert_eq!(policy.wait_range(answered(502), &around()), Backoff::QUICKEST..=Backoff::QUICKEST);
    assert_eq!(policy.wait_range(asked(502, SECOND), &around()), SECOND..=SECOND);
}

#[test]
fn retry_after_reads_seconds_and_dates() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:30 GMT").unwrap();
    let read = |value| retry_after(value, now);
    assert_eq!(read("7"), Some(7 * SECOND));
    assert_eq!(read(" 0 "), Some(Duration::ZERO));
    assert_eq!(read("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
    assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7 * SECOND));
    assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
    for nonsense in ["", "-1", "1.5", "soon", "1 2"] {
        assert_eq!(read(nonsense), None, "{nonsense:?}");
    }
}

proptest! {
    #[test]
    fn a_decision_never_panics_and_a_wait_keeps_the_deadline(
        attempt in 0u32..=u32::MAX, status in 100u16..600, asked in proptest::option::of(0u64..=u64::MAX),
        left in 0u64..=u64::MAX, random in 0.0f64..1.0,
    ) {
        let around = Circumstances { attempt, time_left: Duration::from_millis(left), random, ..around() };
        let policy = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::default() };
        let outcome = Outcome::Answered {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: asked.map(Duration::from_secs),
        };
        if let Verdict::Retry { after, .. } = policy.decide(outcome, &around) {
            prop_assert!(after < around.time_left);
        }
    }

    #[test]
    fn a_status_set_holds_what_was_put_in(statuses in proptest::collection::btree_set(0u16..1000, 0..50)) {
        let set: StatusSet = statuses.iter().copied().collect();
        let held: Vec<_> = set.iter().collect();
        let expected: Vec<_> = statuses.into_iter().filter(|status| (100..600).contains(status)).collect();
        prop_assert_eq!(held, expected);
    }

    #[test]
    fn retry_after_never_panics(value in "\\PC{0,40}") {
        let _ = retry_after(&value, std::time::SystemTime::UNIX_EPOCH);
    }
}

#[test]
fn a_grpc_status_is_a_failure_only_where_it_is_listed_and_is_then_vetoed_like_any_answer() {
    let unavailable = GrpcStatus::from_name("unavailable").unwrap();
    let outcome = Outcome::Grpc { status: unavailable, retry_after: None };
    let policy = RetryPolicy::default();
    assert_eq!(policy.decide(outcome, &around()), Verdict::Return);
    let policy = RetryPolicy { grpc_statuses: [unavailable].into_iter().collect(), ..policy };
    assert!(matches!(
        policy.decide(outcome, &around()),
        Verdict::Retry { reason: Reason::Grpc(status), .. } if status == unavailable
    ));
    let other = Outcome::Grpc { status: GrpcStatus::from_name("internal").unwrap(), retry_after: None };
    assert_eq!(policy.decide(other, &around()), Verdict::Return);
    let once = Circumstances { repeatable: Repeatable::OnlyIfNeverSent(SendOnce::Method), ..around() };
    assert_eq!(policy.decide(outcome, &once), Verdict::Stop { why: Veto::Method });
}

#[test]
fn a_granted_upgrade_is_final_even_where_its_status_is_listed() {
    let policy = RetryPolicy { statuses: StatusSet::from_iter([101]), ..policy() };
    assert_eq!(policy.decide(answered(101), &around()), stop(Veto::Upgrade));
}
