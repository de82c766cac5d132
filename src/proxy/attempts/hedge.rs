//! An attempt with a hedge beside it: where its answer takes long, the request is sent once more, and the first good
//! answer is taken.
//!
//! An answer is good by its head, before any of it is held: a status that is not retried. The other attempt is cancelled
//! then. A bad answer or an error does not win as long as the other may do better; if both are bad, the loop goes on with
//! the better one.

use std::pin::{Pin, pin};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Arrived, Current, Failure, Outbound, Transport, asked_wait};
use crate::error::UpstreamError;
use crate::policy::hedge::latency::Seen;
use crate::policy::hedge::{Candidate, HedgeEnd, Hedging};
use crate::policy::resume::RequestBody;
use crate::policy::retry::RetryPolicy;
use crate::proxy::exchange::{Brought, Exchange};
use crate::upstream::admission::Slot;
use crate::upstream::balance::Pick;
use crate::upstream::pool::Progress;

/// What [`super::send`] does, on a route that hedges. The exchange is left with one running attempt, the one whose outcome
/// this is, by its number.
pub(super) async fn send<T: Transport>(
    exchange: &mut Exchange,
    outbound: &Outbound,
    transport: &T,
    current: &Current<'_>,
    timer: Pin<&mut Sleep>,
) -> (u32, Result<Arrived, Failure>) {
    let race = Race { exchange, outbound, transport };
    let Raced { number, outcome, beside } = race.run(*current, timer).await;
    let is_hedge = number > current.number;
    let end = match (is_hedge, &beside) {
        (true, _) if race.is_good(&outcome) => HedgeEnd::Won,
        (false, Beside::Running) => HedgeEnd::Lost,
        _ => HedgeEnd::Failed,
    };
    if is_hedge {
        exchange.prefer_hedge();
    }
    if !matches!(beside, Beside::Nothing) {
        outbound.route.metrics.hedges.ended(end).inc();
    }
    match beside {
        Beside::Nothing => {}
        Beside::Running => exchange.cancel_beside(Instant::now()),
        Beside::Failed(failure, at) => {
            exchange.finish_beside(failure.as_ref().map(|brought| *brought), at);
        }
    }
    (number, outcome)
}

/// Two attempts for one answer, and what both look at.
struct Race<'a, T> {
    exchange: &'a Exchange,
    outbound: &'a Outbound,
    transport: &'a T,
}

/// How a race ended.
struct Raced {
    /// The number of the attempt whose outcome counts.
    number: u32,
    outcome: Result<Arrived, Failure>,
    beside: Beside,
}

/// What became of the other attempt.
enum Beside {
    /// It failed at this moment.
    Failed(Result<Brought, UpstreamError>, Instant),
    /// There was none.
    Nothing,
    /// It has not ended.
    Running,
}

impl Beside {
    fn failed(outcome: Result<Arrived, Failure>, at: Instant) -> Self {
        let brought = outcome.map(|answer| Brought { status: answer.status(), grpc: None });
        Self::Failed(brought.map_err(|failure| failure.error), at)
    }
}

