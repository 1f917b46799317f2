//! What proves that a session lives (rule J4), and what does not.

use std::time::Duration;

use http::StatusCode;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::{answer, fail, hang, heal};
use testing::*;
use tokio::time::{Instant, advance};

/// At 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 and 12.7 seconds, then one every ten.
const IN_A_MINUTE: usize = 8 + 4;

fn call(session: &str) -> http::Request<CallerBody> {
    post(Some(session), &tool_call(1))
}

/// How many handshakes a server sees in a minute of a client that sends ten requests a second.
async fn handshakes_in_a_minute(
    server: &Server,
    client: &Client,
    mut request: impl FnMut() -> http::Request<CallerBody>,
) -> usize {
    let before = server.count("initialize");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        send(client, request()).await;
        advance(Duration::from_millis(100)).await;
    }
    server.count("initialize") - before
}

fn is_handshake(seen: &Seen) -> bool {
    matches!(&*seen.what(), "initialize" | "notifications/initialized")
}

fn no_session() -> Reply {
    reply(404, None, "who?")
}

/// A 404 that breaks off.
fn truncated() -> Reply {
    let mut reply = stream(Script::new().data("Sess").error("reset"));
    *reply.status_mut() = StatusCode::NOT_FOUND;
    reply
}

/// In each new session the first answer is one that says nothing, and the next finds it expired.
#[tokio::test(start_paused = true)]
async fn j4_what_says_nothing_of_the_session_proves_nothing() {
    let status = |status| move || reply(status, None, "busy");
    type Nothing = Box<dyn Fn() -> Reply + Send>;
    let nothings: Vec<(&str, Nothing)> = vec![
        ("an answer that breaks off", Box::new(truncated)),
        ("401", Box::new(status(401))),
        ("403", Box::new(status(403))),
        ("407", Box::new(status(407))),
        ("408", Box::new(status(408))),
        ("429", Box::new(status(429))),
        ("500", Box::new(status(500))),
        ("502", Box::new(status(502))),
        ("503", Box::new(status(503))),
        ("504", Box::new(status(504))),
    ];
    for (case, nothing) in nothings {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let mut is_first = false;
        server.on(move |seen| {
            if is_handshake(seen) {
                is_first = true;
                return None;
            }
            let says_nothing = std::mem::take(&mut is_first);
            Some(if says_nothing {
                nothing()
            } else {
                no_session()
            })
        });

        let handshakes = handshakes_in_a_minute(&server, &client, || call(&session)).await;

        assert!(handshakes <= IN_A_MINUTE, "{case}: {handshakes}");
        assert!(handshakes >= 4, "{case}: {handshakes}");
    }
}

