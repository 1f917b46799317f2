//! D8, E5, J1: whoever presents a session's id without the credentials that it was made with.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use mcp_session_recovery::{
    Classify, Compatible, Failure, Outcome, SessionRecoveryLayer, Sessions, Verdict, classify_fn,
};
use serde_json::json;
use testing::scenario::{Door, answer, is, start};
use testing::streams::Stream;
use testing::whose::*;
use testing::*;

struct Scene {
    server: Server,
    sessions: Sessions,
    owner: User,
}

/// A server that answers a session's requests to its owner alone, and an owner's session that has
/// been recovered so many times.
async fn owned(recoveries: u32) -> Scene {
    let server = Server::new(Profile::Python1);
    server.only_to_owners();
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    let client = client(&server, layer);
    let owner = User::connect(&client, "owner").await;
    for _ in 0..recoveries {
        server.restart();
        assert_eq!(owner.call(0).await.outcome(), Some(Outcome::Replayed));
    }
    Scene {
        server,
        sessions,
        owner,
    }
}

impl Scene {
    /// Every way to present the owner's id.
    fn presented(&self) -> Vec<(&'static str, http::Request<CallerBody>)> {
        let id = &*self.owner.session;
        vec![
            ("call", post(Some(id), &tool_call(1))),
            ("notification", post(Some(id), &initialized())),
            (
                "response",
                post(Some(id), &json!({"jsonrpc": "2.0", "id": 1, "result": {}})),
            ),
            ("initialize", post(Some(id), &initialize_as("stranger"))),
            ("listening stream", get(id, None)),
            ("resumed stream", get(id, Some("1"))),
            ("DELETE", delete(id)),
            ("HEAD", request(http::Method::HEAD, Some(id), "")),
        ]
    }
}

/// D8: nobody ends, moves or uses another's session by presenting its id.
#[tokio::test(start_paused = true)]
async fn d8_a_stranger_cannot_end_a_session() {
    for recoveries in 0..2 {
        for token in [Some("stranger"), None] {
            // Given an owner with a subscription and a listening stream,
            let scene = owned(recoveries).await;
            let (server, owner) = (&scene.server, &scene.owner);
            let subscribe = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": "test://1"}});
            owner.send(post(Some(&owner.session), &subscribe)).await;
            let listen = with_token(get(&owner.session, None), Some("owner"));
            let mut stream = Stream::open(&owner.client, listen).await;
            let (live, handshakes) = (server.live(), server.count("initialize"));
            let carried_out = server.carried_out().len();

            // when somebody else presents the id in every way that there is,
            for (how, request) in scene.presented() {
                let request = with_token(request, token);
                let answer = send(&owner.client, request).await;

                // then the server's answer is theirs,
                let case = format!("{recoveries} {token:?} {how}");
                assert_eq!(answer.status, 404, "{case}");
                assert_eq!(answer.recovery, None, "{case}");
                // nothing but pings in the owner's name went to the session,
                assert_eq!(server.live(), live, "{case}");
                for (_, message) in &server.carried_out()[carried_out..] {
                    assert_eq!(message["method"], "ping", "{case}");
                }
            }
            // no handshake was made but the one that the stranger asked for,
            assert_eq!(server.count("initialize"), handshakes + 1);
            // and the owner goes on in the session, and through its loss.
            let answer = owner.call(2).await;
            assert_eq!((answer.status, answer.recovery), (200, None));
            stream.now().await;
            assert!(stream.end.is_none());
            server.restart();
            let answer = owner.call(3).await;
            assert_eq!(answer.outcome(), Some(Outcome::Replayed));
            assert_eq!(scene.sessions.len(), 1);
            let subscribed = server.last("resources/subscribe");
            assert_eq!(subscribed.header("authorization"), Some("Bearer owner"));
        }
    }
}

/// D8: what the layer asks in the owner's name tells the stranger nothing.
#[tokio::test(start_paused = true)]
async fn d8_the_ping_in_the_owners_name_reaches_the_server_alone() {
    for recoveries in 0..2 {
        let scene = owned(recoveries).await;
        let id = &*scene.owner.session;
        for request in [post(Some(id), &tool_call(1)), get(id, None)] {
            let mut request = with_token(request, Some("stranger"));
            let uri = format!("{}?of=stranger", request.uri());
            *request.uri_mut() = uri.parse().unwrap();
            let headers = request.headers_mut();
            headers.insert("x-api-key", "the stranger's".parse().unwrap());
            let answer = send(&scene.owner.client, request).await;
            assert_eq!(answer.status, 404);
            let ping = scene.server.last("ping");
            assert_eq!(ping.header("authorization"), Some("Bearer owner"));
            assert_eq!(ping.header("x-api-key"), None);
            assert_eq!(ping.uri, URI);
            assert!(!format!("{answer:?}").contains("Bearer owner"));
        }
        assert_eq!(scene.server.count("ping"), 2);
    }
}

