//! What a proxy does to message heads: refuses the ambiguous, removes what belongs to one connection, adds its own.
//!
//! # Invariant
//!
//! A head that two parsers could read differently is refused before any routing. Held by
//! `an_ambiguous_or_malformed_request_is_refused_with_400_and_a_closed_connection`.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, Entry, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};

use crate::error::{ProxyError, RequestFault};
use crate::fields::claims::claim;
use crate::fields::rules::Side;
use crate::fields::via::Via;
use crate::fields::{Scheme, is_hop_by_hop, is_meant_for_proxies, is_token, remove_where};
use crate::proxy::body::Trust;
use crate::upstream::http1::head::number;

/// Correlates a request through all who handle it; made here if the caller did not.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Tells the upstream the number of an attempt, from the second on.
pub(crate) const X_STENT_ATTEMPT: HeaderName = HeaderName::from_static("x-stent-attempt");

/// Refuses a request whose meaning two parsers could disagree on, before anything is routed by it, and gives a target
/// in absolute form its usual one (RFC 9112 section 3.2.2). The upstream is told the host that is then in force, unless a
/// trusted proxy has told it.
pub(crate) fn normalize(head: &mut Parts) -> Result<(), ProxyError> {
    let bad = |fault| Err(ProxyError::BadRequest(fault));
    // TRACE would give whoever makes a browser send it what is between us and the upstream, credentials included.
    if matches!(head.method, Method::CONNECT | Method::TRACE) || head.method.as_str().len() > MAX_METHOD {
        return Err(ProxyError::MethodUnsupported);
    }
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET) {
        return Err(ProxyError::TargetTooLong);
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return bad(RequestFault::HostCount) };
    if !is_authority(host.as_bytes()) {
        return bad(RequestFault::BadHost);
    }
    if !has_plain_framing(head) {
        return bad(RequestFault::AmbiguousLength);
    }
    if head.uri.authority().is_some() || head.uri.scheme().is_some() {
        let authority = head.uri.authority().map(Authority::as_str).unwrap_or_default();
        let is_http = head.uri.scheme_str().is_some_and(|scheme| matches!(scheme, "http" | "https"));
        if !is_http || !is_authority(authority.as_bytes()) {
            return bad(RequestFault::BadTarget);
        }
        let Ok(host) = HeaderValue::from_str(authority) else { return bad(RequestFault::BadTarget) };
        head.headers.insert(HOST, host);
        let target = head.uri.path_and_query().cloned();
        head.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    let is_asterisk = head.uri.path() == "*" && head.method == Method::OPTIONS;
    if !head.uri.path().starts_with('/') && !is_asterisk {
        return bad(RequestFault::BadTarget);
    }
    // Only now, for a target in absolute form has overruled `Host`.
    if let Some(host) = head.headers.get(HOST).cloned()
        && let Entry::Vacant(entry) = head.headers.entry(X_FORWARDED_HOST)
    {
        entry.insert(host);
    }
    Ok(())
}

/// A host name or address and, maybe, a port (RFC 9110 section 4.2): no user, no list, no blanks. Nor the percent sign,
/// which a URL may hold there but no name does: two parsers could decode it or not, and h2 takes none.
fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some(at) if !value[at..].contains(&b']') => (&value[..at], &value[at + 1..]),
        _ => (value, &b""[..]),
    };
    let is_port = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let is_port = is_port && port.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0')) <= 65535;
    let is_host = match host.strip_prefix(b"[") {
        Some(rest) => rest.strip_suffix(b"]").is_some_and(|address| {
            std::str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
        }),
        None => {
            !host.is_empty()
                && host
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    };
    is_host && is_port
}

/// At most one `Content-Length` and no `Transfer-Encoding` but `chunked`, alone (RFC 9112 section 6).
///
/// hyper has refused differing lengths, and `downstream::strict` both fields in one head.
fn has_plain_framing(head: &Parts) -> bool {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && head.version == Version::HTTP_11
        }
        (Some(_), Some(_)) => false,
    };
    is_chunked && head.headers.get_all(CONTENT_LENGTH).iter().count() <= 1
}

/// The host that a request is for, without its port and the root's dot: `a.example.` and `a.example` are the same name.
pub(crate) fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = match host.bytes().rposition(|byte| byte == b':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host)
}

