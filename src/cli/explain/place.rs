//! Where a request goes, in words: the pattern of a route and the endpoints of a cluster.

use http::Method;

use crate::config::kinds::places::show_host;
use crate::route::Pattern;
use crate::upstream::settings::{Balance, ClusterSettings};

/// How many endpoints the cluster has, and how one is chosen.
pub(super) fn show_endpoints(cluster: &ClusterSettings) -> String {
    let balance = match cluster.balance {
        Balance::P2c => "the less busy of two",
        Balance::RoundRobin => "one after the other",
    };
    match cluster.endpoints.len() {
        1 => "1 endpoint".to_owned(),
        count => format!("{count} endpoints, {balance}"),
    }
}

/// What the route takes.
pub(super) fn show_pattern(pattern: &Pattern) -> String {
    let host = pattern.host.as_ref().map_or("any host".to_owned(), show_host);
    let methods = pattern.methods.as_ref().map_or("any method".to_owned(), |methods| {
        methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
    });
    let scheme = pattern.scheme.map_or(String::new(), |scheme| format!("{}, ", scheme.label()));
    format!("{scheme}{host}, {}, {methods}", pattern.path.as_str())
}
