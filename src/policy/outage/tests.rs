//! The outage as a pure machine: its rules, and its promises by property.

use proptest::prelude::*;

use super::*;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn pause(number: u32) -> Duration {
    ms(100) * number
}

fn fail(outage: &mut Outage, times: u32, now: Duration) -> Change {
    (0..times).map(|_| outage.failure(Pass::Free, Spread::All, pause, now)).last().unwrap_or(Change::Nothing)
}

/// A moment of a test whose outage begins at `at(0)`.
const fn at(later: u64) -> Duration {
    ms(1000 + later)
}

fn down(now: Duration) -> Outage {
    let mut outage = Outage::new(LineSettings::default());
    assert_eq!(fail(&mut outage, 2, now.checked_sub(LEAST_SPAN).unwrap()), Change::Nothing);
    assert_eq!(fail(&mut outage, 1, now), Change::Down);
    outage
}

#[test]
fn a_run_is_an_outage_where_chance_does_not_explain_it() {
    for (rate, count) in [(0.0, 2), (0.02, 3), (0.1, 4), (0.2, 6), (0.3, 8), (0.5, 14), (1.0, 100)] {
        assert_eq!(needed(rate), count, "{rate}");
    }
}

#[test]
fn a_run_that_is_over_at_once_is_no_outage_however_long() {
    let mut outage = Outage::new(LineSettings::default());
    assert_eq!(fail(&mut outage, 1000, ms(20)), Change::Nothing);
    assert_eq!(fail(&mut outage, 1, ms(24)), Change::Nothing);
    assert_eq!(fail(&mut outage, 1, ms(25)), Change::Down);
}

#[test]
fn failures_at_some_endpoints_only_are_no_outage() {
    let mut outage = Outage::new(LineSettings::default());
    for _ in 0..1000 {
        assert_eq!(outage.failure(Pass::Free, Spread::Some, pause, ms(0)), Change::Nothing);
    }
    assert_eq!(outage.next(ms(0)), Next::All);
}

#[test]
fn one_probe_at_a_time_knocks_and_each_failed_one_backs_off() {
    let mut outage = down(ms(1000));
    assert_eq!(outage.next(ms(1099)), Next::NotBefore(ms(1100)));
    assert_eq!(outage.next(ms(1100)), Next::Probe);
    outage.begin(Pass::Probe, ms(1100));
    assert_eq!(outage.next(ms(1101)), Next::NotBefore(ms(2100)));
    outage.failure(Pass::Probe, Spread::All, pause, ms(1110));
    assert_eq!(outage.next(ms(1110)), Next::NotBefore(ms(1310)));
    outage.begin(Pass::Probe, ms(1310));
    outage.failure(Pass::Probe, Spread::All, pause, ms(1320));
    assert_eq!(outage.next(ms(1320)), Next::NotBefore(ms(1620)));
}

#[test]
fn a_probe_that_takes_long_is_not_waited_for() {
    let mut outage = down(at(0));
    outage.begin(Pass::Probe, at(100));
    assert_eq!(outage.next(at(1099)), Next::NotBefore(at(1100)));
    assert_eq!(outage.next(at(1100)), Next::Probe);
}

#[test]
fn a_probe_whose_caller_left_gives_its_place_to_the_next() {
    let mut outage = down(at(0));
    outage.begin(Pass::Probe, at(100));
    outage.abandon(Pass::Probe);
    assert_eq!(outage.next(at(100)), Next::Probe);
}

#[test]
fn what_began_before_the_outage_neither_ends_nor_prolongs_it() {
    let mut outage = down(at(0));
    assert_eq!(outage.success(Pass::Free, at(50)), Change::Nothing);
    assert_eq!(fail(&mut outage, 5, at(50)), Change::Nothing);
    assert_eq!(outage.next(at(50)), Next::NotBefore(at(100)));
}

/// How many may go at this moment.
fn let_go(outage: &mut Outage, now: Duration) -> u32 {
    let mut count = 0;
    while outage.next(now) == Next::Release {
        outage.begin(Pass::Released, now);
        count += 1;
    }
    count
}

#[test]
fn each_good_answer_lets_two_go() {
    let mut outage = down(at(0));
    outage.begin(Pass::Probe, at(100));
    assert_eq!(outage.success(Pass::Probe, at(101)), Change::Recovering);
    let mut under_way = let_go(&mut outage, at(101));
    let mut rounds = vec![under_way];
    for _ in 0..4 {
        for _ in 0..under_way {
            outage.success(Pass::Released, at(102));
        }
        under_way = let_go(&mut outage, at(102));
        rounds.push(under_way);
    }
    assert_eq!(rounds, [2, 4, 8, 16, 32]);
    outage.line_is_empty();
    assert_eq!(outage.next(at(103)), Next::All);
}

