//! What ties the tables of a file to each other: something of each kind, names and addresses used once, clusters
//! that exist, routes that do not contend.

use std::net::SocketAddr;
use std::ops::Range;

use crate::config::build::ADMIN;
use crate::config::raw;
use crate::config::reader::Field;
use crate::config::report::{Fault, Faults, did_you_mean};
use crate::route::Pattern;

/// Reports every relation that does not hold.
pub(super) fn check(file: &raw::File, faults: &Faults) {
    present(faults, &file.listeners, "listener", "`[[listener]]` with an `address`");
    present(faults, &file.clusters, "cluster", "`[cluster.NAME]` with `endpoints`");
    present(faults, &file.routes, "route", "`[[route]]` with a `name`, a `path` and a `cluster`");
    let listeners = file.listeners.given().map_or(&[][..], |listeners| listeners.get_ref());
    let routes = file.routes.given().map_or(&[][..], |routes| routes.get_ref());
    distinct_addresses(faults, &file.admin, listeners);
    if let Some(clusters) = file.clusters.given() {
        known_clusters(faults, routes, clusters.get_ref());
    }
    distinct_names(faults, routes);
    distinct_patterns(faults, routes);
}

fn present<T>(faults: &Faults, list: &Field<Vec<T>>, what: &str, example: &str) {
    let is_empty = match list {
        Field::Given(list) => list.get_ref().is_empty(),
        Field::Absent => true,
        Field::Broken => false,
    };
    if is_empty {
        faults.push(
            Fault::new(format!("there is no {what}"))
                .help(format!("add {example}; config/minimal.toml is the least that works")),
        );
    }
}

fn distinct_addresses(faults: &Faults, admin: &Field<SocketAddr>, listeners: &[raw::Listener]) {
    let mut taken: Vec<(Option<Range<usize>>, SocketAddr)> =
        vec![(admin.span(), admin.clone().unwrap_or(ADMIN))];
    if admin.is_broken() {
        taken.clear();
    }
    for listener in listeners {
        let Some(address) = listener.address.given() else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, other)| overlap(*other, *address.get_ref())) {
            let fault = Fault::at(address.span(), "two sockets at one address", "taken already");
            faults.push(match other {
                Some(other) => fault.also(other.clone(), "by this one"),
                None => fault.help(format!("`[admin] address` is {ADMIN} by default")),
            });
        }
        taken.push((Some(address.span()), *address.get_ref()));
    }
}

fn known_clusters(faults: &Faults, routes: &[raw::Route], clusters: &[raw::Cluster]) {
    for name in routes.iter().filter_map(|route| route.cluster.given()) {
        if clusters.iter().any(|cluster| cluster.name.get_ref() == name.get_ref()) {
            continue;
        }
        let shown = name.get_ref().escape_debug();
        let fault = Fault::at(name.span(), format!("unknown cluster `{shown}`"), "no such cluster");
        let names = clusters.iter().map(|cluster| &**cluster.name.get_ref());
        faults.push(fault.help(did_you_mean(name.get_ref(), names)));
    }
}

fn distinct_names(faults: &Faults, routes: &[raw::Route]) {
    let names: Vec<_> = routes.iter().filter_map(|route| route.name.given()).collect();
    for (index, name) in names.iter().enumerate() {
        if let Some(earlier) = names[..index].iter().find(|earlier| earlier.get_ref() == name.get_ref()) {
            let message = format!("two routes are called `{}`", name.get_ref().escape_debug());
            faults.push(
                Fault::at(name.span(), message, "again here")
                    .also(earlier.span(), "first here")
                    .help("the name labels metrics and log lines, so each route needs its own"),
            );
        }
    }
}

fn distinct_patterns(faults: &Faults, routes: &[raw::Route]) {
    let mut seen: Vec<(Pattern, Range<usize>)> = Vec::new();
    for route in routes {
        let Some(path) = route.path.given() else { continue };
        // A pattern with a broken part is not the one that was meant.
        if route.host.is_broken() || route.methods.is_broken() {
            continue;
        }
        let pattern = Pattern {
            host: route.host.given().map(|host| host.get_ref().clone()),
            path: path.get_ref().clone(),
            methods: route.methods.given().map(|methods| methods.get_ref().clone()),
        };
        if let Some((_, earlier)) = seen.iter().find(|(earlier, _)| earlier.conflicts_with(&pattern)) {
            faults.push(
                Fault::at(
                    path.span(),
                    "two routes take the same requests, and neither is more specific",
                    "this path",
                )
                .also(earlier.clone(), "and this one")
                .help("set them apart by `host`, `path` or `methods`, or remove one"),
            );
        }
        seen.push((pattern, path.span()));
    }
}

/// Whether the system would refuse one of the two sockets. Port 0 lets the system choose, so it never clashes.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
