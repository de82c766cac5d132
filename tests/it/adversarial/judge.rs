//! What must follow a case: its expectation, its assertions, and the invariants that hold for every case.

use serde_json::Value;

use super::backend::{Received, all, find};
use super::cases::{Case, Expect, Kind, latin1};
use super::http1::{Answer, Conversation};

/// Both sides of a case that was spoken in HTTP/1.1.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) talk: Conversation,
    /// What either backend got.
    pub(super) requests: Vec<Received>,
    /// The lines of the access log.
    pub(super) rows: Vec<Value>,
    /// The connection on which the backend got the canary that followed.
    pub(super) canary_connection: usize,
}

/// What is wrong; nothing if the case has passed.
pub(super) fn judge(case: &Case, expect: Expect, seen: &Seen) -> Vec<String> {
    let mut wrong = Wrong::default();
    expectation(case, expect, seen, &mut wrong);
    invariants(case, seen, &mut wrong);
    backend_assertions(case, &seen.requests, &mut wrong);
    client_assertions(case, &seen.talk, &mut wrong);
    wrong.0
}

#[derive(Debug, Default)]
pub(super) struct Wrong(pub(super) Vec<String>);

impl Wrong {
    pub(super) fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

fn expectation(case: &Case, expect: Expect, seen: &Seen, wrong: &mut Wrong) {
    let talk = &seen.talk;
    let complete = seen.requests.iter().filter(|request| request.complete).count();
    let statuses: Vec<u16> = talk.answers.iter().map(|answer| answer.status).collect();
    let is_rejected = || is_rejected(case, expect, talk) && complete == 0;
    let holds = match expect {
        Expect::Reject => is_rejected(),
        Expect::Reject403 => statuses == [403] && complete == 0,
        Expect::RejectOrForward => is_rejected() || is_forwarded(case, seen),
        Expect::ForwardNormalised => is_forwarded(case, seen),
        Expect::ForwardUnchanged => is_forwarded(case, seen) && is_unchanged(case, &seen.requests[0]),
        Expect::RouteAndForwardSamePath => is_rejected() || is_forwarded(case, seen) && has_same_path(seen),
        Expect::ServeAll => {
            let targets = targets(&case.bytes());
            let bodies: Vec<String> =
                talk.answers.iter().map(|answer| String::from_utf8_lossy(&answer.body).into()).collect();
            statuses.iter().all(|status| *status == 200) && bodies == targets && complete == targets.len()
        }
        Expect::ServeFirstThenClose => statuses == [200] && talk.closed && complete == 1,
        Expect::ServeFirstThenReject => {
            matches!(statuses[..], [200, 400..=499 | 501 | 505]) && talk.closed && complete == 1
        }
        Expect::ServeFirstThenWait => {
            complete == 1 && (statuses == [200] || matches!(statuses[..], [200, 400..=499]) && talk.closed)
        }
        Expect::Respond502 => statuses == [502],
        Expect::Relay => is_relayed(case, talk),
        Expect::Respond502OrRelay | Expect::RelayThenDiscard => statuses == [502] || is_relayed(case, talk),
        Expect::AbortOr502 => {
            statuses == [502]
                || talk.closed && talk.answers.iter().all(|answer| !answer.complete) && talk.rest.is_empty()
        }
        Expect::Feature => true,
        Expect::ForwardWithClientIp => is_forwarded(case, seen) && has_peer(seen, case.client_ip()),
        Expect::ForwardWithPeerIp => is_forwarded(case, seen) && has_peer(seen, "127.0.0.1"),
        // What follows a good header may have become a request, and been refused as one.
        Expect::CloseWithoutForwarding => {
            talk.closed
                && seen.requests.is_empty()
                && statuses.iter().all(|status| (400..=499).contains(status))
        }
        _ => false,
    };
    wrong.unless(holds, || {
        format!("not {expect:?}: answers {statuses:?}, closed {}, {complete} complete requests", talk.closed)
    });
    if expect == Expect::RelayThenDiscard {
        let used = seen.requests.iter().map(|request| request.connection).max().unwrap_or_default();
        wrong.unless(seen.canary_connection != used, || "the upstream connection was used again".into());
    }
}

/// Whether the request was refused as the case allows.
fn is_rejected(case: &Case, expect: Expect, talk: &Conversation) -> bool {
    match &talk.answers[..] {
        [] => case.no_response_ok && talk.closed && talk.rest.is_empty(),
        [answer] => {
            let listed = case.status.contains(&answer.status);
            let usual = matches!(answer.status, 400..=499 | 501 | 505);
            let is_binding = expect == Expect::Reject && !case.status.is_empty();
            (if is_binding { listed } else { listed || usual }) && answer.complete && talk.rest.is_empty()
                // What has its framing or syntax in doubt must end; what merely is not wanted may go on.
                && (talk.closed || matches!(answer.status, 403 | 404 | 405 | 417 | 421 | 426))
        }
        _ => false,
    }
}

/// Whether exactly one request of the same meaning arrived, and its answer came back.
fn is_forwarded(case: &Case, seen: &Seen) -> bool {
    let complete: Vec<&Received> = seen.requests.iter().filter(|request| request.complete).collect();
    let [request] = complete[..] else { return false };
    let Some((first, more)) = seen.talk.answers.split_first() else { return false };
    let may_have_more = case.alt.is_some() || case.no_second_response_ok;
    let is_more_fine = more.is_empty()
        || may_have_more && seen.talk.closed && more.iter().all(|answer| (400..500).contains(&answer.status));
    let (method, target) = request_line(&case.bytes());
    let is_same = request.method == method && request.target == origin_form(&target);
    matches!(first.status, 200 | 403) && first.complete && is_more_fine && is_same && seen.requests.len() == 1
}

/// The method and target of the first request in `bytes`, as far as they can be told.
fn request_line(bytes: &[u8]) -> (String, String) {
    let mut bytes = bytes;
    if bytes.starts_with(b"PROXY ") {
        bytes = find(bytes, b"\r\n").map_or(bytes, |at| &bytes[at + 2..]);
    }
    if let Some(rest) = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n") {
        let length = usize::from(rest[2]) << 8 | usize::from(rest[3]);
        bytes = rest.get(4 + length..).unwrap_or_default();
    }
    let text: String = bytes.iter().copied().map(char::from).collect();
    let line = text.trim_start_matches("\r\n").lines().next().unwrap_or_default().to_owned();
    let mut words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

fn origin_form(target: &str) -> String {
    match target.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            rest.find(['/', '?']).map_or("/".into(), |at| rest[at..].to_owned())
        }
        _ => target.to_owned(),
    }
}

