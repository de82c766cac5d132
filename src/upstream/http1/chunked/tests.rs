//! Chunked bodies, good and bad.

use proptest::prelude::*;

use super::*;

type Body = (Vec<u8>, Option<HeaderMap>, usize);

/// Reads a body in pieces of `size`: its data, its trailers, and what was left over.
fn decode(body: &[u8], size: usize) -> Result<Option<Body>, Fault> {
    let mut chunked = Chunked::new();
    let (mut data, mut used) = (Vec::new(), 0);
    for piece in body.chunks(size) {
        let mut piece = piece.to_vec();
        let decoded = chunked.decode(&mut piece)?;
        used += decoded.used;
        data.extend_from_slice(&piece[decoded.data]);
        if chunked.is_ended() {
            return Ok(Some((data, chunked.take_trailers()?, body.len() - used)));
        }
    }
    Ok(None)
}

#[test]
fn chunks_become_what_they_hold_whatever_stands_around_them() {
    for body in [
        "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        "05;a=\"b\"\r\nhello\r\n0000000000000006 \t\r\n world\r\n0 ;x\r\n\r\n",
        "B\r\nhello world\r\n0\r\n\r\n",
        "5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\n\r\n",
    ] {
        let bytes = [body.as_bytes(), b"HTTP"].concat();
        for size in 1..=bytes.len() {
            let (data, trailers, _) = decode(&bytes, size).unwrap().unwrap();
            assert_eq!(data, b"hello world", "{body:?} in pieces of {size}");
            assert_eq!(trailers.is_some(), body.contains("X-Sum"), "{body:?}");
        }
        let (_, trailers, left) = decode(&bytes, bytes.len()).unwrap().unwrap();
        assert_eq!(left, 4, "what follows is none of it");
        if let Some(trailers) = trailers {
            assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
        }
    }
}

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    for body in [
        "5z\r\nhello",
        "\r\n",
        ";a\r\n",
        " 5\r\nhello",
        "+5\r\nhello",
        "0x5\r\nhello",
        "5\nhello",
        "5\rhello",
        "5 5\r\n",
        "5;a\nhello",
        "5;a\0\r\n",
        "5;a\rb\r\n",
        "5\r\nhelloX",
        "5\r\nhello\n",
        "5\r\nhello\rX",
        "10000000000000000\r\n",
        "00000000000000000\r\n",
        "0\r\n\n",
        "0\r\n\rX",
        "0\r\nX: 1\n\r\n",
        "0\r\nX: 1\rY",
        "0\r\nX: 1\r\n Y\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\n: 1\r\n\r\n",
        "0\r\nX: \0\r\n\r\n",
    ] {
        for size in [1, 3, 100] {
            let read = decode(body.as_bytes(), size);
            assert!(matches!(read, Err(Fault::Malformed(_))), "{body:?}: {read:?}");
        }
    }
}

#[test]
fn what_stands_around_chunks_is_bounded() {
    let extension = format!("1;{}\r\na\r\n", "x".repeat(1000));
    let body = extension.repeat(17);
    assert!(matches!(decode(body.as_bytes(), 512), Err(Fault::Malformed(_))));
    let trailers = format!("0\r\n{}", "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(400));
    assert!(matches!(decode(trailers.as_bytes(), 512), Err(Fault::Malformed(_))));
    let many = format!("0\r\n{}\r\n", "X:1\r\n".repeat(MAX_FIELDS + 1));
    assert!(matches!(decode(many.as_bytes(), 512), Err(Fault::Malformed(_))));
    let blanks = format!("1{}\r\n", " ".repeat(MAX_EXTENSIONS + 1));
    assert!(matches!(decode(blanks.as_bytes(), 512), Err(Fault::Malformed(_))));
}

proptest! {
    #[test]
    fn any_data_in_any_chunks_and_any_pieces_comes_out_as_it_went_in(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..12),
        size in 1usize..60,
    ) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        let (data, trailers, left) = decode(&body, size).unwrap().unwrap();
        prop_assert_eq!((data, trailers, left), (chunks.concat(), None, 0));
    }

    #[test]
    fn no_bytes_are_read_differently_in_pieces(body in "([0-9a-fA-F]{0,2}[ ;\\r\\n]{0,3}[a-z0\\r\\n]{0,9}){0,6}", size in 1usize..9) {
        let whole = decode(body.as_bytes(), body.len().max(1));
        let cut = decode(body.as_bytes(), size);
        let data = |read: Result<Option<Body>, Fault>| {
            read.map(|read| read.map(|(data, trailers, _)| (data, trailers)))
        };
        prop_assert_eq!(data(whole), data(cut));
    }
}
