//! Which route takes the request that is explained.

use super::page::Page;
use super::request::Request;
use super::show_pattern;
use crate::config::Config;
use crate::error::{ProxyError, RequestFault};
use crate::route::{Lookup, RouteSettings, RouteTable};

/// The route that takes the request; without one, the page says why.
pub(super) fn find<'c>(page: &mut Page, config: &'c Config, request: &Request) -> Option<&'c RouteSettings> {
    let table = RouteTable::new(config.routes.iter().map(|route| (route.pattern.clone(), route)));
    let (host, path) = (request.host(), request.path());
    let scheme = || request.scheme();
    match table.find_as_read(scheme, host, path, &request.method, |route| route) {
        Lookup::Found(route) => return Some(*route),
        Lookup::MethodNotAllowed(allow) => {
            page.line("route", format_args!("none takes {} here", request.method));
            page.reply(&ProxyError::MethodNotAllowed { allow: allow.clone() });
            page.more(format_args!("Allow: {allow}"));
        }
        Lookup::Ambiguous => {
            page.line(
                "route",
                format_args!("none: the backend could read the path as that of another route"),
            );
            page.reply(&ProxyError::BadRequest(RequestFault::AmbiguousPath));
        }
        Lookup::NotFound => {
            page.line("route", format_args!("none takes this host and path; there are:"));
            for route in table.iter() {
                page.more(format_args!("{:<16} {}", route.name, show_pattern(&route.pattern)));
            }
            if request.host().is_empty() && config.routes.iter().any(|route| route.pattern.host.is_some()) {
                page.more(format_args!("some of them want a host: give one with --host"));
            }
            page.reply(&ProxyError::NoRoute);
        }
    }
    None
}
