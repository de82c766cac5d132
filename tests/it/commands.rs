//! The commands beside `run`, as shells, deployments and container runtimes see them: by exit code and output.

use crate::support::command::{said, stent};
use crate::support::stent::Signal;
use crate::support::{Backend, Config, Refused, Stent, eventually};

#[test]
fn health_is_0_when_ready_and_1_while_draining_or_where_nobody_is() {
    let backend = Backend::healthy();
    let mut running = Stent::start(&Config::new(&backend).set("server.accept_grace", "30s"));
    let url = format!("http://{}/readyz", running.admin());
    let output = stent(&["health", &url]);
    assert_eq!((output.status.code(), said(&output)), (Some(0), [String::new(), String::new()]));
    running.signal(Signal::Terminate);
    eventually("the drain", || (running.admin_get("/readyz").status == 503).then_some(()));
    let output = stent(&["health", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(said(&output)[1], "error: 503 draining\n");
    let livez = format!("http://{}/livez", running.admin());
    assert_eq!(stent(&["health", &livez]).status.code(), Some(0), "it lives while it drains");
    running.signal(Signal::Terminate);
    running.wait_exit();
    let nobody = Refused::new();
    for url in [url, format!("http://{}/readyz", nobody.address())] {
        let output = stent(&["health", &url]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output)[1].contains("no answer from 127.0.0.1:"), "{output:?}");
    }
}

#[test]
fn check_is_0_for_a_good_file_and_2_with_every_error_of_a_bad_one() {
    let output = stent(&["check", "config/hosp.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let summary = "ok: config/hosp.toml: 1 listener, 2 clusters, 5 routes\n";
    assert_eq!(said(&output), [summary.to_owned(), String::new()]);

    let output = stent(&["check", "config/hosp.toml", "--effective"]);
    assert_eq!(output.status.code(), Some(0));
    let [effective, _] = said(&output);
    assert!(effective.parse::<toml::Table>().is_ok(), "it is a configuration itself:\n{effective}");
    assert!(effective.contains("max_attempts = 4") && effective.contains("ratio = 0.5"), "{effective}");

    // Any TOML that is none of ours.
    let output = stent(&["check", "rustfmt.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let [out, errors] = said(&output);
    assert_eq!(out, "");
    for key in ["edition", "max_width", "use_small_heuristics"] {
        assert!(errors.contains(&format!("unknown key `{key}`")), "{key}: {errors}");
    }
    assert!(errors.contains("rustfmt.toml:1:1"), "{errors}");
    assert_eq!(stent(&["check", "config/none.toml"]).status.code(), Some(2));
}

#[test]
fn explain_shows_the_route_and_the_decisions() {
    let request = ["POST /api/screenings/7", "--host", "hosp.example.org", "502", "502", "200"];
    let output = stent(&[&["explain", "config/hosp.toml"], &request[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let [text, errors] = said(&output);
    assert_eq!(errors, "");
    assert!(
        text.contains("route     screening: hosp.example.org, /api/screenings/{id}, GET, POST\n"),
        "{text}"
    );
    let timeline = [
        "attempt 1: 502",
        "retry after 0.1ms at best, 50ms to 100ms while the cluster fails",
        "attempt 2: 502",
        "attempt 3: 200",
        "answer: the 200",
    ];
    let mut rest = &*text;
    for step in timeline {
        rest = rest.split_once(step).unwrap_or_else(|| panic!("no {step:?} in its place in:\n{text}")).1;
    }

    let output = stent(&["explain", "config/hosp.toml", "POST /notes", "--host", "hosp.example.org", "502"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(said(&output)[0].contains("method"), "the veto has its name: {output:?}");
    assert_eq!(stent(&["explain", "config/hosp.toml", "POST"]).status.code(), Some(2));
}

#[test]
fn the_demo_ends_by_itself_and_hides_failures_without_repeating_a_post() {
    let output = stent(&["demo", "--seconds", "3", "--rate", "50"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let [text, errors] = said(&output);
    assert_eq!(errors, "");
    let (_, summary) = text.split_once("SUMMARY").unwrap_or_else(|| panic!("no summary in:\n{text}"));
    // The last two figures of a row are those of the two ways to HOSP.
    let row = |label: &str| {
        let line = summary.lines().find(|line| line.trim_start().starts_with(label));
        let line = line.unwrap_or_else(|| panic!("no row {label:?} in:\n{summary}"));
        let cells = line.trim_start().strip_prefix(label).unwrap().split_whitespace();
        let cells: Vec<f64> = cells.filter_map(|cell| cell.replace(',', "").parse().ok()).collect();
        <[f64; 2]>::try_from(cells).unwrap_or_else(|cells| panic!("{label}: {cells:?} in:\n{summary}"))
    };
    // 150 on average: users come at random moments.
    let [one, other] = row("users' requests");
    assert!((one - other).abs() < 0.5 && (100.0..200.0).contains(&one), "{summary}");
    let [straight, through] = row("failed ");
    assert!(straight > 0.0, "there is something to hide:\n{summary}");
    assert!(through <= straight, "{summary}");
    let [_, attempts] = row("attempts per request");
    assert!((1.0..3.0).contains(&attempts), "{summary}");
    let [_, twice] = row("POSTs carried out twice");
    assert_eq!(twice.to_bits(), 0f64.to_bits(), "{summary}");
    assert!(row("retries")[1] > 0.0, "{summary}");
    assert!(text.contains("/metrics"), "where the metrics are is said:\n{text}");
    assert!(!text.contains('\x1b'), "a pipe is no terminal");
}
