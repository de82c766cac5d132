//! Heads of answers, and what follows them.

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8], question: Question) -> Result<Option<(Head, usize)>, Fault> {
    HeadReader::new(question, 64 << 10).read(bytes)
}

fn framing(head: &str) -> Result<(Framing, Persistence), Fault> {
    framing_for(head, Question::Other)
}

fn framing_for(head: &str, question: Question) -> Result<(Framing, Persistence), Fault> {
    let bytes = format!("HTTP/1.1 {head}\r\n\r\n");
    let (head, used) = read(bytes.as_bytes(), question)?.expect("a whole head");
    assert_eq!(used, bytes.len());
    Ok((head.framing, head.persistence))
}

#[test]
fn a_head_tells_what_follows_it() {
    use Framing::{Chunked, Length, Switched, UntilClosed};
    use Persistence::{Close, Keep};
    for (head, expected) in [
        ("200 OK\r\nContent-Length: 5", (Length(5), Keep)),
        ("200 OK\r\nContent-Length: 5\r\nConnection: close", (Length(5), Close)),
        ("200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\nConnection: keep-alive", (Length(5), Close)),
        ("200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5", (Length(5), Keep)),
        ("200 OK\r\nTransfer-Encoding: Chunked", (Chunked, Keep)),
        ("200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", (Chunked, Close)),
        ("200 OK", (UntilClosed, Close)),
        ("204 No Content\r\nContent-Length: 5", (Length(0), Keep)),
        ("304 Not Modified\r\nTransfer-Encoding: chunked", (Length(0), Keep)),
        ("101 Switching Protocols\r\nUpgrade: x", (Switched, Close)),
        ("401 Unauthorized\r\nContent-Length: 5\r\nWWW-Authenticate: Basic realm=\"a\"", (Length(5), Keep)),
        (
            "401 Unauthorized\r\nContent-Length: 5\r\nWWW-Authenticate: Basic realm=\"a\", ntlm",
            (Length(5), Close),
        ),
        ("200 OK\r\nTransfer-Encoding: chunked\r\nPersistent-Auth: true", (Chunked, Close)),
    ] {
        assert_eq!(framing(head), Ok(expected), "{head}");
    }
    for head in ["200 OK\r\nContent-Length: 5", "200 OK\r\nTransfer-Encoding: chunked", "404 Not Found"] {
        assert_eq!(framing_for(head, Question::Head), Ok((Length(0), Keep)), "{head}");
    }
}

#[test]
fn an_old_server_closes_unless_it_says_otherwise() {
    let of = |fields: &str| {
        let bytes = format!("HTTP/1.0 200 OK\r\n{fields}\r\n");
        read(bytes.as_bytes(), Question::Other).map(|read| read.expect("a whole head").0)
    };
    let head = of("Content-Length: 2\r\n").unwrap();
    assert_eq!((head.framing, head.persistence), (Framing::Length(2), Persistence::Close));
    assert_eq!(head.response.version(), Version::HTTP_10);
    let head = of("Content-Length: 2\r\nConnection: keep-alive\r\n").unwrap();
    assert_eq!(head.persistence, Persistence::Keep);
    let fault = of("Transfer-Encoding: chunked\r\n").unwrap_err();
    assert_eq!(fault, Fault::Malformed("a transfer coding in HTTP/1.0"));
}

#[test]
fn a_length_or_a_coding_that_two_readers_could_take_differently_is_refused() {
    for fields in [
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: ",
        "Content-Length: 5 5",
        "Content-Length: 5,",
        "Content-Length: 5, 6",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 6\r\nContent-Length: 5\r\nContent-Length: 6",
        "Content-Length: x\r\nContent-Length: 5",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: ",
    ] {
        let read = framing(&format!("200 OK\r\n{fields}"));
        assert!(matches!(read, Err(Fault::Malformed(_))), "{fields:?}: {read:?}");
    }
}

#[test]
fn what_is_no_head_is_refused() {
    for bytes in [
        "HTTP/2.0 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 X\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n X: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "garbage without any structure\r\n\r\n",
    ] {
        let read = read(bytes.as_bytes(), Question::Other);
        assert!(matches!(read, Err(Fault::Malformed(_))), "{bytes:?}: {read:?}");
    }
}

