//! Towards the caller: listeners, TLS, connections, and who the client is.

pub mod acceptor;
pub mod connection;
pub mod eviction;
pub(crate) mod forwarded;
mod http1;
pub mod http2;
mod idle;
mod limits;
pub mod proxy_protocol;
mod screen;
pub mod settings;
mod stream;
mod strict;
pub mod tls;
