//! The percentile against the true one, also where its own hedges keep most slow attempts from finishing.

use proptest::prelude::*;

use super::*;

const P95: u8 = 95;

fn latencies(percent: u8) -> Latencies {
    Latencies::new(Percentile::new(percent).unwrap())
}

fn ms(count: f64) -> Duration {
    Duration::from_secs_f64(count / 1000.0)
}

/// How long a backend takes, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Backend {
    Exponential(f64),
    LogNormal(f64),
    Same(f64),
    /// Two kinds of requests.
    Two(f64, f64),
    Uniform(f64, f64),
}

impl Backend {
    fn take(self, random: &mut fastrand::Rng) -> f64 {
        match self {
            Self::Exponential(mean) => -mean * (1.0 - random.f64()).ln(),
            Self::LogNormal(median) => {
                // Irwin and Hall: twelve uniform numbers make a normal one.
                let normal = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
                median * normal.exp()
            }
            Self::Same(time) => time,
            Self::Two(one, other) => {
                let mean = if random.f64() < 0.7 { one } else { other };
                mean * (0.5 + random.f64())
            }
            Self::Uniform(least, most) => least + random.f64() * (most - least),
        }
    }
}

fn backend() -> impl Strategy<Value = Backend> {
    prop_oneof![
        (2.0..500.0).prop_map(Backend::Exponential),
        (2.0..500.0).prop_map(Backend::LogNormal),
        (1.0..5000.0).prop_map(Backend::Same),
        (2.0..20.0, 50.0..500.0).prop_map(|(one, other)| Backend::Two(one, other)),
        (1.0..100.0, 200.0..5000.0).prop_map(|(least, most)| Backend::Uniform(least, most)),
    ]
}

#[test]
fn a_bucket_ends_at_most_a_thirty_second_above_what_is_in_it() {
    for micros in (1000..200_000).step_by(7).chain([1_000_000, 65_535_999]) {
        let edge = upper_edge(bucket(Duration::from_micros(micros)));
        assert!(edge > micros && edge * 32 <= micros * 33 + 32, "{micros} {edge}");
    }
    assert_eq!((bucket(Duration::ZERO), bucket(Duration::from_micros(999))), (0, 0));
    assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    assert_eq!(upper_edge(BUCKETS - 1), 65_536_000);
}

#[test]
fn what_is_always_faster_than_a_millisecond_is_hedged_after_one() {
    let latencies = latencies(P95);
    for _ in 0..100 {
        latencies.note(Seen::Answer(Duration::from_micros(200)), Duration::ZERO);
    }
    assert_eq!(latencies.delay(), Some(ms(1.0)));
}

#[test]
fn where_no_answer_ever_comes_nothing_is_known() {
    let latencies = latencies(P95);
    for _ in 0..5000 {
        latencies.note(Seen::NoneWithin(ms(1000.0)), Duration::ZERO);
    }
    assert_eq!(latencies.delay(), None);
}

#[test]
fn a_backend_that_becomes_slower_or_faster_is_followed() {
    let latencies = latencies(P95);
    let mut number = 0;
    for (time, edge) in [(10.0, 10.25), (100.0, 102.0), (10.0, 10.25)] {
        for _ in 0..4000 {
            number += 1;
            latencies.note(Seen::Answer(ms(time)), ms(10.0 * f64::from(number)));
        }
        // Of what was before, no more than one in twenty is left.
        assert_eq!(latencies.delay(), Some(ms(edge)));
    }
}

#[test]
fn forgetting_keeps_the_tail() {
    let latencies = latencies(P95);
    // Each of the slow ones is alone in its bucket.
    let slow = [1, 2, 4, 8, 16, 32, 64, 128].map(|doubling| ms(100.0 * f64::from(doubling)));
    for number in 0..50_000_u32 {
        let seen = if number % 10 == 0 { slow[number as usize / 10 % 8] } else { ms(10.0) };
        latencies.note(Seen::Answer(seen), ms(10.0 * f64::from(number)));
    }
    let delay = latencies.delay().unwrap();
    assert!((ms(400.0)..ms(1700.0)).contains(&delay), "{delay:?}");
}

#[test]
fn failures_before_the_first_answers_do_not_bring_hedges_forward() {
    let latencies = latencies(P95);
    for number in 0..400 {
        let seen = if number < 200 { Seen::NoneWithin(ms(1.0)) } else { Seen::Answer(ms(10.0)) };
        latencies.note(seen, ms(10.0 * f64::from(number)));
        assert!(latencies.delay().is_none_or(|delay| delay >= ms(10.0)), "{number}");
    }
}

#[test]
fn where_more_hang_than_the_percentile_leaves_the_delay_does_not_run_away() {
    let latencies = latencies(P95);
    for number in 0..20_000 {
        let delay = latencies.delay().unwrap_or(ms(1000.0));
        // A hedge brings the answer 10 ms later.
        let seen = if number % 5 == 0 { Seen::NoneWithin(delay + ms(10.0)) } else { Seen::Answer(ms(10.0)) };
        latencies.note(seen, ms(10.0 * f64::from(number)));
    }
    assert_eq!(latencies.delay(), Some(ms(10.25)));
}

