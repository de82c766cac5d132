//! When an attempt is given up: which of the limits on it comes first.

use std::time::{Duration, Instant};

/// A limit that ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The caller sent nothing of its request body for the listener's `body_timeout`.
    CallerSilent,
    /// The route's `deadline` passed.
    Deadline,
    /// The attempt took longer than `per_try_timeout`, from its start or, if later, from the end of the request body.
    PerTry,
    /// The request body waited for the upstream for as long as an attempt may last, or for all of the deadline.
    UpstreamStalled,
}

/// Where the request body stands, as far as time is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// All of it has come from the caller.
    Received {
        /// When its end came; the start of the exchange if there is no body.
        at: Instant,
        /// How long it waited for the upstream before that.
        stalled: Duration,
    },
    /// It waits for the caller.
    AwaitingCaller {
        /// When that began.
        since: Instant,
        /// How long it waited for the upstream before that.
        stalled: Duration,
    },
    /// It waits for the upstream to take more.
    AwaitingUpstream {
        /// When the last part came.
        since: Instant,
        /// How long it waited for the upstream before that.
        stalled: Duration,
    },
}

/// How long an upload has waited for the upstream, over all attempts and the waits between them.
///
/// What the upstream takes pays for waiting at [`Stall::LEAST_RATE`], but not in advance. So a steady upload through a slow
/// backend owes nothing, and a byte now and then does not end a stall. A body of n bytes can wait for at most the deadline and
/// n / `LEAST_RATE` together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall(Duration);

impl Stall {
    /// Bytes per second that keep an upstream from counting as stalled; the least that is asked of callers, too.
    pub const LEAST_RATE: u64 = 500;

    /// The upload has waited for so long.
    pub fn wait(&mut self, time: Duration) {
        self.0 = self.0.saturating_add(time);
    }

    /// The upstream has taken so many bytes.
    pub fn take(&mut self, bytes: u64) {
        let paid = Duration::from_micros(bytes.saturating_mul(1_000_000 / Self::LEAST_RATE));
        self.0 = self.0.saturating_sub(paid);
    }

    /// What counts against the deadline.
    pub fn time(self) -> Duration {
        self.0
    }
}

/// The limits of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// From the end of the request body to the response head, over all attempts and waits. Time in which the body waits for
    /// the upstream counts as well, time in which it waits for the caller does not.
    pub deadline: Duration,
    /// For one attempt, where another can help it: then a second one begins.
    pub per_try: Duration,
    /// For the caller's silence inside its request body.
    pub caller_silence: Duration,
}

/// Whether another attempt can help the one that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// No other attempt can help: `per_try` is lifted.
    Impossible,
    /// One may run beside it, or ask for the rest of its answer.
    Possible,
}

impl TimeLimits {
    /// The moment at which the exchange's deadline passes, once the request body is there.
    pub fn deadline_at(&self, upload: Upload) -> Option<Instant> {
        match upload {
            Upload::Received { at, stalled } => Some(at + self.deadline.saturating_sub(stalled)),
            Upload::AwaitingCaller { .. } | Upload::AwaitingUpstream { .. } => None,
        }
    }

    /// What is left until the deadline at `now`. It does not pass while the request body waits for the caller.
    pub fn left(&self, upload: Upload, now: Instant) -> Duration {
        let (stalled, since) = match upload {
            Upload::AwaitingCaller { stalled, .. } => (stalled, now),
            Upload::Received { at: since, stalled } | Upload::AwaitingUpstream { since, stalled } => {
                (stalled, since)
            }
        };
        self.deadline.saturating_sub(stalled).saturating_sub(now.saturating_duration_since(since))
    }

    /// The limit that ends an attempt which began at `started`, and when.
    ///
    /// The answer changes as the body comes in: ask again at that moment before acting on it.
    pub fn first(&self, started: Instant, upload: Upload, successor: Successor) -> (Instant, Limit) {
        match upload {
            Upload::AwaitingCaller { since, .. } => (since + self.caller_silence, Limit::CallerSilent),
            Upload::AwaitingUpstream { since, stalled } => {
                let deadline = since + self.deadline.saturating_sub(stalled);
                let at = match successor {
                    Successor::Possible => deadline.min(since.max(started) + self.per_try),
                    Successor::Impossible => deadline,
                };
                (at, Limit::UpstreamStalled)
            }
            Upload::Received { at, stalled } => {
                let deadline = (at + self.deadline.saturating_sub(stalled), Limit::Deadline);
                let per_try = (started.max(at) + self.per_try, Limit::PerTry);
                if successor == Successor::Possible && per_try.0 < deadline.0 { per_try } else { deadline }
            }
        }
    }
}

#[cfg(test)]
mod tests;
