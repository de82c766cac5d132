//! The gate over several threads: never more than the limit, every wait ends, no place is lost.

use std::num::NonZeroU32;
use std::thread;

use tokio::runtime::Builder;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::*;
use crate::record::metrics::Metrics;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn gate(limit: Limit, queue: usize, queue_time: Duration) -> Arc<Admission> {
    let settings = AdmissionSettings::new(limit, queue, queue_time).unwrap();
    Arc::new(Admission::new(settings, Metrics::new().admission("hosp")))
}

fn fixed(limit: u32) -> Limit {
    Limit::Fixed(NonZeroU32::new(limit).unwrap())
}

fn ask(purpose: Purpose, time: Duration) -> Ask {
    let now = Instant::now();
    Ask { purpose, now, deadline: now + time }
}

fn first() -> Ask {
    ask(Purpose::First, Duration::from_mins(1))
}

async fn enter(gate: &Arc<Admission>, ask: Ask) -> Result<Slot, Refusal> {
    match gate.try_enter(ask.now) {
        Some(slot) => Ok(slot),
        None => gate.clone().enter(ask).await,
    }
}

/// What the callers of a thread do: wait, work, leave; some before they are let through, some before they hear of it.
async fn callers(gate: Arc<Admission>, at_work: Arc<AtomicU32>, seed: u64) {
    let mut all = JoinSet::new();
    for caller in 0..40 {
        let (gate, at_work) = (gate.clone(), at_work.clone());
        let mut random = fastrand::Rng::with_seed(seed * 1000 + caller);
        all.spawn_local(async move {
            for _ in 0..50 {
                let purpose = if random.bool() { Purpose::First } else { Purpose::Retry };
                let patience =
                    if random.bool() { Duration::from_micros(random.u64(0..2000)) } else { ms(30_000) };
                let entered = timeout(patience, enter(&gate, ask(purpose, ms(20_000)))).await;
                let Ok(Ok(slot)) = entered else { continue };
                let now = at_work.fetch_add(1, Ordering::SeqCst) + 1;
                assert!(now <= 7, "{now} at once");
                if random.u8(..4) > 0 {
                    sleep(Duration::from_micros(random.u64(0..300))).await;
                }
                at_work.fetch_sub(1, Ordering::SeqCst);
                match random.u8(..4) {
                    0 => drop(slot),
                    1 => drop(slot.linger()),
                    2 => slot.end(LoadSignal::Failed, Instant::now()),
                    _ => slot.end(LoadSignal::Answered, Instant::now()),
                }
            }
        });
    }
    while all.join_next().await.is_some() {}
}

