//! Certificates and keys from files: read, checked against each other and against the clock, and handed out for rustls
//! together with what Stent says about them. Listeners use it, and so do client certificates and CAs towards a backend.
//!
//! # Invariant
//!
//! The cost of decrypting a key is bounded before it is paid, because a key file may come from elsewhere. Held by
//! `a_key_that_would_cost_too_much_is_refused_before_it_costs`.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub use self::error::{CertificateError, FileRole};
pub use self::set::CertificateSet;
pub use self::subject::subject_of;

mod error;
mod key;
mod set;
mod subject;

/// The files of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate of this key first, then each one's issuer.
    pub chain: PathBuf,
    /// PEM: a private key in PKCS#8, encrypted PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// What decrypts the key; a newline at its end does not count.
    pub passphrase_file: Option<PathBuf>,
}

/// A certificate that can be used, and what is known of it.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Chain and key, as rustls takes them.
    pub certified_key: Arc<CertifiedKey>,
    /// What the chain's first certificate says.
    pub facts: CertificateFacts,
    /// What an operator should change, though it works.
    pub warnings: Vec<CertificateWarning>,
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's distinguished name as RFC 4514 writes it, in printable ASCII.
    pub subject: String,
    /// The DNS names in lower case, wildcards with their `*.`.
    pub dns_names: Vec<Box<str>>,
    /// The IP addresses.
    pub ip_names: Vec<IpAddr>,
    /// From when it holds, in seconds of the Unix clock.
    pub not_before: i64,
    /// Until when it holds, in seconds of the Unix clock.
    pub not_after: i64,
}

impl CertificateFacts {
    /// Whether the certificate holds for `host`: a name in lower case without a port, or an IP address.
    ///
    /// A wildcard stands for exactly one label (RFC 9525 section 6.3).
    pub fn covers(&self, host: &str) -> bool {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return self.ip_names.contains(&address);
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.dns_names.iter().any(|name| match name.strip_prefix("*.") {
            Some(wildcard) => parent == Some(wildcard),
            None => **name == *host,
        })
    }
}

/// What works and should be changed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateWarning {
    /// The group or everybody may read the key.
    KeyOpenToOthers {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyOpenToOthers { path, mode } => {
                let path = path.display();
                write!(f, "the key {path} is open to other users (mode {mode:03o}); run `chmod 600 {path}`")
            }
        }
    }
}

/// Reads a chain and its key and checks them as of `now`. It may take a second where the key is encrypted.
pub fn load(files: &CertificateFiles, now: SystemTime) -> Result<Certificate, CertificateError> {
    let chain = read_chain(&files.chain)?;
    // The first certificate has to be the key's before the rest is worth a word.
    let key = key::read(&files.key, files.passphrase_file.as_deref())?;
    let certified_key = Arc::new(pair(files, chain, &key.der)?);
    let facts = check_chain(&files.chain, &certified_key.cert, now)?;
    Ok(Certificate { certified_key, facts, warnings: key.warning.into_iter().collect() })
}

/// Reads certificates to trust. Every one in the file counts; those that do not hold are refused when they are used.
pub fn load_roots(path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in read_chain(path)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|_| CertificateError::BadCertificate { path: path.to_owned(), number: index + 1 })?;
    }
    Ok(roots)
}

/// The subject of a certificate that a peer has shown, if it holds now and its subject is of moderate length. Whether
/// to trust it is rustls's decision; but a resumed session rests on one that was made up to a day ago.
pub fn peer_subject(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (validity, now) = (parsed.validity(), unix_seconds(now));
    let holds = validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp();
    let subject = subject_of(parsed.subject());
    (holds && subject.len() <= MAX_SUBJECT).then_some(subject)
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// The certificates of a PEM file, of which there is at least one.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let text = read_file(path, FileRole::Chain)?;
    let mut chain = Vec::new();
    let mut is_pem = false;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        is_pem = true;
        match section {
            Ok((SectionKind::Certificate, der)) => chain.push(CertificateDer::from(der)),
            // A file with the key beside the chain is common, and the key is not looked for here.
            Ok(_) => {}
            Err(_) => return Err(CertificateError::BadPem { path: path.to_owned(), role: FileRole::Chain }),
        }
    }
    if !chain.is_empty() {
        Ok(chain)
    } else if is_pem || contains(&text, b"-----BEGIN ") {
        Err(CertificateError::EmptyChain { path: path.to_owned() })
    } else {
        Err(CertificateError::NotPem { path: path.to_owned(), role: FileRole::Chain })
    }
}

