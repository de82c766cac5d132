//! What follows from an outage: who of those that wait may try the cluster, and how it is filled again: up → down →
//! recovering → up. Times are durations since any fixed moment, passed in.
//!
//! Whether a row of failures is an outage is decided by its surprise ([`crate::policy::expect`]). That evidence can be
//! false: some paths fail and others do not. So the way out decides what a false alarm costs. A request whose key has not
//! failed in this outage probes at once, and the first success of any key ends the outage. A bystander of a false alarm
//! pays for one probe of its own; a request that may not be repeated pays at most one second.
//!
//! Keys that failed take turns: one probe at a time, 100 ms apart at least, the key with the fewest probes first, with a
//! pause that grows for each key. Every second turn is for keys that are known as good: else each of a thousand random
//! paths would come before the well page with its first turn. A health check that passes lets one request try, always, and
//! nothing else: its path says little about the paths of callers.
//!
//! A cluster that recovers is filled in a slow start. Keys that still fail and keys that succeed again are let go apart,
//! so that the former do not hold up the latter. Two seconds later nobody waits any more: some paths may fail for ever.

use std::collections::{HashMap, HashSet};
use std::f64::consts::LN_2;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::policy::expect::KeyId;

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineSettings {
    max: usize,
    max_wait: Duration,
    enter_after: u32,
}

/// Why [`LineSettings`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidLine {
    /// A failure on its own is no outage.
    #[error("`enter_after` must be between 2 and 100: one failure is no outage")]
    EnterAfter,
    /// No wait at all, or one that no caller stays for.
    #[error("`max_wait` must be between 1ms and 1h")]
    MaxWait,
}

impl LineSettings {
    /// The fewest failures in a row that may be an outage: one on its own is none.
    pub const ENTER_AFTER: RangeInclusive<u32> = 2..=100;

    /// How long each may wait: it is a wait, and one that a caller stays for.
    pub const MAX_WAITS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

    /// Checks and builds: 2 ≤ `enter_after` ≤ 100, 1 ms ≤ `max_wait` ≤ 1 h. With a `max` of 0 there is no line.
    pub fn new(max: usize, max_wait: Duration, enter_after: u32) -> Result<Self, InvalidLine> {
        if !Self::ENTER_AFTER.contains(&enter_after) {
            return Err(InvalidLine::EnterAfter);
        }
        if !Self::MAX_WAITS.contains(&max_wait) {
            return Err(InvalidLine::MaxWait);
        }
        Ok(Self { max, max_wait, enter_after })
    }

    /// How many may wait at once, over all workers; 0 = there is no line.
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

impl Default for LineSettings {
    /// 1024 exchanges, for at most 10 s each, after at least three failures in a row.
    fn default() -> Self {
        Self { max: 1024, max_wait: Duration::from_secs(10), enter_after: 3 }
    }
}

/// By what right an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The cluster was up, or it recovers and the key has nothing against it.
    Free,
    /// Its key has not failed in this outage.
    Stranger,
    /// It is the turn of a key that failed.
    Probe,
    /// It was let go out of the line while the cluster recovers, and its key has not succeeded yet.
    Released,
    /// The same for a key that has.
    Mended,
    /// Its wait was in vain: one plain attempt, which no retry follows.
    Last,
}

/// What an exchange has to lose by an attempt that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
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
    /// What it has to lose.
    pub means: Means,
    /// When it began to wait.
    pub joined: Duration,
    /// When its wait is of no more use.
    pub until: Duration,
}

/// What may happen next to those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The one at this place goes, by this right.
    Go(usize, Pass),
    /// Nothing before this moment, unless an attempt ends.
    NotBefore(Duration),
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
    /// The keys that failed in this outage and have not succeeded since. At most [`MAX_KEYS`]: a key beyond them probes
    /// as a stranger, within the rate of these.
    failed: HashMap<KeyId, Failed>,
    /// The keys that failed and have succeeded since.
    mended: HashSet<KeyId>,
}

/// A key that failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    /// Its probes that began. One that takes long must not be followed by more of its key before others had theirs.
    turns: u32,
    /// Those that failed.
    probes: u32,
    /// When the next one may go.
    next: Duration,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Up,
    Down(Down),
    Recovering(Recovery),
}

