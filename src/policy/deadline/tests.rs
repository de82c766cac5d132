//! Which limit comes first, and whose time counts.

use proptest::prelude::*;

use super::*;

const LIMITS: TimeLimits = TimeLimits {
    deadline: Duration::from_secs(25),
    per_try: Duration::from_secs(10),
    caller_silence: Duration::from_secs(30),
};

fn received(at: Instant) -> Upload {
    Upload::Received { at, stalled: Duration::ZERO }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_slow_upload_does_not_eat_the_deadline() {
    let start = Instant::now();
    let uploading = Upload::AwaitingCaller { since: start + seconds(100), stalled: Duration::ZERO };
    assert_eq!(LIMITS.deadline_at(uploading), None);
    assert_eq!(LIMITS.left(uploading, start + seconds(100)), seconds(25));
    let body = received(start + seconds(120));
    assert_eq!(LIMITS.deadline_at(body), Some(start + seconds(145)));
    assert_eq!(LIMITS.first(start, body, Successor::Possible), (start + seconds(130), Limit::PerTry));
}

#[test]
fn per_try_is_lifted_where_no_retry_could_follow_and_the_deadline_stays() {
    let start = Instant::now();
    let body = received(start);
    assert_eq!(LIMITS.first(start, body, Successor::Possible), (start + seconds(10), Limit::PerTry));
    assert_eq!(LIMITS.first(start, body, Successor::Impossible), (start + seconds(25), Limit::Deadline));
}

#[test]
fn an_attempt_gets_the_lesser_of_per_try_and_what_is_left() {
    let start = Instant::now();
    let late = start + seconds(20);
    assert_eq!(
        LIMITS.first(late, received(start), Successor::Possible),
        (start + seconds(25), Limit::Deadline)
    );
}

#[test]
fn a_silent_caller_and_an_upstream_that_takes_nothing_are_told_apart() {
    let start = Instant::now();
    let since = start + seconds(3);
    assert_eq!(
        LIMITS.first(start, Upload::AwaitingCaller { since, stalled: Duration::ZERO }, Successor::Possible),
        (start + seconds(33), Limit::CallerSilent)
    );
    assert_eq!(
        LIMITS.first(start, Upload::AwaitingUpstream { since, stalled: Duration::ZERO }, Successor::Possible),
        (start + seconds(13), Limit::UpstreamStalled)
    );
    assert_eq!(
        LIMITS.first(
            start,
            Upload::AwaitingUpstream { since, stalled: Duration::ZERO },
            Successor::Impossible
        ),
        (start + seconds(28), Limit::UpstreamStalled)
    );
}

#[test]
fn nothing_is_left_after_the_deadline() {
    let start = Instant::now();
    assert_eq!(LIMITS.left(received(start), start + seconds(26)), Duration::ZERO);
}

#[test]
fn time_in_which_the_upload_waits_for_the_upstream_counts_against_the_deadline() {
    let start = Instant::now();
    let (since, stalled) = (start + seconds(40), seconds(20));
    let waits = Upload::AwaitingUpstream { since, stalled };
    for successor in [Successor::Possible, Successor::Impossible] {
        assert_eq!(LIMITS.first(start, waits, successor), (start + seconds(45), Limit::UpstreamStalled));
    }
    assert_eq!(LIMITS.left(waits, start + seconds(43)), seconds(2));
    // A later attempt gets no deadline of its own.
    assert_eq!(
        LIMITS.first(start + seconds(44), waits, Successor::Possible),
        (start + seconds(45), Limit::UpstreamStalled)
    );
    let received = Upload::Received { at: since, stalled };
    assert_eq!(LIMITS.deadline_at(received), Some(start + seconds(45)));
    assert_eq!(LIMITS.left(Upload::AwaitingCaller { since, stalled }, start + seconds(90)), seconds(5));
}

#[test]
fn a_byte_now_and_then_does_not_end_a_stall_and_a_steady_upload_owes_nothing() {
    let mut trickle = Stall::default();
    for _ in 0..3 {
        trickle.wait(seconds(9));
        trickle.take(1);
    }
    assert_eq!(trickle.time(), Duration::from_millis(26_994));
    let mut steady = Stall::default();
    for _ in 0..1000 {
        steady.wait(seconds(1));
        steady.take(64 << 10);
    }
    assert_eq!(steady.time(), Duration::ZERO);
    // What was taken fast pays for no later stall.
    steady.wait(seconds(30));
    assert_eq!(steady.time(), seconds(30));
}

proptest! {
    #[test]
    fn no_upstream_holds_an_upload_for_longer_than_the_deadline_and_what_its_bytes_are_worth(
        parts in prop::collection::vec((0u64..20_000, 0u64..5000), 0..60),
    ) {
        let (mut stall, mut waited, mut taken) = (Stall::default(), Duration::ZERO, 0u64);
        for (ms, bytes) in parts {
            let wait = Duration::from_millis(ms);
            // The wait that the deadline allows is the one that `first` gives.
            let since = Instant::now();
            let upload = Upload::AwaitingUpstream { since, stalled: stall.time() };
            let (until, _) = LIMITS.first(since, upload, Successor::Impossible);
            if since + wait > until {
                break;
            }
            stall.wait(wait);
            stall.take(bytes);
            (waited, taken) = (waited + wait, taken + bytes);
        }
        let worth = Duration::from_micros(taken * 1_000_000 / Stall::LEAST_RATE);
        prop_assert!(waited <= LIMITS.deadline + worth);
        prop_assert!(stall.time() >= waited.saturating_sub(worth));
    }

    #[test]
    fn the_callers_time_is_never_the_upstreams(
        silence in 0u64..1_000_000, stalled in 0u64..30_000, asked in 0u64..1_000_000,
    ) {
        let (since, stalled) = (Instant::now(), Duration::from_millis(stalled));
        let upload = Upload::AwaitingCaller { since, stalled };
        let limits = TimeLimits { caller_silence: Duration::from_millis(silence), ..LIMITS };
        prop_assert_eq!(
            limits.first(since, upload, Successor::Possible),
            (since + limits.caller_silence, Limit::CallerSilent)
        );
        let left = limits.left(upload, since + Duration::from_millis(asked));
        prop_assert_eq!(left, limits.deadline.saturating_sub(stalled));
    }
}
