//! A scripted upstream and a scripted request body, for tests of the pipeline in paused time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::fields::rules::HeaderRules;
use crate::fields::via::Via;
use crate::policy::admission::{AdmissionSettings, Limit};
use crate::policy::backoff::{Backoff, Jitter, Mode};
use crate::policy::budget::BudgetSettings;
use crate::policy::hedge::Hedging;
use crate::policy::outage::OutageQueueSettings;
use crate::policy::settings::RetryPolicy;
use crate::proxy::attempts::Transport;
use crate::proxy::body::{Caller, Inbound, ProxyStatus, RequestBody, ResponseBody, Trust};
use crate::proxy::pieces::{FirmMemory, ReplayMemory};
use crate::proxy::replay::AttemptBody;
use crate::proxy::upgrade::Handover;
use crate::proxy::{Proxy, Shared, Site};
use crate::record::QueryPolicy;
use crate::record::log::LogSender;
use crate::record::metrics::Metrics;
use crate::route::{Action, PathPattern, Pattern, Route, RouteSettings, RouteTable};
use crate::upstream::body::UpstreamBody;
use crate::upstream::body::testing::{Part, ScriptedAnswer};
use crate::upstream::cluster::Cluster;
use crate::upstream::cluster::tests::settings;
use crate::upstream::pool::Sending;
use crate::upstream::settings::{Balance, ClusterSettings};

/// What the scripted upstream does with one attempt.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Takes the request body, waits, and answers.
    Answer(Duration, u16, Vec<(&'static str, String)>, &'static str),
    /// Answers with a body that comes in parts, announced with a length or not.
    Stream(u16, Vec<(&'static str, &'static str)>, Option<u64>, Vec<Part>),
    /// Answers without taking the request body.
    AnswerEarly(u16),
    /// Takes the first so many parts of the request body, and breaks off.
    BreakAfterParts(usize),
    /// Takes a part of the request body each time so much has passed, and answers when there is none left.
    Trickle(Duration),
    /// Takes the first so many parts of the request body, and breaks off so much later.
    StallAfterParts(usize, Duration),
    /// Fails at once.
    Fail(UpstreamErrorKind, Delivery),
    /// Has the whole request and never answers.
    Hang,
}

/// What the scripted upstream saw of one attempt.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Since the exchange's start.
    pub(crate) at: Duration,
    pub(crate) port: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
}

/// An upstream that follows a script.
#[derive(Debug)]
pub(crate) struct Script {
    steps: RefCell<VecDeque<Step>>,
    /// What follows the steps, by the time since the start.
    then: Option<fn(Duration) -> Step>,
    pub(crate) seen: RefCell<Vec<Seen>>,
    start: Instant,
}

impl Transport for Script {
    async fn send(
        &self,
        request: Sending<'_>,
        mut body: AttemptBody,
    ) -> Result<Response<UpstreamBody<AttemptBody>>, UpstreamError> {
        let Sending { endpoint, head, progress, .. } = request;
        let step = self.steps.borrow_mut().pop_front();
        let step = step.or_else(|| self.then.map(|then| then(self.start.elapsed())));
        let step = step.expect("the script has a step for every attempt");
        let index = self.seen.borrow().len();
        let (at, port) = (self.start.elapsed(), endpoint.address.port());
        self.seen.borrow_mut().push(Seen { at, port, headers: head.headers.clone(), body: None });
        progress.set_sent(!matches!(step, Step::Fail(_, Delivery::Never)));
        let terminated = UpstreamError::new(UpstreamErrorKind::ConnectionTerminated, Delivery::Maybe);
        if let Step::Stream(status, headers, length, parts) = step {
            let mut response = Response::new(UpstreamBody::Scripted(ScriptedAnswer::new(parts, length)));
            *response.status_mut() = status.try_into().unwrap();
            for (name, value) in headers {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            return Ok(response);
        }
        let (status, headers, text) = match step {
            Step::Stream(..) => unreachable!("answered above"),
            Step::AnswerEarly(status) => (status, Vec::new(), ""),
            Step::Fail(kind, delivery) => return Err(UpstreamError::new(kind, delivery)),
            Step::BreakAfterParts(parts) | Step::StallAfterParts(parts, _) => {
                for _ in 0..parts {
                    let _ = body.frame().await;
                }
                if let Step::StallAfterParts(_, time) = step {
                    sleep(time).await;
                }
                return Err(terminated);
            }
            Step::Trickle(pause) => {
                while body.frame().await.is_some() {
                    sleep(pause).await;
                }
                (200, Vec::new(), "")
            }
            Step::Hang | Step::Answer(..) => {
                let Ok(collected) = body.collect().await else { return Err(terminated) };
                self.seen.borrow_mut()[index].body = Some(collected.to_bytes());
                match step {
                    Step::Answer(after, status, headers, text) => {
                        sleep(after).await;
                        (status, headers, text)
                    }
                    _ => std::future::pending().await,
                }
            }
        };
        let bytes = (!text.is_empty()).then(|| Bytes::from_static(text.as_bytes()));
        let mut response = Response::new(UpstreamBody::Kept(bytes));
        *response.status_mut() = status.try_into().unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Ok(response)
    }
}

/// An answer at once.
pub(crate) fn answer(status: u16) -> Step {
    Step::Answer(Duration::ZERO, status, Vec::new(), "")
}

/// A proxy before a scripted upstream, with what a test may look at.
pub(crate) struct Stage {
    pub(crate) proxy: Rc<Proxy<Script>>,
    pub(crate) route: Arc<Route>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) memory: Arc<ReplayMemory>,
    pub(crate) answer_memory: Arc<FirmMemory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) start: Instant,
}

