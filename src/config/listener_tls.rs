//! `[listener.tls]`: read, and checked together with the files that it names.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::HeaderName;
use toml::Spanned;

use crate::certificate::{self, CertificateError, CertificateFiles, FileRole};
use crate::config::raw::WAIT;
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, Faults};
use crate::config::values;
use crate::downstream::tls::{
    ClientAuth, ClientAuthMode, ListedCertificate, Protocol, TlsSettings, TlsVersion,
};

/// The table as the file has it.
pub(super) struct ListenerTls {
    header: Range<usize>,
    certificates: Field<Vec<ListenerCertificate>>,
    min_version: Field<TlsVersion>,
    client_ca: Field<String>,
    client_auth: Field<ClientAuthMode>,
    client_subject_header: Field<Option<HeaderName>>,
    handshake_timeout: Field<Duration>,
    watch_interval: Field<Duration>,
}

/// One of its `certificates`.
struct ListenerCertificate {
    header: Range<usize>,
    chain: Field<String>,
    key: Field<String>,
    passphrase_file: Field<String>,
}

impl ListenerTls {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let tls = Self {
            header: table.header(),
            certificates: table
                .tables("certificates")
                .map(|tables| tables.into_iter().map(ListenerCertificate::read).collect()),
            min_version: table.field("min_version", |item| item.choice(&TLS_VERSIONS)),
            client_ca: table.field("client_ca", file),
            client_auth: table.field("client_auth", |item| item.choice(&CLIENT_AUTHS)),
            client_subject_header: table.field("client_subject_header", subject_header),
            handshake_timeout: table.field("handshake_timeout", |item| item.duration(WAIT)),
            watch_interval: table.field("watch_interval", |item| item.duration(WATCH)),
        };
        table.finish();
        tls
    }
}

impl ListenerCertificate {
    fn read(mut table: Table<'_>) -> Self {
        let certificate = Self {
            header: table.header(),
            chain: table.field("chain", file),
            key: table.field("key", file),
            passphrase_file: table.field("passphrase_file", file),
        };
        table.finish();
        certificate
    }
}

/// The path of a file, as it stands there.
pub(super) fn file(item: &Item<'_>) -> Result<String, Fault> {
    let text = item.text()?;
    if text.is_empty() || text.contains('\0') {
        return Err(item.invalid("not a path", "give the path of a file in PEM, such as \"tls/hosp.pem\""));
    }
    Ok(text.to_owned())
}

/// A header that nothing else needs.
fn subject_header(item: &Item<'_>) -> Result<Option<HeaderName>, Fault> {
    let name = values::header_name(item)?;
    let is_taken = name.as_ref().is_some_and(|name| {
        let name = name.as_str();
        TAKEN.contains(&name) || name.starts_with("x-forwarded-") || name.contains(['_', '.'])
    });
    if is_taken {
        let help = "a name of its own, of letters, digits and hyphens, such as \"X-Client-Subject\"";
        return Err(item.invalid("this header has another meaning, or can be mistaken for another", help));
    }
    Ok(name)
}

/// Checks the table and every file in it.
pub(super) fn build(
    tls: ListenerTls,
    protocols: Vec<Protocol>,
    directory: &Path,
    faults: &Faults,
) -> TlsSettings {
    let client_auth = client_auth(&tls, directory, faults);
    let missing = || {
        let help = "add `certificates = [{ chain = \"tls/hosp.pem\", key = \"tls/hosp.key\" }]`";
        Fault::at(tls.header.clone(), "`[listener.tls]` has no certificate", "none here").help(help)
    };
    let raw = match tls.certificates {
        Field::Given(certificates) => {
            let certificates = certificates.into_inner();
            if certificates.is_empty() {
                faults.push(missing());
            }
            certificates
        }
        Field::Absent => {
            faults.push(missing());
            Vec::new()
        }
        Field::Broken => Vec::new(),
    };
    let mut certificates: Vec<(ListedCertificate, Range<usize>)> = Vec::new();
    for certificate in raw {
        let Some((listed, span)) = listed(&certificate, directory, faults) else { continue };
        if let Some((_, earlier)) = certificates.iter().find(|(earlier, _)| earlier.label == listed.label) {
            let fault = Fault::at(span.clone(), "a certificate is listed twice", "again here");
            faults.push(fault.also(earlier.clone(), "first here"));
        }
        certificates.push((listed, span));
    }
    TlsSettings {
        certificates: certificates.into_iter().map(|(listed, _)| listed).collect(),
        min_version: tls.min_version.unwrap_or(TlsVersion::Tls12),
        protocols,
        handshake_timeout: tls.handshake_timeout.unwrap_or(Duration::from_secs(10)),
        watch_interval: tls.watch_interval.unwrap_or(Duration::from_secs(1)),
        client_auth,
    }
}

