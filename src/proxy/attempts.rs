//! The attempt loop: pick an endpoint, send, decide, wait, again.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body::Body;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::error::{Delivery, ErrorClass, ProxyError, UpstreamError, UpstreamErrorKind};
use crate::policy::authentication;
use crate::policy::budget::Prospect;
use crate::policy::deadline::{Limit, Successor, TimeLimits};
use crate::policy::expect::{DOUBTFUL, Subject};
use crate::policy::grpc::GrpcStatus;
use crate::policy::hold::Arriving;
use crate::policy::repeat::SendOnce;
use crate::policy::retry::{
    BodyState, Circumstances, Outcome, Repeatable, RetryPolicy, Untried, Verdict, Veto, retry_after,
};
use crate::proxy::Shared;
use crate::proxy::exchange::{Exchange, ResponseHead};
use crate::proxy::headers::{self, X_STENT_ATTEMPT};
use crate::proxy::hold::{AnswerBody, Hold};
use crate::proxy::replay::AttemptBody;
use crate::route::Route;
use crate::upstream::admission::{LoadSignal, Refusal, Slot};
use crate::upstream::balance::Pick;
use crate::upstream::body::UpstreamBody;
use crate::upstream::cluster::{Asked, Cluster};
use crate::upstream::endpoint::{Endpoint, EndpointId};
use crate::upstream::pool::{Pools, Progress};

mod admission;
mod beside;
mod idle_close;
mod keep;
mod line;
pub(super) mod resume;

/// What carries an attempt to its endpoint: a worker's pools, or a script in tests.
#[expect(async_fn_in_trait, reason = "a worker's futures stay on its thread: no `Send` is wanted")]
pub trait Transport {
    /// Sends a request and waits for the response head.
    async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        head: &Rc<Parts>,
        body: AttemptBody,
        repeatable: Repeatable,
        progress: &Progress,
    ) -> Result<Response<UpstreamBody<AttemptBody>>, UpstreamError>;
}

impl Transport for Pools<AttemptBody> {
    // The future itself: one around it would hold the body a second time.
    fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        head: &Rc<Parts>,
        body: AttemptBody,
        repeatable: Repeatable,
        progress: &Progress,
    ) -> impl Future<Output = Result<Response<UpstreamBody<AttemptBody>>, UpstreamError>> {
        Pools::send(self, endpoint, head, body, repeatable, progress)
    }
}

/// A response head, and the body that follows it.
pub(super) type Answer = Response<AnswerBody>;

/// A request as the upstream shall get it, and all that the loop needs to know of it.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) route: Arc<Route>,
    pub(crate) shared: Rc<Shared>,
    /// Shared with each attempt, which so needs no copy of it.
    pub(crate) head: Rc<Parts>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) repeatable: Repeatable,
    /// The protocol that the connection shall change to.
    pub(crate) upgrade: Option<Box<HeaderValue>>,
    /// How long all of it may take, and how long its caller may be silent inside the body. The route has the other limits.
    pub(crate) deadline: Duration,
    pub(crate) caller_silence: Duration,
    pub(crate) aim: Aim,
}

/// What an answer is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// To be the caller's.
    Answer,
    /// To bring the rest of one that broke.
    Rest {
        /// The one endpoint that has it, if not every one has.
        only: Option<EndpointId>,
    },
}

/// The answer that the caller gets, and whether it is a failure that nothing could mend.
#[derive(Debug)]
pub(crate) struct Concluded {
    pub(crate) answer: Answer,
    pub(crate) quality: Quality,
}

/// Whether an answer is one that the retry policy counts as a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    /// It is, and no further attempt was allowed.
    Exhausted,
    /// It is not.
    Good,
}

