//! What a file may say, what it then means, and (in [`errors`]) what is said about one that may not.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::downstream::settings::Http2Settings;
use crate::policy::admission::AdmissionSettings;
use crate::policy::backoff::{Backoff, Jitter, Mode};
use crate::policy::budget::BudgetSettings;
use crate::policy::ejection::EjectionSettings;
use crate::policy::outage::OutageQueueSettings;
use crate::policy::settings::RetryPolicy;
use crate::testing::generated;

mod errors;

/// Where the texts are that `check` has to say.
const SNAPSHOTS: &str = "src/config/tests/errors";

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:8080\"\n";
const CLUSTER: &str = "[cluster.hosp]\nendpoints = [\"http://10.0.1.10\"]\n";
const ROUTE: &str = "[[route]]\nname = \"all\"\npath = \"/*\"\ncluster = \"hosp\"\n";

const MINIMAL: &str = include_str!("../../config/minimal.toml");
const REFERENCE: &str = include_str!("../../config/reference.toml");
const HOSP: &str = include_str!("../../config/hosp.toml");

/// The example of the design's page on configuration, without what this version cannot do yet.
const EXAMPLE: &str = r#"
[server]
workers = 0
accept_grace = "15s"
finish_grace = "60s"
replay_memory = "256MiB"

[admin]
address = "127.0.0.1:9901"

[log]
level = "info"
format = "auto"

[access_log]
output = "stdout"

[[listener]]
address = "0.0.0.0:8080"
trusted_proxies = ["10.0.0.0/16"]
idle_timeout = "75s"
header_timeout = "10s"
body_timeout = "30s"
max_header_bytes = "64KiB"
max_connections = 10000

[[listener]]
address = "0.0.0.0:8443"

[retry]
max_attempts = 3
statuses = [500, 502]
errors = ["connect", "tls", "reset", "timeout", "protocol", "truncated"]
methods = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]
per_try_timeout = "10s"
body_limit = "1MiB"
backoff = { mode = "adaptive", base = "100ms", factor = 2.0, max = "2s", jitter = "equal", retry_after_max = "5s" }
budget = { ratio = 0.2, min_per_second = 10, window = "10s" }

[cluster.hosp]
endpoints = ["http://10.0.1.10:8080", "http://10.0.2.10:8080"]
connect_timeout = "2s"
idle_timeout = "4s"
max_connections = 1024
balance = "p2c"
[cluster.hosp.retry]
max_attempts = 4
idempotency_header = "Idempotency-Key"
budget = { ratio = 0.5 }
[cluster.hosp.ejection]
consecutive_failures = 5
time = "10s"
max_ejected = 0.5

[[route]]
name = "screening"
host = "hosp.example.org"
path = "/api/screenings/{id}"
methods = ["GET", "POST"]
cluster = "hosp"
deadline = "25s"
max_body = "20MiB"
[route.retry]
methods = ["GET", "POST"]

[[route]]
name = "everything-else"
path = "/*"
cluster = "hosp"
"#;

/// Every key away from its default.
const UNUSUAL: &str = r#"
[server]
workers = 3
accept_grace = "0s"
finish_grace = "90s"
replay_memory = "0B"
answer_memory = "1MiB"
via = "stent-1"
[admin]
address = "[::1]:9902"
[log]
level = "trace"
format = "json"
[access_log]
output = "./a \"quoted\" file"
[[listener]]
address = "[::]:0"
trusted_proxies = ["10.0.0.7", "2001:db8::/32"]
idle_timeout = "1500us"
header_timeout = "1ms"
body_timeout = "1h"
write_timeout = "61s"
max_header_bytes = "8KiB"
max_connections = 1
underscores = "refuse"
proxy_protocol = "required"
emit_proxy_status = true
[listener.http2]
enabled = false
max_streams = 1
max_cancelled = 1
stream_window = "65KiB"
connection_window = "64MiB"
send_buffer = "16KiB"
[retry]
statuses = ["502-504", 429, 500, 501]
grpc_statuses = ["unavailable", 8]
errors = []
methods = []
idempotency_header = ""
per_try_timeout = "1s"
body_limit = "0B"
hold = "0B"
hold_time = "1ms"
resume = false
resume_time = "10ms"
hedge = "p99"
backoff = { mode = "fixed", base = "1ms", factor = 1, max = "1ms", jitter = "full", retry_after_max = "0s" }
budget = { ratio = 0.6, min_per_second = 0, window = "1m" }
[cluster."odd.name"]
endpoints = ["https://[::1]:81", "https://hosp.internal"]
protocol = "auto"
connect_timeout = "3s"
idle_timeout = "5s"
unsafe_reuse = "never"
body_timeout = "61s"
max_connections = 7
max_streams = 2
connection_wait = "0s"
max_waiting = 0
max_header_bytes = "1MiB"
dns_refresh = "1m"
balance = "round_robin"
[cluster."odd.name".tls]
server_name = "2001:db8::1"
verification = "off: whoever is on the way can read and change everything"
[cluster."odd.name".ejection]
consecutive_failures = 1
time = "1ms"
max_time = "1ms"
max_ejected = 1
[cluster."odd.name".outage_queue]
max = 0
max_wait = "1ms"
enter_after = 100
[[route]]
name = "a"
host = "*.example.org"
path = "/a/{b}/*"
methods = ["PURGE"]
cluster = "odd.name"
deadline = "1ms"
max_body = "0B"
log_query = ["page", "a\"b"]
[route.retry]
max_attempts = 20
hedge = "20ms"
[[route]]
name = "b"
scheme = "https"
path = "/b"
cluster = "odd.name"
log_query = "full"
[route.request_headers]
remove = ["Cookie"]
set = { "X-Odd.Name" = "a \"quoted\" value" }
add = { X-One = "1", X-Two = "2" }
[route.response_headers]
add = { Link = "</a>; rel=preload" }
[[route]]
name = "moved"
host = "old.example.org"
path = "/*"
redirect = { scheme = "http", host = "[2001:DB8::1]", port = 81, status = 301 }
[[route]]
name = "moved-for-now"
host = "old.example.org"
path = "/now"
redirect = { host = "new.example.org", status = 307 }
log_query = "full"
[route.response_headers]
set = { Cache-Control = "max-age=60" }
"#;

