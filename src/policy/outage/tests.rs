//! The outage as a pure machine: its rules, and its promises by property.

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::policy::expect::{Key, Secret, Subject};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn pause(number: u32) -> Duration {
    ms(100) * number
}

fn key(name: char) -> KeyId {
    Key::new(Secret::new(1, 2), &Subject { route: &name.to_string(), method: &Method::GET, rest: "" }).id()
}

/// One that came at `joined` ms, with ten seconds of patience.
fn waiter(name: char, joined: u64, stake: Stake) -> Candidate {
    let joined = ms(joined);
    let until = joined + ms(10_000);
    Candidate {
        key: key(name),
        is_known_good: false,
        is_hopeless: false,
        has_failed: false,
        stake,
        joined,
        until,
    }
}

fn fresh(name: char, joined: u64) -> Candidate {
    waiter(name, joined, Stake::Fresh)
}

/// One that was tried already, so that no turn of its key comes early.
fn tried(name: char, joined: u64) -> Candidate {
    waiter(name, joined, Stake::Spare)
}

/// An outage that failures of `a` have found at 1 s; its first probe may go at 1.1 s.
fn down() -> Outage {
    let mut outage = Outage::default();
    outage.begin([key('a')].into_iter(), Grounds::KnownKeys, pause(1), ms(1000));
    outage
}

/// What may happen next, without the number of the permit.
#[derive(Debug, PartialEq)]
enum Look {
    Go(usize, PermitKind),
    NotBefore(Duration),
}

impl From<Next> for Look {
    fn from(next: Next) -> Self {
        match next {
            Next::Go(place, permit) => Self::Go(place, permit.kind()),
            Next::NotBefore(at) => Self::NotBefore(at),
        }
    }
}

fn next(outage: &mut Outage, waiting: &[Candidate], now: u64) -> Look {
    outage.next(waiting.iter(), false, ms(now)).into()
}

/// The permit that was given last, as one of this kind.
fn last(outage: &Outage, kind: PermitKind) -> Permit {
    Permit { kind, number: outage.given }
}

/// The permit that is given now.
fn permit(outage: &mut Outage, waiting: &[Candidate], now: u64) -> Permit {
    let Next::Go(_, permit) = outage.next(waiting.iter(), false, ms(now)) else { panic!("nobody may go") };
    permit
}

#[test]
fn a_key_that_has_not_failed_probes_at_once() {
    let mut outage = down();
    assert_eq!(next(&mut outage, &[tried('a', 1000)], 1000), Look::NotBefore(ms(1100)));
    assert_eq!(
        next(&mut outage, &[tried('a', 1000), fresh('b', 1001)], 1001),
        Look::Go(1, PermitKind::Stranger)
    );
    // One for each key, until 100 ms later.
    assert_eq!(next(&mut outage, &[fresh('b', 1001)], 1002), Look::NotBefore(ms(1101)));
    assert_eq!(
        next(&mut outage, &[fresh('b', 1001), fresh('c', 1002)], 1002),
        Look::Go(1, PermitKind::Stranger)
    );
    outage.failure(last(&outage, PermitKind::Stranger), key('b'), 4.7, pause, ms(1010));
    assert_eq!(next(&mut outage, &[tried('b', 1001)], 1011), Look::NotBefore(ms(1210)));
    assert_eq!(outage.failed_probes(), 1);
}

#[test]
fn all_keys_that_have_not_failed_probe_at_once_and_after_a_second_if_they_may_not_be_repeated() {
    for (stake, at) in [(Stake::Fresh, 1000), (Stake::Spare, 1000), (Stake::Nothing, 2000)] {
        let mut outage = down();
        let mut waiting: Vec<_> = ('b'..='z').map(|name| waiter(name, 1000, stake)).collect();
        while !waiting.is_empty() {
            assert_eq!(next(&mut outage, &waiting, at), Look::Go(0, PermitKind::Stranger));
            waiting.remove(0);
        }
    }
}

