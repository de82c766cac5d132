//! Outages in paused time: who waits, who is answered, and what it costs the backend.

use std::rc::Rc;

use http::{Method, Response};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::*;
use crate::error::{Delivery, UpstreamErrorKind};
use crate::policy::backoff::{Backoff, Mode};
use crate::policy::outage::OutageQueueSettings;
use crate::policy::verdict::Veto;
use crate::proxy::body::ResponseBody;
use crate::proxy::testing::{ScriptedBody, Stage, Step, answer, exact_policy, text};
use crate::record::metrics::OutageQueueMetrics;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Answers within a millisecond, but with 502 from 1 s to 1.4 s.
fn bad_for_400_ms(at: Duration) -> Step {
    let status = if (ms(1000)..ms(1400)).contains(&at) { 502 } else { 200 };
    Step::Answer(ms(1), status, Vec::new(), "")
}

/// The same, but refused from 1 s to 1.3 s.
fn refused_for_300_ms(at: Duration) -> Step {
    if (ms(1000)..ms(1300)).contains(&at) { refused() } else { Step::Answer(ms(1), 200, Vec::new(), "") }
}

fn refused() -> Step {
    Step::Fail(UpstreamErrorKind::ConnectRefused, Delivery::Never)
}

fn always_502(_: Duration) -> Step {
    answer(502)
}

fn stage(then: fn(Duration) -> Step) -> Rc<Stage> {
    Rc::new(Stage::with_outage_queue(OutageQueueSettings::default(), exact_policy(), then))
}

/// The counters of the stage's outage queue.
fn counted(stage: &Stage) -> OutageQueueMetrics {
    stage.metrics.outage_queue("hosp")
}

/// So many requests, one after each `pause`; their statuses, and when each was answered in milliseconds.
async fn load(stage: &Rc<Stage>, count: u32, pause: Duration, method: fn(u32) -> Method) -> Vec<(u16, u128)> {
    let requests = async {
        let mut requests = JoinSet::new();
        for number in 0..count {
            let stage = stage.clone();
            requests.spawn_local(async move {
                sleep(pause * number).await;
                let method = method(number);
                let body =
                    if method == Method::GET { ScriptedBody::empty() } else { ScriptedBody::of(&["x"]) };
                let status = stage.send(method, body).await.status().as_u16();
                (number, status, stage.start.elapsed().as_millis())
            });
        }
        requests.join_all().await
    };
    let mut answered = LocalSet::new().run_until(requests).await;
    answered.sort_unstable();
    answered.into_iter().map(|(_, status, at)| (status, at)).collect()
}

