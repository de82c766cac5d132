//! The part of a pool that speaks HTTP/2: few connections, each shared by many exchanges.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::TE;
use http::{HeaderMap, HeaderName, Response};
use http_body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Granted, Pool, Progress, Sending};
use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};
use crate::fields::is_token;
use crate::policy::authentication::binds_connection;
use crate::policy::request::Repeatable;
use crate::upstream::body::UpstreamBody;
use crate::upstream::connect::{self, Connection, Fresh, SendFailure};
use crate::upstream::endpoint::InFlight;
use crate::upstream::http1::wire::{Outgoing, Unanswered};
use crate::upstream::http2::body::Multiplexed;
use crate::upstream::http2::{SharedConnection, Upload};
use crate::upstream::queue::{Owner, Place, Queue};

/// What carries one exchange.
#[derive(Debug)]
pub(super) enum Carrier<B> {
    /// A connection of its own.
    Connection(Box<Connection<B>>),
    /// A stream of a shared one.
    Stream(Permit<B>),
}

/// Whether a carrier was opened for whoever asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Opened,
    Pooled,
}

/// What a wait for a connection that is being opened gave: none if it has no room left.
pub(super) type Joined<B> = Result<Option<Carrier<B>>, UpstreamError>;

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Sends a request over HTTP/2, or over HTTP/1.1 where that is what the endpoint has chosen.
    ///
    /// As with kept HTTP/1.1 connections, one that took nothing of the request costs nothing. Each such turn takes a
    /// connection out of the pool, so there is an end to them.
    pub(super) async fn send_shared(
        self: Rc<Self>,
        request: Sending<'_>,
        mut body: B,
        in_flight: InFlight,
    ) -> Result<Response<UpstreamBody<B>>, UpstreamError> {
        let Sending { head, repeatable, progress, .. } = request;
        if progress.is_beside() {
            self.leave_silent();
        }
        loop {
            progress.set_sent(false);
            let (carrier, origin) = self.carrier(repeatable, progress).await?;
            progress.set_sent(true);
            progress.note_kept(origin == Origin::Pooled && matches!(carrier, Carrier::Connection(_)));
            match carrier {
                Carrier::Connection(mut connection) => {
                    // It is kept for HTTP/2 only; on an HTTP/1.1 connection it concerns us.
                    let mut head = Cow::Borrowed(&**head);
                    if head.headers.contains_key(TE) {
                        head.to_mut().headers.remove(TE);
                    }
                    let mut outgoing = Outgoing::Untouched(body);
                    match connection.send(&head, &mut outgoing).await {
                        Ok(answer) => return Ok(self.answer(answer, connection, in_flight)),
                        Err(Unanswered::Failed(error)) => return Err(error),
                        Err(Unanswered::Unsent) => {
                            let lost = || {
                                UpstreamError::new(UpstreamErrorKind::ConnectionTerminated, Delivery::Never)
                            };
                            body = outgoing.into_body().ok_or_else(lost)?;
                        }
                    }
                }
                Carrier::Stream(permit) => {
                    permit.begin();
                    match permit.connection.send(head, body).await {
                        Ok((response, upload)) => {
                            permit.end_wait();
                            // h2 lets names pass that a caller over HTTP/1.1 could not be given.
                            if !response.headers().keys().all(is_token) {
                                return Err(UpstreamError::new(UpstreamErrorKind::Protocol, Delivery::Maybe));
                            }
                            if says_bound(response.headers()) {
                                permit.connection.retire();
                            }
                            let silence = self.endpoint.settings.body_timeout;
                            let lease = StreamLease { _permit: permit, upload, _in_flight: in_flight };
                            return Ok(Multiplexed::of(response, lease, silence)
                                .map(|body| UpstreamBody::Multiplexed(Box::new(body))));
                        }
                        Err(failure) => {
                            permit.end_wait();
                            match failure {
                                SendFailure::Sent(error) => return Err(error),
                                SendFailure::Unsent(unsent) => {
                                    permit.connection.retire();
                                    body = unsent;
                                }
                            }
                        }
                    }
                }
            }
            if origin == Origin::Opened {
                progress.set_sent(false);
                return Err(UpstreamError::new(UpstreamErrorKind::ConnectionTerminated, Delivery::Never));
            }
        }
    }

    /// What the next exchange goes over. While a connection is being opened, all wait for that one: how many fit on it is
    /// known only then.
    async fn carrier(
        self: &Rc<Self>,
        repeatable: Repeatable,
        progress: &Progress,
    ) -> Result<(Carrier<B>, Origin), UpstreamError> {
        if repeatable.needs_own_connection() {
            return Ok((self.own_carrier(progress).await?, Origin::Opened));
        }
        loop {
            if let Some(permit) = self.free_stream() {
                return Ok((Carrier::Stream(permit), Origin::Pooled));
            }
            if !progress.refuses_kept()
                && let Some(connection) = self.take_for(repeatable).await
            {
                return Ok((Carrier::Connection(connection), Origin::Pooled));
            }
            let is_shared = !self.has_chosen_http1.get();
            if !(is_shared && self.is_opening.get()) {
                let slot = match self.free_slot() {
                    Some(slot) => slot,
                    None => match self.wait(progress).await? {
                        Granted::Connection(connection) => {
                            return Ok((Carrier::Connection(connection), Origin::Pooled));
                        }
                        Granted::Stream(permit) => return Ok((Carrier::Stream(permit), Origin::Pooled)),
                        Granted::Slot(slot) => slot,
                    },
                };
                if !is_shared {
                    if let Fresh::Http1(connection) = self.open_any(slot).await? {
                        return Ok((Carrier::Connection(connection), Origin::Opened));
                    }
                    continue;
                }
                if !self.is_opening.get() {
                    self.start_opening(slot);
                }
            }
            if let Some(carrier) = self.join().await? {
                return Ok((carrier, Origin::Opened));
            }
        }
    }

    /// Opens a connection; one that speaks HTTP/2 goes into the pool, and none comes back.
    async fn open_any(self: &Rc<Self>, slot: OwnedSemaphorePermit) -> Result<Fresh<B>, UpstreamError> {
        let pool = Rc::downgrade(self);
        let on_room = move || {
            if let Some(pool) = pool.upgrade() {
                pool.tend();
            }
        };
        connect::open(&self.endpoint, slot, async || self.make_room().await, on_room).await
    }

    /// Opens a connection in a task of its own: the exchange that asked first may leave, and others wait for it too.
    fn start_opening(self: &Rc<Self>, slot: OwnedSemaphorePermit) {
        self.is_opening.set(true);
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let opened = pool.open_any(slot).await;
            pool.is_opening.set(false);
            match opened {
                Err(error) => while pool.tell_joiner(|| Err(error.clone())) {},
                Ok(Fresh::Http1(connection)) => {
                    pool.has_chosen_http1.set(true);
                    let mut connection = Some(connection);
                    // The others look again, and each opens its own.
                    while pool.tell_joiner(|| Ok(connection.take().map(Carrier::Connection))) {}
                    if let Some(connection) = connection {
                        pool.offer(connection);
                    }
                }
                Ok(Fresh::Http2(handshaken, slot)) => {
                    pool.has_chosen_http1.set(false);
                    let connection = Rc::new(SharedConnection::new(handshaken, slot));
                    pool.shared.borrow_mut().push(connection);
                    while pool.tell_joiner(|| Ok(pool.free_stream().map(Carrier::Stream))) {}
                    pool.tend();
                }
            }
        });
    }

    /// Ends the wait of the first who waits for a connection that was being opened; false if nobody does.
    fn tell_joiner(&self, joined: impl FnOnce() -> Joined<B>) -> bool {
        let mut joiners = self.joiners.borrow_mut();
        let Some(next) = joiners.at(0) else { return false };
        next.call(joined());
        true
    }

    /// Waits for the connection that is being opened, which `connect_timeout` bounds; none if it has no room left.
    async fn join(&self) -> Joined<B> {
        let ticket =
            self.joiners.borrow_mut().vacancy().map(|vacancy| vacancy.join(())).ok_or_else(|| {
                self.endpoint.cluster_metrics.waits_refused.inc();
                UpstreamError::new(UpstreamErrorKind::ConnectionLimit, Delivery::Never)
            })?;
        let place = Place::new(Opening(self), ticket);
        place.news().await;
        place.leave(&mut self.joiners.borrow_mut()).unwrap_or(Ok(None))
    }
}

