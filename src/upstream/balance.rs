//! Which endpoint an attempt goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::policy::ejection::{Admission, Heed};
use crate::upstream::cluster::Balance;
use crate::upstream::endpoint::{Endpoint, EndpointId};

/// A chosen endpoint. What its attempt tells belongs into [`Cluster::report`](super::cluster::Cluster::report).
#[derive(Clone, Debug)]
pub struct Pick {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Whether the attempt decides on the endpoint's return to balancing.
    pub probing: Probing,
}

/// Whether an attempt is the one that tries an ejected endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probing {
    /// It is not.
    No,
    /// It is.
    Yes,
}

/// Chooses among the endpoints in balancing, those that are not `tried` first.
pub(super) fn pick(
    endpoints: &[Arc<Endpoint>],
    tried: &[EndpointId],
    balance: Balance,
    turn: &AtomicUsize,
    random: &mut fastrand::Rng,
    now: Duration,
) -> Option<Pick> {
    if let [lone] = endpoints {
        return Some(Pick { endpoint: lone.clone(), probing: Probing::No }); // never ejected
    }
    let untried = |endpoint: &Endpoint| !tried.contains(&endpoint.id);
    let probe = |heed| {
        endpoints.iter().find(|endpoint| {
            endpoint.is_troubled()
                && untried(endpoint)
                && endpoint.with_health(|health| {
                    let due = health.admission(now, heed) == Admission::Probe;
                    if due {
                        health.begin_probe();
                    }
                    due
                })
        })
    };
    let probing = |endpoint: &Arc<Endpoint>| Pick { endpoint: endpoint.clone(), probing: Probing::Yes };
    if let Some(endpoint) = probe(Heed::Both) {
        return Some(probing(endpoint));
    }
    let choose = |eligible: &dyn Fn(&Endpoint) -> bool, random: &mut fastrand::Rng| match balance {
        Balance::P2c => less_loaded_of_two(endpoints, eligible, random),
        Balance::RoundRobin => next_in_turn(endpoints, eligible, turn),
    };
    let plain = |endpoint: &Arc<Endpoint>| Pick { endpoint: endpoint.clone(), probing: Probing::No };
    let endpoint = choose(&|endpoint| is_open(endpoint) && untried(endpoint), random)
        .or_else(|| choose(&is_open, random));
    if let Some(endpoint) = endpoint {
        return Some(plain(endpoint));
    }
    // `max_ejected` leaves some in, but name resolution may since have taken those away. Checks alone make none of the
    // rest useless: they are used as if there were no checks.
    if let Some(endpoint) = probe(Heed::Traffic) {
        return Some(probing(endpoint));
    }
    let is_open = |endpoint: &Endpoint| {
        endpoint.with_health(|health| health.admission(now, Heed::Traffic)) == Admission::Open
    };
    choose(&|endpoint| is_open(endpoint) && untried(endpoint), random)
        .or_else(|| choose(&is_open, random))
        .map(plain)
}

/// Whether some endpoint in balancing is not `tried`.
pub(super) fn has_untried(endpoints: &[Arc<Endpoint>], tried: &[EndpointId]) -> bool {
    endpoints.iter().any(|endpoint| !tried.contains(&endpoint.id) && is_open(endpoint))
}

/// The endpoints in balancing.
pub(super) fn open(endpoints: &[Arc<Endpoint>]) -> impl Iterator<Item = &Arc<Endpoint>> {
    endpoints.iter().filter(|endpoint| is_open(endpoint))
}

/// Whether it is in balancing.
pub(super) fn is_open(endpoint: &Endpoint) -> bool {
    !endpoint.is_troubled() || endpoint.with_health(|health| !health.is_ejected())
}

/// The power of two choices: nearly as even as the least loaded of all, without the herd that runs to it.
fn less_loaded_of_two<'a>(
    endpoints: &'a [Arc<Endpoint>],
    eligible: &dyn Fn(&Endpoint) -> bool,
    random: &mut fastrand::Rng,
) -> Option<&'a Arc<Endpoint>> {
    // A reservoir of two: each eligible endpoint is as likely to be in it as any other.
    let mut pair: [Option<&Arc<Endpoint>>; 2] = [None; 2];
    for (seen, endpoint) in endpoints.iter().filter(|endpoint| eligible(endpoint)).enumerate() {
        let place = if seen < pair.len() { seen } else { random.usize(..=seen) };
        if let Some(slot) = pair.get_mut(place) {
            *slot = Some(endpoint);
        }
    }
    match pair {
        [Some(one), Some(other)] => {
            let (first, second) = if random.bool() { (one, other) } else { (other, one) };
            Some(if second.in_flight() < first.in_flight() { second } else { first })
        }
        [one, _] => one,
    }
}

fn next_in_turn<'a>(
    endpoints: &'a [Arc<Endpoint>],
    eligible: &dyn Fn(&Endpoint) -> bool,
    turn: &AtomicUsize,
) -> Option<&'a Arc<Endpoint>> {
    let start = turn.fetch_add(1, Ordering::Relaxed);
    (0..endpoints.len())
        .map(|step| &endpoints[start.wrapping_add(step) % endpoints.len()])
        .find(|endpoint| eligible(endpoint))
}
