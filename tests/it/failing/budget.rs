//! How often a session is tried to be recovered (rules J4, K6).

use std::time::Duration;

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use testing::scenario::{Events, answer, heal, slow};
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

/// Three at once, and one for each ten seconds of the minute.
const IN_A_MINUTE: usize = 3 + 6;

/// A server that knows no session but its latest `initialize`'s answer says otherwise.
fn forget_at_once(server: &Server) {
    server.on(|seen| {
        let known = matches!(&*seen.what(), "initialize" | "notifications/initialized");
        (!known).then(|| reply(404, None, "who?"))
    });
}

/// J4, K6: recoveries that fail spend the budget, so a server that refuses every session sees no
/// storm, and every request gets its answer all the same.
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
    let spent = Outcome::Failed(Failure::OutOfBudget);
    assert_eq!((answer.status, answer.outcome()), (404, Some(spent)));
    assert_eq!(server.count("DELETE"), 0);
}

/// J4: so do recoveries that are of no use, whatever shows it: a request sent again, one that was
/// not sent again and met the next dead session later, or a GET.
#[tokio::test(start_paused = true)]
async fn j4_recoveries_that_do_not_help_spend_the_budget() {
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

    // Nor do they hide what was spent before: two failures leave one attempt, and a success in
    // between does not make it more.
    let refuse = Failure::Refused(http::StatusCode::SERVICE_UNAVAILABLE);
    let mut outcomes = Vec::new();
    for refused in [true, true, false, true, true] {
        server.restart();
        if refused {
            answer(&server, "initialize", |_| reply(503, None, ""));
        } else {
            heal(&server);
        }
        outcomes.extend(send_call(&client, &session, 1).await.outcome());
    }
    let failed = Outcome::Failed(refuse);
    let spent = Outcome::Failed(Failure::OutOfBudget);
    assert_eq!(outcomes, [failed, failed, Outcome::Replayed, failed, spent]);
}

/// J4, K6: the budget is a session's own, and `recovery_budget` sets its size and its refill.
#[tokio::test(start_paused = true)]
async fn k6_the_budget_can_be_set_and_is_each_sessions_own() {
    for (attempts, refill, expected) in [
        // Never: only detected.
        (0, 10, [0, 0, 0]),
        (1, 5, [1, 2, 3]),
        (2, 20, [2, 2, 2]),
        (7, 1000, [7, 7, 7]),
    ] {
        let server = Server::new(Profile::TypeScript);
        let layer =
            SessionRecoveryLayer::new().recovery_budget(attempts, Duration::from_secs(refill));
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
            assert_eq!(handshakes, 2 * expected, "{attempts} per {refill} s");
            advance(Duration::from_secs(5)).await;
        }
        // Left alone for long, the session is tried again as if nothing had been.
        if attempts > 0 {
            advance(Duration::from_secs(100_000)).await;
            heal(&server);
            let after = send_call(&client, &sessions[0], 1).await;
            assert_eq!(after.outcome(), Some(Outcome::Replayed));
        }
    }
}
