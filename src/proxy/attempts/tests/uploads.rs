//! Uploads whose caller is slow, and uploads whose upstream is.

use super::*;

/// A body of which all has come, in so many parts of one byte.
fn drips(count: usize) -> ScriptedBody {
    let (send, body) = ScriptedBody::open(None);
    (0..count).for_each(|_| send.send("x".into()).unwrap());
    body
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_takes_a_byte_now_and_then_is_cut_off_at_the_deadline() {
    for pause in [9, 3] {
        let stage = Stage::new([Step::Trickle(pause * SECOND)]);
        let response = stage.send(Method::POST, drips(1000)).await;
        assert_eq!(response.status(), 504);
        let took = stage.start.elapsed();
        assert!((25 * SECOND..26 * SECOND).contains(&took), "{took:?} at a byte each {pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_through_an_upstream_that_is_slow_and_steady_outlasts_the_deadline() {
    let (send, body) = ScriptedBody::open(None);
    (0..60).for_each(|_| send.send(vec![b'x'; 1000].into()).unwrap());
    drop(send);
    let stage = Stage::new([Step::Trickle(SECOND)]);
    assert_eq!(stage.send(Method::POST, body).await.status(), 200);
    assert_eq!(stage.start.elapsed(), 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_slow_keeps_nobody_from_the_upstream_and_counts_again_when_its_body_has_gone_out() {
    let one = std::num::NonZeroU32::MIN;
    let slow = Step::Answer(10 * SECOND, 200, Vec::new(), "");
    let stage = Stage::with_limit(one, [slow, answer(200)], exact_policy());
    let (send, body) = ScriptedBody::open(None);
    let upload = stage.send(Method::POST, body);
    let others = async {
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(stage.cluster.admission.in_flight(), 0, "it waits for its caller");
        assert_eq!(stage.get().await.status(), 200);
        send.send(vec![b'x'; 5000].into()).unwrap();
        drop(send);
        tokio::time::sleep(SECOND).await;
        assert_eq!(stage.cluster.admission.in_flight(), 1, "it waits for the upstream");
        assert_eq!(stage.get().await.status(), 503);
    };
    let (response, ()) = tokio::join!(upload, others);
    assert_eq!(response.status(), 200);
    assert_eq!(stage.cluster.admission.in_flight(), 0);
    // 10 s of the upstream, and nothing of the other two.
    let timed = &stage.cluster.metrics.attempt_duration;
    assert!((9.9..10.2).contains(&timed.get_sample_sum()), "{}", timed.get_sample_sum());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_over_a_moment_in_which_the_caller_pauses() {
    let stage = Stage::with_limit(std::num::NonZeroU32::MIN, [answer(200)], exact_policy());
    let (send, body) = ScriptedBody::open(None);
    let upload = stage.send(Method::POST, body);
    let look = async {
        tokio::time::sleep(Duration::from_millis(90)).await;
        assert_eq!(stage.cluster.admission.in_flight(), 1);
        drop(send);
    };
    assert_eq!(tokio::join!(upload, look).0.status(), 200);
}
