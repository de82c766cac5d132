//! What a proxy does to message heads: refuses the ambiguous, removes what belongs to one connection, adds its own.

use http::header::{
    CONNECTION, CONTENT_LENGTH, Entry, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};

use crate::error::{ProxyError, RequestFault};
use crate::policy::retry::Upgrade;

/// Correlates a request through all who handle it; made here if the caller did not.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Tells the upstream the number of an attempt, from the second on.
pub(crate) const X_STENT_ATTEMPT: HeaderName = HeaderName::from_static("x-stent-attempt");

/// What concerns one connection only (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

/// What a caller says to a proxy, or should not say at all. `Expect`: we tell the caller to go on as soon as a connection
/// takes the body, and the upstream gets it without asking. `Proxy`: CGI programs read it as the address of a proxy of
/// theirs ("httpoxy").
fn is_meant_for_us(name: &HeaderName) -> bool {
    matches!(name.as_str(), "expect" | "proxy" | "proxy-authorization" | "x-stent-attempt")
}

/// Refuses a request whose meaning two parsers could disagree on, before anything is routed by it, and gives a target
/// in absolute form its usual one (RFC 9112 section 3.2.2).
pub(crate) fn check(head: &mut Parts) -> Result<(), ProxyError> {
    let bad = |fault| Err(ProxyError::BadRequest(fault));
    if head.method == Method::CONNECT {
        return Err(ProxyError::MethodUnsupported);
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
    Ok(())
}

/// A host name or address and, maybe, a port (RFC 9110 section 4.2): no user, no list, no blanks.
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
                && host.iter().all(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
                })
        }
    };
    is_host && is_port
}

/// At most one `Content-Length` and no `Transfer-Encoding` but `chunked`, alone (RFC 9112 section 6).
///
/// hyper has refused differing lengths, and where both fields came it has already settled on `chunked`, dropped the
/// length and will close the connection.
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

/// The host that a request is for, without its port.
pub(crate) fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

/// Whether the request asks for another protocol.
pub(crate) fn upgrade(headers: &HeaderMap) -> Upgrade {
    if headers.contains_key(UPGRADE) { Upgrade::Requested } else { Upgrade::None }
}

/// Makes a caller's head fit to be sent on: without what belongs to the caller's connection, with our `Via`.
pub(crate) fn clean_request(headers: &mut HeaderMap, via: &HeaderValue) -> Result<(), ProxyError> {
    if has_passed(headers, via) {
        return Err(ProxyError::LoopDetected);
    }
    remove_hop_by_hop(headers);
    remove_if_any(headers, is_meant_for_us);
    headers.append(VIA, via.clone());
    Ok(())
}

/// Makes an upstream's head fit to be sent on.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHENTICATE);
}

/// Makes trailers fit to be sent on, either way: without what a recipient that merges them into the head could be
/// misled by (RFC 9110 section 6.5.1). hyper sends them over HTTP/1.1 only where `Trailer` announces them.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let is_unfit = |name: &HeaderName| {
        let is_about_the_message = matches!(
            name.as_str(),
            "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-range"
                | "content-type"
                | "cookie"
                | "forwarded"
                | "max-forwards"
                | "proxy-authenticate"
                | "range"
                | "set-cookie"
                | "trailer"
                | "www-authenticate"
                | "x-real-ip"
        );
        is_about_the_message || is_hop_by_hop(name) || is_meant_for_us(name) || is_protected(name)
    };
    remove_if_any(trailers, is_unfit);
}

/// Whether `Via` names us (RFC 9110 section 7.6.3).
fn has_passed(headers: &HeaderMap, via: &HeaderValue) -> bool {
    let Some(own) = received_by(via.as_bytes()) else { return false };
    let mut hops = headers.get_all(VIA).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    hops.any(|hop| received_by(hop).is_some_and(|name| name.eq_ignore_ascii_case(own)))
}

/// The second word of a hop: `1.1 stent (comment)` was received by `stent`.
fn received_by(hop: &[u8]) -> Option<&[u8]> {
    hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
}

/// Removes what concerns one connection only, and what `Connection` says does (RFC 9110 section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
    }
    remove_if_any(headers, is_hop_by_hop);
}

/// One look at each field costs less than a look-up of each that might be there: most heads have none of them.
fn remove_if_any(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&is_unwanted) {
        let unwanted: Vec<_> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
        for name in unwanted {
            headers.remove(name);
        }
    }
}

/// The fields that `Connection` names, but for those that routing, framing and the client's address rest on: a caller
/// must not be able to take them away behind the proxy's back.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = words.filter_map(|word| HeaderName::from_bytes(word.trim_ascii()).ok());
    let mut names: Vec<_> = names.filter(|name| headers.contains_key(name) && !is_protected(name)).collect();
    names.dedup();
    names
}

fn is_protected(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONTENT_LENGTH
        || *name == VIA
        || *name == X_REQUEST_ID
        || name.as_str().starts_with("x-forwarded-")
}

/// The request's id: the caller's, if it is a plain word of moderate length, or else a new one.
pub(crate) fn request_id(headers: &mut HeaderMap, random: &mut fastrand::Rng) -> Box<str> {
    let is_plain = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/".contains(&byte))
    };
    let given = headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_plain);
    if let Some(id) = given {
        return id.into();
    }
    let id = new_id(random);
    if let Ok(value) = HeaderValue::from_str(&id) {
        match headers.entry(X_REQUEST_ID) {
            Entry::Occupied(mut entry) => drop(entry.insert_mult(value)),
            Entry::Vacant(entry) => drop(entry.insert(value)),
        }
    }
    id
}

/// 128 random bits in hexadecimal.
pub(crate) fn new_id(random: &mut fastrand::Rng) -> Box<str> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bits = random.u128(..);
    let mut id = String::with_capacity(32);
    for _ in 0..32 {
        id.push(char::from(DIGITS[usize::from(bits.to_le_bytes()[0] & 15)]));
        bits >>= 4;
    }
    id.into()
}

/// Longer ids are replaced: they would be kept in every record.
const LONGEST_ID: usize = 128;

#[cfg(test)]
mod tests;
