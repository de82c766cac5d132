//! Values that are more than a number: each reader takes one value of the file to its checked type, or says what is
//! wrong with it and what to write instead.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use toml::Spanned;

use crate::config::raw::WAIT;
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, did_you_mean};
use crate::fields::guard::OriginGuard;
use crate::fields::rules::{InvalidRule, Side};
use crate::policy::admission::Limit;
use crate::policy::grpc::GrpcStatus;
use crate::policy::hedge::{HedgeAfter, Percentile};
use crate::record::QueryPolicy;
use crate::record::log::AccessLogOutput;
use crate::route::redirect::{Redirect, RedirectHost};
use crate::route::{HostPattern, InvalidPattern, PathPattern};
use crate::upstream::endpoint::{EndpointUrl, InvalidEndpoint};

/// Where the access log goes.
pub(super) fn log_output(item: &Item<'_>) -> Result<AccessLogOutput, Fault> {
    match item.text()? {
        "off" => Ok(AccessLogOutput::Off),
        "stdout" => Ok(AccessLogOutput::Stdout),
        // A bare word is more likely a slip than a file beside wherever the process happens to run.
        word if !word.contains(['/', '.']) => {
            let help = format!("\"stdout\", \"off\" or a path; for a file of that name write \"./{word}\"");
            Err(item.invalid("neither a known output nor a path", &help))
        }
        path if path.contains('\0') || path.ends_with('/') => {
            Err(item.invalid("not a file", "give the path of a file, such as \"/var/log/stent/access.log\""))
        }
        path => Ok(AccessLogOutput::File(PathBuf::from(path))),
    }
}

/// An IP address of this machine and a port.
pub(super) fn socket_address(item: &Item<'_>) -> Result<SocketAddr, Fault> {
    let text = item.text()?;
    text.parse().map_err(|_| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let (label, help) = if text.starts_with("http") || text.contains('/') {
            ("not an address", "an address has no scheme and no path: \"0.0.0.0:8080\"".to_owned())
        } else if text.parse::<IpAddr>().is_ok() {
            let shown = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
            ("the port is missing", format!("write \"{shown}:8080\""))
        } else if host.is_empty() {
            ("the IP address is missing", format!("for all interfaces write \"0.0.0.0:{port}\""))
        } else if host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':') {
            let port = if port.is_empty() { "8080" } else { port };
            let help = if host == "localhost" {
                format!("write \"127.0.0.1:{port}\"")
            } else {
                format!("a listener takes an IP address of this machine: \"0.0.0.0:{port}\" for all of them")
            };
            ("a host name", help)
        } else {
            ("not IP:PORT", "write it like \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned())
        };
        item.invalid(label, &help)
    })
}

/// An address or a network.
pub(super) fn network(item: &Item<'_>) -> Result<IpNet, Fault> {
    let text = item.text()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let help = "an address or a network, such as \"10.0.0.7\" or \"10.0.0.0/16\"";
    let network: IpNet = text.parse().map_err(|_| item.invalid("neither an address nor a network", help))?;
    if network != network.trunc() {
        // Which of the two was meant, the one host or its whole network, decides whom we believe.
        let help = format!(
            "write \"{}\" for the network, or \"{}\" for the one address",
            network.trunc(),
            network.addr()
        );
        return Err(item.invalid("an address inside the network, not the network", &help));
    }
    Ok(network)
}

/// A pseudonym for `Via`: a token (RFC 9110 section 7.6.3).
pub(super) fn via(item: &Item<'_>) -> Result<Box<str>, Fault> {
    let text = item.text()?;
    // A method is the same production, `token`, and http already checks it.
    if text.len() > 64 || Method::from_bytes(text.as_bytes()).is_err() {
        return Err(item.invalid(
            "not a token of at most 64 bytes",
            "letters, digits, `-`, `.` and `_`, without spaces: \"stent\"",
        ));
    }
    Ok(text.into())
}

