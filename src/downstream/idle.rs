//! What an idle HTTP/1.1 connection holds: hyper's buffers are many times as large as all else of it, so they go.
//!
//! # Invariant
//!
//! An HTTP/1.1 connection that has been idle for a while is nothing but its socket. hyper's half of it goes, and
//! comes back with the next byte. Held by `an_idle_connection_gives_its_buffers_back_and_takes_the_next_request`.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use crate::downstream::limits::Limits;
use crate::downstream::stream::Stream;

/// Waits for the next request with nothing but the socket. None if the connection ends.
pub(super) async fn next_request<S>(
    parts: http1::Parts<TokioIo<Stream>, S>,
    limits: &mut Limits,
) -> Option<Stream> {
    let mut stream = parts.io.into_inner();
    stream.give_back(&parts.read_buf);
    drop(parts.read_buf);
    remind_allocator();
    let mut first = [0; 64];
    let count = limits.within(stream.read(&mut first)).await.ok()?.ok()?;
    stream.give_back(&first[..count]);
    (count > 0).then_some(stream)
}

/// Has the allocator look soon at what was freed. mimalloc gives it to the system a moment later, but only if it is called
/// then: a process in which nothing happens would keep all of it.
fn remind_allocator() {
    thread_local! {
        static IS_DUE: Cell<bool> = const { Cell::new(false) };
    }
    if IS_DUE.replace(true) {
        return;
    }
    tokio::task::spawn_local(async {
        sleep(REMINDER).await;
        // What is freed from here on may be too young to go with the rest.
        IS_DUE.set(false);
        sleep(GRACE).await;
        let mut outsize = Vec::<u8>::new();
        // Where there is no room for it, nothing is lost but the reminder.
        let _ = outsize.try_reserve_exact(OUTSIZE);
        drop(black_box(outsize));
    });
}

/// How many connections rest on one reminder: as many as in this time.
const REMINDER: Duration = Duration::from_secs(1);

/// Longer than mimalloc keeps what is free (`purge_delay`, 1 s).
const GRACE: Duration = Duration::from_millis(1200);

/// So much that it comes straight from the system, which is where mimalloc looks. None of it is touched.
const OUTSIZE: usize = 32 << 20;
