//! No value of any knob panics or switches a function off (section K).

use std::time::Duration;

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::{Door, answer, heal, is, start};
use testing::*;

type Set = fn(SessionRecoveryLayer) -> SessionRecoveryLayer;

fn subscribe() -> serde_json::Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": "resources/subscribe", "params": {"uri": "a"}})
}

/// A session of every kind of traffic is lost, cannot be recovered, and is recovered.
async fn a_life(layer: SessionRecoveryLayer, profile: Profile, name: &str) -> Outcome {
    let server = Server::new(profile);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    send(&client, post(Some(&session), &subscribe())).await;
    send(&client, post(Some(&session), &tool_call(1))).await;
    server.restart();
    answer(&server, "initialize", |_| reply(503, None, "full"));
    let failed = send(&client, post(Some(&session), &tool_call(2))).await;
    assert!(failed.status >= 400, "{name}");
    heal(&server);
    tokio::time::advance(Duration::from_secs(11)).await;
    let calls = [3, 4].map(|id| send(&client, post(Some(&session), &tool_call(id))));
    let answers = futures::future::join_all(calls).await;
    answers[0].outcome().unwrap()
}

#[tokio::test(start_paused = true)]
async fn k_the_largest_value_of_every_knob_means_without_a_limit() {
    let knobs: [(&str, Set); 12] = [
        ("max_body_bytes", |layer| layer.max_body_bytes(usize::MAX)),
        ("max_sessions", |layer| layer.max_sessions(usize::MAX)),
        ("max_initialize_result_bytes", |layer| {
            layer.max_initialize_result_bytes(usize::MAX)
        }),
        ("max_error_body_bytes", |layer| {
            layer.max_error_body_bytes(usize::MAX)
        }),
        ("recovery_timeout", |layer| {
            layer.recovery_timeout(Duration::MAX)
        }),
        ("recovery_timeout, nearly", |layer| {
            layer.recovery_timeout(Duration::MAX - Duration::from_secs(1 << 40))
        }),
        ("max_event_ids", |layer| layer.max_event_ids(usize::MAX)),
        ("max_subscriptions", |layer| {
            layer.max_subscriptions(usize::MAX)
        }),
        ("max_initialize_bytes", |layer| {
            layer.max_initialize_bytes(usize::MAX)
        }),
        ("max_sessions_bytes", |layer| {
            layer.max_sessions_bytes(usize::MAX)
        }),
        ("max_handshakes", |layer| layer.max_handshakes(usize::MAX)),
        ("orphan_timeout", |layer| {
            layer.orphan_timeout(Duration::MAX)
        }),
    ];
    for profile in [Profile::TypeScript, Profile::Everything, Profile::Rmcp] {
        for (name, set) in knobs {
            let outcome = a_life(set(SessionRecoveryLayer::new()), profile, name).await;
            assert_eq!(outcome, Outcome::Replayed, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn k_zero_of_any_knob_panics_nowhere() {
    let knobs: [(&str, Set); 12] = [
        ("max_body_bytes", |layer| layer.max_body_bytes(0)),
        ("max_sessions", |layer| layer.max_sessions(0)),
        ("max_initialize_result_bytes", |layer| {
            layer.max_initialize_result_bytes(0)
        }),
        ("max_error_body_bytes", |layer| {
            layer.max_error_body_bytes(0)
        }),
        ("recovery_timeout", |layer| {
            layer.recovery_timeout(Duration::ZERO)
        }),
        ("recovery_pause", |layer| {
            layer.recovery_pause(Duration::ZERO, Duration::ZERO)
        }),
        ("max_event_ids", |layer| layer.max_event_ids(0)),
        ("max_subscriptions", |layer| layer.max_subscriptions(0)),
        ("max_initialize_bytes", |layer| {
            layer.max_initialize_bytes(0)
        }),
        ("max_sessions_bytes", |layer| layer.max_sessions_bytes(0)),
        ("max_handshakes", |layer| layer.max_handshakes(0)),
        ("orphan_timeout", |layer| {
            layer.orphan_timeout(Duration::ZERO)
        }),
    ];
    for (name, set) in knobs {
        // What is left of the layer's work where there is no room for it.
        let recovers = !matches!(
            name,
            "max_body_bytes" | "max_initialize_result_bytes" | "max_initialize_bytes"
        );
        let layer = set(SessionRecoveryLayer::new());
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        let lost = send(&client, post(Some(&session), &tool_call(1))).await;
        let status = if recovers { 200 } else { 404 };
        assert_eq!(lost.status, status, "{name}");
    }
}

/// K6: a pause without end is one.
#[tokio::test(start_paused = true)]
async fn k6_after_an_attempt_without_use_there_may_be_no_other() {
    for (first, longest) in [
        (Duration::MAX, Duration::MAX),
        (Duration::from_secs(u64::MAX), Duration::MAX),
        (Duration::from_secs(1_000_000), Duration::MAX),
    ] {
        let server = Server::new(Profile::TypeScript);
        let layer = SessionRecoveryLayer::new().recovery_pause(first, longest);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        answer(&server, "initialize", |_| reply(503, None, "full"));
        send(&client, post(Some(&session), &tool_call(1))).await;
        heal(&server);
        tokio::time::advance(Duration::from_secs(900_000)).await;
        let paused = send(&client, post(Some(&session), &tool_call(2))).await;
        assert_eq!(paused.outcome(), Some(Outcome::Failed(Failure::Paused)));
    }
}

/// K6: a `longest` below the `first` is what counts, and the smallest `first` grows to it.
#[tokio::test(start_paused = true)]
async fn k6_the_longest_pause_is_reached_from_the_smallest_first_one() {
    let server = Server::new(Profile::TypeScript);
    let longest = Duration::from_secs(10);
    let layer = SessionRecoveryLayer::new().recovery_pause(Duration::from_nanos(1), longest);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    server.restart();
    answer(&server, "initialize", |_| reply(503, None, "full"));
    for _ in 0..40 {
        send(&client, post(Some(&session), &tool_call(1))).await;
        tokio::time::advance(longest).await;
    }
    let before = server.count("initialize");
    assert_eq!(before, 41);
    send(&client, post(Some(&session), &tool_call(1))).await;
    tokio::time::advance(longest - Duration::from_millis(1)).await;
    send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(server.count("initialize"), before + 1);
}

/// G6: requests that were left behind may be waited for for ever.
#[tokio::test(start_paused = true)]
async fn k_an_orphan_timeout_without_end_is_one() {
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().orphan_timeout(Duration::MAX);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let door = Door::then(&server, is("tools/list"), |seen| {
        Profile::TypeScript.answer(&json!({"id": seen.message()["id"], "result": {"late": true}}))
    });
    let list = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
    let left = start(&client, post(Some(&session), &list));
    settle().await;
    server.restart();
    send(&client, post(Some(&session), &tool_call(1))).await;
    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
    assert!(!left.is_finished());
    door.open();
    assert_eq!(left.await.unwrap().message()["result"]["late"], true);
}
