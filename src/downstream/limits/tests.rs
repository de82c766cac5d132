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
    let state = Rc::new(State::new(Instant::now()));
    assert_eq!(lives(&state).await, 75);
    drop(state.begin_exchange());
    assert_eq!(lives(&state).await, 75);
}

#[tokio::test(start_paused = true)]
async fn a_head_has_10_seconds_in_all_not_per_byte() {
    let state = Rc::new(State::new(Instant::now()));
    state.note_read();
    sleep(6 * SECOND).await;
    state.note_read();
    assert_eq!(lives(&state).await, 4);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_may_last_as_long_as_the_caller_takes_its_answer() {
    let state = Rc::new(State::new(Instant::now()));
    state.note_read();
    let _running = state.begin_exchange();
    assert_eq!(lives(&state).await, u64::MAX);
    state.note_write(true);
    state.note_write(true);
    assert_eq!(lives(&state).await, 60);
    state.note_write(false);
    assert_eq!(lives(&state).await, u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_draining_connection_is_heard_out_for_a_second() {
    let state = Rc::new(State::new(Instant::now()));
    state.is_draining.set(true);
    assert_eq!(lives(&state).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_several_exchanges_is_idle_after_the_last() {
    let state = Rc::new(State::new(Instant::now()));
    let (one, other) = (state.begin_exchange(), state.begin_exchange());
    drop(one);
    assert_eq!(lives(&state).await, u64::MAX);
    drop(other);
    assert_eq!(lives(&state).await, 75);
}

#[tokio::test(start_paused = true)]
async fn bytes_on_an_http2_connection_neither_begin_a_head_nor_keep_it_open() {
    let state = Rc::new(State::new(Instant::now()));
    state.begin_http2();
    sleep(20 * SECOND).await;
    state.note_read();
    assert_eq!(lives(&state).await, 55);
}

/// Whether the connection comes to rest within a minute.
async fn rests(state: &Rc<State>) -> bool {
    let (_phase, phase) = watch::channel(Phase::Open);
    let mut limits = Limits::new(state.clone(), Arc::new(ListenerSettings::for_tests()), phase, None);
    tokio::time::timeout(60 * SECOND, limits.event()).await == Ok(Event::Resting)
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_of_http1_rests_once_after_each_request() {
    let state = Rc::new(State::new(Instant::now()));
    assert!(!rests(&state).await, "there was no request yet");
    drop(state.begin_exchange());
    assert!(rests(&state).await);
    assert!(!rests(&state).await);
    drop(state.begin_exchange());
    assert!(rests(&state).await);
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_something_is_under_way_does_not_rest() {
    let state = Rc::new(State::new(Instant::now()));
    let running = state.begin_exchange();
    assert!(!rests(&state).await, "an exchange");
    drop(running);
    state.note_write(true);
    assert!(!rests(&state).await, "the last of an answer");
    state.note_write(false);
    state.note_read();
    assert!(!rests(&state).await, "a head");
    state.begin_http2();
    assert!(!rests(&state).await, "streams, for all that is known here");
}
