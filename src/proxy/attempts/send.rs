//! One attempt: the request goes out, and the answer is waited for within the limits of an attempt.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use http_body::Body;
use tokio::time::Instant;

use super::transport::Transport;
use super::{Aim, Attempts, End, Ended, admission, beside, idle_close, response_head};
use crate::error::{Delivery, ErrorClass, ProxyError, UpstreamError, UpstreamErrorKind};
use crate::policy::deadline::{Limit, Successor};
use crate::policy::hold::Arriving;
use crate::policy::outcome::Outcome;
use crate::policy::request::Repeatable;
use crate::proxy::hold::{AnswerBody, Hold};
use crate::proxy::rare;
use crate::proxy::replay::AttemptBody;
use crate::upstream::admission::{LoadSignal, Slot};
use crate::upstream::body::UpstreamBody;
use crate::upstream::cluster::Cluster;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::pool::{Progress, Sending};

/// An attempt under way.
pub(super) struct Attempt {
    pub(super) endpoint: Arc<Endpoint>,
    /// From 1.
    pub(super) number: u32,
    pub(super) started: Instant,
    /// How far it has come; its place in flight is there.
    pub(super) progress: Progress,
}

impl Attempt {
    fn request<'a>(&'a self, head: &'a Rc<Parts>, repeatable: Repeatable) -> Sending<'a> {
        Sending { endpoint: &self.endpoint, head, repeatable, progress: &self.progress }
    }
}

/// An answer of which the head has come.
pub(super) type Arrived = Response<UpstreamBody<AttemptBody>>;

/// Why an attempt brought no answer.
pub(super) struct Failure {
    pub(super) error: UpstreamError,
    /// The limit that cut it off, if one did.
    pub(super) limit: Option<Limit>,
}

impl Failure {
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Failed { class: self.error.kind.class(), delivery: self.error.delivery }
    }
}

