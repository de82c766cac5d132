//! Redirects, header rules, names with underscores, and the fields that no caller decides on, over sockets.

use crate::support::{Action, Backend, Config, Stent};

/// An old domain that leads to a new one, plain HTTP that leads to HTTPS, and what the backend gets.
const ROUTES: &str = r#"
[[route]]
name = "old-domain"
host = "old.example.org"
path = "/*"
redirect = { scheme = "https", host = "new.example.org" }
[[route]]
name = "to-https"
host = "secure.example.org"
scheme = "http"
path = "/*"
redirect = { scheme = "https", status = 301 }
[route.response_headers]
set = { X-Frame-Options = "DENY" }
[[route]]
name = "port"
host = "[2001:db8::1]"
path = "/*"
redirect = { port = 8443, status = 307 }
[[route]]
name = "everything"
path = "/*"
cluster = "hosp"
[route.request_headers]
remove = ["Cookie"]
set = { X-Tenant = "clinic" }
add = { X-Hop = "stent" }
[route.response_headers]
remove = ["Server", "X-Powered-By"]
set = { Strict-Transport-Security = "max-age=31536000" }
add = { Vary = "Origin" }
"#;

fn start(backend: &Backend) -> Stent {
    Stent::start(
        &Config::new(backend)
            .routes(ROUTES)
            .set("listener.trusted_proxies", vec!["127.0.0.0/8", "10.0.0.0/8"])
            .set("listener.trusted_headers", vec!["X-Amzn-Mtls-Clientcert"]),
    )
}

#[test]
fn an_old_domain_leads_to_the_new_one_with_path_and_query_byte_for_byte() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut client = stent.client();
    for target in ["/", "/a%2Fb/%7Ec//d;e?x=%41&y=a+b&&z", "//evil.test/%0d%0aX:1?u=https://evil.test", "/x?"]
    {
        let response = client.request("GET", target, &[("Host", "OLD.example.org:8080")], b"");
        assert_eq!(response.status, 308, "{target}");
        assert_eq!(
            response.headers.only("location"),
            Some(&*format!("https://new.example.org{target}")),
            "{target}"
        );
        assert!(response.body.is_empty());
    }
    assert!(backend.requests().is_empty());
    for line in stent.access_log(4) {
        assert_eq!((line.text("route"), line.text("outcome")), (Some("old-domain"), Some("reply")));
        assert_eq!((line.text("origin"), line.attempts().len()), (Some("proxy"), 0));
    }
    let labels = [("route", "old-domain"), ("code", "308"), ("origin", "proxy")];
    stent.wait_for_metric("stent_requests_total", &labels, 4.0);
}

#[test]
fn no_field_of_the_caller_but_its_host_reaches_a_location() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let headers = [
        ("Host", "secure.example.org:8080"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Host", "evil.test"),
        ("X-Forwarded-Port", "666"),
        ("Forwarded", "host=evil.test;proto=https"),
    ];
    let response = stent.client().request("GET", "/a", &headers, b"");
    assert_eq!(response.headers.only("location"), Some("https://secure.example.org/a"));
    assert!(response.headers.iter().all(|(_, value)| !value.contains("evil")), "{:?}", response.headers);
}

#[test]
fn plain_http_leads_to_https_and_https_to_the_backend() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut client = stent.client();
    let host = ("Host", "secure.example.org");
    let plain = client.request("GET", "/a", &[host, ("X-Forwarded-Proto", "http")], b"");
    assert_eq!(plain.status, 301);
    assert_eq!(plain.headers.only("location"), Some("https://secure.example.org/a"));
    assert_eq!(plain.headers.only("x-frame-options"), Some("DENY"), "rules hold for a redirect too");
    let secure = client.request("GET", "/a", &[host, ("X-Forwarded-Proto", "https")], b"");
    assert_eq!((secure.status, backend.requests().len()), (200, 1));
}

#[test]
fn an_address_in_brackets_keeps_them() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let response = stent.client().request("GET", "/a?b", &[("Host", "[2001:db8::1]:8080")], b"");
    assert_eq!((response.status, response.headers.only("location")), (307, Some("//[2001:db8::1]:8443/a?b")));
}

#[test]
fn a_redirect_answers_head_like_get_and_leaves_no_body_behind() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let mut client = stent.client();
    let host = ("Host", "old.example.org");
    let head = client.request("HEAD", "/a", &[host], b"");
    let get = client.request("GET", "/a", &[host], b"");
    for name in ["location", "cache-control", "content-length"] {
        assert_eq!(head.headers.only(name), get.headers.only(name), "{name}");
    }
    client.send_head("POST", "/a", &[host, ("Content-Length", "1000"), ("Expect", "100-continue")]);
    assert_eq!(client.interim_status(), 308, "the body is not asked for");
    assert!(client.is_closed());
    let mut client = stent.client();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = smuggled.len().to_string();
    client.send_head("POST", "/a", &[host, ("Content-Length", &length)]);
    client.send(smuggled.as_bytes());
    assert_eq!(client.response().status, 308);
    assert!(client.is_closed());
    assert!(backend.requests().is_empty());
}