/// The protocol that a request asks its connection to change to, if the route allows it (RFC 9110 section 7.8).
///
/// Anything else than one protocol, named by `Connection` too, on HTTP/1.1 and without a body, is no such question: the
/// field may be ignored, and then goes no further than here.
pub(crate) fn upgrade(head: &Parts, body: BodyPresence, allowed: &[Box<str>]) -> Option<HeaderValue> {
    let mut fields = head.headers.get_all(UPGRADE).iter();
    let protocol = fields.next()?;
    let is_plain = fields.next().is_none() && head.version == Version::HTTP_11 && body == BodyPresence::None;
    let is_allowed = allowed.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()));
    (is_plain && is_allowed && connection_names(&head.headers, UPGRADE.as_str())).then(|| protocol.clone())
}

/// Whether a request has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyPresence {
    None,
    Some,
}

/// Asks for, or grants, a change to `protocol`.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Whether a 101 grants the protocol that was asked for.
pub(crate) fn grants(headers: &HeaderMap, asked: &HeaderValue) -> bool {
    let mut fields = headers.get_all(UPGRADE).iter();
    let (granted, another) = (fields.next(), fields.next());
    granted.is_some_and(|granted| granted.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        && another.is_none()
}

fn connection_names(headers: &HeaderMap, name: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// How the request came: `X-Forwarded-Proto` says what the listener or a trusted proxy saw.
pub(crate) fn scheme(headers: &HeaderMap) -> Scheme {
    let value = headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes).unwrap_or_default();
    // The first of a list is the nearest to the client.
    let first = value.split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
    if first.eq_ignore_ascii_case(b"https") { Scheme::Https } else { Scheme::Http }
}

/// Makes a caller's head fit to be sent on: without what belongs to the caller's connection, with our `Via`.
pub(crate) fn clean_request(
    headers: &mut HeaderMap,
    version: Version,
    via: &Via,
    trust: Trust,
) -> Result<(), ProxyError> {
    match headers.entry(VIA) {
        Entry::Occupied(entry) if via.is_in(entry.iter()) => {
            return Err(match trust {
                Trust::No => ProxyError::LoopClaimed,
                Trust::Yes => ProxyError::LoopDetected,
            });
        }
        Entry::Occupied(mut entry) => entry.append(via.line(version)),
        Entry::Vacant(entry) => drop(entry.insert(via.line(version))),
    }
    // Most heads have none of all these.
    if headers.keys().any(|name| is_hop_by_hop(name.as_str()) || is_meant_for_proxies(name.as_str())) {
        remove_hop_by_hop(headers, Side::Request);
        // A caller is told to continue as soon as a connection takes its body; nothing else can be promised it.
        let is_kept = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !headers.get_all(EXPECT).iter().all(is_kept) {
            return Err(ProxyError::ExpectationFailed);
        }
        remove_where(headers, |name| is_meant_for_proxies(name.as_str()));
    }
    Ok(())
}

/// Whether the caller says that it takes trailers.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut names = codings.map(|coding| coding.split(|byte| *byte == b';').next().unwrap_or_default());
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Says that the caller takes trailers, which concerns the next connection too; gRPC insists on it.
pub(crate) fn set_takes_trailers(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
}

/// Makes an upstream's head fit to be sent on.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers, Side::Response);
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || number(length.as_bytes()).is_none())
    {
        settle_length(headers);
    }
}

/// Makes one plain length of a list of equal ones, which hyper takes; what is none goes (RFC 9110 section 8.6). On an
/// answer without a body, as one to HEAD, hyper has not looked at it.
fn settle_length(headers: &mut HeaderMap) {
    let values = headers.get_all(CONTENT_LENGTH).iter();
    let mut lengths =
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let first = lengths.next().filter(|length| number(length).is_some());
    let settled = first.filter(|first| lengths.all(|other| other == *first));
    match settled.and_then(|length| HeaderValue::from_bytes(length).ok()) {
        Some(length) => drop(headers.insert(CONTENT_LENGTH, length)),
        None => drop(headers.remove(CONTENT_LENGTH)),
    }
}

/// Removes from the trailers of a message what must stand in its head or concerns one connection only (RFC 9110 section
/// 6.5.1): whoever merges them into the head would let them undo what was decided by it.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, side: Side) {
    remove_where(trailers, |name| is_no_trailer(name, side));
}

