//! A whole proxy between a caller and a backend that are both made of bytes, for one run of a fuzzer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

use crate::app::parts::Parts;
use crate::config;
use crate::downstream::acceptor::{Accepted, Listener};
use crate::downstream::connection::serve;
use crate::downstream::eviction::Roster;
use crate::fuzzing::strict::{self, text};
use crate::proxy::body::Inbound;
use crate::proxy::pieces::{FirmMemory, ReplayMemory};
use crate::proxy::{Proxy, Shared, Site};
use crate::record::log::LogSender;
use crate::record::metrics::Metrics;
use crate::upstream::pool::Pools;

/// Whatever a caller sends: no request reaches the backend that is not well-formed, and each only once.
pub fn request_head(bytes: &[u8]) {
    STAGE.with(|stage| {
        let run = stage.run(bytes, Script::Answer);
        check_requests(&run);
        // What follows the preface of HTTP/2 is answered in frames.
        if !bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\n") {
            check_answers(&run);
        }
    });
}

/// Whatever frames a caller sends over HTTP/2: the same, and it gets whole frames.
pub fn http2_frames(bytes: &[u8]) {
    let bytes = [PREFACE, NO_SETTINGS, bytes].concat();
    STAGE.with(|stage| {
        let run = stage.run(&bytes, Script::Answer);
        check_requests(&run);
        let mut rest = &run.answers[..];
        while let Some((head, after)) = rest.split_at_checked(9) {
            rest = after
                .get(frame_length(head)..)
                .unwrap_or_else(|| panic!("half a frame: {}", text(&run.answers)));
        }
        assert!(rest.is_empty(), "half the head of a frame: {}", text(&run.answers));
    });
}

/// Whatever stands where a PROXY header must: nothing reaches the backend behind anything else.
pub fn proxy_header(bytes: &[u8]) {
    let bytes = [bytes, b"GET /q HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    BALANCED_STAGE.with(|stage| {
        let run = stage.run(&bytes, Script::Answer);
        let has_header = bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n");
        assert!(has_header || run.asked.is_empty() && run.answers.is_empty(), "no header: {}", text(&bytes));
        check_requests(&run);
        check_answers(&run);
    });
}

/// Whatever a backend answers: the caller gets one well-formed answer, and nothing after it. The first byte chooses the
/// question, the others are the answer.
pub fn response_head(bytes: &[u8]) {
    let Some((question, answer)) = split_question(bytes) else { return };
    STAGE.with(|stage| {
        let run = stage.run(question.as_bytes(), Script::Play(answer.into()));
        check_requests(&run);
        check_answer(&run);
    });
}

/// Whatever frames a backend answers with over HTTP/2: the same.
pub fn response_frames(bytes: &[u8]) {
    let Some((question, frames)) = split_question(bytes) else { return };
    MULTIPLEXED_STAGE.with(|stage| {
        check_answer(&stage.run(question.as_bytes(), Script::PlayFrames(frames.into())));
    });
}

/// The question that the first byte chooses, and the other bytes.
fn split_question(bytes: &[u8]) -> Option<(&'static str, &[u8])> {
    let (choice, answer) = bytes.split_first()?;
    Some((QUESTIONS[usize::from(*choice) % QUESTIONS.len()], answer))
}

const QUESTIONS: [&str; 6] = [
    "GET /q HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HEAD /q HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /q HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTE: trailers\r\n\r\nhello",
    "GET /q HTTP/1.0\r\nHost: a\r\n\r\n",
    "GET /q HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
];

/// Each request that reached the backend was asked for by one exchange.
fn check_requests(run: &Run) {
    let mut asked = run.asked.clone();
    for stream in &run.received {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let read =
                strict::request(rest).unwrap_or_else(|why| panic!("the backend got {why}: {}", text(stream)));
            let Some(request) = read else {
                panic!("the backend got half a head: {}", text(stream));
            };
            let is_meant = |(method, target): &(String, String)| {
                request.first_line == format!("{method} {target} HTTP/1.1").as_bytes()
            };
            let at = asked.iter().position(is_meant);
            let at = at.unwrap_or_else(|| panic!("nobody asked for this: {}", text(stream)));
            asked.swap_remove(at);
            let asks_to_switch = request.asks_to_switch();
            for name in ["connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings"] {
                let may_pass = asks_to_switch && matches!(name, "connection" | "upgrade");
                assert!(may_pass || request.all(name).is_empty(), "{name} went through: {}", text(stream));
            }
            let Some(length) = request.length else { break };
            rest = &rest[length..];
        }
    }
}

