//! The contract of a tower service, and the public surface: what is `Send`, who shares what, who is
//! made ready and woken when.

use std::{
    collections::VecDeque,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use mcp_session_recovery::{
    Changes, Compatible, Failure, Outcome, Recovery, RecoveryEvent, RequestBody, ResponseBody,
    ResponseFuture, SessionRecovery, SessionRecoveryLayer, Sessions, Strict,
};
use testing::scenario::{Door, answer, is, start};
use testing::*;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};
use tower_test::mock::{self, Mock};

type Sent = Request<RequestBody<CallerBody>>;
type Boxed = BoxCloneService<Request<RequestBody<UnsyncBody>>, Reply, TestError>;
type UnsyncBody = UnsyncBoxBody<Bytes, TestError>;

/// What the types promise, which the compiler checks.
#[test]
fn everything_can_be_sent_shared_and_cloned_as_far_as_the_inner_service_can() {
    fn shared<T: Clone + Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn cloned<T: Clone>() {}
    fn bounded<T: Send + Sync>() {}

    shared::<SessionRecovery<ServerService>>();
    shared::<SessionRecoveryLayer>();
    shared::<Sessions>();
    shared::<Recovery>();
    shared::<RecoveryEvent>();
    shared::<(Outcome, Failure, Changes, Compatible, Strict)>();
    sent::<ResponseFuture<ServerService, CallerBody>>();
    // A service that is not `Sync`, with bodies that are not.
    cloned::<SessionRecovery<Boxed>>();
    sent::<SessionRecovery<Boxed>>();
    sent::<ResponseFuture<Boxed, UnsyncBody>>();
    sent::<RequestBody<UnsyncBody>>();
    sent::<ResponseBody<UnsyncBody>>();
    bounded::<RequestBody<CallerBody>>();
}

/// A service that is not `Sync`, bodies that are not, and `SessionRecovery::new`.
#[tokio::test]
async fn a_service_that_is_not_sync_is_recovered_as_well() {
    let server = Server::new(Profile::Rmcp);
    let inner: Boxed = BoxCloneService::new(server.service());
    let client = SessionRecovery::new(inner);
    let send = |request: Request<CallerBody>| {
        let client = client.clone();
        // On a thread of its own choosing, for all it knows.
        tokio::spawn(async move {
            let request = request.map(UnsyncBody::new);
            read(client.oneshot(request).await.unwrap()).await
        })
    };
    let session = send(post(None, &initialize())).await.unwrap();
    let session = session.session().unwrap();
    server.restart();
    let answer = send(post(Some(session), &tool_call(1))).await.unwrap();
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
}

/// Data other than `Bytes`, in both directions.
#[tokio::test]
async fn bodies_of_any_data_pass() {
    type Chunks = Full<VecDeque<u8>>;
    let server = Server::new(Profile::TypeScriptJson);
    let behind = server.clone();
    let inner = service_fn(move |request: Request<RequestBody<Chunks>>| {
        let server = behind.service();
        async move {
            let (head, body) = server.oneshot(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, TestError>(Response::from_parts(
                head,
                Chunks::new(Vec::from(body).into()),
            ))
        }
    });
    let client = SessionRecovery::new(inner);
    let send = |request: Request<CallerBody>| {
        let client = client.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let request = Request::from_parts(head, Chunks::new(Vec::from(body).into()));
            let response = client.oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            (head, body.collect().await.unwrap().to_bytes())
        }
    };
    let (head, _) = send(post(None, &initialize())).await;
    let session = head.headers[SESSION_ID].to_str().unwrap().to_owned();
    server.restart();
    let (head, body) = send(post(Some(&session), &tool_call(9))).await;
    assert_eq!(head.status, 200);
    assert!(head.extensions.get::<Recovery>().is_some());
    let message: serde_json::Value = serde_json::from_reader(body.reader()).unwrap();
    assert_eq!(message["id"], 9);
}

/// Other layers go above and below, and those below see what the layer itself sends.
#[tokio::test]
async fn the_layer_composes() {
    use tower_http::{set_header::SetRequestHeaderLayer, trace::TraceLayer};
    let server = Server::new(Profile::TypeScript);
    let below = http::HeaderValue::from_static("below");
    let name = http::HeaderName::from_static("x-stack");
    let mut client = ServiceBuilder::new()
        .boxed_clone()
        .timeout(Duration::from_secs(60))
        .layer(TraceLayer::new_for_http())
        .layer(SessionRecoveryLayer::new())
        .layer(SetRequestHeaderLayer::overriding(name, below))
        .buffer(4)
        .concurrency_limit(1)
        .service(server.service());
    let first = client.ready().await.unwrap();
    let response = first.call(post(None, &initialize())).await.unwrap();
    let session = response.headers()[SESSION_ID].clone();
    let session = session.to_str().unwrap();
    server.restart();
    let call = post(Some(session), &tool_call(1));
    let response = client.ready().await.unwrap().call(call).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 5);
    assert!(
        seen.iter()
            .all(|seen| seen.header("x-stack") == Some("below"))
    );
}

