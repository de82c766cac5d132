//! When an endpoint leaves balancing and how it comes back: healthy → ejected → probing → healthy, or ejected anew for
//! twice as long. Beside what traffic shows, health checks may take it out; to come back it needs the consent of both.
//! Times are durations since any fixed moment, passed in.
//!
//! Traffic speaks against an endpoint by its failures since its last success, each with its surprise
//! ([`crate::policy::expect`]): a request that fails at every endpoint weighs nothing. If the evidence is false all the
//! same, callers lose nothing while the others carry the load: at most `max_ejected` of the endpoints are out.
//!
//! Where the others fail, time outs must not keep a well endpoint from callers. Where each endpoint is out, or has failed
//! as if it should be, all are tried as if none were out. Else a retry that has been everywhere tries one that is out,
//! once a second (`upstream::balance`). Such an early probe may restore an endpoint, and its failure changes nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::policy::expect::{LIGHT, SURPRISE};

/// What an operator sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectionSettings {
    consecutive_failures: u32,
    time: Duration,
    max_time: Duration,
    max_ejected: f64,
}

/// Why [`EjectionSettings`] cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidEjection {
    /// Zero failures would eject at once.
    #[error("`consecutive_failures` must be at least 1")]
    ConsecutiveFailures,
    /// The cap lies below the first time out.
    #[error("`max_time` must not be less than `time`")]
    MaxTimeBelowTime,
    /// Not a share of endpoints.
    #[error("`max_ejected` must be between 0.0 and 1.0")]
    MaxEjected,
    /// Too short to be an ejection.
    #[error("`time` must be at least 1ms")]
    Time,
}

impl EjectionSettings {
    /// The share of endpoints that may be out at once.
    pub const SHARES: RangeInclusive<f64> = 0.0..=1.0;

    /// Checks and builds: at least one failure, 1 ms ≤ `time` ≤ `max_time`, 0 ≤ `max_ejected` ≤ 1.
    pub fn new(
        consecutive_failures: u32,
        time: Duration,
        max_time: Duration,
        max_ejected: f64,
    ) -> Result<Self, InvalidEjection> {
        if consecutive_failures == 0 {
            return Err(InvalidEjection::ConsecutiveFailures);
        }
        if time < Duration::from_millis(1) {
            return Err(InvalidEjection::Time);
        }
        if max_time < time {
            return Err(InvalidEjection::MaxTimeBelowTime);
        }
        if !Self::SHARES.contains(&max_ejected) {
            return Err(InvalidEjection::MaxEjected);
        }
        Ok(Self { consecutive_failures, time, max_time, max_ejected })
    }

    /// How many of `endpoints` may be out at once; a lone endpoint never is.
    pub fn most_ejected(&self, endpoints: usize) -> usize {
        if endpoints < 2 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small count"
        )]
        let most = (endpoints as f64 * self.max_ejected).floor() as usize;
        most
    }

    /// The fewest failures in a row that eject, of those that are evidence.
    pub fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// The first time out.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The longest time out.
    pub fn max_time(&self) -> Duration {
        self.max_time
    }

    /// The share of endpoints that may be out at once.
    pub fn max_ejected(&self) -> f64 {
        self.max_ejected
    }

    /// The time out at relapse `relapse`; the first ejection is 0.
    fn time_at(&self, relapse: u32) -> Duration {
        2u32.checked_pow(relapse)
            .and_then(|times| self.time.checked_mul(times))
            .map_or(self.max_time, |time| time.min(self.max_time))
    }
}

impl Default for EjectionSettings {
    /// Five failures in a row, 10 s doubled up to 5 min, at most half of the endpoints.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            time: Duration::from_secs(10),
            max_time: Duration::from_mins(5),
            max_ejected: 0.5,
        }
    }
}

/// One endpoint's health.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// By what traffic shows.
    state: State,
    /// The failures since the last success that are evidence.
    failures: u32,
    /// The surprise of all of them.
    surprise: f64,
    relapses: u32,
    /// By what health checks say.
    checks: Checks,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Checks {
    /// They have nothing against it, or there was no room to take it out.
    #[default]
    In,
    /// It failed them.
    Out,
}

