//! What kind of request an attempt carries: its route, its method and the shape of the rest of its path.

use std::fmt::Write;

use http::Method;

/// The secret of a cluster's hashes, so that no caller can choose paths that collide.
#[derive(Clone, Copy, Debug)]
pub struct Secret(u64, u64);

/// A place in the tree of what is expected: the route with the method, then up to four segments of the path below it.
///
/// A segment with a digit, of more than 24 bytes, or of at least 8 hexadecimal digits stands for an identifier, and
/// all identifiers are one: `/patients/4711/notes` and `/patients/4712/notes` have the same key. The query is no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    levels: [u64; LEVELS],
    depth: usize,
}

/// What identifies a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(u64);

/// The request that a key is made of.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The route's name.
    pub route: &'a str,
    /// The method.
    pub method: &'a Method,
    /// What the route's pattern leaves open at its end, without a query: the part that `/*` stands for.
    pub rest: &'a str,
}

impl Secret {
    /// A secret from two random numbers.
    pub fn new(one: u64, other: u64) -> Self {
        // Odd, because a product with 0 would forget what it multiplies.
        Self(one | 1, other | 1)
    }

    fn extend(self, state: u64, bytes: &[u8]) -> u64 {
        let mut words = bytes.chunks_exact(8);
        let mut state = state;
        for word in &mut words {
            state = fold(state ^ u64::from_le_bytes(word.try_into().expect("eight bytes")), self.0);
        }
        let tail = words.remainder().iter().fold(0, |tail, byte| tail << 8 | u64::from(*byte));
        // The length tells `a` from `a` with zero bytes behind it.
        fold(state ^ tail ^ (bytes.len() as u64) << 56, self.1)
    }
}

impl Key {
    /// The key of a request, under a cluster's secret.
    pub fn new(secret: Secret, subject: &Subject<'_>) -> Self {
        let route = secret.extend(secret.0, subject.route.as_bytes());
        let mut state = secret.extend(route, subject.method.as_str().as_bytes());
        let mut key = Self { levels: [state; LEVELS], depth: 1 };
        for segment in subject.segments() {
            state = match segment {
                Some(name) => secret.extend(state, name.as_bytes()),
                None => fold(state ^ IDENTIFIER, secret.1),
            };
            key.levels[key.depth] = state;
            key.depth += 1;
        }
        key
    }

    /// From the route down to the key itself.
    pub fn levels(&self) -> &[u64] {
        &self.levels[..self.depth]
    }

    /// The key of what is expected of a second attempt beside one that is slow.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { levels: [fold(self.levels[self.depth - 1], BESIDE); LEVELS], depth: 1 }
    }

    /// What identifies it.
    pub fn id(&self) -> KeyId {
        KeyId(self.own_level())
    }

    /// The deepest of its levels.
    pub(super) fn own_level(&self) -> u64 {
        self.levels[self.depth - 1]
    }
}

impl KeyId {
    /// Stands for many keys together.
    pub const OTHERS: Self = Self(0);
}

impl Subject<'_> {
    /// The segments that count; none for an identifier.
    fn segments(&self) -> impl Iterator<Item = Option<&str>> {
        let rest = self.rest.strip_prefix('/').unwrap_or(self.rest);
        Segments((!rest.is_empty()).then_some(rest)).take(LEVELS - 1)
    }

    /// The key for people: `everything: GET /reports/*/pages`. It holds no identifier and no query.
    pub fn show(&self) -> String {
        let mut shown = format!("{}: {} ", self.route, self.method);
        for segment in self.segments() {
            // A `String` takes all that is written to it.
            let _ = write!(shown, "/{}", segment.unwrap_or("*"));
        }
        if shown.ends_with(' ') {
            shown.truncate(shown.len() - 1);
        }
        shown
    }
}

/// What is left of a path. One look at each byte finds the end of a segment and what it is made of: each request to a
/// cluster in which something failed pays for it.
struct Segments<'a>(Option<&'a str>);

