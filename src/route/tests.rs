//! Which route wins, and what a pattern takes.

use super::*;
use proptest::prelude::*;

fn pattern(host: &str, path: &str, methods: &[Method]) -> Pattern {
    Pattern {
        scheme: None,
        host: (!host.is_empty()).then(|| HostPattern::parse(host).unwrap()),
        path: PathPattern::parse(path).unwrap(),
        methods: (!methods.is_empty()).then(|| methods.to_vec()),
    }
}

fn table(patterns: &[(&'static str, &'static str, &[Method])]) -> RouteTable<String> {
    RouteTable::new(patterns.iter().map(|(host, path, methods)| {
        (pattern(host, path, methods), format!("{host} {path} {}", methods.len()))
    }))
}

fn found(table: &RouteTable<String>, host: &str, path: &str) -> String {
    match table.find(|| Scheme::Http, host, path, &Method::GET) {
        Lookup::Found(name) => name.clone(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_pattern_takes_what_it_says_and_nothing_else() {
    let takes = |pattern: &str, path: &str| PathPattern::parse(pattern).unwrap().matches(path);
    for (pattern, path) in [
        ("/", "/"),
        ("/api", "/api"),
        ("/api/", "/api/"),
        ("/api/screenings/{id}", "/api/screenings/7"),
        ("/api/*", "/api"),
        ("/api/*", "/api/"),
        ("/api/*", "/api/a/b"),
        ("/*", "/"),
        ("/*", "/a"),
        ("/{a}/x/{b}", "/1/x/2"),
    ] {
        assert!(takes(pattern, path), "{pattern} {path}");
    }
    for (pattern, path) in [
        ("/", "/a"),
        ("/api", "/api/"),
        ("/api", "/apis"),
        ("/api", "/API"),
        ("/api/*", "/apis"),
        ("/api/screenings/{id}", "/api/screenings/"),
        ("/api/screenings/{id}", "/api/screenings/7/x"),
        ("/api/screenings/{id}", "/api/screenings"),
        ("/*", "*"),
        ("/*", ""),
    ] {
        assert!(!takes(pattern, path), "{pattern} {path}");
    }
}

#[test]
fn the_most_specific_route_wins_whatever_its_place() {
    let mut patterns: Vec<(&str, &str, &[Method])> = vec![
        ("", "/*", &[]),
        ("", "/api/*", &[]),
        ("", "/api/{id}", &[]),
        ("", "/api/x", &[]),
        ("", "/api/x/*", &[]),
        ("*.example.org", "/*", &[]),
        ("*.b.example.org", "/*", &[]),
        ("a.example.org", "/*", &[]),
        ("a.example.org", "/q", &[Method::GET]),
        ("a.example.org", "/q", &[]),
    ];
    for _ in 0..patterns.len() {
        patterns.rotate_left(1);
        let table = table(&patterns);
        assert_eq!(found(&table, "h", "/api/x"), " /api/x 0");
        assert_eq!(found(&table, "h", "/api/x/1"), " /api/x/* 0");
        assert_eq!(found(&table, "h", "/api/7"), " /api/{id} 0");
        assert_eq!(found(&table, "h", "/api/7/8"), " /api/* 0");
        assert_eq!(found(&table, "h", "/other"), " /* 0");
        assert_eq!(found(&table, "c.example.org", "/api/x"), "*.example.org /* 0");
        assert_eq!(found(&table, "a.b.example.org", "/"), "*.b.example.org /* 0");
        assert_eq!(found(&table, "A.Example.Org", "/z"), "a.example.org /* 0");
        assert_eq!(found(&table, "a.example.org", "/q"), "a.example.org /q 1");
        assert_eq!(found(&table, "example.org", "/q"), " /* 0");
    }
}

#[test]
fn a_method_that_no_route_takes_gives_every_method_that_one_does() {
    let table =
        table(&[("", "/a", &[Method::GET]), ("", "/a", &[Method::POST]), ("", "/{x}", &[Method::PUT])]);
    assert_eq!(
        table.find(|| Scheme::Http, "h", "/a", &Method::DELETE),
        Lookup::MethodNotAllowed("GET, HEAD, POST, PUT".into())
    );
    assert_eq!(table.find(|| Scheme::Http, "h", "/a/b", &Method::DELETE), Lookup::NotFound);
    assert!(
        matches!(table.find(|| Scheme::Http, "h", "/a", &Method::HEAD), Lookup::Found(name) if name == " /a 1")
    );
}

#[test]
fn a_method_falls_through_to_a_less_specific_route() {
    let table = table(&[("", "/a", &[Method::GET]), ("", "/*", &[])]);
    assert!(
        matches!(table.find(|| Scheme::Http, "h", "/a", &Method::POST), Lookup::Found(name) if name == " /* 0")
    );
}

#[test]
fn a_scheme_goes_before_host_and_path_and_leaves_other_schemes_alone() {
    let to_https = Pattern { scheme: Some(Scheme::Http), ..pattern("", "/*", &[]) };
    let api = pattern("a.org", "/api/x", &[]);
    assert!(!to_https.conflicts_with(&pattern("", "/*", &[])));
    let table = RouteTable::new([(api, "api"), (to_https, "to-https"), (pattern("", "/*", &[]), "rest")]);
    let found = |scheme, path| match table.find(|| scheme, "a.org", path, &Method::GET) {
        Lookup::Found(name) => *name,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(Scheme::Http, "/api/x"), "to-https");
    assert_eq!(found(Scheme::Http, "/"), "to-https");
    assert_eq!(found(Scheme::Https, "/api/x"), "api");
    assert_eq!(found(Scheme::Https, "/"), "rest");
}

#[test]
fn what_is_no_pattern_says_why() {
    let path = |text| PathPattern::parse(text).unwrap_err();
    assert_eq!(path("api"), InvalidPattern::PathStart);
    assert_eq!(path(""), InvalidPattern::PathStart);
    assert_eq!(path("/a*"), InvalidPattern::Rest);
    assert_eq!(path("/a/*/b"), InvalidPattern::Rest);
    assert_eq!(path("/{id"), InvalidPattern::Segment);
    assert_eq!(path("/x{id}"), InvalidPattern::Segment);
    assert_eq!(path("/{}"), InvalidPattern::Segment);
    assert_eq!(path("/a b"), InvalidPattern::Character);
    assert_eq!(path("/a?b"), InvalidPattern::Character);
    for host in ["", "*.", "*", "a.*.org", "a b", ".org", "a:80"] {
        assert_eq!(HostPattern::parse(host), Err(InvalidPattern::Host), "{host}");
    }
}

#[test]
fn a_wildcard_host_takes_names_below_it_only() {
    let pattern = HostPattern::parse("*.Example.org").unwrap();
    assert!(pattern.matches("a.example.org"));
    assert!(pattern.matches("a.b.EXAMPLE.org"));
    for host in ["example.org", ".example.org", "aexample.org", "example.org.evil", ""] {
        assert!(!pattern.matches(host), "{host}");
    }
}

#[test]
fn routes_conflict_only_where_the_order_of_the_file_would_decide() {
    let get = [Method::GET];
    assert!(pattern("", "/{a}", &[]).conflicts_with(&pattern("", "/{b}", &[])));
    assert!(pattern("", "/a", &get).conflicts_with(&pattern("", "/a", &[Method::GET, Method::PUT])));
    assert!(!pattern("", "/a", &get).conflicts_with(&pattern("", "/a", &[])));
    assert!(!pattern("", "/a", &get).conflicts_with(&pattern("", "/a", &[Method::PUT])));
    assert!(!pattern("h", "/a", &[]).conflicts_with(&pattern("", "/a", &[])));
    assert!(!pattern("", "/{a}", &[]).conflicts_with(&pattern("", "/b", &[])));
}

proptest! {
    #[test]
    fn a_route_is_found_whenever_a_pattern_takes_the_path(
        paths in proptest::collection::vec("(/(a|b|\\{x\\})){1,3}(/\\*)?", 1..8), path in "(/(a|b|c)){1,4}",
    ) {
        let patterns: Vec<_> = paths.iter().map(|path| pattern("", path, &[])).collect();
        let takes = patterns.iter().any(|pattern| pattern.path.matches(&path));
        let table = RouteTable::new(patterns.into_iter().map(|pattern| (pattern, ())));
        prop_assert_eq!(matches!(table.find(|| Scheme::Http, "h", &path, &Method::GET), Lookup::Found(())), takes);
    }

    #[test]
    fn patterns_and_paths_never_panic(pattern in "\\PC{0,20}", path in "\\PC{0,20}", host in "\\PC{0,20}") {
        if let Ok(pattern) = PathPattern::parse(&pattern) {
            let _ = pattern.matches(&path);
        }
        if let Ok(pattern) = HostPattern::parse(&host) {
            let _ = pattern.matches(&path);
        }
    }
}
