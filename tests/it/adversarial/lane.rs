//! A proxy between a client and strict backends, on which cases are played one after another.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::backend::{Received, Script, StrictBackend};
use super::cases::{Case, Expect, Kind};
use super::http1::{self, Until};
use super::http2;
use super::judge::{self, Seen};
use crate::support::{Config, Stent, eventually};

/// One proxy and its backends.
pub(super) struct Lane {
    stent: Stent,
    backend: StrictBackend,
    denied: StrictBackend,
    /// How much of the access log has been read.
    log_read: u64,
    canaries: usize,
    /// What every connection to the listener has to begin with.
    prefix: &'static str,
}

impl Lane {
    /// Everything goes to one backend, but for `/admin`, which another answers with 403.
    pub(super) fn new(adjust: impl Fn(Config) -> Config) -> Self {
        let (backend, denied) = (StrictBackend::new(200), StrictBackend::new(403));
        let config = Config::with_endpoints(&[backend.address()])
            .set("cluster.denied.endpoints", vec![format!("http://{}", denied.address())])
            .routes(ROUTES)
            .set("listener.header_timeout", "700ms")
            .set("listener.body_timeout", "700ms")
            .set("listener.write_timeout", "700ms")
            .set("listener.idle_timeout", "20s");
        let stent = Stent::start(&adjust(config));
        Self { stent, backend, denied, log_read: 0, canaries: 0, prefix: "" }
    }

    /// A proxy whose listener wants a PROXY header.
    pub(super) fn behind_balancer() -> Self {
        let lane = Self::new(|config| config.set("listener.proxy_protocol", "required"));
        Self { prefix: "PROXY TCP4 198.51.100.1 192.0.2.1 4711 80\r\n", ..lane }
    }

    /// A proxy that asks for a secret at `/f`.
    pub(super) fn guarded(secret: &Path) -> Self {
        let guard = format!("header = \"X-Origin-Verify\"\nsecret_files = [\"{}\"]", secret.display());
        let route = "[[route]]\nname = \"guarded\"\npath = \"/f\"\ncluster = \"hosp\"\n";
        let routes = format!("{ROUTES}\n{route}[route.origin_guard]\n{guard}\n");
        Self::new(|config| config.routes(&routes))
    }

    /// Plays a case and says what was wrong.
    pub(super) fn play(&mut self, case: &Case) -> Vec<String> {
        let expect = case.expect().expect("a known expectation");
        if case.kind == Kind::H2Frames {
            self.play_frames(case, expect)
        } else {
            self.play_http1(case, expect)
        }
    }

    fn play_http1(&mut self, case: &Case, expect: Expect) -> Vec<String> {
        let marks = (self.backend.count(), self.denied.count());
        let is_answer = case.kind == Kind::BackendResponse;
        if is_answer {
            self.backend.play(Some(Script { bytes: case.bytes(), closes: case.backend_close }));
        }
        let request = case.client_request.as_ref().map_or(USUAL_REQUEST, String::as_bytes);
        let bytes = if is_answer { request.to_vec() } else { case.bytes() };
        let talk = http1::talk(self.stent.listener(), &bytes, until(expect, &bytes));
        self.backend.play(None);
        let (canary_connection, mut wrong) = self.canary();
        let rows = self.rows(talk.answers.len(), &mut wrong);
        let mut requests = self.backend.requests_from(marks.0);
        requests.extend(self.denied.requests_from(marks.1));
        requests.retain(|request| !request.target.starts_with(CANARY));
        wrong.extend(judge::judge(case, expect, &Seen { talk, requests, rows, canary_connection }));
        wrong
    }

    fn play_frames(&mut self, case: &Case, expect: Expect) -> Vec<String> {
        let mark = self.backend.count();
        let (memory, peak) = (self.stent.memory(), self.stent.peak_memory());
        let talk = http2::talk(self.stent.listener(), case, expect);
        // A peak that is no higher than an earlier one says nothing of this case.
        let (now, new_peak) = (self.stent.memory(), self.stent.peak_memory());
        let growth = if new_peak > peak { new_peak } else { now }.saturating_sub(memory);
        let (_, mut wrong) = self.canary();
        let rows = self.rows(0, &mut wrong).len();
        let mut requests = self.backend.requests_from(mark);
        requests.retain(|request| !request.target.starts_with(CANARY));
        wrong.extend(http2::judge(case, expect, &http2::Seen { talk, requests, rows, growth }));
        wrong
    }

