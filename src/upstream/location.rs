//! Where an endpoint is: the URL that names it in the configuration, and one address of that URL's host.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// An endpoint as the configuration names it: `http://HOST[:PORT]` or `https://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    /// Whether it is reached over TLS.
    pub scheme: EndpointScheme,
    /// The host.
    pub host: EndpointHost,
    /// The port; 80 or 443 if the URL has none.
    pub port: u16,
}

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointScheme {
    /// TCP alone.
    Http,
    /// TLS.
    Https,
}

impl EndpointScheme {
    /// The word before `://`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
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
    /// Neither `http://…` nor `https://…`.
    #[error("an endpoint is a URL: http://HOST:PORT or https://HOST:PORT")]
    Scheme,
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
    /// Reads `http://10.0.1.10:8080`, `http://[2001:db8::1]`, `https://hosp.internal`; one final slash is allowed.
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let secured = text.strip_prefix("https://").map(|authority| (EndpointScheme::Https, authority));
        let plain = || text.strip_prefix("http://").map(|authority| (EndpointScheme::Http, authority));
        let (scheme, authority) = secured.or_else(plain).ok_or(InvalidEndpoint::Scheme)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(InvalidEndpoint::Extra);
        }
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(InvalidEndpoint::Host)?;
            let address = address.parse().map_err(|_| InvalidEndpoint::Host)?;
            (EndpointHost::Address(IpAddr::V6(address)), port)
        } else {
            let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
            (EndpointHost::parse(host)?, port)
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(InvalidEndpoint::Port)?
            }
            None if port.is_empty() => match scheme {
                EndpointScheme::Http => 80,
                EndpointScheme::Https => 443,
            },
            _ => return Err(InvalidEndpoint::Port),
        };
        Ok(Self { scheme, host, port })
    }

    /// The endpoint, if the host is an address: then there is no name to resolve.
    pub fn fixed(&self) -> Option<Location> {
        match self.host {
            EndpointHost::Address(address) => Some(self.at(address)),
            EndpointHost::Name(_) => None,
        }
    }

    /// The endpoint at one of its host's addresses.
    pub fn at(&self, address: IpAddr) -> Location {
        Location { address: SocketAddr::new(address, self.port), host: self.host.clone() }
    }
}

impl EndpointHost {
    fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        // A name whose last label is all digits is a mistyped address, not a name (RFC 3696 section 2).
        // The root's dot at the end is the resolver's business: with it, no search list is tried (RFC 1034 section 3.1).
        let name = text.strip_suffix('.').unwrap_or(text);
        let mistyped =
            || name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
        if name.is_empty()
            || name.len() > 253
            || text.starts_with('.')
            || !text.bytes().all(valid)
            || mistyped()
        {
            return Err(InvalidEndpoint::Host);
        }
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

/// Where an endpoint is: one address of a URL's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The address.
    pub address: SocketAddr,
    /// The host, for which its certificate has to hold.
    pub host: EndpointHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        use EndpointScheme::{Http, Https};
        let at = |scheme, text: &str, port| {
            Ok(EndpointUrl { scheme, host: EndpointHost::Address(text.parse().unwrap()), port })
        };
        let address = |text: &str, port| at(Http, text, port);
        assert_eq!(EndpointUrl::parse("http://10.0.1.10:8080"), address("10.0.1.10", 8080));
        assert_eq!(EndpointUrl::parse("http://10.0.1.10/"), address("10.0.1.10", 80));
        assert_eq!(EndpointUrl::parse("http://[::1]:81"), address("::1", 81));
        assert_eq!(
            EndpointUrl::parse("http://Hosp.internal"),
            Ok(EndpointUrl { scheme: Http, host: EndpointHost::Name("hosp.internal".into()), port: 80 })
        );
        assert_eq!(
            EndpointUrl::parse("http://hosp.internal.:8080"),
            Ok(EndpointUrl { scheme: Http, host: EndpointHost::Name("hosp.internal.".into()), port: 8080 })
        );
        assert_eq!(EndpointUrl::parse("https://10.0.1.10"), at(Https, "10.0.1.10", 443));
        assert_eq!(EndpointUrl::parse("https://10.0.1.10:8443/"), at(Https, "10.0.1.10", 8443));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, error) in [
            ("10.0.1.10:8080", InvalidEndpoint::Scheme),
            ("ftp://a", InvalidEndpoint::Scheme),
            ("https://", InvalidEndpoint::Host),
            ("HTTPS://a", InvalidEndpoint::Scheme),
            ("http://", InvalidEndpoint::Host),
            ("http://a b", InvalidEndpoint::Host),
            ("http://.", InvalidEndpoint::Host),
            ("http://10.0.1.300.", InvalidEndpoint::Host),
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
