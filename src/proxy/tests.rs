//! The pipeline around the loop: what is refused before it, and what the caller gets after it.

use std::rc::Rc;

use http::Method;
use http::header::{HeaderName, HeaderValue};

use crate::error::Origin;
use crate::fields::Scheme;
use crate::fields::guard::{OriginGuard, Secret};
use crate::fields::rules::{HeaderRules, Side};
use crate::proxy::Proxy;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, request, text};
use crate::route::Action;
use crate::route::redirect::{Redirect, RedirectHost};
use crate::upstream::pool::Pools;

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
async fn a_loop_that_a_stranger_claims_is_508_and_says_so() {
    let stage = Stage::new([]);
    let response = stage.send_with(Method::GET, &[("via", "1.1 stent")], ScriptedBody::empty()).await;
    assert_eq!(response.status(), 508);
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
    assert_eq!(stage.cluster.metrics.attempt_duration.get_sample_count(), 3);
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

fn redirecting(scheme: Option<Scheme>, host: &str, status: u16) -> Stage {
    let host = (!host.is_empty()).then(|| RedirectHost::parse(host).unwrap());
    let redirect = Redirect::new(scheme, host, None, status).unwrap();
    Stage::new([]).with_route(|route| route.action = Action::Redirect(redirect))
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_a_reply_without_an_attempt() {
    let stage = redirecting(Some(Scheme::Https), "new.example.org", 308);
    let response = stage.get().await;
    assert_eq!(response.status(), 308);
    assert_eq!(response.headers()["location"], "https://new.example.org/api/x?y=z");
    assert_eq!(response.headers()["content-length"], "0");
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(text(response).await, "");
    assert_eq!(stage.attempts_at(), Vec::<u128>::new());
    assert_eq!(stage.route.metrics.requests(308, Origin::Proxy).get(), 1);
    assert_eq!(stage.route.metrics.in_flight.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_a_permanent_redirect_is_kept_and_not_for_ever() {
    for (status, expected) in [
        (301, "max-age=3600"),
        (302, "no-store"),
        (303, "no-store"),
        (307, "no-store"),
        (308, "max-age=3600"),
    ] {
        let response = redirecting(Some(Scheme::Https), "", status).get().await;
        assert_eq!(response.headers()["cache-control"], expected, "{status}");
    }
    let stage = redirecting(Some(Scheme::Https), "", 308)
        .with_route(|route| route.settings.pattern.scheme = Some(Scheme::Http));
    // A cache that is shared may not know the scheme that its callers came by.
    assert_eq!(stage.get().await.headers()["cache-control"], "private, max-age=3600");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_reads_no_body_and_ends_the_connection_that_carries_one() {
    let stage = redirecting(None, "new.example.org", 307);
    let response = stage.send(Method::POST, ScriptedBody::of(&["body"])).await;
    assert_eq!(response.status(), 307);
    assert_eq!(response.headers()["connection"], "close");
}

#[tokio::test(start_paused = true)]
async fn a_redirect_of_a_caller_that_is_there_already_is_a_loop() {
    let stage = redirecting(Some(Scheme::Https), "", 308);
    let secure = [("x-forwarded-proto", "HTTPS")];
    let response = stage.send_with(Method::GET, &secure, ScriptedBody::empty()).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["proxy-status"], "stent; error=proxy_loop_detected");
}

#[tokio::test(start_paused = true)]
async fn rules_change_what_the_upstream_and_the_caller_get() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let request = HeaderRules::new(
        Side::Request,
        [name("cookie")],
        [(name("x-tenant"), value("clinic"))],
        [(name("accept"), value("b"))],
    );
    let response = HeaderRules::new(
        Side::Response,
        [name("server")],
        [(name("strict-transport-security"), value("max-age=1"))],
        [],
    );
    let server = vec![("server", "Apache".to_owned())];
    let stage = Stage::new([
        Step::Answer(std::time::Duration::ZERO, 502, server.clone(), ""),
        Step::Answer(std::time::Duration::ZERO, 200, server, ""),
        Step::Fail(crate::error::UpstreamErrorKind::HeadTooLarge, crate::error::Delivery::Maybe),
    ])
    .with_route(|route| {
        route.settings.request_headers = request.unwrap();
        route.settings.response_headers = response.unwrap();
    });
    let headers = [("cookie", "a=b"), ("x-tenant", "other"), ("accept", "a")];
    let answered = stage.send_with(Method::GET, &headers, ScriptedBody::empty()).await;
    assert_eq!(answered.headers()["strict-transport-security"], "max-age=1");
    assert!(!answered.headers().contains_key("server"));
    for seen in stage.proxy.transport.seen.borrow().iter() {
        assert!(!seen.headers.contains_key("cookie"));
        assert_eq!(seen.headers["x-tenant"], "clinic");
        assert_eq!(seen.headers.get_all("accept").iter().collect::<Vec<_>>(), ["a", "b"]);
    }
    let replied = stage.get().await;
    assert_eq!(replied.status(), 502);
    assert_eq!(replied.headers()["strict-transport-security"], "max-age=1", "on a reply of ours too");
}

#[tokio::test(start_paused = true)]
async fn a_routes_guard_lets_only_the_secret_pass_and_keeps_it() {
    let secret = ("file".into(), Secret::new(b"0123456789abcdef").unwrap());
    let guard = OriginGuard::new(HeaderName::from_static("x-origin-secret"), vec![secret]).unwrap();
    let stage = Stage::new([answer(200)]).with_route(|route| route.settings.origin_guard = Some(guard));
    let refused = stage.get().await;
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers()["proxy-status"], "stent; error=http_request_denied");
    let secret = [("x-origin-secret", "0123456789abcdef")];
    assert_eq!(stage.send_with(Method::GET, &secret, ScriptedBody::empty()).await.status(), 200);
    assert!(!stage.proxy.transport.seen.borrow()[0].headers.contains_key("x-origin-secret"));
    drop(refused);
    assert_eq!(stage.route.metrics.requests(403, Origin::Downstream).get(), 1);
}

/// What the allocator gives without a detour.
const SMALL: usize = 1024;

#[tokio::test]
async fn the_future_of_a_request_is_a_small_allocation() {
    let stage = Stage::new([]);
    let proxy: Rc<Proxy> =
        Rc::new(Proxy::new(stage.proxy.site.clone(), Pools::new(), stage.proxy.shared.clone()));
    let size = size_of_val(&proxy.handle(request(Method::GET, &[], ScriptedBody::empty())));
    assert!(size <= SMALL, "{size} bytes");
}
