//! What stands in a line, field by field, and that no byte from outside breaks out of it.

use std::sync::Arc;

use http::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::verdict::Veto;
use crate::record::{AttemptResult, Target};

#[test]
fn a_line_holds_every_field_in_its_order() {
    let expected = concat!(
        r#"{"time":"2024-02-29T12:34:56.000789Z","id":"0af7","client":"2001:db8::7","client_subject":"CN=ward 7","#,
        r#""protocol":"HTTP/2","method":"POST","#,
        r#""host":"hosp.example.org","path":"/api/screenings/7","query":"page=***&name=***","#,
        r#""route":"screening","cluster":"hosp","status":502,"origin":"upstream","outcome":"ok","#,
        r#""error":"connection_refused","bytes_in":18446744073709551615,"bytes_out":0,"#,
        r#""duration_us":2000000,"time_to_head_us":1234567,"outage_wait_us":5000,"admission_wait_us":6000,"user_agent":"curl/8","attempts":["#,
        r#"{"endpoint":"10.0.1.10:8080","status":502,"delivery":"answered","start_us":3,"duration_us":4000},"#,
        r#"{"endpoint":"10.0.1.10:8080","error":"connect_refused","delivery":"never","start_us":3,"duration_us":4000},"#,
        r#"{"endpoint":"10.0.1.10:8080","hedge":true,"error":"cancelled","delivery":"maybe","start_us":3,"duration_us":4000}"#,
        r#"],"retry_stopped":"retry_after","resumed":1,"broken":"changed"}"#,
        "\n"
    );
    assert_eq!(line(&full()), expected);
}

#[test]
fn what_is_absent_is_null() {
    let record = Record { id: "".into(), ..record(Target::new(b"", "", "", b"")) };
    let line = parse(&record);
    for field in [
        "id",
        "client_subject",
        "host",
        "path",
        "query",
        "route",
        "cluster",
        "error",
        "time_to_head_us",
        "outage_wait_us",
        "admission_wait_us",
        "user_agent",
        "retry_stopped",
        "broken",
    ] {
        assert!(line.get(field).is_some_and(Value::is_null), "{field}");
    }
    assert_eq!(line["attempts"], json!([]));
}

