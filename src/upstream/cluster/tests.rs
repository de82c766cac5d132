//! Balancing, ejection and the exchange of endpoints.

use http::Method;

use super::*;
use crate::policy::admission::AdmissionSettings;
use crate::policy::budget::BudgetSettings;
use crate::policy::ejection::EjectionSettings;
use crate::policy::outage::OutageQueueSettings;
use crate::policy::request::SendOnce;
use crate::policy::reuse::UnsafeReuse;
use crate::upstream::endpoint::InFlight;
use crate::upstream::protocol::Protocol;
use crate::upstream::settings::Balance;

const NOW: Duration = Duration::from_secs(100);

/// A cluster `hosp` of so many endpoints, at ports from 1.
pub(crate) fn settings(endpoints: u16, balance: Balance) -> ClusterSettings {
    ClusterSettings {
        name: "hosp".into(),
        endpoints: (1..=endpoints)
            .map(|port| EndpointUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap())
            .collect(),
        protocol: Protocol::Http1,
        tls: None,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(4),
        unsafe_reuse: UnsafeReuse::default(),
        body_timeout: Duration::from_mins(1),
        max_connections: 8,
        max_streams: 100,
        connection_wait: Duration::from_secs(1),
        max_waiting: 8,
        max_header_bytes: 64 << 10,
        dns_refresh: Duration::from_secs(30),
        balance,
        ejection: EjectionSettings::new(2, Duration::from_secs(10), Duration::from_secs(40), 0.5).unwrap(),
        outage_queue: OutageQueueSettings::new(0, Duration::from_secs(10), 3).unwrap(),
        health_check: None,
        admission: AdmissionSettings::default(),
        failures: [500, 502].into_iter().collect(),
        budget: BudgetSettings::default(),
    }
}

fn cluster(endpoints: u16, balance: Balance) -> Cluster {
    Cluster::new(settings(endpoints, balance), Arc::new(Metrics::new()))
}

fn pick(cluster: &Cluster, tried: &[EndpointId], now: Duration) -> Pick {
    cluster.pick(tried, Repeatable::Always, &mut fastrand::Rng::with_seed(7), now).unwrap()
}

/// What callers ask for.
pub(crate) const fn subject(rest: &str) -> Subject<'_> {
    Subject { route: "all", method: &Method::GET, rest }
}

/// Tells the cluster how an attempt at a path went that began 10 ms ago.
fn report_of(cluster: &Cluster, pick: &Pick, rest: &str, report: Report, now: Duration) -> f64 {
    let began = now.saturating_sub(Duration::from_millis(10));
    let (subject, exchange) = (subject(rest), fastrand::u32(..));
    let attempt = Attempt { pick, report, permit: None, subject: &subject, exchange, is_retry: false, began };
    cluster.report(attempt, |_| Duration::from_millis(100), now)
}

fn report(cluster: &Cluster, pick: &Pick, report: Report, now: Duration) {
    report_of(cluster, pick, "/a", report, now);
}

fn at_port(cluster: &Cluster, port: u16) -> Pick {
    let endpoints = cluster.endpoints();
    let endpoint = endpoints.iter().find(|endpoint| endpoint.address.port() == port).unwrap().clone();
    Pick { endpoint, probing: Probing::No }
}

const FAILURE: Report = Report::Failure(Kind::Answered);

fn fail(cluster: &Cluster, port: u16, times: usize, now: Duration) {
    let pick = at_port(cluster, port);
    (0..times).for_each(|_| report(cluster, &pick, FAILURE, now));
}

