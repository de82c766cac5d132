//! The configuration file: [`load`] reads it, checks it whole, and gives either a [`Config`] or every error in it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error as SyntaxError};

use crate::app::ServerSettings;
use crate::config::reader::Table;
use crate::config::report::{Fault, Faults};
use crate::downstream::acceptor::ListenerSettings;
use crate::record::log::AccessLogOutput;
use crate::route::RouteSettings;
use crate::upstream::cluster::ClusterSettings;

pub use self::effective::effective;
pub use self::report::{Colour, ConfigErrors};

mod build;
pub(crate) mod effective;
mod raw;
mod reader;
mod relations;
mod report;
pub mod units;
mod values;

/// A configuration in which everything has been checked and merged.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`
    pub server: ServerSettings,
    /// `[admin] address`
    pub admin: SocketAddr,
    /// `[log]`
    pub log: LogSettings,
    /// `[access_log] output`
    pub access_log: AccessLogOutput,
    /// `[[listener]]`; at least one, each at an address of its own.
    pub listeners: Vec<ListenerSettings>,
    /// `[cluster.NAME]`; at least one.
    pub clusters: Vec<ClusterSettings>,
    /// `[[route]]`; at least one, each with a cluster that exists.
    pub routes: Vec<RouteSettings>,
}

/// The program's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: tracing::Level,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the program's own log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object.
    Json,
    /// For people.
    Text,
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// Everything that is wrong with it, at once; or the one thing that kept it from being read.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let unreadable = |reason: String, help: &str| {
        let fault = Fault::new(format!("cannot read the configuration: {reason}")).help(help);
        ConfigErrors::new(&name, "", vec![fault])
    };
    let bytes = fs::read(path).map_err(|error| {
        let help = "name a file that this user may read; config/minimal.toml is the least that works";
        unreadable(error.to_string(), help)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        unreadable(format!("line {line} is not UTF-8"), "save the file as UTF-8, as TOML requires")
    })?;
    parse(&text, &name)
}

/// Reads and checks `text`; `file_name` is what the errors call it.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigErrors> {
    let (tree, syntax) = DeTable::parse_recoverable(text);
    let faults = Faults::default();
    let file = raw::File::read(Table::root(&tree, &faults));
    if !syntax.is_empty() {
        let faults = with_syntax_errors(text, &tree, &syntax, faults.into_vec());
        return Err(ConfigErrors::new(file_name, text, faults));
    }
    let config = build::build(file, &faults);
    match faults.into_vec() {
        none if none.is_empty() => Ok(config),
        faults => Err(ConfigErrors::new(file_name, text, faults)),
    }
}

/// The syntax errors, and those of the `faults` that do not merely follow from them.
///
/// The parser goes on after an error, mostly with the next line. It loses its way where a list is not closed and
/// takes what follows for its items: of such a list only the first error tells something, and outside it nothing is
/// certain. Nor is it after a broken table header, whose keys fall to the table before.
fn with_syntax_errors(
    text: &str,
    tree: &Spanned<DeTable<'_>>,
    syntax: &[SyntaxError],
    faults: Vec<Fault>,
) -> Vec<Fault> {
    let line_start = |at: usize| text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let mut lists = Vec::new();
    multiline_lists(text, tree.get_ref(), &mut lists);
    let mut errors: Vec<_> = syntax
        .iter()
        .map(|error| (whole_characters(text, error.span().unwrap_or_default()), error.message()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);

    let mut certain = true;
    let mut seen_lists = BTreeSet::new();
    let mut seen_lines = BTreeSet::new();
    let mut all = Vec::new();
    for (span, message) in errors {
        let list = lists.iter().find(|list| list.start <= span.start && span.start <= list.end);
        let line = line_start(span.start);
        certain &= list.is_none() && !text[line..].trim_start().starts_with('[');
        let is_first = list.is_none_or(|list| seen_lists.insert(list.start)) & seen_lines.insert(line);
        if !is_first {
            continue;
        }
        let fault = Fault::at(span.clone(), message, "not valid TOML here");
        let unquoted = text[span].trim();
        all.push(match list {
            Some(list) => fault.also(list.start..list.start + 1, "in the list that begins here"),
            None if !unquoted.is_empty() && unquoted.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                fault.help(format!("a string stands in quotes: \"{unquoted}\""))
            }
            None => fault,
        });
    }
    if certain {
        all.extend(
            faults.into_iter().filter(|fault| {
                fault.span().is_some_and(|span| !seen_lines.contains(&line_start(span.start)))
            }),
        );
    }
    all
}

/// Where lists and inline tables of more than one line stand.
fn multiline_lists(text: &str, table: &DeTable<'_>, lists: &mut Vec<Range<usize>>) {
    for value in table.values() {
        value_lists(text, value, lists);
    }
}

fn value_lists(text: &str, value: &Spanned<DeValue<'_>>, lists: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Array(array) => {
            // An array of tables has the span of its first header, which is one line.
            if text[value.span()].contains('\n') {
                lists.push(value.span());
            } else {
                array.iter().for_each(|value| value_lists(text, value, lists));
            }
        }
        DeValue::Table(table) => multiline_lists(text, table, lists),
        _ => {}
    }
}

/// The span, widened to the bounds of characters and narrowed to the text.
fn whole_characters(text: &str, span: Range<usize>) -> Range<usize> {
    text.floor_char_boundary(span.start)..text.ceil_char_boundary(span.end.max(span.start))
}

#[cfg(test)]
mod tests;