/// `poll_ready` is the inner service's: pending, woken, ready, failed.
#[tokio::test]
async fn readiness_is_the_inner_services() {
    let (mut client, mut inner) = mock::spawn_layer::<Sent, Reply, _>(SessionRecoveryLayer::new());
    inner.allow(0);
    assert_pending!(client.poll_ready());
    inner.allow(1);
    assert!(client.is_woken());
    assert_ready_ok!(client.poll_ready());
    inner.send_error(TestError("closed"));
    let mut other = task::spawn(client.get_ref().clone());
    let error = other.enter(|context, mut other| other.poll_ready(context));
    let error = assert_ready_err!(error);
    assert_eq!(*error.downcast::<TestError>().unwrap(), TestError("closed"));
}

fn not_found() -> Reply {
    reply(404, None, "")
}

/// E4: one readiness for each request to the inner service, the layer's own included. None of them
/// is sent before it has its own, and none is asked for in vain.
#[tokio::test]
async fn e4_every_request_waits_for_its_own_readiness() {
    let (mut client, mut inner) = mock::spawn_layer::<Sent, Reply, _>(SessionRecoveryLayer::new());
    inner.allow(1);
    assert_ready_ok!(client.poll_ready());
    let mut first = task::spawn(client.call(post(None, &initialize())));
    assert_pending!(first.poll());
    let server = Server::new(Profile::TypeScript);
    let (request, answer) = inner.next_request().await.unwrap();
    answer.send_response(server.service().oneshot(request).await.unwrap());
    let session = assert_ready_ok!(first.poll()).headers()[SESSION_ID].clone();
    let session = session.to_str().unwrap();

    // Given a request that finds the session dead, where nothing more is ready,
    server.restart();
    inner.allow(1);
    assert_ready_ok!(client.poll_ready());
    let mut call = task::spawn(client.call(post(Some(session), &tool_call(1))));
    assert_pending!(call.poll());
    let (_, answer) = inner.next_request().await.unwrap();
    answer.send_response(not_found());
    assert!(call.is_woken());

    // when the inner service takes one request at a time, then that is what it is given.
    for expected in ["initialize", "notifications/initialized", "tools/call"] {
        assert_pending!(call.poll());
        settle().await;
        assert_pending!(call.poll());
        assert!(inner.poll_request().is_pending(), "{expected}");
        inner.allow(1);
        settle().await;
        if expected == "tools/call" {
            assert!(call.is_woken());
            assert_pending!(call.poll());
        }
        let (request, answer) = inner.next_request().await.unwrap();
        answer.send_response(server.service().oneshot(request).await.unwrap());
        settle().await;
        assert_eq!(server.seen().last().unwrap().what(), expected);
    }
    assert!(call.is_woken());
    assert_eq!(assert_ready_ok!(call.poll()).status(), 200);
}

/// An inner service whose futures can be polled again.
#[derive(Clone)]
struct Again(Arc<dyn Fn(&Sent) -> Reply + Send + Sync>);

impl Service<Sent> for Again {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Sent) -> Self::Future {
        let reply = self.0.clone();
        let request = std::sync::Mutex::new(request);
        Box::pin(std::future::poll_fn(move |_| {
            Poll::Ready(Ok(reply(&request.lock().unwrap())))
        }))
    }
}

