//! The account: never over its limit, every byte given back once, and nobody above its share while others want in.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::record::metrics::Metrics;

/// What a listener with default settings reads at once.
const BUFFER: usize = 72 << 10;

fn memory(limit: usize) -> Arc<ReplayMemory> {
    Arc::new(ReplayMemory::new(limit, Metrics::new().replay_overflow.clone()))
}

fn copy(memory: &Arc<ReplayMemory>, number: u8, buffer: usize, now: Instant) -> Copy {
    let holder = std::net::IpAddr::from([192, 0, 2, number]).into();
    Copy::new(memory.clone(), Original { holder, origin: Origin::Buffers(buffer), announced: None }, now)
}

fn part(length: usize) -> Bytes {
    vec![b'x'; length].into()
}

fn whole(copy: &Copy) -> Option<usize> {
    let pieces = (0..).map_while(|number| copy.piece(number));
    let length = pieces.map(|piece| piece.len()).sum();
    copy.is_kept().then_some(length)
}

#[test]
fn a_small_part_does_not_hold_the_buffer_that_it_was_read_into() {
    let (memory, now) = (memory(10 << 20), Instant::now());
    let copy = copy(&memory, 1, BUFFER, now);
    let mut alive = Vec::new();
    for _ in 0..64 {
        let buffer = Bytes::from(vec![b'x'; BUFFER]);
        copy.keep(&buffer.slice(..1024), usize::MAX, now);
        alive.push(buffer);
    }
    assert!((64 << 10..=129 << 10).contains(&memory.used()), "{}", memory.used());
    assert!(alive.into_iter().all(|buffer| buffer.is_unique()), "the copy shares no buffer");
    assert_eq!(whole(&copy), Some(64 << 10));
}

#[test]
fn a_large_part_is_kept_as_it_came_and_counts_as_its_buffer() {
    let (memory, now) = (memory(10 << 20), Instant::now());
    let copy = copy(&memory, 1, BUFFER, now);
    let part = part(64 << 10);
    copy.keep(&part, usize::MAX, now);
    assert_eq!((memory.used(), part.is_unique()), (BUFFER, false));
    copy.keep(&part, usize::MAX, now);
    assert_eq!(memory.used(), 2 * BUFFER);
    drop(copy);
    assert!(memory.used() == 0 && part.is_unique());
}

#[test]
fn stalled_copies_of_one_caller_do_not_keep_others_from_theirs() {
    let (memory, began) = (memory(1000), Instant::now());
    let stalled: Vec<_> = (0..4).map(|_| copy(&memory, 1, 0, began)).collect();
    for copy in &stalled {
        copy.keep(&part(250), usize::MAX, began);
    }
    let later = began + Duration::from_secs(10);
    let bystander = copy(&memory, 2, 0, later);
    bystander.keep(&part(100), usize::MAX, later);
    bystander.end();
    assert_eq!(whole(&bystander), Some(100));
    assert_eq!(stalled.iter().filter(|copy| copy.is_kept()).count(), 3);
    assert_eq!((memory.used(), memory.given_up(GivenUp::Slow)), (850, 1));
    // The caller of the stalled ones tries to take it back.
    let greedy = copy(&memory, 1, 0, later);
    greedy.keep(&part(300), usize::MAX, later);
    assert_eq!(whole(&bystander), Some(100));
}

#[test]
fn a_copy_that_is_secured_stays_and_may_go_once_it_has_been_sent() {
    let (memory, began) = (memory(100), Instant::now());
    let later = began + Duration::from_secs(10);
    let old = copy(&memory, 1, 0, began);
    old.keep(&part(100), usize::MAX, began);
    assert!(old.secure());
    let other = copy(&memory, 2, 0, later);
    other.keep(&part(10), usize::MAX, later);
    assert_eq!((whole(&old), whole(&other)), (Some(100), None));
    assert_eq!(memory.given_up(GivenUp::Memory), 1);
    old.release();
    let other = copy(&memory, 2, 0, later);
    other.keep(&part(10), usize::MAX, later);
    assert_eq!((whole(&old), whole(&other)), (None, Some(10)));
    assert!(!old.secure(), "it is lost");
}

