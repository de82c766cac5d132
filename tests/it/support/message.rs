//! HTTP/1.1 messages as bytes on a socket, read strictly and without help, for the client and the backend of the tests.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;

/// Header lines in their order; bytes beyond ASCII stand as the characters of the same number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of the only line called `name`; none if there is none or more than one.
    pub(crate) fn only(&self, name: &str) -> Option<&str> {
        match *self.all(name) {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The values of every line called `name`.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.0.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether the comma-separated lines called `name` list `token`.
    pub(crate) fn lists(&self, name: &str, token: &str) -> bool {
        let lines = self.all(name);
        lines.iter().flat_map(|line| line.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    /// The announced length of the body.
    pub(crate) fn content_length(&self) -> Option<usize> {
        self.only("content-length").and_then(|value| value.parse().ok())
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.lists("transfer-encoding", "chunked")
    }
}

/// The first line and the headers of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    pub(crate) headers: Headers,
}

impl Head {
    /// Reads a head that ends with its empty line; anything that RFC 9112 does not write is an error.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text: String = bytes.iter().copied().map(char::from).collect();
        let text = text.strip_suffix("\r\n\r\n").ok_or("the head does not end with CRLF CRLF")?;
        let mut lines = text.split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        for line in lines {
            if line.contains(['\r', '\n', '\0']) {
                return Err(format!("bare CR, LF or NUL in {line:?}"));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(format!("{name:?} is no header name"));
            }
            headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Ok(Self { first_line, headers: Headers(headers) })
    }
}

/// The reading half of a connection, with what was read and not yet taken.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    taken: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), taken: Vec::new() }
    }

    /// Every byte of the messages since the last call.
    pub(crate) fn take_raw(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.taken)
    }

    /// The next head; none if the peer closed before its first byte.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let bytes = self.take(at + 4);
                return Head::parse(&bytes).map(Some).map_err(malformed);
            }
            if find(&self.buffer, b"\n\n").is_some() {
                return Err(malformed("a head with bare LF"));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(malformed("half a head")) };
            }
        }
    }

    /// Appends `length` bytes of body; what came before an error is there too.
    pub(crate) fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let end = body.len() + length;
        loop {
            let piece = self.buffer.len().min(end - body.len());
            body.extend(self.take(piece));
            if body.len() == end {
                return Ok(());
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Appends a chunked body and drops its trailers.
    pub(crate) fn chunked(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("a chunk without a size"))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.exactly(size, body)?;
            if !self.line()?.is_empty() {
                return Err(malformed("a chunk longer than its size"));
            }
        }
    }

    /// Appends everything until the peer closes.
    pub(crate) fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        let length = self.buffer.len();
        Ok(self.take(length))
    }

    pub(crate) fn until_closed(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let all = self.buffer.len();
            body.extend(self.take(all));
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.take(at + 2);
                return String::from_utf8(line[..at].to_vec()).map_err(|_| malformed("a line beyond ASCII"));
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let piece: Vec<u8> = self.buffer.drain(..length).collect();
        self.taken.extend(&piece);
        piece
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let length = self.stream.read(&mut piece)?;
        self.buffer.extend(&piece[..length]);
        Ok(length)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}
