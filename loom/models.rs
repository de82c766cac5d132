//! Runs the queue of waiters and the counters of admission through every order in which threads can take their steps.
//!
//! The files are those of Stent itself. Loom reports a thread that waits for ever as a deadlock: that is a lost wake-up.

use std::fmt;
use std::time::Instant;

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::atomic::{self, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

use self::counts::Counts;
use self::queue::{Owner, Place, Queue};

#[allow(dead_code, reason = "a model does not scrape")]
#[path = "../src/upstream/admission/counts.rs"]
mod counts;
#[allow(dead_code, reason = "a model knows no clock")]
#[path = "../src/upstream/queue.rs"]
mod queue;

fn main() {
    for (name, model) in MODELS {
        let begin = Instant::now();
        let mut builder = Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS);
        builder.check(model);
        println!("ok - {name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
}

/// How often a thread may be stopped between two steps in one run. Three show each bug that was tried. Five take 20 s, and without
/// a bound a model of three threads takes far longer.
const PREEMPTIONS: usize = 4;

const MODELS: [(&str, fn()); 5] = [
    ("a waiter that is called hears of it", a_waiter_that_is_called_hears_of_it),
    ("a right whose waiter leaves goes to the next", a_right_whose_waiter_leaves_goes_to_the_next),
    ("a waiter is called or expires, and not both", a_waiter_is_called_or_expires_and_not_both),
    ("no wake-up is lost between the two counters", no_wake_up_is_lost_between_the_two_counters),
    ("a place in flight is never lost with a waiter", a_place_in_flight_is_never_lost_with_a_waiter),
];

/// Rights, and the queue of those who wait for one.
struct Desk {
    inner: Mutex<Inner>,
}

struct Inner {
    queue: Queue<Right>,
    free: Vec<Right>,
}

/// It is neither copied nor cloned, so it can only be moved or lost.
#[derive(Debug)]
struct Right;

impl Desk {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { queue: Queue::new(10), free: Vec::new() }) })
    }

    fn give(&self, right: Right) {
        let mut inner = self.inner.lock().unwrap();
        match inner.queue.at(0) {
            Some(next) => next.call(right),
            None => inner.free.push(right),
        }
    }

    /// A right that is free, or a place in the queue.
    fn ask(&self) -> Result<Right, Place<&Self>> {
        let ticket = {
            let mut inner = self.inner.lock().unwrap();
            if let Some(right) = inner.free.pop() {
                return Ok(right);
            }
            inner.queue.vacancy().unwrap().join(())
        };
        Err(Place::new(self, ticket))
    }

    fn wait(&self) -> Right {
        self.ask().unwrap_or_else(|place| {
            block_on(place.news());
            place.leave(&mut self.inner.lock().unwrap().queue).expect("nobody rouses it without a right")
        })
    }

    /// How many rights there are, when no thread has one.
    fn rights(&self) -> usize {
        let inner = self.inner.lock().unwrap();
        assert!(inner.queue.is_empty());
        inner.free.len()
    }
}

impl Owner for &Desk {
    type Right = Right;
    type Waiter = ();

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<Right>) -> T) -> T {
        look(&mut self.inner.lock().unwrap().queue)
    }

    fn left(&self, unheard: Option<Right>) {
        if let Some(right) = unheard {
            self.give(right);
        }
    }
}

fn a_waiter_that_is_called_hears_of_it() {
    let desk = Desk::new();
    let waiter = in_thread(&desk, |desk| drop(desk.wait()));
    desk.give(Right);
    join([waiter]);
    assert_eq!(desk.rights(), 0);
}

fn a_right_whose_waiter_leaves_goes_to_the_next() {
    let desk = Desk::new();
    let hasty = in_thread(&desk, |desk| match desk.ask() {
        Ok(right) => desk.give(right),
        Err(place) => drop(place),
    });
    let patient = in_thread(&desk, |desk| drop(desk.wait()));
    desk.give(Right);
    join([hasty, patient]);
    assert_eq!(desk.rights(), 0);
}

