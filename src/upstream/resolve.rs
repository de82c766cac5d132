//! Keeps a cluster's endpoints as its host names resolve.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::upstream::cluster::Cluster;
use crate::upstream::location::{EndpointHost, EndpointUrl, Location};

/// The endpoint URLs of a cluster, and what each last resolved to.
#[derive(Debug)]
pub struct Resolver {
    urls: Arc<[EndpointUrl]>,
    known: Vec<Vec<Location>>,
}

impl Resolver {
    /// Starts from what `clusters` last resolved the same names to: a reload then loses no address while no name server
    /// answers.
    pub fn new(urls: Arc<[EndpointUrl]>, clusters: &[Arc<Cluster>]) -> Self {
        let known = urls.iter().map(|url| {
            if let Some(location) = url.fixed() {
                return vec![location];
            }
            let endpoints = clusters.iter().flat_map(|cluster| cluster.endpoints().to_vec());
            let pairs = endpoints.map(|endpoint| (url.at(endpoint.address.ip()), endpoint));
            pairs
                .filter(|(location, endpoint)| endpoint.is_at(location))
                .map(|(location, _)| location)
                .collect()
        });
        let known = known.collect();
        Self { urls, known }
    }

    /// Whether there is a name to resolve.
    pub fn is_needed(&self) -> bool {
        self.urls.iter().any(|url| url.fixed().is_none())
    }

    /// Whether nothing that it stands for has an address.
    pub fn is_empty(&self) -> bool {
        self.known.iter().all(Vec::is_empty)
    }

    /// Resolves every name once, all of them at the same time, within 5 s. A name that fails keeps what it last resolved
    /// to, and is counted and logged. The cluster's endpoints stay as they are.
    pub async fn look_up(&mut self, cluster: &Cluster) {
        self.look_up_with(cluster, ask_system).await;
    }

    async fn look_up_with<F>(&mut self, cluster: &Cluster, ask: impl Fn(Box<str>, u16) -> F)
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let mut look_ups = JoinSet::new();
        for (index, url) in self.urls.iter().enumerate() {
            if let EndpointHost::Name(name) = &url.host {
                let (name, answer) = (name.clone(), look_up(ask(name.clone(), url.port)));
                look_ups.spawn(async move { (index, name, answer.await) });
            }
        }
        for (index, name, result) in look_ups.join_all().await {
            let (url, known) = (&self.urls[index], &mut self.known[index]);
            match result {
                Ok(addresses) => {
                    cluster.metrics.dns_resolved.inc();
                    *known = addresses.into_iter().map(|address| url.at(address)).collect();
                }
                Err(error) => {
                    cluster.metrics.dns_failed.inc();
                    tracing::warn!(
                        cluster = %cluster.settings.name, host = %name, %error, kept = known.len(),
                        "endpoint name does not resolve"
                    );
                }
            }
        }
    }

    /// Makes these URLs, and what they resolved to, those of the cluster.
    pub fn put_in_force(&self, cluster: &Cluster, now: Duration) {
        cluster.change_urls(self.urls.clone(), &self.known.concat(), now);
    }

    /// Resolves again every `dns_refresh` until the cluster is gone or has other URLs. It does so sooner while there is no
    /// address at all, and where all addresses of a name let no connection open: then after a pause that grows while
    /// nothing changes. Times count from `start`.
    pub async fn run(self, cluster: Weak<Cluster>, start: Instant) {
        self.run_with(cluster, start, ask_system).await;
    }

    async fn run_with<F>(mut self, cluster: Weak<Cluster>, start: Instant, ask: impl Fn(Box<str>, u16) -> F)
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        let urls = self.urls.clone();
        let current = || cluster.upgrade().filter(|cluster| Arc::ptr_eq(&cluster.urls(), &urls));
        let mut lost_pause = FIRST_LOST_PAUSE;
        while current().is_some() {
            let asked = Instant::now();
            loop {
                sleep(LOOK_PERIOD).await;
                let Some(cluster) = current() else { return };
                let is_soon = asked.elapsed() >= lost_pause && self.has_lost_a_name(&cluster);
                if is_soon || asked.elapsed() >= pause(&cluster) {
                    break;
                }
            }
            let Some(cluster) = current() else { return };
            self.look_up_with(&cluster, &ask).await;
            cluster.follow(&urls, &self.known.concat(), start.elapsed());
            lost_pause = if self.has_lost_a_name(&cluster) {
                (lost_pause * 2).min(cluster.settings.dns_refresh)
            } else {
                FIRST_LOST_PAUSE
            };
        }
    }

    /// Whether a name has addresses, and none of them lets a connection open.
    fn has_lost_a_name(&self, cluster: &Cluster) -> bool {
        let endpoints = cluster.endpoints();
        self.urls.iter().filter(|url| url.fixed().is_none()).any(|url| {
            let mut same = endpoints
                .iter()
                .filter(|endpoint| endpoint.host == url.host && endpoint.address.port() == url.port)
                .peekable();
            same.peek().is_some() && same.all(|endpoint| endpoint.is_refusing())
        })
    }
}

async fn ask_system(name: Box<str>, port: u16) -> io::Result<Vec<IpAddr>> {
    Ok(lookup_host((&*name, port)).await?.map(|address| address.ip()).collect())
}

fn pause(cluster: &Cluster) -> Duration {
    let refresh = cluster.settings.dns_refresh;
    if cluster.endpoints().is_empty() { refresh.min(UNRESOLVED_PAUSE) } else { refresh }
}

