//! What the fuzzers in `fuzz/` call: each function takes any bytes, and panics if a promise about them is broken.
//!
//! The seeds in `fuzz/corpus/` go through the same functions in the ordinary tests.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::certificate::{self, CertificateFiles};
use crate::config::{self, Colour};
use crate::downstream::forwarded::{Peer, Trusted};
use crate::fields::Scheme;
use crate::route::{HostPattern, Lookup, PathPattern, Pattern, RouteTable};

pub(crate) mod answer;
mod judge;
mod stage;
mod strict;
#[cfg(test)]
mod tests;

pub use self::answer::response_decoder;
pub use self::judge::judge;
pub use self::stage::{http2_frames, proxy_header, request_head, response_frames, response_head};

/// A configuration is taken whole or refused with a report; what was taken reads back the same.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::parse(text, "fuzz.toml") {
        Ok(config) => {
            // Warnings are about a file, and this is another one.
            let settings = |config| config::Config { warnings: Vec::new(), ..config };
            let written = config::effective(&config);
            let read = config::parse(&written, "effective.toml").map(settings);
            assert!(read.as_ref().is_ok_and(|read| *read == settings(config)), "{written}\n{read:?}");
        }
        Err(errors) => {
            assert!(errors.messages().next().is_some(), "refused without a reason");
            for colour in [Colour::None, Colour::Terminal] {
                assert!(errors.render(colour).contains("fuzz.toml"), "a report that names no file");
            }
        }
    }
}

/// A file with a chain and a key, whose passphrase is `secret`: it is loaded, or refused with a way out.
pub fn encrypted_key(bytes: &[u8]) {
    let folder = std::env::temp_dir();
    let name = |what| folder.join(format!("stent-fuzz-{}-{what}", std::process::id()));
    let (pem, passphrase) = (name("pem"), name("passphrase"));
    std::fs::write(&pem, bytes).expect("the temporary folder takes files");
    std::fs::write(&passphrase, "secret\n").expect("the temporary folder takes files");
    let files = CertificateFiles { chain: pem.clone(), key: pem, passphrase_file: Some(passphrase) };
    let loaded = certificate::load(&files, SystemTime::UNIX_EPOCH + WHEN_THE_SEEDS_HOLD);
    for file in [&files.chain].into_iter().chain(&files.passphrase_file) {
        // A file that is left behind is overwritten by the next run.
        let _ = std::fs::remove_file(file);
    }
    if let Err(error) = loaded {
        assert!(error.to_string().contains("stent-fuzz-"), "no file in {error}");
        assert!(!error.help().is_empty(), "no way out of {error}");
    }
}

const WHEN_THE_SEEDS_HOLD: Duration = Duration::from_secs(2_000_000_000);

/// `X-Forwarded-For` in lines: an untrusted peer is the client; a trusted one's list is walked from the right.
pub fn forwarded(bytes: &[u8]) {
    let mut lines = HeaderMap::new();
    lines.insert(HOST, HeaderValue::from_static("a"));
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            lines.append(FORWARDED_FOR, line);
        }
    }
    let trusted: Vec<IpNet> =
        ["10.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().expect("a network")).into();
    let claims: Vec<_> = lines.get_all(FORWARDED_FOR).into_iter().cloned().collect();
    for address in ["10.0.0.1", "192.0.2.1"] {
        let address: IpAddr = address.parse().expect("an address");
        let mut headers = lines.clone();
        let peer = Peer::new(SocketAddr::new(address, 4000), Scheme::Http);
        let believed = Trusted { proxies: &trusted, headers: &[] };
        let client = peer.apply(&mut headers, peer.trust(&trusted), believed);
        if !trusted[0].contains(&address) {
            assert_eq!(client.ok(), Some(address), "a stranger's claim was believed");
            assert_eq!(headers[FORWARDED_FOR], address.to_string());
            continue;
        }
        let Ok(client) = client else { continue };
        let said: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        assert!(said.len() == 1 && said[0].as_bytes().ends_with(b"10.0.0.1"), "{said:?}");
        let is_claimed = claims.iter().any(|claim| names(claim.as_bytes(), client));
        assert!(client == address || is_claimed, "{client} is in none of {claims:?}");
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether a list has this address in any of the forms in which a proxy writes it.
fn names(list: &[u8], client: IpAddr) -> bool {
    let hops = list.split(|byte| *byte == b',').filter_map(|hop| std::str::from_utf8(hop.trim_ascii()).ok());
    hops.flat_map(|hop| {
        let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
        [bare.parse().ok(), hop.parse().ok().map(|hop: SocketAddr| hop.ip())]
    })
    .flatten()
    .any(|hop: IpAddr| hop.to_canonical() == client)
}

/// A host pattern, two path patterns, a host and a path, a line each: the order in which routes are written does not
/// decide which is taken, and a route is taken if and only if it takes the path.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (named, one, other, host, path) = (next(), next(), next(), next(), next());
    let pattern = |text: &str, host: Option<HostPattern>| {
        let path = PathPattern::parse(text).ok()?;
        assert_eq!(path.as_str(), text);
        Some(Pattern { scheme: None, host, path, methods: None })
    };
    let (Some(one), Some(other)) = (pattern(one, HostPattern::parse(named).ok()), pattern(other, None))
    else {
        return;
    };
    let takes = |pattern: &Pattern| {
        pattern.host.as_ref().is_none_or(|named| named.matches(host)) && pattern.path.matches(path)
    };
    let found = |routes: [&Pattern; 2]| {
        let table = RouteTable::new(routes.map(|pattern| (pattern.clone(), pattern.clone())));
        match table.find(|| Scheme::Http, host, path, &Method::GET) {
            Lookup::Found(pattern) => Some(pattern.clone()),
            Lookup::MethodNotAllowed(_) | Lookup::NotFound | Lookup::Ambiguous => None,
        }
    };
    let chosen = found([&one, &other]);
    assert_eq!(chosen.is_some(), takes(&one) || takes(&other), "{one:?} {other:?} {host:?} {path:?}");
    assert!(chosen.as_ref().is_none_or(takes), "{chosen:?} does not take {path:?}");
    if !one.conflicts_with(&other) {
        assert_eq!(chosen, found([&other, &one]), "the order of {one:?} and {other:?} decides over {path:?}");
    }
}