fn a_waiter_is_called_or_expires_and_not_both() {
    let desk = Desk::new();
    let hasty = in_thread(&desk, |desk| {
        let right = match desk.ask() {
            Ok(right) => Some(right),
            Err(place) => place.leave(&mut desk.inner.lock().unwrap().queue),
        };
        right.into_iter().for_each(|right| desk.give(right));
    });
    let other = in_thread(&desk, |desk| desk.give(desk.wait()));
    desk.give(Right);
    join([hasty, other]);
    assert_eq!(desk.rights(), 1);
}

/// What admission does with its counters, without what it decides by.
struct Gate {
    counts: Counts,
    queue: Mutex<Queue<()>>,
    /// How many hold a place in flight.
    at_work: atomic::AtomicU32,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: Counts::new(1),
            queue: Mutex::new(Queue::new(10)),
            at_work: atomic::AtomicU32::new(0),
        })
    }

    /// A place in flight, or one in the queue.
    fn ask(&self) -> Option<Place<&Self>> {
        if self.counts.try_take() {
            return None;
        }
        let ticket = {
            let mut queue = self.queue.lock().unwrap();
            self.counts.join();
            if queue.is_empty() && self.counts.take() {
                self.counts.leave();
                return None;
            }
            let ticket = queue.vacancy().unwrap().join(());
            self.advance(&mut queue);
            ticket
        };
        Some(Place::new(self, ticket))
    }

    fn enter(&self) {
        if let Some(place) = self.ask() {
            block_on(place.news());
            place.leave(&mut self.queue.lock().unwrap()).expect("nobody rouses it without a place");
        }
    }

    fn work(&self) {
        assert_eq!(self.at_work.fetch_add(1, Ordering::Relaxed), 0, "one at a time");
        self.at_work.fetch_sub(1, Ordering::Relaxed);
        self.release();
    }

    fn release(&self) {
        if self.counts.give_back() {
            self.advance(&mut self.queue.lock().unwrap());
        }
    }

    fn advance(&self, queue: &mut Queue<()>) {
        while let Some(next) = queue.at(0)
            && self.counts.take()
        {
            self.counts.leave();
            next.call(());
        }
    }

    fn assert_is_empty(&self) {
        assert!(self.queue.lock().unwrap().is_empty());
        assert_eq!(self.counts.in_flight(), 0);
        assert!(!self.counts.has_waiters());
    }
}

impl Owner for &Gate {
    type Right = ();
    type Waiter = ();

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<()>) -> T) -> T {
        look(&mut self.queue.lock().unwrap())
    }

    fn left(&self, unheard: Option<()>) {
        match unheard {
            Some(()) => self.release(),
            None => self.counts.leave(),
        }
    }
}

fn no_wake_up_is_lost_between_the_two_counters() {
    let gate = Gate::new();
    let other = in_thread(&gate, |gate| {
        gate.enter();
        gate.work();
    });
    gate.enter();
    gate.work();
    join([other]);
    gate.assert_is_empty();
}

fn a_place_in_flight_is_never_lost_with_a_waiter() {
    let gate = Gate::new();
    gate.enter();
    let hasty = in_thread(&gate, |gate| match gate.ask() {
        None => gate.work(),
        Some(place) => drop(place),
    });
    let patient = in_thread(&gate, |gate| {
        gate.enter();
        gate.work();
    });
    gate.work();
    join([hasty, patient]);
    gate.assert_is_empty();
}

fn in_thread<T: 'static>(shared: &Arc<T>, work: impl FnOnce(&T) + 'static) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || work(&shared))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The atomic of the counters. Loom takes `SeqCst` for less than it is, and orders only fences by it: one before each such
/// access is the mapping that compilers use on machines without an instruction for it.
struct AtomicU32(atomic::AtomicU32);

impl AtomicU32 {
    fn new(value: u32) -> Self {
        Self(atomic::AtomicU32::new(value))
    }

    fn load(&self, order: Ordering) -> u32 {
        fence_before(order);
        self.0.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        fence_before(order);
        self.0.store(value, order);
    }

    fn fetch_add(&self, count: u32, order: Ordering) -> u32 {
        fence_before(order);
        self.0.fetch_add(count, order)
    }

    fn fetch_sub(&self, count: u32, order: Ordering) -> u32 {
        fence_before(order);
        self.0.fetch_sub(count, order)
    }

    fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        next: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        fence_before(set);
        self.0.fetch_update(set, fetch, next)
    }
}

impl fmt::Debug for AtomicU32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn fence_before(order: Ordering) {
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
}
