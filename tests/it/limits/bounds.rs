//! The limits (section K): what each bounds, its default, and that its knob moves it.
//!
//! How long things may take (K5) is in `timeouts.rs`, how often (K6) in `budget.rs`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use mcp_session_recovery::{
    Classify, Compatible, Failure, Outcome, Refusal, SessionRecoveryLayer, Sessions,
};
use serde_json::{Value, json};
use testing::scenario::{Events, answer};
use testing::*;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

const MIB: usize = 1024 * 1024;

/// A message of exactly so many bytes.
fn sized(mut message: Value, pad: &str, bytes: usize) -> String {
    *message.pointer_mut(pad).unwrap() = json!("");
    let bare = message.to_string().len();
    *message.pointer_mut(pad).unwrap() = json!("x".repeat(bytes - bare));
    assert_eq!(message.to_string().len(), bytes);
    message.to_string()
}

fn sized_call(bytes: usize) -> String {
    sized(tool_call(1), "/params/name", bytes)
}

/// A body that does not tell its size, in two chunks.
fn streamed(request: Request<CallerBody>, body: &str) -> Request<CallerBody> {
    let (one, other) = body.split_at(body.len() / 2);
    request.map(|_| Script::new().data(one).data(other).boxed())
}

/// K1, F4: a request body is kept up to 1 MiB. A larger one arrives whole, but once.
#[tokio::test]
async fn k1_how_much_of_a_request_is_kept() {
    for (knob, limit) in [(None, MIB), (Some(400), 400)] {
        for (size, replayed) in [(limit, true), (limit + 1, false)] {
            for stream in [false, true] {
                let mut layer = SessionRecoveryLayer::new();
                if let Some(knob) = knob {
                    layer = layer.max_body_bytes(knob);
                }
                let server = Server::new(Profile::TypeScriptJson);
                let client = client(&server, layer);
                let session = handshake(&client).await;
                server.restart();
                let body = sized_call(size);
                let mut call = request(Method::POST, Some(&session), body.clone());
                if stream {
                    call = streamed(call, &body);
                }

                let answer = send(&client, call).await;

                let context = format!("{size} of {limit}, {stream}");
                let (status, outcome, sent) = match replayed {
                    true => (200, Outcome::Replayed, 2),
                    false => (404, Outcome::NotReplayed(Refusal::BodyNotBuffered), 1),
                };
                assert_eq!(
                    (answer.status, answer.outcome()),
                    (status, Some(outcome)),
                    "{context}"
                );
                let calls = server.all("tools/call");
                assert_eq!(calls.len(), sent, "{context}");
                assert!(calls.iter().all(|call| call.body == body), "{context}");
                // The session is recovered for those who follow.
                let next = send(&client, post(Some(&session), &tool_call(2))).await;
                assert_eq!((next.status, next.recovery), (200, None), "{context}");
                assert_eq!(server.count("initialize"), 2, "{context}");
            }
        }
    }
}

/// K1, B1: an `initialize` that is not kept passes, but makes no recorded session.
#[tokio::test]
async fn k1_an_initialize_over_the_limit_is_not_recorded() {
    for (size, recorded) in [(MIB, 1), (MIB + 1, 0)] {
        let (server, sessions) = (Server::new(Profile::TypeScript), Sessions::new());
        let client = client(
            &server,
            SessionRecoveryLayer::new()
                .max_initialize_bytes(2 * MIB)
                .sessions(sessions.clone()),
        );
        let body = sized(initialize(), "/params/clientInfo/name", size);
        let answer = send(&client, request(Method::POST, None, body.clone())).await;
        assert_eq!(answer.status, 200);
        assert_eq!(server.last("initialize").body, body);
        assert_eq!(sessions.len(), recorded, "{size}");
    }
}

/// K2: 10,000 sessions, and at least one.
#[tokio::test]
async fn k2_how_many_sessions_are_remembered() {
    for (knob, limit) in [(None, 10_000), (Some(3), 3), (Some(0), 1)] {
        let (server, sessions) = (Server::new(Profile::TypeScriptJson), Sessions::new());
        let mut layer = SessionRecoveryLayer::new().sessions(sessions.clone());
        if let Some(knob) = knob {
            layer = layer.max_sessions(knob);
        }
        let client = client(&server, layer);
        for made in 1..=limit + 1 {
            send(&client, post(None, &initialize())).await;
            assert_eq!(sessions.len(), made.min(limit));
        }
        server.restart();
        for (session, status) in [(1, 404), (2, 200), (limit + 1, 200)] {
            let session = format!("secret-session-{session}");
            let after = send(&client, post(Some(&session), &tool_call(1))).await;
            assert_eq!(after.status, status, "{session} of {limit}");
        }
    }
}

