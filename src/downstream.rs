//! Towards the caller: listeners, TLS, connections, and who the client is.

pub mod acceptor;
pub mod connection;
mod forwarded;
mod http1;
mod limits;
mod stream;
pub mod tls;
