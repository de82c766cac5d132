//! The checked configuration written as TOML that reads back to the same, for `stent check --effective`.

use std::fmt::Write;
use std::path::Path;

use http::{HeaderName, HeaderValue};

use crate::certificate::CertificateFiles;
use crate::config::cluster_tls::{PROTOCOLS, VERIFICATION_FULL, VERIFICATION_OFF, show_name};
use crate::config::listener_tls::{CLIENT_AUTHS, TLS_VERSIONS};
use crate::config::raw::{BALANCES, LEVELS, LOG_FORMATS, PROXY_PROTOCOLS, UNSAFE_REUSES};
use crate::config::units::{show_duration, show_size};
use crate::config::values::LIMITS;
use crate::config::{Config, ListenerSettings};
use crate::downstream::http2::Http2Settings;
use crate::downstream::tls::TlsSettings;
use crate::error::ErrorClass;
use crate::fields::guard::OriginGuard;
use crate::fields::rules::{HeaderRules, Rule};
use crate::policy::admission::Limit;
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::HedgeAfter;
use crate::policy::retry::{RetryPolicy, StatusSet};
use crate::record::QueryPolicy;
use crate::record::log::AccessLogOutput;
use crate::route::redirect::Redirect;
use crate::route::{Action, HostPattern, RouteSettings};
use crate::upstream::cluster::ClusterSettings;
use crate::upstream::endpoint::{EndpointHost, EndpointUrl};
use crate::upstream::health::HealthCheck;
use crate::upstream::tls::TlsSettings as ClusterTls;

/// Writes every key with the value that holds, the merged retry policy of each route among them.
pub fn effective(config: &Config) -> String {
    let mut text = Document::default();
    text.header("[server]");
    text.key("workers", config.server.workers);
    text.string("accept_grace", &show_duration(config.server.accept_grace));
    text.string("finish_grace", &show_duration(config.server.finish_grace));
    text.string("replay_memory", &size(config.server.replay_memory));
    text.string("answer_memory", &size(config.server.answer_memory));
    text.string("via", &config.server.via);
    text.header("[admin]");
    text.string("address", &config.admin.to_string());
    text.header("[log]");
    text.string("level", word(&LEVELS, config.log.level));
    text.string("format", word(&LOG_FORMATS, config.log.format));
    text.header("[access_log]");
    match &config.access_log {
        AccessLogOutput::File(path) => text.string("output", &path.to_string_lossy()),
        AccessLogOutput::Off => text.string("output", "off"),
        AccessLogOutput::Stdout => text.string("output", "stdout"),
    }
    config.listeners.iter().for_each(|listener| text.listener(listener));
    config.clusters.iter().for_each(|cluster| text.cluster(cluster));
    config.routes.iter().for_each(|route| text.route(route));
    text.0
}

#[derive(Default)]
struct Document(String);

impl Document {
    fn listener(&mut self, listener: &ListenerSettings) {
        self.header("[[listener]]");
        self.string("address", &listener.address.to_string());
        self.strings("trusted_proxies", listener.trusted_proxies.iter().map(ToString::to_string));
        self.string("idle_timeout", &show_duration(listener.idle_timeout));
        self.string("header_timeout", &show_duration(listener.header_timeout));
        self.string("body_timeout", &show_duration(listener.body_timeout));
        self.string("write_timeout", &show_duration(listener.write_timeout));
        self.string("max_header_bytes", &size(listener.max_header_bytes));
        self.key("max_connections", listener.max_connections);
        self.string("underscores", listener.underscores.label());
        self.string("proxy_protocol", word(&PROXY_PROTOCOLS, listener.proxy_protocol));
        self.key("emit_proxy_status", listener.emit_proxy_status);
        self.origin_guard("listener", listener.origin_guard.as_ref());
        self.http2(&listener.http2);
        if let Some(tls) = &listener.tls {
            self.listener_tls(tls);
        }
    }

    fn http2(&mut self, http2: &Http2Settings) {
        self.header("[listener.http2]");
        self.key("enabled", http2.enabled);
        self.key("max_streams", http2.max_streams);
        self.key("max_cancelled", http2.max_cancelled);
        self.string("stream_window", &show_size(http2.stream_window.into()));
        self.string("connection_window", &show_size(http2.connection_window.into()));
        self.string("send_buffer", &show_size(http2.send_buffer.into()));
    }

