//! A connection over a real socket, whose other end follows a script.

use std::collections::VecDeque;
use std::time::Duration;

use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::error::UpstreamErrorKind;

/// A body that a test feeds.
#[derive(Debug)]
struct Fed {
    parts: mpsc::UnboundedReceiver<Result<Bytes, io::Error>>,
    length: Option<u64>,
}

impl Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.parts.poll_recv(cx).map(|part| part.map(|part| part.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

type Feed = mpsc::UnboundedSender<Result<Bytes, io::Error>>;

fn fed(length: Option<u64>) -> (Feed, Parts, Fed) {
    let (feed, parts) = mpsc::unbounded_channel();
    let mut head = Request::new(()).into_parts().0;
    head.method = Method::POST;
    (feed, head, Fed { parts, length })
}

fn get() -> Parts {
    Request::new(()).into_parts().0
}

fn no_body() -> Outgoing<Full<Bytes>> {
    Outgoing::Eager(Full::default())
}

async fn connected<B>() -> (Wire<B>, TcpStream)
where
    B: Body<Data = Bytes> + Unpin,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await });
    (Wire::new(Stream::Plain(near.unwrap()), 64 << 10), far.unwrap().0)
}

/// Reads until `end` has come.
async fn hear(stream: &mut TcpStream, end: &str) -> String {
    let mut said = Vec::new();
    while !said.ends_with(end.as_bytes()) {
        assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0, "{}", said.escape_ascii());
    }
    String::from_utf8(said).unwrap()
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// The rest of an answer's body, in its frames.
async fn rest<B>(wire: &mut Wire<B>) -> Result<(VecDeque<Bytes>, Option<HeaderMap>), UpstreamError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut parts = VecDeque::new();
    let mut next = async || {
        poll_fn(|cx| {
            let _ = wire.poll_rest(cx);
            wire.poll_body(cx)
        })
        .await
    };
    while let Some(frame) = next().await {
        match frame?.into_data() {
            Ok(data) => parts.push_back(data),
            Err(frame) => return Ok((parts, frame.into_trailers().ok())),
        }
    }
    Ok((parts, None))
}

async fn within<T>(test: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), test).await.expect("it ends")
}

fn is_open<B>(wire: &mut Wire<B>) -> bool {
    wire.is_ready() && wire.poll_news(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[tokio::test]
async fn a_small_answer_is_whole_with_its_head_and_the_connection_free_for_the_next() {
    within(async {
        let (mut wire, mut far) = connected().await;
        for _ in 0..3 {
            let serve = async {
                hear(&mut far, "GET / HTTP/1.1\r\n\r\n").await;
                say(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
            };
            let (head, mut outgoing) = (get(), no_body());
            let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), serve);
            let Start::Whole(data) = answer.unwrap().body else { panic!("it is whole") };
            assert_eq!(data.unwrap(), "hello");
            assert!(is_open(&mut wire) && wire.is_end_stream());
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_answer_comes_in_large_parts_and_leaves_the_connection_free() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let body = "x".repeat(1 << 20);
        let serve = async {
            hear(&mut far, "\r\n\r\n").await;
            say(&mut far, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        };
        let (head, mut outgoing) = (get(), no_body());
        let read = async {
            assert!(matches!(wire.send(&head, &mut outgoing).await.unwrap().body, Start::Flowing));
            assert_eq!(wire.size_hint().exact(), Some(1 << 20));
            rest(&mut wire).await.unwrap()
        };
        let ((parts, trailers), ()) = tokio::join!(read, serve);
        assert!(parts.iter().map(Bytes::len).sum::<usize>() == body.len() && trailers.is_none());
        assert!(parts.len() < 100, "{} parts", parts.len());
        assert!(is_open(&mut wire) && wire.is_end_stream());
    })
    .await;
}

#[tokio::test]
async fn chunks_and_trailers_come_through_and_leave_the_connection_free() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let (head, mut outgoing) = (get(), no_body());
        let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
            hear(&mut far, "\r\n\r\n").await;
            say(&mut far, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r").await;
        });
        assert!(matches!(answer.unwrap().body, Start::Flowing));
        assert_eq!(wire.size_hint().exact(), None);
        let (read, ()) = tokio::join!(rest(&mut wire), say(&mut far, "\n0\r\nX-Sum: 1\r\n\r\n"));
        let (parts, trailers) = read.unwrap();
        assert_eq!(parts.iter().flatten().copied().collect::<Vec<_>>(), b"abcde");
        assert_eq!(trailers.unwrap()["x-sum"], "1");
        assert!(is_open(&mut wire) && wire.is_end_stream());
    })
    .await;
}

