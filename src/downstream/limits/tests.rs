//! The two timers that hyper has as one, and the one that it does not have.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// How long the connection lives on if nothing more happens, in seconds.
async fn lives(state: &State) -> u64 {
    let from = Instant::now();
    while let Some(at) = state.next_check(&ListenerSettings::for_tests(), Instant::now()) {
        assert!(at > Instant::now(), "a check that is due is no progress");
        tokio::time::sleep_until(at).await;
        if from.elapsed() > 1000 * SECOND {
            return u64::MAX;
        }
    }
    from.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_outlives_the_load_balancers_60_seconds() {
    let state = State::new(Instant::now());
    assert_eq!(lives(&state).await, 75);
    state.begin_exchange();
    state.end_exchange();
    assert_eq!(lives(&state).await, 75);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_10_seconds_in_all_not_per_byte() {
    let state = State::new(Instant::now());
    state.note_read();
    sleep(6 * SECOND).await;
    state.note_read();
    assert_eq!(lives(&state).await, 4);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_may_last_as_long_as_the_caller_takes_its_answer() {
    let state = State::new(Instant::now());
    state.note_read();
    state.begin_exchange();
    assert_eq!(lives(&state).await, u64::MAX);
    state.note_write(true);
    state.note_write(true);
    assert_eq!(lives(&state).await, 60);
    state.note_write(false);
    assert_eq!(lives(&state).await, u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_draining_connection_is_heard_out_for_a_second() {
    let state = State::new(Instant::now());
    state.is_draining.set(true);
    assert_eq!(lives(&state).await, 1);
}
