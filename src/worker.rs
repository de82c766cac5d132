//! Worker threads: each owns a runtime, its pools of upstream connections and the connections it was handed. A request
//! never moves to another thread.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::downstream::acceptor::Accepted;
use crate::downstream::http::serve;
use crate::proxy::replay::ReplayMemory;
use crate::proxy::{Proxy, Site, Surroundings};
use crate::record::log::LogSender;
use crate::record::metrics::RouteMetrics;
use crate::upstream::pool::Pools;

/// What workers share.
#[derive(Clone, Debug)]
pub struct WorkerParts {
    /// The routes in force.
    pub site: Arc<ArcSwap<Site>>,
    /// The access log.
    pub log: LogSender,
    /// Counts exchanges that match no route.
    pub unmatched: Arc<RouteMetrics>,
    /// The account of kept request bodies.
    pub replay_memory: Arc<ReplayMemory>,
    /// The moment that budgets and health count from.
    pub start: Instant,
}

/// The process's workers.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    /// Unbounded, but never longer than the listeners' `max_connections`, which count what is in it.
    connections: UnboundedSender<Accepted>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: usize, parts: &WorkerParts) -> io::Result<Self> {
        let workers = (0..count).map(|number| Worker::start(number, parts.clone()));
        Ok(Self { workers: workers.collect::<io::Result<_>>()? })
    }

    /// Hands a connection to the worker that has the fewest open ones.
    ///
    /// Hashing, as `SO_REUSEPORT` does it, leaves workers uneven when a load balancer keeps few long-lived connections.
    pub fn assign(&self, accepted: Accepted) {
        let least = self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.open.fetch_add(1, Ordering::Relaxed);
            // It fails only after the worker has stopped: then the connection is closed, as it should be.
            let _ = worker.connections.send(accepted);
        }
    }

    /// Ends the workers and whatever they still do.
    pub fn stop(self) {
        let (connections, threads): (Vec<_>, Vec<_>) =
            self.workers.into_iter().map(|worker| (worker.connections, worker.thread)).unzip();
        drop(connections);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

impl Worker {
    fn start(number: usize, parts: WorkerParts) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (connections, accepted) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let serving = open.clone();
        let thread = std::thread::Builder::new().name(format!("stent-worker-{number}")).spawn(move || {
            LocalSet::new().block_on(&runtime, work(parts, accepted, serving));
        })?;
        Ok(Self { connections, open, thread })
    }
}

/// Serves connections until no more can come. Those that are open then are dropped with the runtime.
async fn work(parts: WorkerParts, mut accepted: UnboundedReceiver<Accepted>, open: Arc<AtomicUsize>) {
    let around = Rc::new(Surroundings {
        log: parts.log,
        unmatched: parts.unmatched,
        replay_memory: parts.replay_memory,
        start: parts.start,
        random: fastrand::Rng::new().into(),
    });
    let proxy = Rc::new(Proxy::new(parts.site, Pools::new(), around));
    while let Some(connection) = accepted.recv().await {
        let proxy = proxy.clone();
        let open = Open(open.clone());
        tokio::task::spawn_local(async move {
            let _open = open;
            let refused = |client, status| proxy.refuse(client, status);
            serve(connection, proxy.clone().service(), refused).await;
        });
    }
}

/// Counts a connection of a worker, down to a panic.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
