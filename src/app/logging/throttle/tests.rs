//! The throttle by itself, and behind a subscriber as the program has it.

use std::io;

use tracing::subscriber::with_default;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

const EJECTED: u64 = 1;
const RESTORED: u64 = 2;

fn at(seconds: u64) -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START + Duration::from_secs(seconds)
}

/// Tells of an event; gives what is written of it at once.
fn tell(throttle: &Throttle, kind: u64, place: u64, seconds: u64, line: &str) -> Option<String> {
    match throttle.judge(Subject { kind, place }, at(seconds)) {
        Verdict::Write { suppressed: 0 } => Some(line.to_owned()),
        Verdict::Write { suppressed } => Some(with_count(line.to_owned(), suppressed)),
        Verdict::Hold(turn) => {
            throttle.hold(turn, line.to_owned());
            None
        }
        Verdict::Count => None,
    }
}

#[test]
fn one_kind_at_one_place_gets_a_line_a_minute_and_the_next_counts_the_rest() {
    let throttle = Throttle::default();
    assert_eq!(tell(&throttle, 1, 1, 0, "a\n").as_deref(), Some("a\n"));
    for second in 0..59 {
        assert_eq!(tell(&throttle, 1, 1, second, "b\n"), None);
        assert!(throttle.due(Some(at(second))).is_empty());
    }
    assert_eq!(throttle.due(Some(at(60))), ["b suppressed=58\n"]);
    // That line begins a minute of its own.
    assert_eq!(tell(&throttle, 1, 1, 61, "c\n"), None);
    assert_eq!(throttle.due(Some(at(119))), [""; 0]);
    assert_eq!(throttle.due(Some(at(120))), ["c\n"]);
    assert_eq!(tell(&throttle, 1, 1, 180, "d\n").as_deref(), Some("d\n"));
}

#[test]
fn other_kinds_and_other_places_lose_nothing_by_a_flood() {
    let throttle = Throttle::default();
    for _ in 0..10_000 {
        tell(&throttle, 1, 1, 0, "flood\n");
    }
    assert!(tell(&throttle, 1, 2, 0, "another place\n").is_some());
    assert!(tell(&throttle, 2, 1, 0, "another kind\n").is_some());
}

#[test]
fn the_last_line_tells_the_present_state_after_a_minute_of_flapping() {
    let throttle = Throttle::default();
    let mut written = Vec::new();
    let mut state = |second, kind, line: &str| {
        written.extend(throttle.due(Some(at(second))));
        written.extend(tell(&throttle, kind, 7, second, line));
    };
    state(0, EJECTED, "ejected at 0\n");
    state(10, RESTORED, "restored at 10\n");
    state(11, EJECTED, "ejected at 11\n");
    state(12, RESTORED, "restored at 12\n");
    state(13, EJECTED, "ejected at 13\n");
    written.extend(throttle.due(Some(at(73))));
    assert_eq!(written, ["ejected at 0\n", "restored at 10\n", "ejected at 13 suppressed=2\n"]);
}

#[test]
fn a_line_that_is_written_supersedes_an_older_one_that_is_held_back() {
    let throttle = Throttle::default();
    tell(&throttle, EJECTED, 7, 0, "ejected\n");
    tell(&throttle, EJECTED, 7, 1, "ejected again\n");
    assert_eq!(tell(&throttle, RESTORED, 7, 2, "restored\n").as_deref(), Some("restored suppressed=1\n"));
    assert_eq!(throttle.due(Some(at(100))), [""; 0]);
}

#[test]
fn an_older_event_does_not_take_the_place_of_a_newer_one() {
    let throttle = Throttle::default();
    tell(&throttle, EJECTED, 7, 0, "ejected\n");
    let Verdict::Hold(older) = throttle.judge(Subject { kind: EJECTED, place: 7 }, at(1)) else {
        panic!("the minute is not over")
    };
    tell(&throttle, RESTORED, 7, 1, "restored\n");
    throttle.hold(older, "ejected again\n".to_owned());
    assert_eq!(throttle.due(Some(at(100))), [""; 0]);
}

#[test]
fn at_the_end_nothing_is_kept_back() {
    let throttle = Throttle::default();
    tell(&throttle, 1, 1, 0, "a\n");
    tell(&throttle, 1, 1, 1, "b\n");
    assert_eq!(throttle.due(None), ["b\n"]);
}

#[test]
fn any_number_of_places_takes_bounded_memory_and_lines() {
    let throttle = Throttle::default();
    let lines = (0..100_000).filter_map(|place| tell(&throttle, 1, 1000 + place, 0, "x\n")).count();
    assert_eq!(lines, PLACES + 1, "and one for all places beyond");
    assert!(throttle.lock().len() <= PLACES + 1);
    // A minute later those that are over make room.
    assert!(tell(&throttle, 1, 1, 61, "x\n").is_some());
    throttle.due(Some(at(200)));
    assert!(throttle.lock().is_empty());
}

#[test]
fn a_long_line_is_counted_and_not_held_back() {
    let throttle = Throttle::default();
    tell(&throttle, 1, 1, 0, "a\n");
    tell(&throttle, 1, 1, 1, &"b".repeat(MAX_HELD + 1));
    assert_eq!(throttle.due(Some(at(60))), [""; 0]);
    assert_eq!(tell(&throttle, 1, 1, 60, "c\n").as_deref(), Some("c suppressed=1\n"));
}

#[test]
fn the_count_is_the_last_key_of_a_json_line() {
    let line = with_count("{\"fields\":{\"message\":\"a\"}}\n".to_owned(), 3);
    assert_eq!(line, "{\"fields\":{\"message\":\"a\"},\"suppressed\":3}\n");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["suppressed"], 3);
}

/// Collects lines in the place of standard error.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl io::Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8(line.to_owned()).unwrap());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// What is written of the events of `tell`, without empty writes.
fn written(tell: impl FnOnce()) -> Vec<String> {
    let (lines, throttle) = (Lines::default(), Arc::new(Throttle::default()));
    let builder = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(lines.clone()).json();
    with_default(builder.map_event_format(|format| Throttled::new(format, throttle)).finish(), tell);
    let mut lines = std::mem::take(&mut *lines.0.lock().unwrap());
    lines.retain(|line| !line.is_empty());
    lines
}

#[test]
fn events_are_told_apart_by_their_call_site_and_place_and_not_by_what_a_peer_sends() {
    let lines = written(|| {
        for error in ["a", "b", "c"] {
            for address in ["127.0.0.1:1", "127.0.0.1:2"] {
                tracing::warn!(target: "stent::downstream", %address, error, "not accepted");
            }
        }
    });
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[test]
fn what_an_operator_causes_is_not_throttled_and_neither_is_debug() {
    let lines = written(|| {
        for _ in 0..3 {
            tracing::info!(target: "stent::app::run", "configuration reloaded");
            tracing::debug!("connection ended");
        }
    });
    assert_eq!(lines.len(), 6, "{lines:#?}");
}

#[test]
fn a_panic_is_throttled_by_its_location() {
    let lines = written(|| {
        for location in ["a.rs:1:1", "a.rs:1:1", "b.rs:1:1"] {
            tracing::error!(target: "stent::panic", location, "panicked");
        }
    });
    assert_eq!(lines.len(), 2, "{lines:#?}");
}
