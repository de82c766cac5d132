//! The pipeline around the loop: what is refused before it, and what the caller gets after it.

use http::Method;

use crate::error::Origin;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, text};

#[tokio::test(start_paused = true)]
async fn a_malformed_request_reaches_no_upstream_and_ends_its_connection() {
    let stage = Stage::new([]);
    let response = stage.send_with(Method::GET, &[("host", "b")], ScriptedBody::empty()).await;
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(stage.attempts_at(), Vec::<u128>::new());
}

#[tokio::test(start_paused = true)]
async fn connect_is_not_supported() {
    let stage = Stage::new([]);
    assert_eq!(stage.send(Method::CONNECT, ScriptedBody::empty()).await.status(), 501);
}

#[tokio::test(start_paused = true)]
async fn a_loop_is_502_and_says_so() {
    let stage = Stage::new([]);
    let response = stage.send_with(Method::GET, &[("via", "1.1 stent")], ScriptedBody::empty()).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["proxy-status"], "stent; error=proxy_loop_detected");
}

#[tokio::test(start_paused = true)]
async fn a_reply_names_the_request_and_nothing_of_our_inside() {
    let stage = Stage::new([Step::Fail(
        crate::error::UpstreamErrorKind::HeadTooLarge,
        crate::error::Delivery::Maybe,
    )]);
    let response = stage.get().await;
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let text = text(response).await;
    assert_eq!(text, format!("502 Bad Gateway\nThe service did not answer properly.\nrequest id: {id}\n"));
    assert_eq!(text.len(), length);
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_head_has_the_length_of_one_to_get_and_no_body() {
    let fail = || Step::Fail(crate::error::UpstreamErrorKind::HeadTooLarge, crate::error::Delivery::Maybe);
    let stage = Stage::new([fail(), fail()]);
    let get = stage.send_with(Method::GET, &[("x-request-id", "7")], ScriptedBody::empty()).await;
    let head = stage.send_with(Method::HEAD, &[("x-request-id", "7")], ScriptedBody::empty()).await;
    assert_eq!(get.headers()["content-length"], head.headers()["content-length"]);
    assert_eq!(text(head).await, "");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_counts_once_under_its_route_whatever_its_attempts() {
    let stage = Stage::new([answer(502), answer(502), answer(200)]);
    text(stage.get().await).await;
    let metrics = &stage.route.metrics;
    assert_eq!(metrics.requests(200, Origin::Upstream).get(), 1);
    assert_eq!(metrics.requests(502, Origin::Upstream).get(), 0);
    assert_eq!(metrics.in_flight.get(), 0);
    assert_eq!(metrics.duration.get_sample_count(), 1);
    assert_eq!(stage.route.cluster.metrics.attempt_duration.get_sample_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_503_and_our_own_are_told_apart() {
    let stage = Stage::new([
        answer(503),
        Step::Fail(crate::error::UpstreamErrorKind::ConnectionLimit, crate::error::Delivery::Never),
    ]);
    assert_eq!(stage.get().await.status(), 503);
    assert_eq!(stage.get().await.status(), 503);
    let metrics = &stage.route.metrics;
    assert_eq!(metrics.requests(503, Origin::Upstream).get(), 1);
    assert_eq!(metrics.requests(503, Origin::Proxy).get(), 1);
}
