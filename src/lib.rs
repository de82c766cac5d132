//! Stent, a reverse proxy that keeps traffic flowing through a failing backend.
//!
//! # The life of a request
//!
//! ```text
//! TCP accept -> worker (least loaded)                  downstream::acceptor, worker
//!   -> PROXY header, TLS, which protocol, time limits  downstream::connection, tls
//!   -> HTTP/1.1 or HTTP/2 (hyper)                      downstream::http1, http2
//!   -> origin guard, underscores           403, 400    downstream::screen, fields
//!   -> who is the client? trusted proxies, from right  downstream::forwarded
//!   -> Exchange begins (id, clock, record)             proxy::exchange
//!   -> Route (scheme, host, path, method)  404, 405    route; a redirect ends here
//!   -> head without hop-by-hop, Replay                 proxy::headers, proxy::replay
//!   -> attempt loop: pick endpoint -> pool -> send     proxy::attempts, upstream
//!        decide(outcome) -> Return | Retry | Stop      policy::retry
//!   -> response head cleaned, body observed            proxy::body
//!        or, after a 101, a tunnel both ways           proxy::upgrade
//!   -> Record at body end: metrics, access-log line    record
//! ```
//!
//! [`app`] turns a [`config::Config`] into these parts, and is the only one that knows the configuration.

pub mod admin;
pub mod app;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod demo;
pub mod descriptors;
pub mod downstream;
pub mod error;
pub mod fields;
pub mod files;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod memory;
pub mod policy;
pub mod proxy;
pub mod record;
pub mod route;
#[cfg(test)]
mod testing;
pub mod upstream;
pub mod worker;
