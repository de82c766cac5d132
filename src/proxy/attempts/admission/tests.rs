//! Admission to an attempt: with a place in flight, at once or after a wait, or not at all.

use std::num::NonZeroU32;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::policy::admission::{AdmissionSettings, Limit, Refused};
use crate::record::metrics::Metrics;
use crate::upstream::admission::Purpose;
use crate::upstream::cluster::Cluster;
use crate::upstream::cluster::tests::settings;
use crate::upstream::settings::Balance;

fn cluster(limit: Limit) -> Cluster {
    let admission = AdmissionSettings::new(limit, 1, Duration::from_secs(1)).unwrap();
    let settings = crate::upstream::settings::ClusterSettings { admission, ..settings(1, Balance::P2c) };
    Cluster::new(settings, Arc::new(Metrics::new()))
}

fn ask() -> Ask {
    let now = Instant::now();
    Ask { purpose: Purpose::First, now, deadline: now + Duration::from_secs(5) }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_admitted_with_a_place_in_flight() {
    let cluster = cluster(Limit::Fixed(NonZeroU32::MIN));
    let one = admit(&cluster.admission, ask()).await.unwrap();
    assert!(!one.has_waited);
    assert_eq!(cluster.admission.in_flight(), 1);

    let mut other = pin!(admit(&cluster.admission, ask()));
    assert!(timeout(Duration::from_millis(1), other.as_mut()).await.is_err());
    drop(one.slot);
    let other = other.await.unwrap();
    assert!(other.has_waited);
    // Admitted and never begun, it gives its place back.
    drop(other);
    assert_eq!(cluster.admission.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_gets_no_place_is_refused() {
    let cluster = cluster(Limit::Fixed(NonZeroU32::MIN));
    let _slot = cluster.admission.try_enter(Instant::now()).unwrap();
    let refusal = admit(&cluster.admission, ask()).await.map(drop).unwrap_err();
    assert_eq!(refusal.reason, Refused::Expired);
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_counts_nothing() {
    let cluster = cluster(Limit::Off);
    let admitted = admit(&cluster.admission, ask()).await.unwrap();
    assert!(admitted.slot.is_none());
    assert_eq!(cluster.admission.in_flight(), 0);
}
