//! A bounded queue of waiters: each leaves it exactly once, and a right that its waiter does not take goes to the next.
//!
//! The owner keeps a [`Queue`] behind its own lock, beside the values that decide who is next. So the queue needs no lock
//! and no atomic, and serves one thread (`RefCell`) as well as several (`Mutex`). The owner picks the next by position
//! ([`Queue::at`]); a [`Place`] is the waiter's side. A waiter leaves in one of three ways:
//!
//! - called: [`Place::leave`] returns its right;
//! - expired: [`Place::leave`] returns none, and no later call can reach the waiter;
//! - dropped: [`Owner::left`] gets the right of a waiter that was called before, and hands it on.
//!
//! `loom/` runs this file and the counters of [`admission`](super::admission) through every order of their steps.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::mem;
use std::task::{Poll, Waker};

/// The waiters, and the rights of those that were called and have not heard of it. `W` is what the owner knows of a waiter.
#[derive(Debug)]
pub(super) struct Queue<R, W = ()> {
    max: usize,
    /// The next number.
    next: u64,
    /// The first to go at the front, unless the owner picks another.
    waiting: VecDeque<Waiting<W>>,
    /// By the waiter's number.
    called: BTreeMap<u64, R>,
}

/// A waiter that was not called.
#[derive(Debug)]
struct Waiting<W> {
    number: u64,
    waiter: W,
    news: News,
}

/// What a waiter has to hear.
#[derive(Debug)]
enum News {
    /// Nothing, and nobody listens.
    None,
    /// Nothing; this wakes the listener.
    Awaited(Waker),
    /// It was roused. The news is kept until somebody listens, so none is lost.
    Roused,
}

impl News {
    /// Replaces the news and wakes the listener.
    fn tell(&mut self, news: Self) {
        if let Self::Awaited(waker) = mem::replace(self, news) {
            waker.wake();
        }
    }
}

impl<R, W> Queue<R, W> {
    /// An empty queue in which at most `max` wait.
    pub(super) fn new(max: usize) -> Self {
        Self { max, next: 0, waiting: VecDeque::new(), called: BTreeMap::new() }
    }

    /// How many wait. A waiter that was called is not among them.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many have not left: those that wait, and those that were called and have not heard of it.
    pub(super) fn expected(&self) -> usize {
        self.waiting.len() + self.called.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The waiters, from the front.
    pub(super) fn iter(&self) -> impl Iterator<Item = &W> + Clone {
        self.waiting.iter().map(|waiting| &waiting.waiter)
    }

    /// Room for one more; none at the bound.
    pub(super) fn vacancy(&mut self) -> Option<Vacancy<'_, R, W>> {
        (self.waiting.len() < self.max).then_some(Vacancy { queue: self })
    }

    /// The waiter at `position`, to be called.
    pub(super) fn at(&mut self, position: usize) -> Option<Callee<'_, R, W>> {
        (position < self.waiting.len()).then_some(Callee { queue: self, position })
    }

    /// Wakes the first waiter without a right, so that it looks around.
    pub(super) fn rouse_first(&mut self) {
        if let Some(first) = self.waiting.front_mut() {
            first.news.tell(News::Roused);
        }
    }

    /// Whether this waiter is the first.
    pub(super) fn is_first<O>(&self, place: &Place<O>) -> bool
    where
        O: Owner<Right = R, Waiter = W>,
    {
        self.waiting.front().is_some_and(|first| first.number == place.ticket.0)
    }

    /// Whether this waiter was called.
    pub(super) fn is_called<O>(&self, place: &Place<O>) -> bool
    where
        O: Owner<Right = R, Waiter = W>,
    {
        self.called.contains_key(&place.ticket.0)
    }

    /// Where a waiter stands. The first leaves most often, and the last has just come.
    fn position(&self, number: u64) -> Option<usize> {
        if self.waiting.front().is_some_and(|first| first.number == number) {
            return Some(0);
        }
        self.waiting.iter().rposition(|waiting| waiting.number == number)
    }

    fn leave(&mut self, number: u64) -> Option<R> {
        let right = self.called.remove(&number);
        if right.is_none()
            && let Some(position) = self.position(number)
        {
            self.waiting.remove(position);
        }
        right
    }

    fn poll_news(&mut self, number: u64, waker: &Waker) -> Poll<()> {
        let Some(waiting) = self.position(number).and_then(|position| self.waiting.get_mut(position)) else {
            return Poll::Ready(()); // called
        };
        match &waiting.news {
            News::Roused => {
                waiting.news = News::None;
                return Poll::Ready(());
            }
            News::Awaited(known) if known.will_wake(waker) => {}
            News::Awaited(_) | News::None => waiting.news = News::Awaited(waker.clone()),
        }
        Poll::Pending
    }
}

