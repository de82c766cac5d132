//! A second attempt beside one that is slow, and the first good answer of the two: after the hedge's time on a route that
//! hedges, and after `per_try_timeout` on every route. Slow is not broken, so the first attempt is not cancelled for it.
//!
//! An answer is good by its head, before any of it is held: a status that is not retried. The other attempt is cancelled
//! then. A bad answer or an error does not win as long as the other may do better; if both are bad, the loop goes on with
//! the better one. Never more than two attempts run: when the younger has outlived `per_try_timeout`, too, it is cut off and
//! replaced. The first one never is, so that no caller waits longer than behind a proxy that never retries. All of them
//! count towards `max_attempts` and the budget, and none is made during an outage or while admission refuses, so a backend
//! that is slow for everybody gets at most the budget on top of its load.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use http::Response;
use tokio::time::{Instant, Sleep};

use super::{Aim, Arrived, Current, Failure, Outbound, Transport, asked_wait, cut_off, idle_close, judge};
use crate::error::{Delivery, ErrorClass, UpstreamError, UpstreamErrorKind};
use crate::policy::deadline::Limit;
use crate::policy::expect::Ending;
use crate::policy::hedge::latency::Seen;
use crate::policy::hedge::{Candidate, HedgeEnd, Hedging};
use crate::policy::resume::RequestBody;
use crate::policy::retry::{Outcome, RetryPolicy, Verdict};
use crate::proxy::exchange::{Exchange, ResponseHead};
use crate::proxy::replay::AttemptBody;
use crate::upstream::admission::Slot;
use crate::upstream::balance::Pick;
use crate::upstream::body::UpstreamBody;
use crate::upstream::cluster::Asked;
use crate::upstream::pool::Progress;

/// What a transport's answer is made of.
type Sent = Result<Response<UpstreamBody<AttemptBody>>, UpstreamError>;

/// Whether a request is one of which a second attempt may run beside one that is slow.
pub(super) fn may_race(exchange: &Exchange, outbound: &Outbound) -> bool {
    outbound.policy().may_race(&candidate(exchange, outbound)).is_ok()
}

fn candidate<'a>(exchange: &Exchange, outbound: &'a Outbound) -> Candidate<'a> {
    Candidate {
        method: &outbound.head.method,
        repeatable: outbound.repeatable,
        has_body: exchange.body().presence() == RequestBody::Some,
        is_upgrade: outbound.upgrade.is_some(),
    }
}

/// An attempt that was slow, and what all attempts beside it look at.
pub(super) struct Race<'a, T> {
    pub(super) outbound: &'a Outbound,
    pub(super) transport: &'a T,
    /// The first attempt.
    pub(super) current: &'a Current<'a>,
    /// What it teaches about the route's latency.
    pub(super) lesson: Option<Box<Lesson<'a>>>,
}

/// An attempt that runs.
struct Entrant<'a> {
    number: u32,
    started: Instant,
    /// Whether it was sent because another had outlived `per_try_timeout`.
    is_for_slow: bool,
    sent: Pin<Box<dyn Future<Output = Sent> + 'a>>,
}

