//! The control thread: it holds the listeners, takes new configurations, and leads the process to its end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::admin::{self, Admin, AdminState, Liveness, Readiness};
use crate::app::parts::{self, Parts};
use crate::app::tls::{self, Prepared};
use crate::app::{Command, StartError};
use crate::config::Config;
use crate::descriptors::Relief;
use crate::downstream::acceptor::Listener;
use crate::proxy::pieces::{FirmMemory, ReplayMemory};
use crate::record::log::{self, AccessLogOutput, LogWriter};
use crate::record::metrics::Metrics;
use crate::upstream::cluster::Cluster;
use crate::upstream::health;
use crate::upstream::resolve::Resolver;
use crate::worker::heartbeat::Heartbeats;
use crate::worker::{self, Dispatcher, WorkerParts, Workers};

/// Everything that runs, as the control thread holds it.
#[derive(Debug)]
pub(super) struct Control {
    config: Config,
    metrics: Arc<Metrics>,
    clusters: Arc<ArcSwap<Vec<Arc<Cluster>>>>,
    worker_parts: WorkerParts,
    workers: Arc<Workers>,
    /// With the address that the configuration gives each, which differs from its own where the port is 0.
    listeners: Vec<(SocketAddr, Listener)>,
    /// Listeners that are no longer in the configuration and whose connections have not all ended.
    leaving: Vec<Listener>,
    admin: Admin,
    log_writer: LogWriter,
    readiness: Arc<AtomicU8>,
}