/// What decides on an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// Traffic and health checks, as ever.
    Both,
    /// Traffic alone: checks shall not take away the last endpoint.
    Traffic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Healthy,
    Ejected {
        until: Duration,
        /// When a retry that has been everywhere else may try it all the same.
        early: Duration,
    },
    Probing {
        /// When its time out is over, or was: the failure of an earlier probe is no relapse.
        until: Duration,
    },
}

/// Whether an endpoint may be sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is healthy.
    Open,
    /// Its time out is over: one request may try it, after [`Health::begin_probe`].
    Probe,
    /// It is out, or another request is trying it.
    Closed,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It left balancing.
    Ejected,
    /// Its probe failed: it stays out for longer.
    Relapsed,
    /// It came back.
    Restored,
    /// Nothing that others need to know.
    Nothing,
}

impl Health {
    /// Whether a request may go to the endpoint at `now`. While checks keep it out, no request is spent on trying it.
    pub fn admission(&self, now: Duration, heed: Heed) -> Admission {
        if self.checks == Checks::Out && heed == Heed::Both {
            return Admission::Closed;
        }
        match self.state {
            State::Healthy => Admission::Open,
            State::Ejected { until, .. } if until <= now => Admission::Probe,
            State::Ejected { .. } | State::Probing { .. } => Admission::Closed,
        }
    }

    /// Whether a retry that has been everywhere else may try the endpoint before its time out is over.
    pub fn admits_early(&self, now: Duration) -> bool {
        self.checks == Checks::In && matches!(self.state, State::Ejected { early, .. } if early <= now)
    }

    /// Makes a request the endpoint's probe, if it is ejected and has none; says whether it does. To be followed by
    /// [`Health::success`], [`Health::failure`] or [`Health::abandon_probe`].
    pub fn begin_probe(&mut self) -> bool {
        let State::Ejected { until, .. } = self.state else { return false };
        self.state = State::Probing { until };
        true
    }

    /// The probing request ended without telling anything, for example because its caller left.
    pub fn abandon_probe(&mut self, now: Duration) {
        if let State::Probing { until } = self.state {
            self.state = State::Ejected { until, early: now };
        }
    }

    /// An attempt succeeded that `is_probe` or not. One that began before the ejection does not end it: only a probe does.
    pub fn success(&mut self, is_probe: bool) -> Change {
        let was_out = self.is_ejected();
        match self.state {
            State::Ejected { .. } => {}
            State::Probing { .. } if !is_probe => {}
            State::Healthy | State::Probing { .. } => *self = Self { checks: self.checks, ..Self::default() },
        }
        self.change_since(was_out)
    }

    /// An attempt failed that `is_probe` or not, with this surprise. `room` says whether the cluster can do without this
    /// endpoint as well. A probe that would have failed anywhere says nothing: the next request probes.
    pub fn failure(
        &mut self,
        settings: &EjectionSettings,
        surprise: f64,
        is_probe: bool,
        now: Duration,
        room: Room,
    ) -> Change {
        let was_out = self.is_ejected();
        match self.state {
            State::Probing { .. } if !is_probe => {}
            State::Probing { until } if surprise < LIGHT || now < until => {
                self.state = State::Ejected { until, early: now.saturating_add(EARLY) };
            }
            State::Probing { .. } => {
                self.relapses = self.relapses.saturating_add(1);
                self.eject(settings, now);
                return Change::Relapsed;
            }
            State::Healthy => {
                self.failures = self.failures.saturating_add(u32::from(surprise >= LIGHT));
                self.surprise += surprise;
                // One that checks keep out takes up its room already.
                let has_room = room == Room::Some || was_out;
                if self.is_condemned(settings) && has_room {
                    self.eject(settings, now);
                }
            }
            State::Ejected { .. } => {}
        }
        self.change_since(was_out)
    }

    /// Whether its row of failures is no chance, so that it is ejected if there is room.
    pub fn is_condemned(&self, settings: &EjectionSettings) -> bool {
        self.failures >= settings.consecutive_failures && self.surprise >= SURPRISE
    }

    fn eject(&mut self, settings: &EjectionSettings, now: Duration) {
        let until = now.saturating_add(settings.time_at(self.relapses));
        self.state = State::Ejected { until, early: now.saturating_add(EARLY) };
    }

