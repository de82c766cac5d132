//! Certificates on disk, and a caller that speaks TLS and shows what came of the handshake.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};
use toml::{Table, Value};

use super::BOUND;
use super::certificates::{Authority, Issued};
use super::client::request;
use super::temp::TempDir;

/// A CA and a directory for what it issues.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    directory: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::new("a CA"), directory: TempDir::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        std::fs::write(&path, text).expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        text_of(&path)
    }

    /// Writes chain and key as `NAME.pem` and `NAME.key`, and gives the entry of `certificates` for them.
    pub(crate) fn pair(&self, name: &str, issued: &Issued) -> Value {
        self.pair_with_key(name, issued, &issued.pkcs8(), None)
    }

    /// The same with the key in some other form.
    pub(crate) fn pair_with_key(
        &self,
        name: &str,
        issued: &Issued,
        key: &str,
        passphrase: Option<&str>,
    ) -> Value {
        let mut entry = Table::new();
        entry.insert("chain".into(), self.write(&format!("{name}.pem"), &issued.pem).into());
        entry.insert("key".into(), self.write(&format!("{name}.key"), key).into());
        if let Some(passphrase) = passphrase {
            let file = self.write(&format!("{name}.pass"), passphrase);
            entry.insert("passphrase_file".into(), file.into());
        }
        entry.into()
    }

    /// How a caller that trusts the CA speaks TLS.
    pub(crate) fn caller(&self) -> Caller {
        Caller { trusted: self.authority.pem.clone(), versions: &[], identity: None, protocols: &[] }
    }
}

/// A path as text.
pub(crate) fn text_of(path: &Path) -> String {
    path.to_str().expect("a path that TOML can hold").to_owned()
}

/// A certificate in PEM as it goes over the wire.
pub(crate) fn der_of(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// How a caller speaks TLS.
#[derive(Clone)]
pub(crate) struct Caller {
    trusted: String,
    versions: &'static [&'static SupportedProtocolVersion],
    identity: Option<(String, String)>,
    protocols: &'static [&'static str],
}

impl Caller {
    /// Speaks this version alone.
    pub(crate) fn version(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    /// Shows a certificate of its own.
    pub(crate) fn shows(self, issued: &Issued) -> Self {
        Self { identity: Some((issued.pem.clone(), issued.pkcs8())), ..self }
    }

    /// Trusts another CA.
    pub(crate) fn trusts(self, authority: &Authority) -> Self {
        Self { trusted: authority.pem.clone(), ..self }
    }

    /// Offers these protocols.
    pub(crate) fn offers(self, protocols: &'static [&'static str]) -> Self {
        Self { protocols, ..self }
    }

    /// The settings of rustls, with a memory for sessions of its own.
    pub(crate) fn build(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(der_of(&self.trusted)).expect("a CA");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = if self.versions.is_empty() { rustls::ALL_VERSIONS } else { self.versions };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that the provider has")
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![der_of(chain)], key).expect("a key that fits")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// One TLS connection to the proxy.
pub(crate) struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    host: String,
}

/// One answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsResponse {
    pub(crate) status: u16,
}

impl TlsClient {
    /// Connects, asks for `name` and shakes hands.
    pub(crate) fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        stream.set_nodelay(true)?;
        let server = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(config.clone(), server).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream, host: name.to_owned() })
    }

    /// The certificate that the proxy showed.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    /// Whether the session was resumed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The cipher suite that was agreed on.
    pub(crate) fn suite(&self) -> Option<CipherSuite> {
        self.stream.conn.negotiated_cipher_suite().map(|suite| suite.suite())
    }

    /// The protocol that was agreed on.
    pub(crate) fn protocol(&self) -> Option<String> {
        self.stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// Asks for `/` and reads the whole answer.
    pub(crate) fn get(&mut self, headers: &[(&str, &str)]) -> io::Result<TlsResponse> {
        self.send(headers)?;
        self.response()
    }

    /// Asks for `/`, and leaves the answer where it is.
    pub(crate) fn send(&mut self, headers: &[(&str, &str)]) -> io::Result<()> {
        let host = self.host.clone();
        let mut all = vec![("Host", host.as_str())];
        if headers.iter().any(|(name, _)| *name == "Host") {
            all.clear();
        }
        all.extend_from_slice(headers);
        self.stream.write_all(&request("GET", "/", &all, b""))
    }

    fn response(&mut self) -> io::Result<TlsResponse> {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_some(&mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status =
            head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|text| text.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        while bytes.len() < end + length {
            self.read_some(&mut bytes)?;
        }
        Ok(TlsResponse { status })
    }

    fn read_some(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}