fn accepted(text: &str) -> Config {
    parse(text, "stent.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// Compares the errors of a file with the snapshot of this name. `UPDATE=1` in the environment writes the snapshot.
fn assert_rejected(name: &str, parts: &[&str]) {
    let errors = parse(&parts.concat(), "stent.toml").unwrap_err();
    assert_said(name, &errors.to_string());
}

fn assert_said(name: &str, said: &str) {
    generated(&format!("{SNAPSHOTS}/{name}.txt"), said);
}

#[test]
fn the_design_example_is_read() {
    let config = accepted(EXAMPLE);
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.clusters[0].budget.ratio().to_string(), "0.5");
    assert_eq!(config.clusters[0].budget.min_per_second(), 10);
    assert_eq!(config.routes[0].retry.max_attempts, 4);
    assert_eq!(config.routes[0].retry.methods, ["GET", "POST"]);
    let idempotency_header = Some(http::HeaderName::from_static("idempotency-key"));
    let expected = RetryPolicy { max_attempts: 4, idempotency_header, ..RetryPolicy::default() };
    assert_eq!(config.routes[1].retry, expected);
}

#[test]
fn the_reference_says_the_defaults() {
    let names = MINIMAL.replace("[cluster.hosp]", "[cluster.main]").replace("\"hosp\"", "\"main\"");
    assert_eq!(accepted(REFERENCE), accepted(&names));
}

#[test]
fn a_key_and_the_type_that_it_sets_have_the_same_default() {
    let config = accepted(MINIMAL);
    let ([listener], [cluster], [route]) = (&*config.listeners, &*config.clusters, &*config.routes) else {
        panic!("{config:?}")
    };
    assert_eq!(listener.http2, Http2Settings::default());
    assert_eq!(cluster.ejection, EjectionSettings::default());
    assert_eq!(cluster.outage_queue, OutageQueueSettings::default());
    assert_eq!(cluster.admission, AdmissionSettings::default());
    assert_eq!(cluster.budget, BudgetSettings::default());
    assert_eq!(route.retry, RetryPolicy::default());
}

#[test]
fn the_reference_holds_every_key() {
    // A key that is near to none makes the error list what its table knows.
    let strange = "\nqqqqqqqqqqqqqqqq = 1\n";
    let text = format!(
        "{strange}[server]{strange}[admin]{strange}[log]{strange}[access_log]{strange}[[listener]]{strange}\
         [listener.tls]{strange}[[listener.tls.certificates]]{strange}[retry]{strange}[retry.backoff]{strange}\
         [retry.budget]{strange}[cluster.main]{strange}[cluster.main.retry]{strange}[cluster.main.ejection]{strange}\
         [cluster.main.outage_queue]{strange}[cluster.main.health_check]{strange}\
         [[route]]{strange}[route.retry]{strange}[route.request_headers]{strange}[route.response_headers]{strange}\
         [listener.origin_guard]{strange}[route.origin_guard]{strange}[route.redirect]{strange}"
    );
    let report = parse(&text, "stent.toml").unwrap_err().to_string();
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut table = "";
    for line in report.lines() {
        if let Some((_, name)) = line.split_once(" in ") {
            table = name.trim_matches('`');
        } else if let Some((_, keys)) = line.split_once("known here: ") {
            tables.insert(table, keys.split(", ").map(|key| key.trim_matches('`')).collect());
        }
    }
    assert_eq!(tables.len(), 23, "{report}");

    for (table, keys) in tables {
        // A redirect is written in one line, and its keys stand in it.
        if table == "[route.redirect]" {
            let line = REFERENCE.lines().find(|line| line.starts_with("# redirect = ")).unwrap();
            assert!(keys.iter().all(|key| line.contains(&format!("{key} = "))), "{keys:?}");
            continue;
        }
        // The retry tables of clusters and routes have the keys of the general one, shown once.
        if table == "[cluster.main.retry]" || table == "[route.retry]" || table == "[route.origin_guard]" {
            assert!(REFERENCE.contains(table));
            continue;
        }
        for key in keys {
            let path = table.trim_matches(['[', ']']);
            let header = if path == "the file" { key.to_owned() } else { format!("{path}.{key}") };
            let shown = if table == "the file" { REFERENCE } else { section(REFERENCE, table) };
            let is_key = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            let is_table = [format!("[{header}]"), format!("[[{header}]]"), format!("[{header}.")];
            assert!(
                shown.lines().any(is_key) || is_table.iter().any(|header| REFERENCE.contains(header)),
                "{table} {key}"
            );
        }
    }
}

/// From the table's header to the next one.
fn section<'a>(text: &'a str, header: &str) -> &'a str {
    // What is absent by default stands as a comment.
    let mut starts =
        [format!("\n{header}"), format!("\n# {header}")].into_iter().filter_map(|line| text.find(&line));
    let start = starts.next().unwrap_or_else(|| panic!("{header}")) + 1;
    let ends = ["\n[", "\n# ["].into_iter().filter_map(|line| text[start + 1..].find(line));
    let end = ends.min();
    end.map_or(&text[start..], |end| &text[start..start + 1 + end])
}

