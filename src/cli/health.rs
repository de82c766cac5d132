//! `stent health`: one question to an admin listener, for container health checks in images without curl.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use thiserror::Error;

/// Why the answer is not a plain yes.
#[derive(Debug, Error)]
pub(super) enum HealthError {
    #[error("not a URL such as http://127.0.0.1:9901/readyz: {0}")]
    Url(String),
    #[error("no answer from {address}: {source}")]
    NoAnswer { address: String, source: io::Error },
    #[error("{0}")]
    Unwell(String),
}

/// Asks `url`; well is an answer of 200 within 2 s.
pub(super) fn ask(url: &str) -> Result<(), HealthError> {
    let rest = url.strip_prefix("http://").ok_or_else(|| HealthError::Url(url.to_owned()))?;
    let (address, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || !address.contains(':') {
        return Err(HealthError::Url(url.to_owned()));
    }
    let answer = exchange(address, path)
        .map_err(|source| HealthError::NoAnswer { address: address.to_owned(), source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some(status) => Err(HealthError::Unwell(format!("{status} {}", body.trim()))),
        None => Err(HealthError::Unwell("the answer is not HTTP".to_owned())),
    }
}

fn exchange(address: &str, path: &str) -> io::Result<String> {
    let mut addresses = address.to_socket_addrs()?;
    let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Shorter than the time that a container runtime gives a health check.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is read of an answer, in bytes.
const MAX_ANSWER: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(bytes: &'static str) -> Result<(), HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(bytes.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let result = ask(&format!("http://{address}/readyz"));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        result
    }

    #[test]
    fn only_a_200_is_well() {
        assert!(answered("HTTP/1.1 200 OK\r\n\r\nready").is_ok());
        let unwell = answered("HTTP/1.1 503 Service Unavailable\r\n\r\ndraining\n").unwrap_err();
        assert_eq!(unwell.to_string(), "503 draining");
        assert_eq!(answered("nonsense").unwrap_err().to_string(), "the answer is not HTTP");
    }

    #[test]
    fn nobody_there_is_not_well() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(ask(&format!("http://{address}/")), Err(HealthError::NoAnswer { .. })));
    }

    #[test]
    fn what_is_no_url_says_so() {
        for url in ["", "127.0.0.1:9901", "https://a:1/", "http://a", "http://a:1/ x"] {
            assert!(matches!(ask(url), Err(HealthError::Url(_))), "{url}");
        }
    }
}
