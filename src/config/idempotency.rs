//! What `idempotency_header` rests on: the word of one backend, and a key for each request.

use http::HeaderName;
use toml::Spanned;

use crate::config::keys::File;
use crate::config::kinds::fields::HeaderRules;
use crate::config::report::{Fault, Faults};
use crate::config::settings::Layered;

/// Reports what makes an idempotency key an empty promise.
pub(super) fn check(file: &File, faults: &Faults) {
    let of_all = &file.retry.idempotency_header;
    if let Some(header) = of_all.given().filter(|header| header.get_ref().is_some()) {
        let message =
            "`idempotency_header` in `[retry]` promises for every cluster that it honours idempotency keys";
        faults.warn_at(
            Fault::at(header.span(), message, "for all clusters").help(
                "set it in `[cluster.NAME.retry]` of each cluster that acts only once on a repeated key",
            ),
        );
    }
    for route in file.route.list().iter().map(Spanned::get_ref) {
        let name = route.cluster.value();
        let cluster =
            file.cluster.list().iter().find(|cluster| Some(cluster.name.get_ref()) == name.as_ref());
        let of_cluster = cluster.map(|cluster| cluster.retry.idempotency_header.over(of_all));
        let header = route.retry.idempotency_header.over(of_cluster.as_ref().unwrap_or(of_all));
        if let Some(header) = header.given()
            && let Some(name) = header.get_ref()
        {
            varies(name, header, &route.request_headers, faults);
        }
    }
}

/// A rule writes the same value into every request: a backend that honours it would act on the first one only.
fn varies(name: &HeaderName, header: &Spanned<Option<HeaderName>>, rules: &HeaderRules, faults: &Faults) {
    for (rule, _) in rules.set.iter().chain(&rules.add).filter(|(rule, _)| rule.get_ref() == name) {
        faults.push(
            Fault::at(rule.span(), "an idempotency key that is the same for every request", "is no key")
                .also(header.span(), "which makes every request repeatable")
                .help(
                    "leave the key to the caller, or give this route `retry = { idempotency_header = \"\" }`",
                ),
        );
    }
}
