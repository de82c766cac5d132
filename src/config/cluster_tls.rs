//! `[cluster.NAME.tls]` and `protocol`: read, and checked together with the files and endpoints that they are about.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use toml::Spanned;

use crate::certificate;
use crate::config::certificate_files::{Kind, Named, RawCertificate, file, resolve, unusable};
use crate::config::raw;
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, Faults};
use crate::upstream::cluster::Protocol;
use crate::upstream::endpoint::{EndpointScheme, EndpointUrl};
use crate::upstream::tls::{Identity, TlsParameters, TlsSettings, Trust, server_name};

/// The table as the file has it.
pub(super) struct ClusterTls {
    header: Range<usize>,
    ca: Field<String>,
    server_name: Field<ServerName<'static>>,
    certificate: Option<RawCertificate>,
    verification: Field<Verification>,
}

/// Whether the backend's certificate is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verification {
    Full,
    Off,
}

impl ClusterTls {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let tls = Self {
            header: table.header(),
            ca: table.field("ca", file),
            server_name: table.field("server_name", name),
            certificate: table.table("certificate").map(RawCertificate::read),
            verification: table.field("verification", verification),
        };
        table.finish();
        tls
    }
}

fn name(item: &Item<'_>) -> Result<ServerName<'static>, Fault> {
    let text = item.text()?;
    ServerName::try_from(text.to_owned()).map_err(|_| {
        item.invalid(
            "neither a host name nor an IP address",
            "a name as the backend's certificate has it, without scheme and port: \"hosp.internal\"",
        )
    })
}

fn verification(item: &Item<'_>) -> Result<Verification, Fault> {
    match item.text()? {
        VERIFICATION_FULL => Ok(Verification::Full),
        VERIFICATION_OFF => Ok(Verification::Off),
        _ => {
            let help = format!(
                "write \"{VERIFICATION_FULL}\", and `ca = \"FILE\"` if the backend's CA is one of your own; to do \
                 without, the whole phrase: \"{VERIFICATION_OFF}\""
            );
            Err(item.invalid("neither of its words", &help))
        }
    }
}

/// What a cluster's endpoints are reached by.
pub(super) struct Reach<'a> {
    pub(super) endpoints: &'a [Spanned<EndpointUrl>],
    pub(super) protocol: &'a Field<Protocol>,
    pub(super) tls: Option<&'a ClusterTls>,
}

/// Checks how a cluster is reached, and every file in it; none if it is reached without TLS.
pub(super) fn build(
    cluster: &raw::Cluster,
    reach: &Reach<'_>,
    directory: &Path,
    faults: &Faults,
) -> Option<TlsSettings> {
    let first = reach.endpoints.first()?;
    let scheme = |endpoint: &Spanned<EndpointUrl>| endpoint.get_ref().scheme;
    if let Some(other) = reach.endpoints.iter().find(|other| scheme(other) != scheme(first)) {
        let fault =
            Fault::at(other.span(), "a cluster speaks TLS to all of its endpoints or to none", "this");
        faults.push(fault.also(first.span(), "and this").help("make two clusters of them"));
    }
    if scheme(first) == EndpointScheme::Http {
        if let Some(auto) = reach.protocol.given().filter(|protocol| *protocol.get_ref() == Protocol::Auto) {
            let fault =
                Fault::at(auto.span(), "`auto` is settled in the TLS handshake", "no endpoint is https");
            faults.push(fault.help("write \"h2\" or \"http1\", whichever the backend speaks without TLS"));
        }
        if let Some(tls) = reach.tls {
            let message = "TLS settings for a cluster that is reached without TLS";
            let fault = Fault::at(tls.header.clone(), message, "no endpoint is https");
            faults.push(fault.help("write the endpoints as https://HOST:PORT, or leave this table out"));
        }
        return None;
    }
    let tls = reach.tls;
    if tls.is_none_or(|tls| matches!(tls.server_name, Field::Absent)) {
        check_names(reach.endpoints, faults);
    }
    let given = |field: Option<&Field<String>>| field.and_then(Field::given).cloned();
    let ca = given(tls.map(|tls| &tls.ca));
    let verification = tls.and_then(|tls| tls.verification.given());
    let trust = match verification.filter(|verification| *verification.get_ref() == Verification::Off) {
        Some(off) => {
            if let Some(ca) = &ca {
                let fault =
                    Fault::at(off.span(), "a `ca` is of no use where nothing is verified", "off here");
                faults.push(
                    fault.also(ca.span(), "while this says whom to trust").help("remove `verification`"),
                );
            }
            let name = cluster.name.get_ref();
            faults.warn(format!(
                "cluster `{name}`: the backend's certificate is not verified: whoever is on the way can read and change \
                 everything that is sent; give `[cluster.{name}.tls] ca` instead"
            ));
            Trust::Anybody
        }
        None => Trust::Roots(Arc::new(roots(ca.as_ref(), tls, first, directory, faults))),
    };
    let settings = TlsParameters {
        trust,
        ca: ca.map(|ca| resolve(directory, ca.get_ref())),
        identity: tls
            .and_then(|tls| tls.certificate.as_ref())
            .and_then(|raw| identity(raw, directory, faults)),
        server_name: tls.and_then(|tls| tls.server_name.given()).map(|name| name.get_ref().clone()),
        protocol: reach.protocol.clone().unwrap_or_default(),
    };
    Some(TlsSettings::new(settings))
}

