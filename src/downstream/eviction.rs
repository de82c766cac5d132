//! Which connections close so that new callers get in: only those that carry nothing, the least costly first.
//!
//! Each worker lists its own connections and judges them itself, on its own thread. A request that is being read there
//! makes its connection no candidate, and no other thread can come between. The list is looked at only where a listener or
//! the process is full, so that a request pays nothing for it.
//!
//! The evidence is the connection's own silence; no count of callers enters into it. A bystander whose idle connection
//! closes pays one connect more with its next request. A flood of silent callers costs idle bystanders no more connections
//! than it opens in a second, because after that its own are the first to close. A request whose first byte is on its way in that moment meets the
//! close, and its caller may send it again (RFC 9112 section 9.3.1). That is why a trusted proxy's connection has to be
//! idle for 5 s, and why HTTP/2 is told by GOAWAY, after which a request that was on its way is still answered.
//!
//! # Invariant
//!
//! A connection closes for a new one only if it carries nothing. Its own task has the last word, and first reads
//! what has come. Below the limit this costs an entry in a map. Held by `below_the_limit_nobody_closes` and
//! `the_silent_close_first_then_strangers_then_trusted_proxies_each_the_longest_idle_first`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::downstream::acceptor::OpenConnection;
use crate::downstream::limits::State;
pub use crate::record::metrics::Standing;

impl Standing {
    /// The standing of a connection that has carried nothing for so long; none if it stays.
    pub(super) fn of(idle: Duration, has_served: bool, is_trusted: bool) -> Option<Self> {
        let least = if is_trusted { LEAST_IDLE_TRUSTED } else { LEAST_IDLE };
        let standing = match (has_served, is_trusted) {
            (false, _) => Self::Silent,
            (true, false) => Self::Idle,
            (true, true) => Self::Trusted,
        };
        (idle >= least).then_some(standing)
    }
}

/// Where a connection has to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At one listener, which has as many as it may have.
    Listener(ListenerId),
    /// At any: the process lacks descriptors.
    Process,
}

/// The identity of a listener, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerId(u64);

impl ListenerId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The connections of one worker, by listener.
#[derive(Debug, Default)]
pub struct Roster {
    listeners: RefCell<Vec<(ListenerId, Rc<Listed>)>>,
}

impl Roster {
    /// Lists a connection, which from now on answers when [`Call`] asks it to leave, until the entry is dropped.
    pub(super) fn list(&self, counted: Rc<OpenConnection>, state: Rc<State>) -> Entry {
        let id = counted.listener();
        let mut listeners = self.listeners.borrow_mut();
        let known = listeners.iter().find(|(known, _)| *known == id).map(|(_, listed)| listed.clone());
        let listed = known.unwrap_or_else(|| {
            // A reload may have removed the others' listeners.
            listeners.retain(|(_, listed)| !listed.members.borrow().is_empty());
            let listed = Rc::<Listed>::default();
            listeners.push((id, listed.clone()));
            listed
        });
        let number = listed.next.replace(listed.next.get() + 1);
        listed.members.borrow_mut().insert(number, Member { state, counted });
        Entry { listed, number }
    }

    /// Asks the connections of this standing, or of one that closes before it, to leave, until one does. False if none
    /// does.
    pub async fn evict(&self, scope: Scope, standing: Standing) -> bool {
        while let Some((standing, member)) = self.next(scope, standing) {
            if member.state.call().ask().await.is_ok() {
                member.counted.metrics().evicted(standing).inc();
                member.counted.leave();
                return true;
            }
        }
        false
    }

    fn next(&self, scope: Scope, standing: Standing) -> Option<(Standing, Member)> {
        let now = Instant::now();
        let listeners = self.listeners.borrow();
        let covered = listeners.iter().filter(|(id, _)| match scope {
            Scope::Listener(wanted) => *id == wanted,
            Scope::Process => true,
        });
        covered.map(|(_, listed)| listed).find_map(|listed| listed.next(standing, now))
    }
}

/// The connections of one listener at one worker.
#[derive(Debug, Default)]
struct Listed {
    /// By the order of their arrival.
    members: RefCell<BTreeMap<u64, Member>>,
    next: Cell<u64>,
    /// The next to leave, as the last look found them.
    candidates: RefCell<VecDeque<(Standing, u64)>>,
    looked: Cell<Option<Instant>>,
}

/// A connection that can be asked to leave.
#[derive(Clone, Debug)]
struct Member {
    state: Rc<State>,
    counted: Rc<OpenConnection>,
}

impl Listed {
    /// The next candidate of this standing or of one that closes before it.
    fn next(&self, standing: Standing, now: Instant) -> Option<(Standing, Member)> {
        let age = self.looked.get().map(|looked| now.duration_since(looked));
        let longest = if self.candidates.borrow().is_empty() { SHORTEST_PAUSE } else { MAX_USE };
        if age.is_none_or(|age| age >= longest) {
            self.look(now);
        }
        let mut candidates = self.candidates.borrow_mut();
        loop {
            let (found, number) = *candidates.front().filter(|(found, _)| *found <= standing)?;
            candidates.pop_front();
            // It may have had a request since, or have ended.
            if let Some(member) = self.members.borrow().get(&number)
                && member.state.standing(now) == Some(found)
            {
                return Some((found, member.clone()));
            }
        }
    }

    /// Finds the next to leave among all: by their standing, and by how long they have carried nothing.
    fn look(&self, now: Instant) {
        let mut found = BinaryHeap::new();
        for (number, member) in self.members.borrow().iter() {
            if let Some(standing) = member.state.standing(now) {
                found.push((standing, member.state.since(), *number));
                if found.len() > MAX_CANDIDATES {
                    found.pop();
                }
            }
        }
        let found = found.into_sorted_vec().into_iter().map(|(standing, _, number)| (standing, number));
        self.candidates.replace(found.collect());
        self.looked.set(Some(now));
    }
}

/// A connection's place in the list of its worker.
#[derive(Debug)]
pub(super) struct Entry {
    listed: Rc<Listed>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let member = self.listed.members.borrow_mut().remove(&self.number);
        drop(member); // after the borrow has ended
    }
}

/// Asks a connection to leave, which has the last word: its task may read a request in this moment.
#[derive(Debug)]
pub(super) struct Call {
    reply: RefCell<Option<oneshot::Sender<()>>>,
    waker: RefCell<Waker>,
}

impl Default for Call {
    fn default() -> Self {
        Self { reply: RefCell::default(), waker: RefCell::new(Waker::noop().clone()) }
    }
}

impl Call {
    /// Asks; the connection answers once it has looked for bytes that have come. An error says that it stays, or has ended.
    pub(super) fn ask(&self) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.reply.replace(Some(reply));
        self.waker.borrow().wake_by_ref();
        answer
    }

    /// Waits to be asked.
    pub(super) fn poll_asked(&self, cx: &Context<'_>) -> Poll<oneshot::Sender<()>> {
        if let Some(reply) = self.reply.take() {
            return Poll::Ready(reply);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.will_wake(cx.waker()) {
            waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

/// How long a connection carries nothing before it may close. A caller needs as long to connect, shake hands and ask;
/// without it new callers would push each other out.
const LEAST_IDLE: Duration = Duration::from_secs(1);

/// The same for a trusted proxy, whose next request may be on its way at any time.
const LEAST_IDLE_TRUSTED: Duration = Duration::from_secs(5);

/// How many candidates one look at all connections finds.
const MAX_CANDIDATES: usize = 256;

/// How often all connections are looked at, at most: with 10,000 of them a look takes less than a millisecond.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// How long the candidates of one look are used.
const MAX_USE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
