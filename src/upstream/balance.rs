//! Which endpoint an attempt goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::policy::ejection::{Admission, EjectionSettings, Health, Heed};
use crate::policy::request::Repeatable;
use crate::upstream::endpoint::{Endpoint, EndpointId};
use crate::upstream::settings::Balance;

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
    /// It is not, and yet its success restores the endpoint: it was chosen as if none were out.
    Beside,
    /// It is.
    Yes,
}

/// What an attempt is chosen an endpoint by.
pub(super) struct Choice<'a> {
    /// Where its exchange has been: the others come first.
    pub(super) tried: &'a [EndpointId],
    /// Whether a failure could be made good.
    pub(super) repeatable: Repeatable,
    pub(super) balance: Balance,
    pub(super) ejection: &'a EjectionSettings,
    pub(super) turn: &'a AtomicUsize,
    pub(super) random: &'a mut fastrand::Rng,
    pub(super) now: Duration,
}

impl Choice<'_> {
    /// Chooses one that is in balancing, or one whose time out is over.
    pub(super) fn among(&mut self, endpoints: &[Arc<Endpoint>]) -> Option<Pick> {
        if let [lone] = endpoints {
            return Some(Pick { endpoint: lone.clone(), probing: Probing::No }); // never ejected
        }
        if self.all_fail(endpoints) {
            return self.any(endpoints);
        }
        // `max_ejected` leaves some in, but name resolution may since have taken those away. Checks alone make none of the
        // rest useless: they are used as if there were no checks.
        self.heeding(Heed::Both, endpoints).or_else(|| self.heeding(Heed::Traffic, endpoints))
    }

    /// Whether each endpoint is out or has failed as if it should be: then none that is out can be worse than the others.
    fn all_fail(&self, endpoints: &[Arc<Endpoint>]) -> bool {
        let fails = |health: &mut Health| health.is_ejected() || health.is_condemned(self.ejection);
        endpoints
            .iter()
            .all(|endpoint| endpoint.standing.is_troubled() && endpoint.standing.with_health(fails))
    }

    /// Chooses as if none were out. An ejected one may come back by it.
    fn any(&mut self, endpoints: &[Arc<Endpoint>]) -> Option<Pick> {
        let tried = self.tried;
        let endpoint = self
            .balanced(endpoints, &|endpoint| !tried.contains(&endpoint.id))
            .or_else(|| self.balanced(endpoints, &|_| true))?
            .clone();
        let is_probe = endpoint.standing.is_troubled() && endpoint.standing.with_health(Health::begin_probe);
        Some(Pick { endpoint, probing: if is_probe { Probing::Yes } else { Probing::Beside } })
    }

    fn heeding(&mut self, heed: Heed, endpoints: &[Arc<Endpoint>]) -> Option<Pick> {
        if let Some(endpoint) = endpoints.iter().find(|endpoint| self.may_probe(endpoint, heed)) {
            return Some(Pick { endpoint: endpoint.clone(), probing: Probing::Yes });
        }
        let tried = self.tried;
        let is_open = |endpoint: &Endpoint| endpoint.standing.admits(heed);
        let untried = |endpoint: &Endpoint| is_open(endpoint) && !tried.contains(&endpoint.id);
        let careful = match self.repeatable {
            Repeatable::Always => None,
            Repeatable::OnlyIfNeverSent(_) => self.careful(endpoints, &untried),
        };
        if let Some(endpoint) = careful.or_else(|| self.balanced(endpoints, &untried)) {
            return Some(Pick { endpoint: endpoint.clone(), probing: Probing::No });
        }
        if let Some(endpoint) = endpoints.iter().find(|endpoint| self.may_probe_early(endpoint)) {
            return Some(Pick { endpoint: endpoint.clone(), probing: Probing::Yes });
        }
        let endpoint = self.balanced(endpoints, &is_open)?;
        Some(Pick { endpoint: endpoint.clone(), probing: Probing::No })
    }

    /// Takes the early probe of an endpoint that is out, for a request that failed everywhere else.
    fn may_probe_early(&self, endpoint: &Endpoint) -> bool {
        let may = |health: &mut Health| health.admits_early(self.now) && health.begin_probe();
        endpoint.standing.is_troubled()
            && !self.tried.contains(&endpoint.id)
            && endpoint.standing.with_health(may)
    }

    /// Takes the probe of an endpoint whose time out is over. A request that would be lost by it leaves the probe to another
    /// for a while.
    fn may_probe(&self, endpoint: &Endpoint, heed: Heed) -> bool {
        if !endpoint.standing.is_troubled() || self.tried.contains(&endpoint.id) {
            return false;
        }
        let leaves = match self.repeatable {
            Repeatable::Always => Duration::ZERO,
            Repeatable::OnlyIfNeverSent(_) => PROBE_LEFT,
        };
        endpoint.standing.with_health(|health| {
            health.admission(self.now.saturating_sub(leaves), heed) == Admission::Probe
                && health.begin_probe()
        })
    }

    /// One of those that are not clearly worse than the best.
    fn careful<'e>(
        &mut self,
        endpoints: &'e [Arc<Endpoint>],
        eligible: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&'e Arc<Endpoint>> {
        let leans =
            endpoints.iter().filter(|endpoint| eligible(endpoint)).map(|endpoint| endpoint.lean.get());
        let best = leans.min_by(f64::total_cmp)?;
        self.balanced(endpoints, &|endpoint| eligible(endpoint) && !endpoint.lean.is_clearly_worse_than(best))
    }

    fn balanced<'e>(
        &mut self,
        endpoints: &'e [Arc<Endpoint>],
        eligible: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&'e Arc<Endpoint>> {
        match self.balance {
            Balance::P2c => less_loaded_of_two(endpoints, eligible, self.random),
            Balance::RoundRobin => next_in_turn(endpoints, eligible, self.turn),
        }
    }
}

/// Whether some endpoint in balancing is not `tried`.
pub(super) fn has_untried(endpoints: &[Arc<Endpoint>], tried: &[EndpointId]) -> bool {
    endpoints.iter().any(|endpoint| !tried.contains(&endpoint.id) && endpoint.standing.is_open())
}

/// The endpoints in balancing.
pub(super) fn open(endpoints: &[Arc<Endpoint>]) -> impl Iterator<Item = &Arc<Endpoint>> {
    endpoints.iter().filter(|endpoint| endpoint.standing.is_open())
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

/// How long a request that cannot be sent again leaves a probe to those that can.
const PROBE_LEFT: Duration = Duration::from_secs(5);
