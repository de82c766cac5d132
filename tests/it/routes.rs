//! Which requests are taken, by which route, and how the others are answered.

use crate::support::{Backend, Client, Config, Stent, TempDir, ms, noise};

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

const SECRET: &str = "the-secret-of-the-origin";

/// A site whose `/admin/*` asks for a secret, and the file that the secret stands in.
fn guarded(backend: &Backend) -> (Stent, TempDir) {
    let directory = TempDir::new();
    let file = directory.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let routes = format!(
        "[[route]]\nname = \"open\"\nhost = \"hosp.test\"\npath = \"/*\"\ncluster = \"hosp\"\n\
         [[route]]\nname = \"admin\"\nhost = \"hosp.test\"\npath = \"/admin/*\"\ncluster = \"hosp\"\n\
         [route.origin_guard]\nheader = \"X-Origin-Secret\"\nsecret_files = [{:?}]\n\
         [[route]]\nname = \"read\"\nhost = \"hosp.test\"\npath = \"/read/*\"\nmethods = [\"GET\"]\ncluster = \"hosp\"\n\
         [[route]]\nname = \"tenant\"\nhost = \"hosp.test\"\npath = \"/tenant/*\"\ncluster = \"hosp\"\n\
         [route.request_headers]\nset = {{ X-Tenant = \"clinic\" }}\n",
        file.to_str().unwrap()
    );
    (Stent::start(&Config::new(backend).routes(&routes)), directory)
}

/// Spellings of `/admin/x`: each letter encoded, and each way to the top written in each way.
fn spellings() -> Vec<String> {
    let mut all: Vec<String> = [
        "//admin/x",
        "/admin//x",
        "/./admin/x",
        "/admin/./x",
        "/admin/y/../x",
        "/admin%2Fx",
        "/admin%5Cx",
        "/admin\\x",
        "/admin;v=1/x",
        "/a/..;/admin/x",
    ]
    .map(Into::into)
    .into();
    for place in 0..5 {
        let (start, end) = ("admin"[..place].to_owned(), &"admin"[place + 1..]);
        let code = "admin".as_bytes()[place];
        all.push(format!("/{start}%{code:02x}{end}/x"));
        all.push(format!("/{start}%{code:02X}{end}/x"));
    }
    for dots in ["..", "%2e%2e", "%2E.", ".%2e"] {
        for slash in ["/", "%2f", "%2F", "\\", "%5c"] {
            all.push(format!("/a/{dots}{slash}admin/x"));
            all.push(format!("/a/b/..{slash}{dots}{slash}admin{slash}x"));
        }
    }
    all
}

#[test]
fn no_spelling_of_a_path_gets_around_a_guarded_route() {
    let backend = Backend::healthy();
    let (stent, _directory) = guarded(&backend);
    let all = spellings();
    assert!(all.len() >= 60);
    for path in &all {
        for host in ["hosp.test", "hosp.test.", "HOSP.test.:80"] {
            let mut client = stent.client();
            let response = client.request("GET", path, &[("Host", host)], b"");
            assert!(matches!(response.status, 400 | 403), "{path} {host}: {}", response.status);
        }
    }
    assert!(backend.requests().is_empty());
    // With the secret each is served, and as it came.
    for path in &all {
        let headers = [("Host", "hosp.test."), ("X-Origin-Secret", SECRET)];
        assert_eq!(stent.client().request("GET", path, &headers, b"").status, 200, "{path}");
    }
    let targets: Vec<String> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, all);
}

#[test]
fn no_spelling_of_a_path_gets_around_methods_or_rules() {
    let backend = Backend::healthy();
    let (stent, _directory) = guarded(&backend);
    for path in spellings() {
        let path = path.replace("admin", "tenant");
        let path = if path.contains("tenant") { path } else { continue };
        let response = stent.client().request("GET", &path, &[("Host", "hosp.test")], b"");
        assert_eq!(response.status, 200, "{path}");
    }
    let requests = backend.requests();
    assert!(requests.len() >= 40);
    assert!(
        requests.iter().all(|request| request.headers.only("x-tenant") == Some("clinic")),
        "{requests:?}"
    );
}

#[test]
fn paths_that_no_guarded_route_could_be_meant_by_go_as_they_came() {
    let backend = Backend::healthy();
    let (stent, _directory) = guarded(&backend);
    let paths = [
        "/files/report%2F2024",
        "/files/100%25",
        "/files//x",
        "/files/%C3%A4;v=1",
        "/.well-known/x",
        "/files/a\\b",
        "/files/a%2Fadmin/x",
        "/files/%zz",
        "/a.b/..c/",
    ];
    for path in paths {
        let response = stent.client().request("POST", path, &[("Host", "hosp.test")], b"");
        assert_eq!(response.status, 200, "{path}");
    }
    let targets: Vec<String> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, paths);
}

#[test]
fn a_path_that_only_a_reading_takes_out_of_every_route_is_refused() {
    let backend = Backend::healthy();
    let config = Config::new(&backend).set("route.path", "/public/*");
    let stent = Stent::start(&config);
    for path in ["/public/../private", "/public/..%2fprivate", "/public/%2e%2e/private"] {
        assert_eq!(stent.client().get(path).status, 400, "{path}");
    }
    assert_eq!(stent.client().get("/public/a%2Fb").status, 200);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_host_with_the_roots_dot_is_the_same_name() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("route.host", "hosp.example.org."));
    for host in ["hosp.example.org", "hosp.example.org.", "hosp.example.org.:8443"] {
        assert_eq!(stent.client().request("GET", "/", &[("Host", host)], b"").status, 200, "{host}");
        assert_eq!(backend.requests().pop().unwrap().headers.only("host"), Some(host));
    }
    assert_eq!(stent.client().request("GET", "/", &[("Host", "hosp.example.org..")], b"").status, 404);
}
