//! Any order of joins, calls, expiries and drops: every waiter leaves once, and every right is in one place.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A right. It is neither copied nor cloned, so it can only be moved or lost.
#[derive(Debug, PartialEq, Eq)]
struct Right(u32);

/// An owner that calls the next with a right that comes back.
struct Desk {
    queue: RefCell<Queue<Right, u8>>,
    /// Rights that came back when nobody waited.
    spare: RefCell<Vec<Right>>,
    left: Cell<u32>,
}

impl Desk {
    fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { queue: RefCell::new(Queue::new(max)), spare: RefCell::default(), left: Cell::new(0) })
    }
}

impl Owner for Rc<Desk> {
    type Right = Right;
    type Waiter = u8;

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<Right, u8>) -> T) -> T {
        look(&mut self.queue.borrow_mut())
    }

    fn left(&self, unheard: Option<Right>) {
        self.left.set(self.left.get() + 1);
        if let Some(right) = unheard {
            match self.queue.borrow_mut().at(0) {
                Some(next) => next.call(right),
                None => self.spare.borrow_mut().push(right),
            }
        }
    }
}

/// Counts the wakes of one waiter.
#[derive(Default)]
struct Bell(AtomicU32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waiter, and what is known of it from outside.
struct Guest {
    place: Place<Rc<Desk>>,
    number: u64,
    priority: u8,
    bell: Arc<Bell>,
    /// The wakes when it last listened and there was no news.
    listens_since: Option<u32>,
}

impl Guest {
    fn join(desk: &Rc<Desk>, priority: u8) -> Option<Self> {
        let ticket = {
            let mut queue = desk.queue.borrow_mut();
            queue.vacancy()?.join_behind(priority, |other| *other <= priority)
        };
        let number = ticket.0;
        let place = Place::new(desk.clone(), ticket);
        Some(Self { place, number, priority, bell: Arc::default(), listens_since: None })
    }

    fn rings(&self) -> u32 {
        self.bell.0.load(Ordering::Relaxed)
    }

    /// Asks for news by a future that is dropped at once.
    fn listen(&mut self) -> bool {
        let waker = self.bell.clone().into();
        let is_ready = pin!(self.place.news()).poll(&mut Context::from_waker(&waker)).is_ready();
        self.listens_since = (!is_ready).then_some(self.rings());
        is_ready
    }

    fn leave(self, desk: &Rc<Desk>) -> Option<Right> {
        self.place.leave(&mut desk.queue.borrow_mut())
    }
}

/// One step. Positions count modulo what is there.
#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Call(usize),
    Rouse,
    Listen(usize),
    Leave(usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..100_usize;
    let step = prop_oneof![
        3 => (0..5_u8).prop_map(Step::Join),
        2 => at().prop_map(Step::Call),
        1 => Just(Step::Rouse),
        3 => at().prop_map(Step::Listen),
        1 => at().prop_map(Step::Leave),
        1 => at().prop_map(Step::Drop),
    ];
    vec(step, 0..200)
}

proptest! {
    #[test]
    fn every_waiter_leaves_once_and_no_right_is_lost_or_given_twice(max in 0..6_usize, steps in steps()) {
        let desk = Desk::new(max);
        let mut guests: Vec<Guest> = Vec::new();
        // The model: the numbers of those who wait, in order, and of those who were called, with the right.
        let mut waiting: Vec<u64> = Vec::new();
        let mut called: Vec<(u64, u32)> = Vec::new();
        let (mut rights, mut taken, mut dropped, mut spare) = (0, 0_usize, 0, 0_usize);
        for step in steps {
            let guest = |at: usize| (!guests.is_empty()).then(|| at % guests.len());
            match step {
                Step::Join(priority) => {
                    let joined = Guest::join(&desk, priority);
                    prop_assert_eq!(joined.is_some(), waiting.len() < max, "it is refused at the bound only");
                    if let Some(guest) = joined {
                        let rank = |number: &u64| {
                            guests.iter().find(|other| other.number == *number).unwrap().priority
                        };
                        let behind = waiting.iter().rposition(|other| rank(other) <= priority);
                        waiting.insert(behind.map_or(0, |last| last + 1), guest.number);
                        guests.push(guest);
                    }
                }
                Step::Call(at) => {
                    let position = at % (max + 1);
                    let called_now = desk.queue.borrow_mut().at(position).map(|next| next.call(Right(rights)));
                    prop_assert_eq!(called_now.is_some(), position < waiting.len());
                    if called_now.is_some() {
                        called.push((waiting.remove(position), rights));
                        rights += 1;
                    }
                }
                Step::Rouse => {
                    desk.queue.borrow_mut().rouse_first();
                    if let Some(first) = waiting.first() {
                        let first = guests.iter_mut().find(|guest| guest.number == *first).unwrap();
                        prop_assert!(first.listens_since.is_none_or(|since| first.rings() > since));
                        prop_assert!(first.listen(), "the news is kept");
                        prop_assert!(!first.listen(), "the news is told once");
                    }
                }
                Step::Listen(at) => if let Some(at) = guest(at) {
                    let is_called = called.iter().any(|(number, _)| *number == guests[at].number);
                    prop_assert_eq!(guests[at].listen(), is_called);
                },
                Step::Leave(at) => if let Some(at) = guest(at) {
                    let guest = guests.swap_remove(at);
                    let number = guest.number;
                    let expected = called.iter().position(|(other, _)| *other == number);
                    let expected = expected.map(|at| called.swap_remove(at).1);
                    waiting.retain(|other| *other != number);
                    let right = guest.leave(&desk);
                    taken += usize::from(right.is_some());
                    prop_assert_eq!(right.map(|right| right.0), expected);
                },
                Step::Drop(at) => if let Some(at) = guest(at) {
                    let guest = guests.swap_remove(at);
                    let number = guest.number;
                    drop(guest);
                    dropped += 1;
                    waiting.retain(|other| *other != number);
                    if let Some(at) = called.iter().position(|(other, _)| *other == number) {
                        let right = called.swap_remove(at).1;
                        if waiting.is_empty() {
                            spare += 1;
                        } else {
                            called.push((waiting.remove(0), right));
                        }
                    }
                },
            }
            let queue = desk.queue.borrow();
            prop_assert!(queue.len() <= max);
            prop_assert_eq!(queue.waiting.iter().map(|other| other.number).collect::<Vec<_>>(), waiting.clone());
            let mut rights_called = called.clone();
            rights_called.sort_unstable();
            let found = queue.called.iter().map(|(number, right)| (*number, right.0)).collect::<Vec<_>>();
            prop_assert_eq!(found, rights_called);
            prop_assert_eq!(usize::try_from(rights).unwrap(), taken + spare + called.len());
            prop_assert_eq!((desk.spare.borrow().len(), desk.left.get()), (spare, dropped));
            for guest in &guests {
                prop_assert_eq!(queue.is_called(&guest.place), called.iter().any(|(number, _)| *number == guest.number));
                prop_assert_eq!(queue.is_first(&guest.place), waiting.first() == Some(&guest.number));
                if queue.is_called(&guest.place) {
                    prop_assert!(guest.listens_since.is_none_or(|since| guest.rings() > since), "it was woken");
                }
            }
        }
    }
}
