//! `chain`, `key` and `passphrase_file`: the files of a certificate, as listeners and clusters name them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use toml::Spanned;

use crate::certificate::{self, Certificate, CertificateError, CertificateFiles, FileRole};
use crate::config::build::Build;
use crate::config::kinds::Kind;
use crate::config::kinds::places::pem_file;
use crate::config::reader::Field;
use crate::config::report::Fault;
use crate::config::settings::settings;
use crate::config::spec::Must;

settings! {
    /// A table with the files of a certificate.
    RawCertificate: fields of CertificateFiles {
        /// PEM, the certificate of this key first, then its issuers. A relative path starts at this file's directory.
        chain: Must<PathBuf> = pem_file().must(r#""tls/hosp.pem""#);
        /// PEM, in PKCS#8, SEC1 or PKCS#1. Nobody but Stent's user should be able to read it.
        key: Must<PathBuf> = pem_file().must(r#""tls/hosp.key""#);
        /// The file with the passphrase of a key in encrypted PKCS#8.
        passphrase_file: Field<PathBuf> = pem_file().may(r#""tls/hosp.pass""#);
    }
}

/// How a table of this kind is called in errors.
pub(super) struct Called {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

/// A certificate whose files are named.
pub(super) struct NamedFiles {
    /// The chain's path as the configuration has it.
    pub(super) chain: Spanned<PathBuf>,
    pub(super) files: CertificateFiles,
    /// None if the files are no good, which has been reported.
    pub(super) certificate: Option<Certificate>,
}

impl RawCertificate {
    /// Reads the files; none if the table does not name them.
    pub(super) fn load(&self, header: Range<usize>, kind: &Called, build: &Build<'_>) -> Option<NamedFiles> {
        let (directory, faults) = (build.directory, build.faults);
        let required = |field: &Field<PathBuf>, key: &str| match field {
            Field::Given(path) => Some(path.clone()),
            Field::Broken => None,
            Field::Absent => {
                let message = format!("{} has no `{key}`", kind.name);
                let fault = Fault::at(header.clone(), message, format!("`{key}` is missing"));
                faults.push(fault.help(format!("write {}", kind.example)));
                None
            }
        };
        // Both, so that both are reported.
        let (chain, key) = (required(&self.chain, "chain"), required(&self.key, "key"));
        let (chain, key) = (chain?, key?);
        if self.passphrase_file.is_broken() {
            return None;
        }
        let passphrase_file = self.passphrase_file.given();
        let files = CertificateFiles {
            chain: resolve(directory, chain.get_ref()),
            key: resolve(directory, key.get_ref()),
            passphrase_file: passphrase_file.map(|path| resolve(directory, path.get_ref())),
        };
        let certificate = match certificate::load(&files, SystemTime::now()) {
            Ok(loaded) => {
                loaded.warnings.iter().for_each(|warning| faults.warn(warning));
                Some(loaded)
            }
            Err(error) => {
                let span = match error.role() {
                    FileRole::Chain => chain.span(),
                    FileRole::Key => key.span(),
                    FileRole::Passphrase => passphrase_file.map_or(key.span(), Spanned::span),
                };
                faults.push(unusable(&error, span));
                None
            }
        };
        Some(NamedFiles { chain, files, certificate })
    }
}

/// What is wrong with a file, at the place that names it.
pub(super) fn unusable(error: &CertificateError, span: Range<usize>) -> Fault {
    Fault::at(span, error.to_string(), "this file").help(error.help())
}

/// A path as the process finds it, wherever it runs.
pub(super) fn resolve(directory: &Path, path: &Path) -> PathBuf {
    let path = directory.join(path);
    std::path::absolute(&path).unwrap_or(path)
}