/// What a loop of hedged requests did at its end: the share that was hedged, and after what time.
fn in_the_loop(backend: Backend, hanging: f64, random: u64) -> (f64, Option<Duration>) {
    const LOOKED_AT: u32 = 10_000;
    let mut random = fastrand::Rng::with_seed(random);
    let latencies = latencies(P95);
    let mut take = || if random.f64() < hanging { 1e6 } else { backend.take(&mut random) };
    let mut hedged = 0;
    for number in 0..20_000 {
        let first = take();
        let delay = latencies.delay().map_or(f64::INFINITY, |delay| delay.as_secs_f64() * 1000.0);
        let end = if first > delay {
            hedged += u32::from(number >= 10_000);
            first.min(delay + take())
        } else {
            first
        };
        // No attempt outlasts a per-try timeout of ten seconds.
        let end = end.min(10_000.0);
        let seen = if first <= end { Seen::Answer(ms(first)) } else { Seen::NoneWithin(ms(end)) };
        latencies.note(seen, ms(10.0 * f64::from(number)));
    }
    (f64::from(hedged) / f64::from(LOOKED_AT), latencies.delay())
}

#[test]
fn a_tenth_that_hangs_is_hedged_as_soon_as_the_others_have_answered() {
    let (hedged, delay) = in_the_loop(Backend::Uniform(5.0, 20.0), 0.1, 1);
    assert!((0.08..0.13).contains(&hedged), "{hedged}");
    assert!((ms(18.0)..ms(22.0)).contains(&delay.unwrap()), "{delay:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_percentile_is_the_true_one_or_at_most_a_thirty_second_above(
        backend in backend(), percent in 50u8..=99, rounds in 25usize..50, seed in any::<u64>(),
    ) {
        let latencies = latencies(percent);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut times: Vec<_> = (0..rounds * 20).map(|_| ms(backend.take(&mut random))).collect();
        for time in &times {
            latencies.note(Seen::Answer(*time), Duration::ZERO);
        }
        times.sort_unstable();
        let rank = (times.len() * usize::from(percent)).div_ceil(100);
        let truth = times[rank - 1].max(ms(1.0)).as_secs_f64();
        let delay = latencies.delay().unwrap().as_secs_f64();
        prop_assert!(delay >= truth - 1e-6 && delay <= truth * 33.0 / 32.0 + 1e-5, "{delay} for {truth}");
    }

    #[test]
    fn nothing_is_hedged_before_enough_was_seen(percent in 50u8..=99, time in 0.0..10_000.0) {
        let latencies = latencies(percent);
        let least = Percentile::new(percent).unwrap().least_seen();
        for number in 1..least + PERIOD {
            latencies.note(Seen::Answer(ms(time)), Duration::ZERO);
            if number < least {
                prop_assert_eq!(latencies.delay(), None);
            }
        }
        prop_assert!(latencies.delay().is_some());
    }

    #[test]
    fn its_own_hedges_drive_it_neither_to_always_nor_to_never(
        backend in backend(), hanging in 0.0..0.03, seed in any::<u64>(),
    ) {
        let (hedged, _) = in_the_loop(backend, hanging, seed);
        // Where all take the same time, only what hangs is slower.
        let least = if matches!(backend, Backend::Same(_)) { hanging * 0.7 - 0.002 } else { 0.015 };
        prop_assert!(hedged >= least && hedged <= 0.08, "{hedged}");
    }

    #[test]
    fn what_is_cut_off_above_the_percentile_does_not_move_it(backend in backend(), seed in any::<u64>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let times: Vec<_> = (0..1000).map(|_| ms(backend.take(&mut random))).collect();
        let noted = |limit: Duration| {
            let latencies = latencies(P95);
            for time in &times {
                let seen = if *time > limit { Seen::NoneWithin(limit) } else { Seen::Answer(*time) };
                latencies.note(seen, Duration::ZERO);
            }
            latencies.delay().unwrap()
        };
        let delay = noted(Duration::MAX);
        prop_assert_eq!(noted(delay), delay);
        prop_assert_eq!(noted(delay * 2), delay);
    }

    #[test]
    fn failures_that_come_soon_do_not_move_it(backend in backend(), failing in 0.0..0.9, seed in any::<u64>()) {
        let noted = |failing: f64| {
            let latencies = latencies(P95);
            let (mut random, mut chance) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(!seed));
            let mut number = 0;
            while number < 1000 {
                if number >= 100 && chance.f64() < failing {
                    latencies.note(Seen::NoneWithin(Duration::from_micros(500)), Duration::ZERO);
                } else {
                    number += 1;
                    latencies.note(Seen::Answer(ms(backend.take(&mut random))), Duration::ZERO);
                }
            }
            latencies.delay().unwrap()
        };
        prop_assert_eq!(noted(failing), noted(0.0));
    }

    #[test]
    fn a_cancelled_attempt_never_makes_it_shrink(
        backend in backend(), ran in 1.0..20.0, cancelled in 1usize..200, seed in any::<u64>(),
    ) {
        let latencies = latencies(P95);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..1000 {
            latencies.note(Seen::Answer(ms(backend.take(&mut random))), Duration::ZERO);
        }
        let before = latencies.delay().unwrap();
        for _ in 0..cancelled * 20 {
            latencies.note(Seen::NoneWithin(before.mul_f64(ran)), Duration::ZERO);
            prop_assert!(latencies.delay().unwrap() >= before);
        }
    }
}
