//! The failures of a cluster since its last success: how surprising they are together, and what they teach once the row
//! has ended.
//!
//! What fails is learned late, on purpose. A row that ends by a success shows that the cluster was up, so its failures
//! were the keys' own. What an outage would teach waits for the key's first attempt after it: then a success drops the
//! lesson. So a cluster of one key never becomes hopeless by its own outage.

use std::time::Duration;

use super::{Ending, Expect, Key, KeyId, LIGHT, SURPRISE};

/// What a failure says about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key: the request went out, and its answer was a failure, or its connection broke.
    Answered,
    /// The key, and not the cluster: no answer in time. Slow is not broken.
    Late,
    /// The endpoint: nothing of the request was sent.
    Refused,
}

/// A failure, as a row takes note of it.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a, E> {
    /// What it says something about.
    pub kind: Kind,
    /// Where it happened.
    pub endpoint: E,
    /// What was asked for.
    pub key: &'a Key,
    /// The exchange, by a number that few others have.
    pub exchange: u32,
    /// How surprising it is.
    pub weight: f64,
    /// How many attempts at the cluster were under way when it ended.
    pub in_flight: usize,
}

/// Failures since the last success.
#[derive(Debug)]
pub struct Row<E> {
    /// How many attempts were under way when the first of them ended that is evidence.
    in_flight: usize,
    /// Those that are evidence against endpoints that were reached.
    answered: Evidence<E>,
    /// Those of endpoints that were not reached. They leave when a connection opens.
    refused: Evidence<E>,
    /// When the first of these ended.
    refused_since: Option<Duration>,
    /// The exchanges that found an endpoint unreachable.
    unreached: Vec<u32>,
    /// The exchange that the first answered failure was of.
    first: Option<u32>,
    /// Whether there is evidence beside what that exchange was answered.
    has_others: bool,
    /// Whether a key failed that was known as good, or a connection did.
    has_known: bool,
    /// Failures of exchanges that had failed in this row before.
    again: u32,
    lessons: Vec<Lesson>,
}

#[derive(Debug)]
struct Evidence<E> {
    at: Vec<Share<E>>,
}

/// The failures at one endpoint.
#[derive(Debug)]
struct Share<E> {
    endpoint: E,
    /// The sum of their weights; waits follow it.
    weight: f64,
    /// The same, where further failures of one exchange count half at most; outages follow it.
    proof: f64,
    /// How many are evidence of their own.
    heavy: u32,
    /// When the first of these ended.
    since: Option<Duration>,
}

/// What a key's failures teach.
#[derive(Debug)]
struct Lesson {
    key: Key,
    /// The key for people.
    shown: Box<str>,
    /// The exchanges that failed: each teaches one failure, however often it was tried.
    exchanges: Vec<u32>,
}

impl<E: Copy + PartialEq> Row<E> {
    /// No failure.
    pub const fn new() -> Self {
        Self {
            in_flight: 0,
            answered: Evidence::new(),
            refused: Evidence::new(),
            refused_since: None,
            unreached: Vec::new(),
            first: None,
            has_others: false,
            has_known: false,
            again: 0,
            lessons: Vec::new(),
        }
    }

    /// Whether nothing has failed since the last success.
    pub fn is_empty(&self) -> bool {
        self.began().is_none() && self.lessons.is_empty()
    }

    /// Takes note of a failure. `show` gives its key for people.
    pub fn note(
        &mut self,
        failure: &Failure<'_, E>,
        expect: &Expect,
        show: impl FnOnce() -> String,
        now: Duration,
    ) {
        if self.began().is_none() {
            self.in_flight = failure.in_flight;
        }
        if failure.kind == Kind::Refused {
            self.refused_since.get_or_insert(now);
            self.refused.note(failure.endpoint, failure.weight, failure.weight, now);
            remember(&mut self.unreached, failure.exchange);
            (self.has_others, self.has_known) = (true, true);
            return;
        }
        let mut is_again = false;
        if let Some(lesson) = self.lessons.iter_mut().find(|lesson| lesson.key == *failure.key) {
            is_again = !remember(&mut lesson.exchanges, failure.exchange);
        } else if self.lessons.len() < MAX_KEYS {
            let (key, exchanges) = (*failure.key, vec![failure.exchange]);
            self.lessons.push(Lesson { key, shown: show().into(), exchanges });
        }
        if failure.kind == Kind::Answered {
            self.has_known |= expect.is_known_good(failure.key, now);
            self.has_others |= *self.first.get_or_insert(failure.exchange) != failure.exchange;
            self.again = self.again.saturating_add(u32::from(is_again));
            // What fails again may be this request, and not the cluster.
            let again = || (failure.weight / 2.0).min(super::weight(expect.again_q()));
            let proof = if is_again { again() } else { failure.weight };
            self.answered.note(failure.endpoint, failure.weight, proof, now);
        }
    }