/// D8: alternating tokens, a hundred times.
#[tokio::test(start_paused = true)]
async fn d8_alternating_callers_make_no_handshakes() {
    let scene = owned(0).await;
    let stranger = User {
        name: "stranger",
        ..scene.owner.clone()
    };
    for id in 0..50 {
        assert_eq!(scene.owner.call(id).await.status, 200);
        assert_eq!(stranger.call(id).await.status, 404);
    }
    assert_eq!(scene.server.count("initialize"), 1);
    assert_eq!(scene.server.live(), ["secret-session-1"]);
}

/// D8, J4: the 404 that a stranger gets in the new session is no word about its recovery.
#[tokio::test(start_paused = true)]
async fn d8_j4_a_strangers_404_to_a_replay_makes_no_pause() {
    // Given a stranger whose request finds the session expired together with one of its owner's that
    // is not sent again, so that nothing else shows whether the recovery was of use,
    let Scene { server, owner, .. } = owned(0).await;
    let stranger = User {
        name: "stranger",
        ..owner.clone()
    };
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    let response = with_token(post(Some(&owner.session), &response), Some("owner"));
    let door = Door::before(&server, |seen| {
        ["POST", "tools/call"].contains(&&*seen.what())
    });
    server.restart();
    let owners = start(&owner.client, response);
    let strangers = tokio::spawn(async move { stranger.call(2).await });
    settle().await;

    // when that is recovered, and the stranger's request sent again,
    door.open();
    assert_eq!(owners.await.unwrap().status, 404);
    let answer = strangers.await.unwrap();
    let got = (answer.status, answer.outcome());
    assert_eq!(got, (404, Some(Outcome::Replayed)));

    // then the owner's next loss is recovered at once.
    assert_eq!(owner.call(3).await.recovery, None);
    server.restart();
    let answer = owner.call(4).await;
    let got = (answer.status, answer.outcome());
    assert_eq!(got, (200, Some(Outcome::Replayed)));
}

/// D9: a 401 is a word about the session only to who has credentials.
#[tokio::test(start_paused = true)]
async fn d9_a_401_to_who_has_no_credentials_is_passed_on() {
    // Given a session that was made without any,
    let server = Server::new(Profile::Python1);
    let client = client(&server, SessionRecoveryLayer::new());
    let made = send(&client, with_token(post(None, &initialize()), None)).await;
    let id = made.session().unwrap().to_owned();
    answer(&server, "tools/call", |_| reply(401, None, ""));

    // when a request of it is answered 401,
    let call = with_token(post(Some(&id), &tool_call(1)), None);
    let answer = send(&client, call).await;

    // then nobody is asked.
    assert_eq!((answer.status, answer.recovery), (401, None));
    assert_eq!(server.count("ping"), 0);
}

/// D8: a caller whose token has been refreshed meets an expired session. The epoch's own credentials
/// find it expired, or are no longer good, which proves nothing.
#[tokio::test(start_paused = true)]
async fn d8_a_refreshed_token_recovers_an_expired_session() {
    for (recoveries, status) in [(0, 404), (1, 404), (0, 401), (1, 401), (0, 403), (1, 403)] {
        let scene = owned(recoveries).await;
        let id = &*scene.owner.session;
        for request in [post(Some(id), &tool_call(1)), get(id, None)] {
            scene.server.restart();
            testing::scenario::heal(&scene.server);
            let outdated = scene.server.clone();
            scene.server.on(move |seen| {
                let owners = seen.header("authorization") == Some("Bearer owner");
                match status {
                    404 => Some(outdated.default_answer(seen)),
                    _ => owners.then(|| reply(status, None, "")),
                }
            });
            let request = with_token(request, Some("refreshed"));
            let response = tower::ServiceExt::oneshot(scene.owner.client.clone(), request).await;
            let response = response.unwrap();
            let case = format!("{recoveries} {status}");
            assert_eq!(response.status(), 200, "{case}");
            let made = scene.server.last("initialize");
            assert_eq!(made.header("authorization"), Some("Bearer refreshed"));
        }
    }
}

