//! Headers whole, in pieces, and wrong.

use super::*;

/// What a connection that begins with `bytes` comes to: whom it names, and how much of it is the header.
fn whole(bytes: &[u8]) -> Result<(Option<String>, usize), Refusal> {
    match Header::default().take(bytes)? {
        Progress::Whole { taken, named } => Ok((named.map(|address| address.to_string()), taken)),
        Progress::Partial => Err(Refusal::Closed),
    }
}

fn version_2(version_and_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [v2::PROTOCOL_PREFIX, &[version_and_command, family][..], &length, payload].concat()
}

const IPV4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0xc7, 0x38, 0x01, 0xbb];

fn ipv4_with(fields: &[u8]) -> Vec<u8> {
    version_2(0x21, 0x11, &[&IPV4, fields].concat())
}

#[test]
fn version_1_names_the_source() {
    for (line, named) in [
        ("PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n", Some("203.0.113.7:51000")),
        ("PROXY TCP6 2001:db8::7 fd00::1 51000 443\r\n", Some("[2001:db8::7]:51000")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
    ] {
        let bytes = [line.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(whole(&bytes), Ok((named.map(str::to_owned), line.len())), "{line:?}");
    }
}

#[test]
fn version_2_names_the_source() {
    let ipv6: Vec<u8> = "2001:db8::7"
        .parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets()
        .into_iter()
        .chain([0; 16])
        .chain([0xc7, 0x38, 0x01, 0xbb])
        .collect();
    for (header, named) in [
        (ipv4_with(&[]), Some("203.0.113.7:51000")),
        (version_2(0x21, 0x21, &ipv6), Some("[2001:db8::7]:51000")),
        (ipv4_with(b"\xea\x00\x0c\x01vpce-012345"), Some("203.0.113.7:51000")),
        (version_2(0x20, 0x00, &[]), None),
        (version_2(0x20, 0x11, &IPV4), None),
        (version_2(0x20, 0x00, b"\x01\x00\xff"), None),
        (version_2(0x21, 0x00, &[]), None),
        (version_2(0x21, 0x31, &[0; 216]), None),
    ] {
        let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(whole(&bytes), Ok((named.map(str::to_owned), header.len())), "{header:?}");
    }
}

#[test]
fn a_header_that_comes_byte_by_byte_is_the_same_header() {
    for header in
        [b"PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\r\n".to_vec(), ipv4_with(b"\xea\x00\x0c\x01vpce-012345")]
    {
        let mut partial = Header::default();
        let (last, first) = header.split_last().unwrap();
        for byte in first {
            assert_eq!(partial.take(&[*byte]), Ok(Progress::Partial));
        }
        let named = Some("203.0.113.7:51000".parse().unwrap());
        assert_eq!(partial.take(&[*last]), Ok(Progress::Whole { taken: 1, named }));
    }
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for bytes in
        ["GET / HTTP/1.1\r\n\r\n", "P0", "PROXI", "PROXY\r\n", "\x16\x03\x01", "\r\n\r\n\0\r\nQUIX", "\n"]
    {
        assert_eq!(whole(bytes.as_bytes()), Err(Refusal::Absent), "{bytes:?}");
    }
}

#[test]
fn a_malformed_header_is_refused() {
    for line in [
        "PROXY TCP4 203.0.113.7 10.0.0.1 51000\r\n",
        "PROXY TCP4 999.0.0.1 10.0.0.1 1 2\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 51000 443 \r\n",
        "PROXY TCP4 203.0.113.7  10.0.0.1 51000 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 051000 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 +51000 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 66000 443\r\n",
        "PROXY TCP4 2001:db8::7 fd00::1 51000 443\r\n",
        "PROXY TCP6 203.0.113.7 10.0.0.1 51000 443\r\n",
        "PROXY TCP5 203.0.113.7 10.0.0.1 51000 443\r\n",
        "PROXY \r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 51000 443\rx\n",
        "PROXY UNKNOWN\r x\r\n",
    ] {
        assert_eq!(whole(line.as_bytes()), Err(Refusal::Malformed), "{line:?}");
    }
    for header in [
        version_2(0x31, 0x11, &IPV4),
        version_2(0x22, 0x11, &IPV4),
        version_2(0x21, 0x41, &IPV4),
        version_2(0x21, 0x13, &IPV4),
        version_2(0x21, 0x11, &IPV4[..4]),
        version_2(0x21, 0x21, &IPV4),
        ipv4_with(b"\x01\x00\xff"),
        ipv4_with(b"\x01\x00"),
    ] {
        assert_eq!(whole(&header), Err(Refusal::Malformed), "{header:?}");
    }
}

#[test]
fn an_over_long_header_is_refused_before_it_has_come() {
    let line = [b"PROXY TCP4 ", &[b'1'; 97][..]].concat();
    assert_eq!(whole(&line), Err(Refusal::TooLong));
    assert_eq!(whole(&line[..107]), Err(Refusal::Closed), "107 bytes are allowed");
    let header = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff][..]].concat();
    assert_eq!(whole(&header), Err(Refusal::TooLong));
}

#[test]
fn a_checksum_must_be_right() {
    let mut header = ipv4_with(b"\x03\x00\x04\x00\x00\x00\x00");
    assert_eq!(whole(&header), Err(Refusal::Malformed));
    let sum = crc32c(&header);
    let place = header.len() - 4;
    header[place..].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(whole(&header).map(|(named, _)| named), Ok(Some("203.0.113.7:51000".into())));
    header[place] ^= 1;
    assert_eq!(whole(&header), Err(Refusal::Malformed));
    assert_eq!(whole(&ipv4_with(b"\x03\x00\x03\x00\x00\x00")), Err(Refusal::Malformed));
    // The check value of the CRC catalogue.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_take_more_than_there_is(
        prefix in 0..3usize,
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
    ) {
        let bytes = [[&b""[..], b"PROXY TCP4 ", v2::PROTOCOL_PREFIX][prefix], &rest].concat();
        if let Ok((_, taken)) = whole(&bytes) {
            assert!(taken <= bytes.len());
        }
    }
}