impl<T: Transport> Attempts<'_, T> {
    /// Picks an endpoint and puts the attempt on record.
    pub(super) fn begin(&mut self, slot: Option<Slot>) -> Result<Attempt, End> {
        let Some(pick) = self.outbound.pick(self.exchange, self.now) else {
            return Err(self.give_up(no_endpoint(&self.outbound.cluster)));
        };
        let endpoint = pick.endpoint.clone();
        self.exchange.book.start_attempt(pick, self.now);
        let number = self.exchange.book.attempt_number();
        Ok(Attempt { endpoint, number, started: self.now, progress: Progress::with_slot(slot) })
    }

    /// Makes the attempt, to the response head and, where the answer is held, to the end of the hold.
    pub(super) async fn send(&mut self, attempt: &Attempt) -> Result<Ended, End> {
        let (number, arrived) = self.wait_for_head(attempt).await;
        let ended = match arrived {
            Ok(answer) if self.may_hold(&answer, number) => rare(self.hold(answer)).await,
            Ok(answer) => Ok(answer.map(AnswerBody::Direct)),
            Err(failure) => Err(failure),
        };
        self.end(number, ended, &attempt.progress)
    }

    /// Sends the request and waits for the response head, within the limits of an attempt. Gives the number of the attempt
    /// that brought the outcome: another one, if the request was slow and was sent once more.
    async fn wait_for_head(&mut self, attempt: &Attempt) -> (u32, Result<Arrived, Failure>) {
        let head = self.outbound.head_of(attempt.number);
        let mut lesson = beside::Lesson::begin(self.exchange, self.outbound, attempt.started);
        let body = self.exchange.body().attempt();
        let mut answer = pin!(self.transport.send(attempt.request(&head, self.outbound.repeatable), body));
        loop {
            let is_uploading = self.outbound.limits().deadline_at(self.exchange.body().upload()).is_none();
            let hedge = lesson.as_ref().and_then(|lesson| lesson.due);
            let next_look = self.next_look(attempt, hedge, is_uploading);
            self.timer.as_mut().reset(next_look);
            tokio::select! {
                biased;
                answered = &mut answer => {
                    if idle_close::has_met(&answered, self.exchange, self.outbound, attempt) {
                        attempt.progress.begin_anew();
                        let request = attempt.request(&head, self.outbound.repeatable);
                        answer.set(self.transport.send(request, self.exchange.body().attempt()));
                        continue;
                    }
                    let outcome = self.outbound.take(answered);
                    if let Some(lesson) = &mut lesson {
                        lesson.is_answered = self.outbound.is_good(&outcome);
                    }
                    return (attempt.number, outcome);
                }
                () = self.exchange.body().ended(), if is_uploading => {
                    attempt.progress.step_in(Instant::now());
                    continue;
                }
                () = self.timer.as_mut() => {}
            }
            let now = Instant::now();
            if is_uploading && self.exchange.body().caller_time(now) >= MOMENT {
                attempt.progress.step_aside();
            }
            let (at, limit) = self.limit(attempt);
            let is_over = at <= now;
            let is_slow = is_over && limit == Limit::PerTry && self.outbound.aim == Aim::Answer;
            if is_slow || lesson.as_ref().and_then(|lesson| lesson.due).is_some_and(|due| due <= now) {
                return rare(beside::race(self, attempt, lesson, answer)).await;
            }
            if is_over {
                let error = attempt.progress.cut_off();
                return (attempt.number, Err(Failure { error, limit: Some(limit) }));
            }
        }
    }

    /// When the limits of the attempt are looked at again.
    fn next_look(&self, attempt: &Attempt, hedge: Option<Instant>, is_uploading: bool) -> Instant {
        let (limit, _) = self.limit(attempt);
        let end = hedge.map_or(limit, |due| due.min(limit));
        if !is_uploading {
            return end;
        }
        // While the body comes in, the limit moves with every part: it is enough to look again now and then.
        let period = if attempt.progress.holds_place() { MOMENT } else { UPLOAD_PERIOD };
        end.min(Instant::now() + period)
    }

    /// The limit that ends the attempt, and when.
    fn limit(&self, attempt: &Attempt) -> (Instant, Limit) {
        let upload = self.exchange.body().upload();
        let (at, limit) = self.outbound.limits().first(attempt.started.into_std(), upload, self.successor());
        (at.into(), limit)
    }

    /// Whether another attempt can help one that is slow: beside it, where the request is safe and has no body, or in its
    /// place, where the rest of an answer is asked for.
    ///
    /// Everything else has until its deadline: a plain proxy would wait as long for a slow PUT, which is no failure, and a
    /// backend may carry out what was cut off as well as what follows.
    fn successor(&self) -> Successor {
        let policy = self.outbound.policy();
        let possible = self.exchange.book.spent() < policy.max_attempts
            && policy.errors.contains(ErrorClass::Timeout)
            && !self.exchange.book.has_last_permit()
            && (self.outbound.aim != Aim::Answer || beside::may_race(self.exchange, self.outbound));
        if possible { Successor::Possible } else { Successor::Impossible }
    }

    /// Lays a response head before the policy.
    fn may_hold(&self, answer: &Arrived, number: u32) -> bool {
        // The caller waits for the rest of an answer already.
        if !answer.body().is_coming() || self.outbound.aim != Aim::Answer {
            return false;
        }
        self.outbound.policy().may_hold(&Arriving {
            method: &self.outbound.head.method,
            status: answer.status(),
            headers: answer.headers(),
            length: answer.body().size_hint().exact(),
            attempt: number,
            repeatable: self.outbound.repeatable,
            body: self.exchange.body().state(),
        })
    }

    /// Holds an answer until it is whole or a limit is reached.
    async fn hold(&mut self, answer: Arrived) -> Ended {
        let hold = Hold {
            limits: self.outbound.policy().hold,
            deadline: self.outbound.limits().deadline_at(self.exchange.body().upload()),
            memory: self.exchange.answer_memory(),
            holder: self.exchange.client().into(),
            metrics: self.exchange.metrics(),
        };
        hold.until_whole(answer, self.timer.as_mut()).await.map_err(|error| Failure { error, limit: None })
    }

    /// Puts the end of an attempt on record. An error says that it was the caller's.
    fn end(&mut self, number: u32, ended: Ended, progress: &Progress) -> Result<Ended, End> {
        self.now = Instant::now();
        let handed_over = self.exchange.body().handed_over();
        if let Err(failure) = &ended
            && let Some(fault) = self.caller_fault(failure)
        {
            progress.end(LoadSignal::Nothing, handed_over, self.now);
            self.exchange.cancel_attempts(failure.error.delivery, self.now);
            return Err(End::Reply(fault));
        }
        progress.end(admission::load_signal(self.outbound, &ended), handed_over, self.now);
        let outcome = ended.as_ref().map(response_head).map_err(|failure| &failure.error);
        self.exchange.finish_attempt(number, outcome, self.outbound, self.now);
        if outcome.is_err_and(|error| error.delivery == Delivery::Never)
            && self.outbound.cluster.outage_queue.is_in_force()
        {
            self.exchange.book.forgive_attempt();
        }
        Ok(ended)
    }

    /// What the caller did to end the attempt, if it was the caller.
    fn caller_fault(&self, failure: &Failure) -> Option<ProxyError> {
        match failure.limit {
            Some(Limit::CallerSilent) => Some(ProxyError::CallerSilent),
            _ => self.exchange.body().fault(),
        }
    }
}

fn no_endpoint(cluster: &Cluster) -> ProxyError {
    if cluster.endpoints().is_empty() {
        ProxyError::Upstream(UpstreamError::new(UpstreamErrorKind::Dns, Delivery::Never))
    } else {
        ProxyError::NoEndpoint
    }
}

/// How long an attempt may wait for its caller, in all, before its place in flight is given back.
const MOMENT: Duration = Duration::from_millis(100);

/// How often the limits of an upload are looked at.
const UPLOAD_PERIOD: Duration = Duration::from_secs(1);
