//! What users learn of recoveries (section M): from responses, from `on_recovery`, from `tracing`.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, StatusCode};
use mcp_session_recovery::{
    Failure, Outcome, Recovery, Refusal, RequestBody, SessionRecoveryLayer,
};
use serde_json::{Value, json};
use testing::logs::Logs;
use testing::scenario::{Door, Events, answer, broken_handshakes, heal, is, slow, start};
use testing::*;
use tower::{Layer, Service, ServiceExt};

fn start_server(profile: Profile) -> Server {
    logs::prepare();
    Server::new(profile)
}

/// A caller whose session the server has forgotten.
async fn lost(layer: SessionRecoveryLayer) -> (Server, Client, String) {
    let server = start_server(Profile::TypeScript);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    server.restart();
    (server, client, session)
}

fn reported(answer: &Answer) -> Option<(Outcome, u64)> {
    answer
        .recovery
        .map(|recovery| (recovery.outcome(), recovery.epoch()))
}

fn rpc(id: u64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// M1: a request that was sent again, one that waited, and the caller's own
/// `notifications/initialized`, which is neither.
#[tokio::test]
async fn m1_what_happened_is_told_where_the_session_was_recovered() {
    for (message, outcome) in [
        (tool_call(2), Outcome::Waited),
        (initialized(), Outcome::Initialized),
    ] {
        // Given a recovery under way,
        let (server, client, session) = lost(SessionRecoveryLayer::new()).await;
        let door = Door::before(&server, is("initialize"));
        let trigger = start(&client, post(Some(&session), &tool_call(1)));
        settle().await;

        // when a request arrives,
        let waiting = start(&client, post(Some(&session), &message));
        settle().await;
        door.open();

        // then each is told what happened to it, and that this is epoch 1.
        let (trigger, waiting) = (trigger.await.unwrap(), waiting.await.unwrap());
        assert_eq!(reported(&trigger), Some((Outcome::Replayed, 1)));
        assert_eq!(reported(&waiting), Some((outcome, 1)));
        // Those who come later have nothing to be told.
        let later = send(&client, post(Some(&session), &tool_call(3))).await;
        assert_eq!((later.status, reported(&later)), (200, None));
    }

    let (_, client, session) = lost(SessionRecoveryLayer::new()).await;
    let own = send(&client, post(Some(&session), &initialized())).await;
    assert_eq!(reported(&own), Some((Outcome::Initialized, 1)));
}

/// M1, D6: a request whose answer comes when the session has moved on is sent again, and told so.
#[tokio::test]
async fn m1_a_late_answer_is_told_of_the_epoch_it_was_sent_again_in() {
    let (server, client, session) = lost(SessionRecoveryLayer::new()).await;
    let door = Door::before(&server, |seen| {
        seen.what() == "tools/list" && seen.session() == Some("secret-session-1")
    });
    let late = start(
        &client,
        post(Some(&session), &rpc(9, "tools/list", json!({}))),
    );
    settle().await;
    for _ in 0..2 {
        send(&client, post(Some(&session), &tool_call(1))).await;
        server.restart();
    }
    send(&client, post(Some(&session), &tool_call(1))).await;
    door.open();
    let late = late.await.unwrap();
    assert_eq!(reported(&late), Some((Outcome::Replayed, 3)));
    assert_eq!((late.status, server.count("initialize")), (200, 4));
}

/// M1, F2, F4, F5, G4: why a request was not sent again.
#[tokio::test]
async fn m1_a_request_that_was_not_sent_again_is_told_why() {
    let layer = || {
        SessionRecoveryLayer::new()
            .max_body_bytes(300)
            .replay_when(|message| message.method() != Some("tools/call"))
    };
    let answered = json!({"jsonrpc": "2.0", "id": 7, "result": {}});
    let large = rpc(1, "tools/list", json!({"pad": "x".repeat(300)}));
    for (refusal, request) in [
        (Refusal::Response, post(Some("secret-session-1"), &answered)),
        (
            Refusal::BodyNotBuffered,
            post(Some("secret-session-1"), &large),
        ),
        (
            Refusal::ReplayWhen,
            post(Some("secret-session-1"), &tool_call(1)),
        ),
        (
            Refusal::LastEventId,
            get("secret-session-1", Some("unknown")),
        ),
    ] {
        let (server, client, _) = lost(layer()).await;
        let own = send(&client, request).await;
        let outcome = Outcome::NotReplayed(refusal);
        assert_eq!(own.status, 404, "{refusal:?}");
        assert_eq!(reported(&own), Some((outcome, 1)));
        assert_eq!(server.count("initialize"), 2, "{refusal:?}");
    }
}

/// M1, G4, G6: an error of the layer's own in place of an answer says what it is.
#[tokio::test(start_paused = true)]
async fn m1_a_lost_answer_is_told() {
    // A request that is left behind,
    let (server, client, session) = lost(SessionRecoveryLayer::new()).await;
    let _never = Door::before(&server, is("tools/list"));
    let left = start(
        &client,
        post(Some(&session), &rpc(9, "tools/list", json!({}))),
    );
    settle().await;
    send(&client, post(Some(&session), &tool_call(1))).await;
    let left = left.await.unwrap();
    assert_eq!(reported(&left), Some((Outcome::AnswerLost, 1)));

    // and the resumption of a stream that is gone, be it the first to notice or not.
    let server = start_server(Profile::TypeScript);
    let client = testing::client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    answer(&server, "tools/call", |_| sse("id: e1\ndata: \n\n"));
    send(&client, post(Some(&session), &tool_call(1))).await;
    server.restart();
    for _ in 0..2 {
        let gone = send(&client, get(&session, Some("e1"))).await;
        assert_eq!(reported(&gone), Some((Outcome::AnswerLost, 1)));
    }
}

/// M1: with `reinitialize(false)` the layer only tells, to every request anew.
#[tokio::test]
async fn m1_without_reinitializing_a_loss_is_only_told() {
    let (layer, events) = Events::of(SessionRecoveryLayer::new().reinitialize(false));
    let (server, client, session) = lost(layer).await;
    for request in [
        post(Some(&session), &tool_call(1)),
        post(Some(&session), &initialized()),
    ] {
        let own = send(&client, request).await;
        assert_eq!(reported(&own), Some((Outcome::Detected, 0)));
        let error = &own.message()["error"];
        assert_eq!(error["message"], "Session not found");
    }
    assert_eq!(server.count("initialize"), 1);
    assert!(events.all().is_empty());
}

/// M1, M2, M3: how a recovery failed is told in the response, in the one event and in the one
/// warning, in the same words.
#[tokio::test(start_paused = true)]
async fn m1_m2_m3_each_kind_of_failure_is_told() {
    for broken in broken_handshakes() {
        let (logs, _guard) = Logs::collect();
        let (layer, events) = Events::of(SessionRecoveryLayer::new());
        let (server, client, session) = lost(layer).await;
        (broken.script)(&server);

        let answer = send(&client, post(Some(&session), &tool_call(1))).await;

        let failure = broken.failure;
        assert_eq!(reported(&answer), Some((Outcome::Failed(failure), 0)));
        let events = events.all();
        assert_eq!(events.len(), 1, "{failure:?}");
        assert_eq!(events[0].result(), Err(failure));
        assert_eq!((events[0].epoch(), events[0].waited()), (0, 1));
        assert!(!events[0].changes().any() && events[0].not_restored().is_empty());
        let warnings = logs.own();
        let warnings: Vec<_> = warnings
            .iter()
            .filter(|line| line.level <= tracing::Level::INFO && line.is_event)
            .collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].level, tracing::Level::WARN);
        assert_eq!(warnings[0].spans, ["session_recovery"]);
        let reason = format!(" reason={failure}");
        assert!(warnings[0].fields.contains(&reason), "{warnings:?}");
    }
}

