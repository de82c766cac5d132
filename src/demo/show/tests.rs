//! Tests of what the demo prints, from made-up figures.

use super::table::{grouped, share};
use super::text::line;
use super::*;
use crate::demo::DemoOptions;
use crate::demo::client::Failure;
use crate::demo::load::PATIENCE;

const OPTIONS: DemoOptions = DemoOptions { seconds: 30, rate: 200, failure_rate: 0.12, hold: false };

fn users(good: u64, server_errors: u64, timeouts: u64) -> Figures {
    let mut figures = Figures::new();
    for number in 0..good {
        // Two in a hundred are slow, so that the p99 is not the p50.
        let millis = if number % 50 == 0 { 180 } else { 8 };
        figures.note(Ok(()), Duration::from_millis(millis));
    }
    for _ in 0..server_errors {
        figures.note(Err(Failure::ServerError), Duration::ZERO);
    }
    for _ in 0..timeouts {
        figures.note(Err(Failure::Timeout), PATIENCE);
    }
    figures
}

fn view() -> View {
    let hosp = Counts { answers: 6_000, failed: 720, executed: 1_000, ..Counts::default() };
    View {
        elapsed: Duration::from_secs(30),
        straight: Side { users: users(5_280, 700, 20), hosp: Counts { executed_then_failed: 60, ..hosp } },
        stent: Side {
            users: users(5_999, 1, 0),
            hosp: Counts { answers: 6_900, failed: 900, executed: 1_200, replayed: 90, ..hosp },
        },
        counts: Some(StentCounts { requests: 6_000, attempts: 6_900, retries: 900, recovered: 750 }),
    }
}

#[test]
fn the_summary_says_what_users_saw_both_ways() {
    let expected = "
SUMMARY of 30 s at 200 requests/s each way, with 12 % of HOSP's answers set to fail

                                      straight to HOSP     through Stent
  users' requests                                6,000             6,000
  failed                                           720                 1
  failed, share                                12.00 %            0.02 %
  good answers, p50                             8.1 ms            8.1 ms
  good answers, p99                             180 ms            180 ms
  attempts per request                            1.00              1.15
  retries                                            0               900
  HOSP's own answers that failed               12.00 %           13.05 %
  POSTs carried out                              1,000             1,200
  POSTs carried out twice                            0                 0

  Straight to HOSP, 720 of 6,000 requests failed (700 5xx, 20 timed out).
  Through Stent, 1 of 6,000 requests failed (1 5xx).
  Stent retried 900 times and so saved 750 requests.
  Behind Stent, HOSP fails more of its answers: retries meet its bursts again.
  Straight to HOSP, 60 POSTs were carried out although their user saw a failure.
  Through Stent, no POST was carried out twice: HOSP knew 90 repeats by their key.";
    let told = summary(&OPTIONS, &view(), Look::Lines);
    assert_eq!(told, expected, "{told}");
}

#[test]
fn a_duplicate_is_not_passed_over() {
    let mut view = view();
    view.stent.hosp.duplicates = 2;
    let told = summary(&OPTIONS, &view, Look::Lines);
    assert!(told.contains("THROUGH STENT, 2 POSTS WERE CARRIED OUT TWICE."), "{told}");
}

#[test]
fn before_the_first_answer_nothing_is_claimed() {
    let side = Side { users: Figures::new(), hosp: Counts::default() };
    let view = View { elapsed: Duration::ZERO, straight: side.clone(), stent: side, counts: None };
    assert_eq!(
        line(&view),
        "   0 s | straight: 0 requests, 0 failed = -, p50 -, p99 - | Stent: 0 requests, 0 failed = -, p50 -, p99 -"
    );
}

#[test]
fn a_moment_elsewhere_is_one_line_without_escapes() {
    let mut out = Vec::new();
    Screen::new(&mut out, Look::Lines).update(&view(), "of 30 s").unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "  30 s | straight: 6,000 requests, 720 failed = 12.00 %, p50 8.1 ms, p99 180 ms | \
         Stent: 6,000 requests, 1 failed = 0.02 %, p50 8.1 ms, p99 180 ms, 1.15 attempts/request, 900 retries\n"
    );
}

#[test]
fn a_table_is_drawn_over_the_one_before_and_never_over_a_text() {
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, Look::Table);
    for _ in 0..100 {
        screen.update(&view(), "of 30 s").unwrap();
    }
    screen.print("between").unwrap();
    screen.update(&view(), "of 30 s").unwrap();
    let text = String::from_utf8(out).unwrap();
    let table = text.find("\x1b[").map(|_| text.matches("\r  30 s of 30 s").count());
    assert_eq!(table, Some(101));
    let height = 12;
    assert_eq!(text.matches(&format!("\x1b[{height}A")).count(), 99);
    let (_, after) = text.split_once("between\n").unwrap();
    assert!(after.starts_with("\r  30 s of 30 s"), "{after}");
    let widest = text.lines().map(|line| {
        let line = line.trim_start_matches('\r').trim_end_matches("\x1b[K");
        let line = line.strip_prefix(&format!("\x1b[{height}A\r")).unwrap_or(line);
        line.chars().count()
    });
    assert!(widest.max() <= Some(80), "a line that wraps spoils the drawing in place");
}

#[test]
fn a_strip_shows_the_failures_of_each_interval_alone() {
    let mut screen = Screen::new(Vec::new(), Look::Table);
    let mut view = view();
    screen.note(&view);
    screen.note(&view);
    view.straight.users = users(5_280, 800, 20);
    screen.note(&view);
    let strips = screen.strips.each_ref().map(|strip| strip_text("", strip, Look::Table));
    assert_eq!(strips[0].trim(), "▂·█");
    assert_eq!(strips[1].trim(), "▁··");
}

#[test]
fn the_introduction_tells_what_comes_how_long_and_where_to_look() {
    let admin = "127.0.0.1:9901".parse().unwrap();
    let told = intro(&OPTIONS, admin);
    for part in [
        "12 % of their answers fail",
        "every 10 s everything fails for 300 ms",
        "the same 200 requests/s",
        "It takes 30 s and ends by itself",
        "per_try_timeout = \"1s\"",
        "carries an Idempotency-Key",
        "curl http://127.0.0.1:9901/metrics",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(intro(&DemoOptions { hold: true, ..OPTIONS }, admin).contains("until Ctrl-C"));
    let calm = intro(&DemoOptions { failure_rate: 0.0, ..OPTIONS }, admin);
    assert!(!calm.contains("every 10 s"), "{calm}");
}

#[test]
fn what_failed_is_never_rounded_to_nothing() {
    assert_eq!(share(0, 1_000_000), "0.00 %");
    assert_eq!(share(1, 1_000_000), "0.01 %");
    assert_eq!(share(1, 1), "100.00 %");
    assert_eq!(share(0, 0), "-");
}

#[test]
fn numbers_are_grouped_by_three_digits() {
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
}