/// A future that is polled after completion says so, even where the inner service's would not.
#[tokio::test]
async fn polled_after_completion_panics_with_a_clear_message() {
    // Given a server with a stream to resume, whose sessions are lost on demand,
    let made_before = AtomicUsize::new(0);
    let mut client = SessionRecovery::new(Again(Arc::new(move |request| {
        let id = request.headers().get(SESSION_ID);
        match (request.headers().get("x-test"), id) {
            (_, None) => {
                let result = serde_json::json!({"protocolVersion": VERSION});
                let mut made = json_reply(
                    200,
                    &serde_json::json!({"jsonrpc": "2.0", "id": 0, "result": result}),
                );
                let id = ["a", "b"][made_before.fetch_add(1, Ordering::Relaxed).min(1)];
                made.headers_mut().insert(SESSION_ID, id.parse().unwrap());
                made
            }
            (Some(_), Some(id)) if id == "a" => not_found(),
            (_, Some(id)) if id == "a" => sse("id: 1\ndata: \n\n"),
            _ => sse("id: 2\ndata: \n\n"),
        }
    })));
    let mut completed = |request: Request<CallerBody>| {
        let mut future = Box::pin(client.call(request));
        let client = client.clone();
        async move {
            let response = (&mut future).await.unwrap();
            let status = response.status().as_u16();
            let recovery = response.extensions().get::<Recovery>().copied();
            response.into_body().collect().await.unwrap();
            drop(client);
            // when it is polled once more,
            let mut future = task::spawn(future);
            let panic = catch_unwind(AssertUnwindSafe(|| future.poll().is_ready()));
            let panic = panic.expect_err("a panic");
            let message = match panic.downcast::<String>() {
                Ok(message) => *message,
                Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
            };
            (status, recovery.map(|recovery| recovery.outcome()), message)
        }
    };
    let ours = "ResponseFuture polled after completion".to_owned();

    // then it panics: as a handshake, as an ordinary exchange,
    let initialized = completed(post(None, &initialize())).await;
    assert_eq!(initialized, (200, None, ours.clone()));
    let exchanged = completed(post(Some("a"), &tool_call(1))).await;
    assert_eq!(exchanged, (200, None, ours.clone()));
    // after a recovery,
    let mut call = post(Some("a"), &tool_call(2));
    call.headers_mut().insert("x-test", "lost".parse().unwrap());
    let (status, outcome, message) = completed(call).await;
    assert_eq!((status, outcome), (200, Some(Outcome::Replayed)));
    assert!(message.contains("after completion"), "{message}");
    // and with an answer of the layer's own.
    let answered = completed(get("a", Some("1"))).await;
    assert_eq!(answered, (200, Some(Outcome::AnswerLost), ours));
}

/// A caller is woken when there is something to see, and not before.
#[tokio::test]
async fn a_request_under_way_is_woken_by_its_answer() {
    let (mut client, mut inner) = mock::spawn_layer::<Sent, Reply, _>(SessionRecoveryLayer::new());
    for request in [
        post(None, &initialize()),
        post(None, &tool_call(1)),
        post(Some("a"), &tool_call(2)),
        get("other", None),
    ] {
        assert_ready_ok!(client.poll_ready());
        let mut response = task::spawn(client.call(request));
        assert_pending!(response.poll());
        assert!(!response.is_woken());
        let (_, answer) = inner.next_request().await.unwrap();
        assert!(!response.is_woken());
        let mut reply = sse("data: \n\n");
        reply.headers_mut().insert(SESSION_ID, "a".parse().unwrap());
        answer.send_response(reply);
        assert!(response.is_woken());
        assert_ready_ok!(response.poll());
    }
}

/// E1, E3: everyone who waits for a recovery is woken, whoever else gives up, and in the task that
/// polled last.
#[tokio::test]
async fn everyone_who_waits_for_a_recovery_is_woken() {
    let server = Server::new(Profile::TypeScript);
    let mut client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let door = Door::before(&server, is("initialize"));
    let mut begin = |id| Box::pin(client.call(post(Some(&session), &tool_call(id))));
    // Given the one who started it and three who wait,
    let mut trigger = task::spawn(begin(1));
    assert_pending!(trigger.poll());
    settle().await;
    let [gone, one, mut moved] = [2, 3, 4].map(begin);
    let (mut gone, mut one) = (task::spawn(gone), task::spawn(one));
    assert_pending!(gone.poll());
    assert_pending!(one.poll());
    // of whom one moves to another task,
    let mut nobody = Context::from_waker(std::task::Waker::noop());
    assert_pending!(moved.as_mut().poll(&mut nobody));
    let mut moved = task::spawn(moved);
    assert_pending!(moved.poll());

    // when one gives up, and so does the one who started it,
    drop((gone, trigger));
    settle().await;
    assert!(!one.is_woken() && !moved.is_woken());
    door.open();
    settle().await;

    // then the others are woken for what they waited for.
    for waiting in [&mut one, &mut moved] {
        assert!(waiting.is_woken());
        let response = assert_ready_ok!(waiting.poll());
        assert_eq!(response.status(), 200);
    }
}

/// The body is asked for once before anyone can be woken: what comes later wakes all the same.
#[tokio::test]
async fn a_body_that_comes_late_wakes_its_request() {
    let server = Server::new(Profile::TypeScript);
    let mut client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let (feeder, body) = feed();
    let request = request(Method::POST, Some(&session), "").map(|_| BodyExt::boxed(body));
    let mut response = task::spawn(client.call(request));
    assert_pending!(response.poll());
    let call = tool_call(1).to_string();
    for part in [&call[..7], &call[7..]] {
        feeder.data(part);
        assert!(response.is_woken());
        assert_pending!(response.poll());
    }
    assert_eq!(server.count("tools/call"), 0);
    drop(feeder);
    assert!(response.is_woken());
    assert_eq!(assert_ready_ok!(response.poll()).status(), 200);
    assert_eq!(server.last("tools/call").body, call);
}

