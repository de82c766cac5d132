//! A model of a cluster in front of which the limiter stands: servers, a queue, a limit to that queue, and users who do not
//! wait for each other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;
use crate::policy::admission::{expected_wait, fits, is_predictable};

/// How long an answer takes once a server has begun with it, in seconds, by the time.
pub(super) type Service = fn(f64, &mut fastrand::Rng) -> f64;

/// A backend.
#[derive(Clone, Copy)]
pub(super) struct Backend {
    pub(super) servers: usize,
    pub(super) service: Service,
    /// How many it lets wait; further ones fail at once.
    pub(super) queue: usize,
    /// The share of answers that are failures by chance.
    pub(super) errors: f64,
}

impl Backend {
    /// One that queues whatever comes.
    pub(super) fn queueing(servers: usize, service: Service) -> Self {
        Self { servers, service, queue: usize::MAX, errors: 0.0 }
    }

    /// One that carries anything.
    pub(super) fn unlimited(service: Service) -> Self {
        Self::queueing(usize::MAX, service)
    }
}

/// What became of the requests of a phase.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Phase {
    pub(super) seconds: f64,
    /// Good answers per second.
    pub(super) goodput: f64,
    pub(super) refused: u32,
    /// Failures, by chance or because the backend's queue was full.
    pub(super) failed: u32,
    /// The longest wait for the limit, in seconds.
    pub(super) longest_wait: f64,
    /// The longest time that an answer took, in seconds, from when the request was let through.
    pub(super) longest_answer: f64,
}

/// Seconds that a request waits at most for the limit.
pub(super) const QUEUE_TIME: f64 = 1.0;

#[derive(Clone, Copy)]
enum Event {
    Arrival,
    Answer { began: f64, fails: bool },
    Refusal,
}

struct Simulation {
    backend: Backend,
    random: fastrand::Rng,
    limiter: Limiter,
    now: f64,
    events: BinaryHeap<Reverse<(u64, usize)>>,
    what: Vec<Event>,
    /// Those that wait for the limit, by when they came.
    waiting: VecDeque<f64>,
    in_flight: u32,
    busy: usize,
    queued: VecDeque<f64>,
    answered: u32,
    failed: u32,
    latencies: f64,
    latest: VecDeque<f64>,
    window_began: f64,
    was_never_empty: bool,
    has_held: bool,
}

/// Plays phases of so many seconds with so many requests per second.
pub(super) fn run(backend: Backend, phases: &[(f64, f64)], seed: u64) -> Vec<Phase> {
    let mut simulation = Simulation {
        backend,
        random: fastrand::Rng::with_seed(seed),
        limiter: Limiter::new(),
        now: 0.0,
        events: BinaryHeap::new(),
        what: Vec::new(),
        waiting: VecDeque::new(),
        in_flight: 0,
        busy: 0,
        queued: VecDeque::new(),
        answered: 0,
        failed: 0,
        latencies: 0.0,
        latest: VecDeque::new(),
        window_began: 0.0,
        was_never_empty: false,
        has_held: false,
    };
    simulation.at(0.0, Event::Arrival);
    let mut until = 0.0;
    let play = |(seconds, rate): &(f64, f64)| {
        until += *seconds;
        let mut phase = simulation.play(until, *rate);
        (phase.seconds, phase.goodput) = (*seconds, phase.goodput / *seconds);
        phase
    };
    phases.iter().map(play).collect()
}

impl Simulation {
    fn at(&mut self, after: f64, event: Event) {
        let nanos = Duration::from_secs_f64(self.now + after).as_nanos();
        self.events.push(Reverse((nanos.try_into().unwrap(), self.what.len())));
        self.what.push(event);
    }

