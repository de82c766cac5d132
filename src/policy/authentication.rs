//! Authentication that is bound to a connection instead of a request: NTLM and Negotiate (RFC 4559 section 6).
//!
//! Such a backend takes every later request on the connection for the user's, whoever sends it. A connection that shows
//! one of these signs therefore carries no other exchange. The evidence is a field of the one request or the one answer.
//! If it is false, it costs the next exchange a new connection, and nobody anything else.

use http::HeaderMap;
use http::header::{AUTHORIZATION, PROXY_AUTHENTICATE, WWW_AUTHENTICATE};

/// Whether a request carries credentials that bind its connection.
pub fn is_begun(headers: &HeaderMap) -> bool {
    // Hashing a name costs more than a look at the few that there are.
    headers.keys().any(|name| *name == AUTHORIZATION)
        && headers.get_all(AUTHORIZATION).iter().any(|value| names_scheme(value.as_bytes()))
}

/// Whether an answer asks for such credentials, or goes on with them.
pub fn is_demanded(headers: &HeaderMap) -> bool {
    let challenges = [WWW_AUTHENTICATE, PROXY_AUTHENTICATE].map(|name| headers.get_all(name));
    challenges.iter().any(|values| values.iter().any(|value| names_scheme(value.as_bytes())))
}

/// Whether this field of an answer shows that its connection is being authenticated, or is already.
///
/// `Persistent-Auth` is Microsoft's word for a connection that stays authenticated (MS-NTHT). `Proxy-Authenticate` comes from
/// no origin by right, but one that sends it means its connection all the same.
#[inline]
pub fn binds_connection(name: &str, value: &[u8]) -> bool {
    // Most names have another length than these three, and are not looked at.
    matches!(name.len(), 15 | 16 | 18) && is_sign(name, value)
}

fn is_sign(name: &str, value: &[u8]) -> bool {
    if name.eq_ignore_ascii_case("www-authenticate") || name.eq_ignore_ascii_case("proxy-authenticate") {
        names_scheme(value)
    } else {
        name.eq_ignore_ascii_case("persistent-auth") && !value.eq_ignore_ascii_case(b"false")
    }
}

/// Whether a list of challenges, or credentials, names such a scheme: NTLM, or Negotiate and its variant Nego2.
///
/// A comma inside a quoted parameter divides the list, too. A word behind it can only add a sign that is not there.
fn names_scheme(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|challenge| {
        let scheme = challenge.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm")
            || scheme.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case(b"nego"))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn map(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn ntlm_and_negotiate_are_found_in_any_case_and_anywhere_in_a_list() {
        for values in [
            &["NTLM"][..],
            &["ntlm TlRMTVNTUAACAAAA"],
            &["Negotiate"],
            &["nEgOtIaTe YII="],
            &["Nego2"],
            &["Basic realm=\"patients\", NTLM"],
            &["Basic realm=\"a\",\tNegotiate,NTLM"],
            &["Digest realm=\"a, b\"", "Negotiate"],
        ] {
            assert!(is_demanded(&map(&WWW_AUTHENTICATE, values)), "{values:?}");
            assert!(is_demanded(&map(&PROXY_AUTHENTICATE, values)), "{values:?}");
            assert!(is_begun(&map(&AUTHORIZATION, values)), "{values:?}");
        }
    }

    #[test]
    fn other_schemes_bind_nothing() {
        for values in
            [&[][..], &[""], &["Basic TlRMTQ=="], &["Bearer ntlm"], &["NTLMv9x"], &["Digest x=\"NTLM\""]]
        {
            assert!(!is_demanded(&map(&WWW_AUTHENTICATE, values)), "{values:?}");
            assert!(!is_begun(&map(&AUTHORIZATION, values)), "{values:?}");
        }
        assert!(!is_begun(&map(&WWW_AUTHENTICATE, &["NTLM"])));
        assert!(!is_demanded(&map(&AUTHORIZATION, &["NTLM"])));
    }

    #[test]
    fn an_answer_that_says_so_binds_its_connection_whatever_its_status() {
        assert!(binds_connection("Persistent-Auth", b"true"));
        assert!(binds_connection("persistent-auth", b"True"));
        assert!(!binds_connection("Persistent-Auth", b"False"));
        assert!(binds_connection("WWW-Authenticate", b"Negotiate oYG2"), "the last step, on a 200");
        assert!(binds_connection("Proxy-Authenticate", b"NTLM"));
        assert!(!binds_connection("WWW-Authenticate", b"Basic realm=\"a\""));
        assert!(!binds_connection("Authorization", b"NTLM"), "no field of an answer");
    }
}
