//! A connection's socket as the protocols see it: it gives back what was read ahead, and notes what passes.

use std::cell::Cell;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::downstream::limits::State;

/// The bytes of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    transport: Transport,
    /// What was read ahead and not yet given back.
    ahead: Vec<u8>,
    state: Rc<State>,
}

/// What carries the bytes: a match costs nothing that a call through a pointer would not.
#[derive(Debug)]
pub(super) enum Transport {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over TCP; boxed, so that plain connections do not carry its size.
    Tls(Box<TlsStream<TcpStream>>),
    /// No socket at all.
    #[cfg(feature = "bench")]
    Memory(tokio::io::DuplexStream),
}

impl Stream {
    pub(super) fn new(transport: Transport, state: Rc<State>) -> Self {
        Self { transport, ahead: Vec::new(), state }
    }

    /// Puts bytes back in front of those that are still to be read.
    pub(super) fn give_back(&mut self, bytes: &[u8]) {
        self.ahead.splice(..0, bytes.iter().copied());
    }

    /// Writes a reply after which nothing follows, to a caller that may not be there to read it.
    pub(super) async fn say_last(mut self, reply: &str) {
        let say = async {
            self.write_all(reply.as_bytes()).await?;
            self.shutdown().await
        };
        let _ = timeout(FAREWELL, say).await;
    }

    /// Says that nothing follows, and throws away what a caller still sends that has its answer: closing on it would
    /// make the system send a reset, which can overtake the answer (RFC 9112 section 9.6).
    pub(super) async fn linger_close(mut self) {
        let leave = async {
            let _ = self.shutdown().await; // whoever has gone already needs no farewell
            let (mut piece, mut unread) = ([0; 4096], 0);
            while let Ok(count @ 1..) = self.read(&mut piece).await
                && unread < MAX_FAREWELL
            {
                unread += count;
            }
        };
        let _ = timeout(FAREWELL, leave).await;
    }
}

/// How long a caller that has its answer is heard out, or a last word may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// How many bytes of it are thrown away.
const MAX_FAREWELL: usize = 16 << 20;

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let start = buffer.filled().len();
        let count = self.ahead.len().min(buffer.remaining());
        if count > 0 {
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if buffer.remaining() == 0 {
                self.state.look(&mut buffer.filled_mut()[start..]);
                return Poll::Ready(Ok(()));
            }
        }
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(feature = "bench")]
            Transport::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            self.state.note_read();
        }
        self.state.look(&mut buffer.filled_mut()[start..]);
        // What follows comes along if it is there: a head in two pieces would make hyper's buffer twice as large, for as
        // long as the connection lives. How the connection ended, if it did, the next read tells.
        if count > 0 { Poll::Ready(Ok(())) } else { read }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(feature = "bench")]
            Transport::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.state.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => poll_write_pieces(stream, cx, slices),
            #[cfg(feature = "bench")]
            Transport::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.state.note_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "bench")]
            Transport::Memory(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "bench")]
            Transport::Memory(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => this.state.note_flush(Pin::new(stream).poll_flush(cx)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "bench")]
            Transport::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => this.state.note_flush(Pin::new(stream).poll_shutdown(cx)),
        }
    }
}

/// Writes several pieces at once. Small ones, as the head and the body of most answers, are put together before: that costs
/// less than to have the system gather them.
fn poll_write_pieces(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<Result<usize>> {
    let stream = Pin::new(stream);
    if pieces.len() < 2 || pieces.iter().map(|piece| piece.len()).sum::<usize>() > MAX_JOINED {
        return stream.poll_write_vectored(cx, pieces);
    }
    let mut joined = JOINED.take();
    joined.clear();
    for piece in pieces {
        joined.extend_from_slice(piece);
    }
    let written = stream.poll_write(cx, &joined);
    JOINED.set(joined);
    written
}

/// The most bytes that are put together.
const MAX_JOINED: usize = 4 << 10;

thread_local! {
    /// Where small pieces are put together.
    static JOINED: Cell<Vec<u8>> = Cell::default();
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::net::TcpListener;
    use tokio::time::Instant;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::certificate::testing::Authority;

    /// A connection over TLS whose caller will read nothing, and that caller.
    async fn stalling() -> (TlsStream<TcpStream>, tokio_rustls::client::TlsStream<TcpStream>) {
        let authority = Authority::new("a CA");
        let issued = authority.issue(&["hosp.test"]);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate(&issued.pem)],
                PrivateKeyDer::from_pem_slice(issued.pkcs8().as_bytes()).unwrap(),
            )
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&authority.pem)).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to_us = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (to_caller, _) = listener.accept().await.unwrap();
        let name = ServerName::try_from("hosp.test").unwrap();
        let (server, client) = tokio::join!(
            TlsAcceptor::from(Arc::new(server)).accept(to_caller),
            TlsConnector::from(Arc::new(client)).connect(name, to_us),
        );
        (server.unwrap(), client.unwrap())
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_in_one_piece_with_what_follows() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        caller.write_all(b"GET / HTTP/1.1").await.unwrap();
        let mut stream = Stream::new(Transport::Plain(server), Rc::new(State::new(Instant::now())));
        let mut ahead = [0; 4];
        stream.read_exact(&mut ahead).await.unwrap();
        stream.give_back(&ahead);
        let mut head = [0; 100];
        assert_eq!(stream.read(&mut head).await.unwrap(), 14);
        assert_eq!(&head[..14], b"GET / HTTP/1.1");
        stream.give_back(b"x");
        assert_eq!(stream.read(&mut head).await.unwrap(), 1, "nothing follows yet, and nobody waits for it");
        stream.give_back(b"yz");
        drop(caller);
        assert_eq!(stream.read(&mut head[..1]).await.unwrap(), 1);
        assert_eq!(stream.read(&mut head).await.unwrap(), 1, "the end comes after what was given back");
        assert_eq!(stream.read(&mut head).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn pieces_arrive_whole_and_in_their_order_be_they_joined_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut stream = Stream::new(Transport::Plain(server), Rc::new(State::new(Instant::now())));
        for length in [0, 1, MAX_JOINED - 4, MAX_JOINED - 3, 2 * MAX_JOINED] {
            let body = vec![b'x'; length];
            let pieces = [&b"he"[..], b"ad", &body].map(IoSlice::new);
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &pieces)).await.unwrap();
            assert_eq!(written, 4 + length, "a socket has room for so little");
            let mut received = vec![0; written];
            caller.read_exact(&mut received).await.unwrap();
            assert_eq!(received, [b"head", &body[..]].concat());
        }
    }

    #[tokio::test]
    async fn a_caller_stalls_also_on_what_only_tls_has_in_its_buffer() {
        let (server, _caller) = stalling().await;
        let state = Rc::new(State::new(Instant::now()));
        let mut stream = Stream::new(Transport::Tls(Box::new(server)), state.clone());
        loop {
            let written =
                poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &[b'x'; 4096]))).await;
            assert!(written.is_ready(), "the buffer of TLS has room for more than that");
            if poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_flush(cx))).await.is_pending() {
                break;
            }
            assert!(!state.is_stalled());
            // Lets the runtime see what the socket does.
            tokio::task::yield_now().await;
        }
        assert!(state.is_stalled());
    }
}
