//! Header names that claim who a caller is or how it came: a pattern of families, and not a list of names. Pure.
//!
//! # Invariant
//!
//! A name is recognised by what it claims, so that a header that nobody has listed yet is one, too. Held by
//! `every_header_by_which_a_known_proxy_vouches_is_a_claim`.

/// What a header claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The client's address, or the hops before us.
    Address,
    /// The client's certificate, or what its handshake said.
    Certificate,
    /// Who has logged in.
    Identity,
    /// The scheme that the caller spoke.
    Scheme,
    /// The host that the caller asked for.
    Host,
    /// The path that the caller asked for.
    Path,
}

/// How a family's names are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// They begin so.
    Begins,
    /// The name is this.
    Is,
}

/// A family of names.
#[derive(Clone, Copy, Debug)]
struct Family {
    text: &'static str,
    form: Form,
    claim: Claim,
}

const fn begins(text: &'static str, claim: Claim) -> Family {
    Family { text, form: Form::Begins, claim }
}

const fn is(text: &'static str, claim: Claim) -> Family {
    Family { text, form: Form::Is, claim }
}

use Claim::{Address, Certificate, Host, Identity, Path, Scheme};

/// The families whose names begin with `x-`, without it.
static EXTENSIONS: Families<68> = Families::new([
    begins("accel-", Path),
    begins("akamai-", Address),
    begins("amzn-lattice-", Identity),
    begins("amzn-mtls-", Certificate),
    begins("amzn-oidc-", Identity),
    is("amzn-request-context", Identity),
    begins("amzn-source-", Address),
    begins("amzn-tls-", Certificate),
    begins("anonymous-consumer", Identity),
    begins("apigateway-", Identity),
    begins("appengine-", Identity),
    begins("arr-", Certificate),
    is("auth-email", Identity),
    is("auth-groups", Identity),
    begins("auth-request-", Identity),
    is("auth-roles", Identity),
    is("auth-subject", Identity),
    begins("auth-user", Identity),
    begins("authenticated-", Identity),
    begins("authentik-", Identity),
    is("azure-socketip", Address),
    begins("client-addr", Address),
    begins("client-cert", Certificate),
    is("client-dn", Certificate),
    is("client-port", Address),
    is("client-proto", Scheme),
    is("client-scheme", Scheme),
    begins("client-ssl", Certificate),
    begins("client-subject", Certificate),
    begins("client-tls", Certificate),
    begins("client-verif", Certificate),
    begins("clientcert", Certificate),
    begins("consumer-", Identity),
    begins("credential-", Identity),
    is("custom-ip-authorization", Address),
    begins("endpoint-api-", Identity),
    begins("envoy-", Address),
    begins("forward", Address),
    begins("goog-authenticated-", Identity),
    begins("goog-iap-", Identity),
    is("host", Host),
    is("host-override", Host),
    is("http-destinationurl", Path),
    is("http-host-override", Host),
    is("https", Scheme),
    begins("jwt-", Identity),
    begins("ms-client-principal", Identity),
    begins("ms-token-", Identity),
    begins("mtls-", Certificate),
    begins("nf-", Address),
    begins("original-", Path),
    begins("pomerium-", Identity),
    is("proto", Scheme),
    is("proxy-url", Path),
    begins("real-", Address),
    begins("remote-", Address),
    is("replaced-path", Path),
    begins("rewrite-", Path),
    is("scheme", Scheme),
    is("script-name", Path),
    is("sendfile-type", Path),
    is("ssl", Scheme),
    begins("ssl-", Certificate),
    begins("sucuri-", Address),
    begins("tls-", Certificate),
    is("url-scheme", Scheme),
    begins("vercel-", Address),
    begins("webauth-", Identity),
]);

/// All other families.
static OTHERS: Families<29> = Families::new([
    // The plug-ins of WebSphere: `$WSRA` is the client's address, `$WSRU` the user.
    begins("$ws", Identity),
    begins("akamai-", Address),
    is("cas-user", Identity),
    begins("cf-", Address),
    begins("client-cert", Certificate),
    begins("cloudfront-", Address),
    is("disguised-host", Host),
    begins("fastly-", Address),
    begins("fly-", Address),
    begins("forwarded", Address),
    is("front-end-https", Scheme),
    is("https", Scheme),
    begins("iv-", Identity),
    begins("l5d-", Identity),
    begins("oam-", Identity),
    begins("oidc-", Identity),
    begins("osso-", Identity),
    is("proxy-ssl", Scheme),
    begins("remote-", Identity),
    begins("shib-", Identity),
    begins("sm-", Identity),
    is("smuser", Identity),
    begins("ssl-", Certificate),
    begins("sslclient", Certificate),
    begins("tailscale-", Identity),
    begins("teleport-", Identity),
    begins("true-client-", Address),
    is("was-default-hostname", Host),
    begins("wl-proxy-", Address),
]);

/// How names end that claim an address, whatever stands before.
const ADDRESS_ENDS: [&str; 2] = ["-ip", "-clientip"];

/// What `name`, in lower case, claims; none for most. Programs that ask for a CGI variable by a field's name make
/// `HTTP-X-Real-IP` a claim as well.
pub fn claim(name: &str) -> Option<Claim> {
    let is_address = name.ends_with("ip") && ADDRESS_ENDS.iter().any(|end| name.ends_with(end));
    if is_address || name.ends_with("-remote-addr") {
        return Some(Address);
    }
    match name.strip_prefix("x-") {
        Some(rest) => EXTENSIONS.find(rest),
        None => match name.strip_prefix("http-") {
            Some(rest) => claim(rest),
            None => OTHERS.find(name),
        },
    }
}

/// Every family as documentation shows it: with a star for what may follow, or stand before.
#[cfg(test)]
pub(crate) fn families() -> impl Iterator<Item = (String, Claim)> {
    let show = |start: &str, family: &Family| {
        let star = if family.form == Form::Begins { "*" } else { "" };
        (format!("{start}{}{star}", family.text), family.claim)
    };
    let extensions = EXTENSIONS.list.iter().map(move |family| show("x-", family));
    let others = OTHERS.list.iter().map(move |family| show("", family));
    let ends = ADDRESS_ENDS.iter().chain([&"-remote-addr"]).map(|end| (format!("*{end}"), Address));
    extensions.chain(others).chain(ends)
}

/// Families in the order of their first bytes, found by them: nearly every name begins as none of them does.
struct Families<const COUNT: usize> {
    list: [Family; COUNT],
    /// Where the families begin whose first byte is at least this.
    starts: [usize; 129],
}

impl<const COUNT: usize> Families<COUNT> {
    const fn new(list: [Family; COUNT]) -> Self {
        let mut starts = [0; 129];
        let mut byte = 0;
        let mut place = 0;
        while byte < starts.len() {
            while place < COUNT && (list[place].text.as_bytes()[0] as usize) < byte {
                place += 1;
            }
            starts[byte] = place;
            byte += 1;
        }
        Self { list, starts }
    }

    fn find(&self, name: &str) -> Option<Claim> {
        let first = usize::from(*name.as_bytes().first()?);
        let (start, end) = (*self.starts.get(first)?, *self.starts.get(first + 1)?);
        let families = &self.list[start..end];
        families.iter().find(|family| family.takes(name)).map(|family| family.claim)
    }
}

impl Family {
    fn takes(&self, name: &str) -> bool {
        match self.form {
            Form::Begins => name.starts_with(self.text),
            Form::Is => name == self.text,
        }
    }
}

#[cfg(test)]
mod tests;
