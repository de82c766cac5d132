//! Which requests may be sent again after the backend may have acted on them: [`RetryPolicy::repeatable`].
//!
//! # Invariant
//!
//! Stent judges whether a request may be repeated on the head as it is sent. Held by
//! `only_exactly_one_key_that_reaches_the_backend_makes_a_post_repeatable` and
//! `a_conditional_write_is_judged_as_the_backend_sees_it`.

use http::{HeaderMap, HeaderName, Method};

use crate::policy::authentication;
use crate::policy::request::{Repeatable, SendOnce};
use crate::policy::settings::RetryPolicy;

impl RetryPolicy {
    /// Whether a request may be repeated after the upstream may have acted on it. `headers` are those that are sent, after
    /// the hop-by-hop fields have gone and the route's rules have been applied.
    ///
    /// RFC 9110 section 9.2.2: a proxy must not automatically retry non-idempotent requests. A PUT or DELETE with a
    /// precondition is one of them: the first attempt changes what the second is compared with (section 13.1.1). Only an
    /// idempotency key allows its repetition, since `methods` lists PUT and DELETE by default.
    pub fn repeatable(&self, method: &Method, headers: &HeaderMap) -> Repeatable {
        if authentication::is_begun(headers) {
            Repeatable::OnlyIfNeverSent(SendOnce::Authentication)
        } else if self.idempotency_key(headers).is_some() {
            Repeatable::Always
        } else if !self.methods.contains(method) {
            Repeatable::OnlyIfNeverSent(SendOnce::Method)
        } else if is_conditional_write(method, headers) {
            Repeatable::OnlyIfNeverSent(SendOnce::Condition)
        } else {
            Repeatable::Always
        }
    }

    /// The header that holds the request's idempotency key: exactly one value, and not an empty one.
    pub fn idempotency_key(&self, headers: &HeaderMap) -> Option<&HeaderName> {
        let name = self.idempotency_header.as_ref()?;
        let mut values = headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        is_one_key(value.as_bytes()).then_some(name)
    }
}

/// Whether a value is one key. Two of them in one field, with a comma between, are as ambiguous as two fields are.
fn is_one_key(value: &[u8]) -> bool {
    let value = value.trim_ascii();
    match value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        Some(quoted) => !quoted.trim_ascii().is_empty() && !quoted.contains(&b'"'),
        None => !value.is_empty() && !value.contains(&b','),
    }
}

/// Whether a request has a precondition that its own first attempt may have made false.
fn is_conditional_write(method: &Method, headers: &HeaderMap) -> bool {
    !matches!(*method, Method::GET | Method::HEAD) && headers.keys().any(is_precondition)
}

/// RFC 9110 section 13.1, and those of RFC 4918 section 10.4 (`WebDAV`) and RFC 6638 section 8.3 (`CalDAV`).
/// `If-Modified-Since` and `If-Range` mean nothing on a write.
fn is_precondition(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "if" | "if-match" | "if-none-match" | "if-schedule-tag-match" | "if-unmodified-since"
    )
}

#[cfg(test)]
mod tests;
