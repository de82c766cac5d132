//! What follows from an outage: who of those that wait may try the cluster, and how it is filled again: up → down →
//! recovering → up. Times are durations since any fixed moment, passed in.
//!
//! Whether a row of failures is an outage is decided by its surprise ([`crate::policy::expect`]). That evidence can be
//! false: some paths fail and others do not. So the way out decides what a false alarm costs. A request whose key has not
//! failed in this outage probes at once, and the first success of any key ends the outage. So the first bystander of a
//! false alarm pays nothing; a request that may not be repeated pays at most one second. Each key begins with one probe,
//! and may have twice as many under way every 100 ms until one has failed: a page that takes seconds is well, too. A real
//! outage meets fewer of these probes than a proxy without retries would send.
//!
//! Keys that failed take turns: one probe at a time, 100 ms apart at least, the key with the fewest probes first, with a
//! pause that grows for each key. The first three turns come sooner, for requests that were not tried yet: an outage just
//! declared is as likely chance as not (see [`chance_of_outage`](crate::policy::expect::chance_of_outage)). Every second
//! turn is for keys that are known as good: else each of a thousand random paths would come before the well page with its
//! first turn. A health check that passes lets one request try, always, and nothing else: its path says little about the
//! paths of callers.
//!
//! A cluster that recovers is filled in a slow start. Keys that still fail and keys that succeed again are let go apart,
//! so that the former do not hold up the latter. Two seconds later nobody waits any more: some paths may fail for ever.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::f64::consts::LN_2;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use self::recovery::{Recovery, Window};
use crate::policy::expect::KeyId;

mod recovery;

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutageQueueSettings {
    max: usize,
    max_wait: Duration,
    enter_after: u32,
}

/// Why [`OutageQueueSettings`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidOutageQueue {
    /// A failure on its own is no outage.
    #[error("`enter_after` must be between 2 and 100: one failure is no outage")]
    EnterAfter,
    /// No wait at all, or one that no caller stays for.
    #[error("`max_wait` must be between 1ms and 1h")]
    MaxWait,
}

impl OutageQueueSettings {
    /// The fewest failures in a row that may be an outage: one on its own is none.
    pub const ENTER_AFTER: RangeInclusive<u32> = 2..=100;

    /// How long each may wait: it is a wait, and one that a caller stays for.
    pub const MAX_WAITS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

    /// Checks and builds: 2 ≤ `enter_after` ≤ 100, 1 ms ≤ `max_wait` ≤ 1 h. With a `max` of 0 there is no queue.
    pub fn new(max: usize, max_wait: Duration, enter_after: u32) -> Result<Self, InvalidOutageQueue> {
        if !Self::ENTER_AFTER.contains(&enter_after) {
            return Err(InvalidOutageQueue::EnterAfter);
        }
        if !Self::MAX_WAITS.contains(&max_wait) {
            return Err(InvalidOutageQueue::MaxWait);
        }
        Ok(Self { max, max_wait, enter_after })
    }

    /// How many may wait at once, over all workers; 0 = there is no queue.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The longest that one exchange waits in it, in all.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// The fewest failures that are an outage, of those that are evidence.
    pub fn enter_after(&self) -> u32 {
        self.enter_after
    }
}

impl Default for OutageQueueSettings {
    /// 1024 exchanges, for at most 10 s each, after at least three failures in a row.
    fn default() -> Self {
        Self { max: 1024, max_wait: Duration::from_secs(10), enter_after: 3 }
    }
}

/// The right to an attempt. Its number tells to which outage it belongs, and which probe it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    kind: PermitKind,
    /// They are numbered in the order in which they are given, over all outages; 0 = it is not counted.
    number: u64,
}

impl Permit {
    /// That of an attempt that need not wait.
    pub const FREE: Self = Self { kind: PermitKind::Free, number: 0 };

    /// That of the one plain attempt after a wait in vain.
    pub const LAST: Self = Self { kind: PermitKind::Last, number: 0 };

