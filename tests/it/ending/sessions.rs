//! How sessions end (section I): by the caller, by being too many, by being forgotten.

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer, Sessions};
use testing::scenario::{Door, Events, answer, fail, heal, is, start};
use testing::*;

fn recorded(server: &Server) -> (Client, Sessions) {
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    (client(server, layer), sessions)
}

/// The session that each DELETE named.
fn deleted(server: &Server) -> Vec<String> {
    let deletes = server.all("DELETE");
    let sessions = deletes.iter().map(|seen| seen.session().unwrap_or("none"));
    sessions.map(str::to_owned).collect()
}

/// I1: a DELETE ends the session that the caller's id stands for, whatever 2xx says so.
#[tokio::test]
async fn i1_a_delete_ends_the_current_session_and_forgets_it() {
    for (profile, status) in [
        (Profile::TypeScript, 200),
        (Profile::Rmcp, 202),
        (Profile::Go, 204),
    ] {
        // Given a session that has been recovered once,
        let server = Server::new(profile);
        let (client, sessions) = recorded(&server);
        let session = handshake(&client).await;
        server.restart();
        send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(sessions.len(), 1);

        // when the caller ends it,
        let ended = send(&client, delete(&session)).await;

        // then the new session has ended on the server, and nothing is left of it.
        assert_eq!((ended.status, ended.recovery), (status, None));
        assert_eq!(deleted(&server), ["secret-session-2"]);
        assert_eq!(server.live(), [""; 0]);
        assert!(sessions.is_empty());

        // What comes under its id afterwards is none of the layer's business.
        let late = send(&client, post(Some(&session), &tool_call(2))).await;
        assert_eq!((late.status, late.recovery), (404, None));
        assert_eq!(server.last("tools/call").session(), Some(&*session));
        assert_eq!(server.count("initialize"), 2);
    }
}

/// I1, D7: a DELETE of a dead session is not recovered, whatever it is answered. 2xx and 404
/// forget the session, the 400 of a non-conforming server does not.
#[tokio::test]
async fn i1_a_delete_of_a_dead_session_is_never_recovered() {
    for profile in Profile::ALL {
        let server = Server::new(profile);
        let (client, sessions) = recorded(&server);
        let session = handshake(&client).await;
        server.restart();

        let ended = send(&client, delete(&session)).await;

        let own = match profile {
            Profile::Rmcp => reply(202, None, ""),
            _ => profile.unknown_session(&serde_json::Value::Null),
        };
        let own = read_own(own).await;
        assert_eq!((ended.status, &ended.body), (own.0, &own.1), "{profile:?}");
        assert_eq!(ended.recovery, None, "{profile:?}");
        assert_eq!(sessions.is_empty(), own.0 != 400, "{profile:?}");
        assert_eq!(
            server.log(),
            ["initialize", "notifications/initialized", "DELETE"],
            "{profile:?}"
        );
    }
}

async fn read_own(reply: Reply) -> (u16, bytes::Bytes) {
    use http_body_util::BodyExt;
    let status = reply.status().as_u16();
    (
        status,
        reply.into_body().collect().await.unwrap().to_bytes(),
    )
}

/// I1: a DELETE that the server does not carry out keeps the session, which is recovered later.
#[tokio::test]
async fn i1_a_delete_that_is_refused_keeps_the_session() {
    for status in [405, 400, 401, 429, 500] {
        let server = Server::new(Profile::TypeScript);
        let (client, sessions) = recorded(&server);
        let session = handshake(&client).await;
        answer(&server, "DELETE", move |_| reply(status, None, "no"));

        let refused = send(&client, delete(&session)).await;

        assert_eq!((refused.status, refused.text()), (status, "no"));
        assert_eq!(sessions.len(), 1, "{status}");
        server.restart();
        let after = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(after.outcome(), Some(Outcome::Replayed), "{status}");
    }

    // A DELETE that never arrived is as good as none.
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = recorded(&server);
    let session = handshake(&client).await;
    fail(&server, "DELETE", "no route");
    let failed = tower::ServiceExt::oneshot(client, delete(&session)).await;
    assert_eq!(failed.err(), Some(TestError("no route")));
    assert_eq!(sessions.len(), 1);
}