/// A policy whose waits are exact: 100 ms, 200 ms, 400 ms, ...
pub(crate) fn exact_policy() -> RetryPolicy {
    let backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(2), Jitter::None);
    RetryPolicy {
        max_attempts: 4,
        backoff: backoff.unwrap().in_mode(Mode::Fixed),
        idempotency_header: Some(HeaderName::from_static("idempotency-key")),
        ..RetryPolicy::default()
    }
}

impl Stage {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::with(steps, 1, exact_policy(), BudgetSettings::default())
    }

    /// A stage whose cluster has an outage queue, and whose upstream does what `then` says at each time.
    pub(crate) fn with_outage_queue(
        outage_queue: OutageQueueSettings,
        retry: RetryPolicy,
        then: fn(Duration) -> Step,
    ) -> Self {
        let settings = ClusterSettings { outage_queue, ..settings(1, Balance::RoundRobin) };
        Self::of(settings, [], Some(then), retry)
    }

    /// A stage whose cluster has so many attempts in flight at most.
    pub(crate) fn with_limit(
        limit: NonZeroU32,
        steps: impl IntoIterator<Item = Step>,
        retry: RetryPolicy,
    ) -> Self {
        let admission = AdmissionSettings::new(Limit::Fixed(limit), 1, Duration::from_secs(1)).unwrap();
        let settings = ClusterSettings { admission, ..settings(1, Balance::RoundRobin) };
        Self::of(settings, steps, None, retry)
    }

    pub(crate) fn with(
        steps: impl IntoIterator<Item = Step>,
        endpoints: u16,
        retry: RetryPolicy,
        budget: BudgetSettings,
    ) -> Self {
        Self::of(ClusterSettings { budget, ..settings(endpoints, Balance::RoundRobin) }, steps, None, retry)
    }

    fn of(
        settings: ClusterSettings,
        steps: impl IntoIterator<Item = Step>,
        then: Option<fn(Duration) -> Step>,
        retry: RetryPolicy,
    ) -> Self {
        let metrics = Arc::new(Metrics::new());
        let cluster = Arc::new(Cluster::new(settings, metrics.clone()));
        let pattern =
            Pattern { scheme: None, host: None, path: PathPattern::parse("/*").unwrap(), methods: None };
        let settings = RouteSettings {
            name: "all".into(),
            pattern: pattern.clone(),
            action: Action::Forward("hosp".into()),
            origin_guard: None,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            deadline: Duration::from_secs(25),
            max_body: 100_000,
            log_query: QueryPolicy::Redacted,
            upgrades: Arc::new(["websocket".into()]),
            tunnel_idle_timeout: Duration::from_mins(5),
            retry,
        };
        let route = Arc::new(Route {
            hedging: Hedging::new(&settings.retry),
            settings,
            action: Action::Forward(cluster.clone()),
            origin_refused: None,
            metrics: Arc::new(metrics.route("all")),
            via: Via::new("stent").unwrap(),
        });
        let memory = Arc::new(ReplayMemory::new(500, metrics.replay_overflow.clone()));
        let answer_memory = Arc::new(FirmMemory::new(10_000));
        let start = Instant::now();
        let shared = Shared {
            log: LogSender::off(),
            unmatched: Arc::new(metrics.route("none")),
            replay_memory: memory.clone(),
            answer_memory: answer_memory.clone(),
            start,
            is_stopping: Arc::default(),
            random: fastrand::Rng::with_seed(1).into(),
        };
        let site = Site { routes: RouteTable::new([(pattern, route.clone())]) };
        let steps = RefCell::new(steps.into_iter().collect());
        let script = Script { steps, then, seen: RefCell::default(), start };
        let site = Arc::new(ArcSwap::from_pointee(site));
        Self {
            proxy: Rc::new(Proxy::new(site, script, Rc::new(shared))),
            route,
            cluster,
            memory,
            answer_memory,
            metrics,
            start,
        }
    }

    /// The same stage with the route changed.
    pub(crate) fn with_route(mut self, change: impl FnOnce(&mut Route)) -> Self {
        let Route { settings, action, metrics, origin_refused, via, hedging: _ } = &*self.route;
        let mut route = Route {
            hedging: None,
            settings: settings.clone(),
            action: action.clone(),
            metrics: metrics.clone(),
            origin_refused: origin_refused.clone(),
            via: via.clone(),
        };
        change(&mut route);
        route.hedging = Hedging::new(&route.settings.retry);
        self.route = Arc::new(route);
        let routes = RouteTable::new([(self.route.settings.pattern.clone(), self.route.clone())]);
        self.proxy.site.store(Arc::new(Site { routes }));
        self
    }

    pub(crate) async fn send(&self, method: Method, body: ScriptedBody) -> Response<ResponseBody> {
        self.send_with(method, &[], body).await
    }

    pub(crate) async fn send_with(
        &self,
        method: Method,
        headers: &[(&'static str, &'static str)],
        body: ScriptedBody,
    ) -> Response<ResponseBody> {
        let Ok(response) = self.proxy.clone().handle(request(method, headers, body)).await;
        response
    }

    pub(crate) async fn get(&self) -> Response<ResponseBody> {
        self.send(Method::GET, ScriptedBody::empty()).await
    }

    /// When each attempt began, in milliseconds.
    pub(crate) fn attempts_at(&self) -> Vec<u128> {
        self.proxy.transport.seen.borrow().iter().map(|seen| seen.at.as_millis()).collect()
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.proxy.transport.seen.borrow().iter().map(|seen| seen.port).collect()
    }

    /// What each attempt got of the request body.
    pub(crate) fn bodies(&self) -> Vec<Option<Bytes>> {
        self.proxy.transport.seen.borrow().iter().map(|seen| seen.body.clone()).collect()
    }
}

