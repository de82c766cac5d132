//! The demo's backend: an HTTP/1.1 server on the loopback with patients, notes and screenings in memory, that fails as
//! [`Faults`] says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::faults::{Fate, Fault, Faults};
use super::ledger::{Counts, Entry, Execution, Ledger, PATIENTS, Shelf};

/// The header under which a POST may safely come twice.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A HOSP that runs on a thread of its own until it is dropped.
#[derive(Debug)]
pub(super) struct Hosp {
    address: SocketAddr,
    ward: Arc<Ward>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Hosp {
    /// Starts one of whose answers `failure_rate` fail; its bursts are timed from `epoch`.
    pub(super) fn start(failure_rate: f64, seed: u64, epoch: Instant) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let ward = Arc::new(Ward {
            epoch,
            state: Mutex::new(State { faults: Faults::new(failure_rate, seed), ledger: Ledger::new() }),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = ward.clone();
        let thread = thread::Builder::new().name("hosp".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, serving) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, ward, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has counted so far.
    pub(super) fn counts(&self) -> Counts {
        self.ward.state().ledger.counts
    }
}

impl Drop for Hosp {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already, and the demo has nothing to add to it.
            let _ = thread.join();
        }
    }
}

/// What HOSP's connections share.
#[derive(Debug)]
struct Ward {
    epoch: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    faults: Faults,
    ledger: Ledger,
}

/// Ends a connection without an answer.
#[derive(Debug, Error)]
#[error("the connection is cut on purpose")]
struct Cut;

async fn accept(listener: &TcpListener, ward: Arc<Ward>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, ward.clone()));
            }
            // Out of descriptors, most likely; accepting again at once would spin.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one connection. The socket is held twice, because hyper owns the first and a reset must be asked of it.
async fn serve(stream: TcpStream, ward: Arc<Ward>) {
    let halves = stream.set_nodelay(true).and_then(|()| stream.into_std()).and_then(|stream| {
        let control = stream.try_clone()?;
        Ok((TcpStream::from_std(stream)?, control))
    });
    let Ok((stream, control)) = halves else { return };
    let service = service_fn(|request| {
        let (ward, control) = (&ward, &control);
        async move {
            let answer = ward.answer(request).await;
            if answer.is_err() {
                // Without it the peer would see a polite end of the stream instead of a reset.
                let _ = socket2::SockRef::from(control).set_linger(Some(Duration::ZERO));
            }
            answer
        }
    });
    // An error is a peer that left or a connection that was cut on purpose: neither is news.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Ward {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let (head, body) = request.into_parts();
        let entry = if head.method == Method::POST {
            let body = timeout(BODY_PATIENCE, Limited::new(body, BODY_LIMIT).collect()).await;
            let Ok(Ok(body)) = body else { return Err(Cut) };
            match serde_json::from_slice(&body.to_bytes()) {
                Ok(entry) => Some(entry),
                Err(_) => return Ok(answer(StatusCode::BAD_REQUEST, r#"{"error":"not an entry"}"#)),
            }
        } else {
            None
        };

        let fate = self.fate(&head.method);
        sleep(fate.delay).await;
        let good = if fate.executes { Some(self.carry_out(&head, entry, &fate)) } else { None };
        match (fate.fault, good) {
            (None, Some(answer)) => Ok(answer),
            (Some(Fault::Hang), _) => {
                // hyper drops this future when the peer leaves, which is what ends nearly every hang.
                sleep(MAX_HANG).await;
                Err(Cut)
            }
            (Some(Fault::Status(status)), _) => Ok(answer(status, r#"{"error":"HOSP is unwell"}"#)),
            (Some(Fault::Reset) | None, _) => Err(Cut),
        }
    }

    fn fate(&self, method: &Method) -> Fate {
        let elapsed = self.epoch.elapsed();
        let mut state = self.state();
        let fate = state.faults.next(elapsed, method);
        let counts = &mut state.ledger.counts;
        counts.answers += 1;
        counts.failed += u64::from(fate.fault.is_some());
        fate
    }

    fn carry_out(
        &self,
        head: &http::request::Parts,
        entry: Option<Entry>,
        fate: &Fate,
    ) -> Response<Full<Bytes>> {
        let path = head.uri.path().trim_start_matches("/api/");
        let segments: Vec<_> = path.split('/').collect();
        let (place, id) = match *segments {
            ["patients"] => return answer(StatusCode::OK, patients()),
            ["patients", id] => (None, id),
            ["patients", id, "notes"] => (Some(Shelf::Notes), id),
            ["screenings", id] => (Some(Shelf::Screenings), id),
            _ => return answer(StatusCode::NOT_FOUND, r#"{"error":"no such place"}"#),
        };
        let Some(patient) = id.parse().ok().filter(|id| (1..=PATIENTS).contains(id)) else {
            return answer(StatusCode::NOT_FOUND, r#"{"error":"no such patient"}"#);
        };
        match (place, entry) {
            (None, None) if head.method == Method::GET => {
                answer(StatusCode::OK, described(patient).to_string())
            }
            (Some(place), None) if head.method == Method::GET => {
                answer(StatusCode::OK, self.state().ledger.list(place, patient).to_string())
            }
            (Some(place), Some(entry)) => {
                let key = head.headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok());
                let mut state = self.state();
                let (body, execution) = state.ledger.post(place, patient, entry, key);
                if execution == Execution::First && fate.fault.is_some() {
                    state.ledger.counts.executed_then_failed += 1;
                }
                answer(StatusCode::CREATED, body)
            }
            _ => answer(StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"not here"}"#),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn patients() -> String {
    let patients: Vec<_> = (1..=PATIENTS).map(described).collect();
    serde_json::json!({ "patients": patients }).to_string()
}

fn described(patient: u32) -> serde_json::Value {
    serde_json::json!({ "patient": patient, "ward": patient % 4 + 1, "bed": patient % 13 + 1 })
}

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const BODY_LIMIT: usize = 64 << 10;
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any caller of the demo waits.
const MAX_HANG: Duration = Duration::from_mins(1);
