//! The cases as they stand in the file, and what each may expect and assert.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// One case.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) kind: Kind,
    #[serde(default)]
    raw: Option<String>,
    #[serde(default)]
    raw_runs: Vec<(String, usize, usize)>,
    expect: String,
    #[serde(default)]
    pub(super) status: Vec<u16>,
    #[serde(default)]
    pub(super) assert: Assertions,
    pub(super) why: String,
    #[serde(default)]
    pub(super) alt: Option<String>,
    #[serde(default)]
    pub(super) no_response_ok: bool,
    #[serde(default)]
    pub(super) no_second_response_ok: bool,
    #[serde(default)]
    pub(super) client_request: Option<String>,
    #[serde(default)]
    pub(super) backend_close: bool,
    #[serde(default)]
    pub(super) repeat_unit: Option<String>,
    #[serde(default)]
    pub(super) repeat_times: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    BackendResponse,
    H1Request,
    H1Sequence,
    H2Frames,
    ProxyProtocol,
    Scenario,
}

/// Conditions beside the outcome. One that is not listed here makes the file unreadable, on purpose.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Assertions {
    pub(super) backend_body: Option<String>,
    pub(super) backend_complete_requests: Option<usize>,
    pub(super) backend_forwarded_not_trusted: bool,
    pub(super) backend_header_absent: Vec<String>,
    pub(super) backend_header_absent_or_set_by_proxy: Vec<String>,
    pub(super) backend_header_count: BTreeMap<String, usize>,
    pub(super) backend_header_equals: BTreeMap<String, Vec<Option<String>>>,
    pub(super) backend_header_max_len: BTreeMap<String, usize>,
    pub(super) backend_header_not_equal: BTreeMap<String, String>,
    pub(super) backend_header_present: Vec<String>,
    pub(super) backend_max_requests: Option<usize>,
    pub(super) backend_min_requests: Option<usize>,
    pub(super) backend_must_not_see: Vec<String>,
    pub(super) backend_must_not_see_request: Vec<String>,
    pub(super) backend_raw_absent: Vec<String>,
    pub(super) client_body: Option<String>,
    pub(super) client_header_count: BTreeMap<String, usize>,
    pub(super) client_raw_absent: Vec<String>,
    pub(super) max_rss_growth_mb: Option<u64>,
    pub(super) no_100_to_client: bool,
    // These three repeat an invariant or the expectation, which are judged for every case.
    #[serde(rename = "acl_path_equals_backend_path")]
    _acl_path_equals_backend_path: bool,
    #[serde(rename = "backend_strict")]
    _backend_strict: bool,
    #[serde(rename = "next_client_gets_own_response")]
    _next_client_gets_own_response: bool,
}

/// When a case has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    AbortOr502,
    /// A feature's own tests judge it; here only the invariants do.
    Feature,
    CloseWithoutForwarding,
    ForwardNormalised,
    ForwardUnchanged,
    ForwardWithClientIp,
    ForwardWithPeerIp,
    GoawayAndClose,
    RefusedStream,
    Reject,
    Reject403,
    RejectOrForward,
    Relay,
    RelayThenDiscard,
    RequestTimeout,
    Respond502,
    Respond502OrRelay,
    RouteAndForwardSamePath,
    ServeAll,
    ServeFirstThenClose,
    ServeFirstThenReject,
    ServeFirstThenWait,
    StreamError,
    StreamErrorUnlessEnabled,
    StreamTimeout,
    TrailersFiltered,
}

impl Case {
    /// The outcome that the case asks for; none if nobody has taught us the word.
    pub(super) fn expect(&self) -> Option<Expect> {
        let (word, argument) = self.expect.split_once(' ').unwrap_or((&self.expect, ""));
        let expect = match word {
            "abort-or-502" => Expect::AbortOr502,
            "close-without-forwarding" => Expect::CloseWithoutForwarding,
            "forward-normalised" => Expect::ForwardNormalised,
            "forward-unchanged" => Expect::ForwardUnchanged,
            "forward-with-client-ip" if !argument.is_empty() => return Some(Expect::ForwardWithClientIp),
            "forward-with-peer-ip" => Expect::ForwardWithPeerIp,
            "goaway-and-close-bounded" => Expect::GoawayAndClose,
            "refused-stream-above-limit" => Expect::RefusedStream,
            "reject-403-when-origin-secret-required" => Expect::Reject403,
            "reject-4xx-and-close" => Expect::Reject,
            "reject-or-forward-normalised" | "sanitise-or-reject" => Expect::RejectOrForward,
            "relay-normalised" => Expect::Relay,
            "relay-then-discard-upstream-connection" => Expect::RelayThenDiscard,
            "request-timeout" => Expect::RequestTimeout,
            "respond-502" => Expect::Respond502,
            "respond-502-or-relay-normalised" => Expect::Respond502OrRelay,
            "route-and-forward-same-path" => Expect::RouteAndForwardSamePath,
            "serve-all-in-order-bounded" | "serve-both-in-order" => Expect::ServeAll,
            "serve-first-then-close" => Expect::ServeFirstThenClose,
            "serve-first-then-reject-and-close" => Expect::ServeFirstThenReject,
            "serve-first-then-wait-or-close" => Expect::ServeFirstThenWait,
            "stream-error-or-400-nothing-forwarded" => Expect::StreamError,
            "stream-error-unless-enabled" => Expect::StreamErrorUnlessEnabled,
            "stream-timeout-frees-buffers" => Expect::StreamTimeout,
            "trailers-dropped-or-filtered" => Expect::TrailersFiltered,
            _ => return super::features::is_judged_elsewhere(&self.id).then_some(Expect::Feature),
        };
        argument.is_empty().then_some(expect)
    }

    /// The address in `forward-with-client-ip X`.
    pub(super) fn client_ip(&self) -> &str {
        self.expect.split_once(' ').map_or("", |(_, address)| address)
    }

    /// The bytes to send.
    pub(super) fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return latin1(raw);
        }
        let pieces = self.raw_runs.iter().flat_map(|(text, times, first)| {
            (*first..first + times).map(move |n| text.replace("{n}", &n.to_string()))
        });
        latin1(&pieces.collect::<String>())
    }
}

/// The characters of a text as the bytes of the same number.
pub(super) fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).expect("Latin-1")).collect()
}

/// Reads the file; what cannot be understood is named by its id.
pub(super) fn load() -> Vec<Case> {
    let path = path();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let values: Vec<Value> = serde_json::from_str(&text).expect("a list of cases");
    let mut wrong = Vec::new();
    let mut cases: Vec<Case> = Vec::new();
    for value in values {
        let id = value["id"].as_str().unwrap_or("a case without id").to_owned();
        match serde_json::from_value::<Case>(value) {
            Ok(case) if case.kind != Kind::Scenario && case.expect().is_none() => {
                wrong.push(format!("{id}: unknown expectation {:?}", case.expect));
            }
            Ok(case) if cases.iter().any(|other| other.id == id) => wrong.push(format!("{}: twice", case.id)),
            Ok(case) => cases.push(case),
            Err(error) => wrong.push(format!("{id}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", path.display());
    cases
}

/// The file that the environment names, or the one beside the checkout, or our copy of it.
fn path() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(path) = std::env::var_os("STENT_ADVERSARIAL_CASES") {
        return path.into();
    }
    let beside = root.join("../shared/adversarial/cases.json");
    if beside.exists() { beside } else { root.join("tests/adversarial/cases.json") }
}
