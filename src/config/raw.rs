//! The configuration exactly as the file has it: every key optional, every value with its place.
//!
//! What one value alone can tell is checked here (its type, unit and bounds); what takes two is checked by `build`.

use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use toml::Spanned;

use crate::config::LogFormat;
use crate::config::cluster_tls::{ClusterTls, PROTOCOLS};
use crate::config::health_check::HealthCheck;
use crate::config::listener_tls::ListenerTls;
use crate::config::reader::{Field, Item, Table};
use crate::config::values;
use crate::downstream::proxy_protocol::ProxyProtocol;
use crate::error::ErrorClass;
use crate::fields::Scheme;
use crate::fields::Underscores;
use crate::fields::rules::Side;
use crate::policy::admission::Limit;
use crate::policy::backoff::{Jitter, Mode};
use crate::policy::grpc::GrpcStatusSet;
use crate::policy::hedge::HedgeAfter;
use crate::policy::retry::{ErrorSet, StatusSet};
use crate::policy::reuse::UnsafeReuse;
use crate::record::QueryPolicy;
use crate::record::log::AccessLogOutput;
use crate::route::redirect::RedirectHost;
use crate::route::{HostPattern, PathPattern};
use crate::upstream::cluster::{Balance, Protocol};
use crate::upstream::endpoint::EndpointUrl;

/// The whole file.
pub(super) struct File {
    pub(super) server: Server,
    pub(super) admin: Field<SocketAddr>,
    pub(super) log: Log,
    pub(super) access_log: Field<AccessLogOutput>,
    pub(super) listeners: Field<Vec<Listener>>,
    pub(super) retry: Retry,
    pub(super) clusters: Field<Vec<Cluster>>,
    pub(super) routes: Field<Vec<Route>>,
}

impl File {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let file = Self {
            server: table.table("server").map(Server::read).unwrap_or_default(),
            admin: table.table("admin").map(admin).unwrap_or_default(),
            log: table.table("log").map(Log::read).unwrap_or_default(),
            access_log: table.table("access_log").map(access_log).unwrap_or_default(),
            listeners: table
                .tables("listener")
                .map(|tables| tables.into_iter().map(Listener::read).collect()),
            retry: table
                .table("retry")
                .map(|table| Retry::read(table, BudgetPlace::Here))
                .unwrap_or_default(),
            clusters: table
                .named_tables("cluster")
                .map(|tables| tables.into_iter().map(|(name, table)| Cluster::read(&name, table)).collect()),
            routes: table.tables("route").map(|tables| tables.into_iter().map(Route::read).collect()),
        };
        table.finish();
        file
    }
}

/// `[server]`
#[derive(Default)]
pub(super) struct Server {
    pub(super) workers: Field<usize>,
    pub(super) accept_grace: Field<Duration>,
    pub(super) finish_grace: Field<Duration>,
    pub(super) replay_memory: Field<usize>,
    pub(super) answer_memory: Field<usize>,
    pub(super) via: Field<Box<str>>,
}

impl Server {
    fn read(mut table: Table<'_>) -> Self {
        let server = Self {
            workers: table.field("workers", |item| item.integer(0..=1024)),
            accept_grace: table.field("accept_grace", |item| item.duration(GRACE)),
            finish_grace: table.field("finish_grace", |item| item.duration(GRACE)),
            replay_memory: table.field("replay_memory", |item| values::bytes(item, 0..=1 << 40)),
            answer_memory: table.field("answer_memory", |item| values::bytes(item, 0..=1 << 40)),
            via: table.field("via", values::via),
        };
        table.finish();
        server
    }
}

/// `[log]`
#[derive(Default)]
pub(super) struct Log {
    pub(super) level: Field<tracing::Level>,
    pub(super) format: Field<LogFormat>,
}

impl Log {
    fn read(mut table: Table<'_>) -> Self {
        let log = Self {
            level: table.field("level", |item| item.choice(&LEVELS)),
            format: table.field("format", |item| item.choice(&LOG_FORMATS)),
        };
        table.finish();
        log
    }
}

