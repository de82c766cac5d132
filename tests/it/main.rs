//! The whole proxy as a child process, with real sockets and real time, in front of a backend that lies.
//!
//! Each test bears the name of the rule that it holds; the rules stand in the design's `semantics.md`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admission;
mod adversarial;
mod authentication;
mod commands;
mod descriptors;
mod docs;
mod endpoints;
mod eviction;
mod framing;
mod harness;
mod headers;
mod health;
mod hedge;
mod hold;
mod http2;
mod idle_close;
mod leaks;
mod lifecycle;
mod limits;
mod memory;
mod metrics;
mod once;
mod origin_guard;
mod outage;
mod proxy_protocol;
mod rates;
mod record;
mod resume;
mod retry;
mod reuse;
mod routes;
mod rules;
mod strictness;
mod support;
mod tidy;
mod timeouts;
mod tls;
mod upgrade;
mod uploads;
mod upstream_h2;
mod upstream_tls;