/// A status or a range of them.
pub(super) fn statuses(item: &Item<'_>) -> Result<RangeInclusive<u16>, Fault> {
    if item.whole().is_some() {
        let status = item.integer(100..=599)?;
        return Ok(status..=status);
    }
    let Ok(text) = item.text() else { return Err(item.wrong_type("statuses and ranges of them")) };
    let bound = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|status| digits && (100..=599).contains(status))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (bound(first), bound(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => {
            Err(item.invalid("this range is empty", &format!("write \"{last}-{first}\"")))
        }
        _ => Err(item.invalid(
            "neither a status nor a range of them",
            "a status from 100 to 599, or a range: 502 or \"502-504\"",
        )),
    }
}

/// How many attempts a cluster may have in flight.
pub(super) fn limit(item: &Item<'_>) -> Result<Limit, Fault> {
    if item.whole().is_some() {
        let limit = NonZeroU32::new(item.integer(1..=1_000_000)?);
        return Ok(limit.map_or(Limit::Off, Limit::Fixed));
    }
    match item.text() {
        Ok(word) => LIMITS.iter().find(|(name, _)| *name == word).map(|(_, limit)| *limit).ok_or_else(|| {
            item.invalid(
                "neither a number nor one of its words",
                "\"adaptive\", \"off\", or a number such as 64",
            )
        }),
        Err(_) => Err(item.wrong_type("\"adaptive\", \"off\" or a whole number")),
    }
}

/// The limits that are no numbers, as the configuration spells them.
pub(super) const LIMITS: [(&str, Limit); 2] = [("adaptive", Limit::Adaptive), ("off", Limit::Off)];

/// A status of gRPC, by name or number.
pub(super) fn grpc_status(item: &Item<'_>) -> Result<GrpcStatus, Fault> {
    let status = if item.whole().is_some() {
        GrpcStatus::from_number(item.integer(1..=16)?)
    } else {
        let word = item.text().map_err(|_| item.wrong_type("statuses of gRPC, by name or number"))?;
        GrpcStatus::from_name(word)
    };
    match status {
        Some(status) if status.is_ok() => {
            Err(item.invalid("this is success", "list failures only, such as \"unavailable\""))
        }
        Some(status) => Ok(status),
        None => {
            let names = GrpcStatus::all().filter(|status| !status.is_ok()).map(GrpcStatus::name);
            Err(item.invalid("not a status of gRPC", &did_you_mean(item.text()?, names)))
        }
    }
}

/// After what time a safe request is sent once more.
pub(super) fn hedge(item: &Item<'_>) -> Result<HedgeAfter, Fault> {
    if item.whole().is_some() {
        return item.duration(WAIT).map(HedgeAfter::Time);
    }
    let text = item.text().map_err(|_| item.wrong_type("\"off\", a percentile or a duration"))?;
    let digits = text.strip_prefix('p').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    match (text, digits) {
        ("off", _) => Ok(HedgeAfter::Never),
        (_, Some(digits)) => {
            let percentile = digits.parse().ok().and_then(Percentile::new).map(HedgeAfter::Percentile);
            percentile.ok_or_else(|| {
                item.invalid(
                    "not a percentile from 50 to 99",
                    "\"p95\": once in twenty a second one goes out",
                )
            })
        }
        _ if text.starts_with(|first: char| first.is_ascii_digit()) => {
            item.duration(WAIT).map(HedgeAfter::Time)
        }
        _ => Err(item.invalid(
            "neither a percentile nor a duration",
            "\"off\", a percentile of the route's own answers such as \"p95\", or a time such as \"20ms\"",
        )),
    }
}

/// The list `methods`.
pub(super) fn methods(table: &mut Table<'_>) -> Field<Vec<Method>> {
    let methods = table.list("methods", |item| {
        let text = item.text()?;
        let method = Method::from_bytes(text.as_bytes());
        let method =
            method.map_err(|_| item.invalid("not a method", "a method is a word such as \"GET\""))?;
        let upper = text.to_ascii_uppercase();
        if text != upper && METHODS.contains(&&*upper) {
            let help = format!("write \"{upper}\"");
            return Err(item.invalid("methods are told apart by case, and no caller sends this one", &help));
        }
        Ok(method)
    });
    methods.map(|methods| methods.into_iter().map(Spanned::into_inner).collect())
}

