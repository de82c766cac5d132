//! Whether an endpoint is in balancing, and all that decides it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::policy::ejection::{Admission, Health, Heed};

/// What speaks for and against an endpoint: the configuration, its traffic, its checks.
#[derive(Debug, Default)]
pub struct Standing {
    /// Whether the configuration no longer has it.
    retired: AtomicBool,
    /// What its traffic and its checks say.
    health: Mutex<Health>,
    /// Whether `health` holds anything: spares the lock where all is well.
    troubled: AtomicBool,
}

impl Standing {
    /// Takes the endpoint out of use for good.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it is out of use for good.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether there is anything in its health to look at.
    pub fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// Whether it is in balancing.
    pub fn is_open(&self) -> bool {
        self.admits(Heed::Both)
    }

    /// Whether it is in balancing by what is heeded.
    pub(in crate::upstream) fn admits(&self, heed: Heed) -> bool {
        // The time does not matter: it only lets an endpoint be probed.
        let is_open = || self.with_health(|health| health.admission(Duration::ZERO, heed)) == Admission::Open;
        !self.is_troubled() || is_open()
    }

    /// Its health, to be looked at or changed; [`Standing::is_troubled`] follows.
    pub(in crate::upstream) fn with_health<R>(&self, change: impl FnOnce(&mut Health) -> R) -> R {
        // Health is a plain value: a panic elsewhere cannot leave it half-written.
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut health);
        self.troubled.store(!health.is_clean(), Ordering::Relaxed);
        result
    }
}
