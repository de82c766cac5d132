//! The attempt loop: pick an endpoint, send, decide, wait, again.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use http::header::{HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::error::{Delivery, ErrorClass, ProxyError, UpstreamError, UpstreamErrorKind};
use crate::policy::deadline::{Limit, Successor, TimeLimits};
use crate::policy::grpc::GrpcStatus;
use crate::policy::hold::Arriving;
use crate::policy::retry::{
    BodyState, Circumstances, Outcome, Repeatable, RetryPolicy, Untried, Verdict, Veto, retry_after,
};
use crate::proxy::Surroundings;
use crate::proxy::admission::AdmissionLayer;
use crate::proxy::exchange::{Brought, Exchange};
use crate::proxy::headers::{self, X_STENT_ATTEMPT};
use crate::proxy::hold::{AnswerBody, Hold};
use crate::proxy::replay::AttemptBody;
use crate::route::Route;
use crate::upstream::admission::{Refusal, Slot};
use crate::upstream::balance::Pick;
use crate::upstream::body::UpstreamBody;
use crate::upstream::cluster::Cluster;
use crate::upstream::endpoint::{Endpoint, EndpointId};
use crate::upstream::pool::{Pools, Progress};

mod gate;
mod hedge;
mod line;
pub(super) mod rest;

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
pub(crate) struct Outbound<'a> {
    pub(crate) route: &'a Route,
    pub(crate) around: &'a Surroundings,
    pub(crate) head: &'a Rc<Parts>,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) repeatable: Repeatable,
    /// The protocol that the connection shall change to.
    pub(crate) upgrade: Option<HeaderValue>,
    pub(crate) limits: TimeLimits,
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
    outbound: &Outbound<'_>,
    transport: &T,
) -> Result<Concluded, ProxyError> {
    let mut timer = pin!(sleep_until(exchange.began()));
    let mut kept: Option<Answer> = None;
    let mut now = exchange.began();
    match outbound.aim {
        Aim::Answer => outbound.cluster.budget.deposit(outbound.around.since_start(now)),
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
        let ask = gate::ask(exchange, outbound, now);
        let layer = AdmissionLayer::new(&outbound.cluster.admission, ask);
        let mut admitted = layer.layer(service_fn(Making::<'_, T>::run));
        if let Err(refusal) = admitted.ready().await {
            return gate::refuse(exchange, kept, ask, refusal);
        }
        if admitted.has_waited() {
            now = Instant::now();
            exchange.leave_queue(now.duration_since(ask.now));
            if outbound.cluster.line.is_in_force() && !exchange.has_turn() {
                continue; // all of it went down meanwhile
            }
        }
        let Some(pick) = outbound.pick(exchange, now) else {
            return exhausted(kept).ok_or_else(|| no_endpoint(outbound.cluster));
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
        let (outcome, progress) = match admitted.call(making).await {
            Ok(made) => made,
            Err(refusal) => return gate::refuse(exchange, kept, ask, refusal),
        };
        now = Instant::now();
        progress.end(gate::told(outbound, &outcome), now);
        if let Err(failure) = &outcome
            && let Some(fault) = caller_fault(exchange, failure)
        {
            exchange.cancel_attempt(failure.error.delivery, now);
            return Err(fault);
        }
        exchange.finish_attempt(outcome.as_ref().map(brought).map_err(|failure| &failure.error), now);
        let mut verdict = decide(exchange, outbound, &outcome, now);
        if verdict == (Verdict::Stop { why: Veto::Body }) && exchange.body().state() == BodyState::Partial {
            // An answer ahead of the body. Boxed, because that is rare.
            now = Box::pin(hear_out(exchange, outbound)).await;
            verdict = decide(exchange, outbound, &outcome, now);
        }
        if let Verdict::Retry { .. } = verdict
            && outbound.refuses_retries()
        {
            verdict = Verdict::Stop { why: Veto::Overloaded };
        }
        match verdict {
            Verdict::Retry { after, reason } if outbound.may_retry(now) => {
                let after = line::instead_of(after, outbound, &outcome);
                exchange.retry(reason, after);
                // Boxed, so that a request that needs no retry carries no room for one.
                kept = Box::pin(wait_and_keep(outcome, after, now, timer.as_mut())).await.or(kept);
                now = Instant::now();
            }
            verdict => return conclude(exchange, verdict, outcome, kept, outbound.aim),
        }
    }
}

/// Why an attempt brought no answer.
struct Failure {
    error: UpstreamError,
    /// The limit that cut it off, if one did.
    limit: Option<Limit>,
}

/// How an attempt ended, and how far it came.
type Made = (Result<Answer, Failure>, Progress);

/// An attempt that is let through.
struct Making<'a, T> {
    exchange: &'a mut Exchange,
    outbound: &'a Outbound<'a>,
    transport: &'a T,
    endpoint: &'a Arc<Endpoint>,
    timer: Pin<&'a mut Sleep>,
    started: Instant,
}

impl<T: Transport> Making<'_, T> {
    /// Makes it, and gives back how far it came, with its place in flight.
    async fn run((making, slot): (Self, Option<Slot>)) -> Result<Made, Refusal> {
        let Self { exchange, outbound, transport, endpoint, timer, started } = making;
        let progress = Progress::with_slot(slot);
        let current = Current { endpoint, number: exchange.attempt_number(), started, progress: &progress };
        // The rest of an answer has a caller that waits for it alone.
        let outcome = if outbound.route.hedging.is_none() || outbound.aim != Aim::Answer {
            attempt(exchange, outbound, transport, current, timer).await
        } else {
            // Boxed, so that the requests of other routes carry no room for it.
            Box::pin(hedge::attempt(exchange, outbound, transport, current, timer)).await
        };
        Ok((outcome, progress))
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

/// One attempt: to the response head and, where the answer is held, to the end of the hold.
async fn attempt<T: Transport>(
    exchange: &Exchange,
    outbound: &Outbound<'_>,
    transport: &T,
    current: Current<'_>,
    mut timer: Pin<&mut Sleep>,
) -> Result<Answer, Failure> {
    let answer = send(exchange, outbound, transport, current, timer.as_mut()).await?;
    hold(exchange, outbound, answer, current.number, timer).await
}

/// Holds the answer to the attempt of this number, if it is one that is held.
async fn hold(
    exchange: &Exchange,
    outbound: &Outbound<'_>,
    answer: Arrived,
    number: u32,
    timer: Pin<&mut Sleep>,
) -> Result<Answer, Failure> {
    let is_rest = outbound.aim != Aim::Answer; // the caller waits for it already
    if answer.body().is_end_stream() || is_rest || !may_hold(exchange, outbound, &answer, number) {
        return Ok(answer.map(AnswerBody::Direct));
    }
    let hold = Hold {
        limits: outbound.policy().hold,
        deadline: outbound.limits.deadline_at(exchange.body().upload()),
        memory: exchange.memory(),
        metrics: exchange.metrics(),
    };
    hold.until_whole(answer, timer).await.map_err(|error| Failure { error, limit: None })
}

/// Lays a response head before the policy.
fn may_hold(exchange: &Exchange, outbound: &Outbound<'_>, answer: &Arrived, number: u32) -> bool {
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

/// Sends a request and waits for the response head, within the limits of an attempt.
async fn send<T: Transport>(
    exchange: &Exchange,
    outbound: &Outbound<'_>,
    transport: &T,
    current: Current<'_>,
    mut timer: Pin<&mut Sleep>,
) -> Result<Arrived, Failure> {
    let body = exchange.body();
    let Current { endpoint, number, started, progress } = current;
    let limits = &outbound.limits;
    let first = || {
        let successor = successor(outbound, number, body.state());
        limits.first(started.into_std(), body.upload(), successor)
    };
    let head = outbound.head(number);
    let mut answer = pin!(transport.send(endpoint, &head, body.attempt(), outbound.repeatable, progress));
    loop {
        let (at, _) = first();
        // While the body comes in, the limit moves with every part: it is enough to look again now and then.
        let is_uploading = limits.deadline_at(body.upload()).is_none();
        let look_again = if is_uploading { Instant::now() + UPLOAD_PERIOD } else { at.into() };
        timer.as_mut().reset(look_again.min(at.into()));
        tokio::select! {
            biased;
            answer = &mut answer => {
                return answer
                    .and_then(|answer| outbound.accept(answer))
                    .map_err(|error| Failure { error, limit: None });
            }
            () = body.ended(), if is_uploading => continue,
            () = timer.as_mut() => {}
        }
        let (at, limit) = first();
        if at <= Instant::now().into_std() {
            return Err(cut_off(limit, progress.delivery()));
        }
    }
}

/// An attempt that a limit ended.
fn cut_off(limit: Limit, delivery: Delivery) -> Failure {
    let kind = match delivery {
        Delivery::Never => UpstreamErrorKind::ConnectTimeout,
        Delivery::Maybe | Delivery::Answered => UpstreamErrorKind::HeadTimeout,
    };
    Failure { error: UpstreamError::new(kind, delivery), limit: Some(limit) }
}

/// Whether a timeout of this attempt could be followed by another attempt.
fn successor(outbound: &Outbound<'_>, number: u32, body: BodyState) -> Successor {
    let policy = outbound.policy();
    let possible = number < policy.max_attempts
        && outbound.repeatable == Repeatable::Always
        && body != BodyState::Lost
        && policy.errors.contains(ErrorClass::Timeout);
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
    outbound: &Outbound<'_>,
    outcome: &Result<Answer, Failure>,
    now: Instant,
) -> Verdict {
    let policy = outbound.policy();
    let outcome = match outcome {
        Ok(answer) if policy.statuses.contains(answer.status()) => {
            Outcome::Answered { status: answer.status(), retry_after: asked_wait(answer) }
        }
        Ok(answer) => match grpc_status(answer).filter(|status| policy.grpc_statuses.contains(*status)) {
            Some(status) => Outcome::Grpc { status, retry_after: asked_wait(answer) },
            None => return Verdict::Return, // the common case, spared the rest
        },
        Err(failure) => {
            Outcome::Failed { class: failure.error.kind.class(), delivery: failure.error.delivery }
        }
    };
    let has_untried = outbound.has_untried(exchange);
    policy.decide(
        outcome,
        &Circumstances {
            attempt: exchange.attempt_number(),
            repeatable: outbound.repeatable,
            body: exchange.body().state(),
            untried: if has_untried { Untried::Some } else { Untried::None },
            time_left: outbound.limits.left(exchange.body().upload(), now.into_std()),
            recent: outbound.cluster.recent(outbound.around.since_start(now)),
            random: outbound.around.random(),
        },
    )
}

/// Reads the rest of the request body, if it comes without a pause: only a whole copy can be sent again.
async fn hear_out(exchange: &Exchange, outbound: &Outbound<'_>) -> Instant {
    // A caller that does pause may be waiting for this very answer.
    let _ = timeout(outbound.limits.deadline, exchange.body().complete(PAUSE)).await;
    Instant::now()
}

fn brought(answer: &Answer) -> Brought {
    Brought { status: answer.status(), grpc: grpc_status(answer) }
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

/// Waits before the next attempt. Meanwhile a failed answer is read to its end, within bounds, so that its connection
/// can be used again, and kept, in case nothing better comes.
async fn wait_and_keep(
    outcome: Result<Answer, Failure>,
    after: Duration,
    now: Instant,
    mut timer: Pin<&mut Sleep>,
) -> Option<Answer> {
    let wait = async {
        if after >= TIMER_STEP {
            timer.as_mut().reset(now + after);
            timer.as_mut().await;
        } else if !after.is_zero() {
            yield_now().await; // a timer would take its time and cost more
        }
    };
    let keep = async {
        match outcome {
            Ok(answer) => keep(answer, now + DRAIN_TIME).await,
            Err(_) => None,
        }
    };
    tokio::join!(wait, keep).1
}

/// Reads an answer whole, if it is small and comes soon. Otherwise its connection is closed.
async fn keep(answer: Answer, until: Instant) -> Option<Answer> {
    let (head, mut body) = answer.into_parts();
    if body.size_hint().lower() > DRAIN_LIMIT as u64 {
        return None;
    }
    let mut bytes = BytesMut::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > DRAIN_LIMIT {
                    return false;
                }
                bytes.extend_from_slice(data);
            }
        }
        true
    };
    let is_whole = timeout_at(until, read).await == Ok(true);
    let kept = (!bytes.is_empty()).then(|| bytes.freeze());
    is_whole.then(|| Response::from_parts(head, UpstreamBody::Kept(kept).into()))
}

/// The end of the loop: the answer at hand, the best that came earlier, or an error.
fn conclude(
    exchange: &mut Exchange,
    verdict: Verdict,
    outcome: Result<Answer, Failure>,
    kept: Option<Answer>,
    aim: Aim,
) -> Result<Concluded, ProxyError> {
    let is_recovery = || aim == Aim::Answer && outcome.is_ok() && exchange.has_retried();
    match verdict {
        Verdict::Return if is_recovery() => exchange.recover(),
        Verdict::Return => {}
        Verdict::Retry { .. } => exchange.stop_retrying(Veto::Budget),
        Verdict::Stop { why } => exchange.stop_retrying(why),
    }
    let quality = if verdict == Verdict::Return { Quality::Good } else { Quality::Exhausted };
    match outcome {
        Ok(answer) => Ok(Concluded { answer, quality }),
        // A real answer tells the caller more than one that we invent.
        Err(failure) => exhausted(kept).ok_or(match failure.limit {
            Some(Limit::Deadline) => ProxyError::DeadlineExceeded,
            _ => ProxyError::Upstream(failure.error),
        }),
    }
}

fn exhausted(kept: Option<Answer>) -> Option<Concluded> {
    kept.map(|answer| Concluded { answer, quality: Quality::Exhausted })
}

fn no_endpoint(cluster: &Cluster) -> ProxyError {
    if cluster.endpoints().is_empty() {
        ProxyError::Upstream(UpstreamError::new(UpstreamErrorKind::Dns, Delivery::Never))
    } else {
        ProxyError::NoEndpoint
    }
}

impl Outbound<'_> {
    fn policy(&self) -> &RetryPolicy {
        &self.route.settings.retry
    }

    /// The endpoint for the next attempt.
    fn pick(&self, exchange: &Exchange, now: Instant) -> Option<Pick> {
        match self.aim {
            Aim::Rest { only: Some(endpoint) } => self.cluster.pick_only(endpoint),
            _ => self.around.pick(self.cluster, exchange.tried(), self.repeatable, now),
        }
    }

    /// Whether the next attempt may go where none has failed.
    fn has_untried(&self, exchange: &Exchange) -> bool {
        !matches!(self.aim, Aim::Rest { only: Some(_) }) && self.cluster.has_untried(exchange.tried())
    }

    /// Whether the budget allows another attempt. One that goes through the line costs it nothing: the line is bounded by
    /// itself.
    fn may_retry(&self, now: Instant) -> bool {
        self.cluster.line.is_in_force() || self.cluster.budget.withdraw(self.around.since_start(now))
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
    fn head(&self, number: u32) -> Rc<Parts> {
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

/// The most of a failed answer that is read, and kept.
const DRAIN_LIMIT: usize = 64 << 10;

/// What a timer can measure. A shorter wait is one turn of all that the worker has to do, its sockets included.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// How long a failed answer may take to end.
const DRAIN_TIME: Duration = Duration::from_millis(50);

/// How long a caller may pause that has its answer already, as far as the backend is concerned.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the limits of an upload are looked at.
const UPLOAD_PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