/// An answer to `initialize` of so many bytes, in the event's data if it is a stream.
fn sized_result(seen: &Seen, bytes: usize, stream: bool) -> Reply {
    let result = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}, "instructions": "",
    });
    let id = seen.message()["id"].clone();
    let message = json!({"jsonrpc": "2.0", "id": id, "result": result});
    let text = sized(message, "/result/instructions", bytes);
    let mut answer = match stream {
        true => sse(&format!("data: {text}\n\n")),
        false => reply(200, Some("application/json"), &text),
    };
    let id = format!("session-of-{bytes}");
    answer.headers_mut().insert(SESSION_ID, id.parse().unwrap());
    answer
}

/// K3: the answer to a recovery's `initialize` is read up to 1 MiB.
#[tokio::test]
async fn k3_how_large_the_result_of_a_recovery_may_be() {
    for (knob, limit) in [(None, MIB), (Some(2000), 2000)] {
        for stream in [false, true] {
            for (size, recovers) in [(limit, true), (limit + 1, false)] {
                let mut layer = SessionRecoveryLayer::new();
                if let Some(knob) = knob {
                    layer = layer.max_initialize_result_bytes(knob);
                }
                let server = Server::new(Profile::TypeScriptJson);
                let client = client(&server, layer);
                let session = handshake(&client).await;
                server.restart();
                answer(&server, "initialize", move |seen| {
                    sized_result(seen, size, stream)
                });
                answer(&server, "notifications/initialized", |_| {
                    reply(202, None, "")
                });
                let failed = send(&client, post(Some(&session), &tool_call(1))).await;
                let outcome = match recovers {
                    true => Outcome::Replayed,
                    false => Outcome::Failed(Failure::Malformed),
                };
                let context = format!("{size} of {limit}, {stream}");
                assert_eq!(failed.outcome(), Some(outcome), "{context}");
            }
        }
    }
}

/// K3, B3: the caller's own result passes whole in any case. Over the limit, its version is not
/// known, and a recovery proposes what the caller did.
#[tokio::test]
async fn k3_how_much_of_the_callers_own_result_is_read() {
    for (knob, limit) in [(None, MIB), (Some(2000), 2000)] {
        for stream in [false, true] {
            for (size, proposed) in [(limit, "2025-06-18"), (limit + 1, VERSION)] {
                let mut layer = SessionRecoveryLayer::new();
                if let Some(knob) = knob {
                    layer = layer.max_initialize_result_bytes(knob);
                }
                let server = Server::new(Profile::TypeScriptJson);
                answer(&server, "initialize", move |seen| {
                    sized_result(seen, size, stream)
                });
                let client = client(&server, layer);
                let first = send(&client, post(None, &initialize())).await;
                let context = format!("{size} of {limit}, {stream}");
                assert!(first.body.len() >= size, "{context}");
                let session = first.session().unwrap();

                send(&client, post(Some(session), &tool_call(1))).await;

                assert_eq!(server.count("initialize"), 2, "{context}");
                let params = &server.last("initialize").message()["params"];
                assert_eq!(params["protocolVersion"], proposed, "{context}");
            }
        }
    }
}

/// K4, D5: a verdict goes by 64 KiB of a body at most, and the caller gets all of it.
#[tokio::test(start_paused = true)]
async fn k4_how_much_of_an_error_is_read() {
    for (knob, limit) in [(None, 64 * 1024), (Some(10), 10)] {
        for size in [limit, limit + 1, 3 * limit] {
            let judged = Arc::new(Mutex::new(Vec::new()));
            let pushed = judged.clone();
            let mut layer = SessionRecoveryLayer::new().classify(
                move |answer: &mcp_session_recovery::HttpAnswer<'_>| {
                    pushed.lock().unwrap().push(answer.body().len());
                    Compatible.classify(answer)
                },
            );
            if let Some(knob) = knob {
                layer = layer.max_error_body_bytes(knob);
            }
            let server = Server::new(Profile::TypeScript);
            let client = client(&server, layer);
            let session = handshake(&client).await;
            let body = "x".repeat(size);
            // Given an error whose end is a long time coming, where it is over the limit,
            let (feeder, feed) = feed();
            let mut feed = Some(feed);
            answer(&server, "tools/call", move |_| {
                let body = feed.take().map(BodyExt::boxed).unwrap_or_default();
                let mut reply = http::Response::new(body);
                *reply.status_mut() = http::StatusCode::BAD_REQUEST;
                reply
            });
            let (one, other) = body.split_at(size / 2);
            feeder.data(one);
            feeder.data(other);
            let feeder = (size > limit).then_some(feeder);

            // when it is judged,
            let started = Instant::now();
            let call = post(Some(&session), &tool_call(1));
            let response = client.clone().oneshot(call).await.unwrap();

            // then that is not waited for, and no more counts than the limit.
            assert_eq!(started.elapsed(), Duration::ZERO);
            assert_eq!(*judged.lock().unwrap(), [limit], "{size} of {limit}");
            if let Some(feeder) = feeder {
                feeder.data(" and the rest");
            }
            let whole = read(response).await;
            assert_eq!(whole.status, 400);
            assert!(whole.text().starts_with(&body), "{size} of {limit}");
            assert_eq!(whole.text().ends_with(" and the rest"), size > limit);
        }
    }
}

