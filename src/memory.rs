//! Connections in memory in the place of sockets, so that `bench/instructions.rs` counts what Stent does and no timing of
//! the system's. Built for it only.

use std::cell::{Cell, RefCell};

use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

thread_local! {
    static CALLER: Cell<Option<DuplexStream>> = const { Cell::new(None) };
    static BACKEND: RefCell<Option<UnboundedSender<DuplexStream>>> = const { RefCell::new(None) };
}

/// A caller's end: the next connection that this thread serves has the other, whatever socket it came with.
pub fn call() -> DuplexStream {
    let (ours, theirs) = duplex(CAPACITY);
    CALLER.set(Some(theirs));
    ours
}

/// The proxy's end of the last [`call`], once.
pub(crate) fn answer() -> Option<DuplexStream> {
    CALLER.take()
}

/// The backend's ends of the connections that this thread opens from now on, whatever their address is.
pub fn listen() -> UnboundedReceiver<DuplexStream> {
    let (sender, receiver) = unbounded_channel();
    BACKEND.set(Some(sender));
    receiver
}

/// The proxy's end of a new connection; none unless somebody [`listen`]s.
pub(crate) fn dial() -> Option<DuplexStream> {
    BACKEND.with_borrow(|backend| {
        let (ours, theirs) = duplex(CAPACITY);
        backend.as_ref()?.send(theirs).ok()?;
        Some(ours)
    })
}

/// What a connection takes before its other end reads: about as much as a socket on loopback.
const CAPACITY: usize = 256 << 10;
