//! The seeds of the fuzzers, which hold what was once found, go through their functions.

use std::fs;
use std::path::Path;

use super::*;

/// Runs every seed of a target, and says which one broke a promise.
fn hold(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for seed in seeds {
        let bytes = fs::read(&seed).unwrap();
        let ran = std::panic::catch_unwind(|| check(&bytes));
        assert!(ran.is_ok(), "{} breaks a promise, see above", seed.display());
    }
}

#[test]
fn configurations_are_taken_whole_or_refused_with_a_report() {
    hold("config", config);
}

#[test]
fn a_list_of_hops_names_no_client_that_nobody_vouches_for() {
    hold("forwarded", forwarded);
}

#[test]
fn the_order_of_routes_does_not_decide() {
    hold("path", path);
}

#[test]
fn however_attempts_end_an_outage_begins_by_surprise_and_nobody_waits_for_ever() {
    hold("judge", judge);
}

#[test]
fn no_bytes_of_a_caller_reach_the_backend_malformed_or_twice() {
    hold("request_head", request_head);
}

#[test]
fn no_bytes_of_a_backend_reach_the_caller_malformed_or_as_two_answers() {
    hold("response_head", response_head);
}

#[test]
fn no_frames_of_a_backend_reach_the_caller_malformed_or_as_two_answers() {
    hold("response_frames", response_frames);
}

#[test]
fn an_answer_is_read_alike_in_whatever_pieces_it_comes() {
    hold("response_decoder", response_decoder);
}

#[test]
fn no_frames_of_a_caller_reach_the_backend_malformed_or_twice() {
    hold("http2_frames", http2_frames);
}

#[test]
fn nothing_passes_where_a_proxy_header_must_stand() {
    hold("proxy_header", proxy_header);
}

#[test]
fn a_key_is_loaded_or_refused_with_a_way_out() {
    hold("encrypted_key", encrypted_key);
}
