//! Stent, a reverse proxy that keeps traffic flowing through a failing backend.

pub mod app;
pub mod cli;
pub mod config;
pub mod downstream;
pub mod error;
pub mod policy;
pub mod record;
pub mod route;
pub mod upstream;
