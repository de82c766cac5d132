//! Backends that authenticate a connection, as IIS does with NTLM and Negotiate (RFC 4559 section 6).

use std::collections::HashSet;
use std::sync::Mutex;

use crate::support::frames::FrameBackend;
use crate::support::{Action, Backend, Config, Stent, ms};

/// Once a request on a connection brought credentials, every request on it is that user's. `/open` is for everybody.
fn intranet() -> Backend {
    let users = Mutex::new(HashSet::new());
    Backend::new(move |request| {
        let mut users = users.lock().unwrap();
        match request.headers.only("authorization") {
            Some("NTLM TlRMTVNTUAABAAAA") => {
                return Action::answer_with(401, &[("WWW-Authenticate", "NTLM TlRMTVNTUAACAAAA")], "");
            }
            Some(_) => drop(users.insert(request.connection)),
            None => {}
        }
        if users.contains(&request.connection) {
            Action::answer(200, "the record of this connection's user")
        } else if request.target == "/open" {
            Action::answer(200, "open")
        } else {
            let challenges =
                [("WWW-Authenticate", "Basic realm=\"a\", Negotiate"), ("WWW-Authenticate", "NTLM")];
            Action::answer_with(401, &challenges, "")
        }
    })
}

#[test]
fn the_connection_of_an_authenticated_user_carries_nobody_else() {
    for scheme in
        ["NTLM TlRMTVNTUAADAAAA", "ntlm TlRMTVNTUAADAAAA", "Negotiate YII=", "NEGOTIATE YII=", "Nego2 x"]
    {
        let backend = intranet();
        let stent = Stent::start(&Config::new(&backend));
        let (mut user, mut other) = (stent.client(), stent.client());
        assert_eq!(user.get("/patients/7").status, 401);
        let first = [("Authorization", "NTLM TlRMTVNTUAABAAAA")];
        assert_eq!(user.request("GET", "/patients/7", &first, b"").status, 401);
        assert_eq!(user.request("GET", "/patients/7", &[("Authorization", scheme)], b"").status, 200);
        for client in [&mut other, &mut user] {
            let response = client.get("/patients/7");
            assert_eq!(response.status, 401, "{scheme}");
            assert!(!response.text().contains("record"), "{scheme}");
        }
        let requests = backend.requests();
        let credentials = requests.iter().filter(|request| request.headers.has("authorization"));
        for request in credentials {
            let company = requests.iter().filter(|other| other.connection == request.connection).count();
            assert_eq!(company, 1, "{scheme}: {request:?}");
        }
    }
}

#[test]
fn a_log_in_leaves_the_kept_connections_to_others() {
    let backend = intranet();
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.max_connections", 2));
    let mut client = stent.client();
    for _ in 0..3 {
        assert_eq!(client.get("/open").text(), "open");
        assert_eq!(client.request("GET", "/open", &[("Authorization", "Negotiate YII=")], b"").status, 200);
    }
    assert_eq!(client.get("/open").text(), "open");
    let open = backend.requests().into_iter().filter(|request| !request.headers.has("authorization"));
    assert!(open.map(|request| request.connection).all(|connection| connection == 1));
    assert_eq!(backend.connections(), 4);
}

#[test]
fn a_log_in_takes_the_slot_of_an_idle_connection_where_there_is_no_other() {
    let backend = intranet();
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.max_connections", 1));
    let mut client = stent.client();
    for _ in 0..2 {
        assert_eq!(client.get("/open").text(), "open");
        assert_eq!(client.request("GET", "/open", &[("Authorization", "NTLM x")], b"").status, 200);
    }
    assert_eq!(backend.connections(), 4);
}

#[test]
fn a_log_in_waits_for_a_slot_as_others_do() {
    let backend = Backend::new(|request| {
        let pause = if request.target == "/slow" { ms(150) } else { ms(0) };
        Action::answer(200, "ok").after(pause)
    });
    let stent = Stent::start(&Config::new(&backend).set("cluster.hosp.max_connections", 1));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(stent.client().get("/slow").status, 200));
        backend.wait_for_requests(1);
        let response = stent.client().request("GET", "/", &[("Authorization", "NTLM x")], b"");
        assert_eq!(response.status, 200);
    });
    assert_eq!(backend.connections(), 2);
    assert_eq!(stent.client().get("/").status, 200, "the slot is free again");
}

