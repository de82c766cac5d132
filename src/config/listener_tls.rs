//! `[listener.tls]`: read, and checked together with the files that it names.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use http::HeaderName;

use crate::certificate;
use crate::config::certificate_files::{Kind, Named, RawCertificate, file, resolve, unusable};
use crate::config::raw::WAIT;
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, Faults};
use crate::config::values;
use crate::downstream::tls::{
    ClientAuth, ClientAuthMode, ListedCertificate, Protocol, TlsSettings, TlsVersion,
};
use crate::fields::{is_hop_by_hop, is_meant_for_proxies};

/// The table as the file has it.
pub(super) struct ListenerTls {
    header: Range<usize>,
    certificates: Field<Vec<RawCertificate>>,
    min_version: Field<TlsVersion>,
    client_ca: Field<String>,
    client_auth: Field<ClientAuthMode>,
    client_subject_header: Field<Option<HeaderName>>,
    handshake_timeout: Field<Duration>,
    watch_interval: Field<Duration>,
}

impl ListenerTls {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let tls = Self {
            header: table.header(),
            certificates: table
                .tables("certificates")
                .map(|tables| tables.into_iter().map(RawCertificate::read).collect()),
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

    /// Where the backend is told a verified subject, and where that stands.
    pub(super) fn subject_header(&self) -> Option<(&HeaderName, Range<usize>)> {
        let header = self.client_subject_header.given()?;
        Some((header.get_ref().as_ref()?, header.span()))
    }
}

/// A header that nothing else needs.
fn subject_header(item: &Item<'_>) -> Result<Option<HeaderName>, Fault> {
    let name = values::header_name(item)?;
    let is_taken = name.as_ref().is_some_and(|name| {
        let name = name.as_str();
        is_hop_by_hop(name)
            || is_meant_for_proxies(name)
            || TAKEN.contains(&name)
            || name.starts_with("x-forwarded-")
            || name.contains(['_', '.'])
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
        let Some(Named { chain, files, .. }) = certificate.load(&CERTIFICATE, directory, faults) else {
            continue;
        };
        let span = chain.span();
        let listed = ListedCertificate { label: chain.into_inner().into(), files };
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

/// The words of `min_version`.
pub(super) const TLS_VERSIONS: [(&str, TlsVersion); 2] =
    [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// The words of `client_auth`.
pub(super) const CLIENT_AUTHS: [(&str, ClientAuthMode); 2] =
    [("required", ClientAuthMode::Required), ("optional", ClientAuthMode::Optional)];

/// How often files may be looked at.
const WATCH: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_hours(1);

/// One of its `certificates`.
const CERTIFICATE: Kind =
    Kind { name: "a certificate", example: "{ chain = \"tls/hosp.pem\", key = \"tls/hosp.key\" }" };

/// Headers that routing, a message's meaning or the client's address rest on, beside those that no proxy passes on.
const TAKEN: [&str; 9] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "via",
    "x-real-ip",
    "x-request-id",
];
