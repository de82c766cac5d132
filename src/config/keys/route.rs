//! `[[route]]` and the tables in it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::config::bounds::{WAIT, m, s};
use crate::config::build::{Build, check_name};
use crate::config::keys::listener::OriginGuard;
use crate::config::keys::retry::Retry;
use crate::config::kinds::fields::{HeaderRules, header_rules, log_query, name, upgrade};
use crate::config::kinds::places::{host, path, redirect_host};
use crate::config::kinds::retry::{method, redirect_status};
use crate::config::kinds::{Kind, duration, integer, label, list_of, size};
use crate::config::reader::{Field, Table};
use crate::config::report::{Fault, Faults};
use crate::config::settings::settings;
use crate::config::spec::{Must, Or, Spec};
use crate::config::tables::{Refused, optional, table};
use crate::fields::Scheme;
use crate::fields::rules::Side;
use crate::policy::settings::RetryPolicy;
use crate::record::QueryPolicy;
use crate::route::redirect::{self, RedirectHost};
use crate::route::{Action, HostPattern, PathPattern, Pattern, RouteSettings};

settings! {
    /// `[[route]]`
    Route: fields of RouteSettings {
        /// The label in metrics and log lines: 1 to 64 printable ASCII characters, without spaces and quotes; not "none".
        name: Must<Box<str>> =
            name().must(r#""screening""#).reference(r#""everything""#) => |route| (*route.name).into();
        /// How a request came: seen by the listener, or said by a trusted proxy. Absent: both ways.
        scheme: Field<Scheme> =
            label(Scheme::ALL, Scheme::label).may(r#""https""#) => |route| route.pattern.scheme;
        /// The host of a request; "*.example.org" is every name below it. Absent: any.
        host: Field<HostPattern> = host().may(r#""hosp.example.org""#) => |route| route.pattern.host.clone();
        /// The path of a request; {name} is one segment, a final /* is anything below, itself included.
        path: Must<PathPattern> =
            path().must(r#""/api/*""#).reference(r#""/*""#) => |route| route.pattern.path.clone();
        /// The methods of a request; GET takes HEAD with it. Absent: all.
        methods: Field<Vec<Method>> =
            list_of(method()).may(r#"["GET", "POST"]"#) => |route| route.pattern.methods.clone();
        /// The cluster that requests go to. Required, unless there is a `redirect`.
        cluster: Field<Box<str>> =
            name().may(r#""main""#).usual() => |route| route.action.cluster().map(|cluster| (**cluster).into());
        /// Where callers are led instead; path and query are kept. It goes without `deadline`, `max_body`, `retry` and
        /// `request_headers`.
        redirect: Field<Redirect> = optional().inline() => |route| match &route.action {
            Action::Redirect(redirect) => Some(redirect.clone()),
            Action::Forward(_) => None,
        };
        /// From the end of the request body to the response head, over all attempts and waits. What the body waits for
        /// the backend before that counts too.
        deadline: Or<Duration> = duration(WAIT).or(s(55)).sometimes() => |route| forwarding(route, route.deadline);
        /// The largest request body; a larger one is answered with 413.
        max_body: Or<u64> = size(0..=1 << 40).or(20 << 20).sometimes() => |route| forwarding(route, route.max_body);
        /// Query values in the access log: "redacted", "full", or a list of the names to show.
        log_query: Or<QueryPolicy> = log_query().or(QueryPolicy::Redacted);
        /// Protocols that a connection may change to; others are not asked for, and [] allows none.
        upgrades: Or<Arc<[Box<str>]>> =
            list_of::<Arc<[Box<str>]>, _>(upgrade()).or(["websocket".into()].into()).sometimes()
                => |route| forwarding(route, route.upgrades.clone());
        /// How long nothing may pass, either way, once a connection has changed.
        tunnel_idle_timeout: Or<Duration> =
            duration(WAIT).or(m(5)).sometimes() => |route| forwarding(route, route.tunnel_idle_timeout);
        /// The keys of `[retry]` but `budget`, for this route.
        retry: Retry =
            table().like("[retry]").without(BUDGET).sometimes() => |route| forwarding(route, route.retry.clone());
        /// Changes to what the backend gets, in the order of the keys.
        request_headers: HeaderRules = header_rules(Side::Request);
        /// Changes to what the caller gets, replies of our own included.
        response_headers: HeaderRules = header_rules(Side::Response);
        /// The keys of `[listener.origin_guard]`, for this route. Its header must be another one.
        origin_guard: Field<OriginGuard> = optional().like("[listener.origin_guard]");
    }
}

settings! {
    /// `redirect` of a route.
    Redirect: methods of redirect::Redirect {
        /// Absent: the caller's scheme. One of `scheme`, `host` and `port` at least.
        scheme: Field<Scheme> = label(Scheme::ALL, Scheme::label).may(r#""https""#);
        /// Absent: the request's host.
        host: Field<RedirectHost> =
            redirect_host().may(r#""new.example.org""#) => |redirect| redirect.host().cloned();
        /// Absent: the scheme's own port.
        port: Field<u16> = integer(1..=u16::MAX).may("8443");
        /// 308 and 307 keep the method, 301, 302 and 303 do not.
        status: Or<u16> = redirect_status().or(308) => |redirect| redirect.status().as_u16();
    }
}

/// What only a route that forwards has.
fn forwarding<T>(route: &RouteSettings, value: T) -> Option<T> {
    route.action.cluster().map(|_| value)
}

const BUDGET: Refused = Refused {
    key: "budget",
    message: "a budget belongs to a cluster",
    label: "not in `[route.retry]`",
    help: "routes of one cluster share its budget: set it in `[cluster.NAME.retry]`",
};

/// Refuses at a redirect what only a backend could feel.
pub(in crate::config) fn without_backend(route: &mut Table<'_>) {
    if !route.has_table("redirect") {
        return;
    }
    for key in ["deadline", "max_body", "request_headers", "retry"] {
        let message = format!("a redirect takes no `{key}`");
        route.refuse(
            key,
            &message,
            "has no effect here",
            "nothing of the request goes to a backend: remove it",
        );
    }
}

impl Route {
    /// The settings, with the retry policy that holds for the route; `span` is where it begins.
    pub(in crate::config) fn build(
        &self,
        span: Range<usize>,
        retry: &Retry,
        build: &Build<'_>,
    ) -> Option<RouteSettings> {
        let name = self.name.value(build.faults);
        let path = self.path.value(build.faults);
        let action = self.action(span, build.faults);
        let origin_guard = self.origin_guard.given().and_then(|guard| guard.get_ref().build(build));
        if let Some(name) = &name {
            check_name("route", name.get_ref(), name.span(), build.faults);
            if &**name.get_ref() == UNMATCHED {
                let message = format!("a route cannot be called `{UNMATCHED}`");
                let fault = Fault::at(name.span(), message, "reserved");
                build.faults.push(
                    fault.help("in metrics it stands for requests that no route takes; choose another name"),
                );
            }
        }
        if let Some(methods) = self.methods.given().filter(|methods| methods.get_ref().is_empty()) {
            let fault = Fault::at(methods.span(), "a route without methods takes no request", "empty");
            build.faults.push(fault.help("leave `methods` out to take them all"));
        }
        // A redirect retries nothing, so it inherits nothing either.
        let retry = match self.redirect {
            Field::Given(_) => RetryPolicy::default(),
            Field::Absent | Field::Broken => retry.policy(build.faults),
        };
        Some(RouteSettings {
            name: Arc::from(name?.into_inner()),
            pattern: Pattern {
                scheme: self.scheme.value(),
                host: self.host.value(),
                path: path?.into_inner(),
                methods: self.methods.value(),
            },
            action: action?,
            origin_guard,
            request_headers: self.request_headers.checked(),
            response_headers: self.response_headers.checked(),
            deadline: self.deadline.value(),
            max_body: self.max_body.value(),
            log_query: self.log_query.value(),
            upgrades: self.upgrades.value(),
            tunnel_idle_timeout: self.tunnel_idle_timeout.value(),
            retry,
        })
    }

    /// What a route does: one of two things.
    fn action(&self, span: Range<usize>, faults: &Faults) -> Option<Action<Arc<str>>> {
        match (&self.cluster, &self.redirect) {
            (Field::Given(cluster), Field::Given(redirect)) => {
                let fault =
                    Fault::at(redirect.span(), "a route either forwards or redirects", "this redirects");
                let fault = fault.also(cluster.span(), "this forwards");
                faults.push(fault.help("remove `cluster` or `redirect`"));
                None
            }
            (Field::Given(cluster), _) => Some(Action::Forward(Arc::from(&**cluster.get_ref()))),
            (_, Field::Given(redirect)) => {
                redirect.get_ref().build(redirect.span(), faults).map(Action::Redirect)
            }
            (Field::Absent, Field::Absent) => {
                let message = "`[[route]]` has neither `cluster` nor `redirect`";
                let fault = Fault::at(span, message, "one of them is missing");
                faults.push(
                    fault.help("add `cluster = \"hosp\"`, or `redirect = { host = \"new.example.org\" }`"),
                );
                None
            }
            _ => None,
        }
    }
}

impl Redirect {
    fn build(&self, span: Range<usize>, faults: &Faults) -> Option<redirect::Redirect> {
        let Self { scheme, host, port, status } = self;
        if scheme.is_broken() || host.is_broken() || port.is_broken() || status.is_broken() {
            return None;
        }
        redirect::Redirect::new(scheme.value(), host.value(), port.value(), status.value())
            .map_err(|error| {
                let fault = Fault::at(span, error.to_string(), "leads nowhere");
                faults.push(fault.help("write { scheme = \"https\" } or { host = \"new.example.org\" }"));
            })
            .ok()
    }
}

/// The label of requests that no route takes.
const UNMATCHED: &str = "none";