    /// Why it was given.
    pub fn kind(self) -> PermitKind {
        self.kind
    }
}

/// Why an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitKind {
    /// The cluster was up, or it recovers and the key has nothing against it.
    Free,
    /// Its key has not failed in this outage.
    Stranger,
    /// It is the turn of a key that failed.
    Probe,
    /// It was let go out of the queue while the cluster recovers, and its key has not succeeded yet.
    Released,
    /// The same for a key that has.
    Mended,
    /// Its wait was in vain: one plain attempt, which no retry follows.
    Last,
}

/// What an exchange has to lose by an attempt that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stake {
    /// Nothing, and it has not been tried yet: it tells more than one that has failed already.
    Fresh,
    /// It could be sent once more.
    Spare,
    /// It could be sent once more only if nothing of it was sent.
    SpareUnlessSent,
    /// The failure would be its answer.
    Nothing,
}

/// One that waits.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What it asks for.
    pub key: KeyId,
    /// Whether the key has a record of good attempts, so that its probe tells most.
    pub is_known_good: bool,
    /// Whether the key failed while others succeeded, so that its probe tells nothing.
    pub is_hopeless: bool,
    /// Whether it had an attempt in this outage itself.
    pub has_failed: bool,
    /// What it has to lose.
    pub stake: Stake,
    /// When it began to wait.
    pub joined: Duration,
    /// When its wait is of no more use.
    pub until: Duration,
}

/// What may happen next to those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The one at this place goes, with this permit.
    Go(usize, Permit),
    /// Nothing before this moment, unless an attempt ends.
    NotBefore(Duration),
}

/// What an outage was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// By a key among others that was known as good, or by connections.
    KnownKeys,
    /// By keys alone of which no success is known: they may always fail.
    NewKeys,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The outage begins.
    Down,
    /// Nothing that others need to know.
    Nothing,
    /// The cluster answers again.
    Recovering,
}

/// Whether a cluster is up, and who may try it if it is not.
#[derive(Debug, Default)]
pub struct Outage {
    state: State,
    /// The keys that failed in this outage and have not succeeded since. At most [`MAX_KEYS`], and those beyond them as
    /// one.
    failed: HashMap<KeyId, Failed>,
    /// The keys that failed and have succeeded since.
    mended: HashSet<KeyId>,
    /// The number of the last permit.
    given: u64,
    /// The number from which on permits belong to the present outage, or to the last one.
    first: u64,
}

/// A key that failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    /// Its probes that began. One that takes long must not be followed by more of its key before others had theirs.
    turns: u32,
    /// Those that failed.
    probes: u32,
    /// When the last failure ended.
    ended: Duration,
    /// How long the next probe waits after that.
    pause: Duration,
}

impl Failed {
    /// A key that failed and has not been probed, whose first probe waits for `pause`.
    fn new(pause: Duration, now: Duration) -> Self {
        Self { turns: 0, probes: 0, ended: now, pause }
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Up,
    Down(Down),
    Recovering(Recovery),
}

#[derive(Debug)]
struct Down {
    /// What it was found by; known keys, as soon as the probe of a stranger has failed.
    grounds: Grounds,
    /// Strangers with probes under way.
    strangers: HashMap<KeyId, Window>,
    /// Probes of keys that failed, so far.
    turns: u32,
    /// The permit of the probe that is alone, by its number, and until when: others of keys that failed wait for it.
    alone: Option<(u64, Duration)>,
    /// When the last of these began.
    last_turn: Option<Duration>,
    /// Whether a check has passed that has let nobody go yet.
    checked: bool,
    /// All probes that failed.
    failed_probes: u32,
}

impl Outage {
    /// Whether those who come have to wait for their turn.
    pub fn is_down(&self) -> bool {
        !matches!(self.state, State::Up)
    }

    /// Whether the cluster is down, so that it is tried and not yet filled.
    pub fn is_tried(&self) -> bool {
        matches!(self.state, State::Down(_))
    }

    /// Probes that failed in this outage.
    pub fn failed_probes(&self) -> u32 {
        if let State::Down(down) = &self.state { down.failed_probes } else { 0 }
    }