#[test]
fn a_key_whose_probes_take_long_and_have_not_failed_gets_twice_as_many_every_100_ms() {
    let mut outage = down();
    let slow = vec![fresh('s', 1000); 100];
    let go = |outage: &mut Outage, at| {
        (0..100).take_while(|_| next(outage, &slow, at) == Look::Go(0, PermitKind::Stranger)).count()
    };
    let counts = [1000, 1050, 1100, 1200, 1300].map(|at| go(&mut outage, at));
    assert_eq!(counts, [1, 0, 1, 2, 4]);
    // Where one fails, the key takes turns.
    outage.failure(last(&outage, PermitKind::Stranger), key('s'), 4.7, pause, ms(1310));
    assert!(matches!(next(&mut outage, &slow, 1320), Look::NotBefore(_)));
}

#[test]
fn keys_beyond_those_that_are_kept_take_turns_as_one() {
    let number = |number: usize| {
        let (secret, method) = (Secret::new(1, 2), &Method::GET);
        let rest = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let rest: String = (0..5).map(|place| rest[number >> (3 * place) & 7]).collect();
        Key::new(secret, &Subject { route: "all", method, rest: &format!("/{rest}") }).id()
    };
    let mut outage = down();
    for key in (0..2 * MAX_KEYS).map(number) {
        outage.failure(last(&outage, PermitKind::Stranger), key, 4.7, pause, ms(2000));
    }
    assert!(outage.failed.len() <= MAX_KEYS + 1);
    let beyond = |key| Candidate { key: number(2 * MAX_KEYS - key), has_failed: true, ..tried('a', 1000) };
    let waiting = [beyond(1), beyond(2)];
    assert!(matches!(next(&mut outage, &waiting, 2001), Look::NotBefore(_)), "they pause");
    assert_eq!(next(&mut outage, &waiting, 1_000_000), Look::NotBefore(Duration::MAX), "their time is over");
    let waiting = waiting.map(|candidate| Candidate { until: ms(2_000_000), ..candidate });
    assert_eq!(next(&mut outage, &waiting, 1_000_000), Look::Go(0, PermitKind::Probe));
    assert!(matches!(next(&mut outage, &waiting[1..], 1_000_000), Look::NotBefore(_)), "one at a time");
}

#[test]
fn what_may_not_be_repeated_gives_others_a_second_or_half_of_its_time() {
    for stake in [Stake::Nothing, Stake::SpareUnlessSent] {
        let mut outage = down();
        assert_eq!(next(&mut outage, &[waiter('b', 1000, stake)], 1000), Look::NotBefore(ms(2000)));
        let short = Candidate { until: ms(1400), ..waiter('b', 1000, stake) };
        assert_eq!(next(&mut outage, &[short], 1000), Look::NotBefore(ms(1200)));
        assert_eq!(next(&mut outage, &[waiter('b', 1000, stake)], 2000), Look::Go(0, PermitKind::Stranger));
    }
    // Where connections are refused a probe costs it nothing.
    let post = [waiter('b', 1000, Stake::SpareUnlessSent)];
    assert_eq!(Look::from(down().next(post.iter(), true, ms(1000))), Look::Go(0, PermitKind::Stranger));
    assert_eq!(
        Look::from(down().next([waiter('b', 1000, Stake::Nothing)].iter(), true, ms(1000))),
        Look::NotBefore(ms(2000))
    );
}

#[test]
fn what_may_not_be_repeated_and_is_known_as_good_waits_for_100_ms_where_new_keys_alone_have_failed() {
    for (is_known_good, grounds, at) in
        [(true, Grounds::NewKeys, 1100), (false, Grounds::NewKeys, 2000), (true, Grounds::KnownKeys, 2000)]
    {
        let mut outage = Outage::default();
        outage.begin([key('a')].into_iter(), grounds, pause(1), ms(1000));
        let post = Candidate { is_known_good, ..waiter('b', 1000, Stake::Nothing) };
        assert_eq!(next(&mut outage, &[post], 1000), Look::NotBefore(ms(at)));
        assert_eq!(next(&mut outage, &[post], at), Look::Go(0, PermitKind::Stranger));
        // Once a stranger has failed, the outage is no longer one of new keys alone.
        outage.failure(last(&outage, PermitKind::Stranger), key('b'), 4.7, pause, ms(at));
        let post = Candidate { key: key('c'), joined: ms(at), ..post };
        assert_eq!(next(&mut outage, &[post], at), Look::NotBefore(ms(at + 1000)));
    }
}

