//! What the limiter promises: a cluster that answers well is never held back, one that is asked for too much gives what it
//! can.

use proptest::prelude::*;

use super::simulation::{Backend, Phase, QUEUE_TIME, Service, fixed, run, varying};
use super::*;

const SEEDS: std::ops::Range<u64> = 0..6;

/// 5 ms, but 2 s for one in twenty.
const MIXED: Service = |_, random| if random.f64() < 0.05 { 2.0 } else { 0.005 };

/// So much of the load twice over, between two times of three quarters of it.
fn overload(backend: Backend, capacity: f64, seconds: f64, seed: u64) -> Vec<Phase> {
    let (usual, much) = (0.75 * capacity, 2.0 * capacity);
    run(backend, &[(seconds, usual), (2.0 * seconds, much), (seconds, usual)], seed)
}

#[test]
fn twice_the_load_brings_no_less_than_the_capacity_however_wide_the_backend_is() {
    let cases: [(&str, Backend, f64, f64); 6] = [
        ("one server, 5 ms", Backend::queueing(1, fixed!(0.005)), 200.0, 6.0),
        ("one server, about 5 ms", Backend::queueing(1, varying!(0.005)), 200.0, 10.0),
        ("ten, about 5 ms", Backend::queueing(10, varying!(0.005)), 2000.0, 5.0),
        ("twenty, about 100 ms", Backend::queueing(20, varying!(0.1)), 200.0, 10.0),
        ("a hundred, about 1 s", Backend::queueing(100, varying!(1.0)), 100.0, 30.0),
        ("a hundred, 5 ms or 2 s", Backend::queueing(100, MIXED), 955.0, 15.0),
    ];
    for (name, backend, capacity, seconds) in cases {
        for seed in SEEDS {
            let phases = overload(backend, capacity, seconds, seed);
            // What the backend does varies by chance as well: of 2000 answers by a 50th or so.
            assert!(phases[1].goodput >= 0.95 * capacity, "{name}, {seed}: {phases:?}");
            assert!(phases[1].refused > 0, "{name}, {seed}: {phases:?}");
            assert_eq!(phases[0].refused, 0, "{name}, {seed}: {phases:?}");
        }
    }
}

#[test]
fn where_it_refuses_what_is_too_much_it_still_gives_what_it_can() {
    let backend = |servers, service, queue| Backend { queue, ..Backend::queueing(servers, service) };
    let cases: [(&str, Backend, f64, f64); 3] = [
        ("0.3 s of queue", backend(1, fixed!(0.005), 60), 200.0, 6.0),
        ("four in the queue", backend(1, fixed!(0.005), 4), 200.0, 6.0),
        ("no queue", backend(20, varying!(0.1), 0), 200.0, 15.0),
    ];
    for (name, backend, capacity, seconds) in cases {
        for seed in SEEDS {
            let phases = overload(backend, capacity, seconds, seed);
            let offered = 2.0 * capacity * 2.0 * seconds;
            assert!(phases[1].goodput >= 0.9 * capacity, "{name}, {seed}: {phases:?}");
            // Without a limit half of them would.
            assert!(f64::from(phases[1].failed) < 0.4 * offered, "{name}, {seed}: {phases:?}");
        }
    }
}

#[test]
fn an_overload_ends_with_its_cause() {
    for seed in SEEDS {
        let phases =
            run(Backend::queueing(1, fixed!(0.005)), &[(6.0, 150.0), (6.0, 400.0), (6.0, 150.0)], seed);
        // What waited is answered, and hardly anyone is refused any more.
        assert!(phases[2].goodput >= 165.0, "{seed}: {phases:?}");
        assert!(phases[2].refused <= 15, "{seed}: {phases:?}");
        assert!(phases[2].longest_answer < 0.6, "{seed}: {phases:?}");
    }
}