/// A hundred requests a second for five seconds; how many did not get 200.
async fn lost(stage: &Rc<Stage>, method: fn(u32) -> Method) -> usize {
    load(stage, 500, ms(10), method).await.iter().filter(|(status, _)| *status != 200).count()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_400_ms_costs_no_request_and_few_attempts() {
    let stage = stage(bad_for_400_ms);
    assert_eq!(lost(&stage, |_| Method::GET).await, 0);
    let attempts = stage.attempts_at().len();
    assert!(attempts <= 510, "{attempts} attempts for 500 requests");
    assert_eq!((counted(&stage).outages.get(), stage.cluster.outage_queue.waiting()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_no_more_where_retries_follow_almost_at_once() {
    for outage in [bad_for_400_ms, refused_for_300_ms] {
        let backoff = Backoff::default().in_mode(Mode::Adaptive);
        let retry = RetryPolicy { backoff, ..exact_policy() };
        let stage = Rc::new(Stage::with_outage_queue(OutageQueueSettings::default(), retry, outage));
        assert_eq!(lost(&stage, |_| Method::GET).await, 0);
        let attempts = stage.attempts_at().len();
        assert!(attempts <= 510, "{attempts} attempts for 500 requests");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_connections_cost_no_request_and_send_no_post_twice() {
    let stage = stage(refused_for_300_ms);
    assert_eq!(lost(&stage, |number| if number % 2 == 0 { Method::POST } else { Method::GET }).await, 0);
    let sent = stage.bodies().into_iter().flatten().filter(|body| !body.is_empty()).count();
    assert_eq!(sent, 250, "every POST once");
}

#[tokio::test(start_paused = true)]
async fn posts_alone_get_through_refused_connections() {
    let stage = stage(refused_for_300_ms);
    assert_eq!(lost(&stage, |_| Method::POST).await, 0);
    assert_eq!(stage.bodies().into_iter().flatten().count(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_post_probes_only_where_nobody_else_can() {
    // The posts that are sent before the outage is one are lost, for they may not be sent again; those after it wait.
    let stage = stage(bad_for_400_ms);
    assert_eq!(lost(&stage, |_| Method::POST).await, 3);
}

#[tokio::test(start_paused = true)]
async fn one_request_alone_waits_with_its_last_attempt() {
    let stage = stage(bad_for_400_ms);
    sleep(ms(1000)).await;
    assert_eq!(stage.get().await.status(), 200);
    // Three in a row are an outage; the fourth is the last, and nobody else can probe.
    assert_eq!(stage.attempts_at(), [1000, 1101, 1302, 2303]);
}

/// A stage whose cluster has been found down at 300 ms, with three requests' attempts spent on it.
async fn down(queue: OutageQueueSettings, then: fn(Duration) -> Step) -> Stage {
    let retry = RetryPolicy { max_attempts: 3, ..exact_policy() };
    let stage = Stage::with_outage_queue(queue, retry, then);
    assert_eq!(stage.get().await.status(), 502);
    assert_eq!(stage.attempts_at(), [0, 100, 300]);
    stage
}

fn refusal(response: &Response<ResponseBody>) -> (u16, Option<&str>) {
    (response.status().as_u16(), response.headers().get("retry-after").and_then(|value| value.to_str().ok()))
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_gives_each_its_one_plain_attempt() {
    let queue = OutageQueueSettings::new(2, ms(10_000), 3).unwrap();
    let stage = down(queue, always_502).await;
    let (one, two) = (stage.get(), stage.get());
    let third = async {
        tokio::task::yield_now().await;
        assert_eq!(stage.get().await.status(), 502, "the backend's own answer");
        assert_eq!((stage.start.elapsed(), stage.attempts_at().len()), (ms(300), 4));
        assert_eq!((stage.cluster.outage_queue.waiting(), counted(&stage).tried.get()), (2, 1));
        assert_eq!(stage.route.metrics.stopped(Veto::Outage).get(), 1, "no retry follows it");
    };
    tokio::join!(one, two, third);
    assert_eq!(counted(&stage).refused.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_short_deadline_leaves_half_of_it_to_the_attempt() {
    let stage = down(OutageQueueSettings::default(), |at| {
        if at < ms(301) { answer(502) } else { Step::Answer(ms(5), 200, Vec::new(), "") }
    });
    let stage = stage.await.with_route(|route| route.settings.deadline = ms(21));
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!((stage.attempts_at()[3..].to_vec(), stage.start.elapsed()), (vec![308], ms(313)));
    assert_eq!(counted(&stage).tried.get(), 1);
    assert!(!stage.cluster.outage_queue.is_in_force(), "its success ends the outage");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_failed_before_the_outage_leaves_the_queue_with_time_for_an_attempt() {
    fn then(at: Duration) -> Step {
        match at.as_millis() {
            50 => answer(200),
            0..68 => answer(502),
            68..290 => Step::Hang,
            _ => Step::Answer(ms(100), 200, Vec::new(), ""),
        }
    }
    let stage = Stage::with_outage_queue(OutageQueueSettings::default(), exact_policy(), then);
    let stage = &stage.with_route(|route| route.settings.deadline = ms(505));
    let at = async |time| {
        sleep(ms(time)).await;
        (stage.get().await.status().as_u16(), stage.start.elapsed())
    };
    // The second ends the row of the first, whose retry comes when the next three have found the outage. The probe of the
    // last hangs until the deadline.
    let all = tokio::join!(at(0), at(50), at(60), at(63), at(66), at(75));
    // It came at 100 ms with 400 ms to use, and leaves half of that to its attempt.
    assert_eq!(all.0, (200, ms(400)));
    assert_eq!((all.1.0, counted(stage).tried.get()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_max_wait_and_an_attempt_of_its_own() {
    fn hangs_after_502(at: Duration) -> Step {
        if at < ms(301) {
            answer(502)
        } else if at < ms(700) {
            Step::Hang
        } else {
            answer(502)
        }
    }
    let queue = OutageQueueSettings::new(10, ms(500), 3).unwrap();
    let stage = down(queue, hangs_after_502).await;
    // The first probes, and hangs; the second waits in vain.
    let hanging = stage.get();
    let waiting = async {
        tokio::task::yield_now().await;
        assert_eq!(stage.get().await.status(), 502);
        assert_eq!(stage.start.elapsed(), ms(800));
    };
    let _ = timeout(ms(2000), async { tokio::join!(hanging, waiting) }).await;
    assert_eq!((counted(&stage).tried.get(), counted(&stage).expired.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_has_failed_in_the_outage_is_refused_when_its_time_is_over() {
    fn hangs_up_for_ever(at: Duration) -> Step {
        if at < ms(301) {
            answer(502)
        } else {
            Step::Fail(UpstreamErrorKind::ConnectionTerminated, Delivery::Maybe)
        }
    }
    let queue = OutageQueueSettings::new(10, ms(150), 3).unwrap();
    let stage = down(queue, hangs_up_for_ever).await;
    let response = stage.get().await;
    assert_eq!(refusal(&response), (503, Some("1")));
    assert_eq!(response.headers()["proxy-status"], "stent; error=destination_unavailable");
    assert_eq!((stage.attempts_at()[3..].to_vec(), counted(&stage).expired.get()), (vec![313], 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_spends_no_attempt_while_the_cluster_is_down() {
    fn refused_for_a_second(at: Duration) -> Step {
        if at < ms(1000) { refused() } else { answer(200) }
    }
    let retry = RetryPolicy { max_attempts: 2, ..exact_policy() };
    let stage =
        Rc::new(Stage::with_outage_queue(OutageQueueSettings::default(), retry, refused_for_a_second));
    let answered =
        load(&stage, 20, ms(20), |number| if number % 2 == 0 { Method::POST } else { Method::GET });
    let lost = answered.await.iter().filter(|(status, _)| *status != 200).count();
    // The first may fail twice before three failures are an outage.
    assert!(lost <= 1, "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_frees_its_place_and_its_probe() {
    let queue = OutageQueueSettings::new(1, ms(10_000), 3).unwrap();
    let stage = down(queue, |at| if at < ms(301) { answer(502) } else { answer(200) }).await;
    assert!(timeout(ms(5), stage.get()).await.is_err());
    assert_eq!((stage.cluster.outage_queue.waiting(), counted(&stage).left.get()), (0, 1));
    assert_eq!(stage.get().await.status(), 200);
    assert_eq!(stage.attempts_at()[3..], [313]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_leaves_goes_to_the_next() {
    fn hangs_once(at: Duration) -> Step {
        if at < ms(301) {
            answer(502)
        } else if at < ms(401) {
            Step::Hang
        } else {
            answer(200)
        }
    }
    let stage = down(OutageQueueSettings::default(), hangs_once).await;
    let first = timeout(ms(250), stage.get());
    let second = async {
        tokio::task::yield_now().await;
        assert_eq!(stage.get().await.status(), 200);
        assert_eq!(stage.start.elapsed(), ms(550));
    };
    let (first, ()) = tokio::join!(first, second);
    assert!(first.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_queue_goes_oldest_first_and_costs_neither_attempts_nor_budget() {
    let stage = down(OutageQueueSettings::default(), |at| {
        if at < ms(550) { answer(502) } else { Step::Answer(ms(10), 200, Vec::new(), "") }
    });
    let stage = Rc::new(stage.await);
    let budget = stage.cluster.budget.available(stage.start.elapsed());
    let answered = load(&stage, 7, Duration::from_micros(1), |_| Method::GET).await;
    assert!(answered.iter().all(|(status, _)| *status == 200));
    let at: Vec<_> = answered.into_iter().map(|(_, at)| at).collect();
    // Two probe in vain, after an eighth and a quarter of their pause, a third after half; then two go, and four.
    assert_eq!(at, [583, 593, 573, 583, 593, 593, 593]);
    assert!(stage.cluster.budget.available(stage.start.elapsed()) >= budget);
    assert_eq!(stage.attempts_at().len(), 3 + 2 + 7);
    assert_eq!(counted(&stage).served.get(), 9);
}

#[tokio::test(start_paused = true)]
async fn what_the_backend_asked_for_is_waited_for_before_the_queue() {
    fn asks(at: Duration) -> Step {
        let asked = vec![("retry-after", "1".to_owned())];
        if at < ms(1) { Step::Answer(ms(0), 502, asked, "") } else { answer(200) }
    }
    let stage = stage(asks);
    let answered = load(&stage, 3, ms(0), |_| Method::GET).await;
    assert!(answered.iter().all(|(status, _)| *status == 200));
    assert!(stage.attempts_at()[3..].iter().all(|at| *at >= 1000), "{:?}", stage.attempts_at());
}

#[tokio::test(start_paused = true)]
async fn an_outage_without_end_gives_the_last_real_answer() {
    let stage = Stage::with_outage_queue(OutageQueueSettings::default(), exact_policy(), |_| {
        Step::Answer(ms(0), 502, Vec::new(), "the real one")
    });
    let response = stage.get().await;
    assert_eq!(response.status(), 502);
    assert_eq!(text(response).await, "the real one");
}
