//! An operator's rules on the header fields of a route's requests or answers.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;

use super::{is_essential, is_hop_by_hop, is_meant_for_proxies};

/// What is done to a head, after it has been cleaned: first what is removed, then what is set, then what is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules(Box<[Rule]>);

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Takes every field of the name away.
    Remove(HeaderName),
    /// Puts this field in the place of all of its name.
    Set(HeaderName, HeaderValue),
    /// Adds this field to those of its name.
    Add(HeaderName, HeaderValue),
}

/// Which messages rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the upstream gets.
    Request,
    /// What the caller gets, be it from the upstream or a reply of our own.
    Response,
}

/// Why a rule is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidRule {
    /// It belongs to the connection, the framing or the destination of a message.
    #[error("a message's connection and framing rest on this header, which Stent sets itself")]
    Framing,
    /// It says who the client is.
    #[error("this header says who the client is, which Stent finds out itself")]
    Identity,
}

impl Side {
    /// Whether a rule may name `name`, which a backend may read with hyphens for underscores.
    pub fn check(self, name: &HeaderName) -> Result<(), InvalidRule> {
        let plain = name.as_str().replace('_', "-");
        let plain = plain.as_str();
        let is_ours =
            matches!(plain, "content-length" | "host" | "proxy-authenticate" | "via" | "x-stent-attempt");
        if is_hop_by_hop(plain) || is_ours {
            return Err(InvalidRule::Framing);
        }
        if self == Self::Response {
            return Ok(());
        }
        // An operator may know better how a request came: that is how a plain-TCP load balancer's HTTPS gets said.
        let is_about_the_way = matches!(
            plain,
            "x-forwarded-proto" | "x-forwarded-port" | "x-forwarded-host" | "x-forwarded-ssl"
        );
        if is_meant_for_proxies(plain) {
            Err(InvalidRule::Framing)
        } else if is_found_out(plain) && !is_about_the_way || is_essential(plain) {
            Err(InvalidRule::Identity)
        } else {
            Ok(())
        }
    }
}

/// Whether Stent finds out itself what a header of this name says. An operator may know better what other claims should say.
fn is_found_out(name: &str) -> bool {
    let name = name.strip_prefix("x-").unwrap_or(name);
    ["amzn-mtls-", "client-cert", "forwarded", "ssl-client-"].iter().any(|start| name.starts_with(start))
        || matches!(
            name,
            "cf-connecting-ip"
                | "client-ip"
                | "cluster-client-ip"
                | "fastly-client-ip"
                | "front-end-https"
                | "original-forwarded-for"
                | "real-ip"
                | "true-client-ip"
        )
}

impl HeaderRules {
    /// Takes the changes in the order in which they are made.
    pub fn new(
        side: Side,
        remove: impl IntoIterator<Item = HeaderName>,
        set: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        add: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Result<Self, InvalidRule> {
        let remove = remove.into_iter().map(Rule::Remove);
        let set = set.into_iter().map(|(name, value)| Rule::Set(name, value));
        let add = add.into_iter().map(|(name, value)| Rule::Add(name, value));
        let rules: Box<[_]> = remove.chain(set).chain(add).collect();
        rules.iter().try_for_each(|rule| side.check(rule.name()))?;
        Ok(Self(rules))
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for rule in &self.0 {
            match rule {
                Rule::Remove(name) => drop(headers.remove(name)),
                Rule::Set(name, value) => drop(headers.insert(name.clone(), value.clone())),
                Rule::Add(name, value) => drop(headers.append(name.clone(), value.clone())),
            }
        }
    }
}

impl Rule {
    /// The field that it is about.
    pub fn name(&self) -> &HeaderName {
        match self {
            Self::Remove(name) | Self::Set(name, _) | Self::Add(name, _) => name,
        }
    }
}
