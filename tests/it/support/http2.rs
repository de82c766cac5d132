//! HTTP/2 callers: one that behaves, by the `h2` crate, and one that sends any frame.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as BlockingStream};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Version};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::{BOUND, ms};

/// One connection of a caller that behaves.
#[derive(Debug)]
pub(crate) struct Caller {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// A request whose answer has not been read.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) answer: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

impl Caller {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (sender, connection) = bounded(h2::client::handshake(stream)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Self { runtime, sender }
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.request(request("GET", path, &[]), b"", None).unwrap()
    }

    /// Sends a whole request and reads its answer.
    pub(crate) fn request(
        &mut self,
        request: Request<()>,
        body: &'static [u8],
        trailers: Option<HeaderMap>,
    ) -> Result<Answer, h2::Error> {
        let is_whole = body.is_empty() && trailers.is_none();
        let mut pending = self.begin(request, is_whole);
        if !body.is_empty() {
            pending.body.send_data(Bytes::from_static(body), trailers.is_none()).unwrap();
        }
        if let Some(trailers) = trailers {
            pending.body.send_trailers(trailers).unwrap();
        }
        self.answer(pending)
    }

    /// Sends a head.
    pub(crate) fn begin(&mut self, request: Request<()>, is_whole: bool) -> Pending {
        let sender = self.sender.clone();
        let mut sender = self.runtime.block_on(bounded(sender.ready())).unwrap();
        let (answer, body) = sender.send_request(request, is_whole).unwrap();
        Pending { answer, body }
    }

    /// Waits until no further request can be sent, and tells whether GOAWAY said so without an error.
    pub(crate) fn is_told_to_go(&self) -> bool {
        let refused = self.runtime.block_on(bounded(async {
            loop {
                match self.sender.clone().ready().await {
                    Ok(_) => sleep(ms(1)).await,
                    Err(error) => break error,
                }
            }
        }));
        refused.is_go_away() && refused.is_remote() && refused.reason() == Some(h2::Reason::NO_ERROR)
    }

    /// Reads an answer to its end.
    pub(crate) fn answer(&self, pending: Pending) -> Result<Answer, h2::Error> {
        self.runtime.block_on(bounded(async {
            let (head, body) = pending.answer.await?.into_parts();
            assert_eq!(head.version, Version::HTTP_2);
            let (body, trailers) = read(body).await?;
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
        }))
    }
}

/// A head with an `:authority`.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://hosp.test{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend(part);
    }
    Ok((bytes, body.trailers().await?))
}

async fn bounded<F: Future>(future: F) -> F::Output {
    timeout(BOUND, future).await.expect("the proxy does it in time")
}

/// One connection of a caller that sends whatever it likes.
#[derive(Debug)]
pub(crate) struct Frames {
    stream: BlockingStream,
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Frames {
    /// Sends the preface and these settings, and acknowledges what comes.
    pub(crate) fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::connect_silently(address);
        frames.write(PREFACE).unwrap();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        frames.send(SETTINGS, 0, 0, &payload).unwrap();
        frames
    }

    /// Sends nothing.
    pub(crate) fn connect_silently(address: SocketAddr) -> Self {
        let stream = BlockingStream::connect(address).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_write_timeout(Some(BOUND)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.write(&frame(kind, flags, stream, payload))
    }

    /// Sends a GET without a body.
    pub(crate) fn get(&mut self, stream: u32, path: &str) -> std::io::Result<()> {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", path, &[]))
    }

    /// The next frame; none if the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind; others are passed over.
    pub(crate) fn next_of(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.next()).find(|frame| frame.kind == kind)
    }

    /// Every frame until the connection ends.
    pub(crate) fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                None
            }
            Err(error) => panic!("the proxy neither answers nor closes: {error}"),
        }
    }
}

impl Frame {
    /// The code of a `RST_STREAM` or `GOAWAY`.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The value of a setting.
    pub(crate) fn setting(&self, id: u16) -> Option<u32> {
        let mut settings = self.payload.chunks_exact(6);
        let setting = settings.find(|setting| setting[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(setting[2..].try_into().unwrap()))
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of a request, every field a literal without an index.
pub(crate) fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all =
        vec![(":method", method), (":scheme", "http"), (":authority", "hosp.test"), (":path", path)];
    all.extend(fields);
    block(&all)
}

pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap());
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128).unwrap() | 128);
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
            block.extend(text.as_bytes());
        }
    }
    block
}