/// The pool, as the owner of the queue for a connection that is being opened.
struct Opening<'a, B>(&'a Pool<B>);

impl<B> Owner for Opening<'_, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Right = Joined<B>;
    type Waiter = ();

    fn with_queue<T>(&self, look: impl FnOnce(&mut Queue<Joined<B>>) -> T) -> T {
        look(&mut self.0.joiners.borrow_mut())
    }

    fn left(&self, unheard: Option<Joined<B>>) {
        if let Some(Ok(Some(Carrier::Connection(connection)))) = unheard {
            self.0.offer(connection); // a stream goes to the next when it is dropped
        }
    }
}

impl<B> Pool<B> {
    /// Room on a connection; the first that has some, so that in quiet times the rest fall idle and close.
    fn free_stream(self: &Rc<Self>) -> Option<Permit<B>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| connection.is_usable());
        let connection = shared.iter().find(|connection| connection.has_room())?.clone();
        drop(shared);
        connection.enter();
        Some(Permit { connection, pool: self.clone(), waiting: Cell::new(None) })
    }

    /// Lets go of connections that have ended, and gives room to those who wait for it.
    fn tend(self: &Rc<Self>) {
        if self.endpoint.standing.is_retired() {
            // Nobody looks after the pool any more.
            self.close_idle(Instant::now(), true);
        }
        self.shared.borrow_mut().retain(|connection| connection.is_usable());
        while !self.waiters.borrow().is_empty() {
            let Some(permit) = self.free_stream() else { return };
            if let Some(next) = self.waiters.borrow_mut().at(0) {
                next.call(Granted::Stream(permit));
            }
        }
    }

    /// Takes nothing new to connections that have fallen silent: the exchange that waits there may wait for a peer that is
    /// gone without a word, and an attempt beside it would be lost with it.
    fn leave_silent(&self) {
        for connection in self.shared.borrow().iter().filter(|other| other.is_silent_for(SUSPICIOUS_SILENCE))
        {
            connection.retire();
        }
    }

    /// Takes note of an exchange that has left its stream.
    fn release(self: &Rc<Self>, connection: &Rc<SharedConnection>) {
        connection.leave();
        let gives_way = self.is_wanted_elsewhere() && self.giving_way.borrow().strong_count() == 0;
        if gives_way {
            self.giving_way.replace(Rc::downgrade(connection));
        }
        if gives_way || self.endpoint.standing.is_retired() {
            connection.retire();
        }
        self.tend();
    }

    /// Whether another worker has exchanges that wait for a connection. The endpoint counts one until it has heard that it
    /// was called.
    pub(super) fn is_wanted_elsewhere(&self) -> bool {
        let waiting = self.endpoint.connections.waiting();
        waiting > 0 && waiting > self.waiters.borrow().expected()
    }

    /// Closes connections that have carried nothing for too long, or whose slot another worker needs.
    pub(super) fn close_idle(&self, now: Instant, is_wanted: bool) {
        let longest = self.endpoint.settings.idle_timeout;
        self.shared.borrow_mut().retain(|connection| {
            let is_old = || is_wanted || now.duration_since(connection.idle_since()) >= longest;
            connection.is_usable() && !(connection.is_idle() && is_old())
        });
    }
}

