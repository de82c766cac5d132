//! What can be wrong with the files of a certificate: which file, what about it, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// It holds certificates.
    Chain,
    /// It holds the private key.
    Key,
    /// It holds the key's passphrase.
    Passphrase,
}

impl FileRole {
    fn holds(self) -> &'static str {
        match self {
            Self::Chain => "certificate file",
            Self::Key => "key file",
            Self::Passphrase => "passphrase file",
        }
    }
}

/// Why a certificate cannot be used. [`CertificateError::help`] says what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A certificate that is not X.509, or that cannot be trusted as a CA.
    #[error("certificate number {number} in {} cannot be parsed", path.display())]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Which certificate in it, from 1.
        number: usize,
    },
    /// A key of a kind that is not supported, or a damaged one.
    #[error("the key in {} is damaged or of an unknown kind", path.display())]
    BadKey {
        /// The file.
        path: PathBuf,
    },
    /// PEM that is cut off or not base64.
    #[error("the {} {} is damaged PEM", role.holds(), path.display())]
    BadPem {
        /// The file.
        path: PathBuf,
        /// What it is for.
        role: FileRole,
    },
    /// A certificate that did not issue the one before it.
    #[error("certificate number {number} in {} did not issue the one before it, \"{issuer}\" did", path.display())]
    ChainOrder {
        /// The file.
        path: PathBuf,
        /// Which certificate is out of place, from 1.
        number: usize,
        /// Who should stand there.
        issuer: String,
    },
    /// PEM without a certificate.
    #[error("the certificate file {} holds no certificate", path.display())]
    EmptyChain {
        /// The file.
        path: PathBuf,
    },
    /// A passphrase file with nothing in it.
    #[error("the passphrase file {} is empty", path.display())]
    EmptyPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// A key whose decryption would take minutes or gigabytes.
    #[error("decrypting the key in {} would cost too much", path.display())]
    EncryptionTooCostly {
        /// The file.
        path: PathBuf,
    },
    /// A certificate whose time is over.
    #[error("certificate number {number} in {} expired at {}", path.display(), show_time(*since))]
    Expired {
        /// The file.
        path: PathBuf,
        /// Which certificate in it, from 1.
        number: usize,
        /// When, in seconds of the Unix clock.
        since: i64,
    },
    /// A key of another certificate.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), chain.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The chain's file.
        chain: PathBuf,
    },
    /// The key's certificate stands behind another one.
    #[error("the key's certificate is number {number} in {}, it must be the first", path.display())]
    LeafNotFirst {
        /// The file.
        path: PathBuf,
        /// Where it stands, from 1.
        number: usize,
    },
    /// PEM without a private key.
    #[error("the key file {} holds no private key", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A directory, a pipe or a device.
    #[error("the {} {} is not a regular file", role.holds(), path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is for.
        role: FileRole,
    },
    /// No PEM at all.
    #[error("the {} {} is not PEM", role.holds(), path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What it is for.
        role: FileRole,
    },
    /// A certificate whose time has not come.
    #[error("certificate number {number} in {} is not valid before {}", path.display(), show_time(*from))]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Which certificate in it, from 1.
        number: usize,
        /// When it will be, in seconds of the Unix clock.
        from: i64,
    },
    /// The encryption that OpenSSL used before PKCS#8, whose key derivation is one round of MD5.
    #[error("the key in {} is encrypted in the old PEM style (Proc-Type: 4,ENCRYPTED)", path.display())]
    OldEncryption {
        /// The file.
        path: PathBuf,
    },
    /// An encrypted key and nothing to decrypt it with.
    #[error("the key in {} is encrypted, and no passphrase_file is given", path.display())]
    PassphraseMissing {
        /// The key's file.
        path: PathBuf,
    },
    /// A file too large to be what it should be.
    #[error("the {} {} is larger than 1 MiB", role.holds(), path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it is for.
        role: FileRole,
    },
    /// A file that is not there, or that we may not read.
    #[error("cannot read the {} {}: {source}", role.holds(), path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it is for.
        role: FileRole,
        /// Why not.
        source: io::Error,
    },
    /// An encryption other than PBES2 with PBKDF2 or scrypt, and AES.
    #[error("the key in {} is encrypted in a way that Stent does not read", path.display())]
    UnsupportedEncryption {
        /// The file.
        path: PathBuf,
    },
    /// A passphrase that does not decrypt the key.
    #[error("the passphrase in {} does not decrypt the key in {}", passphrase_file.display(), path.display())]
    WrongPassphrase {
        /// The key's file.
        path: PathBuf,
        /// The passphrase's file.
        passphrase_file: PathBuf,
    },
}

