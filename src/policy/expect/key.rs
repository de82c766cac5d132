//! What kind of request an attempt carries: its route, its method and the shape of the rest of its path.

use std::ops::Range;

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
        let mut segments = subject.segments();
        let mut below = state;
        while let Some(segment) = segments.next(|word| below = fold(below ^ word, secret.0)) {
            // The length tells `a` from `a` with zero bytes behind it.
            let named = fold(below ^ segment.place.len() as u64, secret.1);
            state = if segment.is_identifier { fold(state ^ IDENTIFIER, secret.1) } else { named };
            below = state;
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

impl<'a> Subject<'a> {
    fn segments(&self) -> Segments<'a> {
        let path = self.rest.strip_prefix('/').unwrap_or(self.rest).as_bytes();
        Segments { path, at: 0, left: if path.is_empty() { 0 } else { LEVELS - 1 } }
    }

    /// The key for people: `everything: GET /reports/*/pages`. It holds no identifier and no query.
    pub fn show(&self) -> String {
        let mut shown = format!("{}: {} ", self.route, self.method);
        let mut segments = self.segments();
        while let Some(Segment { place, is_identifier }) = segments.next(|_| {}) {
            shown.push('/');
            let name = String::from_utf8_lossy(&segments.path[place]);
            shown.push_str(if is_identifier { "*" } else { &name });
        }
        if shown.ends_with(' ') {
            shown.truncate(shown.len() - 1);
        }
        shown
    }
}

/// The segments of a path that count, from first to last.
struct Segments<'a> {
    path: &'a [u8],
    at: usize,
    left: usize,
}

struct Segment {
    place: Range<usize>,
    /// Whether it names one thing out of many.
    is_identifier: bool,
}

impl Segments<'_> {
    /// The next one; `mix` gets its bytes, eight at a time, the last ones with zeros behind them. It looks at each byte
    /// once and at eight together, because each request to a cluster in which something failed pays for it.
    #[inline]
    fn next(&mut self, mut mix: impl FnMut(u64)) -> Option<Segment> {
        if self.left == 0 {
            return None;
        }
        let (begin, mut end, mut has_digit) = (self.at, self.at, false);
        loop {
            let word = self.word(end);
            let (slashes, digits) = (slashes(word), digits(word));
            if slashes != 0 {
                let before = (slashes & slashes.wrapping_neg()) - 1;
                mix(word & before >> 7);
                has_digit |= digits & before != 0;
                end += slashes.trailing_zeros() as usize / 8;
                break;
            }
            mix(word);
            (end, has_digit) = (end + 8, has_digit || digits != 0);
        }
        self.left = if end < self.path.len() { self.left - 1 } else { 0 };
        self.at = end + 1;
        let length = end - begin;
        let is_hex = || length >= LEAST_HEX && self.path[begin..end].iter().all(u8::is_ascii_hexdigit);
        Some(Segment { place: begin..end, is_identifier: length > MAX_WORD || has_digit || is_hex() })
    }

    /// Eight bytes from `at` on, with slashes behind the end of the path: it ends its last segment.
    #[inline]
    fn word(&self, at: usize) -> u64 {
        if let Some(word) = self.path.get(at..).and_then(<[u8]>::first_chunk) {
            return u64::from_le_bytes(*word);
        }
        let left = self.path.len().saturating_sub(at);
        let bits = 8 * left;
        let known = match self.path.last_chunk() {
            _ if left == 0 => 0,
            Some(last) => u64::from_le_bytes(*last) >> (64 - bits),
            None => self.path[at..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        known | SLASHES << bits
    }
}

/// The highest bit of the first byte that is a slash. Bytes behind it may be marked by mistake.
fn slashes(word: u64) -> u64 {
    let zero_for_slash = word ^ SLASHES;
    zero_for_slash.wrapping_sub(EACH) & !zero_for_slash & HIGH
}

/// The highest bit of each byte that is a digit.
fn digits(word: u64) -> u64 {
    // Seven bits and less than 128 make no carry into the next byte.
    let low = word & !HIGH;
    let from = |least: u8| low + EACH * u64::from(0x80 - least);
    from(b'0') & !from(b'9' + 1) & !word & HIGH
}

const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = EACH << 7;
const SLASHES: u64 = EACH * b'/' as u64;

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
        fn segments_are_what_a_look_at_each_byte_finds(path in "[a-f0-9/:.é\\x00-\\x7f]{0,60}") {
            let subject = Subject { route: "all", method: &Method::GET, rest: &path };
            let mut segments = subject.segments();
            let counted = path.strip_prefix('/').unwrap_or(&path);
            for expected in counted.split('/').take(if counted.is_empty() { 0 } else { 4 }) {
                let mut bytes = Vec::new();
                let segment = segments.next(|word| bytes.extend(word.to_le_bytes()));
                let Segment { place, is_identifier } = segment.expect("there is another");
                prop_assert_eq!(&counted[place], expected);
                prop_assert_eq!(bytes.len(), expected.len() / 8 * 8 + 8);
                prop_assert!(bytes.starts_with(expected.as_bytes()));
                prop_assert!(bytes[expected.len()..].iter().all(|byte| *byte == 0));
                let has_digit = expected.bytes().any(|byte| byte.is_ascii_digit());
                let is_hex = expected.len() >= 8 && expected.bytes().all(|byte| byte.is_ascii_hexdigit());
                prop_assert_eq!(is_identifier, has_digit || is_hex || expected.len() > 24);
            }
            let further = segments.next(|_| {});
            prop_assert!(further.is_none());
        }

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