fn is_no_trailer(name: &HeaderName, side: Side) -> bool {
    let word = name.as_str();
    !is_token(name)
        || is_hop_by_hop(word)
        || is_meant_for_proxies(word)
        || claim(word).is_some()
        || matches!(
            word,
            // Framing and routing.
            "content-length" | "host" | "via" | "x-request-id"
            // How to take the request.
            | "cache-control" | "expires" | "max-forwards" | "pragma" | "range" | "x-http-method-override"
            // Who sends it.
            | "authorization" | "cookie" | "proxy-authentication-info" | "set-cookie" | "www-authenticate"
            // How to take the body.
            | "content-encoding" | "content-range" | "content-type"
            // How to take the answer.
            | "age" | "date" | "location" | "retry-after" | "strict-transport-security" | "vary" | "warning"
        )
        || word.starts_with("if-")
        // A caller could mean any of the others.
        || side == Side::Request && word.contains('_')
}

/// Removes what concerns one connection only, and what `Connection` says does (RFC 9110 section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap, side: Side) {
    // Many backends say `Connection: keep-alive` with each answer, and nothing else of the kind.
    let mut unwanted = headers.keys().filter(|name| is_hop_by_hop(name.as_str()));
    match (unwanted.next(), unwanted.next()) {
        (None, _) => return,
        (Some(&CONNECTION), None) => {
            if let Entry::Occupied(entry) = headers.entry(CONNECTION)
                && entry.iter().all(|value| value == KEEP_ALIVE)
            {
                entry.remove();
                return;
            }
        }
        (Some(_), _) => {}
    }
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    let trailers = announced_trailers(headers, side);
    remove_where(headers, |name| is_hop_by_hop(name.as_str()));
    if let Some(trailers) = trailers {
        headers.insert(TRAILER, trailers);
    }
}

/// The trailers that a message announces, without those that may be none. hyper sends on over HTTP/1.1 what is
/// announced.
fn announced_trailers(headers: &HeaderMap, side: Side) -> Option<HeaderValue> {
    if !headers.contains_key(TRAILER) {
        return None;
    }
    let values = headers.get_all(TRAILER).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = words.filter_map(|word| HeaderName::from_bytes(word.trim_ascii()).ok());
    let names: Vec<_> = names.filter(|name| !is_no_trailer(name, side)).collect();
    let list = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    (!names.is_empty()).then(|| HeaderValue::try_from(list).ok()).flatten()
}

/// The fields that `Connection` names, but for those that routing, framing and the client's address rest on: a caller
/// must not be able to take them away behind the proxy's back.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let names = words
        .filter(|word| *word != KEEP_ALIVE.as_bytes())
        .filter_map(|word| HeaderName::from_bytes(word).ok());
    let mut names: Vec<_> = names.filter(|name| headers.contains_key(name) && !is_protected(name)).collect();
    names.dedup();
    names
}

fn is_protected(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONTENT_LENGTH
        || *name == VIA
        || *name == X_REQUEST_ID
        || claim(name.as_str()).is_some()
}

/// The request's id: the caller's, if it is one plain word of moderate length, or else a new one.
pub(crate) fn request_id(headers: &mut HeaderMap, random: &mut fastrand::Rng) -> Box<str> {
    let is_plain = |id: &&str| {
        (1..=MAX_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/".contains(&byte))
    };
    let entry = headers.entry(X_REQUEST_ID);
    if let Entry::Occupied(entry) = &entry
        && entry.iter().nth(1).is_none()
        && let Some(id) = entry.get().to_str().ok().filter(is_plain)
    {
        return id.into();
    }
    let id = new_id(random);
    if let Ok(value) = HeaderValue::from_str(&id) {
        match entry {
            Entry::Occupied(mut entry) => drop(entry.insert(value)),
            Entry::Vacant(entry) => drop(entry.insert(value)),
        }
    }
    id
}

/// 128 random bits in hexadecimal.
pub(crate) fn new_id(random: &mut fastrand::Rng) -> Box<str> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = random.u128(..).to_le_bytes();
    let id: [u8; 32] = std::array::from_fn(|place| {
        let byte = bytes[place / 2];
        DIGITS[usize::from(if place % 2 == 0 { byte & 15 } else { byte >> 4 })]
    });
    std::str::from_utf8(&id).expect("digits are text").into()
}

/// The one thing that most messages say about their connection: it names what goes anyway.
const KEEP_ALIVE: &str = "keep-alive";

/// No method that is in use comes near to it; a longer one would be kept in every record.
const MAX_METHOD: usize = 32;

/// What browsers, CloudFront (8 KiB) and the ALB (16 KiB of request line) let through fits.
const MAX_TARGET: usize = 16 << 10;

/// Longer ids are replaced: they would be kept in every record.
const MAX_ID: usize = 128;

#[cfg(test)]
mod tests;
