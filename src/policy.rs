//! Decisions as pure code: no clock, no I/O, no logging. The caller passes the time and the randomness in, and acts
//! on the value that comes out.

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
pub mod repeat;
pub mod resume;
pub mod retry;
pub mod reuse;
pub mod share;