/// The list `upgrades`.
pub(super) fn upgrades(table: &mut Table<'_>) -> Field<Vec<Box<str>>> {
    let protocols = table.list("upgrades", |item| {
        let text = item.text()?.to_ascii_lowercase();
        let name = text.split('/').next().unwrap_or_default();
        if HeaderName::from_bytes(name.as_bytes()).is_err() || text.split('/').count() > 2 {
            return Err(item.invalid("not a protocol", "a name such as \"websocket\""));
        }
        if matches!(name, "h2c" | "h2" | "http" | "tls") {
            // Through such a tunnel a caller would reach every path of the backend, unseen.
            let help = "through a tunnel of HTTP, requests would pass by the routes; leave it out";
            return Err(item.invalid("not a protocol that may be tunnelled", help));
        }
        Ok(text.into_boxed_str())
    });
    protocols.map(|protocols| protocols.into_iter().map(Spanned::into_inner).collect())
}

/// A header name, or none if empty.
pub(super) fn header_name(item: &Item<'_>) -> Result<Option<HeaderName>, Fault> {
    match item.text()? {
        "" => Ok(None),
        name => HeaderName::from_bytes(name.as_bytes()).map(Some).map_err(|_| {
            item.invalid("not a header name", "a name such as \"Idempotency-Key\"; \"\" switches it off")
        }),
    }
}

/// The path of a file.
pub(super) fn file(item: &Item<'_>) -> Result<PathBuf, Fault> {
    match item.text()? {
        path if path.is_empty() || path.contains('\0') || path.ends_with('/') => {
            Err(item.invalid("not a file", "give the path of a file"))
        }
        path => Ok(PathBuf::from(path)),
    }
}

/// The header that brings a secret.
pub(super) fn guard_header(item: &Item<'_>) -> Result<HeaderName, Fault> {
    let help = "a name that nothing else uses, such as \"X-Origin-Secret\"";
    let name = HeaderName::from_bytes(item.text()?.as_bytes());
    let name = name.map_err(|_| item.invalid("not a header name", help))?;
    OriginGuard::check_header(&name).map_err(|error| {
        let label = if name.as_str().contains('_') {
            "an underscore: see `underscores`"
        } else {
            "it means something else"
        };
        item.fault(error.to_string(), label).help(help)
    })?;
    Ok(name)
}

/// A header that a rule removes.
pub(super) fn rule_name(item: &Item<'_>, side: Side) -> Result<HeaderName, Fault> {
    named(item.text()?, side, |message, label| item.fault(message, label))
}

/// A header that a rule sets or adds, and its value.
pub(super) fn rule(
    name: &Spanned<&str>,
    item: &Item<'_>,
    side: Side,
) -> Result<(Spanned<HeaderName>, HeaderValue), Fault> {
    let span = name.span();
    let name = named(name.get_ref(), side, |message, label| Fault::at(span.clone(), message, label))?;
    let text = item.text()?;
    let label = match text {
        "" => "empty",
        _ if text.trim() != text => "a blank at an end, which would get lost",
        _ => "a character that a header cannot carry",
    };
    let is_fit =
        !text.is_empty() && text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let value = HeaderValue::from_str(text).ok().filter(|_| is_fit);
    let value = value.ok_or_else(|| {
        let help = "visible ASCII characters; to take a header away, name it in `remove`";
        item.fault("invalid header value", label).help(help)
    })?;
    Ok((Spanned::new(span, name), value))
}

fn named(text: &str, side: Side, fault: impl Fn(String, &'static str) -> Fault) -> Result<HeaderName, Fault> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| {
        fault(format!("invalid header name `{}`", text.escape_debug()), "not a header name")
            .help("letters, digits and hyphens, such as \"X-Frame-Options\"")
    })?;
    side.check(&name).map_err(|error| {
        let help = match error {
            InvalidRule::Framing => "leave it to Stent; a body, its length and its target pass as they came",
            InvalidRule::Identity => {
                "`trusted_proxies` of the listener decides whose word on it is passed on"
            }
        };
        fault(error.to_string(), "no rule may name it").help(help)
    })?;
    Ok(name)
}

