//! What `stent explain` is asked about: a request, and how its attempts are to end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use crate::error::{Delivery, ErrorClass};
use crate::fields::Scheme;
use crate::policy::grpc::GrpcStatus;
use crate::policy::outcome::Outcome;

/// The request to explain.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) method: Method,
    /// With its port.
    pub(super) authority: String,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: u64,
}

impl Request {
    /// Reads `line`, which is a method and a path, with or without a query. The host comes
    /// from `host`, or from a `Host` among `headers`, which are written `Name: value`. `body` is a size in bytes.
    pub fn new(line: &str, host: Option<&str>, headers: &[String], body: u64) -> Result<Self, String> {
        let form = "write the request as 'METHOD /path', for example 'POST /api/screenings/7'";
        let (method, target) = line.trim().split_once(' ').ok_or(form)?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| form)?;
        let target = target.trim();
        if !target.starts_with('/') || target.contains(char::is_whitespace) {
            return Err(form.to_owned());
        }
        // Not `Uri::from_str`, which takes what stands between two slashes at the start for a host.
        let target = target.split('#').next().unwrap_or(target);
        let target: Uri = PathAndQuery::from_str(target).map_err(|_| form)?.into();

        let mut map = HeaderMap::new();
        for line in headers {
            let (name, value) = line.split_once(':').ok_or("write a header as 'Name: value'")?;
            let name = HeaderName::from_str(name.trim()).map_err(|_| format!("not a header name: {name}"))?;
            let value = HeaderValue::from_str(value.trim()).map_err(|_| format!("not a value for {name}"))?;
            map.append(name, value);
        }
        let given = host.or_else(|| map.get(header::HOST)?.to_str().ok()).unwrap_or_default();
        Ok(Self { method, authority: given.to_owned(), target, headers: map, body })
    }

    /// The host, without its port.
    pub(super) fn host(&self) -> &str {
        without_port(&self.authority)
    }

    pub(super) fn path(&self) -> &str {
        self.target.path()
    }

    /// What a trusted proxy would have said in `X-Forwarded-Proto`.
    pub(super) fn scheme(&self) -> Scheme {
        let value = self.headers.get("x-forwarded-proto");
        let is_https = value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"));
        if is_https { Scheme::Https } else { Scheme::Http }
    }
}

/// How an attempt is to end: `502`, `502:retry-after=3`, `grpc-14`, or the word of an [`ErrorClass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given(pub(super) Outcome);

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(class) = ErrorClass::from_label(text) {
            // Before there is a connection there is nothing to send a request over.
            let delivery = match class {
                ErrorClass::Connect | ErrorClass::Tls => Delivery::Never,
                ErrorClass::Protocol | ErrorClass::Reset | ErrorClass::Timeout => Delivery::Maybe,
                ErrorClass::Truncated => Delivery::Answered,
            };
            return Ok(Self(Outcome::Failed { class: Some(class), delivery }));
        }
        let (status, option) =
            text.split_once(':').map_or((text, None), |(status, rest)| (status, Some(rest)));
        if let Some(grpc) = GrpcStatus::from_label(status) {
            let retry_after = retry_after(option)?;
            return Ok(Self(Outcome::Grpc { status: grpc, retry_after }));
        }
        // Three digits from 100 on; above 599 there is no status that a policy could name.
        let status = StatusCode::from_bytes(status.as_bytes()).ok().filter(|status| status.as_u16() < 600);
        let status = status.ok_or(
            "an outcome is a status (502, grpc-14) or connect, tls, reset, timeout, protocol or truncated",
        )?;
        Ok(Self(Outcome::Answered { status, retry_after: retry_after(option)? }))
    }
}

fn retry_after(option: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(option) = option else { return Ok(None) };
    let seconds = option
        .strip_prefix("retry-after=")
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    Ok(Some(Duration::from_secs(seconds.ok_or("write a Retry-After in seconds: 502:retry-after=3")?)))
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Answered { status, retry_after: None } => write!(f, "{}", status.as_u16()),
            Outcome::Answered { status, retry_after: Some(wait) } => {
                write!(f, "{}, Retry-After: {}", status.as_u16(), wait.as_secs())
            }
            Outcome::Grpc { status, retry_after } => {
                write!(f, "{} ({})", status.label(), status.name())?;
                retry_after.map_or(Ok(()), |wait| write!(f, ", Retry-After: {}", wait.as_secs()))
            }
            Outcome::Failed { class, .. } => f.write_str(class.map_or("failed", ErrorClass::label)),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}
