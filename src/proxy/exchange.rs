//! One exchange from its request head to the end of its answer: who asks, its attempts and, at the end, its record.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use self::book::Book;
use self::closing::Closing;
use self::identity::Clock;
use crate::proxy::Shared;
use crate::proxy::pieces::FirmMemory;
use crate::proxy::replay::Replay;
use crate::record::metrics::RouteMetrics;
use crate::route::Route;
use crate::upstream::cluster::Cluster;

mod book;
mod closing;
mod identity;
pub(crate) use self::book::ResponseHead;
pub(crate) use self::identity::Identity;

/// One request and its final answer.
///
/// Dropped before [`Exchange::finish`], it is on record as left by its caller.
#[derive(Debug)]
pub(crate) struct Exchange {
    shared: Rc<Shared>,
    identity: Identity,
    clock: Clock,
    route: Option<Arc<Route>>,
    metrics: Arc<RouteMetrics>,
    body: Replay,
    pub(crate) book: Book,
    closing: Closing,
}

impl Exchange {
    pub(crate) fn begin(shared: Rc<Shared>, identity: Identity, began: Instant) -> Box<Self> {
        let metrics = shared.unmatched.clone();
        metrics.in_flight.inc();
        Box::new(Self {
            shared,
            identity,
            clock: Clock::start(began),
            route: None,
            metrics,
            body: Replay::none(began),
            book: Book::new(),
            closing: Closing::default(),
        })
    }

    /// What tells the request from others, in the log and in the reply.
    pub(crate) fn id(&self) -> &str {
        &self.identity.id
    }

    /// Notes the route, under whose label the exchange counts from here on.
    pub(crate) fn take_route(&mut self, route: &Arc<Route>) {
        self.metrics.in_flight.dec();
        self.metrics = route.metrics.clone();
        self.metrics.in_flight.inc();
        self.route = Some(route.clone());
    }

    /// The route, once there is one.
    pub(crate) fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.route.as_ref().and_then(|route| route.action.cluster())
    }

    pub(crate) fn began(&self) -> Instant {
        self.clock.began
    }

    pub(crate) fn method(&self) -> &Method {
        &self.identity.method
    }

    /// Takes charge of the request body.
    pub(crate) fn take_body(&mut self, body: Replay) {
        self.body = body;
    }

    pub(crate) fn body(&self) -> &Replay {
        &self.body
    }

    /// The process's account of answers that are held.
    pub(crate) fn answer_memory(&self) -> &Arc<FirmMemory> {
        &self.shared.answer_memory
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.identity.client
    }

    /// How long nothing may pass through a tunnel.
    pub(crate) fn tunnel_idle_timeout(&self) -> Duration {
        self.route.as_ref().map_or(Duration::ZERO, |route| route.settings.tunnel_idle_timeout)
    }

    /// The counters of the route, or of the requests that have none.
    pub(crate) fn metrics(&self) -> &Arc<RouteMetrics> {
        &self.metrics
    }
}
