//! Worker threads: each owns a runtime, its pools of upstream connections and the connections it was handed. A request
//! never moves to another thread.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use crate::descriptors::{Relief, ReliefRequests};
use crate::downstream::acceptor::{Accepted, Serve};
use crate::downstream::connection::serve;
use crate::downstream::eviction::{Roster, Scope, Standing};
use crate::proxy::pieces::{FirmMemory, ReplayMemory};
use crate::proxy::{Proxy, Shared, Site};
use crate::record::log::LogSender;
use crate::record::metrics::RouteMetrics;
use crate::upstream::pool::Pools;
use crate::worker::heartbeat::Heartbeats;

pub mod heartbeat;

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
    pub answer_memory: Arc<FirmMemory>,
    /// The moment that budgets and health count from.
    pub start: Instant,
    /// Set when what still runs is given up.
    pub is_stopping: Arc<AtomicBool>,
    /// Where each worker tells that it turns.
    pub heartbeats: Arc<Heartbeats>,
    /// Whom to ask for a descriptor.
    pub relief: Relief,
}

/// The process's workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Worker>,
    is_stopping: Arc<AtomicBool>,
    heartbeats: Arc<Heartbeats>,
    /// Nothing is ever sent: that all threads have ended shows in the loss of their halves.
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct Worker {
    /// Unbounded, but never longer than the listeners' `max_connections`, which count what is in it, and one eviction for
    /// each listener and for [`relieve`].
    orders: UnboundedSender<Order>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// What a worker is told to do.
#[derive(Debug)]
enum Order {
    Serve(Accepted),
    /// To close a connection that carries nothing, and say whether it did.
    Evict(Scope, Standing, oneshot::Sender<bool>),
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: usize, parts: &WorkerParts) -> io::Result<Self> {
        let (alive, ended) = sync_channel(1);
        let workers = (0..count).map(|number| Worker::start(number, parts.clone(), alive.clone()));
        Ok(Self {
            threads: workers.collect::<io::Result<_>>()?,
            is_stopping: parts.is_stopping.clone(),
            heartbeats: parts.heartbeats.clone(),
            ended: Mutex::new(ended),
        })
    }

    /// Hands a connection to the worker that has the fewest open ones, and to one that is stuck only if all are.
    ///
    /// Hashing, as `SO_REUSEPORT` does it, leaves workers uneven when a load balancer keeps few long-lived connections.
    pub fn assign(&self, accepted: Accepted) {
        let workers = self.threads.iter().enumerate();
        let least = workers.min_by_key(|(number, worker)| {
            (self.heartbeats.is_stuck(*number), worker.open.load(Ordering::Relaxed))
        });
        if let Some((_, worker)) = least {
            worker.open.fetch_add(1, Ordering::Relaxed);
            // It fails only after the worker has stopped: then the connection is closed, as it should be.
            let _ = worker.orders.send(Order::Serve(accepted));
        }
    }

    /// Tells a worker to close a connection of this standing; those with the most connections come first. None if there is
    /// no such worker.
    fn order_eviction(
        &self,
        place: usize,
        scope: Scope,
        standing: Standing,
    ) -> Option<oneshot::Receiver<bool>> {
        let mut workers: Vec<_> = self.threads.iter().collect();
        workers.sort_by_key(|worker| Reverse(worker.open.load(Ordering::Relaxed)));
        let (answer, answered) = oneshot::channel();
        // It fails only after the worker has stopped: then the answer fails too.
        let _ = workers.get(place)?.orders.send(Order::Evict(scope, standing, answer));
        Some(answered)
    }

    /// Ends the workers and whatever they still do, within 5 s. A worker that is stuck for longer is left to itself.
    pub fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let (orders, threads): (Vec<_>, Vec<_>) =
            self.threads.into_iter().map(|worker| (worker.orders, worker.thread)).unzip();
        drop(orders);
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        let have_ended = ended.recv_timeout(STOP_TIME) == Err(RecvTimeoutError::Disconnected);
        for (number, thread) in threads.into_iter().enumerate() {
            if !have_ended && !thread.is_finished() {
                tracing::error!(worker = number, "the worker did not stop");
            } else if thread.join().is_err() {
                tracing::error!(worker = number, "the worker's thread panicked");
            }
        }
    }
}

impl Worker {
    /// Starts a thread that keeps `alive` to its end.
    fn start(number: usize, parts: WorkerParts, alive: SyncSender<()>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (orders, ordered) = mpsc::unbounded_channel();
        let open = Arc::new(AtomicUsize::new(0));
        let serving = open.clone();
        let thread = std::thread::Builder::new().name(format!("stent-worker-{number}")).spawn(move || {
            let _alive = alive;
            let heartbeats = parts.heartbeats.clone();
            turn(&runtime, &heartbeats, number, work(parts, ordered, serving));
        })?;
        Ok(Self { orders, open, thread })
    }
}

/// Runs a worker to its end, and counts the turns of its event loop meanwhile.
pub(crate) fn turn(
    runtime: &Runtime,
    heartbeats: &Arc<Heartbeats>,
    number: usize,
    work: impl Future<Output = ()>,
) {
    LocalSet::new().block_on(runtime, async {
        let beating = heartbeats.clone();
        tokio::task::spawn_local(async move { beating.beat(number).await });
        work.await;
        heartbeats.end(number);
    });
}

