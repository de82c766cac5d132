//! Many callers at once, and an exact account of what became of each request.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::client::{Client, request};
use super::{Response, eventually};

/// Callers that ask for `/kept/N` or `/fresh/N`, each N once, until they are stopped or refused.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<Tally>>,
}

/// How callers use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// One for as long as the proxy allows.
    KeptAlive,
    /// A new one for each request.
    OnePerRequest,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicU64,
    answered: AtomicU64,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Whole answers with 200.
    pub(crate) ok: u64,
    /// Connections that were not let in; their callers stopped.
    pub(crate) refused: u64,
    /// Requests sent on a kept connection that the proxy had closed: no byte came, and they were sent anew. The proxy
    /// has lost such a request if the backend got it the first time.
    pub(crate) resent: u64,
    /// Everything else, in words.
    pub(crate) lost: Vec<String>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, callers: usize, connections: Connections) -> Self {
        let shared = Arc::new(Shared::default());
        let callers = (0..callers).map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || call(&shared, address, connections))
        });
        Self { callers: callers.collect(), shared }
    }

    /// Waits until this many more requests have been answered.
    pub(crate) fn wait_for_more(&self, count: u64) {
        let goal = self.shared.answered.load(Ordering::Relaxed) + count;
        eventually(&format!("{count} more answers"), || {
            (self.shared.answered.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Lets every caller finish its request.
    pub(crate) fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until every caller has been refused.
    pub(crate) fn join(self) -> Tally {
        let tallies = self.callers.into_iter().map(|caller| caller.join().expect("a caller that counts"));
        tallies.fold(Tally::default(), |sum, tally| Tally {
            ok: sum.ok + tally.ok,
            refused: sum.refused + tally.refused,
            resent: sum.resent + tally.resent,
            lost: [sum.lost, tally.lost].concat(),
        })
    }
}

fn call(shared: &Shared, address: SocketAddr, connections: Connections) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Client> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let bytes = match connections {
            Connections::KeptAlive => request("GET", &format!("/kept/{number}"), &[], b""),
            Connections::OnePerRequest => {
                request("GET", &format!("/fresh/{number}"), &[("Connection", "close")], b"")
            }
        };
        if let Some(mut client) = kept.take() {
            match exchange(&mut client, &bytes) {
                Err(error) if closed_early(&error) => tally.resent += 1,
                result => {
                    kept = tally.count(shared, result).then_some(client);
                    continue;
                }
            }
        }
        let mut client = match Client::try_connect(address) {
            Ok(client) => client,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tally.refused += 1;
                return tally;
            }
            Err(error) => {
                tally.lost.push(format!("no connection: {error}"));
                continue;
            }
        };
        match exchange(&mut client, &bytes) {
            // A connection that the system had queued and the proxy never accepted ends so when the listener closes.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                tally.refused += 1;
                return tally;
            }
            result => {
                let alive = tally.count(shared, result);
                kept = (alive && connections == Connections::KeptAlive).then_some(client);
            }
        }
    }
    tally
}

fn exchange(client: &mut Client, bytes: &[u8]) -> io::Result<Response> {
    client.try_send(bytes)?;
    client.try_response()
}

/// Whether the connection was over before the answer's first byte.
fn closed_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

impl Tally {
    /// Counts an answer or the lack of one; true if the connection lives on.
    fn count(&mut self, shared: &Shared, result: io::Result<Response>) -> bool {
        match result {
            Ok(response) if response.status == 200 && !response.truncated => {
                self.ok += 1;
                shared.answered.fetch_add(1, Ordering::Relaxed);
                !response.closes()
            }
            Ok(response) => {
                self.lost.push(format!("{} (truncated: {})", response.status, response.truncated));
                false
            }
            Err(error) => {
                self.lost.push(format!("no answer: {error}"));
                false
            }
        }
    }
}
