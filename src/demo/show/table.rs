//! The rows of the demo's table, and how figures are written in it.

use super::{Look, Side, View};
use crate::demo::load::Figures;
use crate::demo::stent::StentCounts;

/// A row of the table.
pub(super) struct Row<'a> {
    label: &'a str,
    cells: [String; 2],
    /// Whether a cell tells of failures (anything but zero is bad), and of how many.
    alarms: Option<[u64; 2]>,
}

impl<'a> Row<'a> {
    pub(super) fn new(label: &'a str, straight: String, stent: String) -> Self {
        Self { label, cells: [straight, stent], alarms: None }
    }

    fn alarming(self, alarms: [u64; 2]) -> Self {
        Self { alarms: Some(alarms), ..self }
    }

    pub(super) fn text(&self, look: Look) -> String {
        let cells = self.cells.iter().enumerate().map(|(place, cell)| {
            let padded = format!("{cell:>CELL_WIDTH$}");
            match self.alarms.filter(|_| look == Look::ColourTable).map(|alarms| alarms[place]) {
                Some(0) => format!("{GREEN}{padded}{RESET}"),
                Some(_) => format!("{RED}{padded}{RESET}"),
                None => padded,
            }
        });
        format!("  {:<LABEL_WIDTH$}{}", self.label, cells.collect::<Vec<_>>().concat())
    }
}

/// The line above the rows.
pub(super) fn heading(title: &str) -> String {
    Row::new(title, "straight to HOSP".to_owned(), "through Stent".to_owned()).text(Look::Lines)
}

/// The rows that are shown while the demo runs.
pub(super) fn rows(view: &View) -> Vec<Row<'static>> {
    let sides = [&view.straight, &view.stent];
    let row = |label, cell: &dyn Fn(&Side) -> String| {
        let [straight, stent] = sides.map(cell);
        Row::new(label, straight, stent)
    };
    let failed = sides.map(|side| side.users.failed());
    vec![
        row("users' requests", &|side| grouped(side.users.requests())),
        row("failed", &|side| grouped(side.users.failed())).alarming(failed),
        row("failed, share", &|side| share(side.users.failed(), side.users.requests())).alarming(failed),
        row("good answers, p50", &|side| quantile(&side.users, 0.5)),
        row("good answers, p99", &|side| quantile(&side.users, 0.99)),
        Row::new("attempts per request", "1.00".to_owned(), attempts(view.counts)),
        Row::new(
            "retries",
            "0".to_owned(),
            view.counts.map_or_else(|| "-".to_owned(), |counts| grouped(counts.retries)),
        ),
        row("HOSP's own answers that failed", &|side| share(side.hosp.failed, side.hosp.answers)),
    ]
}

pub(super) fn attempts(counts: Option<StentCounts>) -> String {
    let attempts = counts.and_then(|counts| counts.attempts_per_request());
    attempts.map_or_else(|| "-".to_owned(), |attempts| format!("{attempts:.2}"))
}

pub(super) fn quantile(users: &Figures, quantile: f64) -> String {
    users.latency.quantile(quantile).map_or_else(
        || "-".to_owned(),
        |time| {
            let millis = time.as_secs_f64() * 1000.0;
            if millis < 100.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
        },
    )
}

/// A share of what was counted, to a hundredth of a percent, upwards: what failed is never shown as nothing.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let hundredths = (u128::from(part) * 10_000).div_ceil(u128::from(whole));
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// A share that somebody set.
pub(super) fn plain_percent(share: f64) -> String {
    format!("{} %", (share * 10_000.0).round() / 100.0)
}

/// A number with a comma before each three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const LABEL_WIDTH: usize = 34;
const CELL_WIDTH: usize = 18;
pub(super) const GREEN: &str = "\x1b[32m";
pub(super) const RED: &str = "\x1b[31m";
pub(super) const RESET: &str = "\x1b[0m";