/// A request as a listener gives it to the proxy.
pub(crate) fn request(
    method: Method,
    headers: &[(&'static str, &'static str)],
    body: ScriptedBody,
) -> Request<Inbound> {
    let caller = Caller {
        client: [192, 0, 2, 1].into(),
        read_buffer: 0,
        body_timeout: Duration::from_secs(30),
        proxy_status: ProxyStatus::Emit,
        refusal: None,
        trust: Trust::No,
        tls: None,
    };
    let mut request = Request::new(Inbound {
        body: RequestBody::Scripted(body),
        caller,
        handover: Some(Handover::default()),
    });
    *request.method_mut() = method;
    *request.uri_mut() = "/api/x?y=z".parse().unwrap();
    request.headers_mut().insert(HOST, HeaderValue::from_static("hosp.example.org"));
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    request
}

/// The text of an answer.
pub(crate) async fn text(response: Response<ResponseBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A body whose parts a test sends.
#[derive(Debug)]
pub struct ScriptedBody {
    parts: mpsc::UnboundedReceiver<Bytes>,
    length: Option<u64>,
    is_empty: bool,
}

impl ScriptedBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        let (_, parts) = mpsc::unbounded_channel();
        Self { parts, length: Some(0), is_empty: true }
    }

    /// A body of parts that are there from the start.
    pub(crate) fn of(parts: &[&'static str]) -> Self {
        let (send, body) = Self::open(None);
        for part in parts {
            send.send(Bytes::from_static(part.as_bytes())).unwrap();
        }
        body
    }

    /// A body that ends when its sender is dropped.
    pub(crate) fn open(length: Option<u64>) -> (mpsc::UnboundedSender<Bytes>, Self) {
        let (send, parts) = mpsc::unbounded_channel();
        (send, Self { parts, length, is_empty: false })
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.parts.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.is_empty
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
