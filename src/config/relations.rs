//! What ties the tables of a file to each other: something of each kind, names and addresses used once, clusters
//! that exist, routes that do not contend.

use std::net::SocketAddr;
use std::ops::Range;

use http::HeaderName;
use toml::Spanned;

use crate::config::keys::cluster::Cluster;
use crate::config::keys::listener::{Listener, OriginGuard};
use crate::config::keys::route::{Redirect, Route};
use crate::config::keys::{ADMIN, File};
use crate::config::reader::Field;
use crate::config::report::{Fault, Faults, did_you_mean};
use crate::config::spec::Or;
use crate::config::tables::Named;
use crate::fields::Scheme;
use crate::route::{HostPattern, Pattern};

/// Reports every relation that does not hold.
pub(super) fn check(file: &File, faults: &Faults) {
    present(faults, &file.listener, "listener", "`[[listener]]` with an `address`");
    let listeners: Vec<_> = file.listener.list().iter().map(Spanned::get_ref).collect();
    let routes: Vec<_> = file.route.list().iter().map(Spanned::get_ref).collect();
    let (listeners, routes) = (&*listeners, &*routes);
    if routes.is_empty() || routes.iter().any(|route| matches!(route.redirect, Field::Absent)) {
        present(faults, &file.cluster, "cluster", "`[cluster.NAME]` with `endpoints`");
    }
    present(faults, &file.route, "route", "`[[route]]` with a `name`, a `path` and a `cluster`");
    distinct_addresses(faults, &file.admin.address, listeners);
    if let Some(clusters) = file.cluster.given() {
        known_clusters(faults, routes, clusters.get_ref());
    }
    distinct_names(faults, routes);
    distinct_patterns(faults, routes);
    distinct_guards(faults, listeners, routes);
    redirects_away(faults, routes);
    distinct_rules(faults, routes);
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

fn distinct_addresses(faults: &Faults, admin: &Or<SocketAddr>, listeners: &[&Listener]) {
    let mut taken: Vec<(Option<Range<usize>>, SocketAddr)> = vec![(admin.span(), admin.value())];
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

fn known_clusters(faults: &Faults, routes: &[&Route], clusters: &[Named<Cluster>]) {
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

fn distinct_names(faults: &Faults, routes: &[&Route]) {
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

fn distinct_patterns(faults: &Faults, routes: &[&Route]) {
    let mut seen: Vec<(Pattern, Range<usize>)> = Vec::new();
    for route in routes {
        let Some(path) = route.path.given() else { continue };
        // A pattern with a broken part is not the one that was meant.
        if route.scheme.is_broken() || route.host.is_broken() || route.methods.is_broken() {
            continue;
        }
        let pattern = Pattern {
            scheme: route.scheme.value(),
            host: route.host.value(),
            path: path.get_ref().clone(),
            methods: route.methods.value(),
        };
        if let Some((_, earlier)) = seen.iter().find(|(earlier, _)| earlier.conflicts_with(&pattern)) {
            faults.push(
                Fault::at(
                    path.span(),
                    "two routes take the same requests, and neither is more specific",
                    "this path",
                )
                .also(earlier.clone(), "and this one")
                .help("set them apart by `scheme`, `host`, `path` or `methods`, or remove one"),
            );
        }
        seen.push((pattern, path.span()));
    }
}

/// A listener takes away its guard's header, and all of them the header of a verified subject: a route that asks for
/// one of these would refuse everything.
fn distinct_guards(faults: &Faults, listeners: &[&Listener], routes: &[&Route]) {
    let header = |guard: &Field<OriginGuard>| guard.given()?.get_ref().header.given().cloned();
    let outer: Vec<_> = listeners.iter().filter_map(|listener| header(&listener.origin_guard)).collect();
    let subjects: Vec<_> =
        listeners.iter().filter_map(|listener| listener.tls.given()?.get_ref().subject_header()).collect();
    for inner in routes.iter().filter_map(|route| header(&route.origin_guard)) {
        if let Some(outer) = outer.iter().find(|outer| outer.get_ref() == inner.get_ref()) {
            faults.push(
                Fault::at(inner.span(), "two guards ask for one header", "never gets here")
                    .also(outer.span(), "taken away here")
                    .help("give the route's guard a header of its own, or leave it to the listener's"),
            );
        }
        if let Some((_, span)) = subjects.iter().find(|(name, _)| *name == inner.get_ref()) {
            faults.push(
                Fault::at(
                    inner.span(),
                    "a guard asks for the header of callers' subjects",
                    "never gets here",
                )
                .also(span.clone(), "no caller may say it")
                .help("give the guard a header of its own"),
            );
        }
    }
}

/// Reports redirects that give some caller the very address that it asked for. Where only another route could tell, the
/// proxy finds it out when it happens.
fn redirects_away(faults: &Faults, routes: &[&Route]) {
    for route in routes {
        let Some(redirect) = route.redirect.given() else { continue };
        let Redirect { scheme, host, port, .. } = redirect.get_ref();
        let is_broken =
            scheme.is_broken() || host.is_broken() || port.is_broken() || route.scheme.is_broken();
        let is_empty = scheme.given().is_none() && host.given().is_none();
        if is_broken || route.host.is_broken() || is_empty || port.given().is_some() {
            continue;
        }
        let keeps_scheme = match (scheme.given(), route.scheme.given()) {
            (Some(to), Some(from)) => to.get_ref() == from.get_ref(),
            (None, _) | (_, None) => true,
        };
        let keeps_host = match (host.given(), route.host.given()) {
            (None, _) => true,
            (Some(to), Some(from)) => {
                matches!(from.get_ref(), HostPattern::Exact(from) if **from == *to.get_ref().as_str())
            }
            (Some(_), None) => false,
        };
        if keeps_scheme && keeps_host {
            let fault = Fault::at(redirect.span(), "this redirect leads back to itself", "where callers are");
            faults.push(fault.help(match scheme.given().map(Spanned::get_ref) {
                Some(Scheme::Https) if route.scheme.given().is_none() => {
                    "add `scheme = \"http\"` to the route, so that it takes only what came without TLS"
                }
                _ => "change the scheme, the host or the port",
            }));
        }
    }
}

/// One name in one list of rules: the order of the file would decide between two.
fn distinct_rules(faults: &Faults, routes: &[&Route]) {
    let check = |names: &[&Spanned<HeaderName>]| {
        for (index, name) in names.iter().enumerate() {
            if let Some(earlier) = names[..index].iter().find(|earlier| earlier.get_ref() == name.get_ref()) {
                faults.push(
                    Fault::at(name.span(), "a header is named twice", "again here")
                        .also(earlier.span(), "first here")
                        .help("letters count in either case; write it once"),
                );
            }
        }
    };
    for rules in routes.iter().flat_map(|route| [&route.request_headers, &route.response_headers]) {
        check(&rules.remove.iter().collect::<Vec<_>>());
        check(&rules.set.iter().map(|(name, _)| name).collect::<Vec<_>>());
        check(&rules.add.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
}

/// Whether the system would refuse one of the two sockets. Port 0 lets the system choose, so it never clashes.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0
        && one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
