//! Whether an answer that breaks while it flows can be gone on with, what is asked for then, and whether what comes is
//! exactly the rest of it.
//!
//! A proxy has no business in joining other bytes than those that the caller was promised. So there must be a validator
//! that tells versions apart to the byte, `If-Range` names it, and what comes has to be what was asked for to the byte.
//! `Cache-Control: no-transform` (RFC 9110 section 7.7) is no reason against it: nothing is transformed.

use std::time::Duration;

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderName, HeaderValue,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, Method, StatusCode};

use crate::error::ErrorClass;
use crate::policy::request::Repeatable;
use crate::policy::settings::RetryPolicy;

/// Whether answers that break are gone on with, and how long that may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeSettings {
    /// Whether they are.
    pub enabled: bool,
    /// From the break to the head of the rest, over all attempts and waits.
    pub time: Duration,
}

impl Default for ResumeSettings {
    fn default() -> Self {
        Self { enabled: true, time: Duration::from_secs(10) }
    }
}

/// An answer that goes to the caller, and the request that it answers.
#[derive(Clone, Copy, Debug)]
pub struct Flowing<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// Whether the request may be repeated.
    pub repeatable: Repeatable,
    /// Whether the request has a body.
    pub request_body: RequestBody,
    /// The answer's status.
    pub status: StatusCode,
    /// Its header fields, as they came.
    pub headers: &'a HeaderMap,
    /// The length of its body, if it was announced.
    pub length: Option<u64>,
}

/// Whether a request has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// It has none.
    None,
    /// It has one.
    Some,
}

/// What became of an answer that broke after its head had gone to the caller; a label of `stent_broken_answers_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakEnd {
    /// What came for the rest was not the rest: most often there is a new version.
    Changed,
    /// The caller left meanwhile, or the proxy was stopped.
    Client,
    /// No attempt brought an answer, or none was allowed.
    Failed,
    /// It had no announced length.
    Length,
    /// The request was no GET, or one with a body.
    Method,
    /// The route resumes nothing, or its policy does not repeat such a request.
    Off,
    /// It did not say that it has byte ranges.
    Ranges,
    /// The rest came, and flows.
    Resumed,
    /// Its status was neither 200 nor 206.
    Status,
    /// It had no strong validator.
    Validator,
}

impl BreakEnd {
    /// Every end.
    pub const ALL: [Self; 10] = [
        Self::Changed,
        Self::Client,
        Self::Failed,
        Self::Length,
        Self::Method,
        Self::Off,
        Self::Ranges,
        Self::Resumed,
        Self::Status,
        Self::Validator,
    ];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Client => "client",
            Self::Failed => "failed",
            Self::Length => "length",
            Self::Method => "method",
            Self::Off => "off",
            Self::Ranges => "ranges",
            Self::Resumed => "resumed",
            Self::Status => "status",
            Self::Validator => "validator",
        }
    }
}

impl RetryPolicy {
    /// Whether this policy goes on with broken answers to such a request at all.
    pub fn resumes(&self, method: &Method, repeatable: Repeatable) -> bool {
        *method == Method::GET && self.may_resume(repeatable)
    }

    fn may_resume(&self, repeatable: Repeatable) -> bool {
        self.resume.enabled
            && self.max_attempts > 1
            && self.errors.contains(ErrorClass::Truncated)
            && repeatable == Repeatable::Always
    }

    /// What it takes to go on with an answer if it breaks, or why that is not possible.
    pub fn resumable(&self, answer: &Flowing<'_>) -> Result<Resumable, BreakEnd> {
        let Flowing { method, repeatable, request_body, status, headers, length } = *answer;
        if !self.may_resume(repeatable) {
            return Err(BreakEnd::Off);
        }
        if *method != Method::GET || request_body == RequestBody::Some {
            return Err(BreakEnd::Method);
        }
        let length = length.filter(|length| *length > 0).ok_or(BreakEnd::Length)?;
        let range = match status {
            StatusCode::OK if lists_bytes(headers) => {
                ContentRange { first: 0, last: length - 1, total: length }
            }
            StatusCode::OK => return Err(BreakEnd::Ranges),
            StatusCode::PARTIAL_CONTENT => {
                let range = only(headers, &CONTENT_RANGE).and_then(ContentRange::parse);
                range.filter(|range| range.length() == length).ok_or(BreakEnd::Ranges)?
            }
            _ => return Err(BreakEnd::Status),
        };
        Ok(Resumable {
            range,
            validator: Validator::of(headers).ok_or(BreakEnd::Validator)?,
            media: headers.get(CONTENT_TYPE).map(copy),
            codings: headers.get_all(CONTENT_ENCODING).iter().map(copy).collect(),
        })
    }
}

/// An answer whose rest can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumable {
    /// What of the resource it is.
    range: ContentRange,
    validator: Validator,
    media: Option<HeaderValue>,
    codings: Vec<HeaderValue>,
}

/// Who may be asked for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Any endpoint: an entity tag is the resource's, wherever it is asked for.
    Any,
    /// Only the one that began: the same second of modification at another says nothing about the bytes.
    Same,
}