#[derive(Debug)]
struct Recovery {
    /// For keys that have not succeeded since.
    failed: Window,
    /// For keys that have. A failure of one moves its key back, so that the others lose nothing by it.
    mended: Window,
    /// When everybody may go.
    until: Duration,
}

/// A slow start: how many of those let go may be under way at once.
#[derive(Debug)]
struct Window {
    size: u32,
    /// How many are.
    out: u32,
    /// When it last grew by time.
    grown: Duration,
}

impl Window {
    /// One good answer lets two go.
    fn new(now: Duration) -> Self {
        Self { size: 2, out: 0, grown: now }
    }

    /// Takes a place; or says when to look again. Answers that take long say nothing bad, and must not hold up the rest
    /// for as long.
    fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if now >= self.grown.saturating_add(STEP) {
            (self.size, self.grown) = (self.size.saturating_mul(2), now);
        }
        if self.out >= self.size {
            return Err(self.grown.saturating_add(STEP));
        }
        self.out += 1;
        Ok(())
    }

    fn abandon(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    fn success(&mut self) {
        (self.size, self.out) = (self.size.saturating_add(1), self.out.saturating_sub(1));
    }

    fn halve(&mut self, now: Duration) {
        (self.size, self.grown) = ((self.size / 2).max(1), now);
    }
}

#[derive(Debug)]
struct Down {
    /// Strangers whose probe is under way, and until when it is alone.
    strangers: Vec<(KeyId, Duration)>,
    /// Probes that strangers may begin now, and when that was reckoned.
    allowance: f64,
    reckoned: Duration,
    /// Probes of keys that failed, so far.
    turns: u32,
    /// Until when the probe of a key that failed is alone.
    probing: Option<Duration>,
    /// When the next of these may begin.
    next: Duration,
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
    pub fn begin(&mut self, keys: impl Iterator<Item = KeyId>, pause: Duration, now: Duration) {
        self.failed =
            keys.map(|key| (key, Failed { turns: 0, probes: 0, next: now.saturating_add(pause) })).collect();
        self.mended.clear();
        self.state = State::Down(Down {
            strangers: Vec::new(),
            allowance: MAX_STRANGERS as f64,
            reckoned: now,
            turns: 0,
            probing: None,
            next: Duration::ZERO,
            checked: false,
            failed_probes: 0,
        });
    }

    /// When one that has just come may go whose key failed in this outage; none if that takes a look at all who wait.
    pub fn due(&self, candidate: &Candidate, refuses: bool) -> Option<Duration> {
        let State::Down(down) = &self.state else { return None };
        let failed = self.failed.get(&candidate.key).filter(|_| !down.checked)?;
        Some(failed.next.max(candidate.due(refuses)).max(down.earliest()))
    }

