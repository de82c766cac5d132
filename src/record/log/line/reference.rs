//! Writes `docs/reference/access-log.md` from what is declared; compiled for tests only.

use std::fmt::Write as _;

use serde_json::Value;

use super::tests::{attempt, full, line, parse, record};
use super::{attempt_fields, exchange_fields};
use crate::error::Delivery;
use crate::policy::grpc::GrpcStatus;
use crate::record::{AttemptResult, Record, Target};
use crate::testing::generated;

/// A field as the reference shows it.
pub(super) struct Field {
    pub(super) key: &'static str,
    /// What writes it.
    pub(super) kind: &'static str,
    pub(super) presence: Presence,
    pub(super) meaning: &'static str,
    /// The words that it can be.
    pub(super) values: Vec<&'static str>,
}

/// Whether a field is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// In every object, with a value.
    Always,
    /// In every object.
    OrNull,
    /// Only where there is something to say.
    OrAbsent,
}

#[test]
fn the_reference_of_the_access_log_is_current() {
    let mut page = OPENING.to_owned();
    table(&mut page, exchange_fields());
    page.push_str(ATTEMPTS);
    table(&mut page, attempt_fields());
    let example = Record { bytes_in: 512, bytes_out: 27, ..full() };
    write!(page, "\n## Example\n\n```json\n{}```\n", line(&example)).expect(MEMORY);
    generated("docs/reference/access-log.md", &page);
}

fn table(page: &mut String, fields: Vec<Field>) {
    page.push_str("| field | type | present | meaning |\n|---|---|---|---|\n");
    for Field { key, kind, presence, meaning, values } in fields {
        let kind = match kind {
            "attempts" => "array",
            "flag" => "`true`",
            "microseconds" => "number, µs",
            "number" if key.starts_with("bytes_") => "number, bytes",
            "number" | "number_if" => "number",
            "word" | "word_if" => "word",
            _ => "text",
        };
        let presence = match presence {
            Presence::Always => "always",
            Presence::OrNull => "value or `null`",
            Presence::OrAbsent => "where it applies",
        };
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        let values =
            if values.is_empty() { String::new() } else { format!(" Values: {}.", values.join(", ")) };
        writeln!(page, "| `{key}` | {kind} | {presence} | {meaning}{values} |").expect(MEMORY);
    }
}

#[test]
fn a_line_has_exactly_the_fields_of_the_reference() {
    let mut full = full();
    let grpc = AttemptResult::Grpc(200, GrpcStatus::from_number(14).unwrap());
    full.attempts.push(attempt(grpc, Delivery::Answered));
    let rich = parse(&full);
    let bare = parse(&Record { protocol: None, ..record(Target::default()) });
    let keys = |object: &Value| -> Vec<String> {
        object.as_object().unwrap().iter().map(|(key, _)| key.clone()).collect()
    };
    let declared = |fields: Vec<Field>, presence: &[Presence]| {
        let mut keys: Vec<_> = fields
            .into_iter()
            .filter(|field| presence.contains(&field.presence))
            .map(|field| field.key.to_owned())
            .collect();
        keys.sort();
        keys
    };
    let all = [Presence::Always, Presence::OrNull];
    assert_eq!(keys(&rich), declared(exchange_fields(), &all));
    assert_eq!(keys(&bare), declared(exchange_fields(), &all));
    assert!(rich.as_object().unwrap().values().all(|value| !value.is_null()), "{rich}");
    let null = bare.as_object().unwrap().iter().filter(|(_, value)| value.is_null());
    let null: Vec<_> = null.map(|(key, _)| key.clone()).collect();
    assert_eq!(null, declared(exchange_fields(), &[Presence::OrNull]));

    let attempts: Vec<_> = rich["attempts"].as_array().unwrap().iter().map(keys).collect();
    let mut seen = attempts.concat();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, declared(attempt_fields(), &[Presence::Always, Presence::OrAbsent]));
    seen.retain(|key| attempts.iter().all(|attempt| attempt.contains(key)));
    assert_eq!(seen, declared(attempt_fields(), &[Presence::Always]));
}

const MEMORY: &str = "writing to a string succeeds";

const OPENING: &str = "\
# Access log

<!-- Written from the code by a test. Do not edit: `UPDATE=1 cargo test` writes it. -->

One exchange is one line, and each line is one JSON object. The line is written when the answer's body has ended, broken or been
dropped. `[access_log]` says where the lines go.

What is absent or empty is `null`. A text of more than 4 KiB is cut there and ends in `…`. What is not UTF-8 becomes U+FFFD. Control characters and marks that a
viewer could take for a line end or a command are escaped.

";

const ATTEMPTS: &str = "
## Attempts

Each element of `attempts` is an object:

";
