//! Any frames of a backend that speaks HTTP/2, through the whole proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::response_frames(bytes));
