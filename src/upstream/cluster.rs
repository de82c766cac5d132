//! A named group of endpoints.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::policy::budget::Budget;
use crate::policy::ejection::{Change, Health, Room};
use crate::policy::expect::{Ending, Failure, Key, Kind, Secret, Subject};
use crate::policy::health::{Ending as CheckEnding, Verdict};
use crate::policy::outage::{Change as OutageChange, Permit};
use crate::policy::request::Repeatable;
use crate::policy::watch::{Circumstances, Ended};
use crate::record::metrics::{ClusterMetrics, EjectionReason, Metrics};
use crate::upstream::admission::Admission;
use crate::upstream::balance::{self, Choice, Pick, Probing};
use crate::upstream::endpoint::{Endpoint, EndpointId};
use crate::upstream::location::{EndpointUrl, Location};
use crate::upstream::outage_queue::{HeldPermit, OutageQueue};
use crate::upstream::settings::ClusterSettings;

/// A named group of endpoints, shared by all workers.
#[derive(Debug)]
pub struct Cluster {
    /// Its settings, but for the endpoints: those stand in [`Cluster::urls`].
    pub settings: Arc<ClusterSettings>,
    /// Its counters.
    pub metrics: Arc<ClusterMetrics>,
    /// Its retries.
    pub budget: Budget,
    /// How much is in flight, and who waits beyond that.
    pub admission: Arc<Admission>,
    /// Where exchanges wait while all of it is down.
    pub outage_queue: Arc<OutageQueue>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// What the endpoints come from. It is locked while they are exchanged: no look-up of old URLs undoes a reload.
    urls: Mutex<Arc<[EndpointUrl]>>,
    registry: Arc<Metrics>,
    turn: AtomicUsize,
    /// Held while an ejection is decided on, so that two at once cannot exceed `max_ejected`.
    ejecting: Mutex<()>,
    retired: AtomicBool,
    /// Told when there are other endpoints than before, or none any more.
    changed: Notify,
}

/// What an attempt told about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It failed, and that says something about this.
    Failure(Kind),
    /// Nothing: the attempt ended for another reason.
    Nothing,
    /// It works.
    Success,
}

/// What a request asks for: told only if somebody wants to know.
pub trait Asked: fmt::Debug {
    /// It.
    fn subject(&self) -> Subject<'_>;
}

impl Asked for Subject<'_> {
    fn subject(&self) -> Subject<'_> {
        *self
    }
}

/// The end of an attempt.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// Where it was made.
    pub pick: &'a Pick,
    /// What it told.
    pub report: Report,
    /// The permit that it was made by, if the cluster was not up.
    pub permit: Option<HeldPermit>,
    /// What was asked for.
    pub subject: &'a dyn Asked,
    /// The exchange, by a number that few others have.
    pub exchange: u32,
    /// Whether it followed another one of its exchange, and did not run beside it.
    pub is_retry: bool,
    /// When the attempt began.
    pub began: Duration,
}

/// What is expected of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// What it asks for.
    pub key: Key,
    /// The share of the key's attempts that fail.
    pub q: f64,
    /// The chance that this one succeeds.
    pub chance: f64,
}

impl Cluster {
    /// A cluster of the endpoints that are given by address; those given by name come with [`Cluster::set_locations`].
    pub fn new(settings: ClusterSettings, registry: Arc<Metrics>) -> Self {
        let (settings, urls) = settings.split();
        let cluster = Self {
            metrics: Arc::new(registry.cluster(&settings.name)),
            outage_queue: Arc::new(OutageQueue::new(
                settings.outage_queue,
                registry.outage_queue(&settings.name),
                Secret::new(fastrand::u64(..), fastrand::u64(..)),
            )),
            admission: Arc::new(Admission::new(settings.admission, registry.admission(&settings.name))),
            budget: Budget::new(settings.budget),
            endpoints: ArcSwap::default(),
            urls: Mutex::new(urls.into()),
            turn: AtomicUsize::new(0),
            ejecting: Mutex::default(),
            retired: AtomicBool::new(false),
            changed: Notify::new(),
            settings: Arc::new(settings),
            registry,
        };
        let fixed: Vec<_> = cluster.urls().iter().filter_map(EndpointUrl::fixed).collect();
        cluster.set_locations(&fixed, Duration::ZERO);
        cluster
    }