#[tokio::test]
async fn a_byte_that_belongs_to_no_answer_spends_the_connection() {
    within(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
            "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n!",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        ] {
            let (mut wire, mut far) = connected().await;
            let (head, mut outgoing) = (get(), no_body());
            let (answered, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
                hear(&mut far, "\r\n\r\n").await;
                say(&mut far, answer).await;
            });
            answered.unwrap();
            rest(&mut wire).await.unwrap();
            assert!(wire.is_spent() && wire.is_end_stream(), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn news_on_an_idle_connection_is_noticed() {
    within(async {
        for is_closed in [false, true] {
            let (mut wire, mut far) = connected::<Full<Bytes>>().await;
            assert!(!wire.has_news(Waker::noop()));
            if is_closed {
                drop(far);
            } else {
                say(&mut far, "HTTP/1.1 408 Request Timeout\r\n\r\n").await;
            }
            poll_fn(|cx| wire.poll_news(cx)).await;
            assert!(wire.is_ready(), "the pool decides what becomes of it");
        }
    })
    .await;
}

/// Closes so that the other end is reset.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_request_of_which_nothing_was_written_goes_to_the_next_connection_whole() {
    within(async {
        let (mut dead, far) = connected().await;
        reset(far);
        let (feed, head, body) = fed(Some(11));
        feed.send(Ok(Bytes::from_static(b"hello "))).unwrap();
        let mut outgoing = Outgoing::Eager(body);
        // The socket knows of the reset once it can be read.
        poll_fn(|cx| dead.poll_news(cx)).await;
        assert!(matches!(dead.send(&head, &mut outgoing).await, Err(Unanswered::Unsent)));
        let (mut wire, mut far) = connected().await;
        feed.send(Ok(Bytes::from_static(b"world"))).unwrap();
        let (answer, said) = tokio::join!(wire.send(&head, &mut outgoing), async {
            let said = hear(&mut far, "world").await;
            say(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            said
        });
        assert!(matches!(answer.unwrap().body, Start::Whole(None)));
        assert_eq!(said, "POST / HTTP/1.1\r\ncontent-length: 11\r\n\r\nhello world");
    })
    .await;
}

#[tokio::test]
async fn a_request_that_may_go_another_way_comes_back_untouched() {
    within(async {
        let (mut dead, far) = connected().await;
        reset(far);
        let (feed, head, body) = fed(None);
        feed.send(Ok(Bytes::from_static(b"hello"))).unwrap();
        let mut outgoing = Outgoing::Untouched(body);
        poll_fn(|cx| dead.poll_news(cx)).await;
        assert!(matches!(dead.send(&head, &mut outgoing).await, Err(Unanswered::Unsent)));
        let mut body = outgoing.into_body().expect("it is whole");
        assert_eq!(body.parts.recv().await.unwrap().unwrap(), "hello");
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_is_read_while_the_request_is_still_sent() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let (feed, head, body) = fed(None);
        feed.send(Ok(Bytes::from_static(b"first"))).unwrap();
        let mut outgoing = Outgoing::Eager(body);
        let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
            hear(&mut far, "5\r\nfirst").await;
            say(&mut far, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await;
        });
        assert!(matches!(answer.unwrap().body, Start::Flowing));
        // The body's end comes only in return for the rest of the request.
        feed.send(Ok(Bytes::from_static(b"second"))).unwrap();
        let (read, ()) = tokio::join!(rest(&mut wire), async {
            hear(&mut far, "\r\n6\r\nsecond").await;
            say(&mut far, "lf").await;
        });
        assert_eq!(read.unwrap().0.iter().flatten().copied().collect::<Vec<_>>(), b"half");
        assert!(wire.is_end_stream() && !wire.is_ready() && !wire.is_spent(), "the request has not ended");
        drop(feed);
        let (is_ready, _) = tokio::join!(wire.settle(), hear(&mut far, "\r\n0\r\n\r\n"));
        assert!(is_ready && is_open(&mut wire));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_closes_while_it_settles_is_not_kept() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let (_feed, head, body) = fed(None);
        let mut outgoing = Outgoing::Eager(body);
        let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
            hear(&mut far, "\r\n\r\n").await;
            say(&mut far, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await;
        });
        assert!(matches!(answer.unwrap().body, Start::Whole(None)));
        drop(far);
        assert!(!wire.settle().await);
    })
    .await;
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_ends_the_attempt() {
    within(async {
        for parts in [&["too long for it"][..], &["sh", "ort"], &["just ri"]] {
            let (mut wire, mut far) = connected().await;
            let (feed, head, body) = fed(Some(8));
            for part in parts {
                feed.send(Ok(Bytes::from_static(part.as_bytes()))).unwrap();
            }
            drop(feed);
            let mut outgoing = Outgoing::Eager(body);
            let Err(Unanswered::Failed(error)) = wire.send(&head, &mut outgoing).await else {
                panic!("{parts:?}")
            };
            assert_eq!(error.kind, UpstreamErrorKind::ConnectionTerminated);
            drop(wire);
            let mut said = Vec::new();
            far.read_to_end(&mut said).await.unwrap();
            assert!(!said.ends_with(b"too long for it"), "{}", said.escape_ascii());
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_is_read_though_the_rest_of_the_request_finds_no_taker() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let (feed, head, body) = fed(Some(64 << 20));
        feed.send(Ok(vec![b'x'; 8 << 20].into())).unwrap();
        let mut outgoing = Outgoing::Eager(body);
        let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
            hear(&mut far, "x").await;
            say(&mut far, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
            // It closes on bytes that it has not read, which resets the connection.
            drop(far);
        });
        match answer {
            Ok(answer) => assert_eq!(answer.head.status(), 413),
            // The reset may overtake the answer in the network, never in us.
            Err(Unanswered::Failed(error)) => assert_eq!(error.delivery, Delivery::Maybe),
            Err(Unanswered::Unsent) => panic!("it was sent"),
        }
        assert!(!wire.is_ready());
    })
    .await;
}

#[tokio::test]
async fn what_ends_before_its_time_is_told_by_where_it_ends() {
    use UpstreamErrorKind::{ConnectionTerminated, Protocol, ResponseIncomplete};
    within(async {
        for (said, kind, delivery) in [
            ("", ConnectionTerminated, Delivery::Maybe),
            ("HTTP/1.1 200 OK\r\nContent-", ConnectionTerminated, Delivery::Maybe),
            ("HTTP/1.1 100 Continue\r\n\r\n", ConnectionTerminated, Delivery::Maybe),
            ("SSH-2.0-OpenSSH\r\n", Protocol, Delivery::Maybe),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", ResponseIncomplete, Delivery::Answered),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab",
                ResponseIncomplete,
                Delivery::Answered,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc",
                ResponseIncomplete,
                Delivery::Answered,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n",
                ResponseIncomplete,
                Delivery::Answered,
            ),
        ] {
            let (mut wire, mut far) = connected().await;
            let (head, mut outgoing) = (get(), no_body());
            let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
                hear(&mut far, "\r\n\r\n").await;
                say(&mut far, said).await;
                drop(far);
            });
            let error = match answer {
                Ok(_) => rest(&mut wire).await.unwrap_err(),
                Err(Unanswered::Failed(error)) => error,
                Err(Unanswered::Unsent) => panic!("it was sent"),
            };
            assert_eq!((error.kind, error.delivery), (kind, delivery), "{said:?}");
            assert!(wire.is_spent());
        }
    })
    .await;
}

