//! Who the client is: read from `X-Forwarded-For` right to left through the trusted proxies, because whoever is not
//! trusted can write anything to the left of its own address. Pure.
//!
//! # Invariant
//!
//! A proxy is believed in those headers only that it writes itself: all others are its caller's. Held by
//! `a_trusted_proxy_is_believed_in_what_it_writes_and_its_caller_in_nothing`.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::error::RequestFault;
use crate::fields::claims::claim;
use crate::fields::{Scheme, remove_where};
use crate::proxy::body::Trust;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What is known of a connection's peer, once for all its requests.
#[derive(Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    text: HeaderValue,
    scheme: Scheme,
}

/// Whose word on a request is taken, and in which headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trusted<'a> {
    /// The proxies whose word is taken.
    pub(crate) proxies: &'a [IpNet],
    /// The headers that they write besides [`WRITTEN`].
    pub(crate) headers: &'a [HeaderName],
}

/// What every load balancer and CDN writes itself, over whatever its caller said.
const WRITTEN: [HeaderName; 3] = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_PORT];

impl Peer {
    pub(crate) fn new(address: SocketAddr, scheme: Scheme) -> Self {
        let address = address.ip().to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self { address, text: text.expect("an IP address is a header value"), scheme }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is one of the trusted proxies.
    pub(crate) fn trust(&self, trusted: &[IpNet]) -> Trust {
        if is_trusted(self.address, trusted) { Trust::Yes } else { Trust::No }
    }

    /// Finds the client's address, and makes the forwarding headers say what we know. `trust` is this peer's.
    pub(crate) fn apply(
        &self,
        headers: &mut HeaderMap,
        trust: Trust,
        trusted: Trusted<'_>,
    ) -> Result<IpAddr, RequestFault> {
        match trust {
            Trust::No => {
                self.replace(headers);
                Ok(self.address)
            }
            Trust::Yes => self.append(headers, trusted),
        }
    }

    /// From a client: whatever it says about earlier hops is made up.
    fn replace(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| claim(name.as_str()).is_some());
        headers.insert(X_FORWARDED_FOR, self.text.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme.label()));
    }

    /// From a trusted proxy: what it writes is kept, and it is added to the list.
    fn append(&self, headers: &mut HeaderMap, trusted: Trusted<'_>) -> Result<IpAddr, RequestFault> {
        remove_where(headers, |name| {
            claim(name.as_str()).is_some() && !WRITTEN.contains(name) && !trusted.headers.contains(name)
        });
        let values = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let list = values.collect::<Vec<_>>().join(&b", "[..]);
        let hops = || list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty());
        if hops().count() > MAX_HOPS {
            return Err(RequestFault::ForwardedTooLong);
        }
        let mut client = self.address;
        // A hop that is no address ends the walk: what is left of it cannot be vouched for.
        for address in hops().collect::<Vec<_>>().into_iter().rev().map_while(parse_hop) {
            client = address;
            if !is_trusted(address, trusted.proxies) {
                break;
            }
        }
        let mut line = list.clone();
        if hops().next().is_some() {
            line.extend_from_slice(b", ");
        } else {
            line.clear();
        }
        line.extend_from_slice(self.text.as_bytes());
        // It was made of header values.
        let line = HeaderValue::from_bytes(&line).map_err(|_| RequestFault::BadHead)?;
        headers.insert(X_FORWARDED_FOR, line);
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme.label()));
        }
        Ok(client)
    }
}

/// Whether `address` is one of the trusted proxies.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`: an ALB can be set to add the port.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let address = text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()));
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    address.or_else(bare).map(|address| address.to_canonical())
}

