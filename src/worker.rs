//! Worker threads: each owns a runtime, its pools of upstream connections and the connections it was handed. A request
//! never moves to another thread.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::downstream::acceptor::Accepted;
use crate::downstream::connection::serve;
use crate::proxy::hold::AnswerMemory;
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
    /// The account of answers that are held.
    pub answer_memory: Arc<AnswerMemory>,
    /// The moment that budgets and health count from.
    pub start: Instant,
    /// Set when what still runs is given up.
    pub is_stopping: Arc<AtomicBool>,
}

/// The process's workers.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    is_stopping: Arc<AtomicBool>,
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
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, is_stopping: parts.is_stopping.clone() })
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
        self.is_stopping.store(true, Ordering::Relaxed);
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
        answer_memory: parts.answer_memory,
        start: parts.start,
        is_stopping: parts.is_stopping,
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::net::TcpStream;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::downstream::acceptor::{Listener, ListenerSettings};
    use crate::record::metrics::Metrics;
    use crate::route::RouteTable;

    fn parts(metrics: &Metrics) -> WorkerParts {
        WorkerParts {
            site: Arc::new(ArcSwap::from_pointee(Site { routes: RouteTable::new([]) })),
            log: LogSender::off(),
            unmatched: Arc::new(metrics.route("none")),
            replay_memory: Arc::new(ReplayMemory::new(0, metrics.replay_overflow.clone())),
            answer_memory: Arc::new(AnswerMemory::new(0)),
            start: Instant::now(),
            is_stopping: Arc::default(),
        }
    }

    fn open(workers: &Workers) -> Vec<usize> {
        workers.workers.iter().map(|worker| worker.open.load(Ordering::Relaxed)).collect()
    }

    async fn until(what: impl Fn() -> bool) {
        let begun = SystemTime::now();
        while !what() {
            assert!(begun.elapsed().unwrap() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_connection_goes_to_the_worker_that_has_the_fewest() {
        let metrics = Metrics::new();
        let workers = Arc::new(Workers::start(2, &parts(&metrics)).unwrap());
        let runtime: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (listener, socket) =
                Listener::bind(ListenerSettings::for_tests(), None, metrics.listener("test")).unwrap();
            let to = workers.clone();
            let accepting = tokio::spawn(listener.accept(socket, move |accepted| to.assign(accepted)));
            let mut callers = Vec::new();
            for _ in 0..4 {
                callers.push(TcpStream::connect(listener.address()).await.unwrap());
            }
            until(|| open(&workers) == [2, 2]).await;
            // The first and the third went to the same worker. When they leave, it gets the next two.
            drop(callers.remove(2));
            drop(callers.remove(0));
            until(|| open(&workers).iter().sum::<usize>() == 2).await;
            callers.push(TcpStream::connect(listener.address()).await.unwrap());
            callers.push(TcpStream::connect(listener.address()).await.unwrap());
            until(|| open(&workers) == [2, 2]).await;
            listener.drain();
            accepting.await.unwrap();
        });
        Arc::into_inner(workers).unwrap().stop();
    }
}