#[test]
fn over_many_threads_no_more_than_the_limit_are_in_flight_and_no_place_is_lost() {
    let gate = gate(fixed(7), 1000, ms(20_000));
    let at_work = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let (gate, at_work) = (gate.clone(), at_work.clone());
            thread::spawn(move || {
                let runtime = Builder::new_current_thread().enable_time().build().unwrap();
                LocalSet::new().block_on(&runtime, callers(gate, at_work, seed));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
    assert_eq!(gate.counts.waiting.load(Ordering::SeqCst), 0);
    assert_eq!(gate.lingering.load(Ordering::SeqCst), 0);
    assert!(gate.metrics.served.get() > 0 && gate.metrics.left.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_in_order_when_a_place_is_free_and_no_one_overtakes() {
    let gate = gate(fixed(1), 10, ms(1000));
    let slot = gate.try_enter(Instant::now()).unwrap();
    let mut one = Box::pin(gate.clone().enter(first()));
    let mut other = Box::pin(gate.clone().enter(first()));
    assert!(timeout(ms(1), &mut one).await.is_err());
    assert!(timeout(ms(1), &mut other).await.is_err());
    drop(slot);
    assert!(gate.try_enter(Instant::now()).is_none(), "the place is the first one's");
    assert!(timeout(ms(1), &mut other).await.is_err());
    let slot = one.await.unwrap();
    drop(slot);
    assert!(other.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_has_waited_in_vain_or_has_no_place_to_wait_is_refused() {
    let gate = gate(fixed(1), 1, ms(1000));
    let _slot = gate.try_enter(Instant::now()).unwrap();
    let refused = |result: Result<Slot, Refusal>| result.map(drop).unwrap_err().reason;
    let start = Instant::now();
    assert_eq!(refused(gate.clone().enter(first()).await), Refused::Expired);
    assert_eq!(start.elapsed(), ms(1000));
    assert_eq!(refused(gate.clone().enter(ask(Purpose::First, ms(300))).await), Refused::Expired);
    assert_eq!(start.elapsed(), ms(1300));
    assert_eq!(refused(gate.clone().enter(ask(Purpose::First, ms(0))).await), Refused::Late);
    let mut waiting = Box::pin(gate.clone().enter(first()));
    assert!(timeout(ms(1), &mut waiting).await.is_err());
    assert_eq!(refused(gate.clone().enter(first()).await), Refused::Full);
    assert_eq!(refused(gate.clone().enter(ask(Purpose::Retry, ms(1000))).await), Refused::Retry);
    drop(waiting);
    assert_eq!((gate.waiting(), gate.in_flight()), (0, 1));
    for reason in Refused::ALL {
        assert!(gate.metrics.refused(reason).get() > 0, "{reason:?}");
    }
}

/// Fills a gate of one place, of which answers take 10 ms each, until it knows that.
async fn at_work(
    gate: &Arc<Admission>,
) -> Vec<std::pin::Pin<Box<dyn Future<Output = Result<Slot, Refusal>>>>> {
    let mut slot = gate.try_enter(Instant::now()).unwrap();
    let mut waiting: Vec<std::pin::Pin<Box<dyn Future<Output = _>>>> = Vec::new();
    for _ in 0..60 {
        let mut next: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(gate.clone().enter(first()));
        assert!(timeout(ms(0), &mut next).await.is_err());
        waiting.push(next);
    }
    for _ in 0..40 {
        sleep(ms(10)).await;
        slot.end(LoadSignal::Answered, Instant::now());
        slot = waiting.remove(0).await.unwrap();
    }
    waiting.push(Box::pin(std::future::ready(Ok(slot))));
    waiting
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_for_too_long_is_told_at_once_and_when_to_come_again() {
    let gate = gate(fixed(1), 1000, Duration::from_mins(1));
    let _busy = at_work(&gate).await;
    // Twenty wait, 10 ms each.
    let start = Instant::now();
    let refusal = gate.clone().enter(ask(Purpose::First, ms(150))).await.map(drop).unwrap_err();
    assert_eq!((refusal.reason, start.elapsed()), (Refused::Late, ms(0)));
    assert!((ms(190)..ms(230)).contains(&refusal.retry_after), "{refusal:?}");
    let mut patient = Box::pin(gate.clone().enter(ask(Purpose::First, ms(400))));
    assert!(timeout(ms(1), &mut patient).await.is_err(), "it waits");
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_gate_without_a_cause_has_no_limit() {
    let gate = gate(Limit::Adaptive, 10, ms(1000));
    for _ in 0..50 {
        let now = Instant::now();
        let slots: Vec<_> = (0..1000).map(|_| gate.try_enter(now).unwrap()).collect();
        sleep(ms(5)).await;
        let now = Instant::now();
        for slot in slots {
            slot.end(LoadSignal::Answered, now);
        }
    }
    assert_eq!(gate.counts.limit.load(Ordering::Relaxed), ANY);
    assert!(!gate.try_enter(Instant::now()).unwrap().counts_when_given_up());
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_keeps_its_place_until_it_is_let_go_of() {
    let gate = gate(fixed(2), 10, ms(1000));
    let slot = gate.try_enter(Instant::now()).unwrap();
    assert!(slot.counts_when_given_up());
    let lingering = slot.linger().unwrap();
    let other = gate.try_enter(Instant::now()).unwrap();
    assert!(gate.try_enter(Instant::now()).is_none());
    lingering.end(LoadSignal::Nothing);
    assert!(gate.try_enter(Instant::now()).is_some());
    drop(other);
    assert_eq!(gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_takes_no_more_than_half_of_a_limit() {
    for limit in [Limit::Adaptive, fixed(10)] {
        let gate = gate(limit, 10, ms(1000));
        gate.counts.limit.store(10, Ordering::Relaxed);
        let slots: Vec<_> = (0..10).map(|_| gate.try_enter(Instant::now()).unwrap()).collect();
        let lingering: Vec<_> = slots.into_iter().filter_map(Slot::linger).collect();
        assert_eq!((lingering.len(), gate.in_flight()), (5, 5));
        drop(lingering);
        assert_eq!((gate.lingering.load(Ordering::Relaxed), gate.in_flight()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_caller_holds_no_place_and_takes_one_again_over_the_limit() {
    let gate = gate(fixed(1), 10, ms(1000));
    let mut slow = gate.try_enter(Instant::now()).unwrap();
    let mut waiting = Box::pin(gate.clone().enter(first()));
    assert!(timeout(ms(1), &mut waiting).await.is_err());
    slow.step_aside();
    slow.step_aside();
    let other = waiting.await.unwrap();
    assert_eq!(gate.in_flight(), 1);
    slow.step_in(Instant::now());
    slow.step_in(Instant::now());
    assert_eq!(gate.in_flight(), 2);
    drop(other);
    assert!(gate.try_enter(Instant::now()).is_none(), "its request is with the backend");
    slow.step_aside();
    drop(slow);
    assert_eq!(gate.in_flight(), 0, "a place that was given back is not given back again");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_attempt_begins_when_its_body_has_gone_out() {
    let gate = gate(fixed(1), 10, ms(1000));
    for _ in 0..20 {
        let mut slot = gate.try_enter(Instant::now()).unwrap();
        sleep(ms(5000)).await;
        slot.step_in(Instant::now());
        sleep(ms(10)).await;
        slot.end(LoadSignal::Answered, Instant::now());
    }
    assert_eq!(gate.seen.usual_latency(), ms(10));
}
