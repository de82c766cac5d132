//! A backend behind TLS, which tells how each handshake went, and can end a connection with any alert.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, HandshakeKind, ProtocolVersion, RootCertStore,
    ServerConfig, ServerConnection, StreamOwned, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::BOUND;
use super::certificates::{Authority, Issued};

/// A backend at an address of its own, on 127.0.0.1. It answers every request with 200 and `hello`, and closes.
pub(crate) struct SecureBackend {
    address: SocketAddr,
    seen: Arc<Seen>,
    is_stopping: Arc<AtomicBool>,
}

#[derive(Default)]
struct Seen {
    handshakes: Mutex<Vec<Handshake>>,
    /// The first lines of the requests that came whole.
    requests: Mutex<Vec<String>>,
}

/// A backend that acts on a request and then ends its connection with an alert instead of an answer.
#[derive(Clone, Copy)]
pub(crate) struct Alerting {
    /// How many requests of a connection are answered before that.
    pub(crate) after: usize,
    pub(crate) alert: AlertDescription,
}

/// How a handshake went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Done { resumed: bool, server_name: Option<String>, protocol: Option<Vec<u8>>, client: bool },
    Failed,
}

impl SecureBackend {
    pub(crate) fn new(config: ServerConfig) -> Self {
        Self::start(config, None)
    }

    /// Speaks TLS 1.3 only.
    pub(crate) fn alerting(mut config: ServerConfig, alerting: Alerting) -> Self {
        config.enable_secret_extraction = true;
        Self::start(config, Some(alerting))
    }

    fn start(config: ServerConfig, alerting: Option<Alerting>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (noted, stop, config) = (seen.clone(), is_stopping.clone(), Arc::new(config));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, config) = (noted.clone(), config.clone());
                std::thread::spawn(move || serve(stream, config, &seen, alerting));
            }
        });
        Self { address, seen, is_stopping }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.seen.handshakes.lock().unwrap().clone()
    }

    /// The first lines of the requests that came whole, in that order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }
}

impl Drop for SecureBackend {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut socket: TcpStream, config: Arc<ServerConfig>, seen: &Seen, alerting: Option<Alerting>) {
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut connection = ServerConnection::new(config).unwrap();
    while connection.is_handshaking() {
        if connection.complete_io(&mut socket).is_err() {
            seen.handshakes.lock().unwrap().push(Handshake::Failed);
            close(socket);
            return;
        }
    }
    seen.handshakes.lock().unwrap().push(Handshake::Done {
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: connection.server_name().map(str::to_owned),
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        client: connection.peer_certificates().is_some(),
    });
    let mut stream = StreamOwned::new(connection, socket);
    let answered = alerting.map_or(0, |alerting| alerting.after);
    for _ in 0..answered {
        let Some(line) = request(&mut stream) else { return };
        seen.requests.lock().unwrap().push(line);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    }
    let Some(line) = request(&mut stream) else { return };
    seen.requests.lock().unwrap().push(line);
    if let Some(alerting) = alerting {
        end_with(stream, alerting.alert);
        return;
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

/// Reads a request whole, and gives its first line.
fn request(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    head.lines().next().map(str::to_owned)
}

/// Sends a fatal alert, which rustls does by itself only for errors of its own.
fn end_with(stream: StreamOwned<ServerConnection, TcpStream>, alert: AlertDescription) {
    let (connection, mut socket) = stream.into_parts();
    let Some(SupportedCipherSuite::Tls13(suite)) = connection.negotiated_cipher_suite() else {
        panic!("TLS 1.3 was to be spoken")
    };
    let (number, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
    let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
    | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
    else {
        panic!("an unknown cipher")
    };
    let payload = [FATAL, alert.into()];
    let message = OutboundPlainMessage {
        typ: ContentType::Alert,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(&payload),
    };
    let record = suite.aead_alg.encrypter(key, iv).encrypt(message, number).unwrap();
    socket.write_all(&record.encode()).unwrap();
    close(socket);
}

/// The level of an alert that ends its connection (RFC 8446 section 6).
const FATAL: u8 = 2;

/// Closes for good. Unread bytes would turn the close into a reset, which may overtake an alert.
fn close(mut socket: TcpStream) {
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.read_to_end(&mut Vec::new());
}

/// What a server with this certificate does, in all versions or one.
pub(crate) fn server(
    issued: &Issued,
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.pkcs8().as_bytes()).unwrap();
    builder.with_single_cert(chain, key).unwrap()
}
