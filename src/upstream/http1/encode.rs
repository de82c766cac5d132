//! Writes the head of a request, and the marks around its body (RFC 9112 sections 3, 6 and 7).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::Fault;
use super::head::{Persistence, number};

/// How a request says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Chunked,
    /// So many bytes follow.
    Length(u64),
}

/// What is known of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// There is none.
    None,
    Known(u64),
    Unknown,
}

/// Appends the head of a request. Framing is ours: a length that the head names must be one, and says how many bytes of
/// the body will be sent.
pub(crate) fn head(out: &mut Vec<u8>, head: &Parts, size: Size) -> Result<(Plan, Persistence), Fault> {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    target(out, &head.uri);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut persistence = Persistence::Keep;
    let mut announced = None;
    let mut is_chunked = false;
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            let length = number(value.as_bytes()).ok_or(Fault::Malformed("a length that is none"))?;
            if announced.is_some_and(|announced| announced != length) {
                return Err(Fault::Malformed("two lengths"));
            }
            announced = Some(length);
            continue;
        }
        if *name == TRANSFER_ENCODING {
            is_chunked = true;
            continue;
        }
        if *name == CONNECTION && value.as_bytes().eq_ignore_ascii_case(b"close") {
            persistence = Persistence::Close;
        }
        field(out, name, value);
    }
    let plan = match (size, announced) {
        (Size::None, Some(1..)) => return Err(Fault::Malformed("a length without a body")),
        (Size::None, None) if !anticipates_content(&head.method) => {
            out.extend_from_slice(b"\r\n");
            return Ok((Plan::Length(0), persistence));
        }
        (Size::None, None | Some(0)) => Plan::Length(0),
        _ if is_chunked => Plan::Chunked,
        (_, Some(length)) | (Size::Known(length), None) => Plan::Length(length),
        (Size::Unknown, None) => Plan::Chunked,
    };
    match plan {
        Plan::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Plan::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok((plan, persistence))
}

/// Whether a request of this method without a body says so by a length of 0 (RFC 9110 section 8.6). Some servers answer 411
/// to one that does not.
pub(crate) fn anticipates_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn target(out: &mut Vec<u8>, uri: &Uri) {
    if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
        out.extend_from_slice(scheme.as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    out.extend_from_slice(path.as_bytes());
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The trailers that a head announces. Others are not sent.
pub(crate) fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = words.filter_map(|word| HeaderName::from_bytes(word.trim_ascii()).ok());
    names.filter(|name| *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING).collect()
}

/// What stands before the data of a chunk; behind other data, its end as well.
pub(crate) fn chunk_begin(length: usize, follows_data: bool) -> Bytes {
    let mark = if follows_data { format!("\r\n{length:x}\r\n") } else { format!("{length:x}\r\n") };
    mark.into()
}

/// What ends a chunked body: the last chunk and those of `trailers` that were announced.
pub(crate) fn chunks_end(
    trailers: Option<&HeaderMap>,
    announced: &[HeaderName],
    follows_data: bool,
) -> Bytes {
    let mut fields = trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)).peekable();
    match (fields.peek().is_some(), follows_data) {
        (false, true) => Bytes::from_static(b"\r\n0\r\n\r\n"),
        (false, false) => Bytes::from_static(b"0\r\n\r\n"),
        (true, _) => {
            let mut out = Vec::from(if follows_data { &b"\r\n0\r\n"[..] } else { b"0\r\n" });
            for (name, value) in fields {
                field(&mut out, name, value);
            }
            out.extend_from_slice(b"\r\n");
            out.into()
        }
    }
}

#[cfg(test)]
mod tests;
