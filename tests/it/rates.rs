//! How much of a flaky backend's failure users see: the figures that the design promises.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Action, Backend, Client, Config, Line, Stent, alone, ms};

/// p⁴ = 0.81 % of requests fail, and 1 + p + p² + p³ = 1.417 attempts are made for each.
#[test]
fn a_lone_endpoint_that_fails_30_percent_shows_0_81_percent_with_four_attempts() {
    const REQUESTS: usize = 5000;
    let _alone = alone();
    let attempts = Mutex::new(HashMap::<String, u64>::new());
    let backend = Backend::new(move |request| {
        let mut attempts = attempts.lock().unwrap();
        let attempt = attempts.entry(request.target.clone()).or_default();
        *attempt += 1;
        // The fate of an attempt hangs on its request and number alone, so that no order of threads changes a figure.
        let number: u64 = request.target.trim_start_matches('/').parse().unwrap();
        let mut fates = fastrand::Rng::with_seed(number);
        let fate = (0..*attempt).map(|_| fates.f64()).last().unwrap();
        Action::answer(if fate < 0.3 { 502 } else { 200 }, "")
    });
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .retry("max_attempts", 4)
        .retry("backoff.base", "1ms")
        .retry("backoff.jitter", "equal");
    let stent = Stent::start(&config);
    let (next, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = stent.client();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        return;
                    }
                    let status = client.get(&format!("/{number}")).status;
                    assert!(matches!(status, 200 | 502), "{status}");
                    failures.fetch_add(usize::from(status == 502), Ordering::Relaxed);
                }
            });
        }
    });
    let visible = failures.load(Ordering::Relaxed) as f64 / REQUESTS as f64 * 100.0;
    let attempts = backend.requests().len() as f64 / REQUESTS as f64;
    println!("{visible:.2} % visible, {attempts:.3} attempts per request");
    assert!((visible - 0.81).abs() <= 0.25, "{visible} % of requests failed");
    assert!((attempts - 1.42).abs() <= 0.02, "{attempts} attempts per request");
}

/// With the default waits: a cluster that fails one answer in five, singly, is well. Its callers wait for two retries
/// less than the least first wait of the fixed backoff, which is 50 ms.
#[test]
fn where_failures_come_singly_retries_go_almost_at_once() {
    const REQUESTS: usize = 2000;
    let _alone = alone();
    let backend = Backend::new(|request| {
        let number: u64 = request.target.trim_start_matches('/').parse().unwrap();
        let attempt: u64 = request.headers.only("x-stent-attempt").unwrap_or("1").parse().unwrap();
        let fails = fastrand::Rng::with_seed(number * 7 + attempt).f64() < 0.2;
        Action::answer(if fails { 500 } else { 200 }, "")
    });
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .retry("max_attempts", 4)
        .retry("backoff", toml::Table::new());
    let stent = Stent::start(&config);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = stent.client();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        return;
                    }
                    client.get(&format!("/{number}"));
                }
            });
        }
    });
    let recent = stent.metric("stent_cluster_recent_success", &[("cluster", "hosp")]);
    // From the start of the first attempt to that of the second or third: work and waits.
    let lines = stent.access_log(REQUESTS);
    let until = |attempt: usize| {
        let attempts = lines.iter().map(Line::attempts);
        let mut times: Vec<_> = attempts
            .filter_map(|attempts| Some(attempts.get(attempt)?.started - attempts[0].started))
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        times
    };
    let (second, third) = (until(1), until(2));
    let at = |times: &[f64], percent: usize| times[times.len() * percent / 100];
    println!(
        "{} retries: median {:.1} ms, 90 % within {:.1} ms; {} second ones: median {:.1} ms; recent success {recent:.2}",
        second.len(),
        at(&second, 50),
        at(&second, 90),
        third.len(),
        at(&third, 50),
    );
    assert!(second.len() > REQUESTS / 7 && third.len() > REQUESTS / 40, "failures were there to be hidden");
    assert!(at(&second, 90) < 45.0, "{} ms to the first retry", at(&second, 90));
    assert!(at(&third, 50) < 45.0, "{} ms to the second retry", at(&third, 50));
    assert!((0.5..0.97).contains(&recent), "{recent}");
}

/// An open loop of 100 requests per second against a backend that fails wholly for 400 ms in every 5 s, with the default
/// waits and the default budget. Immediate retries would show those 8 %.
#[test]
fn a_burst_of_400_ms_every_5_s_shows_less_than_half_a_percent() {
    const REQUESTS: u32 = 1500;
    const CALLERS: u32 = 100;
    let _alone = alone();
    // The proxy has come up by then, so that no caller begins late.
    let start = Instant::now() + ms(1000);
    let backend = Backend::new(move |_| {
        let time = Instant::now().saturating_duration_since(start).as_millis() % 5000;
        Action::answer(if (2500..2900).contains(&time) { 502 } else { 200 }, "")
    });
    let config = Config::new(&backend)
        .set("server.workers", 2)
        .retry("max_attempts", 4)
        .retry("backoff", toml::Table::new())
        .retry("budget", toml::Table::new());
    let stent = Stent::start(&config);
    let failures = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (stent, failures) = (&stent, &failures);
            scope.spawn(move || {
                let mut client = Client::connect(stent.listener());
                // Each caller's turn comes once a second, more than any answer takes: nobody waits for another.
                for number in (caller..REQUESTS).step_by(CALLERS as usize) {
                    let due = start + Duration::from_millis(10) * number;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    let status = client.get("/").status;
                    assert!(matches!(status, 200 | 502), "{status}");
                    failures.fetch_add(usize::from(status == 502), Ordering::Relaxed);
                }
            });
        }
    });
    let all = f64::from(REQUESTS);
    let visible = failures.load(Ordering::Relaxed) as f64 / all * 100.0;
    let saved = stent.metric("stent_retry_recovered_total", &[]) / all * 100.0;
    println!("{visible:.2} % visible, {saved:.2} % saved");
    assert!(visible < 0.5, "{visible} % of requests failed");
    assert!(saved > 6.0, "the outage was there to be hidden: {saved} % were saved");
}