impl<'a, T: Transport> Race<'a, T> {
    /// Runs the race to its end. The exchange is left with one running attempt at most: the one whose outcome this is, by
    /// its number.
    pub(super) async fn run(
        mut self,
        exchange: &mut Exchange,
        first: Pin<&mut (impl Future<Output = Sent> + 'a)>,
        mut timer: Pin<&mut Sleep>,
    ) -> (u32, Result<Arrived, Failure>) {
        let (outbound, per_try) = (self.outbound, self.outbound.policy().per_try_timeout);
        let first = Entrant {
            number: self.current.number,
            started: self.current.started,
            is_for_slow: false,
            sent: Box::pin(first),
        };
        let mut running = vec![first];
        let mut failed: Option<(u32, Result<Arrived, Failure>)> = None;
        let mut due = Some(Instant::now());
        loop {
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                let entrant = self.start(exchange, &mut running, now);
                // What was refused once is not asked for again, unless the first becomes slow.
                let first_slow = running.first().map(|first| first.started + per_try).filter(|at| *at > now);
                due = entrant.as_ref().map_or(first_slow, |entrant| Some(entrant.started + per_try));
                running.extend(entrant);
            }
            let deadline: Option<Instant> =
                outbound.limits().deadline_at(exchange.body().upload()).map(Into::into);
            let wake = [due, deadline].into_iter().flatten().min().unwrap_or(now + per_try);
            timer.as_mut().reset(wake);
            let ended = poll_fn(|cx| {
                for (place, entrant) in running.iter_mut().enumerate() {
                    if let Poll::Ready(sent) = entrant.sent.as_mut().poll(cx) {
                        return Poll::Ready(Some((place, sent)));
                    }
                }
                timer.as_mut().poll(cx).map(|()| None)
            });
            let Some((place, sent)) = ended.await else {
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return self.run_out_of_time(exchange, running, failed);
                }
                continue;
            };
            let now = Instant::now();
            let entrant = running.remove(place);
            let outcome = outbound.take(sent);
            if entrant.number == self.current.number {
                self.end_lesson(outbound.is_good(&outcome));
            }
            if outbound.is_good(&outcome) {
                self.win(exchange, &entrant, running, now);
                return (entrant.number, outcome);
            }
            if entrant.number != self.current.number {
                self.count(HedgeEnd::Failed);
            }
            let is_last = running.is_empty();
            let verdict = judge(exchange, outbound, told(&outcome), outbound.repeatable, now);
            let (number, outcome) = match failed.take() {
                Some((number, earlier)) if is_better(&earlier, &outcome) => {
                    finish(exchange, outbound, entrant.number, &outcome, now);
                    (number, earlier)
                }
                _ => {
                    if !is_last {
                        finish(exchange, outbound, entrant.number, &outcome, now);
                    }
                    (entrant.number, outcome)
                }
            };
            if is_last {
                return (number, outcome);
            }
            failed = Some((number, outcome));
            // One that is slow does not keep the rest of the attempts from being made.
            let is_slow = running.first().is_some_and(|first| first.started + per_try <= now);
            due = match verdict {
                Verdict::Retry { after, .. } if is_slow => Some(now + after),
                _ => due,
            };
        }
    }

    /// Begins one more attempt, if it is allowed and of use. Of two that run the younger is cut off for it.
    fn start(
        &self,
        exchange: &mut Exchange,
        running: &mut Vec<Entrant<'a>>,
        now: Instant,
    ) -> Option<Entrant<'a>> {
        let (outbound, per_try) = (self.outbound, self.outbound.policy().per_try_timeout);
        let is_for_slow = running.iter().all(|entrant| entrant.started + per_try <= now);
        let deadline = outbound.limits().deadline_at(exchange.body().upload());
        let is_useful = deadline.is_none_or(|at| now + RetryPolicy::LEAST_USEFUL <= at.into());
        let is_allowed = exchange.spent() < outbound.policy().max_attempts && is_useful;
        let may_help = outbound.policy().errors.contains(ErrorClass::Timeout) && self.has_helped(now);
        if !is_allowed || is_for_slow && !may_help {
            return None;
        }
        let (pick, slot) = self.pick(exchange, now)?;
        if running.len() > 1
            && let Some(younger) = running.pop()
        {
            exchange.cancel_attempt(younger.number, now);
            self.lose(exchange, &younger, HedgeEnd::Failed, now);
        }
        exchange.start_beside(pick.clone(), now);
        let number = exchange.attempt_number();
        let (transport, head) = (self.transport, outbound.head_of(number));
        // There is none, so it can be had twice.
        let [body, again] = [(); 2].map(|()| exchange.body().attempt());
        let sent = async move {
            let progress = Progress::beside(slot);
            let send = |body| transport.send(&pick.endpoint, &head, body, outbound.repeatable, &progress);
            let (answered, body) = (send(body).await, again);
            if !idle_close::is_one(&answered, &progress, now) {
                return answered;
            }
            progress.begin_anew();
            send(body).await
        };
        Some(Entrant { number, started: now, is_for_slow, sent: Box::pin(sent) })
    }

    /// Whether attempts beside slow ones of this key have ever been of use: a report that takes 12 s would run twice for
    /// ever.
    fn has_helped(&self, now: Instant) -> bool {
        let Outbound { cluster, shared, .. } = self.outbound;
        let key = cluster.key(&self.outbound.subject());
        cluster.may_help_beside(&key, shared.random(), shared.since_start(now))
    }

    /// The endpoint for one more attempt, paid for, and its place in flight; another endpoint if there is one.
    fn pick(&self, exchange: &Exchange, now: Instant) -> Option<(Pick, Option<Slot>)> {
        let cluster = &self.outbound.cluster;
        let refused = |end| {
            self.count(end);
            None
        };
        if cluster.line.is_in_force() {
            return refused(HedgeEnd::RefusedLine);
        }
        let slot = cluster.admission.try_enter(now);
        if slot.is_none() && !cluster.admission.is_off() {
            return refused(HedgeEnd::RefusedLoad);
        }
        if !self.outbound.withdraw(now) {
            return refused(HedgeEnd::RefusedBudget);
        }
        let tried: Vec<_> = exchange.tried().iter().copied().chain(exchange.running_at()).collect();
        Some((self.outbound.shared.pick(cluster, &tried, self.outbound.repeatable, now)?, slot))
    }

    /// Ends all that still run beside a good answer. One that had outlived `per_try_timeout` when a younger one answered
    /// has failed; one that had not is cancelled.
    fn win(&mut self, exchange: &mut Exchange, winner: &Entrant<'a>, others: Vec<Entrant<'a>>, now: Instant) {
        if winner.number != self.current.number {
            self.count(HedgeEnd::Won);
        }
        if winner.is_for_slow {
            self.note_help(exchange, Help::Some, now);
        }
        for other in others {
            let is_late = other.started + self.outbound.policy().per_try_timeout <= now;
            if is_late && other.number < winner.number {
                let late = UpstreamError::new(UpstreamErrorKind::HeadTimeout, Delivery::Maybe);
                exchange.finish_attempt(other.number, Err(&late), self.outbound, now);
            } else {
                exchange.cancel_attempt(other.number, now);
            }
            if other.number != self.current.number {
                self.lose(exchange, &other, HedgeEnd::Lost, now);
            }
        }
    }

    /// The deadline has passed: a bad answer that came before is the outcome, or the oldest attempt.
    fn run_out_of_time(
        &self,
        exchange: &mut Exchange,
        running: Vec<Entrant<'a>>,
        failed: Option<(u32, Result<Arrived, Failure>)>,
    ) -> (u32, Result<Arrived, Failure>) {
        let now = Instant::now();
        let failed = failed.filter(|(_, outcome)| outcome.is_ok());
        let oldest = running.first().map_or(self.current.number, |entrant| entrant.number);
        let cut = cut_off(Limit::Deadline, Delivery::Maybe);
        for entrant in running {
            if entrant.number != oldest {
                exchange.cancel_attempt(entrant.number, now);
            } else if failed.is_some() {
                exchange.finish_attempt(oldest, Err(&cut.error), self.outbound, now);
            }
            if entrant.number != self.current.number {
                self.lose(exchange, &entrant, HedgeEnd::Failed, now);
            }
        }
        failed.unwrap_or((oldest, Err(cut)))
    }

    /// Counts an attempt that was made beside another and was of no use.
    fn lose(&self, exchange: &mut Exchange, entrant: &Entrant<'a>, end: HedgeEnd, now: Instant) {
        self.count(end);
        if entrant.is_for_slow {
            self.note_help(exchange, Help::None, now);
        }
    }

    fn note_help(&self, exchange: &mut Exchange, help: Help, now: Instant) {
        let Outbound { cluster, shared, .. } = self.outbound;
        let ending = match help {
            Help::None => Ending::Failure(exchange.number()),
            Help::Some => Ending::Success,
        };
        cluster.note_beside(&cluster.key(&self.outbound.subject()), ending, shared.since_start(now));
    }

    fn count(&self, end: HedgeEnd) {
        self.outbound.route.metrics.hedges.ended(end).inc();
    }

    fn end_lesson(&mut self, is_answered: bool) {
        if let Some(mut lesson) = self.lesson.take() {
            lesson.is_answered = is_answered;
        }
    }
}

