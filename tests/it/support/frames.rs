//! A backend that speaks HTTP/2 frame by frame, so that it can say what no server library lets one say.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::BOUND;

/// A backend without TLS, at an address of its own, on 127.0.0.1.
pub(crate) struct FrameBackend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    is_stopping: Arc<AtomicBool>,
}

impl FrameBackend {
    /// Lets `script` serve each connection, with its number from 1. When it returns, the connection is closed.
    pub(crate) fn new(script: impl Fn(usize, &mut FrameConnection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, is_stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop, script) = (connections.clone(), is_stopping.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                let script = script.clone();
                std::thread::spawn(move || {
                    let mut connection = FrameConnection::new(stream);
                    script(number, &mut connection);
                    connection.close();
                });
            }
        });
        Self { address, connections, is_stopping }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FrameBackend {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// A frame as it came (RFC 9113 section 4.1).
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Whether nothing follows it on its stream.
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The code of a `RST_STREAM`.
    pub(crate) fn code(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

/// One connection.
pub(crate) struct FrameConnection {
    stream: TcpStream,
}

impl FrameConnection {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Reads the client's preface and sends SETTINGS.
    pub(crate) fn open(&mut self, settings: &[(u16, u32)]) {
        let mut preface = [0; 24];
        // A proxy that goes away before has no preface to read.
        if self.stream.read_exact(&mut preface).is_err() {
            return;
        }
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        self.send(SETTINGS, 0, 0, &payload);
    }

    /// The next frame that a script may care about; SETTINGS and PING are answered. None once the peer has closed.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read().ok()?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload),
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The stream of the next request that has come whole.
    pub(crate) fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next()?;
            if frame.ends_stream() {
                return Some(frame.stream);
            }
        }
    }

    /// The next request head.
    pub(crate) fn head(&mut self) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == HEADERS {
                return Some(frame);
            }
        }
    }

    /// The next `RST_STREAM`: its stream and code.
    pub(crate) fn reset(&mut self) -> Option<(u32, u32)> {
        loop {
            let frame = self.next()?;
            if frame.kind == RST_STREAM {
                return Some((frame.stream, frame.code()));
            }
        }
    }

    /// Answers with these fields; the first is `:status`.
    pub(crate) fn answer(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        self.send(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &block);
    }

    /// A whole answer with status 200.
    pub(crate) fn ok(&mut self, stream: u32, body: &str) {
        self.answer(stream, &[(":status", "200")], false);
        self.data(stream, body.as_bytes(), true);
    }

    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.send(DATA, if end { END_STREAM } else { 0 }, stream, bytes);
    }

    pub(crate) fn send_reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    pub(crate) fn go_away(&mut self, last_stream: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last_stream.to_be_bytes(), code.to_be_bytes()].concat());
    }

    /// Answers every request with 200 and this body, until the peer has closed.
    pub(crate) fn serve(&mut self, body: &str) {
        while let Some(stream) = self.request() {
            self.ok(stream, body);
        }
    }

    /// Closes, with a reset if anything is unread.
    pub(crate) fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        // The peer may have gone; then the next read tells.
        let _ = self.stream.write_all(&[&head, payload].concat());
    }

    fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes(head[5..].try_into().map_err(|_| ErrorKind::InvalidData)?);
        Ok(Frame { kind: head[3], flags: head[4], stream: stream & 0x7fff_ffff, payload })
    }
}

/// A field that neither side keeps (RFC 7541 section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub(crate) const MAX_STREAMS: u16 = 3;
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