/// Leave for one exchange on a connection. Dropped, it goes to whoever waits for one.
pub(super) struct Permit<B> {
    pub(super) connection: Rc<SharedConnection>,
    pub(super) pool: Rc<Pool<B>>,
    /// Since when it waits for an answer, and what had come by then.
    pub(super) waiting: Cell<Option<(Instant, u64)>>,
}

impl<B> Permit<B> {
    fn begin(&self) {
        self.connection.note_asked();
        self.waiting.set(Some((Instant::now(), self.connection.reads())));
    }

    fn end_wait(&self) {
        self.waiting.set(None);
    }
}

impl<B> fmt::Debug for Permit<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl<B> Drop for Permit<B> {
    fn drop(&mut self) {
        // An exchange was given up, and nothing at all has come meanwhile: the peer may be gone without a word, and
        // whatever followed on this connection would be lost with it.
        if let Some((since, reads)) = self.waiting.get()
            && reads == self.connection.reads()
            && since.elapsed() >= SUSPICIOUS_SILENCE
        {
            self.connection.retire();
        }
        self.pool.release(&self.connection);
    }
}

/// The use of a stream by one exchange. Dropped, it gives up what is left of it.
#[derive(Debug)]
pub(in crate::upstream) struct StreamLease<B> {
    _permit: Permit<B>,
    upload: Option<Upload>,
    _in_flight: InFlight,
}

impl<B> StreamLease<B> {
    /// Whether the request was not sent whole when the head of its answer came.
    pub(in crate::upstream) fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }
}

/// Whether an answer says that its connection stays authenticated. A challenge does not: over HTTP/2 the credentials that
/// follow it get a connection of their own, and to retire this one would cost its other callers.
fn says_bound(headers: &HeaderMap) -> bool {
    const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");
    let value = headers.get(PERSISTENT_AUTH);
    value.is_some_and(|value| binds_connection(PERSISTENT_AUTH.as_str(), value.as_bytes()))
}

/// How long a connection may bring nothing before an exchange that is given up on it makes it suspect.
const SUSPICIOUS_SILENCE: Duration = Duration::from_secs(1);