    /// What may happen next at `now`; it has happened then. `refuses` says that the last failure had sent nothing: then a
    /// probe costs even those nothing that may not be sent twice.
    pub fn next<'a, I>(&mut self, waiting: I, refuses: bool, now: Duration) -> Next
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        match &mut self.state {
            State::Up => Next::Go(0, Pass::Free),
            State::Recovering(recovery) if now >= recovery.until => Next::Go(0, Pass::Free),
            State::Recovering(recovery) => {
                let (failed, mended) = (&self.failed, &self.mended);
                let (is_failed, is_mended) = (
                    |candidate: &Candidate| failed.contains_key(&candidate.key),
                    |candidate: &Candidate| mended.contains(&candidate.key),
                );
                let is_stranger = |candidate: &Candidate| !is_failed(candidate) && !is_mended(candidate);
                if let Some(place) = waiting.clone().position(is_stranger) {
                    return Next::Go(place, Pass::Free);
                }
                // Those whose time is over expire by their own clock.
                let in_time = |candidate: &Candidate| candidate.until > now;
                let mut again = recovery.until;
                if let Some(place) =
                    waiting.clone().position(|candidate| in_time(candidate) && is_mended(candidate))
                {
                    match recovery.mended.take(now) {
                        Ok(()) => return Next::Go(place, Pass::Mended),
                        Err(at) => again = again.min(at),
                    }
                }
                let mut waiting = waiting;
                if let Some(place) = waiting.position(|candidate| in_time(candidate) && is_failed(candidate))
                {
                    match recovery.failed.take(now) {
                        Ok(()) => return Next::Go(place, Pass::Released),
                        Err(at) => again = again.min(at),
                    }
                }
                Next::NotBefore(again)
            }
            State::Down(down) => down.next(&mut self.failed, waiting, refuses, now),
        }
    }

    /// A check passed at an endpoint in balancing: one of those who wait may try the cluster.
    pub fn check_passed(&mut self) {
        if let State::Down(down) = &mut self.state {
            down.checked = true;
        }
    }

    /// The exchange that went with `pass` ended without telling anything, for example because its caller left.
    pub fn abandon(&mut self, pass: Pass, key: KeyId) {
        match (&mut self.state, pass) {
            (State::Down(down), Pass::Stranger) => down.strangers.retain(|(stranger, _)| *stranger != key),
            (State::Down(down), Pass::Probe) => down.probing = None,
            (State::Recovering(recovery), Pass::Released) => recovery.failed.abandon(),
            (State::Recovering(recovery), Pass::Mended) => recovery.mended.abandon(),
            _ => {}
        }
    }

    /// An attempt succeeded that `is_fresh`: it began after the outage. Whoever asked for what, the cluster answers.
    pub fn success(&mut self, pass: Pass, key: KeyId, is_fresh: bool, now: Duration) -> Change {
        if self.is_tried() {
            if !is_fresh {
                self.abandon(pass, key);
                return Change::Nothing;
            }
            self.state = State::Recovering(Recovery {
                failed: Window::new(now),
                mended: Window::new(now),
                until: now.saturating_add(RECOVERY),
            });
            self.mend(key);
            return Change::Recovering;
        }
        if let State::Recovering(recovery) = &mut self.state {
            match pass {
                Pass::Released => recovery.failed.success(),
                Pass::Mended => recovery.mended.success(),
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
        pass: Pass,
        key: KeyId,
        weight: f64,
        pause: impl FnOnce(u32) -> Duration,
        now: Duration,
    ) {
        match &mut self.state {
            State::Up => {}
            State::Recovering(recovery) => {
                // One that was not let go out of the line says nothing about how fast that may be done, and neither does
                // one that fails more often than not.
                if matches!(pass, Pass::Mended | Pass::Released) {
                    if weight >= LN_2 {
                        recovery.failed.halve(now);
                    }
                    if self.mended.remove(&key) {
                        self.failed.insert(key, Failed { turns: 0, probes: 0, next: now });
                    }
                }
                self.abandon(pass, key);
            }
            State::Down(down) => {
                if self.failed.len() < MAX_KEYS || self.failed.contains_key(&key) {
                    let failed = self.failed.entry(key).or_insert(Failed { turns: 0, probes: 0, next: now });
                    if matches!(pass, Pass::Stranger | Pass::Probe) {
                        failed.probes = failed.probes.saturating_add(1);
                        failed.next = now.saturating_add(pause(failed.probes.saturating_add(1)));
                    }
                }
                if matches!(pass, Pass::Stranger | Pass::Probe) {
                    down.failed_probes = down.failed_probes.saturating_add(1);
                }
                self.abandon(pass, key);
            }
        }
    }

    /// Nobody waits any more: a cluster that recovers is up.
    pub fn line_is_empty(&mut self) {
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
        now: Duration,
    ) -> Next
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        if self.checked
            && let Some(place) = waiting.clone().position(|candidate| candidate.until > now)
        {
            self.checked = false;
            // It is no stranger's, whose probes are counted, and no turn of those that failed.
            return Next::Go(place, Pass::Probe);
        }
        let mut again = Duration::MAX;
        match self.stranger(failed, waiting.clone(), refuses, now) {
            Ok((place, key)) => {
                self.strangers.push((key, now.saturating_add(PATIENCE)));
                self.allowance -= 1.0;
                return Next::Go(place, Pass::Stranger);
            }
            Err(at) => again = again.min(at),
        }
        match self.turn(failed, waiting, refuses, now) {
            Ok((place, key)) => {
                failed.entry(key).and_modify(|failed| failed.turns += 1);
                self.turns = self.turns.wrapping_add(1);
                self.probing = Some(now.saturating_add(PATIENCE));
                self.next = now.saturating_add(GAP);
                Next::Go(place, Pass::Probe)
            }
            Err(at) => Next::NotBefore(again.min(at)),
        }
    }

    /// The one whose key has not failed, by its place; or when to look again. Keys that are known go first, and no more
    /// than eight at once, eight in a row and 20 a second do: an outage is not to be met by a probe for each random path.
    fn stranger<'a, I>(
        &mut self,
        failed: &HashMap<KeyId, Failed>,
        waiting: I,
        refuses: bool,
        now: Duration,
    ) -> Result<(usize, KeyId), Duration>
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        self.strangers.retain(|(_, until)| *until > now);
        let passed = now.saturating_sub(self.reckoned).as_secs_f64();
        self.allowance = (self.allowance + passed * STRANGERS_PER_SECOND).min(MAX_STRANGERS as f64);
        self.reckoned = now;
        let soonest_end = self.strangers.iter().map(|(_, until)| *until).min().unwrap_or(Duration::MAX);
        if self.strangers.len() >= MAX_STRANGERS {
            return Err(soonest_end);
        }
        let is_stranger = |candidate: &&Candidate| {
            candidate.until > now
                && !failed.contains_key(&candidate.key)
                && self.strangers.iter().all(|(key, _)| *key != candidate.key)
        };
        if self.allowance < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - self.allowance) / STRANGERS_PER_SECOND);
            let mut waiting = waiting;
            let is_wanted = waiting.any(|candidate| is_stranger(&candidate));
            return Err(if is_wanted { now.saturating_add(wait) } else { soonest_end });
        }
        let (mut again, mut found) = (soonest_end, None);
        for (place, candidate) in waiting.enumerate().filter(|(_, candidate)| is_stranger(candidate)) {
            let due = candidate.due(refuses);
            if due > now {
                again = again.min(due);
            } else if candidate.is_known_good {
                return Ok((place, candidate.key));
            } else if found.is_none() {
                found = Some((place, candidate.key));
            }
        }
        found.ok_or(again)
    }

    /// When the next probe of a key that failed may begin.
    fn earliest(&self) -> Duration {
        self.probing.unwrap_or_default().max(self.next)
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
        let earliest = self.earliest();
        let (mut again, mut best) = (Duration::MAX, None);
        for (place, candidate) in waiting.enumerate() {
            let Some(failed) = failed.get(&candidate.key).filter(|_| candidate.until > now) else { continue };
            let due = failed.next.max(candidate.due(refuses)).max(earliest);
            let is_later = self.turns.is_multiple_of(2) && !candidate.is_known_good;
            let rank = (is_later, failed.turns, candidate.means != Means::Fresh);
            if due > now {
                again = again.min(due);
            } else if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, (place, candidate.key)));
            }
        }
        best.map(|(_, found)| found).ok_or(again)
    }
}

