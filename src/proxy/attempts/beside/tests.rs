//! Races in paused time: when a hedge goes out, who wins, and what it costs.

use std::num::NonZeroU32;
use std::time::Duration;

use http::Method;
use tokio::time::{sleep_until, timeout};

use super::*;
use crate::error::{Delivery, Origin, UpstreamErrorKind};
use crate::policy::budget::BudgetSettings;
use crate::policy::expect::Subject;
use crate::policy::hedge::{HedgeAfter, Percentile};
use crate::policy::outage::OutageQueueSettings;
use crate::policy::verdict::Veto;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, exact_policy, text};
use crate::upstream::body::testing::Part;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Waits of 100 ms, 200 ms, ...; hedges after 20 ms.
fn policy() -> RetryPolicy {
    RetryPolicy { hedge: HedgeAfter::Time(ms(20)), per_try_timeout: ms(1000), ..exact_policy() }
}

fn stage(endpoints: u16, steps: impl IntoIterator<Item = Step>) -> Stage {
    Stage::with(steps, endpoints, policy(), BudgetSettings::default())
}

fn after(millis: u64, status: u16) -> Step {
    Step::Answer(ms(millis), status, Vec::new(), "")
}

fn said(millis: u64, status: u16, text: &'static str) -> Step {
    Step::Answer(ms(millis), status, Vec::new(), text)
}

fn ended(stage: &Stage, end: HedgeEnd) -> u64 {
    stage.route.metrics.hedges(end).get()
}

/// How often the attempts of each endpoint were cancelled.
fn cancelled(stage: &Stage) -> Vec<u64> {
    stage.cluster.endpoints().iter().map(|endpoint| endpoint.metrics.cancelled().get()).collect()
}

/// Whether anything counts against each endpoint.
fn troubled(stage: &Stage) -> Vec<bool> {
    stage.cluster.endpoints().iter().map(|endpoint| endpoint.standing.is_troubled()).collect()
}

