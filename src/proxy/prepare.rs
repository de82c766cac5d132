//! What is done to a request before its first attempt: it is refused, or rewritten for the upstream and planned.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http_body::Body;
use prometheus::IntCounter;

use super::attempts::{Aim, Outbound, Transport};
use super::body::{Caller, RequestBody};
use super::exchange::Exchange;
use super::headers::{self, BodyPresence};
use super::replay::{Replay, ReplayLimits};
use super::reply::Moved;
use super::upgrade::Handover;
use super::{Proxy, Shared};
use crate::error::{ProxyError, RequestFault};
use crate::policy::request::Repeatable;
use crate::route::{Action, Lookup, Route};
use crate::upstream::cluster::Cluster;

/// The way of a request to its answer.
pub(super) enum Way {
    Redirect(Moved),
    Upstream(Outbound),
}

/// A request as it came.
pub(super) struct Incoming<'a> {
    pub(super) head: Parts,
    pub(super) body: RequestBody,
    pub(super) caller: &'a Caller,
    pub(super) handover: Option<&'a Handover>,
}

/// Where a request is forwarded.
struct Forward {
    route: Arc<Route>,
    cluster: Arc<Cluster>,
    /// The protocol that the connection shall change to.
    upgrade: Option<HeaderValue>,
}

impl<T: Transport> Proxy<T> {
    /// Finds the way of a request to its answer, or the reason why there is none, and makes it fit to be sent on.
    pub(super) fn prepare(
        &self,
        exchange: &mut Exchange,
        mut incoming: Incoming<'_>,
    ) -> Result<Way, ProxyError> {
        incoming.refuse()?;
        let route = self.route(&incoming.head)?;
        exchange.take_route(&route);
        incoming.refuse_for(&route)?;
        let cluster = match &route.action {
            Action::Forward(cluster) => cluster,
            Action::Redirect(redirect) => {
                return Ok(Way::Redirect(Moved::new(redirect, &route, &incoming.head, &incoming.body)?));
            }
        };
        let upgrade = incoming.rewrite(&route, cluster)?;
        let forward = Forward { cluster: cluster.clone(), route, upgrade };
        Ok(Way::Upstream(incoming.plan(exchange, &self.shared, forward)?))
    }

    fn route(&self, head: &Parts) -> Result<Arc<Route>, ProxyError> {
        let site = self.site.load();
        let scheme = || headers::scheme(&head.headers);
        let (host, path) = (headers::host(&head.headers), head.uri.path());
        match site.routes.find_as_read(scheme, host, path, &head.method, |route| &route.settings) {
            Lookup::Found(route) => Ok(route.clone()),
            Lookup::MethodNotAllowed(allow) => Err(ProxyError::MethodNotAllowed { allow }),
            Lookup::NotFound => Err(ProxyError::NoRoute),
            Lookup::Ambiguous => Err(ProxyError::BadRequest(RequestFault::AmbiguousPath)),
        }
    }
}

impl Incoming<'_> {
    /// Refuses a request that no route may take.
    fn refuse(&mut self) -> Result<(), ProxyError> {
        if let Some(refusal) = self.caller.refusal {
            return Err(refusal.into());
        }
        headers::normalize(&mut self.head)?;
        if let Some(tls) = &self.caller.tls {
            tls.check(headers::host(&self.head.headers))?;
        }
        Ok(())
    }

    /// Refuses a request that its route does not admit.
    fn refuse_for(&mut self, route: &Route) -> Result<(), ProxyError> {
        if let Some(guard) = &route.settings.origin_guard
            && guard.admit(&mut self.head.headers).is_err()
        {
            route.origin_refused.iter().for_each(IntCounter::inc);
            return Err(ProxyError::OriginRefused);
        }
        Ok(())
    }

    /// Makes the head the one that the upstream gets, and says which protocol the connection shall change to.
    fn rewrite(&mut self, route: &Route, cluster: &Cluster) -> Result<Option<HeaderValue>, ProxyError> {
        let may_be_http2 = cluster.settings.protocol.may_be_http2();
        // HTTP/2 knows no `Upgrade` (RFC 9113 section 8.6).
        let upgrade = self.handover.filter(|_| !may_be_http2).and_then(|_| {
            let presence = if self.body.is_end_stream() { BodyPresence::None } else { BodyPresence::Some };
            headers::upgrade(&self.head, presence, &route.settings.upgrades)
        });
        let fields = &mut self.head.headers;
        let takes_trailers = may_be_http2 && headers::takes_trailers(fields);
        headers::clean_request(fields, self.head.version, &route.via, self.caller.trust)?;
        if takes_trailers {
            headers::set_takes_trailers(fields);
        }
        if let Some(protocol) = &upgrade {
            headers::set_upgrade(fields, protocol.clone());
        }
        if let Some(tls) = &self.caller.tls {
            tls.mark(fields);
        }
        route.settings.request_headers.apply(fields);
        Ok(upgrade)
    }

    /// Gives the exchange the body, with as much of a copy as a retry may need, and the loop its task.
    fn plan(
        mut self,
        exchange: &mut Exchange,
        shared: &Rc<Shared>,
        forward: Forward,
    ) -> Result<Outbound, ProxyError> {
        let Forward { route, cluster, upgrade } = forward;
        let policy = &route.settings.retry;
        // Judged as the backend will see it: neither what `Connection` names counts, nor what a rule removes.
        let repeatable = policy.repeatable(&self.head.method, &self.head.headers);
        if !self.body.is_end_stream() && self.body.size_hint().exact().is_none() {
            // Without it hyper takes a GET for one that has no body, whatever it has.
            self.head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // Over HTTP/2 an endpoint can refuse a request after its body has begun to flow, and then any may be sent again.
        let may_be_http2 = cluster.settings.protocol.may_be_http2();
        let may_repeat = (repeatable == Repeatable::Always || may_be_http2) && policy.max_attempts > 1;
        let limits = ReplayLimits {
            keep: if may_repeat { policy.body_limit } else { 0 },
            max_body: route.settings.max_body,
            memory: shared.replay_memory.clone(),
            client: self.caller.client,
            read_buffer: self.caller.read_buffer,
        };
        exchange.take_body(Replay::new(self.body, limits, exchange.began())?);
        Ok(Outbound {
            cluster,
            deadline: route.settings.deadline,
            caller_silence: self.caller.body_timeout,
            route,
            shared: shared.clone(),
            head: Rc::new(self.head),
            repeatable,
            upgrade: upgrade.map(Box::new),
            aim: Aim::Answer,
        })
    }
}