/// The workers as a listener sees them.
#[derive(Debug)]
pub struct Dispatcher(Arc<Workers>);

impl Dispatcher {
    /// Dispatches to `workers`.
    pub fn new(workers: Arc<Workers>) -> Self {
        Self(workers)
    }
}

impl Serve for Dispatcher {
    fn serve(&self, accepted: Accepted) {
        self.0.assign(accepted);
    }

    fn evict(&self, scope: Scope) -> impl Future<Output = bool> + Send {
        evict(Arc::downgrade(&self.0), scope)
    }
}

/// Closes idle connections of callers for workers that lack a descriptor to reach their backend, until the workers stop.
pub async fn relieve(workers: Weak<Workers>, mut requests: ReliefRequests) {
    while let Some(answer) = requests.next().await {
        if evict(workers.clone(), Scope::Process).await {
            // Whoever asked may have given up.
            let _ = answer.send(());
        }
    }
}

/// Closes the connection in `scope` that costs least, whichever worker has it; false if there is none. It holds up no stop:
/// the workers are borrowed only to be told.
async fn evict(workers: Weak<Workers>, scope: Scope) -> bool {
    for standing in Standing::ALL {
        for place in 0.. {
            let order = workers.upgrade().and_then(|workers| workers.order_eviction(place, scope, standing));
            let Some(answered) = order else { break };
            // A worker that is kept busy for so long is not waited for.
            if matches!(timeout(EVICTION_TIME, answered).await, Ok(Ok(true))) {
                return true;
            }
        }
    }
    false
}

/// How long a worker may take to find a connection that leaves.
const EVICTION_TIME: Duration = Duration::from_millis(100);

/// Serves connections until no more can come. Those that are open then are dropped with the runtime.
async fn work(parts: WorkerParts, mut orders: UnboundedReceiver<Order>, open: Arc<AtomicUsize>) {
    let shared = Rc::new(Shared {
        log: parts.log,
        unmatched: parts.unmatched,
        replay_memory: parts.replay_memory,
        answer_memory: parts.answer_memory,
        start: parts.start,
        is_stopping: parts.is_stopping,
        random: fastrand::Rng::new().into(),
    });
    let proxy = Rc::new(Proxy::new(parts.site, Pools::with_relief(parts.relief), shared));
    let roster = Rc::new(Roster::default());
    while let Some(order) = orders.recv().await {
        let roster = roster.clone();
        match order {
            Order::Serve(connection) => {
                let proxy = proxy.clone();
                let open = Open(open.clone());
                tokio::task::spawn_local(async move {
                    let _open = open;
                    let refused = |client, status| proxy.refuse(client, status);
                    serve(connection, &roster, proxy.clone().service(), refused).await;
                });
            }
            Order::Evict(scope, standing, answer) => {
                tokio::task::spawn_local(async move {
                    // The listener may have found room meanwhile.
                    let _ = answer.send(roster.evict(scope, standing).await);
                });
            }
        }
    }
}

/// Counts a connection of a worker, down to a panic.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long the workers may take to end.
const STOP_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::net::TcpStream;

    use super::*;
    use crate::downstream::acceptor::Listener;
    use crate::downstream::settings::ListenerSettings;
    use crate::record::metrics::Metrics;
    use crate::route::RouteTable;

    fn parts(metrics: &Metrics) -> WorkerParts {
        WorkerParts {
            site: Arc::new(ArcSwap::from_pointee(Site { routes: RouteTable::new([]) })),
            log: LogSender::off(),
            unmatched: Arc::new(metrics.route("none")),
            replay_memory: Arc::new(ReplayMemory::new(0, metrics.replay_overflow.clone())),
            answer_memory: Arc::new(FirmMemory::new(0)),
            start: Instant::now(),
            is_stopping: Arc::default(),
            heartbeats: Arc::new(Heartbeats::new(2)),
            relief: Relief::none(),
        }
    }

    fn open(workers: &Workers) -> Vec<usize> {
        workers.threads.iter().map(|worker| worker.open.load(Ordering::Relaxed)).collect()
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

    #[test]
    fn a_connection_goes_past_a_worker_that_is_stuck() {
        let metrics = Metrics::new();
        let parts = parts(&metrics);
        let workers = Arc::new(Workers::start(2, &parts).unwrap());
        // Faster than a worker turns, so that the first seems to stand still; the second is taken for well.
        parts.heartbeats.end(1);
        while !parts.heartbeats.is_stuck(0) {
            parts.heartbeats.look();
        }
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (listener, socket) =
                Listener::bind(ListenerSettings::for_tests(), None, metrics.listener("test")).unwrap();
            let to = workers.clone();
            let accepting = tokio::spawn(listener.accept(socket, move |accepted| to.assign(accepted)));
            let mut callers = Vec::new();
            for _ in 0..4 {
                callers.push(TcpStream::connect(listener.address()).await.unwrap());
            }
            until(|| open(&workers) == [0, 4]).await;
            listener.drain();
            accepting.await.unwrap();
        });
        Arc::into_inner(workers).unwrap().stop();
    }
}