/// I1: a DELETE that arrives during a recovery waits for it and ends what it made.
#[tokio::test]
async fn i1_a_delete_during_a_recovery_ends_the_new_session() {
    // Given a recovery under way, whose caller has given up,
    let server = Server::new(Profile::Python2);
    let (client, sessions) = recorded(&server);
    let session = handshake(&client).await;
    server.restart();
    let door = Door::before(&server, is("notifications/initialized"));
    let trigger = start(&client, post(Some(&session), &tool_call(1)));
    settle().await;
    trigger.abort();

    // when the caller ends the session,
    let ending = start(&client, delete(&session));
    settle().await;

    // then nothing is sent to the dead session, and the new one is ended.
    assert_eq!(server.count("DELETE"), 0);
    door.open();
    let ended = ending.await.unwrap();
    assert_eq!(ended.status, 200);
    assert_eq!(ended.outcome(), Some(Outcome::Waited));
    assert_eq!(deleted(&server), ["secret-session-2"]);
    assert_eq!(server.live(), [""; 0]);
    assert!(sessions.is_empty());
}

/// I1, J3: after a recovery that failed, the DELETE goes to the old session after all.
#[tokio::test]
async fn i1_a_delete_during_a_recovery_that_fails_is_sent_to_the_old_session() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = recorded(&server);
    let session = handshake(&client).await;
    server.restart();
    answer(&server, "notifications/initialized", |_| {
        reply(500, None, "")
    });
    let door = Door::before(&server, is("initialize"));
    let trigger = start(&client, post(Some(&session), &tool_call(1)));
    settle().await;
    let ending = start(&client, delete(&session));
    settle().await;
    door.open();

    let ended = ending.await.unwrap();

    assert_eq!(ended.status, 404);
    assert!(matches!(ended.outcome(), Some(Outcome::Failed(_))));
    assert!(sessions.is_empty());
    assert_eq!(trigger.await.unwrap().status, 404);
    settle().await;
    let mut deleted = deleted(&server);
    deleted.sort();
    assert_eq!(deleted, ["secret-session-1", "secret-session-2"]);
}

/// I1, I3: a DELETE that was under way in the old session when a recovery replaced it is answered
/// 404 and forgets the session; the new one, which nobody will use, is ended as well.
#[tokio::test]
async fn i1_a_delete_overtaken_by_a_recovery_leaves_no_session_behind() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = recorded(&server);
    let session = handshake(&client).await;
    server.restart();
    let door = Door::before(&server, |seen| {
        seen.what() == "DELETE" && seen.session() == Some("secret-session-1")
    });
    let ending = start(&client, delete(&session));
    settle().await;
    let called = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(called.outcome(), Some(Outcome::Replayed));

    door.open();
    ending.await.unwrap();
    settle().await;

    assert!(sessions.is_empty());
    assert_eq!(server.live(), [""; 0]);
}

/// I2: over the limit, exactly the least recently used session is forgotten, whatever the uses
/// and the arrivals were. Checked against a plain list.
#[tokio::test]
async fn i2_the_least_recently_used_session_is_forgotten() {
    const LIMIT: usize = 4;
    for seed in 1..=40_u64 {
        // Given a layer that remembers four sessions,
        let server = Server::new(Profile::TypeScriptJson);
        let sessions = Sessions::new();
        let layer = SessionRecoveryLayer::new()
            .max_sessions(LIMIT)
            .sessions(sessions.clone());
        let client = client(&server, layer);
        let (mut by_use, mut forgotten) = (Vec::new(), Vec::new());
        let mut random = seed;
        let mut next = |below: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % below
        };

        // when sessions are made, used in any way and ended in any order,
        for _ in 0..60 {
            match next(8) {
                0 | 1 => {
                    by_use.push(handshake(&client).await);
                    if by_use.len() > LIMIT {
                        forgotten.push(by_use.remove(0));
                    }
                }
                2 if by_use.len() > 1 => {
                    let ended = by_use.remove(next(by_use.len()));
                    send(&client, delete(&ended)).await;
                }
                _ if by_use.is_empty() => {}
                _ => {
                    let used = by_use.remove(next(by_use.len()));
                    // Never ended: reading it would never end.
                    let request = match next(2) {
                        0 => get(&used, None),
                        _ => post(Some(&used), &tool_call(1)),
                    };
                    let response = tower::ServiceExt::oneshot(client.clone(), request).await;
                    assert_eq!(response.unwrap().status(), 200);
                    by_use.push(used);
                }
            }
            assert_eq!(sessions.len(), by_use.len());
        }

        // then it is the latest used that are recovered, and the others are not.
        server.restart();
        for (ids, status) in [(&by_use, 200), (&forgotten, 404)] {
            for id in ids {
                let after = send(&client, post(Some(id), &tool_call(1))).await;
                assert_eq!(after.status, status, "seed {seed}: {id}");
            }
        }
    }
}