    fn listener_tls(&mut self, tls: &TlsSettings) {
        self.header("[listener.tls]");
        let path = |path: &Path| quote(&path.to_string_lossy());
        let certificates = tls.certificates.iter().map(|listed| {
            let CertificateFiles { chain, key, passphrase_file } = &listed.files;
            let passphrase =
                passphrase_file.as_deref().map(|file| format!(", passphrase_file = {}", path(file)));
            let passphrase = passphrase.unwrap_or_default();
            format!("\n    {{ chain = {}, key = {}{passphrase} }},", path(chain), path(key))
        });
        self.key("certificates", format!("[{}\n]", certificates.collect::<String>()));
        self.string("min_version", word(&TLS_VERSIONS, tls.min_version));
        if let Some(client_auth) = &tls.client_auth {
            self.key("client_ca", path(&client_auth.ca));
            self.string("client_auth", word(&CLIENT_AUTHS, client_auth.mode));
            let header = client_auth.subject_header.as_ref();
            self.string("client_subject_header", header.map_or("", |name| name.as_str()));
        }
        self.string("handshake_timeout", &show_duration(tls.handshake_timeout));
        self.string("watch_interval", &show_duration(tls.watch_interval));
    }

    fn cluster(&mut self, cluster: &ClusterSettings) {
        let name = key_name(&cluster.name);
        self.header(&format!("[cluster.{name}]"));
        self.strings("endpoints", cluster.endpoints.iter().map(show_endpoint));
        self.string("protocol", word(&PROTOCOLS, cluster.protocol));
        self.string("connect_timeout", &show_duration(cluster.connect_timeout));
        self.string("idle_timeout", &show_duration(cluster.idle_timeout));
        self.string("unsafe_reuse", word(&UNSAFE_REUSES, cluster.unsafe_reuse));
        self.string("body_timeout", &show_duration(cluster.body_timeout));
        self.key("max_connections", cluster.max_connections);
        self.key("max_streams", cluster.max_streams);
        self.string("connection_wait", &show_duration(cluster.connection_wait));
        self.key("max_waiting", cluster.max_waiting);
        self.string("max_header_bytes", &size(cluster.max_header_bytes));
        self.string("dns_refresh", &show_duration(cluster.dns_refresh));
        self.string("balance", word(&BALANCES, cluster.balance));
        if let Some(tls) = &cluster.tls {
            self.header(&format!("[cluster.{name}.tls]"));
            self.cluster_tls(tls);
        }
        // The rest of a retry policy stands at each route, merged; these two belong to the cluster itself.
        self.header(&format!("[cluster.{name}.retry]"));
        self.key("statuses", show_statuses(&cluster.failures));
        let budget = &cluster.budget;
        let (ratio, floor) = (number(budget.ratio()), budget.min_per_second());
        let window = quote(&show_duration(budget.window()));
        self.key("budget", format!("{{ ratio = {ratio}, min_per_second = {floor}, window = {window} }}"));
        self.header(&format!("[cluster.{name}.ejection]"));
        self.key("consecutive_failures", cluster.ejection.consecutive_failures());
        self.string("open", &show_duration(cluster.ejection.open()));
        self.string("max_open", &show_duration(cluster.ejection.max_open()));
        self.key("max_ejected", number(cluster.ejection.max_ejected()));
        self.header(&format!("[cluster.{name}.line]"));
        self.key("max", cluster.line.max());
        self.string("max_wait", &show_duration(cluster.line.max_wait()));
        self.key("enter_after", cluster.line.enter_after());
        self.header(&format!("[cluster.{name}.admission]"));
        match cluster.admission.limit() {
            Limit::Fixed(limit) => self.key("limit", limit),
            other => self.string("limit", word(&LIMITS, other)),
        }
        self.key("queue", cluster.admission.queue());
        self.string("queue_time", &show_duration(cluster.admission.queue_time()));
        if let Some(check) = &cluster.health_check {
            self.header(&format!("[cluster.{name}.health_check]"));
            self.health_check(check);
        }
    }

