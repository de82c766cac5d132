//! Which idle connection closes where this machine has no descriptor or no memory for a new one.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Pool, Siblings};

impl<B> Pool<B> {
    /// Closes the oldest idle HTTP/1.1 connection of this worker. If it has none, every worker closes what is idle, and a
    /// caller's idle connection closes too.
    ///
    /// The evidence is the system's own error for this connect. It costs a bystander one connect more, and no request:
    /// only connections close that carry nothing.
    pub(super) async fn make_room(&self) {
        let Some(siblings) = self.siblings.upgrade() else { return };
        if close_oldest(&siblings) {
            return;
        }
        for (_, pool) in siblings.borrow().iter() {
            pool.endpoint.connections.ask_for_idle();
        }
        self.relief.wait().await;
        sleep(MOMENT).await;
    }

    /// Since when the oldest idle HTTP/1.1 connection is idle.
    fn oldest(&self) -> Option<Instant> {
        self.idle.borrow().front().map(|connection| connection.idle_since())
    }
}

/// Closes the oldest idle HTTP/1.1 connection of these pools; false if there is none.
fn close_oldest<B>(siblings: &Siblings<B>) -> bool {
    let pools = siblings.borrow();
    let idle = pools.iter().filter_map(|(_, pool)| Some((pool.oldest()?, pool)));
    let oldest = idle.min_by_key(|(since, _)| *since);
    oldest.is_some_and(|(_, pool)| pool.idle.borrow_mut().pop_front().is_some())
}

/// How long the tasks that keep the pools may take to hear of it.
const MOMENT: Duration = Duration::from_millis(5);
