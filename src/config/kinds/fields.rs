//! Kinds of values that name header fields and what belongs to them, and the rules on header fields.

use http::{HeaderName, HeaderValue};
use serde_json::json;
use toml::Spanned;

use crate::config::docs::{Form, KeyDoc, Place, Presence, Style};
use crate::config::effective::{key_name, list, quote};
use crate::config::kinds::{Custom, Shape, Single, TEXT};
use crate::config::reader::{Item, Table};
use crate::config::report::{Fault, did_you_mean};
use crate::config::settings::Shown;
use crate::config::spec::Spec;
use crate::fields::claims::claim;
use crate::fields::guard::OriginGuard;
use crate::fields::rules::{self, InvalidRule, Rule, Side};
use crate::fields::{is_hop_by_hop, is_meant_for_proxies};
use crate::record::QueryPolicy;

/// A header name, or none if empty.
pub(in crate::config) fn header_name() -> Custom<Option<HeaderName>> {
    Custom {
        name: "header name, or \"\"",
        types: TEXT,
        read: read_header_name,
        show: |name| show_header_name(name.as_ref()),
    }
}

fn read_header_name(item: &Item<'_>) -> Result<Option<HeaderName>, Fault> {
    match item.text()? {
        "" => Ok(None),
        name => HeaderName::from_bytes(name.as_bytes()).map(Some).map_err(|_| {
            item.invalid("not a header name", "a name such as \"Idempotency-Key\"; \"\" switches it off")
        }),
    }
}

fn show_header_name(name: Option<&HeaderName>) -> String {
    quote(name.map_or("", |name| name.as_str()))
}

/// A header that nothing else needs, or none if empty.
pub(in crate::config) fn subject_header() -> Custom<Option<HeaderName>> {
    Custom {
        name: "header name, or \"\"",
        types: TEXT,
        read: read_subject_header,
        show: |name| show_header_name(name.as_ref()),
    }
}

fn read_subject_header(item: &Item<'_>) -> Result<Option<HeaderName>, Fault> {
    let name = read_header_name(item)?;
    let is_taken = name.as_ref().is_some_and(|name| {
        let name = name.as_str();
        is_hop_by_hop(name)
            || is_meant_for_proxies(name)
            || TAKEN.contains(&name)
            || name.starts_with("x-forwarded-")
            || name.contains(['_', '.'])
    });
    if is_taken {
        let help = "a name of its own, of letters, digits and hyphens, such as \"X-Client-Subject\"";
        return Err(item.invalid("this header has another meaning, or can be mistaken for another", help));
    }
    Ok(name)
}

/// A header in which a proxy vouches for its caller.
pub(in crate::config) fn vouching_header() -> Custom<HeaderName> {
    Custom { name: "header name", types: TEXT, read: read_vouching_header, show: |name| quote(name.as_str()) }
}

fn read_vouching_header(item: &Item<'_>) -> Result<HeaderName, Fault> {
    let text = item.text()?;
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| item.invalid("not a header name", "a name such as \"X-Amzn-Oidc-Identity\""))?;
    if is_meant_for_proxies(name.as_str()) {
        return Err(item.invalid("this header reaches no backend from anybody", "leave it out"));
    }
    if claim(name.as_str()).is_none() {
        let help = "only a header that says who a caller is or how it came needs trust; leave it out";
        return Err(item.invalid("this header is passed on from every caller", help));
    }
    Ok(name)
}

/// The header that brings a secret.
pub(in crate::config) fn guard_header() -> Custom<HeaderName> {
    Custom { name: "header name", types: TEXT, read: read_guard_header, show: |name| quote(name.as_str()) }
}

