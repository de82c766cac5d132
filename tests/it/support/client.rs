//! The caller: a blocking HTTP/1.1 client that sends any bytes and hides nothing of the answer.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::BOUND;
use super::message::{Headers, Wire};

/// One connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    wire: Wire,
    /// Whether the last request was a HEAD, whose answer has no body whatever it announces.
    head_only: bool,
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    /// Head and body, to the byte.
    pub(crate) raw: Vec<u8>,
    /// Whether the connection ended before the body did.
    pub(crate) truncated: bool,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the connection carries no other request.
    pub(crate) fn closes(&self) -> bool {
        self.truncated || self.headers.lists("connection", "close")
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("the proxy accepts")
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        stream.set_nodelay(true)?;
        Ok(Self { wire: Wire::new(stream.try_clone()?), stream, head_only: false })
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, &[], body.as_ref())
    }

    pub(crate) fn put(&mut self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("PUT", path, &[], body.as_ref())
    }

    /// Sends a whole request and reads its answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.send(&request(method, path, headers, body));
        self.response()
    }

    /// The same, with the body in chunks.
    pub(crate) fn request_chunked(&mut self, method: &str, path: &str, parts: &[&[u8]]) -> Response {
        self.send_head(method, path, &[("Transfer-Encoding", "chunked")]);
        for part in parts {
            self.send_chunk(part);
        }
        self.send_chunk(b"");
        self.response()
    }

    /// Sends a head with these headers and `Host`; the body is the caller's to send.
    pub(crate) fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        self.send(&head(method, path, headers));
    }

    /// Sends a chunk; an empty one is the last.
    pub(crate) fn send_chunk(&mut self, part: &[u8]) {
        self.send(&[format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
    }

    /// Sends these bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the proxy reads");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.head_only = bytes.starts_with(b"HEAD ");
        self.stream.write_all(bytes)
    }

    /// The final answer to the request that was sent.
    pub(crate) fn response(&mut self) -> Response {
        self.try_response().expect("the proxy answers")
    }

    /// An end before the answer's first byte is `UnexpectedEof` or what the system says; half a head is `InvalidData`.
    pub(crate) fn try_response(&mut self) -> io::Result<Response> {
        loop {
            let (status, headers) = self.head()?;
            if !(100..200).contains(&status) {
                return Ok(self.rest(status, headers));
            }
        }
    }

    /// Asks for a change of protocol; the status of the answer, and its headers.
    pub(crate) fn upgrade(&mut self, path: &str, headers: &[(&str, &str)], early: &[u8]) -> (u16, Headers) {
        self.send(&[&request("GET", path, headers, b"")[..], early].concat());
        self.head().expect("the proxy answers")
    }

    /// Bytes that are no HTTP.
    pub(crate) fn read_raw(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.wire.exactly(length, &mut bytes).expect("the tunnel brings as much");
        bytes
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
    }

    /// The next response head, interim ones too.
    pub(crate) fn interim_status(&mut self) -> u16 {
        self.head().expect("the proxy answers").0
    }

    fn head(&mut self) -> io::Result<(u16, Headers)> {
        let head = self.wire.head()?.ok_or(ErrorKind::UnexpectedEof)?;
        let status = head.first_line.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok((status.ok_or(ErrorKind::InvalidData)?, head.headers))
    }

    /// The body that follows a head.
    fn rest(&mut self, status: u16, headers: Headers) -> Response {
        let mut body = Vec::new();
        let end = if self.head_only || matches!(status, 204 | 304) {
            Ok(())
        } else if headers.is_chunked() {
            self.wire.chunked(&mut body)
        } else if let Some(length) = headers.content_length() {
            self.wire.exactly(length, &mut body)
        } else {
            self.wire.until_closed(&mut body)
        };
        let raw = self.wire.take_raw();
        Response { status, headers, body, raw, truncated: end.is_err() }
    }

    /// Whether the proxy closed, and sent nothing more before it did.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.wire.until_closed(&mut rest) {
            Ok(()) => rest.is_empty(),
            Err(error) => rest.is_empty() && error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// Goes away without a word.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }
}

/// The bytes of a request; a body, or a method that wants one, brings `Content-Length`.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let mut headers = headers.to_vec();
    if !body.is_empty() || matches!(method, "PATCH" | "POST" | "PUT") {
        headers.push(("Content-Length", &length));
    }
    let mut bytes = head(method, path, &headers);
    bytes.extend(body);
    bytes
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: hosp.test\r\n");
    }
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}