/// Makes attempts until one is good enough, a rule forbids another, or nothing is left to try.
pub(crate) async fn run<T: Transport>(
    exchange: &mut Exchange,
    outbound: &Outbound,
    transport: &T,
) -> Result<Concluded, ProxyError> {
    let mut timer = pin!(sleep_until(exchange.began()));
    let mut kept: Option<Box<Answer>> = None;
    let mut now = exchange.began();
    match outbound.aim {
        Aim::Answer => outbound.cluster.budget.deposit(outbound.shared.since_start(now)),
        Aim::Rest { .. } => now = Instant::now(),
    }
    loop {
        if outbound.cluster.line.is_in_force() {
            // Boxed, because an outage is rare.
            if let Err(refusal) = Box::pin(line::wait(exchange, outbound, now)).await {
                return exhausted(kept).ok_or(refusal);
            }
            now = Instant::now();
        }
        let mut admitted = admission::layer(exchange, outbound, now).layer(service_fn(Making::<'_, T>::run));
        if let Err(refusal) = admitted.ready().await {
            return admission::refuse(exchange, kept, now, refusal);
        }
        if admitted.has_waited() {
            let asked = std::mem::replace(&mut now, Instant::now());
            exchange.leave_queue(now.duration_since(asked));
            if outbound.cluster.line.is_in_force() && !exchange.has_turn() {
                continue; // all of it went down meanwhile
            }
        }
        let Some(pick) = outbound.pick(exchange, now) else {
            return exhausted(kept).ok_or_else(|| no_endpoint(&outbound.cluster));
        };
        exchange.start_attempt(pick.clone(), now);
        let making = Making {
            exchange: &mut *exchange,
            outbound,
            transport,
            endpoint: &pick.endpoint,
            timer: timer.as_mut(),
            started: now,
        };
        let mut ended = match admitted.call(making).await {
            Ok(made) => end(exchange, outbound, made)?,
            Err(refusal) => return admission::refuse(exchange, kept, now, refusal),
        };
        if matches!(ended.verdict, Verdict::Stop { why: Veto::Body })
            && exchange.body().state() == BodyState::Partial
        {
            // An answer ahead of the body. Boxed, because that is rare.
            ended = Box::pin(drain_request_body(exchange, outbound, ended)).await;
        }
        ended.verdict = outbound.afford(exchange, &ended);
        match ended.verdict {
            Verdict::Retry { after, reason } => {
                // Boxed, so that a request that needs no retry carries no room for one.
                let again =
                    Box::pin(keep::wait_and_keep(exchange, outbound, ended, after, reason, timer.as_mut()));
                kept = again.await.or(kept);
                now = Instant::now();
            }
            Verdict::Return => return conclude(exchange, ended.outcome, None, kept, outbound.aim),
            Verdict::Stop { why } => return conclude(exchange, ended.outcome, Some(why), kept, outbound.aim),
        }
    }
}

/// An attempt that has ended, and what the policy makes of it.
struct Ended {
    outcome: Result<Answer, Failure>,
    verdict: Verdict,
    at: Instant,
}

/// Puts the end of an attempt on record. An error says that it was the caller's.
fn end(exchange: &mut Exchange, outbound: &Outbound, made: Made) -> Result<Ended, ProxyError> {
    let Made { number, outcome, progress } = made;
    let at = Instant::now();
    let handed_over = exchange.body().handed_over();
    if let Err(failure) = &outcome
        && let Some(fault) = caller_fault(exchange, failure)
    {
        progress.end(LoadSignal::Nothing, handed_over, at);
        exchange.cancel_attempts(failure.error.delivery, at);
        return Err(fault);
    }
    progress.end(admission::load_signal(outbound, &outcome), handed_over, at);
    let told = outcome.as_ref().map(response_head).map_err(|failure| &failure.error);
    exchange.finish_attempt(number, told, outbound, at);
    if told.is_err_and(|error| error.delivery == Delivery::Never) && outbound.cluster.line.is_in_force() {
        exchange.forgive_attempt();
    }
    let verdict = decide(exchange, outbound, &outcome, at);
    Ok(Ended { outcome, verdict, at })
}

/// Why an attempt brought no answer.
struct Failure {
    error: UpstreamError,
    /// The limit that cut it off, if one did.
    limit: Option<Limit>,
}

impl Failure {
    fn outcome(&self) -> Outcome {
        Outcome::Failed { class: self.error.kind.class(), delivery: self.error.delivery }
    }
}

/// How an attempt ended, and how far it came.
struct Made {
    /// The attempt's number: not that of the one that was begun, if one beside it brought the outcome.
    number: u32,
    outcome: Result<Answer, Failure>,
    progress: Progress,
}

/// An attempt that is let through.
struct Making<'a, T> {
    exchange: &'a mut Exchange,
    outbound: &'a Outbound,
    transport: &'a T,
    endpoint: &'a Arc<Endpoint>,
    timer: Pin<&'a mut Sleep>,
    started: Instant,
}

impl<T: Transport> Making<'_, T> {
    /// Makes it, to the response head and, where the answer is held, to the end of the hold. Gives back how far it came, with
    /// its place in flight.
    async fn run((mut making, slot): (Self, Option<Slot>)) -> Result<Made, Refusal> {
        let progress = Progress::with_slot(slot);
        let number = making.exchange.attempt_number();
        let Self { endpoint, started, .. } = making;
        let current = Current { endpoint, number, started, progress: &progress };
        let (number, outcome) = making.send(&current).await;
        let outcome = match arrive(making.exchange, making.outbound, outcome, number) {
            Arrival::Over(outcome) => outcome,
            // Boxed, because most answers are whole with their head.
            Arrival::Held(answer) => {
                Box::pin(hold(making.exchange, making.outbound, answer, making.timer)).await
            }
        };
        Ok(Made { number, outcome, progress })
    }
}

