//! Any bytes where a PROXY header must stand.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::proxy_header(bytes));
