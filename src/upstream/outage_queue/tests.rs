//! The outage queue over several threads: whoever comes gets an end, whoever leaves loses nothing for the others.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::*;
use crate::policy::expect::Subject;
use crate::record::metrics::Metrics;
use crate::upstream::balance::{Pick, Probing};
use crate::upstream::cluster::tests::{settings, subject};
use crate::upstream::cluster::{Attempt, Cluster, Report};
use crate::upstream::settings::Balance;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn cluster(outage_queue: OutageQueueSettings) -> (Cluster, OutageQueueMetrics) {
    let metrics = Arc::new(Metrics::new());
    let counted = metrics.outage_queue("hosp");
    let mut settings = settings(1, Balance::P2c);
    settings.outage_queue = outage_queue;
    (Cluster::new(settings, metrics), counted)
}

const FAILURE: Report = Report::Failure(Kind::Answered);

fn tell(cluster: &Cluster, permit: Option<HeldPermit>, report: Report, start: Instant) {
    tell_of(cluster, &subject("/a"), permit, report, start);
}

fn tell_of(
    cluster: &Cluster,
    subject: &Subject<'_>,
    permit: Option<HeldPermit>,
    report: Report,
    start: Instant,
) {
    let pick = Pick { endpoint: cluster.endpoints()[0].clone(), probing: Probing::No };
    let now = start.elapsed();
    let (exchange, began) = (fastrand::u32(..), now.saturating_sub(Duration::from_micros(100)));
    cluster.report(
        Attempt { pick: &pick, report, permit, subject, exchange, is_retry: false, began },
        |_| ms(5),
        now,
    );
}

/// Makes an outage, and says when it began.
async fn take_down(cluster: &Cluster, start: Instant) -> Instant {
    while !cluster.outage_queue.is_in_force() {
        sleep(ms(3)).await;
        tell(cluster, None, FAILURE, start);
    }
    Instant::now()
}

fn wait_for(key: &Key, stake: Stake, start: Instant, time: Duration) -> Wait<'_> {
    let now = Instant::now();
    // It has had an attempt: one without would get one in the end.
    Wait { key, stake, began: now, last_attempt: Some(now), start, now, until: now + time, reserve: ms(0) }
}

/// What the callers of a thread do: wait, try, and come again a few times; some leave in between.
async fn callers(
    cluster: Arc<Cluster>,
    start: Instant,
    is_up: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
    seed: u64,
) {
    let mut all = JoinSet::new();
    for caller in 0..40 {
        let (cluster, is_up, begun) = (cluster.clone(), is_up.clone(), begun.clone());
        let mut random = fastrand::Rng::with_seed(seed * 1000 + caller);
        all.spawn_local(async move {
            for _ in 0..40 {
                let rest = ["/a", "/b", "/c"][random.usize(..3)];
                sleep(Duration::from_micros(random.u64(0..3000))).await;
                if !cluster.outage_queue.is_in_force() {
                    let report = if is_up.load(Ordering::Relaxed) { Report::Success } else { FAILURE };
                    tell_of(&cluster, &subject(rest), None, report, start);
                    continue;
                }
                let stake = [Stake::Fresh, Stake::Spare, Stake::SpareUnlessSent, Stake::Nothing];
                let key = cluster.key(&subject(rest));
                let wait =
                    cluster.outage_queue.wait(wait_for(&key, stake[random.usize(..4)], start, ms(20_000)));
                begun.fetch_add(1, Ordering::Relaxed);
                let patience = if random.bool() { ms(random.u64(0..20)) } else { ms(30_000) };
                let Ok(Ok(permit)) = timeout(patience, wait).await else { continue };
                sleep(Duration::from_micros(random.u64(0..500))).await;
                // One in four is gone before it can tell.
                if random.u8(..4) > 0 {
                    let report = if is_up.load(Ordering::Relaxed) { Report::Success } else { FAILURE };
                    tell_of(&cluster, &subject(rest), permit, report, start);
                }
            }
        });
    }
    while all.join_next().await.is_some() {}
}

