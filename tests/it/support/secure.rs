//! A backend behind TLS, which tells how each handshake went.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};

use super::BOUND;
use super::certificates::{Authority, Issued};

/// A backend at an address of its own, on 127.0.0.1. It answers every request with 200 and `hello`, and closes.
pub(crate) struct SecureBackend {
    address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    is_stopping: Arc<AtomicBool>,
}

/// How a handshake went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    Done { resumed: bool, server_name: Option<String>, protocol: Option<Vec<u8>>, client: bool },
    Failed,
}

impl SecureBackend {
    pub(crate) fn new(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (seen, stop, config) = (handshakes.clone(), is_stopping.clone(), Arc::new(config));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, config) = (seen.clone(), config.clone());
                std::thread::spawn(move || serve(stream, config, &seen));
            }
        });
        Self { address, handshakes, is_stopping }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

impl Drop for SecureBackend {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut socket: TcpStream, config: Arc<ServerConfig>, seen: &Mutex<Vec<Handshake>>) {
    socket.set_read_timeout(Some(BOUND)).unwrap();
    let mut connection = ServerConnection::new(config).unwrap();
    while connection.is_handshaking() {
        if connection.complete_io(&mut socket).is_err() {
            seen.lock().unwrap().push(Handshake::Failed);
            // Unread bytes would turn the close into a reset, which may overtake the alert.
            let _ = socket.shutdown(Shutdown::Write);
            let _ = socket.read_to_end(&mut Vec::new());
            return;
        }
    }
    seen.lock().unwrap().push(Handshake::Done {
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: connection.server_name().map(str::to_owned),
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        client: connection.peer_certificates().is_some(),
    });
    let mut stream = StreamOwned::new(connection, socket);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    stream.conn.send_close_notify();
    let _ = stream.flush();
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
