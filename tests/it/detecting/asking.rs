//! Asking the server whether it still knows a session: rule D4.

use std::time::Duration;

use mcp_session_recovery::{
    HttpAnswer as Classified, Outcome, SessionRecoveryLayer, Strict, Verdict,
};
use serde_json::json;
use testing::streams::*;
use testing::*;
use tokio::time::Instant;
use tower::{Layer, limit::ConcurrencyLimit};

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

/// Answers every GET in a session that lives with a 404, as servers do that have no listening
/// stream and should say 405.
fn without_listening_stream(server: &Server) {
    answer_all(server, "GET", || {
        let mut reply = reply(404, Some("text/plain"), "Cannot GET /mcp");
        reply
            .headers_mut()
            .insert("x-server", "its own".parse().unwrap());
        reply
    });
}

fn assert_passed_on(answer: &Answer, case: &str) {
    assert_eq!(
        (
            answer.status,
            answer.header("x-server"),
            answer.text(),
            answer.outcome()
        ),
        (404, Some("its own"), "Cannot GET /mcp", None),
        "{case}"
    );
}

/// D4: a live session is never thrown away on a guess.
#[tokio::test(start_paused = true)]
async fn a_server_without_a_listening_stream_is_asked_and_its_404_passed_on() {
    for profile in Profile::ALL {
        let scene = scene_with(profile, layer(), json!({})).await;
        without_listening_stream(&scene.server);
        for epoch in 0..2 {
            let case = format!("{profile:?}, epoch {epoch}");
            let asked = scene.server.count("ping");
            // When a GET is answered 404, with a token of its own and no version,
            let mut listen = get(&scene.session, None);
            listen.headers_mut().remove(PROTOCOL_VERSION);
            listen
                .headers_mut()
                .insert("authorization", "Bearer mine".parse().unwrap());
            listen
                .headers_mut()
                .insert(LAST_EVENT_ID, "7".parse().unwrap());
            let answer = scene.send(listen).await;

            // then the server is asked with one ping in the same session, as its owner (rule D8),
            assert_passed_on(&answer, &case);
            assert_eq!(scene.server.count("ping"), asked + 1, "{case}");
            let ping = scene.server.last("ping");
            let message = ping.message();
            assert!(
                message["id"].is_string() && message["jsonrpc"] == "2.0",
                "{message}"
            );
            assert_eq!(ping.session(), scene.server.last("GET").session(), "{case}");
            let version = if epoch == 0 { VERSION } else { "2025-06-18" };
            assert_eq!(ping.header(PROTOCOL_VERSION), Some(version), "{case}");
            assert_eq!(ping.header("authorization"), Some("Bearer secret-token"));
            assert_eq!(ping.header("content-type"), Some("application/json"));
            assert_eq!(ping.header(LAST_EVENT_ID), None);
            // and nothing else happens.
            assert_eq!(scene.server.count("initialize"), epoch + 1, "{case}");
            scene.server.set_version("2025-06-18");
            scene.recover().await;
        }
    }
}

/// D2, D4: a server that does not know the session says so to the ping.
#[tokio::test(start_paused = true)]
async fn a_get_that_meets_a_dead_session_recovers_it() {
    for profile in Profile::ALL {
        let scene = scene_with(profile, layer(), json!({})).await;
        scene.server.restart();
        let stream = scene.listen().await;
        assert_eq!(stream.head.status, 200, "{profile:?}");
        assert_eq!(stream.outcome(), Some(Outcome::Replayed), "{profile:?}");
        // A 400 that names the reason needs no asking.
        let named = [Profile::Everything, Profile::TypeScriptSingle].contains(&profile);
        assert_eq!(
            scene.server.count("ping"),
            usize::from(!named),
            "{profile:?}"
        );
        assert_eq!(scene.server.count("initialize"), 2, "{profile:?}");
    }
}