/// Where a redirect leads.
pub(super) fn redirect_host(item: &Item<'_>) -> Result<RedirectHost, Fault> {
    let text = item.text()?;
    RedirectHost::parse(text).map_err(|error| {
        let help = if text.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("in a URL an IPv6 address stands in brackets: \"[{text}]\"")
        } else if text.contains("//") {
            "a name alone: \"new.example.org\"; the scheme has a key of its own".to_owned()
        } else if text.contains(':') {
            "a name alone: \"new.example.org\"; the port has a key of its own".to_owned()
        } else {
            "a name or an address: \"new.example.org\"; path and query are kept as they came".to_owned()
        };
        item.invalid(&error.to_string(), &help)
    })
}

/// The status of a redirect.
pub(super) fn redirect_status(item: &Item<'_>) -> Result<u16, Fault> {
    let status: u16 = item.integer(0..=u16::MAX)?;
    if Redirect::STATUSES.contains(&status) {
        return Ok(status);
    }
    let help = "308 (for good) or 307 (for now) keep the method; 301, 302 and 303 make a GET of a POST";
    Err(item.invalid("not a status that redirects", help))
}

/// The URL of an endpoint.
pub(super) fn endpoint(item: &Item<'_>) -> Result<EndpointUrl, Fault> {
    let text = item.text()?;
    EndpointUrl::parse(text).map_err(|error| {
        let help = match error {
            InvalidEndpoint::Scheme if !text.contains("://") => format!("write \"http://{text}\""),
            InvalidEndpoint::Extra => "leave only `http://HOST:PORT`".to_owned(),
            _ => "write it like \"http://10.0.1.10:8080\" or \"http://hosp.internal:8080\"".to_owned(),
        };
        item.invalid(&error.to_string(), &help)
    })
}

/// The host of a route.
pub(super) fn host(item: &Item<'_>) -> Result<HostPattern, Fault> {
    HostPattern::parse(item.text()?).map_err(|error| pattern(item, error))
}

/// The path of a route.
pub(super) fn path(item: &Item<'_>) -> Result<PathPattern, Fault> {
    PathPattern::parse(item.text()?).map_err(|error| pattern(item, error))
}

fn pattern(item: &Item<'_>, error: InvalidPattern) -> Fault {
    let help = match error {
        InvalidPattern::Host => "a name without scheme, port or path: \"hosp.example.org\"",
        InvalidPattern::PathStart | InvalidPattern::Segment => "write it like \"/api/screenings/{id}\"",
        InvalidPattern::Rest => "for everything below /api write \"/api/*\"",
        InvalidPattern::Character => "write a space as `%20`; a query takes no part in routing",
    };
    item.invalid(&error.to_string(), help)
}

/// Which query values may be logged.
pub(super) fn log_query(item: &Item<'_>) -> Result<QueryPolicy, Fault> {
    if let Some(names) = item.texts() {
        let names: Vec<Box<str>> = names?.into_iter().map(Into::into).collect();
        return Ok(if names.is_empty() { QueryPolicy::Redacted } else { QueryPolicy::Only(names.into()) });
    }
    match item.text().map_err(|_| item.wrong_type("\"redacted\", \"full\" or a list of parameter names"))? {
        "full" => Ok(QueryPolicy::Full),
        "redacted" => Ok(QueryPolicy::Redacted),
        word => {
            let help = did_you_mean(word, ["full", "redacted"]);
            Err(item.invalid(
                "not one of its words",
                &format!("{help}; parameter names go into a list: [\"page\"]"),
            ))
        }
    }
}

/// A size that fits into memory.
pub(super) fn bytes(item: &Item<'_>, bounds: RangeInclusive<u64>) -> Result<usize, Fault> {
    let size = item.size(bounds)?;
    // Only a 32-bit machine gets here, and there as much as it can address is as good as unlimited.
    Ok(usize::try_from(size).unwrap_or(usize::MAX))
}

/// The methods whose misspelling in lower case is certainly one.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
