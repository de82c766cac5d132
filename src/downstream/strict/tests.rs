//! Which heads hyper gets unreadable, and that nothing else changes.

use proptest::prelude::*;

use super::*;

/// What hyper gets of these bytes if they come in pieces of this length, where nothing asks for another protocol.
fn passed(bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut heads = StrictHeads::default();
    let mut bytes = bytes.to_vec();
    for piece in bytes.chunks_mut(piece) {
        heads.look(piece);
    }
    bytes
}

fn refuses(head: &str) -> bool {
    let is_changed = |piece: usize| passed(head.as_bytes(), piece) != head.as_bytes();
    let whole = is_changed(head.len());
    assert!((1..head.len()).all(|piece| is_changed(piece) == whole), "it depends on how it is cut: {head:?}");
    whole
}

#[test]
fn a_bare_lf_in_a_head_is_refused() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na\ncGET / HTTP/1.1\nHost: a\r\n\r\n",
    ] {
        assert!(refuses(head), "{head:?}");
    }
}

#[test]
fn both_framings_in_one_head_are_refused_in_whatever_order() {
    for head in [
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\ncontent-length:3\r\nX: y\r\nTRANSFER-ENCODING:chunked\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding:\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nPUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert!(refuses(head), "{head:?}");
    }
}

#[test]
fn bodies_and_what_follows_them_pass_unchanged_however_they_are_cut() {
    let requests = "\r\nGET /1 HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nConnection: keep-alive\r\n\r\n\
        PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0012\r\n\r\na\nb\n\nGET / \n\
        PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n\
        A ;x=\"y\"\r\n\n\n\n\n\n\n\n\n\n\n\r\n1\r\n\n\r\n0\r\nX: \ny\r\n\r\n\
        PUT /4 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n\n\n\
        PUT /5 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /6 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(!refuses(requests));
    // Each of them was seen as what it is: a fault in the last one is found.
    assert!(refuses(&requests.replace("GET /6 HTTP/1.1\r\n", "GET /6 HTTP/1.1\n")));
}

#[test]
fn what_follows_a_request_for_another_protocol_passes_and_is_judged_when_that_is_refused() {
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
    for (follows, may_stay) in [
        ("", true),
        ("GET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET", true),
        ("GET /2 HTTP/1.1\nHost: a\r\n\r\n", false),
    ] {
        let whole = [ask, follows].concat().into_bytes();
        for piece in [1, 7, 1000] {
            let mut heads = StrictHeads::default();
            let mut passed = whole.clone();
            passed.chunks_mut(piece).for_each(|piece| heads.look(piece));
            assert_eq!(passed, whole);
            assert_eq!(heads.stay(), may_stay, "{follows:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_body_of_any_bytes_passes_and_the_next_head_is_found(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        size in 1usize..40,
        piece in 1usize..60,
    ) {
        let plain = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut chunked = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(size) {
            chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        for mut request in [[plain.into_bytes(), body.clone()].concat(), chunked] {
            request.extend_from_slice(b"GET / HTTP/1.1\r\nHost: a\n");
            let mut expected = request.clone();
            *expected.last_mut().unwrap() = 0;
            prop_assert_eq!(passed(&request, piece), expected);
        }
    }
}