#[test]
fn slow_answers_do_not_hold_up_the_line_and_failures_slow_it() {
    let mut outage = down(at(0));
    outage.begin(Pass::Probe, at(100));
    outage.success(Pass::Probe, at(100));
    assert_eq!(let_go(&mut outage, at(100)), 2);
    assert_eq!(outage.next(at(199)), Next::NotBefore(at(200)));
    assert_eq!(let_go(&mut outage, at(200)), 2);
    assert_eq!(let_go(&mut outage, at(300)), 4);
    outage.failure(Pass::Released, Spread::All, pause, at(310));
    outage.success(Pass::Released, at(311));
    assert_eq!(let_go(&mut outage, at(312)), 0, "six under way, five allowed");
    // The first knock was answered, so the outage may have been chance: it takes one failure more.
    for _ in 0..3 {
        assert_eq!(outage.failure(Pass::Released, Spread::All, pause, at(315)), Change::Nothing);
    }
    let change = outage.failure(Pass::Released, Spread::All, pause, at(320));
    assert_eq!((change, outage.next(at(320))), (Change::Down, Next::NotBefore(at(420))));
}

/// The false alarms of a cluster whose attempts fail independently, of so many.
fn false_alarms(rate: f64, attempts: u32) -> u32 {
    let mut random = fastrand::Rng::with_seed(11);
    let mut outage = Outage::new(LineSettings::default());
    let mut alarms = 0;
    for number in 0..attempts {
        let now = ms(10) * number;
        let pass = match outage.next(now) {
            Next::Probe => Pass::Probe,
            Next::NotBefore(_) => continue,
            Next::All | Next::Release | Next::Try => Pass::Free,
        };
        outage.begin(pass, now);
        if random.f64() < rate {
            let change = outage.failure(pass, Spread::All, pause, now);
            alarms += u32::from(change == Change::Down);
        } else if outage.success(pass, now) == Change::Recovering {
            outage.line_is_empty();
        }
    }
    alarms
}

#[test]
fn independent_failures_are_practically_never_taken_for_an_outage() {
    for (rate, most) in [(0.01, 2), (0.1, 12), (0.2, 12), (0.3, 12)] {
        let alarms = false_alarms(rate, 100_000);
        assert!(alarms <= most, "{alarms} of 100000 at {rate}");
    }
}

#[test]
fn what_cannot_be_a_line_is_refused() {
    assert_eq!(LineSettings::new(1, ms(10), 1), Err(InvalidLine::EnterAfter));
    assert_eq!(LineSettings::new(1, ms(10), 101), Err(InvalidLine::EnterAfter));
    assert_eq!(LineSettings::new(1, ms(0), 3), Err(InvalidLine::MaxWait));
    assert!(LineSettings::new(0, ms(1), 2).is_ok());
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Take,
    Answer(bool),
    Abandon,
    Stray(bool),
    CheckPassed,
    Empty,
}

fn knocks(pass: Pass) -> bool {
    matches!(pass, Pass::Probe | Pass::Check)
}

fn events() -> impl Strategy<Value = Vec<(Event, u64)>> {
    let event = prop_oneof![
        4 => Just(Event::Take),
        4 => any::<bool>().prop_map(Event::Answer),
        1 => Just(Event::Abandon),
        3 => any::<bool>().prop_map(Event::Stray),
        1 => Just(Event::CheckPassed),
        1 => Just(Event::Empty),
    ];
    proptest::collection::vec((event, 0u64..300), 0..300)
}

