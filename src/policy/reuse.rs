//! After how much idleness an endpoint closes its connections, as far as that can be learned, and how old a kept
//! connection may be for a request that must not be sent twice. Times are durations since any fixed moment, passed in.
//!
//! A request that meets the close on its way may have been acted on, for all its sender can tell, so the margin is
//! wide: half of what is known. Two things are known. Connections that lie idle unharmed show how long the endpoint
//! keeps them at least; nothing is risked for that. And each connection that it closes while idle shows how long at
//! most, which for a while weighs more than all that survive: there may be several backends behind one address.
//!
//! # Invariant
//!
//! A request that must not be sent twice goes to no kept HTTP/1.1 connection that the backend may be closing. The
//! connection's last request began within half of what the endpoint is known to keep. The runtime had a turn to
//! hear of a close. Other requests pay for none of this: the pool's keeper, which a close wakes, does the learning.
//! Held by `a_post_does_not_race_with_the_close_of_an_idle_connection`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which kept connections an operator lets a request have that must not be sent twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsafeReuse {
    /// Those that the endpoint is surely not about to close.
    #[default]
    Learned,
    /// None that has been idle.
    Never,
    /// Any, as for other requests.
    Always,
}

/// What is known of one endpoint, shared by all workers.
#[derive(Debug, Default)]
pub struct IdleLimit {
    /// The longest that a connection was seen to survive, in microseconds; a close takes it back.
    survived: AtomicU64,
    /// A [`Close`] as one word, so that its halves always belong together; 0 if none was seen.
    closed: AtomicU64,
}

/// A close that the endpoint did to an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Close {
    age: Duration,
    at: Duration,
}

impl IdleLimit {
    /// Notes that a connection was found open after it had been idle for `age`.
    pub fn note_survival(&self, age: Duration) {
        let age = micros(age);
        // It is mostly no news, and a write would take the line from the other workers.
        if self.survived.load(Ordering::Relaxed) < age {
            self.survived.fetch_max(age, Ordering::Relaxed);
        }
    }

    /// Notes that the endpoint closed a connection that had been idle for `age`.
    pub fn note_close(&self, age: Duration, now: Duration) {
        let age = age.max(SHORTEST);
        self.survived.fetch_min(micros(age), Ordering::Relaxed);
        // A closure that returns none leaves the word as it is, which is then no error.
        let _ = self.closed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let is_news = Close::from_word(word).is_none_or(|close| age < close.limit(now));
            is_news.then(|| Close { age, at: now }.to_word())
        });
    }

    /// How long the endpoint keeps an idle connection, as far as is known.
    pub fn known(&self, now: Duration) -> Duration {
        let survived = Duration::from_micros(self.survived.load(Ordering::Relaxed)).max(UNPROVEN);
        Close::from_word(self.closed.load(Ordering::Relaxed))
            .map_or(survived, |close| close.limit(now).min(survived))
    }

    /// A connection may have been idle for less than this if it shall carry a request that must not be sent twice.
    /// `announced` is what the endpoint itself has promised on that connection.
    pub fn reusable(&self, announced: Option<Duration>, now: Duration) -> Duration {
        announced.map_or(self.known(now), |announced| announced.min(self.known(now))) / MARGIN
    }
}

impl Close {
    /// What the close says at `now`: it weighs less as time goes by, since the backend may have been replaced.
    fn limit(self, now: Duration) -> Duration {
        let doublings = now.saturating_sub(self.at).as_secs_f64() / DOUBLING.as_secs_f64();
        self.age.mul_f64(doublings.min(MAX_DOUBLINGS).exp2())
    }

    /// Microseconds in the upper half, tenths of seconds in the lower: an hour and thirteen years.
    fn to_word(self) -> u64 {
        let at = self.at.as_millis() / TICK.as_millis();
        micros(self.age).min(u64::from(u32::MAX)) << 32 | u64::from(u32::try_from(at).unwrap_or(u32::MAX))
    }

    fn from_word(word: u64) -> Option<Self> {
        let (age, at) = (word >> 32, word & u64::from(u32::MAX));
        let ticks = u32::try_from(at).unwrap_or(u32::MAX);
        (age > 0).then(|| Self { age: Duration::from_micros(age), at: TICK * ticks })
    }
}

/// How long an endpoint promises to keep an idle connection in a `Keep-Alive` field: `timeout=5, max=100`.
pub fn announced_timeout(keep_alive: &str) -> Option<Duration> {
    let seconds = keep_alive.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim())
    })?;
    // Not the parser's `+5`.
    let is_number = seconds.bytes().all(|byte| byte.is_ascii_digit());
    seconds.parse().ok().filter(|_| is_number).map(|seconds: u32| Duration::from_secs(seconds.into()))
}

fn micros(age: Duration) -> u64 {
    u64::try_from(age.as_micros()).unwrap_or(u64::MAX)
}

/// The part of what is known that is used: the rest is for the way there and back, and for whoever is late to look.
const MARGIN: u32 = 2;

/// What a new endpoint is trusted with. Servers set their limits in seconds; one that closes within this is learned
/// from its first connection that lies idle.
const UNPROVEN: Duration = Duration::from_millis(20);

/// A close weighs at least so much: doubled, nothing would stay nothing.
const SHORTEST: Duration = Duration::from_millis(1);

/// The time in which the limit that a close has set doubles: a restart, which closes connections of any age, is
/// forgotten within minutes. A backend that goes on to close idle connections is found at it again and again.
const DOUBLING: Duration = Duration::from_secs(30);

/// Beyond this any limit is longer than any connection is kept.
const MAX_DOUBLINGS: f64 = 32.0;

/// How exactly the time of a close is kept.
const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