/// An attempt that runs.
#[derive(Clone, Copy)]
struct Current<'a> {
    endpoint: &'a Arc<Endpoint>,
    /// From 1.
    number: u32,
    started: Instant,
    progress: &'a Progress,
}

/// An answer of which the head has come.
type Arrived = Response<UpstreamBody<AttemptBody>>;

/// An attempt as far as the head of its answer.
enum Arrival {
    /// The answer has to be held before the attempt is over.
    Held(Arrived),
    Over(Result<Answer, Failure>),
}

/// Looks whether the answer to the attempt of this number, if there is one, is to be held.
fn arrive(
    exchange: &Exchange,
    outbound: &Outbound,
    outcome: Result<Arrived, Failure>,
    number: u32,
) -> Arrival {
    let answer = match outcome {
        Ok(answer) => answer,
        Err(failure) => return Arrival::Over(Err(failure)),
    };
    let is_rest = outbound.aim != Aim::Answer; // the caller waits for it already
    if !answer.body().is_coming() || is_rest || !may_hold(exchange, outbound, &answer, number) {
        return Arrival::Over(Ok(answer.map(AnswerBody::Direct)));
    }
    Arrival::Held(answer)
}

/// Holds an answer until it is whole or a limit is reached.
async fn hold(
    exchange: &Exchange,
    outbound: &Outbound,
    answer: Arrived,
    timer: Pin<&mut Sleep>,
) -> Result<Answer, Failure> {
    let hold = Hold {
        limits: outbound.policy().hold,
        deadline: outbound.limits().deadline_at(exchange.body().upload()),
        memory: exchange.answer_memory(),
        holder: exchange.client().into(),
        metrics: exchange.metrics(),
    };
    hold.until_whole(answer, timer).await.map_err(|error| Failure { error, limit: None })
}

/// Lays a response head before the policy.
fn may_hold(exchange: &Exchange, outbound: &Outbound, answer: &Arrived, number: u32) -> bool {
    outbound.policy().may_hold(&Arriving {
        method: &outbound.head.method,
        status: answer.status(),
        headers: answer.headers(),
        length: answer.body().size_hint().exact(),
        attempt: number,
        repeatable: outbound.repeatable,
        body: exchange.body().state(),
    })
}

