//! Malformed, ambiguous and hostile traffic, from a file of cases: `tests/adversarial/README.md` says what they are.
//!
//! One proxy plays one case at a time; several proxies play side by side. All failures are told at once, by id.

use std::collections::BTreeMap;
use std::sync::Mutex;

use self::cases::{Case, Expect, Kind};
use self::lane::Lane;
use crate::support::TempDir;

mod backend;
mod cases;
mod features;
mod http1;
mod http2;
mod judge;
mod lane;

#[test]
fn every_http1_case_gives_what_it_expects() {
    let kinds = [Kind::H1Request, Kind::H1Sequence, Kind::BackendResponse];
    let is_usual = |case: &Case| case.id != HTTP1_ONLY && case.id != GUARDED;
    run(&kinds, is_usual, 3, || Lane::new(|config| config));
}

#[test]
fn a_wrong_secret_is_refused_where_the_origin_is_guarded() {
    let directory = TempDir::new();
    let file = directory.path().join("secret");
    std::fs::write(&file, "the secret of the origin\n").unwrap();
    run(&[Kind::H1Request], |case| case.id == GUARDED, 1, || Lane::guarded(&file));
}

#[test]
fn the_preface_of_http2_is_refused_where_that_is_switched_off() {
    let new_lane = || Lane::new(|config| config.set("listener.http2.enabled", false));
    run(&[Kind::H1Request], |case| case.id == HTTP1_ONLY, 1, new_lane);
}

#[test]
fn every_http2_case_gives_what_it_expects() {
    run(&[Kind::H2Frames], |_| true, 2, || Lane::new(|config| config));
}

#[test]
fn every_case_of_the_proxy_protocol_gives_what_it_expects() {
    run(&[Kind::ProxyProtocol], |_| true, 2, Lane::behind_balancer);
}

/// The case that is about a route with an origin guard.
const GUARDED: &str = "FW-11";

/// The case that is about a listener without HTTP/2.
const HTTP1_ONLY: &str = "RL-26";

/// Cases that fail for now, and what they wait for. One that passes must go from here.
const OPEN: &[(&str, &str)] =
    &[("H2-35", "h2 drops pseudo-headers in trailers unseen; the backend gets the request without them")];

/// Plays all cases of these kinds on `lanes` proxies, and prints and judges the outcome.
fn run(kinds: &[Kind], choose: impl Fn(&Case) -> bool, lanes: usize, new_lane: impl Fn() -> Lane + Sync) {
    let only = std::env::var("STENT_ADVERSARIAL_ONLY").ok();
    let is_asked =
        |id: &str| only.as_ref().is_none_or(|only| only.split(',').any(|start| id.starts_with(start)));
    let wanted = |case: &Case| kinds.contains(&case.kind) && choose(case) && is_asked(&case.id);
    let cases: Vec<Case> = cases::load().into_iter().filter(wanted).collect();
    let queue = Mutex::new(cases.iter());
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for number in 0..lanes {
            let (queue, failures, new_lane) = (&queue, &failures, &new_lane);
            scope.spawn(move || {
                let mut lane = new_lane();
                let memory = lane.memory();
                loop {
                    let Some(case) = queue.lock().unwrap().next() else { break };
                    let wrong = lane.play(case);
                    if !wrong.is_empty() {
                        failures.lock().unwrap().insert(case.id.clone(), (case.why.clone(), wrong));
                    }
                }
                let wrong = lane.finish(memory);
                if !wrong.is_empty() {
                    failures.lock().unwrap().insert(format!("after proxy {number}"), (String::new(), wrong));
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    for (id, what) in OPEN.iter().filter(|(id, _)| cases.iter().any(|case| case.id == *id)) {
        match failures.remove(*id) {
            Some(_) => println!("{id} is open: {what}"),
            None => {
                failures.insert((*id).into(), ("it passes, but is listed as open".into(), Vec::new()));
            }
        }
    }
    for kind in kinds {
        let all = cases.iter().filter(|case| case.kind == *kind);
        let is_open = |id: &str| OPEN.iter().any(|(open, _)| *open == id);
        let (open, judged): (Vec<&Case>, Vec<_>) = all.partition(|case| is_open(&case.id));
        let failed = judged.iter().filter(|case| failures.contains_key(&case.id)).count();
        // Of these only the invariants are judged here; `features` says who judges the rest.
        let elsewhere = judged.iter().filter(|case| case.expect() == Some(Expect::Feature)).count();
        let passed = judged.len() - failed;
        println!(
            "{kind:?}: {passed} passed, {failed} failed, {} open ({elsewhere} by invariants only)",
            open.len()
        );
    }
    assert!(failures.is_empty(), "{} failed:\n{failures:#?}", failures.len());
}