impl Resumable {
    /// Who may be asked for the rest.
    pub fn holder(&self) -> Holder {
        match self.validator {
            Validator::Tag(_) => Holder::Any,
            Validator::Date(_) => Holder::Same,
        }
    }

    /// What is missing when so many bytes of the body have been delivered; none if nothing is.
    pub fn rest(&self, delivered: u64) -> Option<Rest<'_>> {
        let first = self.range.first.checked_add(delivered)?;
        (first <= self.range.last)
            .then_some(Rest { whole: self, range: ContentRange { first, ..self.range } })
    }
}

/// What is missing of an answer that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest<'a> {
    whole: &'a Resumable,
    range: ContentRange,
}

impl Rest<'_> {
    /// Asks for exactly this, of exactly this version; a range and a condition that the caller had set go.
    pub fn ask(&self, headers: &mut HeaderMap) {
        let ContentRange { first, last, .. } = self.range;
        let range = HeaderValue::try_from(format!("bytes={first}-{last}"));
        headers.insert(RANGE, range.expect("digits are visible ASCII"));
        headers.insert(IF_RANGE, self.whole.validator.value().clone());
    }

    /// Whether an answer is exactly this: nothing else may be joined to what the caller has.
    ///
    /// An answer to `If-Range` need not repeat what its asker knows (RFC 9110 section 15.3.7): under an entity tag, the
    /// fields on its form may be absent, but not differ.
    pub fn is(&self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> bool {
        let whole = self.whole;
        let media = headers.get(CONTENT_TYPE);
        let is_same_form = || headers.get_all(CONTENT_ENCODING).iter().eq(&whole.codings);
        let is_same_form = match whole.validator {
            Validator::Tag(_) => !headers.contains_key(CONTENT_ENCODING) || is_same_form(),
            Validator::Date(_) => is_same_form(),
        };
        status == StatusCode::PARTIAL_CONTENT
            && only(headers, &CONTENT_RANGE).and_then(ContentRange::parse) == Some(self.range)
            && length == Some(self.range.length())
            && only(headers, whole.validator.name()) == Some(whole.validator.value())
            && (media.is_none() || media == whole.media.as_ref())
            && is_same_form
    }
}

/// What tells one version of a resource from another, to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Validator {
    /// A strong entity tag.
    Tag(HeaderValue),
    /// A time of modification that was long past when the answer was made.
    Date(HeaderValue),
}

impl Validator {
    /// The validator of an answer, if it has one that `If-Range` may name (RFC 9110 section 13.1.5): a strong entity
    /// tag; or, where there is no tag of either kind, a date that counts as strong.
    fn of(headers: &HeaderMap) -> Option<Self> {
        if headers.contains_key(ETAG) {
            return only(headers, &ETAG).filter(|tag| is_strong(tag)).map(copy).map(Self::Tag);
        }
        let modified = only(headers, &LAST_MODIFIED)?;
        let time = |value: &HeaderValue| httpdate::parse_http_date(value.to_str().ok()?).ok();
        let age = time(only(headers, &DATE)?)?.duration_since(time(modified)?).ok()?;
        (age >= SETTLED).then(|| Self::Date(copy(modified)))
    }

    fn name(&self) -> &'static HeaderName {
        match self {
            Self::Tag(_) => &ETAG,
            Self::Date(_) => &LAST_MODIFIED,
        }
    }

    fn value(&self) -> &HeaderValue {
        match self {
            Self::Tag(value) | Self::Date(value) => value,
        }
    }
}

/// How long before its answer a resource must have been modified last. RFC 9110 section 8.8.2.2 asks for one second if
/// both times are of one clock, which nobody can know here, and for more if they may not be; RFC 7232 said how much.
const SETTLED: Duration = Duration::from_mins(1);

/// A quoted tag without `W/` before it (RFC 9110 section 8.8.3).
fn is_strong(tag: &HeaderValue) -> bool {
    let inside = tag.as_bytes().strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    inside.is_some_and(|inside| inside.iter().all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..)))
}

/// Whether an answer says that its resource can be had in ranges of bytes.
fn lists_bytes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_RANGES).iter();
    let mut units = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    units.any(|unit| unit.trim_ascii().eq_ignore_ascii_case(b"bytes"))
}

/// The value of a field that must stand once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// A range of bytes and the size of the whole, as in `Content-Range` (RFC 9110 section 14.4): `first` ≤ `last` < `total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: u64,
}

impl ContentRange {
    fn parse(value: &HeaderValue) -> Option<Self> {
        let (unit, range) = value.to_str().ok()?.split_once(' ')?;
        let (range, total) = range.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = Self { first: number(first)?, last: number(last)?, total: number(total)? };
        let is_valid = range.first <= range.last && range.last < range.total;
        (unit.eq_ignore_ascii_case("bytes") && is_valid).then_some(range)
    }

    fn length(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// A value by itself: a clone would keep the network buffer that it lies in for as long as a download takes.
fn copy(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
