//! Who closes for whom, and that a request which has come never meets the close.

use std::io::Write;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::*;
use crate::downstream::limits::{Event, Limits};
use crate::downstream::settings::{ListenerSettings, Phase};
use crate::downstream::stream::{Stream, Transport};

const SECOND: Duration = Duration::from_secs(1);

/// A listener's connections, each of which has only a state.
struct Stage {
    roster: Rc<Roster>,
    first: OpenConnection,
    /// The names of those that have left, in that order.
    left: Rc<RefCell<Vec<&'static str>>>,
}

impl Stage {
    fn new() -> Self {
        Self { roster: Rc::default(), first: OpenConnection::for_tests(), left: Rc::default() }
    }

    /// Adds a connection that leaves when it is asked to, as those of callers do.
    fn add(&self, name: &'static str, is_trusted: bool) -> Rc<State> {
        let state = Rc::new(State::new(Instant::now()));
        state.set_trusted(is_trusted);
        let counted = Rc::new(self.first.beside());
        let entry = self.roster.list(counted.clone(), state.clone());
        let (left, kept) = (self.left.clone(), state.clone());
        spawn_local(async move {
            let (_phase, phase) = watch::channel(Phase::Open);
            let settings = Arc::new(ListenerSettings::for_tests());
            let mut limits = Limits::new(state, settings, phase, Some(entry));
            loop {
                match limits.event().await {
                    Event::Evicted => break left.borrow_mut().push(name),
                    Event::OutOfTime => break,
                    Event::Draining | Event::Resting => {}
                }
            }
            drop(counted);
        });
        kept
    }

    async fn evict(&self) -> bool {
        for standing in Standing::ALL {
            if self.roster.evict(Scope::Listener(self.first.listener()), standing).await {
                return true;
            }
        }
        false
    }

    /// Evicts as many as can be, and tells which they were.
    async fn evict_all(&self) -> Vec<&'static str> {
        while self.evict().await {}
        self.left.take()
    }
}

#[tokio::test(start_paused = true)]
async fn the_silent_close_first_then_strangers_then_trusted_proxies_each_the_longest_idle_first() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            drop(stage.add("trusted", true).begin_exchange());
            sleep(SECOND).await;
            drop(stage.add("idle", false).begin_exchange());
            stage.add("silent", false);
            stage.add("silent too", true);
            sleep(SECOND).await;
            drop(stage.add("idle later", false).begin_exchange());
            stage.add("silent later", false);
            sleep(8 * SECOND).await;
            let expected = ["silent", "silent too", "silent later", "idle", "idle later", "trusted"];
            assert_eq!(stage.evict_all().await, expected);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_stays_for_a_second_and_a_trusted_proxys_for_five() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            stage.add("silent", false);
            stage.add("silent proxy", true);
            drop(stage.add("idle", false).begin_exchange());
            drop(stage.add("idle proxy", true).begin_exchange());
            sleep(Duration::from_millis(999)).await;
            assert!(stage.evict_all().await.is_empty());
            sleep(SECOND).await;
            assert_eq!(stage.evict_all().await, ["silent", "idle"]);
            sleep(2 * SECOND).await;
            assert!(stage.evict_all().await.is_empty());
            sleep(2 * SECOND).await;
            assert_eq!(stage.evict_all().await, ["silent proxy", "idle proxy"]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_anything_under_way_stays() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            let running = stage.add("an exchange", false).begin_exchange();
            stage.add("a head", false).note_read();
            let stalled = stage.add("an answer that is not taken", false);
            drop(stalled.begin_exchange());
            stalled.note_write(true);
            let draining = stage.add("one that drains", false);
            assert!(draining.begin_draining());
            sleep(9 * SECOND).await;
            assert!(stage.evict_all().await.is_empty());
            drop(running);
            sleep(2 * SECOND).await;
            assert_eq!(stage.evict_all().await, ["an exchange"]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_has_had_a_request_since_the_last_look_stays() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            stage.add("first", false);
            let second = stage.add("second", false);
            sleep(2 * SECOND).await;
            assert!(stage.evict().await);
            drop(second.begin_exchange());
            assert!(!stage.evict().await);
            assert_eq!(stage.left.take(), ["first"]);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn another_listeners_connections_close_only_for_the_process() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            let elsewhere = Scope::Listener(OpenConnection::for_tests().listener());
            stage.add("idle", false);
            sleep(2 * SECOND).await;
            assert!(!stage.roster.evict(elsewhere, Standing::Trusted).await);
            assert!(stage.roster.evict(Scope::Process, Standing::Trusted).await);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn many_looks_follow_each_other_only_at_intervals() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            for _ in 0..MAX_CANDIDATES + 2 {
                stage.add("silent", false);
            }
            sleep(2 * SECOND).await;
            assert_eq!(stage.evict_all().await.len(), MAX_CANDIDATES);
            sleep(SHORTEST_PAUSE).await;
            assert_eq!(stage.evict_all().await.len(), 2);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn one_that_has_left_counts_no_more_and_is_not_asked_again() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let stage = Stage::new();
            stage.add("silent", false);
            sleep(2 * SECOND).await;
            assert!(stage.evict().await);
            tokio::task::yield_now().await;
            assert!(stage.roster.listeners.borrow()[0].1.members.borrow().is_empty());
            sleep(SECOND).await;
            assert!(!stage.evict().await);
        })
        .await;
}

/// The bytes are in the system, and the runtime has not been told yet.
#[tokio::test(start_paused = true)]
async fn a_request_that_has_come_keeps_its_connection_though_nobody_has_read_it() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (state, end) = serve(stream);
            sleep(LEAST_IDLE + Duration::from_millis(50)).await;
            caller.write_all(b"G").unwrap();
            assert!(state.call().ask().await.is_err(), "it stays");
            assert_eq!(end.get(), Some(Ok(1)));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_leaves_when_it_is_asked_to() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _caller = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (state, end) = serve(stream);
            sleep(LEAST_IDLE + Duration::from_millis(50)).await;
            assert!(state.call().ask().await.is_ok());
            assert_eq!(end.get(), Some(Err(Event::Evicted)));
        })
        .await;
}

/// How the wait for a connection's first bytes ended: with so many, or by an event.
type End = Rc<Cell<Option<Result<usize, Event>>>>;

/// Reads from a connection as a protocol does.
fn serve(stream: TcpStream) -> (Rc<State>, End) {
    let state = Rc::new(State::new(Instant::now()));
    let mut stream = Stream::new(Transport::Plain(stream), state.clone());
    let end = End::default();
    let (kept, told) = (state.clone(), end.clone());
    spawn_local(async move {
        let (_phase, phase) = watch::channel(Phase::Open);
        let mut limits = Limits::new(state, Arc::new(ListenerSettings::for_tests()), phase, None);
        let read = limits.within(stream.read(&mut [0; 8])).await;
        told.set(Some(read.map(|count| count.unwrap())));
    });
    (kept, end)
}