/// `[[listener]]`
pub(super) struct Listener {
    pub(super) header: Range<usize>,
    pub(super) address: Field<SocketAddr>,
    pub(super) trusted_proxies: Field<Vec<Spanned<IpNet>>>,
    pub(super) idle_timeout: Field<Duration>,
    pub(super) header_timeout: Field<Duration>,
    pub(super) body_timeout: Field<Duration>,
    pub(super) write_timeout: Field<Duration>,
    pub(super) max_header_bytes: Field<usize>,
    pub(super) max_connections: Field<usize>,
    pub(super) underscores: Field<Underscores>,
    pub(super) origin_guard: Option<OriginGuard>,
    pub(super) emit_proxy_status: Field<bool>,
    pub(super) tls: Option<ListenerTls>,
    pub(super) proxy_protocol: Field<ProxyProtocol>,
    pub(super) http2: Http2,
}

impl Listener {
    fn read(mut table: Table<'_>) -> Self {
        let listener = Self {
            header: table.header(),
            address: table.field("address", values::socket_address),
            trusted_proxies: table.list("trusted_proxies", values::network),
            idle_timeout: table.field("idle_timeout", |item| item.duration(WAIT)),
            header_timeout: table.field("header_timeout", |item| item.duration(WAIT)),
            body_timeout: table.field("body_timeout", |item| item.duration(WAIT)),
            write_timeout: table.field("write_timeout", |item| item.duration(WAIT)),
            max_header_bytes: table.field("max_header_bytes", |item| values::bytes(item, HEAD)),
            max_connections: table.field("max_connections", |item| item.integer(1..=1_000_000)),
            underscores: table.field("underscores", |item| {
                item.choice(&Underscores::ALL.map(|policy| (policy.label(), policy)))
            }),
            origin_guard: table.table("origin_guard").map(OriginGuard::read),
            emit_proxy_status: table.field("emit_proxy_status", Item::boolean),
            tls: table.table("tls").map(ListenerTls::read),
            proxy_protocol: table.field("proxy_protocol", |item| item.choice(&PROXY_PROTOCOLS)),
            http2: table.table("http2").map(Http2::read).unwrap_or_default(),
        };
        table.finish();
        listener
    }
}

/// `[listener.http2]`
#[derive(Default)]
pub(super) struct Http2 {
    pub(super) enabled: Field<bool>,
    pub(super) max_streams: Field<u32>,
    pub(super) max_cancelled: Field<u32>,
    pub(super) stream_window: Field<u64>,
    pub(super) connection_window: Field<u64>,
    pub(super) send_buffer: Field<u64>,
}

impl Http2 {
    fn read(mut table: Table<'_>) -> Self {
        let http2 = Self {
            enabled: table.field("enabled", Item::boolean),
            max_streams: table.field("max_streams", |item| item.integer(1..=10_000)),
            max_cancelled: table.field("max_cancelled", |item| item.integer(1..=1_000_000)),
            stream_window: table.field("stream_window", |item| item.size(WINDOW)),
            connection_window: table.field("connection_window", |item| item.size(WINDOW)),
            send_buffer: table.field("send_buffer", |item| item.size(SEND_BUFFER)),
        };
        table.finish();
        http2
    }
}

/// `[listener.origin_guard]` and `[route.origin_guard]`
pub(super) struct OriginGuard {
    pub(super) table: Range<usize>,
    pub(super) header: Field<HeaderName>,
    pub(super) secret_files: Field<Vec<Spanned<PathBuf>>>,
}

impl OriginGuard {
    fn read(mut table: Table<'_>) -> Self {
        let guard = Self {
            table: table.header(),
            header: table.field("header", values::guard_header),
            secret_files: table.list("secret_files", values::file),
        };
        table.finish();
        guard
    }
}

/// `[retry]`, `[cluster.NAME.retry]` and `[route.retry]`
#[derive(Clone, Default)]
pub(super) struct Retry {
    pub(super) max_attempts: Field<u32>,
    pub(super) statuses: Field<StatusSet>,
    pub(super) grpc_statuses: Field<GrpcStatusSet>,
    pub(super) errors: Field<ErrorSet>,
    pub(super) methods: Field<Vec<Method>>,
    pub(super) idempotency_header: Field<Option<HeaderName>>,
    pub(super) per_try_timeout: Field<Duration>,
    pub(super) body_limit: Field<usize>,
    pub(super) hold: Field<usize>,
    pub(super) hold_time: Field<Duration>,
    pub(super) resume: Field<bool>,
    pub(super) resume_time: Field<Duration>,
    pub(super) hedge: Field<HedgeAfter>,
    pub(super) backoff: Backoff,
    pub(super) budget: Budget,
}

