//! What `bench/micro.rs` and `bench/instructions.rs` call that nobody else may, built for them only.

use std::task::{Context, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use http_body::Body;
use tokio::time::Instant;

use crate::fields::via::Via;
use crate::proxy::body::RequestBody;
use crate::proxy::body::Trust;
use crate::proxy::headers;
use crate::proxy::pieces::ReplayMemory;
use crate::proxy::replay::{Replay, ReplayLimits};
use crate::record::Record;
use crate::record::log::in_place;

mod pipeline;
pub use self::pipeline::{Pipeline, Work};

/// All that is done to the head of a request before it is routed and sent on; false if it is refused.
pub fn prepare_head(head: &mut Parts, via: &Via, random: &mut fastrand::Rng) -> bool {
    let _id = headers::request_id(&mut head.headers, random);
    headers::normalize(head).is_ok()
        && headers::clean_request(&mut head.headers, head.version, via, Trust::No).is_ok()
        && !headers::host(&head.headers).is_empty()
}

/// What is done to the head of an answer.
pub fn clean_answer(head: &mut HeaderMap) {
    headers::clean_response(head);
}

/// Sends a request body twice, the second time from its copy; gives the bytes that were sent.
pub fn send_twice(parts: Vec<Bytes>, memory: &std::sync::Arc<ReplayMemory>) -> usize {
    let limits = ReplayLimits {
        keep: 1 << 20,
        max_body: 1 << 20,
        memory: memory.clone(),
        client: [127, 0, 0, 1].into(),
        read_buffer: 72 << 10,
    };
    let replay = Replay::new(RequestBody::Parts(parts.into_iter()), limits, Instant::now());
    let replay = replay.expect("no length is announced that could be too large");
    let mut sent = 0;
    for _ in 0..2 {
        let mut attempt = std::pin::pin!(replay.attempt());
        let mut cx = Context::from_waker(Waker::noop());
        while let std::task::Poll::Ready(Some(Ok(frame))) = attempt.as_mut().poll_frame(&mut cx) {
            sent += frame.data_ref().map_or(0, Bytes::len);
        }
    }
    sent
}

/// Appends the access log's line of a record.
pub fn log_line(record: &Record, lines: &mut Vec<u8>) {
    in_place::write(record, lines);
}