#[test]
fn over_many_threads_every_wait_ends_and_no_turn_is_lost() {
    let (cluster, counted) = cluster(OutageQueueSettings::default());
    let cluster = Arc::new(cluster);
    let (is_up, begun) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let (cluster, is_up, begun) = (cluster.clone(), is_up.clone(), begun.clone());
            thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                LocalSet::new().block_on(&runtime, callers(cluster, start, is_up, begun, seed));
            })
        })
        .collect();
    for number in 0..20 {
        is_up.store(number % 2 == 1, Ordering::Relaxed);
        thread::sleep(ms(15));
    }
    is_up.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(start.elapsed() < ms(15_000), "somebody was not called: {:?}", start.elapsed());
    assert_eq!((cluster.outage_queue.waiting(), counted.expired.get(), counted.refused.get()), (0, 0, 0));
    assert!(counted.outages.get() > 0, "nobody ever waited");
    // One that found the outage over, or stopped before it began to wait, is in none of the two.
    assert!(counted.served.get() + counted.left.get() <= begun.load(Ordering::Relaxed));
    assert!(counted.served.get() > 0 && counted.left.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_dropped_goes_to_the_next() {
    let (cluster, _) = cluster(OutageQueueSettings::default());
    let start = Instant::now();
    let down = take_down(&cluster, start).await;
    let key = cluster.key(&subject("/a"));
    let first = cluster.outage_queue.wait(wait_for(&key, Stake::Spare, start, ms(1000))).await.unwrap();
    assert_eq!(down.elapsed(), ms(5));
    let second = cluster.outage_queue.wait(wait_for(&key, Stake::Spare, start, ms(1000)));
    let (second, ()) = tokio::join!(second, async {
        sleep(ms(150)).await;
        drop(first);
    });
    assert_eq!(down.elapsed(), ms(155));
    tell(&cluster, second.unwrap(), Report::Success, start);
    assert!(!cluster.outage_queue.is_in_force(), "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn who_can_afford_it_probes_first_and_who_cannot_after_a_second() {
    let (cluster, _) = cluster(OutageQueueSettings::default());
    let start = Instant::now();
    let down = take_down(&cluster, start).await;
    let key = cluster.key(&subject("/a"));
    let wait = |stake| {
        let wait = wait_for(&key, stake, start, ms(10_000));
        let cluster = &cluster;
        async move {
            let permit = cluster.outage_queue.wait(wait).await.unwrap();
            (permit, down.elapsed())
        }
    };
    let poor = wait(Stake::Nothing);
    let rich = async {
        sleep(ms(50)).await;
        let (permit, at) = wait(Stake::Spare).await;
        tell(&cluster, permit, FAILURE, start);
        at
    };
    let ((permit, poor), rich) = tokio::join!(poor, rich);
    assert_eq!((rich, poor), (ms(50), ms(1000)));
    tell(&cluster, permit, Report::Success, start);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_without_an_attempt_of_its_own_gets_one_where_the_queue_is_full_and_when_its_time_is_over()
 {
    let (cluster, counted) = cluster(OutageQueueSettings::new(1, ms(1000), 3).unwrap());
    let start = Instant::now();
    take_down(&cluster, start).await;
    let key = cluster.key(&subject("/a"));
    let untried = || Wait { last_attempt: None, ..wait_for(&key, Stake::Nothing, start, ms(100)) };
    let waiting = cluster.outage_queue.wait(untried());
    let others = async {
        tokio::task::yield_now().await;
        let permit = cluster.outage_queue.wait(untried()).await.unwrap().unwrap();
        assert!(permit.is_last(), "the queue is full");
        // One that has been tried since the outage began has had its answer.
        assert!(cluster.outage_queue.wait(wait_for(&key, Stake::Nothing, start, ms(100))).await.is_err());
        permit
    };
    // The first of both would probe after half of its time.
    let (first, _last) = tokio::join!(waiting, others);
    assert!(!first.unwrap().unwrap().is_last());
    assert_eq!((counted.tried.get(), counted.refused.get()), (1, 1));
    let probing = cluster.outage_queue.wait(wait_for(&key, Stake::Fresh, start, ms(1000))).await;
    let late = cluster.outage_queue.wait(untried()).await.unwrap().unwrap();
    assert!(late.is_last(), "its time is over");
    assert_eq!((counted.tried.get(), counted.expired.get()), (2, 0));
    drop(probing);
}
