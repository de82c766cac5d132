//! Our reading of answers beside that of hyper's client: what we take, it takes alike.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Builder;

use super::*;

/// What hyper makes of `bytes`, after which the connection is closed.
async fn hypers(bytes: &[u8], method: Method) -> hyper::Result<Reading> {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await?;
    let ask = async {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let collected = body.collect().await?;
        Ok(Reading {
            head: Some(Response::from_parts(head, ())),
            framing: None,
            persistence: Persistence::Close,
            trailers: collected.trailers().cloned(),
            data: collected.to_bytes().into(),
            used: 0,
            end: Some(Ok(())),
        })
    };
    let answer = async {
        // The request comes first, or the answer is one that nobody asked for.
        let _ = tokio::io::AsyncReadExt::read(&mut far, &mut [0; 512]).await;
        far.write_all(bytes).await.expect("it fits");
        drop(far);
    };
    // The connection may end with an error of its own, behind the answer.
    let (read, _, ()) = tokio::join!(ask, connection, answer);
    read
}

fn answers() -> impl Strategy<Value = String> {
    let interim = prop_oneof![4 => Just(""), 1 => Just("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")];
    let first = prop_oneof![
        4 => Just("HTTP/1.1 200 OK\r\n"),
        1 => Just("HTTP/1.0 200 OK\r\n"),
        1 => Just("HTTP/1.1 204 No Content\r\n"),
        1 => Just("HTTP/1.1 304\r\n"),
        1 => Just("HTTP/1.1 404 Gone Fishing\n"),
    ];
    let field = prop_oneof![
        3 => (0..8).prop_map(|length| format!("Content-Length: {length}\r\n")),
        3 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => Just("Transfer-Encoding: gzip, chunked\r\n".to_owned()),
        1 => Just("Content-Length: 3, 3\r\n".to_owned()),
        1 => Just("Connection: close\r\n".to_owned()),
        2 => "[a-zA-Z-]{1,6}: ?[ -~]{0,6}\r\n",
        1 => "[ -~]{0,9}\r?\n",
    ];
    let body = prop_oneof![
        2 => "[a-z]{0,8}",
        3 => "([0-4](;[a-z]{0,3})?\r\n[a-z]{1,4}\r\n){0,3}0\r\n(X-Sum: [a-z]{0,3}\r\n)?\r\n[a-z]{0,1}",
        2 => Just("3\r\nabc\r\n2;x\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n".to_owned()),
        1 => Just("1\r\na\r\n0\r\n\r\n".to_owned()),
    ];
    (interim, first, proptest::collection::vec(field, 0..4), body)
        .prop_map(|(interim, first, fields, body)| format!("{interim}{first}{}\r\n{body}", fields.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn what_we_take_for_an_answer_hyper_takes_for_the_same(answer in answers(), is_head in any::<bool>()) {
        let (question, method) =
            if is_head { (Question::Head, Method::HEAD) } else { (Question::Other, Method::GET) };
        let ours = Reading::of([answer.as_bytes()], question, 64 << 10);
        prop_assume!(ours.end == Some(Ok(())));
        let runtime = Builder::new_current_thread().build().unwrap();
        let theirs = runtime.block_on(hypers(answer.as_bytes(), method));
        let theirs = theirs.map_err(|error| TestCaseError::fail(format!("hyper refuses it: {error:?}")))?;
        let (our_head, their_head) = (ours.head.unwrap(), theirs.head.unwrap());
        prop_assert_eq!(our_head.status(), their_head.status());
        prop_assert_ne!(our_head.status(), StatusCode::SWITCHING_PROTOCOLS);
        prop_assert_eq!(our_head.version(), their_head.version());
        let mut their_fields = their_head.headers().clone();
        if ours.framing == Some(Framing::Chunked) {
            // We drop the length that does not count.
            their_fields.remove(http::header::CONTENT_LENGTH);
        }
        prop_assert_eq!(our_head.headers(), &their_fields);
        prop_assert_eq!((ours.data, ours.trailers), (theirs.data, theirs.trailers));
    }
}
