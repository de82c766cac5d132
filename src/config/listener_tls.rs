//! `[listener.tls]`: its keys, checked together with the files that they name.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use toml::Spanned;

use crate::certificate;
use crate::config::bounds::{WAIT, h, ms, s};
use crate::config::build::Build;
use crate::config::certificate_files::{Called, NamedFiles, RawCertificate, resolve, unusable};
use crate::config::kinds::fields::subject_header;
use crate::config::kinds::places::pem_file;
use crate::config::kinds::{Kind, duration, word};
use crate::config::reader::Field;
use crate::config::report::Fault;
use crate::config::settings::settings;
use crate::config::spec::{Or, Spec};
use crate::config::tables::{as_they_are, tables};
use crate::downstream::tls::{
    ClientAuth, ClientAuthMode, ListedCertificate, Protocol, TlsSettings, TlsVersion,
};

settings! {
    /// `[listener.tls]`
    ListenerTls: fields of TlsSettings {
        /// The oldest version that is spoken.
        min_version: Or<TlsVersion> =
            word([("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)]).or(TlsVersion::Tls12);
        /// The CAs of callers' certificates (mutual TLS). Absent: callers show no certificate.
        client_ca: Field<PathBuf> =
            pem_file().may(r#""tls/clients.pem""#) => |tls| tls.client_auth.as_ref().map(|auth| auth.ca.clone());
        /// "optional": a caller may show no certificate, but no bad one.
        client_auth: Or<ClientAuthMode> =
            word([("required", ClientAuthMode::Required), ("optional", ClientAuthMode::Optional)])
                .or(ClientAuthMode::Required)
                .sometimes() => |tls| tls.client_auth.as_ref().map(|auth| auth.mode);
        /// The header that tells the backend the verified subject, such as "X-Client-Subject". Callers cannot forge it.
        client_subject_header: Or<Option<HeaderName>> = subject_header().or(None).sometimes()
            => |tls| tls.client_auth.as_ref().map(|auth| auth.subject_header.clone());
        /// How long a complete handshake may take.
        handshake_timeout: Or<Duration> = duration(WAIT).or(s(10));
        /// How often the certificates' files are looked at. A changed pair takes effect by itself.
        watch_interval: Or<Duration> = duration(WATCH).or(s(1));
        /// One or more, chosen by the name that the caller asks for, else the first. Also:
        /// `certificates = [{ chain = "FILE", key = "FILE" }]`.
        certificates: Field<Vec<Spanned<RawCertificate>>> = tables(as_they_are).inline()
            => |tls| tls.certificates.iter().map(|listed| listed.files.clone()).collect();
    }
}

impl ListenerTls {
    /// Where the backend is told a verified subject, and where that stands.
    pub(super) fn subject_header(&self) -> Option<(&HeaderName, Range<usize>)> {
        let header = self.client_subject_header.given()?;
        Some((header.get_ref().as_ref()?, header.span()))
    }
}

/// Checks the table and every file in it.
pub(super) fn build(tls: &Spanned<ListenerTls>, protocols: Vec<Protocol>, build: &Build<'_>) -> TlsSettings {
    let (header, tls, faults) = (tls.span(), tls.get_ref(), build.faults);
    let client_auth = client_auth(tls, build);
    let missing = || {
        let help = "add `certificates = [{ chain = \"tls/hosp.pem\", key = \"tls/hosp.key\" }]`";
        Fault::at(header.clone(), "`[listener.tls]` has no certificate", "none here").help(help)
    };
    if !tls.certificates.is_broken() && tls.certificates.list().is_empty() {
        faults.push(missing());
    }
    let mut certificates: Vec<(ListedCertificate, Range<usize>)> = Vec::new();
    for raw in tls.certificates.list() {
        let Some(NamedFiles { chain, files, .. }) = raw.get_ref().load(raw.span(), &CERTIFICATE, build)
        else {
            continue;
        };
        let span = chain.span();
        let listed = ListedCertificate { label: chain.get_ref().to_string_lossy().into(), files };
        if let Some((_, earlier)) = certificates.iter().find(|(earlier, _)| earlier.label == listed.label) {
            let fault = Fault::at(span.clone(), "a certificate is listed twice", "again here");
            faults.push(fault.also(earlier.clone(), "first here"));
        }
        certificates.push((listed, span));
    }
    TlsSettings {
        certificates: certificates.into_iter().map(|(listed, _)| listed).collect(),
        min_version: tls.min_version.value(),
        protocols,
        handshake_timeout: tls.handshake_timeout.value(),
        watch_interval: tls.watch_interval.value(),
        client_auth,
    }
}

fn client_auth(tls: &ListenerTls, build: &Build<'_>) -> Option<ClientAuth> {
    let (directory, faults) = (build.directory, build.faults);
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
        mode: tls.client_auth.value(),
        subject_header: tls.client_subject_header.value(),
    })
}

/// How often files may be looked at.
const WATCH: RangeInclusive<Duration> = ms(10)..=h(1);

/// One of its `certificates`.
const CERTIFICATE: Called =
    Called { name: "a certificate", example: "{ chain = \"tls/hosp.pem\", key = \"tls/hosp.key\" }" };