/// M1: who met no dead session is told nothing.
#[tokio::test]
async fn m1_an_answer_that_is_not_about_the_session_carries_nothing() {
    let server = start_server(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let unknown = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "?"}});
    answer(&server, "tools/call", move |_| json_reply(404, &unknown));
    for request in [
        post(Some(&session), &rpc(2, "tools/list", json!({}))),
        post(Some(&session), &tool_call(1)),
        post(Some("never-recorded"), &rpc(3, "tools/list", json!({}))),
        post(None, &initialize()),
        request(Method::DELETE, Some(&session), ""),
    ] {
        assert_eq!(send(&client, request).await.recovery, None);
    }
}

/// M2: the event of a recovery that worked, field by field.
#[tokio::test(start_paused = true)]
async fn m2_the_event_tells_everything_once() {
    // Given a caller with state, of which the new server accepts only a part,
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let server = start_server(Profile::TypeScript);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    for message in [
        rpc(1, "logging/setLevel", json!({"level": "info"})),
        rpc(2, "resources/subscribe", json!({"uri": "a"})),
        rpc(3, "resources/subscribe", json!({"uri": "b"})),
    ] {
        send(&client, post(Some(&session), &message)).await;
    }
    server.restart();
    server.on(|seen| {
        let message = seen.message();
        let refused = message["params"]["uri"] == "b" || message["method"] == "logging/setLevel";
        let error =
            json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": 1, "message": "no"}});
        refused.then(|| json_reply(200, &error))
    });
    server.set_version("2025-06-18");

    // when two requests find it dead at a time, and one arrives later, during the recovery that
    // takes 3 s,
    slow(&server, "notifications/initialized", Duration::from_secs(3));
    let door = Door::before(&server, is("tools/call"));
    let met = [1, 2].map(|id| start(&client, post(Some(&session), &tool_call(id))));
    settle().await;
    door.open();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let arrived = start(&client, post(Some(&session), &tool_call(3)));
    for call in met.into_iter().chain([arrived]) {
        assert_eq!(call.await.unwrap().status, 200);
    }

    // then that is one event.
    let told = events.all();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].host(), "mcp.test");
    assert_eq!(told[0].result(), Ok(()));
    assert_eq!(told[0].epoch(), 1);
    assert_eq!(told[0].elapsed(), Duration::from_secs(3));
    assert_eq!(told[0].waited(), 3);
    assert!(told[0].changes().protocol_version());
    let mut not_restored = told[0].not_restored().to_vec();
    not_restored.sort();
    assert_eq!(not_restored, ["logging/setLevel", "resources/subscribe"]);

    // The next recovery has its own.
    heal(&server);
    server.restart();
    send(&client, post(Some(&session), &tool_call(4))).await;
    let told = events.all();
    assert_eq!(told.len(), 2);
    assert_eq!((told[1].epoch(), told[1].waited()), (2, 1));
    assert_eq!(told[1].elapsed(), Duration::ZERO);
    // Nothing has changed since epoch 1.
    assert!(!told[1].changes().any());
}

