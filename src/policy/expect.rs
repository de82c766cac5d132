//! How surprising a failure is: what is expected of each kind of request, and what a row of failures says about a cluster.
//!
//! A failure weighs ln(1/q), where q is the share of attempts of its [`Key`] that failed before the present [`Row`] began.
//! The weights of independent failures add up as their probabilities multiply: a sum of [`SURPRISE`] = ln(10⁴) means that
//! chance explains the row once in ten thousand times. A path that always fails weighs nothing, so it takes nothing away
//! from other paths; the first failures of a path that never fails weigh 4.7 each.
//!
//! Waits, the outage, ejection, futile retries and the budget all ask here. Nobody is judged by one signal alone: a key is
//! hopeless only while others succeed, because failures are learned when a row ends by a success (see [`Row`]).
//!
//! While nothing fails there is nothing to know: the table is made at a cluster's first failure, and it is emptied ten
//! minutes after the last one. All words are shared by the workers without a lock. A lost update costs one attempt's
//! weight in an average of 64.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

pub use self::bucket::Ending;
use self::bucket::{Bucket, Settled};
pub use self::key::{Key, KeyId, Secret, Subject};
pub use self::lean::Lean;
pub use self::row::{Failure, Kind, Lessons, Row};

mod bucket;
mod key;
mod lean;
mod row;

/// What is expected of the attempts at one cluster.
#[derive(Debug)]
pub struct Expect {
    secret: Secret,
    /// Of all attempts.
    cluster: AtomicU64,
    /// Of connections: statuses do not touch it.
    connection: AtomicU64,
    /// Of attempts that follow a failure of the same exchange, while the cluster is up.
    again: AtomicU64,
    table: OnceLock<Box<[Set]>>,
    /// When something last failed, in seconds since the start; 0 = never.
    last_failure: AtomicU32,
}

/// Four keys whose hashes share eight bits.
#[derive(Debug, Default)]
struct Set {
    ways: [AtomicU64; WAYS],
    /// When a futile retry was last let through here, in seconds.
    allowed: AtomicU32,
}

impl Expect {
    /// Nothing is known yet.
    pub fn new(secret: Secret) -> Self {
        let top = Bucket::born(0, LEAST, Duration::ZERO).pack();
        Self {
            secret,
            cluster: top.into(),
            connection: top.into(),
            again: Bucket::born(0, AGAIN, Duration::ZERO).pack().into(),
            table: OnceLock::new(),
            last_failure: AtomicU32::new(0),
        }
    }

    /// The key of a request.
    pub fn key(&self, subject: &Subject<'_>) -> Key {
        Key::new(self.secret, subject)
    }

    /// The share of the key's attempts that fail, at least 0.9 %: its own from eight attempts on, before that its
    /// prefix's, its route's or the cluster's.
    pub fn q(&self, key: &Key, now: Duration) -> f64 {
        let own = self.find(key.own_level(), now);
        if let Some(row) = own.map(Bucket::row_share).filter(|share| *share > 0.0) {
            return own.map_or(0.0, Bucket::share).max(row).max(LEAST);
        }
        self.borrowed(key.levels(), now)
    }

    /// The share of the deepest of `levels` that has eight attempts, else that of the cluster.
    fn borrowed(&self, levels: &[u64], now: Duration) -> f64 {
        let known = |level: &u64| self.find(*level, now).filter(|bucket| bucket.attempts >= BORROWS);
        levels
            .iter()
            .rev()
            .find_map(known)
            .map_or_else(|| self.cluster_q(), |bucket| bucket.share().max(LEAST))
    }

    /// The same of the cluster as a whole.
    pub fn cluster_q(&self) -> f64 {
        Self::top_q(&self.cluster)
    }

    /// The share of attempts for which no connection came to be.
    pub fn connection_q(&self) -> f64 {
        Self::top_q(&self.connection)
    }

    fn top_q(word: &AtomicU64) -> f64 {
        let bucket = Bucket::unpack(load(word));
        if bucket.attempts < BORROWS { LEAST } else { bucket.share().max(LEAST) }
    }

    /// Learns how an attempt ended, at every level of its key.
    pub fn note(&self, key: &Key, ending: Ending, now: Duration) {
        if ending != Ending::Success {
            self.note_failure(now);
        }
        Self::note_top(&self.cluster, ending, now);
        self.note_levels(key.levels(), ending, now);
    }

