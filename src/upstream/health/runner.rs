//! Runs the checks of one cluster: one task, however many workers there are, and at most one check at an endpoint.

use std::sync::Arc;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{CheckFault, HealthCheck, check};
use crate::policy::health::{Checked, Ending, Verdict};
use crate::upstream::cluster::{CheckReport, Cluster};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::line::Turn;

/// Checks the endpoints of `cluster` until it is retired, if it is to be checked. Times count from `start`.
pub async fn run(cluster: Arc<Cluster>, start: Instant) {
    if let Some(settings) = cluster.settings.health_check.clone() {
        let settings = Arc::new(settings);
        Runner::new(cluster, settings, start, check).run().await;
    }
}

/// What checks an endpoint; a test's own in tests.
trait Checker: Fn(Arc<Endpoint>, Arc<HealthCheck>) -> Self::Check {
    type Check: Future<Output = Result<(), CheckFault>> + Send + 'static;
}

impl<C, F> Checker for C
where
    C: Fn(Arc<Endpoint>, Arc<HealthCheck>) -> F,
    F: Future<Output = Result<(), CheckFault>> + Send + 'static,
{
    type Check = F;
}

struct Runner<C> {
    cluster: Arc<Cluster>,
    settings: Arc<HealthCheck>,
    start: Instant,
    check: C,
    watched: Vec<Watched>,
    running: JoinSet<Result<(), CheckFault>>,
    random: fastrand::Rng,
    /// Counts knocks, so that each endpoint gets its turn.
    knocks: usize,
}

struct Watched {
    endpoint: Arc<Endpoint>,
    checked: Checked,
    /// When the next check is to begin.
    due: Instant,
    running: Option<Running>,
}

impl Watched {
    /// Whether nobody knocks here yet.
    fn may_knock(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.turn.is_none())
    }
}

struct Running {
    task: AbortHandle,
    begun: Instant,
    /// The right by which it knocks at a cluster that is down, if it does.
    turn: Option<Turn>,
}

impl<C: Checker> Runner<C> {
    fn new(cluster: Arc<Cluster>, settings: Arc<HealthCheck>, start: Instant, check: C) -> Self {
        Self {
            cluster,
            settings,
            start,
            check,
            watched: Vec::new(),
            running: JoinSet::new(),
            random: fastrand::Rng::new(),
            knocks: 0,
        }
    }

    async fn run(mut self) {
        let cluster = self.cluster.clone();
        while !cluster.is_retired() {
            let now = Instant::now();
            self.follow(now);
            for place in 0..self.watched.len() {
                if self.watched[place].running.is_none() && self.watched[place].due <= now {
                    self.begin(place, None, now);
                }
            }
            let idle = || self.watched.iter().filter(|watched| watched.running.is_none());
            let next = idle().map(|watched| watched.due).min();
            let may_knock = self.watched.iter().any(Watched::may_knock);
            tokio::select! {
                () = cluster.changed() => {}
                Some(ended) = self.running.join_next_with_id() => self.finish(ended),
                turn = cluster.line.knock(self.start), if may_knock => self.knock(turn),
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
            }
        }
    }

    /// Watches the endpoints that the cluster has now, and no others.
    fn follow(&mut self, now: Instant) {
        let endpoints = self.cluster.endpoints();
        self.watched.retain(|watched| {
            let is_kept = endpoints.iter().any(|endpoint| endpoint.id == watched.endpoint.id);
            if let (false, Some(running)) = (is_kept, &watched.running) {
                running.task.abort();
            }
            is_kept
        });
        for endpoint in endpoints.iter() {
            if !self.watched.iter().any(|watched| watched.endpoint.id == endpoint.id) {
                self.watched.push(Watched {
                    endpoint: endpoint.clone(),
                    checked: Checked::default(),
                    due: now + self.settings.rhythm.first_wait(self.random.f64()),
                    running: None,
                });
            }
        }
    }

    fn begin(&mut self, place: usize, turn: Option<Turn>, now: Instant) {
        let watched = &mut self.watched[place];
        let check = (self.check)(watched.endpoint.clone(), self.settings.clone());
        watched.due = now + self.settings.rhythm.wait(self.random.f64());
        watched.running = Some(Running { task: self.running.spawn(check), begun: now, turn });
    }

    /// Knocks at the next endpoint, also at those that checks keep out: it is how they come back soon. While one knock
    /// takes its time, the line gives out another turn.
    fn knock(&mut self, turn: Turn) {
        let may_knock = |place: &usize| self.watched[*place].may_knock();
        let free: Vec<usize> = (0..self.watched.len()).filter(may_knock).collect();
        self.knocks = self.knocks.wrapping_add(1);
        let Some(place) = free.get(self.knocks % free.len().max(1)) else { return };
        match &mut self.watched[*place].running {
            Some(running) => running.turn = Some(turn),
            None => self.begin(*place, Some(turn), Instant::now()),
        }
    }

    fn finish(&mut self, ended: Result<(Id, Result<(), CheckFault>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Some(result)),
            // Broken off, because its endpoint has gone.
            Err(error) => (error.id(), None),
        };
        let is_its = |watched: &&mut Watched| watched.running.as_ref().is_some_and(|run| run.task.id() == id);
        let Some(watched) = self.watched.iter_mut().find(is_its) else { return };
        let (Some(Running { begun, turn, .. }), Some(result)) = (watched.running.take(), result) else {
            return;
        };
        let Watched { endpoint, checked, .. } = watched;
        if let Err(CheckFault::Error { error }) = &result
            && !error.kind.blames_endpoint()
        {
            // The endpoint was not asked: a lack of descriptors is no verdict. Its turn, if it had one, goes to the next.
            endpoint.metrics.health.failed(error.kind).inc();
            return;
        }
        let before = checked.verdict();
        let ending = if result.is_ok() { Ending::Passed } else { Ending::Failed };
        let change = checked.note(ending, &self.settings.rhythm);
        count(endpoint, &result);
        if let Some(verdict) = change {
            endpoint.metrics.health.set_healthy(verdict == Verdict::Healthy);
            tell(&self.cluster, endpoint, before, &result);
        }
        let (random, pace) = (self.random.f64(), self.settings.pace);
        // Nothing is to be hoped for until it passes: all of the wait.
        let pause = |number| pace.wait(number, 0.0, random);
        let begun = begun.saturating_duration_since(self.start);
        let report = CheckReport { ending, verdict: checked.verdict(), begun, turn };
        self.cluster.report_check(endpoint, report, pause, self.start.elapsed());
    }
}

fn count(endpoint: &Endpoint, result: &Result<(), CheckFault>) {
    let metrics = &endpoint.metrics.health;
    match result {
        Ok(()) => metrics.passed().inc(),
        Err(CheckFault::Error { error }) => metrics.failed(error.kind).inc(),
        Err(CheckFault::Status { .. }) => metrics.refused().inc(),
    }
}

fn tell(cluster: &Cluster, endpoint: &Endpoint, before: Verdict, result: &Result<(), CheckFault>) {
    let (cluster, endpoint) = (&cluster.settings.name, &endpoint.label);
    match result {
        Err(reason) => tracing::warn!(%cluster, %endpoint, %reason, "endpoint fails its health checks"),
        Ok(()) if before == Verdict::Unhealthy => {
            tracing::info!(%cluster, %endpoint, "endpoint passes its health checks");
        }
        Ok(()) => tracing::debug!(%cluster, %endpoint, "endpoint passes its first health check"),
    }
}

#[cfg(test)]
mod tests;
