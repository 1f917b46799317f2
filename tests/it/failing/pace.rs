//! How often a session is tried to be recovered (rules J4, K6).

use std::time::Duration;

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use testing::scenario::{Events, answer, hang, heal, slow};
use testing::*;
use tokio::time::{Instant, advance};

async fn send_call(client: &Client, session: &str, id: u64) -> Answer {
    send(client, post(Some(session), &tool_call(id))).await
}

/// How many handshakes a server sees of a client that sends `request` every 100 ms for a minute.
async fn handshakes_in_a_minute(
    server: &Server,
    client: &Client,
    mut request: impl FnMut() -> http::Request<CallerBody>,
) -> usize {
    let before = server.count("initialize");
    let started = Instant::now();
    for tick in 0..=600 {
        let due = started + Duration::from_millis(100) * tick;
        tokio::time::sleep_until(due).await;
        // Two at a time: together they are one loss.
        let both = tokio::join!(send(client, request()), send(client, request()));
        assert_eq!((both.0.status, both.1.status), (404, 404));
    }
    server.count("initialize") - before
}

/// At 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 and 12.7 seconds, then one every ten.
const IN_A_MINUTE: usize = 8 + 4;

/// A server that knows no session but its latest `initialize`'s answer says otherwise.
fn forget_at_once(server: &Server) {
    server.on(|seen| {
        let known = matches!(&*seen.what(), "initialize" | "notifications/initialized");
        (!known).then(|| reply(404, None, "who?"))
    });
}

/// J4, K6: recoveries that fail are followed by pauses, so a server that refuses every session sees
/// no storm, and every request gets its answer all the same.
#[tokio::test(start_paused = true)]
async fn j4_a_server_that_refuses_every_session_sees_no_storm() {
    let server = Server::new(Profile::TypeScript);
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let client = client(&server, layer);
    let session = handshake(&client).await;
    server.restart();
    answer(&server, "initialize", |_| reply(503, None, "full"));

    let call = || post(Some(&session), &tool_call(1));
    let handshakes = handshakes_in_a_minute(&server, &client, call).await;

    assert_eq!(handshakes, IN_A_MINUTE);
    // No recovery, no event; and the caller is told why there is none.
    assert_eq!(events.all().len(), IN_A_MINUTE);
    let answer = send(&client, call()).await;
    let paused = Outcome::Failed(Failure::Paused);
    assert_eq!((answer.status, answer.outcome()), (404, Some(paused)));
    assert_eq!(server.count("DELETE"), 0);
}

/// J4: so do recoveries that are of no use, whatever shows it: a request sent again, one that was
/// not sent again and met the next dead session later, or a GET.
#[tokio::test(start_paused = true)]
async fn j4_recoveries_that_do_not_help_are_followed_by_pauses_too() {
    let session = "secret-session-1";
    let call = || post(Some(session), &tool_call(1));
    let response = || {
        post(
            Some(session),
            &serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
        )
    };
    let listen = || get(session, None);
    let resume = || get(session, Some("unknown"));
    let never = |layer: SessionRecoveryLayer| layer.replay_when(|_| false);
    let any = |layer: SessionRecoveryLayer| layer;
    type Case<'a> = (
        &'a str,
        fn(SessionRecoveryLayer) -> SessionRecoveryLayer,
        &'a dyn Fn() -> http::Request<CallerBody>,
    );
    let cases: [Case<'_>; 5] = [
        ("replayed", any, &call),
        ("a GET", any, &listen),
        ("replay_when", never, &call),
        ("a response", any, &response),
        ("an event id", any, &resume),
    ];
    let mut storms = Vec::new();
    for (case, configure, request) in cases {
        // Given a server whose sessions die as soon as they are made,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, configure(SessionRecoveryLayer::new()));
        assert_eq!(handshake(&client).await, session);
        forget_at_once(&server);

        // when the caller goes on and on,
        let handshakes = handshakes_in_a_minute(&server, &client, request).await;

        // then the server sees no more of it than if it refused them.
        if handshakes != IN_A_MINUTE {
            storms.push((case, handshakes));
        }
    }
    assert_eq!(storms, []);
}

/// J4: also where the one who started a recovery has given up, so that the next request is the
/// first in the new session.
#[tokio::test(start_paused = true)]
async fn j4_a_recovery_that_nobody_waited_for_can_be_of_no_use_as_well() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    forget_at_once(&server);
    slow(&server, "initialize", Duration::from_millis(50));

    // A caller less patient than the server is slow, but whose recoveries go on without it.
    for _ in 0..=600 {
        let call = send_call(&client, &session, 1);
        let _ = tokio::time::timeout(Duration::from_millis(10), call).await;
        tokio::time::sleep(Duration::from_millis(90)).await;
    }

    let handshakes = server.count("initialize") - 1;
    assert!((3..=IN_A_MINUTE).contains(&handshakes), "{handshakes}");
}

