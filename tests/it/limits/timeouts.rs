//! How long things may take (rule K5), and how long requests left behind have.

use std::time::Duration;

use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::{Door, Events, answer, hang, is, slow, start};
use testing::*;
use tokio::time::Instant;
use tower::ServiceExt;

/// K5, E10: a recovery has 10 s for all of it, wherever it is held up.
#[tokio::test(start_paused = true)]
async fn k5_how_long_a_recovery_may_take() {
    type Case = (&'static str, fn(&Server));
    let cases: [Case; 4] = [
        ("initialize", |server| hang(server, "initialize")),
        ("the result", |server| {
            answer(server, "initialize", |_| pending_sse());
        }),
        ("initialized", |server| {
            hang(server, "notifications/initialized");
        }),
        // Each in time, together too late.
        ("both", |server| {
            slow(server, "initialize", Duration::from_secs(2));
            slow(server, "notifications/initialized", Duration::from_secs(9));
        }),
    ];
    for (knob, limit) in [(None, 10), (Some(7), 7)] {
        for (held_up, script) in cases {
            let mut layer = SessionRecoveryLayer::new();
            if let Some(knob) = knob {
                layer = layer.recovery_timeout(Duration::from_secs(knob));
            }
            let server = Server::new(Profile::TypeScript);
            let (layer, events) = Events::of(layer);
            let client = client(&server, layer);
            let session = handshake(&client).await;
            server.restart();
            script(&server);

            let started = Instant::now();
            let answer = send(&client, post(Some(&session), &tool_call(1))).await;

            let limit = Duration::from_secs(limit);
            assert_eq!(started.elapsed(), limit, "{held_up}");
            let timed_out = Some(Outcome::Failed(Failure::TimedOut));
            assert_eq!((answer.status, answer.outcome()), (404, timed_out));
            assert_eq!(events.all()[0].elapsed(), limit, "{held_up}");
        }
    }
}

/// K5, E7: an answer to `initialized` that is 2xx accepts, however long its body goes on.
#[tokio::test(start_paused = true)]
async fn k5_an_endless_answer_to_initialized_does_not_fail_the_recovery() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    slow(&server, "initialize", Duration::from_secs(2));
    answer(&server, "notifications/initialized", |_| pending_sse());

    let started = Instant::now();
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;

    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    assert!(started.elapsed() <= Duration::from_secs(10));
}

/// K5, H1: what is not restored by then is given up; the session is not.
#[tokio::test(start_paused = true)]
async fn k5_the_time_for_a_recovery_includes_restoring() {
    let server = Server::new(Profile::TypeScript);
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "a"}});
    send(&client, post(Some(&session), &subscribe)).await;
    server.restart();
    slow(&server, "initialize", Duration::from_secs(6));
    hang(&server, "resources/subscribe");

    let started = Instant::now();
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;

    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    // A moment before those who wait give up.
    let limit = Duration::from_secs(10);
    assert!(started.elapsed() <= limit && started.elapsed() > limit * 9 / 10);
    assert_eq!(events.all()[0].not_restored(), ["resources/subscribe"]);
}

/// K5: it bounds the wait for an error's body, for a `ping` and for a new listening stream, too.
#[tokio::test(start_paused = true)]
async fn k5_everything_else_the_layer_waits_for_is_bounded_as_well() {
    let limit = Duration::from_secs(3);
    let layer = || SessionRecoveryLayer::new().recovery_timeout(limit);

    // An error whose body does not end:
    let server = Server::new(Profile::TypeScript);
    let http = client(&server, layer());
    let session = handshake(&http).await;
    let (feeder, feed) = feed();
    let mut feed = Some(feed);
    answer(&server, "tools/call", move |_| {
        let mut reply = http::Response::new(feed.take().unwrap().boxed());
        *reply.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        reply
    });
    feeder.data("so far");
    let started = Instant::now();
    let call = post(Some(&session), &tool_call(1));
    let response = http.clone().oneshot(call).await.unwrap();
    assert_eq!(started.elapsed(), limit / 4 * 3);
    feeder.data(" and on");
    drop(feeder);
    let whole = read(response).await;
    assert_eq!((whole.status, whole.text()), (500, "so far and on"));

    // a `ping`, by which a 404 to a GET is judged:
    answer(&server, "GET", |_| reply(404, None, "no stream here"));
    hang(&server, "ping");
    let started = Instant::now();
    let answered = send(&http, get(&session, None)).await;
    assert_eq!(started.elapsed(), limit);
    assert_eq!((answered.status, answered.text()), (404, "no stream here"));
    assert_eq!((server.count("ping"), server.count("initialize")), (1, 1));

    // a listening stream that is opened anew:
    let server = Server::new(Profile::TypeScript);
    let http = client(&server, layer());
    let session = handshake(&http).await;
    let listening = http.clone().oneshot(get(&session, None)).await.unwrap();
    let listening = tokio::spawn(read(listening));
    settle().await;
    server.restart();
    hang(&server, "GET");
    let started = Instant::now();
    send(&http, post(Some(&session), &tool_call(1))).await;
    let ended = listening.await.unwrap();
    assert_eq!((started.elapsed(), ended.body_error), (limit, None));
}

/// The orphan timeout: 30 s from the moment the session is replaced.
#[tokio::test(start_paused = true)]
async fn how_long_a_request_left_behind_may_still_be_answered() {
    for (knob, limit) in [(None, 30), (Some(4), 4)] {
        let mut layer = SessionRecoveryLayer::new();
        if let Some(knob) = knob {
            layer = layer.orphan_timeout(Duration::from_secs(knob));
        }
        // Given a request that the old session has yet to answer,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        let _never = Door::before(&server, is("tools/list"));
        let list = json!({"jsonrpc": "2.0", "id": "left", "method": "tools/list"});
        let left_behind = start(&client, post(Some(&session), &list));
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert!(!left_behind.is_finished());

        // when the session is replaced,
        server.restart();
        slow(&server, "initialize", Duration::from_secs(5));
        send(&client, post(Some(&session), &tool_call(1))).await;
        let replaced = Instant::now();

        // then it has that long.
        let lost = left_behind.await.unwrap();
        assert_eq!(replaced.elapsed(), Duration::from_secs(limit));
        assert_eq!(lost.status, 200);
        assert_eq!(lost.outcome(), Some(Outcome::AnswerLost));
        assert_eq!(lost.message()["id"], "left");
    }
}
