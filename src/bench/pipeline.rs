//! A whole proxy on one thread between a caller and a backend that are both in memory.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::app::parts::Parts;
use crate::config;
use crate::downstream::acceptor::Listener;
use crate::downstream::connection::serve;
use crate::downstream::eviction::Roster;
use crate::memory;
use crate::proxy::pieces::{FirmMemory, ReplayMemory};
use crate::proxy::{Proxy, Shared};
use crate::record::Record;
use crate::record::log::in_place::InPlace;
use crate::record::metrics::Metrics;
use crate::upstream::pool::Pools;

/// What passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A GET, and an answer of 105 bytes.
    Small,
    /// A GET, and an answer of 64 KiB.
    Large,
    /// A PUT of 64 KiB, of which a copy is kept, and an answer of 105 bytes.
    Upload,
    /// A GET; of five first attempts at it one is answered with 502, and made again.
    Retried,
    /// A GET of a path of four segments, and an answer of 105 bytes, where something has failed before: so all is
    /// learned of every attempt.
    Watched,
}

impl Work {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Small, Self::Large, Self::Upload, Self::Retried, Self::Watched];

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Upload => "upload",
            Self::Retried => "retried",
            Self::Watched => "watched",
        }
    }

    fn request(self) -> Vec<u8> {
        let (method, body) = if self == Self::Upload { ("PUT", body(LARGE)) } else { ("GET", Vec::new()) };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {LARGE}\r\n") };
        let path = if self == Self::Watched { "/api/patients/7/notes" } else { "/api/screenings/7" };
        let head = format!(
            "{method} {path}?page=2 HTTP/1.1\r\nHost: hosp.example.org\r\nUser-Agent: bench/1.0\r\n\
            Accept: */*\r\nAccept-Encoding: gzip, br\r\n{length}\r\n"
        );
        [head.into_bytes(), body].concat()
    }

    fn answer(self) -> Vec<u8> {
        let body = body(if self == Self::Large { LARGE } else { SMALL });
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: hosp\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\n\
            Content-Length: {}\r\nConnection: keep-alive\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    }

    /// Whether `received` ends where a request does, as the proxy sends it.
    fn is_whole_request(self, received: &[u8]) -> bool {
        if self == Self::Upload { received.ends_with(END) } else { received.ends_with(b"\r\n\r\n") }
    }
}

/// A proxy, one caller's connection to it, and a backend. To be used within a `LocalSet`.
pub struct Pipeline {
    caller: DuplexStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    exchanges: u32,
    log: InPlace,
    /// Its connections drain when it is dropped.
    _listener: Listener,
}

impl Pipeline {
    /// Everything that is there before the first request.
    ///
    /// # Panics
    ///
    /// Where loopback does not work: a connection begins with a socket, which is then put aside.
    pub async fn new(work: Work) -> Self {
        let config = config::parse(CONFIG, "bench.toml").expect("the configuration is good");
        let metrics = Arc::new(Metrics::new());
        let (sender, log) = InPlace::new(&metrics).expect("there is a /dev/null");
        let shared = Shared {
            log: sender,
            unmatched: Arc::new(metrics.route("none")),
            replay_memory: Arc::new(ReplayMemory::new(256 << 20, metrics.replay_overflow.clone())),
            answer_memory: Arc::new(FirmMemory::new(256 << 20)),
            start: Instant::now(),
            is_stopping: Arc::default(),
            random: fastrand::Rng::with_seed(1).into(),
        };
        let site = Parts::build(&config, &[], &metrics).site;
        let proxy = Rc::new(Proxy::new(Arc::new(ArcSwap::from_pointee(site)), Pools::new(), Rc::new(shared)));
        let metrics = metrics.listener("bench");
        let bound = Listener::bind(config.listeners[0].clone(), None, metrics).expect("loopback works");
        let (listener, socket) = bound;
        let (pass_on, mut accepted) = unbounded_channel();
        spawn_local(listener.accept(socket, move |connection| {
            // It fails only when nobody waits for another.
            let _ = pass_on.send(connection);
        }));
        let _put_aside = TcpStream::connect(listener.address()).await.expect("the listener accepts");
        let accepted = accepted.recv().await.expect("the acceptor lives as long as the listener");
        // It listens before anybody dials: a refused connection would be learned from ever after.
        let connections = memory::listen();
        let caller = memory::call();
        spawn_local(async move {
            let refused = |client, status| proxy.refuse(client, status);
            serve(accepted, &Roster::default(), proxy.clone().service(), refused).await;
        });
        spawn_local(backend(work, connections));
        let answer = Vec::with_capacity(2 * LARGE);
        Self { caller, request: work.request(), answer, exchanges: 0, log, _listener: listener }
    }

    /// One request and its whole answer.
    ///
    /// # Panics
    ///
    /// If it is not a good one: then something else would be counted than was meant.
    pub async fn exchange(&mut self) {
        self.caller.write_all(&self.request).await.expect("the proxy reads");
        self.answer.clear();
        // No head ends like a body.
        while !self.answer.ends_with(END) {
            let count = self.caller.read_buf(&mut self.answer).await.expect("the proxy answers");
            assert!(count > 0, "the proxy closed the connection");
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200 "), "the proxy gave another answer");
        self.exchanges += 1;
        if self.exchanges.is_multiple_of(EXCHANGES_PER_DRAIN) {
            self.log.drain();
        }
    }

    /// The record of an exchange that is not yet in the log.
    pub fn record(&mut self) -> Option<Record> {
        self.log.next()
    }
}

/// Answers what comes over each connection that the proxy opens.
async fn backend(work: Work, mut connections: UnboundedReceiver<DuplexStream>) {
    let attempts = Rc::new(Cell::new(0_u32));
    while let Some(connection) = connections.recv().await {
        spawn_local(answer(connection, work, attempts.clone()));
    }
}

async fn answer(mut connection: DuplexStream, work: Work, attempts: Rc<Cell<u32>>) {
    let whole = work.answer();
    let mut received = Vec::with_capacity(2 * LARGE);
    while matches!(connection.read_buf(&mut received).await, Ok(1..)) {
        if !work.is_whole_request(&received) {
            continue;
        }
        received.clear();
        attempts.set(attempts.get() + 1);
        let fails = match work {
            // Five requests are six attempts.
            Work::Retried => attempts.get().is_multiple_of(6),
            Work::Watched => attempts.get() == 1,
            Work::Large | Work::Small | Work::Upload => false,
        };
        let sent = connection.write_all(if fails { FAILURE } else { &whole }).await;
        if sent.is_err() {
            return;
        }
    }
}

fn body(length: usize) -> Vec<u8> {
    let mut body = vec![b'x'; length];
    body[length - END.len()..].copy_from_slice(END);
    body
}

/// How bodies end, and nothing else does.
const END: &[u8] = b"!end";

const SMALL: usize = 105;
const LARGE: usize = 64 << 10;

/// An answer that is made good.
const FAILURE: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n!end";

/// The thread of the log looks every 10 ms. It is less than the queue holds, so that nobody waits for it.
const EXCHANGES_PER_DRAIN: u32 = 64;

/// What is measured elsewhere too: retry armed, the access log on. The backend's address is never dialled.
const CONFIG: &str = r#"
[admin]
address = "127.0.0.1:1"
[[listener]]
address = "127.0.0.1:0"
[cluster.memory]
endpoints = ["http://127.0.0.1:1"]
[cluster.memory.retry]
budget = { ratio = 1.0 }
[[route]]
name = "screening"
path = "/api/screenings/{id}"
cluster = "memory"
[[route]]
name = "everything"
path = "/*"
cluster = "memory"
"#;