#[test]
fn keys_that_failed_take_turns_one_at_a_time_and_100_ms_apart() {
    let mut outage = Outage::default();
    outage.begin([key('a'), key('b'), key('c')].into_iter(), Grounds::KnownKeys, pause(1), ms(1000));
    let waiting = [tried('a', 1000), tried('b', 1000), tried('c', 1000)];
    assert_eq!(next(&mut outage, &waiting, 1100), Look::Go(0, PermitKind::Probe));
    assert_eq!(next(&mut outage, &waiting[1..], 1150), Look::NotBefore(ms(2100)), "one at a time");
    outage.failure(last(&outage, PermitKind::Probe), key('a'), 4.7, pause, ms(1150));
    assert_eq!(next(&mut outage, &waiting, 1150), Look::NotBefore(ms(1200)), "100 ms apart");
    // The key with the fewest failed probes first, and the pause of each key grows by itself.
    assert_eq!(next(&mut outage, &waiting, 1200), Look::Go(1, PermitKind::Probe));
    outage.failure(last(&outage, PermitKind::Probe), key('b'), 4.7, pause, ms(1200));
    assert_eq!(next(&mut outage, &waiting, 1400), Look::Go(2, PermitKind::Probe));
    outage.failure(last(&outage, PermitKind::Probe), key('c'), 4.7, pause, ms(1400));
    assert_eq!(next(&mut outage, &waiting, 1500), Look::Go(0, PermitKind::Probe));
    outage.failure(last(&outage, PermitKind::Probe), key('a'), 4.7, pause, ms(1500));
    assert_eq!(next(&mut outage, &waiting[..1], 1700), Look::NotBefore(ms(1800)));
}

#[test]
fn the_first_three_turns_come_early_for_those_that_have_nothing_to_lose() {
    let us = Duration::from_micros;
    let mut outage = down();
    let waiting = [tried('a', 1000), fresh('a', 1000)];
    let fails = |outage: &mut Outage, at: Duration| {
        assert_eq!(Look::from(outage.next(waiting.iter(), false, at)), Look::Go(1, PermitKind::Probe));
        outage.failure(last(outage, PermitKind::Probe), key('a'), 4.7, |_| ms(200), at);
    };
    assert_eq!(next(&mut outage, &waiting, 1000), Look::NotBefore(us(1_012_500)), "an eighth of the pause");
    fails(&mut outage, us(1_012_500));
    assert_eq!(next(&mut outage, &waiting, 1013), Look::NotBefore(us(1_062_500)), "a quarter");
    fails(&mut outage, us(1_062_500));
    assert_eq!(next(&mut outage, &waiting, 1063), Look::NotBefore(us(1_162_500)), "half");
    fails(&mut outage, us(1_162_500));
    assert_eq!(next(&mut outage, &waiting, 1163), Look::NotBefore(us(1_362_500)), "all of it");
}

#[test]
fn a_probe_that_takes_long_is_not_waited_for() {
    let mut outage = down();
    assert_eq!(next(&mut outage, &[fresh('a', 1000)], 1100), Look::Go(0, PermitKind::Probe));
    assert_eq!(next(&mut outage, &[fresh('a', 1000)], 2099), Look::NotBefore(ms(2100)));
    assert_eq!(next(&mut outage, &[fresh('a', 1000)], 2100), Look::Go(0, PermitKind::Probe));
}

#[test]
fn a_probe_whose_caller_left_gives_its_place_to_the_next() {
    let mut outage = down();
    assert_eq!(next(&mut outage, &[fresh('a', 1000)], 1100), Look::Go(0, PermitKind::Probe));
    outage.abandon(last(&outage, PermitKind::Probe), key('a'));
    assert_eq!(next(&mut outage, &[fresh('a', 1000)], 1200), Look::Go(0, PermitKind::Probe));
    assert_eq!(next(&mut outage, &[fresh('b', 1200)], 1200), Look::Go(0, PermitKind::Stranger));
    outage.abandon(last(&outage, PermitKind::Stranger), key('b'));
    assert_eq!(next(&mut outage, &[fresh('b', 1200)], 1201), Look::Go(0, PermitKind::Stranger));
    assert_eq!(outage.failed_probes(), 0);
}

