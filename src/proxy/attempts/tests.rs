//! The loop in paused time over a scripted upstream: exact waits, exact counts.

use std::time::Duration;

use http::Method;
use tokio::time::{advance, timeout};

use super::*;
use crate::error::{Delivery, UpstreamErrorKind};
use crate::policy::backoff::{Backoff, Mode};
use crate::policy::budget::BudgetSettings;
use crate::policy::settings::RetryPolicy;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, exact_policy, text};
use crate::upstream::body::testing::Part;

const SECOND: Duration = Duration::from_secs(1);

fn said(status: u16, text: &'static str) -> Step {
    Step::Answer(Duration::ZERO, status, Vec::new(), text)
}

fn refused() -> Step {
    Step::Fail(UpstreamErrorKind::ConnectRefused, Delivery::Never)
}

fn reset() -> Step {
    Step::Fail(UpstreamErrorKind::ConnectionTerminated, Delivery::Maybe)
}

fn stopped(stage: &Stage, why: Veto) -> u64 {
    stage.route.metrics.stopped(why).get()
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_after_exactly_the_backoff() {
    let stage = Stage::new([answer(502), answer(500), reset(), answer(200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 100, 300, 700]);
    assert_eq!(stage.route.metrics.recovered.get(), 1);
}

/// A stage whose waits follow how the cluster is. The least wait is a turn of the runtime, which the test's clock does not see.
fn adaptive(steps: impl IntoIterator<Item = Step>) -> Stage {
    let backoff = exact_policy().backoff.in_mode(Mode::Adaptive);
    Stage::with(steps, 1, RetryPolicy { backoff, ..exact_policy() }, BudgetSettings::default())
}

#[tokio::test(start_paused = true)]
async fn in_a_cluster_that_is_well_the_first_retry_goes_at_once_and_the_second_waits() {
    let stage = adaptive([answer(502), answer(500), reset(), answer(200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 0, 200, 600]);
}

#[tokio::test(start_paused = true)]
async fn where_failures_come_singly_the_second_retry_goes_at_once_too() {
    let single = || [answer(502), answer(200), answer(200), answer(200), answer(200)];
    let pair = [answer(502), answer(500), answer(200)];
    let stage = adaptive((0..40).flat_map(|_| single()).chain(pair));
    for _ in 0..160 {
        assert_eq!(stage.get().await.status(), 200);
    }
    let before = stage.start.elapsed().as_millis();
    assert_eq!(stage.get().await.status(), 200);
    let took: Vec<_> = stage.attempts_at()[200..].iter().map(|at| at - before).collect();
    assert_eq!(took, [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_first_retry_waits_as_the_operator_says() {
    let stage = adaptive([answer(502), refused(), answer(502), reset(), reset(), answer(200)]);
    assert_eq!(stage.get().await.status(), 502);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 0, 200, 600, 600, 700]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_its_caller_ended_says_nothing_about_the_cluster() {
    let stage = adaptive([Step::Hang, Step::Hang, answer(502), answer(200)]);
    for _ in 0..2 {
        assert!(timeout(Duration::from_millis(50), stage.get()).await.is_err());
    }
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 50, 100, 100]);
}

#[tokio::test(start_paused = true)]
async fn what_the_policy_does_not_list_is_the_answer() {
    for status in [200, 304, 404, 429, 501, 503, 504] {
        let stage = Stage::new([answer(status)]);
        assert_eq!(stage.get().await.status(), status);
        assert_eq!(stage.attempts_at(), [0]);
        assert!(Veto::ALL.into_iter().all(|why| stopped(&stage, why) == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn when_attempts_run_out_the_last_answer_goes_to_the_caller_as_it_came() {
    let stage = Stage::new([said(502, "one"), said(502, "two"), said(502, "three"), said(500, "four")]);
    let response = stage.get().await;
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["proxy-status"], "stent; received-status=500");
    assert_eq!(text(response).await, "four");
    assert_eq!(stopped(&stage, Veto::Attempts), 1);
}

#[tokio::test(start_paused = true)]
async fn a_real_answer_of_an_earlier_attempt_beats_an_invented_one() {
    let stage = Stage::new([reset(), said(500, "the real one"), reset(), reset()]);
    let response = stage.get().await;
    assert_eq!(response.status(), 500);
    assert_eq!(text(response).await, "the real one");
}

#[tokio::test(start_paused = true)]
async fn without_any_answer_the_reply_tells_the_last_error() {
    let stage = Stage::new([reset(), refused(), reset(), refused()]);
    let response = stage.get().await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["proxy-status"], "stent; error=connection_refused");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(stage.attempts_at().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_post_that_may_have_arrived_is_not_sent_again() {
    for step in [answer(502), reset()] {
        let stage = Stage::new([step]);
        assert_eq!(stage.send(Method::POST, ScriptedBody::of(&["x"])).await.status(), 502);
        assert_eq!(stopped(&stage, Veto::Method), 1);
        assert_eq!(stage.attempts_at(), [0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_of_which_nothing_was_sent_is_sent_again_without_a_copy() {
    let retry = RetryPolicy { body_limit: 0, ..exact_policy() };
    let stage = Stage::with([refused(), refused(), answer(200)], 1, retry, BudgetSettings::default());
    assert_eq!(stage.send(Method::POST, ScriptedBody::of(&["pay", "load"])).await.status(), 200);
    assert_eq!(stage.bodies()[2].as_deref(), Some(&b"payload"[..]));
    assert_eq!(stage.attempts_at(), [0, 100, 300]);
}

#[tokio::test(start_paused = true)]
async fn a_post_with_an_idempotency_key_is_sent_again_whole() {
    let stage = Stage::new([answer(502), answer(200)]);
    let body = ScriptedBody::of(&["pay", "load"]);
    let response = stage.send_with(Method::POST, &[("idempotency-key", "7")], body).await;
    assert_eq!(response.status(), 200);
    let bodies: Vec<_> = stage.bodies().into_iter().flatten().collect();
    assert_eq!(bodies, ["payload", "payload"]);
    drop(response);
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_broke_half_way_is_sent_again_and_goes_on() {
    let stage = Stage::new([Step::BreakAfterParts(1), Step::BreakAfterParts(2), answer(200)]);
    let response = stage.send(Method::PUT, ScriptedBody::of(&["a", "b", "c"])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(stage.bodies()[2].as_deref(), Some(&b"abc"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_whole_body_came_is_not_retried() {
    let (send, body) = ScriptedBody::open(None);
    send.send("part".into()).unwrap();
    let stage = Stage::new([Step::BreakAfterParts(1), Step::AnswerEarly(500)]);
    assert_eq!(stage.send(Method::PUT, body).await.status(), 500);
    assert_eq!(stopped(&stage, Veto::Body), 1);
    drop(send);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_its_limit_goes_through_and_is_not_sent_again() {
    let retry = RetryPolicy { body_limit: 3, ..exact_policy() };
    let stage = Stage::with([answer(502)], 1, retry, BudgetSettings::default());
    assert_eq!(stage.send(Method::PUT, ScriptedBody::of(&["ab", "cd"])).await.status(), 502);
    assert_eq!(stage.bodies()[0].as_deref(), Some(&b"abcd"[..]));
    assert_eq!(stopped(&stage, Veto::Body), 1);
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_over_max_body_is_413_by_length_and_while_it_comes() {
    let stage = Stage::new([]);
    let (_send, body) = ScriptedBody::open(Some(100_001));
    assert_eq!(stage.send(Method::PUT, body).await.status(), 413);
    let stage = Stage::new([answer(200)]);
    let (send, body) = ScriptedBody::open(None);
    for _ in 0..11 {
        send.send(vec![b'x'; 10_000].into()).unwrap();
    }
    assert_eq!(stage.send(Method::PUT, body).await.status(), 413);
}

#[tokio::test(start_paused = true)]
async fn no_slow_first_attempt_is_cut_at_the_per_try_timeout() {
    // Behind a proxy that never retries each of them would be answered, too.
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::GET] {
        for parts in [&[][..], &["x"]] {
            let slow = Step::Answer(24 * SECOND, 200, Vec::new(), "");
            let stage = Stage::new([slow, Step::Hang, Step::Hang]);
            let body = if parts.is_empty() { ScriptedBody::empty() } else { ScriptedBody::of(parts) };
            assert_eq!(stage.send(method.clone(), body).await.status(), 200, "{method}");
            assert_eq!(stage.start.elapsed(), 24 * SECOND, "{method}");
            let attempts = if method == Method::GET && parts.is_empty() { 3 } else { 1 };
            assert_eq!(stage.attempts_at().len(), attempts, "{method}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_lasts_longer_than_the_deadline() {
    for (method, attempts) in [(Method::PUT, &[0][..]), (Method::GET, &[0, 10_000, 20_000])] {
        let stage = Stage::new([Step::Hang, Step::Hang, Step::Hang]);
        let body = if method == Method::PUT { ScriptedBody::of(&["x"]) } else { ScriptedBody::empty() };
        let response = stage.send(method, body).await;
        assert_eq!(response.status(), 504);
        assert_eq!(response.headers()["proxy-status"], "stent; error=http_response_timeout");
        assert_eq!(stage.attempts_at(), attempts);
        assert_eq!(stage.start.elapsed(), 25 * SECOND);
        assert_eq!(stopped(&stage, Veto::Deadline), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_that_trickles_holds_up_no_retry_and_is_given_whole_where_nothing_better_comes() {
    let trickling = || {
        let parts = ["the ", "real ", "one"].map(|part| Part::Data(part.into()));
        let parts = parts.into_iter().flat_map(|part| [part, Part::Pause(SECOND / 2)]).collect();
        Step::Stream(502, Vec::new(), None, parts)
    };
    let retry = RetryPolicy { backoff: Backoff::default(), ..exact_policy() };
    let stage = Stage::with([trickling(), answer(200)], 1, retry.clone(), BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert!(stage.start.elapsed() < SECOND / 200, "{:?}", stage.start.elapsed());
    let refused = Step::Fail(UpstreamErrorKind::ConnectRefused, Delivery::Never);
    let retry = RetryPolicy { max_attempts: 2, ..retry };
    let stage = Stage::with([trickling(), refused], 1, retry, BudgetSettings::default());
    let response = stage.get().await;
    assert_eq!(response.status(), 502);
    assert_eq!(text(response).await, "the real one");
}

/// A failed answer whose body comes in parts, so long after each other.
fn in_parts(pause: Duration) -> Step {
    let parts = ["the ", "real ", "one"].map(|part| Part::Data(part.into()));
    Step::Stream(
        502,
        Vec::new(),
        None,
        parts.into_iter().flat_map(|part| [part, Part::Pause(pause)]).collect(),
    )
}

/// Has all connections of the stage's endpoint carry an exchange.
fn fill(stage: &Stage) -> impl Sized {
    let endpoint = stage.cluster.endpoints()[0].clone();
    (0..endpoint.settings.max_connections)
        .map(|_| (endpoint.count_connection(), endpoint.begin()))
        .collect::<Vec<_>>()
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_that_keeps_the_last_connection_is_the_answer() {
    let stage = Stage::new([in_parts(SECOND / 2)]);
    let _others = fill(&stage);
    let response = stage.get().await;
    assert_eq!((response.status().as_u16(), stage.attempts_at()), (502, vec![0]));
    assert_eq!(stage.start.elapsed().as_millis(), 50);
    assert_eq!(text(response).await, "the real one");
    assert_eq!(stopped(&stage, Veto::Overloaded), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_that_ends_within_a_moment_keeps_no_connection_and_is_retried() {
    let stage = Stage::new([in_parts(SECOND / 200), answer(200)]);
    let _others = fill(&stage);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 115], "after the backoff, from the end of the answer");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_pass_the_deadline_is_not_begun() {
    let slow = || Step::Answer(9 * SECOND, 502, Vec::new(), "");
    let last = Step::Answer(Duration::from_millis(6_550), 502, Vec::new(), "");
    let stage = Stage::new([slow(), slow(), last]);
    assert_eq!(stage.get().await.status(), 502);
    assert_eq!(stage.start.elapsed().as_millis(), 24_850);
    assert_eq!(stopped(&stage, Veto::Deadline), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_does_not_eat_the_deadline() {
    let (send, body) = ScriptedBody::open(None);
    let stage = Stage::new([Step::Answer(24 * SECOND, 200, Vec::new(), "")]);
    let upload = async {
        for _ in 0..4 {
            advance(25 * SECOND).await;
            send.send(vec![b'x'; 25 * 500].into()).unwrap(); // any less would be silence
            tokio::task::yield_now().await;
        }
        drop(send);
    };
    let (response, ()) = tokio::join!(stage.send(Method::POST, body), upload);
    assert_eq!(response.status(), 200);
    assert!(stage.start.elapsed() >= 124 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_falls_silent_gets_408_and_no_retry() {
    let (send, body) = ScriptedBody::open(None);
    send.send("part".into()).unwrap();
    let stage = Stage::new([answer(200)]);
    let response = stage.send(Method::PUT, body).await;
    assert_eq!(response.status(), 408);
    assert_eq!(stage.start.elapsed(), 30 * SECOND);
    assert_eq!(stage.attempts_at(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_callers_silence_is_timed_from_when_it_is_read_again() {
    // The attempt breaks after 20 s in which the caller was not silent but not read: it has 30 s from there.
    let (send, body) = ScriptedBody::open(None);
    send.send("part".into()).unwrap();
    let stage = Stage::new([Step::StallAfterParts(1, 20 * SECOND), answer(200)]);
    let respond = stage.send(Method::PUT, body);
    let upload = async {
        tokio::time::sleep(45 * SECOND).await;
        drop(send);
    };
    let (response, ()) = tokio::join!(respond, upload);
    assert_eq!(response.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 20_100]);
    assert_eq!(stage.bodies()[1].as_deref(), Some(&b"part"[..]));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_nothing_of_the_body_and_breaks_off_gets_all_of_it_on_the_next_attempt() {
    let (send, body) = ScriptedBody::open(None);
    for part in ["one ", "two ", "three"] {
        send.send(part.into()).unwrap();
    }
    drop(send);
    let stage = Stage::new([Step::StallAfterParts(1, 10 * SECOND), answer(200)]);
    assert_eq!(stage.send(Method::PUT, body).await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 10_100]);
    assert_eq!(stage.bodies()[1].as_deref(), Some(&b"one two three"[..]));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_and_a_longer_one_passed_on() {
    let asking =
        |seconds: u32| Step::Answer(Duration::ZERO, 502, vec![("retry-after", seconds.to_string())], "");
    let stage = Stage::new([asking(3), answer(200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 3_000]);

    let stage = Stage::new([asking(6)]);
    let response = stage.get().await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (502, &"6".parse().unwrap())
    );
    assert_eq!(stopped(&stage, Veto::RetryAfter), 1);
    assert_eq!(stage.start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_untried_endpoint_is_tried_at_once_after_a_refusal_and_after_a_wait_otherwise() {
    let stage = Stage::with(
        [refused(), refused(), refused(), answer(200)],
        3,
        exact_policy(),
        BudgetSettings::default(),
    );
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 0, 0, 400]);
    assert_eq!(stage.ports()[..3], [1, 2, 3]);

    let stage = Stage::with([answer(502), answer(200)], 2, exact_policy(), BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at(), stage.ports()), (vec![0, 100], vec![1, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_stops_retries_and_nothing_else() {
    let budget = BudgetSettings::new(0.5, 0, 10 * SECOND).unwrap();
    let steps = [answer(502), answer(502), answer(200), answer(200)];
    let stage = Stage::with(steps, 1, exact_policy(), budget);
    assert_eq!(stage.get().await.status(), 502, "half a retry is none");
    assert_eq!(stopped(&stage, Veto::Budget), 1);
    assert_eq!(stage.get().await.status(), 200, "two requests make one retry");
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_vetoed_retry_costs_no_budget() {
    let stage = Stage::new([answer(502)]);
    let before = stage.cluster.budget.available(Duration::ZERO);
    stage.send(Method::POST, ScriptedBody::of(&["x"])).await;
    assert!(stage.cluster.budget.available(Duration::ZERO) > before);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_the_wait_is_on_record_as_such() {
    let stage = Stage::new([answer(502)]);
    assert!(timeout(Duration::from_millis(50), stage.get()).await.is_err());
    let metrics = &stage.route.metrics;
    assert_eq!(metrics.client_aborts.get(), 1);
    assert_eq!(stopped(&stage, Veto::Client), 1);
    assert_eq!(metrics.in_flight.get(), 0);
    assert_eq!(metrics.requests(499, crate::error::Origin::Downstream).get(), 1);
    assert_eq!(metrics.requests(502, crate::error::Origin::Upstream).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_the_first_attempt_stops_no_retry() {
    let stage = Stage::new([Step::Hang]);
    assert!(timeout(Duration::from_millis(50), stage.get()).await.is_err());
    assert_eq!(stage.route.metrics.client_aborts.get(), 1);
    assert_eq!(stopped(&stage, Veto::Client), 0);
}

#[tokio::test(start_paused = true)]
async fn the_upstream_is_told_the_number_of_an_attempt_from_the_second_on() {
    let stage = Stage::new([answer(502), answer(502), answer(200)]);
    stage.send_with(Method::GET, &[("x-stent-attempt", "9")], ScriptedBody::empty()).await;
    let seen = stage.proxy.transport.seen.borrow();
    let numbers: Vec<_> = seen.iter().map(|seen| seen.headers.get("x-stent-attempt")).collect();
    assert_eq!(numbers, [None, Some(&"2".parse().unwrap()), Some(&"3".parse().unwrap())]);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_an_upgrade_is_retried_like_any_other() {
    let stage = Stage::new([answer(502), answer(200)]);
    let headers = [("upgrade", "websocket"), ("connection", "upgrade")];
    assert_eq!(stage.send_with(Method::GET, &headers, ScriptedBody::empty()).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_protocol_that_nobody_asked_for_is_a_failure() {
    let stage = Stage::new([answer(101), answer(200)]);
    assert_eq!(stage.get().await.status(), 200);
    let stage = Stage::new([answer(101)]);
    assert_eq!(stage.send(Method::POST, ScriptedBody::empty()).await.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_whose_names_do_not_resolve_says_so() {
    let stage = Stage::new([]);
    stage.cluster.set_locations(&[], Duration::ZERO);
    let response = stage.get().await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["proxy-status"], "stent; error=dns_error");
}

mod uploads;
