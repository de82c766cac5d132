//! The book of an exchange's attempts: those that were made, those that run, and the waits between them.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::Exchange;
use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::policy::expect::Kind;
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::HedgeEnd;
use crate::record::{AttemptRecord, AttemptResult, Role};
use crate::upstream::balance::Pick;
use crate::upstream::cluster::{Asked, Attempt, Cluster, Report};
use crate::upstream::endpoint::EndpointId;
use crate::upstream::outage_queue::HeldPermit;

/// The attempts of an exchange, and its waits for them.
#[derive(Debug)]
pub(crate) struct Book {
    /// Those that have ended, in the order of their starts.
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) tried: Vec<EndpointId>,
    running: Option<RunningAttempt>,
    /// Of two attempts that run side by side the younger.
    beside: Option<RunningAttempt>,
    /// Attempts that `max_attempts` does not count.
    forgiven: u32,
    /// What tells the exchange from others in what is learned of failures; none before its first.
    number: Option<u32>,
    /// The endpoints that answered with a failure, each with its surprise, until it turns out that none is to blame.
    blamed: Vec<(Pick, f64)>,
    /// When the last attempt ended.
    last_attempt: Option<Instant>,
    /// By what right the next or the running attempt is made, while the cluster is down.
    pub(super) permit: Option<HeldPermit>,
    /// Whether that is the one plain attempt after a wait in vain.
    is_last_permit: bool,
    /// How long the exchange has waited in the outage queue, if it ever did.
    pub(super) outage_wait: Option<Duration>,
    /// How long it has waited because the cluster had all that it carries, if it ever did.
    pub(super) admission_wait: Option<Duration>,
    /// Where the last answer came from.
    pub(super) answered_by: Option<EndpointId>,
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

impl Book {
    pub(super) fn new() -> Self {
        Self {
            // Most exchanges make one.
            attempts: Vec::with_capacity(1),
            tried: Vec::new(),
            running: None,
            beside: None,
            forgiven: 0,
            number: None,
            blamed: Vec::new(),
            last_attempt: None,
            permit: None,
            is_last_permit: false,
            outage_wait: None,
            admission_wait: None,
            answered_by: None,
        }
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

    /// How long it has waited in the outage queue.
    pub(crate) fn outage_wait(&self) -> Duration {
        self.outage_wait.unwrap_or_default()
    }

    /// Notes a wait in the outage queue, and the permit that it may have ended with.
    pub(crate) fn leave_outage_queue(&mut self, permit: Option<HeldPermit>, waited: Duration) {
        self.is_last_permit = permit.as_ref().is_some_and(HeldPermit::is_last);
        self.permit = permit;
        self.outage_wait = Some(self.outage_wait().saturating_add(waited));
    }

    /// Whether it has a permit at a cluster that is down or recovers.
    pub(crate) fn has_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether its permit is the one plain attempt after a wait in vain.
    pub(crate) fn has_last_permit(&self) -> bool {
        self.is_last_permit
    }

    /// Notes a wait for a cluster that had all that it carries.
    pub(crate) fn leave_queue(&mut self, waited: Duration) {
        self.admission_wait = Some(self.admission_wait.unwrap_or_default().saturating_add(waited));
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

    /// Where the last answer came from.
    pub(crate) fn answered_by(&self) -> Option<EndpointId> {
        self.answered_by
    }
}

impl Exchange {
    /// What tells it from other exchanges in what is learned of failures.
    pub(crate) fn number(&mut self) -> u32 {
        let random = &self.shared.random;
        *self.book.number.get_or_insert_with(|| random.borrow_mut().u32(..))
    }

    /// Ends the attempt of this number, if it runs: endpoint health, metrics, attempt record.
    pub(crate) fn finish_attempt(
        &mut self,
        number: u32,
        outcome: Result<ResponseHead, &UpstreamError>,
        subject: &dyn Asked,
        now: Instant,
    ) {
        let Some(attempt) = self.book.take_running(number) else { return };
        let metrics = &attempt.pick.endpoint.metrics;
        let cluster = self.cluster().cloned();
        self.book.answered_by = outcome.is_ok().then_some(attempt.pick.endpoint.id);
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
            self.book.tried.push(attempt.pick.endpoint.id);
        }
        if let Some(cluster) = cluster {
            let now = self.shared.since_start(now);
            let permit = if attempt.role == Role::Turn { self.book.permit.take() } else { None };
            let exchange = if matches!(report, Report::Failure(_)) { self.number() } else { 0 };
            let began = now.saturating_sub(took);
            let (pick, is_retry) = (&attempt.pick, attempt.number > 1 && attempt.role == Role::Turn);
            self.tell(&cluster, Attempt { pick, report, permit, subject, exchange, is_retry, began }, now);
        }
    }

    /// Tells the cluster how an attempt went that ended `now`.
    fn tell(&mut self, cluster: &Cluster, attempt: Attempt<'_>, now: Duration) {
        let Attempt { pick, report, .. } = attempt;
        let pause = |number| match &self.route {
            // Nothing is to be hoped for until it is answered: all of the wait.
            Some(route) => route.settings.retry.backoff.wait(number, 0.0, self.shared.random()),
            None => Duration::ZERO,
        };
        let surprise = cluster.report(attempt, pause, now);
        if report == Report::Failure(Kind::Answered) {
            self.book.blame(cluster, pick.clone(), surprise);
        }
    }

    /// Ends what runs without a verdict on any endpoint: the caller left, or broke its own body.
    pub(crate) fn cancel_attempts(&mut self, delivery: Delivery, now: Instant) {
        self.book.permit = None;
        if self.book.running.is_none() {
            return; // nearly always
        }
        while let Some(attempt) = self.book.running.take().or_else(|| self.book.beside.take()) {
            if attempt.role == Role::Hedge {
                self.metrics.hedges(HedgeEnd::Left).inc();
            }
            self.cancel(&attempt, delivery, now);
        }
    }

    /// Ends the attempt of this number, if it runs, in the same way: another has answered.
    pub(crate) fn cancel_attempt(&mut self, number: u32, now: Instant) {
        let Some(attempt) = self.book.take_running(number) else { return };
        if attempt.role == Role::Turn {
            self.book.permit = None;
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
        self.book.last_attempt = Some(now);
        let duration = now.duration_since(attempt.started);
        let started = attempt.started.duration_since(self.clock.began);
        // Of two that ran side by side the first may end last.
        let place = self.book.attempts.partition_point(|earlier| earlier.started <= started);
        // What passed before the request body had gone out is the caller's time.
        let began = self.body.handed_over().map_or(attempt.started, |at| at.max(attempt.started));
        let backend_time = now.duration_since(began);
        attempt.pick.endpoint.cluster_metrics.attempt_duration.observe(backend_time.as_secs_f64());
        let endpoint = attempt.pick.endpoint.label.clone();
        self.book.attempts.insert(
            place,
            AttemptRecord { endpoint, role: attempt.role, result, delivery, started, duration },
        );
        duration
    }
}

/// As many attempts as stand in a record.
const MAX_ATTEMPTS: u32 = 16;
