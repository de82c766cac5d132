//! The demo's texts: the introduction, the summary, and the line of one moment.

use std::net::SocketAddr;

use super::table::{Row, attempts, grouped, heading, plain_percent, quantile, rows, share};
use super::{Look, Side, View};
use crate::demo::DemoOptions;
use crate::demo::faults::{BURST_PERIOD, Faults};
use crate::demo::load::{Figures, PATIENCE};
use crate::demo::stent::{RETRY, StentCounts};

/// The first screen.
pub(in crate::demo) fn intro(options: &DemoOptions, admin: SocketAddr) -> String {
    let rate = options.failure_rate;
    let (burst, period) = (Faults::burst_length(rate), BURST_PERIOD.as_secs());
    let bursts = if burst.is_zero() {
        String::new()
    } else {
        format!(
            "\n  Part of that comes in bursts: every {period} s everything fails for {} ms.",
            burst.as_millis()
        )
    };
    let ending = if options.hold {
        format!("A summary comes after {} s; then it goes on until Ctrl-C.", options.seconds)
    } else {
        format!("It takes {} s and ends by itself; Ctrl-C ends it sooner.", options.seconds)
    };
    let config: Vec<_> = RETRY.lines().map(|line| format!("    {line}")).collect();
    format!(
        "\
STENT DEMO: the same users, the same flaky backend, with and without Stent

  Two copies of a small HOSP run in this process: patients, notes, screenings.
  {percent} of their answers fail: 500, 502, a reset connection, or none at all.{bursts}
  Each copy gets the same {rate} requests/s, on a schedule that waits for no answer:
  one straight from its users, the other through Stent. A user gives up after {patience} s.
  {ending}

  Stent is the real one, over the loopback, tuned for a backend known to be flaky:

{config}

  Every POST here carries an Idempotency-Key that HOSP honours. Without one, Stent
  repeats a POST only if nothing of it was sent, and its user would see the failure.

  Metrics while it runs:  curl http://{admin}/metrics
",
        config = config.join("\n"),
        percent = plain_percent(rate),
        rate = options.rate,
        patience = PATIENCE.as_secs(),
    )
}

/// The last screen, or the one after which `--hold` goes on.
pub(in crate::demo) fn summary(options: &DemoOptions, view: &View, look: Look) -> String {
    let (straight, stent) = (&view.straight, &view.stent);
    let mut lines = vec![
        String::new(),
        format!(
            "SUMMARY of {} s at {} requests/s each way, with {} of HOSP's answers set to fail",
            view.elapsed.as_secs(),
            options.rate,
            plain_percent(options.failure_rate),
        ),
        String::new(),
        heading(""),
    ];
    let posts =
        |label, count: fn(&Side) -> u64| Row::new(label, grouped(count(straight)), grouped(count(stent)));
    let executed = posts("POSTs carried out", |side| side.hosp.executed);
    let twice = posts("POSTs carried out twice", |side| side.hosp.duplicates);
    lines.extend(rows(view).iter().chain([&executed, &twice]).map(|row| row.text(look)));

    let failed = |way, side: &Side| {
        let (failed, requests) = (grouped(side.users.failed()), grouped(side.users.requests()));
        format!("  {way}, {failed} of {requests} requests failed{}.", kinds(&side.users))
    };
    lines.push(String::new());
    lines.push(failed("Straight to HOSP", straight));
    lines.push(failed("Through Stent", stent));
    if let Some(StentCounts { retries, recovered, .. }) = view.counts {
        let (retries, recovered) = (grouped(retries), grouped(recovered));
        lines.push(format!("  Stent retried {retries} times and so saved {recovered} requests."));
    }
    let share = |side: &Side| side.hosp.failed as f64 / side.hosp.answers.max(1) as f64;
    if share(stent) > share(straight) {
        lines.push(
            "  Behind Stent, HOSP fails more of its answers: retries meet its bursts again.".to_owned(),
        );
    }
    lines.push(format!(
        "  Straight to HOSP, {} POSTs were carried out although their user saw a failure.",
        grouped(straight.hosp.executed_then_failed)
    ));
    let (duplicates, replayed) = (stent.hosp.duplicates, grouped(stent.hosp.replayed));
    lines.push(if duplicates == 0 {
        format!("  Through Stent, no POST was carried out twice: HOSP knew {replayed} repeats by their key.")
    } else {
        format!("  THROUGH STENT, {} POSTS WERE CARRIED OUT TWICE.", grouped(duplicates))
    });
    lines.join("\n")
}

/// One moment in a line.
pub(super) fn line(view: &View) -> String {
    let side = |side: &Side| {
        let users = &side.users;
        format!(
            "{} requests, {} failed = {}, p50 {}, p99 {}",
            grouped(users.requests()),
            grouped(users.failed()),
            share(users.failed(), users.requests()),
            quantile(users, 0.5),
            quantile(users, 0.99),
        )
    };
    let counts = view.counts.map_or_else(String::new, |counts| {
        format!(", {} attempts/request, {} retries", attempts(Some(counts)), grouped(counts.retries))
    });
    format!(
        "{:>4} s | straight: {} | Stent: {}{counts}",
        view.elapsed.as_secs(),
        side(&view.straight),
        side(&view.stent)
    )
}

/// The kinds of failure, in brackets, if there are any.
fn kinds(users: &Figures) -> String {
    let kinds: Vec<_> =
        users.failures().map(|(failure, count)| format!("{} {}", grouped(count), failure.label())).collect();
    if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) }
}
