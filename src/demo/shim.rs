//! SHIM, to be deleted once `config::parse` and `app::start` exist: a bare retrying forwarder with the same interface,
//! so that the demo can be built and tried before them.

#![expect(clippy::unnecessary_wraps, clippy::unwrap_used, reason = "it goes")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Delivery, ErrorClass, Origin, UpstreamErrorKind};
use crate::policy::backoff::{Backoff, Jitter};
use crate::policy::retry::{BodyState, Circumstances, Outcome, RetryPolicy, Untried, Upgrade, Verdict};
use crate::record::metrics::Metrics;

pub(super) type StartError = io::Error;
pub(super) type ConfigErrors = std::convert::Infallible;

#[derive(Debug)]
pub(super) struct Config(SocketAddr);

#[derive(Debug)]
pub(super) struct Running {
    listeners: Vec<SocketAddr>,
    admin: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Running {
    pub(super) fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }
    pub(super) fn admin(&self) -> SocketAddr {
        self.admin
    }
    pub(super) fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

pub(super) fn parse(text: &str, _name: &str) -> Result<Config, ConfigErrors> {
    let table: toml::Table = toml::from_str(text).expect("valid TOML");
    let url = table["cluster"]["hosp"]["endpoints"][0].as_str().expect("an endpoint").to_owned();
    Ok(Config(url.trim_start_matches("http://").parse().expect("an address")))
}

pub(super) fn start(config: &Config) -> Result<Running, StartError> {
    let hosp = config.0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (proxy, admin) = runtime.block_on(async {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        io::Result::Ok((bind().await?, bind().await?))
    })?;
    let (listeners, admin_address) = (vec![proxy.local_addr()?], admin.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let metrics = Arc::new(Metrics::new());
    let thread = thread::spawn(move || {
        runtime.block_on(async {
            tokio::spawn(serve(proxy, hosp, metrics.clone(), false));
            tokio::spawn(serve(admin, hosp, metrics, true));
            let _ = stopped.await;
        });
    });
    Ok(Running { listeners, admin: admin_address, stop, thread })
}

async fn serve(listener: TcpListener, hosp: SocketAddr, metrics: Arc<Metrics>, admin: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async {
                if admin {
                    return Ok(Response::new(Full::new(Bytes::from(metrics.render()))));
                }
                forward(request, hosp, &metrics).await
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn forward(
    request: Request<Incoming>,
    hosp: SocketAddr,
    metrics: &Metrics,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let policy = RetryPolicy {
        max_attempts: 6,
        backoff: Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(1), Jitter::Equal).unwrap(),
        ..RetryPolicy::default()
    };
    let (route, endpoint) = (metrics.route("all"), metrics.endpoint("hosp", "hosp"));
    std::mem::forget(endpoint.clone());
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let repeatable = policy.repeatable(&head.method, &head.headers);
    let mut attempt = 1;
    let response = loop {
        let try_once = async {
            let stream = TcpStream::connect(hosp).await.ok()?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            let mut request = Request::from_parts(head.clone(), Full::new(body.clone()));
            request.extensions_mut().clear();
            let response = sender.send_request(request).await.ok()?;
            let (head, body) = response.into_parts();
            Some(Response::from_parts(head, Full::new(body.collect().await.ok()?.to_bytes())))
        };
        let result = tokio::time::timeout(Duration::from_secs(1), try_once).await;
        let outcome = match &result {
            Ok(Some(response)) => {
                endpoint.answered(response.status()).inc();
                Outcome::Answered { status: response.status(), retry_after: None }
            }
            Ok(None) => {
                endpoint.failed(UpstreamErrorKind::ConnectionTerminated).inc();
                Outcome::Failed { class: Some(ErrorClass::Reset), delivery: Delivery::Maybe }
            }
            Err(_) => {
                endpoint.failed(UpstreamErrorKind::HeadTimeout).inc();
                Outcome::Failed { class: Some(ErrorClass::Timeout), delivery: Delivery::Maybe }
            }
        };
        let around = Circumstances {
            attempt,
            repeatable,
            body: BodyState::Whole,
            upgrade: Upgrade::None,
            untried: Untried::None,
            time_left: Duration::from_secs(4),
            random: fastrand::f64(),
        };
        if let Verdict::Retry { after, reason } = policy.decide(outcome, &around) {
            attempt += 1;
            route.retries(reason).inc();
            tokio::time::sleep(after).await;
            continue;
        }
        let failed = || {
            let mut response = Response::new(Full::new(Bytes::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        };
        break result.ok().flatten().unwrap_or_else(failed);
    };
    route.requests(response.status().as_u16(), Origin::Upstream).inc();
    if attempt > 1 && response.status().is_success() {
        route.recovered.inc();
    }
    Ok(response)
}
