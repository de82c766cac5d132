//! One exchange from its request head to the end of its answer: its clock, its attempts and, at the end, its record.

use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode, Version};
use tokio::time::Instant;

use crate::error::{Delivery, Origin, ProxyError, UpstreamError, UpstreamErrorKind};
use crate::policy::expect::Kind;
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::HedgeEnd;
use crate::policy::resume::BreakEnd;
use crate::policy::retry::{Reason, Veto};
use crate::proxy::Shared;
use crate::proxy::hold::AnswerMemory;
use crate::proxy::replay::Replay;
use crate::record::metrics::RouteMetrics;
use crate::record::{AttemptRecord, AttemptResult, ExchangeOutcome, QueryPolicy, Record, Role, Target};
use crate::route::Route;
use crate::upstream::balance::Pick;
use crate::upstream::cluster::{Asked, Attempt, Cluster, Report};
use crate::upstream::endpoint::EndpointId;
use crate::upstream::line::Turn;

/// One request and its final answer.
///
/// Dropped before [`Exchange::finish`], it is on record as left by its caller.
#[derive(Debug)]
pub(crate) struct Exchange {
    shared: Rc<Shared>,
    began: Instant,
    at: SystemTime,
    pub(crate) id: Box<str>,
    client: IpAddr,
    client_subject: Option<Arc<str>>,
    protocol: Option<Version>,
    method: Method,
    target: Target,
    route: Option<Arc<Route>>,
    metrics: Arc<RouteMetrics>,
    attempts: Vec<AttemptRecord>,
    tried: Vec<EndpointId>,
    running: Option<RunningAttempt>,
    /// Of two attempts that run side by side the younger.
    beside: Option<RunningAttempt>,
    /// Attempts that `max_attempts` does not count.
    forgiven: u32,
    /// What tells it from other exchanges in what is learned of failures; none before its first.
    number: Option<u32>,
    /// The endpoints that answered with a failure, each with its surprise, until it turns out that none is to blame.
    blamed: Vec<(Pick, f64)>,
    /// When its last attempt ended.
    last_attempt: Option<Instant>,
    /// By what right the next or the running attempt is made, while the cluster is down.
    turn: Option<Turn>,
    /// Whether that is the one plain attempt after a wait in vain.
    is_last_turn: bool,
    /// How long it has waited in line, if it ever did.
    in_line: Option<Duration>,
    /// How long it has waited because the cluster had all that it carries, if it ever did.
    in_queue: Option<Duration>,
    head: Option<Head>,
    retry_stopped: Option<Veto>,
    /// Where the last answer came from.
    answered_by: Option<EndpointId>,
    is_recovered: bool,
    /// Whether the rest of an answer that broke is being asked for.
    is_resuming: bool,
    /// How often the rest came.
    resumed: u32,
    /// What became of the last break of an answer that flowed.
    broken: Option<BreakEnd>,
    body: Replay,
    /// What went through the tunnel, if there was one, towards the upstream.
    tunnelled_in: u64,
    bytes_out: u64,
    is_finished: bool,
}

/// What identifies a request in the record.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) id: Box<str>,
    pub(crate) client: IpAddr,
    pub(crate) client_subject: Option<Arc<str>>,
    pub(crate) protocol: Option<Version>,
    pub(crate) method: Method,
    pub(crate) target: Target,
}

#[derive(Debug)]
struct RunningAttempt {
    /// From 1.
    number: u32,
    pick: Pick,
    role: Role,
    started: Instant,
}

/// The response head that an attempt brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// How the call failed, if it is one of gRPC whose answer has no body.
    pub(crate) grpc: Option<GrpcStatus>,
}

/// The response head that the caller got.
#[derive(Debug)]
struct Head {
    status: StatusCode,
    origin: Origin,
    error: Option<&'static str>,
    maker: Maker,
    after: Duration,
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Proxy,
    Upstream,
}

