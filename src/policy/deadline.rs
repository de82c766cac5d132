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
    /// The upstream took nothing of the request body for as long as an attempt may last.
    UpstreamStalled,
}

/// Where the request body stands, as far as time is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// All of it came from the caller at this moment (the start of the exchange if there is none).
    Received(Instant),
    /// We have waited for the caller since `since`.
    AwaitingCaller {
        /// When we began to.
        since: Instant,
    },
    /// We have waited for the upstream to take more since `since`.
    AwaitingUpstream {
        /// When the last part came.
        since: Instant,
    },
}

/// The limits of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// From the end of the request body to the response head, over all attempts and waits.
    pub deadline: Duration,
    /// For one attempt, where another could follow it.
    pub per_try: Duration,
    /// For the caller's silence inside its request body.
    pub caller_silence: Duration,
}

/// Whether another attempt could follow the one that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// None: cutting the attempt short would only lose it, so `per_try` is lifted.
    Impossible,
    /// It may be retried.
    Possible,
}

impl TimeLimits {
    /// The moment at which the exchange's deadline passes, once the request body is there.
    pub fn deadline_at(&self, upload: Upload) -> Option<Instant> {
        match upload {
            Upload::Received(at) => Some(at + self.deadline),
            Upload::AwaitingCaller { .. } | Upload::AwaitingUpstream { .. } => None,
        }
    }

    /// What is left until the deadline at `now`; the whole of it while the request body is still coming.
    pub fn left(&self, upload: Upload, now: Instant) -> Duration {
        self.deadline_at(upload).map_or(self.deadline, |at| at.saturating_duration_since(now))
    }

    /// The limit that ends an attempt which began at `started`, and when.
    ///
    /// The answer changes as the body comes in: ask again at that moment before acting on it.
    pub fn first(&self, started: Instant, upload: Upload, successor: Successor) -> (Instant, Limit) {
        match upload {
            Upload::AwaitingCaller { since } => (since + self.caller_silence, Limit::CallerSilent),
            Upload::AwaitingUpstream { since } => {
                let patience = match successor {
                    Successor::Possible => self.per_try.min(self.deadline),
                    Successor::Impossible => self.deadline,
                };
                (since.max(started) + patience, Limit::UpstreamStalled)
            }
            Upload::Received(at) => {
                let deadline = (at + self.deadline, Limit::Deadline);
                let per_try = (started.max(at) + self.per_try, Limit::PerTry);
                if successor == Successor::Possible && per_try.0 < deadline.0 { per_try } else { deadline }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TimeLimits = TimeLimits {
        deadline: Duration::from_secs(25),
        per_try: Duration::from_secs(10),
        caller_silence: Duration::from_secs(30),
    };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_slow_upload_does_not_eat_the_deadline() {
        let start = Instant::now();
        let uploading = Upload::AwaitingCaller { since: start + seconds(100) };
        assert_eq!(LIMITS.deadline_at(uploading), None);
        assert_eq!(LIMITS.left(uploading, start + seconds(100)), seconds(25));
        let received = Upload::Received(start + seconds(120));
        assert_eq!(LIMITS.deadline_at(received), Some(start + seconds(145)));
        assert_eq!(LIMITS.first(start, received, Successor::Possible), (start + seconds(130), Limit::PerTry));
    }

    #[test]
    fn per_try_is_lifted_where_no_retry_could_follow_and_the_deadline_stays() {
        let start = Instant::now();
        let received = Upload::Received(start);
        assert_eq!(LIMITS.first(start, received, Successor::Possible), (start + seconds(10), Limit::PerTry));
        assert_eq!(
            LIMITS.first(start, received, Successor::Impossible),
            (start + seconds(25), Limit::Deadline)
        );
    }

    #[test]
    fn an_attempt_gets_the_lesser_of_per_try_and_what_is_left() {
        let start = Instant::now();
        let late = start + seconds(20);
        assert_eq!(
            LIMITS.first(late, Upload::Received(start), Successor::Possible),
            (start + seconds(25), Limit::Deadline)
        );
    }

    #[test]
    fn a_silent_caller_and_an_upstream_that_takes_nothing_are_told_apart() {
        let start = Instant::now();
        let since = start + seconds(3);
        assert_eq!(
            LIMITS.first(start, Upload::AwaitingCaller { since }, Successor::Possible),
            (start + seconds(33), Limit::CallerSilent)
        );
        assert_eq!(
            LIMITS.first(start, Upload::AwaitingUpstream { since }, Successor::Possible),
            (start + seconds(13), Limit::UpstreamStalled)
        );
        assert_eq!(
            LIMITS.first(start, Upload::AwaitingUpstream { since }, Successor::Impossible),
            (start + seconds(28), Limit::UpstreamStalled)
        );
    }

    #[test]
    fn nothing_is_left_after_the_deadline() {
        let start = Instant::now();
        assert_eq!(LIMITS.left(Upload::Received(start), start + seconds(26)), Duration::ZERO);
    }
}
