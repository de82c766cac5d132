//! The bodies that pass through: the caller's request body, and the answer's body, at whose end the record is written.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::error::{ProxyError, RequestFault, UpstreamError};
use crate::fields::rules::Side;
use crate::policy::resume::BreakEnd;
use crate::proxy::exchange::Exchange;
use crate::proxy::headers;
use crate::proxy::hold::AnswerBody;
use crate::proxy::resume::{Continuation, Ended};
use crate::proxy::tls::TlsCaller;
use crate::proxy::upgrade::Handover;
use crate::record::ExchangeOutcome;
use crate::upstream::body::UpstreamBody;

/// What comes in with a request head: who sent it, and the body.
#[derive(Debug)]
pub struct Inbound {
    /// The body.
    pub body: RequestBody,
    /// Who sent it.
    pub caller: Caller,
    /// Where a tunnel is left, if the caller's connection can become one.
    pub handover: Option<Handover>,
}

/// What the listener knows of who sent a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's address, found through the trusted proxies.
    pub client: IpAddr,
    /// The most memory that a part of the request body keeps alive, whatever its length.
    pub read_buffer: usize,
    /// The longest silence inside the request body.
    pub body_timeout: Duration,
    /// Whether answers carry `Proxy-Status`.
    pub proxy_status: ProxyStatus,
    /// Whether what its peer says about the way of a request is believed.
    pub trust: Trust,
    /// What its connection's handshake said; none without TLS.
    pub tls: Option<Rc<TlsCaller>>,
    /// Why the listener refuses the request, if it does.
    pub refusal: Option<Refusal>,
}

/// Whether a peer's word on who sent a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is a client, or might be.
    No,
    /// It is one of `trusted_proxies`.
    Yes,
}

/// Why a listener refuses a request, whatever its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is malformed.
    Fault(RequestFault),
    /// It lacks the secret that the listener asks for.
    Origin,
}

impl From<Refusal> for ProxyError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Fault(fault) => Self::BadRequest(fault),
            Refusal::Origin => Self::OriginRefused,
        }
    }
}

/// Whether answers tell outsiders about our inside (RFC 9209).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyStatus {
    /// They do.
    Emit,
    /// They do not.
    Omit,
}

/// The body of a request.
#[derive(Debug)]
pub enum RequestBody {
    /// From a connection.
    Incoming(Incoming),
    /// Parts that are there.
    #[cfg(feature = "bench")]
    Parts(std::vec::IntoIter<Bytes>),
    /// From a test.
    #[cfg(test)]
    Scripted(crate::proxy::testing::ScriptedBody),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
            #[cfg(feature = "bench")]
            Self::Parts(parts) => Poll::Ready(parts.next().map(|part| Ok(Frame::data(part)))),
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(incoming) => incoming.is_end_stream(),
            #[cfg(feature = "bench")]
            Self::Parts(parts) => parts.len() == 0,
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(incoming) => incoming.size_hint(),
            #[cfg(feature = "bench")]
            Self::Parts(_) => SizeHint::default(),
            #[cfg(test)]
            Self::Scripted(scripted) => scripted.size_hint(),
        }
    }
}

/// The body of the answer to a caller. When it ends, breaks or is dropped, the exchange is over and on record.
#[derive(Debug)]
pub struct ResponseBody {
    inner: AnswerBody,
    /// None once the exchange is over, or goes on in a tunnel.
    exchange: Option<Box<Exchange>>,
    /// What follows if it breaks. While that is on its way, it has the exchange.
    after: Continuation,
}

impl ResponseBody {
    pub(crate) fn new(inner: impl Into<AnswerBody>, exchange: Box<Exchange>) -> Self {
        Self::flowing(inner.into(), exchange, Continuation::None(BreakEnd::Off))
    }

    /// A body after whose break `after` follows.
    pub(crate) fn flowing(inner: AnswerBody, exchange: Box<Exchange>, after: Continuation) -> Self {
        Self { inner, exchange: Some(exchange), after }
    }

    /// The body of a 101, after which the exchange goes on in a tunnel.
    pub(crate) fn tunnel() -> Self {
        let after = Continuation::None(BreakEnd::Off);
        Self { inner: UpstreamBody::Kept(None).into(), exchange: None, after }
    }

    fn finish(&mut self, outcome: ExchangeOutcome) {
        if let Some(exchange) = self.exchange.take() {
            exchange.finish(outcome);
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let mut polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &mut polled {
            Poll::Pending | Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers, Side::Response);
                    if self.after.is_joined() {
                        trailers.clear(); // they are of a part
                    }
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if let Some(exchange) = &mut self.exchange {
                    exchange.add_bytes_out(bytes as u64);
                }
                if self.inner.is_end_stream() {
                    self.finish(ExchangeOutcome::Ok);
                }
            }
            Poll::Ready(None) => self.finish(ExchangeOutcome::Ok),
        }
        polled
    }

    /// Begins what follows a break, or gives the error back if nothing does.
    fn go_on(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        let after = std::mem::replace(&mut self.after, Continuation::None(BreakEnd::Failed));
        match (after, self.exchange.take()) {
            (Continuation::Ready(resumption), Some(exchange)) => {
                // The broken body goes at once: what it holds of its connection may be needed.
                self.inner = UpstreamBody::Kept(None).into();
                self.after = Continuation::Running(Box::new(resumption.begin(exchange, error)));
                Ok(())
            }
            (Continuation::None(why), Some(mut exchange)) => {
                exchange.end_break(why);
                exchange.finish(ExchangeOutcome::UpstreamTruncated);
                Err(error)
            }
            (_, _) => Err(error), // it is over, and on record
        }
    }

    /// Looks after the rest that is on its way, and takes it, or the error that takes its place.
    fn poll_after(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let Continuation::Running(running) = &mut self.after else { return Poll::Ready(Ok(())) };
        let Ended { exchange, outcome } = ready!(running.poll(cx));
        Poll::Ready(match outcome {
            Ok((rest, resumption)) => {
                self.exchange = Some(exchange);
                self.inner = rest;
                self.after = Continuation::Ready(resumption);
                Ok(())
            }
            Err(error) => {
                self.after = Continuation::None(BreakEnd::Failed);
                exchange.finish(ExchangeOutcome::UpstreamTruncated);
                Err(error)
            }
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    /// After an error the caller's connection is closed without a clean end, so that the caller can tell.
    type Error = UpstreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        loop {
            ready!(self.poll_after(cx))?;
            match self.poll_inner(cx) {
                Poll::Ready(Some(Err(error))) => self.go_on(error)?,
                polled => return polled,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.after.is_running() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.after.is_running() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper does not poll a body that says it is empty, nor one whose announced length it has written.
        let whole = self.is_end_stream();
        self.finish(if whole { ExchangeOutcome::Ok } else { ExchangeOutcome::ClientAbort });
    }
}
