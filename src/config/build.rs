//! From the file to the checked [`Config`]: retry tables merged, checked types built, and what takes two values to be
//! wrong. The parts stand beside the keys that they are made of.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use crate::config::Config;
use crate::config::idempotency;
use crate::config::keys::cluster::Cluster;
use crate::config::keys::{File, listener};
use crate::config::relations;
use crate::config::report::{Fault, Faults};
use crate::config::settings::Layered;
use crate::config::tables::Named;

/// What building takes beside the file itself.
pub(super) struct Build<'a> {
    /// Where relative paths start.
    pub(super) directory: &'a Path,
    pub(super) faults: &'a Faults,
}

/// Builds the configuration; what lacks its essentials is left out, after it has been reported.
///
/// Relative paths of certificates start at `directory`.
pub(super) fn build(file: &File, directory: &Path, faults: &Faults) -> Config {
    relations::check(file, faults);
    idempotency::check(file, faults);
    let build = Build { directory, faults };
    let clusters = file.cluster.list();
    let retry_of = |cluster: &Named<Cluster>| cluster.retry.over(&file.retry);
    let routes = file.route.list().iter().filter_map(|route| {
        let (span, route) = (route.span(), route.get_ref());
        let cluster =
            clusters.iter().find(|cluster| Some(cluster.name.get_ref()) == route.cluster.value().as_ref());
        let lower = cluster.map_or_else(|| file.retry.clone(), retry_of);
        route.build(span, &route.retry.over(&lower), &build)
    });
    Config {
        server: file.server.settings(),
        admin: file.admin.address.value(),
        log: file.log.checked(),
        access_log: file.access_log.output.value(),
        listeners: listener::build(file.listener.list(), &build),
        routes: routes.collect(),
        clusters: clusters.iter().filter_map(|cluster| cluster.build(&retry_of(cluster), &build)).collect(),
        warnings: Vec::new(),
    }
}

/// Reports two values that do not fit, at the first of them that stands in the file.
pub(super) fn misfit(faults: &Faults, error: &dyn Display, spans: [Option<Range<usize>>; 2], help: String) {
    let mut spans = spans.into_iter().flatten();
    let Some(span) = spans.next() else { return };
    let fault = Fault::at(span, error.to_string(), "does not fit");
    let fault = spans.next().into_iter().fold(fault, |fault, other| fault.also(other, "and this"));
    faults.push(fault.help(help));
}

/// Reports a name that could not be a label.
pub(super) fn check_name(what: &str, name: &str, span: Range<usize>, faults: &Faults) {
    let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'`');
    let label = if name.is_empty() {
        "empty"
    } else if name.len() > NAME_MAX {
        "too long"
    } else if !name.bytes().all(fits) {
        "a character that a label cannot carry"
    } else {
        return;
    };
    let fault = Fault::at(span, format!("invalid {what} name"), label);
    faults.push(fault.help(format!(
        "it labels metrics and log lines: 1 to {NAME_MAX} printable ASCII characters, no spaces, no quotes"
    )));
}

/// Longer labels make every metric line longer.
const NAME_MAX: usize = 64;
