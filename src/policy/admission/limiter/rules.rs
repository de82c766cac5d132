//! One test for each number of the limiter: what happens on either side of it.

use super::*;

/// A window of one second at `answered` answers per second.
pub(super) fn window(answered: u32, millis: f64, in_flight: u32) -> Window {
    let latency = Duration::from_secs_f64(millis / 1000.0);
    Window {
        answered,
        failed: 0,
        latency,
        median: latency,
        length: Duration::from_secs(1),
        in_flight,
        lingering: 0,
        pressure: Pressure::None,
    }
}

pub(super) fn full(window: Window) -> Window {
    Window { pressure: Pressure::Full, ..window }
}

/// One that knows that 100 answers come per second, each after so long.
fn learned(millis: f64) -> Limiter {
    let mut limiter = Limiter::new();
    (0..FIRST).for_each(|_| limiter.note(&window(100, millis, 1)));
    assert_eq!(limiter.limit(), None);
    limiter
}

pub(super) fn limited(millis: f64, limit: f64) -> Limiter {
    Limiter { limit, ..learned(millis) }
}

pub(super) fn close(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-6 * other.abs().max(1.0)
}

#[test]
fn a_million_is_no_limit() {
    assert_eq!(Limiter { limit: 999_999.0, ..Limiter::new() }.limit(), Some(999_999));
    assert_eq!(Limiter { limit: 1_000_000.0, ..Limiter::new() }.limit(), None);
}

#[test]
fn five_windows_are_learned_from_before_one_is_judged() {
    for (usual, expected) in [(4, None), (5, Some(120))] {
        let mut limiter = Limiter::new();
        (0..usual).for_each(|_| limiter.note(&window(100, 5.0, 1)));
        limiter.note(&window(100, 1000.0, 100));
        assert_eq!(limiter.limit(), expected, "a fifth more than is in flight, after {usual}");
    }
}

#[test]
fn a_window_takes_sixteen_attempts_and_twenty_milliseconds_and_what_began_before() {
    let limiter = learned(5.0);
    let is_due =
        |window: Window, length| limiter.is_due(&Window { length: Duration::from_millis(length), ..window });
    assert!(!is_due(window(15, 5.0, 1), 1000) && is_due(window(16, 5.0, 1), 1000));
    assert!(!is_due(window(16, 5.0, 1), 19) && is_due(window(16, 5.0, 1), 20));
    assert!(!is_due(window(16, 500.0, 1), 499) && is_due(window(16, 500.0, 1), 500));
    // Where more than half fail there is no waiting for the answers of others.
    let failing = |failed| Window { failed, ..window(16, 500.0, 1) };
    assert!(!is_due(failing(16), 20) && is_due(failing(17), 20));
}

#[test]
fn rates_are_compared_over_forty_eight_attempts_where_the_limit_is_lowered_by_a_twentieth() {
    let reference = Some(Point { limit: 100.0, rate: 100.0, count: 100.0 });
    let is_due =
        |limit, count| Limiter { limit, reference, ..learned(5.0) }.is_due(&full(window(count, 5.0, 1)));
    assert!(!is_due(94.0, 47) && is_due(94.0, 48));
    assert!(is_due(96.0, 16));
}

#[test]
fn late_is_over_twice_the_usual_and_over_fifty_milliseconds_more() {
    for (usual, well, late) in [(5.0, 54.5, 55.5), (1000.0, 1950.0, 2050.0)] {
        let limit = |millis| {
            let mut limiter = learned(usual);
            // What varies does so no more.
            (0..200).for_each(|_| limiter.note(&window(100, usual, 1)));
            limiter.note(&window(100, millis, 100));
            limiter.limit()
        };
        assert_eq!((limit(well), limit(late)), (None, Some(120)), "{usual}");
    }
}

#[test]
fn a_limit_that_nobody_needs_doubles() {
    let mut limiter = limited(5.0, 100.0);
    limiter.note(&window(100, 5.0, 10));
    assert_eq!(limiter.limit(), Some(200));
}

