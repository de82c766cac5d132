//! Several certificates, of which one is chosen by the name that a caller asks for. Pure.

use std::collections::HashMap;

use crate::certificate::Certificate;

/// The certificates of a listener, in the order of the configuration.
#[derive(Debug)]
pub struct CertificateSet {
    certificates: Vec<Certificate>,
    exact: HashMap<Box<str>, usize>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, usize>,
}

impl CertificateSet {
    /// Where two certificates hold for one name, the earlier one serves it.
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.facts.dns_names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.into()).or_insert(index),
                    None => exact.entry(name.clone()).or_insert(index),
                };
            }
        }
        Self { certificates, exact, wildcard }
    }

    /// All of them.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The same set with one certificate exchanged.
    #[must_use]
    pub fn with(&self, index: usize, certificate: Certificate) -> Self {
        let mut certificates = self.certificates.clone();
        if let Some(place) = certificates.get_mut(index) {
            *place = certificate;
        }
        Self::new(certificates)
    }

    /// The certificate for a name: one that has it, then one with a wildcard for it, then the first of all. None only
    /// from an empty set.
    pub fn choose(&self, server_name: Option<&str>) -> Option<&Certificate> {
        let found = server_name.and_then(|name| {
            let name = normal(name);
            let parent = name.split_once('.').map_or("", |(_, parent)| parent);
            self.exact.get(&*name).or_else(|| self.wildcard.get(parent))
        });
        self.certificates.get(found.copied().unwrap_or(0))
    }

    /// Whether a request for `host`, on a connection that asked for `server_name`, should have come on a connection
    /// of its own: the certificate that was shown does not hold for it, and another one of the set does.
    ///
    /// A host that no certificate holds for is let through. A CDN may forward another `Host` than the name that it
    /// connects to.
    pub fn is_misdirected(&self, server_name: &str, host: &str) -> bool {
        if server_name.eq_ignore_ascii_case(host) {
            return false;
        }
        let host = normal(host);
        let shown = self.choose(Some(server_name));
        !shown.is_some_and(|shown| shown.facts.covers(&host))
            && self.certificates.iter().any(|other| other.facts.covers(&host))
    }
}

/// A name as certificates have it: in lower case, without the dot of the root.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::sign::CertifiedKey;

    use super::*;
    use crate::certificate::testing::Authority;
    use crate::certificate::{CertificateFacts, key_of};

    fn set(names: &[&[&str]]) -> CertificateSet {
        let issued = Authority::new("a CA").issue(&["unused"]);
        let key = key_of(&issued.pkcs8());
        let certificate = |names: &&[&str]| Certificate {
            certified_key: Arc::new(CertifiedKey::new(Vec::new(), key.clone())),
            facts: CertificateFacts {
                subject: names.join(" "),
                dns_names: names.iter().map(|name| (*name).into()).collect(),
                ip_names: Vec::new(),
                not_before: 0,
                not_after: 0,
            },
            warnings: Vec::new(),
        };
        CertificateSet::new(names.iter().map(certificate).collect())
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_a_wildcard_before_the_first() {
        let set = set(&[&["first.org"], &["*.example.org"], &["a.example.org", "b.org"], &["a.example.org"]]);
        let chosen = |name| set.choose(name).unwrap().facts.subject.clone();
        assert_eq!(chosen(Some("a.example.org")), "a.example.org b.org");
        assert_eq!(chosen(Some("A.Example.Org.")), "a.example.org b.org");
        assert_eq!(chosen(Some("b.example.org")), "*.example.org");
        for other in [None, Some("a.b.example.org"), Some("example.org"), Some("org"), Some("")] {
            assert_eq!(chosen(other), "first.org", "{other:?}");
        }
    }

    #[test]
    fn a_host_is_misdirected_only_if_another_certificate_has_it() {
        let set = set(&[&["a.org", "www.a.org"], &["b.org", "*.b.org"]]);
        for (server_name, host) in
            [("a.org", "b.org"), ("a.org", "X.B.org."), ("b.org", "a.org"), ("c.org", "b.org")]
        {
            assert!(set.is_misdirected(server_name, host), "{server_name} {host}");
        }
        for (server_name, host) in [
            ("a.org", "a.org"),
            ("a.org", "A.org"),
            ("a.org", "www.a.org"),
            ("b.org", "x.b.org"),
            ("a.org", "elsewhere.org"),
            ("a.org", "10.0.0.1"),
            ("c.org", "c.org"),
            ("c.org", "a.org"),
        ] {
            assert!(!set.is_misdirected(server_name, host), "{server_name} {host}");
        }
    }
}
