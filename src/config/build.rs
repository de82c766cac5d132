//! From the file to the checked [`Config`]: defaults filled in, retry tables merged, checked types built, and
//! everything that takes two values to be wrong.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use toml::Spanned;

use crate::app::ServerSettings;
use crate::config::cluster_tls::{self, Reach};
use crate::config::health_check;
use crate::config::idempotency;
use crate::config::listener_tls;
use crate::config::raw;
use crate::config::reader::Field;
use crate::config::relations;
use crate::config::report::{Fault, Faults};
use crate::config::secrets;
use crate::config::units::show_duration;
use crate::config::{Config, LogFormat, LogSettings};
use crate::downstream::acceptor::ListenerSettings;
use crate::downstream::http2::Http2Settings;
use crate::downstream::tls::Protocol;
use crate::error::ErrorClass;
use crate::fields::guard::OriginGuard;
use crate::fields::rules::{HeaderRules, Side};
use crate::policy::admission::{AdmissionSettings, InvalidAdmission};
use crate::policy::backoff::{Backoff, InvalidBackoff};
use crate::policy::budget::{BudgetSettings, InvalidBudget};
use crate::policy::ejection::{EjectionSettings, InvalidEjection};
use crate::policy::hedge::HedgeAfter;
use crate::policy::hold::HoldLimits;
use crate::policy::outage::{InvalidLine, LineSettings};
use crate::policy::resume::ResumeSettings;
use crate::policy::retry::RetryPolicy;
use crate::record::log::AccessLogOutput;
use crate::route::redirect::Redirect;
use crate::route::{Action, Pattern, RouteSettings};
use crate::upstream::cluster::ClusterSettings;

/// Builds the configuration; what lacks its essentials is left out, after it has been reported.
///
/// Relative paths of certificates start at `directory`.
pub(super) fn build(file: raw::File, directory: &Path, faults: &Faults) -> Config {
    relations::check(&file, faults);
    idempotency::check(&file, faults);
    let builder = Builder { directory, faults };
    let (listeners, clusters, routes) = (
        file.listeners.unwrap_or_default(),
        file.clusters.unwrap_or_default(),
        file.routes.unwrap_or_default(),
    );
    Config {
        server: server(file.server),
        admin: file.admin.unwrap_or(ADMIN),
        log: LogSettings {
            level: file.log.level.unwrap_or(tracing::Level::INFO),
            format: file.log.format.unwrap_or(LogFormat::Auto),
        },
        access_log: file.access_log.unwrap_or(AccessLogOutput::Stdout),
        listeners: builder.listeners(listeners),
        routes: routes
            .into_iter()
            .filter_map(|route| {
                let cluster = route.cluster.given().map(Spanned::get_ref);
                let of_cluster = clusters.iter().find(|candidate| Some(candidate.name.get_ref()) == cluster);
                let base = of_cluster.map(|cluster| cluster.retry.over(&file.retry));
                let retry = route.retry.over(base.as_ref().unwrap_or(&file.retry));
                builder.route(route, &retry)
            })
            .collect(),
        clusters: clusters
            .iter()
            .filter_map(|cluster| builder.cluster(cluster, &cluster.retry.over(&file.retry)))
            .collect(),
        warnings: Vec::new(),
    }
}

fn server(server: raw::Server) -> ServerSettings {
    let workers = match server.workers.unwrap_or(0) {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    };
    ServerSettings {
        workers,
        accept_grace: server.accept_grace.unwrap_or(Duration::from_secs(15)),
        finish_grace: server.finish_grace.unwrap_or(Duration::from_mins(1)),
        replay_memory: server.replay_memory.unwrap_or(256 << 20),
        answer_memory: server.answer_memory.unwrap_or(256 << 20),
        via: server.via.unwrap_or("stent".into()),
    }
}

fn rules(side: Side, rules: raw::HeaderRules) -> HeaderRules {
    let plain =
        |fields: Vec<(Spanned<_>, _)>| fields.into_iter().map(|(name, value)| (name.into_inner(), value));
    let remove = rules.remove.into_iter().map(Spanned::into_inner);
    // Each name has been checked where it stands, so that each wrong one has been reported.
    HeaderRules::new(side, remove, plain(rules.set), plain(rules.add)).unwrap_or_default()
}

struct Builder<'a> {
    directory: &'a Path,
    faults: &'a Faults,
}

