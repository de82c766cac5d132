//! The values of labels: which series a metric has.

use std::borrow::Cow;

use http::StatusCode;

use crate::error::{ErrorClass, Origin, UpstreamErrorKind};
use crate::policy::admission::Refused;
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::HedgeEnd;
use crate::policy::hold::HoldEnd;
use crate::policy::resume::BreakEnd;
use crate::policy::share::GivenUp;
use crate::policy::verdict::Veto;

/// The values of one series, in the order of its labels.
pub(super) type Words = Vec<Cow<'static, str>>;

/// The values that one label, or several, can have.
pub trait Label: Copy {
    /// How many there are.
    const COUNT: usize;
    /// Whether a series exists from the start; else it does once there is something to count.
    const FROM_START: bool;

    /// The value's place, less than [`Label::COUNT`].
    fn index(self) -> usize;

    /// The label's text, or the texts of several, of the value with this index.
    fn words(index: usize) -> Vec<Cow<'static, str>>;
}

macro_rules! labels {
    ($from_start:literal: $($name:ident)+) => {$(
        impl $crate::record::metrics::labels::Label for $name {
            const COUNT: usize = Self::ALL.len();
            const FROM_START: bool = $from_start;

            fn index(self) -> usize {
                self as usize
            }

            fn words(index: usize) -> $crate::record::metrics::labels::Words {
                Self::ALL.into_iter().filter(|value| *value as usize == index).map(|value| value.label().into()).collect()
            }
        }
    )+};
}
pub(super) use labels;

labels!(true: BreakEnd ErrorClass GivenUp HedgeEnd HoldEnd Refused Veto);
labels!(false: Origin UpstreamErrorKind);

/// How opening a connection failed.
#[derive(Clone, Copy, Debug)]
pub struct ConnectFailure(pub(super) UpstreamErrorKind);

impl ConnectFailure {
    /// What may happen; anything else counts as the first.
    const KINDS: [UpstreamErrorKind; 9] = [
        UpstreamErrorKind::ConnectUnreachable,
        UpstreamErrorKind::ConnectRefused,
        UpstreamErrorKind::ConnectTimeout,
        UpstreamErrorKind::ConnectionTerminated,
        UpstreamErrorKind::LocalResource,
        UpstreamErrorKind::Protocol,
        UpstreamErrorKind::TlsAlert,
        UpstreamErrorKind::TlsCertificate,
        UpstreamErrorKind::TlsProtocol,
    ];
}

impl Label for ConnectFailure {
    const COUNT: usize = Self::KINDS.len();
    const FROM_START: bool = true;

    fn index(self) -> usize {
        Self::KINDS.iter().position(|kind| *kind == self.0).unwrap_or(0)
    }

    fn words(index: usize) -> Words {
        vec![Self::KINDS[index].label().into()]
    }
}

impl Label for GrpcStatus {
    const COUNT: usize = Self::COUNT;
    const FROM_START: bool = false;

    fn index(self) -> usize {
        self.number().into()
    }

    fn words(index: usize) -> Words {
        Self::all().skip(index).take(1).map(|status| status.label().into()).collect()
    }
}

/// Statuses from 100 to 599, and one place for what lies outside. Most of the 500 never come.
impl Label for StatusCode {
    const COUNT: usize = 501;
    const FROM_START: bool = false;

    fn index(self) -> usize {
        status_index(self.as_u16())
    }

    fn words(index: usize) -> Words {
        let is_other = index == <Self as Label>::COUNT - 1;
        vec![if is_other { "other".into() } else { (index + 100).to_string().into() }]
    }
}

fn status_index(status: u16) -> usize {
    usize::from(status).wrapping_sub(100).min(<StatusCode as Label>::COUNT - 1)
}

/// An answer: its status, and whose it was.
impl Label for (u16, Origin) {
    const COUNT: usize = <StatusCode as Label>::COUNT * Origin::ALL.len();
    const FROM_START: bool = false;

    fn index(self) -> usize {
        self.1.index() * <StatusCode as Label>::COUNT + status_index(self.0)
    }

    fn words(index: usize) -> Words {
        let (origin, status) = (index / <StatusCode as Label>::COUNT, index % <StatusCode as Label>::COUNT);
        [StatusCode::words(status), Origin::words(origin)].concat()
    }
}

/// The values of every series.
#[cfg(test)]
pub(super) fn values<L: Label>() -> Vec<Words> {
    (0..L::COUNT).map(L::words).collect()
}
