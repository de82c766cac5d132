//! Whose copy goes, whose never does, and what a caller may hold of answers.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn holder(number: u8) -> Holder {
    IpAddr::from([192, 0, 2, number]).into()
}

/// A moment so late that all others of a test lie before it.
fn now() -> Instant {
    Instant::now() + Duration::from_hours(1)
}

fn ago(now: Instant, time: Duration) -> Instant {
    now.checked_sub(time).unwrap()
}

fn copy(number: u8, bytes: usize, progress: Instant, stage: Stage) -> Claim {
    Claim { holder: holder(number), bytes, progress, stage }
}

fn newcomer(number: u8, now: Instant) -> Claim {
    copy(number, 0, now, Stage::Growing)
}

fn demand(more: usize, missing: usize, limit: usize) -> Demand {
    Demand { more, missing, limit }
}

#[test]
fn an_ipv6_caller_is_its_network_and_a_mapped_address_is_the_ipv4_address() {
    let of = |text: &str| Holder::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
}

#[test]
fn the_copy_that_has_stalled_longest_goes_first() {
    let now = now();
    let growing = |age: u32| copy(1, 100, ago(now, SECOND * age), Stage::Growing);
    let copies = [growing(5), growing(20), growing(1)];
    assert_eq!(give_up(&copies, &newcomer(2, now), demand(50, 50, 400)), Ok(vec![(1, GivenUp::Slow)]));
    assert_eq!(
        give_up(&copies, &newcomer(2, now), demand(150, 150, 4000)),
        Ok(vec![(1, GivenUp::Slow), (0, GivenUp::Slow)])
    );
}

#[test]
fn a_caller_over_its_share_gives_way_and_takes_from_nobody() {
    let now = now();
    // Neither has stalled; the first caller holds half.
    let copies = [
        copy(1, 100, now, Stage::Growing),
        copy(1, 100, now, Stage::Growing),
        copy(2, 60, ago(now, SECOND), Stage::Growing),
    ];
    assert_eq!(give_up(&copies, &newcomer(3, now), demand(50, 50, 400)), Ok(vec![(0, GivenUp::Share)]));
    // What is slower than its own is another's, and stays.
    assert_eq!(give_up(&copies, &newcomer(1, now), demand(50, 50, 400)), Err(GivenUp::Share));
}

#[test]
fn a_whole_copy_goes_only_for_a_much_smaller_one() {
    let now = now();
    let whole = |bytes| [copy(1, bytes, ago(now, SECOND * 20), Stage::Whole)];
    assert_eq!(give_up(&whole(79), &newcomer(2, now), demand(10, 10, 400)), Err(GivenUp::Memory));
    assert_eq!(give_up(&whole(80), &newcomer(2, now), demand(10, 10, 400)), Ok(vec![(0, GivenUp::Large)]));
}

#[test]
fn a_copy_that_is_sent_again_never_goes() {
    let now = now();
    let copies = [copy(1, 400, ago(now, SECOND * 60), Stage::InUse)];
    assert_eq!(give_up(&copies, &newcomer(2, now), demand(1, 1, 400)), Err(GivenUp::Memory));
}

#[test]
fn a_drip_into_a_large_copy_is_no_progress() {
    assert_eq!(next_step(0), 1);
    assert_eq!(next_step(80), 91);
    assert_eq!(next_step(64 << 20), (72 << 20) + 1);
}

#[test]
fn an_answer_is_held_within_a_quarter_and_alone_within_a_half() {
    assert!(may_hold_firmly(0, 500, 0, 1000));
    assert!(!may_hold_firmly(0, 501, 0, 1000), "as much is left for others");
    assert!(may_hold_firmly(0, 250, 1, 1000));
    assert!(!may_hold_firmly(0, 251, 1, 1000), "others hold some");
    assert!(!may_hold_firmly(500, 1, 510, 1000), "nor does one grow that was alone");
    assert!(!may_hold_firmly(0, 1, 0, 0));
}

