//! What follows when an answer breaks on its way to the caller: nothing, or the rest of it, asked for and joined on.
//!
//! [`policy::resume`](crate::policy::resume) says when, and what is the rest; the attempts are those of the loop.
//!
//! # Invariants
//!
//! - Once a response head has gone to the caller, no other answer takes its place. Only the rest of the same version
//!   may follow, asked for by the same loop within the same attempts. The exchange moves to the part that asks, so
//!   that it is finished once. Without the rest, the caller's connection is cut. Held by
//!   `a_download_that_breaks_arrives_whole` and `an_answer_that_breaks_after_its_hold_breaks_for_the_caller`.
//! - An answer that needs no rest pays nothing for it. One that is whole is not looked at, and one that cannot be
//!   resumed carries a word. Only one that can be resumed keeps its request's head.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http_body::Body;

use crate::error::UpstreamError;
use crate::policy::request::Repeatable;
use crate::policy::resume::{BreakEnd, Flowing, Holder, Resumable};
use crate::proxy::attempts::{Aim, Answer, Concluded, Outbound, Quality, Transport, resume};
use crate::proxy::exchange::Exchange;
use crate::proxy::hold::AnswerBody;
use crate::proxy::{Proxy, Shared};

/// What follows a break.
#[derive(Debug)]
pub(crate) enum Continuation {
    /// Nothing, for this reason.
    None(BreakEnd),
    /// The rest, when it is needed.
    Ready(Box<Resumption>),
    /// The rest, which is on its way; boxed, so that the answers that need none carry no room for it.
    Running(Box<Running>),
}

/// What it takes to ask for the rest of an answer.
pub(crate) struct Resumption {
    whole: Resumable,
    /// The request, as the upstream gets it.
    head: Rc<Parts>,
    /// Whether what flows is the rest already.
    is_joined: bool,
    sender: Rc<dyn Resend>,
}

/// A resumption under way, which has taken charge of the exchange. Dropped, it is given up.
pub(crate) struct Running(Pin<Box<dyn Future<Output = Ended>>>);

/// What became of a resumption.
pub(crate) struct Ended {
    pub(crate) exchange: Box<Exchange>,
    /// The rest, and what it takes if that breaks too; or the break that the caller is to see.
    pub(crate) outcome: Result<(AnswerBody, Box<Resumption>), UpstreamError>,
}

impl Continuation {
    /// What can follow if the answer breaks. Only an answer that is still to come costs more than a
    /// look.
    pub(crate) fn of<T: Transport + 'static>(
        concluded: &Concluded,
        exchange: &Exchange,
        head: &Rc<Parts>,
        sender: &Rc<Proxy<T>>,
    ) -> Self {
        let answer = &concluded.answer;
        let Some(route) = exchange.route().filter(|_| answer.body().is_coming()) else {
            return Self::None(BreakEnd::Off);
        };
        if concluded.quality == Quality::Exhausted {
            return Self::None(BreakEnd::Status);
        }
        let policy = &route.settings.retry;
        let whole = policy.resumable(&Flowing {
            method: &head.method,
            repeatable: policy.repeatable(&head.method, &head.headers),
            request_body: exchange.body().presence(),
            status: answer.status(),
            headers: answer.headers(),
            length: answer.body().size_hint().exact(),
        });
        match whole {
            Ok(whole) => {
                let (head, sender) = (head.clone(), sender.clone());
                Self::Ready(Box::new(Resumption { whole, head, is_joined: false, sender }))
            }
            Err(why) => Self::None(why),
        }
    }

    /// Whether what flows is the rest of an answer that broke.
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self, Self::Ready(resumption) if resumption.is_joined)
    }

    /// Whether the rest is on its way.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }
}

impl Resumption {
    /// Begins to ask for what is missing.
    pub(crate) fn begin(self: Box<Self>, mut exchange: Box<Exchange>, error: UpstreamError) -> Running {
        exchange.begin_resumption();
        let sender = self.sender.clone();
        Running(sender.resend(exchange, self, error))
    }
}

impl Running {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.0.as_mut().poll(cx)
    }
}

/// A [`Proxy`], whatever carries its attempts: the body of an answer does not know.
trait Resend {
    fn resend(
        self: Rc<Self>,
        exchange: Box<Exchange>,
        resumption: Box<Resumption>,
        error: UpstreamError,
    ) -> Pin<Box<dyn Future<Output = Ended>>>;
}

impl<T: Transport + 'static> Resend for Proxy<T> {
    fn resend(
        self: Rc<Self>,
        mut exchange: Box<Exchange>,
        mut resumption: Box<Resumption>,
        error: UpstreamError,
    ) -> Pin<Box<dyn Future<Output = Ended>>> {
        Box::pin(async move {
            let came = resumption.ask(&mut exchange, error.clone(), &self.transport, &self.shared).await;
            let end = came.as_ref().err().copied().unwrap_or(BreakEnd::Resumed);
            exchange.end_break(end);
            let outcome = came.map(|rest| (rest.into_body(), resumption)).map_err(|_| error);
            Ended { exchange, outcome }
        })
    }
}

impl Resumption {
    /// Asks for what is missing, and gives nothing but exactly that.
    async fn ask<T: Transport>(
        &mut self,
        exchange: &mut Exchange,
        error: UpstreamError,
        transport: &T,
        shared: &Rc<Shared>,
    ) -> Result<Answer, BreakEnd> {
        let route = exchange.route().cloned().ok_or(BreakEnd::Failed)?;
        let cluster = route.action.cluster().ok_or(BreakEnd::Failed)?;
        let rest = self.whole.rest(exchange.bytes_out()).ok_or(BreakEnd::Failed)?;
        let headers = &mut Rc::make_mut(&mut self.head).headers;
        rest.ask(headers);
        // A change of protocol was declined by the answer that broke.
        headers.remove(UPGRADE);
        headers.remove(CONNECTION);
        let only = match self.whole.holder() {
            Holder::Any => None,
            Holder::Same => Some(exchange.book.answered_by().ok_or(BreakEnd::Failed)?),
        };
        let resume_time = route.settings.retry.resume.time;
        let outbound = Outbound {
            route: route.clone(),
            shared: shared.clone(),
            head: self.head.clone(),
            cluster: cluster.clone(),
            repeatable: Repeatable::Always,
            upgrade: None,
            // It counts from the beginning of the exchange.
            deadline: exchange.began().elapsed().saturating_add(resume_time),
            caller_silence: resume_time,
            aim: Aim::Rest { only },
        };
        let followed = resume::follow(exchange, &outbound, error, transport).await;
        let answer = followed.ok_or(BreakEnd::Failed)?;
        let length = answer.body().size_hint().exact();
        match answer.status() {
            status if status.is_server_error() => Err(BreakEnd::Failed),
            status if rest.is(status, answer.headers(), length) => {
                self.is_joined = true;
                Ok(answer)
            }
            _ => Err(BreakEnd::Changed),
        }
    }
}

impl fmt::Debug for Resumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumption").field("whole", &self.whole).finish_non_exhaustive()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
