//! `[cluster.NAME.health_check]`: its keys, and what they make.

use std::time::Duration;

use http::Method;
use http::uri::{Authority, PathAndQuery};

use crate::config::bounds::{ms, s};
use crate::config::kinds::places::{authority, checked_path};
use crate::config::kinds::retry::statuses;
use crate::config::kinds::{Kind, duration, integer, word};
use crate::config::reader::Field;
use crate::config::report::{Fault, Faults};
use crate::config::settings::settings;
use crate::config::spec::{Must, Or};
use crate::config::units::show_duration;
use crate::policy::health::Rhythm;
use crate::policy::settings::StatusSet;
use crate::upstream::settings::HealthCheck as Settings;

settings! {
    /// `[cluster.NAME.health_check]`
    HealthCheck: fields of Settings {
        /// What each endpoint is asked for, on a connection of its own. A query may follow.
        path: Must<PathAndQuery> = checked_path()
            .must(r#""/healthz""#)
            .advice(": a path that works exactly while the service does, and costs it little");
        /// The Host that a check names. Absent: that of the endpoint's URL, for an address IP:PORT.
        host: Field<Authority> = authority().may(r#""hosp.internal""#);
        /// The method of a check.
        method: Or<Method> = word([("GET", Method::GET), ("HEAD", Method::HEAD)]).or(Method::GET);
        /// From check to check at an endpoint, a tenth more or less by chance.
        interval: Or<Duration> = duration(Rhythm::INTERVALS).or(s(5))
            => |check| check.rhythm.interval();
        /// How long a complete answer may take, with connecting; less than `interval`. Absent: 2s, or half of a shorter
        /// interval.
        timeout: Field<Duration> = duration(ms(1)..).may(r#""2s""#) => |check| Some(check.rhythm.timeout());
        /// Answers of an endpoint that works. A redirect is not followed.
        statuses: Or<StatusSet> = statuses().or((200..=299).collect());
        /// Failed checks in a row that take an endpoint out of balancing. The very first check decides alone.
        unhealthy_after: Or<u32> = integer(Rhythm::COUNTS).or(3) => |check| check.rhythm.unhealthy_after();
        /// Passed checks in a row that end that. Checks keep to `max_ejected`, and never take the last endpoint.
        healthy_after: Or<u32> = integer(Rhythm::COUNTS).or(2) => |check| check.rhythm.healthy_after();
    }
}

impl HealthCheck {
    /// The settings.
    pub(super) fn build(&self, faults: &Faults) -> Option<Settings> {
        let path = self.path.value(faults);
        let statuses = self.statuses.value();
        if statuses.iter().next().is_none()
            && let Some(span) = self.statuses.span()
        {
            let fault = Fault::at(span, "no answer could pass this check", "empty");
            faults.push(fault.help("leave `statuses` out for \"200-299\""));
        }
        Some(Settings {
            rhythm: self.rhythm(faults),
            method: self.method.value(),
            path: path?.into_inner(),
            host: self.host.value(),
            statuses,
        })
    }

    fn rhythm(&self, faults: &Faults) -> Rhythm {
        let interval = self.interval.value();
        let timeout = self.timeout.value().unwrap_or(Rhythm::usual_timeout(interval));
        let (unhealthy_after, healthy_after) = (self.unhealthy_after.value(), self.healthy_after.value());
        Rhythm::new(interval, timeout, unhealthy_after, healthy_after).unwrap_or_else(|error| {
            // Each value keeps to its own bounds, so it is two that do not fit. A stand-in for a broken one says nothing.
            if let Some(span) = self.timeout.span().filter(|_| !self.interval.is_broken()) {
                let fault = Fault::at(span, error.to_string(), "does not fit");
                faults.push(match self.interval.span() {
                    Some(span) => fault.also(span, "and this"),
                    None => fault.help(format!("`interval` is {} by default", show_duration(interval))),
                });
            }
            Rhythm::default()
        })
    }
}
