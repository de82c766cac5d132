//! Clusters and routes made from a configuration, keeping those clusters of the old one that are the same.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::app::logging;
use crate::config::Config;
use crate::fields::via::Via;
use crate::policy::hedge::Hedging;
use crate::proxy::Site;
use crate::record::metrics::Metrics;
use crate::route::{Action, Route, RouteTable};
use crate::upstream::cluster::Cluster;

/// The clusters in force, and the routes to them.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) site: Site,
}

impl Parts {
    /// Builds what `config` says. A cluster of `old` whose settings are equal, its endpoints apart, is taken over. It still
    /// has its old endpoints: they change when the configuration is put in force.
    pub(crate) fn build(config: &Config, old: &[Arc<Cluster>], metrics: &Arc<Metrics>) -> Self {
        let clusters: Vec<_> = config
            .clusters
            .iter()
            .map(|settings| {
                let (identity, _) = settings.clone().split();
                let kept = old.iter().find(|cluster| *cluster.settings == identity).cloned();
                kept.unwrap_or_else(|| Arc::new(Cluster::new(settings.clone(), metrics.clone())))
            })
            .collect();
        let via = Via::new(&config.server.via);
        let via = via.expect("the configuration takes only names that fit");
        let routes = config.routes.iter().filter_map(|settings| {
            let action = match &settings.action {
                // The configuration has been checked: every route's cluster is there.
                Action::Forward(name) => {
                    Action::Forward(clusters.iter().find(|cluster| cluster.settings.name == *name)?.clone())
                }
                Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
            };
            let guard = settings.origin_guard.as_ref();
            let route = Route {
                settings: settings.clone(),
                action,
                metrics: Arc::new(metrics.route(&settings.name)),
                hedging: Hedging::new(&settings.retry),
                origin_refused: guard.map(|_| metrics.origin_refused_by_route(&settings.name)),
                via: via.clone(),
            };
            Some((settings.pattern.clone(), Arc::new(route)))
        });
        let site = Site { routes: RouteTable::new(routes) };
        Self { clusters, site }
    }
}

/// Sets the gauges that nobody keeps up to date between scrapes, and renders everything.
pub(super) fn render(
    metrics: &Metrics,
    clusters: &ArcSwap<Vec<Arc<Cluster>>>,
    since_start: std::time::Duration,
) -> Vec<u8> {
    for cluster in clusters.load().iter() {
        cluster.before_scrape(since_start);
    }
    let dropped = logging::dropped();
    metrics.log_dropped.inc_by(dropped.saturating_sub(metrics.log_dropped.get()));
    metrics.render()
}