#[test]
fn a_key_that_is_hopeless_leaves_the_probe_to_others_for_five_seconds() {
    for name in ['a', 'b'] {
        let hopeless = Candidate { is_hopeless: true, until: ms(21_000), ..fresh(name, 1000) };
        assert_eq!(next(&mut down(), &[hopeless], 2000), Look::NotBefore(ms(6000)));
        assert!(matches!(next(&mut down(), &[hopeless], 6000), Look::Go(0, _)));
    }
}

#[test]
fn a_key_whose_probes_take_long_leaves_turns_to_others() {
    let mut outage = down();
    outage.failure(last(&outage, PermitKind::Probe), key('a'), 4.7, pause, ms(1100));
    outage.failure(Permit::FREE, key('s'), 4.7, pause, ms(1100));
    let waiting = [fresh('s', 1000), fresh('s', 1000), fresh('s', 1000), fresh('a', 1000)];
    let mut turns = Vec::new();
    for at in (2000..9000).step_by(500) {
        if let Look::Go(place, kind) = next(&mut outage, &waiting, at) {
            assert_eq!(kind, PermitKind::Probe);
            turns.push(place);
        }
    }
    // None of them ends. Both keys get every second turn, whatever failed before.
    assert_eq!(turns[..6], [0, 3, 0, 3, 0, 3]);
}

#[test]
fn the_turn_of_a_known_key_comes_before_those_of_ever_new_ones() {
    let mut outage = down();
    let known = Candidate { is_known_good: true, ..fresh('a', 1000) };
    for (round, new) in (0..8).zip('b'..) {
        outage.failure(last(&outage, PermitKind::Stranger), key(new), 4.7, pause, ms(1000));
        let at = 2000 + 2000 * round;
        let mut waiting = [known, fresh(new, at)];
        waiting[0].until = ms(60_000);
        assert_eq!(next(&mut outage, &waiting, at), Look::Go(0, PermitKind::Probe));
        outage.failure(last(&outage, PermitKind::Probe), key('a'), 4.7, |_| ms(1000), ms(at + 10));
        assert_eq!(next(&mut outage, &waiting, at + 500), Look::Go(1, PermitKind::Probe));
        outage.failure(last(&outage, PermitKind::Probe), key(new), 4.7, pause, ms(at + 510));
    }
}

#[test]
fn known_keys_whose_probes_take_long_leave_turns_to_others() {
    let mut outage = down();
    for slow in ['s', 't', 'u'] {
        outage.failure(Permit::FREE, key(slow), 4.7, pause, ms(1100));
    }
    let known = |name| Candidate { is_known_good: true, ..fresh(name, 1000) };
    let waiting = [known('s'), known('t'), known('u'), fresh('a', 1000)];
    let turns = (2..11).map(|second| next(&mut outage, &waiting, second * 1000));
    let turns: Vec<_> = turns.map(|next| next == Look::Go(3, PermitKind::Probe)).collect();
    assert!(turns[..4].contains(&true) && turns[4..].contains(&true), "{turns:?}");
}

#[test]
fn a_check_that_passed_lets_one_go_always() {
    let mut outage = down();
    for round in 0..3 {
        outage.check_passed();
        let waiting = [waiter('a', 1000, Stake::Nothing), tried('a', 1000)];
        assert_eq!(next(&mut outage, &waiting, 1001 + round), Look::Go(0, PermitKind::Probe));
        assert!(matches!(next(&mut outage, &waiting, 1001 + round), Look::NotBefore(_)), "one, and no more");
        outage.failure(last(&outage, PermitKind::Probe), key('a'), 4.7, pause, ms(1002 + round));
    }
    let mut outage = Outage::default();
    outage.check_passed();
    outage.begin([key('a')].into_iter(), Grounds::KnownKeys, pause(1), ms(1000));
    assert_eq!(next(&mut outage, &[tried('a', 1000)], 1000), Look::NotBefore(ms(1100)), "it was before");
}

