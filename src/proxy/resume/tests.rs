//! Resumptions in paused time, over a scripted upstream: when they are made, where, how long they wait, what they leave.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;

use crate::error::{Delivery, UpstreamErrorKind};
use crate::policy::budget::BudgetSettings;
use crate::policy::hold::HoldLimits;
use crate::policy::resume::{BreakEnd, ResumeSettings};
use crate::policy::settings::RetryPolicy;
use crate::policy::verdict::Veto;
use crate::proxy::body::ResponseBody;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, exact_policy};
use crate::record::metrics::RouteMetrics;
use crate::upstream::body::testing::Part;

type Fields = Vec<(&'static str, &'static str)>;

const TAGGED: [(&str, &str); 2] = [("etag", "\"v1\""), ("accept-ranges", "bytes")];
const DATED: [(&str, &str); 3] = [
    ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ("date", "Mon, 07 Nov 1994 08:49:37 GMT"),
    ("accept-ranges", "bytes"),
];

fn data(text: &'static str) -> Part {
    Part::Data(Bytes::from_static(text.as_bytes()))
}

/// An answer of ten bytes, of which these come.
fn breaks(fields: &[(&'static str, &'static str)], text: &'static str) -> Step {
    Step::Stream(200, fields.to_vec(), Some(10), vec![data(text), Part::Break])
}

/// A part of it, up to its end or to a break.
fn part(range: &'static str, length: u64, parts: Vec<Part>) -> Step {
    let mut fields: Fields = TAGGED.to_vec();
    fields.push(("content-range", range));
    Step::Stream(206, fields, Some(length), parts)
}

/// Nothing is held, so that all that comes is on its way to the caller at once.
fn policy() -> RetryPolicy {
    RetryPolicy { hold: HoldLimits { size: 0, ..HoldLimits::default() }, ..exact_policy() }
}

fn stage(steps: impl IntoIterator<Item = Step>) -> Stage {
    Stage::with(steps, 1, policy(), BudgetSettings::default())
}

/// What the caller got, and whether it was whole.
async fn read(mut body: ResponseBody) -> (String, bool) {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (String::from_utf8(text).unwrap(), false) };
        text.extend(frame.into_data().unwrap_or_default());
    }
    (String::from_utf8(text).unwrap(), true)
}

async fn get(stage: &Stage) -> (String, bool) {
    read(stage.get().await.into_body()).await
}

fn whole() -> (String, bool) {
    ("0123456789".into(), true)
}

fn cut(text: &str) -> (String, bool) {
    (text.into(), false)
}

fn broken(metrics: &RouteMetrics) -> Vec<BreakEnd> {
    let times = |end| usize::try_from(metrics.broken(end).get()).unwrap();
    BreakEnd::ALL.into_iter().flat_map(|end| std::iter::repeat_n(end, times(end))).collect()
}

