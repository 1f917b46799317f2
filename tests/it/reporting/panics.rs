//! A recovery is reported however it ends, a panic below it included (rule M2).

use std::{future::pending, pin::Pin, time::Duration};

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::logs::{self, Logs};
use testing::scenario::{Events, answer, heal};
use testing::*;

type Answering = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

/// Lets the answering of such a request panic.
fn panics(server: &Server, what: &'static str) {
    server.on_async(move |seen| {
        (seen.what() == what).then(|| -> Answering { Box::pin(async { panic!("on purpose") }) })
    });
}

/// A body that panics when it is read.
struct Bomb;

impl http_body::Body for Bomb {
    type Data = bytes::Bytes;
    type Error = TestError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, TestError>>> {
        panic!("on purpose")
    }
}

/// M2, M3: one event and one warning, and the session can be recovered after that.
#[tokio::test(start_paused = true)]
async fn m2_a_recovery_in_which_the_inner_service_panics_is_reported() {
    type Case = (&'static str, fn(&Server));
    let cases: [Case; 4] = [
        ("initialize", |server| panics(server, "initialize")),
        ("the answer's body", |server| {
            answer(server, "initialize", |_| {
                let mut reply = stream(Script::new());
                *reply.body_mut() = http_body_util::BodyExt::boxed(Bomb);
                reply
            });
        }),
        ("a refusal's body", |server| {
            answer(server, "initialize", |_| {
                let mut reply = reply(401, None, "");
                *reply.body_mut() = http_body_util::BodyExt::boxed(Bomb);
                reply
            });
        }),
        ("initialized", |server| {
            panics(server, "notifications/initialized")
        }),
    ];
    logs::prepare();
    for (case, script) in cases {
        let (logs, _guard) = Logs::collect();
        let (layer, events) = Events::of(SessionRecoveryLayer::new());
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        script(&server);

        let calls = [1, 2].map(|id| send(&client, post(Some(&session), &tool_call(id))));
        for answer in futures::future::join_all(calls).await {
            let cancelled = Outcome::Failed(Failure::Cancelled);
            assert_eq!(
                (answer.status, answer.outcome()),
                (404, Some(cancelled)),
                "{case}"
            );
        }
        assert_eq!(events.outcomes(), [Err(Failure::Cancelled)], "{case}");
        assert_eq!(events.all()[0].waited(), 2, "{case}");
        let warnings = logs.own();
        let warnings = warnings
            .iter()
            .filter(|line| line.level == tracing::Level::WARN);
        assert_eq!(warnings.count(), 1, "{case}");

        // A panic costs a pause, like any other attempt that failed.
        heal(&server);
        let call = || send(&client, post(Some(&session), &tool_call(3)));
        assert_eq!(
            call().await.outcome(),
            Some(Outcome::Failed(Failure::Paused))
        );
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(call().await.outcome(), Some(Outcome::Replayed), "{case}");
        assert_eq!(
            events.outcomes(),
            [Err(Failure::Cancelled), Ok(())],
            "{case}"
        );
    }
}

/// M2, H1: what was not restored because of a panic is told as what was refused is.
#[tokio::test(start_paused = true)]
async fn m2_what_a_panic_kept_from_being_restored_is_told() {
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let rpc = |id: u64, method: &str, params: serde_json::Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    send(
        &client,
        post(
            Some(&session),
            &rpc(1, "logging/setLevel", json!({"level": "info"})),
        ),
    )
    .await;
    for number in 0..40 {
        let subscribe = rpc(2, "resources/subscribe", json!({"uri": number.to_string()}));
        send(&client, post(Some(&session), &subscribe)).await;
    }
    server.restart();
    let behind = server.clone();
    server.on_async(move |seen| {
        let fails = seen.what() == "logging/setLevel" || seen.message()["params"]["uri"] == "7";
        let _ = &behind;
        fails.then(|| -> Answering { Box::pin(async { panic!("on purpose") }) })
    });

    let answer = send(&client, post(Some(&session), &tool_call(1))).await;

    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    let mut told = events.all()[0].not_restored().to_vec();
    told.sort_unstable();
    assert_eq!(told, ["logging/setLevel", "resources/subscribe"]);
    assert_eq!(server.subscriptions("secret-session-2").len(), 39);
}

/// M2: a hook that panics while a panic is being reported does not end the process.
#[tokio::test(start_paused = true)]
async fn m2_a_hook_that_panics_after_a_panic_harms_nobody() {
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().on_recovery(|_| panic!("on purpose, too"));
    let client = client(&server, layer);
    let session = handshake(&client).await;
    server.restart();
    panics(&server, "initialize");
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Failed(Failure::Cancelled)));
    heal(&server);
    tokio::time::advance(Duration::from_millis(100)).await;
    let answer = send(&client, post(Some(&session), &tool_call(2))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
}

/// M2: a runtime that shuts down reports what it interrupts, once.
#[test]
fn m2_a_recovery_that_a_runtime_takes_with_it_is_reported() {
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        server.on_async(|seen| {
            (seen.what() == "initialize").then(|| -> Answering { Box::pin(pending()) })
        });
        drop(testing::scenario::start(
            &client,
            post(Some(&session), &tool_call(1)),
        ));
        settle().await;
        assert_eq!(server.count("initialize"), 2);
    });
    drop(runtime);
    assert_eq!(events.outcomes(), [Err(Failure::Cancelled)]);
}