/// Whether a `retry` table may hold a `budget`.
#[derive(Clone, Copy)]
enum BudgetPlace {
    Here,
    AtTheCluster,
}

impl Retry {
    fn read(mut table: Table<'_>, budget: BudgetPlace) -> Self {
        let retry = Self {
            max_attempts: table.field("max_attempts", |item| item.integer(1..=20)),
            statuses: table
                .list("statuses", values::statuses)
                .map(|ranges| ranges.into_iter().flat_map(Spanned::into_inner).collect()),
            grpc_statuses: table
                .list("grpc_statuses", values::grpc_status)
                .map(|statuses| statuses.into_iter().map(Spanned::into_inner).collect()),
            errors: table
                .list("errors", |item| item.choice(&ErrorClass::ALL.map(|class| (class.label(), class))))
                .map(|classes| classes.into_iter().map(Spanned::into_inner).collect()),
            methods: values::methods(&mut table),
            idempotency_header: table.field("idempotency_header", values::header_name),
            per_try_timeout: table.field("per_try_timeout", |item| item.duration(WAIT)),
            body_limit: table.field("body_limit", |item| values::bytes(item, 0..=1 << 30)),
            hold: table.field("hold", |item| values::bytes(item, HOLD)),
            hold_time: table.field("hold_time", |item| item.duration(HOLD_TIME)),
            resume: table.field("resume", Item::boolean),
            resume_time: table.field("resume_time", |item| item.duration(RESUME_TIME)),
            hedge: table.field("hedge", values::hedge),
            backoff: table.table("backoff").map(Backoff::read).unwrap_or_default(),
            budget: match budget {
                BudgetPlace::Here => table.table("budget").map(Budget::read).unwrap_or_default(),
                BudgetPlace::AtTheCluster => {
                    table.refuse(
                        "budget",
                        "a budget belongs to a cluster",
                        "not in `[route.retry]`",
                        "routes of one cluster share its budget: set it in `[cluster.NAME.retry]`",
                    );
                    Budget::default()
                }
            },
        };
        table.finish();
        retry
    }

    /// This table over a lower one, field by field.
    pub(super) fn over(&self, lower: &Self) -> Self {
        let (own, lower) = (self.clone(), lower.clone());
        Self {
            max_attempts: own.max_attempts.or(lower.max_attempts),
            statuses: own.statuses.or(lower.statuses),
            grpc_statuses: own.grpc_statuses.or(lower.grpc_statuses),
            errors: own.errors.or(lower.errors),
            methods: own.methods.or(lower.methods),
            idempotency_header: own.idempotency_header.or(lower.idempotency_header),
            per_try_timeout: own.per_try_timeout.or(lower.per_try_timeout),
            body_limit: own.body_limit.or(lower.body_limit),
            hold: own.hold.or(lower.hold),
            hold_time: own.hold_time.or(lower.hold_time),
            resume: own.resume.or(lower.resume),
            resume_time: own.resume_time.or(lower.resume_time),
            hedge: own.hedge.or(lower.hedge),
            backoff: Backoff {
                mode: own.backoff.mode.or(lower.backoff.mode),
                base: own.backoff.base.or(lower.backoff.base),
                factor: own.backoff.factor.or(lower.backoff.factor),
                max: own.backoff.max.or(lower.backoff.max),
                jitter: own.backoff.jitter.or(lower.backoff.jitter),
                retry_after_max: own.backoff.retry_after_max.or(lower.backoff.retry_after_max),
            },
            budget: Budget {
                ratio: own.budget.ratio.or(lower.budget.ratio),
                min_per_second: own.budget.min_per_second.or(lower.budget.min_per_second),
                window: own.budget.window.or(lower.budget.window),
            },
        }
    }
}

/// `backoff` in a `retry` table.
#[derive(Clone, Default)]
pub(super) struct Backoff {
    pub(super) mode: Field<Mode>,
    pub(super) base: Field<Duration>,
    pub(super) factor: Field<f64>,
    pub(super) max: Field<Duration>,
    pub(super) jitter: Field<Jitter>,
    pub(super) retry_after_max: Field<Duration>,
}