#[tokio::test(start_paused = true)]
async fn by_default_nothing_is_sent_twice() {
    let stage = Stage::with([after(500, 200)], 2, exact_policy(), BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_within_the_time_is_not_hedged() {
    let stage = stage(2, [after(20, 200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0], ms(20)));
    assert!(HedgeEnd::ALL.into_iter().all(|end| ended(&stage, end) == 0));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_hedged_at_another_endpoint_and_cancelled_when_that_answers() {
    let stage = stage(2, [Step::Hang, after(7, 200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.start.elapsed(), ms(27));
    assert_eq!((stage.attempts_at(), stage.ports()), (vec![0, 20], vec![1, 2]));
    assert_eq!(ended(&stage, HedgeEnd::Won), 1);
    // To be slower than another is no failure, and nothing was saved from one.
    assert_eq!((cancelled(&stage), troubled(&stage)), (vec![1, 0], vec![false, false]));
    assert_eq!(stage.route.metrics.recovered.get(), 0);
    assert_eq!(stage.cluster.metrics.attempt_duration.get_sample_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_answers_before_its_hedge_is_taken() {
    let stage = stage(2, [said(30, 200, "first"), Step::Hang]);
    assert_eq!(text(stage.get().await).await, "first");
    assert_eq!((stage.start.elapsed(), stage.attempts_at()), (ms(30), vec![0, 20]));
    assert_eq!(ended(&stage, HedgeEnd::Lost), 1);
    assert_eq!((cancelled(&stage), troubled(&stage)), (vec![0, 1], vec![false, false]));
}

#[tokio::test(start_paused = true)]
async fn a_lone_endpoint_gets_the_hedge_too() {
    let stage = stage(1, [Step::Hang, after(0, 200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.start.elapsed(), stage.ports()), (ms(20), vec![1, 1]));
}

#[tokio::test(start_paused = true)]
async fn the_hedge_says_that_it_is_the_second_attempt() {
    let stage = stage(1, [Step::Hang, after(0, 200)]);
    stage.get().await;
    let seen = stage.proxy.transport.seen.borrow();
    let numbers: Vec<_> = seen.iter().map(|seen| seen.headers.get("x-stent-attempt")).collect();
    assert_eq!(numbers, [None, Some(&"2".parse().unwrap())]);
}

/// Every race of two answers, against what the rules say: the first good one, else the later bad one.
#[tokio::test(start_paused = true)]
async fn the_first_good_answer_wins_whoever_brings_it() {
    let retry = RetryPolicy { max_attempts: 2, ..policy() };
    for (first, hedge) in (0..36).map(|number| (number % 6, number / 6)) {
        let side = |times: [u64; 3], number: usize| (times[number % 3], if number < 3 { 200 } else { 502 });
        let (one, other) = (side([21, 45, 70], first), side([30, 57, 80], hedge));
        let steps = [after(one.0, one.1), after(other.0 - 20, other.1)];
        let stage = Stage::with(steps, 2, retry.clone(), BudgetSettings::default());
        let response = stage.get().await;
        let good = [one, other].into_iter().filter(|(_, status)| *status == 200).min();
        let expected = good.unwrap_or(one.max(other));
        let case = format!("{one:?} and {other:?}");
        assert_eq!(stage.start.elapsed(), ms(expected.0), "{case}");
        assert_eq!(response.status(), expected.1, "{case}");
        assert_eq!(stage.attempts_at(), [0, 20], "{case}");
        let end = match (one, other) {
            ((at, 200), (than, 200)) if at <= than => HedgeEnd::Lost,
            ((at, 200), (than, 502)) if at <= than => HedgeEnd::Lost,
            (_, (_, 200)) => HedgeEnd::Won,
            _ => HedgeEnd::Failed,
        };
        assert_eq!(ended(&stage, end), 1, "{case}: {end:?}");
        let recovered = u64::from(
            expected.1 == 200 && [one, other].iter().any(|(at, status)| *status == 502 && *at < expected.0),
        );
        assert_eq!(stage.route.metrics.recovered.get(), recovered, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_waits_for_the_hedge_and_a_failed_attempt_counts_against_its_endpoint() {
    let retry = RetryPolicy { per_try_timeout: ms(50), ..policy() };
    let steps = [Step::Hang, after(40, 200)];
    let stage = Stage::with(steps, 2, retry, BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.start.elapsed(), ended(&stage, HedgeEnd::Won)), (ms(60), 1));
    assert_eq!((cancelled(&stage), troubled(&stage)), (vec![0, 0], vec![true, false]));
    assert_eq!(stage.route.metrics.recovered.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_a_retry_follows_after_the_backoff_and_is_not_hedged_again() {
    let stage = stage(2, [after(50, 502), after(10, 502), after(100, 200)]);
    assert_eq!(stage.get().await.status(), 200);
    // The third is the second retry by its number, so that it waits 200 ms from the end of the first.
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 20, 250], ms(350)));
    assert_eq!(ended(&stage, HedgeEnd::Failed), 1);
    let bad = StatusCode::BAD_GATEWAY;
    let endpoints = stage.cluster.endpoints();
    assert!(endpoints.iter().all(|endpoint| endpoint.metrics.answered(bad).get() == 1));
    assert_eq!(stage.route.metrics.recovered.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_not_retried_does_not_win_while_another_attempt_runs() {
    for status in [503, 429] {
        let stage = stage(2, [after(50, 200), after(10, status)]);
        assert_eq!(stage.get().await.status(), 200);
        assert_eq!(stage.start.elapsed(), ms(50));
        let stage = stage_of_one_that_hangs(status);
        assert_eq!(stage.get().await.status(), status, "it is better than no answer");
    }
}

fn stage_of_one_that_hangs(status: u16) -> Stage {
    let stage = stage(2, [Step::Hang, after(10, status), Step::Hang, Step::Hang]);
    stage.with_route(|route| route.settings.deadline = ms(3000))
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_asked_for_is_kept_beside_a_slow_attempt() {
    let asks = |seconds: &str| Step::Answer(ms(10), 502, vec![("retry-after", seconds.to_owned())], "");
    let slow = || RetryPolicy { per_try_timeout: ms(1000), max_attempts: 4, ..exact_policy() };
    for (seconds, attempts) in [("3600", vec![0, 1000]), ("2", vec![0, 1000, 3010])] {
        let steps = [after(8000, 200), asks(seconds), after(9000, 200), after(9000, 200)];
        let stage = Stage::with(steps, 1, slow(), BudgetSettings::default());
        assert_eq!(stage.get().await.status(), 200);
        assert_eq!(stage.attempts_at()[..attempts.len()], attempts);
        assert_eq!(stage.attempts_at().len() > 2, attempts.len() > 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_hedged_where_the_first_attempt_was_not() {
    let stage = stage(2, [after(5, 502), Step::Hang, after(1, 200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 105, 125], ms(126)));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_one_of_the_attempts() {
    let retry = RetryPolicy { max_attempts: 2, ..policy() };
    let stage = Stage::with([after(30, 502), after(30, 502)], 2, retry, BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 502);
    assert_eq!(stage.route.metrics.stopped(Veto::Attempts).get(), 1);
    let retry = RetryPolicy { max_attempts: 2, ..policy() };
    let stage = Stage::with([after(1, 502), after(90, 200)], 2, retry, BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 101], "the last one has no room for a hedge");
}

#[tokio::test(start_paused = true)]
async fn of_two_failures_an_answer_goes_before_an_error() {
    let retry = RetryPolicy { max_attempts: 2, ..policy() };
    let steps =
        [said(30, 502, "the real one"), Step::Fail(UpstreamErrorKind::ConnectRefused, Delivery::Never)];
    let stage = Stage::with(steps, 2, retry.clone(), BudgetSettings::default());
    assert_eq!(text(stage.get().await).await, "the real one");
    // The last attempt has until the deadline.
    let stage = Stage::with([said(30, 502, "the real one"), Step::Hang], 2, retry, BudgetSettings::default());
    assert_eq!(text(stage.get().await).await, "the real one");
    assert_eq!(stage.start.elapsed(), ms(25_000));
}

#[tokio::test(start_paused = true)]
async fn the_longer_retry_after_of_two_holds() {
    let asking = |millis: u64, seconds: u32| {
        Step::Answer(ms(millis), 502, vec![("retry-after", seconds.to_string())], "")
    };
    for steps in [[asking(30, 3), asking(20, 1)], [asking(30, 1), asking(20, 3)]] {
        let stage = stage(2, steps.into_iter().chain([after(0, 200)]));
        assert_eq!(stage.get().await.status(), 200);
        assert_eq!(stage.attempts_at(), [0, 20, 3040]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_safe_or_has_a_body_is_never_hedged() {
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let stage = stage(2, [after(500, 200)]);
        assert_eq!(stage.send(method.clone(), ScriptedBody::empty()).await.status(), 200);
        assert_eq!(stage.attempts_at(), [0], "{method}");
    }
    let keyed = stage(2, [after(500, 200)]);
    keyed.send_with(Method::POST, &[("idempotency-key", "7")], ScriptedBody::empty()).await;
    assert_eq!(keyed.attempts_at(), [0], "a key makes it repeatable, not safe");
    let with_body = stage(2, [after(500, 200)]);
    with_body.send(Method::GET, ScriptedBody::of(&["x"])).await;
    assert_eq!(with_body.attempts_at(), [0]);
    let upgrade = stage(2, [after(500, 200)]);
    let headers = [("upgrade", "websocket"), ("connection", "upgrade")];
    upgrade.send_with(Method::GET, &headers, ScriptedBody::empty()).await;
    assert_eq!(upgrade.attempts_at(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_costs_what_a_retry_costs_and_is_refused_where_nothing_is_left() {
    let budget = BudgetSettings::new(0.5, 0, ms(10_000)).unwrap();
    let steps = [after(500, 200), Step::Hang, after(1, 200), after(500, 200)];
    let stage = Stage::with(steps, 2, policy(), budget);
    assert_eq!(stage.get().await.status(), 200, "half a retry is none");
    assert_eq!((stage.attempts_at(), ended(&stage, HedgeEnd::RefusedBudget)), (vec![0], 1));
    assert_eq!(stage.get().await.status(), 200, "two requests make one");
    assert_eq!((stage.attempts_at().len(), ended(&stage, HedgeEnd::Won)), (3, 1));
    assert!(stage.cluster.budget.available(stage.start.elapsed()) < 1e-9);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(ended(&stage, HedgeEnd::RefusedBudget), 2);
    assert_eq!(stage.route.metrics.stopped(Veto::Budget).get(), 0, "no retry was asked for");
}

#[tokio::test(start_paused = true)]
async fn while_requests_wait_in_the_outage_queue_nothing_is_hedged() {
    let retry = RetryPolicy { max_attempts: 3, ..policy() };
    let stage = Stage::with_outage_queue(OutageQueueSettings::default(), retry, |at| {
        if at < ms(301) { answer(502) } else { after(50, 200) }
    });
    assert_eq!(stage.get().await.status(), 502);
    assert_eq!(stage.get().await.status(), 200, "its probe takes longer than a hedge waits");
    assert_eq!((stage.attempts_at().len(), ended(&stage, HedgeEnd::RefusedOutageQueue)), (4, 1));
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at().len(), 6, "the queue has gone");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_has_no_place_in_flight_is_not_sent() {
    // The first attempt has the only one.
    let stage = Stage::with_limit(NonZeroU32::MIN, [after(50, 200)], policy());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0], ms(50)));
    assert_eq!(ended(&stage, HedgeEnd::RefusedLoad), 1);

    let stage = Stage::with_limit(NonZeroU32::new(2).unwrap(), [Step::Hang, after(0, 200)], policy());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at(), ended(&stage, HedgeEnd::RefusedLoad)), (vec![0, 20], 0));
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_has_failed_holds_no_place_while_another_goes_on() {
    let steps = [after(30, 502), after(500, 200)];
    let stage = Stage::with_limit(NonZeroU32::new(2).unwrap(), steps, policy());
    let look = async {
        sleep_until(stage.start + ms(25)).await;
        let both = stage.cluster.admission.in_flight();
        sleep_until(stage.start + ms(35)).await;
        (both, stage.cluster.admission.in_flight())
    };
    let (response, in_flight) = tokio::join!(stage.get(), look);
    assert_eq!((response.status().as_u16(), in_flight), (200, (2, 1)));
    assert_eq!(stage.cluster.admission.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_has_no_place_takes_no_chance_from_one_of_a_key_that_is_not_helped() {
    let stage = Stage::with_limit(NonZeroU32::MIN, [after(1500, 200)], patient(3));
    let rest = stage.route.settings.pattern.path.rest_of("/api/x");
    let key = stage.cluster.key(&Subject { route: "all", method: &Method::GET, rest });
    (0..8).for_each(|exchange| stage.cluster.note_beside(&key, Ending::Failure(exchange), ms(1)));
    assert!(!stage.cluster.may_help_beside(&key, 0.5, ms(2)));
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(ended(&stage, HedgeEnd::RefusedLoad), 1, "the load is asked first");
    assert!(stage.cluster.may_help_beside(&key, 0.0, ms(2000)));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_could_not_answer_before_the_deadline_is_not_sent() {
    let stage = stage(2, [Step::Hang]).with_route(|route| route.settings.deadline = ms(24));
    assert_eq!(stage.get().await.status(), 504);
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0], ms(24)));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_cancels_both() {
    let stage = stage(2, [Step::Hang, Step::Hang]);
    assert!(timeout(ms(50), stage.get()).await.is_err());
    let metrics = &stage.route.metrics;
    assert_eq!((cancelled(&stage), ended(&stage, HedgeEnd::Left)), (vec![1, 1], 1));
    assert_eq!((metrics.client_aborts.get(), metrics.in_flight.get()), (1, 0));
    assert_eq!(metrics.requests(499, Origin::Downstream).get(), 1);
    assert_eq!(troubled(&stage), [false, false]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_won_by_its_head_and_breaks_while_it_is_held_is_retried() {
    let breaking = Step::Stream(200, Vec::new(), None, vec![Part::Data("half".into()), Part::Break]);
    let stage = stage(2, [Step::Hang, breaking, said(0, 200, "whole")]);
    assert_eq!(text(stage.get().await).await, "whole");
    assert_eq!((stage.attempts_at(), ended(&stage, HedgeEnd::Won)), (vec![0, 20, 220], 1));
}

#[tokio::test(start_paused = true)]
async fn a_percentile_is_hedged_when_it_has_been_learned() {
    let retry = RetryPolicy {
        hedge: HedgeAfter::Percentile(Percentile::new(95).unwrap()),
        per_try_timeout: ms(1000),
        ..exact_policy()
    };
    let early = [Step::Hang, after(1, 200)];
    let steps = early.into_iter().chain((1..100).map(|_| after(10, 200))).chain([Step::Hang, after(1, 200)]);
    let stage = Stage::with(steps, 1, retry, BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 1000], "nothing is known yet");
    for _ in 1..100 {
        stage.get().await;
    }
    let before = Instant::now();
    assert_eq!(stage.get().await.status(), 200);
    // 10.25 ms are the end of the bucket in which 10 ms are, and timers keep whole milliseconds.
    assert_eq!(before.elapsed(), ms(12));
    assert!((stage.route.metrics.hedge_delay.get() - 0.01025).abs() < 1e-9);
    assert_eq!(ended(&stage, HedgeEnd::Won), 2);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_hedges_cut_short_do_not_bring_hedges_forward() {
    let retry = RetryPolicy {
        hedge: HedgeAfter::Percentile(Percentile::new(90).unwrap()),
        per_try_timeout: ms(1000),
        ..exact_policy()
    };
    // One in five takes 200 ms, so that the percentile is there: hedges would only make it seem less.
    let stage = Stage::with_outage_queue(OutageQueueSettings::new(0, ms(1), 3).unwrap(), retry, |at| {
        if at.as_millis() / 1000 % 5 == 0 { after(200, 200) } else { after(10, 200) }
    });
    for second in 0..600 {
        sleep_until(stage.start + ms(1000 * second)).await;
        stage.get().await;
    }
    assert!(stage.route.metrics.hedge_delay.get() > 0.2, "{}", stage.route.metrics.hedge_delay.get());
}

/// Waits of 100 ms, 200 ms, ...; no hedges, and a second for each attempt.
fn patient(max_attempts: u32) -> RetryPolicy {
    RetryPolicy { max_attempts, per_try_timeout: ms(1000), ..exact_policy() }
}

fn slow(endpoints: u16, steps: impl IntoIterator<Item = Step>) -> Stage {
    Stage::with(steps, endpoints, patient(3), BudgetSettings::default())
}

#[tokio::test(start_paused = true)]
async fn slow_is_not_broken_the_first_attempt_goes_on_beside_a_second() {
    let stage = slow(2, [said(1200, 200, "first"), Step::Hang]);
    assert_eq!(text(stage.get().await).await, "first");
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 1000], ms(1200)));
    assert_eq!((ended(&stage, HedgeEnd::Lost), stage.ports()), (1, vec![1, 2]));
    assert_eq!((cancelled(&stage), troubled(&stage)), (vec![0, 1], vec![false, false]));
    assert!(!stage.cluster.outage_queue.is_in_force());
}

#[tokio::test(start_paused = true)]
async fn one_that_a_younger_overtakes_has_failed_at_its_endpoint() {
    let stage = slow(2, [Step::Hang, said(5, 200, "second")]);
    assert_eq!(text(stage.get().await).await, "second");
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 1000], ms(1005)));
    assert_eq!((cancelled(&stage), troubled(&stage)), (vec![0, 0], vec![true, false]));
    assert_eq!((ended(&stage, HedgeEnd::Won), stage.route.metrics.recovered.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn second_attempts_that_always_fail_are_learned_to_be_of_no_use() {
    let stage = Stage::with_outage_queue(OutageQueueSettings::new(0, ms(1), 3).unwrap(), patient(2), |at| {
        if at.as_millis() % 2000 == 0 { said(1200, 200, "first") } else { after(10, 502) }
    });
    for second in 0..20 {
        sleep_until(stage.start + ms(2000 * second)).await;
        assert_eq!(text(stage.get().await).await, "first");
    }
    let failed = ended(&stage, HedgeEnd::Failed);
    assert!((8..14).contains(&failed), "eight show it, and one in sixteen is made all the same: {failed}");
    assert_eq!(stage.attempts_at().len() as u64, 20 + failed);
}

#[tokio::test(start_paused = true)]
async fn never_more_than_two_run_and_the_younger_is_replaced_when_both_are_slow() {
    let stage = slow(3, [Step::Hang, Step::Hang, said(300, 200, "third")]);
    assert_eq!(text(stage.get().await).await, "third");
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 1000, 2000], ms(2300)));
    // The second was cut off at 2 s; the first had outlived its time when the third answered.
    assert_eq!((cancelled(&stage), troubled(&stage)), (vec![0, 1, 0], vec![true, false, false]));
    let stage = slow(3, [said(2500, 200, "first"), Step::Hang, Step::Hang]);
    assert_eq!(text(stage.get().await).await, "first");
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 1000, 2000], ms(2500)));
    let stage = slow(1, [Step::Hang, Step::Hang, Step::Hang]);
    assert_eq!(stage.get().await.status(), 504);
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 1000, 2000], ms(25_000)));
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_beside_a_slow_attempt_is_followed_by_another_and_is_the_last_resort() {
    let stage = slow(1, [Step::Hang, said(5, 502, "bad"), said(5, 200, "good")]);
    assert_eq!(text(stage.get().await).await, "good");
    // 200 ms is the wait before a second retry.
    assert_eq!((stage.attempts_at(), stage.start.elapsed()), (vec![0, 1000, 1205], ms(1210)));
    let stage = slow(1, [Step::Hang, said(5, 502, "bad"), Step::Hang]);
    let response = stage.get().await;
    assert_eq!((response.status().as_u16(), stage.start.elapsed()), (502, ms(25_000)));
    assert_eq!(text(response).await, "bad");
    assert_eq!(stage.cluster.endpoints()[0].metrics.answered(StatusCode::BAD_GATEWAY).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_always_takes_long_soon_runs_once_and_is_tried_twice_now_and_then() {
    // Also where the second attempt is cut off for a third.
    for takes in [1500, 2500] {
        let steps = (0..200).map(|_| after(takes, 200));
        let stage = Stage::with(steps, 1, patient(3), BudgetSettings::default());
        for _ in 0..60 {
            assert_eq!(stage.get().await.status(), 200);
        }
        let attempts = stage.attempts_at().len();
        assert!((66..=76).contains(&attempts), "{attempts}: eight in vain, then one in sixteen");
        assert!(!stage.cluster.outage_queue.is_in_force() && stage.route.metrics.recovered.get() == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_beside_a_slow_attempt_where_it_is_not_paid_for_or_not_safe() {
    let budget = BudgetSettings::new(0.1, 0, ms(10_000)).unwrap();
    let stage = Stage::with([after(1500, 200)], 2, patient(3), budget);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at(), ended(&stage, HedgeEnd::RefusedBudget)), (vec![0], 1));
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let stage = slow(2, [after(1500, 200)]);
        assert_eq!(stage.send(method.clone(), ScriptedBody::empty()).await.status(), 200);
        assert_eq!(stage.attempts_at(), [0], "{method}");
    }
    let stage = slow(2, [after(1500, 200)]);
    assert_eq!(stage.send(Method::POST, ScriptedBody::of(&["x"])).await.status(), 200);
    assert_eq!(stage.attempts_at(), [0]);
    // During an outage it goes on alone.
    let stage =
        Stage::with_outage_queue(OutageQueueSettings::default(), patient(3), |at| match at.as_millis() {
            0 => after(1500, 200),
            _ => after(10, 502),
        });
    let others = async {
        tokio::time::sleep(ms(10)).await;
        for _ in 0..3 {
            assert_eq!(stage.send(Method::POST, ScriptedBody::empty()).await.status(), 502);
        }
        assert!(stage.cluster.outage_queue.is_in_force());
    };
    let (response, ()) = tokio::join!(stage.get(), others);
    assert_eq!((response.status().as_u16(), stage.start.elapsed()), (200, ms(1500)));
    assert_eq!(ended(&stage, HedgeEnd::RefusedOutageQueue), 1);
    let off = RetryPolicy { errors: [ErrorClass::Reset].into_iter().collect(), ..patient(3) };
    let stage = Stage::with([after(1500, 200)], 2, off, BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0], "`timeout` is not in `errors`");
}
