//! What single steps of the pipeline take: `cargo bench --features bench --bench micro [FILTER]`.
//!
//! These are times, so compare them with others of the same machine on the same day only. What a change costs in all
//! tells `bench/instructions.py`, which counts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use stent::bench::{self, Pipeline, Work};
use stent::error::{Delivery, ErrorClass, Origin};
use stent::fields::Scheme;
use stent::fields::via::Via;
use stent::policy::outcome::Outcome;
use stent::policy::request::{BodyState, Repeatable, SendOnce};
use stent::policy::retry::{Circumstances, Untried};
use stent::policy::settings::RetryPolicy;
use stent::proxy::pieces::ReplayMemory;
use stent::record::Record;
use stent::record::metrics::Metrics;
use stent::route::{HostPattern, PathPattern, Pattern, RouteTable};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// The program's own: what is measured allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A table of fifty routes, asked for its first, its last and none.
fn route(c: &mut Criterion) {
    let pattern = |host: Option<&str>, path: &str| Pattern {
        scheme: None,
        host: host.map(|host| HostPattern::parse(host).expect("a host")),
        path: PathPattern::parse(path).expect("a path"),
        methods: None,
    };
    let named = (0..49).map(|number| pattern(Some("hosp.example.org"), &format!("/api/{number}/{{id}}")));
    let routes = named.chain([pattern(None, "/public/*")]).enumerate();
    let table = RouteTable::new(routes.map(|(number, pattern)| (pattern, number)));
    let mut group = c.benchmark_group("route");
    for (name, path) in [("first", "/api/0/7"), ("last", "/public/logo.svg"), ("none", "/admin")] {
        group.bench_function(name, |b| {
            b.iter(|| {
                black_box(table.find(|| Scheme::Http, "hosp.example.org", black_box(path), &Method::GET));
            });
        });
    }
    group.finish();
}

/// The verdict on an answer that is good, one that is retried, and one that is not.
fn decide(c: &mut Criterion) {
    let policy = RetryPolicy::default();
    let around = Circumstances {
        attempt: 1,
        repeatable: Repeatable::Always,
        body: BodyState::Whole,
        untried: Untried::None,
        time_left: Duration::from_secs(20),
        chance: 0.991,
        random: 0.5,
    };
    let answered = |status| Outcome::Answered { status, retry_after: None };
    let reset = Outcome::Failed { class: Some(ErrorClass::Reset), delivery: Delivery::Maybe };
    let unsafe_around = Circumstances { repeatable: Repeatable::OnlyIfNeverSent(SendOnce::Method), ..around };
    let mut group = c.benchmark_group("decide");
    for (name, outcome, around) in [
        ("return", answered(StatusCode::OK), around),
        ("retry", answered(StatusCode::BAD_GATEWAY), around),
        ("stop", reset, unsafe_around),
    ] {
        group.bench_function(name, |b| b.iter(|| policy.decide(black_box(outcome), black_box(&around))));
    }
    group.finish();
}

/// The heads of a browser's request and of an answer to it.
fn headers(c: &mut Criterion) {
    let request = Request::get("/api/screenings/7?page=2")
        .header(HOST, "hosp.example.org")
        .header(USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0")
        .header("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
        .header("accept-language", "de,en;q=0.5")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("connection", "keep-alive")
        .header("cookie", "session=0123456789abcdef0123456789abcdef")
        .header("x-forwarded-for", "192.0.2.7")
        .header("x-forwarded-proto", "https")
        .body(())
        .expect("a request");
    let (head, ()) = request.into_parts();
    let answer: HeaderMap = [("server", "hosp"), ("content-type", "text/html"), ("content-length", "105")]
        .into_iter()
        .chain([("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("cache-control", "no-store")])
        .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
        .collect();
    let (via, mut random) = (Via::new("stent").expect("a name"), fastrand::Rng::with_seed(1));
    let mut group = c.benchmark_group("headers");
    group.bench_function("request", |b| {
        b.iter_batched(
            || head.clone(),
            |mut head| {
                assert!(bench::prepare_head(&mut head, &via, &mut random), "a good request is refused");
                head
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("answer", |b| {
        b.iter_batched(
            || answer.clone(),
            |mut head| {
                bench::clean_answer(&mut head);
                head
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Request bodies sent on with a copy kept, and then sent again.
fn replay(c: &mut Criterion) {
    let memory = Arc::new(ReplayMemory::new(256 << 20, Metrics::new().replay_overflow.clone()));
    let mut group = c.benchmark_group("replay");
    // As many parts as come of it: a form, a document in parts of a socket's read, and a body in drops.
    for (name, parts, size) in [("1x512", 1, 512), ("16x64KiB", 16, 64 << 10), ("512x16", 512, 16)] {
        let body = vec![Bytes::from(vec![b'x'; size]); parts];
        group.throughput(Throughput::Bytes((parts * size) as u64));
        group.bench_function(name, |b| {
            b.iter_batched(
                || body.clone(),
                |body| assert_eq!(bench::send_twice(body, &memory), 2 * parts * size),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The access log's line of a request that went well, and of one that was retried.
fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    for (name, record) in [("line", record_with(1)), ("line of a retried one", record_with(2))] {
        let mut lines = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                lines.clear();
                bench::log_line(black_box(&record), &mut lines);
            });
        });
    }
    group.finish();
}

/// A record with so many attempts, made by the pipeline itself.
fn record_with(attempts: usize) -> Record {
    let runtime = Builder::new_current_thread().enable_all().build().expect("the system gives a runtime");
    LocalSet::new().block_on(&runtime, async {
        let mut pipeline = Pipeline::new(Work::Retried).await;
        for _ in 0..10 {
            pipeline.exchange().await;
            // The exchange is on record as soon as the connection's task has seen the end of the answer.
            let record = loop {
                match pipeline.record() {
                    Some(record) => break record,
                    None => tokio::task::yield_now().await,
                }
            };
            if record.attempts.len() == attempts {
                return record;
            }
        }
        panic!("of ten requests two are retried");
    })
}

/// What is counted for a request that went well, and a scrape.
fn metrics(c: &mut Criterion) {
    let metrics = Metrics::new();
    let (route, cluster) = (metrics.route("screening"), metrics.cluster("hosp"));
    let endpoint = metrics.endpoint("hosp", "10.0.1.10:8080");
    let mut group = c.benchmark_group("metrics");
    group.bench_function("request", |b| {
        b.iter(|| {
            let took = black_box(0.005);
            route.in_flight.inc();
            endpoint.answered(black_box(StatusCode::OK)).inc();
            cluster.attempt_duration.observe(took);
            route.requests(black_box(200), Origin::Upstream).inc();
            route.duration.observe(took);
            route.in_flight.dec();
        });
    });
    group.bench_function("scrape", |b| b.iter(|| black_box(metrics.render())));
    group.finish();
}

criterion_group!(benches, route, decide, headers, replay, record, metrics);
criterion_main!(benches);
