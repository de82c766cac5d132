//! What is expected of keys, and what rows of failures say: the rules one by one, and random mixes by property.

use http::Method;
use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn expect() -> Expect {
    Expect::new(Secret::new(3, 5))
}

fn key(expect: &Expect, rest: &str) -> Key {
    expect.key(&Subject { route: "all", method: &Method::GET, rest })
}

fn learn(expect: &Expect, key: &Key, failures: u32, successes: u32) {
    (0..failures).for_each(|exchange| expect.note(key, Ending::Failure(exchange), NOW));
    (0..successes).for_each(|_| expect.note(key, Ending::Success, NOW));
}

fn note(row: &mut Row<u8>, expect: &Expect, key: &Key, kind: Kind, exchange: u32, now: Duration) {
    let q = if kind == Kind::Refused { expect.connection_q() } else { expect.q(key, now) };
    row.note(
        &Failure { kind, endpoint: 1, key, exchange, weight: weight(q), in_flight: 0 },
        expect,
        || "shown".to_owned(),
        now,
    );
}

#[test]
fn nothing_known_is_taken_for_a_cluster_that_fails_once_in_a_hundred() {
    let expect = expect();
    let key = key(&expect, "/a");
    assert!((expect.q(&key, NOW) - LEAST).abs() < 1e-9);
    assert!((weight(expect.q(&key, NOW)) - 4.71).abs() < 0.01);
    learn(&expect, &key, 0, 1000);
    assert!((expect.q(&key, NOW) - LEAST).abs() < 1e-9, "without a failure nothing is learned");
}

#[test]
fn a_path_that_always_fails_weighs_nothing_and_takes_nothing_from_others() {
    let expect = expect();
    let (bad, good) = (key(&expect, "/bad"), key(&expect, "/good"));
    for exchange in 0..400 {
        learn(&expect, &good, 0, 1);
        expect.note(&bad, Ending::Failure(exchange), NOW);
    }
    assert!(weight(expect.q(&bad, NOW)) < 0.02);
    assert!(weight(expect.q(&good, NOW)) > 4.5);
    assert!(expect.is_hopeless(&bad, NOW) && !expect.is_hopeless(&good, NOW));
    assert!(expect.is_known_good(&good, NOW) && !expect.is_known_good(&bad, NOW));
    learn(&expect, &bad, 0, 1);
    assert!(!expect.is_hopeless(&bad, NOW), "its first success ends that");
    assert!(!expect.is_known_good(&bad, NOW), "which is not much of a record");
}

#[test]
fn a_quiet_key_is_known_good_from_its_first_success_while_random_paths_fail() {
    let expect = expect();
    let (quiet, mut random) = (key(&expect, "/quiet"), fastrand::Rng::with_seed(1));
    for exchange in 0..60 {
        let word: String = (0..12).map(|_| random.lowercase()).collect();
        expect.note(&key(&expect, &format!("/{word}")), Ending::Failure(exchange), NOW);
    }
    assert!(!expect.is_known_good(&quiet, NOW));
    learn(&expect, &quiet, 0, 1);
    assert!(expect.is_known_good(&quiet, NOW));
    learn(&expect, &quiet, 1, 0);
    assert!(!expect.is_known_good(&quiet, NOW));
}

#[test]
fn a_new_path_borrows_from_the_nearest_prefix_that_is_known() {
    let expect = expect();
    let (cluster, reports) = (key(&expect, "/x/y"), key(&expect, "/reports/old"));
    for exchange in 0..200 {
        learn(&expect, &cluster, 0, 1);
        expect.note(&reports, Ending::Failure(exchange), NOW);
    }
    let new = key(&expect, "/reports/new");
    assert!(expect.q(&new, NOW) > 0.7, "{}", expect.q(&new, NOW));
    let elsewhere = key(&expect, "/pages/new");
    assert!((0.3..0.7).contains(&expect.q(&elsewhere, NOW)), "{}", expect.q(&elsewhere, NOW));
    let post = expect.key(&Subject { route: "all", method: &Method::POST, rest: "/pages/new" });
    assert!((0.3..0.7).contains(&expect.q(&post, NOW)), "of another method: the cluster's");
}

