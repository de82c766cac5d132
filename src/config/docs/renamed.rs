//! Holds the changelog's table of renamed things to the declarations, and writes `docs/operate/upgrade.md` with it; compiled for
//! tests only.

use std::fmt::Write as _;

use super::{Form, KeyDoc, Place, Style};
use crate::config::keys::File;
use crate::config::parse;
use crate::config::settings::Section as _;
use crate::testing::generated;

const CHANGELOG: &str = include_str!("../../../CHANGELOG.md");
const METRICS: &str = include_str!("../../../docs/reference/metrics.md");
const FIELDS: &str = include_str!("../../../docs/reference/access-log.md");
const PAGE: &str = "docs/operate/upgrade.md";

#[test]
fn an_old_key_leads_to_the_new_one_in_every_table_that_has_it() {
    let renamed = renamed();
    assert!(!renamed.is_empty());
    for Renamed { toml, old, new, .. } in renamed {
        let errors = parse(&format!("{toml}{old} = 0\n"), "stent.toml").unwrap_err().to_string();
        assert!(errors.contains(&format!("= help: `{old}` is called `{new}` now")), "{toml}{errors}");
    }
}

#[test]
fn the_changelog_has_each_renamed_key_and_no_other() {
    let mut declared: Vec<_> =
        renamed().into_iter().filter(|key| !key.is_documented_elsewhere).map(|key| key.row).collect();
    let mut told: Vec<_> = rows().filter(|row| row.starts_with("| key |")).map(str::to_owned).collect();
    declared.sort();
    told.sort();
    assert_eq!(told, declared);
}

#[test]
fn the_changelog_has_the_new_names_of_metrics_and_fields_that_the_reference_has() {
    let mut count = 0;
    for row in rows() {
        let [_, kind, old, new, _] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}")
        };
        let reference = match kind {
            "metric" => METRICS,
            "access log" => FIELDS,
            _ => continue,
        };
        assert!(reference.contains(new), "the reference has no {new}");
        assert!(!reference.contains(old), "the reference still has {old}");
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_page_on_upgrades_is_current() {
    let mut page = OPENING.to_owned();
    for row in rows() {
        writeln!(page, "{row}").expect("writing to a string succeeds");
    }
    page.push_str(CLOSING);
    generated(PAGE, &page);
}

/// The rows of the newest table of renamed things.
fn rows() -> impl Iterator<Item = &'static str> {
    let table = CHANGELOG.lines().skip_while(|line| *line != HEADER).skip(2);
    table.take_while(|line| line.starts_with('|'))
}

/// A key that had another name in the release before.
struct Renamed {
    /// The headers of its table and of those around it.
    toml: String,
    old: &'static str,
    new: &'static str,
    /// How the changelog tells of it.
    row: String,
    /// Its table has the keys of another one, which has the row.
    is_documented_elsewhere: bool,
}

fn renamed() -> Vec<Renamed> {
    let mut found = Vec::new();
    find(&mut found, &Parent::default(), &File::describe());
    found
}

/// The table that keys stand in.
#[derive(Default)]
struct Parent {
    /// Its path with an example of a name, and with `NAME`.
    path: [String; 2],
    header: String,
    toml: String,
    is_documented_elsewhere: bool,
}

fn find(found: &mut Vec<Renamed>, parent: &Parent, keys: &[KeyDoc]) {
    for key in keys {
        let child = |name: &str, style: &Style| {
            let path = parent
                .path
                .each_ref()
                .map(|path| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") });
            let path = if let Place::Named(example) = style.place {
                [format!("{}.{example}", path[0]), format!("{}.NAME", path[1])]
            } else {
                path
            };
            Parent {
                header: style.header(&path[1]),
                toml: format!("{}{}\n", parent.toml, style.header(&path[0])),
                is_documented_elsewhere: parent.is_documented_elsewhere || style.like.is_some(),
                path,
            }
        };
        if let Some(old) = key.was {
            let row = match &key.form {
                Form::Table(style, _) => {
                    format!("| key | `{}` | `{}` |", child(old, style).header, child(key.name, style).header)
                }
                _ => format!("| key | `{}` `{old}` | `{}` |", parent.header, key.name),
            };
            let (toml, is_documented_elsewhere) = (parent.toml.clone(), parent.is_documented_elsewhere);
            found.push(Renamed { toml, old, new: key.name, row, is_documented_elsewhere });
        }
        if let Form::Table(style, keys) = &key.form {
            find(found, &child(key.name, style), keys);
        }
    }
}

const HEADER: &str = "| where | old | new |";

const OPENING: &str = "<!-- The table is the changelog's. Written by `UPDATE=1 cargo test --lib config::docs`. -->

# Upgrade

This page is for an operator who comes from the release before. Some names have changed, and no old one works beside its new one.

1. Run `stent check` of the new version on your file. An old key is an error that names the new one. The hint goes with the next
   release.
2. Change the names in dashboards, alerts and readers of the access log. A query of an old name finds nothing, and says nothing.
3. Replace the binary and restart. [Signals](signals.md) says how a process ends without a lost request.

| where | old | new |
|---|---|---|
";

const CLOSING: &str = "
Between two versions, let a dashboard ask for both names: `NEW or OLD` in a query shows the one that is there.
";