#[test]
fn a_limit_that_binds_grows_as_much_as_there_is_room_and_at_most_doubles() {
    // The usual latency follows what is sooner, after the step.
    for (millis, expected) in [(10.0, 200.0), (1500.0, 2000.0 / 1500.0 * 100.0), (2000.0, 100.0)] {
        let mut limiter = limited(1000.0, 100.0);
        let spread = limiter.usual.map_or(0.0, |usual| usual.spread);
        assert!(spread < 0.25, "twice the usual latency is what is tolerated: {spread}");
        limiter.note(&full(window(100, millis, 100)));
        assert!(close(limiter.limit, expected), "{millis}: {}", limiter.limit);
    }
}

#[test]
fn a_limit_that_binds_shrinks_by_two_fifths_at_most() {
    for (millis, expected) in [(2500.0, 80.0), (60_000.0, 60.0)] {
        let mut limiter = limited(1000.0, 100.0);
        limiter.calm = 3;
        limiter.note(&full(window(100, millis, 100)));
        assert!(close(limiter.limit, expected), "{millis}: {}", limiter.limit);
        assert!(limiter.is_settling && limiter.calm == 0, "what began before is not judged: {limiter:?}");
    }
}

#[test]
fn a_rate_is_promised_while_latency_is_near_what_is_late() {
    for (millis, expected) in [(2000.0 / 1.4, Some(100.0)), (2000.0 / 1.6, None)] {
        let mut limiter = limited(1000.0, 100.0);
        limiter.note(&full(window(100, millis, 100)));
        assert_eq!(limiter.held_to(), expected, "{millis}");
    }
}

#[test]
fn twelve_calm_windows_at_the_limit_are_followed_by_one_at_a_lower_one() {
    let reference = Some(Point { limit: 150.0, rate: 100.0, count: 100.0 });
    let mut limiter = Limiter { reference, ..limited(1000.0, 100.0) };
    for number in 0..12 {
        limiter.note(&full(window(100, 2000.0, 100)));
        assert!(close(limiter.limit, 100.0), "{number}: {}", limiter.limit);
    }
    limiter.note(&full(window(100, 2000.0, 100)));
    assert!(close(limiter.limit, 60.0) && limiter.is_probing, "{}", limiter.limit);
    assert!(limiter.is_settling && limiter.calm == 0, "{limiter:?}");
    assert!(limiter.reference.is_some_and(|reference| close(reference.limit, 100.0)), "{limiter:?}");
}

#[test]
fn fewer_and_later_answers_are_a_cause_after_a_second_without_more_of_them() {
    let slump = |answered| Window { length: Duration::from_millis(250), ..window(answered, 1000.0, 100) };
    let mut limiter = learned(5.0);
    // The first is the best so far, and each of the others stays within a tenth of it.
    for number in 0..5 {
        limiter.note(&slump(15));
        assert_eq!(limiter.limit(), None, "{number}");
    }
    let mut recovering = limiter;
    limiter.note(&slump(16));
    assert_eq!(limiter.limit(), Some(120));
    recovering.note(&slump(17));
    assert_eq!(recovering.limit(), None, "more answers than before: it recovers");
}

#[test]
fn four_fifths_of_the_usual_answers_are_no_slump() {
    for (answered, expected) in [(79, None), (81, Some(120))] {
        let mut limiter = learned(5.0);
        limiter.note(&window(answered, 1000.0, 100));
        assert_eq!(limiter.limit(), expected, "{answered}");
    }
}

#[test]
fn what_has_been_in_flight_while_all_was_well_fades_within_a_minute_to_a_third() {
    let mut limiter = Limiter { proven: 100.0, ..learned(5.0) };
    let length = Duration::from_mins(1);
    limiter.note(&Window { length, ..window(6000, 1000.0, 10) });
    assert_eq!(limiter.limit(), Some(36), "100 / e");
}

#[test]
fn each_attempt_that_lingers_leaves_room_for_two() {
    let mut limiter = limited(5.0, 4.0);
    limiter.note(&Window { lingering: 10, ..full(window(100, 60_000.0, 4)) });
    assert_eq!(limiter.limit(), Some(24));
}

#[test]
fn a_limit_that_holds_somebody_now_and_then_grows_by_a_tenth_while_answers_are_late() {
    let mut limiter = limited(5.0, 100.0);
    limiter.note(&Window { pressure: Pressure::Some, ..window(100, 1000.0, 100) });
    assert!(close(limiter.limit, 110.0), "{}", limiter.limit);
}