#[test]
fn a_space_before_a_colon_goes_no_further() {
    let head = "HTTP/1.1 200 OK\r\nX-One \t: a\r\nContent-Length : 5\r\n\r\n";
    let (head, _) = read(head.as_bytes(), Question::Other).unwrap().unwrap();
    assert_eq!(head.response.headers()["x-one"], "a");
    assert!(matches!(head.framing, Framing::Length(5)));
}

#[test]
fn a_head_over_a_limit_is_too_large_in_whatever_pieces_it_comes() {
    let fits = format!("HTTP/1.1 204 OK\r\nX: {}\r\n\r\n", "a".repeat(976));
    assert_eq!(fits.len(), 1000);
    let large = format!("HTTP/1.1 204 OK\r\nX: {}\r\n\r\n", "a".repeat(977));
    let many = format!("HTTP/1.1 204 OK\r\n{}\r\n", "a:\r\n".repeat(MAX_FIELDS + 1));
    for size in [1, 7, 999, 1000, 4000] {
        let read = |text: &str| {
            let mut reader = HeadReader::new(Question::Other, 1000);
            let mut pieces = text.as_bytes().chunks(size);
            pieces.find_map(|piece| reader.read(piece).transpose()).transpose().map(|read| read.is_some())
        };
        assert_eq!(read(&fits), Ok(true), "pieces of {size}");
        assert_eq!(read(&large), Err(Fault::HeadTooLarge), "pieces of {size}");
        assert_eq!(read(&many), Err(Fault::HeadTooLarge), "pieces of {size}");
    }
}

#[test]
fn interim_answers_are_passed_over_up_to_a_number() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: x\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let most = [interim.repeat(MAX_INTERIMS as usize), last.to_owned()].concat();
    let (head, used) = read(most.as_bytes(), Question::Other).unwrap().unwrap();
    assert_eq!((head.response.status().as_u16(), used), (200, most.len()));
    let too_many = interim.repeat(MAX_INTERIMS as usize + 1);
    assert_eq!(
        read(too_many.as_bytes(), Question::Other).unwrap_err(),
        Fault::Malformed("interim answers without end")
    );
}

#[test]
fn a_connection_that_ends_inside_a_head_leaves_it_incomplete_or_shows_what_was_wrong() {
    for (bytes, fault) in [
        ("", Fault::Incomplete),
        ("HTTP/1.1 200 OK\r\nX", Fault::Incomplete),
        ("HTTP/1.1 103 Early\r\n\r\n", Fault::Incomplete),
        ("HTTP/1.1 200 OK\r\nX Y", Fault::Malformed("not the head of an answer")),
    ] {
        let mut reader = HeadReader::new(Question::Other, 1000);
        let read = bytes.bytes().find_map(|byte| reader.read(&[byte]).err());
        assert_eq!(read.unwrap_or_else(|| reader.end()), fault, "{bytes:?}");
    }
}

#[test]
fn the_fields_come_as_they_are_and_a_reason_of_its_own_is_kept() {
    let bytes = b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nX-Empty:\r\nSet-Cookie: b=\xff2 \r\n\r\nbody";
    let (head, used) = read(bytes, Question::Other).unwrap().unwrap();
    assert_eq!(used, bytes.len() - 4);
    let headers = head.response.headers();
    let cookies: Vec<_> = headers.get_all("set-cookie").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(cookies, [&b"a=1"[..], b"b=\xff2"]);
    assert_eq!(headers["x-empty"], "");
    let reason = head.response.extensions().get::<ReasonPhrase>().unwrap();
    assert_eq!(reason.as_bytes(), b"Fine");
    let (head, _) = read(b"HTTP/1.1 200 OK\r\n\r\n", Question::Other).unwrap().unwrap();
    assert!(head.response.extensions().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic_or_take_more_than_came(bytes in "(HTTP/1\\.[01] [0-9]{3} )?[\\x00-\\x7f]{0,80}") {
        if let Ok(Some((_, used))) = read(bytes.as_bytes(), Question::Other) {
            prop_assert!(used <= bytes.len());
        }
    }
}
