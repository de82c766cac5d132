//! The Stent under demonstration: its configuration, and what its metrics say.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The part of the configuration that the demo is about, as an SRE would tune it for a backend known to be flaky. The
/// waits while HOSP is down add up to more than a burst of HOSP's lasts, and two attempts are left for what fails after it.
pub(super) const RETRY: &str = r#"[cluster.hosp.retry]
max_attempts = 6                        # the first one included
statuses = [500, 502]                   # the two that HOSP fails with
errors = ["connect", "reset", "timeout", "protocol"]
idempotency_header = "Idempotency-Key"  # HOSP honours it: a POST that carries one may be sent again
per_try_timeout = "1s"                  # what a hanging answer costs
backoff = { base = "50ms", factor = 2.0, max = "1s", jitter = "equal" }
budget = { ratio = 1.0, min_per_second = 20, window = "10s" }  # retries per request
"#;

/// The whole configuration for a HOSP at this address.
pub(super) fn configuration(hosp: SocketAddr) -> String {
    format!(
        r#"[server]
workers = 2
accept_grace = "0s"
finish_grace = "5s"

[admin]
address = "127.0.0.1:0"

[log]
level = "warn"

[access_log]
output = "off"

[[listener]]
address = "127.0.0.1:0"

[cluster.hosp]
endpoints = ["http://{hosp}"]

{RETRY}
[[route]]
name = "screenings"
path = "/api/screenings/{{id}}"
cluster = "hosp"
deadline = "4500ms"

[[route]]
name = "patients"
path = "/api/*"
cluster = "hosp"
deadline = "4500ms"
"#
    )
}

/// What Stent has counted, over all its routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StentCounts {
    /// Requests that have ended.
    pub(super) requests: u64,
    /// Attempts that have ended.
    pub(super) attempts: u64,
    /// Attempts after the first.
    pub(super) retries: u64,
    /// Requests that a retry saved.
    pub(super) recovered: u64,
}

