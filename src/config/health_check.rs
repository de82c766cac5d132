//! `[cluster.NAME.health_check]`: read and checked.

use std::ops::Range;
use std::time::Duration;

use http::Method;
use http::uri::{Authority, PathAndQuery};
use toml::Spanned;

use crate::config::raw::ANY_DURATION;
use crate::config::reader::{Field, Item, Table};
use crate::config::report::{Fault, Faults};
use crate::config::units::show_duration;
use crate::config::values;
use crate::policy::health::{InvalidRhythm, Rhythm};
use crate::policy::retry::StatusSet;
use crate::upstream::health::HealthCheck as Settings;

/// The table as the file has it.
pub(super) struct HealthCheck {
    header: Range<usize>,
    path: Field<PathAndQuery>,
    host: Field<Authority>,
    method: Field<Chosen>,
    interval: Field<Duration>,
    timeout: Field<Duration>,
    statuses: Field<StatusSet>,
    unhealthy_after: Field<u32>,
    healthy_after: Field<u32>,
}

/// A method that changes nothing.
#[derive(Clone, Copy)]
enum Chosen {
    Get,
    Head,
}

impl HealthCheck {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let check = Self {
            header: table.header(),
            path: table.field("path", path),
            host: table.field("host", host),
            method: table
                .field("method", |item| item.choice(&[("GET", Chosen::Get), ("HEAD", Chosen::Head)])),
            interval: table.field("interval", |item| item.duration(ANY_DURATION)),
            timeout: table.field("timeout", |item| item.duration(ANY_DURATION)),
            statuses: table
                .list("statuses", values::statuses)
                .map(|ranges| ranges.into_iter().flat_map(Spanned::into_inner).collect()),
            unhealthy_after: table.field("unhealthy_after", |item| item.integer(0..=u32::MAX)),
            healthy_after: table.field("healthy_after", |item| item.integer(0..=u32::MAX)),
        };
        table.finish();
        check
    }
}

/// Builds the check of the cluster whose table is called `cluster`.
pub(super) fn build(check: &HealthCheck, cluster: &str, faults: &Faults) -> Option<Settings> {
    if let Field::Absent = check.path {
        let table = cluster.trim_end_matches(']');
        let message = format!("`{table}.health_check]` has no `path`");
        let fault = Fault::at(check.header.clone(), message, "`path` is missing");
        faults.push(fault.help(
            "add `path = \"/healthz\"`: a path that works exactly while the service does, and costs it little",
        ));
    }
    let statuses = check.statuses.clone().unwrap_or((200..=299).collect());
    if statuses.iter().next().is_none()
        && let Some(span) = check.statuses.span()
    {
        let fault = Fault::at(span, "no answer could pass this check", "empty");
        faults.push(fault.help("leave `statuses` out for \"200-299\""));
    }
    let rhythm = rhythm(check, faults);
    Some(Settings {
        rhythm,
        method: match check.method.clone().unwrap_or(Chosen::Get) {
            Chosen::Get => Method::GET,
            Chosen::Head => Method::HEAD,
        },
        path: check.path.given()?.get_ref().clone(),
        host: check.host.given().map(|host| host.get_ref().clone()),
        statuses,
    })
}

/// Builds the rhythm. Its constructor stops at the first error, so each one is reported and mended until it goes through;
/// the mended value is never used.
fn rhythm(check: &HealthCheck, faults: &Faults) -> Rhythm {
    let default = Rhythm::default();
    let mut is_meant = !check.interval.is_broken();
    let mut interval = check.interval.clone().unwrap_or(default.interval());
    let mut timeout = check.timeout.clone().unwrap_or(Rhythm::usual_timeout(interval));
    let mut unhealthy_after = check.unhealthy_after.clone().unwrap_or(default.unhealthy_after());
    let mut healthy_after = check.healthy_after.clone().unwrap_or(default.healthy_after());
    loop {
        let error = match Rhythm::new(interval, timeout, unhealthy_after, healthy_after) {
            Ok(rhythm) => return rhythm,
            Err(error) => error,
        };
        let at = |span: Option<Range<usize>>, label: &str| {
            span.map(|span| Fault::at(span, error.to_string(), label))
        };
        let fault = match error {
            InvalidRhythm::HealthyAfter => {
                healthy_after = default.healthy_after();
                at(check.healthy_after.span(), "out of bounds")
            }
            InvalidRhythm::Interval => {
                (interval, is_meant) = (default.interval(), false);
                at(check.interval.span(), "out of bounds")
            }
            InvalidRhythm::Timeout => {
                timeout = Rhythm::usual_timeout(interval);
                at(check.timeout.span(), "out of bounds")
            }
            InvalidRhythm::TimeoutNotBelowInterval => {
                let shown = show_duration(interval);
                // That it does not fit a stand-in for what is already reported says nothing.
                let fault = at(check.timeout.span(), "does not fit").filter(|_| is_meant);
                timeout = Rhythm::usual_timeout(interval);
                fault.map(|fault| match check.interval.span() {
                    Some(span) => fault.also(span, "and this"),
                    None => fault.help(format!("`interval` is {shown} by default")),
                })
            }
            InvalidRhythm::UnhealthyAfter => {
                unhealthy_after = default.unhealthy_after();
                at(check.unhealthy_after.span(), "out of bounds")
            }
        };
        if let Some(fault) = fault {
            faults.push(fault);
        }
    }
}

fn path(item: &Item<'_>) -> Result<PathAndQuery, Fault> {
    let text = item.text()?;
    let help = match text {
        _ if text.contains("://") => {
            "a path alone, such as \"/healthz\": every endpoint is asked, and `host` has a key of its own"
        }
        _ if text.contains('#') => "leave out `#` and what follows it: a server is never sent that",
        _ => "write it like \"/healthz\" or \"/healthz?deep=1\"; a space as `%20`",
    };
    let is_plain = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let path = PathAndQuery::try_from(text).ok().filter(|_| is_plain);
    path.ok_or_else(|| item.invalid("not a path", help))
}

fn host(item: &Item<'_>) -> Result<Authority, Fault> {
    let text = item.text()?;
    let host = Authority::try_from(text).ok().filter(|_| !text.contains('@'));
    host.ok_or_else(|| {
        item.invalid(
            "not a host",
            "a name or an address, with a port if need be, and without a scheme: \"hosp.internal\"",
        )
    })
}
