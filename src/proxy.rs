//! The pipeline: a request comes in, an answer goes out, and [`Proxy::handle`] reads as the steps between them.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HeaderValue, UPGRADE, VIA};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tower::Service;

use crate::policy::request::Repeatable;
use crate::proxy::attempts::{Concluded, Quality};
use crate::proxy::body::{Caller, Inbound, ProxyStatus, ResponseBody};
use crate::proxy::exchange::{Exchange, Identity};
use crate::proxy::hold::AnswerBody;
use crate::proxy::pieces::{FirmMemory, ReplayMemory};
use crate::proxy::prepare::{Incoming, Way};
use crate::proxy::replay::AttemptBody;
use crate::proxy::resume::Continuation;
use crate::proxy::upgrade::{Handover, Tunnel};
use crate::record::log::LogSender;
use crate::record::metrics::RouteMetrics;
use crate::record::{ExchangeOutcome, Target};
use crate::route::{Route, RouteTable};
use crate::upstream::balance::Pick;
use crate::upstream::body::UpstreamBody;
use crate::upstream::cluster::Cluster;
use crate::upstream::endpoint::EndpointId;
use crate::upstream::http1::spare;
use crate::upstream::pool::Pools;

mod attempts;
pub use self::attempts::Transport;

pub mod body;
mod exchange;
pub(crate) mod headers;
mod hold;
pub mod pieces;
mod prepare;
pub mod replay;
mod reply;
mod resume;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod upgrade;

/// The routes in force; exchanged whole on a reload.
#[derive(Debug)]
pub struct Site {
    /// Which request goes where.
    pub routes: RouteTable<Arc<Route>>,
}

/// One worker's proxy.
#[derive(Debug)]
pub struct Proxy<T = Pools<AttemptBody>> {
    site: Arc<ArcSwap<Site>>,
    transport: T,
    shared: Rc<Shared>,
}

/// What every exchange of a worker shares.
#[derive(Debug)]
pub struct Shared {
    /// The access log.
    pub log: LogSender,
    /// Counts exchanges that match no route.
    pub unmatched: Arc<RouteMetrics>,
    /// The process's account of request bodies kept for a retry.
    pub replay_memory: Arc<ReplayMemory>,
    /// The process's account of answers that are held.
    pub answer_memory: Arc<FirmMemory>,
    /// The moment that budgets and health count from, the same in all workers.
    pub start: Instant,
    /// Set when what still runs is given up: then an exchange that ends was not left by its caller.
    pub is_stopping: Arc<AtomicBool>,
    /// The worker's source of randomness.
    pub random: RefCell<fastrand::Rng>,
}

impl Shared {
    /// The time since the start of the process, as budgets and health count it.
    pub(crate) fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }

    fn pick(
        &self,
        cluster: &Cluster,
        tried: &[EndpointId],
        repeatable: Repeatable,
        now: Instant,
    ) -> Option<Pick> {
        cluster.pick(tried, repeatable, &mut self.random.borrow_mut(), self.since_start(now))
    }

    /// A number in [0, 1).
    fn random(&self) -> f64 {
        self.random.borrow_mut().f64()
    }
}

