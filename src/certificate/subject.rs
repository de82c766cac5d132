//! Distinguished names as RFC 4514 writes them, in printable ASCII only: they go into log lines and into a header.

use std::fmt::Write;

use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The name, the most specific part first. Whatever a value holds, it cannot look like another part of the name, and
/// nothing in it can end a line.
pub fn subject_of(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    // The encoding goes from the country down, the text the other way.
    let parts: Vec<_> = name.iter().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in part.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute);
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok(abbreviation) => text.push_str(abbreviation),
        Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    if let Ok(value) = attribute.as_str() {
        push_value(text, value);
    } else {
        text.push('#');
        for byte in attribute.as_slice() {
            push_hex(text, *byte);
        }
    }
}

/// RFC 4514 section 2.4; what is not printable ASCII is written in hex as well, which the section allows.
fn push_value(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            b'#' if index == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push('\\');
                push_hex(text, byte);
            }
        }
    }
}

fn push_hex(text: &mut String, byte: u8) {
    // Writing into a string does not fail.
    let _ = write!(text, "{byte:02X}");
}

#[cfg(test)]
mod tests {
    use super::push_value;

    #[test]
    fn a_value_cannot_look_like_another_part_of_the_name() {
        let escaped = |value: &str| {
            let mut text = String::new();
            push_value(&mut text, value);
            text
        };
        assert_eq!(escaped("a,O=admin+b"), "a\\,O\\=admin\\+b");
        assert_eq!(escaped(" a #b "), "\\ a #b\\ ");
        assert_eq!(escaped("#1"), "\\#1");
        assert_eq!(escaped("a\r\nb\u{e9}"), "a\\0D\\0Ab\\C3\\A9");
        assert_eq!(escaped(" "), "\\ ");
    }
}
