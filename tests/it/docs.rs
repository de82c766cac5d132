//! Holds the README and the book to the program: each configuration, command, query, quotation, name and link in them is one
//! that works.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

use self::markdown::{Block, Page};
use crate::support::certificates::{Authority, Encryption};
use crate::support::command::{said, stent};
use crate::support::tls::Pki;

mod markdown;

/// What a fragment of a configuration is completed by.
const PREAMBLE: &str = r#"
[[listener]]
address = "0.0.0.0:8080"

[cluster.shop]
endpoints = ["http://10.0.1.10:8080", "http://10.0.2.10:8080"]

[[route]]
name = "everything"
path = "/*"
cluster = "shop"
"#;

const METRICS: &str = "docs/reference/metrics.md";
/// It names the metrics of the release before. A test beside the declarations holds its table to them.
const UPGRADE: &str = "docs/operate/upgrade.md";

/// The folders whose files the pages name in spans of code.
const FOLDERS: [&str; 8] = [".ci/", "bench/", "config/", "docs/", "fuzz/", "pgo/", "src/", "tests/"];

#[test]
fn every_configuration_is_one_that_check_takes() {
    let files = Pki::new();
    let blocks = blocks("toml");
    assert!(blocks.len() > 20, "there are {}", blocks.len());
    for (number, block) in blocks.iter().enumerate() {
        let Block { place, info, text } = block;
        let mut config: Table = text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
        if info.contains(&"fragment".to_owned()) {
            let mut whole: Table = PREAMBLE.parse().unwrap();
            merge(&mut whole, config);
            config = whole;
        }
        bring_files(&mut config, &files);
        let path = files.write(&format!("{number}.toml"), &config.to_string());
        let output = stent(&["check", &path]);
        assert_eq!(output.status.code(), Some(0), "{place}:\n{}", said(&output)[1]);
    }
}

/// Adds tables key by key, and arrays of tables table by table; anything else takes the place of what is there.
fn merge(whole: &mut Table, part: Table) {
    for (key, value) in part {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if new.iter().all(Value::is_table) => {
                old.extend(new);
            }
            (_, new) => drop(whole.insert(key, new)),
        }
    }
}

/// Writes each file that a configuration names, and has it name that one.
fn bring_files(table: &mut Table, files: &Pki) {
    if table.contains_key("chain") {
        let issued = files.authority.issue(&["shop.example.org"]);
        let (key, passphrase) = match table.get("passphrase_file") {
            Some(_) => {
                (issued.encrypted("secret", Encryption::Pbkdf2Sha256 { iterations: 2048 }), Some("secret"))
            }
            None => (issued.pkcs8(), None),
        };
        let Value::Table(pair) = files.pair_with_key("shop", &issued, &key, passphrase) else {
            unreachable!()
        };
        table.extend(pair);
    }
    for (key, value) in table.iter_mut() {
        match (key.as_str(), value) {
            ("ca" | "client_ca", value) => *value = files.write("ca.pem", &Authority::new("a CA").pem).into(),
            ("secret_files", Value::Array(paths)) => {
                paths.fill(files.write("secret", &"5ec2e7".repeat(4)).into());
            }
            (_, Value::Table(table)) => bring_files(table, files),
            (_, Value::Array(values)) => {
                values.iter_mut().filter_map(Value::as_table_mut).for_each(|table| bring_files(table, files));
            }
            _ => {}
        }
    }
}

#[test]
fn every_command_is_one_that_the_command_line_takes() {
    let mut count = 0;
    for block in blocks("sh") {
        for line in block.text.lines().filter(|line| line.starts_with("stent ")) {
            let taken = stent::cli::command().try_get_matches_from(words(line));
            assert!(taken.is_ok(), "{}: {line}\n{}", block.place, taken.unwrap_err());
            count += 1;
        }
    }
    assert!(count > 8, "there are {count}");
}

