//! Attempts that end in any way and in any order.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::judge(bytes));