#[test]
fn a_thousand_random_paths_do_not_drive_out_what_is_known() {
    let expect = expect();
    let known: Vec<_> =
        ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h"].iter().map(|rest| key(&expect, rest)).collect();
    for key in &known {
        learn(&expect, key, 1, 20);
    }
    let mut random = fastrand::Rng::with_seed(1);
    for exchange in 0..20_000 {
        let word: String = (0..12).map(|_| random.lowercase()).collect();
        let random = key(&expect, &format!("/{word}"));
        expect.note(&random, Ending::Failure(exchange), NOW);
        assert!(!expect.is_hopeless(&random, NOW));
    }
    assert!(known.iter().all(|key| expect.is_known_good(key, NOW)));
}

#[test]
fn ten_minutes_after_the_last_failure_nothing_is_known() {
    let expect = expect();
    let key = key(&expect, "/a");
    learn(&expect, &key, 50, 0);
    assert!(!expect.is_stale(NOW + Duration::from_mins(10)));
    assert!(expect.is_stale(NOW + Duration::from_secs(601)));
    expect.forget();
    assert!((expect.q(&key, NOW) - LEAST).abs() < 1e-9);
    assert!((expect.cluster_q() - LEAST).abs() < 1e-9);
}

#[test]
fn a_futile_retry_goes_through_one_time_in_sixteen_and_once_a_second() {
    let expect = expect();
    let key = key(&expect, "/a");
    learn(&expect, &key, 8, 0);
    assert!(!expect.allows_futile(&key, 1.0 / 16.0, NOW));
    assert!(expect.allows_futile(&key, 0.0, NOW));
    assert!(!expect.allows_futile(&key, 0.0, NOW + ms(999)));
    assert!(expect.allows_futile(&key, 0.0, NOW + ms(1000)));
}

#[test]
fn connections_and_answers_are_expected_apart() {
    let expect = expect();
    let key = key(&expect, "/a");
    learn(&expect, &key, 300, 0);
    assert!((expect.connection_q() - LEAST).abs() < 1e-9, "a path that fails hides no backend that refuses");
    (0..300).for_each(|exchange| expect.note_connection(Ending::Failure(exchange), NOW));
    assert!(expect.connection_q() > 0.9);
}

#[test]
fn the_chances_are_those_of_bayes_rule() {
    assert!(chance_of_outage(0.0) < 1e-9);
    assert!((chance_of_outage(SURPRISE) - 0.5).abs() < 1e-9);
    assert!(chance_of_outage(4.7) < 0.02, "one failure is chance");
    assert!(chance_of_outage(1e9) > 0.999 && chance_of_outage(f64::NAN).is_nan());
    assert!((chance_of_success(0.2, 0.0) - 0.8).abs() < 1e-9);
    assert!(chance_of_success(0.009, 9.42) < 0.5, "two in a row are an alarm where nothing fails");
}

#[test]
fn further_failures_of_one_exchange_count_half_towards_an_outage_and_whole_towards_waits() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    for at in [1000, 1100] {
        note(&mut row, &expect, &key, Kind::Answered, 1, ms(at));
    }
    assert!((row.surprise() - 2.0 * weight(LEAST)).abs() < 1e-9);
    assert!(!row.is_surprising(2, [1].into_iter(), 0, ms(1100)), "{}", row.surprise());
    note(&mut row, &expect, &key, Kind::Answered, 1, ms(1300));
    assert!(row.is_surprising(3, [1].into_iter(), 0, ms(1300)), "a quiet cluster is down by one exchange");
}

#[test]
fn there_is_no_outage_while_more_attempts_have_come_under_way_than_failed() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    for exchange in 1..=3 {
        let failure =
            Failure { kind: Kind::Answered, endpoint: 1, key: &key, exchange, weight: 4.7, in_flight: 40 };
        row.note(&failure, &expect, || "shown".to_owned(), ms(1000 + u64::from(exchange) * 10));
    }
    assert!(!row.is_surprising(3, [1].into_iter(), 43, ms(1030)), "they may be slow answers");
    assert!(row.is_surprising(3, [1].into_iter(), 42, ms(1030)));
    assert!(row.is_surprising(3, [1].into_iter(), 0, ms(1030)));
}