/// The caller got well-formed answers, no more than it asked for; gives their number.
fn check_answers(run: &Run) -> usize {
    let mut answers = 0;
    let mut rest = &run.answers[..];
    while !rest.is_empty() {
        let method = run.asked.get(answers).map_or("GET", |(method, _)| method);
        let read = strict::response(rest, method);
        let read = read.unwrap_or_else(|why| panic!("the caller got {why}: {}", text(&run.answers)));
        let answer = read.unwrap_or_else(|| panic!("the caller got half a head: {}", text(&run.answers)));
        answers += usize::from(answer.is_final());
        if answer.status() == Some(101) {
            assert!(run.asks_to_switch(), "nobody asked for a tunnel: {}", text(&run.answers));
            break; // what follows is what the tunnel carries
        }
        let Some(length) = answer.length else { break };
        rest = &rest[length..];
    }
    // One more, where a head was refused before it became a request.
    assert!(answers <= run.asked.len() + 1, "{answers} answers to {:?}: {}", run.asked, text(&run.answers));
    answers
}

/// The caller asked once, and got one well-formed answer at most.
fn check_answer(run: &Run) {
    let answers = check_answers(run);
    assert!(answers <= 1, "one request, {answers} answers: {}", text(&run.answers));
}

/// What the backend does with a connection.
#[derive(Clone)]
enum Script {
    /// Answers each request with 200.
    Answer,
    /// Answers with these bytes, and closes.
    Play(Arc<[u8]>),
    /// Speaks HTTP/2, answers the first request with these frames, and closes.
    PlayFrames(Arc<[u8]>),
}

/// What a run left behind.
struct Run {
    /// Method and target of each request that entered the proxy.
    asked: Vec<(String, String)>,
    /// What the caller got.
    answers: Vec<u8>,
    /// What came over each of the backend's connections.
    received: Vec<Vec<u8>>,
}

impl Run {
    /// Whether the backend was asked to make a connection a tunnel.
    fn asks_to_switch(&self) -> bool {
        let mut first = self.received.iter().filter_map(|stream| strict::request(stream).ok()?);
        first.any(|request| request.asks_to_switch())
    }
}

thread_local! {
    static STAGE: Stage = Stage::new(CONFIG).expect("loopback works");
    static BALANCED_STAGE: Stage =
        Stage::new(&CONFIG.replace("trusted_proxies", "proxy_protocol = \"required\"\ntrusted_proxies"))
            .expect("loopback works");
    static MULTIPLEXED_STAGE: Stage =
        Stage::new(&CONFIG.replace("endpoints =", "protocol = \"h2\"\nendpoints =")).expect("loopback works");
}

/// What runs have in common.
struct Stage {
    runtime: Runtime,
    site: Arc<ArcSwap<Site>>,
    metrics: Arc<Metrics>,
    listener: Listener,
    accepted: RefCell<UnboundedReceiver<Accepted>>,
    backend: Arc<TcpListener>,
}

impl Stage {
    fn new(config: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let _entered = runtime.enter();
        let backend = std::net::TcpListener::bind("127.0.0.1:0")?;
        backend.set_nonblocking(true)?;
        let backend = Arc::new(TcpListener::from_std(backend)?);
        let text = config.replace("BACKEND", &backend.local_addr()?.to_string());
        let config = config::parse(&text, "fuzz.toml").expect("the configuration is good");
        let metrics = Arc::new(Metrics::new());
        let site = Parts::build(&config, &[], &metrics).site;
        let (listener, socket) = Listener::bind(config.listeners[0].clone(), None, metrics.listener("fuzz"))?;
        let (pass_on, accepted) = unbounded_channel();
        runtime.spawn(listener.accept(socket, move |connection| {
            // It fails only when the stage is gone.
            let _ = pass_on.send(connection);
        }));
        Ok(Self {
            site: Arc::new(ArcSwap::from_pointee(site)),
            metrics,
            listener,
            accepted: RefCell::new(accepted),
            backend,
            runtime,
        })
    }

    /// Plays one connection of a caller from its first byte to its end.
    fn run(&self, bytes: &[u8], script: Script) -> Run {
        let received = Streams::default();
        let accepting = self.runtime.spawn(accept(self.backend.clone(), script, received.clone()));
        let local = LocalSet::new();
        let (asked, answers) = self.runtime.block_on(local.run_until(self.converse(bytes, &received)));
        // With it go the proxy and its connections to the backend, so that the backend has seen everything.
        drop(local);
        self.runtime.block_on(async {
            settle(|| 0).await;
            accepting.abort();
            let _ = accepting.await;
        });
        let received = std::mem::take(&mut *received.lock().unwrap_or_else(PoisonError::into_inner));
        Run { asked, answers, received }
    }