/// D4, F6, L1: anything but a clear no leaves the session alone.
#[tokio::test(start_paused = true)]
async fn whatever_the_ping_brings_short_of_expiry_passes_the_404_on() {
    type Pong = fn(&Seen) -> Result<Reply, TestError>;
    let pongs: [(&str, Pong); 11] = [
        ("result", |ping| {
            Ok(json_reply(
                200,
                &json!({"jsonrpc": "2.0", "id": ping.message()["id"], "result": {}}),
            ))
        }),
        ("stream", |_| Ok(pending_sse())),
        ("JSON-RPC error", |_| {
            Ok(json_reply(
                200,
                &json!({"error": {"code": -32001, "message": "Session not found"}}),
            ))
        }),
        ("401", |_| Ok(reply(401, None, ""))),
        ("403", |_| Ok(reply(403, None, ""))),
        ("405", |_| Ok(reply(405, None, ""))),
        ("503", |_| Ok(reply(503, None, ""))),
        ("bad version", |_| {
            Ok(json_reply(
                400,
                &json!({"error": {"code": -32000, "message": "Unsupported protocol version"}}),
            ))
        }),
        ("method not found", |ping| {
            Ok(json_reply(
                404,
                &json!({"jsonrpc": "2.0", "id": ping.message()["id"], "error": {"code": -32601, "message": "Method not found"}}),
            ))
        }),
        ("broken 404", |_| {
            let mut reply = stream(Script::new().data("Session not").error("reset"));
            *reply.status_mut() = http::StatusCode::NOT_FOUND;
            Ok(reply)
        }),
        ("transport error", |_| Err(TestError("refused"))),
    ];
    for (case, pong) in pongs {
        let scene = scene(layer()).await;
        without_listening_stream(&scene.server);
        scene.server.on_async(move |seen| {
            let answer = (seen.what() == "ping").then(|| pong(seen))?;
            Some(Box::pin(async move { answer }))
        });
        let start = Instant::now();
        assert_passed_on(&scene.send(get(&scene.session, None)).await, case);
        assert_eq!(start.elapsed(), Duration::ZERO, "{case}");
        assert_eq!(scene.server.count("ping"), 1, "{case}");
        assert_eq!(scene.server.count("initialize"), 1, "{case}");
    }
}

/// D2, D4, D9: what a server says of the session is said in words of its own, and not in what it
/// repeats of the ping.
#[tokio::test(start_paused = true)]
async fn d9_the_echo_of_the_pings_id_does_not_speak_of_the_session() {
    for first in [400, 404, 500] {
        for (status, code, message) in [
            (400, -32601, "Method not found"),
            (400, -32600, "Invalid Request"),
            (400, -32000, "missing Accept"),
            (403, -32000, "Invalid origin"),
            (500, -32603, "unknown error"),
            (503, -32000, "the token has expired"),
        ] {
            let scene = scene(layer()).await;
            answer_all(&scene.server, "GET", move || {
                reply(first, None, "no stream")
            });
            scene.server.on(move |seen| {
                let error = json!({"code": code, "message": message});
                let pong = json!({"jsonrpc": "2.0", "id": seen.message()["id"], "error": error});
                (seen.what() == "ping").then(|| json_reply(status, &pong))
            });
            let answer = scene.send(get(&scene.session, None)).await;
            let case = format!("{first}, then {status} {message}");
            assert_eq!(
                (answer.status, answer.text()),
                (first, "no stream"),
                "{case}"
            );
            assert_eq!(scene.server.count("ping"), 1, "{case}");
            assert_eq!(scene.server.count("initialize"), 1, "{case}");
        }
    }
}

/// D4, K5: a ping that is not answered holds the caller up no longer than a recovery may take.
#[tokio::test(start_paused = true)]
async fn a_ping_without_an_answer_passes_the_404_on_in_time() {
    for body_hangs in [false, true] {
        let scene = scene(layer().recovery_timeout(Duration::from_secs(3))).await;
        without_listening_stream(&scene.server);
        match body_hangs {
            false => never_answer(&scene.server, "ping"),
            true => answer_all(&scene.server, "ping", || {
                let mut reply = stream(Script::new().data("Session").pending());
                *reply.status_mut() = http::StatusCode::BAD_REQUEST;
                reply
            }),
        }
        let start = Instant::now();
        assert_passed_on(&scene.send(get(&scene.session, None)).await, "");
        assert!(start.elapsed() <= Duration::from_secs(3));
        assert_eq!(scene.server.count("initialize"), 1);
    }
}

