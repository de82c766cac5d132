//! The PROXY protocol, versions 1 and 2: a load balancer that passes TCP on says in front of it whom it does that for.
//!
//! A header is not believed in part: one that is not whole and right to the byte ends the connection.

use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::record::metrics::PrefaceFault as Refusal;

/// Whether a listener's connections begin with a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None does.
    #[default]
    Off,
    /// Each does; it could not be told from a client's lie if only some did.
    Required,
}

/// Reads the header and nothing beyond it. None if it names nobody: then the connection is the balancer's own.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Refusal> {
    let mut header = Header::default();
    let mut seen = [0; 512];
    loop {
        // Looked at first, because what follows the header belongs to TLS or HTTP.
        let count = stream.peek(&mut seen).await.map_err(|_| Refusal::Closed)?;
        if count == 0 {
            return Err(Refusal::Closed);
        }
        let (taken, named) = match header.take(&seen[..count])? {
            Progress::Partial => (count, None),
            Progress::Whole { taken, named } => (taken, Some(named)),
        };
        stream.read_exact(&mut seen[..taken]).await.map_err(|_| Refusal::Closed)?;
        if let Some(named) = named {
            return Ok(named);
        }
    }
}

/// A header on its way, in whatever pieces it comes. Pure.
#[derive(Debug, Default)]
struct Header {
    bytes: Vec<u8>,
}

/// How far a piece has brought a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// All of the piece belongs to the header, and more has to come.
    Partial,
    /// The header ends `taken` bytes into the piece.
    Whole { taken: usize, named: Option<SocketAddr> },
}

impl Header {
    fn take(&mut self, piece: &[u8]) -> Result<Progress, Refusal> {
        for (place, byte) in piece.iter().enumerate() {
            self.bytes.push(*byte);
            if self.is_whole()? {
                return Ok(Progress::Whole { taken: place + 1, named: self.named()? });
            }
        }
        Ok(Progress::Partial)
    }

    /// Whether the last byte was the header's last; an error as soon as no byte that follows could make it right.
    fn is_whole(&self) -> Result<bool, Refusal> {
        let bytes = &*self.bytes;
        if begins(bytes, PREFIX_V1) {
            let is_whole = bytes.ends_with(b"\n");
            return if bytes.len() > MAX_V1 { Err(Refusal::TooLong) } else { Ok(is_whole) };
        }
        if !begins(bytes, v2::PROTOCOL_PREFIX) {
            return Err(Refusal::Absent);
        }
        let Some(length) = bytes.get(14..16) else { return Ok(false) };
        let length = FIXED_V2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if length > MAX_V2 { Err(Refusal::TooLong) } else { Ok(bytes.len() == length) }
    }

    /// Whom a whole header names.
    fn named(&self) -> Result<Option<SocketAddr>, Refusal> {
        if self.bytes.starts_with(v2::PROTOCOL_PREFIX) {
            named_by_v2(&self.bytes)
        } else {
            named_by_v1(&self.bytes)
        }
    }
}

/// Whether `bytes` begin with `prefix`, as far as they have come.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

fn named_by_v1(line: &[u8]) -> Result<Option<SocketAddr>, Refusal> {
    // `ppp` leaves the number to the standard library, which takes a sign.
    if !line.ends_with(b"\r\n") || line.contains(&b'+') {
        return Err(Refusal::Malformed);
    }
    let header = v1::Header::try_from(line).map_err(|_| Refusal::Malformed)?;
    if header.header.len() != line.len() {
        return Err(Refusal::Malformed);
    }
    Ok(match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

fn named_by_v2(bytes: &[u8]) -> Result<Option<SocketAddr>, Refusal> {
    let header = v2::Header::try_from(bytes).map_err(|_| Refusal::Malformed)?;
    if header.command == v2::Command::Local {
        return Ok(None); // whatever else it holds is to be ignored
    }
    for field in header.tlvs() {
        let field = field.map_err(|_| Refusal::Malformed)?;
        if field.kind == CHECKSUM && !has_checksum(bytes, &field.value) {
            return Err(Refusal::Malformed);
        }
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    })
}

/// Whether `stated`, a part of `header`, is the header's CRC-32C, counted with zeros in its own place.
fn has_checksum(header: &[u8], stated: &[u8]) -> bool {
    let Ok(stated_sum) = <[u8; 4]>::try_from(stated) else { return false };
    let mut zeroed = header.to_vec();
    let fields = FIXED_V2..header.len();
    // `ppp` gives the value and not its place; the type and length before it tell it from the same bytes elsewhere.
    let field = [&[CHECKSUM, 0, 4][..], stated].concat();
    let Some(place) = header[fields].windows(field.len()).rposition(|window| window == field) else {
        return false;
    };
    let place = FIXED_V2 + place + 3;
    zeroed[place..place + 4].fill(0);
    crc32c(&zeroed) == u32::from_be_bytes(stated_sum)
}

/// CRC-32C (Castagnoli), bit by bit: it is rare, and at most [`MAX_V2`] bytes long.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}

/// How a version 1 header begins; `ppp` has it without the space.
const PREFIX_V1: &[u8] = b"PROXY ";

/// The longest line that the protocol allows, its end included.
const MAX_V1: usize = 107;

/// The part of a version 2 header that comes before what its length counts.
const FIXED_V2: usize = 16;

/// Far beyond what load balancers send, with room for the facts of a TLS client.
const MAX_V2: usize = 4096;

/// `PP2_TYPE_CRC32C`.
const CHECKSUM: u8 = 0x03;

#[cfg(test)]
mod tests;
