//! Every form of key loads, and every error names its file and the way out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::testing::{Authority, Encryption, Issued, pem};
use super::{
    Certificate, CertificateError, CertificateFiles, CertificateWarning, FileRole, load, load_roots,
};

/// A directory with the files of one certificate.
struct Files {
    directory: PathBuf,
    files: CertificateFiles,
}

impl Files {
    fn new(chain: &str, key: &str, passphrase: Option<&str>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("stent-certificate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let files = CertificateFiles {
            chain: directory.join("chain.pem"),
            key: directory.join("key.pem"),
            passphrase_file: passphrase.map(|_| directory.join("passphrase")),
        };
        fs::write(&files.chain, chain).unwrap();
        fs::write(&files.key, key).unwrap();
        restrict(&files.key, 0o600);
        if let (Some(path), Some(passphrase)) = (&files.passphrase_file, passphrase) {
            fs::write(path, passphrase).unwrap();
        }
        Self { directory, files }
    }

    fn load(&self) -> Result<Certificate, CertificateError> {
        load(&self.files, SystemTime::now())
    }

    /// The error, which must name `guilty` and say what to do.
    fn fail(&self, guilty: &Path) -> CertificateError {
        let error = self.load().map(|certificate| certificate.facts).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(guilty.to_str().unwrap()), "{text}");
        assert!(!error.help().is_empty());
        error
    }

    fn fail_chain(&self) -> CertificateError {
        let error = self.fail(&self.files.chain);
        assert_eq!(error.role(), FileRole::Chain, "{error}");
        error
    }

    fn fail_key(&self) -> CertificateError {
        let error = self.fail(&self.files.key);
        assert_eq!(error.role(), FileRole::Key, "{error}");
        error
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn restrict(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn issued() -> Issued {
    Authority::new("a CA").issue(&["hosp.example.org"])
}

#[test]
fn every_form_of_key_loads() {
    let authority = Authority::new("a CA");
    let (elliptic, rsa) =
        (authority.issue(&["hosp.example.org"]), authority.issue_rsa(&["hosp.example.org"]));
    let pbkdf2 = Encryption::Pbkdf2Sha256 { iterations: 2048 };
    for (what, certificate, key, passphrase) in [
        ("PKCS#8", &elliptic, elliptic.pkcs8(), None),
        ("PKCS#8 with RSA", &rsa, rsa.pkcs8(), None),
        ("SEC1", &elliptic, elliptic.sec1(), None),
        ("PKCS#1", &rsa, rsa.pkcs1(), None),
        ("PBKDF2", &elliptic, elliptic.encrypted("open sesame", pbkdf2), Some("open sesame\n")),
        ("PBKDF2 with RSA", &rsa, rsa.encrypted("open sesame", pbkdf2), Some("open sesame\r\n")),
        ("SHA-1", &rsa, rsa.encrypted("open sesame", Encryption::Pbkdf2Sha1), Some("open sesame")),
        (
            "scrypt",
            &elliptic,
            elliptic.encrypted(" spaces count ", Encryption::Scrypt { cost: 1 << 10 }),
            Some(" spaces count \n"),
        ),
    ] {
        let loaded = Files::new(&certificate.pem, &key, passphrase).load();
        let loaded = loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(loaded.facts.subject, "CN=hosp.example.org", "{what}");
        assert_eq!(loaded.warnings, [], "{what}");
    }
}

#[test]
fn the_facts_are_those_of_the_first_certificate() {
    let root = Authority::new("a CA");
    let intermediate = root.intermediate("another CA");
    let leaf = intermediate.issue(&["HOSP.example.org", "*.wards.example.org", "10.0.0.7"]);
    let chain = format!("{}{}{}", leaf.pem, intermediate.pem, root.pem);
    let loaded = Files::new(&chain, &leaf.pkcs8(), None).load().unwrap();
    assert_eq!(loaded.certified_key.cert.len(), 3);
    assert_eq!(loaded.facts.not_before, 1_577_836_800, "2020-01-01");
    assert_eq!(loaded.facts.not_after, 4_070_908_800, "2099-01-01");
    for host in ["hosp.example.org", "a.wards.example.org", "10.0.0.7"] {
        assert!(loaded.facts.covers(host), "{host}");
    }
    for host in ["wards.example.org", "a.b.wards.example.org", "example.org", "10.0.0.8", ""] {
        assert!(!loaded.facts.covers(host), "{host}");
    }
}

#[test]
fn a_key_that_others_may_read_is_warned_about() {
    let issued = issued();
    let files = Files::new(&issued.pem, &issued.pkcs8(), None);
    restrict(&files.files.key, 0o640);
    let warnings = files.load().unwrap().warnings;
    assert_eq!(
        warnings,
        [CertificateWarning::KeyOpenToOthers { path: files.files.key.clone(), mode: 0o640 }]
    );
    assert!(warnings[0].to_string().contains("chmod 600"), "{}", warnings[0]);
}

#[test]
fn a_missing_file_is_named() {
    let issued = issued();
    for missing in ["chain.pem", "key.pem", "passphrase"] {
        let encrypted = issued.encrypted("secret", Encryption::Pbkdf2Sha256 { iterations: 1000 });
        let files = Files::new(&issued.pem, &encrypted, Some("secret"));
        let path = files.directory.join(missing);
        fs::remove_file(&path).unwrap();
        let error = files.fail(&path);
        assert!(matches!(error, CertificateError::Unreadable { .. }), "{error:?}");
        fs::create_dir(&path).unwrap();
        let error = files.fail(&path);
        assert!(matches!(error, CertificateError::NotAFile { .. }), "{error:?}");
    }
}

#[test]
fn a_file_of_endless_size_is_not_read() {
    let issued = issued();
    let files = Files::new(&"x".repeat((1 << 20) + 1), &issued.pkcs8(), None);
    let error = files.fail_chain();
    assert!(matches!(error, CertificateError::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_chain_that_holds_no_certificate_is_refused() {
    let issued = issued();
    let key = issued.pkcs8();
    for chain in ["", "hello", "\u{0}\u{1}"] {
        let error = Files::new(chain, &key, None).fail_chain();
        assert!(matches!(error, CertificateError::NotPem { .. }), "{error:?}");
    }
    for chain in [&key, "-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n"] {
        let error = Files::new(chain, &key, None).fail_chain();
        assert!(matches!(error, CertificateError::EmptyChain { .. }), "{error:?}");
    }
    let cut = &issued.pem[..issued.pem.len() / 2];
    let error = Files::new(cut, &key, None).fail_chain();
    assert!(matches!(error, CertificateError::BadPem { .. }), "{error:?}");
    let error = Files::new(&pem("CERTIFICATE", b"no certificate"), &key, None).fail_chain();
    assert!(matches!(error, CertificateError::BadCertificate { number: 1, .. }), "{error:?}");
}

#[test]
fn a_key_file_that_holds_no_key_is_refused() {
    let issued = issued();
    for key in ["", "hello"] {
        let error = Files::new(&issued.pem, key, None).fail_key();
        assert!(matches!(error, CertificateError::NotPem { .. }), "{error:?}");
    }
    let error = Files::new(&issued.pem, &issued.pem, None).fail_key();
    assert!(matches!(error, CertificateError::NoKey { .. }), "{error:?}");
    let key = issued.pkcs8();
    let error = Files::new(&issued.pem, &key[..key.len() / 2], None).fail_key();
    assert!(matches!(error, CertificateError::BadPem { .. }), "{error:?}");
    let error = Files::new(&issued.pem, &pem("PRIVATE KEY", b"no key"), None).fail_key();
    assert!(matches!(error, CertificateError::BadKey { .. }), "{error:?}");
}

#[test]
fn the_old_pem_encryption_is_refused_with_the_command_that_helps() {
    let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
               -----END RSA PRIVATE KEY-----\n";
    let error = Files::new(&issued().pem, key, Some("secret")).fail_key();
    assert!(matches!(error, CertificateError::OldEncryption { .. }), "{error:?}");
    assert!(error.help().contains("openssl pkcs8 -topk8 -in"), "{}", error.help());
}

#[test]
fn an_encrypted_key_needs_its_passphrase() {
    let issued = issued();
    let key = issued.encrypted("secret", Encryption::Pbkdf2Sha256 { iterations: 1000 });
    let error = Files::new(&issued.pem, &key, None).fail_key();
    assert!(matches!(error, CertificateError::PassphraseMissing { .. }), "{error:?}");
    assert!(error.help().contains("passphrase_file"), "{}", error.help());
    for wrong in ["Secret", "secret \n", "secret\n\n"] {
        let files = Files::new(&issued.pem, &key, Some(wrong));
        let error = files.fail(&files.files.key);
        assert!(matches!(error, CertificateError::WrongPassphrase { .. }), "{error:?}");
        assert_eq!(error.role(), FileRole::Passphrase);
    }
    let files = Files::new(&issued.pem, &key, Some("\n"));
    let error = files.fail(&files.directory.join("passphrase"));
    assert!(matches!(error, CertificateError::EmptyPassphrase { .. }), "{error:?}");
}

#[test]
fn an_encryption_that_is_not_known_is_refused_with_the_command_that_helps() {
    // pbeWithSHA1And3-KeyTripleDES-CBC, as `openssl pkcs8 -v1 PBE-SHA1-3DES` names it.
    let pkcs12 = [
        0x30, 0x26, 0x30, 0x1c, 0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x03, 0x30,
        0x0e, 0x04, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x02, 0x02, 0x08, 0x00, 0x04, 0x06, 1, 2, 3, 4, 5, 6,
    ];
    let key = pem("ENCRYPTED PRIVATE KEY", &pkcs12);
    let error = Files::new(&issued().pem, &key, Some("secret")).fail_key();
    assert!(matches!(error, CertificateError::UnsupportedEncryption { .. }), "{error:?}");
    assert!(error.help().contains("openssl pkcs8 -topk8 -in"), "{}", error.help());
}

#[test]
fn a_key_that_would_cost_too_much_is_refused_before_it_costs() {
    let issued = issued();
    for encryption in [
        Encryption::Pbkdf2Sha256 { iterations: 50_000_000 },
        Encryption::Scrypt { cost: 1 << 40 },
        Encryption::Scrypt { cost: u64::MAX },
        Encryption::Scrypt { cost: 0 },
        Encryption::Scrypt { cost: 3 },
    ] {
        let start = Instant::now();
        let key = issued.encrypted("secret", encryption);
        let error = Files::new(&issued.pem, &key, Some("secret")).fail_key();
        assert!(matches!(error, CertificateError::EncryptionTooCostly { .. }), "{encryption:?}: {error:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let error = Files::new(&issued().pem, &issued().pkcs8(), None).fail_key();
    assert!(matches!(error, CertificateError::KeyMismatch { .. }), "{error:?}");
}

#[test]
fn a_chain_out_of_order_is_refused() {
    let root = Authority::new("a CA");
    let intermediate = root.intermediate("another CA");
    let leaf = intermediate.issue(&["hosp.example.org"]);
    let chain = |pems: [&str; 2]| Files::new(&pems.concat(), &leaf.pkcs8(), None).fail_chain();
    let error = chain([&intermediate.pem, &leaf.pem]);
    assert!(matches!(error, CertificateError::LeafNotFirst { number: 2, .. }), "{error:?}");
    let error = chain([&leaf.pem, &root.pem]);
    assert!(matches!(error, CertificateError::ChainOrder { number: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("CN=another CA"), "{error}");
}

#[test]
fn a_certificate_out_of_its_time_is_refused() {
    let authority = Authority::new("a CA");
    let expired = authority.issue_between(&["hosp.example.org"], (2001, 2002));
    let error = Files::new(&expired.pem, &expired.pkcs8(), None).fail_chain();
    assert!(matches!(error, CertificateError::Expired { number: 1, since: 1_009_843_200, .. }), "{error:?}");
    assert!(error.to_string().ends_with("expired at 2002-01-01T00:00:00Z"), "{error}");
    let early = authority.issue_between(&["hosp.example.org"], (2098, 2099));
    let error = Files::new(&early.pem, &early.pkcs8(), None).fail_chain();
    assert!(matches!(error, CertificateError::NotYetValid { number: 1, .. }), "{error:?}");
}

#[test]
fn every_ca_of_a_file_is_trusted() {
    let pems = format!("{}{}", Authority::new("a CA").pem, Authority::new("another CA").pem);
    let files = Files::new(&pems, "", None);
    assert_eq!(load_roots(&files.files.chain).unwrap().len(), 2);
    fs::write(&files.files.chain, "nothing").unwrap();
    assert!(matches!(load_roots(&files.files.chain), Err(CertificateError::NotPem { .. })));
}