/// E3: while a request waits, for its own body or for a recovery, it leaves the inner service to
/// others, even where there is room for one request only.
#[tokio::test]
async fn who_waits_holds_nothing_of_the_inner_service() {
    // Given room for one request at a time,
    let server = Server::new(Profile::TypeScriptJson);
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(server.service());
    let client = SessionRecoveryLayer::new().layer(inner);
    let session = handshake(&client).await;

    // when requests of each kind wait for the rest of their bodies,
    let call = tool_call(7).to_string();
    let begin = |session: Option<&str>, text: &str| {
        let (feeder, body) = feed();
        feeder.data(&text[..9]);
        let request = request(Method::POST, session, "").map(|_| BodyExt::boxed(body));
        let client = client.clone();
        let response = tokio::spawn(async move { send(&client, request).await });
        (feeder, text[9..].to_owned(), response)
    };
    let stalled = [
        begin(Some(&session), &call),
        begin(Some(&session), &call),
        begin(None, &initialize().to_string()),
    ];
    settle().await;

    // then others pass them by, recovery and all,
    let count = server.seen().len();
    let other = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(other.status, 200);
    server.restart();
    let calls = [2, 3, 4].map(|id| send(&client, post(Some(&session), &tool_call(id))));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(server.seen().len(), count + 1 + 1 + 2 + 3);

    // and they go on when their bodies do.
    for (feeder, rest, response) in stalled {
        feeder.data(rest);
        drop(feeder);
        let answer = response.await.unwrap();
        assert_eq!((answer.status, answer.recovery), (200, None));
    }
}

/// Clones share their sessions, and so do layers that are given the same table; two services of
/// one layer do not.
#[tokio::test]
async fn who_shares_sessions() {
    let server = Server::new(Profile::TypeScript);
    let shared = Sessions::new();
    let (own, sharing) = (
        SessionRecoveryLayer::new(),
        SessionRecoveryLayer::new().sessions(shared.clone()),
    );
    let layered = |layer: &SessionRecoveryLayer| layer.layer(server.service());
    let one = layered(&own);
    let shares = layered(&sharing);
    for (recording, other, recovers) in [
        (&one, one.clone(), true),
        (&one, layered(&own), false),
        (&one, layered(&own.clone()), false),
        (&one, SessionRecovery::new(server.service()), false),
        (&shares, layered(&sharing), true),
        (
            &shares,
            layered(&SessionRecoveryLayer::default().sessions(shared.clone())),
            true,
        ),
        (&shares, one.clone(), false),
    ] {
        let session = handshake(recording).await;
        server.restart();
        let answer = send(&other, post(Some(&session), &tool_call(1))).await;
        assert_eq!(answer.status == 200, recovers);
    }
    // What one may forget, all forget.
    assert_eq!((shared.len(), shared.is_empty()), (3, false));
    shared.forget_all();
    assert_eq!((shared.len(), shared.is_empty()), (0, true));
}

/// The wrapped service can be had back.
#[tokio::test]
async fn the_inner_service_can_be_reached() {
    let (service, _handle) = mock::pair::<Sent, Reply>();
    let client: SessionRecovery<Mock<Sent, Reply>> = SessionRecovery::new(service);
    let _: &Mock<Sent, Reply> = client.get_ref();
    let _: Mock<Sent, Reply> = client.into_inner();
}

/// A response that is dropped unread, or never awaited at all, harms nobody.
#[tokio::test]
async fn what_is_dropped_is_dropped() {
    let server = Server::new(Profile::TypeScript);
    let mut http = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&http).await;
    drop(http.call(post(Some(&session), &tool_call(1))));
    let listening = http.call(get(&session, None)).await.unwrap();
    drop(listening);
    server.restart();
    let door = Door::before(&server, is("initialize"));
    let calls = [1, 2].map(|id| start(&http, post(Some(&session), &tool_call(id))));
    settle().await;
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    answer(&server, "tools/list", |_| sse(""));
    door.open();
    settle().await;
    let after = send(&http, post(Some(&session), &tool_call(3))).await;
    assert_eq!((after.status, server.count("initialize")), (200, 2));
    let mut unread = task::spawn(http.call(post(Some(&session), &tool_call(4))));
    assert_ready!(unread.poll()).unwrap();
}
