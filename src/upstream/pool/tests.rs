//! Which kept connection a request gets.

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::record::metrics::Metrics;
use crate::upstream::cluster::Cluster;
use crate::upstream::cluster::tests::settings;
use crate::upstream::location::EndpointUrl;
use crate::upstream::protocol::Protocol;
use crate::upstream::settings::{Balance, ClusterSettings};

/// A pool, and the backend that it leads to.
struct Stage {
    pools: Pools<Full<Bytes>>,
    cluster: Cluster,
    backend: TcpListener,
}

impl Stage {
    async fn new(unsafe_reuse: UnsafeReuse) -> Self {
        Self::speaking(Protocol::Http1, unsafe_reuse).await
    }

    async fn speaking(protocol: Protocol, unsafe_reuse: UnsafeReuse) -> Self {
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = EndpointUrl::parse(&format!("http://{}", backend.local_addr().unwrap())).unwrap();
        let settings = ClusterSettings {
            endpoints: vec![url],
            protocol,
            unsafe_reuse,
            ..settings(1, Balance::RoundRobin)
        };
        Self { pools: Pools::new(), cluster: Cluster::new(settings, Arc::new(Metrics::new())), backend }
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        self.cluster.endpoints()[0].clone()
    }

    /// Sends a request and reads its answer.
    async fn send(&self, method: Method, repeatable: Repeatable) -> Result<StatusCode, UpstreamError> {
        self.send_by(method, repeatable, &Progress::default()).await
    }

    async fn send_by(
        &self,
        method: Method,
        repeatable: Repeatable,
        progress: &Progress,
    ) -> Result<StatusCode, UpstreamError> {
        let mut request = Request::new(Full::new(Bytes::from_static(b"once")));
        *request.method_mut() = method;
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("hosp"));
        let (head, body) = request.into_parts();
        let (endpoint, head) = (self.endpoint(), Rc::new(head));
        let request = Sending { endpoint: &endpoint, head: &head, repeatable, progress };
        let answer = self.pools.send(request, body).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        Ok(status)
    }

    async fn get(&self) -> Result<StatusCode, UpstreamError> {
        self.send(Method::GET, Repeatable::Always).await
    }

    async fn post(&self) -> Result<StatusCode, UpstreamError> {
        self.send(Method::POST, Repeatable::OnlyIfNeverSent(SendOnce::Method)).await
    }

    /// Accepts a connection and answers the first request on it.
    async fn serve(&self) -> TcpStream {
        let (mut stream, _) = self.backend.accept().await.unwrap();
        answer(&mut stream, "").await;
        stream
    }

    /// Does a GET, after which its connection is idle.
    async fn idle_connection(&self) -> TcpStream {
        let (status, stream) = tokio::join!(self.get(), self.serve());
        assert_eq!(status.unwrap(), 200);
        self.wait_for_idle(1).await;
        stream
    }

    async fn wait_for_idle(&self, count: usize) {
        let pool = self.pools.pool(&self.endpoint());
        while pool.idle.borrow().len() < count {
            yield_now().await;
        }
    }
}

