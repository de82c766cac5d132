//! What becomes of an attempt that is given up: its request is at work in the backend, which seldom notices that a
//! connection is closed. So the connection stays open, and the attempt counts as load, until the backend lets go of it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

use super::Progress;
use crate::upstream::admission::{LoadSignal, Slot};

impl Progress {
    /// Whether the attempt counts as load for as long as the backend works on it.
    pub(super) fn counts_when_given_up(&self) -> bool {
        self.slot.borrow().as_ref().is_some_and(Slot::counts_when_given_up)
    }
}

/// Does `work`, which sends a request and waits for its answer. Dropped before that has come, the work goes on by itself,
/// for at most [`LONGEST`], with the attempt's place in flight. `told` says what its end tells about the load.
///
/// How many go on like this at once is bounded by [`Slot::linger`]: the rest are
/// dropped as they are.
pub(super) fn until_let_go<F>(
    work: Pin<Box<F>>,
    progress: &Progress,
    told: fn(&F::Output) -> LoadSignal,
) -> Lingering<'_, F>
where
    F: Future + 'static,
{
    Lingering { work: Some(work), progress, told }
}

pub(super) struct Lingering<'a, F: Future + 'static> {
    /// None when it is done.
    work: Option<Pin<Box<F>>>,
    progress: &'a Progress,
    told: fn(&F::Output) -> LoadSignal,
}

impl<F: Future + 'static> Future for Lingering<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let work = self.work.as_mut().expect("a future that is ready is not polled again");
        let output = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(output)
    }
}

impl<F: Future + 'static> Drop for Lingering<'_, F> {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let Some(slot) = self.progress.slot.take().and_then(Slot::linger) else { return };
        let told = self.told;
        tokio::task::spawn_local(async move {
            let ended = timeout(LONGEST, work).await;
            slot.end(ended.as_ref().map_or(LoadSignal::Nothing, told));
            // The answer is for nobody: with it the connection goes.
        });
    }
}

/// Nobody works for longer on what nobody waits for; and if, its place is wanted.
const LONGEST: Duration = Duration::from_secs(30);