    /// Learns that an attempt succeeded, for which a connection came to be.
    pub fn note_success(&self, key: &Key, now: Duration) {
        self.note(key, Ending::Success, now);
        self.note_connection(Ending::Success, now);
    }

    /// Learns how an attempt ended at every level but the key's own.
    pub fn note_above(&self, key: &Key, ending: Ending, now: Duration) {
        let Some((_, above)) = key.levels().split_last() else { return };
        Self::note_top(&self.cluster, ending, now);
        self.note_levels(above, ending, now);
    }

    /// Learns whether a second attempt of the key helped that was made beside a slow one. It says nothing else.
    pub fn note_beside(&self, key: &Key, ending: Ending, now: Duration) {
        if ending != Ending::Success {
            self.note_failure(now);
        }
        self.note_levels(key.beside().levels(), ending, now);
    }

    fn note_levels(&self, levels: &[u64], ending: Ending, now: Duration) {
        let Some(table) = self.table.get() else { return };
        let settled = Settled::at(now);
        for (depth, level) in levels.iter().enumerate() {
            let (set, tag) = place(table, *level);
            if ending == Ending::Success && set.ways.iter().any(|word| settled.is(load(word), tag)) {
                continue;
            }
            if let Some(word) = way(set, tag, now) {
                Self::change(word, |bucket| bucket.note(ending, PRIOR, now));
            } else if let Some(word) = newcomer(set, now) {
                let born = Bucket::born(tag, self.borrowed(&levels[..depth], now), now);
                word.store(born.note(ending, PRIOR, now).pack(), Ordering::Relaxed);
            }
        }
    }

    /// Learns whether a connection came to be.
    pub fn note_connection(&self, ending: Ending, now: Duration) {
        if ending != Ending::Success {
            self.note_failure(now);
        }
        Self::note_top(&self.connection, ending, now);
    }

    /// The share of attempts that fail like the one before them, in the same exchange, while the cluster is up.
    pub fn again_q(&self) -> f64 {
        Bucket::unpack(self.again.load(Ordering::Relaxed)).share().max(LEAST)
    }

    /// Learns how an attempt ended that followed a failure of the same exchange, while the cluster was up.
    pub fn note_again(&self, ending: Ending, now: Duration) {
        Self::change(&self.again, |bucket| bucket.note(ending, AGAIN_PRIOR, now));
    }

    /// Notes that something failed: from here on successes are learned, too.
    pub fn note_failure(&self, now: Duration) {
        self.table.get_or_init(|| (0..SETS).map(|_| Set::default()).collect());
        self.last_failure.store(seconds(now), Ordering::Relaxed);
    }

    /// Whether the last failure was ten minutes ago, so that there is nothing to know.
    pub fn is_stale(&self, now: Duration) -> bool {
        seconds(now).saturating_sub(self.last_failure.load(Ordering::Relaxed)) > MEMORY
    }

    /// Forgets everything.
    pub fn forget(&self) {
        for word in self.table.get().into_iter().flatten().flat_map(|set| &set.ways) {
            word.store(0, Ordering::Relaxed);
        }
        let top = Bucket::born(0, LEAST, Duration::ZERO).pack();
        self.cluster.store(top, Ordering::Relaxed);
        self.connection.store(top, Ordering::Relaxed);
        self.again.store(Bucket::born(0, AGAIN, Duration::ZERO).pack(), Ordering::Relaxed);
    }

    /// Whether the key's last attempt succeeded, and not most of many failed: its probe tells more than one of a key of
    /// which nothing is known, such as each of a thousand random paths.
    pub fn is_known_good(&self, key: &Key, now: Duration) -> bool {
        let own = self.find(key.own_level(), now);
        own.is_some_and(|bucket| bucket.row == 0 && (bucket.attempts < BORROWS || bucket.share() < DOUBTFUL))
    }

    /// Whether retries of the key help nobody: its last eight attempts, of at least three exchanges, failed while others
    /// succeeded.
    pub fn is_hopeless(&self, key: &Key, now: Duration) -> bool {
        let own = self.find(key.own_level(), now);
        own.is_some_and(Bucket::is_hopeless)
    }