    /// The sum of the weights.
    pub fn surprise(&self) -> f64 {
        self.answered.sum() + self.refused.sum()
    }

    /// Whether chance does not explain the row. It needs enough weight at each of `endpoints`, where further failures of
    /// one exchange count half at most, and `enter_after` failures. It has lasted for 5 ms, in which a busy cluster makes
    /// hundreds of attempts. And more attempts have failed than have come under way since it began, by the `in_flight` of
    /// now: where failures are fast and answers take seconds, those are the answers. One exchange alone is no proof while
    /// others are under way. It may be the request that fails, and they are about to tell.
    pub fn is_surprising(
        &self,
        enter_after: u32,
        mut endpoints: impl Iterator<Item = E>,
        in_flight: usize,
        now: Duration,
    ) -> bool {
        let is_long = self.began().is_some_and(|began| now.saturating_sub(began) >= LEAST_SPAN);
        let failures = self.answered.heavy().saturating_add(self.refused.heavy());
        is_long
            && failures >= enter_after
            && failures as usize > in_flight.saturating_sub(self.in_flight)
            && (self.has_others || in_flight <= 1)
            && self.answered.proof() + self.refused.proof() >= SURPRISE
            && endpoints.all(|endpoint| self.answered.at(endpoint) + self.refused.at(endpoint) >= SURPRISE)
    }

    /// Whether an attempt that began at `began` knows more than the row.
    pub fn is_older_than(&self, began: Duration) -> bool {
        self.began().is_none_or(|first| first < began)
    }

    /// When the first failure ended that is evidence still.
    pub fn began(&self) -> Option<Duration> {
        self.answered.at.iter().chain(&self.refused.at).filter_map(|share| share.since).min()
    }

    /// Takes the refusals out of the row whose endpoints have let a connection open since.
    pub fn forget_refusals(&mut self, expect: &Expect, is_refusing: impl Fn(E) -> bool, now: Duration) {
        self.refused.at.retain(|share| is_refusing(share.endpoint));
        if self.refused.at.is_empty() && self.refused_since.is_some() {
            self.drop_refusals(expect, now);
        }
    }

    fn drop_refusals(&mut self, expect: &Expect, now: Duration) {
        self.refused = Evidence::new();
        self.refused_since = None;
        for exchange in self.unreached.drain(..) {
            expect.note_connection(Ending::Failure(exchange), now);
        }
    }

    /// Ends the row by a success while the cluster is up, and learns from it. One that began before the row ends it as
    /// well, or a backend whose failures are fast and whose answers are slow would always be in outage; but it does not
    /// show that a connection can be made.
    pub fn end(&mut self, began: Duration, expect: &Expect, now: Duration) {
        if self.refused_since.is_some_and(|since| since < began) {
            self.drop_refusals(expect, now);
        }
        for lesson in self.lessons.drain(..) {
            lesson.learn(expect, now);
        }
        for _ in 0..self.again.min(MAX_AGAIN) {
            expect.note_again(Ending::Failure(0), now);
        }
        self.answered = Evidence::new();
        (self.first, self.again) = (None, 0);
        (self.has_others, self.has_known) = (self.refused_since.is_some(), self.refused_since.is_some());
    }

    /// Ends the row of an outage. What it teaches is learned only if the outage was over with the first probe: then it may
    /// have been chance.
    pub fn end_outage(&mut self, failed_probes: u32, expect: &Expect, now: Duration) -> Lessons {
        let mut row = std::mem::take(self);
        if failed_probes > 1 {
            return Lessons { ended: now, waiting: row.lessons };
        }
        row.drop_refusals(expect, now);
        for lesson in row.lessons {
            lesson.learn(expect, now);
        }
        Lessons::default()
    }

    /// Whether only keys have failed of which no success is known: they may always fail.
    pub fn is_of_new_keys(&self) -> bool {
        !self.has_known
    }

    /// The keys that failed.
    pub fn keys(&self) -> impl Iterator<Item = KeyId> {
        self.lessons.iter().map(|lesson| lesson.key.id())
    }

    /// The same for people, at most three and the number of the others.
    pub fn show(&self) -> String {
        let mut shown: Vec<_> = self.lessons.iter().take(SHOWN).map(|lesson| &*lesson.shown).collect();
        if self.lessons.is_empty() {
            shown.push("connections");
        }
        let more = self.lessons.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        shown.join(", ") + &more
    }
}

