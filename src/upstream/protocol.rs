//! The protocol that a cluster's endpoints speak, and how it is asked for.

/// The protocol that a cluster's endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 or HTTP/1.1, whichever the endpoint prefers in the TLS handshake.
    Auto,
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113 section 3.3).
    H2,
}

impl Protocol {
    /// Whether a connection may turn out to speak HTTP/2.
    pub fn may_be_http2(self) -> bool {
        self != Self::Http1
    }

    /// What is offered in the TLS handshake, the preferred one first.
    pub(super) fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Auto => &[b"h2", b"http/1.1"],
            Self::Http1 => &[b"http/1.1"],
            Self::H2 => &[b"h2"],
        }
    }
}