#[test]
fn the_end_of_a_checks_probe_leaves_the_turn_of_another_alone() {
    for end in [PermitKind::Probe, PermitKind::Free] {
        let mut outage = down();
        let waiting = [tried('a', 1000), tried('a', 1000)];
        let turn = permit(&mut outage, &waiting, 1100);
        outage.check_passed();
        let check = permit(&mut outage, &waiting, 1110);
        match end {
            PermitKind::Probe => outage.failure(check, key('a'), 4.7, |_| ms(1), ms(1120)),
            _ => outage.abandon(check, key('a')),
        }
        assert_eq!(next(&mut outage, &waiting, 1500), Look::NotBefore(ms(2100)), "one at a time");
        outage.abandon(turn, key('a'));
        assert_eq!(next(&mut outage, &waiting, 1500), Look::Go(0, PermitKind::Probe));
    }
}

#[test]
fn the_end_of_a_turn_that_took_long_leaves_the_next_one_alone() {
    let mut outage = down();
    let waiting = [tried('a', 1000), tried('a', 1000)];
    let long = permit(&mut outage, &waiting, 1100);
    let next_turn = permit(&mut outage, &waiting, 2100);
    outage.failure(long, key('a'), 4.7, |_| ms(1), ms(2300));
    assert_eq!(next(&mut outage, &waiting, 2400), Look::NotBefore(ms(3100)));
    outage.failure(next_turn, key('a'), 4.7, |_| ms(1), ms(2400));
    assert_eq!(next(&mut outage, &waiting, 2401), Look::Go(0, PermitKind::Probe));
}

#[test]
fn a_permit_of_an_earlier_outage_says_nothing_in_a_later_one() {
    let mut outage = down();
    let stranger = permit(&mut outage, &[fresh('b', 1000)], 1000);
    let probe = permit(&mut outage, &[tried('a', 1000)], 1100);
    outage.success(Permit::FREE, key('z'), true, ms(1200));
    let released = permit(&mut outage, &[tried('a', 1000)], 1200);
    outage.begin([key('a')].into_iter(), Grounds::KnownKeys, pause(1), ms(2000));
    // Of each key one probe is under way.
    assert_eq!(next(&mut outage, &[fresh('b', 2000)], 2000), Look::Go(0, PermitKind::Stranger));
    assert_eq!(next(&mut outage, &[tried('a', 2000)], 2100), Look::Go(0, PermitKind::Probe));
    // What is left of the earlier outage frees neither place, and is no failed probe.
    outage.abandon(stranger, key('b'));
    outage.failure(probe, key('a'), 4.7, |_| ms(1), ms(2000));
    outage.abandon(released, key('a'));
    assert_eq!(outage.failed_probes(), 0);
    let waiting = [fresh('b', 2000), tried('a', 2000)];
    assert_eq!(next(&mut outage, &waiting[..1], 2050), Look::NotBefore(ms(2100)));
    assert_eq!(next(&mut outage, &waiting[1..], 2999), Look::NotBefore(ms(3100)));
    // It opens no window of a later recovery, and halves none.
    outage.success(Permit::FREE, key('z'), true, ms(3000));
    let go = |outage: &mut Outage, at| {
        (0..9).take_while(|_| next(outage, &waiting[1..], at) == Look::Go(0, PermitKind::Released)).count()
    };
    assert_eq!(go(&mut outage, 3000), 2);
    outage.success(released, key('c'), true, ms(3010));
    outage.failure(released, key('c'), 4.7, pause, ms(3010));
    assert_eq!((go(&mut outage, 3020), go(&mut outage, 3100)), (0, 2));
}

