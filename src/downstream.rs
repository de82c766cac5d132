//! Towards the caller: listeners, connections, and who the client is.

pub mod acceptor;
