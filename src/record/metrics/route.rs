//! The metrics of a route.

use http::StatusCode;
use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::DURATION;
use super::declare::metrics;
use crate::error::{ErrorClass, Origin};
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::HedgeEnd;
use crate::policy::hold::HoldEnd;
use crate::policy::resume::BreakEnd;
use crate::policy::verdict::{Reason, Veto};

metrics! {
    /// The counters of a route.
    pub struct RouteMetrics, RouteFamilies [route] {
        IntCounter requests_total [code, origin]
            "Requests by the status that the caller got and by whose answer it was."
            { answers: (u16, Origin) }
        Histogram request_duration_seconds in DURATION
            "Time from the request head to the end of the response body, or to the head of a 101."
            { duration }
        IntGauge requests_in_flight
            "Requests whose answer has not ended."
            { in_flight }
        IntCounter retries_total [reason]
            "Attempts after the first, by the failure that they answer to."
            { retries_by_status: StatusCode, retries_by_error: ErrorClass, retries_by_grpc: GrpcStatus }
        IntCounter retry_recovered_total
            "Requests that a retry saved: the answer is no failure, and more than one attempt was made."
            { recovered }
        IntCounter retry_stopped_total [why]
            "Failed attempts that no retry followed, by the rule that forbade it."
            { stopped: Veto }
        IntCounter held_answers_total [end]
            "Answers that were held (buffered until complete), by how the hold ended."
            { held: HoldEnd }
        IntCounter broken_answers_total [end]
            "Answers that broke after their head had gone to the caller: resumed, or why not."
            { broken: BreakEnd }
        IntCounter hedges_total [result]
            "Second attempts beside an unanswered first one, by their end; refused ones were not sent."
            { hedges: HedgeEnd }
        Gauge hedge_delay_seconds
            "Learned time after which an unanswered attempt is hedged; 0 while too few answers are known."
            { hedge_delay }
        IntCounter client_aborts_total
            "Requests whose caller left before it had the whole answer."
            { client_aborts }
        IntGauge tunnels_open
            "Connections that have changed to another protocol, such as WebSocket."
            { tunnels_open }
    }
}

impl RouteMetrics {
    /// The counter of requests answered with `status` by `origin`.
    pub fn requests(&self, status: u16, origin: Origin) -> &IntCounter {
        self.answers((status, origin))
    }

    /// The counter of retries for `reason`.
    pub fn retries(&self, reason: Reason) -> &IntCounter {
        match reason {
            Reason::Status(status) => self.retries_by_status(status),
            Reason::Error(class) => self.retries_by_error(class),
            Reason::Grpc(status) => self.retries_by_grpc(status),
        }
    }
}
