//! Any text as a certificate's chain and encrypted key.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stent::fuzzing::encrypted_key(bytes));