#[test]
fn a_success_that_began_after_the_outage_ends_it_whatever_its_key_and_an_older_one_does_not() {
    let mut outage = down();
    assert_eq!(outage.success(Permit::FREE, key('z'), false, ms(1500)), Change::Nothing);
    assert!(outage.is_tried());
    assert_eq!(outage.success(Permit::FREE, key('z'), true, ms(1500)), Change::Recovering);
    assert!(outage.is_down() && !outage.is_tried());
}

#[test]
fn while_the_cluster_recovers_strangers_pass_and_others_are_let_go_slowly() {
    let mut outage = down();
    outage.failure(Permit::FREE, key('c'), 4.7, pause, ms(1500));
    outage.success(last(&outage, PermitKind::Probe), key('a'), true, ms(2000));
    let [failed, mended] = ['c', 'a'].map(|name| [fresh(name, 1000); 9]);
    assert_eq!(
        next(&mut outage, &[failed[0], mended[0], fresh('b', 1000)], 2000),
        Look::Go(2, PermitKind::Free)
    );
    // One good answer lets two go, of each kind.
    for (waiting, kind) in [(&mended, PermitKind::Mended), (&failed, PermitKind::Released)] {
        assert_eq!(next(&mut outage, waiting, 2000), Look::Go(0, kind));
        assert_eq!(next(&mut outage, waiting, 2000), Look::Go(0, kind));
        assert_eq!(next(&mut outage, waiting, 2000), Look::NotBefore(ms(2100)));
    }
    // Each further one two more, and what takes long doubles the window every 100 ms.
    outage.success(last(&outage, PermitKind::Mended), key('a'), true, ms(2010));
    assert_eq!(next(&mut outage, &mended, 2010), Look::Go(0, PermitKind::Mended));
    assert_eq!(next(&mut outage, &mended, 2010), Look::Go(0, PermitKind::Mended));
    assert_eq!(next(&mut outage, &mended, 2010), Look::NotBefore(ms(2100)));
    assert_eq!(next(&mut outage, &mended, 2100), Look::Go(0, PermitKind::Mended));
    // What still fails halves its own window, and not that of what succeeds.
    outage.failure(last(&outage, PermitKind::Released), key('c'), 4.7, pause, ms(2110));
    assert_eq!(next(&mut outage, &failed, 2110), Look::NotBefore(ms(2210)));
    assert_eq!(next(&mut outage, &mended, 2110), Look::Go(0, PermitKind::Mended));
    outage.queue_is_empty();
    assert!(!outage.is_down());
}

#[test]
fn failures_of_others_or_of_what_often_fails_hold_up_nobody_while_the_cluster_recovers() {
    for (kind, weight) in [(PermitKind::Free, 4.7), (PermitKind::Released, 0.5)] {
        let mut outage = down();
        outage.success(Permit::FREE, key('z'), true, ms(2000));
        let waiting = [fresh('a', 1000); 9];
        for at in (2000..2100).step_by(10) {
            outage.failure(last(&outage, kind), key('c'), weight, pause, ms(at));
        }
        let mut gone = 0;
        while next(&mut outage, &waiting, 2100) == Look::Go(0, PermitKind::Released) {
            gone += 1;
        }
        assert_eq!(gone, 4, "{kind:?}");
    }
}

#[test]
fn a_key_that_fails_again_goes_back_to_those_that_fail_and_holds_up_no_other() {
    let mut outage = down();
    outage.failure(Permit::FREE, key('b'), 4.7, pause, ms(1500));
    outage.success(last(&outage, PermitKind::Probe), key('a'), true, ms(2000));
    outage.success(last(&outage, PermitKind::Released), key('b'), true, ms(2000));
    let (a, b) = ([fresh('a', 1000); 9], [fresh('b', 1000); 9]);
    assert_eq!(next(&mut outage, &a, 2000), Look::Go(0, PermitKind::Mended));
    outage.failure(last(&outage, PermitKind::Mended), key('a'), 4.7, pause, ms(2010));
    assert_eq!(next(&mut outage, &a, 2010), Look::Go(0, PermitKind::Released));
    assert_eq!(next(&mut outage, &a, 2010), Look::NotBefore(ms(2110)), "halved");
    assert_eq!(next(&mut outage, &b, 2010), Look::Go(0, PermitKind::Mended));
    assert_eq!(next(&mut outage, &b, 2010), Look::Go(0, PermitKind::Mended));
}