    /// What a caller does who sends `bytes` and listens: what entered the proxy, and what came back.
    async fn converse(&self, bytes: &[u8], received: &Streams) -> (Vec<(String, String)>, Vec<u8>) {
        let caller = TcpStream::connect(self.listener.address()).await.expect("the listener accepts");
        let accepted = poll_fn(|cx| self.accepted.borrow_mut().poll_recv(cx)).await;
        let accepted = accepted.expect("the acceptor lives as long as the stage");
        let proxy = Rc::new(Proxy::new(self.site.clone(), Pools::new(), self.shared()));
        let asked = Rc::new(RefCell::new(Vec::new()));
        let service = {
            let (asked, inner) = (asked.clone(), proxy.clone().service());
            tower::service_fn(move |request: Request<Inbound>| {
                let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
                asked.borrow_mut().push((request.method().to_string(), target.to_owned()));
                inner.clone().oneshot(request)
            })
        };
        let serving = tokio::task::spawn_local(async move {
            serve(accepted, &Roster::default(), service, |client, status| proxy.refuse(client, status)).await;
        });
        let (mut hear, mut say) = caller.into_split();
        let answers = Rc::new(RefCell::new(Vec::new()));
        let heard = answers.clone();
        let hearing = tokio::task::spawn_local(async move {
            let mut piece = [0; 4096];
            // A reset ends it as an end does.
            while let Ok(length @ 1..) = hear.read(&mut piece).await {
                heard.borrow_mut().extend_from_slice(&piece[..length]);
            }
        });
        let all = async {
            // A caller that is cut off while it speaks is no fault.
            let _ = say.write_all(bytes).await;
            // hyper gives up what runs when its caller stops sending, so the caller waits for what will come.
            settle(|| asked.borrow().len() + answers.borrow().len() + length(received)).await;
            let _ = say.shutdown().await;
            serving.await.expect("a connection ends without a panic");
            let _ = hearing.await;
        };
        timeout(MAX_RUN, all).await.expect("a conversation ends");
        (asked.take(), answers.take())
    }

    fn shared(&self) -> Rc<Shared> {
        Rc::new(Shared {
            log: LogSender::off(),
            unmatched: Arc::new(self.metrics.route("none")),
            replay_memory: Arc::new(ReplayMemory::new(1 << 20, self.metrics.replay_overflow.clone())),
            answer_memory: Arc::new(FirmMemory::new(1 << 20)),
            start: Instant::now(),
            is_stopping: Arc::default(),
            random: fastrand::Rng::with_seed(1).into(),
        })
    }
}

/// What came over each connection.
type Streams = Arc<Mutex<Vec<Vec<u8>>>>;

fn length(streams: &Streams) -> usize {
    streams.lock().unwrap_or_else(PoisonError::into_inner).iter().map(Vec::len).sum()
}

/// Waits until nothing moves any more. All ends are on this thread and on loopback, so a turn of the runtime moves
/// whatever can move.
async fn settle(progress: impl Fn() -> usize) {
    let (mut seen, mut quiet) = (progress(), 0);
    while quiet < QUIET_TURNS {
        tokio::task::yield_now().await;
        let now = progress();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
}

async fn accept(listener: Arc<TcpListener>, script: Script, received: Streams) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let mut streams = received.lock().unwrap_or_else(PoisonError::into_inner);
        streams.push(Vec::new());
        let (script, received, index) = (script.clone(), received.clone(), streams.len() - 1);
        connections.spawn(async move {
            match script {
                Script::Answer => answer(stream, None, received, index).await,
                Script::Play(bytes) => answer(stream, Some(bytes), received, index).await,
                Script::PlayFrames(frames) => play_frames(stream, &frames, received, index).await,
            }
        });
    }
}

