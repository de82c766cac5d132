//! `[cluster.NAME.tls]`: its keys, checked together with the files and endpoints that they are about.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use toml::Spanned;

use crate::certificate;
use crate::config::build::Build;
use crate::config::certificate_files::{Called, NamedFiles, RawCertificate, resolve, unusable};
use crate::config::keys::cluster::Cluster;
use crate::config::kinds::places::{pem_file, tls_name};
use crate::config::kinds::{Kind, Shape, Single, Word};
use crate::config::reader::{Field, Item};
use crate::config::report::{Fault, Faults};
use crate::config::settings::settings;
use crate::config::spec::Or;
use crate::config::tables::{Named, optional};
use crate::upstream::location::{EndpointScheme, EndpointUrl};
use crate::upstream::protocol::Protocol;
use crate::upstream::tls::{Identity, TlsParameters, TlsSettings, Trust, server_name};

settings! {
    /// `[cluster.NAME.tls]`
    ClusterTls: fields of TlsSettings {
        /// CAs to trust. A relative path starts at this file's directory. Absent: the platform's CAs.
        ca: Field<PathBuf> = pem_file().may(r#""tls/internal-ca.pem""#) => |tls| tls.ca().map(Path::to_path_buf);
        /// The name in the certificate and in SNI. Absent: the host of the URL, for an address the address.
        server_name: Field<ServerName<'static>> =
            tls_name().may(r#""hosp.internal""#) => |tls| tls.server_name().cloned();
        /// The certificate that is shown to endpoints that ask for one.
        certificate: Field<RawCertificate> =
            optional().inline() => |tls| tls.identity().map(|identity| identity.files.clone());
        /// The second word switches the verification off, is a sentence, and is warned about at every start.
        verification: Or<Verification> = Words.or(Verification::Full)
            => |tls| if tls.verifies() { Verification::Full } else { Verification::Off };
    }
}

/// Whether the backend's certificate is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verification {
    /// A CA that is trusted has to have signed it, for the endpoint's name, and it has to be of today.
    Full,
    /// It is not.
    Off,
}

/// The words of `verification`: a wrong one gets a hint of its own.
struct Words;

impl Words {
    const WORD: Word<Verification, 2> =
        Word::new([("full", Verification::Full), (VERIFICATION_OFF, Verification::Off)]);
}

impl Single for Words {
    type Value = Verification;

    fn read(&self, item: &Item<'_>) -> Result<Verification, Fault> {
        item.text()?;
        Single::read(&Self::WORD, item).map_err(|_| {
            let help = format!(
                "write \"full\", and `ca = \"FILE\"` if the backend's CA is one of your own; to do without, the whole \
                 phrase: \"{VERIFICATION_OFF}\""
            );
            item.invalid("neither of its words", &help)
        })
    }

    fn show(&self, value: &Verification) -> String {
        Single::show(&Self::WORD, value)
    }

    fn shape(&self) -> Shape {
        Single::shape(&Self::WORD)
    }
}

/// Checks how a cluster is reached, and every file in it; none if it is reached without TLS.
pub(super) fn build(cluster: &Named<Cluster>, build: &Build<'_>) -> Option<TlsSettings> {
    let (endpoints, faults) = (cluster.endpoints.list(), build.faults);
    let first = endpoints.first()?;
    let scheme = |endpoint: &Spanned<EndpointUrl>| endpoint.get_ref().scheme;
    if let Some(other) = endpoints.iter().find(|other| scheme(other) != scheme(first)) {
        let fault =
            Fault::at(other.span(), "a cluster speaks TLS to all of its endpoints or to none", "this");
        faults.push(fault.also(first.span(), "and this").help("make two clusters of them"));
    }
    if scheme(first) == EndpointScheme::Http {
        if let Some(auto) = cluster.protocol.given().filter(|protocol| *protocol.get_ref() == Protocol::Auto)
        {
            let fault =
                Fault::at(auto.span(), "`auto` is settled in the TLS handshake", "no endpoint is https");
            faults.push(fault.help("write \"h2\" or \"http1\", whichever the backend speaks without TLS"));
        }
        if let Some(tls) = cluster.tls.given() {
            let message = "TLS settings for a cluster that is reached without TLS";
            let fault = Fault::at(tls.span(), message, "no endpoint is https");
            faults.push(fault.help("write the endpoints as https://HOST:PORT, or leave this table out"));
        }
        return None;
    }
    let tls = cluster.tls.given().map(Spanned::get_ref);
    if tls.is_none_or(|tls| matches!(tls.server_name, Field::Absent)) {
        check_names(endpoints, faults);
    }
    let ca = tls.and_then(|tls| tls.ca.given());
    let verification = tls.and_then(|tls| tls.verification.given());
    let trust = match verification.filter(|verification| *verification.get_ref() == Verification::Off) {
        Some(off) => {
            if let Some(ca) = ca {
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
        None => Trust::Roots(Arc::new(roots(ca, tls, first, build))),
    };
    let settings = TlsParameters {
        trust,
        ca: ca.map(|ca| resolve(build.directory, ca.get_ref())),
        identity: tls
            .and_then(|tls| tls.certificate.given())
            .and_then(|certificate| identity(certificate, build)),
        server_name: tls.and_then(|tls| tls.server_name.value()),
        protocol: cluster.protocol.value(),
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
    ca: Option<&Spanned<PathBuf>>,
    tls: Option<&ClusterTls>,
    endpoint: &Spanned<EndpointUrl>,
    build: &Build<'_>,
) -> RootCertStore {
    let (directory, faults) = (build.directory, build.faults);
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

fn identity(raw: &Spanned<RawCertificate>, build: &Build<'_>) -> Option<Identity> {
    let NamedFiles { files, certificate, .. } = raw.get_ref().load(raw.span(), &CERTIFICATE, build)?;
    Some(Identity { files, key: certificate?.certified_key })
}

/// Its `certificate`.
const CERTIFICATE: Called = Called {
    name: "a client certificate",
    example: "{ chain = \"tls/stent.pem\", key = \"tls/stent.key\" }",
};

/// Nobody types this by accident, nor copies it without reading it.
const VERIFICATION_OFF: &str = "off: whoever is on the way can read and change everything";
