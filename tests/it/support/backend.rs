//! The backend that fails: raw TCP on threads, so that it can say what no HTTP library lets one say.
//!
//! Each request takes the next [`Action`] of the script, or what the behaviour answers once the script is spent. The
//! head of a request decides; its body is recorded when it has come.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::message::{Headers, Wire};
use super::{BOUND, ms};

mod action;

pub(crate) use action::Action;
use action::{End, RequestBody, Step};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    /// The connection that it came on, from 1 in the order of acceptance.
    pub(crate) connection: usize,
    /// Its number on that connection, from 1.
    pub(crate) number: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    /// Empty until all of it has come.
    pub(crate) body: Vec<u8>,
    /// Head and body, to the byte; empty until all of it has come.
    pub(crate) raw: Vec<u8>,
    /// Whether all of it has come.
    pub(crate) complete: bool,
    /// When its head had come.
    pub(crate) arrived: Instant,
}

/// A backend at an address of its own, on 127.0.0.1.
pub(crate) struct Backend {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Mutex<Option<JoinHandle<()>>>,
    /// Keeps the port while the backend is stopped.
    _reservation: Socket,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    behaviour: Box<dyn Fn(&ReceivedRequest) -> Action + Send + Sync>,
    stopping: AtomicBool,
    released: AtomicBool,
}

#[derive(Default)]
struct State {
    script: VecDeque<Action>,
    requests: Vec<ReceivedRequest>,
    /// The open ones, at their number less one.
    connections: Vec<Option<TcpStream>>,
    /// What came and is no HTTP/1.1 that a proxy may send.
    violations: Vec<String>,
}