/// I3: however a session is forgotten while it is being recovered, and however far the recovery
/// has come, the session that it makes is ended.
#[tokio::test]
async fn i3_a_recovery_of_a_forgotten_session_ends_the_session_it_made() {
    let again = "secret-session-1";
    for how in ["forget_all", "least recently used", "the same id again"] {
        for stage in ["notifications/initialized", "logging/setLevel"] {
            // Given a recovery under way,
            let server = Server::new(Profile::TypeScript);
            let sessions = Sessions::new();
            let layer = SessionRecoveryLayer::new()
                .max_sessions(1)
                .sessions(sessions.clone());
            let (layer, events) = Events::of(layer);
            let client = client(&server, layer);
            let session = handshake(&client).await;
            let level = serde_json::json!({"jsonrpc": "2.0", "id": 5, "method": "logging/setLevel", "params": {"level": "info"}});
            send(&client, post(Some(&session), &level)).await;
            server.restart();
            let door = Door::before(&server, is(stage));
            let trigger = start(&client, post(Some(&session), &tool_call(1)));
            settle().await;

            // when its session is forgotten,
            match how {
                "forget_all" => sessions.forget_all(),
                "least recently used" => {
                    send(&client, post(None, &initialize())).await;
                }
                _ => {
                    let behind = server.clone();
                    answer(&server, "initialize", move |seen| {
                        let mut answer = behind.default_answer(seen);
                        let id = answer.headers_mut().get_mut(SESSION_ID).unwrap();
                        *id = again.parse().unwrap();
                        answer
                    });
                    send(&client, post(None, &initialize())).await;
                }
            }
            assert_eq!(server.count("DELETE"), 0);
            door.open();
            let answer = trigger.await.unwrap();
            settle().await;

            // then the new session is ended, with the caller's credentials, and is not published.
            let context = format!("{how}, {stage}");
            assert_eq!(deleted(&server), ["secret-session-2"], "{context}");
            let delete = server.last("DELETE");
            assert_eq!(delete.header("authorization"), Some("Bearer secret-token"));
            assert_eq!(answer.status, 404, "{context}");
            let failed = Failure::Forgotten;
            assert_eq!(answer.outcome(), Some(Outcome::Failed(failed)), "{context}");
            assert_eq!(events.outcomes(), [Err(failed)], "{context}");
            assert_eq!(server.count("tools/call"), 1, "{context}");
            // Whoever took its place is not touched by that.
            assert_eq!(sessions.is_empty(), how == "forget_all", "{context}");
        }
    }
}

/// I3: a session that was forgotten before its death was noticed is not recovered at all.
#[tokio::test]
async fn i3_a_forgotten_session_starts_no_recovery() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = recorded(&server);
    let session = handshake(&client).await;
    server.restart();
    let door = Door::before(&server, is("tools/call"));
    let under_way = start(&client, post(Some(&session), &tool_call(1)));
    settle().await;

    sessions.forget_all();
    door.open();

    let answer = under_way.await.unwrap();
    assert_eq!(answer.status, 404);
    let failed = Outcome::Failed(Failure::Forgotten);
    assert_eq!(answer.outcome(), Some(failed));
    assert_eq!(server.count("initialize"), 1);
    // A new session of the same table is not affected.
    heal(&server);
    let session = handshake(&client).await;
    server.restart();
    let after = send(&client, post(Some(&session), &tool_call(2))).await;
    assert_eq!(after.outcome(), Some(Outcome::Replayed));
}
