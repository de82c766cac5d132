//! The numbers of what is usual, of what is a refusal, and of how rates are compared.

use super::rules::{close, full, limited, window};
use super::*;

const USUAL: Usual = Usual {
    latency: 1.0,
    spread: 0.0,
    last: 1.0,
    median: 1.0,
    failing: 0.0,
    rate: 100.0,
    busy: 100.0,
    windows: FIRST,
};

#[test]
fn four_spreads_above_the_usual_latency_are_tolerated() {
    assert!(close(Usual { spread: 0.5, ..USUAL }.tolerated(), 3.0));
    assert!(close(Usual { spread: 0.1, ..USUAL }.tolerated(), 2.0));
    assert!(close(Usual::first(&window(100, 1000.0, 1)).spread, 0.5), "a first guess");
}

#[test]
fn what_is_usual_at_first_is_the_mean_of_the_first_windows() {
    let mut usual = Usual::first(&window(100, 1000.0, 1));
    usual.begin(&Window { failed: 50, ..window(50, 2000.0, 1) });
    let Usual { latency, spread, last, median, failing, rate, .. } = usual;
    let found = [latency, spread, last, median, failing, rate];
    assert!(
        found.iter().zip([1.5, 0.75, 2.0, 1.5, 0.25, 50.0]).all(|(one, other)| close(*one, other)),
        "{usual:?}"
    );
}

#[test]
fn failures_beyond_the_usual_share_and_chance_are_refusals() {
    // With 100 attempts the noise is 0.051, and thrice that is 0.153.
    let usual = Usual { failing: 0.5, ..USUAL };
    let read = |usual: Usual, failed, millis| {
        let length = Duration::from_millis(100);
        usual.read(&Window { failed, length, ..window(100 - failed, millis, 1) })
    };
    assert!(!read(usual, 65, 1000.0).is_refused && read(usual, 66, 1000.0).is_refused);
    assert!(!read(usual, 55, 3000.0).is_refused && read(usual, 56, 3000.0).is_refused, "late ones, too");
    assert!(!read(usual, 56, 1500.0).is_refused, "these are not");
    assert!(!read(usual, 55, 1000.0).is_failing && read(usual, 56, 1000.0).is_failing);
    assert!(!read(USUAL, 5, 3000.0).is_refused && read(USUAL, 6, 3000.0).is_refused, "a twentieth at least");
    assert!(!read(USUAL, 5, 1000.0).is_refused && read(USUAL, 6, 1000.0).is_refused);
}

#[test]
fn failures_beside_fewer_good_answers_are_no_refusals() {
    let is_refused = |rate, answered: u32| {
        let usual = Usual { rate, ..USUAL };
        usual.read(&Window { failed: answered, ..window(answered, 1000.0, 1) }).is_refused
    };
    // 0.8 of the rate for 100 answers, half of it for few.
    assert!(is_refused(124.9, 100) && !is_refused(125.1, 100));
    assert!(is_refused(7.9, 4) && !is_refused(8.1, 4));
}

#[test]
fn what_is_usual_is_followed_faster_at_the_limit_than_beside_it() {
    let mut usual = USUAL;
    let quarter = Window { length: Duration::from_millis(250), ..window(50, 2000.0, 1) };
    usual.follow(&quarter);
    assert!(close(usual.rate, 150.0) && close(usual.busy, 250.0), "half of the way in a quarter: {usual:?}");
    let signs = |room, is_failing| Signs { room, is_refused: false, is_failing };
    for (seconds, is_stable, expected) in
        [(0.5, false, 0.05), (10.0, false, 0.1), (2.0, true, 0.2), (10.0, true, 0.3)]
    {
        let mut usual = USUAL;
        let window = Window { length: Duration::from_secs_f64(seconds), ..window(100, 2000.0, 1) };
        usual.learn(&window, signs(1.0, false), is_stable);
        let Usual { latency, spread, median, .. } = usual;
        assert!(close(latency, 1.0 + expected) && close(median, 1.0 + expected), "{seconds} {usual:?}");
        assert!(close(spread, expected) && close(usual.last, 2.0), "{seconds} {usual:?}");
    }
    for (seconds, is_failing, expected) in
        [(0.5, false, 0.075), (9.0, false, 0.15), (0.5, true, 0.025), (9.0, true, 0.05)]
    {
        let mut usual = USUAL;
        let length = Duration::from_secs_f64(seconds);
        usual.learn(&Window { length, failed: 100, ..window(100, 1000.0, 1) }, signs(1.0, is_failing), false);
        assert!(close(usual.failing, expected), "{seconds} {usual:?}");
    }
    for (room, expected) in [(1.0, 110.0), (0.9, 100.0)] {
        let mut usual = USUAL;
        usual.learn(&window(200, 1000.0, 1), signs(room, false), false);
        assert!(close(usual.rate, expected), "late answers say nothing of the usual rate: {usual:?}");
    }
}

#[test]
fn of_few_attempts_it_takes_more_failures_to_tell() {
    let one_of = |count: u32| {
        let usual = Usual { rate: f64::from(count - 1), ..USUAL };
        usual.read(&Window { failed: 1, ..window(count - 1, 1000.0, 1) }).is_refused
    };
    assert!(one_of(9) && !one_of(18));
}

#[test]
fn of_few_attempts_it_takes_a_greater_difference_of_rates() {
    // The noise of 25 and 100 attempts is 0.224.
    let point = |limit, rate, count| Point { limit, rate, count };
    let raised = |rate| point(100.0, 100.0, 25.0).is_worth_less_than(&point(125.0, rate, 100.0));
    assert!(!raised(122.0) && raised(123.0));
    let lowered = |rate| point(100.0, 100.0, 25.0).is_worth_more_than(&point(60.0, rate, 100.0));
    assert!(lowered(57.0) && !lowered(58.0));
}

#[test]
fn a_window_without_answers_says_nothing_of_latency() {
    let none = Window { failed: 20, ..window(0, 0.0, 1) };
    let mut limiter = Limiter::new();
    limiter.note(&none);
    assert!(limiter.usual.is_none() && limiter.proven <= 0.0);
    assert!(close(USUAL.read(&none).room, 1.0), "not late");
    let is_same =
        |usual: Usual| close(usual.latency, 1.0) && close(usual.median, 1.0) && close(usual.last, 1.0);
    let mut usual = USUAL;
    usual.begin(&none);
    assert!(is_same(usual), "{usual:?}");
    usual.learn(&none, USUAL.read(&none), false);
    assert!(is_same(usual), "{usual:?}");
    let mut limiter = limited(1000.0, 100.0);
    limiter.note(&full(none));
    assert!(is_same(limiter.usual.unwrap()), "{limiter:?}");
}

#[test]
fn the_latency_of_a_cut_that_is_taken_back_is_accepted_with_its_failures() {
    let mut usual = USUAL;
    usual.accept(&Window { failed: 100, ..window(100, 500.0, 1) });
    assert!(close(usual.latency, 1.0) && close(usual.median, 1.0) && close(usual.failing, 0.5), "{usual:?}");
    assert!(Usual::first(&window(100, 1000.0, 1)).busy <= 0.0);
}