/// J4: successes refund their attempt. However often sessions are lost, recoveries that work go on
/// working, without any time to wait.
#[tokio::test(start_paused = true)]
async fn j4_successes_cost_nothing() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let started = Instant::now();
    for loss in 1..=300 {
        server.restart();
        let calls = [1, 2, 3].map(|id| send_call(&client, &session, id));
        for answer in futures::future::join_all(calls).await {
            let recovery = answer.recovery.map(|recovery| recovery.epoch());
            assert_eq!((answer.status, recovery), (200, Some(loss)));
        }
    }
    assert_eq!(server.count("initialize"), 301);
    assert_eq!(started.elapsed(), Duration::ZERO);

    // And they end the pauses that failures made: the next failure is a first one again.
    let failed = Some(Outcome::Failed(Failure::Refused(
        http::StatusCode::SERVICE_UNAVAILABLE,
    )));
    let outcome = async |refused| {
        match refused {
            true => answer(&server, "initialize", |_| reply(503, None, "")),
            false => heal(&server),
        }
        send_call(&client, &session, 1).await.outcome()
    };
    server.restart();
    for pause in [100, 200, 400] {
        assert_eq!(outcome(true).await, failed, "{pause}");
        advance(Duration::from_millis(pause)).await;
    }
    assert_eq!(outcome(false).await, Some(Outcome::Replayed));
    server.restart();
    assert_eq!(outcome(true).await, failed);
    advance(Duration::from_millis(100)).await;
    assert_eq!(outcome(false).await, Some(Outcome::Replayed));
}

/// J4: a proxy that answers 404 to everything while a server is deployed costs its callers no more
/// than it takes, and the last pause.
#[tokio::test(start_paused = true)]
async fn j4_callers_are_back_within_the_last_pause_after_a_deploy() {
    for down in [500, 2_000, 5_000] {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        server.on(|_| Some(reply(404, None, "no such service")));
        let started = Instant::now();
        let back = started + Duration::from_millis(down);
        let mut is_down = true;
        loop {
            if is_down && Instant::now() >= back {
                heal(&server);
                is_down = false;
            }
            if send_call(&client, &session, 1).await.status == 200 {
                break;
            }
            advance(Duration::from_millis(10)).await;
        }
        let waited = Instant::now() - back;
        // The pauses add up to about what it was down, and the last is as long as all before it.
        assert!(
            waited <= Duration::from_millis(down + 200),
            "{down} ms down, {waited:?} more"
        );
    }
}

/// J4: a server that is up and down in turns is used while it is up.
#[tokio::test(start_paused = true)]
async fn j4_a_flapping_server_is_used_while_it_is_up() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let (mut sent, mut answered) = (0, 0);
    for second in 0..600 {
        let is_up = second % 2 == 1;
        if is_up {
            heal(&server);
        } else {
            server.restart();
            server.on(|_| Some(reply(404, None, "no such service")));
        }
        for _ in 0..20 {
            let answer = send_call(&client, &session, 1).await;
            if is_up {
                sent += 1;
                answered += usize::from(answer.status == 200);
            }
            advance(Duration::from_millis(50)).await;
        }
    }
    assert!(answered * 10 >= sent * 4, "{answered} of {sent}");
    // While it is down: one at once, and after 0.1, 0.3 and 0.7 s.
    assert!(server.count("initialize") <= 1 + 300 * 5);
}

/// J4: what says nothing of the session proves nothing.
#[tokio::test(start_paused = true)]
async fn j4_an_answer_that_is_no_look_at_the_request_is_no_proof_of_life() {
    for status in [401, 429, 500, 502, 503, 504] {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        // Each new session's first request is answered so, and the next finds it expired.
        let mut looked = false;
        server.on(move |seen| {
            if matches!(&*seen.what(), "initialize" | "notifications/initialized") {
                looked = false;
                return None;
            }
            let first = !std::mem::replace(&mut looked, true);
            Some(match first && seen.session() != Some("secret-session-1") {
                true => reply(status, None, "busy"),
                false => reply(404, None, "who?"),
            })
        });
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            send_call(&client, &session, 1).await;
            advance(Duration::from_millis(100)).await;
        }
        let handshakes = server.count("initialize") - 1;
        assert!(handshakes <= IN_A_MINUTE, "{status}: {handshakes}");
    }
}

