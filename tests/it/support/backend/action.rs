//! What the backend does to a request: a few steps, and how the connection ends.

use std::time::Duration;

/// What to do to one request.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub(super) request_body: RequestBody,
    pub(super) steps: Vec<Step>,
    pub(super) end: End,
}

/// Whether the request body is read before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestBody {
    Ignore,
    Read,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Nothing, until the backend is released or the peer has gone.
    Hang,
    Pause(Duration),
    Write(Vec<u8>),
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Closed at once; unread bytes make that an RST.
    Close,
    /// Closed for writing, and for reading when the peer has closed too.
    CloseGently,
    /// From here on, what comes is sent back; `!` is answered by RST.
    Echo,
    KeepAlive,
    Reset,
}

impl Action {
    /// An answer with `Content-Length`, on a connection that lives on.
    pub(crate) fn answer(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::answer_with(status, &[], body)
    }

    /// The same, with more headers.
    pub(crate) fn answer_with(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, headers, &format!("Content-Length: {}", body.len()));
        bytes.extend(body);
        Self::new([Step::Write(bytes)], End::KeepAlive)
    }

    /// A chunked answer, a chunk for each part.
    pub(crate) fn chunked(status: u16, parts: &[&[u8]]) -> Self {
        let mut bytes = head(status, &[], "Transfer-Encoding: chunked");
        for part in parts {
            bytes.extend(chunk(part));
        }
        bytes.extend(b"0\r\n\r\n");
        Self::new([Step::Write(bytes)], End::KeepAlive)
    }

    /// These bytes and nothing else, then the end.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::new([Step::Write(bytes.as_ref().to_vec())], End::Close)
    }

    /// These bytes, on a connection that stays open.
    pub(crate) fn raw_kept_open(bytes: impl AsRef<[u8]>) -> Self {
        Self::new([Step::Write(bytes.as_ref().to_vec())], End::KeepAlive)
    }

    /// Takes the request and never answers.
    pub(crate) fn hang() -> Self {
        Self::new([Step::Hang], End::Close)
    }

    /// Takes the request and closes.
    pub(crate) fn close() -> Self {
        Self::new([], End::Close)
    }

    /// Takes the request and sends RST.
    pub(crate) fn reset() -> Self {
        Self::new([], End::Reset)
    }

    /// Sends RST as soon as the head has come, whatever of the body is under way.
    pub(crate) fn reset_before_body() -> Self {
        Self { request_body: RequestBody::Ignore, ..Self::reset() }
    }

    /// Announces `announced` bytes, sends `sent`, closes.
    pub(crate) fn truncated(sent: usize, announced: usize) -> Self {
        let mut bytes = head(200, &[], &format!("Content-Length: {announced}"));
        bytes.resize(bytes.len() + sent, b'x');
        Self::new([Step::Write(bytes)], End::Close)
    }

    /// Sends one chunk and neither a second nor the end.
    pub(crate) fn chunked_truncated() -> Self {
        let mut bytes = head(200, &[], "Transfer-Encoding: chunked");
        bytes.extend(chunk(b"half of it"));
        Self::new([Step::Write(bytes)], End::Close)
    }

    /// A chunked body, with a pause before each part.
    pub(crate) fn slow_body(status: u16, parts: &[&[u8]], pause: Duration) -> Self {
        let mut steps = vec![Step::Write(head(status, &[], "Transfer-Encoding: chunked"))];
        for part in parts {
            steps.extend([Step::Pause(pause), Step::Write(chunk(part))]);
        }
        steps.push(Step::Write(b"0\r\n\r\n".to_vec()));
        Self::new(steps, End::KeepAlive)
    }

    /// A head that announces a body which never comes.
    pub(crate) fn endless_body(status: u16) -> Self {
        Self::new([Step::Write(head(status, &[], "Content-Length: 100")), Step::Hang], End::Close)
    }

    /// Changes to `protocol`, in which each side hears what it says.
    pub(crate) fn switch_to(protocol: &str) -> Self {
        let head = format!("HTTP/1.1 101 Scripted\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        Self::new([Step::Write(head.into_bytes())], End::Echo)
    }

    /// Half a response head, and then nothing.
    pub(crate) fn half_head_then_stall() -> Self {
        Self::new([Step::Write(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), Step::Hang], End::Close)
    }

    /// Half a response head, and then the end.
    pub(crate) fn half_head_then_close() -> Self {
        Self::raw("HTTP/1.1 200 OK\r\nContent-Le")
    }

    /// Bytes that are no HTTP.
    pub(crate) fn garbage() -> Self {
        Self::raw("\x16\x03\x01 this is not the protocol you are looking for\r\n\r\n")
    }

    /// An answer with one header line of `length` bytes.
    pub(crate) fn huge_head(length: usize) -> Self {
        Self::answer_with(200, &[("x-huge", &"h".repeat(length))], "ok")
    }

    /// An interim answer of this status goes first.
    pub(crate) fn after_interim(mut self, status: u16) -> Self {
        let interim = format!("HTTP/1.1 {status} Interim\r\nLink: </a.css>\r\n\r\n");
        self.steps.insert(0, Step::Write(interim.into_bytes()));
        self
    }

    /// Waits before the first byte.
    pub(crate) fn after(mut self, pause: Duration) -> Self {
        self.steps.insert(0, Step::Pause(pause));
        self
    }

    /// Answers on the head alone and takes the body no more; then closes without harm to the answer.
    pub(crate) fn before_body(mut self) -> Self {
        (self.request_body, self.end) = (RequestBody::Ignore, End::CloseGently);
        self
    }

    /// Closes the idle connection after an answer that promised to keep it.
    pub(crate) fn then_close(mut self) -> Self {
        self.end = End::Close;
        self
    }

    /// Sends these bytes when the connection has been idle for this long, and closes.
    pub(crate) fn then_say(mut self, bytes: impl AsRef<[u8]>, idle: Duration) -> Self {
        self.steps.extend([Step::Pause(idle), Step::Write(bytes.as_ref().to_vec())]);
        self.end = End::Close;
        self
    }

    /// Sends RST after the last byte has had time to arrive: an RST takes unread bytes with it.
    pub(crate) fn then_reset(mut self) -> Self {
        self.steps.push(Step::Pause(Duration::from_millis(100)));
        self.end = End::Reset;
        self
    }

    fn new(steps: impl Into<Vec<Step>>, end: End) -> Self {
        Self { request_body: RequestBody::Read, steps: steps.into(), end }
    }
}

fn head(status: u16, headers: &[(&str, &str)], framing: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n{framing}\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn chunk(part: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
}
