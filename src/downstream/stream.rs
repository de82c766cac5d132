//! A connection's socket as the protocols see it: it gives back what was read ahead, and notes what passes.

use std::io::{IoSlice, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::downstream::limits::State;

/// The bytes of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    transport: Transport,
    /// What was read ahead and not yet given back.
    ahead: Vec<u8>,
    shutdown: Shutdown,
    state: Rc<State>,
}

/// How far the end of the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shutdown {
    /// There may be more to say.
    Open,
    /// Everything is said, and so many bytes were thrown away since.
    Leaving(usize),
}

/// What carries the bytes: a match costs nothing that a call through a pointer would not.
#[derive(Debug)]
pub(super) enum Transport {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over TCP; boxed, so that plain connections do not carry its size.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn new(transport: Transport, state: Rc<State>) -> Self {
        Self { transport, ahead: Vec::new(), shutdown: Shutdown::Open, state }
    }

    /// Puts bytes back in front of those that are still to be read.
    pub(super) fn give_back(&mut self, bytes: &[u8]) {
        self.ahead.splice(..0, bytes.iter().copied());
    }
}

impl Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = self.transport.poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.state.note_read();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
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
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        self.state.note_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => this.state.note_flush(Pin::new(stream).poll_flush(cx)),
        }
    }

    /// Says that nothing follows, and hears a caller out that was refused: closing on bytes that it still sends would
    /// make the system send a reset, which can overtake the answer (RFC 9112 section 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.shutdown == Shutdown::Open {
            ready!(this.state.note_flush(this.transport.poll_shutdown(cx)))?;
            if !this.state.begin_leaving() {
                return Poll::Ready(Ok(()));
            }
            this.shutdown = Shutdown::Leaving(0);
        }
        let mut piece = [MaybeUninit::uninit(); 4096];
        while let Shutdown::Leaving(before) = this.shutdown {
            let mut unread = ReadBuf::uninit(&mut piece);
            let read = ready!(this.transport.poll_read(cx, &mut unread));
            let count = unread.filled().len();
            if read.is_err() || count == 0 || before > LONGEST_FAREWELL {
                break;
            }
            this.shutdown = Shutdown::Leaving(before + count);
        }
        Poll::Ready(Ok(()))
    }
}

/// How many bytes of a refused request are thrown away before its connection is cut off.
const LONGEST_FAREWELL: usize = 16 << 20;
