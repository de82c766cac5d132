//! Tests of the load: its schedule over paused time, and its figures against a real HOSP.

use http::Method;

use super::*;
use crate::demo::hosp::Hosp;

fn arrivals(gap: Duration, count: u32) -> impl Iterator<Item = Arrival> {
    (0..count).map(move |number| Arrival {
        at: gap * number,
        method: Method::GET,
        path: "/".to_owned(),
        post: None,
        expects: String::new(),
    })
}

fn users(in_flight: u32, tally: &Arc<Tally>) -> Users {
    Users { start: Instant::now(), patience: PATIENCE, in_flight, tally: tally.clone() }
}

#[tokio::test(start_paused = true)]
async fn requests_go_out_on_schedule_however_late_the_answers_are() {
    let tally = Arc::new(Tally::new());
    let (_halt, mut phase) = watch::channel(Phase::Sending);
    let start = Instant::now();
    let times = Arc::new(Mutex::new(Vec::new()));
    let log = times.clone();
    let send = move |_| {
        log.lock().unwrap().push(start.elapsed());
        async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(())
        }
    };
    users(1_000, &tally).drive(arrivals(Duration::from_millis(10), 100), &mut phase, send).await;
    let expected: Vec<_> = (0..100).map(|number| Duration::from_millis(10) * number).collect();
    assert_eq!(*times.lock().unwrap(), expected);
    assert_eq!(tally.figures().good, 100);
    let median = tally.figures().latency.quantile(0.5).unwrap();
    assert!((Duration::from_secs(3)..Duration::from_millis(3_100)).contains(&median), "{median:?}");
}

#[tokio::test(start_paused = true)]
async fn latency_counts_from_the_appointed_time_not_from_the_sending() {
    let tally = Arc::new(Tally::new());
    let (_halt, mut phase) = watch::channel(Phase::Sending);
    let users = users(10, &tally);
    tokio::time::advance(Duration::from_secs(2)).await;
    users.drive(arrivals(Duration::ZERO, 1), &mut phase, |_| async { Ok(()) }).await;
    assert!(tally.figures().latency.quantile(1.0) >= Some(Duration::from_secs(2)));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_is_a_failure_and_so_is_an_answer_that_never_comes() {
    let tally = Arc::new(Tally::new());
    let (_halt, mut phase) = watch::channel(Phase::Sending);
    let start = Instant::now();
    let send = |_| std::future::pending();
    users(3, &tally).drive(arrivals(Duration::from_millis(10), 10), &mut phase, send).await;
    assert_eq!(start.elapsed(), PATIENCE + Duration::from_millis(20), "the last one sent is waited for");
    let failures: Vec<_> = tally.figures().failures().collect();
    assert_eq!(failures, [(Failure::NotStarted, 7), (Failure::Timeout, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_halted_load_sends_nothing_new_and_waits_for_what_is_under_way() {
    let tally = Arc::new(Tally::new());
    let (halt, mut phase) = watch::channel(Phase::Sending);
    let start = Instant::now();
    let send = |_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    };
    let users = users(1_000, &tally);
    let drive = users.drive(arrivals(Duration::from_millis(100), 1_000), &mut phase, send);
    let stop = async {
        sleep_until(start + Duration::from_millis(450)).await;
        halt.send_replace(Phase::Halted);
    };
    tokio::join!(drive, stop);
    assert_eq!(tally.figures().requests(), 5);
    assert_eq!(start.elapsed(), Duration::from_millis(1_400));
}

/// Runs a load against a HOSP until its users have seen `requests` answers or failures.
async fn seen_by_users(failure_rate: f64, patience: Duration, requests: u64) -> (Figures, Hosp) {
    let epoch = std::time::Instant::now();
    let hosp = Hosp::start(failure_rate, 3, epoch).unwrap();
    let settings = LoadSettings { rate: 500, seed: 4, epoch, patience };
    let mut load = Load::start(hosp.address(), settings).unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let enough = async {
        while load.figures().requests() < requests {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), enough).await.expect("the load goes on");
    load.halt();
    load.drained().await;
    (load.figures(), hosp)
}

#[tokio::test]
async fn every_request_gets_its_own_answer_from_a_hosp_that_does_not_fail() {
    let (figures, hosp) = seen_by_users(0.0, PATIENCE, 300).await;
    assert_eq!(figures.failures().collect::<Vec<_>>(), []);
    let counts = hosp.counts();
    assert_eq!((counts.answers, counts.failed), (figures.good, 0));
    assert!(counts.executed > 0);
    assert_eq!((counts.duplicates, counts.replayed, counts.executed_then_failed), (0, 0, 0));
}

#[tokio::test]
async fn users_see_each_failure_of_a_hosp_that_nothing_stands_in_front_of() {
    let (figures, hosp) = seen_by_users(0.5, Duration::from_secs(2), 500).await;
    let counts = hosp.counts();
    assert_eq!((figures.requests(), figures.failed()), (counts.answers, counts.failed));
    let kinds: Vec<_> = figures.failures().map(|(failure, _)| failure).collect();
    assert_eq!(kinds, [Failure::Broken, Failure::ServerError, Failure::Timeout]);
    assert!(counts.executed_then_failed > 0 && counts.duplicates == 0);
}