impl<T: Transport + 'static> Proxy<T> {
    /// A proxy that sends by `transport`.
    pub fn new(site: Arc<ArcSwap<Site>>, transport: T, shared: Rc<Shared>) -> Self {
        Self { site, transport, shared }
    }

    /// Answers a request. What needs no waiting is done at once, so that the future holds no more than an attempt needs.
    pub fn handle(
        self: Rc<Self>,
        request: Request<Inbound>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
        let (mut head, Inbound { body, caller, handover }) = request.into_parts();
        let mut exchange = self.begin(&mut head, &caller);
        let incoming = Incoming { head, body, caller: &caller, handover: handover.as_ref() };
        let way = self.prepare(&mut exchange, incoming);
        let proxy_status = caller.proxy_status;
        async move {
            let outbound = match &way {
                Ok(Way::Upstream(outbound)) => outbound,
                Ok(Way::Redirect(moved)) => {
                    self.shared.log.room().await;
                    return Ok(reply::redirect(exchange, moved));
                }
                Err(error) => return Ok(reply::reply(exchange, error, proxy_status)),
            };
            let concluded = match attempts::run(&mut exchange, outbound, &self.transport).await {
                Ok(concluded) => concluded,
                Err(error) => return Ok(reply::reply(exchange, &error, proxy_status)),
            };
            // A log that cannot keep up slows the exchanges down, within bounds, before it loses lines.
            self.shared.log.room().await;
            let after = Continuation::of(&concluded, &exchange, &outbound.head, &self);
            let recipient = Recipient { proxy_status, handover };
            let response = recipient.deliver(exchange, concluded, after);
            if let Ok(Way::Upstream(outbound)) = way
                && let Some(head) = Rc::into_inner(outbound.head)
            {
                spare::give(head.headers);
            }
            Ok(response)
        }
    }

    /// Puts on record a request whose head was refused before it could become one: there is no method and no target.
    pub fn refuse(&self, client: IpAddr, status: StatusCode) {
        let id = headers::new_id(&mut self.shared.random.borrow_mut());
        let method = Method::from_bytes(b"-").expect("a hyphen is a token");
        let target = Target::default();
        let identity = Identity { id, client, client_subject: None, protocol: None, method, target };
        let mut exchange = Exchange::begin(self.shared.clone(), identity, Instant::now());
        exchange.refuse(status, Instant::now());
        exchange.finish(ExchangeOutcome::Reply);
    }

    fn begin(&self, head: &mut Parts, caller: &Caller) -> Box<Exchange> {
        let id = headers::request_id(&mut head.headers, &mut self.shared.random.borrow_mut());
        let target = if self.shared.log.is_off() { Target::default() } else { target(head) };
        let client_subject = caller.tls.as_ref().and_then(|tls| tls.subject.clone());
        let (client, protocol, method) = (caller.client, Some(head.version), head.method.clone());
        let identity = Identity { id, client, client_subject, protocol, method, target };
        Exchange::begin(self.shared.clone(), identity, Instant::now())
    }
}

impl Proxy {
    /// The proxy as a [`tower::Service`], so that layers fit around it.
    ///
    /// Its future is boxed once and not dynamic: it holds a KiB, which would else be moved through every layer and
    /// kept by idle connections.
    pub fn service(
        self: Rc<Self>,
    ) -> impl Service<Request<Inbound>, Response = Response<ResponseBody>, Error = Infallible> + Clone {
        tower::service_fn(move |request| Box::pin(self.clone().handle(request)))
    }
}

/// Boxes a future that few exchanges need: the future of every request then holds a pointer in the place of it.
fn rare<F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(future)
}

/// Who gets the answer, and how.
struct Recipient {
    proxy_status: ProxyStatus,
    /// Where a tunnel is left, if the caller's connection can become one.
    handover: Option<Handover>,
}

impl Recipient {
    /// The upstream's answer as the caller gets it.
    fn deliver(
        self,
        mut exchange: Box<Exchange>,
        concluded: Concluded,
        after: Continuation,
    ) -> Response<ResponseBody> {
        let (mut head, body) = concluded.answer.into_parts();
        let protocol = match &body {
            AnswerBody::Direct(UpstreamBody::Switched(_)) => head.headers.get(UPGRADE).cloned(),
            AnswerBody::Direct(_) | AnswerBody::Held(_) => None,
        };
        headers::clean_response(&mut head.headers);
        if let Some(route) = exchange.route() {
            head.headers.append(VIA, route.via.line(head.version));
            route.settings.response_headers.apply(&mut head.headers);
        }
        if self.proxy_status == ProxyStatus::Emit && concluded.quality == Quality::Exhausted {
            let value = format!("stent; received-status={}", head.status.as_u16());
            head.headers.extend(HeaderValue::from_str(&value).ok().map(|value| (reply::PROXY_STATUS, value)));
        }
        exchange.answer(head.status, Instant::now());
        let body = match (body, protocol, self.handover) {
            (AnswerBody::Direct(UpstreamBody::Switched(switched)), Some(protocol), Some(handover)) => {
                headers::set_upgrade(&mut head.headers, protocol);
                handover.leave(Tunnel::new(exchange, switched));
                ResponseBody::tunnel()
            }
            (body, _, _) => ResponseBody::flowing(body, exchange, after),
        };
        Response::from_parts(head, body)
    }
}

/// What the record keeps of a request head. A user and a password, which some callers put before the host, it does not.
fn target(head: &Parts) -> Target {
    let header = |name| head.headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let host =
        head.uri.authority().map_or(header(http::header::HOST), |authority| authority.as_str().as_bytes());
    let host = host.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
    Target::new(host, head.uri.path(), head.uri.query().unwrap_or_default(), header(http::header::USER_AGENT))
}

#[cfg(test)]
mod tests;
