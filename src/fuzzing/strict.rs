//! HTTP/1.1 messages read strictly and by code of our own, so that hyper's reading is held against another.

/// A message whose head is whole.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The first line, without its end.
    pub(super) first_line: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The bytes of the message; none if it is not whole.
    pub(super) length: Option<usize>,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Chunked,
    Length(usize),
    UntilClosed,
}

/// Reads the request that `bytes` begin with; none while its head is not whole.
pub(super) fn request(bytes: &[u8]) -> Result<Option<Message>, String> {
    let Some((mut message, head)) = head(bytes)? else { return Ok(None) };
    let parts: Vec<_> = message.first_line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else {
        return Err(format!("no request line of ours: {:?}", text(&message.first_line)));
    };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(format!("no method: {:?}", text(method)));
    }
    // Bytes beyond ASCII are not in the grammar, but browsers of old send them and no parser ends a target there.
    if target.is_empty() || !target.iter().all(|byte| *byte > b' ' && !matches!(byte, b'#' | 0x7f)) {
        return Err(format!("no target: {:?}", text(target)));
    }
    if message.all("host").len() != 1 {
        return Err(format!("{} Host", message.all("host").len()));
    }
    let framing = message.framing()?.unwrap_or(Framing::Length(0));
    message.length = body(&bytes[head..], framing)?.map(|body| head + body);
    Ok(Some(message))
}

/// Reads the answer to `method` that `bytes` begin with, after which the peer has closed; none if there is none.
pub(super) fn response(bytes: &[u8], method: &str) -> Result<Option<Message>, String> {
    let Some((mut message, head)) = head(bytes)? else { return Ok(None) };
    let status =
        message.status().ok_or_else(|| format!("no status line: {:?}", text(&message.first_line)))?;
    let framing = match message.framing()? {
        _ if method == "HEAD" || status < 200 || matches!(status, 204 | 304) => Framing::Length(0),
        framing => framing.unwrap_or(Framing::UntilClosed),
    };
    message.length = body(&bytes[head..], framing)?.map(|body| head + body);
    Ok(Some(message))
}

impl Message {
    /// The values of every line called `name`.
    pub(super) fn all(&self, name: &str) -> Vec<&[u8]> {
        let lines = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        lines.map(|(_, value)| value.as_slice()).collect()
    }

    /// The status of an answer.
    pub(super) fn status(&self) -> Option<u16> {
        let rest =
            self.first_line.strip_prefix(b"HTTP/1.1 ").or(self.first_line.strip_prefix(b"HTTP/1.0 "))?;
        let (status, reason) = rest.split_at_checked(3)?;
        let is_reason =
            reason.iter().all(|byte| is_text(*byte)) && reason.first().is_none_or(|byte| *byte == b' ');
        let status = std::str::from_utf8(status).ok()?.parse().ok()?;
        (is_reason && (100..1000).contains(&status)).then_some(status)
    }

    /// Whether nothing of HTTP answers the same question after this: 101 leaves the connection to another protocol.
    pub(super) fn is_final(&self) -> bool {
        self.status().is_some_and(|status| status >= 200 || status == 101)
    }

    /// Whether the connection is asked to become a tunnel of WebSocket, the one protocol that a route allows by itself.
    pub(super) fn asks_to_switch(&self) -> bool {
        let is_websocket =
            matches!(self.all("upgrade")[..], [protocol] if protocol.eq_ignore_ascii_case(b"websocket"));
        let has_no_body = matches!(self.framing(), Ok(None | Some(Framing::Length(0))));
        is_websocket && has_no_body && self.all("connection") == [b"upgrade"]
    }

    fn framing(&self) -> Result<Option<Framing>, String> {
        match (&self.all("transfer-encoding")[..], &self.all("content-length")[..]) {
            ([], []) => Ok(None),
            ([b"chunked"], []) => Ok(Some(Framing::Chunked)),
            ([], [length]) => Ok(Some(Framing::Length(number(length, 10)?))),
            (encodings, lengths) => {
                Err(format!("ambiguous framing: {} encodings, {} lengths", encodings.len(), lengths.len()))
            }
        }
    }
}

/// A head and where it ends.
fn head(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    // A CR or LF that ends no line is left in one, and no part of a line may hold it.
    let mut rest = Some(&bytes[..end]);
    let mut lines = std::iter::from_fn(|| {
        let line = rest?;
        let at = find(line, b"\r\n");
        rest = at.map(|at| &line[at + 2..]);
        Some(at.map_or(line, |at| &line[..at]))
    });
    let first_line = lines.next().unwrap_or_default().to_vec();
    let headers = lines.map(header).collect::<Result<_, _>>()?;
    Ok(Some((Message { first_line, headers, length: None }, end + 4)))
}

fn header(line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let at =
        line.iter().position(|byte| *byte == b':').ok_or_else(|| format!("no colon: {:?}", text(line)))?;
    let (name, value) = (&line[..at], &line[at + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(format!("no header name: {:?}", text(name)));
    }
    if !value.iter().all(|byte| is_text(*byte)) {
        return Err(format!("no header value: {:?}", text(value)));
    }
    Ok((name.to_vec(), value.trim_ascii().to_vec()))
}

/// The length of a body; none while it is not whole.
fn body(bytes: &[u8], framing: Framing) -> Result<Option<usize>, String> {
    match framing {
        Framing::Length(length) => Ok((bytes.len() >= length).then_some(length)),
        Framing::UntilClosed => Ok(Some(bytes.len())),
        Framing::Chunked => chunked(bytes),
    }
}

fn chunked(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = number(&bytes[at..at + line], 16)?;
        at += line + 2;
        if size == 0 {
            return trailers(bytes, at);
        }
        let end = at.saturating_add(size);
        match bytes.get(end..end.saturating_add(2)) {
            Some(b"\r\n") => at = end + 2,
            Some(end) => return Err(format!("a chunk that ends with {:?}", text(end))),
            None => return Ok(None),
        }
    }
}

fn trailers(bytes: &[u8], mut at: usize) -> Result<Option<usize>, String> {
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        if line == 0 {
            return Ok(Some(at + 2));
        }
        header(&bytes[at..at + line])?;
        at += line + 2;
    }
}

fn number(digits: &[u8], radix: u32) -> Result<usize, String> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let number = std::str::from_utf8(digits).ok().filter(|_| is_number);
    let number = number.and_then(|digits| usize::from_str_radix(digits, radix).ok());
    number.ok_or_else(|| format!("no number: {:?}", text(digits)))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a value may hold: no control characters but the tab (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Bytes as a failed assertion shows them.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