impl Backoff {
    fn read(mut table: Table<'_>) -> Self {
        let backoff = Self {
            mode: table.field("mode", |item| item.choice(&Mode::ALL.map(|mode| (mode.label(), mode)))),
            base: table.field("base", |item| item.duration(ANY_DURATION)),
            factor: table.field("factor", Item::number),
            max: table.field("max", |item| item.duration(ANY_DURATION)),
            jitter: table
                .field("jitter", |item| item.choice(&Jitter::ALL.map(|jitter| (jitter.label(), jitter)))),
            retry_after_max: table.field("retry_after_max", |item| item.duration(GRACE)),
        };
        table.finish();
        backoff
    }
}

/// `budget` in a `retry` table.
#[derive(Clone, Default)]
pub(super) struct Budget {
    pub(super) ratio: Field<f64>,
    pub(super) min_per_second: Field<u32>,
    pub(super) window: Field<Duration>,
}

impl Budget {
    fn read(mut table: Table<'_>) -> Self {
        let budget = Self {
            ratio: table.field("ratio", Item::number),
            min_per_second: table.field("min_per_second", |item| item.integer(0..=u32::MAX)),
            window: table.field("window", |item| item.duration(ANY_DURATION)),
        };
        table.finish();
        budget
    }
}

/// `[cluster.NAME]`
pub(super) struct Cluster {
    pub(super) name: Spanned<Box<str>>,
    pub(super) header: Range<usize>,
    pub(super) endpoints: Field<Vec<Spanned<EndpointUrl>>>,
    pub(super) protocol: Field<Protocol>,
    pub(super) connect_timeout: Field<Duration>,
    pub(super) idle_timeout: Field<Duration>,
    pub(super) unsafe_reuse: Field<UnsafeReuse>,
    pub(super) body_timeout: Field<Duration>,
    pub(super) max_connections: Field<usize>,
    pub(super) max_streams: Field<usize>,
    pub(super) connection_wait: Field<Duration>,
    pub(super) max_waiting: Field<usize>,
    pub(super) max_header_bytes: Field<usize>,
    pub(super) dns_refresh: Field<Duration>,
    pub(super) balance: Field<Balance>,
    pub(super) tls: Option<ClusterTls>,
    pub(super) retry: Retry,
    pub(super) ejection: Ejection,
    pub(super) line: Line,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) admission: Admission,
}

impl Cluster {
    fn read(name: &Spanned<&str>, mut table: Table<'_>) -> Self {
        let cluster = Self {
            name: Spanned::new(name.span(), (*name.get_ref()).into()),
            header: table.header(),
            endpoints: table.list("endpoints", values::endpoint),
            protocol: table.field("protocol", |item| item.choice(&PROTOCOLS)),
            connect_timeout: table.field("connect_timeout", |item| item.duration(WAIT)),
            idle_timeout: table.field("idle_timeout", |item| item.duration(WAIT)),
            unsafe_reuse: table.field("unsafe_reuse", |item| item.choice(&UNSAFE_REUSES)),
            body_timeout: table.field("body_timeout", |item| item.duration(WAIT)),
            max_connections: table.field("max_connections", |item| item.integer(1..=1_000_000)),
            max_streams: table.field("max_streams", |item| item.integer(1..=10_000)),
            connection_wait: table.field("connection_wait", |item| item.duration(GRACE)),
            max_waiting: table.field("max_waiting", |item| item.integer(0..=1_000_000)),
            max_header_bytes: table.field("max_header_bytes", |item| values::bytes(item, HEAD)),
            dns_refresh: table.field("dns_refresh", |item| item.duration(REFRESH)),
            balance: table.field("balance", |item| item.choice(&BALANCES)),
            tls: table.table("tls").map(ClusterTls::read),
            retry: table
                .table("retry")
                .map(|table| Retry::read(table, BudgetPlace::Here))
                .unwrap_or_default(),
            ejection: table.table("ejection").map(Ejection::read).unwrap_or_default(),
            line: table.table("line").map(Line::read).unwrap_or_default(),
            health_check: table.table("health_check").map(HealthCheck::read),
            admission: table.table("admission").map(Admission::read).unwrap_or_default(),
        };
        table.finish();
        cluster
    }
}

