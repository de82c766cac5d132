//! A second attempt beside one that is slow, and the first good answer of the two: after the hedge's time on a route that
//! hedges, and after `per_try_timeout` on every route. Slow is not broken, so the first attempt is not cancelled for it.
//!
//! An answer is good by its head, before any of it is held: a status that is neither retried nor a server's or a limit's
//! refusal. The other attempt is cancelled then; the older has failed if it outlived `per_try_timeout`. A bad answer or an
//! error does not win as long as the other may do better; if both are bad, the loop goes on with
//! the better one. Never more than two attempts run: when the younger has outlived `per_try_timeout`, too, it is cut off and
//! replaced. The first one never is, so that no caller waits longer than behind a proxy that never retries. All of them
//! count towards `max_attempts` and the budget, and none is made during an outage or while admission refuses, so a backend
//! that is slow for everybody gets at most the budget on top of its load.
//!
//! # Invariant
//!
//! An exchange has one attempt at a time, or two where the first is slow. The second begins only beside an attempt
//! of a safe method without a request body. When the loop goes on, one of the two is the outcome; the other is on
//! record as failed or cancelled. A cancelled attempt says nothing about its endpoint. Held by
//! `never_more_than_two_run_and_the_younger_is_replaced_when_both_are_slow` and
//! `nothing_is_sent_beside_a_slow_attempt_where_it_is_not_paid_for_or_not_safe`.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::judge::asked_wait;
use super::send::{Arrived, Attempt, Failure};
use super::transport::{Sent, Transport};
use super::{Aim, Attempts, Outbound, admission, idle_close};
use crate::error::{Delivery, ErrorClass, UpstreamError, UpstreamErrorKind};
use crate::policy::deadline::Limit;
use crate::policy::expect::Ending;
use crate::policy::hedge::latency::Seen;
use crate::policy::hedge::{Candidate, HedgeEnd, Hedging};
use crate::policy::outcome::Outcome;
use crate::policy::resume::RequestBody;
use crate::policy::settings::RetryPolicy;
use crate::policy::verdict::Verdict;
use crate::proxy::exchange::{Exchange, ResponseHead};
use crate::upstream::admission::Slot;
use crate::upstream::balance::Pick;
use crate::upstream::cluster::Asked;
use crate::upstream::pool::{Progress, Sending};

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

/// Runs attempts beside one that is slow, to the first good answer or the end of all. The exchange is left with one
/// running attempt at most: the one whose outcome this is, by its number.
pub(super) async fn race<'r, 'a: 'r, T: Transport>(
    attempts: &'r mut Attempts<'a, T>,
    first: &'r Attempt,
    lesson: Option<Box<Lesson<'a>>>,
    sent: Pin<&'r mut impl Future<Output = Sent>>,
) -> (u32, Result<Arrived, Failure>) {
    let per_try = attempts.outbound.policy().per_try_timeout;
    let (number, started) = (first.number, first.started);
    let running = vec![Entrant { number, started, is_for_slow: false, sent: Box::pin(sent) }];
    let race = Race { attempts, per_try, first, lesson, running, failed: None };
    race.run().await
}

/// An attempt that was slow, and those that run beside it.
struct Race<'r, 'a, T> {
    attempts: &'r mut Attempts<'a, T>,
    /// When an attempt is slow.
    per_try: Duration,
    first: &'r Attempt,
    /// What it teaches about the route's latency.
    lesson: Option<Box<Lesson<'a>>>,
    /// Oldest first.
    running: Vec<Entrant<'r>>,
    /// The better of what has failed, and its number.
    failed: Option<(u32, Result<Arrived, Failure>)>,
}

/// An attempt that runs.
struct Entrant<'r> {
    number: u32,
    started: Instant,
    /// Whether it was sent because another had outlived `per_try_timeout`.
    is_for_slow: bool,
    sent: Pin<Box<dyn Future<Output = Sent> + 'r>>,
}