impl<'a> Iterator for Segments<'a> {
    /// None for a segment that names one thing out of many.
    type Item = Option<&'a str>;

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.0?;
        let (mut end, mut any, mut all) = (0, 0, HEX);
        for byte in path.bytes() {
            if byte == b'/' {
                break;
            }
            let class = CLASSES[usize::from(byte)];
            (end, any, all) = (end + 1, any | class, all & class);
        }
        let (segment, rest) = path.split_at(end);
        self.0 = rest.get(1..);
        let is_identifier = end > MAX_WORD || any & DIGIT != 0 || (end >= LEAST_HEX && all == HEX);
        Some((!is_identifier).then_some(segment))
    }
}

/// What each byte may be part of.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let character = byte as u8;
        classes[byte] = if character.is_ascii_digit() { DIGIT } else { 0 }
            | if character.is_ascii_hexdigit() { HEX } else { 0 };
        byte += 1;
    }
    classes
};
const DIGIT: u8 = 1;
const HEX: u8 = 2;

/// A 64-bit multiplication whose upper half is folded into the lower.
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}

/// The route with the method, and four segments.
const LEVELS: usize = 5;

/// A longer segment is no word of an API's path.
const MAX_WORD: usize = 24;

/// Fewer letters from `a` to `f` may be a word, such as `feed` or `facade`.
const LEAST_HEX: usize = 8;

/// What stands for every identifier.
const IDENTIFIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What tells the key of a second attempt from that of the first.
const BESIDE: u64 = 0xd6e8_feb8_6659_fd93;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(method: &Method, rest: &str) -> Key {
        Key::new(Secret::new(7, 11), &Subject { route: "all", method, rest })
    }

    fn get(rest: &str) -> Key {
        key(&Method::GET, rest)
    }

    #[test]
    fn identifiers_are_one_and_words_are_not() {
        for (one, other) in [
            ("/patients/1/notes", "/patients/22/notes"),
            ("/a/0190c2f4-6ad0-7d3e-8f00-d1a2b3c4d5e6", "/a/9"),
            ("/a/deadbeef", "/a/cafebabecafe"),
            ("/a/abcdefghijklmnopqrstuvwxy", "/a/8"),
            ("/a/b/c/d/e", "/a/b/c/d/f/g"),
        ] {
            assert_eq!(get(one), get(other), "{one} and {other}");
        }
        for (one, other) in [
            ("/patients/1/notes", "/patients/1/images"),
            ("/a", "/a/"),
            ("/a", "/b"),
            ("/feed", "/facade"),
            ("/ab", "/a/b"),
            ("", "/a"),
            ("/a\0", "/a"),
            ("/abcdefgh", "/abcdefgh\0"),
        ] {
            assert_ne!(get(one).id(), get(other).id(), "{one} and {other}");
        }
        assert_ne!(get("/a").id(), key(&Method::POST, "/a").id());
        assert_ne!(
            get("/a"),
            Key::new(Secret::new(8, 11), &Subject { route: "all", method: &Method::GET, rest: "/a" })
        );
    }

    #[test]
    fn what_is_shown_holds_no_identifier() {
        let show = |rest| Subject { route: "all", method: &Method::GET, rest }.show();
        assert_eq!(show("/patients/4711/notes"), "all: GET /patients/*/notes");
        assert_eq!(show(""), "all: GET");
        assert_eq!(show("/"), "all: GET");
    }

    proptest! {
        #[test]
        fn a_key_extends_its_prefixes(segments in proptest::collection::vec("[a-z]{1,12}", 0..7)) {
            let path = |count: usize| segments[..count].iter().flat_map(|segment| ["/", segment]).collect::<String>();
            let whole = get(&path(segments.len()));
            prop_assert_eq!(whole.levels().len(), 1 + segments.len().min(LEVELS - 1));
            for count in 0..segments.len().min(LEVELS) {
                let prefix = get(&path(count));
                prop_assert_eq!(prefix.levels(), &whole.levels()[..=count]);
            }
        }
    }
}