impl Exchange {
    pub(crate) fn begin(shared: Rc<Shared>, identity: Identity, began: Instant) -> Box<Self> {
        let metrics = shared.unmatched.clone();
        metrics.in_flight.inc();
        let Identity { id, client, client_subject, protocol, method, target } = identity;
        Box::new(Self {
            shared,
            began,
            at: SystemTime::now(),
            id,
            client,
            client_subject,
            protocol,
            method,
            target,
            route: None,
            metrics,
            // Most exchanges make one.
            attempts: Vec::with_capacity(1),
            tried: Vec::new(),
            running: None,
            beside: None,
            forgiven: 0,
            number: None,
            blamed: Vec::new(),
            last_attempt: None,
            turn: None,
            is_last_turn: false,
            in_line: None,
            in_queue: None,
            head: None,
            retry_stopped: None,
            answered_by: None,
            is_recovered: false,
            is_resuming: false,
            resumed: 0,
            broken: None,
            body: Replay::none(began),
            tunnelled_in: 0,
            bytes_out: 0,
            is_finished: false,
        })
    }

    /// Notes the route, under whose label the exchange counts from here on.
    pub(crate) fn take_route(&mut self, route: &Arc<Route>) {
        self.metrics.in_flight.dec();
        self.metrics = route.metrics.clone();
        self.metrics.in_flight.inc();
        self.route = Some(route.clone());
    }

    /// The route, once there is one.
    pub(crate) fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.route.as_ref().and_then(|route| route.action.cluster())
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The number of attempts so far, those that run included.
    pub(crate) fn attempt_number(&self) -> u32 {
        let running = usize::from(self.running.is_some()) + usize::from(self.beside.is_some());
        u32::try_from(self.attempts.len() + running).unwrap_or(u32::MAX)
    }

    /// The same without those that `max_attempts` does not count.
    pub(crate) fn spent(&self) -> u32 {
        let number = self.attempt_number();
        // A record holds no more, so an exchange does not, whatever was forgiven.
        if self.forgiven > 0 && number >= MAX_ATTEMPTS {
            u32::MAX
        } else {
            number.saturating_sub(self.forgiven)
        }
    }

    /// Has `max_attempts` not count an attempt that sent nothing while the cluster was down.
    pub(crate) fn forgive_attempt(&mut self) {
        self.forgiven += 1;
    }

    /// What tells it from other exchanges in what is learned of failures.
    pub(crate) fn number(&mut self) -> u32 {
        let random = &self.shared.random;
        *self.number.get_or_insert_with(|| random.borrow_mut().u32(..))
    }

    /// When its last attempt ended, if it had one.
    pub(crate) fn last_attempt(&self) -> Option<Instant> {
        self.last_attempt
    }

    /// The endpoints of the attempts that run.
    pub(crate) fn running_at(&self) -> impl Iterator<Item = EndpointId> {
        self.running.iter().chain(&self.beside).map(|attempt| attempt.pick.endpoint.id)
    }

    /// The endpoints that have been tried.
    pub(crate) fn tried(&self) -> &[EndpointId] {
        &self.tried
    }

    /// How long it has waited in line.
    pub(crate) fn in_line(&self) -> Duration {
        self.in_line.unwrap_or_default()
    }

    /// Notes a wait in line, and the turn that it may have ended with.
    pub(crate) fn leave_line(&mut self, turn: Option<Turn>, waited: Duration) {
        self.is_last_turn = turn.as_ref().is_some_and(Turn::is_last);
        self.turn = turn;
        self.in_line = Some(self.in_line().saturating_add(waited));
    }

    /// Whether it has a turn at a cluster that is down or recovers.
    pub(crate) fn has_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether its turn is the one plain attempt after a wait in vain.
    pub(crate) fn has_last_turn(&self) -> bool {
        self.is_last_turn
    }