impl Control {
    /// Starts all parts; the first that cannot be started ends it.
    pub(super) fn start(config: &Config, runtime: &Runtime) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let start = Instant::now();
        let replay_memory =
            Arc::new(ReplayMemory::new(config.server.replay_memory, metrics.replay_overflow.clone()));
        let answer_memory = Arc::new(FirmMemory::new(config.server.answer_memory));
        let (log, log_writer) = start_log(&config.access_log, &metrics)?;
        let Parts { clusters, site } = Parts::build(config, &[], &metrics);
        let clusters = Arc::new(ArcSwap::from_pointee(clusters));
        let heartbeats = Arc::new(Heartbeats::new(config.server.workers));
        let (relief, relief_requests) = Relief::channel();
        let worker_parts = WorkerParts {
            site: Arc::new(ArcSwap::from_pointee(site)),
            log,
            unmatched: Arc::new(metrics.route(UNMATCHED)),
            replay_memory: replay_memory.clone(),
            answer_memory: answer_memory.clone(),
            start,
            is_stopping: Arc::default(),
            heartbeats: heartbeats.clone(),
            relief,
        };
        let readiness = Arc::new(AtomicU8::new(STARTING));
        let state = AdminState {
            render: {
                let (metrics, clusters) = (metrics.clone(), clusters.clone());
                Arc::new(move || {
                    metrics.set_memory(replay_memory.used(), answer_memory.used());
                    parts::render(&metrics, &clusters, start.elapsed())
                })
            },
            ready: {
                let readiness = readiness.clone();
                Arc::new(move || describe(readiness.load(Ordering::Relaxed)))
            },
            alive: {
                let heartbeats = heartbeats.clone();
                Arc::new(move || liveness(&heartbeats))
            },
            turn: Arc::new(move || heartbeats.look()),
        };
        let admin = admin::start(config.admin, state)
            .map_err(|source| StartError::Admin { address: config.admin, source })?;
        tracing::info!(address = %admin.address(), "admin listening");
        let workers = Arc::new(Workers::start(config.server.workers, &worker_parts)?);
        runtime.spawn(worker::relieve(Arc::downgrade(&workers), relief_requests));
        let mut control = Self {
            config: config.clone(),
            metrics,
            clusters,
            worker_parts,
            workers,
            listeners: Vec::new(),
            leaving: Vec::new(),
            admin,
            log_writer,
            readiness,
        };
        runtime.block_on(control.open())?;
        Ok(control)
    }

    async fn open(&mut self) -> Result<(), StartError> {
        let prepared = tls::prepare(&self.config.listeners, &[], &self.metrics).await?;
        let bound = self.bind(prepared)?;
        let clusters = self.clusters.load_full();
        for (cluster, resolver) in resolve(&clusters, &self.config, &[]).await {
            self.change_endpoints(&cluster, resolver);
        }
        for cluster in self.clusters.load().iter() {
            self.start_checks(cluster);
        }
        self.accept(bound);
        self.readiness.store(READY, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn listener_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(_, listener)| listener.address()).collect()
    }

    pub(super) fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Obeys until the process shall end, then ends it.
    pub(super) fn run(mut self, runtime: Runtime, mut orders: UnboundedReceiver<Command>) {
        runtime.block_on(async {
            let mut end = None;
            while end.is_none() {
                end = match orders.recv().await {
                    Some(Command::Reload(config, answer)) => {
                        self.reload_unless_ended(*config, answer, &mut orders).await
                    }
                    Some(Command::Drain) => Some(End::Drain),
                    // Nobody holds the handle any more, or somebody is in a hurry.
                    Some(Command::StopNow) | None => Some(End::Now),
                };
            }
            if end == Some(End::Drain) {
                tokio::select! {
                    () = self.drain() => {}
                    () = told_to_stop(&mut orders) => self.stop_accepting().await,
                }
            }
        });
        // A look-up or a file that takes its time must not keep the process: its thread is left to itself.
        runtime.shutdown_background();
        self.close();
    }

    /// Takes new configurations, one after the other, or gives that up when the process shall end first.
    async fn reload_unless_ended(
        &mut self,
        config: Config,
        answer: oneshot::Sender<Result<(), StartError>>,
        orders: &mut UnboundedReceiver<Command>,
    ) -> Option<End> {
        let mut waiting = VecDeque::from([(config, answer)]);
        while let Some((config, answer)) = waiting.pop_front() {
            let prepared = {
                let mut preparing = pin!(self.prepare(config));
                loop {
                    tokio::select! {
                        prepared = preparing.as_mut() => break prepared,
                        order = orders.recv() => match order {
                            Some(Command::Reload(config, answer)) => waiting.push_back((*config, answer)),
                            Some(Command::Drain) => return Some(End::Drain),
                            Some(Command::StopNow) | None => return Some(End::Now),
                        },
                    }
                }
            };
            let result = prepared.map(|prepared| self.put_in_force(prepared));
            // The caller may have gone; the configuration is in force all the same.
            let _ = answer.send(result);
        }
        None
    }

    /// Makes the parts of a new configuration: whatever can fail or wait. Nothing of it is in force yet.
    async fn prepare(&self, config: Config) -> Result<Change, StartError> {
        let prepared = tls::prepare(&config.listeners, &self.listeners, &self.metrics).await?;
        let (added, changed): (Vec<_>, Vec<_>) = prepared.into_iter().partition(|prepared| {
            self.listeners.iter().all(|(address, _)| *address != prepared.settings.address)
        });
        let bound = match self.bind(added) {
            Ok(bound) => bound,
            Err(error) => {
                tls::abandon(&changed);
                return Err(error);
            }
        };
        let old = self.clusters.load_full();
        let parts = Parts::build(&config, &old, &self.metrics);
        let resolvers = resolve(&parts.clusters, &config, &old).await;
        // A name that is mistyped, or that no name server knows yet, takes no cluster down that works.
        let works =
            |name: &str| old.iter().any(|old| *old.settings.name == *name && !old.endpoints().is_empty());
        let lost = resolvers.iter().find(|(new, resolver)| resolver.is_empty() && works(&new.settings.name));
        if let Some((cluster, _)) = lost {
            tls::abandon(bound.iter().map(|bound| &bound.prepared).chain(&changed));
            return Err(StartError::Unresolved { cluster: cluster.settings.name.clone() });
        }
        Ok(Change { config, parts, resolvers, bound, changed })
    }

    /// Exchanges the old configuration for the new. It neither fails nor waits.
    fn put_in_force(&mut self, change: Change) {
        let Change { config, parts: Parts { clusters, site }, resolvers, bound, changed } = change;
        self.warn_of_fixed_settings(&config);
        let old = self.clusters.load_full();
        let gone: Vec<_> = old.iter().filter(|cluster| !is_among(cluster, &clusters)).cloned().collect();
        self.worker_parts.replay_memory.change_limit(config.server.replay_memory);
        self.worker_parts.answer_memory.change_limit(config.server.answer_memory);
        // No request meets a cluster that has no endpoints yet.
        let (kept, new): (Vec<_>, Vec<_>) =
            resolvers.into_iter().partition(|(cluster, _)| is_among(cluster, &old));
        for (cluster, resolver) in new {
            self.change_endpoints(&cluster, resolver);
        }
        self.worker_parts.site.store(Arc::new(site));
        self.clusters.store(Arc::new(clusters));
        for cluster in &gone {
            cluster.retire();
        }
        for (cluster, resolver) in kept {
            self.change_endpoints(&cluster, resolver);
        }
        // Only now, so that nothing that the old checks still say stands in the metrics of the new.
        for cluster in self.clusters.load().iter().filter(|cluster| !is_among(cluster, &old)) {
            self.start_checks(cluster);
        }

        self.accept(bound);
        let (kept, removed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.listeners)
            .into_iter()
            .partition(|(address, _)| config.listeners.iter().any(|settings| settings.address == *address));
        self.listeners = kept;
        for prepared in changed {
            let is_same = |(address, _): &&(SocketAddr, Listener)| *address == prepared.settings.address;
            if let Some((_, listener)) = self.listeners.iter().find(is_same) {
                prepared.put_in_force();
                listener.change_settings(prepared.settings, prepared.tls);
            }
        }
        self.leaving.retain(|listener| listener.open_connections() > 0);
        for (_, listener) in removed {
            tracing::info!(address = %listener.address(), "listener removed, draining");
            if let Some(tls) = listener.tls() {
                tls.metrics().retire(None);
            }
            listener.drain();
            self.leaving.push(listener);
        }
        self.log_writer.reopen();
        self.config = config;
    }

    /// Gives the cluster the endpoints of the configuration in force, and keeps them as their names resolve.
    fn change_endpoints(&self, cluster: &Arc<Cluster>, resolver: Resolver) {
        let start = self.worker_parts.start;
        resolver.put_in_force(cluster, start.elapsed());
        if resolver.is_needed() {
            tokio::spawn(resolver.run(Arc::downgrade(cluster), start));
        }
    }

    /// Checks the cluster's health, if it is to be checked, until it is retired or the process ends.
    fn start_checks(&self, cluster: &Arc<Cluster>) {
        tokio::spawn(health::run(cluster.clone(), self.worker_parts.start));
    }

    /// Says which changes take effect only with the next start.
    fn warn_of_fixed_settings(&self, config: &Config) {
        let (old, new) = (&self.config, config);
        for (key, is_changed) in [
            ("server.workers", old.server.workers != new.server.workers),
            ("admin.address", old.admin != new.admin),
            ("log", old.log != new.log),
            ("access_log.output", old.access_log != new.access_log),
        ] {
            if is_changed {
                tracing::warn!(key, "the change takes effect with the next start");
            }
        }
    }

    fn bind(&self, listeners: Vec<Prepared>) -> Result<Vec<Bound>, StartError> {
        let bind = |prepared: &Prepared| {
            let address = prepared.settings.address;
            let metrics = self.metrics.listener(&address.to_string());
            Listener::bind(prepared.settings.clone(), prepared.tls.clone(), metrics)
                .map_err(|source| StartError::Listener { address, source })
        };
        match listeners.iter().map(bind).collect::<Result<Vec<_>, _>>() {
            Ok(bound) => {
                let bound = listeners.into_iter().zip(bound);
                Ok(bound.map(|(prepared, (listener, socket))| Bound { prepared, listener, socket }).collect())
            }
            Err(error) => {
                tls::abandon(&listeners);
                Err(error)
            }
        }
    }

    fn accept(&mut self, bound: Vec<Bound>) {
        for Bound { prepared, listener, socket } in bound {
            tracing::info!(address = %listener.address(), "listening");
            prepared.put_in_force();
            tokio::spawn(listener.accept(socket, Dispatcher::new(self.workers.clone())));
            self.listeners.push((prepared.settings.address, listener));
        }
    }

    /// Not ready, then not accepting, then closed: a load balancer goes on sending for a while.
    async fn drain(&mut self) {
        self.readiness.store(DRAINING, Ordering::Relaxed);
        let server = self.config.server.clone();
        tracing::info!(accept_grace = ?server.accept_grace, finish_grace = ?server.finish_grace, "draining");
        sleep(server.accept_grace).await;
        for (_, listener) in &self.listeners {
            listener.drain();
        }
        let finished = async {
            while self.open_connections() > 0 {
                sleep(DRAIN_PERIOD).await;
            }
        };
        // At least one look, so that the accept loops get to close their sockets.
        sleep(DRAIN_PERIOD).await;
        if timeout(server.finish_grace, finished).await.is_err() {
            tracing::warn!(
                connections = self.open_connections(),
                "finish_grace is over, closing connections"
            );
        }
    }

    /// Gives up what runs, but lets the accept loops end, so that the workers can be told to as well.
    async fn stop_accepting(&self) {
        tracing::warn!("stopping at once");
        for (_, listener) in &self.listeners {
            listener.drain();
        }
        sleep(DRAIN_PERIOD).await;
    }

    fn open_connections(&self) -> usize {
        let current = self.listeners.iter().map(|(_, listener)| listener);
        current.chain(&self.leaving).map(Listener::open_connections).sum()
    }

    /// The last step: nothing is served any more, and the log is written out.
    fn close(self) {
        drop(self.listeners);
        // The accept loops hold the other handles, and ended with the runtime's last turn or end with the runtime.
        if let Some(workers) = Arc::into_inner(self.workers) {
            workers.stop();
        }
        drop(self.worker_parts);
        if let Err(error) = self.log_writer.close(LOG_TIME) {
            tracing::error!(%error, "the access log was not written out");
        }
        if let Err(error) = self.admin.stop() {
            tracing::error!(%error, "the admin listener did not stop");
        }
        tracing::info!("stopped");
    }
}

