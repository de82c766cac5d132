//! What follows a 101: the connection is a tunnel between the caller and the upstream, and carries what they like.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::proxy::exchange::Exchange;
use crate::proxy::replay::AttemptBody;
use crate::record::ExchangeOutcome;
use crate::upstream::body::Switched;

/// Where the pipeline leaves a tunnel for the connection that becomes its caller's end.
///
/// The answer goes through the HTTP codec and the tunnel past it: the codec gives up its socket only when the 101 is
/// written.
#[derive(Clone, Debug, Default)]
pub struct Handover(Rc<RefCell<Option<Tunnel>>>);

impl Handover {
    /// The tunnel that was left here. Dropped, it is on record as left by its caller.
    pub fn take(&self) -> Option<Tunnel> {
        self.0.borrow_mut().take()
    }

    pub(crate) fn leave(&self, tunnel: Tunnel) {
        *self.0.borrow_mut() = Some(tunnel);
    }
}

/// An exchange that has become a tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// None once the exchange is over.
    exchange: Option<Box<Exchange>>,
    /// None once the connection is in use.
    upstream: Option<Switched<AttemptBody>>,
    idle_timeout: Duration,
    passed: Passed,
}

/// What has gone through.
#[derive(Debug)]
struct Passed {
    to_upstream: Cell<u64>,
    to_caller: Cell<u64>,
    last: Cell<Instant>,
}

/// The side that a tunnel broke off at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    AtCaller,
    AtUpstream,
}

impl Tunnel {
    pub(crate) fn new(exchange: Box<Exchange>, upstream: Switched<AttemptBody>) -> Self {
        let idle_timeout = exchange.tunnel_idle_timeout();
        exchange.metrics().tunnels_open.inc();
        let passed =
            Passed { to_upstream: Cell::default(), to_caller: Cell::default(), last: Instant::now().into() };
        Self { exchange: Some(exchange), upstream: Some(upstream), idle_timeout, passed }
    }

    /// Passes bytes both ways until both sides have ended, one breaks off, or nothing passes for too long. `early` is
    /// what came behind the request.
    ///
    /// What passes is not HTTP, so nobody can be asked to end it: a drain lets it go on until `finish_grace` is over.
    pub async fn run<C>(mut self, caller: C, early: Bytes)
    where
        C: AsyncRead + AsyncWrite,
    {
        let outcome = self.pass(caller, early).await;
        self.finish(outcome);
    }

    async fn pass<C>(&mut self, caller: C, early: Bytes) -> ExchangeOutcome
    where
        C: AsyncRead + AsyncWrite,
    {
        let Some(mut upstream) = self.upstream.take() else { return ExchangeOutcome::ProxyAbort };
        let passed = &self.passed;
        passed.last.set(Instant::now());
        let (from_caller, to_caller) = tokio::io::split(caller);
        let (from_upstream, to_upstream) = upstream.split();
        let outwards = async {
            let mut to_upstream = pin!(to_upstream);
            let ends = (Broken::AtCaller, Broken::AtUpstream);
            let outwards = Direction { count: &passed.to_upstream, passed, ends };
            outwards.write(&mut to_upstream, &early).await.map_err(|()| Broken::AtUpstream)?;
            outwards.pump(from_caller, to_upstream).await
        };
        let ends = (Broken::AtUpstream, Broken::AtCaller);
        let to_caller = pin!(to_caller);
        let inwards = Direction { count: &passed.to_caller, passed, ends };
        let inwards = inwards.pump(from_upstream, to_caller);
        tokio::select! {
            biased;
            ended = async { tokio::try_join!(outwards, inwards) } => match ended {
                Ok(_) => ExchangeOutcome::Ok,
                Err(Broken::AtCaller) => ExchangeOutcome::ClientAbort,
                Err(Broken::AtUpstream) => ExchangeOutcome::UpstreamTruncated,
            },
            () = passed.is_idle_for(self.idle_timeout) => ExchangeOutcome::TunnelIdle,
        }
    }

    fn finish(&mut self, outcome: ExchangeOutcome) {
        if let Some(exchange) = self.end() {
            exchange.finish(outcome);
        }
    }

    /// The exchange with what has passed added to it, once.
    fn end(&mut self) -> Option<Box<Exchange>> {
        let mut exchange = self.exchange.take()?;
        exchange.metrics().tunnels_open.dec();
        exchange.add_bytes_in(self.passed.to_upstream.get());
        exchange.add_bytes_out(self.passed.to_caller.get());
        Some(exchange)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.finish(ExchangeOutcome::ClientAbort);
    }
}

impl Passed {
    /// Waits until nothing has passed, either way, for so long.
    async fn is_idle_for(&self, longest: Duration) {
        loop {
            let end = self.last.get() + longest;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// One direction of a tunnel.
struct Direction<'a> {
    /// Counts its bytes.
    count: &'a Cell<u64>,
    passed: &'a Passed,
    /// The sides that it reads and writes.
    ends: (Broken, Broken),
}

impl Direction<'_> {
    /// Passes it on until its end, which is passed on as well.
    async fn pump(
        &self,
        from: impl AsyncRead,
        mut to: std::pin::Pin<&mut impl AsyncWrite>,
    ) -> Result<(), Broken> {
        let mut from = pin!(from);
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = from.read(&mut buffer).await.map_err(|_| self.ends.0)?;
            if read == 0 {
                // The other side may have ended already, and gone.
                let _ = to.shutdown().await;
                return Ok(());
            }
            self.write(&mut to, &buffer[..read]).await.map_err(|()| self.ends.1)?;
        }
    }

    /// Writes all of `bytes`, and counts as they go.
    async fn write(&self, to: &mut std::pin::Pin<&mut impl AsyncWrite>, mut bytes: &[u8]) -> Result<(), ()> {
        while !bytes.is_empty() {
            let written = to.write(bytes).await.map_err(drop)?;
            if written == 0 {
                return Err(());
            }
            bytes = &bytes[written..];
            self.count.set(self.count.get().saturating_add(written as u64));
            self.passed.last.set(Instant::now());
        }
        to.flush().await.map_err(drop)
    }
}

/// What is held of one direction.
const BUFFER: usize = 8 << 10;