/// Where there is no session, a 404 is not about one: neither that it has expired nor that it lives.
#[tokio::test(start_paused = true)]
async fn j4_a_404_in_an_epoch_without_an_id_proves_nothing() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    // Given a server that has become stateless, and says in turns that there is nothing here and
    // that the session is unknown,
    let result = json!({"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {}});
    let mut turn = 0;
    server.on(move |seen| {
        let id = seen.message()["id"].clone();
        Some(match &*seen.what() {
            "initialize" => json_reply(200, &json!({"jsonrpc": "2.0", "id": id, "result": result})),
            "notifications/initialized" => reply(202, None, ""),
            "ping" => reply(400, None, "invalid session"),
            _ => {
                turn += 1;
                match turn % 2 {
                    0 => reply(400, None, "invalid session"),
                    _ => no_session(),
                }
            }
        })
    });

    // when a caller goes on and on,
    let handshakes = handshakes_in_a_minute(&server, &client, || call(&session)).await;

    // then the pauses grow all the same.
    assert!((4..=IN_A_MINUTE).contains(&handshakes), "{handshakes}");
}

/// A ping proves something when it is answered with a 2xx.
#[tokio::test(start_paused = true)]
async fn j4_a_ping_without_a_2xx_proves_nothing() {
    type Case = (&'static str, fn(&Server));
    let cases: [Case; 5] = [
        ("no way", |server| fail(server, "ping", "no way")),
        ("no answer", |server| hang(server, "ping")),
        ("401", |server| {
            answer(server, "ping", |_| reply(401, None, ""))
        }),
        ("503", |server| {
            answer(server, "ping", |_| reply(503, None, ""))
        }),
        ("breaks off", |server| {
            answer(server, "ping", |_| truncated())
        }),
    ];
    for (case, script) in cases {
        let server = Server::new(Profile::TypeScript);
        let layer = SessionRecoveryLayer::new().recovery_timeout(Duration::from_millis(50));
        let client = client(&server, layer);
        let session = handshake(&client).await;
        // Given that GETs are answered so that the layer asks, and calls find no session,
        server.on(|seen| (!is_handshake(seen)).then(no_session));
        script(&server);
        let mut turn = 0;

        let handshakes = handshakes_in_a_minute(&server, &client, || {
            turn += 1;
            match turn % 2 {
                0 => get(&session, None),
                _ => call(&session),
            }
        })
        .await;

        assert!(
            (4..=IN_A_MINUTE).contains(&handshakes),
            "{case}: {handshakes}"
        );
        assert!(server.count("ping") > 0, "{case}");
    }
}

/// An `initialize` in a session is no question about that session, whatever it is answered.
#[tokio::test(start_paused = true)]
async fn j4_an_initialize_in_the_session_proves_nothing_of_it() {
    for status in [200, 400, 404] {
        let server = Server::new(Profile::TypeScript);
        // Nothing is sent again, so that the first to be answered in a new session is the next.
        let layer = SessionRecoveryLayer::new().replay_when(|_| false);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.on(move |seen| match &*seen.what() {
            "initialize" if seen.session().is_some() => Some(reply(status, None, "")),
            "initialize" | "notifications/initialized" => None,
            _ => Some(no_session()),
        });
        let mut turn = 0;
        let before = server.count("initialize");
        let started = Instant::now();
        let mut own = 0;
        while started.elapsed() < Duration::from_secs(60) {
            turn += 1;
            let is_own = turn % 2 == 0;
            own += usize::from(is_own);
            let request = match is_own {
                true => post(Some(&session), &initialize()),
                false => call(&session),
            };
            send(&client, request).await;
            advance(Duration::from_millis(100)).await;
        }
        let handshakes = server.count("initialize") - before - own;
        assert!(handshakes <= IN_A_MINUTE, "{status}: {handshakes}");
    }
}

/// These do, and the pauses begin anew.
#[tokio::test(start_paused = true)]
async fn j4_what_proves_that_the_session_lives_ends_the_pauses() {
    type Case = (&'static str, fn(&Server));
    let cases: [Case; 4] = [
        ("2xx", |_| {}),
        ("an error that is about something else", |server| {
            answer(server, "tools/call", |_| reply(400, None, "no such tool"));
        }),
        ("method not found", |server| {
            answer(server, "tools/call", |seen| {
                let id = seen.message()["id"].clone();
                json_reply(
                    404,
                    &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "?"}}),
                )
            });
        }),
        ("a ping", |server| {
            answer(server, "tools/call", |_| {
                reply(410, None, "session expired")
            });
        }),
    ];
    for (case, script) in cases {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        // Given pauses that have grown,
        answer(&server, "initialize", |_| reply(503, None, "full"));
        for pause in [100, 200, 400, 800, 1600] {
            send(&client, call(&session)).await;
            advance(Duration::from_millis(pause)).await;
        }
        // and a recovery that works,
        heal(&server);
        let behind = server.clone();
        answer(&server, "tools/call", move |seen| {
            behind.default_answer(seen)
        });
        let refuse = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
        let recovered = send(&client, post(Some(&session), &refuse)).await;
        assert!(
            matches!(recovered.outcome(), Some(Outcome::NotReplayed(_))),
            "{case}: {recovered:?}"
        );

        // when an answer proves that the new session lives,
        script(&server);
        send(&client, call(&session)).await;

        // then the next loss may be recovered at once, and the next failure has a short pause.
        server.restart();
        heal(&server);
        answer(&server, "initialize", |_| reply(503, None, "full"));
        let refused = Some(Outcome::Failed(Failure::Refused(
            StatusCode::SERVICE_UNAVAILABLE,
        )));
        assert_eq!(
            send(&client, call(&session)).await.outcome(),
            refused,
            "{case}"
        );
        advance(Duration::from_millis(100)).await;
        assert_eq!(
            send(&client, call(&session)).await.outcome(),
            refused,
            "{case}"
        );
    }
}