/// A configuration whose parts are made and not yet in force.
struct Change {
    config: Config,
    parts: Parts,
    /// Where the endpoints of clusters are that are new, or that have other endpoints than before.
    resolvers: Vec<(Arc<Cluster>, Resolver)>,
    bound: Vec<Bound>,
    /// What listeners that stay are to get.
    changed: Vec<Prepared>,
}

/// How the process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drain,
    Now,
}

/// A listener that does not accept yet.
struct Bound {
    prepared: Prepared,
    listener: Listener,
    socket: TcpListener,
}

fn is_among(cluster: &Arc<Cluster>, others: &[Arc<Cluster>]) -> bool {
    others.iter().any(|other| Arc::ptr_eq(cluster, other))
}

/// Resolves the names of all clusters at once that are not among the `old` ones, or whose endpoints `config` changes. The
/// bound on one look-up bounds them all. A name that does not resolve does not keep the rest from starting.
async fn resolve(
    clusters: &[Arc<Cluster>],
    config: &Config,
    old: &[Arc<Cluster>],
) -> Vec<(Arc<Cluster>, Resolver)> {
    let mut look_ups = JoinSet::new();
    for (cluster, settings) in clusters.iter().zip(&config.clusters) {
        if is_among(cluster, old) && *cluster.urls() == *settings.endpoints {
            continue;
        }
        let mut resolver = Resolver::new(settings.endpoints.clone().into(), old);
        let cluster = cluster.clone();
        look_ups.spawn(async move {
            resolver.look_up(&cluster).await;
            (cluster, resolver)
        });
    }
    look_ups.join_all().await
}

