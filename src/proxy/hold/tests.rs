//! What is held, for how long, and what becomes of it, in paused time.

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::*;
use crate::error::Origin;
use crate::policy::budget::BudgetSettings;
use crate::policy::settings::RetryPolicy;
use crate::policy::verdict::Veto;
use crate::proxy::body::ResponseBody;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, exact_policy, text};
use crate::upstream::body::testing::Part;

fn data(text: &'static str) -> Part {
    Part::Data(Bytes::from_static(text.as_bytes()))
}

fn pause(millis: u64) -> Part {
    Part::Pause(Duration::from_millis(millis))
}

/// A body without a length.
fn chunked(parts: impl Into<Vec<Part>>) -> Step {
    Step::Stream(200, Vec::new(), None, parts.into())
}

fn with_length(length: u64, parts: impl Into<Vec<Part>>) -> Step {
    Step::Stream(200, Vec::new(), Some(length), parts.into())
}

fn held(stage: &Stage, end: HoldEnd) -> u64 {
    stage.route.metrics.held(end).get()
}

fn holding(size: usize, steps: impl IntoIterator<Item = Step>) -> Stage {
    let retry = RetryPolicy { hold: HoldLimits { size, ..HoldLimits::default() }, ..exact_policy() };
    Stage::with(steps, 1, retry, BudgetSettings::default())
}