fn stage() -> impl Strategy<Value = Stage> {
    prop::sample::select(vec![Stage::Growing, Stage::InUse, Stage::Whole])
}

fn claims() -> impl Strategy<Value = Vec<(u8, usize, u64, Stage)>> {
    prop::collection::vec((0u8..5, 0usize..500, 0u64..10_000, stage()), 0..30)
}

proptest! {
    #[test]
    fn enough_is_given_up_or_nothing_and_each_copy_once(
        copies in claims(), by in 0u8..5, own in 0usize..200, more in 1usize..200, missing in 1usize..300,
        age in 0u64..5000, limit in 1usize..5000,
    ) {
        let now = now();
        let before = |ms| ago(now, Duration::from_millis(ms));
        let copies: Vec<_> =
            copies.into_iter().map(|(by, bytes, age, stage)| copy(by, bytes, before(age), stage)).collect();
        let newcomer = copy(by, own, before(age), Stage::Growing);
        let held = |by: u8, given_up: &[(usize, GivenUp)]| -> usize {
            let kept = |index: usize| !given_up.iter().any(|(gone, _)| *gone == index);
            let of = |(index, copy): (usize, &Claim)| {
                if copy.holder == holder(by) && kept(index) { copy.bytes } else { 0 }
            };
            copies.iter().enumerate().map(of).sum()
        };
        let Ok(chosen) = give_up(&copies, &newcomer, demand(more, missing, limit)) else { return Ok(()) };
        let freed: usize = chosen.iter().map(|(index, _)| copies[*index].bytes).sum();
        prop_assert!(freed >= missing);
        let mut indices: Vec<_> = chosen.iter().map(|(index, _)| *index).collect();
        indices.sort_unstable();
        indices.dedup();
        prop_assert_eq!(indices.len(), chosen.len());
        let is_over_share = held(by, &[]) + own + more > limit / 4;
        for (index, why) in &chosen {
            let copy = &copies[*index];
            prop_assert!(copy.stage != Stage::InUse && copy.bytes > 0);
            // A caller over its share takes from itself alone.
            prop_assert!(!is_over_share || copy.holder == newcomer.holder);
            // A whole copy goes for none that is as large.
            prop_assert!(copy.stage != Stage::Whole || copy.bytes > own + more);
            // Nobody within its share loses a copy that grows as fast as the newcomer.
            prop_assert!(
                *why == GivenUp::Share || copy.stage == Stage::Whole || copy.progress < newcomer.progress
            );
        }
    }

    #[test]
    fn a_caller_within_its_share_loses_nothing_while_stalled_copies_are_enough(
        stalled in prop::collection::vec(3000u64..60_000, 1..8), whole in prop::collection::vec(1usize..100, 0..8),
    ) {
        let now = now();
        let mut copies: Vec<_> =
            whole.iter().map(|bytes| copy(1, *bytes, ago(now, SECOND * 30), Stage::Whole)).collect();
        copies.extend(stalled.iter().map(|ms| copy(2, 100, ago(now, Duration::from_millis(*ms)), Stage::Growing)));
        let chosen = give_up(&copies, &newcomer(3, now), demand(100, 100, 10_000)).unwrap();
        prop_assert!(chosen.iter().all(|(index, _)| copies[*index].holder == holder(2)));
    }

    #[test]
    fn answers_leave_room_for_others(requests in prop::collection::vec((0u8..4, 1usize..300), 0..60)) {
        const LIMIT: usize = 1000;
        let mut held = [0usize; 4];
        for (by, more) in requests {
            let (used, by) = (held.iter().sum::<usize>(), usize::from(by));
            if may_hold_firmly(held[by], more, used, LIMIT) {
                held[by] += more;
                prop_assert!(held.iter().sum::<usize>() <= LIMIT);
                let is_alone = used + more == held[by];
                prop_assert!(is_alone || held[by] <= LIMIT / 4);
            }
        }
        // Whoever holds nothing gets a little.
        let used = held.iter().sum::<usize>();
        prop_assert!(used < LIMIT && may_hold_firmly(0, 1, used, LIMIT));
    }
}
