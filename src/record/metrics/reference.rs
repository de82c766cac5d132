//! Writes `docs/reference/metrics.md` from what is declared; compiled for tests only.

use std::borrow::Cow;
use std::fmt::Write as _;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;

use super::cluster::{AdmissionFamilies, ClusterFamilies, OutageQueueFamilies};
use super::declare::{Declared, Families as _};
use super::endpoint::EndpointFamilies;
use super::labels::Words;
use super::listener::{CertificateFamilies, HandshakeFamilies, ListenerFamilies};
use super::process::ProcessFamilies;
use super::route::RouteFamilies;
use crate::testing::generated;

#[test]
fn the_reference_of_metrics_is_current() {
    let mut page = OPENING.to_owned();
    for (title, tables) in [
        ("Routes", vec![RouteFamilies::table()]),
        ("Clusters", vec![ClusterFamilies::table()]),
        ("Outages", vec![OutageQueueFamilies::table()]),
        ("Admission", vec![AdmissionFamilies::table()]),
        ("Endpoints", vec![EndpointFamilies::table()]),
        (
            "Listeners",
            vec![ListenerFamilies::table(), HandshakeFamilies::table(), CertificateFamilies::table()],
        ),
        ("The process", vec![ProcessFamilies::table()]),
    ] {
        write!(page, "\n## {title}\n").expect(MEMORY);
        for metric in tables.concat() {
            let (kind, labels) = (kind(metric.kind, metric.name), labels(&metric));
            write!(page, "\n### `{}`\n\n{}\n\n{kind}{labels}\n", metric.name, metric.help).expect(MEMORY);
        }
    }
    page.push_str(SYSTEM);
    for metric in ProcessCollector::for_self().desc() {
        let name = &metric.fq_name;
        let kind = kind(if name.ends_with("_total") { "counter" } else { "gauge" }, name);
        write!(page, "\n### `{name}`\n\n{}\n\n{kind}\n", metric.help).expect(MEMORY);
    }
    generated("docs/reference/metrics.md", &page);
}

/// The type and, where the name has one, the unit.
fn kind(kind: &str, name: &str) -> String {
    let base = name.strip_suffix("_total").unwrap_or(name);
    let units = [("_timestamp_seconds", "seconds since 1970"), ("_seconds", "seconds"), ("_bytes", "bytes")];
    match units.into_iter().find(|(suffix, _)| base.ends_with(suffix)) {
        Some((_, unit)) => format!("Type: {kind}, in {unit}."),
        None => format!("Type: {kind}."),
    }
}

/// The labels; those of an enum with its values.
fn labels(metric: &Declared) -> String {
    let scope = metric.scope.iter().map(|label| format!("`{label}`"));
    let others = metric.labels.iter().enumerate().map(|(place, label)| {
        let mut words = Words::new();
        for word in metric.values.iter().map(|values| &values[place]) {
            if !word.is_empty() && !words.contains(word) {
                words.push(word.clone());
            }
        }
        if words.is_empty() {
            format!("`{label}`")
        } else {
            format!("`{label}` ({})", runs(&words).join(", "))
        }
    });
    let labels: Vec<_> = scope.chain(others).collect();
    if labels.is_empty() { String::new() } else { format!(" Labels: {}.", labels.join(", ")) }
}

/// The words, each of those that only count up (`100`, `101`, `102`) as one.
fn runs(words: &[Cow<'static, str>]) -> Vec<String> {
    let number = |word: &str| {
        let digits = word.len() - word.trim_end_matches(|end: char| end.is_ascii_digit()).len();
        let (name, number) = word.split_at(word.len() - digits);
        number.parse().ok().map(|number: u32| (name.to_owned(), number))
    };
    let follows = |a: &Cow<'_, str>, b: &Cow<'_, str>| match (number(a), number(b)) {
        (Some((name, before)), Some((other, after))) => name == other && before + 1 == after,
        _ => false,
    };
    let ends = |run: &[Cow<'_, str>]| match run {
        [first, .., last] => format!("`{first}` to `{last}`"),
        words => format!("`{}`", words[0]),
    };
    words.chunk_by(follows).map(ends).collect()
}

const MEMORY: &str = "writing to a string succeeds";

const OPENING: &str = "\
# Metrics

<!-- Written from the code by a test. Do not edit: `UPDATE=1 cargo test` writes it. -->

`GET /metrics` on the admin listener answers in the Prometheus text format. The labels `route` and `cluster` are names from the
configuration, `name` is the path of a certificate, `listener` and `endpoint` are addresses with ports. No label holds a path, a
client or any other text of a request.

A histogram has the series `_bucket`, `_sum` and `_count`.
";

const SYSTEM: &str = "
## The system's view of the process
";
