//! Writes `docs/reference/headers.md` from what becomes of each header; compiled for tests only.

use std::fmt::Write as _;

use http::{Request, Version};

use super::*;
use crate::fields::Underscores;
use crate::fields::claims::{Claim, families};
use crate::fields::via::Via;
use crate::proxy::headers::{clean_request, normalize};
use crate::testing::generated;

const OPENING: &str = "<!-- Written from the code by a test. Do not edit: `UPDATE=1 cargo test` writes it. -->

# Headers of a request

What the backend gets of a header, if the listener has its defaults: from a caller that connects to Stent, and from one that comes
through one of `trusted_proxies`. *Passed* is as it came. *Replaced* is with what Stent knows. *Added to* keeps what came.
`trusted_headers` lets a trusted proxy's caller pass the headers that it names. See [Headers](../guide/headers.md).

| header | claims | from a caller | through a trusted proxy |
|---|---|---|---|
";

/// Headers that are not of one of the families, or of which a family's rule does not hold.
const OTHERS: &[(&str, &str)] = &[
    ("Host", ""),
    ("X-Forwarded-For", "an address"),
    ("X-Forwarded-Proto", "a scheme"),
    ("X-Forwarded-Port", "a port"),
    ("X-Forwarded-Host", "a host"),
    ("Via", ""),
    ("Connection", ""),
    ("Keep-Alive", ""),
    ("Proxy-Connection", ""),
    ("TE", ""),
    ("Upgrade", ""),
    ("Expect", ""),
    ("Proxy", ""),
    ("Proxy-Authorization", ""),
    ("X-Original-URL", "a path"),
    ("X-Rewrite-URL", "a path"),
    ("X-Stent-Attempt", ""),
    ("Authorization", ""),
    ("Cookie", ""),
    ("Idempotency-Key", ""),
    ("Traceparent", ""),
    ("X-Amzn-Trace-Id", ""),
    ("X_Forwarded_For", "an address, in another spelling"),
    ("X.Real.IP", "an address, in another spelling"),
    ("Content.Length", "framing, in another spelling"),
    ("X_Other", ""),
    ("Any-Other", ""),
];

#[test]
fn the_reference_of_headers_is_current() {
    let mut page = OPENING.to_owned();
    let mut row = |shown: &str, name: &str, claims: &str| {
        let fates = ["192.0.2.1", "10.0.0.1"].map(|peer| fate(peer, name));
        writeln!(page, "| `{shown}` | {claims} | {} | {} |", fates[0], fates[1]).expect("memory");
    };
    for (name, claims) in OTHERS {
        row(name, name, claims);
    }
    for (shown, claim) in families() {
        let claims = match claim {
            Claim::Address => "an address",
            Claim::Certificate => "a certificate",
            Claim::Identity => "an identity",
            Claim::Scheme => "a scheme",
            Claim::Host => "a host",
            Claim::Path => "a path",
        };
        row(&shown, &shown.replace('*', "x"), claims);
    }
    generated("docs/reference/headers.md", &page);
}

/// What becomes of a header on its way from `peer`.
fn fate(peer: &str, name: &str) -> &'static str {
    let value = match name {
        "Host" => "hosp.test",
        "X-Forwarded-For" => "192.0.2.7",
        "Via" => "1.1 other",
        "Expect" => "100-continue",
        "TE" => "trailers",
        _ => "said",
    };
    let request = Request::builder().uri("/").header("host", "hosp.test");
    let request = if name == "Host" { request } else { request.header(name, value) };
    let (mut head, ()) = request.body(()).expect("a request").into_parts();
    let proxies: &[IpNet] = &["10.0.0.0/8".parse().expect("a network")];
    let peer = Peer::new(SocketAddr::new(peer.parse().expect("an address"), 1), Scheme::Http);
    let trust = peer.trust(proxies);
    Underscores::default().apply(&mut head.headers).expect("nothing is refused");
    peer.apply(&mut head.headers, trust, Trusted { proxies, headers: &[] }).expect("a short list");
    normalize(&mut head).expect("a plain request");
    let via = Via::new("stent").expect("a name");
    clean_request(&mut head.headers, Version::HTTP_11, &via, trust).expect("no loop");
    let sent: Vec<_> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    match sent.join(&b", "[..]) {
        sent if sent.is_empty() => "removed",
        sent if sent == value.as_bytes() => "passed",
        sent if sent.starts_with(value.as_bytes()) => "added to",
        _ => "replaced",
    }
}