#[test]
fn two_seconds_after_the_first_success_nobody_waits_whatever_fails() {
    let mut outage = down();
    outage.success(Permit::FREE, key('z'), true, ms(2000));
    let waiting = [fresh('a', 1000); 9];
    for at in (2000..4000).step_by(50) {
        if let Look::Go(place, kind) = next(&mut outage, &waiting, at) {
            assert_eq!((place, kind), (0, PermitKind::Released));
            outage.failure(last(&outage, kind), key('a'), 4.7, pause, ms(at + 10));
        }
    }
    assert_eq!(next(&mut outage, &waiting, 4000), Look::Go(0, PermitKind::Free));
}

#[test]
fn what_cannot_be_an_outage_queue_is_refused() {
    assert_eq!(OutageQueueSettings::new(1, ms(1000), 1), Err(InvalidOutageQueue::EnterAfter));
    assert_eq!(OutageQueueSettings::new(1, ms(1000), 101), Err(InvalidOutageQueue::EnterAfter));
    assert_eq!(OutageQueueSettings::new(1, ms(0), 3), Err(InvalidOutageQueue::MaxWait));
    assert_eq!(OutageQueueSettings::new(1, Duration::from_secs(3601), 3), Err(InvalidOutageQueue::MaxWait));
}

#[derive(Clone, Debug)]
enum Event {
    Begin,
    Look,
    Success,
    Failure,
    Abandon,
    Check,
    Later(u64),
}

fn events() -> impl Strategy<Value = Vec<(Event, u8)>> {
    let event = prop_oneof![
        1 => Just(Event::Begin),
        8 => Just(Event::Look),
        1 => Just(Event::Success),
        4 => Just(Event::Failure),
        2 => Just(Event::Abandon),
        1 => Just(Event::Check),
        4 => (1u64..400).prop_map(Event::Later),
    ];
    proptest::collection::vec((event, 0u8..6), 0..200)
}

proptest! {
    /// Whatever happens: someone may go soon, and no stranger whose key has failed.
    #[test]
    fn those_who_wait_always_have_a_moment_to_look_again_and_probes_are_few(events in events()) {
        let mut outage = Outage::default();
        let mut now = 1000;
        let mut out: Vec<(Permit, KeyId)> = Vec::new();
        for (event, number) in events {
            let waiting: Vec<_> = ('a'..='f').map(|name| fresh(name, now - 50)).collect();
            match event {
                Event::Begin if !outage.is_tried() => {
                    outage.begin([waiting[usize::from(number)].key].into_iter(), Grounds::KnownKeys, pause(1), ms(now));
                    out.clear();
                }
                Event::Begin => {}
                Event::Look if !outage.is_down() => {}
                Event::Look => match outage.next(waiting.iter(), false, ms(now)) {
                    Next::Go(place, permit) => {
                        prop_assert!(place < waiting.len());
                        let is_failed = outage.failed.contains_key(&waiting[place].key);
                        prop_assert!(permit.kind() != PermitKind::Stranger || !is_failed);
                        out.push((permit, waiting[place].key));
                    }
                    Next::NotBefore(at) => prop_assert!(at > ms(now) && at <= ms(now + 60_000), "{at:?} at {now}"),
                },
                Event::Later(later) => now += later,
                Event::Check => outage.check_passed(),
                Event::Success | Event::Failure | Event::Abandon => {
                    let ended = (!out.is_empty()).then(|| out.remove(usize::from(number) % out.len()));
                    let (permit, key) = ended.unwrap_or((Permit::FREE, waiting[0].key));
                    match event {
                        Event::Success => drop(outage.success(permit, key, true, ms(now))),
                        Event::Failure => outage.failure(permit, key, 4.7, pause, ms(now)),
                        _ => outage.abandon(permit, key),
                    }
                    if !outage.is_tried() {
                        out.retain(|(permit, ..)| matches!(permit.kind(), PermitKind::Released | PermitKind::Mended));
                    }
                }
            }
        }
    }
}
