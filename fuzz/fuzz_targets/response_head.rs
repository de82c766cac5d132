//! Any bytes of a backend, through the whole proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::response_head(bytes));
