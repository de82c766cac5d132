//! Who the client is: read from `X-Forwarded-For` right to left through the trusted proxies, because whoever is not
//! trusted can write anything to the left of its own address. Pure.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::error::RequestFault;
use crate::fields::Scheme;
use crate::fields::is_claim;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What is known of a connection's peer, once for all its requests.
#[derive(Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    text: HeaderValue,
    scheme: Scheme,
    trust: Trust,
}

/// Whether a peer's word on who sent a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// It is a client, or might be.
    No,
    /// It is one of `trusted_proxies`.
    Yes,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, scheme: Scheme, trusted: &[IpNet]) -> Self {
        let address = address.ip().to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self {
            address,
            text: text.expect("an IP address is a header value"),
            scheme,
            trust: if is_trusted(address, trusted) { Trust::Yes } else { Trust::No },
        }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is one of the trusted proxies.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trust == Trust::Yes
    }

    /// Finds the client's address, and makes the forwarding headers say what we know.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, trusted: &[IpNet]) -> Result<IpAddr, RequestFault> {
        match self.trust {
            Trust::No => {
                self.replace(headers);
                Ok(self.address)
            }
            Trust::Yes => self.append(headers, trusted),
        }
    }

    /// From a client: whatever it says about earlier hops is made up.
    fn replace(&self, headers: &mut HeaderMap) {
        let claims: Vec<_> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
        headers.insert(X_FORWARDED_FOR, self.text.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme.label()));
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(X_FORWARDED_HOST, host);
        }
    }

    /// From a trusted proxy: its word is kept, and it is added to the list.
    fn append(&self, headers: &mut HeaderMap, trusted: &[IpNet]) -> Result<IpAddr, RequestFault> {
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
            if !is_trusted(address, trusted) {
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
        self.complete(headers);
        Ok(client)
    }

    /// Adds what a proxy before us did not say.
    fn complete(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(self.scheme.label()));
        }
        if !headers.contains_key(X_FORWARDED_HOST)
            && let Some(host) = headers.get(HOST).cloned()
        {
            headers.insert(X_FORWARDED_HOST, host);
        }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]
    }

    fn apply(peer: &str, lines: &[&str]) -> (Result<IpAddr, RequestFault>, HeaderMap) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "hosp.example.org".parse().unwrap());
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        let peer = Peer::new(SocketAddr::new(peer.parse().unwrap(), 4000), Scheme::Http, &trusted());
        (peer.apply(&mut headers, &trusted()), headers)
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
        let peer = Peer::new("192.0.2.1:1".parse().unwrap(), Scheme::Https, &trusted());
        peer.apply(&mut headers, &trusted()).unwrap();
        assert!(headers.values().all(|value| value != "evil"), "{headers:?}");
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers[X_FORWARDED_HOST], "h");
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