/// The range and the condition that an attempt asked for.
fn asked(stage: &Stage, attempt: usize) -> [String; 2] {
    let seen = stage.proxy.transport.seen.borrow();
    ["range", "if-range"].map(|name| {
        let values: Vec<_> = seen[attempt - 1].headers.get_all(name).iter().collect();
        values.iter().map(|value| value.to_str().unwrap()).collect()
    })
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_is_gone_on_with_after_the_backoff() {
    let stage = stage([breaks(&TAGGED, "012"), part("bytes 3-9/10", 7, vec![data("34"), data("56789")])]);
    assert_eq!(get(&stage).await, whole());
    assert_eq!(stage.attempts_at(), [0, 100]);
    assert_eq!(asked(&stage, 1), ["", ""]);
    assert_eq!(asked(&stage, 2), ["bytes=3-9", "\"v1\""]);
    let metrics = &stage.route.metrics;
    assert_eq!(broken(metrics), [BreakEnd::Resumed]);
    assert_eq!(metrics.recovered.get(), 1);
    assert_eq!(metrics.in_flight.get(), 0);
    assert!(Veto::ALL.into_iter().all(|why| metrics.stopped(why).get() == 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_breaks_again_is_gone_on_with_from_there_until_the_attempts_are_used_up() {
    let again = |range, length, text| part(range, length, vec![data(text), Part::Break]);
    let first = || [breaks(&TAGGED, "012"), again("bytes 3-9/10", 7, "34"), again("bytes 5-9/10", 5, "5")];
    let stage_that_ends = stage(first().into_iter().chain([part("bytes 6-9/10", 4, vec![data("6789")])]));
    assert_eq!(get(&stage_that_ends).await, whole());
    assert_eq!(stage_that_ends.attempts_at(), [0, 100, 300, 700]);
    assert_eq!(stage_that_ends.route.metrics.recovered.get(), 1, "one request was saved");
    let stage = stage(first().into_iter().chain([again("bytes 6-9/10", 4, "678")]));
    assert_eq!(get(&stage).await, cut("012345678"));
    let metrics = &stage.route.metrics;
    assert_eq!(broken(metrics), [[BreakEnd::Failed].as_slice(), &[BreakEnd::Resumed; 3]].concat());
    assert_eq!(metrics.stopped(Veto::Attempts).get(), 1);
    assert_eq!(metrics.stopped(Veto::Started).get(), 0);
    assert_eq!(metrics.recovered.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_on_the_way_to_the_rest_are_retried_as_the_policy_says() {
    let refused = Step::Fail(UpstreamErrorKind::ConnectRefused, Delivery::Never);
    let rest = || part("bytes 3-9/10", 7, vec![data("3456789")]);
    let steps = || [breaks(&TAGGED, "012"), answer(502), refused.clone(), rest()];
    let stage_that_ends = stage(steps());
    assert_eq!(get(&stage_that_ends).await, whole());
    assert_eq!(stage_that_ends.attempts_at(), [0, 100, 300, 700]);
    assert_eq!(asked(&stage_that_ends, 4), ["bytes=3-9", "\"v1\""]);
    let policy = RetryPolicy { max_attempts: 3, ..policy() };
    let stage = Stage::with(steps(), 1, policy, BudgetSettings::default());
    assert_eq!(get(&stage).await, cut("012"));
    assert_eq!(broken(&stage.route.metrics), [BreakEnd::Failed]);
    assert_eq!(stage.route.metrics.stopped(Veto::Attempts).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_the_policy_does_not_retry_ends_it() {
    let stage = stage([breaks(&TAGGED, "012"), answer(503)]);
    assert_eq!(get(&stage).await, cut("012"));
    assert_eq!(broken(&stage.route.metrics), [BreakEnd::Failed]);
    assert_eq!(stage.route.metrics.stopped(Veto::Started).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_rest_ends_it_and_nothing_of_it_is_passed_on() {
    let other = |fields: &[(&'static str, &'static str)], status, length| {
        Step::Stream(status, fields.to_vec(), Some(length), vec![data("XXXXXXX")])
    };
    let (tag, range) = (("etag", "\"v1\""), ("content-range", "bytes 3-9/10"));
    for step in [
        other(&TAGGED, 200, 10),
        other(&[("etag", "\"v2\""), range], 206, 7),
        other(&[tag, ("content-range", "bytes 2-8/10")], 206, 7),
        other(&[tag, ("content-range", "bytes 3-9/11")], 206, 7),
        other(&[tag, range, ("content-encoding", "gzip")], 206, 7),
        other(&[tag, range], 206, 8),
        answer(304),
        answer(416),
    ] {
        let what = format!("{step:?}");
        let stage = stage([breaks(&TAGGED, "012"), step]);
        assert_eq!(get(&stage).await, cut("012"), "{what}");
        let metrics = &stage.route.metrics;
        assert_eq!(broken(metrics), [BreakEnd::Changed], "{what}");
        assert_eq!(metrics.stopped(Veto::Started).get(), 1, "{what}");
        assert_eq!(metrics.recovered.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_gone_on_with_breaks_at_once_and_is_counted_by_its_reason() {
    let weak = [("etag", "W/\"v1\""), ("accept-ranges", "bytes")];
    for (fields, why) in [
        (&weak[..], BreakEnd::Validator),
        (&TAGGED[..1], BreakEnd::Ranges),
        (&TAGGED[1..], BreakEnd::Validator),
    ] {
        let stage = stage([breaks(fields, "012")]);
        assert_eq!(get(&stage).await, cut("012"));
        assert_eq!(broken(&stage.route.metrics), [why]);
    }
    let chunked = Step::Stream(200, TAGGED.to_vec(), None, vec![data("012"), Part::Break]);
    let no_length = stage([chunked]);
    assert_eq!(get(&no_length).await, cut("012"));
    assert_eq!(broken(&no_length.route.metrics), [BreakEnd::Length]);
    let post = stage([breaks(&TAGGED, "012")]);
    let response = post.send(Method::POST, ScriptedBody::empty()).await;
    assert_eq!(read(response.into_body()).await, cut("012"));
    assert_eq!(broken(&post.route.metrics), [BreakEnd::Off]);
    let put = stage([breaks(&TAGGED, "012")]);
    let response = put.send(Method::PUT, ScriptedBody::empty()).await;
    assert_eq!(read(response.into_body()).await, cut("012"));
    assert_eq!(broken(&put.route.metrics), [BreakEnd::Method]);
    let resume = ResumeSettings { enabled: false, ..ResumeSettings::default() };
    let off = RetryPolicy { resume, ..policy() };
    let off = Stage::with([breaks(&TAGGED, "012")], 1, off, BudgetSettings::default());
    assert_eq!(get(&off).await, cut("012"));
    assert_eq!(broken(&off.route.metrics), [BreakEnd::Off]);
}

#[tokio::test(start_paused = true)]
async fn a_resumption_takes_no_longer_than_resume_time_and_the_deadline_does_not_count() {
    let resume = ResumeSettings { time: Duration::from_secs(1), ..ResumeSettings::default() };
    let late = vec![data("012"), Part::Pause(Duration::from_secs(50)), Part::Break];
    let first = || Step::Stream(200, TAGGED.to_vec(), Some(10), late.clone());
    let stage = |steps: Vec<Step>| {
        Stage::with(steps, 1, RetryPolicy { resume, ..policy() }, BudgetSettings::default())
    };
    let in_time = stage(vec![first(), part("bytes 3-9/10", 7, vec![data("3456789")])]);
    assert_eq!(get(&in_time).await, whole());
    assert_eq!(in_time.attempts_at(), [0, 50_100]);
    let hangs = stage(vec![first(), Step::Hang]);
    assert_eq!(get(&hangs).await, cut("012"));
    assert_eq!(hangs.start.elapsed().as_millis(), 51_000);
    assert_eq!(broken(&hangs.route.metrics), [BreakEnd::Failed]);
    let waits = Duration::from_millis(90);
    let hasty = RetryPolicy { resume: ResumeSettings { time: waits, ..resume }, ..policy() };
    let hasty = Stage::with([breaks(&TAGGED, "012")], 1, hasty, BudgetSettings::default());
    assert_eq!(get(&hasty).await, cut("012"));
    assert_eq!(hasty.route.metrics.stopped(Veto::Deadline).get(), 1, "the wait alone is longer");
}

#[tokio::test(start_paused = true)]
async fn a_resumption_takes_from_the_budget_like_any_retry_and_adds_nothing_to_it() {
    let second = Duration::from_secs(1);
    let again = || part("bytes 3-9/10", 7, vec![Part::Break]);
    // A retry for the request, and one that lies there.
    let budget = BudgetSettings::new(1.0, 1, second).unwrap();
    let stage = Stage::with([breaks(&TAGGED, "012"), again(), again(), again()], 1, policy(), budget);
    assert_eq!(get(&stage).await, cut("012"));
    assert_eq!(stage.attempts_at(), [0, 100, 300]);
    assert_eq!(stage.route.metrics.stopped(Veto::Budget).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tag_is_good_everywhere_and_a_date_only_where_it_is_from() {
    let rest = |fields: &[(&'static str, &'static str)]| {
        let fields = [fields, &[("content-range", "bytes 3-9/10")]].concat();
        Step::Stream(206, fields, Some(7), vec![data("3456789")])
    };
    let by_tag = Stage::with([breaks(&TAGGED, "012"), rest(&TAGGED)], 2, policy(), BudgetSettings::default());
    assert_eq!(get(&by_tag).await, whole());
    let ports = by_tag.ports();
    assert_ne!(ports[0], ports[1], "the one that broke is not the first to be asked");
    let refused = Step::Fail(UpstreamErrorKind::ConnectRefused, Delivery::Never);
    let steps = [breaks(&DATED, "012"), refused, rest(&DATED)];
    let by_date = Stage::with(steps, 2, policy(), BudgetSettings::default());
    assert_eq!(get(&by_date).await, whole());
    let ports = by_date.ports();
    assert_eq!(ports, [ports[0]; 3]);
    assert_eq!(by_date.attempts_at(), [0, 100, 300], "no attempt at once where one has just failed");
    assert_eq!(asked(&by_date, 3), ["bytes=3-9", DATED[0].1]);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_the_caller_asked_for_is_gone_on_with_inside_its_bounds() {
    let stage = stage([
        part("bytes 2-6/10", 5, vec![data("23"), Part::Break]),
        part("bytes 4-6/10", 3, vec![data("456")]),
    ]);
    let headers = [("range", "bytes=2-6"), ("if-range", "\"v1\"")];
    let response = stage.send_with(Method::GET, &headers, ScriptedBody::empty()).await;
    assert_eq!(response.status(), 206);
    assert_eq!(response.headers()["content-range"], "bytes 2-6/10");
    assert_eq!(read(response.into_body()).await, ("23456".into(), true));
    assert_eq!(asked(&stage, 2), ["bytes=4-6", "\"v1\""]);
}

#[tokio::test(start_paused = true)]
async fn what_was_held_before_it_flowed_counts_as_delivered() {
    let hold = HoldLimits { size: 1 << 10, time: Duration::from_millis(20) };
    let pause = Part::Pause(Duration::from_secs(1));
    let first = vec![data("01"), pause, data("2"), Part::Break];
    let steps =
        [Step::Stream(200, TAGGED.to_vec(), Some(10), first), part("bytes 3-9/10", 7, vec![data("3456789")])];
    let stage = Stage::with(steps, 1, RetryPolicy { hold, ..policy() }, BudgetSettings::default());
    assert_eq!(get(&stage).await, whole());
    assert_eq!(asked(&stage, 2)[0], "bytes=3-9");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_a_resumption_ends_it() {
    for second in [Step::Hang, answer(502)] {
        let stage = stage([breaks(&TAGGED, "012"), second]);
        let mut body = stage.get().await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "012");
        let waited = tokio::time::timeout(Duration::from_millis(150), body.frame()).await;
        assert!(waited.is_err(), "the rest has not come");
        drop(body);
        let metrics = &stage.route.metrics;
        assert_eq!(broken(metrics), [BreakEnd::Client]);
        assert_eq!((metrics.client_aborts.get(), metrics.in_flight.get()), (1, 0));
        let endpoints = stage.cluster.endpoints();
        assert_eq!(endpoints[0].in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_trailers_of_a_part_are_not_those_of_the_whole() {
    let trailers = [(http::HeaderName::from_static("x-sum"), "1".parse().unwrap())];
    let trailers = Part::Trailers(trailers.into_iter().collect());
    let steps = [breaks(&TAGGED, "012"), part("bytes 3-9/10", 7, vec![data("3456789"), trailers])];
    let collected = stage(steps).get().await.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().map(http::HeaderMap::len).unwrap_or_default(), 0);
    assert_eq!(collected.to_bytes(), "0123456789");
}

#[tokio::test(start_paused = true)]
async fn only_an_answer_that_may_need_its_request_again_keeps_it() {
    let whole = || Step::Stream(200, TAGGED.to_vec(), Some(3), vec![data("012")]);
    let hold = HoldLimits::default();
    for (step, hold, kept) in [
        (whole(), hold, 0),
        (whole(), policy().hold, 1),
        (Step::Stream(200, Vec::new(), Some(3), vec![data("012")]), policy().hold, 0),
        (answer(200), policy().hold, 0),
    ] {
        let stage = Stage::with([step], 1, RetryPolicy { hold, ..policy() }, BudgetSettings::default());
        let response = stage.get().await;
        assert_eq!(Rc::strong_count(&stage.proxy), 1 + kept);
        drop(response);
        assert_eq!(Rc::strong_count(&stage.proxy), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_before_the_caller_takes_more() {
    let stage = stage([breaks(&TAGGED, "012"), part("bytes 3-9/10", 7, vec![data("3456789")])]);
    let mut body = stage.get().await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "012");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(stage.attempts_at(), [0]);
    assert_eq!(read(body).await, ("3456789".into(), true));
    assert_eq!(stage.attempts_at(), [0, 60_100]);
}
