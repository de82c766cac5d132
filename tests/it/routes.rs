//! Which requests are taken, by which route, and how the others are answered.

use crate::support::{Backend, Client, Config, Stent, ms, noise};

const ROUTES: &str = r#"
[[route]]
name = "below-api"
path = "/api/*"
cluster = "hosp"
[[route]]
name = "one-screening"
path = "/api/screenings/{id}"
methods = ["GET", "POST"]
cluster = "hosp"
[[route]]
name = "screenings-of-today"
path = "/api/screenings/today"
cluster = "hosp"
[[route]]
name = "deleted-screening"
path = "/api/screenings/{id}"
methods = ["DELETE"]
cluster = "hosp"
[[route]]
name = "api-of-the-clinic"
host = "clinic.example.org"
path = "/api/*"
cluster = "hosp"
[[route]]
name = "api-of-any-house"
host = "*.example.org"
path = "/api/*"
cluster = "hosp"
[[route]]
name = "read-only"
path = "/files/*"
methods = ["GET"]
cluster = "hosp"
"#;

#[test]
fn the_most_specific_route_takes_the_request_whatever_its_place_in_the_file() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).routes(ROUTES));
    let cases = [
        ("GET", "a", "/api", "below-api"),
        ("GET", "a", "/api/patients/7?x=/api/screenings/today", "below-api"),
        ("GET", "a", "/api/screenings/7", "one-screening"),
        ("HEAD", "a", "/api/screenings/7", "one-screening"),
        ("DELETE", "a", "/api/screenings/7", "deleted-screening"),
        ("PUT", "a", "/api/screenings/7", "below-api"),
        ("GET", "a", "/api/screenings/today", "screenings-of-today"),
        ("GET", "a", "/api/screenings/7/notes", "below-api"),
        ("GET", "clinic.example.org:8443", "/api/screenings/7", "api-of-the-clinic"),
        ("GET", "CLINIC.example.org", "/api/x", "api-of-the-clinic"),
        ("GET", "other.example.org", "/api/x", "api-of-any-house"),
        ("GET", "example.org", "/api/x", "below-api"),
    ];
    let mut client = stent.client();
    for (method, host, path, _) in cases {
        assert_eq!(
            client.request(method, path, &[("Host", host)], b"").status,
            200,
            "{method} {host} {path}"
        );
    }
    for (line, (method, host, path, route)) in stent.access_log(cases.len()).iter().zip(cases) {
        assert_eq!(line.text("route"), Some(route), "{method} {host} {path}");
    }
    stent.wait_for_metric("stent_requests_total", &[("route", "one-screening")], 2.0);
}

#[test]
fn a_path_without_a_route_is_a_404() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).routes(ROUTES));
    let mut client = stent.client();
    for path in ["/", "/ap", "/apis", "/screenings"] {
        let response = client.get(path);
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.headers.only("cache-control"), Some("no-store"));
    }
    assert!(backend.requests().is_empty());
    for line in stent.access_log(4) {
        assert_eq!((line.text("route"), line.text("outcome")), (None, Some("reply")));
        assert_eq!((line.text("origin"), line.attempts().len()), (Some("proxy"), 0));
    }
    stent.wait_for_metric("stent_requests_total", &[("code", "404"), ("origin", "proxy")], 4.0);
}

#[test]
fn a_method_that_no_route_of_the_path_takes_is_a_405_with_allow() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).routes(ROUTES));
    let mut client = stent.client();
    let response = client.request("DELETE", "/files/1", &[], b"");
    assert_eq!(response.status, 405);
    assert_eq!(response.headers.only("allow"), Some("GET, HEAD"));
    assert!(backend.requests().is_empty());
    assert_eq!(client.get("/files/1").status, 200, "the connection lives on");
}

#[test]
fn a_body_of_max_body_is_taken_and_one_byte_more_is_a_413() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.max_body", "100KiB"));
    let body = noise(100 * 1024 + 1);
    assert_eq!(stent.client().put("/", &body[1..]).status, 200);
    assert_eq!(stent.client().request_chunked("PUT", "/", &[&body[1..]]).status, 200);
    let mut client = stent.client();
    client.send_head("PUT", "/", &[("Content-Length", &body.len().to_string())]);
    assert_eq!(client.response().status, 413, "the length alone says so");
    assert!(client.is_closed());
    assert_eq!(backend.requests().len(), 2, "the announced one never got there");
    assert_eq!(stent.access_log(3)[2].text("origin"), Some("downstream"));
}

#[test]
fn a_body_that_grows_over_max_body_is_a_413() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.max_body", "100KiB"));
    let mut client = Client::connect(stent.listener());
    client.send_head("PUT", "/", &[("Transfer-Encoding", "chunked")]);
    client.send_chunk(&noise(60_000));
    client.send_chunk(&noise(60_000));
    assert_eq!(client.response().status, 413);
    assert!(client.is_closed());
    backend.wait_until_closed(1);
    assert!(backend.requests().iter().all(|request| !request.complete), "the backend saw no clean end");
}

#[test]
fn a_client_that_trickles_its_head_is_cut_off() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.header_timeout", "300ms"));
    let mut client = stent.client();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
    // More bytes must not buy more time.
    for _ in 0..4 {
        std::thread::sleep(ms(60));
        let _ = client.try_send(b"X-More: 1\r\n");
    }
    match client.try_response() {
        Ok(response) => assert_eq!(response.status, 408),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the proxy still waits"),
    }
    assert!(backend.requests().is_empty());
}
