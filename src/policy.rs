//! Decisions as pure code: no clock, no I/O, no logging. The caller passes the time and the randomness in, and acts
//! on the value that comes out.
//!
//! # Invariant
//!
//! No clock, no randomness, no I/O, no logging: times and random numbers are arguments. `stent explain` prints what
//! the proxy does because both call the same function. Held by `the_sources_keep_the_house_rules`.

pub mod admission;
pub mod authentication;
pub mod backoff;
pub mod budget;
pub mod deadline;
pub mod ejection;
pub mod expect;
pub mod grpc;
pub mod health;
pub mod hedge;
pub mod hold;
pub mod outage;
pub mod outcome;
pub mod repeat;
pub mod request;
pub mod resume;
pub mod retry;
pub mod reuse;
pub mod settings;
pub mod share;
pub mod verdict;
pub mod watch;
