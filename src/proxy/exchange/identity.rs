//! Whose request an exchange is, and its clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, Version};
use tokio::time::Instant;

use crate::record::Target;

/// What identifies a request in the record.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) id: Box<str>,
    pub(crate) client: IpAddr,
    pub(crate) client_subject: Option<Arc<str>>,
    pub(crate) protocol: Option<Version>,
    pub(crate) method: Method,
    pub(crate) target: Target,
}

/// When a request came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) began: Instant,
    pub(super) at: SystemTime,
}

impl Clock {
    /// The clock of an exchange that began at this moment.
    pub(super) fn start(began: Instant) -> Self {
        Self { began, at: SystemTime::now() }
    }
}
