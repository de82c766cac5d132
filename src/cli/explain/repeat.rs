//! What `stent explain` says of whether a request may be sent again, and of what that can mean for it.

use http::{HeaderMap, Method, Version};

use super::Exchange;
use super::page::Page;
use super::request::Request;
use crate::fields::via::Via;
use crate::policy::request::{Repeatable, SendOnce};
use crate::proxy::body::Trust;
use crate::proxy::headers;
use crate::route::RouteSettings;

/// The fields that the backend gets: without the hop-by-hop ones, after the route's rules.
pub(super) fn as_sent(request: &Request, route: &RouteSettings) -> HeaderMap {
    let mut headers = request.headers.clone();
    if let Ok(via) = Via::new("explain") {
        // An expectation that the proxy would refuse changes nothing of what may be repeated.
        let _ = headers::clean_request(&mut headers, Version::HTTP_11, &via, Trust::No);
    }
    route.request_headers.apply(&mut headers);
    headers
}

impl Exchange<'_> {
    pub(super) fn show_repeatable(&self, page: &mut Page) {
        let method = &self.request.method;
        match (self.repeatable, self.policy.idempotency_key(&self.headers)) {
            (Repeatable::Always, Some(name)) => page
                .more(format_args!("it carries {name}: sent again even if the backend may have acted on it")),
            (Repeatable::Always, None) => page.more(format_args!(
                "{method} is in `methods`: sent again even if the backend may have acted on it"
            )),
            (Repeatable::OnlyIfNeverSent(rule), _) => {
                let why = match rule {
                    SendOnce::Authentication => "its Authorization authenticates a connection".to_owned(),
                    SendOnce::Condition => "it has a precondition, which a second copy would fail".to_owned(),
                    SendOnce::Method => format!("{method} is not in `methods`"),
                };
                page.more(format_args!("{why}: sent again only if nothing of it was sent"));
                if rule == SendOnce::Authentication {
                    page.more(format_args!("its connection: its own, closed after the answer"));
                } else {
                    self.show_reuse(page);
                }
                return;
            }
        }
        if !method.is_safe() && self.policy.max_attempts > 1 {
            page.more(format_args!(
                "an attempt whose connection broke may still be carried out by the backend, after a later one"
            ));
        }
        if *method == Method::DELETE && self.policy.max_attempts > 1 {
            page.more(format_args!("a DELETE that is sent again may get 404 for what was a success"));
        }
    }
}
