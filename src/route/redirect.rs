//! An answer that leads elsewhere: another scheme, host or port, and the same path and query.

use std::net::Ipv6Addr;

use http::header::{HeaderValue, InvalidHeaderValue};
use http::{StatusCode, Uri};
use thiserror::Error;

use crate::fields::Scheme;

/// Where callers are led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    scheme: Option<Scheme>,
    host: Option<RedirectHost>,
    port: Option<u16>,
    status: StatusCode,
}

/// A host as it stands in a URL: a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectHost(Box<str>);

/// Why a redirect is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRedirect {
    /// Not a host.
    #[error("not a host name or address")]
    Host,
    /// Neither a scheme nor a host nor a port.
    #[error("a redirect changes the scheme, the host or the port")]
    Nothing,
    /// Port 0 leads nowhere.
    #[error("a port lies between 1 and 65535")]
    Port,
    /// A status that does not redirect.
    #[error("not a status that redirects")]
    Status,
}

/// What a request says of where it is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// How it came.
    pub scheme: Scheme,
    /// Its `Host`, which has been checked: a host and, maybe, a port.
    pub authority: &'a str,
    /// Its target in origin form.
    pub target: &'a Uri,
}

/// What a redirect answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Go there.
    Location(HeaderValue),
    /// The caller is there already, and would come back for ever.
    Loop,
}

impl RedirectHost {
    /// Reads a host without scheme, port or path.
    pub fn parse(text: &str) -> Result<Self, InvalidRedirect> {
        let is_address = |address: &str| address.parse::<Ipv6Addr>().is_ok();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_host = match text.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(is_address),
            None => !text.is_empty() && !text.starts_with('.') && text.bytes().all(is_name),
        };
        if is_host { Ok(Self(text.to_ascii_lowercase().into())) } else { Err(InvalidRedirect::Host) }
    }

    /// The host, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Redirect {
    /// The statuses that redirect and keep no more of the request than their meaning allows.
    pub const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

    /// A redirect that changes what is given.
    pub fn new(
        scheme: Option<Scheme>,
        host: Option<RedirectHost>,
        port: Option<u16>,
        status: u16,
    ) -> Result<Self, InvalidRedirect> {
        if scheme.is_none() && host.is_none() && port.is_none() {
            return Err(InvalidRedirect::Nothing);
        }
        if port == Some(0) {
            return Err(InvalidRedirect::Port);
        }
        let is_redirection = Self::STATUSES.contains(&status);
        let status = StatusCode::from_u16(status).ok().filter(|_| is_redirection);
        Ok(Self { scheme, host, port, status: status.ok_or(InvalidRedirect::Status)? })
    }

    /// The scheme, if it changes.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// The host, if it changes.
    pub fn host(&self) -> Option<&RedirectHost> {
        self.host.as_ref()
    }

    /// The port; otherwise the scheme's own.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether caches may keep the answer by themselves (RFC 9110 section 15.4).
    pub fn is_permanent(&self) -> bool {
        matches!(self.status, StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT)
    }

    /// Where a request is led to: path and query byte for byte, and of the rest only the checked host.
    ///
    /// Without a scheme the answer begins with `//`, which a client reads as "the scheme that you came by" (RFC 3986
    /// section 4.2): it knows that better than we, who may stand behind something that ends TLS. The request's port is
    /// not kept, because it belongs to the address that is being left.
    pub fn answer(&self, place: &Place<'_>) -> Result<Answer, InvalidHeaderValue> {
        let (host, port) = split(place.authority);
        let target = place.target.path_and_query().map_or("/", |target| target.as_str());
        let new_host = self.host.as_ref().map_or(host, RedirectHost::as_str);
        let new_scheme = self.scheme.unwrap_or(place.scheme);
        let (old_port, new_port) =
            (port.unwrap_or(place.scheme.port()), self.port.unwrap_or(new_scheme.port()));
        if new_scheme == place.scheme && new_port == old_port && new_host.eq_ignore_ascii_case(host) {
            return Ok(Answer::Loop);
        }
        let mut location = String::with_capacity(16 + new_host.len() + target.len());
        if let Some(scheme) = self.scheme {
            location.extend([scheme.label(), ":"]);
        }
        location.extend(["//", new_host]);
        // Of an unknown scheme no port is known to be the default.
        if let Some(port) = self.port.filter(|port| self.scheme.map(Scheme::port) != Some(*port)) {
            location.extend([":", &port.to_string()]);
        }
        location.push_str(target);
        // Not `from_str`, which refuses bytes beyond ASCII; it refuses whatever could end a line.
        HeaderValue::from_bytes(location.as_bytes()).map(Answer::Location)
    }
}

