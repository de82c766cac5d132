//! Towards the caller: listeners, connections, and who the client is.

pub mod acceptor;
mod forwarded;
pub mod http;
mod screen;
