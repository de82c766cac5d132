//! What the demo prints, and [`Screen`], which draws the table anew in place on a terminal and adds lines elsewhere.

mod table;
mod text;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use self::table::{GREEN, RED, RESET, heading, rows};
pub(super) use self::text::{intro, summary};
use super::ledger::Counts;
use super::load::Figures;
use super::stent::StentCounts;

/// One way to HOSP, as seen from both of its ends.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// What its users saw.
    pub(super) users: Figures,
    /// What its HOSP did.
    pub(super) hosp: Counts,
}

/// Everything that is shown of one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Since the first request.
    pub(super) elapsed: Duration,
    /// Without a proxy.
    pub(super) straight: Side,
    /// Through Stent.
    pub(super) stent: Side,
    /// What Stent's metrics say, if they could be read.
    pub(super) counts: Option<StentCounts>,
}

/// How things are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A line every few seconds: a file or a pipe.
    Lines,
    /// A table drawn anew in place, without colours.
    Table,
    /// The same with colours.
    ColourTable,
}

impl Look {
    /// How often the view is renewed.
    pub(super) fn interval(self) -> Duration {
        if self == Self::Lines { Duration::from_secs(5) } else { Duration::from_secs(1) }
    }
}

/// Writes views, each over the one before where the look allows.
#[derive(Debug)]
pub(super) struct Screen<W> {
    out: W,
    look: Look,
    /// Lines of the table that stand above the cursor.
    drawn: usize,
    previous: Option<[(u64, u64); 2]>,
    strips: [VecDeque<f64>; 2],
}

impl<W: Write> Screen<W> {
    /// A screen on which nothing stands.
    pub(super) fn new(out: W, look: Look) -> Self {
        Self { out, look, drawn: 0, previous: None, strips: [VecDeque::new(), VecDeque::new()] }
    }

    /// Prints a text below what stands there, and leaves it there.
    pub(super) fn print(&mut self, text: &str) -> io::Result<()> {
        self.drawn = 0;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Shows a moment; `until` says when this ends.
    pub(super) fn update(&mut self, view: &View, until: &str) -> io::Result<()> {
        if self.look == Look::Lines {
            writeln!(self.out, "{}", text::line(view))?;
            return self.out.flush();
        }
        self.note(view);
        let mut lines = vec![heading(&format!("{} s {until}", view.elapsed.as_secs()))];
        lines.extend(rows(view).iter().map(|row| row.text(self.look)));
        lines.push(String::new());
        for (label, strip) in ["failed, straight", "failed, Stent"].iter().zip(&self.strips) {
            lines.push(strip_text(label, strip, self.look));
        }
        if self.drawn > 0 {
            write!(self.out, "\x1b[{}A", self.drawn)?;
        }
        for line in &lines {
            writeln!(self.out, "\r{line}\x1b[K")?;
        }
        self.drawn = lines.len();
        self.out.flush()
    }

    /// Adds to each strip the share that failed since the last view.
    fn note(&mut self, view: &View) {
        let now = [&view.straight, &view.stent].map(|side| (side.users.requests(), side.users.failed()));
        let before = self.previous.replace(now).unwrap_or_default();
        for ((strip, now), before) in self.strips.iter_mut().zip(now).zip(before) {
            if strip.len() == STRIP_WIDTH {
                strip.pop_front();
            }
            let (requests, failed) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
            strip.push_back(if requests == 0 { 0.0 } else { failed as f64 / requests as f64 });
        }
    }
}

/// The recent past, an interval per character.
fn strip_text(label: &str, strip: &VecDeque<f64>, look: Look) -> String {
    let cells = strip.iter().map(|share| {
        let (paint, cell) = if *share <= 0.0 {
            (GREEN, '·')
        } else {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0..=7")]
            let height = (share / STRIP_FULL * 7.0).clamp(0.0, 7.0) as usize;
            (RED, ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][height])
        };
        if look == Look::ColourTable { format!("{paint}{cell}{RESET}") } else { cell.to_string() }
    });
    format!("  {label:<18}{}", cells.collect::<Vec<_>>().concat())
}

/// With its label it stays within 80 columns: a line that wraps would spoil the drawing in place.
const STRIP_WIDTH: usize = 52;
/// The share of failures that fills a character of a strip.
const STRIP_FULL: f64 = 0.5;

#[cfg(test)]
mod tests;