#[test]
fn the_time_always_has_six_digits_of_a_second() {
    let time = |at| parse(&Record { at, ..record(Target::default()) })["time"].clone();
    assert_eq!(time(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
    let nanos = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_999_999_999);
    assert_eq!(time(nanos), "1970-01-01T00:00:01.999999Z");
    // Beyond the year 9999.
    let absurd = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    assert_eq!(time(absurd), "1970-01-01T00:00:00.000000Z");
}

#[test]
fn what_some_viewer_takes_for_a_line_end_or_a_command_is_escaped() {
    let text = "\"\\\n\r\0\t\u{1b}[2J\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\u{202e}\u{2066}é…";
    let line = line(&record(Target::new(b"", text, "", b"")));
    let escaped = concat!(
        r#""\"\\\u000a\u000d\u0000\u0009\u001b[2J\u007f\u0085\u009b\u2028\u2029\u202e\u2066é…""#,
        ",\"query\""
    );
    assert!(line.contains(escaped), "{line}");
}

#[test]
fn a_text_over_four_kibibytes_is_cut_and_marked() {
    let path = "p".repeat(MAX_TEXT);
    assert_eq!(parse(&record(Target::new(b"", &path, "", b"")))["path"], *path);
    let longer = format!("{path}p");
    assert_eq!(parse(&record(Target::new(b"", &longer, "", b"")))["path"], format!("{path}…"));
}

#[test]
fn a_cut_splits_no_character() {
    for before in MAX_TEXT - 4..=MAX_TEXT {
        let path = format!("{}🏥end", "p".repeat(before));
        let kept = parse(&record(Target::new(b"", &path, "", b"")))["path"].as_str().unwrap().to_owned();
        let whole = before + '🏥'.len_utf8() <= MAX_TEXT;
        assert_eq!(kept, format!("{}{}…", "p".repeat(before), if whole { "🏥" } else { "" }));
    }
}

#[test]
fn a_cut_query_shows_no_part_of_a_value() {
    let query = format!("{}=1&{}", "n".repeat(MAX_TEXT - 6), "secret-word");
    let seen = parse(&record(Target::new(b"", "", &query, b"")))["query"].as_str().unwrap().to_owned();
    assert_eq!(seen, format!("{}=***&***…", "n".repeat(MAX_TEXT - 6)));
}

proptest! {
    #[test]
    fn whatever_bytes_come_in_one_record_is_one_line_of_valid_json(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        long in prop::collection::vec(any::<u8>(), 0..2 * MAX_TEXT),
        text in ".{0,64}",
        query in any::<String>(),
        full in any::<bool>(),
    ) {
        let record = Record {
            id: text.clone().into(),
            route: Some(text.clone().into()),
            query: if full { QueryPolicy::Full } else { QueryPolicy::Redacted },
            attempts: vec![AttemptRecord {
                endpoint: text.clone().into(),
                ..attempt(AttemptResult::Cancelled, Delivery::Maybe)
            }],
            ..record(Target::new(&bytes, &text, &query, &long))
        };
        let line = line(&record);
        let body = line.strip_suffix('\n').unwrap();
        prop_assert!(!body.contains(ends_a_line));
        let parsed = parse(&record);
        prop_assert_eq!(&parsed["host"], &texted(&String::from_utf8_lossy(&bytes)));
        prop_assert_eq!(&parsed["path"], &texted(&text));
        prop_assert_eq!(&parsed["route"], &texted(&text));
        prop_assert_eq!(&parsed["attempts"][0]["endpoint"], &texted(&text));
        prop_assert!(texts_of(&long).contains(&parsed["user_agent"]));
        if full {
            prop_assert_eq!(&parsed["query"], &texted(&query));
        }
    }
}

fn ends_a_line(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// What may stand for `bytes`: all of them, or a cut that is short of its bound by part of a character.
fn texts_of(bytes: &[u8]) -> Vec<Value> {
    if bytes.len() <= MAX_TEXT {
        return vec![texted(&String::from_utf8_lossy(bytes))];
    }
    let cut_at = |end| format!("{}…", String::from_utf8_lossy(&bytes[..end])).into();
    (MAX_TEXT - 3..=MAX_TEXT).map(cut_at).collect()
}

fn texted(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

pub(super) fn parse(record: &Record) -> Value {
    serde_json::from_str(&line(record)).unwrap()
}

pub(super) fn line(record: &Record) -> String {
    let mut line = Vec::new();
    write(record, &mut line);
    String::from_utf8(line).unwrap()
}

/// A record with a value for every field.
pub(super) fn full() -> Record {
    let attempts = vec![
        attempt(AttemptResult::Status(502), Delivery::Answered),
        attempt(AttemptResult::Error("connect_refused"), Delivery::Never),
        AttemptRecord { role: Role::Hedge, ..attempt(AttemptResult::Cancelled, Delivery::Maybe) },
    ];
    Record {
        client_subject: Some("CN=ward 7".into()),
        route: Some("screening".into()),
        cluster: Some("hosp".into()),
        error: Some("connection_refused"),
        time_to_head: Some(Duration::from_micros(1_234_567)),
        outage_wait: Some(Duration::from_millis(5)),
        admission_wait: Some(Duration::from_millis(6)),
        attempts,
        retry_stopped: Some(Veto::RetryAfter),
        resumed: 1,
        broken: Some(BreakEnd::Changed),
        ..record(Target::new(b"hosp.example.org", "/api/screenings/7", "page=2&name=jane", b"curl/8"))
    }
}

pub(super) fn record(target: Target) -> Record {
    Record {
        at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_709_210_096_000_789),
        id: "0af7".into(),
        client: "2001:db8::7".parse().unwrap(),
        client_subject: None,
        protocol: Some(Version::HTTP_2),
        method: Method::POST,
        target,
        route: None,
        cluster: None,
        query: QueryPolicy::Redacted,
        status: 502,
        origin: Origin::Upstream,
        outcome: ExchangeOutcome::Ok,
        error: None,
        bytes_in: u64::MAX,
        bytes_out: 0,
        duration: Duration::from_secs(2),
        time_to_head: None,
        outage_wait: None,
        admission_wait: None,
        attempts: Vec::new(),
        retry_stopped: None,
        resumed: 0,
        broken: None,
    }
}

pub(super) fn attempt(result: AttemptResult, delivery: Delivery) -> AttemptRecord {
    AttemptRecord {
        endpoint: Arc::from("10.0.1.10:8080"),
        role: Role::Turn,
        result,
        delivery,
        started: Duration::from_nanos(3_999),
        duration: Duration::from_millis(4),
    }
}
