//! The origin guard: a request must carry a secret that only the network in front of us knows.

use std::fmt;
use std::path::PathBuf;

use http::header::{HeaderMap, HeaderName};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

use super::{is_reserved, remove_spellings};

/// The header, and the secrets of which it must hold one. Several are in force while one replaces another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginGuard {
    header: HeaderName,
    secrets: Vec<(PathBuf, Secret)>,
}

/// A value that nobody may learn: it is compared in constant time and printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

/// Why a guard cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidGuard {
    /// A name that means something else already, or that a listener would drop.
    #[error("this header cannot carry a secret")]
    Header,
    /// No secret, or too many.
    #[error("a guard takes 1 to {} secrets", OriginGuard::MOST)]
    Count,
}

/// Why some bytes are no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidSecret {
    /// Bytes that no header value brings as they are.
    #[error("the secret holds characters that a header cannot carry")]
    Character,
    /// Nothing.
    #[error("the secret is empty")]
    Empty,
    /// More than [`Secret::LONGEST`] bytes.
    #[error("the secret is longer than {} bytes", Secret::LONGEST)]
    TooLong,
    /// Fewer than [`Secret::SHORTEST`] bytes.
    #[error("the secret is shorter than {} bytes", Secret::SHORTEST)]
    TooShort,
}

/// The request did not bring exactly one field with one of the secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the request did not come by the way that it must")]
pub struct OriginRefused;

impl OriginGuard {
    /// The most secrets of a guard; a rotation needs two.
    pub const MOST: usize = 16;

    /// A guard that asks for `header`. Each secret comes with the file that it stands in.
    pub fn new(header: HeaderName, secrets: Vec<(PathBuf, Secret)>) -> Result<Self, InvalidGuard> {
        Self::check_header(&header)?;
        if !(1..=Self::MOST).contains(&secrets.len()) {
            return Err(InvalidGuard::Count);
        }
        Ok(Self { header, secrets })
    }

    /// Whether a guard can ask for `header`.
    pub fn check_header(header: &HeaderName) -> Result<(), InvalidGuard> {
        let name = header.as_str();
        if name.contains('_') || is_reserved(name) { Err(InvalidGuard::Header) } else { Ok(()) }
    }

    /// The header.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Where the secrets stand.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.secrets.iter().map(|(file, _)| file)
    }

    /// Lets a request pass that carries the field once, with one of the secrets. The field is taken away in any case, and
    /// with it whatever a backend could take for it.
    pub fn admit(&self, headers: &mut HeaderMap) -> Result<(), OriginRefused> {
        let mut values = headers.get_all(&self.header).iter();
        let is_known = match (values.next(), values.next()) {
            (Some(value), None) => self.knows(value.as_bytes()),
            _ => false,
        };
        remove_spellings(headers, &self.header);
        if is_known { Ok(()) } else { Err(OriginRefused) }
    }

    /// Every secret is compared, so that the time tells nothing but a value's length.
    fn knows(&self, value: &[u8]) -> bool {
        let compared = self.secrets.iter().map(|(_, secret)| secret.0.ct_eq(value));
        compared.fold(Choice::from(0), |found, is_equal| found | is_equal).into()
    }
}

impl Secret {
    /// The shortest secret, in bytes: shorter ones can be guessed.
    pub const SHORTEST: usize = 16;

    /// The longest secret, in bytes; CloudFront sends no longer header value.
    pub const LONGEST: usize = 1783;

    /// Takes a file's content, without the line end that editors add.
    pub fn new(content: &[u8]) -> Result<Self, InvalidSecret> {
        let line = content.strip_suffix(b"\n").unwrap_or(content);
        let secret = line.strip_suffix(b"\r").unwrap_or(line);
        let is_plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        match secret.len() {
            0 => Err(InvalidSecret::Empty),
            // Blanks at an end are not part of a field's value (RFC 9110 section 5.5).
            _ if !secret.iter().all(is_plain) || secret.trim_ascii() != secret => {
                Err(InvalidSecret::Character)
            }
            length if length < Self::SHORTEST => Err(InvalidSecret::TooShort),
            length if length > Self::LONGEST => Err(InvalidSecret::TooLong),
            _ => Ok(Self(secret.into())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(_)")
    }
}
