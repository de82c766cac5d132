//! The configuration of a test: a template, and the keys that the test sets.

use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

use super::Backend;

/// A configuration file in the making: one listener, the cluster `hosp`, the route `everything`.
#[derive(Clone, Debug)]
pub(crate) struct Config(Table);

impl Config {
    /// Everything goes to `backend`.
    pub(crate) fn new(backend: &Backend) -> Self {
        Self::with_endpoints(&[backend.address()])
    }

    /// Everything goes to these endpoints in turn.
    pub(crate) fn with_endpoints(endpoints: &[SocketAddr]) -> Self {
        let urls: Vec<String> = endpoints.iter().map(|address| format!("http://{address}")).collect();
        Self(TEMPLATE.parse().unwrap()).set("cluster.hosp.endpoints", urls)
    }

    /// Sets a key by its path; in an array of tables, `listener.` and `route.`, it is the first table's.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let (parents, key) = path.rsplit_once('.').expect("a table and a key");
        let mut table = &mut self.0;
        for parent in parents.split('.') {
            let entry = table.entry(parent).or_insert_with(|| Value::Table(Table::new()));
            table = match entry {
                Value::Array(tables) => tables.first_mut().and_then(Value::as_table_mut),
                other => other.as_table_mut(),
            }
            .expect("a table");
        }
        table.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key of `[retry]`.
    pub(crate) fn retry(self, key: &str, value: impl Into<Value>) -> Self {
        self.set(&format!("retry.{key}"), value)
    }

    /// The cluster acts only once on a repeated `Idempotency-Key`.
    pub(crate) fn honouring_keys(self) -> Self {
        self.set("cluster.hosp.retry.idempotency_header", "Idempotency-Key")
    }

    /// Every wait before a retry is `base` long: no growth, no jitter.
    pub(crate) fn backoff(self, base: &str) -> Self {
        self.retry("backoff.base", base).retry("backoff.max", base).retry("backoff.factor", 1.0)
    }

    /// Takes these routes, in TOML, instead of the one.
    pub(crate) fn routes(mut self, routes: &str) -> Self {
        let mut routes: Table = routes.parse().unwrap();
        self.0.insert("route".into(), routes.remove("route").expect("[[route]]"));
        self
    }

    /// Adds a listener with these keys, in TOML.
    pub(crate) fn listener(mut self, keys: &str) -> Self {
        let listeners = self.0.get_mut("listener").and_then(Value::as_array_mut).expect("an array");
        listeners.push(Value::Table(keys.parse().unwrap()));
        self
    }

    /// The file, with its access log at `access_log`.
    pub(crate) fn text(&self, access_log: &Path) -> String {
        let path = access_log.to_str().expect("a path that TOML can hold");
        self.clone().set("access_log.output", path).0.to_string()
    }
}

/// Waits are short and the budget is ample, so that only a test about them meets them.
const TEMPLATE: &str = r#"
[server]
workers = 1
accept_grace = "100ms"
finish_grace = "10s"

[admin]
address = "127.0.0.1:0"

[log]
level = "info"

[[listener]]
address = "127.0.0.1:0"

[retry]
max_attempts = 3
backoff = { mode = "fixed", base = "10ms", factor = 1.0, max = "10ms", jitter = "none" }
budget = { ratio = 10.0, min_per_second = 1000 }

[cluster.hosp.ejection]
consecutive_failures = 100000

[cluster.hosp.outage_queue]
max = 0

[[route]]
name = "everything"
path = "/*"
cluster = "hosp"
"#;
