//! The end of an exchange: what its caller got, and the [`Record`] that is made of everything when it is over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::Exchange;
use crate::error::{Delivery, Origin, ProxyError};
use crate::policy::resume::BreakEnd;
use crate::policy::verdict::{Reason, Veto};
use crate::record::{ExchangeOutcome, QueryPolicy, Record};

/// What the caller has got so far, and what the record says of the way there.
#[derive(Debug, Default)]
pub(super) struct Closing {
    head: Option<Head>,
    retry_stopped: Option<Veto>,
    is_recovered: bool,
    /// Whether the rest of an answer that broke is being asked for.
    is_resuming: bool,
    /// How often the rest came.
    resumed: u32,
    /// What became of the last break of an answer that flowed.
    broken: Option<BreakEnd>,
    /// What went through the tunnel, if there was one, towards the upstream.
    tunnelled_in: u64,
    bytes_out: u64,
    is_finished: bool,
}

/// The response head that the caller got.
#[derive(Debug)]
struct Head {
    status: StatusCode,
    origin: Origin,
    error: Option<&'static str>,
    maker: Maker,
    after: Duration,
}

/// Who made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Proxy,
    Upstream,
}

impl Exchange {
    /// Notes that another attempt follows after `wait`.
    pub(crate) fn retry(&mut self, reason: Reason, wait: Duration) {
        self.metrics.retries(reason).inc();
        if let Some(cluster) = self.cluster() {
            cluster.metrics.retry_wait.observe(wait.as_secs_f64());
        }
    }

    /// Notes the rule that made a failure the answer.
    pub(crate) fn stop_retrying(&mut self, why: Veto) {
        self.metrics.stopped(why).inc();
        self.closing.retry_stopped = Some(why);
    }

    /// Notes that the failed attempts have been made good.
    pub(crate) fn recover(&mut self) {
        if !std::mem::replace(&mut self.closing.is_recovered, true) {
            self.metrics.recovered.inc();
        }
    }

    /// Notes that the rest of an answer that broke is asked for: elsewhere, if there is a choice.
    pub(crate) fn begin_resumption(&mut self) {
        self.closing.is_resuming = true;
        self.book.tried.extend(self.book.answered_by);
    }

    /// Notes what became of an answer that broke while it flowed.
    pub(crate) fn end_break(&mut self, end: BreakEnd) {
        self.closing.is_resuming = false;
        self.metrics.broken(end).inc();
        self.closing.broken = Some(end);
        self.closing.resumed += u32::from(end == BreakEnd::Resumed);
    }

    pub(crate) fn add_bytes_in(&mut self, bytes: u64) {
        self.closing.tunnelled_in = self.closing.tunnelled_in.saturating_add(bytes);
    }