impl<T: Transport> Race<'_, T> {
    async fn run(&self, current: Current<'_>, timer: Pin<&mut Sleep>) -> Raced {
        let alone = |outcome| Raced { number: current.number, outcome, beside: Beside::Nothing };
        let Some(hedging) = self.hedging() else {
            return alone(self.send(current, timer).await);
        };
        let mut first = pin!(self.send_and_learn(hedging, current, timer));
        let Some(due) = self.due(hedging, current) else { return alone(first.await) };
        let mut timer = pin!(sleep_until(due));
        tokio::select! {
            biased;
            outcome = first.as_mut() => return alone(outcome),
            () = timer.as_mut() => {}
        }
        let started = Instant::now();
        let Some((pick, slot)) = self.pick(current, started) else { return alone(first.await) };
        self.exchange.start_hedge(pick.clone(), started);
        let progress = Progress::with_slot(slot);
        let (endpoint, number) = (&pick.endpoint, current.number + 1);
        let hedge = Current { endpoint, number, started, progress: &progress };
        let mut second = pin!(self.send(hedge, timer));
        tokio::select! {
            biased;
            outcome = first.as_mut() => self.judge(current, outcome, hedge, second).await,
            outcome = second.as_mut() => self.judge(hedge, outcome, current, first).await,
        }
    }

    /// The route's, if this request is one that may be hedged.
    fn hedging(&self) -> Option<&Hedging> {
        let candidate = Candidate {
            method: &self.outbound.head.method,
            repeatable: self.outbound.repeatable,
            has_body: self.exchange.body().presence() == RequestBody::Some,
            is_upgrade: self.outbound.upgrade.is_some(),
        };
        let hedging = self.outbound.route.hedging.as_ref()?;
        self.outbound.policy().may_hedge(&candidate).is_ok().then_some(hedging)
    }

    /// When the hedge goes out: one for each exchange, within its attempts and its deadline.
    fn due(&self, hedging: &Hedging, current: Current<'_>) -> Option<Instant> {
        let due = current.started + hedging.delay()?;
        let is_allowed = current.number < self.outbound.policy().max_attempts && !self.exchange.is_hedged();
        let deadline = self.outbound.limits.deadline_at(self.exchange.body().upload());
        let is_useful = deadline.is_none_or(|at| due + RetryPolicy::LEAST_USEFUL <= at.into());
        (is_allowed && is_useful).then_some(due)
    }

    /// The endpoint for the hedge, paid for, and its place in flight; another endpoint if there is one.
    fn pick(&self, current: Current<'_>, now: Instant) -> Option<(Pick, Option<Slot>)> {
        let cluster = &self.outbound.cluster;
        let refused = |end| {
            self.outbound.route.metrics.hedges.ended(end).inc();
            None
        };
        if cluster.line.is_in_force() {
            return refused(HedgeEnd::RefusedLine);
        }
        let slot = cluster.admission.try_enter(now);
        if slot.is_none() && !cluster.admission.is_off() {
            return refused(HedgeEnd::RefusedLoad);
        }
        if !cluster.budget.withdraw(self.outbound.around.since_start(now)) {
            return refused(HedgeEnd::RefusedBudget);
        }
        let tried: Vec<_> = self.exchange.tried().iter().copied().chain([current.endpoint.id]).collect();
        Some((self.outbound.around.pick(cluster, &tried, self.outbound.repeatable, now)?, slot))
    }

    async fn send(&self, current: Current<'_>, timer: Pin<&mut Sleep>) -> Result<Arrived, Failure> {
        super::send(self.exchange, self.outbound, self.transport, &current, timer).await
    }

    /// The same for the attempt that may be hedged: what it takes decides when others are.
    async fn send_and_learn(
        &self,
        hedging: &Hedging,
        current: Current<'_>,
        timer: Pin<&mut Sleep>,
    ) -> Result<Arrived, Failure> {
        let mut lesson = Lesson { race: self, hedging, started: current.started, is_answered: false };
        let outcome = self.send(current, timer).await;
        lesson.is_answered = self.is_good(&outcome);
        outcome
    }

    /// Takes an outcome if it is good, and else waits for the other.
    async fn judge(
        &self,
        one: Current<'_>,
        outcome: Result<Arrived, Failure>,
        other: Current<'_>,
        running: Pin<&mut impl Future<Output = Result<Arrived, Failure>>>,
    ) -> Raced {
        if self.is_good(&outcome) {
            return Raced { number: one.number, outcome, beside: Beside::Running };
        }
        let failed = Instant::now();
        let later = running.await;
        if !self.is_good(&later) && is_better(&outcome, &later) {
            let beside = Beside::failed(later, Instant::now());
            return Raced { number: one.number, outcome, beside };
        }
        // An answer that is not taken is not read: its connection closes.
        Raced { number: other.number, outcome: later, beside: Beside::failed(outcome, failed) }
    }

    /// Calls of gRPC, which fail in other ways, are POSTs.
    fn is_good(&self, outcome: &Result<Arrived, Failure>) -> bool {
        let statuses = &self.outbound.policy().statuses;
        outcome.as_ref().is_ok_and(|answer| !statuses.contains(answer.status()))
    }
}

/// Whether of two failures the earlier one is the better: an answer before an error, a longer `Retry-After` before a
/// shorter one, which must not undercut it.
fn is_better(earlier: &Result<Arrived, Failure>, later: &Result<Arrived, Failure>) -> bool {
    match (earlier, later) {
        (Ok(earlier), Ok(later)) => asked_wait(earlier) > asked_wait(later),
        (earlier, later) => earlier.is_ok() && later.is_err(),
    }
}

/// Notes what an attempt took when it ends, or is cancelled: then it is known to take at least so long.
struct Lesson<'a, T> {
    race: &'a Race<'a, T>,
    hedging: &'a Hedging,
    started: Instant,
    is_answered: bool,
}

impl<T> Drop for Lesson<'_, T> {
    fn drop(&mut self) {
        let outbound = self.race.outbound;
        let now = Instant::now();
        let took = now.duration_since(self.started);
        let seen = if self.is_answered { Seen::Answer(took) } else { Seen::NoneWithin(took) };
        if let Some(delay) = self.hedging.note(seen, outbound.around.since_start(now)) {
            outbound.route.metrics.hedges.delay.set(delay.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests;
