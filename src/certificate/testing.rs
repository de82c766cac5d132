//! Certificates and keys made for tests, in every form that people keep keys in. The integration tests include this
//! file as well.

use std::fmt::Write;

use pkcs8::der::Encode;
use pkcs8::der::asn1::OctetString;
use pkcs8::pkcs5::pbes2::{self, EncryptionScheme, Kdf, Pbkdf2Params, Pbkdf2Prf, Salt, ScryptParams};
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfoRef};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};

/// A CA.
pub(crate) struct Authority {
    /// Its certificate.
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    /// The certificate, without its issuer's.
    pub(crate) pem: String,
    key: KeyPair,
}

/// How a key is encrypted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Encryption {
    /// As ACM's export and OpenSSL do it.
    Pbkdf2Sha256 { iterations: u32 },
    /// The default hash of RFC 8018.
    Pbkdf2Sha1,
    /// As `openssl pkcs8 -topk8 -scrypt` does it.
    Scrypt { cost: u64 },
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let parameters = Self::parameters(name);
        let pem = parameters.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    /// A CA below this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let parameters = Self::parameters(name);
        let pem = parameters.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    fn parameters(name: &str) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = common_name(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters
    }

    /// A certificate for these names and addresses; the first is its common name.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_between(names, (2020, 2099))
    }

    /// The same, valid from the beginning of one year to that of another.
    pub(crate) fn issue_between(&self, names: &[&str], years: (i32, i32)) -> Issued {
        self.issue_for(names, years, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"))
    }

    /// The same with an RSA key.
    pub(crate) fn issue_rsa(&self, names: &[&str]) -> Issued {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("a key");
        self.issue_for(names, (2020, 2099), key)
    }

    fn issue_for(&self, names: &[&str], years: (i32, i32), key: KeyPair) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names.clone()).expect("names");
        parameters.distinguished_name = common_name(&names[0]);
        parameters.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let pem = parameters.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Issued { pem, key }
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

impl Issued {
    /// The key as PKCS#8.
    pub(crate) fn pkcs8(&self) -> String {
        pem("PRIVATE KEY", self.key.serialized_der())
    }

    /// The key of [`Authority::issue_rsa`] as PKCS#1.
    pub(crate) fn pkcs1(&self) -> String {
        pem("RSA PRIVATE KEY", self.inner())
    }

    /// An elliptic key as SEC1, with the name of its curve, as OpenSSL writes it.
    pub(crate) fn sec1(&self) -> String {
        // The curve is left out inside PKCS#8. It belongs between version and key (3 + 34 bytes behind the two of the
        // header) and the public key; 12 bytes more leave the length below 128, where it is one byte.
        const PRIME256V1: [u8; 12] = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let mut der = self.inner().to_vec();
        let length = u8::try_from(PRIME256V1.len()).expect("it is short");
        der[1] += length;
        der.splice(39..39, PRIME256V1);
        pem("EC PRIVATE KEY", &der)
    }

    /// The key as PKCS#8 under a passphrase.
    pub(crate) fn encrypted(&self, passphrase: &str, encryption: Encryption) -> String {
        let salt = Salt::new([7; 16]).expect("it is short enough");
        let kdf = match encryption {
            Encryption::Pbkdf2Sha256 { iterations } => {
                Kdf::Pbkdf2(pbkdf2(salt, iterations, Pbkdf2Prf::HmacWithSha256))
            }
            Encryption::Pbkdf2Sha1 => Kdf::Pbkdf2(pbkdf2(salt, 2048, Pbkdf2Prf::HmacWithSha1)),
            Encryption::Scrypt { cost } => Kdf::Scrypt(ScryptParams {
                salt,
                cost_parameter: cost,
                block_size: 8,
                parallelization: 1,
                key_length: None,
            }),
        };
        let parameters = pbes2::Parameters { kdf, encryption: EncryptionScheme::Aes256Cbc { iv: [9; 16] } };
        // What is too costly to decrypt is too costly to encrypt: then the figures count, not the bytes.
        let is_costly = matches!(encryption, Encryption::Pbkdf2Sha256 { iterations } if iterations > 10_000)
            || matches!(encryption, Encryption::Scrypt { cost } if cost > 1 << 14 || !cost.is_power_of_two());
        let encrypted = if is_costly {
            vec![0; 64]
        } else {
            parameters.encrypt(passphrase, self.key.serialized_der()).expect("it can be encrypted")
        };
        let info = EncryptedPrivateKeyInfo {
            encryption_algorithm: parameters.into(),
            encrypted_data: OctetString::new(encrypted).expect("it is short enough"),
        };
        pem("ENCRYPTED PRIVATE KEY", &info.to_der().expect("it can be encoded"))
    }

    /// What PKCS#8 wraps.
    fn inner(&self) -> &[u8] {
        let info = PrivateKeyInfoRef::try_from(self.key.serialized_der()).expect("PKCS#8");
        info.private_key.as_bytes()
    }
}

fn pbkdf2(salt: Salt, iteration_count: u32, prf: Pbkdf2Prf) -> Pbkdf2Params {
    let mut parameters =
        Pbkdf2Params::hmac_sha256(iteration_count, salt.as_ref()).expect("they are in bounds");
    parameters.prf = prf;
    parameters
}

/// PEM with lines of 64 characters.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64(der).as_bytes().chunks(64) {
        let _ = writeln!(text, "{}", str::from_utf8(line).expect("base64 is ASCII"));
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for index in 0..4 {
            let sextet = (bits >> (18 - 6 * index)) & 63;
            text.push(if index <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}