#[tokio::test]
async fn a_change_of_protocol_hands_over_all_that_came_behind_it() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let (head, mut outgoing) = (get(), no_body());
        let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
            hear(&mut far, "\r\n\r\n").await;
            say(&mut far, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nahead").await;
        });
        assert!(matches!(answer.unwrap().body, Start::Switched));
        let mut raw = wire.raw();
        let mut said = [0; 7];
        let (read, ()) = tokio::join!(raw.read_exact(&mut said), say(&mut far, " 1"));
        read.unwrap();
        assert_eq!(&said, b"ahead 1");
        raw.write_all(b"back").await.unwrap();
        hear(&mut far, "back").await;
    })
    .await;
}

#[tokio::test]
async fn a_body_that_comes_fast_is_read_in_larger_pieces_up_to_a_bound() {
    within(async {
        let (mut wire, mut far) = connected().await;
        let length = 16 * MAX_READ;
        let (head, mut outgoing) = (get(), no_body());
        let (answer, ()) = tokio::join!(wire.send(&head, &mut outgoing), async {
            hear(&mut far, "\r\n\r\n").await;
            say(&mut far, &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
        });
        assert!(matches!(answer.unwrap().body, Start::Flowing));
        let body = vec![b'x'; length];
        let (read, sent) = tokio::join!(rest(&mut wire), far.write_all(&body));
        sent.unwrap();
        let (parts, _) = read.unwrap();
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), length);
        assert!(parts.iter().all(|part| part.len() <= MAX_READ));
        assert!(parts[0].len() <= FIRST_READ, "the first read is small");
        assert!(wire.reach > FIRST_READ || parts.iter().all(|part| part.len() < FIRST_READ));
    })
    .await;
}
