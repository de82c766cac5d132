//! The line over several threads: whoever comes gets an end, whoever leaves loses nothing for the others.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::*;
use crate::record::metrics::Metrics;
use crate::upstream::cluster::tests::settings;
use crate::upstream::cluster::{Balance, Cluster};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn cluster(line: LineSettings) -> (Cluster, LineMetrics) {
    let metrics = Arc::new(Metrics::new());
    let counted = metrics.line("hosp");
    let mut settings = settings(1, Balance::P2c);
    settings.line = line;
    (Cluster::new(settings, metrics), counted)
}

fn tell(cluster: &Cluster, turn: Option<Turn>, report: Report, start: Instant) {
    let endpoint = cluster.endpoints()[0].id;
    let finished = Finished { report, endpoint, delivery: Delivery::Maybe };
    cluster.tell_line(turn, finished, |_| ms(5), start.elapsed());
}

/// Makes an outage, and says when it began.
async fn take_down(cluster: &Cluster, start: Instant) -> Instant {
    while !cluster.line.is_in_force() {
        sleep(ms(1)).await;
        tell(cluster, None, Report::Failure, start);
    }
    Instant::now()
}

fn wait_for(means: Means, start: Instant, time: Duration) -> Wait {
    let now = Instant::now();
    Wait { means, began: now, start, now, until: now + time }
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
                sleep(Duration::from_micros(random.u64(0..3000))).await;
                if !cluster.line.is_in_force() {
                    let report =
                        if is_up.load(Ordering::Relaxed) { Report::Success } else { Report::Failure };
                    tell(&cluster, None, report, start);
                    continue;
                }
                let means = [Means::Fresh, Means::Spare, Means::SpareUnlessSent, Means::Nothing];
                let wait = cluster.line.wait(wait_for(means[random.usize(..4)], start, ms(20_000)));
                begun.fetch_add(1, Ordering::Relaxed);
                let patience = if random.bool() { ms(random.u64(0..20)) } else { ms(30_000) };
                let Ok(Ok(turn)) = timeout(patience, wait).await else { continue };
                sleep(Duration::from_micros(random.u64(0..500))).await;
                // One in four is gone before it can tell.
                if random.u8(..4) > 0 {
                    let report =
                        if is_up.load(Ordering::Relaxed) { Report::Success } else { Report::Failure };
                    tell(&cluster, turn, report, start);
                }
            }
        });
    }
    while all.join_next().await.is_some() {}
}

#[test]
fn over_many_threads_every_wait_ends_and_no_turn_is_lost() {
    let (cluster, counted) = cluster(LineSettings::default());
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
    assert_eq!((cluster.line.waiting(), counted.expired.get(), counted.refused.get()), (0, 0, 0));
    assert!(counted.outages.get() > 0, "nobody ever waited");
    // One that found the outage over, or stopped before it began to wait, is in none of the two.
    assert!(counted.served.get() + counted.left.get() <= begun.load(Ordering::Relaxed));
    assert!(counted.served.get() > 0 && counted.left.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_dropped_goes_to_the_next() {
    let (cluster, _) = cluster(LineSettings::default());
    let start = Instant::now();
    let down = take_down(&cluster, start).await;
    let first = cluster.line.wait(wait_for(Means::Fresh, start, ms(1000))).await.unwrap();
    assert_eq!(down.elapsed(), ms(5));
    let second = cluster.line.wait(wait_for(Means::Fresh, start, ms(1000)));
    let (second, ()) = tokio::join!(second, async {
        sleep(ms(10)).await;
        drop(first);
    });
    assert_eq!(down.elapsed(), ms(15));
    tell(&cluster, second.unwrap(), Report::Success, start);
    assert!(!cluster.line.is_in_force(), "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn who_can_afford_it_knocks_first_and_who_cannot_after_a_second() {
    let (cluster, _) = cluster(LineSettings::default());
    let start = Instant::now();
    let down = take_down(&cluster, start).await;
    let wait = |means| {
        let wait = wait_for(means, start, ms(10_000));
        let cluster = &cluster;
        async move {
            let turn = cluster.line.wait(wait).await.unwrap();
            (turn, down.elapsed())
        }
    };
    let poor = wait(Means::Nothing);
    let rich = async {
        sleep(ms(50)).await;
        let (turn, at) = wait(Means::Spare).await;
        tell(&cluster, turn, Report::Failure, start);
        at
    };
    let ((turn, poor), rich) = tokio::join!(poor, rich);
    assert_eq!((rich, poor), (ms(50), ms(1000)));
    tell(&cluster, turn, Report::Success, start);
}
