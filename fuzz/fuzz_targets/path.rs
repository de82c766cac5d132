//! Any patterns of routes, and any path.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::path(bytes));
