//! What of a query may be written down: names always, values only where the route allows it.

use crate::record::QueryPolicy;

/// Gives `write` the parts of `query` in order, each value that `policy` does not allow replaced by `***`.
///
/// A word without `=` may itself be a value (`/search?jane+doe`), and is replaced whole. The parts split the
/// query at `&` and `=` only, hence never inside a character.
pub(super) fn pieces(query: &[u8], policy: &QueryPolicy, mut write: impl FnMut(&[u8])) {
    if *policy == QueryPolicy::Full {
        write(query);
        return;
    }
    for (place, parameter) in query.split(|byte| *byte == b'&').enumerate() {
        if place > 0 {
            write(b"&");
        }
        let name_end = parameter.iter().position(|byte| *byte == b'=');
        let name = &parameter[..name_end.unwrap_or(parameter.len())];
        if parameter.is_empty() || allows(policy, name) {
            write(parameter);
            continue;
        }
        if name_end.is_some() {
            write(name);
            write(b"=");
        }
        write(b"***");
    }
}

fn allows(policy: &QueryPolicy, name: &[u8]) -> bool {
    match policy {
        QueryPolicy::Full => true,
        QueryPolicy::Redacted => false,
        QueryPolicy::Only(names) => names.iter().any(|allowed| decoded(name).eq(allowed.bytes())),
    }
}

/// The bytes that a name stands for in a form: `%XX` and `+` undone, anything malformed as it is.
fn decoded(name: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (byte, length) = match *rest {
            [] => return None,
            [b'%', high, low, ..] if let (Some(high), Some(low)) = (digit(high), digit(low)) => {
                (high * 16 + low, 3)
            }
            [b'+', ..] => (b' ', 1),
            [byte, ..] => (byte, 1),
        };
        rest = &rest[length..];
        Some(byte)
    })
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn visible(query: &str, policy: &QueryPolicy) -> String {
        let mut text = Vec::new();
        pieces(query.as_bytes(), policy, |piece| text.extend_from_slice(piece));
        String::from_utf8(text).unwrap()
    }

    fn only(names: &[&str]) -> QueryPolicy {
        QueryPolicy::Only(names.iter().map(|name| Box::from(*name)).collect())
    }

    #[test]
    fn redaction_keeps_names_and_replaces_each_value() {
        let visible = |query| visible(query, &QueryPolicy::Redacted);
        assert_eq!(visible("a=1&b=2"), "a=***&b=***");
        assert_eq!(visible("a=1=2"), "a=***");
        assert_eq!(visible("a="), "a=***");
        assert_eq!(visible("=1"), "=***");
        assert_eq!(visible("&a=1&&"), "&a=***&&");
        assert_eq!(visible("a=1;b=2"), "a=***");
    }

    #[test]
    fn a_bare_word_is_redacted_because_it_may_be_a_value() {
        assert_eq!(visible("jane+doe&page=2", &QueryPolicy::Redacted), "***&page=***");
    }

    #[test]
    fn a_full_query_stays_as_it_is() {
        assert_eq!(visible("a=1&b&&c=%00", &QueryPolicy::Full), "a=1&b&&c=%00");
    }

    #[test]
    fn only_the_listed_parameters_keep_their_values() {
        let policy = only(&["page", "patient id"]);
        assert_eq!(visible("page=2&name=jane&pages=3", &policy), "page=2&name=***&pages=***");
        assert_eq!(visible("%70age=2&p%61g%65=3", &policy), "%70age=2&p%61g%65=3");
        assert_eq!(visible("patient+id=1&patient%20id=2", &policy), "patient+id=1&patient%20id=2");
        assert_eq!(visible("Page=2&page%=3&page%7=4", &policy), "Page=***&page%=***&page%7=***");
        assert_eq!(visible("page&jane", &policy), "page&***");
    }

    proptest! {
        #[test]
        fn no_byte_of_a_redacted_value_appears(
            parameters in prop::collection::vec(("[a-m%+;]{0,8}", "[n-z0-9=%+;/?]{0,12}", any::<bool>()), 0..8),
        ) {
            // Names and values share no letter or digit, so that a byte's presence tells where it came from.
            let query: Vec<_> = parameters
                .iter()
                .map(|(name, value, bare)| if *bare { value.replace('=', "") } else { format!("{name}={value}") })
                .collect();
            for policy in [QueryPolicy::Redacted, only(&["nothing"])] {
                let seen = visible(&query.join("&"), &policy);
                prop_assert!(!seen.contains(|byte| matches!(byte, 'n'..='z' | '0'..='9' | '/' | '?')), "{seen}");
                prop_assert_eq!(seen.split('&').count(), query.len().max(1));
            }
        }
    }
}