/// Whether an attempt beside a slow one brought the answer.
#[derive(Clone, Copy)]
enum Help {
    None,
    Some,
}

fn finish(
    exchange: &mut Exchange,
    outbound: &Outbound,
    number: u32,
    outcome: &Result<Arrived, Failure>,
    now: Instant,
) {
    let told = match outcome {
        Ok(answer) => Ok(ResponseHead { status: answer.status(), grpc: None }),
        Err(failure) => Err(&failure.error),
    };
    exchange.finish_attempt(number, told, outbound, now);
}

/// What a bad outcome is to the policy.
fn told(outcome: &Result<Arrived, Failure>) -> Outcome {
    match outcome {
        Ok(answer) => Outcome::Answered { status: answer.status(), retry_after: asked_wait(answer) },
        Err(failure) => failure.outcome(),
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
pub(super) struct Lesson<'a> {
    outbound: &'a Outbound,
    started: Instant,
    /// When a hedge goes out: one for each exchange, within its attempts and its deadline.
    pub(super) due: Option<Instant>,
    pub(super) is_answered: bool,
}

impl<'a> Lesson<'a> {
    /// Begins one, if the attempt is one that may be hedged. Boxed, so that the requests of other routes carry no room
    /// for it.
    pub(super) fn begin(exchange: &Exchange, outbound: &'a Outbound, started: Instant) -> Option<Box<Self>> {
        let hedging = outbound.route.hedging.as_ref()?;
        let may_hedge = outbound.aim == Aim::Answer
            && outbound.policy().may_hedge(&candidate(exchange, outbound)).is_ok();
        let is_allowed = exchange.spent() < outbound.policy().max_attempts && !exchange.is_hedged();
        let deadline = outbound.limits().deadline_at(exchange.body().upload());
        let is_useful =
            |due: &Instant| deadline.is_none_or(|at| *due + RetryPolicy::LEAST_USEFUL <= at.into());
        let due = hedging.delay().filter(|_| is_allowed).map(|delay| started + delay).filter(is_useful);
        may_hedge.then(|| Box::new(Self { outbound, started, due, is_answered: false }))
    }

    fn hedging(&self) -> Option<&'a Hedging> {
        self.outbound.route.hedging.as_ref()
    }
}

impl Drop for Lesson<'_> {
    fn drop(&mut self) {
        let Some(hedging) = self.hedging() else { return };
        let now = Instant::now();
        let took = now.duration_since(self.started);
        let seen = if self.is_answered { Seen::Answer(took) } else { Seen::NoneWithin(took) };
        if let Some(delay) = hedging.note(seen, self.outbound.shared.since_start(now)) {
            self.outbound.route.metrics.hedges.delay.set(delay.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests;
