//! Private keys: the forms that they come in, and the decryption of PKCS#8, whose cost is bounded before it is paid.

use std::path::Path;

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::Kdf;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::{CertificateError, CertificateWarning, FileRole, contains, read_file};

/// A key as it was found.
pub(super) struct FoundKey {
    pub(super) der: PrivateKeyDer<'static>,
    pub(super) warning: Option<CertificateWarning>,
}

/// Reads the first key of a file, decrypting it if it has to be.
pub(super) fn read(path: &Path, passphrase_file: Option<&Path>) -> Result<FoundKey, CertificateError> {
    let text = read_file(path, FileRole::Key)?;
    let der = if contains(&text, b"Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::OldEncryption { path: path.to_owned() });
    } else if let Some(encrypted) = encrypted_section(&text) {
        decrypt(path, encrypted, passphrase_file)?
    } else {
        plain(path, &text)?
    };
    Ok(FoundKey { der, warning: open_to_others(path) })
}

fn plain(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let mut is_damaged = false;
    for key in PrivateKeyDer::pem_slice_iter(text) {
        match key {
            Ok(key) => return Ok(key),
            Err(_) => is_damaged = true,
        }
    }
    let path = path.to_owned();
    Err(if is_damaged {
        CertificateError::BadPem { path, role: FileRole::Key }
    } else if contains(text, b"-----BEGIN ") {
        CertificateError::NoKey { path }
    } else {
        CertificateError::NotPem { path, role: FileRole::Key }
    })
}

/// The base64 of an encrypted key, with its newlines.
fn encrypted_section(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ENCRYPTED PRIVATE KEY-----")?;
    Some(rest.split_once("-----END ENCRYPTED PRIVATE KEY-----").map_or(rest, |(base64, _)| base64))
}

fn decrypt(
    path: &Path,
    base64: &str,
    passphrase_file: Option<&Path>,
) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let Some(passphrase_file) = passphrase_file else {
        return Err(CertificateError::PassphraseMissing { path: path.to_owned() });
    };
    // rustls's PEM reader takes lines of any length, but does not know this label.
    let pem = format!("-----BEGIN PRIVATE KEY-----{base64}-----END PRIVATE KEY-----\n");
    let Ok((_, der)) = <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()) else {
        return Err(CertificateError::BadPem { path: path.to_owned(), role: FileRole::Key });
    };
    let unsupported = || CertificateError::UnsupportedEncryption { path: path.to_owned() };
    let info = EncryptedPrivateKeyInfoRef::try_from(der.as_slice()).map_err(|_| unsupported())?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else { return Err(unsupported()) };
    if !is_affordable(&parameters.kdf) {
        return Err(CertificateError::EncryptionTooCostly { path: path.to_owned() });
    }
    let mut passphrase = read_file(passphrase_file, FileRole::Passphrase)?;
    if passphrase.last() == Some(&b'\n') {
        passphrase.pop();
        if passphrase.last() == Some(&b'\r') {
            passphrase.pop();
        }
    }
    if passphrase.is_empty() {
        return Err(CertificateError::EmptyPassphrase { path: passphrase_file.to_owned() });
    }
    match info.decrypt(&passphrase) {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        Err(pkcs8::Error::EncryptedPrivateKey(
            pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }
            | pkcs8::pkcs5::Error::AlgorithmParametersInvalid { .. }
            | pkcs8::pkcs5::Error::NoPbes1CryptSupport,
        )) => Err(unsupported()),
        // A wrong passphrase shows as bad padding or, once in 256 times, as a key that is none.
        Err(_) => Err(CertificateError::WrongPassphrase {
            path: path.to_owned(),
            passphrase_file: passphrase_file.to_owned(),
        }),
    }
}

/// Whether deriving the key takes seconds at most, and 256 MiB. A key file may come from elsewhere, and its figures
/// are numbers that anybody can write.
fn is_affordable(kdf: &Kdf) -> bool {
    match kdf {
        Kdf::Pbkdf2(parameters) => (1..=PBKDF2_ITERATIONS).contains(&parameters.iteration_count),
        Kdf::Scrypt(parameters) => {
            // The decoder takes any number for N, and takes its logarithm without a look at it.
            if !parameters.cost_parameter.is_power_of_two() || parameters.cost_parameter < 2 {
                return false;
            }
            let (r, p) = (u64::from(parameters.block_size), u64::from(parameters.parallelization));
            let cost = parameters.cost_parameter.checked_mul(r).and_then(|cost| cost.checked_mul(p));
            cost.is_some_and(|cost| (1..=SCRYPT_COST).contains(&cost))
        }
        _ => false,
    }
}

#[cfg(unix)]
fn open_to_others(path: &Path) -> Option<CertificateWarning> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| CertificateWarning::KeyOpenToOthers { path: path.to_owned(), mode })
}

#[cfg(not(unix))]
fn open_to_others(_path: &Path) -> Option<CertificateWarning> {
    None
}

/// Eight times what OWASP asks for with SHA-256; OpenSSL writes 2048.
const PBKDF2_ITERATIONS: u32 = if cfg!(fuzzing) { 5_000 } else { 5_000_000 };

/// N·r·p: twice what OWASP asks for (N = 2^17, r = 8, p = 1); OpenSSL writes an eighth of that. Memory is 128 bytes
/// times N·r.
const SCRYPT_COST: u64 = if cfg!(fuzzing) { 1 << 15 } else { 1 << 21 };