proptest! {
    #[test]
    fn whatever_happens_probes_are_alone_and_somebody_may_go_before_long(events in events()) {
        let mut outage = Outage::new(LineSettings::default());
        let mut now = ms(0);
        let mut under_way: Vec<(Pass, Duration)> = Vec::new();
        for (event, later) in events {
            now += ms(later);
            match event {
                Event::Take => {
                    let pass = match outage.next(now) {
                        Next::All => Pass::Free,
                        Next::Probe if outage.believes_checks() => Pass::Check,
                        Next::Probe => Pass::Probe,
                        Next::Release | Next::Try => Pass::Released,
                        Next::NotBefore(at) => {
                            prop_assert!(at > now, "a wait that is over");
                            prop_assert!(at <= now + ms(100) * 400, "a wait without end");
                            continue;
                        }
                    };
                    if knocks(pass) {
                        let others = under_way.iter().filter(|(other, since)| {
                            knocks(*other) && *since + PATIENCE > now
                        });
                        prop_assert!(outage.is_down());
                        prop_assert_eq!(others.count(), 0);
                    }
                    outage.begin(pass, now);
                    under_way.push((pass, now));
                }
                Event::Answer(good) => {
                    if let Some((pass, _)) = under_way.pop() {
                        if good { outage.success(pass, now); } else { outage.failure(pass, Spread::All, pause, now); }
                        // A probe of an outage that is over must not count in the next.
                        if knocks(pass) { under_way.retain(|(other, _)| !knocks(*other)); }
                    }
                }
                Event::Abandon => {
                    if let Some((pass, _)) = under_way.pop() { outage.abandon(pass); }
                }
                Event::Stray(good) => {
                    if good { outage.success(Pass::Free, now); } else { outage.failure(Pass::Free, Spread::All, pause, now); }
                }
                Event::CheckPassed => {
                    if outage.success(Pass::Check, now) == Change::Recovering {
                        under_way.retain(|(other, _)| !knocks(*other));
                    }
                }
                Event::Empty => outage.line_is_empty(),
            }
        }
        // Nothing more happens: all the same there is an end to every wait.
        let mut looks = 0;
        while let Next::NotBefore(at) = outage.next(now) {
            prop_assert!(at > now);
            now = at;
            looks += 1;
            prop_assert!(looks < 10);
        }
    }

    #[test]
    fn a_success_in_between_and_a_line_of_none_prevent_every_outage(successes in proptest::collection::vec(any::<bool>(), 0..200)) {
        let mut off = Outage::new(LineSettings::new(0, ms(1), 2).unwrap());
        let mut outage = Outage::new(LineSettings::default());
        for (now, good) in (0..).map(|step| ms(10) * step).zip(successes) {
            if good { off.success(Pass::Free, now); } else { fail(&mut off, 1, now); }
            fail(&mut outage, 1, now);
            fail(&mut outage, 1, now + LEAST_SPAN);
            outage.success(Pass::Free, now + LEAST_SPAN);
        }
        prop_assert_eq!(off.next(ms(0)), Next::All);
        prop_assert_eq!(outage.next(ms(0)), Next::All);
    }

    #[test]
    fn after_enough_successes_there_is_nothing_left_to_remember(failures in 0u32..100) {
        let mut outage = Outage::new(LineSettings::default());
        for _ in 0..failures { outage.failure(Pass::Free, Spread::Some, pause, ms(0)); }
        for _ in 0..400 { outage.success(Pass::Free, ms(0)); }
        prop_assert!(outage.is_calm());
    }
}

/// Down, with checks that passed before.
fn down_with_checks(now: Duration) -> Outage {
    let mut outage = Outage::new(LineSettings::default());
    assert_eq!(outage.success(Pass::Check, now), Change::Nothing);
    assert_eq!(fail(&mut outage, 2, now.checked_sub(LEAST_SPAN).unwrap()), Change::Nothing);
    assert_eq!(fail(&mut outage, 1, now), Change::Down);
    assert!(outage.believes_checks());
    outage
}

#[test]
fn a_check_knocks_at_the_pace_of_the_line_and_ends_the_outage() {
    let mut outage = down_with_checks(at(0));
    assert_eq!(outage.next(at(100)), Next::Probe);
    outage.begin(Pass::Check, at(100));
    assert_eq!(outage.next(at(100)), Next::NotBefore(at(1100)), "one at a time");
    assert_eq!(outage.failure(Pass::Check, Spread::All, pause, at(110)), Change::Nothing);
    assert_eq!(outage.next(at(110)), Next::NotBefore(at(310)));
    outage.begin(Pass::Check, at(310));
    assert_eq!(outage.success(Pass::Check, at(320)), Change::Recovering);
    assert_eq!(outage.next(at(320)), Next::Try, "one shows whether it is true");
    outage.begin(Pass::Released, at(320));
    assert_eq!(outage.next(at(320)), Next::NotBefore(at(420)));
    outage.success(Pass::Released, at(330));
    assert_eq!(outage.next(at(330)), Next::Release);
    outage.line_is_empty();
    assert!(!outage.is_down() && outage.believes_checks());
    assert_eq!(outage.run, 0);
}