/// A proof that comes late, from an epoch that has been replaced, is none of the new one's.
/// Also where the first answer in the new session was that there is none: another replica's, say.
#[tokio::test(start_paused = true)]
async fn j4_what_proves_that_the_session_lives_does_so_after_a_replay_in_vain() {
    let no_method = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no"}});
    let proofs = [None, Some(json_reply(404, &no_method))];
    for (nth, proof) in proofs.into_iter().enumerate() {
        // Given a session whose replay is answered once as if it was not there,
        let server = Server::new(Profile::TypeScript);
        let layer = SessionRecoveryLayer::new()
            .recovery_pause(Duration::from_secs(10), Duration::from_secs(1000));
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        let (known, mut replies) = (server.clone(), vec![proof, Some(no_session())]);
        server.on(move |seen| {
            let is_known = seen
                .session()
                .is_some_and(|it| known.live().contains(&it.to_owned()));
            let answers = is_known && seen.what() == "tools/call";
            answers.then(|| replies.pop().flatten())?
        });
        let answer = send(&client, call(&session)).await;
        assert_eq!(
            (answer.status, answer.outcome()),
            (404, Some(Outcome::Replayed))
        );

        // when it is answered there after that, then the pause is over, and no other is longer for it.
        assert_eq!(send(&client, call(&session)).await.outcome(), None);
        for _ in 0..2 {
            server.restart();
            let answer = send(&client, call(&session)).await;
            assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{nth}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn j4_an_old_epochs_answer_proves_nothing_of_the_new_one() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    // Each call takes 50 ms in epoch 0, where it is answered; every other session is unknown.
    let first = session.clone();
    let behind = server.clone();
    server.on_async(move |seen| {
        if is_handshake(seen) {
            return None;
        }
        let is_late = seen.session() == Some(&first) && seen.what() == "tools/list";
        let (behind, seen) = (behind.clone(), seen.clone());
        Some(Box::pin(async move {
            if !is_late {
                return Ok(no_session());
            }
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok(behind.default_answer(&seen))
        }))
    });
    let list = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
    let late = testing::scenario::start(&client, post(Some(&session), &list));
    tokio::task::yield_now().await;

    let handshakes = handshakes_in_a_minute(&server, &client, || call(&session)).await;

    assert_eq!(handshakes, IN_A_MINUTE);
    late.abort();
}

/// K6, D5: a 404 that is not recovered, since it is too soon, is the caller's as it came.
#[tokio::test(start_paused = true)]
async fn j4_a_404_in_a_pause_passes_whole_whatever_its_size() {
    let page = "x".repeat(200 * 1024);
    let server = Server::new(Profile::TypeScript);
    // Nothing is sent again, so that the first to find a new session expired is the next request.
    let layer = SessionRecoveryLayer::new().replay_when(|_| false);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let sent = page.clone();
    server.on(move |seen| {
        (!is_handshake(seen)).then(|| {
            let (one, other) = sent.split_at(100 * 1024);
            let mut reply = stream(Script::new().data(one).yields().data(other));
            *reply.status_mut() = StatusCode::NOT_FOUND;
            reply
        })
    });
    send(&client, call(&session)).await;
    for _ in 0..3 {
        let paused = send(&client, call(&session)).await;
        let outcome = Some(Outcome::Failed(Failure::Paused));
        assert_eq!((paused.status, paused.outcome()), (404, outcome));
        assert_eq!(paused.body.len(), page.len());
    }
    assert_eq!(server.count("initialize"), 2);
}