/// A certificate whose files are good, and where its chain is named.
fn listed(
    certificate: &ListenerCertificate,
    directory: &Path,
    faults: &Faults,
) -> Option<(ListedCertificate, Range<usize>)> {
    let required = |field: &Field<String>, key: &str| match field {
        Field::Given(path) => Some(path.clone()),
        Field::Broken => None,
        Field::Absent => {
            let label = format!("`{key}` is missing");
            let fault = Fault::at(certificate.header.clone(), format!("a certificate has no `{key}`"), label);
            faults.push(fault.help("write { chain = \"tls/hosp.pem\", key = \"tls/hosp.key\" }"));
            None
        }
    };
    // Both, so that both are reported.
    let (chain, key) = (required(&certificate.chain, "chain"), required(&certificate.key, "key"));
    let (chain, key) = (chain?, key?);
    if certificate.passphrase_file.is_broken() {
        return None;
    }
    let passphrase_file = certificate.passphrase_file.given();
    let files = CertificateFiles {
        chain: resolve(directory, chain.get_ref()),
        key: resolve(directory, key.get_ref()),
        passphrase_file: passphrase_file.map(|path| resolve(directory, path.get_ref())),
    };
    match certificate::load(&files, SystemTime::now()) {
        Ok(loaded) => loaded.warnings.iter().for_each(|warning| faults.warn(warning)),
        Err(error) => {
            let span = match error.role() {
                FileRole::Chain => chain.span(),
                FileRole::Key => key.span(),
                FileRole::Passphrase => passphrase_file.map_or(key.span(), Spanned::span),
            };
            faults.push(unusable(&error, span));
        }
    }
    let span = chain.span();
    Some((ListedCertificate { label: chain.into_inner().into(), files }, span))
}

fn client_auth(tls: &ListenerTls, directory: &Path, faults: &Faults) -> Option<ClientAuth> {
    let Some(ca) = tls.client_ca.given() else {
        let lonely = [tls.client_auth.span(), tls.client_subject_header.span()];
        for (span, key) in lonely.into_iter().zip(["client_auth", "client_subject_header"]) {
            if let Some(span) = span.filter(|_| !tls.client_ca.is_broken()) {
                let fault = Fault::at(span, format!("`{key}` needs a `client_ca`"), "no caller is verified");
                faults.push(fault.help("add `client_ca = \"tls/clients.pem\"` with the CAs of your callers"));
            }
        }
        return None;
    };
    let path = resolve(directory, ca.get_ref());
    if let Err(error) = certificate::load_roots(&path) {
        faults.push(unusable(&error, ca.span()));
    }
    Some(ClientAuth {
        ca: path,
        mode: tls.client_auth.clone().unwrap_or(ClientAuthMode::Required),
        subject_header: tls.client_subject_header.clone().unwrap_or_default(),
    })
}

/// What is wrong with a file, at the place that names it.
pub(super) fn unusable(error: &CertificateError, span: Range<usize>) -> Fault {
    Fault::at(span, error.to_string(), "this file").help(error.help())
}

/// A path as the process finds it, wherever it runs.
pub(super) fn resolve(directory: &Path, path: &str) -> PathBuf {
    let path = directory.join(path);
    std::path::absolute(&path).unwrap_or(path)
}

/// The words of `min_version`.
pub(super) const TLS_VERSIONS: [(&str, TlsVersion); 2] =
    [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// The words of `client_auth`.
pub(super) const CLIENT_AUTHS: [(&str, ClientAuthMode); 2] =
    [("required", ClientAuthMode::Required), ("optional", ClientAuthMode::Optional)];

/// How often files may be looked at.
const WATCH: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);

/// Headers that routing, framing, connections or Stent itself rest on.
const TAKEN: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
    "x-stent-attempt",
];
