//! Any bytes of a backend, through the pure part of the codec, in any pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::response_decoder(bytes));
