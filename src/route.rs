//! Which route a request takes: scheme, host, path and method, the most specific first. Pure.
//!
//! The path is matched as it came, percent-encoding and all, and forwarded as it came. Where a backend could read it as the path
//! of another route, which is guarded, that route takes the request.
//!
//! # Invariant
//!
//! No spelling of a path gets around a route's guard, methods or rules. Held by
//! `no_spelling_of_a_path_gets_around_a_guarded_route`.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use prometheus::IntCounter;
use thiserror::Error;

use crate::fields::Scheme;
use crate::fields::guard::OriginGuard;
use crate::fields::rules::HeaderRules;
use crate::fields::via::Via;
use crate::policy::hedge::Hedging;
use crate::policy::settings::RetryPolicy;
use crate::record::QueryPolicy;
use crate::record::metrics::RouteMetrics;
use crate::route::redirect::Redirect;
use crate::upstream::cluster::Cluster;

mod readings;
pub mod redirect;

/// What an operator sets for a route, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSettings {
    /// The label in metrics and in the record.
    pub name: Arc<str>,
    /// Which requests it takes.
    pub pattern: Pattern,
    /// What becomes of them; the cluster is given by its name.
    pub action: Action<Arc<str>>,
    /// What a request must carry.
    pub origin_guard: Option<OriginGuard>,
    /// Changes to what the upstream gets.
    pub request_headers: HeaderRules,
    /// Changes to what the caller gets, replies of our own included.
    pub response_headers: HeaderRules,
    /// From the end of the request body to the response head, over all attempts.
    pub deadline: Duration,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// Which query values may be logged.
    pub log_query: QueryPolicy,
    /// The protocols that a connection may change to (RFC 9110 section 7.8), in lower case.
    pub upgrades: Arc<[Box<str>]>,
    /// How long nothing may pass through such a connection.
    pub tunnel_idle_timeout: Duration,
    /// The merged retry policy.
    pub retry: RetryPolicy,
}

/// A route, ready to be used.
#[derive(Debug)]
pub struct Route {
    /// Its settings.
    pub settings: RouteSettings,
    /// What becomes of its requests.
    pub action: Action<Arc<Cluster>>,
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
    /// When its requests are hedged; none if they are not.
    pub hedging: Option<Hedging>,
    /// Counts what its guard refuses; none without a guard.
    pub origin_refused: Option<IntCounter>,
    /// Our line in `Via`.
    pub via: Via,
}

/// What becomes of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<C> {
    /// They go to this cluster.
    Forward(C),
    /// Their callers are led elsewhere.
    Redirect(Redirect),
}

impl<C> Action<C> {
    /// The cluster, unless requests are redirected.
    pub fn cluster(&self) -> Option<&C> {
        match self {
            Self::Forward(cluster) => Some(cluster),
            Self::Redirect(_) => None,
        }
    }
}

/// Which requests a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// How the request came; anyhow if none.
    pub scheme: Option<Scheme>,
    /// The host; any if none.
    pub host: Option<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// The methods; any if none. `GET` takes `HEAD` with it.
    pub methods: Option<Vec<Method>>,
}

/// A host name, or `*.` and a domain for every name below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This name, in lower case.
    Exact(Box<str>),
    /// Every name that ends with this, which begins with a dot.
    Suffix(Box<str>),
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidPattern {
    /// Empty, or with characters that no host name has.
    #[error("not a host name; `*.example.org` is the only wildcard")]
    Host,
    /// Does not begin with a slash.
    #[error("a path begins with `/`")]
    PathStart,
    /// A `*` that is not the last segment.
    #[error("`*` stands for the rest of a path: only as the last segment, `/*`")]
    Rest,
    /// A `{` or `}` that does not make a whole segment `{name}`.
    #[error("`{{name}}` stands for one whole segment: letters, digits and `_` between braces")]
    Segment,
    /// A character that a request target cannot carry.
    #[error(
        "a path holds no spaces, control characters, `?` or `#`, and only ASCII; percent-encode the rest"
    )]
    Character,
}