/// Checks order and dates, and says what the first certificate is.
fn check_chain(
    path: &Path,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<CertificateFacts, CertificateError> {
    let now = unix_seconds(now);
    let bad = |number| CertificateError::BadCertificate { path: path.to_owned(), number };
    let parsed: Vec<_> = chain
        .iter()
        .enumerate()
        .map(|(index, der)| {
            X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| bad(index + 1))
        })
        .collect::<Result<_, _>>()?;
    for (index, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            return Err(CertificateError::ChainOrder {
                path: path.to_owned(),
                number: index + 2,
                issuer: subject_of(pair[0].issuer()),
            });
        }
    }
    for (index, certificate) in parsed.iter().enumerate() {
        let validity = certificate.validity();
        let (path, number) = (path.to_owned(), index + 1);
        if validity.not_after.timestamp() < now {
            return Err(CertificateError::Expired { path, number, since: validity.not_after.timestamp() });
        }
        if validity.not_before.timestamp() > now {
            return Err(CertificateError::NotYetValid {
                path,
                number,
                from: validity.not_before.timestamp(),
            });
        }
    }
    parsed.first().map(facts).ok_or_else(|| bad(1))
}

fn facts(certificate: &X509Certificate<'_>) -> CertificateFacts {
    let mut facts = CertificateFacts {
        subject: subject_of(certificate.subject()),
        dns_names: Vec::new(),
        ip_names: Vec::new(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    };
    // An extension that does not parse gives no names; rustls and the callers decide about the rest.
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => facts.dns_names.push(name.to_ascii_lowercase().into()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                facts.ip_names.extend(v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok());
            }
            _ => {}
        }
    }
    facts
}

/// Puts chain and key together, if they belong together.
fn pair(
    files: &CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<CertifiedKey, CertificateError> {
    for (index, certificate) in chain.iter().enumerate() {
        if X509Certificate::from_der(certificate).is_err() {
            return Err(CertificateError::BadCertificate { path: files.chain.clone(), number: index + 1 });
        }
    }
    let key = aws_lc_rs::sign::any_supported_type(key)
        .map_err(|_| CertificateError::BadKey { path: files.key.clone() })?;
    let belongs = |certificate: &CertificateDer<'_>| {
        let parsed = X509Certificate::from_der(certificate);
        let public = key.public_key();
        matches!((parsed, public), (Ok((_, parsed)), Some(public)) if parsed.public_key().raw == &*public)
    };
    match chain.iter().position(belongs) {
        Some(0) => Ok(CertifiedKey::new(chain, key)),
        Some(index) => Err(CertificateError::LeafNotFirst { path: files.chain.clone(), number: index + 1 }),
        None => Err(CertificateError::KeyMismatch { key: files.key.clone(), chain: files.chain.clone() }),
    }
}

/// Reads a file that must be small.
fn read_file(path: &Path, role: FileRole) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { path: path.to_owned(), role, source };
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(CertificateError::NotAFile { path: path.to_owned(), role });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(CertificateError::TooLarge { path: path.to_owned(), role });
    }
    Ok(bytes)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// It goes into a header and into every line of the access log.
const MAX_SUBJECT: usize = 2048;

/// The platform's CA bundles have a quarter of it.
const LARGEST_FILE: u64 = 1 << 20;

/// A key for tests, from its PEM.
#[cfg(test)]
fn key_of(pem: &str) -> Arc<dyn rustls::sign::SigningKey> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    aws_lc_rs::sign::any_supported_type(&der).unwrap()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