impl<'r, 'a: 'r, T: Transport> Race<'r, 'a, T> {
    /// Runs the race to its end.
    async fn run(mut self) -> (u32, Result<Arrived, Failure>) {
        let outbound = self.attempts.outbound;
        let mut due = Some(self.read_clock());
        loop {
            let now = self.read_clock();
            if due.is_some_and(|due| due <= now) {
                due = self.start();
            }
            let deadline = self.deadline();
            let wake = [due, deadline].into_iter().flatten().min().unwrap_or(now + self.per_try);
            let Some((entrant, sent)) = self.next(wake).await else {
                if deadline.is_some_and(|deadline| deadline <= self.read_clock()) {
                    return self.run_out_of_time();
                }
                continue;
            };
            let now = self.read_clock();
            let outcome = outbound.take(sent);
            if entrant.number == self.first.number {
                self.end_lesson(outbound.is_good(&outcome));
            }
            // A refusal that would not be retried is no reason to lose the answer that the other may bring.
            if is_good(outbound, &outcome) || outbound.is_good(&outcome) && self.running.is_empty() {
                self.win(&entrant);
                return (entrant.number, outcome);
            }
            if entrant.number != self.first.number {
                self.lose(&entrant, HedgeEnd::Failed);
            } else if !self.running.is_empty() {
                let handed_over = self.attempts.exchange.body().handed_over();
                self.first.progress.end(admission::load_signal(outbound, &outcome), handed_over, now);
            }
            let verdict = self.attempts.verdict(told(&outcome), outbound.repeatable);
            let better = self.choose(entrant.number, outcome);
            // One that is slow does not keep the rest of the attempts from being made.
            let Some(oldest) = self.running.first() else { return better };
            let is_slow = oldest.started + self.per_try <= now;
            self.failed = Some(better);
            due = match verdict {
                Verdict::Retry { after, .. } if is_slow => Some(now + after),
                Verdict::Retry { after, .. } => due.map(|due| due.max(now + after)),
                // Nothing may follow, or not before the backend has asked for.
                _ => None,
            };
        }
    }

    fn read_clock(&mut self) -> Instant {
        self.attempts.now = Instant::now();
        self.attempts.now
    }

    fn deadline(&self) -> Option<Instant> {
        let Attempts { exchange, outbound, .. } = &*self.attempts;
        outbound.limits().deadline_at(exchange.body().upload()).map(Into::into)
    }

    /// The next attempt that ends, or none at the time `wake`.
    async fn next(&mut self, wake: Instant) -> Option<(Entrant<'r>, Sent)> {
        self.attempts.timer.as_mut().reset(wake);
        let (place, sent) = poll_fn(|cx| {
            for (place, entrant) in self.running.iter_mut().enumerate() {
                if let Poll::Ready(sent) = entrant.sent.as_mut().poll(cx) {
                    return Poll::Ready(Some((place, sent)));
                }
            }
            self.attempts.timer.as_mut().poll(cx).map(|()| None)
        })
        .await?;
        Some((self.running.remove(place), sent))
    }

    /// Of two failures the better one. The other goes on record at once, and so does either while another attempt runs.
    fn choose(&mut self, number: u32, outcome: Result<Arrived, Failure>) -> (u32, Result<Arrived, Failure>) {
        match self.failed.take() {
            Some((earlier_number, earlier)) if is_better(&earlier, &outcome) => {
                self.finish(number, &outcome);
                (earlier_number, earlier)
            }
            _ => {
                if !self.running.is_empty() {
                    self.finish(number, &outcome);
                }
                (number, outcome)
            }
        }
    }

    /// Begins one more attempt, if it is allowed and of use, and says when the next is due.
    fn start(&mut self) -> Option<Instant> {
        let now = self.attempts.now;
        match self.enter() {
            Some(entrant) => {
                self.running.push(entrant);
                Some(now + self.per_try)
            }
            // What was refused once is not asked for again, unless the first becomes slow.
            None => self.running.first().map(|first| first.started + self.per_try).filter(|at| *at > now),
        }
    }

    /// One more attempt, if it is allowed and of use. Of two that run the younger is cut off for it.
    fn enter(&mut self) -> Option<Entrant<'r>> {
        let Attempts { outbound, transport, now, .. } = *self.attempts;
        let is_for_slow = self.running.iter().all(|entrant| entrant.started + self.per_try <= now);
        let is_useful = self.deadline().is_none_or(|at| now + RetryPolicy::LEAST_USEFUL <= at);
        let is_allowed = self.attempts.exchange.book.spent() < outbound.policy().max_attempts && is_useful;
        let may_help = !is_for_slow || outbound.policy().errors.contains(ErrorClass::Timeout);
        if !is_allowed || !may_help {
            return None;
        }
        let (pick, slot) = self.pick(is_for_slow)?;
        if self.running.len() > 1
            && let Some(younger) = self.running.pop()
        {
            self.attempts.exchange.cancel_attempt(younger.number, now);
            self.lose(&younger, HedgeEnd::Failed);
        }
        let exchange = &mut *self.attempts.exchange;
        exchange.book.start_beside(pick.clone(), now);
        let number = exchange.book.attempt_number();
        let head = outbound.head_of(number);
        // The request has no body, so two attempts can have it.
        let [body, again] = [(); 2].map(|()| exchange.body().attempt());
        let sent = async move {
            let progress = Progress::beside(slot);
            let Outbound { repeatable, .. } = *outbound;
            let request = Sending { endpoint: &pick.endpoint, head: &head, repeatable, progress: &progress };
            let answered = transport.send(request, body).await;
            if !idle_close::is_one(&answered, &progress, now) {
                return answered;
            }
            progress.begin_anew();
            transport.send(request, again).await
        };
        Some(Entrant { number, started: now, is_for_slow, sent: Box::pin(sent) })
    }

    /// Whether attempts beside slow ones of this key have ever been of use: a report that takes 12 s would run twice for
    /// ever.
    fn has_helped(&self) -> bool {
        let Outbound { cluster, shared, .. } = self.attempts.outbound;
        let key = cluster.key(&self.attempts.outbound.subject());
        cluster.may_help_beside(&key, shared.random(), shared.since_start(self.attempts.now))
    }

    /// The endpoint for one more attempt, paid for, and its place in flight; another endpoint if there is one.
    fn pick(&self, is_for_slow: bool) -> Option<(Pick, Option<Slot>)> {
        let Attempts { exchange, outbound, now, .. } = &*self.attempts;
        let cluster = &outbound.cluster;
        let refused = |end| {
            self.count(end);
            None
        };
        if cluster.outage_queue.is_in_force() {
            return refused(HedgeEnd::RefusedOutageQueue);
        }
        let slot = cluster.admission.try_enter(*now);
        if slot.is_none() && !cluster.admission.is_off() {
            return refused(HedgeEnd::RefusedLoad);
        }
        // Only what could be made takes the one attempt a second of a key that has not been helped.
        if is_for_slow && !self.has_helped() {
            return None;
        }
        if !outbound.withdraw(*now) {
            return refused(HedgeEnd::RefusedBudget);
        }
        let tried: Vec<_> = exchange.book.tried().iter().copied().chain(exchange.book.running_at()).collect();
        Some((outbound.shared.pick(cluster, &tried, outbound.repeatable, *now)?, slot))
    }

    /// Ends all that still run beside a good answer. One that had outlived `per_try_timeout` when a younger one answered
    /// has failed; one that had not is cancelled.
    fn win(&mut self, winner: &Entrant<'r>) {
        let now = self.attempts.now;
        if winner.number != self.first.number {
            self.count(HedgeEnd::Won);
        }
        if winner.is_for_slow {
            self.note_help(Help::Some);
        }
        for other in std::mem::take(&mut self.running) {
            let is_late = other.started + self.per_try <= now;
            if is_late && other.number < winner.number {
                let late = UpstreamError::new(UpstreamErrorKind::HeadTimeout, Delivery::Maybe);
                self.finish_failed(other.number, &late);
            } else {
                self.attempts.exchange.cancel_attempt(other.number, now);
            }
            if other.number != self.first.number {
                self.lose(&other, HedgeEnd::Lost);
            }
        }
    }

    /// The deadline has passed: a bad answer that came before is the outcome, or the oldest attempt.
    fn run_out_of_time(mut self) -> (u32, Result<Arrived, Failure>) {
        let failed = self.failed.take().filter(|(_, outcome)| outcome.is_ok());
        let running = std::mem::take(&mut self.running);
        let oldest = running.first().map_or(self.first.number, |entrant| entrant.number);
        let late = UpstreamError::new(UpstreamErrorKind::HeadTimeout, Delivery::Maybe);
        let cut = Failure { error: late, limit: Some(Limit::Deadline) };
        for entrant in running {
            if entrant.number != oldest {
                self.attempts.exchange.cancel_attempt(entrant.number, self.attempts.now);
            } else if failed.is_some() {
                self.finish_failed(oldest, &cut.error);
            }
            if entrant.number != self.first.number {
                self.lose(&entrant, HedgeEnd::Failed);
            }
        }
        failed.unwrap_or((oldest, Err(cut)))
    }

    /// Puts the outcome of an attempt on record.
    fn finish(&mut self, number: u32, outcome: &Result<Arrived, Failure>) {
        match outcome {
            Ok(answer) => {
                let head = ResponseHead { status: answer.status(), grpc: None };
                let Attempts { exchange, outbound, now, .. } = &mut *self.attempts;
                exchange.finish_attempt(number, Ok(head), *outbound, *now);
            }
            Err(failure) => self.finish_failed(number, &failure.error),
        }
    }

    fn finish_failed(&mut self, number: u32, error: &UpstreamError) {
        let Attempts { exchange, outbound, now, .. } = &mut *self.attempts;
        exchange.finish_attempt(number, Err(error), *outbound, *now);
    }

    /// Counts an attempt that was made beside another and was of no use.
    fn lose(&mut self, entrant: &Entrant<'r>, end: HedgeEnd) {
        self.count(end);
        if entrant.is_for_slow {
            self.note_help(Help::None);
        }
    }

    fn note_help(&mut self, help: Help) {
        let Attempts { exchange, outbound, now, .. } = &mut *self.attempts;
        let ending = match help {
            Help::None => Ending::Failure(exchange.number()),
            Help::Some => Ending::Success,
        };
        let Outbound { cluster, shared, .. } = outbound;
        cluster.note_beside(&cluster.key(&outbound.subject()), ending, shared.since_start(*now));
    }

    fn count(&self, end: HedgeEnd) {
        self.attempts.outbound.route.metrics.hedges(end).inc();
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

/// Whether an answer may end the race while another attempt runs.
fn is_good(outbound: &Outbound, outcome: &Result<Arrived, Failure>) -> bool {
    let is_refusal = |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    outbound.is_good(outcome) && outcome.as_ref().is_ok_and(|answer| !is_refusal(answer.status()))
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

/// Notes what an attempt took when it ends, or how long it ran when it is cancelled.
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
        let is_allowed = exchange.book.spent() < outbound.policy().max_attempts && !exchange.book.is_hedged();
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
            self.outbound.route.metrics.hedge_delay.set(delay.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests;
