//! Holds tests to what they can await: only the files listed here sleep in real time, each for its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{files_of, rust_files};

/// Files of tests that sleep in real time, and why none of them can wait for an event or in paused time.
const SLEEPERS: &[(&str, &str)] = &[
    ("src/app/control/tests.rs", "a worker's silence shows in an answer only: the test asks again"),
    ("src/upstream/admission/tests.rs", "threads race, and random pauses vary the order of their steps"),
    ("src/upstream/outage_queue/tests.rs", "threads race, and random pauses vary the order of their steps"),
    ("src/upstream/pool/tests.rs", "a real connection has to be idle for longer than 10 ms"),
    ("src/worker.rs", "threads of workers change counters that announce nothing: the test asks again"),
    ("tests/it/admission.rs", "users come on a schedule, whatever became of those before"),
    ("tests/it/descriptors.rs", "callers have to be silent for a second, and a flood has to last"),
    ("tests/it/eviction.rs", "how long a connection has been idle or silent decides whether it closes"),
    ("tests/it/health.rs", "no check may come any more, and nothing announces that"),
    ("tests/it/http2.rs", "time limits between a caller's frames; parts of a request that arrive apart"),
    ("tests/it/idle_close.rs", "a close is on its way, and its arrival shows nowhere"),
    ("tests/it/lifecycle/signals.rs", "a stopped process has to miss more time than a worker may"),
    ("tests/it/limits.rs", "the age of an idle connection; answers that take time, so that requests meet"),
    ("tests/it/memory.rs", "memory stands still when it has not grown for a while"),
    ("tests/it/outage.rs", "an outage has a length, and users come on a schedule"),
    ("tests/it/proxy_protocol.rs", "a limit has to pass without effect"),
    ("tests/it/rates.rs", "users come on a schedule, whatever became of those before"),
    ("tests/it/retry/timing.rs", "an upload has to take longer than the deadline"),
    ("tests/it/reuse.rs", "how long a connection has been idle decides whether a POST may use it"),
    ("tests/it/routes.rs", "a head that trickles has to outlast a limit"),
    ("tests/it/support.rs", "`eventually` asks another process again"),
    ("tests/it/support/backend.rs", "a backend that pauses, and one that waits for its peer to leave"),
    ("tests/it/support/command.rs", "the standard library waits for a child without end or not at all"),
    ("tests/it/support/http2.rs", "a GOAWAY shows at the next request only: the caller tries again"),
    ("tests/it/timeouts.rs", "limits between bytes, which one who sends has to keep or to miss"),
    ("tests/it/uploads.rs", "a backend that takes a byte now and then"),
];

#[test]
fn only_what_needs_the_passage_of_real_time_sleeps_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = rust_files(&root.join("src"));
    files.extend(files_of(&root.join("tests"), &["rs"]));
    let sleepers: BTreeSet<_> = files
        .iter()
        .filter_map(|path| {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            let text = fs::read_to_string(path).unwrap();
            sleeps(name, &text).then(|| name.to_owned())
        })
        .collect();
    let listed: BTreeSet<_> = SLEEPERS.iter().map(|(path, _)| (*path).to_owned()).collect();
    let new: Vec<_> = sleepers.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&sleepers).collect();
    assert!(new.is_empty(), "await an event, or use paused time, or state the reason in SLEEPERS: {new:?}");
    assert!(gone.is_empty(), "these sleep no more, or have moved: {gone:?}");
}

/// Whether the tests in a file sleep in real time. A runtime whose time is paused does not.
fn sleeps(path: &str, text: &str) -> bool {
    let is_for_tests = path.starts_with("tests/") || path.contains("/tests") || path.ends_with("testing.rs");
    let tests =
        if is_for_tests { Some(text) } else { text.split_once("mod tests {").map(|(_, tests)| tests) };
    let Some(tests) = tests.filter(|_| !path.starts_with("tests/it/tidy")) else { return false };
    let has_real_runtime = tests.contains(".enable_time()") || tests.contains(".enable_all()");
    let (mut is_real, mut attribute) = (has_real_runtime, None);
    for line in tests.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
        if line.starts_with("#[tokio::test") {
            attribute = Some(!line.contains("start_paused"));
        } else if line.starts_with("fn ") || line.contains(" fn ") {
            is_real = attribute.take().unwrap_or(has_real_runtime);
        }
        let sleeps = ["sleep(", "sleep_until("].iter().any(|call| line.contains(call));
        if line.contains("thread::sleep(") || is_real && sleeps {
            return true;
        }
    }
    false
}

#[test]
fn a_sleep_in_real_time_is_found_and_one_in_paused_time_is_not() {
    let paused = "#[tokio::test(start_paused = true)]\nasync fn a() {\n    sleep(SECOND).await;\n}\n";
    assert!(!sleeps("src/a/tests.rs", paused));
    assert!(sleeps("src/a/tests.rs", &paused.replace("(start_paused = true)", "")));
    assert!(sleeps("tests/it/a.rs", "fn a() {\n    std::thread::sleep(SECOND);\n}\n"));
    assert!(!sleeps("src/a.rs", "fn a() {\n    thread::sleep(SECOND);\n}\n"), "code that runs may");
    assert!(sleeps("src/a.rs", "mod tests {\n    fn a() {\n        thread::sleep(SECOND);\n    }\n}\n"));
    let helper = "async fn a() {\n    sleep(SECOND).await;\n}\n";
    assert!(!sleeps("src/a/testing.rs", helper), "whose time it is, its callers say");
    assert!(sleeps("src/a/tests.rs", &format!("{helper}fn b() {{\n    builder().enable_time();\n}}\n")));
}