fn read_guard_header(item: &Item<'_>) -> Result<HeaderName, Fault> {
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

/// A name of a protocol that a connection may change to.
pub(in crate::config) fn upgrade() -> Custom<Box<str>> {
    Custom { name: "protocol", types: TEXT, read: read_upgrade, show: |protocol| quote(protocol) }
}

fn read_upgrade(item: &Item<'_>) -> Result<Box<str>, Fault> {
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
}

/// Which query values may be logged.
pub(in crate::config) fn log_query() -> Custom<QueryPolicy> {
    Custom {
        name: "\"redacted\", \"full\" or list of names",
        types: &["string", "array"],
        read: read_log_query,
        show: show_log_query,
    }
}

fn read_log_query(item: &Item<'_>) -> Result<QueryPolicy, Fault> {
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

fn show_log_query(policy: &QueryPolicy) -> String {
    match policy {
        QueryPolicy::Full => quote("full"),
        QueryPolicy::Redacted => quote("redacted"),
        QueryPolicy::Only(names) => list(names.iter().map(|name| quote(name))),
    }
}

/// A name that something is called by.
pub(in crate::config) fn name() -> Custom<Box<str>> {
    Custom { name: "name", types: TEXT, read: read_name, show: |name| quote(name) }
}

fn read_name(item: &Item<'_>) -> Result<Box<str>, Fault> {
    Ok(item.text()?.into())
}

/// Rules on the header fields of one side.
pub(in crate::config) fn header_rules(side: Side) -> RulesOf {
    RulesOf(side)
}

/// See [`header_rules`].
pub(in crate::config) struct RulesOf(Side);

/// `[route.request_headers]` and `[route.response_headers]`, in which every name and value has been checked.
#[derive(Clone)]
pub(in crate::config) struct HeaderRules {
    side: Side,
    pub(in crate::config) remove: Vec<Spanned<HeaderName>>,
    pub(in crate::config) set: Vec<(Spanned<HeaderName>, HeaderValue)>,
    pub(in crate::config) add: Vec<(Spanned<HeaderName>, HeaderValue)>,
}

impl HeaderRules {
    /// The checked rules.
    pub(in crate::config) fn checked(&self) -> rules::HeaderRules {
        let plain = |fields: &[(Spanned<HeaderName>, HeaderValue)]| {
            fields.iter().map(|(name, value)| (name.get_ref().clone(), value.clone())).collect::<Vec<_>>()
        };
        let remove = self.remove.iter().map(|name| name.get_ref().clone());
        // Each name has been checked where it stands, so that each wrong one has been reported.
        rules::HeaderRules::new(self.side, remove, plain(&self.set), plain(&self.add)).unwrap_or_default()
    }
}

impl Spec for RulesOf {
    type Raw = HeaderRules;
    type Checked = rules::HeaderRules;

    fn read(&self, table: &mut Table<'_>, key: &'static str) -> HeaderRules {
        let side = self.0;
        let mut table = table.table_or_empty(key);
        let mut fields = |key| {
            let table = table.table(key)?;
            Some(table.each(|name, item| rule(name, item, side)))
        };
        let set = fields("set").unwrap_or_default();
        let add = fields("add").unwrap_or_default();
        let remove = table.list("remove", |item| rule_name(item, side)).value().unwrap_or_default();
        table.finish();
        HeaderRules { side, remove, set, add }
    }

    fn show(&self, checked: &rules::HeaderRules) -> Shown {
        if checked.is_empty() {
            return Shown::Nothing;
        }
        let (mut remove, mut set, mut add) = (Vec::new(), Vec::new(), Vec::new());
        // The configuration takes only values that are text.
        let pair = |name: &HeaderName, value: &HeaderValue| {
            format!("{} = {}", key_name(name.as_str()), quote(value.to_str().unwrap_or_default()))
        };
        for rule in checked.iter() {
            match rule {
                Rule::Remove(name) => remove.push(quote(name.as_str())),
                Rule::Set(name, value) => set.push(pair(name, value)),
                Rule::Add(name, value) => add.push(pair(name, value)),
            }
        }
        let fields = |fields: &[String]| Shown::Value(format!("{{ {} }}", fields.join(", ")));
        Shown::Table(vec![
            ("remove", Shown::Value(list(remove))),
            ("set", fields(&set)),
            ("add", fields(&add)),
        ])
    }

    fn describe(&self) -> Form {
        let fields = || Shape {
            name: "table: header name to text".into(),
            bounds: String::new(),
            schema: json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        };
        let key = |name, text, shape, default: &str| {
            KeyDoc::new(name, &[text], Form::Value(shape, Presence::Default(default.into())))
        };
        let names = Single::shape(&guard_header()).in_list();
        Form::Table(
            Style::new(Place::Always),
            vec![
                key("remove", "Every field of these names is removed.", names, "[]"),
                key("set", "Each field takes the place of all fields of its name.", fields(), "{}"),
                key("add", "Each field is added to those of its name.", fields(), "{}"),
            ],
        )
    }
}

/// A header that a rule removes.
fn rule_name(item: &Item<'_>, side: Side) -> Result<HeaderName, Fault> {
    named(item.text()?, side, |message, label| item.fault(message, label))
}

/// A header that a rule sets or adds, and its value.
fn rule(
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

/// Headers that routing, a message's meaning or the client's address rest on, beside those that no proxy passes on.
const TAKEN: [&str; 9] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "via",
    "x-real-ip",
    "x-request-id",
];