/// The words of a shell's first command on a line, without its comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    let line = line.split(" #").next().unwrap_or_default().split(" && ").next().unwrap_or_default();
    for character in line.trim().chars() {
        match character {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_query_and_alert_is_one_that_promtool_takes() {
    if Command::new("promtool").arg("--version").output().is_err() {
        println!("promtool is not installed: no query was checked by it");
        return;
    }
    let files = Pki::new();
    let queries = blocks("promql");
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| serde_json::json!({ "record": format!("docs:query:{number}"), "expr": query.text }))
        .collect();
    assert!(!rules.is_empty(), "the queries are not there");
    // YAML takes JSON.
    let rules = serde_json::json!({ "groups": [{ "name": "docs", "rules": rules }] });
    let mut paths = vec![files.write("queries.yaml", &rules.to_string())];
    for alerts in blocks("yaml").iter().filter(|block| block.text.starts_with("groups:")) {
        paths.push(files.write(&format!("alerts-{}.yaml", paths.len()), &alerts.text));
    }
    let output = Command::new("promtool").args(["check", "rules"]).args(paths).output().unwrap();
    assert!(output.status.success(), "{}", said(&output).concat());
}

#[test]
fn every_quotation_stands_in_its_source() {
    for block in blocks("rust") {
        let Some(source) = block.info.iter().find_map(|word| word.strip_prefix("from=")) else { continue };
        let text = fs::read_to_string(root().join(source)).unwrap();
        assert!(text.contains(&block.text), "{}: {source} holds no such text", block.place);
    }
}

#[test]
fn every_link_leads_to_a_page_and_an_anchor_that_are_there() {
    for page in pages() {
        let folder = Path::new(&page.path).parent().unwrap().to_owned();
        for link in page.links().into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.path.clone() } else { normal(&folder.join(file)) };
            assert!(root().join(&target).exists(), "{}: {link} leads nowhere", page.path);
            let leaves = page.path.starts_with("docs/") && !target.starts_with("docs/");
            assert!(!leaves, "{}: {link} leads out of the book, which holds docs/ alone", page.path);
            if !anchor.is_empty() {
                let anchors = Page::read(&root(), &root().join(&target)).anchors();
                assert!(anchors.iter().any(|other| other == anchor), "{}: no {link}", page.path);
            }
        }
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().unwrap().split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn the_summary_lists_every_page_once() {
    let summary = Page::read(&root(), &root().join("docs/SUMMARY.md"));
    let listed: Vec<_> = summary.links().iter().map(|link| format!("docs/{link}")).collect();
    let unique: HashSet<_> = listed.iter().cloned().collect();
    assert_eq!(unique.len(), listed.len(), "a page is listed twice");
    for page in pages().iter().filter(|page| page.path.starts_with("docs/") && page.path != summary.path) {
        assert!(unique.contains(&page.path), "{} is not in the summary", page.path);
    }
}

#[test]
fn every_file_that_a_page_names_is_there() {
    for page in pages() {
        let blocks = page.blocks();
        let commands = blocks.iter().filter(|block| block.language() == "sh");
        let words = commands.flat_map(|block| block.text.split_whitespace());
        for path in page.spans().into_iter().filter_map(|span| span.split_whitespace().next()).chain(words) {
            if FOLDERS.iter().any(|folder| path.starts_with(folder)) {
                let is_there = root().join(path).exists();
                assert!(is_there, "{}: there is no {path}", page.path);
            }
        }
    }
}

#[test]
fn every_metric_that_a_page_names_is_in_the_reference() {
    let reference = fs::read_to_string(root().join(METRICS)).unwrap();
    for page in pages().iter().filter(|page| page.path != METRICS && page.path != UPGRADE) {
        for rest in page.text.split("stent_").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            // `stent_admission_*` names a family.
            let name = match &rest[..end] {
                family if family.is_empty() || family.ends_with('_') => format!("`stent_{family}"),
                name => format!("`stent_{name}`"),
            };
            assert!(reference.contains(&name), "{}: the reference has no {name}", page.path);
        }
    }
}

#[test]
fn the_readme_is_short_and_has_two_commands_for_set_up() {
    let readme = Page::read(&root(), &root().join("README.md"));
    let lines = readme.text.lines().count();
    assert!(lines <= 200, "the README has {lines} lines");
    let blocks = readme.blocks();
    let shell = blocks.iter().filter(|block| block.language() == "sh");
    let commands: Vec<_> = shell
        .flat_map(|block| block.text.lines())
        .filter(|line| !line.starts_with("stent "))
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test"]);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The README and the book.
fn pages() -> Vec<Page> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.iter().map(|path| Page::read(&root(), path)).collect()
}

/// All blocks of a language.
fn blocks(language: &str) -> Vec<Block> {
    pages().iter().flat_map(Page::blocks).filter(|block| block.language() == language).collect()
}