#[test]
fn one_exchange_alone_is_no_outage_while_others_are_under_way() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    for at in [1000, 1100, 1300] {
        note(&mut row, &expect, &key, Kind::Answered, 1, ms(at));
    }
    assert!(!row.is_surprising(3, [1].into_iter(), 2, ms(1300)), "they are about to tell");
    // Its own answer may still flow.
    assert!(row.is_surprising(3, [1].into_iter(), 1, ms(1300)));
    note(&mut row, &expect, &key, Kind::Answered, 2, ms(1400));
    assert!(row.is_surprising(3, [1].into_iter(), 2, ms(1400)));
    // Where connections are refused, it is not the request.
    let mut refused = Row::new();
    for at in [1000, 1100, 1300] {
        note(&mut refused, &expect, &key, Kind::Refused, 1, ms(at));
    }
    assert!(refused.is_surprising(3, [1].into_iter(), 2, ms(1300)));
}

#[test]
fn where_retries_fail_again_while_others_succeed_they_are_little_proof() {
    let expect = expect();
    let (key, mut now) = (key(&expect, "/a"), ms(1000));
    let rows = |expect: &Expect, now: &mut Duration| {
        let mut row = Row::new();
        for exchange in [1, 1, 1, 2, 2, 2] {
            note(&mut row, expect, &key, Kind::Answered, exchange, *now);
            *now += ms(5);
        }
        let is_outage = row.is_surprising(3, [1].into_iter(), 0, *now);
        row.end(*now, expect, *now);
        is_outage
    };
    assert!(rows(&expect, &mut now));
    for _ in 0..20 {
        expect.note_success(&key, now);
    }
    assert!(weight(expect.q(&key, now)) * 4.0 > SURPRISE, "by halves it would be an outage still");
    assert!(!rows(&expect, &mut now));
    // Where retries help, they count half again.
    (0..100).for_each(|_| expect.note_again(Ending::Success, now));
    (0..100).for_each(|_| expect.note_success(&key, now));
    assert!(rows(&expect, &mut now));
}

#[test]
fn a_row_is_of_new_keys_until_a_key_fails_that_is_known_as_good_or_a_connection() {
    let expect = expect();
    let (known, new) = (key(&expect, "/known"), key(&expect, "/new"));
    learn(&expect, &new, 1, 0);
    learn(&expect, &known, 0, 1);
    for (last, kind, is_of_new_keys) in
        [(&new, Kind::Answered, true), (&known, Kind::Answered, false), (&new, Kind::Refused, false)]
    {
        let mut row = Row::new();
        note(&mut row, &expect, &new, Kind::Answered, 1, NOW);
        note(&mut row, &expect, last, kind, 2, NOW);
        assert_eq!(row.is_of_new_keys(), is_of_new_keys);
    }
}

#[test]
fn what_is_no_evidence_begins_no_row() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    note(&mut row, &expect, &key, Kind::Late, 1, ms(1000));
    assert!(!row.is_empty() && row.began().is_none());
    for exchange in 2..=4 {
        note(&mut row, &expect, &key, Kind::Answered, exchange, ms(1100));
    }
    assert!(!row.is_surprising(3, [1].into_iter(), 0, ms(1100)), "they lie within 5 ms");
}

#[test]
fn two_surprising_failures_are_an_outage_once_they_last_and_are_as_many_as_the_floor() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    note(&mut row, &expect, &key, Kind::Answered, 1, ms(1000));
    assert!(!row.is_surprising(2, [1].into_iter(), 0, ms(1010)));
    note(&mut row, &expect, &key, Kind::Answered, 2, ms(1004));
    assert!(!row.is_surprising(2, [1].into_iter(), 0, ms(1004)), "over too soon");
    assert!(row.is_surprising(2, [1].into_iter(), 0, ms(1005)));
    assert!(!row.is_surprising(3, [1].into_iter(), 0, ms(1005)), "the floor");
    assert!(!row.is_surprising(2, [1, 2].into_iter(), 0, ms(1005)), "endpoint 2 has not failed");
}

#[test]
fn a_path_that_is_known_to_fail_is_no_outage_however_often_it_fails() {
    let expect = expect();
    let key = key(&expect, "/bad");
    learn(&expect, &key, 300, 0);
    let mut row = Row::new();
    for exchange in 0..10_000 {
        note(&mut row, &expect, &key, Kind::Answered, exchange, ms(1000 + u64::from(exchange)));
    }
    assert!(!row.is_surprising(2, [1].into_iter(), 0, ms(20_000)), "{}", row.surprise());
}

