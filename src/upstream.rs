//! Towards the backend: clusters and their endpoints, balancing and health, and each worker's connections.

pub mod cluster;
pub mod endpoint;