impl<E: Copy + PartialEq> Default for Row<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Copy + PartialEq> Evidence<E> {
    const fn new() -> Self {
        Self { at: Vec::new() }
    }

    fn note(&mut self, endpoint: E, weight: f64, proof: f64, now: Duration) {
        let since = (weight >= LIGHT).then_some(now);
        let heavy = u32::from(since.is_some());
        if let Some(share) = self.at.iter_mut().find(|share| share.endpoint == endpoint) {
            share.weight += weight;
            share.proof += proof;
            share.heavy = share.heavy.saturating_add(heavy);
            share.since = share.since.or(since);
        } else if self.at.len() < MAX_ENDPOINTS {
            self.at.push(Share { endpoint, weight, proof, heavy, since });
        }
    }

    fn at(&self, endpoint: E) -> f64 {
        self.at.iter().find(|share| share.endpoint == endpoint).map_or(0.0, |share| share.proof)
    }

    fn sum(&self) -> f64 {
        // Not `sum`, which is -0 where there is nothing to add.
        self.at.iter().fold(0.0, |all, share| all + share.weight)
    }

    fn proof(&self) -> f64 {
        self.at.iter().map(|share| share.proof).sum()
    }

    fn heavy(&self) -> u32 {
        self.at.iter().fold(0, |all: u32, share| all.saturating_add(share.heavy))
    }
}

impl Lesson {
    /// The same for what its key is part of.
    fn learn_above(&self, expect: &Expect, now: Duration) {
        for exchange in &self.exchanges {
            expect.note_above(&self.key, Ending::Failure(*exchange), now);
        }
    }

    fn learn(&self, expect: &Expect, now: Duration) {
        for exchange in &self.exchanges {
            expect.note(&self.key, Ending::Failure(*exchange), now);
        }
    }
}

/// What an outage would teach, if it were not the outage's doing.
#[derive(Debug, Default)]
pub struct Lessons {
    ended: Duration,
    waiting: Vec<Lesson>,
}

impl Lessons {
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts those of a later outage in their place. A key that has not come again since the earlier one is no more to be
    /// known, but one of many that fail: without that, ever new paths would be as surprising for ever.
    pub fn replace(&mut self, later: Self, expect: &Expect, now: Duration) {
        if later.waiting.is_empty() {
            return;
        }
        let earlier = std::mem::replace(self, later);
        for lesson in earlier.waiting {
            if self.waiting.iter().all(|other| other.key != lesson.key) {
                lesson.learn_above(expect, now);
            }
        }
    }

    /// Lays the end of an attempt before the lessons. A key's first attempt that began after the outage decides on its
    /// own: an answered failure commits it, everything else drops it. A key that has not come for ten minutes teaches the
    /// levels above it.
    pub fn note(
        &mut self,
        key: KeyId,
        began: Duration,
        failure: Option<Kind>,
        expect: &Expect,
        now: Duration,
    ) {
        if began <= self.ended {
            return;
        }
        if now.saturating_sub(self.ended) > PATIENCE {
            self.waiting.drain(..).for_each(|lesson| lesson.learn_above(expect, now));
            return;
        }
        let place = self.waiting.iter().position(|lesson| lesson.key.id() == key);
        let lesson = place.map(|place| self.waiting.swap_remove(place));
        if let (Some(lesson), Some(Kind::Answered)) = (lesson, failure) {
            lesson.learn(expect, now);
        }
    }
}

/// Notes an exchange once; says whether it had not been noted.
fn remember(exchanges: &mut Vec<u32>, exchange: u32) -> bool {
    let is_new = !exchanges.contains(&exchange);
    if is_new && exchanges.len() < MAX_EXCHANGES {
        exchanges.push(exchange);
    }
    is_new
}

/// Keys whose failures are kept until the row ends: as many as make up what is known of the level above them.
const MAX_KEYS: usize = 64;

/// Exchanges of one key that are kept: as many as make up what is known of it.
const MAX_EXCHANGES: usize = 64;

/// Failures of retries that one row teaches: as many as make up what is known of them.
const MAX_AGAIN: u32 = 64;

/// Endpoints whose evidence is kept. Beyond so many a row cannot be everywhere, so there is no outage.
const MAX_ENDPOINTS: usize = 256;

/// How long a lesson waits for its key.
const PATIENCE: Duration = Duration::from_mins(10);

/// Keys that a line of the log names.
const SHOWN: usize = 3;

/// The shortest time that a row of failures has to last.
const LEAST_SPAN: Duration = Duration::from_millis(5);
