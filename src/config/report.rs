//! Errors and warnings of a configuration: [`ConfigErrors`] and [`Warning`] show them as rustc would, with file, line,
//! caret and a way out.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

/// Every error of a configuration, in the order of the file.
#[derive(Debug)]
pub struct ConfigErrors {
    file_name: Box<str>,
    text: Box<str>,
    faults: Vec<Fault>,
}

/// Whether a report is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// With terminal escapes.
    Terminal,
    /// Text alone.
    None,
}

impl ConfigErrors {
    pub(super) fn new(file_name: &str, text: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.mark.as_ref().map_or(usize::MAX, |mark| mark.span.start));
        Self { file_name: file_name.into(), text: text.into(), faults }
    }

    /// The errors as one sentence each, without their place.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.faults.iter().map(|fault| &*fault.message)
    }

    /// All errors with their lines, and a last line that counts them.
    pub fn render(&self, colour: Colour) -> String {
        let renderer = match colour {
            Colour::Terminal => Renderer::styled(),
            Colour::None => Renderer::plain(),
        };
        let shown = self.faults.iter().take(SHOWN_MAX);
        let report: Vec<_> =
            shown.map(|fault| self.render_one(fault, Level::ERROR, &renderer) + "\n\n").collect();
        let more = match self.faults.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more => format!("and {more} more\n\n"),
        };
        let (count, plural) = (self.faults.len(), if self.faults.len() == 1 { "" } else { "s" });
        format!("{}{more}{count} error{plural} in {}\n", report.concat(), self.file_name)
    }

    fn render_one(&self, fault: &Fault, level: Level<'_>, renderer: &Renderer) -> String {
        let mut group = Group::with_title(level.primary_title(&*fault.message));
        if let Some(mark) = &fault.mark {
            let mut snippet = Snippet::source(&*self.text)
                .path(&*self.file_name)
                .annotation(AnnotationKind::Primary.span(mark.span.clone()).label(&*mark.label));
            if let Some(also) = &fault.also {
                snippet =
                    snippet.annotation(AnnotationKind::Context.span(also.span.clone()).label(&*also.label));
            }
            group = group.element(snippet);
        } else {
            group = group.element(Origin::path(&*self.file_name));
        }
        if let Some(help) = &fault.help {
            // A hint quotes the file, and the renderer takes a message's own escapes for ours.
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colour::None))
    }
}

impl Error for ConfigErrors {}

/// What is allowed in a configuration and should be changed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    message: Box<str>,
    report: Box<str>,
}

impl Warning {
    /// Keeps what can be said of them, while the text of the file is there.
    pub(super) fn all(file_name: &str, text: &str, warnings: Vec<Fault>) -> Vec<Self> {
        let source = ConfigErrors::new(file_name, text, warnings);
        let warning = |fault: &Fault| Self {
            message: fault.message.as_str().into(),
            report: source.render_one(fault, Level::WARNING, &Renderer::plain()).into(),
        };
        source.faults.iter().map(warning).collect()
    }

    /// With its line in the file, if it has one, and a way out; plain text without a line break at its end.
    pub fn report(&self) -> &str {
        &self.report
    }
}

/// One sentence, without its place.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What has more errors is another kind of file, and a longer report would only bury the first of them.
const SHOWN_MAX: usize = 200;

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    message: String,
    // Boxed, so that a reader's result is not mostly room for an error.
    mark: Option<Box<Mark>>,
    also: Option<Box<Mark>>,
    help: Option<Box<str>>,
}

/// A place in the file and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    span: Range<usize>,
    label: String,
}

impl Fault {
    /// An error of the whole file.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), mark: None, also: None, help: None }
    }

    /// An error at a place; the label stands below the caret.
    pub(super) fn at(span: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Self {
        Self { mark: Some(Box::new(Mark { span, label: label.into() })), ..Self::new(message) }
    }

    /// The same, with another place that belongs to it.
    pub(super) fn also(self, span: Range<usize>, label: impl Into<String>) -> Self {
        Self { also: Some(Box::new(Mark { span, label: label.into() })), ..self }
    }

    /// The same, with a way out.
    pub(super) fn help(self, help: impl Into<Box<str>>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The place.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        self.mark.as_ref().map(|mark| mark.span.clone())
    }
}

/// Collects errors from every part of the reading, so that none of them has to stop it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
}

impl Faults {
    /// Adds an error, unless it is there already: a bad default is met again at each route that inherits it.
    pub(super) fn push(&self, fault: Fault) {
        let mut faults = self.faults.borrow_mut();
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    /// Adds what is allowed and should be changed all the same.
    pub(super) fn warn(&self, warning: impl fmt::Display) {
        self.warn_at(Fault::new(warning.to_string()));
    }

    /// The same with a place in the file.
    pub(super) fn warn_at(&self, warning: Fault) {
        self.warnings.borrow_mut().push(warning);
    }

    /// The errors and the warnings.
    pub(super) fn into_parts(self) -> (Vec<Fault>, Vec<Fault>) {
        (self.faults.into_inner(), self.warnings.into_inner())
    }
}

/// A hint for `word`: the candidate that was probably meant, or else all of them.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<_> = candidates.into_iter().collect();
    let distance =
        |candidate: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
    // A third of the letters wrong is a slip, and so is a longer or a shorter form; the rest is another word.
    let is_near = |candidate: &str| {
        distance(candidate) <= word.chars().count().max(3) / 3
            || candidate.len().min(word.len()) >= 3
                && (candidate.starts_with(word) || word.starts_with(candidate))
    };
    let nearest = candidates.iter().filter(|candidate| is_near(candidate));
    match nearest.min_by_key(|candidate| distance(candidate)) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if !candidates.is_empty() => format!("known here: {}", quoted(candidates)),
        None => "nothing is known here".to_owned(),
    }
}

/// The words in backquotes, with commas.
fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