#[test]
fn where_there_were_more_answers_the_limit_is_raised_before_it_is_lowered() {
    // Of a small limit it takes many more to tell.
    for (limit, factor) in [(4.0, 2.0), (64.0, 1.5), (10_000.0, 1.25)] {
        let mut limiter = limited(5.0, limit);
        limiter.note(&full(window(79, 1000.0, 4)));
        assert!(close(limiter.limit, factor * limit), "{limit}: {}", limiter.limit);
        let mut lowered = limited(5.0, limit);
        lowered.note(&full(window(81, 1000.0, 4)));
        assert!(lowered.limit <= limit, "{limit}: {}", lowered.limit);
    }
}

#[test]
fn a_raised_limit_that_brings_more_doubles_and_one_that_does_not_goes_back() {
    let raised = Some(Point { limit: 100.0, rate: 50.0, count: 10_000.0 });
    // A quarter more was asked for: half of a quarter more answers are the bound.
    for (answered, expected) in [(57, 250.0), (56, 100.0)] {
        let (reference, held_to) = (raised, Some(50.0));
        let mut limiter = Limiter { reference, raised, held_to, ..limited(5.0, 125.0) };
        let length = Duration::from_secs(100);
        limiter.note(&Window { length, ..full(window(100 * answered, 1000.0, 125)) });
        assert!(close(limiter.limit, expected), "{answered}: {}", limiter.limit);
        assert!(limiter.is_settling && limiter.raised.is_none(), "{limiter:?}");
        let is_worth_it = expected > 125.0;
        assert_eq!((limiter.is_tested, limiter.held_to.is_none()), (!is_worth_it, is_worth_it));
        assert_eq!(limiter.reference.is_none(), is_worth_it);
    }
}

/// A reference of a hundred answers per second under a limit of 100, well measured, and a limit of 60 since.
fn lowered() -> Limiter {
    let reference = Some(Point { limit: 100.0, rate: 100.0, count: 10_000.0 });
    Limiter { reference, is_tested: true, ceiling: 60.0, ..limited(1000.0, 60.0) }
}

fn long(rate: u32, millis: f64) -> Window {
    Window { length: Duration::from_secs(100), ..full(window(100 * rate, millis, 60)) }
}

#[test]
fn a_cut_that_costs_answers_is_taken_back_and_its_latency_is_the_usual_one() {
    // Two fifths less in flight: half of that and the noise are the bound.
    let mut limiter = lowered();
    limiter.note(&long(78, 3000.0));
    assert!(close(limiter.limit, 120.0) && close(limiter.ceiling, 120.0), "{limiter:?}");
    assert!(limiter.reference.is_none() && limiter.is_settling && limiter.calm == 0, "{limiter:?}");
    let usual = limiter.usual.unwrap();
    assert!(close(usual.latency, 3.0) && close(usual.median, 3.0), "{usual:?}");
    let mut kept = lowered();
    kept.note(&long(79, 3000.0));
    assert!(kept.limit < 60.0 && kept.reference.is_some(), "{kept:?}");
}

#[test]
fn a_probe_that_costs_answers_goes_back_and_one_that_costs_none_says_what_is_usual() {
    let mut limiter = Limiter { is_probing: true, ..lowered() };
    limiter.note(&long(78, 3000.0));
    assert!(close(limiter.limit, 100.0) && !limiter.is_probing, "{limiter:?}");
    assert!(close(limiter.usual.unwrap().latency, 1.0));
    let mut limiter = Limiter { is_probing: true, ..lowered() };
    limiter.note(&long(100, 500.0));
    let usual = limiter.usual.unwrap();
    assert!(close(usual.latency, 0.25) && close(usual.median, 0.25) && !limiter.is_probing, "{usual:?}");
}

#[test]
fn the_usual_latency_follows_what_is_sooner_under_the_limit() {
    let mut limiter = limited(1000.0, 100.0);
    limiter.note(&full(window(100, 500.0, 100)));
    let usual = limiter.usual.unwrap();
    assert!(close(usual.latency, 0.85) && close(usual.median, 0.85), "three tenths of the way: {usual:?}");
    limiter.note(&full(window(100, 1500.0, 100)));
    assert!(close(limiter.usual.unwrap().latency, 0.85), "not what is later");
}