#[test]
fn threads_that_press_into_a_full_account_leave_it_empty() {
    let memory = memory(4000);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let memory = &memory;
            scope.spawn(move || {
                let began = Instant::now();
                for round in 0..200u64 {
                    let now = began + Duration::from_millis(round * 100);
                    let copies: Vec<_> = (0..8).map(|_| copy(memory, number, 0, now)).collect();
                    for copy in &copies {
                        copy.keep(&part(90), usize::MAX, now);
                        copy.keep(&part(90), usize::MAX, now);
                        assert!(memory.used() <= 4000);
                    }
                    // A copy that is secured is there until it is released.
                    let secured = copies.iter().filter(|copy| copy.secure());
                    assert!(secured.collect::<Vec<_>>().into_iter().all(|copy| whole(copy) == Some(180)));
                }
            });
        }
    });
    assert_eq!(memory.used(), 0);
    assert!(memory.copies().is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    Keep(usize, usize),
    End(usize),
    Secure(usize),
    Release(usize),
    Forget(usize),
    Drop(usize),
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0usize..12;
    prop_oneof![
        3 => (0u8..4).prop_map(Step::Begin),
        8 => (index.clone(), 1usize..400).prop_map(|(index, length)| Step::Keep(index, length)),
        1 => index.clone().prop_map(Step::End),
        1 => index.clone().prop_map(Step::Secure),
        1 => index.clone().prop_map(Step::Release),
        1 => index.clone().prop_map(Step::Forget),
        2 => index.prop_map(Step::Drop),
        1 => (0usize..2000).prop_map(Step::Limit),
    ]
}

proptest! {
    #[test]
    fn the_account_is_the_sum_of_its_copies_and_never_over_its_limit(
        steps in prop::collection::vec((step(), 0u64..2000), 0..80), buffer in 0usize..300,
    ) {
        let memory = memory(1000);
        let mut limit = 1000;
        let mut now = Instant::now();
        let mut copies: Vec<(Copy, usize)> = Vec::new();
        for (step, ms) in steps {
            now += Duration::from_millis(ms);
            let before = memory.used();
            match step {
                Step::Begin(number) => copies.push((copy(&memory, number, buffer, now), 0)),
                Step::Limit(other) => {
                    memory.change_limit(other);
                    limit = other;
                }
                Step::Drop(index) if index < copies.len() => drop(copies.swap_remove(index)),
                Step::Keep(index, _) | Step::End(index) | Step::Secure(index) | Step::Release(index)
                | Step::Forget(index) | Step::Drop(index) => {
                    let Some((copy, length)) = copies.get_mut(index) else { continue };
                    match step {
                        Step::Keep(_, more) => {
                            copy.keep(&part(more), 3000, now);
                            *length += more;
                            prop_assert!(memory.used() <= limit.max(before));
                        }
                        Step::End(_) => copy.end(),
                        Step::Secure(_) => {
                            copy.secure();
                        }
                        Step::Release(_) => copy.release(),
                        _ => copy.forget(),
                    }
                }
            }
            let held: usize = copies.iter().map(|(copy, _)| copy.shared.lock().pieces.memory()).sum();
            prop_assert_eq!(memory.used(), held);
            for (copy, length) in &copies {
                prop_assert!(whole(copy).is_none_or(|kept| kept == *length), "all of it, or none");
            }
            for (place, listed) in memory.copies().iter().enumerate() {
                prop_assert_eq!(listed.place.load(Ordering::Relaxed), place);
            }
        }
        drop(copies);
        prop_assert_eq!(memory.used(), 0);
        prop_assert!(memory.copies().is_empty());
    }
}
