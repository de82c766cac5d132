//! The metrics of the process.

use prometheus::{Gauge, IntCounter, IntGauge};

use super::declare::metrics;
use crate::policy::share::GivenUp;

metrics! {
    /// The counters of the process.
    pub struct ProcessMetrics, ProcessFamilies [] {
        IntGauge build_info [version, revision]
            "The version that runs."
            {}
        IntGauge config_last_reload_successful
            "1 if the configuration was valid when last read, else 0."
            { reload_successful }
        Gauge config_last_reload_success_timestamp_seconds
            "When a valid configuration was last read, in seconds since 1970."
            { reload_success_timestamp }
        IntGauge replay_bytes
            "Bytes of memory in request bodies that are kept for a retry."
            { replay_bytes }
        IntCounter replay_overflow_total [reason]
            "Request bodies whose copy was given up or not begun: over `body_limit`, or because `replay_memory` was full."
            { replay_overflow: GivenUp }
        IntGauge held_bytes
            "Bytes of memory in answers that are held, or that wait for their caller to read them."
            { held_bytes }
        IntCounter access_log_lost_total
            "Access-log lines lost because the queue stayed full."
            { access_log_lost }
        IntCounter access_log_waits_total
            "Exchanges that waited for room in the access log's queue."
            { access_log_waits }
        IntCounter log_dropped_total
            "Lines of the program's own log lost because standard error failed or its reader was too slow."
            { log_dropped }
    }
}