fn ports_picked(cluster: &Cluster, now: Duration) -> Vec<u16> {
    let mut random = fastrand::Rng::with_seed(3);
    let mut ports: Vec<_> = (0..100)
        .map(|_| cluster.pick(&[], Repeatable::Always, &mut random, now).unwrap().endpoint.address.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[test]
fn round_robin_takes_one_after_the_other() {
    let cluster = cluster(3, Balance::RoundRobin);
    let ports: Vec<_> = (0..6).map(|_| pick(&cluster, &[], NOW).endpoint.address.port()).collect();
    assert_eq!(ports, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn of_two_choices_the_one_with_fewer_in_flight_wins() {
    let cluster = cluster(2, Balance::P2c);
    let _busy: Vec<InFlight> = (0..3).map(|_| cluster.endpoints()[0].begin()).collect();
    assert_eq!(ports_picked(&cluster, NOW), [2]);
}

#[test]
fn two_choices_reach_every_endpoint() {
    assert_eq!(ports_picked(&cluster(5, Balance::P2c), NOW), [1, 2, 3, 4, 5]);
}

#[test]
fn untried_endpoints_come_first_and_tried_ones_after_them() {
    for balance in [Balance::P2c, Balance::RoundRobin] {
        let cluster = cluster(3, balance);
        let mut tried = Vec::new();
        for _ in 0..3 {
            assert!(cluster.has_untried(&tried));
            let pick = pick(&cluster, &tried, NOW);
            assert!(!tried.contains(&pick.endpoint.id));
            tried.push(pick.endpoint.id);
        }
        assert!(!cluster.has_untried(&tried));
        pick(&cluster, &tried, NOW);
    }
}

#[test]
fn an_ejected_endpoint_is_out_until_one_probe_succeeds() {
    let cluster = cluster(2, Balance::P2c);
    fail(&cluster, 1, 2, NOW);
    assert_eq!(ports_picked(&cluster, NOW + Duration::from_secs(9)), [2]);
    let after = NOW + Duration::from_secs(10);
    let probe = pick(&cluster, &[], after);
    assert_eq!((probe.endpoint.address.port(), probe.probing), (1, Probing::Yes));
    assert_eq!(ports_picked(&cluster, after), [2], "one probe at a time");
    report(&cluster, &probe, Report::Success, after);
    assert_eq!(ports_picked(&cluster, after), [1, 2]);
}

#[test]
fn a_straggler_restores_no_endpoint_that_is_being_probed() {
    let cluster = cluster(2, Balance::P2c);
    let straggler = at_port(&cluster, 1);
    fail(&cluster, 1, 2, NOW);
    let after = NOW + Duration::from_secs(10);
    let probe = pick(&cluster, &[], after);
    report(&cluster, &straggler, Report::Success, after);
    assert_eq!(ports_picked(&cluster, after), [2], "it began before the ejection");
    report(&cluster, &probe, FAILURE, after);
    assert_eq!(ports_picked(&cluster, after + Duration::from_secs(19)), [2]);
}

#[test]
fn where_all_fail_any_success_restores_its_endpoint() {
    let cluster = cluster(2, Balance::RoundRobin);
    for port in [1, 2] {
        fail(&cluster, port, 2, NOW);
    }
    let mut picks: Vec<_> = (0..4).map(|_| pick(&cluster, &[], NOW)).collect();
    picks.retain(|pick| pick.endpoint.address.port() == 1);
    assert_eq!([picks[0].probing, picks[1].probing], [Probing::Yes, Probing::Beside]);
    report(&cluster, &picks[1], Report::Success, NOW);
    assert!(!at_port(&cluster, 1).endpoint.standing.is_troubled());
}

/// The ports that requests go to which cannot be sent again.
fn ports_entrusted(cluster: &Cluster, now: Duration) -> Vec<u16> {
    let mut random = fastrand::Rng::with_seed(3);
    let entrust =
        |_| cluster.pick(&[], Repeatable::OnlyIfNeverSent(SendOnce::Method), &mut random, now).unwrap();
    let mut ports: Vec<_> = (0..100).map(entrust).map(|pick| pick.endpoint.address.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[test]
fn what_cannot_be_sent_again_goes_nowhere_that_has_clearly_failed_more() {
    for balance in [Balance::P2c, Balance::RoundRobin] {
        let mut settings = settings(3, balance);
        settings.ejection = EjectionSettings::default();
        let cluster = Cluster::new(settings, Arc::new(Metrics::new()));
        fail(&cluster, 1, 3, NOW);
        assert_eq!(ports_entrusted(&cluster, NOW), [1, 2, 3], "three failures may be chance");
        fail(&cluster, 1, 1, NOW);
        assert_eq!(ports_entrusted(&cluster, NOW), [2, 3]);
        assert_eq!(ports_picked(&cluster, NOW), [1, 2, 3], "others find out whether it is well again");
        fail(&cluster, 2, 4, NOW);
        fail(&cluster, 3, 4, NOW);
        assert_eq!(ports_entrusted(&cluster, NOW), [1, 2, 3], "none is better");
    }
}

#[test]
fn ten_minutes_without_a_failure_are_forgotten_everywhere() {
    let mut settings = settings(2, Balance::P2c);
    settings.ejection = EjectionSettings::default();
    let cluster = Cluster::new(settings, Arc::new(Metrics::new()));
    fail(&cluster, 1, 4, NOW);
    assert_eq!(ports_entrusted(&cluster, NOW), [2]);
    report(&cluster, &at_port(&cluster, 2), Report::Success, NOW + Duration::from_secs(1));
    let later = NOW + Duration::from_secs(602);
    report(&cluster, &at_port(&cluster, 2), Report::Success, later);
    assert!(cluster.outage_queue.is_calm());
    assert_eq!(ports_entrusted(&cluster, later), [1, 2]);
}

#[test]
fn a_path_that_fails_everywhere_ejects_nobody_and_takes_no_post_away() {
    let mut settings = settings(2, Balance::P2c);
    settings.ejection = EjectionSettings::default();
    let cluster = Cluster::new(settings, Arc::new(Metrics::new()));
    let mut random = fastrand::Rng::with_seed(9);
    let mut ejected = 0;
    for step in 0..4000u64 {
        let now = NOW + Duration::from_millis(25 * step);
        let pick = cluster.pick(&[], Repeatable::Always, &mut random, now).unwrap();
        let (rest, told) = if step % 3 == 0 { ("/good", Report::Success) } else { ("/bad", FAILURE) };
        report_of(&cluster, &pick, rest, told, now);
        // At first nothing is known of the path, and an endpoint may be out for 10 s.
        ejected += usize::from(step > 600 && ports_picked(&cluster, now).len() < 2);
    }
    assert_eq!(ejected, 0);
    assert_eq!(ports_entrusted(&cluster, NOW + Duration::from_secs(100)), [1, 2]);
}

#[test]
fn what_two_endpoints_failed_with_is_taken_back_from_both() {
    let cluster = cluster(2, Balance::P2c);
    for port in [1, 2] {
        let pick = at_port(&cluster, port);
        let weight = report_of(&cluster, &pick, "/a", FAILURE, NOW);
        cluster.take_back(&pick.endpoint, weight);
        report_of(&cluster, &pick, "/b", FAILURE, NOW);
    }
    assert_eq!(ports_picked(&cluster, NOW), [1, 2], "one failure each, where two eject");
}

#[test]
fn a_probe_that_would_have_failed_anywhere_leaves_the_endpoint_to_the_next() {
    let cluster = cluster(2, Balance::P2c);
    // A path that always fails, while others succeed.
    for _ in 0..300 {
        report_of(&cluster, &at_port(&cluster, 2), "/bad", FAILURE, NOW);
        report_of(&cluster, &at_port(&cluster, 2), "/good", Report::Success, NOW);
    }
    for _ in 0..2 {
        report_of(&cluster, &at_port(&cluster, 1), "/good", FAILURE, NOW);
    }
    let after = NOW + Duration::from_secs(10);
    let probe = pick(&cluster, &[], after);
    assert_eq!(probe.probing, Probing::Yes);
    report_of(&cluster, &probe, "/bad", FAILURE, after);
    assert_eq!(pick(&cluster, &[], after).probing, Probing::Yes, "not out for another 20 s");
}

#[test]
fn what_cannot_be_sent_again_leaves_the_probe_to_others_for_a_while() {
    let cluster = cluster(2, Balance::P2c);
    fail(&cluster, 1, 2, NOW);
    assert_eq!(ports_entrusted(&cluster, NOW + Duration::from_millis(14_999)), [2]);
    let entrusted = cluster.pick(
        &[],
        Repeatable::OnlyIfNeverSent(SendOnce::Method),
        &mut fastrand::Rng::with_seed(1),
        NOW + Duration::from_secs(15),
    );
    assert_eq!(entrusted.unwrap().probing, Probing::Yes, "there may be no others");
}

#[test]
fn a_probe_that_ends_without_an_answer_is_followed_by_another() {
    let cluster = cluster(2, Balance::P2c);
    fail(&cluster, 1, 2, NOW);
    let after = NOW + Duration::from_secs(10);
    let probe = pick(&cluster, &[], after);
    report(&cluster, &probe, Report::Nothing, after);
    assert_eq!(pick(&cluster, &[], after).probing, Probing::Yes);
}

#[test]
fn max_ejected_keeps_enough_endpoints_in_balancing() {
    let cluster = cluster(4, Balance::P2c);
    for port in 1..=4 {
        fail(&cluster, port, 10, NOW);
    }
    // All fail alike, so that no time out keeps one that works again from its callers.
    assert_eq!(ports_picked(&cluster, NOW), [1, 2, 3, 4]);
    report(&cluster, &at_port(&cluster, 3), Report::Success, NOW);
    assert_eq!(ports_picked(&cluster, NOW), [3, 4]);
}

#[test]
fn a_retry_that_has_been_everywhere_tries_an_ejected_endpoint_once_a_second() {
    let cluster = cluster(2, Balance::P2c);
    fail(&cluster, 1, 2, NOW);
    let [ejected, other] = [0, 1].map(|place| cluster.endpoints()[place].id);
    let second = NOW + Duration::from_secs(1);
    assert_eq!(pick(&cluster, &[other], NOW).endpoint.id, other, "it has just been ejected");
    assert_eq!(pick(&cluster, &[], second).endpoint.id, other, "a first attempt goes elsewhere");
    let probe = pick(&cluster, &[other], second);
    assert_eq!((probe.endpoint.id, probe.probing), (ejected, Probing::Yes));
    assert_eq!(pick(&cluster, &[other], second).endpoint.id, other, "one at a time");
    report(&cluster, &probe, FAILURE, second);
    assert_eq!(pick(&cluster, &[other], second + Duration::from_millis(999)).endpoint.id, other);
    let probe = pick(&cluster, &[other], second * 2);
    report(&cluster, &probe, Report::Success, second * 2);
    assert_eq!(ports_picked(&cluster, second * 2), [1, 2]);
}

#[test]
fn an_ejection_is_counted_once_by_what_spoke_against_the_endpoint() {
    let cluster = cluster(4, Balance::P2c);
    let ejections = |port: u16| {
        let metrics = &at_port(&cluster, port).endpoint.metrics;
        EjectionReason::ALL.map(|reason| metrics.ejections(reason).get())
    };
    fail(&cluster, 1, 2, NOW);
    // A probe that fails keeps the endpoint out: that is the same ejection.
    let after = NOW + Duration::from_secs(10);
    let probe = pick(&cluster, &[], after);
    report(&cluster, &probe, FAILURE, after);
    let checked = at_port(&cluster, 2);
    cluster.report_check(&checked.endpoint, CheckEnding::Failed, Verdict::Unhealthy, NOW);
    cluster.report_check(&checked.endpoint, CheckEnding::Failed, Verdict::Unhealthy, NOW);
    assert_eq!([ejections(1), ejections(2), ejections(3)], [[1, 0], [0, 1], [0, 0]]);
    cluster.report_check(&checked.endpoint, CheckEnding::Passed, Verdict::Healthy, NOW);
    fail(&cluster, 2, 2, NOW);
    assert_eq!(ejections(2), [1, 1]);
}

#[test]
fn a_cluster_that_is_made_and_not_put_in_force_changes_no_metric_of_the_one_that_runs() {
    let registry = Arc::new(Metrics::new());
    let cluster = Cluster::new(settings(2, Balance::P2c), registry.clone());
    fail(&cluster, 1, 5, NOW);
    let ejected = || cluster.endpoints()[0].metrics.ejected.get();
    assert_eq!(ejected(), 1);
    drop(Cluster::new(settings(2, Balance::P2c), registry));
    assert_eq!(ejected(), 1);
    cluster.retire();
    assert_eq!(ejected(), 0);
}

#[test]
fn a_lone_endpoint_is_never_ejected() {
    let cluster = cluster(1, Balance::P2c);
    fail(&cluster, 1, 1000, NOW);
    assert_eq!(ports_picked(&cluster, NOW), [1]);
}

/// Where the names of a cluster may lead to.
fn at(port: u16) -> Location {
    EndpointUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap().at([127, 0, 0, 1].into())
}

#[test]
fn the_probe_of_an_ejected_endpoint_ends_though_too_few_are_left_to_eject_any() {
    let ejection = EjectionSettings::new(2, Duration::from_secs(10), Duration::from_secs(40), 0.4).unwrap();
    let settings = ClusterSettings { ejection, ..settings(3, Balance::P2c) };
    let cluster = Cluster::new(settings, Arc::new(Metrics::new()));
    fail(&cluster, 1, 2, NOW);
    cluster.set_locations(&[at(1), at(2)], NOW);
    let mut now = NOW + Duration::from_secs(10);
    for time_out in [20, 40, 40] {
        let probe = pick(&cluster, &[], now);
        assert_eq!((probe.endpoint.address.port(), probe.probing), (1, Probing::Yes));
        report(&cluster, &probe, FAILURE, now);
        now += Duration::from_secs(time_out);
    }
    let probe = pick(&cluster, &[], now);
    report(&cluster, &probe, Report::Success, now);
    assert_eq!(ports_picked(&cluster, now), [1, 2]);
}

#[test]
fn endpoints_that_stay_keep_their_identity_and_those_that_go_are_retired() {
    let cluster = cluster(2, Balance::P2c);
    let before = cluster.endpoints();
    cluster.set_locations(&[at(2), at(9)], NOW);
    let after = cluster.endpoints();
    assert_eq!(after[0].id, before[1].id);
    assert!(before[0].standing.is_retired() && !before[1].standing.is_retired());
    cluster.set_locations(&[], NOW);
    assert!(cluster.pick(&[], Repeatable::Always, &mut fastrand::Rng::with_seed(1), NOW).is_none());
}

#[test]
fn an_address_by_another_name_is_another_endpoint() {
    let cluster = cluster(0, Balance::P2c);
    let named = |name| EndpointUrl::parse(&format!("https://{name}:1")).unwrap().at([127, 0, 0, 1].into());
    cluster.set_locations(&[named("a"), named("b")], NOW);
    let before = cluster.endpoints();
    assert_eq!(before.len(), 1, "the first name wins");
    cluster.set_locations(&[named("a")], NOW);
    assert_eq!(cluster.endpoints()[0].id, before[0].id);
    cluster.set_locations(&[named("b")], NOW);
    assert_ne!(cluster.endpoints()[0].id, before[0].id, "its certificate has to hold for the other name");
    assert!(before[0].standing.is_retired());
}

#[test]
fn settings_that_differ_in_endpoints_alone_identify_the_same_cluster() {
    let (one, urls) = settings(1, Balance::P2c).split();
    let (other, more) = settings(3, Balance::P2c).split();
    assert_eq!((one == other, urls.len(), more.len()), (true, 1, 3));
    let (changed, _) = settings(1, Balance::RoundRobin).split();
    assert_ne!(one, changed);
    let cluster = cluster(3, Balance::P2c);
    assert_eq!((*cluster.settings == other, *cluster.urls() == *more), (true, true));
}

#[test]
fn the_workers_reports_make_one_view_of_how_the_cluster_is() {
    let cluster = cluster(1, Balance::P2c);
    let tell = |told| report(&cluster, &pick(&cluster, &[], NOW), told, NOW);
    let key = cluster.key(&subject("/a"));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..10).for_each(|_| tell(FAILURE)));
        }
    });
    (0..5).for_each(|_| tell(Report::Nothing));
    assert!(
        (cluster.outage_queue.surprise() - 20.0 * 4.71).abs() < 0.1,
        "none is lost, and nothing counts as nothing"
    );
    assert!(cluster.outlook(&subject("/a"), NOW).chance < 0.01);
    tell(Report::Success);
    assert!(cluster.outage_queue.surprise() < 1e-9);
    let outlook = cluster.outlook(&subject("/a"), NOW);
    assert!((0.5..0.8).contains(&outlook.q) && outlook.key == key, "{outlook:?}");
    cluster.before_scrape(NOW);
    assert!((0.6..0.9).contains(&cluster.metrics.recent_success.get()));
}
