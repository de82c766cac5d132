//! What a cluster's attempts say about it: the row of its failures, whether that is an outage, and what it teaches.

use std::time::Duration;

use crate::policy::expect::{Expect, Failure, Key, Kind, Lessons, Row};
use crate::policy::outage::{Candidate, Change, Grounds, Next, Outage, Permit};

/// The judge of a cluster, whose endpoints are known as `E`. Time is passed in, and what is learned goes to an [`Expect`].
#[derive(Debug)]
pub struct Watch<E> {
    /// The fewest failures that are an outage; none if nothing is to be one.
    enter_after: Option<u32>,
    row: Row<E>,
    lessons: Lessons,
    outage: Outage,
    /// When the first failure of the present outage, or of the last one, ended.
    since: Duration,
    /// The keys that it was found by, for people.
    shown: String,
    /// Whether the last failure had sent nothing: then a probe costs even those nothing that may not be sent twice.
    refuses: bool,
}

/// The end of an attempt that told something.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// The right that it was made by.
    pub permit: Permit,
    /// What was asked for.
    pub key: &'a Key,
    /// When the attempt began.
    pub began: Duration,
    /// Now.
    pub now: Duration,
}

/// What a failure is laid beside.
#[derive(Debug)]
pub struct Circumstances<'a, E, S, P> {
    /// The endpoints in balancing, each with whether no connection has opened since it refused one.
    pub endpoints: &'a [(E, bool)],
    /// The key for people.
    pub show: S,
    /// The wait before a key's next probe, by its number.
    pub pause: P,
}

/// How much there is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing has failed since the last success, and no lesson waits.
    Idle,
    /// A success would end a row, or decide on a lesson.
    Watched,
    /// Attempts have to wait until they may go.
    Down,
}

impl<E: Copy + PartialEq> Watch<E> {
    /// A cluster that is up. `enter_after` is the fewest failures that are an outage; none if nothing is to be one.
    pub fn new(enter_after: Option<u32>) -> Self {
        Self {
            enter_after,
            row: Row::new(),
            lessons: Lessons::default(),
            outage: Outage::default(),
            since: Duration::ZERO,
            shown: String::new(),
            refuses: false,
        }
    }

    /// How much there is to look at.
    pub fn mode(&self) -> Mode {
        if self.outage.is_down() {
            Mode::Down
        } else if self.row.is_empty() && self.lessons.is_empty() {
            Mode::Idle
        } else {
            Mode::Watched
        }
    }

    /// Whether those who come have to wait for their turn.
    pub fn is_down(&self) -> bool {
        self.outage.is_down()
    }

    /// Whether the cluster is down, so that it is tried and not yet filled.
    pub fn is_tried(&self) -> bool {
        self.outage.is_tried()
    }

    /// How surprising the failures since the last success are together.
    pub fn surprise(&self) -> f64 {
        self.row.surprise()
    }

    /// The failures since the last success, for people.
    pub fn show(&self) -> String {
        self.row.show()
    }

    /// When the first failure of the present outage, or of the last one, ended.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// The keys that the present or last outage was found by, for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Forgets the failures and their lessons.
    pub fn forget(&mut self) {
        (self.row, self.lessons) = (Row::new(), Lessons::default());
    }

    /// Takes note of an attempt that succeeded.
    pub fn succeeded(&mut self, ended: Ended<'_>, expect: &Expect) -> Change {
        let Ended { permit, key, began, now } = ended;
        self.lessons.note(key.id(), began, None, expect, now);
        let failed_probes = self.outage.failed_probes();
        let change = self.outage.success(permit, key.id(), self.row.is_older_than(began), now);
        if change == Change::Recovering {
            let lessons = self.row.end_outage(failed_probes, expect, now);
            self.lessons.replace(lessons, expect, now);
        } else if !self.outage.is_tried() {
            self.row.end(began, expect, now);
        }
        expect.note_success(key, now);
        change
    }

    /// Takes note of an attempt that failed: `failure`, of the key that `ended` names.
    pub fn failed<S, P>(
        &mut self,
        ended: Ended<'_>,
        failure: &Failure<'_, E>,
        circumstances: Circumstances<'_, E, S, P>,
        expect: &Expect,
    ) -> Change
    where
        S: FnOnce() -> String,
        P: FnOnce(u32) -> Duration,
    {
        let Ended { permit, key, began, now } = ended;
        let Circumstances { endpoints, show, pause } = circumstances;
        expect.note_failure(now);
        self.lessons.note(key.id(), began, Some(failure.kind), expect, now);
        let was_tried = self.outage.is_tried();
        if !was_tried {
            let is_refusing = |refused| {
                endpoints.iter().any(|(endpoint, is_refusing)| *endpoint == refused && *is_refusing)
            };
            self.row.forget_refusals(expect, is_refusing, now);
        }
        self.row.note(failure, expect, show, now);
        self.refuses = failure.kind == Kind::Refused;
        let in_balancing = || endpoints.iter().map(|(endpoint, _)| *endpoint);
        let is_outage = !was_tried
            && self
                .enter_after
                .is_some_and(|fewest| self.row.is_surprising(fewest, in_balancing(), failure.in_flight, now));
        if !is_outage {
            self.outage.failure(permit, key.id(), failure.weight, pause, now);
            return Change::Nothing;
        }
        (self.since, self.shown) = (self.row.began().unwrap_or(now), self.row.show());
        let grounds = if self.row.is_of_new_keys() { Grounds::NewKeys } else { Grounds::KnownKeys };
        self.outage.begin(self.row.keys().chain([key.id()]), grounds, pause(1), now);
        Change::Down
    }

    /// Takes note of an exchange that went with `permit` and ended without telling anything.
    pub fn abandon(&mut self, permit: Permit, key: &Key) {
        self.outage.abandon(permit, key.id());
    }

    /// Takes note of a check that passed at an endpoint in balancing: one of those who wait may try the cluster.
    pub fn check_passed(&mut self) {
        self.outage.check_passed();
    }

    /// When one that has just come may go whose key failed in this outage; none if that takes a look at all who wait.
    pub fn due(&self, candidate: &Candidate) -> Option<Duration> {
        self.outage.due(candidate, self.refuses)
    }

    /// What may happen next at `now` to those who wait; it has happened then.
    pub fn next<'a, I>(&mut self, waiting: I, now: Duration) -> Next
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        if waiting.clone().next().is_none() {
            self.outage.queue_is_empty();
            return Next::NotBefore(Duration::MAX);
        }
        self.outage.next(waiting, self.refuses, now)
    }
}
