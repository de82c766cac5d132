//! The runner in paused time, over checks that end as a script says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::policy::expect::Kind;
use crate::policy::health::Rhythm;
use crate::policy::outage::{OutageQueueSettings, Stake};
use crate::policy::request::Repeatable;
use crate::record::metrics::Metrics;
use crate::upstream::balance::{self, Pick, Probing};
use crate::upstream::cluster::tests::{settings, subject};
use crate::upstream::cluster::{Attempt, Report};
use crate::upstream::location::EndpointUrl;
use crate::upstream::outage_queue::{HeldPermit, Wait};
use crate::upstream::settings::Balance;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A cluster under checks, and what they did.
struct Stage {
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
    start: Instant,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// When a check began, and at which port.
    begun: Mutex<Vec<(Duration, u16)>>,
    /// The ports whose checks fail.
    failing: Mutex<Vec<u16>>,
    /// The ports whose checks do not end.
    hanging: Mutex<Vec<u16>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Stage {
    /// So many endpoints, at ports from 1, checked every second; each check takes `takes`.
    fn new(endpoints: u16, failing: &[u16], takes: Duration) -> Self {
        let mut settings = settings(endpoints, Balance::RoundRobin);
        settings.outage_queue = OutageQueueSettings::new(100, Duration::from_secs(10), 3).unwrap();
        settings.health_check = Some(HealthCheck {
            rhythm: Rhythm::new(ms(1000), ms(500), 3, 2).unwrap(),
            method: Method::GET,
            path: PathAndQuery::from_static("/"),
            host: None,
            statuses: (200..=299).collect(),
        });
        let metrics = Arc::new(Metrics::new());
        let cluster = Arc::new(Cluster::new(settings, metrics.clone()));
        let seen = Arc::new(Seen { failing: Mutex::new(failing.to_vec()), ..Seen::default() });
        let start = Instant::now();
        let check = {
            let seen = seen.clone();
            move |endpoint: Arc<Endpoint>, _| {
                let seen = seen.clone();
                async move {
                    let port = endpoint.address.port();
                    seen.begun.lock().unwrap().push((start.elapsed(), port));
                    let running = seen.running.fetch_add(1, Ordering::Relaxed) + 1;
                    seen.most.fetch_max(running, Ordering::Relaxed);
                    let hangs = seen.hanging.lock().unwrap().contains(&port);
                    sleep(if hangs { Duration::from_hours(1) } else { takes }).await;
                    seen.running.fetch_sub(1, Ordering::Relaxed);
                    let fails = seen.failing.lock().unwrap().contains(&port);
                    if fails { Err(CheckFault::Status { status: StatusCode::NOT_FOUND }) } else { Ok(()) }
                }
            }
        };
        let check_settings = Arc::new(cluster.settings.health_check.clone().unwrap());
        let task = tokio::spawn(Runner::new(cluster.clone(), check_settings, start, check).run());
        Self { cluster, metrics, start, seen, task }
    }

    fn begun(&self) -> Vec<(Duration, u16)> {
        self.seen.begun.lock().unwrap().clone()
    }

    fn set_failing(&self, ports: &[u16]) {
        *self.seen.failing.lock().unwrap() = ports.to_vec();
    }

    fn open_ports(&self) -> Vec<u16> {
        let endpoints = self.cluster.endpoints();
        balance::open(&endpoints).map(|endpoint| endpoint.address.port()).collect()
    }

    /// Attempts fail at every endpoint until those who come have to wait.
    async fn take_down(&self) {
        while !self.cluster.outage_queue.is_in_force() {
            sleep(ms(3)).await;
            for endpoint in self.cluster.endpoints().iter() {
                self.tell_at(endpoint, None, Report::Failure(Kind::Answered));
            }
        }
    }

    /// A request that waits in the outage queue for as long as it may; when its wait was over, and what it got.
    async fn wait_in_queue(&self, stake: Stake, time: Duration) -> (Duration, Option<HeldPermit>) {
        let now = Instant::now();
        let key = self.cluster.key(&subject("/a"));
        let wait = Wait {
            key: &key,
            stake,
            began: now,
            last_attempt: None,
            start: self.start,
            now,
            until: now + time,
            reserve: Duration::ZERO,
        };
        let permit = self.cluster.outage_queue.wait(wait).await.expect("a permit");
        (now.elapsed(), permit)
    }

    fn tell(&self, permit: Option<HeldPermit>, report: Report) {
        self.tell_at(&self.cluster.endpoints()[0], permit, report);
    }

    fn tell_at(&self, endpoint: &Arc<Endpoint>, permit: Option<HeldPermit>, report: Report) {
        let pick = Pick { endpoint: endpoint.clone(), probing: Probing::No };
        let (exchange, began) = (fastrand::u32(..), self.start.elapsed().saturating_sub(ms(1)));
        let attempt = Attempt {
            pick: &pick,
            report,
            permit,
            subject: &subject("/a"),
            exchange,
            is_retry: false,
            began,
        };
        // Requests alone would probe after an hour.
        self.cluster.report(attempt, |_| Duration::from_hours(1), self.start.elapsed());
    }

    fn rendered(&self) -> String {
        String::from_utf8(self.metrics.render()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_is_checked_soon_and_then_at_its_interval() {
    let stage = Stage::new(10, &[], ms(10));
    sleep(ms(150)).await;
    let first: Vec<_> = stage.begun();
    assert_eq!(first.len(), 10, "all within a tenth of the interval");
    let mut moments: Vec<_> = first.iter().map(|(at, _)| *at).collect();
    moments.dedup();
    assert!(moments.len() > 1, "not all of them in one moment");
    sleep(Duration::from_mins(1)).await;
    for port in 1..=10 {
        let times: Vec<_> =
            stage.begun().into_iter().filter(|(_, other)| *other == port).map(|(at, _)| at).collect();
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1].abs_diff(pair[0])).collect();
        assert!(gaps.iter().all(|gap| (ms(900)..=ms(1101)).contains(gap)), "{gaps:?}");
        assert!((54..=68).contains(&times.len()), "{}", times.len());
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_has_one_check_in_flight_however_long_that_takes() {
    let stage = Stage::new(1, &[], ms(5000));
    stage.take_down().await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(stage.seen.most.load(Ordering::Relaxed), 1);
    assert!((11..=13).contains(&stage.begun().len()), "{:?}", stage.begun());
}

#[tokio::test(start_paused = true)]
async fn failed_checks_take_an_endpoint_out_and_passed_ones_bring_it_back() {
    let stage = Stage::new(2, &[], ms(10));
    sleep(ms(5000)).await;
    stage.set_failing(&[2]);
    let failing = Instant::now();
    while stage.open_ports().len() == 2 {
        sleep(ms(10)).await;
    }
    assert!((ms(1800)..=ms(3400)).contains(&failing.elapsed()), "{:?}", failing.elapsed());
    assert_eq!(stage.open_ports(), [1]);
    assert!(stage.rendered().contains(r#"stent_endpoint_healthy{cluster="hosp",endpoint="127.0.0.1:2"} 0"#));
    assert!(stage.rendered().contains(r#"stent_endpoint_ejected{cluster="hosp",endpoint="127.0.0.1:2"} 1"#));
    stage.set_failing(&[]);
    let mended = Instant::now();
    while stage.open_ports().len() == 1 {
        sleep(ms(10)).await;
    }
    assert!((ms(900)..=ms(2300)).contains(&mended.elapsed()), "{:?}", mended.elapsed());
    assert!(stage.rendered().contains(r#"stent_endpoint_healthy{cluster="hosp",endpoint="127.0.0.1:2"} 1"#));
    assert!(stage.rendered().contains(r#"stent_endpoint_ejected{cluster="hosp",endpoint="127.0.0.1:2"} 0"#));
}

#[tokio::test(start_paused = true)]
async fn checks_that_all_fail_leave_as_many_in_balancing_as_max_ejected_does() {
    let stage = Stage::new(4, &[1, 2, 3, 4], ms(10));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(stage.open_ports().len(), 2);
    // Those that are left are no use where they go away: then the others are used all the same.
    let gone = stage.open_ports();
    let at =
        |port| EndpointUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap().at([127, 0, 0, 1].into());
    let left: Vec<_> = (1..=4).filter(|port| !gone.contains(port)).map(at).collect();
    stage.cluster.set_locations(&left, Duration::ZERO);
    let pick =
        stage.cluster.pick(&[], Repeatable::Always, &mut fastrand::Rng::with_seed(1), stage.start.elapsed());
    assert!(pick.is_some(), "checks alone make no endpoint useless");
    let lone = Stage::new(1, &[1], ms(10));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(lone.open_ports(), [1]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_come_and_go_are_followed_and_a_retired_cluster_is_left() {
    let stage = Stage::new(2, &[2], ms(10));
    sleep(ms(1000)).await;
    assert!(stage.rendered().contains(r#"stent_endpoint_healthy{cluster="hosp",endpoint="127.0.0.1:2"} 0"#));
    let at =
        |port| EndpointUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap().at([127, 0, 0, 1].into());
    stage.cluster.set_locations(&[at(1), at(3)], Duration::ZERO);
    let changed = stage.start.elapsed();
    sleep(ms(200)).await;
    assert!(stage.begun().iter().any(|(at, port)| *port == 3 && *at <= changed + ms(101)));
    sleep(ms(5000)).await;
    assert!(!stage.begun().iter().any(|(at, port)| *port == 2 && *at > changed));
    assert!(!stage.rendered().contains("127.0.0.1:2"), "its series have ended");
    let count = stage.begun().len();
    stage.cluster.retire();
    sleep(ms(5000)).await;
    assert_eq!(stage.begun().len(), count);
    assert!(stage.task.is_finished());
    assert!(!stage.rendered().contains("stent_endpoint_healthy{"), "nobody keeps it up to date");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_passes_lets_one_request_try_a_cluster_that_is_down_always() {
    let stage = Stage::new(1, &[], ms(10));
    sleep(ms(500)).await;
    stage.set_failing(&[1]);
    stage.take_down().await;
    let mend = async {
        sleep(ms(1050)).await;
        stage.set_failing(&[]);
    };
    let ((first, permit), ()) = tokio::join!(stage.wait_in_queue(Stake::Fresh, ms(9000)), mend);
    assert!((ms(1050)..=ms(2300)).contains(&first), "{first:?}");
    // The check had misled, and so does the next one; each costs one request.
    stage.tell(permit, Report::Failure(Kind::Answered));
    assert!(stage.cluster.outage_queue.is_in_force(), "a check alone ends no outage");
    let (second, permit) = stage.wait_in_queue(Stake::Nothing, ms(9000)).await;
    assert!((ms(800)..=ms(1200)).contains(&second), "{second:?}");
    stage.tell(permit, Report::Success);
    assert!(!stage.cluster.outage_queue.is_in_force());
}

#[tokio::test(start_paused = true)]
async fn checks_that_fail_are_no_outage_and_keep_nobody_from_probing() {
    let stage = Stage::new(1, &[1], ms(10));
    sleep(ms(5000)).await;
    assert!(!stage.cluster.outage_queue.is_in_force());
    stage.take_down().await;
    // Its key has failed, and its time is over: it gets its one attempt.
    let (waited, permit) = stage.wait_in_queue(Stake::Fresh, ms(3000)).await;
    assert_eq!(waited, ms(3000));
    assert!(permit.as_ref().is_some_and(HeldPermit::is_last));
    stage.tell(permit, Report::Success);
    assert!(!stage.cluster.outage_queue.is_in_force());
}