#[test]
fn slow_is_no_evidence_and_is_learned_of_its_key() {
    let expect = expect();
    let key = key(&expect, "/report");
    let mut row = Row::new();
    (0..100).for_each(|exchange| note(&mut row, &expect, &key, Kind::Late, exchange, ms(1000)));
    assert!(row.surprise() < 1e-9 && !row.is_empty());
    row.end(ms(2000), &expect, ms(2000));
    assert!(expect.q(&key, ms(2000)) > 0.5);
}

#[test]
fn any_success_takes_the_answered_failures_out_and_refusals_leave_by_what_shows_a_connection() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    note(&mut row, &expect, &key, Kind::Answered, 1, ms(1000));
    note(&mut row, &expect, &key, Kind::Refused, 2, ms(1010));
    // It began before both: it says that the cluster answers, and nothing about connections.
    row.end(ms(500), &expect, ms(1020));
    assert!((row.surprise() - weight(LEAST)).abs() < 1e-9);
    assert_eq!(row.began(), Some(ms(1010)));
    row.end(ms(1010), &expect, ms(1030));
    assert!(!row.is_empty(), "it began with the first refusal, not after it");
    row.end(ms(1011), &expect, ms(1040));
    assert!(row.is_empty());
    note(&mut row, &expect, &key, Kind::Refused, 3, ms(1050));
    row.forget_refusals(&expect, |_| true, ms(1060));
    assert!(!row.is_empty());
    row.forget_refusals(&expect, |_| false, ms(1060));
    assert!(row.is_empty(), "a connection opened");
}

#[test]
fn a_row_begins_with_the_first_failure_that_is_evidence_still() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::default();
    note(&mut row, &expect, &key, Kind::Refused, 1, ms(1000));
    note(&mut row, &expect, &key, Kind::Answered, 2, ms(1010));
    assert_eq!(row.began(), Some(ms(1000)));
    row.forget_refusals(&expect, |_| false, ms(1020));
    assert_eq!(row.began(), Some(ms(1010)), "a connection opened");
    // Where connections often fail, a refusal is no evidence.
    (0..600).for_each(|exchange| expect.note_connection(Ending::Failure(exchange), NOW));
    note(&mut row, &expect, &key, Kind::Refused, 3, ms(1030));
    row.end(ms(900), &expect, ms(1040));
    assert_eq!(row.began(), None);
}

#[test]
fn failures_are_learned_when_the_row_ends_and_once_for_each_exchange() {
    let expect = expect();
    let key = key(&expect, "/a");
    let mut row = Row::new();
    for _ in 0..20 {
        note(&mut row, &expect, &key, Kind::Answered, 7, ms(1000));
    }
    assert!((expect.q(&key, ms(1000)) - LEAST).abs() < 1e-9, "a row weighs by what was known before it");
    row.end(ms(2000), &expect, ms(2000));
    let bucket = expect.find(key.own_level(), ms(2000)).unwrap();
    assert_eq!(bucket.attempts, 1, "one exchange, however often it was tried");
}

#[test]
fn what_an_outage_teaches_waits_for_the_keys_next_attempt() {
    let expect = expect();
    let (dropped, committed) = (key(&expect, "/a"), key(&expect, "/b"));
    let outage = || {
        let mut row = Row::new();
        for exchange in 0..10 {
            note(&mut row, &expect, &dropped, Kind::Answered, exchange, ms(1000));
            note(&mut row, &expect, &committed, Kind::Answered, exchange, ms(1000));
        }
        row
    };
    let mut lessons = outage().end_outage(2, &expect, ms(2000));
    assert!(
        !expect.is_hopeless(&dropped, ms(2000)),
        "a cluster of one key never becomes hopeless by its outage"
    );
    lessons.note(dropped.id(), ms(1999), Some(Kind::Answered), &expect, ms(2001));
    assert!(!expect.is_hopeless(&dropped, ms(2001)), "it began during the outage");
    lessons.note(dropped.id(), ms(2001), None, &expect, ms(2002));
    lessons.note(committed.id(), ms(2001), Some(Kind::Answered), &expect, ms(2002));
    assert!(lessons.is_empty());
    assert!(!expect.is_hopeless(&dropped, ms(2002)) && expect.is_hopeless(&committed, ms(2002)));
    // Over with the first probe: it may have been chance.
    assert!(outage().end_outage(1, &expect, ms(3000)).is_empty());
    assert!(expect.is_hopeless(&dropped, ms(3000)));
}