/// D2, D3, D4, D7: nothing but an unsure verdict is worth a ping.
#[tokio::test(start_paused = true)]
async fn the_server_is_asked_only_where_the_answer_proves_nothing() {
    let unsure = |answer: &Classified<'_>| match answer.status().as_u16() {
        410 => Verdict::Unsure,
        404 => Verdict::Expired,
        _ => Verdict::Alive,
    };
    for (case, layer, request, status, pings, handshakes) in [
        ("a POST's 404", layer(), "POST", 404, 0, 1),
        ("a DELETE's 404", layer(), "DELETE", 404, 0, 0),
        ("a GET's 405", layer(), "GET", 405, 0, 0),
        (
            "a GET's 404, strictly",
            layer().classify(Strict),
            "GET",
            404,
            0,
            1,
        ),
        (
            "unsure about a POST",
            layer().classify(unsure),
            "POST",
            410,
            1,
            0,
        ),
        (
            "unsure about a DELETE",
            layer().classify(unsure),
            "DELETE",
            410,
            0,
            0,
        ),
    ] {
        let scene = scene(layer).await;
        scene.server.on(move |seen| {
            let message = seen.message();
            let asked = seen.method == request && (request != "POST" || message["id"] == 1);
            asked.then(|| reply(status, None, ""))
        });
        let answer = match request {
            "POST" => scene.post(&tool_call(1)).await,
            "DELETE" => scene.send(delete(&scene.session)).await,
            _ => scene.send(get(&scene.session, None)).await,
        };
        assert_eq!(answer.status, status, "{case}");
        assert_eq!(scene.server.count("ping"), pings, "{case}");
        assert_eq!(scene.server.count("initialize"), 1 + handshakes, "{case}");
    }
}

/// D4: the user's own verdict on the ping counts.
#[tokio::test(start_paused = true)]
async fn the_classifier_judges_the_ping_as_well() {
    for (verdict_on_ping, handshakes) in [
        (Verdict::Expired, 1),
        // Answered the same way (rule D9).
        (Verdict::Unsure, 1),
        (Verdict::Alive, 0),
    ] {
        let classify = move |answer: &Classified<'_>| {
            let message = answer.message();
            let method = message.as_ref().and_then(|message| message.method());
            match (answer.status().as_u16(), method) {
                (418, Some("ping")) => verdict_on_ping,
                (418, _) => Verdict::Unsure,
                _ => Verdict::Alive,
            }
        };
        let scene = scene(layer().classify(classify)).await;
        let session = scene.session.clone();
        scene.server.on(move |seen| {
            (seen.session() == Some(session.as_str())).then(|| reply(418, None, ""))
        });
        let answer = scene.post(&tool_call(1)).await;
        assert_eq!(answer.status, if handshakes == 1 { 200 } else { 418 });
        assert_eq!(scene.server.count("ping"), 1);
        assert_eq!(scene.server.count("initialize"), 1 + handshakes);
    }
}

/// D6: where the session has moved on there is nothing to ask.
#[tokio::test(start_paused = true)]
async fn a_get_of_a_session_that_has_moved_on_is_replayed_without_asking() {
    let scene = scene(layer()).await;
    // Given a GET whose 404 takes its time,
    let gate = hold(&scene.server, "GET");
    let client = scene.client.clone();
    let listen = get(&scene.session, None);
    let opening = tokio::spawn(async move { Stream::open(&client, listen).await });
    settle().await;
    // when the session moves meanwhile,
    scene.recover().await;
    let asked = scene.server.count("ping");
    gate.open();
    // then the GET is sent there.
    let stream = soon(opening).await.unwrap();
    assert_eq!(
        (stream.head.status.as_u16(), stream.outcome()),
        (200, Some(Outcome::Replayed))
    );
    assert_eq!(scene.server.count("ping"), asked);
    assert_eq!(scene.server.count("initialize"), 2);
}

/// D4, D5, E4: the ping goes through a service made ready, on the connection that the 404 freed.
#[tokio::test(start_paused = true)]
async fn the_ping_needs_no_second_permit() {
    let server = Server::new(Profile::TypeScript);
    let client = layer().layer(ConcurrencyLimit::new(server.service(), 1));
    let session = handshake(&client).await;
    let scene = Scene {
        server,
        client,
        session,
    };
    without_listening_stream(&scene.server);
    assert_passed_on(&scene.send(get(&scene.session, None)).await, "alive");
    scene.server.restart();
    let answer = scene.send(get(&scene.session, None)).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    assert_eq!(
        (answer.status, answer.text()),
        (404, "Cannot GET /mcp"),
        "F1: what the replay brings"
    );
    assert_eq!(scene.server.count("initialize"), 2);
}

/// D4, L1: what the layer asks is told nobody else.
#[tokio::test(start_paused = true)]
async fn callers_never_see_the_ping() {
    let scene = scene(layer()).await;
    without_listening_stream(&scene.server);
    let fed = feed_all(&scene.server, "tools/call");
    let mut call = scene.call(1).await;
    assert_passed_on(&scene.send(get(&scene.session, None)).await, "");
    fed.data(0, format!("data: {}\n\n", result(1)));
    fed.end(0);
    call.read_to_end().await;
    let [message] = &call.messages()[..] else {
        panic!("{:?}", call.messages());
    };
    assert_eq!(message["id"], 1);
}