/// The targets of the pipelined requests in `bytes`, none of which has a body that looks like one.
fn targets(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("\r\n").filter(|line| line.ends_with(" HTTP/1.1"));
    lines.filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect()
}

/// Whether every field that concerns both ends arrived as it was sent.
fn is_unchanged(case: &Case, request: &Received) -> bool {
    let text: String = case.bytes().iter().copied().map(char::from).collect();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let sent: Vec<(&str, &str)> =
        head.split("\r\n").skip(1).filter_map(|line| line.split_once(": ")).collect();
    sent.iter().all(|(name, _)| {
        let sent: Vec<&str> = sent
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
            .collect();
        sent == request.all(name)
    })
}

/// Whether what the routing saw, which stands in the access log, is what the backend got.
fn has_same_path(seen: &Seen) -> bool {
    let path = seen.rows.iter().find_map(|row| row["path"].as_str());
    let target = seen.requests.first().map(|request| request.target.as_str());
    let is_denied = target.is_some_and(|target| target == "/admin" || target.starts_with("/admin/"));
    let was_denied = seen.talk.answers.first().is_some_and(|answer| answer.status == 403);
    path == target && is_denied == was_denied
}

/// Whether the last address that the backend was told is `address`.
fn has_peer(seen: &Seen, address: &str) -> bool {
    let request = &seen.requests[0];
    let last =
        request.all("x-forwarded-for").last().and_then(|value| value.rsplit(',').next()).map(str::trim);
    last == Some(address)
}