impl<T: Transport> Making<'_, T> {
    /// Sends the request and waits for the response head, within the limits of an attempt. Gives the number of the attempt
    /// that brought the outcome: another one, if the request was slow and was sent once more.
    async fn send(&mut self, current: &Current<'_>) -> (u32, Result<Arrived, Failure>) {
        let head = self.outbound.head_of(current.number);
        let body = self.exchange.body().attempt();
        let mut lesson = beside::Lesson::begin(self.exchange, self.outbound, current.started);
        let mut answer = pin!(self.transport.send(
            current.endpoint,
            &head,
            body,
            self.outbound.repeatable,
            current.progress
        ));
        loop {
            let (at, _) = limit(self.exchange, self.outbound, current);
            let at =
                lesson.as_ref().and_then(|lesson| lesson.due).map_or(at.into(), |due| due.min(at.into()));
            // While the body comes in, the limit moves with every part: it is enough to look again now and then.
            let is_uploading = self.outbound.limits().deadline_at(self.exchange.body().upload()).is_none();
            let look_again = if !is_uploading {
                at
            } else if current.progress.holds_place() {
                Instant::now() + MOMENT
            } else {
                Instant::now() + UPLOAD_PERIOD
            };
            self.timer.as_mut().reset(look_again.min(at));
            tokio::select! {
                biased;
                answered = &mut answer => {
                    if idle_close::has_met(&answered, self.exchange, self.outbound, current) {
                        current.progress.begin_anew();
                        let body = self.exchange.body().attempt();
                        let Current { endpoint, progress, .. } = *current;
                        answer.set(self.transport.send(endpoint, &head, body, self.outbound.repeatable, progress));
                        continue;
                    }
                    let outcome = self.outbound.take(answered);
                    if let Some(lesson) = &mut lesson {
                        lesson.is_answered = self.outbound.is_good(&outcome);
                    }
                    return (current.number, outcome);
                }
                () = self.exchange.body().ended(), if is_uploading => {
                    current.progress.step_in(Instant::now());
                    continue;
                }
                () = self.timer.as_mut() => {}
            }
            let now = Instant::now();
            if is_uploading && self.exchange.body().caller_time(now) >= MOMENT {
                current.progress.step_aside();
            }
            let (at, limit) = limit(self.exchange, self.outbound, current);
            let is_slow = at <= now.into_std() && limit == Limit::PerTry;
            let is_hedged = lesson.as_ref().and_then(|lesson| lesson.due).is_some_and(|due| due <= now);
            if is_hedged || is_slow && self.outbound.aim == Aim::Answer {
                let race =
                    beside::Race { outbound: self.outbound, transport: self.transport, current, lesson };
                // Boxed, because it is rare.
                return Box::pin(race.run(self.exchange, answer, self.timer.as_mut())).await;
            }
            if at <= now.into_std() {
                return (current.number, Err(cut_off(limit, current.progress.delivery())));
            }
        }
    }
}

/// The limit that ends an attempt, and when.
fn limit(exchange: &Exchange, outbound: &Outbound, current: &Current<'_>) -> (std::time::Instant, Limit) {
    let body = exchange.body();
    let successor = successor(exchange, outbound);
    outbound.limits().first(current.started.into_std(), body.upload(), successor)
}

/// An attempt that a limit ended.
fn cut_off(limit: Limit, delivery: Delivery) -> Failure {
    let kind = match delivery {
        Delivery::Never => UpstreamErrorKind::ConnectTimeout,
        Delivery::Maybe | Delivery::Answered => UpstreamErrorKind::HeadTimeout,
    };
    Failure { error: UpstreamError::new(kind, delivery), limit: Some(limit) }
}

/// Whether another attempt can help one that is slow: beside it, where the request is safe and has no body, or in its
/// place, where the rest of an answer is asked for.
///
/// Everything else has until its deadline: a plain proxy would wait as long for a slow PUT, which is no failure, and a
/// backend may carry out what was cut off as well as what follows.
fn successor(exchange: &Exchange, outbound: &Outbound) -> Successor {
    let policy = outbound.policy();
    let possible = exchange.spent() < policy.max_attempts
        && policy.errors.contains(ErrorClass::Timeout)
        && !exchange.has_last_turn()
        && (outbound.aim != Aim::Answer || beside::may_race(exchange, outbound));
    if possible { Successor::Possible } else { Successor::Impossible }
}

/// What the caller did to end the attempt, if it was the caller.
fn caller_fault(exchange: &Exchange, failure: &Failure) -> Option<ProxyError> {
    match failure.limit {
        Some(Limit::CallerSilent) => Some(ProxyError::CallerSilent),
        _ => exchange.body().fault(),
    }
}

/// Lays an attempt's end and the exchange's state before the policy.
fn decide(
    exchange: &Exchange,
    outbound: &Outbound,
    ended: &Result<Answer, Failure>,
    now: Instant,
) -> Verdict {
    let policy = outbound.policy();
    let outcome = match ended {
        Ok(answer) if policy.statuses.contains(answer.status()) => {
            Outcome::Answered { status: answer.status(), retry_after: asked_wait(answer) }
        }
        Ok(answer) => match grpc_status(answer).filter(|status| policy.grpc_statuses.contains(*status)) {
            Some(status) => Outcome::Grpc { status, retry_after: asked_wait(answer) },
            None => return Verdict::Return, // the common case, spared the rest
        },
        Err(failure) => failure.outcome(),
    };
    let repeatable = match ended {
        Ok(answer) if authentication::is_demanded(answer.headers()) => {
            Repeatable::OnlyIfNeverSent(SendOnce::Authentication)
        }
        Ok(_) | Err(_) => outbound.repeatable,
    };
    judge(exchange, outbound, outcome, repeatable, now)
}

