//! `[cluster.NAME]` and the tables in it, but for TLS and health checks.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use crate::config::bounds::{GRACE, WAIT, h, m, ms, s, within};
use crate::config::build::{Build, check_name, misfit};
use crate::config::cluster_tls::{self, ClusterTls};
use crate::config::docs::Form;
use crate::config::health_check::HealthCheck;
use crate::config::keys::listener::HEAD;
use crate::config::keys::retry::{Budget, Retry};
use crate::config::kinds::places::endpoint;
use crate::config::kinds::retry::{limit, statuses};
use crate::config::kinds::{Kind, duration, integer, number, placed, size, unplaced, word};
use crate::config::reader::{Field, Table};
use crate::config::report::{Fault, Faults};
use crate::config::settings::{Shown, settings};
use crate::config::spec::{Must, Or, Spec};
use crate::config::tables::{Named, optional, table};
use crate::config::units::show_duration;
use crate::policy::admission::{AdmissionSettings, Limit};
use crate::policy::budget::BudgetSettings;
use crate::policy::ejection::EjectionSettings;
use crate::policy::outage::OutageQueueSettings;
use crate::policy::reuse::UnsafeReuse;
use crate::policy::settings::StatusSet;
use crate::upstream::location::EndpointUrl;
use crate::upstream::protocol::Protocol;
use crate::upstream::settings::{Balance, ClusterSettings};

