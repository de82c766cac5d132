//! The layer: ready when there is a place, which the call takes along.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::policy::admission::{AdmissionSettings, Limit, Refused};
use crate::record::metrics::Metrics;
use crate::upstream::admission::Purpose;
use crate::upstream::cluster::tests::settings;
use crate::upstream::cluster::{Balance, Cluster};

fn cluster(limit: Limit) -> Cluster {
    let admission = AdmissionSettings::new(limit, 1, Duration::from_secs(1)).unwrap();
    let settings = crate::upstream::cluster::ClusterSettings { admission, ..settings(1, Balance::P2c) };
    Cluster::new(settings, Arc::new(Metrics::new()))
}

fn ask() -> Ask {
    let now = Instant::now();
    Ask { purpose: Purpose::First, now, deadline: now + Duration::from_secs(5) }
}

async fn keep((number, slot): (u32, Option<Slot>)) -> Result<(u32, Option<Slot>), Refusal> {
    Ok((number, slot))
}

#[tokio::test(start_paused = true)]
async fn the_service_inside_is_called_with_a_place_in_flight() {
    let cluster = cluster(Limit::Fixed(NonZeroU32::MIN));
    let layer = AdmissionLayer::new(&cluster.admission, ask());
    let mut one = layer.layer(service_fn(keep));
    let (number, slot) = one.ready().await.unwrap().call(7).await.unwrap();
    assert!(!one.has_waited());
    assert_eq!((number, cluster.admission.in_flight()), (7, 1));

    let mut other = layer.layer(service_fn(keep));
    assert!(timeout(Duration::from_millis(1), other.ready()).await.is_err());
    drop(slot);
    assert!(other.ready().await.is_ok());
    assert!(other.has_waited());
    // Ready and never called, it gives its place back.
    drop(other);
    assert_eq!(cluster.admission.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_gets_no_place_is_never_ready() {
    let cluster = cluster(Limit::Fixed(NonZeroU32::MIN));
    let _slot = cluster.admission.try_enter(Instant::now()).unwrap();
    let mut service = AdmissionLayer::new(&cluster.admission, ask()).layer(service_fn(keep));
    let refusal = service.ready().await.map(drop).unwrap_err();
    assert_eq!(refusal.reason, Refused::Expired);
}

#[tokio::test(start_paused = true)]
async fn switched_off_it_counts_nothing() {
    let cluster = cluster(Limit::Off);
    let mut service = AdmissionLayer::new(&cluster.admission, ask()).layer(service_fn(keep));
    let (_, slot) = service.ready().await.unwrap().call(1).await.unwrap();
    assert!(slot.is_none());
    assert_eq!(cluster.admission.in_flight(), 0);
}