/// K7: the latest 1,024 event ids are known, in whichever stream they came.
#[tokio::test(start_paused = true)]
async fn k7_how_many_event_ids_are_remembered() {
    for (knob, limit) in [(None, 1024), (Some(2), 2)] {
        // Given a stream that has brought one event id too many, but no answer,
        let mut layer = SessionRecoveryLayer::new();
        if let Some(knob) = knob {
            layer = layer.max_event_ids(knob);
        }
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        let events: String = (0..=limit)
            .map(|id| format!("id: e{id}\ndata: \n\n"))
            .collect();
        answer(&server, "tools/call", move |_| {
            stream(Script::new().data(&events).pending())
        });
        let call = post(Some(&session), &tool_call(77));
        let response = client.clone().oneshot(call).await.unwrap();
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        server.restart();

        // when the caller resumes from the oldest, then nobody knows what it stands for;
        let oldest = send(&client, get(&session, Some("e0"))).await;
        assert_eq!(oldest.status, 404);
        let unknown = Outcome::NotReplayed(Refusal::LastEventId);
        assert_eq!(oldest.outcome(), Some(unknown), "{limit}");
        // from any of the others, then the layer does.
        for id in [1, limit] {
            let resumed = send(&client, get(&session, Some(&format!("e{id}"))));
            let later = timeout(Duration::from_secs(60), resumed).await;
            let later = later.expect("an answer that ends");
            assert_eq!(later.status, 200, "{limit}");
            assert_eq!(later.outcome(), Some(Outcome::AnswerLost), "{limit}");
            assert_eq!(later.message()["id"], 77, "{limit}");
        }
    }
}

fn subscribe(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}})
}

/// K8, H1: 1,024 subscriptions are kept and restored; of one more it is told.
#[tokio::test]
async fn k8_how_many_subscriptions_are_kept() {
    for (knob, limit) in [(None, 1024), (Some(2), 2), (Some(0), 0)] {
        let mut layer = SessionRecoveryLayer::new();
        if let Some(knob) = knob {
            layer = layer.max_subscriptions(knob);
        }
        let server = Server::new(Profile::TypeScriptJson);
        let (layer, events) = Events::of(layer);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        for number in 0..=limit {
            let subscribe = subscribe(&number.to_string());
            let answer = send(&client, post(Some(&session), &subscribe)).await;
            assert_eq!(answer.status, 200);
        }
        server.restart();

        let after = send(&client, post(Some(&session), &tool_call(1))).await;

        assert_eq!(after.outcome(), Some(Outcome::Replayed));
        let mut restored = server.subscriptions("secret-session-2");
        restored.sort_by_key(|uri| uri.parse::<usize>().unwrap());
        let kept: Vec<_> = (0..limit).map(|number| number.to_string()).collect();
        assert_eq!(restored, kept);
        assert_eq!(events.all()[0].not_restored(), ["resources/subscribe"]);
    }
}

/// Not a limit, but its proof: none of them rejects a request that the server would take.
#[tokio::test]
async fn limits_of_zero_let_everything_pass() {
    let server = Server::new(Profile::Everything);
    let layer = SessionRecoveryLayer::new()
        .max_body_bytes(0)
        .max_initialize_result_bytes(0)
        .max_error_body_bytes(0)
        .recovery_timeout(Duration::ZERO)
        .recovery_pause(Duration::ZERO, Duration::ZERO)
        .max_initialize_bytes(0)
        .max_sessions_bytes(0)
        .max_handshakes(0)
        .max_event_ids(0)
        .max_subscriptions(0)
        .orphan_timeout(Duration::ZERO);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let body = sized_call(2 * MIB);
    let call = request(Method::POST, Some(&session), Bytes::from(body));
    let answer = send(&client, call).await;
    assert_eq!((answer.status, answer.recovery), (200, None));
    server.restart();
    let lost = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(lost.status, 400);
    assert!(lost.text().contains("No valid session ID provided"));
}