#[test]
fn what_else_shows_a_bound_connection_ends_it_too() {
    for (status, field) in [
        (401, ("WWW-Authenticate", "Negotiate")),
        (401, ("WWW-Authenticate", "Basic realm=\"a\", nTLM")),
        (407, ("Proxy-Authenticate", "NTLM")),
        (200, ("WWW-Authenticate", "Negotiate oYG2")),
        (200, ("Persistent-Auth", "true")),
    ] {
        let backend = Backend::scripted([Action::answer_with(status, &[field], "mine")]);
        let stent = Stent::start(&Config::new(&backend));
        let mut client = stent.client();
        assert_eq!(client.get("/").status, status, "{field:?}");
        assert_eq!(client.get("/").status, 200, "the caller's own connection goes on");
        assert_eq!(backend.connections(), 2, "{field:?}");
    }
    for field in [("WWW-Authenticate", "Basic realm=\"NTLM\""), ("Persistent-Auth", "false")] {
        let backend = Backend::scripted([Action::answer_with(401, &[field], "")]);
        let stent = Stent::start(&Config::new(&backend));
        let mut client = stent.client();
        assert_eq!((client.get("/").status, client.get("/").status), (401, 200));
        assert_eq!(backend.connections(), 1, "{field:?}");
    }
}

#[test]
fn nothing_is_retried_or_hedged_within_a_log_in() {
    let credentials = [("Authorization", "NTLM TlRMTVNTUAABAAAA")];
    for failure in [Action::answer(502, ""), Action::reset()] {
        let backend = Backend::scripted([failure]);
        let stent = Stent::start(&Config::new(&backend));
        assert_eq!(stent.client().request("GET", "/", &credentials, b"").status, 502);
        assert_eq!(backend.requests().len(), 1);
        assert_eq!(stent.only_line().text("retry_stopped"), Some("authentication"));
        stent.wait_for_metric("stent_retry_stopped_total", &[("why", "authentication")], 1.0);
    }
    // Where an operator retries on 401, a challenge is an answer all the same.
    for (challenge, requests) in [("NTLM", 1), ("Basic realm=\"a\"", 2)] {
        let backend = Backend::scripted([Action::answer_with(401, &[("WWW-Authenticate", challenge)], "")]);
        let stent = Stent::start(&Config::new(&backend).retry("statuses", vec![401]));
        stent.client().get("/");
        assert_eq!(backend.requests().len(), requests, "{challenge}");
    }
    let backend = Backend::scripted([Action::answer(200, "slow").after(ms(100))]);
    let stent = Stent::start(&Config::new(&backend).retry("hedge", "20ms"));
    assert_eq!(stent.client().request("GET", "/", &credentials, b"").text(), "slow");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn over_http2_a_log_in_shares_its_connection_with_nobody() {
    let backend = FrameBackend::new(|number, connection| {
        connection.open(&[]);
        connection.serve(&number.to_string());
    });
    let config = Config::with_endpoints(&[backend.address()]).set("cluster.hosp.protocol", "h2");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    let mut get = |headers: &[(&str, &str)]| client.request("GET", "/", headers, b"").text();
    let shared = get(&[]);
    assert_eq!(get(&[("Authorization", "Basic dTpw")]), shared);
    let first = get(&[("Authorization", "Negotiate YII=")]);
    assert_ne!(first, shared);
    assert_eq!(get(&[]), shared, "a bystander keeps the shared connection");
    let second = get(&[("Authorization", "NTLM TlRMTVNTUAADAAAA")]);
    assert!(second != first && second != shared, "{first} {second}");
    assert_eq!(backend.connections(), 3);
    stent.wait_for_metric("stent_upstream_connections", &[("state", "idle")], 1.0);
}

#[test]
fn over_http2_an_answer_that_binds_its_connection_retires_it() {
    let backend = FrameBackend::new(|number, connection| {
        connection.open(&[]);
        while let Some(stream) = connection.request() {
            connection.answer(stream, &[(":status", "200"), ("persistent-auth", "true")], false);
            connection.data(stream, number.to_string().as_bytes(), true);
        }
    });
    let config = Config::with_endpoints(&[backend.address()]).set("cluster.hosp.protocol", "h2");
    let stent = Stent::start(&config);
    let mut client = stent.client();
    assert_ne!(client.get("/").text(), client.get("/").text());
}