#[test]
fn request_rules_change_what_the_backend_gets_at_every_attempt() {
    let backend = Backend::scripted([Action::answer(502, "")]);
    let stent = start(&backend);
    let headers = [("Cookie", "a=b"), ("X-Tenant", "other"), ("X-Hop", "edge")];
    assert_eq!(stent.client().request("GET", "/", &headers, b"").status, 200);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert!(!request.headers.has("cookie"));
        assert_eq!(request.headers.only("x-tenant"), Some("clinic"));
        assert_eq!(request.headers.all("x-hop"), ["edge", "stent"]);
    }
}

#[test]
fn response_rules_change_answers_and_replies_alike() {
    let backend = Backend::scripted([Action::answer_with(
        200,
        &[
            ("Server", "Apache"),
            ("X-Powered-By", "PHP"),
            ("Vary", "Accept"),
            ("Strict-Transport-Security", "max-age=0"),
        ],
        "ok",
    )]);
    let stent = start(&backend);
    let response = stent.client().get("/");
    assert!(!response.headers.has("server") && !response.headers.has("x-powered-by"));
    assert_eq!(response.headers.only("strict-transport-security"), Some("max-age=31536000"));
    assert_eq!(response.headers.all("vary"), ["Accept", "Origin"]);
    backend.stop();
    let response = stent.client().get("/");
    assert_eq!(response.status, 502);
    assert_eq!(response.headers.only("strict-transport-security"), Some("max-age=31536000"));
}

/// The header fields that the backend gets of these.
fn passed(policy: Option<&str>, lines: &[(&str, &str)]) -> Vec<String> {
    let backend = Backend::healthy();
    let config = Config::new(&backend);
    let config = match policy {
        Some(policy) => config.set("listener.underscores", policy),
        None => config,
    };
    let stent = Stent::start(&config);
    assert_eq!(stent.client().request("GET", "/", lines, b"").status, 200);
    let request = backend.requests().remove(0);
    let given = |name: &str, value: &str| lines.contains(&(name, value));
    let spelled =
        |name: &str| lines.iter().find(|(line, _)| line.eq_ignore_ascii_case(name)).map(|(line, _)| *line);
    let passed =
        request.headers.iter().filter(|(name, value)| spelled(name).is_some_and(|name| given(name, value)));
    passed.map(|(name, _)| name.to_ascii_lowercase()).collect()
}

const UNDERSCORES: [(&str, &str); 6] = [
    ("X_Ward", "evil"),
    ("X_Remote_User", "evil"),
    ("X_Forwarded_For", "evil"),
    ("X_Request_Id", "evil"),
    ("Content_Length", "5"),
    ("X-Plain", "good"),
];

#[test]
fn names_with_underscores_are_dropped_by_default() {
    assert_eq!(passed(None, &UNDERSCORES), ["x-plain"]);
    assert_eq!(passed(Some("drop"), &UNDERSCORES), ["x-plain"]);
}

#[test]
fn names_with_underscores_are_kept_on_request_unless_they_stand_for_a_reserved_one() {
    assert_eq!(passed(Some("keep"), &UNDERSCORES), ["x_ward", "x-plain"]);
}

#[test]
fn names_with_underscores_are_refused_on_request() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend).set("listener.underscores", "refuse"));
    let mut client = stent.client();
    assert_eq!(client.request("GET", "/", &[("X-A", "1")], b"").status, 200);
    assert_eq!(client.request("GET", "/", &[("X_A", "1")], b"").status, 400);
    assert!(client.is_closed());
    assert_eq!(backend.requests().len(), 1);
}

/// Cases FW-03, FW-04, FW-13, HB-09 and HO-20 of the adversarial list.
#[test]
fn no_untrusted_caller_says_who_it_is_or_which_url_is_meant() {
    let lines = [
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Ssl", "on"),
        ("Front-End-Https", "on"),
        ("Forwarded", "for=6.6.6.6;proto=https;by=_x"),
        ("X-SSL-Client-Verify", "SUCCESS"),
        ("X-SSL-Client-S-DN", "CN=admin"),
        ("X-Forwarded-Client-Cert", "By=x;Subject=\"CN=admin\""),
        ("X-Amzn-Mtls-Clientcert", "x"),
        ("Client-Cert", ":x:"),
        ("True-Client-IP", "6.6.6.6"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("Proxy", "http://evil.test:8080"),
        ("X-Stent-Attempt", "9"),
        ("X-Plain", "good"),
    ];
    assert_eq!(passed(None, &lines), ["x-plain"]);
}

/// Case FW-08 of the adversarial list.
#[test]
fn an_over_long_request_id_is_replaced() {
    let backend = Backend::healthy();
    let stent = Stent::start(&Config::new(&backend));
    let long = "A".repeat(5000);
    stent.client().request("GET", "/", &[("X-Request-Id", &long)], b"");
    assert_eq!(backend.requests()[0].headers.only("x-request-id").map(str::len), Some(32));
}

#[test]
fn a_trusted_proxy_may_say_who_the_client_is_but_not_which_url_is_meant() {
    let backend = Backend::healthy();
    let stent = start(&backend);
    let lines =
        [("X-Forwarded-Proto", "https"), ("X-Amzn-Mtls-Clientcert", "x"), ("X-Original-URL", "/admin")];
    stent.client().request("GET", "/", &lines, b"");
    let request = backend.requests().remove(0);
    assert_eq!(request.headers.only("x-forwarded-proto"), Some("https"));
    assert_eq!(request.headers.only("x-amzn-mtls-clientcert"), Some("x"));
    assert!(!request.headers.has("x-original-url"));
}