/// D8, D4: a server without a listening stream answers 404 to any GET. That the epoch's own
/// credentials are no longer good ends no session that lives.
#[tokio::test(start_paused = true)]
async fn d8_a_refreshed_token_and_no_listening_stream_end_no_live_session() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let owner = User::connect(&client, "owner").await;
    answer(&server, "GET", |_| reply(404, None, "Cannot GET"));
    server.on(|seen| {
        let owners = seen.header("authorization") == Some("Bearer owner");
        owners.then(|| reply(401, None, ""))
    });
    let listen = with_token(get(&owner.session, None), Some("refreshed"));
    let answer = send(&client, listen).await;
    assert_eq!((answer.status, answer.text()), (404, "Cannot GET"));
    assert_eq!(server.count("initialize"), 1);
    assert_eq!(
        server.last("ping").header("authorization"),
        Some("Bearer refreshed")
    );
}

/// D8, D9: the same for the answers that only speak of the session.
#[tokio::test(start_paused = true)]
async fn d8_d9_a_stranger_who_is_told_of_an_invalid_session_ends_none() {
    for status in [400, 401, 403, 410] {
        let scene = owned(0).await;
        let behind = scene.server.clone();
        scene.server.on(move |seen| {
            let strangers = seen.header("authorization") == Some("Bearer stranger");
            let of_session = strangers && seen.session().is_some();
            Some(match of_session {
                true => reply(status, None, "Session not found"),
                false => behind.default_answer(seen),
            })
        });
        let stranger = User {
            name: "stranger",
            ..scene.owner.clone()
        };
        let answer = stranger.call(1).await;
        assert_eq!((answer.status, answer.recovery), (status, None));
        assert_eq!(scene.server.count("initialize"), 1, "{status}");
        let alive = scene.owner.call(2).await;
        assert_eq!((alive.status, alive.recovery), (200, None));
    }
}

/// D8, D4: nor does one who is answered by what would prove it for the owner: a known text, or what the
/// user of the layer says. When it has expired, he may recover it as ever.
#[tokio::test(start_paused = true)]
async fn d8_a_stranger_whose_answer_proves_that_the_session_has_expired_ends_no_live_one() {
    let unknown = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#;
    for (status, body) in [
        (400, unknown),
        (500, "Session service terminated"),
        (418, "by a Classify of one's own"),
    ] {
        for has_expired in [false, true] {
            // Given a server that answers so to whoever is not the owner, and also to him if it has expired,
            let server = Server::new(Profile::TypeScriptJson);
            let layer = SessionRecoveryLayer::new().classify(classify_fn(|answer| {
                match answer.status().as_u16() {
                    418 => Verdict::Expired,
                    _ => Compatible.classify(answer),
                }
            }));
            let client = client(&server, layer);
            let owner = User::connect(&client, "owner").await;
            let id = owner.session.clone();
            server.on(move |seen| {
                let is_owner = seen.header("authorization") == Some("Bearer owner");
                let is_refused = seen.session() == Some(&*id) && (has_expired || !is_owner);
                is_refused.then(|| reply(status, Some("application/json"), body))
            });
            // when a stranger calls, then the session stays, if it is alive.
            let stranger = User {
                name: "stranger",
                ..owner.clone()
            };
            let answer = stranger.call(1).await;
            let expected = match has_expired {
                false => (status, None),
                true => (200, Some(Outcome::Replayed)),
            };
            assert_eq!((answer.status, answer.outcome()), expected);
            let pinged = server.last("ping");
            assert_eq!(pinged.header("authorization"), Some("Bearer owner"));
            let handshakes = 1 + usize::from(has_expired);
            assert_eq!(server.count("initialize"), handshakes, "{status}");
        }
    }
}

/// I1, D8: a stranger's DELETE that the server does not carry out forgets nothing; the owner's does,
/// and so does one that the server carries out.
#[tokio::test(start_paused = true)]
async fn i1_d8_a_strangers_delete_that_is_not_carried_out_forgets_nothing() {
    for recoveries in 0..2 {
        let scene = owned(recoveries).await;
        let request = with_token(delete(&scene.owner.session), Some("stranger"));
        assert_eq!(send(&scene.owner.client, request).await.status, 404);
        assert_eq!(scene.sessions.len(), 1);
        assert_eq!(scene.owner.call(1).await.status, 200);
        assert_eq!(scene.owner.delete().await.status, 200);
        assert!(scene.sessions.is_empty());
    }
}

