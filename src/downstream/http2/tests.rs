//! What becomes of a head that came over HTTP/2.

use http::HeaderName;

use super::*;

fn head(uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn the_authority_becomes_the_host() {
    let mut head = head("https://hosp.test:8443/a?b=c", &[]);
    move_authority(&mut head).unwrap();
    assert_eq!(head.headers[HOST], "hosp.test:8443");
    assert_eq!(head.uri, "/a?b=c");
}

#[test]
fn a_host_that_says_the_same_as_the_authority_is_one_host() {
    let mut head = head("http://hosp.test/", &[("host", "HOSP.test"), ("host", "hosp.test")]);
    move_authority(&mut head).unwrap();
    assert_eq!(head.headers.get_all(HOST).iter().collect::<Vec<_>>(), ["hosp.test"]);
}

#[test]
fn a_host_that_differs_from_the_authority_is_a_fault() {
    for host in ["other.test", "hosp.test:80", "", "hosp.test,other.test"] {
        let mut head = head("http://hosp.test/", &[("host", host)]);
        assert_eq!(move_authority(&mut head), Err(RequestFault::BadHost), "{host:?}");
    }
}

#[test]
fn without_an_authority_the_host_stays() {
    let mut head = head("/a", &[("host", "hosp.test")]);
    move_authority(&mut head).unwrap();
    assert_eq!(head.headers[HOST], "hosp.test");
    assert_eq!(head.uri, "/a");
}

#[test]
fn blanks_around_a_value_are_a_fault() {
    for (value, result) in [("a b", Ok(())), ("", Ok(())), (" a", Err(())), ("a ", Err(())), ("\ta", Err(()))]
    {
        let mut headers = HeaderMap::new();
        headers.insert("x", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        assert_eq!(check_fields(&headers).map_err(|_| ()), result, "{value:?}");
    }
}

#[test]
fn a_name_that_http1_does_not_know_is_a_fault() {
    for (name, result) in [("x-a", Ok(())), ("x\"a", Err(())), ("\"", Err(()))] {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_lowercase(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
        assert_eq!(check_fields(&headers).map_err(|_| ()), result, "{name}");
    }
}

#[test]
fn crumbs_of_a_cookie_are_joined_in_their_order() {
    let mut headers =
        head("/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]).headers;
    join_cookies(&mut headers);
    assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    assert_eq!(headers.len(), 2);
}

#[test]
fn whoever_lets_requests_be_answered_may_go_on_cancelling() {
    let resets = Rc::new(Resets { excess: Cell::default(), most: 2 });
    let end = |is_answered| drop(Cancellation { resets: resets.clone(), is_answered });
    for _ in 0..100 {
        end(false);
        end(false);
        end(true);
        end(true);
    }
    assert!(!resets.is_exceeded());
    (0..2).for_each(|_| end(false));
    assert!(!resets.is_exceeded());
    end(false);
    assert!(resets.is_exceeded());
}
