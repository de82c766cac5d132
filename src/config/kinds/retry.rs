//! Kinds of values that decide on attempts: statuses, errors, methods, hedges, limits.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use http::Method;
use serde_json::json;
use toml::Spanned;

use crate::config::bounds::WAIT;
use crate::config::effective::{list, quote};
use crate::config::kinds::{Collection, Custom, Kind, Shape, TEXT, TEXT_OR_WHOLE};
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, did_you_mean};
use crate::config::units::show_duration;
use crate::error::ErrorClass;
use crate::policy::admission::Limit;
use crate::policy::grpc::{GrpcStatus, GrpcStatusSet};
use crate::policy::hedge::{HedgeAfter, Percentile};
use crate::policy::settings::{ErrorSet, StatusSet};
use crate::route::redirect::Redirect;

/// Statuses and ranges of them.
pub(in crate::config) fn statuses() -> Statuses {
    Statuses
}

/// See [`statuses`].
pub(in crate::config) struct Statuses;

impl Kind for Statuses {
    type Value = StatusSet;

    fn field(&self, table: &mut Table<'_>, key: &'static str) -> Field<StatusSet> {
        let ranges = table.list(key, read_statuses);
        ranges.map(|ranges| ranges.into_iter().flat_map(Spanned::into_inner).collect())
    }

    fn show(&self, value: &StatusSet) -> String {
        show_statuses(value)
    }

    fn shape(&self) -> Shape {
        let (name, bounds) = ("status or range".to_owned(), "100 to 599".to_owned());
        Shape { name, bounds, schema: json!({ "type": ["integer", "string"] }) }.in_list()
    }
}

fn read_statuses(item: &Item<'_>) -> Result<RangeInclusive<u16>, Fault> {
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

/// Writes statuses as the configuration does, runs of three and more as ranges.
pub(crate) fn show_statuses(statuses: &StatusSet) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for status in statuses.iter() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == status => *last = status,
            _ => runs.push((status, status)),
        }
    }
    list(runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("\"{first}-{last}\""),
    }))
}

impl Collection<ErrorClass> for ErrorSet {
    fn items(&self) -> Vec<ErrorClass> {
        self.iter().collect()
    }
}

impl Collection<GrpcStatus> for GrpcStatusSet {
    fn items(&self) -> Vec<GrpcStatus> {
        self.iter().collect()
    }
}

/// A status of gRPC, by name or number.
pub(in crate::config) fn grpc_status() -> Custom<GrpcStatus> {
    Custom {
        name: "gRPC status",
        types: TEXT_OR_WHOLE,
        read: read_grpc_status,
        show: |status| quote(status.name()),
    }
}

fn read_grpc_status(item: &Item<'_>) -> Result<GrpcStatus, Fault> {
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

/// A method.
pub(in crate::config) fn method() -> Custom<Method> {
    Custom { name: "method", types: TEXT, read: read_method, show: |method| quote(method.as_str()) }
}

fn read_method(item: &Item<'_>) -> Result<Method, Fault> {
    let text = item.text()?;
    let method = Method::from_bytes(text.as_bytes());
    let method = method.map_err(|_| item.invalid("not a method", "a method is a word such as \"GET\""))?;
    let upper = text.to_ascii_uppercase();
    if text != upper && METHODS.contains(&&*upper) {
        let help = format!("write \"{upper}\"");
        return Err(item.invalid("methods are told apart by case, and no caller sends this one", &help));
    }
    Ok(method)
}

/// After what time a safe request is sent once more.
pub(in crate::config) fn hedge() -> Custom<HedgeAfter> {
    Custom { name: "\"off\", percentile or duration", types: TEXT, read: read_hedge, show: show_hedge }
}

fn read_hedge(item: &Item<'_>) -> Result<HedgeAfter, Fault> {
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

fn show_hedge(after: &HedgeAfter) -> String {
    quote(&match after {
        HedgeAfter::Never => "off".to_owned(),
        HedgeAfter::Percentile(percentile) => format!("p{}", percentile.percent()),
        HedgeAfter::Time(time) => show_duration(*time),
    })
}

/// How many attempts a cluster may have in flight.
pub(in crate::config) fn limit() -> Custom<Limit> {
    Custom {
        name: "\"adaptive\", \"off\" or whole number",
        types: TEXT_OR_WHOLE,
        read: read_limit,
        show: |limit| show_limit(*limit),
    }
}

fn read_limit(item: &Item<'_>) -> Result<Limit, Fault> {
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

fn show_limit(limit: Limit) -> String {
    match limit {
        Limit::Fixed(limit) => limit.to_string(),
        other => quote(LIMITS.iter().find(|(_, limit)| *limit == other).map_or("", |(word, _)| word)),
    }
}

/// The status of a redirect.
pub(in crate::config) fn redirect_status() -> Custom<u16> {
    Custom {
        name: "301, 302, 303, 307 or 308",
        types: &["integer"],
        read: read_redirect_status,
        show: u16::to_string,
    }
}

fn read_redirect_status(item: &Item<'_>) -> Result<u16, Fault> {
    let status: u16 = item.integer(0..=u16::MAX)?;
    if Redirect::STATUSES.contains(&status) {
        return Ok(status);
    }
    let help = "308 (for good) or 307 (for now) keep the method; 301, 302 and 303 make a GET of a POST";
    Err(item.invalid("not a status that redirects", help))
}

/// The limits that are no numbers, as the configuration spells them.
const LIMITS: [(&str, Limit); 2] = [("adaptive", Limit::Adaptive), ("off", Limit::Off)];

/// The methods whose misspelling in lower case is certainly one.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];