fn length(response: &Response<ResponseBody>) -> Option<u64> {
    response.body().size_hint().exact()
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_while_it_is_held_is_retried_after_the_backoff() {
    let breaking = [
        with_length(10, [data("half"), Part::Break]),
        with_length(10, [Part::Break]),
        chunked([data("half"), pause(50), Part::Break]),
        chunked([Part::Break]),
    ];
    for first in breaking {
        let stage = Stage::new([first, with_length(3, [data("all")])]);
        let response = stage.get().await;
        assert_eq!((response.status().as_u16(), length(&response)), (200, Some(3)));
        assert_eq!(text(response).await, "all");
        assert_eq!(stage.attempts_at().len(), 2);
        assert_eq!(stage.route.metrics.recovered.get(), 1);
        assert_eq!(held(&stage, HoldEnd::Broken), 1);
        assert_eq!(stage.memory.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn when_every_answer_breaks_the_reply_is_a_502() {
    let broken = || chunked([data("half"), Part::Break]);
    let stage = Stage::new([broken(), broken(), broken(), broken()]);
    let response = stage.get().await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["proxy-status"], "stent; error=http_response_incomplete");
    assert_eq!(stage.attempts_at(), [0, 100, 300, 700]);
    assert_eq!(stage.route.metrics.stopped(Veto::Attempts).get(), 1);
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_answer_that_was_whole_beats_a_reply_of_our_own() {
    let broken = || chunked([data("half"), Part::Break]);
    let failed = Step::Answer(Duration::ZERO, 500, Vec::new(), "what the backend said");
    let stage = Stage::new([broken(), failed, broken(), broken()]);
    let response = stage.get().await;
    assert_eq!(response.status(), 500);
    assert_eq!(text(response).await, "what the backend said");
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_gets_its_length_and_its_order() {
    let large = Bytes::from(vec![b'x'; 2000]);
    let parts = [data("a"), data(""), data("b"), data("c"), Part::Data(large.clone()), data("d")];
    let stage = Stage::new([chunked(parts)]);
    stage.answer_memory.change_limit(10_000);
    let response = stage.get().await;
    assert_eq!(length(&response), Some(2004));
    let memory = stage.answer_memory.used();
    assert!((2004..=2 * 2004).contains(&memory), "{memory}");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes, [&b"abc"[..], &large, b"d"].concat());
    assert_eq!(held(&stage, HoldEnd::Whole), 1);
    assert_eq!((stage.memory.used(), stage.answer_memory.used()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_there_with_its_head_was_not_held() {
    for whole in [with_length(2, [data("ok")]), chunked([]), answer(200)] {
        let stage = Stage::new([whole]);
        let response = stage.get().await;
        assert_eq!(stage.memory.used(), 0);
        assert!(matches!(length(&response), Some(0 | 2)));
        assert!(HoldEnd::ALL.into_iter().all(|end| held(&stage, end) == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_follow_a_held_answer_which_then_has_no_length() {
    let trailers: HeaderMap = [("x-sum".parse().unwrap(), "1".parse().unwrap())].into_iter().collect();
    let stage = Stage::new([chunked([data("body"), pause(10), Part::Trailers(trailers)])]);
    let response = stage.get().await;
    assert_eq!(length(&response), None);
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
    assert_eq!(collected.to_bytes(), "body");
    assert_eq!(held(&stage, HoldEnd::Whole), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hold_ends_100_ms_after_the_head_and_the_answer_flows() {
    let stage = Stage::new([chunked([pause(60_000), data("late")])]);
    let response = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::from_millis(100));
    assert_eq!(held(&stage, HoldEnd::Time), 1);
    assert_eq!(text(response).await, "late");
    assert_eq!(stage.start.elapsed(), Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn a_hold_goes_on_while_bytes_come_and_for_500_ms_in_all() {
    let stage = Stage::new([chunked([pause(90), data("a"), pause(90), data("b"), pause(1000), data("c")])]);
    let response = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::from_millis(280));
    assert_eq!(text(response).await, "abc");

    let drip: Vec<_> = (0..100).flat_map(|_| [pause(90), data("x")]).collect();
    let stage = Stage::new([chunked(drip)]);
    let response = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::from_millis(500));
    assert_eq!(held(&stage, HoldEnd::Time), 1);
    assert_eq!(text(response).await.len(), 100);
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_hold_outlasts_the_deadline() {
    let drip = chunked([data("a"), pause(40), data("b"), pause(40), data("c")]);
    let stage = Stage::new([drip]).with_route(|route| route.settings.deadline = Duration::from_millis(50));
    let response = stage.get().await;
    assert_eq!((response.status().as_u16(), held(&stage, HoldEnd::Time)), (200, 1));
    assert_eq!(stage.start.elapsed(), Duration::from_millis(50));
    assert_eq!(text(response).await, "abc");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_after_its_hold_breaks_for_the_caller() {
    let stage = Stage::new([chunked([data("half"), pause(200), Part::Break])]);
    let response = stage.get().await;
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(stage.attempts_at(), [0]);
    assert_eq!(stage.route.metrics.stopped(Veto::Started).get(), 1);
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_flows_at_once() {
    let stage = holding(4, [with_length(5, [pause(50), data("12345")])]);
    let response = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::ZERO, "it is announced");
    assert_eq!(text(response).await, "12345");
    assert_eq!(held(&stage, HoldEnd::Size), 0);

    let stage = holding(4, [chunked([data("123"), pause(10), data("45"), pause(1000), data("6")])]);
    let response = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::from_millis(10), "it turns out");
    assert_eq!((held(&stage, HoldEnd::Size), length(&response)), (1, None));
    assert_eq!(text(response).await, "123456");
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn over_the_processes_memory_nothing_is_held() {
    let half = Bytes::from(vec![b'x'; 300]);
    let parts = || chunked([Part::Data(half.clone()), pause(50), Part::Data(half.clone()), pause(1000)]);
    let stage = Stage::new([parts(), parts()]);
    stage.answer_memory.change_limit(1200);
    let response = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::from_millis(50));
    assert_eq!((held(&stage, HoldEnd::Memory), stage.answer_memory.used()), (1, 512));
    let other = stage.get().await;
    assert_eq!(stage.start.elapsed(), Duration::from_millis(50), "there is no room for its first part");
    assert_eq!(held(&stage, HoldEnd::Memory), 2);
    assert_eq!(text(response).await.len(), 600);
    assert_eq!(text(other).await.len(), 600);
    assert_eq!(stage.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn events_and_calls_flow_at_once() {
    for media in ["text/event-stream", "application/grpc"] {
        let headers = vec![("content-type", media)];
        let stage = Stage::new([Step::Stream(200, headers, None, vec![data("one"), pause(50), Part::Break])]);
        let response = stage.get().await;
        assert_eq!(stage.start.elapsed(), Duration::ZERO, "{media}");
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(stage.attempts_at(), [0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_what_may_not_be_repeated_flows_at_once() {
    let stage = Stage::new([chunked([data("half"), pause(50), Part::Break])]);
    let response = stage.send(Method::POST, ScriptedBody::of(&["x"])).await;
    assert_eq!(stage.start.elapsed(), Duration::ZERO);
    assert!(response.into_body().collect().await.is_err());

    let stage = Stage::new([chunked([data("half"), pause(50), Part::Break]), answer(200)]);
    let keyed = stage.send_with(Method::POST, &[("idempotency-key", "7")], ScriptedBody::of(&["x"])).await;
    assert_eq!(keyed.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 150]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_by_its_head_is_retried_without_a_look_at_its_body() {
    let failed = Step::Stream(502, Vec::new(), None, vec![pause(60_000), data("late")]);
    let stage = Stage::new([failed, answer(200)]);
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at(), [0, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_the_hold_ends_it() {
    let stage = Stage::new([chunked([data("half"), pause(60_000)])]);
    assert!(timeout(Duration::from_millis(50), stage.get()).await.is_err());
    assert_eq!((stage.memory.used(), stage.answer_memory.used()), (0, 0));
    assert_eq!(stage.route.metrics.client_aborts.get(), 1);
    assert_eq!(stage.route.metrics.requests(499, Origin::Downstream).get(), 1);
    assert_eq!(stage.route.metrics.in_flight.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_while_held_counts_against_its_endpoint() {
    let broken = || chunked([data("half"), Part::Break]);
    let stage = Stage::with([broken(), answer(200)], 2, exact_policy(), BudgetSettings::default());
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.ports(), [1, 2], "the other one is tried");
    let failures: Vec<_> =
        stage.cluster.endpoints().iter().map(|endpoint| endpoint.standing.is_troubled()).collect();
    assert_eq!(failures, [true, false]);
}