async fn look_up(answer: impl Future<Output = io::Result<Vec<IpAddr>>>) -> io::Result<Vec<IpAddr>> {
    let mut addresses = timeout(LOOK_UP_TIMEOUT, answer)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer from the resolver"))??;
    // The order of answers turns; ours must not, or every refresh would look like a change.
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// The system's resolver may take longer; an answer after this is of no use for this round.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether a name is to be asked for.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// How soon a name is asked for again whose addresses have all failed.
const FIRST_LOST_PAUSE: Duration = Duration::from_secs(1);

/// How soon a cluster without any address is tried again.
const UNRESOLVED_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::{pending, ready};
    use std::rc::Rc;

    use super::*;
    use crate::record::metrics::Metrics;
    use crate::upstream::cluster::tests::settings;
    use crate::upstream::settings::{Balance, ClusterSettings};

    fn cluster(urls: &[&str]) -> Arc<Cluster> {
        let endpoints = urls.iter().map(|url| EndpointUrl::parse(url).unwrap()).collect();
        let settings = ClusterSettings { endpoints, ..settings(0, Balance::P2c) };
        Arc::new(Cluster::new(settings, Arc::new(Metrics::new())))
    }

    fn addresses(cluster: &Cluster) -> Vec<String> {
        cluster.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn names_without_an_answer_cost_one_bound_together_and_the_others_nothing() {
        let cluster = cluster(&["http://a:1", "http://b:1", "http://c:1", "http://d:1", "http://10.0.0.1:1"]);
        let start = Instant::now();
        let mut resolver = Resolver::new(cluster.urls(), &[]);
        let answer = |name: Box<str>, _| async move {
            match &*name {
                "c" => Ok(vec![[10, 0, 0, 3].into()]),
                _ => pending().await,
            }
        };
        resolver.look_up_with(&cluster, answer).await;
        resolver.put_in_force(&cluster, Duration::ZERO);
        assert_eq!(start.elapsed(), LOOK_UP_TIMEOUT);
        assert_eq!(addresses(&cluster), ["10.0.0.3:1", "10.0.0.1:1"]);
        assert_eq!((cluster.metrics.dns_resolved.get(), cluster.metrics.dns_failed.get()), (1, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_addresses_all_fail_is_asked_for_soon_and_then_ever_more_seldom() {
        let cluster = cluster(&["http://a:1"]);
        let (asked, moved) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(false)));
        let begun = Instant::now();
        let ask = {
            let (asked, moved) = (asked.clone(), moved.clone());
            move |_, _| {
                asked.borrow_mut().push(begun.elapsed().as_secs());
                ready(Ok(vec![[10, 0, 0, if moved.get() { 3 } else { 2 }].into()]))
            }
        };
        let mut resolver = Resolver::new(cluster.urls(), &[]);
        resolver.look_up_with(&cluster, &ask).await;
        resolver.put_in_force(&cluster, Duration::ZERO);
        let changes = async {
            sleep(Duration::from_secs(10)).await;
            cluster.endpoints().iter().for_each(|endpoint| endpoint.note_refusal());
            sleep(Duration::from_secs(45)).await;
            moved.set(true);
        };
        let run = timeout(Duration::from_secs(95), resolver.run_with(Arc::downgrade(&cluster), begun, ask));
        let _ = tokio::join!(changes, run);
        // At first only every `dns_refresh`, which is 30 s.
        assert_eq!(*asked.borrow(), [0, 10, 12, 16, 24, 40, 70]);
        assert_eq!(addresses(&cluster), ["10.0.0.3:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_made_anew_keeps_the_addresses_of_its_names_while_no_name_server_answers() {
        let old = cluster(&["http://a:1", "http://b:1"]);
        let answer = |name: Box<str>, _| {
            ready(Ok(vec![if &*name == "a" { [10, 0, 0, 1].into() } else { [10, 0, 0, 2].into() }]))
        };
        let mut resolver = Resolver::new(old.urls(), &[]);
        resolver.look_up_with(&old, answer).await;
        resolver.put_in_force(&old, Duration::ZERO);
        let new = cluster(&["http://b:1", "http://a:2", "http://c:1"]);
        let mut resolver = Resolver::new(new.urls(), &[old]);
        resolver.look_up_with(&new, |_, _| ready(Err(io::ErrorKind::TimedOut.into()))).await;
        resolver.put_in_force(&new, Duration::ZERO);
        assert_eq!(addresses(&new), ["10.0.0.2:1"], "the same name at the same port, and nothing else");
        resolver.look_up_with(&new, |_, _| ready(Ok(vec![[10, 0, 0, 9].into()]))).await;
        resolver.put_in_force(&new, Duration::ZERO);
        assert_eq!(addresses(&new), ["10.0.0.9:1", "10.0.0.9:2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_up_of_urls_that_a_reload_has_replaced_changes_no_endpoint() {
        let cluster = cluster(&["http://a:1"]);
        let mut old = Resolver::new(cluster.urls(), &[]);
        let (urls, start) = (cluster.urls(), Instant::now());
        old.look_up_with(&cluster, |_, _| ready(Ok(vec![[10, 0, 0, 1].into()]))).await;
        let new = EndpointUrl::parse("http://10.0.0.2:1").unwrap();
        Resolver::new([new].into(), &[]).put_in_force(&cluster, Duration::ZERO);
        cluster.follow(&urls, &old.known.concat(), Duration::ZERO);
        assert_eq!(addresses(&cluster), ["10.0.0.2:1"]);
        old.run(Arc::downgrade(&cluster), start).await;
        assert_eq!(start.elapsed(), Duration::ZERO, "it ends, and asks no name server again");
    }
}