    /// Takes a failure back: the same exchange failed at another endpoint, too.
    pub fn take_back(&mut self, surprise: f64) {
        self.failures = self.failures.saturating_sub(u32::from(surprise >= LIGHT));
        self.surprise = if self.failures == 0 { 0.0 } else { (self.surprise - surprise).max(0.0) };
    }

    /// The failures since the last success that are evidence, and until when they keep the endpoint out.
    pub fn row(&self) -> (u32, Option<Duration>) {
        let until = if let State::Ejected { until, .. } = self.state { Some(until) } else { None };
        (self.failures, until)
    }

    /// The endpoint's health checks say that it does not work. To be told again with each check that fails: there may be
    /// room later.
    pub fn checks_fail(&mut self, room: Room) -> Change {
        let was_out = self.is_ejected();
        if room == Room::Some || was_out {
            self.checks = Checks::Out;
        }
        self.change_since(was_out)
    }

    /// The endpoint's health checks have nothing against it.
    pub fn checks_pass(&mut self) -> Change {
        let was_out = self.is_ejected();
        self.checks = Checks::In;
        self.change_since(was_out)
    }

    fn change_since(&self, was_out: bool) -> Change {
        match (was_out, self.is_ejected()) {
            (false, true) => Change::Ejected,
            (true, false) => Change::Restored,
            _ => Change::Nothing,
        }
    }

    /// Nothing to remember: no failure since the last success, and nothing that checks have against it.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Out of balancing: ejected, probing, or kept out by its checks.
    pub fn is_ejected(&self) -> bool {
        self.state != State::Healthy || self.checks == Checks::Out
    }
}

/// The least time between an ejection and an early probe, and between two of these.
const EARLY: Duration = Duration::from_secs(1);