/// Lays an outcome and the exchange's state before the policy.
fn judge(
    exchange: &Exchange,
    outbound: &Outbound,
    outcome: Outcome,
    repeatable: Repeatable,
    now: Instant,
) -> Verdict {
    let has_untried = outbound.has_untried(exchange);
    outbound.policy().decide(
        outcome,
        &Circumstances {
            attempt: exchange.spent().max(1),
            repeatable,
            body: exchange.body().secure(),
            untried: if has_untried { Untried::Some } else { Untried::None },
            time_left: outbound.limits().left(exchange.body().upload(), now.into_std()),
            chance: outbound.cluster.outlook(&outbound.subject(), outbound.shared.since_start(now)).chance,
            random: outbound.shared.random(),
        },
    )
}

/// Reads the rest of the request body, if it comes without a pause, and lays the end before the policy again: only a whole
/// copy can be sent again.
async fn drain_request_body(exchange: &Exchange, outbound: &Outbound, ended: Ended) -> Ended {
    // A caller that does pause may be waiting for this very answer.
    let _ = timeout(outbound.deadline, exchange.body().complete(PAUSE)).await;
    let at = Instant::now();
    Ended { verdict: decide(exchange, outbound, &ended.outcome, at), at, ..ended }
}

fn response_head(answer: &Answer) -> ResponseHead {
    ResponseHead { status: answer.status(), grpc: grpc_status(answer) }
}

/// How a call of gRPC has failed, if its answer is whole with the head ("Trailers-Only"). Where trailers follow a body,
/// the caller has the head by then, and it is too late for a retry.
fn grpc_status(answer: &Answer) -> Option<GrpcStatus> {
    if answer.version() != Version::HTTP_2 || !answer.body().is_end_stream() {
        return None;
    }
    GrpcStatus::of_head(answer.status(), answer.headers()).filter(|status| !status.is_ok())
}

fn asked_wait<B>(answer: &Response<B>) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry_after(value, SystemTime::now())
}

/// The end of the loop, by a rule if it was `stopped`: the answer at hand, the best that came earlier, or an error.
fn conclude(
    exchange: &mut Exchange,
    outcome: Result<Answer, Failure>,
    stopped: Option<Veto>,
    kept: Option<Box<Answer>>,
    aim: Aim,
) -> Result<Concluded, ProxyError> {
    let is_recovery = || aim == Aim::Answer && outcome.is_ok() && exchange.has_retried();
    match stopped {
        None if is_recovery() => exchange.recover(),
        None => {}
        Some(why) => exchange.stop_retrying(why),
    }
    let quality = if stopped.is_none() { Quality::Good } else { Quality::Exhausted };
    match outcome {
        Ok(answer) => Ok(Concluded { answer, quality }),
        // A real answer tells the caller more than one that we invent.
        Err(failure) => exhausted(kept).ok_or(match failure.limit {
            Some(Limit::Deadline) => ProxyError::DeadlineExceeded,
            _ => ProxyError::Upstream(failure.error),
        }),
    }
}

fn exhausted(kept: Option<Box<Answer>>) -> Option<Concluded> {
    kept.map(|answer| Concluded { answer: *answer, quality: Quality::Exhausted })
}

fn no_endpoint(cluster: &Cluster) -> ProxyError {
    if cluster.endpoints().is_empty() {
        ProxyError::Upstream(UpstreamError::new(UpstreamErrorKind::Dns, Delivery::Never))
    } else {
        ProxyError::NoEndpoint
    }
}

impl Asked for Outbound {
    fn subject(&self) -> Subject<'_> {
        let settings = &self.route.settings;
        let rest = settings.pattern.path.rest_of(self.head.uri.path());
        Subject { route: &settings.name, method: &self.head.method, rest }
    }
}

impl Outbound {
    fn policy(&self) -> &RetryPolicy {
        &self.route.settings.retry
    }

    /// The endpoint for the next attempt.
    fn pick(&self, exchange: &Exchange, now: Instant) -> Option<Pick> {
        match self.aim {
            Aim::Rest { only: Some(endpoint) } => self.cluster.pick_only(endpoint),
            _ => self.shared.pick(&self.cluster, exchange.tried(), self.repeatable, now),
        }
    }