    fn play(&mut self, until: f64, rate: f64) -> Phase {
        let mut phase = Phase::default();
        while let Some(Reverse((at, number))) = self.events.peek().copied() {
            if at as f64 / 1e9 > until {
                break;
            }
            self.events.pop();
            self.now = at as f64 / 1e9;
            match self.what[number] {
                Event::Arrival => {
                    let next = -(1.0 - self.random.f64()).ln() / rate;
                    self.at(next, Event::Arrival);
                    self.arrive(&mut phase);
                }
                Event::Answer { began, fails } => {
                    self.busy -= 1;
                    let took = self.now - began;
                    phase.longest_answer = phase.longest_answer.max(took);
                    if fails {
                        self.fail(&mut phase);
                    } else {
                        (self.answered, self.latencies) = (self.answered + 1, self.latencies + took);
                        self.latest.push_front(took);
                        self.latest.truncate(LATEST);
                        phase.goodput += 1.0;
                    }
                    if let Some(began) = self.queued.pop_front() {
                        self.serve(began);
                    }
                    self.leave();
                }
                Event::Refusal => {
                    self.fail(&mut phase);
                    self.leave();
                }
            }
            self.admit(&mut phase);
        }
        phase
    }

    fn has_room(&self) -> bool {
        self.limiter.limit().is_none_or(|limit| self.in_flight < limit)
    }

    fn arrive(&mut self, phase: &mut Phase) {
        let wait = expected_wait(self.waiting.len(), self.limiter.held_to());
        let is_predictable = is_predictable(self.waiting.len(), self.in_flight);
        if !self.has_room() && is_predictable && !fits(wait, Duration::from_secs_f64(QUEUE_TIME)) {
            phase.refused += 1;
        } else {
            self.waiting.push_back(self.now);
        }
    }

    fn admit(&mut self, phase: &mut Phase) {
        while self.has_room() {
            let Some(came) = self.waiting.pop_front() else { break };
            let waited = self.now - came;
            if waited > QUEUE_TIME {
                phase.refused += 1;
                continue;
            }
            phase.longest_wait = phase.longest_wait.max(waited);
            self.in_flight += 1;
            if self.busy < self.backend.servers {
                self.serve(self.now);
            } else if self.queued.len() < self.backend.queue {
                self.queued.push_back(self.now);
            } else {
                self.at(0.0005, Event::Refusal);
            }
        }
        if self.waiting.is_empty() {
            self.was_never_empty = false;
        } else {
            self.has_held = true;
        }
    }

    fn serve(&mut self, began: f64) {
        self.busy += 1;
        let takes = (self.backend.service)(self.now, &mut self.random);
        let fails = self.random.f64() < self.backend.errors;
        self.at(takes, Event::Answer { began, fails });
    }

    fn fail(&mut self, phase: &mut Phase) {
        phase.failed += 1;
        self.failed += 1;
    }

    fn leave(&mut self) {
        self.in_flight -= 1;
        let mean = self.latencies / f64::from(self.answered.max(1));
        let window = Window {
            answered: self.answered,
            failed: self.failed,
            latency: Duration::from_secs_f64(mean),
            median: Duration::from_secs_f64(median(&self.latest)),
            length: Duration::from_secs_f64(self.now - self.window_began),
            in_flight: self.in_flight,
            lingering: 0,
            pressure: match (self.was_never_empty, self.has_held) {
                (true, _) => Pressure::Full,
                (false, true) => Pressure::Some,
                (false, false) => Pressure::None,
            },
        };
        if self.limiter.is_due(&window) {
            self.limiter.note(&window);
            (self.answered, self.failed, self.latencies) = (0, 0, 0.0);
            self.latest.clear();
            self.window_began = self.now;
            (self.was_never_empty, self.has_held) = (!self.waiting.is_empty(), false);
        }
    }
}

/// As many as the proxy looks at for a median.
const LATEST: usize = 32;

fn median(of: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<_> = of.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// A service time that is always the same.
macro_rules! fixed {
    ($seconds:expr) => {
        |_, _| $seconds
    };
}

/// One that varies as if servers forgot how long they have been at work.
macro_rules! varying {
    ($seconds:expr) => {
        |_, random| $seconds * -(1.0 - random.f64()).ln()
    };
}

pub(super) use {fixed, varying};