/// `[cluster.NAME.ejection]`
#[derive(Default)]
pub(super) struct Ejection {
    pub(super) consecutive_failures: Field<u32>,
    pub(super) open: Field<Duration>,
    pub(super) max_open: Field<Duration>,
    pub(super) max_ejected: Field<f64>,
}

impl Ejection {
    fn read(mut table: Table<'_>) -> Self {
        let ejection = Self {
            consecutive_failures: table.field("consecutive_failures", |item| item.integer(0..=u32::MAX)),
            open: table.field("open", |item| item.duration(ANY_DURATION)),
            max_open: table.field("max_open", |item| item.duration(ANY_DURATION)),
            max_ejected: table.field("max_ejected", Item::number),
        };
        table.finish();
        ejection
    }
}

/// `[cluster.NAME.admission]`
#[derive(Default)]
pub(super) struct Admission {
    pub(super) limit: Field<Limit>,
    pub(super) queue: Field<usize>,
    pub(super) queue_time: Field<Duration>,
}

impl Admission {
    fn read(mut table: Table<'_>) -> Self {
        let admission = Self {
            limit: table.field("limit", values::limit),
            queue: table.field("queue", |item| item.integer(0..=1_000_000)),
            queue_time: table.field("queue_time", |item| item.duration(ANY_DURATION)),
        };
        table.finish();
        admission
    }
}

/// `[cluster.NAME.line]`
#[derive(Default)]
pub(super) struct Line {
    pub(super) max: Field<usize>,
    pub(super) max_wait: Field<Duration>,
    pub(super) enter_after: Field<u32>,
}

impl Line {
    fn read(mut table: Table<'_>) -> Self {
        let line = Self {
            max: table.field("max", |item| item.integer(0..=100_000)),
            max_wait: table.field("max_wait", |item| item.duration(ANY_DURATION)),
            enter_after: table.field("enter_after", |item| item.integer(0..=u32::MAX)),
        };
        table.finish();
        line
    }
}

/// `[[route]]`
pub(super) struct Route {
    pub(super) header: Range<usize>,
    pub(super) name: Field<Box<str>>,
    pub(super) scheme: Field<Scheme>,
    pub(super) host: Field<HostPattern>,
    pub(super) path: Field<PathPattern>,
    pub(super) methods: Field<Vec<Method>>,
    pub(super) cluster: Field<Box<str>>,
    pub(super) redirect: Field<Redirect>,
    pub(super) origin_guard: Option<OriginGuard>,
    pub(super) request_headers: HeaderRules,
    pub(super) response_headers: HeaderRules,
    pub(super) deadline: Field<Duration>,
    pub(super) max_body: Field<u64>,
    pub(super) log_query: Field<QueryPolicy>,
    pub(super) upgrades: Field<Vec<Box<str>>>,
    pub(super) tunnel_idle_timeout: Field<Duration>,
    pub(super) retry: Retry,
}

impl Route {
    fn read(mut table: Table<'_>) -> Self {
        let redirect = table.table_field("redirect", Redirect::read);
        if redirect.given().is_some() {
            for key in ["deadline", "max_body", "request_headers", "retry"] {
                if table.has(key) {
                    table.refuse(
                        key,
                        &format!("a redirect takes no `{key}`"),
                        "has no effect here",
                        "nothing of the request goes to a backend: remove it",
                    );
                }
            }
        }
        let route = Self {
            header: table.header(),
            name: table.field("name", |item| Ok(item.text()?.into())),
            scheme: table.field("scheme", |item| item.choice(&SCHEMES)),
            host: table.field("host", values::host),
            path: table.field("path", values::path),
            methods: values::methods(&mut table),
            cluster: table.field("cluster", |item| Ok(item.text()?.into())),
            redirect,
            origin_guard: table.table("origin_guard").map(OriginGuard::read),
            request_headers: table
                .table("request_headers")
                .map(|table| HeaderRules::read(table, Side::Request))
                .unwrap_or_default(),
            response_headers: table
                .table("response_headers")
                .map(|table| HeaderRules::read(table, Side::Response))
                .unwrap_or_default(),
            deadline: table.field("deadline", |item| item.duration(WAIT)),
            max_body: table.field("max_body", |item| item.size(0..=1 << 40)),
            log_query: table.field("log_query", values::log_query),
            upgrades: values::upgrades(&mut table),
            tunnel_idle_timeout: table.field("tunnel_idle_timeout", |item| item.duration(WAIT)),
            retry: table
                .table("retry")
                .map(|table| Retry::read(table, BudgetPlace::AtTheCluster))
                .unwrap_or_default(),
        };
        table.finish();
        route
    }
}

