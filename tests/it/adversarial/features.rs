//! What holds the cases that this runner cannot judge: scenarios, and what concerns a feature with tests of its own.

use std::path::Path;

use super::cases::{self, Expect, Kind};

/// Who judges a case.
#[derive(Clone, Copy, Debug)]
enum Judge {
    /// These tests, by the names of their functions.
    Tests(&'static [&'static str]),
    /// A person, or a tool beside the tests: which.
    Person(&'static str),
    /// Nobody yet, because this is missing.
    Missing(&'static str),
}

use Judge::{Missing, Person, Tests};

#[test]
fn every_scenario_is_held_by_a_test_or_left_to_a_person() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    read(&root.join("src"), &mut code);
    read(&root.join("tests"), &mut code);
    let (mut wrong, mut held, mut skipped) = (Vec::new(), 0, 0);
    let cases = cases::load();
    for case in &cases {
        if case.kind != Kind::Scenario && case.expect() != Some(Expect::Feature) {
            continue;
        }
        match judge_of(&case.id) {
            None => wrong.push(format!("{}: nobody judges it: {}", case.id, case.why)),
            Some(Tests(names)) => {
                held += 1;
                let is_gone = |name: &&&str| !code.contains(&format!("fn {name}("));
                wrong.extend(names.iter().filter(is_gone).map(|name| format!("{}: no test {name}", case.id)));
            }
            Some(Person(what)) => {
                skipped += 1;
                println!("skipped {}, for a person: {what}", case.id);
            }
            Some(Missing(what)) => {
                skipped += 1;
                println!("skipped {}, not there yet: {what}", case.id);
            }
        }
    }
    let is_known = |id: &str| cases.iter().any(|case| case.id == id);
    wrong.extend(JUDGES.iter().filter(|(id, _)| !is_known(id)).map(|(id, _)| format!("{id} is no case")));
    println!("scenarios and features: {held} held by tests, {skipped} skipped");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn read(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, code);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Whether the case of this id is judged elsewhere.
pub(super) fn is_judged_elsewhere(id: &str) -> bool {
    judge_of(id).is_some()
}

fn judge_of(id: &str) -> Option<Judge> {
    JUDGES.iter().find(|(other, _)| *other == id).map(|(_, judge)| *judge)
}

const LOG: &[&str] = &[
    "whatever_bytes_come_in_one_record_is_one_line_of_valid_json",
    "what_some_viewer_takes_for_a_line_end_or_a_command_is_escaped",
];
const TLS: Judge = Missing("a test of TLS for it");
const EXPORT: Judge = Missing("the export of the audit trail");
const UPLOADS: Judge = Missing("notifications of uploads");

const JUDGES: &[(&str, Judge)] = &[
    ("SL-01", Tests(&["a_head_that_comes_byte_by_byte_is_cut_off_after_header_timeout_in_all"])),
    (
        "SL-02",
        Tests(&[
            "a_caller_silent_inside_its_body_for_body_timeout_gets_a_408",
            "a_caller_that_drips_its_body_gets_a_408_when_its_pauses_add_up_to_body_timeout",
        ]),
    ),
    (
        "SL-03",
        Tests(&[
            "a_caller_that_takes_nothing_of_its_answer_for_write_timeout_is_cut_off",
            "slow_readers_of_large_answers_do_not_fill_memory",
        ]),
    ),
    ("SL-04", Tests(&["an_idle_connection_is_closed_after_idle_timeout_and_not_before"])),
    ("SL-06", Tests(&["an_idle_connection_is_closed_after_idle_timeout_and_not_before"])),
    ("SL-08", Person("a measurement of the quiet and the loaded p99")),
    ("SL-09", Tests(&["a_handshake_ends_for_a_reason_that_is_counted"])),
    (
        "SL-10",
        Tests(&[
            "a_hanging_attempt_with_a_body_has_until_the_deadline_and_is_sent_once",
            "no_answer_before_the_deadline_is_a_504_at_the_deadline",
        ]),
    ),
    ("SL-11", Tests(&["an_upstream_silent_inside_its_body_for_body_timeout_is_a_truncated_answer"])),
    ("SL-12", Tests(&["a_connection_that_nobody_accepts_is_given_up_after_connect_timeout"])),
    ("SL-13", Tests(&["a_caller_who_leaves_during_a_backoff_ends_the_exchange_at_once"])),
    ("SL-14", Tests(&["a_tunnel_in_which_nothing_passes_is_closed"])),
    (
        "SL-15",
        Tests(&[
            "on_sigterm_readiness_fails_at_once_while_listeners_still_accept",
            "sigterm_under_load_loses_no_request",
        ]),
    ),
    ("RT-01", Tests(&["a_500_and_a_502_are_retried"])),
    ("RT-02", Tests(&["when_attempts_are_exhausted_the_caller_gets_the_last_answer_byte_for_byte"])),
    ("RT-03", Tests(&["a_post_that_may_have_arrived_is_not_sent_again"])),
    ("RT-04", Tests(&["a_post_whose_connection_was_refused_by_a_lone_endpoint_is_sent_when_it_is_back"])),
    ("RT-06", Tests(&["a_post_with_an_idempotency_key_is_sent_again_whole"])),
    ("RT-07", Tests(&["a_body_over_body_limit_streams_on_and_is_not_sent_again"])),
    (
        "RT-09",
        Tests(&[
            "retry_after_is_waited_for_and_a_longer_one_passed_on",
            "retry_after_reads_seconds_and_dates",
        ]),
    ),
    ("RT-10", Tests(&["only_the_listed_statuses_are_retried_never_a_class"])),
    ("RT-12", Tests(&["an_ejected_endpoint_gets_one_probe_after_open_and_returns_when_that_is_answered"])),
    ("RT-13", Tests(&["a_wait_lies_within_its_range_and_never_over_max"])),
    ("RT-14", Tests(&["a_backoff_that_would_end_after_the_deadline_is_not_begun"])),
    ("RT-15", Tests(&["a_caller_that_waits_to_continue_gets_one_100_whatever_the_attempts"])),
    ("RT-16", Tests(&["a_tunnel_that_the_backend_breaks_ends_for_the_caller_and_is_never_begun_again"])),
    ("RT-17", Tests(&["every_idempotent_method_is_retried"])),
    ("RT-18", Tests(&["a_discarded_body_of_more_than_64_kib_costs_its_connection"])),
    ("RT-19", Tests(&["nothing_of_a_discarded_answer_reaches_the_caller"])),
    (
        "RT-20",
        Tests(&[
            "a_request_id_is_made_where_there_is_none_and_is_the_same_over_attempts",
            "the_upstream_is_told_the_number_of_an_attempt_from_the_second_on_and_callers_cannot_forge_it",
        ]),
    ),
    ("RT-21", Tests(&["a_caller_that_wants_the_connection_closed_gets_its_retry_first"])),
    ("RT-22", Tests(&["endpoints_that_stay_keep_their_identity_and_those_that_go_are_retired"])),
    ("RT-23", Tests(&["a_certificate_of_another_ca_or_another_time_is_refused_and_nothing_was_sent"])),
    ("RT-24", Person("the arithmetic of CloudFront's attempts and ours stands in the documentation")),
    ("RT-25", Tests(&["no_answer_may_be_cached"])),
    ("TL-01", Tests(&["the_oldest_version_is_the_configured_one_and_a_reload_changes_it"])),
    ("TL-02", Person("rustls has no renegotiation; a scanner shows it")),
    ("TL-03", Person("rustls has none of these ciphers; a scanner shows it")),
    (
        "TL-04",
        Tests(&[
            "a_certificate_is_chosen_by_exact_name_then_by_wildcard_then_as_the_first",
            "a_request_for_another_certificates_host_is_misdirected",
        ]),
    ),
    ("TL-05", Tests(&["http2_and_http1_are_agreed_on"])),
    ("TL-06", Person("openssl s_client -early_data; rustls takes none unless it is told to")),
    ("TL-07", Tests(&["certificates_can_be_swapped_a_hundred_times_under_load"])),
    (
        "TL-08",
        Tests(&[
            "a_certificate_that_cannot_serve_is_found_before_the_start",
            "a_bad_pair_leaves_the_old_one_and_is_said_once",
        ]),
    ),
    ("TL-09", TLS),
    ("TL-10", Tests(&["a_handshake_ends_for_a_reason_that_is_counted"])),
    ("TL-11", Person("a load of handshakes beside the tests")),
    ("TL-12", TLS),
    ("TL-13", Tests(&["a_certificate_of_another_ca_or_another_time_is_refused_and_nothing_was_sent"])),
    ("TL-14", Tests(&["every_form_of_key_serves"])),
    ("TL-15", TLS),
    ("TL-16", TLS),
    ("TL-17", Person("tlsfuzzer, sslyze and testssl, run beside the tests")),
    ("AU-01", EXPORT),
    ("AU-02", EXPORT),
    ("AU-03", Tests(LOG)),
    ("AU-04", Tests(LOG)),
    ("AU-05", Tests(LOG)),
    ("AU-06", Tests(LOG)),
    ("AU-07", Tests(&["a_text_over_four_kibibytes_is_cut_and_marked"])),
    ("AU-08", Tests(&["query_values_are_redacted_unless_the_route_allows_them"])),
    ("AU-09", Missing("the notes of screening answers")),
    ("AU-10", EXPORT),
    ("AU-11", Tests(&["a_full_disk_loses_and_counts_lines_until_there_is_space_again"])),
    ("AU-12", EXPORT),
    ("AU-13", EXPORT),
    ("AU-14", EXPORT),
    ("AU-15", EXPORT),
    ("AU-16", Tests(&["every_promised_metric_is_there_after_some_traffic"])),
    ("AU-17", Tests(&["the_format_is_one_that_promtool_accepts"])),
    ("AU-18", Tests(&["what_the_admin_listener_serves_is_not_on_the_public_one"])),
    ("AU-19", EXPORT),
    ("AU-20", EXPORT),
    ("AU-21", EXPORT),
    ("AU-22", EXPORT),
    ("UP-01", UPLOADS),
    ("UP-02", UPLOADS),
    ("UP-03", UPLOADS),
    ("UP-04", UPLOADS),
    ("UP-05", UPLOADS),
    ("UP-06", UPLOADS),
    ("UP-07", UPLOADS),
    ("UP-08", UPLOADS),
    ("OP-01", Tests(&["readiness_follows_the_state_and_life_does_not"])),
    ("OP-02", Tests(&["readiness_follows_the_state_and_life_does_not"])),
    ("OP-03", Tests(&["a_reload_with_a_bad_file_leaves_the_old_configuration_running"])),
    ("OP-04", Tests(&["a_flood_of_callers_takes_no_descriptor_from_healthy_requests"])),
    ("OP-05", Person("a machine with CPU credits")),
    ("OP-06", Person("config/stent.service and the Dockerfile, run as they are")),
    ("OP-07", Missing("AWS credentials")),
    ("OP-08", Missing("a way for a test to make an exchange panic")),
    (
        "OP-09",
        Person(
            "a day's soak; ten_thousand_requests_with_random_faults_leave_nothing_behind is its short form",
        ),
    ),
    ("OP-10", Person("`cargo deny check`")),
];