    /// Notes a wait for a cluster that had all that it carries.
    pub(crate) fn leave_queue(&mut self, waited: Duration) {
        self.in_queue = Some(self.in_queue.unwrap_or_default().saturating_add(waited));
    }

    /// Begins an attempt at the picked endpoint.
    pub(crate) fn start_attempt(&mut self, pick: Pick, now: Instant) {
        let number = self.attempt_number() + 1;
        self.running = Some(RunningAttempt { number, pick, role: Role::Turn, started: now });
    }

    /// Begins an attempt at the picked endpoint beside the one that runs.
    pub(crate) fn start_beside(&mut self, pick: Pick, now: Instant) {
        let number = self.attempt_number() + 1;
        self.beside = Some(RunningAttempt { number, pick, role: Role::Hedge, started: now });
    }

    /// Takes the attempt of this number out of those that run.
    fn take_running(&mut self, number: u32) -> Option<RunningAttempt> {
        if self.beside.is_none() {
            return self.running.take().filter(|attempt| attempt.number == number); // nearly always
        }
        let is_it = |attempt: &mut RunningAttempt| attempt.number == number;
        self.beside.take_if(is_it).or_else(|| {
            let taken = self.running.take_if(is_it)?;
            self.running = self.beside.take();
            Some(taken)
        })
    }

    /// Whether it has been hedged.
    pub(crate) fn is_hedged(&self) -> bool {
        let is_hedge = |attempt: &AttemptRecord| attempt.role == Role::Hedge;
        self.beside.is_some() || self.attempts.iter().any(is_hedge)
    }

    /// Whether more than one attempt came to an end of its own, so that all but the last of these have failed.
    pub(crate) fn has_retried(&self) -> bool {
        let mut ended = self.attempts.iter().filter(|attempt| attempt.result != AttemptResult::Cancelled);
        ended.nth(1).is_some()
    }

    /// Ends the attempt of this number, if it runs: endpoint health, metrics, attempt record.
    pub(crate) fn finish_attempt(
        &mut self,
        number: u32,
        outcome: Result<ResponseHead, &UpstreamError>,
        subject: &dyn Asked,
        now: Instant,
    ) {
        let Some(attempt) = self.take_running(number) else { return };
        let metrics = &attempt.pick.endpoint.metrics;
        let cluster = self.cluster().cloned();
        self.answered_by = outcome.is_ok().then_some(attempt.pick.endpoint.id);
        let (result, delivery, report) = match outcome {
            Ok(ResponseHead { status, grpc: Some(grpc) }) => {
                metrics.answered_grpc(grpc).inc();
                // The endpoint works: it is the call that failed.
                (AttemptResult::Grpc(status.as_u16(), grpc), Delivery::Answered, Report::Success)
            }
            Ok(ResponseHead { status, grpc: None }) => {
                metrics.answered(status).inc();
                let failed =
                    cluster.as_ref().is_some_and(|cluster| cluster.settings.failures.contains(status));
                let report = if failed { Report::Failure(Kind::Answered) } else { Report::Success };
                (AttemptResult::Status(status.as_u16()), Delivery::Answered, report)
            }
            Err(error) => {
                metrics.failed(error.kind).inc();
                let kind = match (error.delivery, error.kind) {
                    (Delivery::Never, _) => Kind::Refused,
                    (_, UpstreamErrorKind::HeadTimeout) => Kind::Late,
                    _ => Kind::Answered,
                };
                let report =
                    if error.kind.blames_endpoint() { Report::Failure(kind) } else { Report::Nothing };
                (AttemptResult::Error(error.kind.label()), error.delivery, report)
            }
        };
        let took = self.note_attempt(&attempt, result, delivery, now);
        if report != Report::Success || matches!(result, AttemptResult::Grpc(..)) {
            self.tried.push(attempt.pick.endpoint.id);
        }
        if let Some(cluster) = cluster {
            let now = self.shared.since_start(now);
            self.tell(&cluster, &attempt, report, subject, now.saturating_sub(took)..now);
        }
    }