settings! {
    /// `[cluster.NAME]`
    Cluster: fields of ClusterSettings {
        /// http://HOST:PORT or https://HOST:PORT. Every address of a host name is an endpoint.
        endpoints: Must<Vec<Spanned<EndpointUrl>>> = placed(endpoint())
            .must(r#"["http://10.0.1.10:8080"]"#)
            .reference(r#"["http://127.0.0.1:8081"]"#) => |cluster| unplaced(cluster.endpoints.iter().cloned());
        /// "h2" without TLS is by prior knowledge; "auto" is h2 or http1, as an https endpoint prefers.
        protocol: Or<Protocol> =
            word([("http1", Protocol::Http1), ("h2", Protocol::H2), ("auto", Protocol::Auto)]).or(Protocol::Http1);
        /// How long a connection may take, with TLS and the first SETTINGS of HTTP/2.
        connect_timeout: Or<Duration> = duration(WAIT).or(s(2));
        /// How long an unused connection is kept. Set it shorter than the backend's own (Apache: 5 s).
        idle_timeout: Or<Duration> = duration(WAIT).or(s(4));
        /// Which unused connections a POST may have. "learned": those used well within the time after which the endpoint
        /// was seen to close them. "never": none that was idle. "always": any. Not for HTTP/2.
        unsafe_reuse: Or<UnsafeReuse> = word([
            ("learned", UnsafeReuse::Learned),
            ("never", UnsafeReuse::Never),
            ("always", UnsafeReuse::Always),
        ]).or(UnsafeReuse::Learned);
        /// The longest silence inside a response body.
        body_timeout: Or<Duration> = duration(WAIT).or(m(1));
        /// Connections to one endpoint, over all workers.
        max_connections: Or<usize> = integer(1..=1_000_000).or(1024);
        /// Exchanges at once on one HTTP/2 connection, where the endpoint does not allow fewer.
        max_streams: Or<usize> = integer(1..=10_000).or(100);
        /// How long an attempt may wait for a connection or a stream.
        connection_wait: Or<Duration> = duration(GRACE).or(s(1));
        /// How many attempts may wait at once, per endpoint and worker.
        max_waiting: Or<usize> = integer(0..=1_000_000).or(1024);
        /// The largest response head.
        max_header_bytes: Or<usize> = size(HEAD).or(64 << 10);
        /// How often host names are resolved again.
        dns_refresh: Or<Duration> = duration(REFRESH).or(s(30));
        /// How an endpoint is chosen: "p2c" takes the less busy of two.
        balance: Or<Balance> = word([("p2c", Balance::P2c), ("round_robin", Balance::RoundRobin)]).or(Balance::P2c);
        /// TLS to https endpoints. None of it is needed where a public CA signed their certificates.
        tls: Field<ClusterTls> = optional();
        /// The keys of `[retry]`, for this cluster's routes.
        retry: Retry = OwnRetry => |cluster| (cluster.failures, cluster.budget);
        /// When an endpoint leaves balancing. A lone endpoint never does.
        ejection: Ejection = table();
        /// Where requests wait while the cluster is down, instead of failing.
        outage_queue: OutageQueue = table().was("line") => |cluster| cluster.outage_queue;
        /// Health checks, once per process and off the request path. Absent: requests alone judge the endpoints.
        health_check: Field<HealthCheck> = optional();
        /// How much may be in flight to all of the cluster. What is over it waits, then gets 503 with Retry-After.
        admission: Admission = table();
    }
}

/// `[cluster.NAME.retry]`: its statuses and its budget belong to the cluster itself. The rest is shown at each route,
/// merged.
struct OwnRetry;

impl Spec for OwnRetry {
    type Raw = Retry;
    type Checked = (StatusSet, BudgetSettings);

    fn read(&self, cluster: &mut Table<'_>, key: &'static str) -> Retry {
        table().read(cluster, key)
    }

    fn show(&self, (failures, budget): &(StatusSet, BudgetSettings)) -> Shown {
        let budget = table::<Budget>().inline().show(budget);
        Shown::Table(vec![("statuses", Shown::Value(statuses().show(failures))), ("budget", budget)])
    }

    fn describe(&self) -> Form {
        table::<Retry>().like("[retry]").describe()
    }
}

settings! {
    /// `[cluster.NAME.ejection]`
    Ejection: methods of EjectionSettings {
        /// The fewest failures in a row that eject an endpoint. Those that requests meet everywhere do not count.
        consecutive_failures: Or<u32> = integer(1..).or(5);
        /// The first time out, doubled at each relapse.
        time: Or<Duration> = duration(ms(1)..).or(s(10)).was("open");
        /// The longest time out; at least `time`.
        max_time: Or<Duration> = duration(..).or(m(5)).was("max_open");
        /// The share of the endpoints that may be out at once.
        max_ejected: Or<f64> = number(EjectionSettings::SHARES).or(0.5);
    }
}

settings! {
    /// `[cluster.NAME.outage_queue]`
    OutageQueue: methods of OutageQueueSettings {
        /// How many requests may wait at once, over all workers. A further one makes one plain attempt. 0: no queue.
        max: Or<usize> = integer(0..=100_000).or(1024);
        /// How long each may wait in all. It waits at most half of its deadline, which leaves time for one plain attempt.
        max_wait: Or<Duration> = duration(within(OutageQueueSettings::MAX_WAITS).or_else(QUEUE_OFF)).or(s(10));
        /// The fewest failures in a row that are an outage. Where failures are usual it takes more.
        enter_after: Or<u32> = integer(
            within(OutageQueueSettings::ENTER_AFTER).because("one failure is no outage").or_else(QUEUE_OFF)
        ).or(3);
    }
}

settings! {
    /// `[cluster.NAME.admission]`
    Admission: methods of AdmissionSettings {
        /// "adaptive": no limit while the cluster answers well, in an overload what it is found to carry. Or a number of
        /// attempts over all workers, 1 to 1000000. Or "off".
        limit: Or<Limit> = limit().or(Limit::Adaptive);
        /// How many may wait at once, over all workers.
        queue: Or<usize> = integer(0..=1_000_000).or(10_000);
        /// How long each may wait. A wait is not begun where it would be in vain, and ends with the deadline.
        queue_time: Or<Duration> =
            duration(within(AdmissionSettings::QUEUE_TIMES).or_else("with `queue = 0` nobody waits")).or(s(1));
    }
}

/// Often enough to follow a moved backend, seldom enough for a name server.
const REFRESH: RangeInclusive<Duration> = ms(100)..=h(1);
const QUEUE_OFF: &str = "`max = 0` switches the queue off";

impl Named<Cluster> {
    /// The settings, with the retry policy that holds for the cluster.
    pub(in crate::config) fn build(&self, retry: &Retry, build: &Build<'_>) -> Option<ClusterSettings> {
        let name = self.name.get_ref();
        check_name("cluster", name, self.name.span(), build.faults);
        let endpoints = self.endpoints.value(build.faults);
        if let Some(endpoints) = &endpoints {
            check_endpoints(endpoints, build.faults);
        }
        let tls = cluster_tls::build(self, build);
        // Checked at each cluster too: no route may use it yet.
        let policy = retry.policy(build.faults);
        let ejection = self.ejection.build(build.faults);
        let health_check = self.health_check.given().map(|check| check.get_ref().build(build.faults));
        Some(ClusterSettings {
            name: Arc::from(&**name),
            endpoints: endpoints?.into_inner().into_iter().map(Spanned::into_inner).collect(),
            protocol: self.protocol.value(),
            tls,
            max_streams: self.max_streams.value(),
            connect_timeout: self.connect_timeout.value(),
            idle_timeout: self.idle_timeout.value(),
            unsafe_reuse: self.unsafe_reuse.value(),
            body_timeout: self.body_timeout.value(),
            max_connections: self.max_connections.value(),
            connection_wait: self.connection_wait.value(),
            max_waiting: self.max_waiting.value(),
            max_header_bytes: self.max_header_bytes.value(),
            dns_refresh: self.dns_refresh.value(),
            balance: self.balance.value(),
            ejection,
            outage_queue: self.outage_queue.build(),
            health_check: health_check.flatten(),
            admission: self.admission.build(),
            failures: policy.statuses,
            budget: retry.budget.build(),
        })
    }
}

impl Ejection {
    fn build(&self, faults: &Faults) -> EjectionSettings {
        let (time, max_time) = (self.time.value(), self.max_time.value());
        let failures = self.consecutive_failures.value();
        EjectionSettings::new(failures, time, max_time, self.max_ejected.value()).unwrap_or_else(|error| {
            // Each value keeps to its own bounds, so it is two that do not fit. A stand-in for a broken one says nothing.
            if !self.time.is_broken() && !self.max_time.is_broken() {
                let (time, max_time) = (show_duration(time), show_duration(max_time));
                let help = format!("here `time` is {time} and `max_time` is {max_time}");
                misfit(faults, &error, [self.max_time.span(), self.time.span()], help);
            }
            EjectionSettings::default()
        })
    }
}

impl OutageQueue {
    fn build(&self) -> OutageQueueSettings {
        OutageQueueSettings::new(self.max.value(), self.max_wait.value(), self.enter_after.value())
            .expect("each value keeps to its bounds")
    }
}

impl Admission {
    fn build(&self) -> AdmissionSettings {
        AdmissionSettings::new(self.limit.value(), self.queue.value(), self.queue_time.value())
            .expect("each value keeps to its bounds")
    }
}

fn check_endpoints(endpoints: &Spanned<Vec<Spanned<EndpointUrl>>>, faults: &Faults) {
    let list = endpoints.get_ref();
    if list.is_empty() {
        let fault = Fault::at(endpoints.span(), "a cluster needs at least one endpoint", "empty");
        faults.push(fault.help("write [\"http://10.0.1.10:8080\"]"));
    }
    for (index, endpoint) in list.iter().enumerate() {
        let earlier = list[..index].iter().find(|earlier| earlier.get_ref() == endpoint.get_ref());
        if let Some(earlier) = earlier {
            faults.push(
                Fault::at(endpoint.span(), "an endpoint is listed twice", "again here")
                    .also(earlier.span(), "first here"),
            );
        }
    }
}