/// An ALB refuses longer lists with 463.
const MAX_HOPS: usize = 30;

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }

    fn apply(peer: &str, lines: &[&str]) -> (Result<IpAddr, RequestFault>, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "hosp.example.org".parse().unwrap());
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        let peer = Peer::new(SocketAddr::new(peer.parse().unwrap(), 4000), Scheme::Http);
        (apply_to(&peer, &mut headers, &[]), headers)
    }

    fn apply_to(peer: &Peer, headers: &mut HeaderMap, more: &[HeaderName]) -> Result<IpAddr, RequestFault> {
        let proxies = &trusted();
        peer.apply(headers, peer.trust(proxies), Trusted { proxies, headers: more })
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        apply(peer, lines).0.unwrap().to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_claims() {
        assert_eq!(client("192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        let (_, headers) = apply("192.0.2.1", &["1.1.1.1", "10.0.0.9"]);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1");
        assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().count(), 1);
    }

    #[test]
    fn every_forwarding_header_of_an_untrusted_peer_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "h".parse().unwrap());
        for name in [
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-ssl",
            "x-forwarded-client-cert",
            "forwarded",
            "front-end-https",
            "x-real-ip",
            "true-client-ip",
            "x-ssl-client-verify",
            "x-ssl-client-s-dn",
            "x-amzn-mtls-clientcert",
            "client-cert",
        ] {
            headers.insert(name, "evil".parse().unwrap());
        }
        let peer = Peer::new("192.0.2.1:1".parse().unwrap(), Scheme::Https);
        apply_to(&peer, &mut headers, &["x-real-ip".parse().unwrap()]).unwrap();
        assert!(headers.values().all(|value| value != "evil"), "{headers:?}");
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert!(!headers.contains_key("x-forwarded-host"), "it is made of the Host that is in force later");
    }

    #[test]
    fn a_trusted_proxy_is_believed_in_what_it_writes_and_its_caller_in_nothing() {
        let said = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-port",
            "x-forwarded-host",
            "x-forwarded-user",
            "x-real-ip",
            "client-cert",
            "x-ssl-client-verify",
            "x-amzn-oidc-identity",
            "cf-connecting-ip",
            "x-app",
        ];
        let kept = |more: &[HeaderName]| {
            let mut headers = HeaderMap::new();
            for name in said {
                headers.insert(name, "192.0.2.7".parse().unwrap());
            }
            let peer = Peer::new("10.0.0.1:1".parse().unwrap(), Scheme::Http);
            assert_eq!(apply_to(&peer, &mut headers, more).unwrap().to_string(), "192.0.2.7");
            said.into_iter().filter(|name| headers.contains_key(*name)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&[]), ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port", "x-app"]);
        let more = ["x-amzn-oidc-identity", "x-forwarded-host"].map(|name| name.parse().unwrap());
        assert_eq!(
            kept(&more),
            [
                "x-forwarded-for",
                "x-forwarded-proto",
                "x-forwarded-port",
                "x-forwarded-host",
                "x-amzn-oidc-identity",
                "x-app"
            ]
        );
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 192.0.2.7, 10.0.0.2"]), "192.0.2.7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "192.0.2.7:4711", "10.0.0.2"]), "192.0.2.7");
        assert_eq!(client("2001:db8::1", &["[2001:470::7]:80"]), "2001:470::7");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn an_unreadable_hop_ends_the_walk() {
        assert_eq!(client("10.0.0.1", &["192.0.2.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["192.0.2.7, 999.1.1.1"]), "10.0.0.1");
    }

    #[test]
    fn a_trusted_peer_is_added_to_the_list_and_its_word_kept() {
        let (_, headers) = apply("10.0.0.1", &["192.0.2.7", "10.0.0.2"]);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.7, 10.0.0.2, 10.0.0.1");
        let (_, headers) = apply("10.0.0.1", &[]);
        assert_eq!(headers[X_FORWARDED_FOR], "10.0.0.1");
    }

    #[test]
    fn an_over_long_list_is_refused_not_cut() {
        let list = vec!["192.0.2.7"; 31].join(",");
        assert_eq!(apply("10.0.0.1", &[&list]).0, Err(RequestFault::ForwardedTooLong));
        assert_eq!(client("192.0.2.1", &[&list]), "192.0.2.1", "an untrusted list is not read at all");
    }

    proptest! {
        #[test]
        fn no_list_makes_an_untrusted_client_look_trusted(list in "[0-9a-f.:, \\[\\]x\"]{0,60}") {
            let (client, headers) = apply("10.0.0.1", &[&list]);
            if let Ok(client) = client {
                let listed = list.contains(&client.to_string());
                prop_assert!(listed || client.to_string() == "10.0.0.1" || client.is_ipv6() || list.contains(':'));
            }
            prop_assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().count(), usize::from(!list.is_empty()).max(1));
        }
    }
}