    fn health_check(&mut self, check: &HealthCheck) {
        self.string("path", check.path.as_str());
        if let Some(host) = &check.host {
            self.string("host", host.as_str());
        }
        self.string("method", check.method.as_str());
        self.string("interval", &show_duration(check.rhythm.interval()));
        self.string("timeout", &show_duration(check.rhythm.timeout()));
        self.key("statuses", show_statuses(&check.statuses));
        self.key("unhealthy_after", check.rhythm.unhealthy_after());
        self.key("healthy_after", check.rhythm.healthy_after());
    }

    fn cluster_tls(&mut self, tls: &ClusterTls) {
        if let Some(ca) = tls.ca() {
            self.string("ca", &ca.to_string_lossy());
        }
        if let Some(name) = tls.server_name() {
            self.string("server_name", &show_name(name));
        }
        if let Some(identity) = tls.identity() {
            let path = |path: &Path| quote(&path.to_string_lossy());
            let (chain, key) = (path(&identity.files.chain), path(&identity.files.key));
            let passphrase = identity.files.passphrase_file.as_deref();
            let passphrase = passphrase.map(|file| format!(", passphrase_file = {}", path(file)));
            let passphrase = passphrase.unwrap_or_default();
            self.key("certificate", format!("{{ chain = {chain}, key = {key}{passphrase} }}"));
        }
        self.string("verification", if tls.verifies() { VERIFICATION_FULL } else { VERIFICATION_OFF });
    }

    fn route(&mut self, route: &RouteSettings) {
        self.header("[[route]]");
        self.string("name", &route.name);
        if let Some(scheme) = route.pattern.scheme {
            self.string("scheme", scheme.label());
        }
        if let Some(host) = &route.pattern.host {
            self.string("host", &show_host(host));
        }
        self.string("path", route.pattern.path.as_str());
        if let Some(methods) = &route.pattern.methods {
            self.strings("methods", methods);
        }
        match &route.action {
            Action::Forward(cluster) => {
                self.string("cluster", cluster);
                self.string("deadline", &show_duration(route.deadline));
                self.string("max_body", &show_size(route.max_body));
            }
            Action::Redirect(redirect) => self.redirect(redirect),
        }
        match &route.log_query {
            QueryPolicy::Full => self.string("log_query", "full"),
            QueryPolicy::Redacted => self.string("log_query", "redacted"),
            QueryPolicy::Only(names) => self.strings("log_query", names.iter()),
        }
        if route.action.cluster().is_some() {
            self.strings("upgrades", route.upgrades.iter());
            self.string("tunnel_idle_timeout", &show_duration(route.tunnel_idle_timeout));
            self.header("[route.retry]");
            self.retry(&route.retry);
        }
        self.origin_guard("route", route.origin_guard.as_ref());
        self.rules("request_headers", &route.request_headers);
        self.rules("response_headers", &route.response_headers);
    }

    fn redirect(&mut self, redirect: &Redirect) {
        let scheme = redirect.scheme().map(|scheme| format!("scheme = {}, ", quote(scheme.label())));
        let host = redirect.host().map(|host| format!("host = {}, ", quote(host.as_str())));
        let port = redirect.port().map(|port| format!("port = {port}, "));
        let changes: String = [scheme, host, port].into_iter().flatten().collect();
        self.key("redirect", format!("{{ {changes}status = {} }}", redirect.status().as_u16()));
    }

    /// The secrets stay in their files.
    fn origin_guard(&mut self, parent: &str, guard: Option<&OriginGuard>) {
        if let Some(guard) = guard {
            self.header(&format!("[{parent}.origin_guard]"));
            self.string("header", guard.header().as_str());
            self.strings("secret_files", guard.files().map(|file| file.to_string_lossy()));
        }
    }

    fn rules(&mut self, key: &str, rules: &HeaderRules) {
        if rules.is_empty() {
            return;
        }
        let (mut remove, mut set, mut add) = (Vec::new(), Vec::new(), Vec::new());
        // The configuration takes only values that are text.
        let pair = |name: &HeaderName, value: &HeaderValue| {
            format!("{} = {}", key_name(name.as_str()), quote(value.to_str().unwrap_or_default()))
        };
        for rule in rules.iter() {
            match rule {
                Rule::Remove(name) => remove.push(name),
                Rule::Set(name, value) => set.push(pair(name, value)),
                Rule::Add(name, value) => add.push(pair(name, value)),
            }
        }
        self.header(&format!("[route.{key}]"));
        self.strings("remove", remove);
        self.key("set", format!("{{ {} }}", set.join(", ")));
        self.key("add", format!("{{ {} }}", add.join(", ")));
    }