/// M2, H2: each change is told for what it is.
#[tokio::test]
async fn m2_the_event_tells_what_changed() {
    let result = json!({
        "protocolVersion": VERSION, "capabilities": {"tools": {}, "logging": {}},
        "serverInfo": {"name": "test", "version": "1"}, "instructions": "be kind",
    });
    for (pointer, value, changed) in [
        ("/protocolVersion", json!("2025-06-18"), Some(0)),
        ("/serverInfo/version", json!("2"), Some(1)),
        ("/capabilities/tools", json!({"listChanged": true}), Some(2)),
        ("/instructions", json!("be quick"), Some(3)),
        // The same in other words.
        ("/capabilities", json!({"logging": {}, "tools": {}}), None),
    ] {
        let mut results = vec![result.clone(), result.clone()];
        *results[0].pointer_mut(pointer).unwrap() = value;
        let (layer, events) = Events::of(SessionRecoveryLayer::new());
        let server = start_server(Profile::TypeScriptJson);
        let behind = server.clone();
        answer(&server, "initialize", move |seen| {
            let made = behind.default_answer(seen);
            let result = results.pop().unwrap();
            let mut answer = json_reply(200, &json!({"jsonrpc": "2.0", "id": 0, "result": result}));
            answer.headers_mut().extend(made.headers().clone());
            answer
        });
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        send(&client, post(Some(&session), &tool_call(1))).await;

        let changes = events.all()[0].changes();
        let told = [
            changes.protocol_version(),
            changes.server_info(),
            changes.capabilities(),
            changes.instructions(),
        ];
        let expected = [0, 1, 2, 3].map(|change| Some(change) == changed);
        assert_eq!(told, expected, "{pointer}");
        assert_eq!(changes.any(), changed.is_some(), "{pointer}");
    }
}

