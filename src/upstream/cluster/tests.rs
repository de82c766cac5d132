//! Balancing, ejection and the exchange of endpoints.

use super::*;
use crate::policy::repeat::SendOnce;
use crate::upstream::endpoint::InFlight;

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
        line: LineSettings::new(0, Duration::from_secs(10), 3).unwrap(),
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

fn fail(cluster: &Cluster, port: u16, times: usize, now: Duration) {
    let endpoints = cluster.endpoints();
    let endpoint = endpoints.iter().find(|endpoint| endpoint.address.port() == port).unwrap().clone();
    let pick = Pick { endpoint, probing: Probing::No };
    (0..times).for_each(|_| cluster.report(&pick, Report::Failure, now));
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
    cluster.report(&probe, Report::Success, after);
    assert_eq!(ports_picked(&cluster, after), [1, 2]);
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
        fail(&cluster, 1, 1, NOW);
        assert_eq!(ports_entrusted(&cluster, NOW), [1, 2, 3], "one failure is chance");
        fail(&cluster, 1, 1, NOW);
        assert_eq!(ports_entrusted(&cluster, NOW), [2, 3]);
        assert_eq!(ports_picked(&cluster, NOW), [1, 2, 3], "others find out whether it is well again");
        fail(&cluster, 2, 2, NOW);
        fail(&cluster, 3, 2, NOW);
        assert_eq!(ports_entrusted(&cluster, NOW), [1, 2, 3], "none is better");
        let later = NOW + Duration::from_secs(11);
        assert_eq!(ports_entrusted(&cluster, later), [1, 2, 3], "silence is forgotten");
    }
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
    cluster.report(&probe, Report::Nothing, after);
    assert_eq!(pick(&cluster, &[], after).probing, Probing::Yes);
}

#[test]
fn max_ejected_keeps_enough_endpoints_in_balancing() {
    let cluster = cluster(4, Balance::P2c);
    for port in 1..=4 {
        fail(&cluster, port, 10, NOW);
    }
    assert_eq!(ports_picked(&cluster, NOW), [3, 4]);
}

#[test]
fn a_lone_endpoint_is_never_ejected() {
    let cluster = cluster(1, Balance::P2c);
    fail(&cluster, 1, 1000, NOW);
    assert_eq!(ports_picked(&cluster, NOW), [1]);
}

#[test]
fn endpoints_that_stay_keep_their_identity_and_those_that_go_are_retired() {
    let cluster = cluster(2, Balance::P2c);
    let before = cluster.endpoints();
    let at =
        |port| EndpointUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap().at([127, 0, 0, 1].into());
    cluster.set_locations(&[at(2), at(9)]);
    let after = cluster.endpoints();
    assert_eq!(after[0].id, before[1].id);
    assert!(before[0].is_retired() && !before[1].is_retired());
    cluster.set_locations(&[]);
    assert!(cluster.pick(&[], Repeatable::Always, &mut fastrand::Rng::with_seed(1), NOW).is_none());
}

#[test]
fn the_workers_reports_make_one_view_of_how_the_cluster_is() {
    let cluster = cluster(2, Balance::P2c);
    let report = |report| cluster.report(&pick(&cluster, &[], NOW), report, NOW);
    assert_eq!(cluster.recent(NOW), Recent::WELL);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..10).for_each(|_| report(Report::Failure)));
        }
    });
    (0..5).for_each(|_| report(Report::Nothing));
    assert_eq!(cluster.recent(NOW).row, 20, "none is lost, and what says nothing counts as nothing");
    report(Report::Success);
    assert_eq!(cluster.recent(NOW).row, 0);
    let share = cluster.recent(NOW).share;
    assert!((0.7..0.8).contains(&share), "{share}");
    cluster.before_scrape(NOW);
    assert!((cluster.metrics.recent_success.get() - share).abs() < 1e-9);
}