#[test]
fn ever_new_paths_that_fail_soon_surprise_no_more_and_a_known_page_as_ever() {
    let (expect, mut lessons, mut random) = (expect(), Lessons::default(), fastrand::Rng::with_seed(1));
    let (known, mut exchange) = (key(&expect, "/known"), 0);
    let mut new = || key(&expect, &format!("/{}", (0..12).map(|_| random.lowercase()).collect::<String>()));
    for outage in 1..=8 {
        let now = NOW + ms(1000 * outage);
        expect.note_failure(now);
        let mut row = Row::new();
        note(&mut row, &expect, &known, Kind::Answered, 0, now);
        for _ in 0..16 {
            exchange += 1;
            note(&mut row, &expect, &new(), Kind::Answered, exchange, now);
        }
        lessons.replace(row.end_outage(5, &expect, now), &expect, now);
        // The page comes again and is well; of the other paths none does.
        lessons.note(known.id(), now + ms(1), None, &expect, now + ms(2));
        learn(&expect, &known, 0, 10);
        let weight_of_new = weight(expect.q(&new(), now));
        assert!(outage < 2 || weight_of_new < 2.3, "after {outage} outages one more weighs {weight_of_new}");
        assert!(weight(expect.q(&known, now)) > 2.0, "{}", expect.q(&known, now));
        assert!(expect.is_known_good(&known, now));
    }
    let weight_of_new = weight(expect.q(&new(), NOW));
    assert!(weight_of_new < 1.5, "{weight_of_new}");
}

#[test]
fn a_row_names_three_keys_and_counts_the_others() {
    let expect = expect();
    let mut row = Row::new();
    for number in 0..5u8 {
        let key = key(&expect, &format!("/{}", char::from(b'a' + number)));
        note(&mut row, &expect, &key, Kind::Answered, 1, ms(1000));
    }
    assert_eq!(row.show(), "shown, shown, shown and 2 more");
    assert_eq!(Row::<u8>::new().show(), "connections");
}

proptest! {
    /// Whatever keys fail how often, in whatever order: those that always failed are no outage while others succeed.
    #[test]
    fn keys_that_fail_while_others_succeed_never_add_up_to_an_outage(
        seed in any::<u64>(),
        bad in 1usize..6,
        share in 0.05f64..0.9,
    ) {
        let (expect, mut row) = (expect(), Row::new());
        let mut random = fastrand::Rng::with_seed(seed);
        let keys: Vec<_> = (0..bad).map(|number| key(&expect, &format!("/bad-{}", "x".repeat(number)))).collect();
        let good = key(&expect, "/good");
        let mut alarms = 0;
        for exchange in 0..3000u64 {
            let now = ms(1000 + exchange * 3);
            if random.f64() < share {
                row.end(now, &expect, now);
                expect.note(&good, Ending::Success, now);
            } else {
                let key = &keys[random.usize(..keys.len())];
                note(&mut row, &expect, key, Kind::Answered, random.u32(..), now);
                let is_alarm = row.is_surprising(3, [1].into_iter(), 0, now);
                // At first nothing is known: then a row is as surprising as anywhere.
                alarms += u32::from(is_alarm && exchange > 500);
            }
        }
        prop_assert!(alarms <= 1, "{alarms} alarms");
    }

    /// Independent failures of one key look like an outage about once in ten thousand attempts.
    #[test]
    fn chance_is_seldom_taken_for_an_outage(seed in any::<u64>(), q in 0.01f64..0.5) {
        let (expect, mut row) = (expect(), Row::new());
        let mut random = fastrand::Rng::with_seed(seed);
        let key = key(&expect, "/a");
        let mut alarms = 0;
        for exchange in 0..20_000u32 {
            let now = ms(1000 + u64::from(exchange) * 6);
            if random.f64() < q {
                note(&mut row, &expect, &key, Kind::Answered, exchange, now);
                if exchange > 1000 && row.is_surprising(3, [1].into_iter(), 0, now) {
                    alarms += 1;
                    row.end(now, &expect, now);
                }
            } else {
                row.end(now, &expect, now);
                expect.note(&key, Ending::Success, now);
            }
        }
        // Two are expected where all is exact; what is known of q sways by a fifth.
        prop_assert!(alarms <= 40, "{alarms} alarms at q = {q}");
    }
}
