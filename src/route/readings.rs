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
pub(super) fn readings(path: &str) -> Vec<Reading> {
    let mut all = vec![Reading { path: path.to_owned(), has_lost_dots: false }];
    all.extend(
        [Decoding::Unreserved, Decoding::AllButSlashes, Decoding::All]
            .map(|decoding| Reading { path: decode(path, decoding), has_lost_dots: false }),
    );
    for step in [slash_backslashes, drop_parameters, join, resolve, join] {
        // A reading may take each step or not.
        let more: Vec<_> = all.iter().filter_map(step).collect();
        for reading in more {
            if !all.contains(&reading) {
                all.push(reading);
            }
        }
    }
    all.retain(|reading| reading.path != path);
    all
}

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
        readings(path).iter().any(|reading| reading.path == as_what)
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
            assert!(is_plain(path) && readings(path).is_empty(), "{path}");
        }
        assert!(!is_plain("/.well-known/x") && readings("/.well-known/x").is_empty());
        assert!(!is_plain("/a%zz") && readings("/a%zz").is_empty());
    }
}