    /// Tells the cluster how an attempt went that took this time.
    fn tell(
        &mut self,
        cluster: &Cluster,
        attempt: &RunningAttempt,
        report: Report,
        subject: &dyn Asked,
        time: Range<Duration>,
    ) {
        let turn = if attempt.role == Role::Turn { self.turn.take() } else { None };
        let exchange = if matches!(report, Report::Failure(_)) { self.number() } else { 0 };
        let pause = |number| match &self.route {
            // Nothing is to be hoped for until it is answered: all of the wait.
            Some(route) => route.settings.retry.backoff.wait(number, 0.0, self.shared.random()),
            None => Duration::ZERO,
        };
        let told = Attempt { pick: &attempt.pick, report, turn, subject, exchange, began: time.start };
        let surprise = cluster.report(told, pause, time.end);
        if report == Report::Failure(Kind::Answered) {
            self.blame(cluster, attempt.pick.clone(), surprise);
        }
    }

    /// Notes who answered with a failure. What two endpoints have failed with is no fault of either.
    fn blame(&mut self, cluster: &Cluster, pick: Pick, surprise: f64) {
        self.blamed.push((pick, surprise));
        let first = self.blamed[0].0.endpoint.id;
        if self.blamed.iter().any(|(pick, _)| pick.endpoint.id != first) {
            for (pick, surprise) in &mut self.blamed {
                // It stays, without its weight, so that a third endpoint is not blamed either.
                cluster.take_back(&pick.endpoint, std::mem::take(surprise));
            }
        }
    }

    /// Ends what runs without a verdict on any endpoint: the caller left, or broke its own body.
    pub(crate) fn cancel_attempts(&mut self, delivery: Delivery, now: Instant) {
        self.turn = None;
        if self.running.is_none() {
            return; // nearly always
        }
        while let Some(attempt) = self.running.take().or_else(|| self.beside.take()) {
            if attempt.role == Role::Hedge {
                self.metrics.hedges.ended(HedgeEnd::Left).inc();
            }
            self.cancel(&attempt, delivery, now);
        }
    }

    /// Ends the attempt of this number, if it runs, in the same way: another has answered.
    pub(crate) fn cancel_attempt(&mut self, number: u32, now: Instant) {
        let Some(attempt) = self.take_running(number) else { return };
        if attempt.role == Role::Turn {
            self.turn = None;
        }
        self.cancel(&attempt, Delivery::Maybe, now);
    }

    fn cancel(&mut self, attempt: &RunningAttempt, delivery: Delivery, now: Instant) {
        let endpoint = &attempt.pick.endpoint;
        endpoint.metrics.cancelled().inc();
        self.note_attempt(attempt, AttemptResult::Cancelled, delivery, now);
        if let Some(cluster) = self.cluster() {
            cluster.abandon(&attempt.pick, self.shared.since_start(now));
        }
    }

    /// Puts an attempt on record, and says how long it took.
    fn note_attempt(
        &mut self,
        attempt: &RunningAttempt,
        result: AttemptResult,
        delivery: Delivery,
        now: Instant,
    ) -> Duration {
        self.last_attempt = Some(now);
        let duration = now.duration_since(attempt.started);
        let started = attempt.started.duration_since(self.began);
        // Of two that ran side by side the first may end last.
        let place = self.attempts.partition_point(|earlier| earlier.started <= started);
        // What passed before the request body had gone out is the caller's time.
        let began = self.body.handed_over().map_or(attempt.started, |at| at.max(attempt.started));
        let backend_time = now.duration_since(began);
        attempt.pick.endpoint.cluster_metrics.attempt_duration.observe(backend_time.as_secs_f64());
        let endpoint = attempt.pick.endpoint.label.clone();
        self.attempts.insert(
            place,
            AttemptRecord { endpoint, role: attempt.role, result, delivery, started, duration },
        );
        duration
    }