/// E5: nobody is lent another's credentials. All that a recovery sends is the trigger's, but for
/// `accept` and `content-type`.
#[tokio::test(start_paused = true)]
async fn e5_a_recovery_has_the_triggers_credentials_and_nobody_elses() {
    let own = [
        "authorization",
        "cookie",
        "x-api-key",
        "proxy-authorization",
    ];
    // Given a session that was recorded with credentials of every kind, in each epoch,
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let with = |mut request: http::Request<CallerBody>, brought: &[&'static str], of: &str| {
        for name in own {
            request.headers_mut().remove(name);
        }
        for name in brought {
            let name = HeaderName::from_static(name);
            request.headers_mut().insert(name, of.parse().unwrap());
        }
        request
    };
    let made = send(&client, with(post(None, &initialize()), &own, "recorded=1")).await;
    let id = made.session().unwrap().to_owned();
    let subscribe = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": "test://1"}});
    send(
        &client,
        with(post(Some(&id), &subscribe), &own, "recorded=1"),
    )
    .await;
    for brought in [
        &own[..0],
        &own[..1],
        &own[1..2],
        &own[2..],
        &own[..],
        &own[..0],
    ] {
        // when it expires, and a request brings some of them or none,
        server.restart();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = server.seen().len();
        let request = with(post(Some(&id), &tool_call(1)), brought, "triggers=1");
        let answer = send(&client, request).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{brought:?}");

        // then whatever goes out has those and no others.
        let sent = &server.seen()[before..];
        let in_recovery = sent.iter().filter(|seen| seen.what() != "ping");
        assert!(in_recovery.clone().count() >= 5, "{brought:?}");
        for seen in in_recovery {
            for name in own {
                let value = brought.contains(&name).then_some("triggers=1");
                assert_eq!(
                    seen.header(name),
                    value,
                    "{brought:?} {name} {}",
                    seen.what()
                );
            }
        }
    }
}

