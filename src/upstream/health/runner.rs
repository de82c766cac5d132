//! Runs the checks of one cluster: one task, however many workers there are, and at most one check at an endpoint.

use std::sync::Arc;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{CheckFault, check};
use crate::policy::health::{Checked, Ending, Verdict};
use crate::record::metrics::CheckAnswer;
use crate::upstream::cluster::Cluster;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::settings::HealthCheck;

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
}

struct Watched {
    endpoint: Arc<Endpoint>,
    checked: Checked,
    /// When the next check is to begin.
    due: Instant,
    running: Option<AbortHandle>,
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
        }
    }

    async fn run(mut self) {
        let cluster = self.cluster.clone();
        while !cluster.is_retired() {
            let now = Instant::now();
            self.follow(now);
            for place in 0..self.watched.len() {
                if self.watched[place].running.is_none() && self.watched[place].due <= now {
                    self.begin(place, now);
                }
            }
            let idle = || self.watched.iter().filter(|watched| watched.running.is_none());
            let next = idle().map(|watched| watched.due).min();
            tokio::select! {
                () = cluster.changed() => {}
                Some(ended) = self.running.join_next_with_id() => self.finish(ended),
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
                running.abort();
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

    fn begin(&mut self, place: usize, now: Instant) {
        let watched = &mut self.watched[place];
        let check = (self.check)(watched.endpoint.clone(), self.settings.clone());
        watched.due = now + self.settings.rhythm.wait(self.random.f64());
        watched.running = Some(self.running.spawn(check));
    }

    fn finish(&mut self, ended: Result<(Id, Result<(), CheckFault>), JoinError>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Some(result)),
            // Broken off, because its endpoint has gone.
            Err(error) => (error.id(), None),
        };
        let is_its = |watched: &&mut Watched| watched.running.as_ref().is_some_and(|task| task.id() == id);
        let Some(watched) = self.watched.iter_mut().find(is_its) else { return };
        watched.running = None;
        // Nobody keeps the series of a retired endpoint up to date.
        let Some(result) = result.filter(|_| !watched.endpoint.standing.is_retired()) else { return };
        let Watched { endpoint, checked, .. } = watched;
        if let Err(CheckFault::Error { error }) = &result
            && !error.kind.blames_endpoint()
        {
            // The endpoint was not asked: a lack of descriptors is no verdict. Its turn, if it had one, goes to the next.
            endpoint.metrics.checks_failed(error.kind).inc();
            return;
        }
        let before = checked.verdict();
        let ending = if result.is_ok() { Ending::Passed } else { Ending::Failed };
        let change = checked.note(ending, &self.settings.rhythm);
        count(endpoint, &result);
        if let Some(verdict) = change {
            endpoint.metrics.set_healthy(Some(verdict == Verdict::Healthy));
            tell(&self.cluster, endpoint, before, &result);
        }
        self.cluster.report_check(endpoint, ending, checked.verdict(), self.start.elapsed());
    }
}

fn count(endpoint: &Endpoint, result: &Result<(), CheckFault>) {
    match result {
        Ok(()) => endpoint.metrics.checks_answered(CheckAnswer::Ok).inc(),
        Err(CheckFault::Error { error }) => endpoint.metrics.checks_failed(error.kind).inc(),
        Err(CheckFault::Status { .. }) => endpoint.metrics.checks_answered(CheckAnswer::Status).inc(),
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