/// Whether `max_ejected` leaves room for one more ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Some,
    /// It does not, or the endpoint stands alone.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn settings(failures: u32) -> EjectionSettings {
        EjectionSettings::new(failures, seconds(10), seconds(60), 0.5).unwrap()
    }

    /// A failure that nobody expected.
    fn fail(health: &mut Health, settings: &EjectionSettings, now: Duration, room: Room) -> Change {
        let is_probe = matches!(health.state, State::Probing { .. });
        health.failure(settings, SURPRISE, is_probe, now, room)
    }

    fn succeed(health: &mut Health) -> Change {
        let is_probe = matches!(health.state, State::Probing { .. });
        health.success(is_probe)
    }

    fn ejected(settings: &EjectionSettings, now: Duration) -> Health {
        let mut health = Health::default();
        for _ in 1..settings.consecutive_failures() {
            assert_eq!(fail(&mut health, settings, now, Room::Some), Change::Nothing);
        }
        assert_eq!(fail(&mut health, settings, now, Room::Some), Change::Ejected);
        health
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let settings = settings(3);
        let mut health = Health::default();
        for _ in 0..10 {
            fail(&mut health, &settings, seconds(1), Room::Some);
            fail(&mut health, &settings, seconds(1), Room::Some);
            succeed(&mut health);
        }
        assert!(health.is_clean());
        assert!(ejected(&settings, seconds(1)).is_ejected());
    }

    #[test]
    fn one_probe_at_a_time_after_the_time_out() {
        let mut health = ejected(&settings(2), seconds(5));
        assert_eq!(health.admission(Duration::from_millis(14_999), Heed::Both), Admission::Closed);
        assert_eq!(health.admission(seconds(15), Heed::Both), Admission::Probe);
        health.begin_probe();
        assert_eq!(health.admission(seconds(15), Heed::Both), Admission::Closed);
        assert_eq!(succeed(&mut health), Change::Restored);
        assert!(health.is_clean());
    }

    #[test]
    fn each_relapse_doubles_the_time_out_up_to_max_time() {
        let settings = settings(1);
        let mut now = seconds(0);
        let mut health = ejected(&settings, now);
        for open in [10, 20, 40, 60, 60, 60] {
            let still_out = now + Duration::from_millis(open * 1000 - 1);
            assert_eq!(health.admission(still_out, Heed::Both), Admission::Closed);
            now += seconds(open);
            assert_eq!(health.admission(now, Heed::Both), Admission::Probe);
            health.begin_probe();
            assert_eq!(fail(&mut health, &settings, now, Room::Some), Change::Relapsed);
        }
    }

    #[test]
    fn an_early_probe_may_restore_and_its_failure_changes_nothing() {
        let settings = settings(1);
        let mut health = ejected(&settings, seconds(0));
        assert!(!health.admits_early(Duration::from_millis(999)));
        for second in 1..9 {
            assert!(health.admits_early(seconds(second)) && health.begin_probe());
            assert!(!health.begin_probe() && !health.admits_early(seconds(second)), "one at a time");
            assert_eq!(fail(&mut health, &settings, seconds(second), Room::Some), Change::Nothing);
            assert!(!health.admits_early(seconds(second)), "once a second");
        }
        assert_eq!(health.admission(Duration::from_millis(9999), Heed::Both), Admission::Closed);
        assert_eq!(health.admission(seconds(10), Heed::Both), Admission::Probe, "the time out is the same");
        assert!(health.begin_probe());
        assert_eq!(succeed(&mut health), Change::Restored);
        health.checks_fail(Room::Some);
        assert!(!health.admits_early(seconds(20)), "checks are heeded");
    }

    #[test]
    fn a_probe_whose_caller_left_gives_its_place_to_the_next() {
        let mut health = ejected(&settings(1), seconds(0));
        health.begin_probe();
        health.abandon_probe(seconds(20));
        assert_eq!(health.admission(seconds(20), Heed::Both), Admission::Probe);
    }

    #[test]
    fn a_late_success_from_before_the_ejection_does_not_restore() {
        let mut health = ejected(&settings(1), seconds(0));
        assert_eq!(succeed(&mut health), Change::Nothing);
        assert!(health.is_ejected());
    }

    #[test]
    fn a_lone_endpoint_is_never_ejected() {
        let all = EjectionSettings::new(1, seconds(1), seconds(1), 1.0).unwrap();
        assert_eq!(all.most_ejected(1), 0);
        assert_eq!(all.most_ejected(4), 4);
        assert_eq!(settings(1).most_ejected(2), 1);
        assert_eq!(settings(1).most_ejected(3), 1);
    }

    #[test]
    fn one_kind_of_failure_ejects_and_both_must_heal() {
        let settings = settings(1);
        // Checks first.
        let mut health = Health::default();
        assert_eq!(health.checks_fail(Room::Some), Change::Ejected);
        assert_eq!(health.admission(seconds(1), Heed::Both), Admission::Closed);
        assert_eq!(succeed(&mut health), Change::Nothing, "a request that was under way restores nothing");
        assert_eq!(fail(&mut health, &settings, seconds(1), Room::None), Change::Nothing);
        assert_eq!(
            health.admission(seconds(11), Heed::Both),
            Admission::Closed,
            "no request tries it meanwhile"
        );
        assert_eq!(health.checks_pass(), Change::Nothing, "traffic has something against it too");
        assert_eq!(health.admission(seconds(11), Heed::Both), Admission::Probe);
        health.begin_probe();
        assert_eq!(succeed(&mut health), Change::Restored);
        assert!(health.is_clean());
        // Traffic first.
        let mut health = ejected(&settings, seconds(0));
        assert_eq!(health.checks_fail(Room::None), Change::Nothing, "it takes up its room already");
        health.begin_probe();
        assert_eq!(succeed(&mut health), Change::Nothing);
        assert!(health.is_ejected() && !health.is_clean());
        assert_eq!(health.checks_pass(), Change::Restored);
        assert!(health.is_clean());
    }

    #[test]
    fn what_checks_keep_out_is_used_where_traffic_alone_is_heeded() {
        let mut health = Health::default();
        health.checks_fail(Room::Some);
        assert_eq!(health.admission(seconds(1), Heed::Traffic), Admission::Open);
        fail(&mut health, &settings(1), seconds(1), Room::None);
        assert_eq!(health.admission(seconds(1), Heed::Traffic), Admission::Closed);
        assert_eq!(health.admission(seconds(11), Heed::Traffic), Admission::Probe);
    }

    #[test]
    fn what_fails_everywhere_ejects_nobody_and_a_few_light_failures_are_no_row() {
        let settings = settings(3);
        let mut health = Health::default();
        for _ in 0..1000 {
            assert_eq!(health.failure(&settings, 0.002, false, seconds(1), Room::Some), Change::Nothing);
        }
        assert_eq!(health.row(), (0, None));
        for _ in 0..2 {
            assert_eq!(health.failure(&settings, 4.7, false, seconds(1), Room::Some), Change::Nothing);
        }
        // Three of these are a row by number and by weight.
        assert_eq!(health.failure(&settings, 4.7, false, seconds(1), Room::Some), Change::Ejected);
        assert_eq!(health.row(), (3, Some(seconds(11))));
        // By number alone they are none.
        let mut health = Health::default();
        for _ in 0..20 {
            assert_eq!(health.failure(&settings, 0.4, false, seconds(1), Room::Some), Change::Nothing);
        }
    }

    #[test]
    fn a_failure_that_is_taken_back_counts_no_more() {
        let settings = settings(3);
        let mut health = Health::default();
        for _ in 0..10 {
            health.failure(&settings, 4.7, false, seconds(1), Room::Some);
            health.failure(&settings, 4.7, false, seconds(1), Room::Some);
            health.take_back(4.7);
            health.take_back(4.7);
        }
        assert!(health.is_clean());
    }

    #[test]
    fn a_probe_that_would_fail_anywhere_and_a_straggler_decide_nothing() {
        let settings = settings(1);
        let mut health = ejected(&settings, seconds(0));
        health.begin_probe();
        health.failure(&settings, 9.3, false, seconds(11), Room::Some);
        assert!(matches!(health.state, State::Probing { .. }), "it began before the probe");
        assert_eq!(health.success(false), Change::Nothing);
        assert!(matches!(health.state, State::Probing { .. }), "so did this one");
        health.failure(&settings, 0.01, true, seconds(11), Room::Some);
        assert_eq!(health.admission(seconds(11), Heed::Both), Admission::Probe);
    }

    proptest! {
        #[test]
        fn whatever_comes_an_endpoint_is_in_exactly_while_neither_kind_holds_it(
            events in proptest::collection::vec(0u8..6, 0..100),
        ) {
            let (mut health, mut is_in) = (Health::default(), true);
            let mut now = seconds(0);
            for event in events {
                now += seconds(1);
                let change = match event {
                    0 => succeed(&mut health),
                    1 | 2 => fail(&mut health, &settings(2), now, Room::Some),
                    3 => health.checks_fail(Room::Some),
                    4 => health.checks_pass(),
                    _ => {
                        if health.admission(now, Heed::Both) == Admission::Probe {
                            health.begin_probe();
                        }
                        Change::Nothing
                    }
                };
                match change {
                    Change::Ejected | Change::Restored => {
                        prop_assert_eq!(is_in, change == Change::Ejected);
                        is_in = change == Change::Restored;
                    }
                    Change::Relapsed | Change::Nothing => {}
                }
                // What is told are changes, none is told twice, and none is kept back.
                prop_assert_eq!(is_in, !health.is_ejected());
                prop_assert_eq!(health.admission(now, Heed::Both) == Admission::Open, is_in);
                prop_assert!(event != 3 || !is_in, "a failed check with room keeps it out");
            }
        }

        #[test]
        fn without_room_nothing_is_ever_ejected(events in proptest::collection::vec(any::<bool>(), 0..100)) {
            let mut health = Health::default();
            for success in events {
                if success {
                    succeed(&mut health);
                } else {
                    fail(&mut health, &settings(1), seconds(1), Room::None);
                    health.checks_fail(Room::None);
                }
                prop_assert_eq!(health.admission(seconds(1), Heed::Both), Admission::Open);
            }
        }

        #[test]
        fn an_ejection_always_ends_within_max_time(relapses in 0u32..100) {
            prop_assert!(settings(1).time_at(relapses) <= seconds(60));
            prop_assert!(settings(1).time_at(relapses) >= seconds(10));
        }
    }
}
