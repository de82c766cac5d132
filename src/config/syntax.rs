//! All errors of a text that is not TOML, and those of the values that can be read nevertheless.
//!
//! The parser recovers from most errors and gives up the rest of the text at some. So each line with an error is
//! blanked, which keeps every place where it was, and the text is parsed again until nothing new turns up.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::keys::File;
use crate::config::reader::Table;
use crate::config::report::{Fault, Faults};
use crate::config::settings::Section;

/// Every error of `text`, which is known not to be TOML.
///
/// Values are checked as far as they are certain: what follows a broken table header falls to the table before it
/// and would be blamed for that. What is missing is not reported, for it may stand in a broken line.
pub(super) fn faults(text: &str) -> Vec<Fault> {
    let mut visible = text.to_owned();
    let mut found = Vec::new();
    let mut doubtful = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let (tree, errors) = DeTable::parse_recoverable(&visible);
        let mut lists = Vec::new();
        multiline_lists(&visible, tree.get_ref(), &mut lists);
        let mut errors: Vec<_> = errors
            .iter()
            .map(|error| (whole_characters(text, error.span().unwrap_or_default()), error.message()))
            .collect();
        errors.sort_by_key(|(span, _)| span.start);

        let mut blank: Vec<Range<usize>> = Vec::new();
        // One error of a line, or of a list, tells what the others would.
        let mut told = 0;
        for (span, message) in errors {
            if span.start < told {
                continue;
            }
            let list = lists.iter().find(|list| list.start <= span.start && span.start <= list.end);
            told = line_end(text, list.map_or(span.start, |list| list.end)) + 1;
            // An unclosed list reaches to the end of the text; no value of ours reaches over a table header.
            let end = list.map_or(span.start, |list| list.end.min(next_header(text, list.start)));
            let line = line_start(text, list.map_or(span.start, |list| list.start))
                ..line_end(text, end.max(span.start));
            if text[line.clone()].trim_start().starts_with('[') {
                doubtful.push(line.start..next_header(text, line.end));
            }
            found.push(describe(text, span, message, list));
            blank.push(line);
        }
        if blank.is_empty() {
            let faults = Faults::default();
            File::read(Table::root(&tree, &faults));
            found.extend(faults.into_parts().0.into_iter().filter(|fault| {
                fault.span().is_some_and(|span| !doubtful.iter().any(|range| range.contains(&span.start)))
            }));
            break;
        }
        visible = blanked(&visible, &blank);
    }
    found
}

fn describe(text: &str, span: Range<usize>, message: &str, list: Option<&Range<usize>>) -> Fault {
    let fault = Fault::at(span.clone(), message, "not valid TOML here");
    let word = text[span].trim();
    match list {
        Some(list) => fault.also(list.start..list.start + 1, "in the list that begins here"),
        None if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            fault.help(format!("a string stands in quotes: \"{word}\""))
        }
        None => fault,
    }
}

/// Where lists of more than one line stand: an unclosed one takes all that follows for its items.
fn multiline_lists(text: &str, table: &DeTable<'_>, lists: &mut Vec<Range<usize>>) {
    table.values().for_each(|value| value_lists(text, value, lists));
}

fn value_lists(text: &str, value: &Spanned<DeValue<'_>>, lists: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        // An array of tables has the span of its first header, which is one line.
        DeValue::Array(_) if text[value.span()].contains('\n') => lists.push(value.span()),
        DeValue::Array(array) => array.iter().for_each(|value| value_lists(text, value, lists)),
        DeValue::Table(table) => multiline_lists(text, table, lists),
        _ => {}
    }
}

/// The text with spaces in place of the ranges.
fn blanked(text: &str, ranges: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        bytes[range.clone()].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8(bytes).expect("a range holds whole lines, so no character is cut")
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

/// The end of the line before the next that opens a table.
fn next_header(text: &str, from: usize) -> usize {
    text[from..].find("\n[").map_or(text.len(), |newline| from + newline)
}

/// The span, widened to the bounds of characters.
fn whole_characters(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end).max(start)
}

/// A bound for a text that is not TOML at all.
const ROUNDS_MAX: usize = 64;
