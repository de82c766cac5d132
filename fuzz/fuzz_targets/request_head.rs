//! Any bytes of a caller, through the whole proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::request_head(bytes));
