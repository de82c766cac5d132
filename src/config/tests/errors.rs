//! Each error as an operator sees it, by topic.

use super::*;

mod backend;
mod retry;
mod rules;
mod sites;
mod syntax;
mod tls;
mod values;