/// E5: what describes a message or a connection stays with its request, the recorded and the
/// trigger's.
#[tokio::test(start_paused = true)]
async fn e5_what_describes_a_message_or_a_connection_stays_behind() {
    let stays = [
        ("connection", "x-hop, close"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("trailer", "x"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("idempotency-key", "1"),
        ("if-none-match", "\"1\""),
        ("if-match", "\"1\""),
        ("range", "bytes=0-"),
        ("digest", "sha-256=x"),
        ("repr-digest", "sha-256=:x:"),
        ("content-digest", "sha-256=:x:"),
        ("content-encoding", "identity"),
        ("content-language", "en"),
        ("signature", "a=:x:"),
        ("signature-input", "a=()"),
        ("expect", "100-continue"),
        ("accept-encoding", "gzip"),
        ("last-event-id", "1"),
        ("mcp-method", "initialize"),
        ("mcp-name", "x"),
    ];
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let with_all = |mut request: http::Request<CallerBody>| {
        let headers: HeaderMap = stays
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        request.headers_mut().extend(headers);
        request
    };
    let made = send(&client, with_all(post(None, &initialize()))).await;
    let id = made.session().unwrap().to_owned();
    server.restart();
    let before = server.seen().len();
    let answer = send(&client, with_all(post(Some(&id), &tool_call(1)))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    let handshake: Vec<_> = server.seen()[before..]
        .iter()
        .filter(|seen| seen.what().contains("initialize"))
        .cloned()
        .collect();
    assert_eq!(handshake.len(), 2);
    for seen in handshake {
        for (name, _) in stays {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!(seen.header("authorization"), Some("Bearer secret-token"));
    }
}

/// J1: the 401 of the handshake is for those who came with the `authorization` that it was answered
/// to. Others may try with theirs: a waiter whose token is fresh, and a request that found the
/// session expired at the same time.
#[tokio::test(start_paused = true)]
async fn j1_others_than_the_leader_try_with_their_own_credentials() {
    for late in [false, true] {
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new());
        let owner = User::connect(&client, "fresh").await;
        server.restart();
        server.on(|seen| {
            let outdated = seen.header("authorization") == Some("Bearer outdated");
            (outdated && seen.what() == "initialize").then(|| {
                let mut reply = reply(401, None, "outdated");
                let challenge = "Bearer error=\"invalid_token\"".parse().unwrap();
                reply.headers_mut().insert("www-authenticate", challenge);
                reply
            })
        });
        let door = Door::before(&server, |seen| {
            seen.header("authorization") == Some("Bearer other-outdated")
        });
        drop(door);
        let handshakes = match late {
            // Those who find the session expired at once.
            false => Door::before(&server, is("tools/call")),
            // Those who wait for the recovery.
            true => Door::then(&server, is("initialize"), {
                let server = server.clone();
                move |seen| match seen.header("authorization") {
                    Some("Bearer outdated") => reply(401, None, "outdated"),
                    _ => server.default_answer(seen),
                }
            }),
        };
        let call = |token, id| {
            let request = post(Some(&owner.session), &tool_call(id));
            start(&client, with_token(request, Some(token)))
        };
        let leader = call("outdated", 1);
        settle().await;
        let others = [call("outdated", 2), call("fresh", 3), call("fresh", 4)];
        settle().await;
        handshakes.open();
        let leader = leader.await.unwrap();
        let denied = Failure::Denied(http::StatusCode::UNAUTHORIZED);
        assert_eq!((leader.status, leader.text()), (401, "outdated"), "{late}");
        assert_eq!(leader.outcome(), Some(Outcome::Failed(denied)));
        let [outdated, fresh, also] = others;
        assert_eq!(outdated.await.unwrap().status, 401, "{late}");
        for fresh in [fresh, also] {
            assert_eq!(fresh.await.unwrap().status, 200, "{late}");
        }
        assert_eq!(server.count("initialize"), 3, "{late}");
        let made = server.last("initialize");
        assert_eq!(made.header("authorization"), Some("Bearer fresh"));
    }
}

/// J1, J5: a challenge whose body stalls is passed on in time, as far as it has come.
#[tokio::test(start_paused = true)]
async fn j1_a_challenge_whose_body_stalls_is_still_a_challenge() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let owner = User::connect(&client, "owner").await;
    server.restart();
    answer(&server, "initialize", |_| {
        let mut reply = stream(Script::new().data("as far as it came").pending());
        *reply.status_mut() = http::StatusCode::UNAUTHORIZED;
        let challenge = "Bearer error=\"invalid_token\"".parse().unwrap();
        reply.headers_mut().insert("www-authenticate", challenge);
        reply
    });
    let started = tokio::time::Instant::now();
    let answer = owner.call(1).await;
    assert_eq!((answer.status, answer.text()), (401, "as far as it came"));
    assert!(answer.header("www-authenticate").is_some());
    assert!(started.elapsed() <= Duration::from_secs(10));
}

/// D7: in an epoch without an id there is no session to be found, and none to be made.
#[tokio::test(start_paused = true)]
async fn d7_a_404_in_an_epoch_without_an_id_makes_no_handshake() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let owner = User::connect(&client, "owner").await;
    server.restart();
    let behind = server.clone();
    server.on(move |seen| {
        if seen.session().is_some() {
            return None;
        }
        let mut reply = match seen.what().as_str() {
            "initialize" => behind.default_answer(seen),
            "notifications/initialized" => reply(202, None, ""),
            _ if seen.message()["id"] == 1 => {
                json_reply(200, &json!({"jsonrpc": "2.0", "id": 1, "result": {}}))
            }
            _ => reply(404, None, "no such thing"),
        };
        reply.headers_mut().remove(SESSION_ID);
        Some(reply)
    });
    assert_eq!(owner.call(1).await.outcome(), Some(Outcome::Replayed));
    assert_eq!(server.last("tools/call").session(), None);
    let handshakes = server.count("initialize");
    for request in [
        post(Some(&owner.session), &tool_call(2)),
        get(&owner.session, None),
    ] {
        let answer = owner.send(request).await;
        assert_eq!(
            (answer.status, answer.text(), answer.recovery),
            (404, "no such thing", None)
        );
    }
    assert_eq!(server.count("initialize"), handshakes);
}

/// D7: what is no POST and no GET replaces no session.
#[tokio::test(start_paused = true)]
async fn d7_other_methods_than_post_and_get_never_trigger() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let owner = User::connect(&client, "owner").await;
    server.restart();
    for method in ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"] {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        let request = request(method, Some(&owner.session), initialized().to_string());
        let answer = owner.send(request).await;
        assert_eq!((answer.status, answer.recovery), (404, None));
    }
    assert_eq!(server.count("initialize"), 1);
    assert_eq!(server.count("ping"), 0);
}