impl Builder<'_> {
    /// The listeners, each of which knows what none of them may let a caller say.
    fn listeners(&self, listeners: Vec<raw::Listener>) -> Vec<ListenerSettings> {
        let mut built: Vec<_> =
            listeners.into_iter().filter_map(|listener| self.listener(listener)).collect();
        let client_auths = built.iter().filter_map(|listener| listener.tls.as_ref()?.client_auth.as_ref());
        let mut headers: Vec<_> = client_auths.filter_map(|auth| auth.subject_header.clone()).collect();
        headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        headers.dedup();
        for listener in &mut built {
            listener.subject_headers.clone_from(&headers);
        }
        built
    }

    fn listener(&self, listener: raw::Listener) -> Option<ListenerSettings> {
        let needs = Needs { table: "[[listener]]", header: &listener.header };
        let address = self.required(listener.address, &needs, "address", "address = \"0.0.0.0:8080\"");
        let proxies = listener.trusted_proxies.unwrap_or_default();
        let http2 = self.http2(listener.http2);
        let protocols =
            if http2.enabled { vec![Protocol::Http2, Protocol::Http1] } else { vec![Protocol::Http1] };
        let tls = listener.tls.map(|tls| listener_tls::build(tls, protocols, self.directory, self.faults));
        let origin_guard =
            listener.origin_guard.map(|guard| self.origin_guard(guard, "[listener.origin_guard]"));
        Some(ListenerSettings {
            address: address?.into_inner(),
            trusted_proxies: proxies.into_iter().map(Spanned::into_inner).collect(),
            idle_timeout: listener.idle_timeout.unwrap_or(Duration::from_secs(75)),
            header_timeout: listener.header_timeout.unwrap_or(Duration::from_secs(10)),
            body_timeout: listener.body_timeout.unwrap_or(Duration::from_secs(30)),
            write_timeout: listener.write_timeout.unwrap_or(Duration::from_mins(1)),
            max_header_bytes: listener.max_header_bytes.unwrap_or(64 << 10),
            max_connections: listener.max_connections.unwrap_or(10_000),
            underscores: listener.underscores.unwrap_or_default(),
            subject_headers: Vec::new(), // all listeners have to be known first
            origin_guard: origin_guard.flatten(),
            emit_proxy_status: listener.emit_proxy_status.unwrap_or(false),
            tls,
            proxy_protocol: listener.proxy_protocol.unwrap_or_default(),
            http2,
        })
    }

    fn http2(&self, http2: raw::Http2) -> Http2Settings {
        let default = Http2Settings::default();
        let spans = [http2.stream_window.span(), http2.connection_window.span()];
        // Each size is within bounds that are far below 4 GiB.
        let size = |field: Field<u64>, default| {
            u32::try_from(field.unwrap_or(u64::from(default))).unwrap_or(default)
        };
        let settings = Http2Settings {
            enabled: http2.enabled.unwrap_or(default.enabled),
            max_streams: http2.max_streams.unwrap_or(default.max_streams),
            max_cancelled: http2.max_cancelled.unwrap_or(default.max_cancelled),
            stream_window: size(http2.stream_window, default.stream_window),
            connection_window: size(http2.connection_window, default.connection_window),
            send_buffer: size(http2.send_buffer, default.send_buffer),
        };
        if settings.stream_window > settings.connection_window {
            let message = "a stream's window is larger than its connection's";
            let mut places = spans.into_iter().flatten();
            if let Some(place) = places.next() {
                let fault = Fault::at(place, message, "no stream can use more than `connection_window`");
                let fault =
                    places.next().into_iter().fold(fault, |fault, place| fault.also(place, "this one"));
                self.faults.push(fault.help("raise `connection_window`, or lower `stream_window`"));
            }
        }
        settings
    }

    fn cluster(&self, cluster: &raw::Cluster, retry: &raw::Retry) -> Option<ClusterSettings> {
        let name = cluster.name.get_ref();
        self.check_name("cluster", name, cluster.name.span());
        let table = format!("[cluster.{}]", name.escape_debug());
        let needs = Needs { table: &table, header: &cluster.header };
        let example = "endpoints = [\"http://10.0.1.10:8080\"]";
        let endpoints = self.required(cluster.endpoints.clone(), &needs, "endpoints", example);
        if let Some(endpoints) = &endpoints {
            self.check_endpoints(endpoints);
        }
        let reach = Reach {
            endpoints: endpoints.as_ref().map_or(&[], |endpoints| endpoints.get_ref()),
            protocol: &cluster.protocol,
            tls: cluster.tls.as_ref(),
        };
        let tls = cluster_tls::build(cluster, &reach, self.directory, self.faults);
        // Checked at each cluster too: no route may use it yet.
        let policy = self.policy(retry);
        let ejection = self.ejection(&cluster.ejection);
        let line = self.line(&cluster.line);
        let admission = self.admission(&cluster.admission);
        let budget = self.budget(&retry.budget);
        let health_check = cluster.health_check.as_ref();
        let health_check = health_check.and_then(|check| health_check::build(check, &table, self.faults));
        Some(ClusterSettings {
            name: Arc::from(&**name),
            endpoints: endpoints?.into_inner().into_iter().map(Spanned::into_inner).collect(),
            protocol: cluster.protocol.clone().unwrap_or_default(),
            tls,
            max_streams: cluster.max_streams.clone().unwrap_or(100),
            connect_timeout: cluster.connect_timeout.clone().unwrap_or(Duration::from_secs(2)),
            idle_timeout: cluster.idle_timeout.clone().unwrap_or(Duration::from_secs(4)),
            unsafe_reuse: cluster.unsafe_reuse.clone().unwrap_or_default(),
            body_timeout: cluster.body_timeout.clone().unwrap_or(Duration::from_mins(1)),
            max_connections: cluster.max_connections.clone().unwrap_or(1024),
            connection_wait: cluster.connection_wait.clone().unwrap_or(Duration::from_secs(1)),
            max_waiting: cluster.max_waiting.clone().unwrap_or(1024),
            max_header_bytes: cluster.max_header_bytes.clone().unwrap_or(64 << 10),
            dns_refresh: cluster.dns_refresh.clone().unwrap_or(Duration::from_secs(30)),
            balance: cluster.balance.clone().unwrap_or_default(),
            ejection,
            line,
            health_check,
            admission,
            failures: policy.statuses,
            budget,
        })
    }

    fn route(&self, route: raw::Route, retry: &raw::Retry) -> Option<RouteSettings> {
        let needs = Needs { table: "[[route]]", header: &route.header };
        let name = self.required(route.name, &needs, "name", "name = \"screening\"");
        let path = self.required(route.path, &needs, "path", "path = \"/api/*\"");
        let scheme = route.scheme.given().map(|scheme| *scheme.get_ref());
        let host = route.host.given().map(|host| host.get_ref().clone());
        let is_redirect = route.redirect.given().is_some();
        let action = self.action(route.cluster, route.redirect, &needs);
        let origin_guard = route.origin_guard.map(|guard| self.origin_guard(guard, "[route.origin_guard]"));
        if let Some(name) = &name {
            self.check_name("route", name.get_ref(), name.span());
            if &**name.get_ref() == UNMATCHED {
                let message = format!("a route cannot be called `{UNMATCHED}`");
                let fault = Fault::at(name.span(), message, "reserved");
                self.faults.push(
                    fault.help("in metrics it stands for requests that no route takes; choose another name"),
                );
            }
        }
        if let Some(methods) = route.methods.given().filter(|methods| methods.get_ref().is_empty()) {
            let fault = Fault::at(methods.span(), "a route without methods takes no request", "empty");
            self.faults.push(fault.help("leave `methods` out to take them all"));
        }
        // A redirect retries nothing, so it inherits nothing either.
        let retry = if is_redirect { RetryPolicy::default() } else { self.policy(retry) };
        Some(RouteSettings {
            name: Arc::from(name?.into_inner()),
            pattern: Pattern {
                scheme,
                host,
                path: path?.into_inner(),
                methods: route.methods.given().map(|methods| methods.get_ref().clone()),
            },
            action: action?,
            origin_guard: origin_guard.flatten(),
            request_headers: rules(Side::Request, route.request_headers),
            response_headers: rules(Side::Response, route.response_headers),
            deadline: route.deadline.unwrap_or(Duration::from_secs(55)),
            max_body: route.max_body.unwrap_or(20 << 20),
            log_query: route.log_query.unwrap_or_default(),
            upgrades: route.upgrades.unwrap_or(vec!["websocket".into()]).into(),
            tunnel_idle_timeout: route.tunnel_idle_timeout.unwrap_or(Duration::from_mins(5)),
            retry,
        })
    }

    /// What a route does: one of two things.
    fn action(
        &self,
        cluster: Field<Box<str>>,
        redirect: Field<raw::Redirect>,
        needs: &Needs<'_>,
    ) -> Option<Action<Arc<str>>> {
        match (cluster, redirect) {
            (Field::Given(cluster), Field::Given(redirect)) => {
                let fault =
                    Fault::at(redirect.span(), "a route either forwards or redirects", "this redirects");
                let fault = fault.also(cluster.span(), "this forwards");
                self.faults.push(fault.help("remove `cluster` or `redirect`"));
                None
            }
            (Field::Given(cluster), _) => Some(Action::Forward(Arc::from(cluster.into_inner()))),
            (_, Field::Given(redirect)) => self.redirect(redirect).map(Action::Redirect),
            (Field::Absent, Field::Absent) => {
                let message = format!("`{}` has neither `cluster` nor `redirect`", needs.table);
                let fault = Fault::at(needs.header.clone(), message, "one of them is missing");
                self.faults.push(
                    fault.help("add `cluster = \"hosp\"`, or `redirect = { host = \"new.example.org\" }`"),
                );
                None
            }
            _ => None,
        }
    }

    fn redirect(&self, redirect: Spanned<raw::Redirect>) -> Option<Redirect> {
        let span = redirect.span();
        let raw::Redirect { scheme, host, port, status } = redirect.into_inner();
        if scheme.is_broken() || host.is_broken() || port.is_broken() || status.is_broken() {
            return None;
        }
        let optional = |field: Field<_>| field.given().map(|port: &Spanned<u16>| *port.get_ref());
        let scheme = scheme.given().map(|scheme| *scheme.get_ref());
        let host = host.given().map(|host| host.get_ref().clone());
        let redirect = Redirect::new(scheme, host, optional(port), status.unwrap_or(308));
        redirect
            .map_err(|error| {
                let fault = Fault::at(span, error.to_string(), "leads nowhere");
                self.faults
                    .push(fault.help("write { scheme = \"https\" } or { host = \"new.example.org\" }"));
            })
            .ok()
    }

    fn origin_guard(&self, guard: raw::OriginGuard, table: &str) -> Option<OriginGuard> {
        let needs = Needs { table, header: &guard.table };
        let header = self.required(guard.header, &needs, "header", "header = \"X-Origin-Secret\"");
        let example = "secret_files = [\"/etc/stent/origin-secret\"]";
        let files = self.required(guard.secret_files, &needs, "secret_files", example)?;
        let span = files.span();
        let secrets = secrets::read(files.into_inner(), self.directory, self.faults)?;
        let guard = OriginGuard::new(header?.into_inner(), secrets);
        guard
            .map_err(|error| {
                let fault = Fault::at(span, error.to_string(), "none or too many");
                self.faults.push(fault.help("one secret, and during a rotation the next one beside it"));
            })
            .ok()
    }

    fn policy(&self, raw: &raw::Retry) -> RetryPolicy {
        let retry = raw.clone();
        let default = RetryPolicy::default();
        let policy = RetryPolicy {
            max_attempts: retry.max_attempts.unwrap_or(default.max_attempts),
            statuses: retry.statuses.unwrap_or(default.statuses),
            grpc_statuses: retry.grpc_statuses.unwrap_or(default.grpc_statuses),
            errors: retry.errors.unwrap_or(default.errors),
            methods: retry.methods.unwrap_or(default.methods),
            idempotency_header: retry.idempotency_header.unwrap_or(default.idempotency_header),
            per_try_timeout: retry.per_try_timeout.unwrap_or(default.per_try_timeout),
            body_limit: retry.body_limit.unwrap_or(default.body_limit),
            hold: HoldLimits {
                size: retry.hold.unwrap_or(default.hold.size),
                time: retry.hold_time.unwrap_or(default.hold.time),
            },
            resume: ResumeSettings {
                enabled: retry.resume.unwrap_or(default.resume.enabled),
                time: retry.resume_time.unwrap_or(default.resume.time),
            },
            hedge: retry.hedge.unwrap_or_default(),
            backoff: self.backoff(&retry.backoff),
            retry_after_max: retry.backoff.retry_after_max.unwrap_or(default.retry_after_max),
        };
        self.check_hedge(&policy, raw);
        policy
    }

    /// A hedge that would never be sent is a slip.
    fn check_hedge(&self, policy: &RetryPolicy, raw: &raw::Retry) {
        let HedgeAfter::Time(time) = policy.hedge else { return };
        let per_try = policy.per_try_timeout;
        let is_cut_off = time >= per_try && policy.errors.contains(ErrorClass::Timeout);
        if is_cut_off && !raw.per_try_timeout.is_broken() && !raw.errors.is_broken() {
            let (hedge, per_try) = (show_duration(time), show_duration(per_try));
            let help = format!("here `hedge` is {hedge} and `per_try_timeout` is {per_try}");
            let message = "`hedge` must be less than `per_try_timeout`, which ends the attempt first";
            self.misfit(&message, [raw.hedge.span(), raw.per_try_timeout.span()], Some(help));
        }
    }

    /// Builds a backoff. Its constructor stops at the first error, so each one is reported and mended until it goes
    /// through; the mended value is never used.
    fn backoff(&self, raw: &raw::Backoff) -> Backoff {
        let default = Backoff::default();
        let mut base = raw.base.clone().unwrap_or(default.base());
        let mut factor = raw.factor.clone().unwrap_or(default.factor());
        let max = raw.max.clone().unwrap_or(default.max());
        let jitter = raw.jitter.clone().unwrap_or(default.jitter());
        let mode = raw.mode.clone().unwrap_or(default.mode());
        loop {
            let error = match Backoff::new(base, factor, max, jitter) {
                Ok(backoff) => return backoff.in_mode(mode),
                Err(error) => error,
            };
            match error {
                InvalidBackoff::BaseTooShort => {
                    self.misfit(&error, [raw.base.span()], None);
                    base = Backoff::FLOOR;
                }
                InvalidBackoff::Factor => {
                    self.misfit(&error, [raw.factor.span()], None);
                    factor = default.factor();
                }
                InvalidBackoff::MaxBelowBase => {
                    // One of them may be a stand-in for a value that is already reported.
                    if !raw.base.is_broken() && !raw.max.is_broken() {
                        let help = format!(
                            "here `base` is {} and `max` is {}",
                            show_duration(base),
                            show_duration(max)
                        );
                        self.misfit(&error, [raw.max.span(), raw.base.span()], Some(help));
                    }
                    return default;
                }
                InvalidBackoff::MaxTooLong => {
                    self.misfit(&error, [raw.max.span()], None);
                    return default;
                }
            }
        }
    }

    fn budget(&self, raw: &raw::Budget) -> BudgetSettings {
        let default = BudgetSettings::default();
        let mut ratio = raw.ratio.clone().unwrap_or(default.ratio());
        let mut min_per_second = raw.min_per_second.clone().unwrap_or(default.min_per_second());
        let mut window = raw.window.clone().unwrap_or(default.window());
        loop {
            let error = match BudgetSettings::new(ratio, min_per_second, window) {
                Ok(budget) => return budget,
                Err(error) => error,
            };
            match error {
                InvalidBudget::Ratio => {
                    self.misfit(&error, [raw.ratio.span()], None);
                    ratio = default.ratio();
                }
                InvalidBudget::MinPerSecond => {
                    self.misfit(&error, [raw.min_per_second.span()], None);
                    min_per_second = default.min_per_second();
                }
                InvalidBudget::Window => {
                    self.misfit(&error, [raw.window.span()], None);
                    window = default.window();
                }
            }
        }
    }

    fn ejection(&self, raw: &raw::Ejection) -> EjectionSettings {
        let default = EjectionSettings::default();
        let mut failures = raw.consecutive_failures.clone().unwrap_or(default.consecutive_failures());
        let mut open = raw.open.clone().unwrap_or(default.open());
        let mut max_open = raw.max_open.clone().unwrap_or(default.max_open());
        let mut max_ejected = raw.max_ejected.clone().unwrap_or(default.max_ejected());
        loop {
            let error = match EjectionSettings::new(failures, open, max_open, max_ejected) {
                Ok(ejection) => return ejection,
                Err(error) => error,
            };
            match error {
                InvalidEjection::ConsecutiveFailures => {
                    self.misfit(&error, [raw.consecutive_failures.span()], None);
                    failures = default.consecutive_failures();
                }
                InvalidEjection::Open => {
                    self.misfit(&error, [raw.open.span()], None);
                    open = Duration::from_millis(1);
                }
                InvalidEjection::MaxOpenBelowOpen => {
                    if !raw.open.is_broken() && !raw.max_open.is_broken() {
                        let help = format!(
                            "here `open` is {} and `max_open` is {}",
                            show_duration(open),
                            show_duration(max_open)
                        );
                        self.misfit(&error, [raw.max_open.span(), raw.open.span()], Some(help));
                    }
                    max_open = open;
                }
                InvalidEjection::MaxEjected => {
                    self.misfit(&error, [raw.max_ejected.span()], None);
                    max_ejected = default.max_ejected();
                }
            }
        }
    }

    fn line(&self, raw: &raw::Line) -> LineSettings {
        let default = LineSettings::default();
        let max = raw.max.clone().unwrap_or(default.max());
        let mut max_wait = raw.max_wait.clone().unwrap_or(default.max_wait());
        let mut enter_after = raw.enter_after.clone().unwrap_or(default.enter_after());
        loop {
            let error = match LineSettings::new(max, max_wait, enter_after) {
                Ok(line) => return line,
                Err(error) => error,
            };
            match error {
                InvalidLine::EnterAfter => {
                    let help = "`max = 0` switches the line off".to_owned();
                    self.misfit(&error, [raw.enter_after.span()], Some(help));
                    enter_after = default.enter_after();
                }
                InvalidLine::MaxWait => {
                    let help = "`max = 0` switches the line off".to_owned();
                    self.misfit(&error, [raw.max_wait.span()], Some(help));
                    max_wait = default.max_wait();
                }
            }
        }
    }

    fn admission(&self, raw: &raw::Admission) -> AdmissionSettings {
        let default = AdmissionSettings::default();
        let limit = raw.limit.clone().unwrap_or(default.limit());
        let queue = raw.queue.clone().unwrap_or(default.queue());
        let queue_time = raw.queue_time.clone().unwrap_or(default.queue_time());
        AdmissionSettings::new(limit, queue, queue_time).unwrap_or_else(|error| {
            let InvalidAdmission::QueueTime = error;
            let help = "with `queue = 0` nobody waits".to_owned();
            self.misfit(&error, [raw.queue_time.span()], Some(help));
            default
        })
    }

    /// Reports what a constructor refused, at the first of the values that stands in the file.
    fn misfit<const N: usize>(
        &self,
        error: &dyn Display,
        spans: [Option<Range<usize>>; N],
        help: Option<String>,
    ) {
        let mut spans = spans.into_iter().flatten();
        let Some(span) = spans.next() else { return };
        let label = if N == 1 { "out of bounds" } else { "does not fit" };
        let mut fault = Fault::at(span, error.to_string(), label);
        if let Some(other) = spans.next() {
            fault = fault.also(other, "and this");
        }
        self.faults.push(match help {
            Some(help) => fault.help(help),
            None => fault,
        });
    }

    fn required<T>(
        &self,
        field: Field<T>,
        needs: &Needs<'_>,
        key: &str,
        example: &str,
    ) -> Option<Spanned<T>> {
        match field {
            Field::Given(value) => Some(value),
            Field::Broken => None,
            Field::Absent => {
                let message = format!("`{}` has no `{key}`", needs.table);
                let fault = Fault::at(needs.header.clone(), message, format!("`{key}` is missing"));
                self.faults.push(fault.help(format!("add `{example}`")));
                None
            }
        }
    }

    fn check_name(&self, what: &str, name: &str, span: Range<usize>) {
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
        self.faults.push(fault.help(format!(
            "it labels metrics and log lines: 1 to {NAME_MAX} printable ASCII characters, no spaces, no quotes"
        )));
    }

    fn check_endpoints(&self, endpoints: &Spanned<Vec<Spanned<crate::upstream::endpoint::EndpointUrl>>>) {
        let list = endpoints.get_ref();
        if list.is_empty() {
            let fault = Fault::at(endpoints.span(), "a cluster needs at least one endpoint", "empty");
            self.faults.push(fault.help("write [\"http://10.0.1.10:8080\"]"));
        }
        for (index, endpoint) in list.iter().enumerate() {
            let earlier = list[..index].iter().find(|earlier| earlier.get_ref() == endpoint.get_ref());
            if let Some(earlier) = earlier {
                self.faults.push(
                    Fault::at(endpoint.span(), "an endpoint is listed twice", "again here")
                        .also(earlier.span(), "first here"),
                );
            }
        }
    }
}

/// A table that may lack a key.
struct Needs<'a> {
    table: &'a str,
    header: &'a Range<usize>,
}

/// Where the admin listener is by default.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// The label of requests that no route takes.
const UNMATCHED: &str = "none";
/// Longer labels make every metric line longer.
const NAME_MAX: usize = 64;