/// A certificate cannot hold for every name that DNS may know.
fn check_names(endpoints: &[Spanned<EndpointUrl>], faults: &Faults) {
    for endpoint in endpoints.iter().filter(|endpoint| server_name(&endpoint.get_ref().host).is_none()) {
        let fault = Fault::at(endpoint.span(), "no certificate can hold for this host", "not a name of TLS");
        faults.push(fault.help("give `server_name` in the cluster's `tls` table"));
    }
}

/// Whom the cluster trusts: the CAs of its own file, or the platform's.
fn roots(
    ca: Option<&Spanned<String>>,
    tls: Option<&ClusterTls>,
    endpoint: &Spanned<EndpointUrl>,
    directory: &Path,
    faults: &Faults,
) -> RootCertStore {
    if tls.is_some_and(|tls| tls.ca.is_broken()) {
        return RootCertStore::empty();
    }
    if let Some(ca) = ca {
        return certificate::load_roots(&resolve(directory, ca.get_ref())).unwrap_or_else(|error| {
            faults.push(unusable(&error, ca.span()));
            RootCertStore::empty()
        });
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        let fault =
            Fault::at(endpoint.span(), "this system trusts no CA", "nothing to verify this endpoint by");
        faults.push(fault.help(
            "install the package `ca-certificates`, or name the backend's CA: `[cluster.NAME.tls] ca = \"FILE\"`",
        ));
    }
    roots
}

fn identity(raw: &RawCertificate, directory: &Path, faults: &Faults) -> Option<Identity> {
    let Named { files, certificate, .. } = raw.load(&CERTIFICATE, directory, faults)?;
    Some(Identity { files, key: certificate?.certified_key })
}

/// A name of TLS as the configuration has it.
pub(super) fn show_name(name: &ServerName<'_>) -> String {
    match name {
        ServerName::IpAddress(address) => IpAddr::from(*address).to_string(),
        name => name.to_str().into_owned(),
    }
}

/// Its `certificate`.
const CERTIFICATE: Kind =
    Kind { name: "a client certificate", example: "{ chain = \"tls/stent.pem\", key = \"tls/stent.key\" }" };

/// The certificate has to be signed by a CA that is trusted, for the endpoint's name, and of today.
pub(super) const VERIFICATION_FULL: &str = "full";

/// Nobody types this by accident, nor copies it without reading it.
pub(super) const VERIFICATION_OFF: &str = "off: whoever is on the way can read and change everything";

/// The protocols towards a backend, as the configuration spells them.
pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("http1", Protocol::Http1), ("h2", Protocol::H2), ("auto", Protocol::Auto)];