#[test]
fn the_file_for_hosp_says_what_its_operator_wants() {
    let config = accepted(HOSP);
    let route = |name: &str| config.routes.iter().find(|route| &*route.name == name).unwrap();
    let cluster = |name: &str| config.clusters.iter().find(|cluster| &*cluster.name == name).unwrap();
    assert_eq!(cluster("hosp").budget.ratio().to_string(), "0.5");
    assert_eq!(cluster("medizone").budget.ratio().to_string(), "0.2");
    assert_eq!(route("screening").retry.max_attempts, 4);
    assert!(route("screening").retry.methods.contains(&http::Method::POST));
    assert!(!route("hosp").retry.methods.contains(&http::Method::POST));
    assert!(route("document-upload").retry.methods.is_empty());
    assert_eq!(route("document-upload").max_body, 512 << 20);
}

#[test]
fn a_retry_table_goes_over_the_lower_ones_field_by_field() {
    let text = "
        [retry]
        max_attempts = 2
        per_try_timeout = \"1s\"
        backoff = { mode = \"fixed\", base = \"10ms\", max = \"1s\", jitter = \"none\" }
        budget = { ratio = 0.1, min_per_second = 1 }
        [[listener]]
        address = \"127.0.0.1:0\"
        [cluster.a]
        endpoints = [\"http://a\"]
        [cluster.a.retry]
        statuses = [503]
        backoff = { base = \"20ms\" }
        budget = { ratio = 0.3 }
        [cluster.b]
        endpoints = [\"http://b\"]
        [[route]]
        name = \"a\"
        path = \"/a\"
        cluster = \"a\"
        [route.retry]
        max_attempts = 5
        backoff = { mode = \"adaptive\", factor = 3.0 }
        [[route]]
        name = \"b\"
        path = \"/b\"
        cluster = \"b\"
    ";
    let config = accepted(text);
    let millis = Duration::from_millis;
    let expected = RetryPolicy {
        max_attempts: 5,
        statuses: [503].into_iter().collect(),
        per_try_timeout: millis(1000),
        backoff: Backoff::new(millis(20), 3.0, millis(1000), Jitter::None).unwrap(),
        ..RetryPolicy::default()
    };
    assert_eq!(config.routes[0].retry, expected);
    let expected = RetryPolicy {
        max_attempts: 2,
        per_try_timeout: millis(1000),
        backoff: Backoff::new(millis(10), 2.0, millis(1000), Jitter::None).unwrap().in_mode(Mode::Fixed),
        ..RetryPolicy::default()
    };
    assert_eq!(config.routes[1].retry, expected);
    let [a, b] = &*config.clusters else { panic!() };
    assert_eq!((a.budget.ratio().to_string(), a.budget.min_per_second()), ("0.3".to_owned(), 1));
    assert_eq!((b.budget.ratio().to_string(), b.budget.min_per_second()), ("0.1".to_owned(), 1));
    assert_eq!(a.failures, [503].into_iter().collect());
    assert_eq!(b.failures, [500, 502].into_iter().collect());
}

#[test]
fn the_effective_configuration_reads_back_to_the_same() {
    for text in [MINIMAL, REFERENCE, HOSP, EXAMPLE, UNUSUAL] {
        let config = accepted(text);
        let written = effective(&config);
        assert_eq!(accepted(&written), config, "{written}");
    }
}

#[test]
fn clusters_keep_the_order_of_the_file() {
    let config = accepted(&[LISTENER, "[cluster.z]\nendpoints = [\"http://z\"]\n", CLUSTER, ROUTE].concat());
    let names: Vec<_> = config.clusters.iter().map(|cluster| &*cluster.name).collect();
    assert_eq!(names, ["z", "hosp"]);
}

#[test]
fn an_address_that_the_system_chooses_clashes_with_none() {
    let any = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    assert_eq!(accepted(&[any, any, CLUSTER, ROUTE].concat()).listeners.len(), 2);
}

#[test]
fn an_error_that_many_routes_inherit_is_reported_once() {
    let route = |name| ROUTE.replace("all", name).replace("/*", &format!("/{name}"));
    let routes = ["a", "b", "c"].map(route).concat();
    let text = ["[retry]\nbackoff = { factor = 0 }\n", LISTENER, CLUSTER, &routes].concat();
    assert_eq!(parse(&text, "stent.toml").unwrap_err().messages().count(), 1);
}

#[test]
fn a_value_that_is_wrong_is_not_called_missing_too() {
    let text = "[[listener]]\naddress = 1\n[cluster.hosp]\nendpoints = 1\n[[route]]\nname = 1\npath = 1\ncluster = 1\n";
    let errors = parse(text, "stent.toml").unwrap_err();
    assert_eq!(errors.messages().count(), 5, "{errors}");
    assert!(errors.messages().all(|message| message.contains("takes")), "{errors}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = load(Path::new("no/such/stent.toml")).unwrap_err().to_string();
    assert!(errors.starts_with("error: cannot read the configuration: "), "{errors}");
    assert!(errors.contains("--> no/such/stent.toml\n"), "{errors}");
    assert!(errors.contains("= help: name a file that this user may read"), "{errors}");
}

#[test]
fn a_file_that_is_not_utf_8_says_where() {
    let path = std::env::temp_dir().join(format!("stent-not-utf-8-{}.toml", std::process::id()));
    std::fs::write(&path, b"[log]\nlevel = \"info\"\n# \xff\n").unwrap();
    let errors = load(&path).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert!(errors.contains("line 3 is not UTF-8"), "{errors}");
}

#[test]
fn a_file_of_another_kind_is_refused_without_a_flood() {
    let text: String = "key = word\n".repeat(2000);
    let report = parse(&text, "stent.toml").unwrap_err().to_string();
    assert_eq!(report.matches("not valid TOML here").count(), 200);
    assert!(report.ends_with("and 1800 more\n\n2000 errors in stent.toml\n"));
}

#[test]
fn a_report_is_coloured_only_on_request() {
    let errors = parse("", "stent.toml").unwrap_err();
    assert!(!errors.to_string().contains('\u{1b}'));
    assert!(errors.render(Colour::Terminal).contains('\u{1b}'));
}

#[test]
fn a_text_cannot_send_escapes_to_the_terminal() {
    let text = "\"\\u001b[31m\" = 1\n# \u{1b}[31m\n[cluster.\"\\u001b]0;x\\u0007\"]\nendpoints = [\"http://\\u001b[31m\"]\n";
    let report = parse(text, "stent.toml").unwrap_err().to_string();
    assert!(!report.contains(['\u{1b}', '\u{7}']), "{report}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_file_is_reported_and_never_panics(
        at in 0usize..UNUSUAL.len(), length in 0usize..40, insert in "[\\[\\]{}=\"'\n#.,a-c0-9é]{0,6}",
    ) {
        let start = UNUSUAL.floor_char_boundary(at);
        let end = UNUSUAL.floor_char_boundary((start + length).min(UNUSUAL.len())).max(start);
        let text = [&UNUSUAL[..start], &*insert, &UNUSUAL[end..]].concat();
        if let Err(errors) = parse(&text, "stent.toml") {
            prop_assert!(errors.messages().count() > 0);
            prop_assert!(errors.to_string().contains("stent.toml"));
        }
    }
}