impl HostPattern {
    /// Reads `hosp.example.org` or `*.example.org`; letters fold to lower case, a port does not belong here. The root's dot at the
    /// end says nothing more (RFC 1034 section 3.1).
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (name, wildcard) = lower.strip_prefix("*.").map_or((&*lower, false), |name| (name, true));
        let is_ipv6 = name.starts_with('[') && name.ends_with(']');
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || name.starts_with('.') || !(is_ipv6 || name.bytes().all(valid)) {
            return Err(InvalidPattern::Host);
        }
        Ok(if wildcard { Self::Suffix(format!(".{name}").into()) } else { Self::Exact(name.into()) })
    }

    /// Whether a request for `host` (without its port) is meant. Host names know no case (RFC 9110 section 4.2.3).
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Suffix(suffix) => host.len().checked_sub(suffix.len()).is_some_and(|start| {
                start > 0 && host.as_bytes()[start..].eq_ignore_ascii_case(suffix.as_bytes())
            }),
        }
    }
}

/// A path of literal segments, `{name}` for one segment, and `/*` at the end for anything below, itself included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: Box<str>,
    segments: Box<[Segment]>,
    rest: Rest,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(Box<str>),
    Any,
}

/// Whether a pattern takes what lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rest {
    No,
    Yes,
}

impl PathPattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let Some(path) = text.strip_prefix('/') else { return Err(InvalidPattern::PathStart) };
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
            return Err(InvalidPattern::Character);
        }
        let (path, rest) = match path.strip_suffix('*') {
            Some("") => (None, Rest::Yes),
            Some(path) => (Some(path.strip_suffix('/').ok_or(InvalidPattern::Rest)?), Rest::Yes),
            None => (Some(path), Rest::No),
        };
        let segments =
            path.map_or(Ok(Box::default()), |path| path.split('/').map(Segment::parse).collect())?;
        Ok(Self { text: text.into(), segments, rest })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `path` is meant: an absolute path without its query.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Literal(literal), Some(part)) if **literal == *part => {}
                // An empty segment names nothing.
                (Segment::Any, Some(part)) if !part.is_empty() => {}
                _ => return false,
            }
        }
        self.rest == Rest::Yes || parts.next().is_none()
    }

    /// What `/*` at the end stands for in a `path` that is meant, with its slash; empty where the pattern has none.
    pub fn rest_of<'p>(&self, path: &'p str) -> &'p str {
        if self.rest == Rest::No {
            return "";
        }
        // A segment begins with its slash, so the rest begins with the slash after those that the pattern names.
        let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        slashes.nth(self.segments.len()).map_or("", |at| &path[at..])
    }

    /// Whether some path is meant by both, and neither is more specific.
    fn same_shape(&self, other: &Self) -> bool {
        self.segments == other.segments && self.rest == other.rest
    }

    /// Literal before `{name}` before `/*`, from left to right.
    fn specificity(&self, other: &Self) -> Ordering {
        let ranks = |pattern: &Self| {
            let segments = pattern.segments.iter().map(|segment| match segment {
                Segment::Literal(_) => 1,
                Segment::Any => 2,
            });
            let end = if pattern.rest == Rest::Yes { 3 } else { 0 };
            segments.chain([end]).collect::<Vec<u8>>()
        };
        ranks(self).cmp(&ranks(other))
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, InvalidPattern> {
        if text == "*" || text.contains('*') {
            return Err(InvalidPattern::Rest);
        }
        let name = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match name {
            Some(name)
                if !name.is_empty()
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') =>
            {
                Ok(Self::Any)
            }
            None if !text.contains(['{', '}']) => Ok(Self::Literal(text.into())),
            _ => Err(InvalidPattern::Segment),
        }
    }
}

impl Pattern {
    /// Whether both take some request and neither is more specific, so that the order of the file would decide.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.host == other.host
            && self.path.same_shape(&other.path)
            && match (&self.methods, &other.methods) {
                (None, None) => true,
                (Some(ours), Some(theirs)) => ours.iter().any(|method| theirs.contains(method)),
                _ => false,
            }
    }

    fn takes_method(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| {
            methods.contains(method) || *method == Method::HEAD && methods.contains(&Method::GET)
        })
    }

    fn specificity(&self, other: &Self) -> Ordering {
        let host = |pattern: &Self| match &pattern.host {
            // Of two suffixes the longer is the more specific.
            Some(HostPattern::Exact(_)) => (0, 0),
            Some(HostPattern::Suffix(suffix)) => (1, usize::MAX - suffix.len()),
            None => (2, 0),
        };
        // The scheme first: a route that leads HTTP to HTTPS shall leave out no path that another route is closer to.
        (self.scheme.is_none().cmp(&other.scheme.is_none()))
            .then_with(|| host(self).cmp(&host(other)))
            .then_with(|| self.path.specificity(&other.path))
            .then_with(|| self.methods.is_none().cmp(&other.methods.is_none()))
    }
}

