//! What a decision has to know about a request: whether it may be repeated, and whether its body can be.

use crate::policy::verdict::Veto;

/// Whether a request may be sent again after the upstream may have acted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// Its method or its idempotency key says so.
    Always,
    /// Only if nothing of it was sent, by this rule.
    OnlyIfNeverSent(SendOnce),
}

impl Repeatable {
    /// Whether the request authenticates its connection, so that it has to have one for itself.
    pub fn needs_own_connection(self) -> bool {
        self == Self::OnlyIfNeverSent(SendOnce::Authentication)
    }
}

/// The rule by which a request is sent again only if nothing of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOnce {
    /// It authenticates its connection, and a second copy would meet another one.
    Authentication,
    /// Its precondition holds only once.
    Condition,
    /// Its method is not idempotent, as far as is known.
    Method,
}

impl SendOnce {
    /// The same as a veto.
    pub fn veto(self) -> Veto {
        match self {
            Self::Authentication => Veto::Authentication,
            Self::Condition => Veto::Condition,
            Self::Method => Veto::Method,
        }
    }
}

/// Whether the request body can be sent from its start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// Its copy was dropped for its size, or never kept.
    Lost,
    /// A copy of all that came so far is there, and more is to come.
    Partial,
    /// There is none, nothing of it was taken, or all of it is kept.
    Whole,
}
