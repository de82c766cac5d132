//! Towards the backend: clusters and their endpoints, balancing and health, and each worker's connections.

pub mod admission;
pub mod balance;
pub mod body;
pub mod cluster;
mod connect;
pub mod endpoint;
pub mod health;
pub(crate) mod http1;
pub mod http2;
pub mod location;
pub mod outage_queue;
pub mod pool;
pub mod protocol;
mod queue;
pub mod resolve;
pub mod settings;
mod stream;
pub mod tls;