#[test]
fn a_check_that_began_before_the_outage_does_not_end_it() {
    let mut outage = down_with_checks(at(1000));
    assert_eq!(outage.check_passed(at(999), at(1010)), Change::Nothing);
    assert!(outage.is_down() && outage.believes_checks());
    assert_eq!(outage.check_passed(at(1001), at(1010)), Change::Recovering);
}

#[test]
fn checks_alone_neither_take_a_cluster_down_nor_teach_how_often_it_fails() {
    let mut outage = Outage::new(LineSettings::default());
    let fresh = outage;
    for _ in 0..1000 {
        assert_eq!(outage.failure(Pass::Check, Spread::All, pause, at(0)), Change::Nothing);
    }
    assert_eq!(outage, fresh);
    fail(&mut outage, 2, at(0));
    outage.success(Pass::Check, at(1));
    assert_eq!(fail(&mut outage, 1, at(10)), Change::Down, "a check between two failures is no success");
}

#[test]
fn checks_that_never_passed_end_no_outage_and_are_not_waited_for() {
    let mut outage = down(at(0));
    assert!(!outage.believes_checks());
    assert_eq!(outage.success(Pass::Check, at(50)), Change::Nothing);
    assert_eq!(outage.next(at(100)), Next::Probe);
    outage.begin(Pass::Probe, at(100));
    assert_eq!(outage.success(Pass::Probe, at(110)), Change::Recovering);
    outage.line_is_empty();
    outage.success(Pass::Check, at(120));
    assert!(outage.believes_checks(), "it passes while all is well");
}

#[test]
fn a_check_that_ends_an_outage_too_soon_costs_one_failure_and_is_not_believed_again() {
    // One goes, and fails.
    let mut outage = down_with_checks(at(0));
    outage.success(Pass::Check, at(50));
    outage.begin(Pass::Released, at(50));
    assert_eq!(outage.failure(Pass::Free, Spread::All, pause, at(55)), Change::Nothing, "it began before");
    assert_eq!(outage.success(Pass::Free, at(55)), Change::Nothing);
    assert_eq!(outage.failure(Pass::Released, Spread::All, pause, at(60)), Change::Down);
    assert!(!outage.believes_checks());
    assert_eq!(outage.success(Pass::Check, at(70)), Change::Nothing);
    // The same where nobody waits.
    let mut outage = down_with_checks(at(0));
    outage.success(Pass::Check, at(50));
    outage.line_is_empty();
    assert!(!outage.is_down() && !outage.is_calm(), "a success has to be told");
    assert_eq!(fail(&mut outage, 1, at(60)), Change::Down);
    assert!(!outage.believes_checks());
}

#[test]
fn a_request_that_gets_through_where_checks_fail_ends_the_outage_and_their_credit() {
    let mut outage = down_with_checks(at(0));
    outage.begin(Pass::Check, at(100));
    outage.failure(Pass::Check, Spread::All, pause, at(110));
    outage.begin(Pass::Probe, at(5000));
    assert_eq!(outage.success(Pass::Probe, at(5010)), Change::Recovering);
    assert!(!outage.believes_checks());
}

proptest! {
    #[test]
    fn whatever_checks_say_a_working_cluster_comes_up_as_soon_as_a_request_is_let_knock(
        before in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..50),
        random in proptest::collection::vec(any::<bool>(), 1..50),
    ) {
        let mut outage = Outage::new(LineSettings::default());
        let mut now = at(0);
        for (is_check, passed) in before {
            now += ms(3);
            let pass = if is_check { Pass::Check } else { Pass::Free };
            if passed { outage.success(pass, now); } else { outage.failure(pass, Spread::All, pause, now); }
        }
        // From here on every attempt succeeds, and checks say anything.
        for passed in random {
            now += ms(10_000);
            if passed {
                outage.success(Pass::Check, now);
            } else if outage.believes_checks() && outage.next(now) == Next::Probe {
                outage.begin(Pass::Check, now);
                outage.failure(Pass::Check, Spread::All, pause, now);
            }
        }
        now += ms(1_000_000);
        if outage.next(now) == Next::Probe {
            outage.begin(Pass::Probe, now);
            outage.success(Pass::Probe, now);
        }
        outage.line_is_empty();
        prop_assert_eq!(outage.next(now), Next::All);
        outage.success(Pass::Free, now);
        prop_assert_eq!(outage.run, 0);
    }
}