impl RouteSettings {
    /// Whether the route asks more of a request than to be meant.
    fn is_restricted(&self) -> bool {
        self.origin_guard.is_some() || self.pattern.methods.is_some() || !self.request_headers.is_empty()
    }

    /// Whether both ask the same of a request.
    fn restricts_as(&self, other: &Self) -> bool {
        self.origin_guard == other.origin_guard
            && self.pattern.methods == other.pattern.methods
            && self.request_headers == other.request_headers
    }
}

/// Routes in the order in which they are tried.
#[derive(Debug)]
pub struct RouteTable<T> {
    entries: Vec<(Pattern, T)>,
}

/// What a [`RouteTable`] knows about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a, T> {
    /// The most specific route that takes it.
    Found(&'a T),
    /// Routes take its path, but not its method; the value of `Allow`.
    MethodNotAllowed(Arc<str>),
    /// No route takes its path.
    NotFound,
    /// Its path can be read as those of routes that ask different things of it.
    Ambiguous,
}

impl<T> RouteTable<T> {
    /// Sorts the routes, the most specific first.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, T)>) -> Self {
        let mut entries: Vec<_> = routes.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.specificity(other));
        Self { entries }
    }

    /// The route for a request. `host` has no port, `path` no query; the scheme is asked for where a route wants one.
    pub fn find(
        &self,
        scheme: impl Fn() -> Scheme,
        host: &str,
        path: &str,
        method: &Method,
    ) -> Lookup<'_, T> {
        for (pattern, route) in &self.entries {
            if pattern.takes_method(method) && Self::takes_place(pattern, &scheme, host, path) {
                return Lookup::Found(route);
            }
        }
        self.allowed(&scheme, host, path).map_or(Lookup::NotFound, Lookup::MethodNotAllowed)
    }

    /// The route for a request to a backend that may read the path in its own way. Where a reading belongs to a route that is
    /// restricted, that route takes the request, or nobody does.
    pub fn find_as_read(
        &self,
        scheme: impl Fn() -> Scheme,
        host: &str,
        path: &str,
        method: &Method,
        settings: impl Fn(&T) -> &RouteSettings,
    ) -> Lookup<'_, T> {
        let found = self.find(&scheme, host, path, method);
        let Lookup::Found(own) = &found else { return found };
        if readings::is_plain(path) {
            return found; // nearly always
        }
        let own = settings(own);
        let mut taken = None;
        let Some(readings) = readings::readings(path) else { return Lookup::Ambiguous };
        for reading in readings {
            let read = match self.find(&scheme, host, &reading.path, method) {
                Lookup::Found(read) => read,
                // What no route exposes must not be reached through one that does.
                Lookup::NotFound if !reading.has_lost_dots => continue,
                _ => return Lookup::Ambiguous,
            };
            let reads = settings(read);
            if !reads.is_restricted() || reads.restricts_as(own) {
                continue;
            }
            match taken {
                None if !own.is_restricted() => taken = Some(read),
                Some(taken) if settings(taken).restricts_as(reads) => {}
                _ => return Lookup::Ambiguous,
            }
        }
        taken.map_or(found, Lookup::Found)
    }

    /// The routes, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, route)| route)
    }

    fn takes_place(pattern: &Pattern, scheme: &impl Fn() -> Scheme, host: &str, path: &str) -> bool {
        pattern.host.as_ref().is_none_or(|pattern| pattern.matches(host))
            && pattern.path.matches(path)
            && pattern.scheme.is_none_or(|wanted| wanted == scheme())
    }

    /// Every method that some route takes for this path.
    fn allowed(&self, scheme: &impl Fn() -> Scheme, host: &str, path: &str) -> Option<Arc<str>> {
        let mut allowed: Vec<&str> = Vec::new();
        let takes = |pattern: &Pattern| Self::takes_place(pattern, scheme, host, path);
        for (pattern, _) in self.entries.iter().filter(|(pattern, _)| takes(pattern)) {
            let methods = pattern.methods.iter().flatten();
            allowed.extend(methods.clone().map(Method::as_str));
            if methods.clone().any(|method| *method == Method::GET) {
                allowed.push("HEAD");
            }
        }
        allowed.sort_unstable();
        allowed.dedup();
        (!allowed.is_empty()).then(|| allowed.join(", ").into())
    }
}

#[cfg(test)]
mod tests;
