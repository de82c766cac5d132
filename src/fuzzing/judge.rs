//! How failures are judged, driven by any bytes: attempts of several kinds at two endpoints, some under way for long, a
//! queue in which they wait, checks that pass, and a clock that goes on.

use std::time::Duration;

use http::Method;

use crate::policy::expect::{self, Expect, Failure, Key, Kind, Secret, Subject};
use crate::policy::outage::{Candidate, Change, Next, Permit, Stake};
use crate::policy::watch::{Circumstances, Ended, Watch};

/// Whatever ends in whatever order: no figure leaves its bounds, an outage begins by surprise alone and ends by a success
/// that is younger, those who wait always have a moment to look again, and nobody waits for ever.
pub fn judge(bytes: &[u8]) {
    let mut stage = Stage::new();
    for pair in bytes.chunks_exact(2).take(MAX_EVENTS) {
        stage.play(pair[0], pair[1]);
        stage.check();
    }
    stage.let_all_go();
}

struct Stage {
    expect: Expect,
    watch: Watch<u8>,
    keys: Vec<Key>,
    now: Duration,
    under_way: Vec<Attempt>,
    waiting: Vec<Candidate>,
    exchanges: u32,
}

#[derive(Clone, Copy)]
struct Attempt {
    key: Key,
    began: Duration,
    permit: Permit,
    exchange: u32,
}

impl Stage {
    fn new() -> Self {
        let expect = Expect::new(Secret::new(11, 13));
        let rests = ["/a", "/b", "/a/b/c", "/patients/7", "/deadbeefcafe/x", ""];
        let keys = rests.map(|rest| expect.key(&Subject { route: "all", method: &Method::GET, rest }));
        Self {
            expect,
            watch: Watch::new(Some(3)),
            keys: keys.into(),
            now: Duration::from_secs(1),
            under_way: Vec::new(),
            waiting: Vec::new(),
            exchanges: 0,
        }
    }

    fn play(&mut self, event: u8, choice: u8) {
        match event % 8 {
            0 => self.arrive(choice),
            1 => self.end(choice, None),
            2 => self.end(choice, Some(Kind::Answered)),
            3 => self.end(choice, Some(Kind::Refused)),
            4 => self.end(choice, Some(Kind::Late)),
            5 => self.now += Duration::from_millis(u64::from(choice) * 7),
            6 => self.watch.check_passed(),
            _ => self.leave(choice),
        }
        self.look();
    }

    /// A request comes; it waits while the cluster is down.
    fn arrive(&mut self, choice: u8) {
        let key = self.keys[usize::from(choice) % self.keys.len()];
        let stake = [Stake::Fresh, Stake::Spare, Stake::SpareUnlessSent, Stake::Nothing];
        if self.watch.is_down() {
            self.waiting.push(Candidate {
                key: key.id(),
                is_known_good: self.expect.is_known_good(&key, self.now),
                is_hopeless: self.expect.is_hopeless(&key, self.now),
                has_failed: choice & 32 != 0,
                stake: stake[usize::from(choice >> 6)],
                joined: self.now,
                until: self.now + Duration::from_secs(10),
            });
        } else {
            self.begin(key, Permit::FREE);
        }
    }

    fn begin(&mut self, key: Key, permit: Permit) {
        self.exchanges += 1;
        self.under_way.push(Attempt { key, began: self.now, permit, exchange: self.exchanges });
    }

    /// An attempt ends, as the outage queue takes note of it.
    fn end(&mut self, choice: u8, failure: Option<Kind>) {
        if self.under_way.is_empty() {
            return;
        }
        let place = usize::from(choice) % self.under_way.len();
        let Attempt { key, began, permit, exchange } = self.under_way.swap_remove(place);
        let (expect, now) = (&self.expect, self.now);
        let ended = Ended { permit, key: &key, began, now };
        let (was_tried, since) = (self.watch.is_tried(), self.watch.since());
        let Some(kind) = failure else {
            let change = self.watch.succeeded(ended, expect);
            assert_eq!(
                change == Change::Recovering,
                was_tried && began > since,
                "an older success ended an outage"
            );
            return;
        };
        let q = if kind == Kind::Refused { expect.connection_q() } else { expect.q(&key, now) };
        let weight = expect::weight(q);
        let before = self.watch.surprise();
        let in_flight = self.under_way.len();
        let failure = Failure { kind, endpoint: choice & 1, key: &key, exchange, weight, in_flight };
        let circumstances = Circumstances {
            endpoints: &[(0, true), (1, true)],
            show: String::new,
            pause: |number| Duration::from_millis(100) * number,
        };
        let change = self.watch.failed(ended, &failure, circumstances, expect);
        let grown = if kind == Kind::Late { 0.0 } else { weight };
        assert!((self.watch.surprise() - before - grown).abs() < 1e-6, "a failure weighs something else");
        assert!(!was_tried || change == Change::Nothing, "an outage within an outage");
        assert!(
            change != Change::Down || self.watch.surprise() >= 2.0 * expect::SURPRISE,
            "an outage without surprise at both endpoints"
        );
    }

    /// A caller leaves: one who waits, or one whose attempt is under way.
    fn leave(&mut self, choice: u8) {
        if choice & 1 == 0 && !self.waiting.is_empty() {
            self.waiting.remove(usize::from(choice) % self.waiting.len());
        } else if !self.under_way.is_empty() {
            let attempt = self.under_way.remove(usize::from(choice) % self.under_way.len());
            self.watch.abandon(attempt.permit, &attempt.key);
        }
    }

    /// Lets go whoever may go.
    fn look(&mut self) {
        self.waiting.retain(|candidate| candidate.until > self.now);
        loop {
            match self.watch.next(self.waiting.iter(), self.now) {
                Next::Go(place, permit) => {
                    let gone = self.waiting.remove(place);
                    let key = *self.keys.iter().find(|key| key.id() == gone.key).expect("a key of ours");
                    self.begin(key, permit);
                }
                Next::NotBefore(at) => {
                    assert!(at > self.now, "look again at once, for ever");
                    return;
                }
            }
        }
    }

    fn check(&self) {
        for key in &self.keys {
            let q = self.expect.q(key, self.now);
            assert!((expect::LEAST..=1.0).contains(&q), "q is {q}");
            let chance = expect::chance_of_success(q, self.watch.surprise());
            assert!((0.0..=1.0).contains(&chance), "the chance is {chance}");
        }
        assert!(self.watch.surprise() >= 0.0 && self.watch.show().len() < 1000);
    }

    /// From here on all is well: with what is under way and what waits it ends within a minute.
    fn let_all_go(&mut self) {
        for _ in 0..1200 {
            if self.waiting.is_empty() && self.under_way.is_empty() {
                return;
            }
            while !self.under_way.is_empty() {
                self.end(0, None);
            }
            self.look();
            self.now += Duration::from_millis(50);
        }
        panic!("{} wait for ever", self.waiting.len());
    }
}

/// What a run of a second can play.
const MAX_EVENTS: usize = 4000;
