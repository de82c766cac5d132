//! One address of a backend.

use std::net::IpAddr;

use thiserror::Error;

/// An endpoint as the configuration names it: `http://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    /// The host.
    pub host: EndpointHost,
    /// The port; 80 if the URL has none.
    pub port: u16,
}

/// A host that is an address, or a name whose every address is an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointHost {
    /// An IP address.
    Address(IpAddr),
    /// A name to be resolved.
    Name(Box<str>),
}

/// Why a text is not an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidEndpoint {
    /// Not `http://…`.
    #[error("an endpoint is a URL: http://HOST:PORT")]
    Scheme,
    /// TLS towards the backend.
    #[error("https endpoints are not supported by this version")]
    Https,
    /// No host, or no valid one.
    #[error("the host is neither an IP address nor a host name")]
    Host,
    /// Not a port.
    #[error("the port must be between 1 and 65535")]
    Port,
    /// A path, query, fragment or user, all of which would be ignored.
    #[error("an endpoint is a host and a port, without user, path or query: requests keep their own path")]
    Extra,
}

impl EndpointUrl {
    /// Reads `http://10.0.1.10:8080`, `http://[2001:db8::1]`, `http://hosp.internal:8080`; one final slash is allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        if text.starts_with("https://") {
            return Err(InvalidEndpoint::Https);
        }
        let authority = text.strip_prefix("http://").ok_or(InvalidEndpoint::Scheme)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(InvalidEndpoint::Extra);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(InvalidEndpoint::Host)?;
                let address = address.parse().map_err(|_| InvalidEndpoint::Host)?;
                (EndpointHost::Address(IpAddr::V6(address)), port)
            }
            None => {
                let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
                (EndpointHost::parse(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(InvalidEndpoint::Port)?
            }
            None if port.is_empty() => 80,
            _ => return Err(InvalidEndpoint::Port),
        };
        Ok(Self { host, port })
    }
}

impl EndpointHost {
    fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        // A name whose last label is all digits is a mistyped address, not a name (RFC 3696 section 2).
        let mistyped =
            || text.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if text.is_empty()
            || text.len() > 253
            || text.starts_with('.')
            || !text.bytes().all(valid)
            || mistyped()
        {
            return Err(InvalidEndpoint::Host);
        }
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let address =
            |text: &str, port| Ok(EndpointUrl { host: EndpointHost::Address(text.parse().unwrap()), port });
        assert_eq!(EndpointUrl::parse("http://10.0.1.10:8080"), address("10.0.1.10", 8080));
        assert_eq!(EndpointUrl::parse("http://10.0.1.10/"), address("10.0.1.10", 80));
        assert_eq!(EndpointUrl::parse("http://[::1]:81"), address("::1", 81));
        assert_eq!(
            EndpointUrl::parse("http://Hosp.internal"),
            Ok(EndpointUrl { host: EndpointHost::Name("hosp.internal".into()), port: 80 })
        );
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, error) in [
            ("10.0.1.10:8080", InvalidEndpoint::Scheme),
            ("ftp://a", InvalidEndpoint::Scheme),
            ("https://a", InvalidEndpoint::Https),
            ("http://", InvalidEndpoint::Host),
            ("http://a b", InvalidEndpoint::Host),
            ("http://10.0.1.300", InvalidEndpoint::Host),
            ("http://[::1", InvalidEndpoint::Host),
            ("http://a:0", InvalidEndpoint::Port),
            ("http://a:65536", InvalidEndpoint::Port),
            ("http://a:", InvalidEndpoint::Port),
            ("http://a:+1", InvalidEndpoint::Port),
            ("http://[::1]x", InvalidEndpoint::Port),
            ("http://a/api", InvalidEndpoint::Extra),
            ("http://u@a", InvalidEndpoint::Extra),
        ] {
            assert_eq!(EndpointUrl::parse(text), Err(error), "{text}");
        }
    }
}