impl CertificateError {
    /// Which of the files is to blame.
    pub fn role(&self) -> FileRole {
        match self {
            Self::BadPem { role, .. }
            | Self::NotAFile { role, .. }
            | Self::NotPem { role, .. }
            | Self::TooLarge { role, .. }
            | Self::Unreadable { role, .. } => *role,
            Self::BadCertificate { .. }
            | Self::ChainOrder { .. }
            | Self::EmptyChain { .. }
            | Self::Expired { .. }
            | Self::LeafNotFirst { .. }
            | Self::NotYetValid { .. } => FileRole::Chain,
            Self::BadKey { .. }
            | Self::EncryptionTooCostly { .. }
            | Self::KeyMismatch { .. }
            | Self::NoKey { .. }
            | Self::OldEncryption { .. }
            | Self::PassphraseMissing { .. }
            | Self::UnsupportedEncryption { .. } => FileRole::Key,
            Self::EmptyPassphrase { .. } | Self::WrongPassphrase { .. } => FileRole::Passphrase,
        }
    }

    /// The way out.
    pub fn help(&self) -> String {
        match self {
            Self::BadCertificate { .. } => {
                "it must be an X.509 certificate in PEM; `openssl x509 -noout -text -in FILE` shows what it is".into()
            }
            Self::BadKey { .. } => {
                "RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, and Ed25519 are supported".into()
            }
            Self::BadPem { .. } => "it was cut off or changed on its way; copy it again".into(),
            Self::ChainOrder { .. } | Self::LeafNotFirst { .. } => {
                "put the server's own certificate first, then the one that issued it, and so on; leave the root out"
                    .into()
            }
            Self::EmptyChain { .. } => {
                "it needs a `-----BEGIN CERTIFICATE-----`; an ACM export gives it as Certificate, then CertificateChain"
                    .into()
            }
            Self::EmptyPassphrase { .. } => "write the passphrase of the key into it".into(),
            Self::EncryptionTooCostly { path } => {
                format!("encrypt it again with the usual cost: {}", pkcs8_command(path))
            }
            Self::Expired { .. } => "renew it, or take it out of the chain if the callers do not need it".into(),
            Self::KeyMismatch { .. } => "give the key that the certificate was issued for; a renewal may have brought a new one".into(),
            Self::NoKey { .. } => "it needs a `-----BEGIN PRIVATE KEY-----` or its kind".into(),
            Self::NotAFile { .. } => "give the path of a file".into(),
            Self::NotPem { path, role } => match role {
                FileRole::Chain => {
                    format!("from DER: `openssl x509 -inform der -in {0} -out {0}.pem`", path.display())
                }
                FileRole::Key | FileRole::Passphrase => {
                    format!("from DER: `openssl pkey -inform der -in {0} -out {0}.pem`", path.display())
                }
            },
            Self::NotYetValid { .. } => "check this machine's clock, or use the certificate later".into(),
            Self::OldEncryption { path } | Self::UnsupportedEncryption { path } => {
                format!("write it anew as PKCS#8: {}", pkcs8_command(path))
            }
            Self::PassphraseMissing { .. } => {
                "add `passphrase_file = \"FILE\"` with the file that holds its passphrase".into()
            }
            Self::TooLarge { .. } => "give the file of this certificate alone".into(),
            Self::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "check the path; a relative one starts at the configuration file's directory".into()
                }
                io::ErrorKind::PermissionDenied => "let the user that runs Stent read it".into(),
                _ => "check the path and the file's permissions".into(),
            },
            Self::WrongPassphrase { path, .. } => {
                format!("try it with `openssl pkey -noout -in {}`", path.display())
            }
        }
    }
}

fn pkcs8_command(path: &Path) -> String {
    format!("`openssl pkcs8 -topk8 -in {0} -out {0}.pk8`", path.display())
}

/// A time for people; the bare number where the calendar does not reach.
fn show_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