/// Keeps what comes over a connection, and answers what it can read: with 200, or with `play` and an end.
async fn answer(mut stream: TcpStream, play: Option<Arc<[u8]>>, received: Streams, index: usize) {
    let mut piece = [0; 4096];
    let mut done = 0;
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        let mut replies = Vec::new();
        {
            let mut streams = received.lock().unwrap_or_else(PoisonError::into_inner);
            streams[index].extend_from_slice(&piece[..length]);
            while let Ok(Some(request)) = strict::request(&streams[index][done..]) {
                let Some(length) = request.length else { break };
                done += length;
                replies.push(if request.first_line.starts_with(b"HEAD ") { "" } else { "ok" });
            }
        }
        for body in replies {
            let sent = match &play {
                None => {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await
                }
                Some(bytes) => match stream.write_all(bytes).await {
                    Ok(()) => stream.shutdown().await,
                    failed => failed,
                },
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// Keeps what comes over a connection of HTTP/2, and plays `frames` once the head of a request has come.
async fn play_frames(mut stream: TcpStream, frames: &[u8], received: Streams, index: usize) {
    let mut piece = [0; 4096];
    let mut is_played = false;
    // Whoever does not take what is sent has gone, as the next look tells.
    let _ = stream.write_all(NO_SETTINGS).await;
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        let may_play = {
            let mut streams = received.lock().unwrap_or_else(PoisonError::into_inner);
            streams[index].extend_from_slice(&piece[..length]);
            !is_played && has_head(&streams[index])
        };
        if may_play {
            is_played = true;
            let _ = stream.write_all(frames).await;
            let _ = stream.shutdown().await;
        }
    }
}

/// Whether a frame of the kind HEADERS begins behind the preface.
fn has_head(stream: &[u8]) -> bool {
    let mut rest = stream.get(PREFACE.len()..).unwrap_or_default();
    while let Some((head, after)) = rest.split_at_checked(9) {
        if head[3] == 1 {
            return true;
        }
        rest = after.get(frame_length(head)..).unwrap_or_default();
    }
    false
}

/// How many bytes follow the head of a frame (RFC 9113 section 4.1).
fn frame_length(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty frame of the kind SETTINGS, with which either side begins.
const NO_SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

const CONFIG: &str = r#"
[admin]
address = "127.0.0.1:1"
[[listener]]
address = "127.0.0.1:0"
trusted_proxies = ["127.0.0.0/8"]
[cluster.recorder]
endpoints = ["http://BACKEND"]
[cluster.recorder.retry]
max_attempts = 1
[[route]]
name = "all"
path = "/*"
cluster = "recorder"
"#;

/// A run that takes longer hangs.
const MAX_RUN: Duration = Duration::from_secs(10);

/// After so many turns of the runtime without a byte, nothing will come.
const QUIET_TURNS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes: &str, script: Script) -> Run {
        STAGE.with(|stage| stage.run(bytes.as_bytes(), script))
    }

    #[test]
    fn what_a_caller_sends_reaches_the_backend_and_its_answer_the_caller() {
        let run =
            run("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: a\r\n\r\n", Script::Answer);
        assert_eq!(run.asked.len(), 2);
        assert_eq!(run.received.concat().windows(4).filter(|end| end == b"\r\n\r\n").count(), 2);
        check_requests(&run);
        assert_eq!(check_answers(&run), 2);
    }

    #[test]
    fn what_a_backend_answers_in_frames_reaches_the_caller() {
        // `:status: 200` of HPACK's static table, and data.
        let frames = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x05\0\x01\0\0\0\x01hello";
        let question = QUESTIONS[0].as_bytes();
        let run = MULTIPLEXED_STAGE.with(|stage| stage.run(question, Script::PlayFrames(frames[..].into())));
        assert_eq!(check_answers(&run), 1);
        assert!(run.answers.windows(5).any(|window| window == b"hello"), "{}", text(&run.answers));
    }

    #[test]
    fn a_tunnel_carries_what_the_backend_says_to_a_caller_who_asked_for_it() {
        let granted =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nno HTTP";
        let run = run(QUESTIONS[5], Script::Play(granted[..].into()));
        check_requests(&run);
        assert_eq!(check_answers(&run), 1);
        assert!(run.answers.ends_with(b"\r\n\r\nno HTTP"), "{}", text(&run.answers));
    }

    #[test]
    #[should_panic(expected = "nobody asked for a tunnel")]
    fn a_tunnel_that_nobody_asked_for_is_noticed() {
        let mut run = run(QUESTIONS[0], Script::Answer);
        run.answers = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        check_answers(&run);
    }

    #[test]
    #[should_panic(expected = "connection went through")]
    fn a_tunnel_asked_for_beside_a_body_is_noticed() {
        let mut run = run(QUESTIONS[5], Script::Answer);
        run.received = vec![QUESTIONS[5].replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi").into_bytes()];
        check_requests(&run);
    }

    #[test]
    #[should_panic(expected = "nobody asked for this")]
    fn a_request_that_nobody_asked_for_is_noticed() {
        let mut run = run("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", Script::Answer);
        run.received.push(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
        check_requests(&run);
    }

    #[test]
    #[should_panic(expected = "ambiguous framing")]
    fn an_answer_of_two_lengths_is_noticed() {
        let mut run = run("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n", Script::Answer);
        run.answers = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok".to_vec();
        check_answers(&run);
    }
}
