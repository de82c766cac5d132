//! The attempt loop: pick an endpoint, send, judge, wait, again. Each step has a file.

use std::pin::{Pin, pin};

use http::{Response, Version};
use http_body::Body;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::ProxyError;
use crate::policy::deadline::Limit;
use crate::policy::grpc::GrpcStatus;
use crate::policy::verdict::{Verdict, Veto};
use crate::proxy::exchange::{Exchange, ResponseHead};
use crate::proxy::hold::AnswerBody;
use crate::proxy::rare;

mod admission;
mod back_off;
mod beside;
mod idle_close;
mod judge;
mod outage_queue;
mod outbound;
pub(super) mod resume;
mod send;
mod transport;

use self::admission::Entry;
pub(crate) use self::outbound::{Aim, Outbound};
use self::send::Failure;
pub use self::transport::Transport;

/// A response head, and the body that follows it.
pub(super) type Answer = Response<AnswerBody>;

/// The answer that the caller gets, and whether it is a failure that nothing could mend.
#[derive(Debug)]
pub(crate) struct Concluded {
    pub(crate) answer: Answer,
    pub(crate) quality: Quality,
}

/// Whether an answer is one that the retry policy counts as a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    /// It is, and no further attempt was allowed.
    Exhausted,
    /// It is not.
    Good,
}

/// Makes attempts until one is good enough, a rule forbids another, or nothing is left to try.
pub(crate) async fn run<T: Transport>(
    exchange: &mut Exchange,
    outbound: &Outbound,
    transport: &T,
) -> Result<Concluded, ProxyError> {
    let now = exchange.began();
    outbound.cluster.budget.deposit(outbound.shared.since_start(now));
    let timer = pin!(sleep_until(now));
    let mut attempts = Attempts { exchange, outbound, transport, timer, kept: None, now };
    attempts.run().await.or_else(End::into_concluded)
}

/// The attempts of one exchange.
struct Attempts<'a, T> {
    exchange: &'a mut Exchange,
    outbound: &'a Outbound,
    transport: &'a T,
    /// One timer serves all waits.
    timer: Pin<&'a mut Sleep>,
    /// The last failed answer, in case nothing better comes.
    kept: Option<Box<Answer>>,
    /// The time, read at the end of each wait.
    now: Instant,
}

/// How an attempt ended: an answer, held where that is called for, or a failure.
type Ended = Result<Answer, Failure>;

/// Why the loop ends without the answer of its last attempt.
enum End {
    /// No further attempt can be made, and this answer of an earlier one tells the caller more than a reply of our own.
    Kept(Box<Answer>),
    /// There is no answer: the caller gets the reply to this.
    Reply(ProxyError),
}

impl<T: Transport> Attempts<'_, T> {
    async fn run(&mut self) -> Result<Concluded, End> {
        loop {
            if self.outbound.cluster.outage_queue.is_in_force() {
                rare(self.wait_out_outage()).await?;
            }
            let Entry::Attempt(slot) = self.enter().await? else { continue };
            let attempt = self.begin(slot)?;
            let ended = self.send(&attempt).await?;
            match self.judge(&ended).await {
                Verdict::Retry { after, reason } => rare(self.back_off(ended, after, reason)).await?,
                Verdict::Return => return self.conclude(ended, None),
                Verdict::Stop { why } => return self.conclude(ended, Some(why)),
            }
        }
    }

    /// The end of the loop, by a rule if it was `stopped`: the answer at hand, the best that came earlier, or an error.
    fn conclude(&mut self, ended: Ended, stopped: Option<Veto>) -> Result<Concluded, End> {
        let is_recovery =
            || self.outbound.aim == Aim::Answer && ended.is_ok() && self.exchange.book.has_retried();
        match stopped {
            None if is_recovery() => self.exchange.recover(),
            None => {}
            Some(why) => self.exchange.stop_retrying(why),
        }
        let quality = if stopped.is_none() { Quality::Good } else { Quality::Exhausted };
        match ended {
            Ok(answer) => Ok(Concluded { answer, quality }),
            Err(failure) => Err(self.give_up(match failure.limit {
                Some(Limit::Deadline) => ProxyError::DeadlineExceeded,
                _ => ProxyError::Upstream(failure.error),
            })),
        }
    }

    /// The end where nothing is left to try.
    fn give_up(&mut self, reply: ProxyError) -> End {
        self.kept.take().map_or(End::Reply(reply), End::Kept)
    }
}

impl End {
    fn into_concluded(self) -> Result<Concluded, ProxyError> {
        match self {
            Self::Kept(answer) => Ok(Concluded { answer: *answer, quality: Quality::Exhausted }),
            Self::Reply(error) => Err(error),
        }
    }
}

/// What the exchange's record keeps of an answer.
fn response_head(answer: &Answer) -> ResponseHead {
    ResponseHead { status: answer.status(), grpc: grpc_status(answer) }
}

/// How a call of gRPC has failed, if its answer is whole with the head ("Trailers-Only"). Where trailers follow a body,
/// the caller has the head by then, and it is too late for a retry.
fn grpc_status(answer: &Answer) -> Option<GrpcStatus> {
    if answer.version() != Version::HTTP_2 || !answer.body().is_end_stream() {
        return None;
    }
    GrpcStatus::of_head(answer.status(), answer.headers()).filter(|status| !status.is_ok())
}

#[cfg(test)]
mod tests;