    /// Bytes of the answer's body that have been passed on.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.closing.bytes_out
    }

    pub(crate) fn add_bytes_out(&mut self, bytes: u64) {
        self.closing.bytes_out = self.closing.bytes_out.saturating_add(bytes);
    }

    /// Notes that the caller gets the upstream's answer.
    pub(crate) fn answer(&mut self, status: StatusCode, now: Instant) {
        let after = now.duration_since(self.clock.began);
        self.book.permit = None; // of one that was kept, when no attempt followed
        self.body.forget(); // no attempt follows
        self.closing.head =
            Some(Head { status, origin: Origin::Upstream, error: None, maker: Maker::Upstream, after });
    }

    /// Notes that the caller gets a reply of our own.
    pub(crate) fn reply(&mut self, error: &ProxyError, now: Instant) {
        let after = now.duration_since(self.clock.began);
        let (status, origin) = (error.status(), error.origin());
        self.book.permit = None;
        self.body.forget();
        self.closing.head =
            Some(Head { status, origin, error: Some(error.token()), maker: Maker::Proxy, after });
    }

    /// Notes that the caller is led elsewhere.
    pub(crate) fn redirect(&mut self, status: StatusCode, now: Instant) {
        let after = now.duration_since(self.clock.began);
        self.closing.head =
            Some(Head { status, origin: Origin::Proxy, error: None, maker: Maker::Proxy, after });
    }

    /// Notes that the codec has refused the request by itself.
    pub(crate) fn refuse(&mut self, status: StatusCode, now: Instant) {
        let after = now.duration_since(self.clock.began);
        let error = Some("http_request_error");
        self.closing.head =
            Some(Head { status, origin: Origin::Downstream, error, maker: Maker::Proxy, after });
    }

    fn is_tunnel(&self) -> bool {
        self.closing.head.as_ref().is_some_and(|head| head.status == StatusCode::SWITCHING_PROTOCOLS)
    }

    /// Ends the exchange: metrics and the record.
    pub(crate) fn finish(mut self: Box<Self>, outcome: ExchangeOutcome) {
        self.conclude(outcome);
    }

    fn conclude(&mut self, outcome: ExchangeOutcome) {
        self.closing.is_finished = true;
        let now = Instant::now();
        let duration = now.duration_since(self.clock.began);
        self.cancel_attempts(Delivery::Maybe, now);
        if self.closing.is_resuming {
            self.end_break(BreakEnd::Client);
        }
        let is_broken = outcome == ExchangeOutcome::UpstreamTruncated;
        let is_stopped =
            self.closing.broken == Some(BreakEnd::Failed) && self.closing.retry_stopped.is_some();
        if is_broken && !is_stopped {
            self.stop_retrying(if self.is_tunnel() { Veto::Upgrade } else { Veto::Started });
        }
        let outcome = match (&self.closing.head, outcome) {
            (Some(head), ExchangeOutcome::Ok) if head.maker == Maker::Proxy => ExchangeOutcome::Reply,
            (_, ExchangeOutcome::ClientAbort) if self.shared.is_stopping.load(Ordering::Relaxed) => {
                ExchangeOutcome::ProxyAbort
            }
            (_, outcome) => outcome,
        };
        if outcome == ExchangeOutcome::Ok && self.closing.resumed > 0 {
            self.recover();
        }
        if outcome == ExchangeOutcome::ClientAbort {
            self.metrics.client_aborts.inc();
            let was_retrying = self.closing.head.is_none() && !self.book.tried.is_empty();
            if was_retrying && self.closing.retry_stopped.is_none() {
                self.stop_retrying(Veto::Client);
            }
        }
        let (status, origin) = match &self.closing.head {
            Some(head) => (head.status.as_u16(), head.origin),
            None if outcome == ExchangeOutcome::ProxyAbort => {
                (ProxyError::ShuttingDown.status().as_u16(), ProxyError::ShuttingDown.origin())
            }
            None => (CLIENT_LEFT, Origin::Downstream),
        };
        self.metrics.requests(status, origin).inc();
        // A tunnel may be open for hours, which would say nothing about how long requests take.
        let timed =
            self.closing.head.as_ref().filter(|_| self.is_tunnel()).map_or(duration, |head| head.after);
        self.metrics.duration.observe(timed.as_secs_f64());
        self.metrics.in_flight.dec();
        if self.shared.log.is_off() {
            return;
        }
        let error = self.closing.head.as_ref().and_then(|head| head.error);
        self.shared.log.send(Record {
            at: self.clock.at,
            id: std::mem::take(&mut self.identity.id),
            client: self.identity.client,
            client_subject: self.identity.client_subject.take(),
            protocol: self.identity.protocol,
            method: std::mem::take(&mut self.identity.method),
            target: std::mem::take(&mut self.identity.target),
            route: self.route.as_ref().map(|route| route.settings.name.clone()),
            cluster: self.cluster().map(|cluster| cluster.settings.name.clone()),
            query: self
                .route
                .as_ref()
                .map_or(QueryPolicy::Redacted, |route| route.settings.log_query.clone()),
            status,
            origin,
            outcome,
            error: if is_broken { Some("http_response_incomplete") } else { error },
            bytes_in: self.body.received().saturating_add(self.closing.tunnelled_in),
            bytes_out: self.closing.bytes_out,
            duration,
            time_to_head: self.closing.head.as_ref().map(|head| head.after),
            outage_wait: self.book.outage_wait,
            admission_wait: self.book.admission_wait,
            attempts: std::mem::take(&mut self.book.attempts),
            retry_stopped: self.closing.retry_stopped,
            resumed: self.closing.resumed,
            broken: self.closing.broken,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.closing.is_finished {
            self.conclude(ExchangeOutcome::ClientAbort);
        }
    }
}

/// The status on record where the caller left before a response head; NGINX's convention, which log tools know.
const CLIENT_LEFT: u16 = 499;