impl StentCounts {
    /// Scrapes them as Prometheus would; none if the metrics do not come within a second.
    pub(super) async fn scrape(admin: SocketAddr) -> Option<Self> {
        let read = async {
            let mut stream = TcpStream::connect(admin).await?;
            // HTTP/1.0, so that the text comes in one piece and ends with the connection.
            let request = format!("GET /metrics HTTP/1.0\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut text = Vec::new();
            stream.take(SCRAPE_LIMIT).read_to_end(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let text = timeout(SCRAPE_TIMEOUT, read).await.ok()?.ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Adds up the series of a text in the Prometheus format; none if they are not there.
    fn parse(text: &str) -> Option<Self> {
        let sum = |name: &str| {
            let values = text.lines().filter_map(|line| {
                let labels = line.strip_prefix(name)?.strip_prefix('{')?;
                labels.rsplit_once(' ')?.1.parse::<u64>().ok()
            });
            values.reduce(u64::saturating_add)
        };
        Some(Self {
            requests: sum("stent_requests_total")?,
            attempts: sum("stent_attempts_total")?,
            retries: sum("stent_retries_total").unwrap_or(0),
            recovered: sum("stent_retry_recovered_total").unwrap_or(0),
        })
    }

    /// Attempts per request; none before the first request.
    pub(super) fn attempts_per_request(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.attempts as f64 / self.requests as f64)
    }
}

const SCRAPE_LIMIT: u64 = 4 << 20;
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use fastrand::Rng;
    use http::{Method, StatusCode};
    use serde::Deserialize;

    use super::*;
    use crate::demo::faults::{BURST_PERIOD, Fault, Faults};
    use crate::error::{Delivery, ErrorClass, Origin, UpstreamErrorKind};
    use crate::policy::backoff::{Backoff, Jitter};
    use crate::policy::expect::{self, Expect, Failure, Kind, Row, Secret, Subject};
    use crate::policy::outcome::Outcome;
    use crate::policy::request::{BodyState, Repeatable};
    use crate::policy::retry::{Circumstances, Untried};
    use crate::policy::settings::RetryPolicy;
    use crate::policy::verdict::{Reason, Verdict};
    use crate::record::metrics::Metrics;

    #[test]
    fn the_configuration_is_toml_that_names_its_hosp_and_holds_the_knobs_that_are_shown() {
        let text = configuration("127.0.0.1:4321".parse().unwrap());
        let whole: toml::Table = toml::from_str(&text).unwrap();
        let shown: toml::Table = toml::from_str(RETRY).unwrap();
        assert_eq!(whole["cluster"]["hosp"]["endpoints"][0].as_str(), Some("http://127.0.0.1:4321"));
        assert_eq!(whole["cluster"]["hosp"]["retry"], shown["cluster"]["hosp"]["retry"]);
    }

    #[test]
    fn the_counts_are_those_of_the_metrics_text() {
        let metrics = Metrics::new();
        assert_eq!(StentCounts::parse(&String::from_utf8(metrics.render()).unwrap()), None);
        for route in ["a", "b"] {
            let route = metrics.route(route);
            route.requests(200, Origin::Upstream).inc_by(10);
            route.requests(502, Origin::Upstream).inc();
            route.retries(Reason::Status(StatusCode::BAD_GATEWAY)).inc_by(3);
            route.recovered.inc_by(2);
        }
        let endpoint = metrics.endpoint("hosp", "127.0.0.1:1");
        endpoint.answered(StatusCode::OK).inc_by(20);
        endpoint.failed(UpstreamErrorKind::HeadTimeout).inc_by(8);
        let counts = StentCounts::parse(&String::from_utf8(metrics.render()).unwrap()).unwrap();
        assert_eq!(counts, StentCounts { requests: 22, attempts: 28, retries: 6, recovered: 4 });
    }

    /// The knobs of [`RETRY`] that the policy takes, read as plain TOML.
    #[derive(Deserialize)]
    struct Knobs {
        max_attempts: u32,
        backoff: BackoffKnobs,
    }

    #[derive(Deserialize)]
    struct BackoffKnobs {
        base: String,
        factor: f64,
        max: String,
    }

    /// Both columns without a network: 60 000 requests meet the fates of [`Faults`] under the decisions of the policy.
    #[test]
    fn the_policy_hides_all_but_a_thousandth_of_what_hosp_fails_with() {
        let shown: toml::Table = toml::from_str(RETRY).unwrap();
        let retry = shown["cluster"]["hosp"]["retry"].clone();
        let Knobs { max_attempts, backoff } = retry.try_into().unwrap();
        assert_eq!((&*backoff.base, &*backoff.max), ("50ms", "1s"), "as below");
        let backoff =
            Backoff::new(Duration::from_millis(50), backoff.factor, Duration::from_secs(1), Jitter::Equal);
        let policy = RetryPolicy { max_attempts, backoff: backoff.unwrap(), ..RetryPolicy::default() };

        let (mut rng, requests) = (Rng::with_seed(5), 60_000);
        let mut faults = Faults::new(0.12, 6);
        let (expect, mut row, mut failed) = (Expect::new(Secret::new(1, 2)), Row::new(), 0);
        let key = expect.key(&Subject { route: "all", method: &Method::GET, rest: "" });
        let start = |number| BURST_PERIOD * 30 * number / requests;
        // In the order of time, because the waits follow what the cluster's other requests have just met.
        let mut events: BinaryHeap<_> =
            (0..requests).map(|number| Reverse((start(number), number, 1, Event::Begins))).collect();
        while let Some(Reverse((now, number, attempt, event))) = events.pop() {
            let fault = match event {
                Event::Begins => faults.next(now, &Method::GET).fault,
                Event::IsGivenUp => Some(Fault::Hang),
            };
            let outcome = match fault {
                None => {
                    row.end(now, &expect, now);
                    expect.note(&key, expect::Ending::Success, now);
                    continue;
                }
                Some(Fault::Hang) if event == Event::Begins => {
                    events.push(Reverse((now + Duration::from_secs(1), number, attempt, Event::IsGivenUp)));
                    continue;
                }
                Some(Fault::Hang) => failure(ErrorClass::Timeout),
                Some(Fault::Status(status)) => Outcome::Answered { status, retry_after: None },
                Some(Fault::Reset) => failure(ErrorClass::Reset),
            };
            let (q, exchange) = (expect.q(&key, now), number);
            let kind = if matches!(fault, Some(Fault::Hang)) { Kind::Late } else { Kind::Answered };
            let weight = expect::weight(q);
            row.note(
                &Failure { kind, endpoint: 0, key: &key, exchange, weight, in_flight: 0 },
                &expect,
                String::new,
                now,
            );
            let around = Circumstances {
                attempt,
                repeatable: Repeatable::Always,
                body: BodyState::Whole,
                untried: Untried::None,
                time_left: Duration::from_millis(4_500).saturating_sub(now.saturating_sub(start(number))),
                chance: expect::chance_of_success(q, row.surprise()),
                random: rng.f64(),
            };
            match policy.decide(outcome, &around) {
                Verdict::Retry { after, .. } => {
                    events.push(Reverse((now + after, number, attempt + 1, Event::Begins)));
                }
                _ => failed += 1,
            }
        }
        assert!(failed < requests / 2_000, "{failed} of {requests}");
    }

    /// What happens to an attempt.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Event {
        Begins,
        IsGivenUp,
    }

    fn failure(class: ErrorClass) -> Outcome {
        Outcome::Failed { class: Some(class), delivery: Delivery::Maybe }
    }
}
