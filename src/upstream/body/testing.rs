//! The body of an answer that follows a script, for tests of what reads it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::error::{Delivery, UpstreamError, UpstreamErrorKind};

/// What comes next of a body.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Data.
    Data(Bytes),
    /// Nothing, for so long.
    Pause(Duration),
    /// The trailers, after which it ends.
    Trailers(HeaderMap),
    /// Its end before its time.
    Break,
}

/// A body that comes in parts, with a length or without.
#[derive(Debug)]
pub struct ScriptedAnswer {
    parts: VecDeque<Part>,
    /// What the announced length leaves to come.
    left: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl ScriptedAnswer {
    pub(crate) fn new(parts: impl IntoIterator<Item = Part>, length: Option<u64>) -> Self {
        Self { parts: parts.into_iter().collect(), left: length, pause: None }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            return Poll::Ready(match self.parts.pop_front() {
                Some(Part::Data(data)) => {
                    self.left = self.left.map(|left| left - data.len() as u64);
                    Some(Ok(Frame::data(data)))
                }
                Some(Part::Pause(pause)) => {
                    self.pause = Some(Box::pin(sleep(pause)));
                    continue;
                }
                Some(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Part::Break) => {
                    let kind = UpstreamErrorKind::ResponseIncomplete;
                    Some(Err(UpstreamError::new(kind, Delivery::Answered)))
                }
                None => None,
            });
        }
    }

    /// Known beforehand only where there is a length, as over a real connection.
    pub(super) fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
