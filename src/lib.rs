//! Stent, a reverse proxy that keeps traffic flowing through a failing backend.
//!
//! [`app`] turns a [`config::Config`] into running parts, and is the only module that knows the configuration.
//!
#![cfg_attr(doc, doc = include_str!("../ARCHITECTURE.md"))]

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
