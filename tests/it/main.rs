//! Tests that need more than one module, or the whole program.

mod tidy;
