//! Our line in `Via` (RFC 9110 section 7.6.3). Pure.

use http::Version;
use http::header::{HeaderValue, InvalidHeaderValue};

/// What we write into `Via`, made once for each protocol that a message can have come by.
#[derive(Clone, Debug)]
pub struct Via {
    http1: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// The line of a proxy of this name. Fails if a header cannot hold it.
    pub fn new(name: &str) -> Result<Self, InvalidHeaderValue> {
        let line = |protocol| HeaderValue::from_str(&format!("{protocol} {name}"));
        Ok(Self { http1: line("1.1")?, http2: line("2")? })
    }

    /// For a message that came by `version`.
    pub(crate) fn line(&self, version: Version) -> HeaderValue {
        if version == Version::HTTP_2 { self.http2.clone() } else { self.http1.clone() }
    }

    /// Whether one of these values names us: then the message comes round in a loop.
    pub(crate) fn is_in<'a>(&self, values: impl Iterator<Item = &'a HeaderValue>) -> bool {
        let Some(own) = received_by(self.http1.as_bytes()) else { return false };
        let mut hops = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        hops.any(|hop| received_by(hop).is_some_and(|name| name.eq_ignore_ascii_case(own)))
    }
}

/// The second word of a hop: `1.1 stent (comment)` was received by `stent`.
fn received_by(hop: &[u8]) -> Option<&[u8]> {
    hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_protocol_that_a_message_came_by() {
        let via = Via::new("edge-1").unwrap();
        assert_eq!(via.line(Version::HTTP_11), "1.1 edge-1");
        assert_eq!(via.line(Version::HTTP_10), "1.1 edge-1");
        assert_eq!(via.line(Version::HTTP_2), "2 edge-1");
    }

    #[test]
    fn we_are_found_by_our_name_in_whatever_hop() {
        let via = Via::new("stent").unwrap();
        let is_in = |values: &[&'static str]| {
            let values: Vec<_> = values.iter().map(|value| HeaderValue::from_static(value)).collect();
            via.is_in(values.iter())
        };
        assert!(is_in(&["1.1 stent"]));
        assert!(is_in(&["1.0 fred", "2 other , 1.1  STENT (comment)"]));
        assert!(!is_in(&["1.0 fred, 1.1 stent-2"]));
        assert!(!is_in(&["stent", "", ","]));
        assert!(!is_in(&[]));
    }
}