fn start_log(output: &AccessLogOutput, metrics: &Metrics) -> Result<(log::LogSender, LogWriter), StartError> {
    log::start(output, metrics).map_err(|source| match output {
        AccessLogOutput::File(path) => StartError::AccessLog { path: path.clone(), source },
        AccessLogOutput::Off | AccessLogOutput::Stdout => StartError::System(source),
    })
}

/// Waits for an order to stop at once; a second one to drain is such an order.
async fn told_to_stop(orders: &mut UnboundedReceiver<Command>) {
    while let Some(order) = orders.recv().await {
        match order {
            Command::Drain | Command::StopNow => return,
            // Too late for that; whoever asked is told so by the lost channel.
            Command::Reload(..) => {}
        }
    }
}

/// The answer of `/livez`.
fn liveness(heartbeats: &Heartbeats) -> Liveness {
    match heartbeats.stuck() {
        Some(number) => Liveness::Stuck(format!("worker {number} is stuck")),
        None => Liveness::Alive,
    }
}

fn describe(readiness: u8) -> Readiness {
    match readiness {
        READY => Readiness::Ready,
        DRAINING => Readiness::Unready("draining"),
        _ => Readiness::Unready("starting"),
    }
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// The route label of requests that match no route. The configuration does not let a route have it.
const UNMATCHED: &str = "none";

/// How often open connections are counted while draining.
const DRAIN_PERIOD: Duration = Duration::from_millis(20);

/// How long the access log may take to be written out.
const LOG_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
