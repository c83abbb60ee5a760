#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| session_adapter::engine::fuzzing::request(bytes));
