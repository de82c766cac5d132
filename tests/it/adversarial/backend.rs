//! The backend of the cases: it parses strictly, records every byte, and numbers its answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// The connection that it came on, from 1.
    pub(super) connection: usize,
    pub(super) method: String,
    pub(super) target: String,
    /// Bytes beyond ASCII stand as the characters of the same number.
    pub(super) headers: Vec<(String, String)>,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The head without its end.
    pub(super) raw_head: Vec<u8>,
    /// Everything after the head.
    pub(super) raw_body: Vec<u8>,
    /// Whether all of it came.
    pub(super) complete: bool,
    /// What RFC 9112 does not allow.
    pub(super) faults: Vec<String>,
    /// The number of the answer, from 1; 0 if there was none.
    pub(super) answer: usize,
}

impl Received {
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        all(&self.headers, name)
    }
}

/// The values of every field called `name`.
pub(super) fn all<'a>(fields: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let found = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str()).collect()
}

/// What the backend says to `/q`.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) bytes: Vec<u8>,
    pub(super) closes: bool,
}

/// A backend at an address of its own.
pub(super) struct StrictBackend {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    status: u16,
    stopping: AtomicBool,
    connections: AtomicUsize,
}

#[derive(Default)]
struct State {
    requests: Vec<Received>,
    answers: usize,
    script: Option<Script>,
}

impl StrictBackend {
    /// Answers with `status` and the target.
    pub(super) fn new(status: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { status, ..Shared::default() });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stopping.load(Ordering::Acquire) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || {
                    let connection = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
                    let _ = stream.set_nodelay(true);
                    // A peer that breaks off is a peer's right.
                    let _ = shared.serve(stream, connection);
                });
            }
        });
        Self { shared, address }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says this to `/q` from now on.
    pub(super) fn play(&self, script: Option<Script>) {
        self.shared.state().script = script;
    }

    /// How many request heads have come.
    pub(super) fn count(&self) -> usize {
        self.shared.state().requests.len()
    }

    /// The requests from number `from` on.
    pub(super) fn requests_from(&self, from: usize) -> Vec<Received> {
        self.shared.state().requests[from..].to_vec()
    }
}

impl Drop for StrictBackend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // The acceptor looks at the flag after each connection, so it gets one.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream, connection: usize) -> io::Result<()> {
        let mut wire = Wire { stream: stream.try_clone()?, buffer: Vec::new(), taken: Vec::new() };
        loop {
            let Some(mut request) = wire.head(connection)? else { return Ok(()) };
            let place = {
                let mut state = self.state();
                state.requests.push(request.clone());
                state.requests.len() - 1
            };
            let body = if request.faults.is_empty() { wire.body(&mut request) } else { Ok(()) };
            request.raw_body = std::mem::take(&mut wire.taken);
            let mut state = self.state();
            let is_scripted = request.target == "/q";
            if body.is_ok() && request.faults.is_empty() {
                request.complete = true;
                state.answers += 1;
                request.answer = state.answers;
            }
            let (faulty, answer) = (!request.faults.is_empty(), request.answer);
            let script = state.script.clone().filter(|_| is_scripted);
            let reply = self.reply(&request, answer);
            state.requests[place] = request;
            drop(state);
            body?;
            if faulty {
                return stream
                    .write_all(b"HTTP/1.1 400 Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
            match script {
                Some(script) => {
                    stream.write_all(&script.bytes)?;
                    if script.closes {
                        stream.shutdown(Shutdown::Write)?;
                        // Closing on unread bytes would send RST, and that can overtake the answer.
                        while wire.fill()? > 0 {}
                        return Ok(());
                    }
                }
                None => stream.write_all(&reply)?,
            }
        }
    }

    fn reply(&self, request: &Received, answer: usize) -> Vec<u8> {
        let body = if request.target == "/large" { vec![b'l'; LARGE] } else { latin1(&request.target) };
        let (status, length) = (self.status, body.len());
        let head =
            format!("HTTP/1.1 {status} Strict\r\nX-Answer: {answer}\r\nContent-Length: {length}\r\n\r\n");
        let body = if request.method == "HEAD" { Vec::new() } else { body };
        [head.into_bytes(), body].concat()
    }
}

fn latin1(text: &str) -> Vec<u8> {
    super::cases::latin1(text)
}

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    taken: Vec<u8>,
}

