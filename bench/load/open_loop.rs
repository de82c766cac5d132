//! A load at a fixed rate, for `bench/load/measure.py`: `open_loop ADDRESS PATH CONNECTIONS PER_SECOND SECONDS`.
//!
//! Each connection has its own course of requests, spread evenly and apart from those of the others. A request's latency
//! counts from the moment at which it was due, also when the answer before it was late: leaving those out is what
//! "coordinated omission" means. Needs the standard library only, so that `rustc` alone builds it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let Some(load) = Load::parse(&arguments) else {
        eprintln!("usage: open_loop ADDRESS PATH CONNECTIONS PER_SECOND SECONDS");
        return ExitCode::FAILURE;
    };
    // Threads wake to the microsecond instead of 50 later. Where it is refused, that is part of all columns.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
    let begin = Instant::now() + Duration::from_millis(100);
    let threads: Vec<_> = (0..load.connections)
        .map(|number| {
            let load = load.clone();
            thread::spawn(move || load.drive(number, begin))
        })
        .collect();
    let (mut latencies, mut failed) = (Vec::new(), 0_usize);
    for thread in threads {
        match thread.join() {
            Ok((of_one, failures)) => {
                latencies.extend(of_one);
                failed += failures;
            }
            Err(_) => failed += 1,
        }
    }
    latencies.sort_unstable();
    let quantile = |per_mille: usize| {
        let place = (latencies.len() * per_mille / 1000).min(latencies.len().saturating_sub(1));
        latencies.get(place).copied().unwrap_or_default()
    };
    println!(
        "{{\"requests\":{},\"failed\":{failed},\"p50_us\":{},\"p99_us\":{},\"p999_us\":{}}}",
        latencies.len(),
        quantile(500),
        quantile(990),
        quantile(999)
    );
    ExitCode::SUCCESS
}

#[derive(Clone)]
struct Load {
    address: String,
    path: String,
    connections: u32,
    per_second: f64,
    seconds: f64,
}

impl Load {
    fn parse(arguments: &[String]) -> Option<Self> {
        let [address, path, connections, per_second, seconds] = arguments else { return None };
        Some(Self {
            address: address.clone(),
            path: path.clone(),
            connections: connections.parse().ok().filter(|count| *count > 0)?,
            per_second: per_second.parse().ok().filter(|rate| *rate > 0.0)?,
            seconds: seconds.parse().ok().filter(|seconds| *seconds > 0.0)?,
        })
    }

    /// All requests of one connection: latencies in microseconds, and how many failed.
    fn drive(&self, number: u32, begin: Instant) -> (Vec<u64>, usize) {
        let between = f64::from(self.connections) / self.per_second;
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.address);
        let (mut latencies, mut failed) = (Vec::new(), 0);
        let mut connection = None;
        let mut due = f64::from(number) / self.per_second;
        while due < self.seconds {
            let at = begin + Duration::from_secs_f64(due);
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if self.ask(&mut connection, &request).is_ok() {
                latencies.push(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX));
            } else {
                connection = None;
                failed += 1;
            }
            due += between;
        }
        (latencies, failed)
    }

    /// One request and its answer.
    fn ask(&self, connection: &mut Option<TcpStream>, request: &str) -> io::Result<()> {
        if connection.is_none() {
            let stream = TcpStream::connect(&self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            *connection = Some(stream);
        }
        let stream = connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.write_all(request.as_bytes())?;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut piece)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&piece[..count]);
            if let Some(whole) = length(&answer)? {
                return if answer.len() == whole { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) };
            }
        }
    }
}

/// The length of an answer that is there as a whole, if it is; an error if it is no 200 with a length.
fn length(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head]).map_err(|_| io::ErrorKind::InvalidData)?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other("the status is not 200"));
    }
    let is_length = |line: &&str| line.len() > 15 && line[..15].eq_ignore_ascii_case("content-length:");
    let field = text.lines().find(is_length).ok_or(io::ErrorKind::InvalidData)?;
    let body: usize = field[15..].trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    let whole = head + 4 + body;
    Ok((answer.len() >= whole).then_some(whole))
}