/// Room in a queue for one more.
pub(super) struct Vacancy<'a, R, W> {
    queue: &'a mut Queue<R, W>,
}

impl<R, W> Vacancy<'_, R, W> {
    /// Joins at the back.
    pub(super) fn join(self, waiter: W) -> Ticket {
        self.join_behind(waiter, |_| true)
    }

    /// Joins behind the last waiter for which `is_before` holds.
    pub(super) fn join_behind(self, waiter: W, is_before: impl Fn(&W) -> bool) -> Ticket {
        let Queue { next, waiting, .. } = self.queue;
        let number = *next;
        *next += 1;
        let position = waiting.iter().rposition(|other| is_before(&other.waiter)).map_or(0, |last| last + 1);
        waiting.insert(position, Waiting { number, waiter, news: News::None });
        Ticket(number)
    }
}

/// A waiter that can be called.
pub(super) struct Callee<'a, R, W> {
    queue: &'a mut Queue<R, W>,
    position: usize,
}

impl<R, W> Callee<'_, R, W> {
    /// Gives it the right. Its wait is over, so it is called once.
    pub(super) fn call(self, right: R) {
        if let Some(mut waiting) = self.queue.waiting.remove(self.position) {
            self.queue.called.insert(waiting.number, right);
            waiting.news.tell(News::None);
        }
    }
}

/// A waiter that has joined. [`Place::new`] takes it once the lock is free: a place that is dropped takes the lock.
#[derive(Debug)]
#[must_use]
pub(super) struct Ticket(u64);

/// The owner of a queue, as one waiter knows it.
pub(super) trait Owner {
    /// What a call gives.
    type Right;
    /// What the owner knows of a waiter.
    type Waiter;

    /// Locks the queue for `look`.
    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<Self::Right, Self::Waiter>) -> T) -> T;

    /// The waiter was dropped and is out of the queue. If it had been called, `unheard` is its right, which goes to the
    /// next. The lock is free.
    fn left(&self, unheard: Option<Self::Right>);
}

/// A waiter's place in a queue. Dropped, it is free at once.
pub(super) struct Place<O: Owner> {
    owner: O,
    ticket: Ticket,
    has_left: bool,
}

impl<O: Owner> Place<O> {
    /// The place that `ticket` stands for, in the queue of `owner`.
    pub(super) fn new(owner: O, ticket: Ticket) -> Self {
        Self { owner, ticket, has_left: false }
    }

    /// Waits until the waiter is called or roused. Nothing is lost if this future is dropped.
    pub(super) async fn news(&self) {
        poll_fn(|cx| self.owner.with_queue(|queue| queue.poll_news(self.ticket.0, cx.waker()))).await;
    }

    /// Ends the wait: with the right, or with none because it has expired.
    pub(super) fn leave(mut self, queue: &mut Queue<O::Right, O::Waiter>) -> Option<O::Right> {
        self.has_left = true;
        queue.leave(self.ticket.0)
    }
}

impl<O: Owner> Drop for Place<O> {
    fn drop(&mut self) {
        if !self.has_left {
            let unheard = self.owner.with_queue(|queue| queue.leave(self.ticket.0));
            self.owner.left(unheard);
        }
    }
}

#[cfg(test)]
mod tests;