    /// Begins an outage, found by failures of `keys`. `pause` is the time before one of these may probe.
    pub fn begin(
        &mut self,
        keys: impl Iterator<Item = KeyId>,
        grounds: Grounds,
        pause: Duration,
        now: Duration,
    ) {
        self.failed = keys.map(|key| (key, Failed::new(pause, now))).collect();
        self.mended.clear();
        self.given += 1;
        self.first = self.given;
        self.state = State::Down(Down {
            grounds,
            strangers: HashMap::new(),
            turns: 0,
            alone: None,
            last_turn: None,
            checked: false,
            failed_probes: 0,
        });
    }

    /// When one that has just come may go whose key failed in this outage; none if that takes a look at all who wait.
    pub fn due(&self, candidate: &Candidate, refuses: bool) -> Option<Duration> {
        let State::Down(down) = &self.state else { return None };
        let (_, failed) = failed_of(&self.failed, candidate).filter(|_| !down.checked)?;
        Some(down.due(failed, candidate, refuses))
    }

    /// What may happen next at `now`; it has happened then. `refuses` says that the last failure had sent nothing: then a
    /// probe costs even those nothing that may not be sent twice.
    pub fn next<'a, I>(&mut self, waiting: I, refuses: bool, now: Duration) -> Next
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        let number = self.given + 1;
        let found = match &mut self.state {
            State::Up => Ok((0, PermitKind::Free)),
            State::Recovering(recovery) => recovery.next(&self.failed, &self.mended, waiting, now),
            State::Down(down) => down.next(&mut self.failed, waiting, refuses, number, now),
        };
        match found {
            Ok((place, PermitKind::Free)) => Next::Go(place, Permit::FREE),
            Ok((place, kind)) => {
                self.given = number;
                Next::Go(place, Permit { kind, number })
            }
            Err(at) => Next::NotBefore(at),
        }
    }

    /// Why the permit of an attempt that ends now was given. One of an earlier outage says nothing in this one.
    fn kind_of(&self, permit: Permit) -> PermitKind {
        if permit.number < self.first { PermitKind::Free } else { permit.kind }
    }

    /// A check passed at an endpoint in balancing: one of those who wait may try the cluster.
    pub fn check_passed(&mut self) {
        if let State::Down(down) = &mut self.state {
            down.checked = true;
        }
    }

    /// The exchange that went with `permit` ended without telling anything, for example because its caller left.
    pub fn abandon(&mut self, permit: Permit, key: KeyId) {
        let kind = self.kind_of(permit);
        match (&mut self.state, kind) {
            (State::Down(down), PermitKind::Stranger) => {
                if let Entry::Occupied(mut entry) = down.strangers.entry(key) {
                    entry.get_mut().abandon();
                    if entry.get().is_free() {
                        entry.remove();
                    }
                }
            }
            // The probe of a check is not alone, and one that took long is alone no more.
            (State::Down(down), PermitKind::Probe)
                if down.alone.is_some_and(|(number, _)| number == permit.number) =>
            {
                down.alone = None;
            }
            (State::Recovering(recovery), PermitKind::Released) => recovery.failed.abandon(),
            (State::Recovering(recovery), PermitKind::Mended) => recovery.mended.abandon(),
            _ => {}
        }
    }

    /// An attempt succeeded that `is_fresh`: it began after the outage. Whoever asked for what, the cluster answers.
    pub fn success(&mut self, permit: Permit, key: KeyId, is_fresh: bool, now: Duration) -> Change {
        if self.is_tried() {
            if !is_fresh {
                self.abandon(permit, key);
                return Change::Nothing;
            }
            self.state = State::Recovering(Recovery::begin(now));
            self.mend(key);
            return Change::Recovering;
        }
        let kind = self.kind_of(permit);
        if let State::Recovering(recovery) = &mut self.state {
            match kind {
                PermitKind::Released => recovery.failed.success(),
                PermitKind::Mended => recovery.mended.success(),
                _ => {}
            }
            self.mend(key);
        }
        Change::Nothing
    }

