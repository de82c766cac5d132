//! What else a path can be read as: backends decode, join and resolve paths before they use them, each in its own way. Pure.

/// Whether every server reads the path as it stands.
pub(super) fn is_plain(path: &str) -> bool {
    let mut follows_slash = false;
    path.bytes().all(|byte| {
        let is_odd = matches!(byte, b'%' | b'\\' | b';') || follows_slash && matches!(byte, b'/' | b'.');
        follows_slash = byte == b'/';
        !is_odd
    })
}

/// One way to read a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) path: String,
    /// Whether it has lost segments to `..` or `.`.
    pub(super) has_lost_dots: bool,
}

/// Each reading that differs from the path itself.
///
/// A server may decode what need not be encoded (RFC 3986 section 6.2.2.2), all but slashes, or everything. It may take a
/// backslash for a slash, leave out parameters (`;x`), join empty segments, and resolve dots (section 5.2.4), in any combination.
/// None if these are more than [`MAX_COMBINED`] bytes together: no caller may keep a worker busy with one path. A path that is
/// only encoded has no combinations, so its length does not matter.
pub(super) fn readings(path: &str) -> Option<Vec<Reading>> {
    let mut all = vec![Reading { path: path.to_owned(), has_lost_dots: false }];
    all.extend(
        [Decoding::Unreserved, Decoding::AllButSlashes, Decoding::All]
            .map(|decoding| Reading { path: decode(path, decoding), has_lost_dots: false }),
    );
    let mut combined = 0;
    for step in [slash_backslashes, drop_parameters, join, resolve, join] {
        // A reading may take each step or not.
        for place in 0..all.len() {
            let Some(reading) = step(&all[place]) else { continue };
            if all.contains(&reading) {
                continue;
            }
            combined += reading.path.len();
            if combined > MAX_COMBINED {
                return None;
            }
            all.push(reading);
        }
    }
    all.retain(|reading| reading.path != path);
    Some(all)
}

/// The most that the combinations of readings may take together, in bytes: some 0.1 ms of work.
pub(super) const MAX_COMBINED: usize = 16 << 10;

/// Which encoded bytes are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoding {
    Unreserved,
    AllButSlashes,
    All,
}

fn decode(path: &str, decoding: Decoding) -> String {
    let bytes = path.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        let wanted = |byte: &u8| match decoding {
            Decoding::Unreserved => byte.is_ascii_alphanumeric() || b"-._~".contains(byte),
            Decoding::AllButSlashes => !b"/\\".contains(byte),
            Decoding::All => true,
        };
        if let Some(byte) = byte.filter(wanted) {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn slash_backslashes(reading: &Reading) -> Option<Reading> {
    let path = reading.path.contains('\\').then(|| reading.path.replace('\\', "/"))?;
    Some(Reading { path, ..reading.clone() })
}

fn drop_parameters(reading: &Reading) -> Option<Reading> {
    reading.path.contains(';').then(|| {
        let segments = reading.path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        Reading { path: segments.collect::<Vec<_>>().join("/"), ..reading.clone() }
    })
}

fn join(reading: &Reading) -> Option<Reading> {
    reading.path.contains("//").then(|| {
        let mut path = String::with_capacity(reading.path.len());
        for character in reading.path.chars() {
            if character != '/' || !path.ends_with('/') {
                path.push(character);
            }
        }
        Reading { path, ..reading.clone() }
    })
}

fn resolve(reading: &Reading) -> Option<Reading> {
    let segments: Vec<&str> = reading.path.strip_prefix('/')?.split('/').collect();
    if !segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return None;
    }
    let mut kept = Vec::with_capacity(segments.len());
    for (place, segment) in segments.iter().enumerate() {
        let is_last = place + 1 == segments.len();
        match *segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    Some(Reading { path: format!("/{}", kept.join("/")), has_lost_dots: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(path: &str, as_what: &str) -> bool {
        readings(path).expect("they are few").iter().any(|reading| reading.path == as_what)
    }

    #[test]
    fn a_path_is_read_in_every_way_that_some_server_has() {
        for path in [
            "/a/../admin/x",
            "/./admin/x",
            "//admin/x",
            "/admin//x",
            "/%61dmin/x",
            "/a/%2e%2E/admin/x",
            "/a/.%2e/admin/x",
            "/admin%2Fx",
            "/a%2f..%2fadmin/x",
            "/admin%5cx",
            "/admin\\x",
            "/a\\..\\admin\\x",
            "/a/..;/admin/x",
            "/admin;v=1/x",
            "/a//../admin/x",
            "/a//../../admin/x",
            "/../admin/x",
            "/a/%2e%2e%3b/admin/x",
            "/b/.//../admin/x",
        ] {
            assert!(!is_plain(path) && reads(path, "/admin/x"), "{path}: {:?}", readings(path));
        }
        assert!(reads("/admin/.", "/admin/") && reads("/admin/x/..", "/admin/"));
    }

    #[test]
    fn most_paths_have_one_reading() {
        for path in ["/", "/a", "/a/b.html", "/a.b/c..d/", "/~user/a-b_c", "/a:b@c,d=e&f"] {
            assert!(is_plain(path) && readings(path) == Some(Vec::new()), "{path}");
        }
        assert!(!is_plain("/.well-known/x") && readings("/.well-known/x") == Some(Vec::new()));
        assert!(!is_plain("/a%zz") && readings("/a%zz") == Some(Vec::new()));
    }

    #[test]
    fn no_path_has_more_readings_than_a_worker_has_time_for() {
        for length in [2_000, 16_000, 60_000] {
            let odd = "/%2e;\\x/%2f//a/./b;c\\%5c/../d".repeat(length / 30);
            assert_eq!(readings(&odd), None, "{length}");
        }
    }

    #[test]
    fn a_long_path_that_is_only_encoded_is_read_whatever_its_length() {
        let encoded = format!("/files/{}", "%C3%A4%20b/".repeat(5_000));
        assert!(readings(&encoded).is_some_and(|readings| readings.len() <= 3));
        assert!(readings(&format!("/a;v=1/{}", "%20b/".repeat(1_000))).is_some());
    }
}