    /// Notes that another attempt follows after `wait`.
    pub(crate) fn retry(&mut self, reason: Reason, wait: Duration) {
        self.metrics.retries(reason).inc();
        if let Some(cluster) = self.cluster() {
            cluster.metrics.retry_wait.observe(wait.as_secs_f64());
        }
    }

    /// Notes the rule that made a failure the answer.
    pub(crate) fn stop_retrying(&mut self, why: Veto) {
        self.metrics.stopped(why).inc();
        self.retry_stopped = Some(why);
    }

    /// Notes that the failed attempts have been made good.
    pub(crate) fn recover(&mut self) {
        if !std::mem::replace(&mut self.is_recovered, true) {
            self.metrics.recovered.inc();
        }
    }

    /// Where the last answer came from.
    pub(crate) fn answered_by(&self) -> Option<EndpointId> {
        self.answered_by
    }

    /// Notes that the rest of an answer that broke is asked for: elsewhere, if there is a choice.
    pub(crate) fn begin_resumption(&mut self) {
        self.is_resuming = true;
        self.tried.extend(self.answered_by);
    }

    /// Notes what became of an answer that broke while it flowed.
    pub(crate) fn end_break(&mut self, end: BreakEnd) {
        self.is_resuming = false;
        self.metrics.broken(end).inc();
        self.broken = Some(end);
        self.resumed += u32::from(end == BreakEnd::Resumed);
    }

    /// Takes charge of the request body.
    pub(crate) fn take_body(&mut self, body: Replay) {
        self.body = body;
    }

    pub(crate) fn body(&self) -> &Replay {
        &self.body
    }

    /// The process's account of answers that are held.
    pub(crate) fn answer_memory(&self) -> &Arc<AnswerMemory> {
        &self.shared.answer_memory
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }

    pub(crate) fn add_bytes_in(&mut self, bytes: u64) {
        self.tunnelled_in = self.tunnelled_in.saturating_add(bytes);
    }