/// M2: a hook that panics harms nobody.
#[tokio::test]
async fn m2_a_hook_that_panics_harms_no_request() {
    let layer = SessionRecoveryLayer::new().on_recovery(|_| panic!("of no concern to callers"));
    let (server, client, session) = lost(layer).await;
    for epoch in 1..=3 {
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(reported(&answer), Some((Outcome::Replayed, epoch)));
        server.restart();
    }
}

/// A server that logs, as the services below do.
#[derive(Clone)]
struct Logging(ServerService);

impl Service<Request<RequestBody<CallerBody>>> for Logging {
    type Response = Reply;
    type Error = TestError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TestError>> {
        Service::<Request<RequestBody<CallerBody>>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<RequestBody<CallerBody>>) -> Self::Future {
        tracing::info!(target: "below", "sending");
        self.0.call(request)
    }
}

/// M3: one span per recovery, however many wait for it, around everything that it does; in it, one
/// line that says that it worked.
#[tokio::test]
async fn m3_a_recovery_is_one_span_and_one_line() {
    let (logs, _guard) = Logs::collect();
    let server = start_server(Profile::TypeScript);
    let client = SessionRecoveryLayer::new().layer(Logging(server.service()));
    let session = handshake(&client).await;
    let quiet = logs.own();
    assert!(quiet.is_empty(), "{quiet:?}");

    for epoch in 1..=2 {
        server.restart();
        let before = (logs.own().len(), logs.all().len());
        let calls = [1, 2, 3].map(|id| send(&client, post(Some(&session), &tool_call(id))));
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer.status, 200);
        }

        let own = logs.own().split_off(before.0);
        let (events, spans): (Vec<_>, Vec<_>) = own.iter().partition(|line| line.is_event);
        assert_eq!(spans.len(), 1, "{spans:?}");
        assert_eq!(spans[0].name, "session_recovery");
        assert_eq!(spans[0].fields, format!(" host=\"mcp.test\" epoch={epoch}"));
        let events: Vec<_> = events
            .iter()
            .filter(|line| line.level <= tracing::Level::INFO)
            .collect();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].level, tracing::Level::INFO);
        assert_eq!(events[0].spans, ["session_recovery"]);
        assert!(events[0].fields.contains("session recovered"));
        assert!(events[0].fields.contains(" waited=3"), "{events:?}");
        // What the services below do for the recovery is part of it: a handshake of two messages.
        let below = logs.all().split_off(before.1);
        let below = below.iter().filter(|line| line.target == "below");
        let inside = below.filter(|line| line.spans == ["session_recovery"]);
        assert_eq!(inside.count(), 2);
    }
}

/// M1: the types are what a user can match on and show.
#[tokio::test]
async fn m1_the_extension_is_found_by_its_type() {
    let (server, client, session) = lost(SessionRecoveryLayer::new()).await;
    answer(&server, "initialize", |_| reply(503, None, ""));
    let call = post(Some(&session), &tool_call(1));
    let response = client.oneshot(call).await.unwrap();
    let recovery = *response.extensions().get::<Recovery>().unwrap();
    let refused = Failure::Refused(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(recovery.outcome(), Outcome::Failed(refused));
    assert_eq!(refused.to_string(), "initialize was refused with 503");
}