    /// A fresh client gets the answer to its own request; the connection on which the backend got it.
    pub(super) fn canary(&mut self) -> (usize, Vec<String>) {
        self.canaries += 1;
        let (target, prefix) = (format!("{CANARY}{}", self.canaries), self.prefix);
        let request = format!("{prefix}GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let talk = http1::talk(self.stent.listener(), request.as_bytes(), Until::Closed);
        let wrong = match &talk.answers[..] {
            [answer] if answer.status == 200 && answer.body == target.as_bytes() => Vec::new(),
            _ => vec![format!("the next client got {talk:?}")],
        };
        let received: Vec<Received> = self.backend.requests_from(0);
        let own = received.iter().rfind(|request| request.target == target);
        (own.map_or(0, |request| request.connection), wrong)
    }

    /// The new lines of the access log, without the canary's, which is the last.
    fn rows(&mut self, answers: usize, wrong: &mut Vec<String>) -> Vec<Value> {
        let mut text = String::new();
        let canary = format!("\"{CANARY}{}\"", self.canaries);
        eventually("the canary's line in the access log", || {
            text.clear();
            let mut file = File::open(self.stent.access_log_path()).ok()?;
            file.seek(SeekFrom::Start(self.log_read)).ok()?;
            file.read_to_string(&mut text).expect("the log is UTF-8");
            let is_whole = text.ends_with('\n') && text.contains(&canary);
            (is_whole && text.lines().count() > answers).then_some(())
        });
        self.log_read += text.len() as u64;
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains(&canary)).collect();
        let rows = lines.iter().map(|line| serde_json::from_str(line).ok()).collect::<Option<Vec<Value>>>();
        rows.unwrap_or_else(|| {
            wrong.push(format!("not JSON: {lines:?}"));
            Vec::new()
        })
    }

    /// What must be true of a proxy that has seen every case: it serves, it counts, and it has given everything back.
    pub(super) fn finish(mut self, memory_before: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        for _ in 0..20 {
            wrong.extend(self.canary().1);
        }
        wrong.extend(self.pooled());
        self.stent.wait_for_metric("stent_downstream_connections", &[], 0.0);
        self.stent.wait_for_metric("stent_requests_in_flight", &[], 0.0);
        let growth = self.stent.memory().saturating_sub(memory_before) >> 20;
        if growth > 64 {
            wrong.push(format!("{growth} MiB of memory did not come back"));
        }
        wrong
    }

    /// Eighty more on connections that stay open.
    fn pooled(&mut self) -> Option<String> {
        let mut client = self.stent.client();
        client.send(self.prefix.as_bytes());
        (0..80).find_map(|number| {
            let path = format!("{CANARY}pooled/{number}");
            let response = client.get(&path);
            (response.text() != path).then(|| format!("a pooled client got {response:?}"))
        })
    }

    pub(super) fn memory(&self) -> u64 {
        self.stent.memory()
    }
}

/// How long to listen: cases that end the connection are heard to its end.
fn until(expect: Expect, bytes: &[u8]) -> Until {
    match expect {
        Expect::ServeAll => {
            Until::Answers(bytes.windows(11).filter(|window| window == b" HTTP/1.1\r\n").count())
        }
        Expect::Reject
        | Expect::CloseWithoutForwarding
        | Expect::ServeFirstThenClose
        | Expect::ServeFirstThenReject => Until::Closed,
        _ => Until::Answers(1),
    }
}

const CANARY: &str = "/canary/";

const USUAL_REQUEST: &[u8] = b"GET /q HTTP/1.1\r\nHost: a\r\n\r\n";

const ROUTES: &str = r#"
[[route]]
name = "denied"
path = "/admin/*"
cluster = "denied"

[[route]]
name = "everything"
path = "/*"
cluster = "hosp"
max_body = "10MiB"
"#;