    /// Bytes of the answer's body that have been passed on.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    pub(crate) fn add_bytes_out(&mut self, bytes: u64) {
        self.bytes_out = self.bytes_out.saturating_add(bytes);
    }

    /// Notes that the caller gets the upstream's answer.
    pub(crate) fn answer(&mut self, status: StatusCode, now: Instant) {
        let after = now.duration_since(self.began);
        self.body.forget(); // no attempt follows
        self.head =
            Some(Head { status, origin: Origin::Upstream, error: None, maker: Maker::Upstream, after });
    }

    /// Notes that the caller gets a reply of our own.
    pub(crate) fn reply(&mut self, error: &ProxyError, now: Instant) {
        let after = now.duration_since(self.began);
        let (status, origin) = (error.status(), error.origin());
        self.turn = None;
        self.body.forget();
        self.head = Some(Head { status, origin, error: Some(error.token()), maker: Maker::Proxy, after });
    }

    /// Notes that the caller is led elsewhere.
    pub(crate) fn redirect(&mut self, status: StatusCode, now: Instant) {
        let after = now.duration_since(self.began);
        self.head = Some(Head { status, origin: Origin::Proxy, error: None, maker: Maker::Proxy, after });
    }

    /// Notes that the codec has refused the request by itself.
    pub(crate) fn refuse(&mut self, status: StatusCode, now: Instant) {
        let after = now.duration_since(self.began);
        let error = Some("http_request_error");
        self.head = Some(Head { status, origin: Origin::Downstream, error, maker: Maker::Proxy, after });
    }

    fn is_tunnel(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.status == StatusCode::SWITCHING_PROTOCOLS)
    }

    /// How long nothing may pass through a tunnel.
    pub(crate) fn tunnel_idle_timeout(&self) -> Duration {
        self.route.as_ref().map_or(Duration::ZERO, |route| route.settings.tunnel_idle_timeout)
    }

    /// The counters of the route, or of the requests that have none.
    pub(crate) fn metrics(&self) -> &Arc<RouteMetrics> {
        &self.metrics
    }

    /// Ends the exchange: metrics and the record.
    pub(crate) fn finish(mut self: Box<Self>, outcome: ExchangeOutcome) {
        self.conclude(outcome);
    }

    fn conclude(&mut self, outcome: ExchangeOutcome) {
        self.is_finished = true;
        let now = Instant::now();
        let duration = now.duration_since(self.began);
        self.cancel_attempts(Delivery::Maybe, now);
        if self.is_resuming {
            self.end_break(BreakEnd::Client);
        }
        let is_broken = outcome == ExchangeOutcome::UpstreamTruncated;
        let is_stopped = self.broken == Some(BreakEnd::Failed) && self.retry_stopped.is_some();
        if is_broken && !is_stopped {
            self.stop_retrying(if self.is_tunnel() { Veto::Upgrade } else { Veto::Started });
        }
        let outcome = match (&self.head, outcome) {
            (Some(head), ExchangeOutcome::Ok) if head.maker == Maker::Proxy => ExchangeOutcome::Reply,
            (_, ExchangeOutcome::ClientAbort) if self.shared.is_stopping.load(Ordering::Relaxed) => {
                ExchangeOutcome::ProxyAbort
            }
            (_, outcome) => outcome,
        };
        if outcome == ExchangeOutcome::Ok && self.resumed > 0 {
            self.recover();
        }
        if outcome == ExchangeOutcome::ClientAbort {
            self.metrics.client_aborts.inc();
            let was_retrying = self.head.is_none() && !self.tried.is_empty();
            if was_retrying && self.retry_stopped.is_none() {
                self.stop_retrying(Veto::Client);
            }
        }
        let (status, origin) = match &self.head {
            Some(head) => (head.status.as_u16(), head.origin),
            None if outcome == ExchangeOutcome::ProxyAbort => {
                (ProxyError::ShuttingDown.status().as_u16(), ProxyError::ShuttingDown.origin())
            }
            None => (CLIENT_LEFT, Origin::Downstream),
        };
        self.metrics.requests(status, origin).inc();
        // A tunnel may be open for hours, which would say nothing about how long requests take.
        let timed = self.head.as_ref().filter(|_| self.is_tunnel()).map_or(duration, |head| head.after);
        self.metrics.duration.observe(timed.as_secs_f64());
        self.metrics.in_flight.dec();
        if self.shared.log.is_off() {
            return;
        }
        let error = self.head.as_ref().and_then(|head| head.error);
        self.shared.log.send(Record {
            at: self.at,
            id: std::mem::take(&mut self.id),
            client: self.client,
            client_subject: self.client_subject.take(),
            protocol: self.protocol,
            method: std::mem::take(&mut self.method),
            target: std::mem::take(&mut self.target),
            route: self.route.as_ref().map(|route| route.settings.name.clone()),
            cluster: self.cluster().map(|cluster| cluster.settings.name.clone()),
            query: self
                .route
                .as_ref()
                .map_or(QueryPolicy::Redacted, |route| route.settings.log_query.clone()),
            status,
            origin,
            outcome,
            error: if is_broken { Some("http_response_incomplete") } else { error },
            bytes_in: self.body.received().saturating_add(self.tunnelled_in),
            bytes_out: self.bytes_out,
            duration,
            time_to_head: self.head.as_ref().map(|head| head.after),
            in_line: self.in_line,
            in_queue: self.in_queue,
            attempts: std::mem::take(&mut self.attempts),
            retry_stopped: self.retry_stopped,
            resumed: self.resumed,
            broken: self.broken,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_finished {
            self.conclude(ExchangeOutcome::ClientAbort);
        }
    }
}

/// As many attempts as stand in a record.
const MAX_ATTEMPTS: u32 = 16;

/// The status on record where the caller left before a response head; NGINX's convention, which log tools know.
const CLIENT_LEFT: u16 = 499;
