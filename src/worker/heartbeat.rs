//! Whether the event loop of each worker turns.
//!
//! A worker counts a turn every 500 ms, busy or idle, and one other thread looks at the counters as often. A worker is
//! stuck when four looks in a row found the count of the look before: it has not turned for 2 s. No clock is compared.
//! While the whole process stands still (a suspended machine, SIGSTOP) nobody looks either, and no worker is blamed.
//!
//! The evidence is the worker's own silence; no caller is part of it. If it is false, a supervisor that follows
//! `/livez` restarts the process, and every connection breaks. New connections avoid the worker meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::sleep;

/// The heartbeats of all workers.
#[derive(Debug)]
pub struct Heartbeats(Box<[Heartbeat]>);

/// Each field has one writer: the worker, or the thread that looks.
#[derive(Debug, Default)]
struct Heartbeat {
    turns: AtomicU32,
    has_ended: AtomicBool,
    seen: AtomicU32,
    missed: AtomicU32,
}

impl Heartbeats {
    /// One for each of `workers`, all of them well.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Heartbeat::default()).collect())
    }

    /// Looks at all counters: to be called every [`PERIOD`], from one thread.
    pub fn look(&self) {
        for (number, heartbeat) in self.0.iter().enumerate() {
            let turns = heartbeat.turns.load(Ordering::Relaxed);
            let is_well = heartbeat.seen.swap(turns, Ordering::Relaxed) != turns
                || heartbeat.has_ended.load(Ordering::Relaxed);
            let before = heartbeat.missed.load(Ordering::Relaxed);
            let missed = if is_well { 0 } else { before.saturating_add(1) };
            heartbeat.missed.store(missed, Ordering::Relaxed);
            if missed == MISSED {
                tracing::error!(
                    worker = number,
                    "the worker is stuck: its event loop has not turned for 2 s"
                );
            } else if missed == 0 && before >= MISSED {
                tracing::info!(worker = number, "the worker's event loop turns again");
            }
        }
    }

    /// The first worker that is stuck.
    pub fn stuck(&self) -> Option<usize> {
        (0..self.0.len()).find(|number| self.is_stuck(*number))
    }

    /// Whether this worker is stuck.
    pub(super) fn is_stuck(&self, number: usize) -> bool {
        self.0.get(number).is_some_and(|heartbeat| heartbeat.missed.load(Ordering::Relaxed) >= MISSED)
    }

    /// Counts the turns of the worker with this number, for as long as it lives.
    pub(super) async fn beat(&self, number: usize) {
        let Some(heartbeat) = self.0.get(number) else { return };
        loop {
            heartbeat.turns.fetch_add(1, Ordering::Relaxed);
            sleep(PERIOD).await;
        }
    }

    /// Takes note that this worker has ended as it should, which is no silence.
    pub(super) fn end(&self, number: usize) {
        if let Some(heartbeat) = self.0.get(number) {
            heartbeat.has_ended.store(true, Ordering::Relaxed);
        }
    }
}

/// Between two turns that are counted, and between two looks.
pub const PERIOD: Duration = Duration::from_millis(500);

/// Looks without a turn, after which a worker is stuck: 2 s.
const MISSED: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(heartbeats: &Heartbeats, number: usize) {
        heartbeats.0[number].turns.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn a_worker_that_does_not_turn_for_four_looks_is_stuck_until_it_turns_again() {
        let heartbeats = Heartbeats::new(2);
        for _ in 0..MISSED {
            assert_eq!(heartbeats.stuck(), None);
            turn(&heartbeats, 0);
            heartbeats.look();
        }
        assert_eq!(heartbeats.stuck(), Some(1));
        turn(&heartbeats, 1);
        heartbeats.look();
        assert_eq!(heartbeats.stuck(), None);
    }

    #[test]
    fn time_in_which_nobody_looks_speaks_against_no_worker() {
        let heartbeats = Heartbeats::new(1);
        turn(&heartbeats, 0);
        heartbeats.look();
        // The process stands still for any time, and the looking thread wakes first.
        for _ in 1..MISSED {
            heartbeats.look();
        }
        assert_eq!(heartbeats.stuck(), None);
        turn(&heartbeats, 0);
        heartbeats.look();
        heartbeats.look();
        assert_eq!(heartbeats.stuck(), None);
    }

    #[test]
    fn a_worker_that_has_ended_is_not_stuck() {
        let heartbeats = Heartbeats::new(1);
        heartbeats.end(0);
        (0..2 * MISSED).for_each(|_| heartbeats.look());
        assert_eq!(heartbeats.stuck(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_without_work_turns() {
        let heartbeats = Heartbeats::new(1);
        let looks = async {
            for _ in 0..20 {
                sleep(PERIOD).await;
                heartbeats.look();
                assert_eq!(heartbeats.stuck(), None);
            }
        };
        tokio::select! {
            () = heartbeats.beat(0) => {}
            () = looks => {}
        }
    }
}