    fn retry(&mut self, retry: &RetryPolicy) {
        self.key("max_attempts", retry.max_attempts);
        self.key("statuses", show_statuses(&retry.statuses));
        self.strings("grpc_statuses", retry.grpc_statuses.iter().map(GrpcStatus::name));
        self.strings("errors", retry.errors.iter().map(ErrorClass::label));
        self.strings("methods", &retry.methods);
        let header = retry.idempotency_header.as_ref();
        self.string("idempotency_header", header.map_or("", |name| name.as_str()));
        self.string("per_try_timeout", &show_duration(retry.per_try_timeout));
        self.string("body_limit", &size(retry.body_limit));
        self.string("hold", &size(retry.hold.size));
        self.string("hold_time", &show_duration(retry.hold.time));
        self.key("resume", retry.resume.enabled);
        self.string("resume_time", &show_duration(retry.resume.time));
        self.string("hedge", &show_hedge(retry.hedge));
        let backoff = &retry.backoff;
        let (base, max) = (quote(&show_duration(backoff.base())), quote(&show_duration(backoff.max())));
        let (factor, jitter) = (number(backoff.factor()), quote(backoff.jitter().label()));
        let mode = quote(backoff.mode().label());
        let asked = quote(&show_duration(retry.retry_after_max));
        self.key(
            "backoff",
            format!(
                "{{ mode = {mode}, base = {base}, factor = {factor}, max = {max}, jitter = {jitter}, retry_after_max = {asked} }}"
            ),
        );
    }

    fn header(&mut self, header: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{gap}{header}"));
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, quote(value));
    }

    fn strings(&mut self, key: &str, values: impl IntoIterator<Item = impl AsRef<str>>) {
        let quoted: Vec<_> = values.into_iter().map(|value| quote(value.as_ref())).collect();
        self.key(key, format!("[{}]", quoted.join(", ")));
    }

    fn key(&mut self, key: &str, value: impl std::fmt::Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string succeeds");
    }
}

/// Writes statuses as the configuration does, runs of three and more as ranges.
pub(crate) fn show_statuses(statuses: &StatusSet) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for status in statuses.iter() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == status => *last = status,
            _ => runs.push((status, status)),
        }
    }
    let shown = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("\"{first}-{last}\""),
    });
    format!("[{}]", shown.collect::<Vec<_>>().join(", "))
}

/// Writes a host pattern as the configuration does.
pub(crate) fn show_host(host: &HostPattern) -> String {
    match host {
        HostPattern::Exact(name) => name.to_string(),
        HostPattern::Suffix(suffix) => format!("*{suffix}"),
    }
}

/// Writes the time of hedges as the configuration does.
fn show_hedge(after: HedgeAfter) -> String {
    match after {
        HedgeAfter::Never => "off".to_owned(),
        HedgeAfter::Percentile(percentile) => format!("p{}", percentile.percent()),
        HedgeAfter::Time(time) => show_duration(time),
    }
}

/// Writes an endpoint as the configuration does.
fn show_endpoint(endpoint: &EndpointUrl) -> String {
    let (scheme, port) = (endpoint.scheme.label(), endpoint.port);
    match &endpoint.host {
        EndpointHost::Address(std::net::IpAddr::V6(address)) => format!("{scheme}://[{address}]:{port}"),
        EndpointHost::Address(address) => format!("{scheme}://{address}:{port}"),
        EndpointHost::Name(name) => format!("{scheme}://{name}:{port}"),
    }
}

fn size(bytes: usize) -> String {
    show_size(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// A float in TOML has a point.
fn number(number: f64) -> String {
    format!("{number:?}")
}

fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A key goes without quotes where it can.
fn key_name(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.bytes().all(bare) { name.to_owned() } else { quote(name) }
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}