#[test]
fn what_carries_anything_is_never_held_back() {
    type Case = (&'static str, Service, &'static [(f64, f64)]);
    let cases: [Case; 9] = [
        ("10 µs", varying!(0.000_01), &[(1.0, 1000.0), (1.0, 50_000.0), (1.0, 1000.0)]),
        ("1 ms", varying!(0.001), &[(2.0, 1000.0), (2.0, 20_000.0), (2.0, 1000.0)]),
        ("5 ms", fixed!(0.005), &[(5.0, 100.0), (3.0, 10_000.0), (5.0, 10.0), (3.0, 10_000.0)]),
        (
            "100 ms, up to 1000 in flight",
            varying!(0.1),
            &[(5.0, 20.0), (5.0, 10_000.0), (5.0, 20.0), (2.0, 10_000.0)],
        ),
        (
            "2 s, from 20 to 800 in flight",
            varying!(2.0),
            &[(10.0, 10.0), (20.0, 400.0), (20.0, 10.0), (20.0, 400.0)],
        ),
        ("10 s", fixed!(10.0), &[(60.0, 1.0), (60.0, 50.0)]),
        ("5 ms or 2 s", MIXED, &[(10.0, 100.0), (10.0, 2000.0), (10.0, 100.0)]),
        ("0 to 1 s", |_, random| random.f64(), &[(10.0, 5.0), (10.0, 500.0), (10.0, 5.0), (10.0, 500.0)]),
        // The backend of the backend becomes slow, and fast again.
        (
            "5 ms, then 1 s, then 5 ms",
            |at, random| if (10.0..30.0).contains(&at) { random.f64() + 0.5 } else { 0.005 },
            &[(10.0, 100.0), (20.0, 100.0), (10.0, 100.0), (10.0, 1000.0)],
        ),
    ];
    for (name, service, phases) in cases {
        for seed in SEEDS {
            for (number, phase) in run(Backend::unlimited(service), phases, seed).iter().enumerate() {
                assert_eq!(phase.refused, 0, "{name}, {seed}, {number}: {phase:?}");
                assert!(phase.longest_wait < 0.5 * QUEUE_TIME, "{name}, {seed}, {number}: {phase:?}");
            }
        }
    }
}