/// The host and the port of an authority that has been checked.
fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redirect(scheme: Option<Scheme>, host: &str, port: Option<u16>) -> Redirect {
        let host = (!host.is_empty()).then(|| RedirectHost::parse(host).unwrap());
        Redirect::new(scheme, host, port, 308).unwrap()
    }

    fn answer(redirect: &Redirect, scheme: Scheme, authority: &str, target: &str) -> String {
        let target = target.parse().unwrap();
        match redirect.answer(&Place { scheme, authority, target: &target }).unwrap() {
            Answer::Location(location) => location.to_str().unwrap().to_owned(),
            Answer::Loop => "loop".to_owned(),
        }
    }

    #[test]
    fn what_is_given_changes_and_the_rest_stays() {
        use Scheme::{Http, Https};
        let target = "/a%2Fb//c?x=%41&y=//z&&";
        for (given, authority, location) in [
            (redirect(Some(Https), "", None), "a.org", "https://a.org"),
            (redirect(Some(Https), "", None), "a.org:8080", "https://a.org"),
            (redirect(Some(Https), "", Some(443)), "a.org", "https://a.org"),
            (redirect(Some(Https), "", Some(8443)), "a.org", "https://a.org:8443"),
            (redirect(Some(Http), "b.org", Some(80)), "a.org", "http://b.org"),
            (redirect(Some(Https), "B.org", None), "a.org", "https://b.org"),
            (redirect(None, "b.org", None), "a.org:8080", "//b.org"),
            (redirect(None, "b.org", Some(443)), "a.org", "//b.org:443"),
            (redirect(None, "", Some(8081)), "a.org:8080", "//a.org:8081"),
            (redirect(Some(Https), "", None), "[2001:db8::1]:80", "https://[2001:db8::1]"),
            (redirect(Some(Https), "[2001:DB8::2]", Some(1)), "[2001:db8::1]", "https://[2001:db8::2]:1"),
        ] {
            assert_eq!(answer(&given, Http, authority, target), format!("{location}{target}"));
        }
    }

    #[test]
    fn a_path_that_looks_like_a_host_stays_a_path() {
        let given = redirect(None, "b.org", None);
        assert_eq!(answer(&given, Scheme::Http, "a.org", "//evil.test/x"), "//b.org//evil.test/x");
    }

    #[test]
    fn who_is_there_already_is_not_sent_there_again() {
        use Scheme::{Http, Https};
        for (given, scheme, authority) in [
            (redirect(Some(Https), "", None), Https, "a.org"),
            (redirect(Some(Https), "", None), Https, "a.org:443"),
            (redirect(None, "a.org", None), Http, "A.org"),
            (redirect(None, "a.org", None), Https, "a.org"),
            (redirect(None, "", Some(8080)), Http, "a.org:8080"),
        ] {
            assert_eq!(answer(&given, scheme, authority, "/"), "loop", "{given:?} {authority}");
        }
        for (given, scheme, authority) in [
            (redirect(Some(Https), "", None), Http, "a.org"),
            (redirect(Some(Https), "", None), Https, "a.org:8443"),
            (redirect(None, "a.org", None), Http, "a.org:8080"),
        ] {
            assert_ne!(answer(&given, scheme, authority, "/"), "loop", "{given:?} {authority}");
        }
    }

    #[test]
    fn what_is_no_redirect_says_why() {
        assert_eq!(Redirect::new(None, None, None, 308), Err(InvalidRedirect::Nothing));
        assert_eq!(Redirect::new(Some(Scheme::Https), None, Some(0), 308), Err(InvalidRedirect::Port));
        for status in [200, 300, 304, 305, 306, 309, 404, 0] {
            let redirect = Redirect::new(Some(Scheme::Https), None, None, status);
            assert_eq!(redirect, Err(InvalidRedirect::Status), "{status}");
        }
        for host in
            ["", "a b", "a/b", "a:80", "https://a", "[x]", "2001:db8::1", "a@b", ".a", "a\r\nb", "*.a"]
        {
            assert_eq!(RedirectHost::parse(host), Err(InvalidRedirect::Host), "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn path_and_query_arrive_byte_for_byte(target in "/[!$-;=@-Z_a-z|~%]{0,40}(\\?[!$-;=?-Z_a-z]{0,20})?") {
            if let Ok(uri) = target.parse::<Uri>() && uri.authority().is_none() && !target.starts_with("//") {
                let given = redirect(Some(Scheme::Https), "b.org", None);
                prop_assert_eq!(answer(&given, Scheme::Http, "a.org", &target), format!("https://b.org{target}"));
            }
        }
    }
}