    fn mend(&mut self, key: KeyId) {
        if self.failed.remove(&key).is_some() {
            self.mended.insert(key);
        }
    }

    /// An attempt failed, and that is no new outage. `weight` is how surprising that is, in nats; `pause` gives the wait
    /// before a key's next probe by its number.
    pub fn failure(
        &mut self,
        permit: Permit,
        key: KeyId,
        weight: f64,
        pause: impl FnOnce(u32) -> Duration,
        now: Duration,
    ) {
        let kind = self.kind_of(permit);
        match &mut self.state {
            State::Up => {}
            State::Recovering(recovery) => {
                // One that was not let go out of the queue says nothing about how fast that may be done, and neither does
                // one that fails more often than not.
                if matches!(kind, PermitKind::Mended | PermitKind::Released) {
                    if weight >= LN_2 {
                        recovery.failed.halve(now);
                    }
                    if self.mended.remove(&key) {
                        self.failed.insert(key, Failed::new(Duration::ZERO, now));
                    }
                }
                self.abandon(permit, key);
            }
            State::Down(down) => {
                let has_room = self.failed.len() < MAX_KEYS || self.failed.contains_key(&key);
                let kept = if has_room { key } else { KeyId::OTHERS };
                let failed = self.failed.entry(kept).or_insert(Failed::new(Duration::ZERO, now));
                if kind == PermitKind::Stranger {
                    down.grounds = Grounds::KnownKeys;
                }
                if matches!(kind, PermitKind::Stranger | PermitKind::Probe) {
                    failed.probes = failed.probes.saturating_add(1);
                    (failed.ended, failed.pause) = (now, pause(failed.probes.saturating_add(1)));
                    down.failed_probes = down.failed_probes.saturating_add(1);
                }
                self.abandon(permit, key);
            }
        }
    }

    /// Nobody waits any more: a cluster that recovers is up.
    pub fn queue_is_empty(&mut self) {
        if let State::Recovering(_) = self.state {
            self.state = State::Up;
            (self.failed, self.mended) = (HashMap::new(), HashSet::new());
        }
    }
}