impl Candidate {
    /// Until when it leaves the probe to others: if the failure of its own would be its answer, or would say nothing.
    fn due(&self, refuses: bool) -> Duration {
        let longest = match self.means {
            _ if self.is_hopeless => HOPELESS_PATIENCE,
            Means::Fresh | Means::Spare => return self.joined,
            Means::SpareUnlessSent if refuses => return self.joined,
            Means::SpareUnlessSent | Means::Nothing => LAST_PATIENCE,
        };
        self.joined.saturating_add(longest.min(self.until.saturating_sub(self.joined) / 2))
    }
}

/// How long a probe is alone. After that the next may go: the request may be one that takes its time.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long one whose failure would be its answer waits for another that can probe at less cost, or half of its time.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The same for a key whose failure says nothing.
const HOPELESS_PATIENCE: Duration = Duration::from_secs(5);

/// The least time between two probes of keys that failed.
const GAP: Duration = Duration::from_millis(100);

/// Strangers whose probes are under way at once; as many may go in a row.
const MAX_STRANGERS: usize = 8;

/// How many may go after those.
const STRANGERS_PER_SECOND: f64 = 20.0;

/// Keys whose failures are kept apart in one outage.
const MAX_KEYS: usize = 4096;

/// How long those who wait are let go one after another. Doubled every 100 ms, a window is past any line by then.
const RECOVERY: Duration = Duration::from_secs(2);

/// How long a window stays as it is without an answer.
const STEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
