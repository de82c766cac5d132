//! What is kept, what is sent again, and that nothing is left behind.

use std::time::Duration;

use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;
use crate::proxy::testing::ScriptedBody;
use crate::record::metrics::Metrics;

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn memory(limit: usize) -> Arc<ReplayMemory> {
    Arc::new(ReplayMemory::new(limit, Metrics::new().replay_overflow.clone()))
}

fn replay(body: ScriptedBody, keep: usize, memory: &Arc<ReplayMemory>) -> Replay {
    let limits =
        ReplayLimits { keep, max_body: 1_000_000, memory: memory.clone(), client: CLIENT, read_buffer: 0 };
    Replay::new(RequestBody::Scripted(body), limits, Instant::now()).unwrap()
}

async fn read(replay: &Replay) -> Result<Bytes, BodyError> {
    Ok(replay.attempt().collect().await?.to_bytes())
}

async fn read_parts(body: &mut AttemptBody, parts: usize) {
    for _ in 0..parts {
        body.frame().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_without_a_body_shares_and_keeps_nothing() {
    let replay = replay(ScriptedBody::empty(), 100, &memory(100));
    assert!(replay.state.is_none());
    assert!(replay.attempt().is_end_stream());
    assert_eq!(replay.attempt().size_hint().exact(), Some(0));
    assert_eq!(replay.state(), BodyState::Whole);
}

#[tokio::test]
async fn what_was_sent_is_sent_again_byte_for_byte() {
    let memory = memory(100);
    let replay = replay(ScriptedBody::of(&["one ", "two ", "three"]), 100, &memory);
    for _ in 0..3 {
        assert_eq!(read(&replay).await.unwrap(), "one two three");
        assert_eq!(replay.state(), BodyState::Whole);
    }
    assert_eq!((replay.received(), memory.used()), (13, 13));
    drop(replay);
    assert_eq!(memory.used(), 0);
}

#[tokio::test]
async fn over_its_limit_the_copy_is_dropped_and_the_stream_goes_on() {
    let memory = memory(1000);
    let replay = replay(ScriptedBody::of(&["1234", "5678", "90"]), 5, &memory);
    assert_eq!(read(&replay).await.unwrap(), "1234567890");
    assert_eq!(replay.state(), BodyState::Lost);
    assert_eq!((memory.used(), memory.given_up(GivenUp::BodyLimit)), (0, 1));
}

#[tokio::test]
async fn over_the_process_wide_limit_the_copy_is_dropped_and_others_keep_theirs() {
    let memory = memory(10);
    let first = replay(ScriptedBody::of(&["12345678"]), 100, &memory);
    let second = replay(ScriptedBody::of(&["abcd"]), 100, &memory);
    read(&first).await.unwrap();
    assert_eq!(read(&second).await.unwrap(), "abcd");
    assert_eq!((first.state(), second.state()), (BodyState::Whole, BodyState::Lost));
    assert_eq!(memory.used(), 8);
}

#[tokio::test]
async fn a_body_announced_over_the_limit_is_never_copied() {
    let memory = memory(1000);
    let (send, body) = ScriptedBody::open(Some(11));
    let replay = replay(body, 10, &memory);
    assert_eq!(memory.given_up(GivenUp::BodyLimit), 1);
    assert_eq!(replay.state(), BodyState::Whole, "nothing of it was taken");
    send.send("hello".into()).unwrap();
    read_parts(&mut replay.attempt(), 1).await;
    assert_eq!((replay.state(), memory.used()), (BodyState::Lost, 0));
}

#[tokio::test]
async fn an_attempt_that_is_given_up_takes_nothing_from_the_next() {
    let replay = replay(ScriptedBody::of(&["a", "b", "c"]), 100, &memory(100));
    let mut old = replay.attempt();
    read_parts(&mut old, 2).await;
    assert_eq!(replay.state(), BodyState::Partial);
    let new = replay.attempt();
    assert!(matches!(old.frame().await, Some(Err(BodyError::Abandoned))));
    assert_eq!(new.collect().await.unwrap().to_bytes(), "abc");
}

#[tokio::test]
async fn a_body_over_max_body_breaks_and_says_so() {
    let limits = ReplayLimits { keep: 100, max_body: 5, memory: memory(100), client: CLIENT, read_buffer: 0 };
    let body = RequestBody::Scripted(ScriptedBody::of(&["1234", "5678"]));
    let replay = Replay::new(body, limits, Instant::now()).unwrap();
    assert!(read(&replay).await.is_err());
    assert!(matches!(replay.fault(), Some(ProxyError::BodyTooLarge { limit: 5 })));
}

#[tokio::test(start_paused = true)]
async fn the_upload_is_timed_from_its_last_part() {
    let began = Instant::now();
    let (send, body) = ScriptedBody::open(None);
    let replay = replay(body, 100, &memory(100));
    let mut attempt = replay.attempt();
    assert_eq!(
        replay.upload(),
        Upload::AwaitingUpstream { since: began.into_std(), stalled: Duration::ZERO }
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    send.send("part".into()).unwrap();
    read_parts(&mut attempt, 1).await;
    let since = Instant::now().into_std();
    let stalled = Duration::from_millis(992); // less what 4 bytes are worth
    assert_eq!(replay.upload(), Upload::AwaitingUpstream { since, stalled });
    assert!(timeout(Duration::from_secs(1), attempt.frame()).await.is_err());
    assert_eq!(replay.upload(), Upload::AwaitingCaller { since, stalled });
    drop(send);
    assert!(attempt.frame().await.is_none());
    assert_eq!(replay.upload(), Upload::Received { at: Instant::now().into_std(), stalled });
    replay.ended().await;
}

#[tokio::test(start_paused = true)]
async fn waits_for_small_parts_add_up_to_one_silence() {
    let (send, body) = ScriptedBody::open(None);
    let replay = replay(body, 10_000, &memory(10_000));
    let mut attempt = replay.attempt();
    // Bytes, seconds of waiting for them, and the silence that the caller has run up by then, in milliseconds.
    for (size, wait, silence) in
        [(1, 10, 10_000), (1, 10, 19_998), (4000, 1, 20_996), (9000, 1, 13_996), (1, 0, 0)]
    {
        let wait = Duration::from_secs(wait);
        assert!(timeout(wait, attempt.frame()).await.is_err());
        let since = Instant::now() - Duration::from_millis(silence);
        assert_eq!(
            replay.upload(),
            Upload::AwaitingCaller { since: since.into_std(), stalled: Duration::ZERO },
            "before {size}"
        );
        send.send(vec![b'x'; size].into()).unwrap();
        read_parts(&mut attempt, 1).await;
    }
}

proptest! {
    #[test]
    fn every_attempt_gets_the_whole_body_wherever_the_last_one_broke_off(
        sizes in proptest::collection::vec(0usize..3000, 0..12),
        breaks in proptest::collection::vec(0usize..12, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let memory = memory(1 << 20);
            let (send, body) = ScriptedBody::open(None);
            let mut whole = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let part = vec![b'a' + u8::try_from(number).unwrap(); *size];
                whole.extend_from_slice(&part);
                send.send(part.into()).unwrap();
            }
            drop(send);
            let replay = replay(body, 1 << 20, &memory);
            for parts in breaks {
                let mut attempt = replay.attempt();
                for _ in 0..parts {
                    if attempt.frame().await.is_none() {
                        break;
                    }
                }
            }
            assert_eq!(read(&replay).await.unwrap(), whole);
            assert_eq!(memory.used(), whole.len());
            drop(replay);
            assert_eq!(memory.used(), 0);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_is_taken_into_the_copy_and_the_attempt_gets_no_more_of_it() {
    let memory = memory(100);
    let replay = replay(ScriptedBody::of(&["1", "2", "3", "4"]), 100, &memory);
    let mut attempt = replay.attempt();
    read_parts(&mut attempt, 1).await;
    replay.complete(Duration::from_secs(1)).await;
    assert_eq!(replay.state(), BodyState::Whole);
    assert!(timeout(Duration::from_secs(1), attempt.frame()).await.is_err(), "neither a part nor an error");
    assert_eq!(read(&replay).await.unwrap(), "1234");
    assert!(matches!(attempt.frame().await, Some(Err(BodyError::Abandoned))));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_pauses_is_not_waited_for() {
    let memory = memory(100);
    let (parts, body) = ScriptedBody::open(None);
    let replay = replay(body, 100, &memory);
    parts.send(Bytes::from_static(b"1")).unwrap();
    read_parts(&mut replay.attempt(), 1).await;
    let before = Instant::now();
    replay.complete(Duration::from_secs(1)).await;
    assert_eq!((replay.state(), before.elapsed()), (BodyState::Partial, Duration::from_secs(1)));
}