    /// Whether the next attempt may go where none has failed.
    fn has_untried(&self, exchange: &Exchange) -> bool {
        !matches!(self.aim, Aim::Rest { only: Some(_) }) && self.cluster.has_untried(exchange.tried())
    }

    fn limits(&self) -> TimeLimits {
        let per_try = self.policy().per_try_timeout;
        TimeLimits { deadline: self.deadline, per_try, caller_silence: self.caller_silence }
    }

    /// Whether the budget allows another attempt. One that goes through the line costs it nothing: the line is bounded by
    /// itself.
    fn may_retry(&self, now: Instant) -> bool {
        self.cluster.line.is_in_force() || self.withdraw(now)
    }

    /// Takes an attempt out of the retry budget, if that holds it.
    fn withdraw(&self, now: Instant) -> bool {
        let now = self.shared.since_start(now);
        let q = self.cluster.outlook(&self.subject(), now).q;
        let prospect = if q >= DOUBTFUL { Prospect::Doubtful } else { Prospect::Good };
        self.cluster.budget.withdraw(prospect, now)
    }

    /// What comes of a verdict where another attempt has to be of use, and paid for.
    fn afford(&self, exchange: &Exchange, ended: &Ended) -> Verdict {
        let Verdict::Retry { .. } = ended.verdict else { return ended.verdict };
        let stop = |why| Verdict::Stop { why };
        if exchange.has_last_turn() {
            return stop(Veto::Outage);
        }
        let was_sent =
            ended.outcome.as_ref().err().is_none_or(|failure| failure.error.delivery != Delivery::Never);
        if was_sent && self.is_futile(ended.at) {
            return stop(Veto::Futile);
        }
        if self.refuses_retries() {
            return stop(Veto::Overloaded);
        }
        if self.may_retry(ended.at) { ended.verdict } else { stop(Veto::Budget) }
    }

    /// Whether all requests like this one have failed of late while others succeeded.
    fn is_futile(&self, now: Instant) -> bool {
        let now = self.shared.since_start(now);
        self.cluster.is_futile(&self.cluster.key(&self.subject()), self.shared.random(), now)
    }

    /// The outcome of an attempt whose head has come, or which has failed.
    fn take(&self, answer: Result<Arrived, UpstreamError>) -> Result<Arrived, Failure> {
        answer.and_then(|answer| self.accept(answer)).map_err(|error| Failure { error, limit: None })
    }

    /// Whether an outcome is one that the caller should get. Calls of gRPC, which fail in other ways, are POSTs.
    fn is_good(&self, outcome: &Result<Arrived, Failure>) -> bool {
        outcome.as_ref().is_ok_and(|answer| !self.policy().statuses.contains(answer.status()))
    }

    /// Whether others wait for their first attempt, so that there is none to spare for another one.
    fn refuses_retries(&self) -> bool {
        let refuses = self.cluster.admission.refuses_retries() && !self.cluster.line.is_in_force();
        if refuses {
            self.cluster.admission.count_refused_retry();
        }
        refuses
    }

    /// The head of the attempt of this number; that of the first is not copied.
    fn head_of(&self, number: u32) -> Rc<Parts> {
        let mut head = self.head.clone();
        if number > 1 {
            Rc::make_mut(&mut head).headers.insert(X_STENT_ATTEMPT, HeaderValue::from(number));
        }
        head
    }

    /// Turns a change to a protocol that was not asked for into the failure that it is: what follows it is no HTTP.
    fn accept(&self, answer: Arrived) -> Result<Arrived, UpstreamError> {
        let is_granted =
            || self.upgrade.as_ref().is_some_and(|asked| headers::grants(answer.headers(), asked));
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS && !is_granted() {
            return Err(UpstreamError::new(UpstreamErrorKind::Protocol, Delivery::Maybe));
        }
        Ok(answer)
    }
}

/// How long a caller may pause that has its answer already, as far as the backend is concerned.
const PAUSE: Duration = Duration::from_secs(1);

/// How long an attempt may wait for its caller, in all, before its place in flight is given back.
const MOMENT: Duration = Duration::from_millis(100);

/// How often the limits of an upload are looked at.
const UPLOAD_PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
