//! The bytes of a connection to an endpoint: TCP alone or TLS, and for HTTP/2 a note of what has passed.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::upstream::tls::{is_handshake_alert, tls_error};

/// What carries the bytes: a match costs nothing that a call through a pointer would not.
#[derive(Debug)]
pub(super) enum Stream {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS, boxed because it is large and a connection without it should not be.
    Secured(Box<Secured>),
    /// No socket at all.
    #[cfg(feature = "bench")]
    Memory(tokio::io::DuplexStream),
}

/// A TLS connection.
#[derive(Debug)]
pub(super) struct Secured {
    stream: TlsStream<TcpStream>,
    refusal: Refusal,
    /// Whether the endpoint has sent application data.
    has_spoken: bool,
}

/// Whether the endpoint has refused the handshake after all: in TLS 1.3 a client is done before the server has looked at
/// its certificate.
///
/// The evidence is an alert of the handshake on a connection on which the endpoint has sent no application data. It names
/// the failure. It does not prove that a request which was already written had no effect: RFC 8446 forbids a server to
/// read application data before the client's Finished, but an endpoint may send any alert at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal(Arc<AtomicBool>);

impl Refusal {
    /// Whether it has.
    pub(super) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stream {
    /// A stream over a TLS connection.
    pub(super) fn secured(stream: TlsStream<TcpStream>) -> Self {
        Self::Secured(Box::new(Secured { stream, refusal: Refusal::default(), has_spoken: false }))
    }

    /// Whether TLS is spoken on it.
    pub(super) fn is_secured(&self) -> bool {
        matches!(self, Self::Secured(_))
    }

    /// Whether anything may have come, or the peer may have closed, as far as is known without asking the system.
    pub(super) fn may_have_news(&self) -> bool {
        let tcp = match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "bench")]
            Self::Memory(_) => return true,
            Self::Secured(secured) => secured.stream.get_ref().0,
        };
        // Without an operation of its own this tells what the driver of the runtime has heard, and no more.
        !matches!(tcp.try_io(Interest::READABLE, || Ok(())), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The protocol that both sides agreed on by ALPN.
    pub(super) fn agreed(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            #[cfg(feature = "bench")]
            Self::Memory(_) => None,
            Self::Secured(secured) => secured.stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Where a late refusal will be noted, if there can be one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Plain(_) => None,
            #[cfg(feature = "bench")]
            Self::Memory(_) => None,
            Self::Secured(secured) => Some(secured.refusal.clone()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(feature = "bench")]
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secured(secured) => {
                let before = buffer.filled().len();
                let read = Pin::new(&mut secured.stream).poll_read(cx, buffer);
                match &read {
                    Poll::Ready(Ok(())) => secured.has_spoken |= buffer.filled().len() > before,
                    Poll::Ready(Err(error)) if !secured.has_spoken => {
                        if tls_error(error).is_some_and(is_handshake_alert) {
                            secured.refusal.0.store(true, Ordering::Relaxed);
                        }
                    }
                    Poll::Ready(Err(_)) | Poll::Pending => {}
                }
                read
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(feature = "bench")]
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secured(secured) => Pin::new(&mut secured.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            #[cfg(feature = "bench")]
            Self::Memory(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Secured(secured) => Pin::new(&mut secured.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "bench")]
            Self::Memory(stream) => stream.is_write_vectored(),
            Self::Secured(secured) => secured.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "bench")]
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(secured) => Pin::new(&mut secured.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "bench")]
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(secured) => Pin::new(&mut secured.stream).poll_shutdown(cx),
        }
    }
}

/// How often something has passed on a connection, each way.
#[derive(Debug, Default)]
pub(super) struct Passed {
    reads: Cell<u64>,
    writes: Cell<u64>,
}

impl Passed {
    /// Reads so far that brought something.
    pub(super) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Writes so far that took something.
    pub(super) fn writes(&self) -> u64 {
        self.writes.get()
    }
}

/// A stream of which [`Passed`] tells.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Stream,
    passed: Rc<Passed>,
}

impl Watched {
    pub(super) fn new(stream: Stream, passed: Rc<Passed>) -> Self {
        Self { stream, passed }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        // An error may come after a part has gone.
        if written.is_ready() {
            self.passed.writes.set(self.passed.writes.get() + 1);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.passed.reads.set(self.passed.reads.get() + 1);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