#[test]
fn the_promised_rate_moves_half_of_the_way_in_half_a_second_or_more() {
    for (millis, expected) in [(250, 75.0), (500, 100.0), (1000, 100.0)] {
        let mut limiter = Limiter { held_to: Some(50.0), ..limited(1000.0, 100.0) };
        // 150 per second, with little room.
        let length = Duration::from_millis(millis);
        let answered = 150 * u32::try_from(millis).unwrap() / 1000;
        limiter.note(&Window { length, ..full(window(answered, 1900.0, 100)) });
        let held = limiter.held_to().unwrap();
        assert!((held - expected).abs() < 2.0, "{millis}: {held}");
    }
}

#[test]
fn a_refusal_lowers_by_a_fifth_or_to_what_is_answered_and_growth_begins_anew() {
    for (millis, expected) in [(5.0, 80.0), (1000.0, 98.0), (850.0, 85.0)] {
        let mut limiter = Limiter { since_refusal: 50, ..limited(millis, 100.0) };
        limiter.note(&Window { failed: 100, ..full(window(100, millis, 100)) });
        assert!(close(limiter.limit, expected), "{millis}: {}", limiter.limit);
        assert!(close(limiter.ceiling, expected) && limiter.since_refusal == 0, "{limiter:?}");
    }
}

#[test]
fn above_a_refusal_growth_is_slow_at_first_and_a_quarter_at_most() {
    for (since_refusal, expected) in [(9, 101.0), (48, 124.01), (99, 125.0)] {
        let mut limiter = Limiter { since_refusal, ceiling: 100.0, ..limited(5.0, 100.0) };
        limiter.note(&window(100, 5.0, 10));
        assert!(close(limiter.limit, expected), "{since_refusal}: {}", limiter.limit);
    }
}

#[test]
fn a_lowered_limit_is_what_is_proven() {
    let mut limiter = Limiter { proven: 100.0, ..limited(1000.0, 100.0) };
    limiter.note(&full(window(100, 60_000.0, 100)));
    assert!(close(limiter.limit, 60.0) && close(limiter.proven, 60.0), "{limiter:?}");
}

#[test]
fn a_slump_ends_with_its_answers_and_the_next_one_has_its_own_second() {
    let late = |answered| Window { length: Duration::from_millis(250), ..window(answered, 1000.0, 100) };
    let slumped = || {
        let mut limiter = learned(5.0);
        (0..5).for_each(|_| limiter.note(&late(15)));
        assert!(limiter.slump.is_some() && limiter.limit().is_none());
        limiter
    };
    for end in [window(100, 5.0, 1), late(25), full(late(15))] {
        let mut limiter = slumped();
        limiter.note(&end);
        assert!(limiter.slump.is_none(), "{end:?}");
    }
    // After a second without a change for the better it is over, and its rate is the usual one.
    let mut limiter = slumped();
    limiter.note(&late(15));
    assert!(limiter.slump.is_none() && (limiter.usual.unwrap().rate - 60.0).abs() < 1.0, "{limiter:?}");
}

#[test]
fn without_pressure_no_experiment_goes_on() {
    let raised = Some(Point { limit: 50.0, rate: 100.0, count: 100.0 });
    let mut limiter = Limiter { raised, is_probing: true, calm: 3, held_to: Some(1.0), ..lowered() };
    limiter.note(&window(100, 1000.0, 10));
    assert!(limiter.raised.is_none() && !limiter.is_tested && limiter.reference.is_none(), "{limiter:?}");
    assert!(!limiter.is_probing && limiter.calm == 0 && limiter.held_to.is_none(), "{limiter:?}");
}

#[test]
fn what_began_under_a_higher_limit_is_not_judged() {
    for pressure in [Pressure::None, Pressure::Full] {
        let mut limiter = Limiter { is_settling: true, ..limited(5.0, 100.0) };
        limiter.note(&Window { pressure, ..window(100, 1000.0, 10) });
        assert!(close(limiter.limit, 100.0) && !limiter.is_settling, "{limiter:?}");
    }
}

#[test]
fn rates_are_compared_with_that_of_the_highest_limit() {
    for (before, expected) in [(None, 100.0), (Some(99.0), 100.0), (Some(101.0), 101.0)] {
        let reference = before.map(|limit| Point { limit, rate: 100.0, count: 100.0 });
        let mut limiter = Limiter { reference, ..limited(1000.0, 100.0) };
        limiter.note(&full(window(100, 2000.0, 100)));
        assert!(limiter.reference.is_some_and(|reference| close(reference.limit, expected)), "{limiter:?}");
    }
}