/// `redirect` of a route.
pub(super) struct Redirect {
    pub(super) scheme: Field<Scheme>,
    pub(super) host: Field<RedirectHost>,
    pub(super) port: Field<u16>,
    pub(super) status: Field<u16>,
}

impl Redirect {
    fn read(mut table: Table<'_>) -> Self {
        let redirect = Self {
            scheme: table.field("scheme", |item| item.choice(&SCHEMES)),
            host: table.field("host", values::redirect_host),
            port: table.field("port", |item| item.integer(1..=u16::MAX)),
            status: table.field("status", values::redirect_status),
        };
        table.finish();
        redirect
    }
}

/// `[route.request_headers]` and `[route.response_headers]`, in which every name and value has been checked.
#[derive(Default)]
pub(super) struct HeaderRules {
    pub(super) remove: Vec<Spanned<HeaderName>>,
    pub(super) set: Vec<(Spanned<HeaderName>, HeaderValue)>,
    pub(super) add: Vec<(Spanned<HeaderName>, HeaderValue)>,
}

impl HeaderRules {
    fn read(mut table: Table<'_>, side: Side) -> Self {
        let mut fields = |key| {
            let table = table.table(key)?;
            Some(table.each(|name, item| values::rule(name, item, side)))
        };
        let set = fields("set").unwrap_or_default();
        let add = fields("add").unwrap_or_default();
        let remove = table.list("remove", |item| values::rule_name(item, side)).unwrap_or_default();
        table.finish();
        Self { remove, set, add }
    }
}

fn admin(mut table: Table<'_>) -> Field<SocketAddr> {
    let address = table.field("address", values::socket_address);
    table.finish();
    address
}

fn access_log(mut table: Table<'_>) -> Field<AccessLogOutput> {
    let output = table.field("output", values::log_output);
    table.finish();
    output
}

/// What every wait keeps to: it ends, and it is one.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
/// A wait that may be none.
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
/// Often enough to follow a moved backend, seldom enough for a name server.
const REFRESH: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
/// Where the constructor of the checked type knows the bounds.
pub(super) const ANY_DURATION: RangeInclusive<Duration> = Duration::ZERO..=Duration::MAX;
/// hyper takes no less than 8 KiB for a head, and beyond 1 MiB a head is an attack.
const HEAD: RangeInclusive<u64> = 8 << 10..=1 << 20;

/// None, or what a page and its data may weigh; a download that is held as a whole only comes later.
const HOLD: RangeInclusive<u64> = 0..=16 << 20;
/// What is held reaches the caller so much later, and at most five times that.
const HOLD_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// Beyond that no caller believes that anything comes.
const RESUME_TIME: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(10);

/// A window is never smaller than RFC 9113 has it at first, nor larger than memory for a stream or two should be.
const WINDOW: RangeInclusive<u64> = 64 << 10..=64 << 20;
/// From a frame to what a fast caller far away can use.
const SEND_BUFFER: RangeInclusive<u64> = 16 << 10..=16 << 20;

/// The levels, as the configuration spells them.
pub(super) const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];
/// The formats of the program's own log, as the configuration spells them.
pub(super) const LOG_FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("text", LogFormat::Text)];
/// The schemes, as the configuration spells them.
pub(super) const SCHEMES: [(&str, Scheme); 2] = [("http", Scheme::Http), ("https", Scheme::Https)];
/// The ways to choose an endpoint, as the configuration spells them.
pub(super) const UNSAFE_REUSES: [(&str, UnsafeReuse); 3] =
    [("learned", UnsafeReuse::Learned), ("never", UnsafeReuse::Never), ("always", UnsafeReuse::Always)];
pub(super) const BALANCES: [(&str, Balance); 2] =
    [("p2c", Balance::P2c), ("round_robin", Balance::RoundRobin)];
/// Whether connections begin with a PROXY header, as the configuration spells it.
pub(super) const PROXY_PROTOCOLS: [(&str, ProxyProtocol); 2] =
    [("off", ProxyProtocol::Off), ("required", ProxyProtocol::Required)];