    /// Whether a retry of a hopeless key goes through after all: one in sixteen, and one a second, for one that works
    /// again. `random` lies in [0, 1).
    pub fn allows_futile(&self, key: &Key, random: f64, now: Duration) -> bool {
        let Some(table) = self.table.get() else { return true };
        let (set, _) = place(table, key.own_level());
        let (now, last) = (seconds(now), set.allowed.load(Ordering::Relaxed));
        random < ALLOWED
            && now > last
            && set.allowed.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn find(&self, level: u64, now: Duration) -> Option<Bucket> {
        let (set, tag) = place(self.table.get()?, level);
        way(set, tag, now).map(|word| Bucket::unpack(load(word)))
    }

    fn note_top(word: &AtomicU64, ending: Ending, now: Duration) {
        if ending != Ending::Success || !Settled::at(now).is(load(word), 0) {
            Self::change(word, |bucket| bucket.note(ending, TOP_PRIOR, now));
        }
    }

    fn change(word: &AtomicU64, change: impl FnOnce(Bucket) -> Bucket) {
        let old = load(word);
        let new = change(Bucket::unpack(old)).pack();
        // What need not be written leaves the word in every worker's cache.
        if new != old {
            word.store(new, Ordering::Relaxed);
        }
    }
}

/// How surprising a failure is where the share `q` fails anyway.
pub fn weight(q: f64) -> f64 {
    (1.0 / q.clamp(LEAST, 1.0)).ln()
}

/// The chance that a cluster is down whose failures since the last success weigh `surprise` together.
///
/// Bayes's rule: an outage begins with one attempt in ten thousand and explains any row; chance explains this one with the
/// probability e^−surprise.
pub fn chance_of_outage(surprise: f64) -> f64 {
    if surprise <= 0.0 {
        return 0.0;
    }
    ONSET / (ONSET + (-surprise).exp())
}

/// The chance, in [0, 1], that an attempt succeeds where the share `q` fails and the row weighs `surprise`; waits follow it.
pub fn chance_of_success(q: f64, surprise: f64) -> f64 {
    ((1.0 - q) * (1.0 - chance_of_outage(surprise))).clamp(0.0, 1.0)
}

fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn place(table: &[Set], level: u64) -> (&Set, u16) {
    #[expect(clippy::cast_possible_truncation, reason = "bits of a hash")]
    let (index, tag) = (level as usize % SETS, (level >> 48) as u16);
    (&table[index], tag)
}

/// The word of a key that is known.
fn way(set: &Set, tag: u16, now: Duration) -> Option<&AtomicU64> {
    set.ways.iter().find(|word| {
        let bucket = Bucket::unpack(load(word));
        bucket.tag == tag && bucket.attempts > 0 && !bucket.is_forgotten(now)
    })
}

/// The word for a newcomer: an empty one, one that is forgotten, or the least known if that is hardly known at all. So a
/// thousand random paths replace each other, and not what is known.
fn newcomer(set: &Set, now: Duration) -> Option<&AtomicU64> {
    let known = |word: &&AtomicU64| {
        let bucket = Bucket::unpack(load(word));
        if bucket.is_forgotten(now) { 0 } else { bucket.attempts }
    };
    set.ways.iter().min_by_key(known).filter(|word| known(word) <= HARDLY_KNOWN)
}

fn seconds(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// The sum of weights that chance explains once in ten thousand times: ln(10⁴).
pub const SURPRISE: f64 = 9.210_340_371_976_184;

/// A lighter failure is no evidence of its own: counts of failures leave it out.
pub const LIGHT: f64 = 0.1;

/// A key of which half fails, or more, is in doubt.
pub const DOUBTFUL: f64 = 0.5;

/// Where less fails, or nothing is known, so much is taken to fail.
pub const LEAST: f64 = 0.009;

/// The share of retries that fail again, where nothing is known: the root of [`LEAST`], so that such a failure counts half.
const AGAIN: f64 = 0.094_868_329_805_051_38;

/// What that counts as, in attempts. A few exchanges tell whether their retries are of use.
const AGAIN_PRIOR: u8 = 2;

/// The share of attempts with which an outage begins.
const ONSET: f64 = 1e-4;

/// Attempts from which a key speaks for itself.
const BORROWS: u8 = 8;

/// What a key's first share counts as, in attempts; that of the cluster, and of connections.
const PRIOR: u8 = 8;
const TOP_PRIOR: u8 = 64;

/// A key with so few attempts makes room for another.
const HARDLY_KNOWN: u8 = 2;

/// The share of futile retries that are made.
const ALLOWED: f64 = 1.0 / 16.0;

/// Seconds without a failure after which nothing is known.
const MEMORY: u32 = 600;

/// 1024 keys, in sets of four.
const SETS: usize = 256;
const WAYS: usize = 4;

#[cfg(test)]
mod tests;