/// Takes one request and answers it.
async fn answer(stream: &mut TcpStream, headers: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nonce") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request broke off");
    }
    stream
        .write_all(format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n").as_bytes())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_close_that_has_already_come_never_gets_a_post() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        for _ in 0..20 {
            let stream = stage.idle_connection().await;
            // Between this and the POST the runtime has no turn to see the close.
            drop(stream);
            let (status, _next) = tokio::join!(stage.post(), stage.serve());
            assert_eq!(status.unwrap(), 200);
            stage.wait_for_idle(1).await;
            stage.pools.pool(&stage.endpoint()).idle.borrow_mut().clear();
        }
        assert_eq!(stage.endpoint().cluster_metrics.idle_close_age.get_sample_count(), 20);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn an_operator_who_says_always_may_lose_that_post() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Always).await;
        drop(stage.idle_connection().await);
        let failed = stage.post().await.unwrap_err();
        assert_eq!(failed.delivery, Delivery::Maybe);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn a_post_leaves_a_connection_of_unproven_age_to_others() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        let mut first = stage.idle_connection().await;
        sleep(Duration::from_millis(12)).await;
        // It has been idle for more than 10 ms, and nothing is known to have survived for twice its age.
        let (status, second) = tokio::join!(stage.post(), stage.serve());
        assert_eq!(status.unwrap(), 200);
        assert_eq!(stage.endpoint().cluster_metrics.safety_connects.get(), 1);
        stage.wait_for_idle(2).await;
        drop(second);
        yield_now().await;
        let (status, ()) = tokio::join!(stage.get(), answer(&mut first, ""));
        assert_eq!(status.unwrap(), 200);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn the_limit_of_a_connection_is_what_its_first_answer_promises() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        let serve = async {
            let (mut stream, _) = stage.backend.accept().await.unwrap();
            answer(&mut stream, "Keep-Alive: timeout=0, max=100\r\n").await;
            stream
        };
        let (status, _first) = tokio::join!(stage.get(), serve);
        assert_eq!(status.unwrap(), 200);
        stage.endpoint().note_idle_survival(Duration::from_secs(4));
        let (status, _second) = tokio::join!(stage.post(), stage.serve());
        assert_eq!(status.unwrap(), 200);
        assert_eq!(stage.endpoint().cluster_metrics.safety_connects.get(), 1);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn the_close_of_an_idle_connection_is_learned_from_though_no_request_comes() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        drop(stage.idle_connection().await);
        let pool = stage.pools.pool(&stage.endpoint());
        while !pool.idle.borrow().is_empty() {
            yield_now().await;
        }
        assert_eq!(stage.endpoint().cluster_metrics.idle_close_age.get_sample_count(), 1);
        assert_eq!(stage.endpoint().open_connections(), 0);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn a_connection_on_which_the_endpoint_speaks_unasked_carries_no_request() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Always).await;
        let mut first = stage.idle_connection().await;
        first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
        let pool = stage.pools.pool(&stage.endpoint());
        while !pool.idle.borrow().is_empty() {
            yield_now().await;
        }
        let (status, _second) = tokio::join!(stage.get(), stage.serve());
        assert_eq!(status.unwrap(), 200);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn a_connection_whose_waiter_leaves_before_it_hears_of_it_goes_to_the_next() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        let _stream = stage.idle_connection().await;
        let pool = stage.pools.pool(&stage.endpoint());
        let connection = pool.take_idle().unwrap();
        stage.endpoint().connections.forget_slots();
        let progress = Progress::default();
        let [mut hasty, mut patient] = [(); 2].map(|()| Box::pin(pool.wait(&progress)));
        for waiting in [&mut hasty, &mut patient] {
            assert!(timeout(Duration::ZERO, waiting).await.is_err());
        }
        pool.offer(connection);
        drop(hasty);
        assert!(matches!(patient.await, Ok(Granted::Connection(_))));
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_is_cut_off_while_it_waits_for_a_connection_blames_our_own_limit() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        stage.endpoint().connections.forget_slots();
        for repeatable in [Repeatable::Always, Repeatable::OnlyIfNeverSent(SendOnce::Authentication)] {
            let progress = Progress::default();
            let mut waiting = Box::pin(stage.send_by(Method::GET, repeatable, &progress));
            assert!(timeout(Duration::from_millis(20), waiting.as_mut()).await.is_err());
            let error = progress.cut_off();
            assert_eq!((error.kind, error.delivery), (UpstreamErrorKind::ConnectionLimit, Delivery::Never));
            assert!(!error.kind.blames_endpoint());
            // With a slot it waits for the endpoint, which may be a black hole.
            stage.endpoint().connections.free_slot();
            assert!(timeout(Duration::ZERO, waiting.as_mut()).await.is_err());
            assert!(progress.cut_off().kind.blames_endpoint());
            drop(waiting);
            stage.endpoint().connections.forget_slots();
        }
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn as_many_wait_for_a_connection_that_is_being_opened_as_it_may_carry() {
    let local = LocalSet::new();
    let test = async {
        // It accepts, and says nothing.
        let stage = Stage::speaking(Protocol::H2, UnsafeReuse::Learned).await;
        let endpoint = stage.endpoint();
        let most = endpoint.settings.max_streams + endpoint.settings.max_waiting;
        let mut sending: Vec<_> = (0..=most).map(|_| Box::pin(stage.get())).collect();
        let (last, others) = sending.split_last_mut().unwrap();
        for other in others {
            assert!(timeout(Duration::ZERO, other).await.is_err(), "it waits");
        }
        let error = last.await.unwrap_err();
        assert_eq!(error.kind, UpstreamErrorKind::ConnectionLimit);
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn connections_that_come_back_in_one_turn_all_go_to_those_who_wait() {
    let local = LocalSet::new();
    let test = async {
        let stage = Stage::new(UnsafeReuse::Learned).await;
        let pool = stage.pools.pool(&stage.endpoint());
        let mut streams = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..3 {
            streams.push(stage.idle_connection().await);
            connections.push(pool.take_idle().unwrap());
        }
        stage.endpoint().connections.forget_slots();
        let progress = Progress::default();
        let mut waits = [(); 3].map(|()| Box::pin(pool.wait(&progress)));
        for waiting in &mut waits {
            assert!(timeout(Duration::ZERO, waiting).await.is_err());
        }
        for connection in connections {
            pool.offer(connection);
            assert!(!pool.is_wanted_elsewhere(), "all who wait are of this worker");
        }
        for waiting in waits {
            assert!(matches!(waiting.await, Ok(Granted::Connection(_))));
        }
        let endpoint = stage.endpoint();
        let _of_another_worker = endpoint.connections.wait();
        assert!(pool.is_wanted_elsewhere());
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_learned_limit_relaxes_within_minutes() {
    let cluster = Cluster::new(settings(1, Balance::RoundRobin), Arc::new(Metrics::new()));
    let endpoint = cluster.endpoints()[0].clone();
    endpoint.note_idle_survival(Duration::from_secs(4));
    endpoint.note_idle_close(Duration::from_millis(50));
    endpoint.note_idle_survival(Duration::from_secs(4));
    assert_eq!(endpoint.reusable_age(None), Duration::from_millis(25));
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(endpoint.reusable_age(None), Duration::from_millis(100));
    tokio::time::advance(Duration::from_mins(3)).await;
    assert_eq!(endpoint.reusable_age(None), Duration::from_secs(2));
}

/// Longer than any of this takes.
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn where_descriptors_are_short_the_oldest_idle_connection_of_the_worker_closes() {
    let local = LocalSet::new();
    let test = async {
        let newer = Stage::new(UnsafeReuse::Learned).await;
        let mut older = Stage::new(UnsafeReuse::Learned).await;
        older.pools = Pools { pools: newer.pools.pools.clone(), relief: Relief::none() };
        let (_older, _newer) = (older.idle_connection().await, newer.idle_connection().await);
        let pools = [older.pools.pool(&older.endpoint()), newer.pools.pool(&newer.endpoint())];
        let idle = || pools.each_ref().map(|pool| pool.idle.borrow().len());
        assert_eq!(idle(), [1, 1]);
        pools[1].make_room().await;
        assert_eq!(idle(), [0, 1], "wherever it leads");
        pools[0].make_room().await;
        assert_eq!(idle(), [0, 0]);
        pools[0].make_room().await; // nothing is left to close
    };
    timeout(BOUND, local.run_until(test)).await.unwrap();
}
