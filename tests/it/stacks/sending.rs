//! The crate documentation's table "Where to put it in a stack", the rows that send again or hold
//! back: authentication, retries, and limits below the layer.

use std::{
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use testing::mocked::*;
use testing::*;
use tokio::time::{Instant, Sleep, sleep};
use tower::{
    ServiceBuilder,
    retry::{Policy, RetryLayer},
};

use super::support::{RECOVERED, forgotten, recovers};

/// The same request again, whatever the caller's body is: the layer holds it.
fn again(request: &Sent) -> Option<Sent> {
    let mut again = Request::new(request.body().try_clone()?);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// Tokens of which the last one is good.
#[derive(Clone, Default)]
struct Tokens {
    held: Arc<AtomicU32>,
    good: Arc<AtomicU32>,
    refreshed: Arc<AtomicU32>,
}

impl Tokens {
    fn header(token: u32) -> HeaderValue {
        HeaderValue::try_from(format!("Bearer {token}")).unwrap()
    }

    fn held(&self) -> HeaderValue {
        Self::header(self.held.load(Ordering::SeqCst))
    }

    fn good(&self) -> HeaderValue {
        Self::header(self.good.load(Ordering::SeqCst))
    }
}

/// A new token for a request that was answered 401, which is then sent again.
impl Policy<Sent, Reply, TestError> for Tokens {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        request: &mut Sent,
        result: &mut Result<Reply, TestError>,
    ) -> Option<Ready<()>> {
        let status = result.as_ref().ok()?.status();
        (status == StatusCode::UNAUTHORIZED).then(|| {
            self.refreshed.fetch_add(1, Ordering::SeqCst);
            self.held
                .store(self.good.load(Ordering::SeqCst), Ordering::SeqCst);
            request.headers_mut().insert(AUTHORIZATION, self.held());
            ready(())
        })
    }

    fn clone_request(&mut self, request: &Sent) -> Option<Sent> {
        again(request)
    }
}

/// E4: the handshake is made with the token of its own moment, and no 401 reaches the layer.
#[tokio::test(start_paused = true)]
async fn e4_authentication_below_gives_the_handshake_a_fresh_token() {
    // Given a layer that holds a token and refreshes it on 401,
    let server = Server::new(Profile::TypeScript);
    let tokens = Tokens::default();
    let (wants, holds) = (tokens.clone(), tokens.clone());
    server.on(move |seen| {
        let refused = seen.headers.get(AUTHORIZATION) != Some(&wants.good());
        refused.then(|| reply(401, None, ""))
    });
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(move |mut request: Sent| {
            request.headers_mut().insert(AUTHORIZATION, holds.held());
            request
        })
        .layer(RetryLayer::new(tokens.clone()))
        .service(server.service());
    let scene = forgotten(&server, client).await;

    // when the token has expired together with the session, then one refresh and one handshake do.
    tokens.good.fetch_add(1, Ordering::SeqCst);
    let answer = scene.call(1).await;
    assert_eq!(
        (echoed(&answer), answer.outcome()),
        (1, Some(Outcome::Replayed))
    );
    assert_eq!(tokens.refreshed.load(Ordering::SeqCst), 1);
    assert_eq!(server.count("initialize"), 2);

    // And when it expires in the middle of a recovery, then the handshake is refreshed, too.
    server.restart();
    let (expires, mut once) = (tokens.clone(), true);
    server.on(move |seen| {
        if seen.what() == "initialize" && std::mem::take(&mut once) {
            expires.good.fetch_add(1, Ordering::SeqCst);
        }
        None
    });
    // That one is asked first, and those before it after it has spoken.
    let answer = scene.call(2).await;
    assert_eq!(
        (echoed(&answer), answer.outcome()),
        (2, Some(Outcome::Replayed))
    );
    assert_eq!(tokens.refreshed.load(Ordering::SeqCst), 2);
    let accepted = server.last("notifications/initialized");
    assert_eq!(accepted.header("authorization"), Some("Bearer 2"));
}

/// Sends again, after a while, what could not be sent.
#[derive(Clone)]
struct WaitForServer(u32);

impl Policy<Sent, Reply, TestError> for WaitForServer {
    type Future = Sleep;

    fn retry(&mut self, _: &mut Sent, result: &mut Result<Reply, TestError>) -> Option<Sleep> {
        let more = result.is_err() && self.0 > 0;
        more.then(|| {
            self.0 -= 1;
            sleep(Duration::from_millis(200))
        })
    }

    fn clone_request(&mut self, request: &Sent) -> Option<Sent> {
        again(request)
    }
}

/// E4: the layer's own requests wait for a server that is away, too.
#[tokio::test(start_paused = true)]
async fn e4_a_retry_below_waits_for_a_server_that_is_away() {
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .layer(RetryLayer::new(WaitForServer(5)))
        .service(server.service());
    let scene = forgotten(&server, client).await;

    // Given a server that refuses three connections when it is called, and three more when the
    // session is initialized anew,
    let refused = Arc::new(Mutex::new(Vec::new()));
    let log = refused.clone();
    server.on_async(move |seen| {
        let (what, mut log) = (seen.what(), log.lock().unwrap());
        let before = log.iter().filter(|it| **it == what).count();
        (before < 3).then(|| -> Answering {
            log.push(what);
            Box::pin(ready(Err(TestError("connection refused"))))
        })
    });

    // when it is called, then the answer comes as soon as it is there.
    let started = Instant::now();
    let answer = scene.call(1).await;
    assert_eq!(
        (echoed(&answer), answer.outcome()),
        (1, Some(Outcome::Replayed))
    );
    assert_eq!(started.elapsed(), 3 * 3 * Duration::from_millis(200));
    assert_eq!(refused.lock().unwrap().len(), 9);
    let sessions = server.all("initialize").len();
    assert_eq!((sessions, server.live().len()), (1 + 4, 1));
}

/// E3, E4: `RateLimit` cannot be cloned, so there is a buffer above it.
#[tokio::test(start_paused = true)]
async fn e4_a_rate_limit_below_counts_all_that_is_sent() {
    let server = Server::new(Profile::TypeScript);
    let times = Arc::new(Mutex::new(Vec::new()));
    let log = times.clone();
    server.on(move |_| {
        log.lock().unwrap().push(Instant::now());
        None
    });
    let second = Duration::from_secs(1);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .buffer(16)
        .rate_limit(1, second)
        .service(server.service());
    recovers(&server, client).await;
    assert_eq!(server.log(), RECOVERED);
    let times = times.lock().unwrap();
    assert!(times.windows(2).all(|two| two[1] - two[0] >= second));
    assert_eq!(times.len(), RECOVERED.len());
}

/// E3: nothing is held while the layer waits, so that one permit is enough for all of a recovery.
#[tokio::test(start_paused = true)]
async fn e4_a_concurrency_limit_that_sheds_below_leaves_room_for_the_handshake() {
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .load_shed()
        .concurrency_limit(1)
        .service(server.service());
    recovers(&server, client).await;
    assert_eq!(server.log(), RECOVERED);
}
