//! How a cluster that recovers is filled: in a slow start, apart for keys that still fail and keys that succeed again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Candidate, Failed, PermitKind, failed_of};
use crate::policy::expect::KeyId;

/// How a cluster that answers again is filled.
#[derive(Debug)]
pub(super) struct Recovery {
    /// For keys that have not succeeded since.
    pub(super) failed: Window,
    /// For keys that have. A failure of one moves its key back, so that the others lose nothing by it.
    pub(super) mended: Window,
    /// When everybody may go.
    until: Duration,
}

impl Recovery {
    /// Begins with the first success.
    pub(super) fn begin(now: Duration) -> Self {
        // One good answer lets two go.
        let window = || Window::of(2, now);
        Self { failed: window(), mended: window(), until: now.saturating_add(RECOVERY) }
    }

    /// Who may go, by the place, and why; or when to look again.
    pub(super) fn next<'a, I>(
        &mut self,
        failed: &HashMap<KeyId, Failed>,
        mended: &HashSet<KeyId>,
        mut waiting: I,
        now: Duration,
    ) -> Result<(usize, PermitKind), Duration>
    where
        I: Iterator<Item = &'a Candidate> + Clone,
    {
        if now >= self.until {
            return Ok((0, PermitKind::Free));
        }
        let is_failed = |candidate: &Candidate| failed_of(failed, candidate).is_some();
        let is_mended = |candidate: &Candidate| mended.contains(&candidate.key);
        let is_stranger = |candidate: &Candidate| !is_failed(candidate) && !is_mended(candidate);
        if let Some(place) = waiting.clone().position(is_stranger) {
            return Ok((place, PermitKind::Free));
        }
        // Those whose time is over expire by their own clock.
        let in_time = |candidate: &Candidate| candidate.until > now;
        let mut again = self.until;
        if let Some(place) = waiting.clone().position(|candidate| in_time(candidate) && is_mended(candidate))
        {
            match self.mended.take(now) {
                Ok(()) => return Ok((place, PermitKind::Mended)),
                Err(at) => again = again.min(at),
            }
        }
        if let Some(place) = waiting.position(|candidate| in_time(candidate) && is_failed(candidate)) {
            match self.failed.take(now) {
                Ok(()) => return Ok((place, PermitKind::Released)),
                Err(at) => again = again.min(at),
            }
        }
        Err(again)
    }
}

/// A slow start: how many of those let go may be under way at once.
#[derive(Debug)]
pub(super) struct Window {
    size: u32,
    /// How many are.
    out: u32,
    /// When it last grew by time.
    grown: Duration,
}

impl Window {
    /// A window for so many at first.
    pub(super) fn of(size: u32, now: Duration) -> Self {
        Self { size, out: 0, grown: now }
    }

    /// Takes a place; or says when to look again. Answers that take long say nothing bad, and must not hold up the rest
    /// for as long.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if now >= self.grown.saturating_add(STEP) {
            (self.size, self.grown) = (self.size.saturating_mul(2), now);
        }
        if self.out >= self.size {
            return Err(self.grown.saturating_add(STEP));
        }
        self.out += 1;
        Ok(())
    }

    /// Whether nobody has a place.
    pub(super) fn is_free(&self) -> bool {
        self.out == 0
    }

    /// Gives a place back.
    pub(super) fn abandon(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    /// Gives a place back, and one more.
    pub(super) fn success(&mut self) {
        (self.size, self.out) = (self.size.saturating_add(1), self.out.saturating_sub(1));
    }

    /// Halves it: what it lets go fails.
    pub(super) fn halve(&mut self, now: Duration) {
        (self.size, self.grown) = ((self.size / 2).max(1), now);
    }
}

/// How long those who wait are let go one after another. Doubled every 100 ms, a window is past any queue by then.
const RECOVERY: Duration = Duration::from_secs(2);

/// How long a window stays as it is without an answer.
const STEP: Duration = Duration::from_millis(100);
