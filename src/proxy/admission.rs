//! Admission as a [`tower::Layer`]: it stands around what makes an attempt, and lets it begin when the cluster may have one
//! more in flight.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower::{Layer, Service};

use crate::upstream::admission::{Admission, Ask, Refusal, Slot};

/// Puts a cluster's gate in front of a service, for one who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmissionLayer<'a> {
    admission: &'a Arc<Admission>,
    ask: Ask,
}

impl<'a> AdmissionLayer<'a> {
    pub(crate) fn new(admission: &'a Arc<Admission>, ask: Ask) -> Self {
        Self { admission, ask }
    }
}

impl<'a, S> Layer<S> for AdmissionLayer<'a> {
    type Service = Admitted<'a, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Admitted { inner, gate: *self, state: State::New, has_waited: false }
    }
}

/// A service that is ready when there is a place in flight for it, or never, with a [`Refusal`].
///
/// The call takes the place with it. A service that is dropped before it is called gives it back.
#[derive(Debug)]
pub(crate) struct Admitted<'a, S> {
    inner: S,
    gate: AdmissionLayer<'a>,
    state: State,
    has_waited: bool,
}

enum State {
    New,
    /// Boxed, because few wait.
    Waiting(Pin<Box<dyn Future<Output = Result<Slot, Refusal>>>>),
    /// None where nothing is counted.
    Ready(Option<Slot>),
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "New",
            Self::Waiting(_) => "Waiting",
            Self::Ready(_) => "Ready",
        })
    }
}

impl<S> Admitted<'_, S> {
    /// Whether it has not been ready at once.
    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl<S, R> Service<R> for Admitted<'_, S>
where
    S: Service<(R, Option<Slot>)>,
    S::Error: From<Refusal>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.inner.poll_ready(cx))?;
        loop {
            match &mut self.state {
                State::New if self.gate.admission.is_off() => self.state = State::Ready(None),
                State::New => {
                    let AdmissionLayer { admission, ask } = self.gate;
                    self.state = if let Some(slot) = admission.try_enter(ask.now) {
                        State::Ready(Some(slot))
                    } else {
                        self.has_waited = true;
                        State::Waiting(Box::pin(admission.clone().enter(ask)))
                    };
                }
                State::Waiting(wait) => {
                    let slot = ready!(wait.as_mut().poll(cx));
                    self.state = State::New;
                    self.state = State::Ready(Some(slot?));
                }
                State::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }

    fn call(&mut self, request: R) -> S::Future {
        let slot = match std::mem::replace(&mut self.state, State::New) {
            State::Ready(slot) => slot,
            State::New | State::Waiting(_) => panic!("a service is called when it is ready"),
        };
        self.inner.call((request, slot))
    }
}

#[cfg(test)]
mod tests;