    /// The URLs that its endpoints come from.
    pub fn urls(&self) -> Arc<[EndpointUrl]> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes other URLs, which lead to `locations`: a reload has changed the endpoints and nothing else.
    pub fn change_urls(&self, urls: Arc<[EndpointUrl]>, locations: &[Location], now: Duration) {
        let mut current = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        *current = urls;
        self.set_locations(locations, now);
    }

    /// Takes what its URLs lead to now. It does nothing if `urls` are those of an earlier configuration.
    pub(super) fn follow(&self, urls: &Arc<[EndpointUrl]>, locations: &[Location], now: Duration) {
        let current = self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, urls) {
            self.set_locations(locations, now);
        }
    }

    /// Makes `locations` the cluster's endpoints. Those that stay keep their connections and their health. In an outage a
    /// new one is like a check that passes: one of those who wait may try it.
    pub fn set_locations(&self, locations: &[Location], now: Duration) {
        let old = self.endpoints();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::with_capacity(locations.len());
        for location in locations {
            if endpoints.iter().any(|endpoint| endpoint.address == location.address) {
                continue;
            }
            let kept = old.iter().find(|endpoint| endpoint.is_at(location)).cloned();
            endpoints.push(kept.unwrap_or_else(|| Arc::new(self.endpoint(location))));
        }
        let is_among = |endpoint: &Endpoint, others: &[Arc<Endpoint>]| {
            others.iter().any(|other| other.id == endpoint.id)
        };
        for endpoint in old.iter().filter(|endpoint| !is_among(endpoint, &endpoints)) {
            endpoint.retire();
        }
        let has_new = endpoints.iter().any(|endpoint| !is_among(endpoint, &old));
        self.endpoints.store(Arc::new(endpoints));
        self.changed.notify_one();
        if has_new {
            self.outage_queue.check_passed(now);
        }
    }

    /// Waits until the cluster may have other endpoints, or is retired. Each change is told once.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the configuration no longer has it.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn endpoint(&self, location: &Location) -> Endpoint {
        let metrics = self.registry.endpoint(&self.settings.name, &location.address.to_string());
        Endpoint::new(location, self.settings.clone(), metrics, self.metrics.clone())
    }

    /// The endpoints as they are now.
    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Takes every endpoint out of use, because the configuration no longer has the cluster. Exchanges that began before
    /// may still be sent to them.
    pub fn retire(&self) {
        for endpoint in self.endpoints.load().iter() {
            endpoint.retire();
        }
        self.outage_queue.retire();
        self.retired.store(true, Ordering::Relaxed);
        self.changed.notify_one();
        self.admission.retire();
        self.metrics.connections_active.set(0);
        self.metrics.connections_idle.set(0);
        self.metrics.budget_available.set(0.0);
        self.metrics.recent_success.set(1.0); // as of a cluster of which nothing is known
    }

    /// The endpoint for the next attempt of an exchange that has `tried` some; none if none may be used. What cannot be sent
    /// again, if it fails, goes nowhere that has clearly failed more of late than another.
    pub fn pick(
        &self,
        tried: &[EndpointId],
        repeatable: Repeatable,
        random: &mut fastrand::Rng,
        now: Duration,
    ) -> Option<Pick> {
        let endpoints = self.endpoints.load();
        let ClusterSettings { balance, ejection, .. } = &*self.settings;
        Choice { tried, repeatable, balance: *balance, ejection, turn: &self.turn, random, now }
            .among(&endpoints)
    }

    /// This endpoint, if it is in balancing.
    pub fn pick_only(&self, endpoint: EndpointId) -> Option<Pick> {
        let endpoints = self.endpoints.load();
        let found = balance::open(&endpoints).find(|other| other.id == endpoint).cloned();
        found.map(|endpoint| Pick { endpoint, probing: Probing::No })
    }

    /// Whether [`Cluster::pick`] could give an endpoint that is not in `tried`.
    pub fn has_untried(&self, tried: &[EndpointId]) -> bool {
        balance::has_untried(&self.endpoints.load(), tried)
    }

    /// What is expected of an attempt.
    pub fn outlook(&self, subject: &Subject<'_>, now: Duration) -> Outlook {
        let key = self.outage_queue.expect.key(subject);
        Outlook { key, q: self.outage_queue.expect.q(&key, now), chance: self.outage_queue.chance(&key, now) }
    }

    /// Whether retries of what failed in this way help nobody; one in sixteen goes through all the same. `random` lies in
    /// [0, 1).
    pub fn is_futile(&self, key: &Key, random: f64, now: Duration) -> bool {
        self.outage_queue.expect.is_hopeless(key, now)
            && !self.outage_queue.expect.allows_futile(key, random, now)
    }

    /// What a request asks for, by which its attempts are judged.
    pub fn key(&self, subject: &Subject<'_>) -> Key {
        self.outage_queue.expect.key(subject)
    }

    /// Whether a second attempt beside a slow one of this key may help; see [`Cluster::note_beside`].
    pub fn may_help_beside(&self, key: &Key, random: f64, now: Duration) -> bool {
        !self.is_futile(&key.beside(), random, now)
    }

    /// Takes note of a second attempt beside a slow one, which won or did not.
    pub fn note_beside(&self, key: &Key, ending: Ending, now: Duration) {
        self.outage_queue.expect.note_beside(key, ending, now);
    }

    /// Takes note of the end of an attempt. Gives back how surprising it was, if it was a failure.
    pub fn report(&self, attempt: Attempt<'_>, pause: impl FnOnce(u32) -> Duration, now: Duration) -> f64 {
        let Attempt { pick, report, permit, subject, exchange, is_retry, began } = attempt;
        let endpoint = &pick.endpoint;
        match report {
            Report::Nothing => {
                self.abandon(pick, now);
                drop(permit); // it goes to the next in the outage queue
                0.0
            }
            Report::Success => {
                if endpoint.standing.is_troubled() {
                    let is_probe = pick.probing != Probing::No;
                    let change = endpoint.standing.with_health(|health| health.success(is_probe));
                    self.note_change(endpoint, change, now);
                }
                // Nearly always nothing is wrong, and this is all.
                if permit.is_none() && self.outage_queue.is_calm() {
                    return 0.0;
                }
                if is_retry {
                    self.outage_queue.expect.note_again(Ending::Success, now);
                }
                let key = self.outage_queue.expect.key(&subject.subject());
                self.note_lean(endpoint, false, || self.outage_queue.expect.q(&key, now));
                let permit = permit.map_or(Permit::FREE, HeldPermit::into_permit);
                let ended = Ended { permit, key: &key, began, now };
                self.note_outage(self.outage_queue.succeeded(ended), now);
                if self.outage_queue.forget_if_stale(now) {
                    self.endpoints.load().iter().for_each(|endpoint| endpoint.lean.forget());
                }
                0.0
            }
            Report::Failure(kind) => {
                let key = self.outage_queue.expect.key(&subject.subject());
                let weight = self.outage_queue.weight(kind, &key, now);
                if kind == Kind::Refused {
                    endpoint.note_refusal();
                }
                self.note_lean(endpoint, true, || self.outage_queue.q(kind, &key, now));
                let is_probe = pick.probing == Probing::Yes;
                self.eject(endpoint, now, |health, room| {
                    health.failure(&self.settings.ejection, weight, is_probe, now, room)
                });
                let endpoints = self.endpoints.load();
                let in_flight = endpoints.iter().map(|endpoint| endpoint.in_flight()).sum();
                let open: Vec<_> =
                    balance::open(&endpoints).map(|endpoint| (endpoint.id, endpoint.is_refusing())).collect();
                let permit = permit.map_or(Permit::FREE, HeldPermit::into_permit);
                let ended = Ended { permit, key: &key, began, now };
                let failure = Failure { kind, endpoint: endpoint.id, key: &key, exchange, weight, in_flight };
                let show = || subject.subject().show();
                let circumstances = Circumstances { endpoints: &open, show, pause };
                self.note_outage(self.outage_queue.failed(ended, &failure, circumstances), now);
                weight
            }
        }
    }

    /// Takes note of an attempt that ended without telling anything.
    pub fn abandon(&self, pick: &Pick, now: Duration) {
        if pick.probing == Probing::Yes {
            pick.endpoint.standing.with_health(|health| health.abandon_probe(now));
        }
    }

    /// Takes a failure back from the endpoint: the same exchange failed at another one, too.
    pub fn take_back(&self, endpoint: &Endpoint, weight: f64) {
        endpoint.standing.with_health(|health| health.take_back(weight));
    }

    fn note_lean(&self, endpoint: &Endpoint, failed: bool, q: impl FnOnce() -> f64) {
        if self.endpoints.load().len() > 1 {
            endpoint.lean.note(failed, q());
        }
    }

    /// Tells the endpoint's health, and those in the outage queue, how a health check went.
    pub(super) fn report_check(
        &self,
        endpoint: &Endpoint,
        ending: CheckEnding,
        verdict: Verdict,
        now: Duration,
    ) {
        match (ending, verdict) {
            (CheckEnding::Failed, Verdict::Unhealthy) => self.eject(endpoint, now, Health::checks_fail),
            (CheckEnding::Passed, Verdict::Healthy) if endpoint.standing.is_troubled() => {
                let change = endpoint.standing.with_health(Health::checks_pass);
                self.note_change(endpoint, change, now);
            }
            _ => {}
        }
        // One that is out of balancing would take nothing of what is let go.
        if ending == CheckEnding::Passed && endpoint.standing.is_open() {
            self.outage_queue.check_passed(now);
        }
    }

    /// Lays something bad before an endpoint's health, which says whether the endpoint leaves balancing for it.
    fn eject(&self, endpoint: &Endpoint, now: Duration, note: impl FnOnce(&mut Health, Room) -> Change) {
        let endpoints = self.endpoints.load();
        let most = self.settings.ejection.most_ejected(endpoints.len());
        // Nothing can be ejected, so nothing need be counted. One that is out already hears how its probe ended.
        if endpoint.standing.is_retired() || most == 0 && !endpoint.standing.is_troubled() {
            return;
        }
        let _turn = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = endpoints.iter().filter(|other| !other.standing.is_open()).count();
        let room = if ejected < most { Room::Some } else { Room::None };
        let change = endpoint.standing.with_health(|health| note(health, room));
        self.note_change(endpoint, change, now);
    }

    fn note_change(&self, endpoint: &Endpoint, change: Change, now: Duration) {
        let (cluster, label) = (&self.settings.name, &endpoint.label);
        match change {
            Change::Ejected => {
                endpoint.metrics.ejected.set(1);
                let (failures, until) = endpoint.standing.with_health(|health| health.row());
                let reason =
                    if until.is_some() { EjectionReason::Failures } else { EjectionReason::HealthChecks };
                endpoint.metrics.ejections(reason).inc();
                let reason = reason.label();
                let Some(until) = until else {
                    tracing::warn!(%cluster, endpoint = %label, reason, "endpoint ejected");
                    return;
                };
                let seconds = until.saturating_sub(now).as_secs_f64();
                tracing::warn!(%cluster, endpoint = %label, reason, failures, seconds, "endpoint ejected");
            }
            Change::Relapsed => {
                let (_, until) = endpoint.standing.with_health(|health| health.row());
                let seconds = until.unwrap_or(now).saturating_sub(now).as_secs_f64();
                tracing::warn!(%cluster, endpoint = %label, seconds, "endpoint stays ejected: its probe failed");
            }
            Change::Restored => {
                endpoint.metrics.ejected.set(0);
                tracing::info!(%cluster, endpoint = %label, "endpoint restored");
            }
            Change::Nothing => {}
        }
    }

    fn note_outage(&self, change: OutageChange, now: Duration) {
        let cluster = &self.settings.name;
        match change {
            OutageChange::Down => {
                let (failed, _) = self.outage_queue.last_outage(now);
                tracing::warn!(
                    %cluster, failed,
                    "every recent attempt at the cluster failed: requests to it wait in the outage queue or probe"
                );
            }
            OutageChange::Recovering => {
                // It says all that the log line of the beginning says: of two outages within a minute that is left out.
                let (failed, seconds) = self.outage_queue.last_outage(now);
                tracing::info!(%cluster, failed, seconds, "the cluster answers again");
            }
            OutageChange::Nothing => {}
        }
    }

    /// Sets the gauges that are only worth computing when somebody looks.
    pub fn before_scrape(&self, now: Duration) {
        let (mut open, mut active) = (0, 0);
        for endpoint in self.endpoints.load().iter() {
            open += endpoint.open_connections();
            active += endpoint.active_connections();
            endpoint.metrics.idle_limit.set(endpoint.idle_limit().as_secs_f64());
        }
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.connections_active.set(gauge(active));
        self.metrics.connections_idle.set(gauge(open.saturating_sub(active)));
        self.metrics.budget_available.set(self.budget.available(now));
        self.outage_queue.before_scrape();
        self.admission.before_scrape();
        self.metrics.recent_success.set(self.outage_queue.chance_of_any());
    }
}

#[cfg(test)]
pub(crate) mod tests;