impl Wire {
    /// The next head; none if the peer closed before its first byte. What is wrong with it stands in it.
    fn head(&mut self, connection: usize) -> io::Result<Option<Received>> {
        let mut request = Received { connection, ..Received::default() };
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            // Whoever reads to a bare LF sees another message here.
            if find(&self.buffer, b"\n\n").is_some() || self.buffer.len() > 4 << 20 {
                request.faults.push("a head that ends with bare LF, or never".into());
                request.raw_head.clone_from(&self.buffer);
                return Ok(Some(request));
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        };
        request.raw_head = self.buffer[..end].to_vec();
        self.buffer.drain(..end + 4);
        let text: String = request.raw_head.iter().copied().map(char::from).collect();
        let mut lines = text.split("\r\n");
        request_line(lines.next().unwrap_or_default(), &mut request);
        for line in lines {
            match field(line) {
                Ok(field) => request.headers.push(field),
                Err(fault) => request.faults.push(fault),
            }
        }
        check_fields(&mut request);
        Ok(Some(request))
    }

    fn body(&mut self, request: &mut Received) -> io::Result<()> {
        self.taken.clear();
        if request.all("transfer-encoding").is_empty() {
            let length = request.all("content-length").first().and_then(|value| value.parse().ok());
            return self.exactly(length.unwrap_or(0), &mut request.body);
        }
        loop {
            let line = self.line()?;
            let is_size = (1..=16).contains(&line.len()) && line.bytes().all(|byte| byte.is_ascii_hexdigit());
            let Some(size) = is_size.then(|| usize::from_str_radix(&line, 16).ok()).flatten() else {
                request.faults.push(format!("{line:?} is no bare chunk size"));
                return Ok(());
            };
            if size == 0 {
                break;
            }
            self.exactly(size, &mut request.body)?;
            let end = self.line()?;
            if !end.is_empty() {
                request.faults.push(format!("a chunk ends with {end:?}"));
                return Ok(());
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            match field(&line) {
                Ok(field) => request.trailers.push(field),
                Err(fault) => request.faults.push(fault),
            }
        }
    }

    /// Up to CRLF; a bare CR or LF is part of the line, where it is no valid content.
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.take(at + 2);
                return Ok(line[..at].iter().copied().map(char::from).collect());
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let end = body.len().saturating_add(length);
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

fn request_line(line: &str, request: &mut Received) {
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words[..] else {
        return request.faults.push(format!("the request line {line:?}"));
    };
    (request.method, request.target) = (method.to_owned(), target.to_owned());
    if method.is_empty() || !method.bytes().all(is_token) {
        request.faults.push(format!("the method {method:?}"));
    }
    if target.is_empty() || target.chars().any(|character| character.is_ascii_control()) {
        request.faults.push(format!("the target {target:?}"));
    }
    if version != "HTTP/1.1" {
        request.faults.push(format!("the version {version:?}"));
    }
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("the field name {name:?}"));
    }
    // C1 controls are obs-text here: bytes, not characters.
    if value.chars().any(|character| character.is_ascii_control() && character != '\t') {
        return Err(format!("a control byte in {line:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// One valid Host, at most one framing, no coding but `chunked`.
fn check_fields(request: &mut Received) {
    let mut faults = Vec::new();
    match request.all("host")[..] {
        [host] if is_authority(host) => {}
        ref hosts => faults.push(format!("the Hosts {hosts:?}")),
    }
    let (lengths, codings) = (request.all("content-length"), request.all("transfer-encoding"));
    if lengths.len() + codings.len() > 1 {
        faults.push(format!("two framings, {lengths:?} and {codings:?}"));
    }
    if lengths.iter().any(|length| length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit())) {
        faults.push(format!("the lengths {lengths:?}"));
    }
    if codings.iter().any(|coding| *coding != "chunked") {
        faults.push(format!("the codings {codings:?}"));
    }
    request.faults.append(&mut faults);
}

fn is_authority(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => (&host[..at], &host[at + 1..]),
        _ => (host, "0"),
    };
    let is_name = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte))
        }
    };
    is_name && (port.is_empty() || port.parse::<u16>().is_ok())
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// More than the buffers between backend and client hold.
const LARGE: usize = 16 << 20;
