//! The use of an HTTP/1.1 connection by one exchange.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::Pool;
use crate::error::UpstreamError;
use crate::upstream::connect::Connection;
use crate::upstream::endpoint::InFlight;

/// The use of a connection while the body of its answer flows. Dropped, it closes the connection.
#[derive(Debug)]
pub(in crate::upstream) struct Lease<B> {
    connection: Held<B>,
    pool: Rc<Pool<B>>,
    _in_flight: InFlight,
}

/// Who has the connection.
#[derive(Debug)]
enum Held<B> {
    Alone(Box<Connection<B>>),
    Shared(Shared<B>),
}

/// A connection that a task of its own uses as well, to send what is left of the request: whoever reads the answer may
/// be kept waiting by a caller that reads nothing before it has sent everything.
struct Shared<B> {
    /// None once the exchange is over.
    connection: Rc<RefCell<Option<Box<Connection<B>>>>>,
    sender: AbortHandle,
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    pub(super) fn new(connection: Box<Connection<B>>, pool: Rc<Pool<B>>, in_flight: InFlight) -> Self {
        let connection = if connection.is_sending() {
            Held::Shared(Shared::new(connection))
        } else {
            Held::Alone(connection)
        };
        Self { connection, pool, _in_flight: in_flight }
    }

    /// Reads on in the body of the answer.
    pub(in crate::upstream) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match &mut self.connection {
            Held::Alone(connection) => connection.poll_body(cx),
            Held::Shared(shared) => match &mut *shared.connection.borrow_mut() {
                Some(connection) => connection.poll_body(cx),
                None => Poll::Ready(None),
            },
        }
    }

    /// Gives the connection back, because its answer has ended.
    pub(in crate::upstream) fn end(self) {
        match self.connection {
            Held::Alone(connection) => self.pool.put(connection),
            Held::Shared(shared) => {
                if let Some(connection) = shared.connection.take() {
                    self.pool.put(connection);
                }
            }
        }
    }
}

impl<B> Lease<B> {
    fn look<T>(&self, at: impl FnOnce(&Connection<B>) -> T) -> Option<T> {
        match &self.connection {
            Held::Alone(connection) => Some(at(connection)),
            Held::Shared(shared) => shared.connection.borrow().as_deref().map(at),
        }
    }

    /// Whether nothing of the answer is left.
    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.look(Connection::is_end_stream).unwrap_or(true)
    }

    /// What is known of the rest of the answer's body.
    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        self.look(Connection::size_hint).unwrap_or_default()
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    fn new(connection: Box<Connection<B>>) -> Self {
        let connection = Rc::new(RefCell::new(Some(connection)));
        let shared = connection.clone();
        let sending = poll_fn(move |cx| match &mut *shared.borrow_mut() {
            Some(connection) => connection.poll_rest(cx),
            None => Poll::Ready(()),
        });
        Self { connection, sender: tokio::task::spawn_local(sending).abort_handle() }
    }
}

impl<B> Drop for Shared<B> {
    fn drop(&mut self) {
        self.connection.take();
        self.sender.abort();
    }
}

impl<B> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