/// Whether the client got the status and the body `hello`, strictly framed and nothing hop-by-hop.
fn is_relayed(case: &Case, talk: &Conversation) -> bool {
    let [answer] = &talk.answers[..] else { return false };
    let bytes = case.bytes();
    let text = String::from_utf8_lossy(&bytes);
    let status = text.rsplit("HTTP/1.").next().and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    let is_head = case.client_request.as_deref().is_some_and(|request| request.starts_with("HEAD "));
    let has_body = !is_head && !matches!(answer.status, 204 | 304);
    let body: &[u8] = if has_body { b"hello" } else { b"" };
    let hop_by_hop = ["keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
    answer.status.to_string() == status
        && answer.complete
        && answer.body == body
        && hop_by_hop.iter().all(|name| all(&answer.headers, name).is_empty())
}

/// What holds whatever the case expects.
fn invariants(case: &Case, seen: &Seen, wrong: &mut Wrong) {
    let talk = &seen.talk;
    for request in &seen.requests {
        // Bytes of a body that look like a request never become one.
        wrong.unless(!request.target.starts_with("/smuggled"), || "a request was smuggled".into());
        wrong.unless(request.faults.is_empty(), || format!("the backend got {:?}", request.faults));
        let number = request.answer.to_string();
        let is_seen = talk.answers.iter().any(|answer| all(&answer.headers, "x-answer") == [&*number]);
        // In the cases about answers the backend says nothing of the kind.
        wrong.unless(!request.complete || is_seen || case.kind == Kind::BackendResponse, || {
            format!("nobody saw the answer to {} {}", request.method, request.target)
        });
    }
    for answer in &talk.answers {
        wrong.unless(answer.faults.is_empty(), || format!("the client got {:?}", answer.faults));
        wrong.unless(answer.complete || talk.closed, || "an answer hangs".into());
    }
    wrong
        .unless(talk.rest.is_empty(), || format!("the client got {:?}", String::from_utf8_lossy(&talk.rest)));
    if let Some(answer) = talk.answers.last()
        && matches!(answer.status, 400 | 408 | 413 | 414 | 431 | 501 | 505)
    {
        wrong.unless(talk.closed, || format!("open after a {}", answer.status));
    }
    // A connection that ends without an answer may or may not have been a request.
    let (rows, answers) = (seen.rows.len(), talk.answers.len());
    wrong.unless(rows == answers || answers == 0 && rows == 1, || {
        format!("{rows} rows for {answers} answers")
    });
}

/// The assertions about what the backend got; they hold where nothing was forwarded.
pub(super) fn backend_assertions(case: &Case, requests: &[Received], wrong: &mut Wrong) {
    let assert = &case.assert;
    let complete: Vec<&Received> = requests.iter().filter(|request| request.complete).collect();
    let count = complete.len();
    wrong.unless(assert.backend_complete_requests.is_none_or(|wanted| wanted == count), || {
        format!("{count} complete requests")
    });
    wrong
        .unless(assert.backend_max_requests.is_none_or(|most| count <= most), || format!("{count} requests"));
    wrong.unless(assert.backend_min_requests.is_none_or(|least| count >= least), || {
        format!("{count} requests")
    });
    if let (Some(body), Some(first)) = (&assert.backend_body, complete.first()) {
        wrong.unless(first.body == latin1(body), || {
            format!("the body {:?}", String::from_utf8_lossy(&first.body))
        });
    }
    for request in requests {
        let has = |name: &String| !request.all(name).is_empty();
        let mut field = |holds: bool, name: &str| {
            wrong.unless(holds, || format!("the backend got {name}: {:?}", request.all(name)));
        };
        assert.backend_header_absent.iter().for_each(|name| field(!has(name), name));
        assert.backend_header_present.iter().for_each(|name| field(has(name), name));
        for name in &assert.backend_header_absent_or_set_by_proxy {
            let sent = String::from_utf8_lossy(&case.bytes()).to_lowercase();
            let is_sent = |value: &&str| sent.contains(&format!("{name}: {value}\r\n").to_lowercase());
            field(!request.all(name).iter().any(is_sent), name);
        }
        for (name, wanted) in &assert.backend_header_count {
            // A body may be framed the other way, with no length at all.
            let is_other_framing = name == "content-length" && !request.all("transfer-encoding").is_empty();
            field(request.all(name).len() == *wanted || is_other_framing, name);
        }
        for (name, wanted) in &assert.backend_header_equals {
            let values = request.all(name);
            let is_wanted = |want: &Option<String>| match want {
                Some(want) => values == [want.as_str()],
                None => values.is_empty(),
            };
            field(wanted.iter().any(is_wanted), name);
        }
        for (name, most) in &assert.backend_header_max_len {
            field(request.all(name).iter().all(|value| value.len() <= *most), name);
        }
        for (name, other) in &assert.backend_header_not_equal {
            field(request.all(name).iter().all(|value| value != other), name);
        }
        if assert.backend_forwarded_not_trusted {
            let is_own =
                |value: &str| value.rsplit(',').next().is_some_and(|last| last.contains("127.0.0.1"));
            field(request.all("forwarded").last().is_none_or(|last| is_own(last)), "forwarded");
        }
        let head = String::from_utf8_lossy(&request.raw_head).to_lowercase();
        let trailers = format!("{:?}", request.trailers).to_lowercase();
        for text in &assert.backend_must_not_see {
            let text = text.to_lowercase();
            let is_there = head.contains(&text) || trailers.contains(&text);
            wrong.unless(!is_there, || format!("the backend saw {text:?}"));
        }
        for text in &assert.backend_must_not_see_request {
            wrong.unless(!request.target.contains(text.as_str()), || format!("the backend saw {text:?}"));
        }
        for text in &assert.backend_raw_absent {
            let is_there = contains(&request.raw_head, text) || contains(&request.raw_body, text);
            wrong.unless(!is_there, || format!("the backend got the bytes {text:?}"));
        }
    }
}

fn client_assertions(case: &Case, talk: &Conversation, wrong: &mut Wrong) {
    let assert = &case.assert;
    for answer in &talk.answers {
        let Answer { headers, raw_head, raw_body, .. } = answer;
        for (name, wanted) in &assert.client_header_count {
            let found = all(headers, name);
            wrong.unless(found.len() == *wanted, || format!("the client got {name}: {found:?}"));
        }
        for text in &assert.client_raw_absent {
            let is_there = contains(raw_head, text) || contains(raw_body, text);
            wrong.unless(!is_there, || format!("the client got the bytes {text:?}"));
        }
        if let Some(body) = &assert.client_body {
            wrong.unless(answer.body == latin1(body), || format!("the client got {:?}", answer.body));
        }
    }
    let has_100 = talk.interims.contains(&100);
    wrong.unless(!assert.no_100_to_client || !has_100, || "the client got a 100".into());
}

/// Whether the bytes contain the text, in either case of letters; `\u0000` in it stands for that byte.
fn contains(bytes: &[u8], text: &str) -> bool {
    let needle = latin1(&text.replace("\\u0000", "\0")).to_ascii_lowercase();
    find(&bytes.to_ascii_lowercase(), &needle).is_some()
}