/// J4: a 404 that arrives long after a failed recovery does not share its fate.
#[tokio::test(start_paused = true)]
async fn j4_a_failure_is_shared_only_while_it_is_fresh() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    // Given a request whose 404 takes a minute,
    let late = testing::scenario::Door::before(&server, |seen| seen.what() == "tools/list");
    let listing = serde_json::json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
    let listing = testing::scenario::start(&client, post(Some(&session), &listing));
    tokio::task::yield_now().await;
    // a recovery that fails,
    answer(&server, "initialize", |_| reply(503, None, "full"));
    assert_eq!(send_call(&client, &session, 1).await.status, 404);
    // and a server that is back,
    advance(Duration::from_secs(60)).await;
    heal(&server);
    late.open();
    // then the late 404 is recovered.
    assert_eq!(listing.await.unwrap().outcome(), Some(Outcome::Replayed));
}

/// J4, K6: the pauses are a session's own, and `recovery_pause` sets them.
#[tokio::test(start_paused = true)]
async fn k6_the_pauses_can_be_set_and_are_each_sessions_own() {
    for (first, longest, expected) in [
        (0, 0, [8, 16, 24]),
        (5, 5, [1, 2, 3]),
        (5, 10, [1, 2, 2]),
        (1000, 1000, [1, 1, 1]),
    ] {
        let server = Server::new(Profile::TypeScript);
        let seconds = Duration::from_secs;
        let layer = SessionRecoveryLayer::new().recovery_pause(seconds(first), seconds(longest));
        let client = client(&server, layer);
        let sessions = [handshake(&client).await, handshake(&client).await];
        server.restart();
        answer(&server, "initialize", |_| reply(503, None, ""));
        for expected in expected {
            for session in &sessions {
                for _ in 0..8 {
                    assert_eq!(send_call(&client, session, 1).await.status, 404);
                }
            }
            let handshakes = server.count("initialize") - 2;
            assert_eq!(handshakes, 2 * expected, "{first} to {longest} s");
            advance(seconds(5)).await;
        }
        // Left alone for long, the session is tried again.
        advance(seconds(100_000)).await;
        heal(&server);
        let after = send_call(&client, &sessions[0], 1).await;
        assert_eq!(after.outcome(), Some(Outcome::Replayed));
    }
}

/// D9, K6: a server that says nothing to the layer's pings is not pinged at every answer, nor is
/// every answer late for that.
#[tokio::test(start_paused = true)]
async fn d9_k6_pings_without_an_answer_are_followed_by_pauses_too() {
    // Given a live session whose calls are answered with words that an expired one has, too,
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    answer(&server, "tools/call", |_| {
        reply(400, None, "session parameter missing")
    });
    hang(&server, "ping");
    // when it is called again and again,
    let started = Instant::now();
    for id in 0..100 {
        let answer = send(&client, post(Some(&session), &tool_call(id))).await;
        assert_eq!(answer.status, 400);
    }
    // then there is one ping, and one late answer.
    assert_eq!(server.count("ping"), 1);
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    // And once it has been silent for a while, it is asked again, and heard.
    advance(Duration::from_millis(100)).await;
    heal(&server);
    server.restart();
    answer(&server, "tools/call", |seen| {
        let is_old = seen.session() == Some("secret-session-1");
        match is_old {
            true => reply(400, None, "session not found"),
            false => reply(202, None, ""),
        }
    });
    let recovered = send(&client, post(Some(&session), &tool_call(100))).await;
    assert_eq!(recovered.outcome(), Some(Outcome::Replayed));
}

/// J4, K6: nor is it asked about a session in the pause that a replay in vain has begun.
#[tokio::test(start_paused = true)]
async fn j4_a_replay_in_vain_is_followed_by_a_pause_without_pings() {
    // Given a request that was sent again, and found its new session expired, too,
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().recovery_pause(Duration::from_secs(10), Duration::MAX);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    forget_at_once(&server);
    let replayed = send_call(&client, &session, 1).await;
    assert_eq!(replayed.outcome(), Some(Outcome::Replayed));
    assert_eq!(replayed.status, 404);

    // when the next answer may be about the session,
    heal(&server);
    answer(&server, "tools/call", |_| {
        reply(400, None, "session not found")
    });
    let unsure = send_call(&client, &session, 2).await;

    // then it passes, and the server is not asked.
    assert_eq!(unsure.status, 400);
    assert_eq!(server.count("ping"), 0);
}