impl Backend {
    /// Does what `behaviour` says to each request.
    pub(crate) fn new(behaviour: impl Fn(&ReceivedRequest) -> Action + Send + Sync + 'static) -> Self {
        let (reservation, address) = reserve();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            behaviour: Box::new(behaviour),
            stopping: AtomicBool::new(false),
            released: AtomicBool::new(false),
        });
        let backend = Self { shared, address, acceptor: Mutex::default(), _reservation: reservation };
        backend.start();
        backend
    }

    /// Works through `script`, and answers 200 `ok` to whatever comes after it.
    pub(crate) fn scripted(script: impl IntoIterator<Item = Action>) -> Self {
        let backend = Self::new(|_| Action::answer(200, "ok"));
        backend.then(script);
        backend
    }

    /// Answers 200 `ok`.
    pub(crate) fn healthy() -> Self {
        Self::scripted([])
    }

    /// Appends to the script.
    pub(crate) fn then(&self, script: impl IntoIterator<Item = Action>) {
        self.state().script.extend(script);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request whose head has come, in that order.
    pub(crate) fn requests(&self) -> Vec<ReceivedRequest> {
        self.state().requests.clone()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections.len()
    }

    /// Waits until `count` requests have come.
    pub(crate) fn wait_for_requests(&self, count: usize) -> Vec<ReceivedRequest> {
        self.wait(&format!("{count} requests"), |state| state.requests.len() >= count).requests.clone()
    }

    /// Waits until the connection of this number has ended.
    pub(crate) fn wait_until_closed(&self, connection: usize) {
        let closed = |state: &State| matches!(state.connections.get(connection - 1), Some(None));
        drop(self.wait(&format!("the end of connection {connection}"), closed));
    }

    /// Lets every hanging answer go: its connection is closed.
    pub(crate) fn release(&self) {
        self.shared.released.store(true, Ordering::Release);
    }

    /// Closes every open connection with FIN, whatever it is about.
    pub(crate) fn close_connections(&self) {
        for stream in self.state().connections.iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes every open connection that awaits a request with RST.
    pub(crate) fn reset_connections(&self) {
        for stream in self.state().connections.iter().flatten() {
            reset_on_close(stream);
            // This wakes the thread that reads; the last handle that goes then sends the RST.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Refuses connections and drops the open ones, as a process that crashed.
    pub(crate) fn stop(&self) {
        let Some(acceptor) = self.acceptor.lock().unwrap().take() else { return };
        self.shared.stopping.store(true, Ordering::Release);
        // The acceptor looks at the flag after each connection, so it gets one.
        let _ = TcpStream::connect(self.address);
        acceptor.join().unwrap();
        self.close_connections();
    }

    /// Accepts again, at the same address.
    pub(crate) fn start(&self) {
        let socket = reusable_socket();
        socket.bind(&self.address.into()).unwrap();
        socket.listen(1024).unwrap();
        self.shared.stopping.store(false, Ordering::Release);
        let shared = self.shared.clone();
        let acceptor = std::thread::spawn(move || accept(&shared, &socket.into()));
        *self.acceptor.lock().unwrap() = Some(acceptor);
    }

    fn wait(&self, what: &str, reached: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waiting = self.shared.changed.wait_timeout_while(self.state(), BOUND, |state| !reached(state));
        let (state, result) = waiting.unwrap_or_else(PoisonError::into_inner);
        assert!(!result.timed_out(), "the backend waited {BOUND:?} in vain for {what}");
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.release();
        self.stop();
        let violations = std::mem::take(&mut self.state().violations);
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "the proxy sent what is no valid HTTP/1.1: {violations:#?}");
        }
    }
}

/// An address that refuses connections for as long as this lives.
pub(crate) struct Refused {
    address: SocketAddr,
    _reservation: Socket,
}

impl Refused {
    pub(crate) fn new() -> Self {
        let (reservation, address) = reserve();
        Self { address, _reservation: reservation }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds a port without listening on it: connections are refused, and nobody else gets the port.
fn reserve() -> (Socket, SocketAddr) {
    let socket = reusable_socket();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// Two sockets may share an address if both say so and only one listens.
fn reusable_socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket
}

fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        let _ = stream.set_nodelay(true);
        let Ok(handle) = stream.try_clone() else { continue };
        let connection = {
            let mut state = shared.state();
            state.connections.push(Some(handle));
            state.connections.len()
        };
        shared.changed.notify_all();
        let shared = shared.clone();
        std::thread::spawn(move || {
            // However it ended, the connection is over; a peer that broke off is a peer's right.
            let _ = shared.serve(stream, connection);
            shared.state().connections[connection - 1] = None;
            shared.changed.notify_all();
        });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream, connection: usize) -> io::Result<()> {
        let mut wire = Wire::new(stream.try_clone()?);
        for number in 1.. {
            let head = match wire.head() {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.noted(error)),
            };
            let mut words = head.first_line.split(' ').map(str::to_owned);
            let request = ReceivedRequest {
                connection,
                number,
                method: words.next().unwrap_or_default(),
                target: words.next().unwrap_or_default(),
                headers: head.headers.clone(),
                body: Vec::new(),
                raw: Vec::new(),
                complete: false,
                arrived: Instant::now(),
            };
            self.check(&request, words.next().as_deref());
            let (place, action) = self.begin(request);
            if action.request_body == RequestBody::Read {
                let mut body = Vec::new();
                read_body(&mut wire, &head.headers, &mut body).map_err(|error| self.noted(error))?;
                let raw = wire.take_raw();
                let mut state = self.state();
                let request = &mut state.requests[place];
                (request.body, request.raw, request.complete) = (body, raw, true);
                drop(state);
                self.changed.notify_all();
            }
            self.perform(&action, &mut stream)?;
            match action.end {
                End::Echo => return echo(&mut wire, &mut stream),
                End::KeepAlive => {}
                End::Close => return Ok(()),
                End::CloseGently => {
                    stream.shutdown(Shutdown::Write)?;
                    // Closing on unread bytes would send RST, and that can overtake the answer.
                    return wire.until_closed(&mut Vec::new());
                }
                End::Reset => {
                    reset_on_close(&stream);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Records a request and finds what to do to it.
    fn begin(&self, request: ReceivedRequest) -> (usize, Action) {
        let scripted = self.state().script.pop_front();
        let action = scripted.unwrap_or_else(|| (self.behaviour)(&request));
        let mut state = self.state();
        state.requests.push(request);
        let place = state.requests.len() - 1;
        drop(state);
        self.changed.notify_all();
        (place, action)
    }

    fn perform(&self, action: &Action, stream: &mut TcpStream) -> io::Result<()> {
        for step in &action.steps {
            match step {
                Step::Hang => self.hang(stream)?,
                Step::Pause(pause) => std::thread::sleep(*pause),
                Step::Write(bytes) => stream.write_all(bytes)?,
            }
        }
        Ok(())
    }

    /// Waits until it is released or the peer has gone.
    fn hang(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(ms(10)))?;
        let end = Instant::now() + 3 * BOUND;
        while !self.released.load(Ordering::Acquire) && Instant::now() < end {
            match stream.peek(&mut [0]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                // Bytes that nobody wants are no reason to spin.
                Ok(_) => std::thread::sleep(ms(10)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        stream.set_read_timeout(None)
    }

    /// Notes what a proxy must never send: more than one reading of where a request ends or whom it is for.
    fn check(&self, request: &ReceivedRequest, version: Option<&str>) {
        let headers = &request.headers;
        let mut wrong = Vec::new();
        if version != Some("HTTP/1.1") {
            wrong.push("the version is not HTTP/1.1");
        }
        if headers.only("host").is_none() {
            wrong.push("not exactly one Host");
        }
        if headers.has("content-length") && headers.has("transfer-encoding") {
            wrong.push("two framings");
        }
        if headers.has("content-length") && headers.content_length().is_none() {
            wrong.push("a Content-Length that is no number, or two");
        }
        if headers.has("transfer-encoding") && headers.only("transfer-encoding") != Some("chunked") {
            wrong.push("a Transfer-Encoding that is not exactly `chunked`");
        }
        let found = wrong.into_iter().map(|what| format!("{what}: {request:?}"));
        self.state().violations.extend(found);
    }

    fn noted(&self, error: io::Error) -> io::Error {
        if error.kind() == ErrorKind::InvalidData {
            self.state().violations.push(error.to_string());
        }
        error
    }
}

fn echo(wire: &mut Wire, stream: &mut TcpStream) -> io::Result<()> {
    loop {
        let bytes = wire.some()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.contains(&b'!') {
            reset_on_close(stream);
            return Ok(());
        }
        stream.write_all(&bytes)?;
    }
}

fn read_body(wire: &mut Wire, headers: &Headers, body: &mut Vec<u8>) -> io::Result<()> {
    if headers.is_chunked() {
        wire.chunked(body)
    } else {
        wire.exactly(headers.content_length().unwrap_or(0), body)
    }
}