impl Down {
    fn next<'a, I>(
        &mut self,
        failed: &mut HashMap<KeyId, Failed>,
        waiting: I,
        refuses: bool,
        number: u64,
        now: Duration,
    ) -> Result<(usize, PermitKind), Duration>
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        if self.checked
            && let Some(place) = waiting.clone().position(|candidate| candidate.until > now)
        {
            self.checked = false;
            // It is no stranger's, whose probes are counted, and no turn of those that failed.
            return Ok((place, PermitKind::Probe));
        }
        let mut again = Duration::MAX;
        match self.stranger(failed, waiting.clone(), refuses, now) {
            Ok(place) => return Ok((place, PermitKind::Stranger)),
            Err(at) => again = again.min(at),
        }
        match self.turn(failed, waiting, refuses, now) {
            Ok((place, key)) => {
                failed.entry(key).and_modify(|failed| failed.turns += 1);
                self.turns = self.turns.wrapping_add(1);
                self.alone = Some((number, now.saturating_add(PATIENCE)));
                self.last_turn = Some(now);
                Ok((place, PermitKind::Probe))
            }
            Err(at) => Err(again.min(at)),
        }
    }

    /// The one whose key has not failed, by its place; or when to look again.
    fn stranger<'a>(
        &mut self,
        failed: &HashMap<KeyId, Failed>,
        waiting: impl Iterator<Item = &'a Candidate>,
        refuses: bool,
        now: Duration,
    ) -> Result<usize, Duration> {
        let mut again = Duration::MAX;
        for (place, candidate) in waiting.enumerate() {
            if candidate.until <= now || failed_of(failed, candidate).is_some() {
                continue;
            }
            let due = candidate.due(refuses, self.grounds);
            let taken = match self.strangers.entry(candidate.key) {
                _ if due > now => Err(due),
                Entry::Occupied(mut entry) => entry.get_mut().take(now),
                Entry::Vacant(entry) => entry.insert(Window::of(1, now)).take(now),
            };
            match taken {
                Ok(()) => return Ok(place),
                Err(at) => again = again.min(at),
            }
        }
        Err(again)
    }

    /// When a key that failed may be probed by this candidate.
    fn due(&self, failed: &Failed, candidate: &Candidate, refuses: bool) -> Duration {
        let is_early = candidate.stake == Stake::Fresh && self.turns < EARLY_TURNS;
        let share = if is_early { 1 << (EARLY_TURNS - self.turns) } else { 1 };
        let rested = failed.ended.saturating_add(failed.pause / share);
        let apart = self.last_turn.map_or(Duration::ZERO, |last| last.saturating_add(GAP / share));
        let alone = self.alone.map_or(Duration::ZERO, |(_, until)| until);
        rested.max(apart).max(alone).max(candidate.due(refuses, Grounds::KnownKeys))
    }

    /// The one whose key failed and whose turn it is, by its place; or when to look again.
    fn turn<'a, I>(
        &self,
        failed: &HashMap<KeyId, Failed>,
        waiting: I,
        refuses: bool,
        now: Duration,
    ) -> Result<(usize, KeyId), Duration>
    where
        I: Iterator<Item = &'a Candidate>,
    {
        let (mut again, mut best) = (Duration::MAX, None);
        for (place, candidate) in waiting.enumerate() {
            let Some((key, failed)) = failed_of(failed, candidate).filter(|_| candidate.until > now) else {
                continue;
            };
            let due = self.due(failed, candidate, refuses);
            let is_later = self.turns.is_multiple_of(2) && !candidate.is_known_good;
            let rank = (is_later, failed.turns, candidate.stake != Stake::Fresh);
            if due > now {
                again = again.min(due);
            } else if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, (place, key)));
            }
        }
        best.map(|(_, found)| found).ok_or(again)
    }
}

/// What is known of a candidate's key if that failed in this outage.
fn failed_of<'a>(failed: &'a HashMap<KeyId, Failed>, candidate: &Candidate) -> Option<(KeyId, &'a Failed)> {
    let of = |key| failed.get(&key).map(|failed| (key, failed));
    of(candidate.key).or_else(|| candidate.has_failed.then(|| of(KeyId::OTHERS)).flatten())
}

impl Candidate {
    /// Until when it leaves the probe to others: if the failure of its own would be its answer, or would say nothing.
    /// A key that is known as good is not kept back for long by an outage that new keys alone have found.
    fn due(&self, refuses: bool, grounds: Grounds) -> Duration {
        let longest = match self.stake {
            _ if self.is_hopeless => HOPELESS_PATIENCE,
            Stake::Fresh | Stake::Spare => return self.joined,
            Stake::SpareUnlessSent if refuses => return self.joined,
            _ if self.is_known_good && grounds == Grounds::NewKeys => DOUBTFUL_PATIENCE,
            Stake::SpareUnlessSent | Stake::Nothing => LAST_PATIENCE,
        };
        self.joined.saturating_add(longest.min(self.until.saturating_sub(self.joined) / 2))
    }
}

/// How long a probe is alone. After that the next may go: the request may be one that takes its time.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long one whose failure would be its answer waits for another that can probe at less cost, or half of its time.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The same for a key that is known as good, where new keys alone have found the outage.
const DOUBTFUL_PATIENCE: Duration = Duration::from_millis(100);

/// The same for a key whose failure says nothing.
const HOPELESS_PATIENCE: Duration = Duration::from_secs(5);

/// The least time between two probes of keys that failed.
const GAP: Duration = Duration::from_millis(100);

/// The first turns for requests that were not tried yet wait for an eighth, a quarter and half of the time.
const EARLY_TURNS: u32 = 3;

/// Keys whose failures are kept apart in one outage.
const MAX_KEYS: usize = 4096;

#[cfg(test)]
mod tests;
