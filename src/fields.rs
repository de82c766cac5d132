//! Header fields: the names that a caller must not decide on, names with underscores, an operator's rules for the rest,
//! and the guard that asks for a secret. Pure.
//!
//! # Invariants
//!
//! - A secret is compared in constant time, with every configured value. It stands in no log, no error and no
//!   `Debug`. Held by `only_exactly_one_right_secret_comes_in_and_it_goes_no_further` and
//!   `a_guards_debug_output_names_no_secret`.
//! - A field that a backend could take for one that Stent vouches for reaches no backend, in any spelling. Held by
//!   `every_forwarding_header_of_an_untrusted_peer_is_replaced` and `no_spelling_brings_a_claim_past_any_policy`.

use http::header::{HeaderMap, HeaderName};
use thiserror::Error;

use self::claims::claim;

pub mod claims;
pub mod guard;
pub mod rules;
#[cfg(test)]
mod tests;
pub mod via;

/// How a request came to the first proxy that we trust, or to us, as `X-Forwarded-Proto` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 2] = [Self::Http, Self::Https];

    /// As a URL has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL need not name.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Whether a name is a token, as it must be (RFC 9110 section 5.1). One that came over HTTP/2 need not be: `from_lowercase`,
/// by which h2 reads names, takes the quotation mark as well.
pub fn is_token(name: &HeaderName) -> bool {
    !name.as_str().as_bytes().contains(&b'"')
}

/// What concerns one connection only (RFC 9110 section 7.6.1). `HTTP2-Settings` does, even where `Connection` does not name
/// it (RFC 7540 section 3.2.1).
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What a caller says to a proxy, or should not say at all. `Expect`: we tell the caller to go on as soon as a connection
/// takes the body, and the upstream gets it without asking. `Proxy`: CGI programs read it as the address of a proxy of
/// theirs ("httpoxy"). `X-Original-URL`, `X-Rewrite-URL`: some frameworks obey them instead of the request target, behind
/// the back of every rule on paths. No load balancer sets them or takes them away, so who sent them does not matter.
pub fn is_meant_for_proxies(name: &str) -> bool {
    matches!(
        name,
        "expect" | "proxy" | "proxy-authorization" | "x-original-url" | "x-rewrite-url" | "x-stent-attempt"
    )
}

/// What a message's framing and destination, or our own record of it, rest on.
fn is_essential(name: &str) -> bool {
    matches!(name, "content-length" | "host" | "via" | "x-request-id")
}

/// Whether HTTP or a proxy gives the name a meaning that a caller must not get around by spelling it otherwise.
fn is_reserved(name: &str) -> bool {
    is_hop_by_hop(name) || is_meant_for_proxies(name) || is_essential(name) || claim(name).is_some()
}

/// Takes away `name` and every field that a backend may read as it: one that turns fields into variables, as CGI does,
/// tells letters and digits apart and nothing else.
pub fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let name = name.as_str();
    remove_where(headers, |other| {
        let other = other.as_str();
        other.len() == name.len() && other.bytes().map(plain).eq(name.bytes().map(plain))
    });
}

/// What is done about a request with header names that hold underscores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Such fields are taken away, as NGINX does it: a backend may read `X_User` as `X-User`.
    #[default]
    Drop,
    /// They are passed on, but for those that would stand for a field that a caller must not decide on.
    Keep,
    /// The request is refused.
    Refuse,
}

/// A header name holds an underscore, and the listener refuses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a header name holds an underscore")]
pub struct UnderscoreFound;

impl Underscores {
    /// Every policy, in the order in which `config/reference.toml` lists them.
    pub const ALL: [Self; 3] = [Self::Drop, Self::Keep, Self::Refuse];

    /// The word in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Keep => "keep",
            Self::Refuse => "refuse",
        }
    }

    /// Makes a request's fields follow the policy. What another spelling of a reserved name stands for is taken away under
    /// each of them, be it spelled with underscores, dots or any other sign that some backend reads as a hyphen.
    pub fn apply(self, headers: &mut HeaderMap) -> Result<(), UnderscoreFound> {
        if headers.keys().all(is_plain) {
            return Ok(()); // nearly always
        }
        match self {
            Self::Refuse if headers.keys().any(has_underscore) => return Err(UnderscoreFound),
            Self::Drop => remove_where(headers, |name| has_underscore(name) || is_disguised(name)),
            Self::Refuse | Self::Keep => remove_where(headers, is_disguised),
        }
        Ok(())
    }
}

fn has_underscore(name: &HeaderName) -> bool {
    name.as_str().as_bytes().contains(&b'_')
}

/// Whether a name holds letters, digits and hyphens only, so that no backend reads it as another.
fn is_plain(name: &HeaderName) -> bool {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0u8;
        // No name holds anything beyond ASCII.
        while byte < 128 {
            plain[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-';
            byte += 1;
        }
        plain
    };
    name.as_str().bytes().all(|byte| PLAIN[usize::from(byte)])
}

/// Whether a name is another spelling of a reserved one.
fn is_disguised(name: &HeaderName) -> bool {
    let plain = |byte: char| if byte.is_ascii_alphanumeric() { byte } else { '-' };
    !is_plain(name) && is_reserved(&name.as_str().chars().map(plain).collect::<String>())
}

/// Takes away every field of such a name. One look at each field costs less than a look-up of each that might be there: most
/// heads have none of them.
pub(crate) fn remove_where(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<_> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}