#[test]
fn what_becomes_slow_for_another_reason_is_not_starved() {
    // At ten seconds nothing is answered for so long, and each answer takes so long from then on.
    fn pause(at: f64, pause: f64, slow: f64) -> f64 {
        if at > 10.0 { (10.0 + pause - at).max(0.0) + slow } else { 0.005 }
    }
    type Case = (&'static str, Service, f64);
    let cases: [Case; 4] = [
        ("0.3 s", |at, _| if at > 10.0 { 0.3 } else { 0.005 }, 200.0),
        ("1 s", |at, _| if at > 10.0 { 1.0 } else { 0.005 }, 200.0),
        ("0.1 s after a pause", |at, _| pause(at, 0.5, 0.1), 200.0),
        ("0.2 s after a pause", |at, _| pause(at, 2.0, 0.2), 50.0),
    ];
    for (name, service, rate) in cases {
        for seed in SEEDS {
            let phases = run(Backend::unlimited(service), &[(20.0, rate), (20.0, rate)], seed);
            // A few may be refused until it is known that more in flight bring more answers.
            let refused: u32 = phases.iter().map(|phase| phase.refused).sum();
            assert!(f64::from(refused) <= 0.01 * rate * 40.0, "{name}, {seed}: {phases:?}");
            assert!(phases[1].goodput >= 0.95 * rate, "{name}, {seed}: {phases:?}");
        }
    }
}

#[test]
fn a_load_that_creeps_over_the_capacity_is_noticed() {
    for seed in SEEDS {
        let phases: Vec<_> = (0..30).map(|second| (1.0, 190.0 + f64::from(second))).collect();
        let phases = [vec![(10.0, 150.0)], phases, vec![(30.0, 212.0)]].concat();
        let phases = run(Backend::queueing(1, fixed!(0.005)), &phases, seed);
        let last = phases[phases.len() - 1];
        assert!(last.goodput >= 198.0 && last.longest_answer < 0.5, "{seed}: {last:?}");
    }
}

#[test]
fn errors_of_chance_are_no_overload() {
    for (errors, rate) in [(0.2, 125.0), (0.2, 1000.0), (0.5, 125.0), (0.02, 125.0)] {
        for seed in SEEDS {
            let backend = Backend { errors, ..Backend::unlimited(fixed!(0.005)) };
            for phase in run(backend, &[(10.0, rate), (5.0, 4.0 * rate), (10.0, rate)], seed) {
                assert_eq!(phase.refused, 0, "{errors}, {rate}, {seed}: {phase:?}");
                assert!(phase.longest_wait < 0.2, "{errors}, {rate}, {seed}: {phase:?}");
            }
        }
    }
}

#[test]
fn errors_of_chance_hide_no_overload() {
    for seed in SEEDS {
        let backend = Backend { errors: 0.2, ..Backend::queueing(1, fixed!(0.005)) };
        let phases = overload(backend, 200.0, 6.0, seed);
        assert!(phases[1].goodput >= 0.95 * 160.0, "{seed}: {phases:?}");
        assert!(phases[1].refused > 0, "{seed}: {phases:?}");
    }
}

#[test]
fn a_pause_of_everything_is_survived() {
    // Now and then nothing is answered for half a second: a collection of garbage, a machine that is busy otherwise.
    let pauses: Service = |at, _| if at % 5.0 > 4.5 { 5.0 - at % 5.0 } else { 0.005 };
    for seed in SEEDS {
        for rate in [50.0, 125.0, 1000.0] {
            let phases = run(Backend::unlimited(pauses), &[(20.0, rate), (20.0, rate)], seed);
            for phase in phases {
                assert!(phase.goodput >= 0.93 * rate, "{rate}, {seed}: {phase:?}");
                assert!(f64::from(phase.refused) <= 0.01 * rate * 20.0, "{rate}, {seed}: {phase:?}");
            }
        }
    }
}

#[test]
fn what_was_learned_in_an_overload_is_unlearned() {
    for seed in SEEDS {
        let phases = run(Backend::queueing(1, fixed!(0.005)), &[(20.0, 400.0), (20.0, 400.0)], seed);
        assert!(phases[0].goodput >= 190.0, "{seed}: {phases:?}");
        assert!(phases[1].goodput >= 190.0, "{seed}: {phases:?}");
        assert!(phases[1].longest_answer < 0.8, "{seed}: {phases:?}");
    }
}

#[test]
fn a_cluster_that_loses_most_of_its_capacity_gives_the_rest() {
    let slower: Service = |at, _| if (10.0..40.0).contains(&at) { 0.02 } else { 0.005 };
    for seed in SEEDS {
        let phases = run(
            Backend::queueing(1, slower),
            &[(10.0, 150.0), (15.0, 150.0), (15.0, 150.0), (10.0, 150.0)],
            seed,
        );
        assert!(phases[2].goodput >= 47.0, "{seed}: {phases:?}");
        assert!(phases[2].refused > 0, "{seed}: {phases:?}");
        assert!(phases[2].longest_answer < 4.0, "{seed}: {phases:?}");
        assert!(phases[3].goodput >= 145.0, "{seed}: {phases:?}");
    }
}

#[test]
fn an_outage_is_no_overload() {
    let mut limiter = Limiter::new();
    let window = |answered, failed, in_flight| Window {
        answered,
        failed,
        latency: Duration::from_millis(5),
        median: Duration::from_millis(5),
        length: Duration::from_millis(100),
        in_flight,
        lingering: 0,
        pressure: Pressure::None,
    };
    (0..100).for_each(|_| limiter.note(&window(20, 0, 2)));
    (0..10).for_each(|_| limiter.note(&window(0, 20, 5)));
    assert_eq!(limiter.limit(), None);
    limiter.note(&window(3, 17, 5));
    assert_eq!(limiter.limit(), None);
    // The same share beside as many good answers as ever is one.
    limiter.note(&window(20, 100, 5));
    assert_eq!(limiter.limit(), Some(5));
}

fn windows() -> impl Strategy<Value = Window> {
    let pressure = prop_oneof![Just(Pressure::None), Just(Pressure::Some), Just(Pressure::Full)];
    let counts = (0..=u32::MAX, 0..=u32::MAX, 0..=u32::MAX, 0u32..1000);
    let small = (0u32..200, 0u32..200, 0u32..2000, 0u32..10);
    (prop_oneof![counts, small], 0u64..100_000_000, 0u64..100_000_000, pressure).prop_map(
        |((answered, failed, in_flight, lingering), latency, length, pressure)| Window {
            answered,
            failed,
            latency: Duration::from_micros(latency),
            median: Duration::from_micros(latency),
            length: Duration::from_micros(length),
            in_flight,
            lingering,
            pressure,
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_seen_there_is_a_limit_of_at_least_four_or_none(
        windows in proptest::collection::vec(windows(), 0..200),
    ) {
        let mut limiter = Limiter::new();
        for window in windows {
            limiter.is_due(&window);
            limiter.note(&window);
            prop_assert!(limiter.limit.is_finite() && limiter.limit <= NONE);
            prop_assert!(limiter.limit().is_none_or(|limit| limit >= 4 + 2 * window.lingering));
            prop_assert!(limiter.held_to().is_none_or(|rate| rate.is_finite() && rate >= 0.0));
        }
    }

    #[test]
    fn a_limit_that_does_not_bind_is_never_set_below_what_is_in_flight(
        windows in proptest::collection::vec(windows(), 1..100),
    ) {
        let mut limiter = Limiter::new();
        for window in windows {
            let before = limiter.limit;
            limiter.note(&window);
            if window.pressure != Pressure::Full {
                prop_assert!(limiter.limit >= before.min(f64::from(window.in_flight)));
            }
        }
    }

    #[test]
    fn without_late_answers_and_failures_nothing_is_held_back(
        latency in 1u64..10_000_000,
        windows in proptest::collection::vec((80u64..=150, 16u32..10_000, 0u32..10_000), 1..100),
    ) {
        let mut limiter = Limiter::new();
        for (percent, answered, in_flight) in windows {
            // Within the tolerance, whatever is asked for.
            let latency = Duration::from_micros(latency * percent / 100);
            let length = Duration::from_secs(1);
            let pressure = Pressure::None;
            limiter.note(&Window { answered, failed: 0, latency, median: latency, length, in_flight, lingering: 0, pressure });
            prop_assert_eq!(limiter.limit(), None);
        }
    }
}
