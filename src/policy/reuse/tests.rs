//! What is learned of an endpoint's idle connections, and for how long.

use super::*;
use proptest::prelude::*;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_new_endpoint_is_trusted_with_ten_milliseconds() {
    assert_eq!(IdleLimit::default().reusable(None, seconds(1)), ms(10));
}

#[test]
fn half_of_what_connections_have_survived_is_used() {
    let limit = IdleLimit::default();
    limit.note_survival(seconds(4));
    limit.note_survival(ms(300));
    assert_eq!(limit.reusable(None, seconds(1)), seconds(2));
}

#[test]
fn one_close_outweighs_all_that_survive() {
    let limit = IdleLimit::default();
    limit.note_survival(seconds(4));
    limit.note_close(ms(50), seconds(10));
    limit.note_survival(seconds(4));
    assert_eq!(limit.reusable(None, seconds(10)), ms(25));
}

#[test]
fn a_close_is_forgotten_within_minutes() {
    let limit = IdleLimit::default();
    limit.note_close(ms(50), seconds(10));
    limit.note_survival(seconds(4));
    assert_eq!(limit.known(seconds(40)), ms(100));
    assert_eq!(limit.known(seconds(70)), ms(200));
    assert_eq!(limit.known(seconds(10 + 240)), seconds(4));
}

#[test]
fn after_a_close_survival_is_to_be_shown_anew() {
    let limit = IdleLimit::default();
    limit.note_survival(seconds(4));
    limit.note_close(ms(50), seconds(10));
    assert_eq!(limit.known(seconds(10_000)), ms(50));
    limit.note_survival(seconds(2));
    assert_eq!(limit.known(seconds(10_000)), seconds(2));
}

#[test]
fn a_close_at_once_leaves_next_to_nothing() {
    let limit = IdleLimit::default();
    limit.note_close(Duration::ZERO, seconds(10));
    assert_eq!(limit.reusable(None, seconds(10)), ms(1) / 2);
}

#[test]
fn an_announcement_lowers_the_limit_and_never_raises_it() {
    let limit = IdleLimit::default();
    assert_eq!(limit.reusable(Some(seconds(60)), seconds(1)), ms(10));
    limit.note_survival(seconds(4));
    assert_eq!(limit.reusable(Some(seconds(60)), seconds(1)), seconds(2));
    assert_eq!(limit.reusable(Some(seconds(2)), seconds(1)), seconds(1));
    assert_eq!(limit.reusable(Some(Duration::ZERO), seconds(1)), Duration::ZERO);
}

#[test]
fn the_timeout_is_found_among_the_parameters() {
    for (value, expected) in [
        ("timeout=5, max=100", Some(5)),
        ("max=100,Timeout = 7", Some(7)),
        ("timeout=0", Some(0)),
        ("max=100", None),
        ("timeout", None),
        ("timeout=", None),
        ("timeout=+5", None),
        ("timeout=5s", None),
        ("timeout=99999999999", None),
        ("", None),
    ] {
        assert_eq!(announced_timeout(value), expected.map(seconds), "{value}");
    }
}

/// Something that is seen of idle connections.
#[derive(Clone, Copy, Debug)]
enum Event {
    Survived(u64),
    Closed(u64),
    Passed(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0u64..10_000).prop_map(Event::Survived),
        (0u64..10_000).prop_map(Event::Closed),
        (0u64..100_000).prop_map(Event::Passed),
    ];
    proptest::collection::vec(event, 0..50)
}

fn replay(limit: &IdleLimit, events: &[Event]) -> Duration {
    let mut now = Duration::ZERO;
    for event in events {
        match event {
            Event::Survived(age) => limit.note_survival(ms(*age)),
            Event::Closed(age) => limit.note_close(ms(*age), now),
            Event::Passed(time) => now += ms(*time),
        }
    }
    now
}

proptest! {
    #[test]
    fn right_after_a_close_at_most_half_its_age_is_used(events in events(), age in 0u64..10_000) {
        let limit = IdleLimit::default();
        let now = replay(&limit, &events);
        limit.note_close(ms(age), now);
        // The time is kept in steps, so a close may seem a tenth of a second old.
        let slack = 1.003;
        prop_assert!(limit.reusable(None, now) <= (ms(age).max(SHORTEST) / 2).mul_f64(slack));
    }

    #[test]
    fn against_a_backend_with_one_limit_nothing_near_it_is_used(
        backend in 20u64..5000,
        looks in proptest::collection::vec((0u64..10_000, 0u64..100_000), 0..100),
    ) {
        // However connections are looked at, and however long ago: none that is open has reached the backend's limit.
        let limit = IdleLimit::default();
        let mut now = Duration::ZERO;
        for (age, pause) in looks {
            now += ms(pause);
            if age < backend { limit.note_survival(ms(age)) } else { limit.note_close(ms(backend), now) }
            prop_assert!(limit.reusable(None, now) <= ms(backend) / 2);
        }
    }

    #[test]
    fn a_limit_never_tightens_by_itself(events in events(), later in 0u64..1_000_000, more in 0u64..1_000_000) {
        let limit = IdleLimit::default();
        let now = replay(&limit, &events);
        let (first, second) = (now + ms(later), now + ms(later + more));
        prop_assert!(limit.known(first) <= limit.known(second));
    }

    #[test]
    fn in_an_hour_every_close_is_outweighed_by_what_survives(events in events(), age in 1u64..4000) {
        let limit = IdleLimit::default();
        let now = replay(&limit, &events);
        limit.note_survival(ms(age));
        prop_assert!(limit.known(now + seconds(3600)) >= ms(age));
    }

    #[test]
    fn a_close_survives_its_word(age in 1u64..=u64::from(u32::MAX), at in 0u32..) {
        let close = Close { age: Duration::from_micros(age), at: TICK * at };
        prop_assert_eq!(Close::from_word(close.to_word()), Some(close));
    }

    #[test]
    fn no_field_value_is_too_odd(value in ".*") {
        let _ = announced_timeout(&value);
    }
}
