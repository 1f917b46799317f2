//! A request has one deadline, whoever holds it up (rules J5, K5).

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use mcp_session_recovery::{Refusal, SessionRecoveryLayer};
use testing::scenario::{hang, slow, start};
use testing::streams::{hold, soon};
use testing::*;
use tokio::time::Instant;
use tower::ServiceExt;

/// An answer with this status whose body never ends.
fn endless(status: u16, text: &str) -> Reply {
    let mut reply = stream(Script::new().data(text).pending());
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    reply.headers_mut().remove("content-type");
    reply
}

/// A server that takes its time for whatever it can, from the first answer on.
fn hold_up(server: &Server, steps: &'static [(&'static str, u64)]) {
    for (what, seconds) in steps {
        slow(server, what, Duration::from_secs(*seconds));
    }
}

/// J5: error body, ping, recovery and the body of the replay's error have K5 in all.
#[tokio::test(start_paused = true)]
async fn j5_a_server_cannot_hold_back_an_answer_for_longer() {
    let unsure = "invalid session";
    type Case = (
        &'static str,
        &'static str,
        u16,
        &'static str,
        &'static [(&'static str, u64)],
    );
    let cases: [Case; 8] = [
        ("a body", "POST", 404, "", &[]),
        (
            "a body and a recovery",
            "POST",
            404,
            "",
            &[("initialize", 100)],
        ),
        (
            "each a little",
            "POST",
            404,
            "",
            &[("initialize", 3), ("notifications/initialized", 4)],
        ),
        ("a body and a ping", "POST", 400, unsure, &[("ping", 100)]),
        (
            "a ping, then a recovery",
            "POST",
            400,
            unsure,
            &[("ping", 6), ("initialize", 100)],
        ),
        ("of a GET", "GET", 404, "", &[("ping", 100)]),
        (
            "of a GET, all",
            "GET",
            404,
            "",
            &[
                ("ping", 6),
                ("initialize", 1),
                ("notifications/initialized", 1),
            ],
        ),
        ("a server error", "POST", 500, "", &[]),
    ];
    for knob in [10, 3] {
        for (case, method, status, text, steps) in cases {
            let server = Server::new(Profile::TypeScript);
            let limit = Duration::from_secs(knob);
            let client = client(&server, SessionRecoveryLayer::new().recovery_timeout(limit));
            let session = handshake(&client).await;
            server.restart();
            hold_up(&server, steps);
            // Every answer to the caller's request is endless, that to the replay as well.
            server.on(move |seen| {
                let own = seen.method == method && !steps.iter().any(|step| step.0 == seen.what());
                let own = own && seen.what() != "initialize" && seen.what() != "ping";
                let own = own && seen.what() != "notifications/initialized";
                own.then(|| endless(status, text))
            });
            // What the layer asks is answered as badly.
            let asked = server.clone();
            server.on_async(move |seen| {
                let takes = steps.iter().find(|step| step.0 == "ping")?.1;
                let (asked, seen) = (asked.clone(), seen.clone());
                let _ = &asked;
                (seen.what() == "ping").then(
                    || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
                        Box::pin(async move {
                            tokio::time::sleep(Duration::from_secs(takes)).await;
                            Ok(endless(status, text))
                        })
                    },
                )
            });
            let request = match method {
                "GET" => get(&session, None),
                _ => post(Some(&session), &tool_call(1)),
            };
            let started = Instant::now();
            let response = client.clone().oneshot(request).await.unwrap();
            assert!(
                started.elapsed() <= limit,
                "{case}: {:?}",
                started.elapsed()
            );
            assert_eq!(response.status(), status, "{case}");
        }
    }
}

/// J5: what only may be about the session is held back for three quarters of that.
#[tokio::test(start_paused = true)]
async fn j5_an_error_of_a_live_session_is_not_held_back_for_long() {
    for status in [400, 401, 403, 404, 410, 500, 503] {
        for request in ["POST", "GET"] {
            let server = Server::new(Profile::TypeScript);
            let client = client(&server, SessionRecoveryLayer::new());
            let session = handshake(&client).await;
            server.on(move |seen| {
                let is_own = seen.what() == "GET" || seen.what() == "tools/call";
                is_own.then(|| endless(status, "no idea"))
            });
            // A POST that is answered 404 is about the session.
            if (status, request) == (404, "POST") {
                continue;
            }
            let request = match request {
                "GET" => get(&session, None),
                _ => post(Some(&session), &tool_call(1)),
            };
            let started = Instant::now();
            let response = client.clone().oneshot(request).await.unwrap();
            assert!(started.elapsed() <= Duration::from_millis(7500), "{status}");
            // And the rest comes as it comes.
            let mut body = response.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, "no idea");
        }
    }
}

/// J5: a request that has waited for a recovery has what is left of its time for its own 404.
#[tokio::test(start_paused = true)]
async fn j5_the_wait_for_a_recovery_counts() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    slow(&server, "initialize", Duration::from_secs(8));
    let trigger = testing::scenario::start(&client, post(Some(&session), &tool_call(1)));
    settle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Given one that waits for 7 s, and then meets a session that has expired, too,
    let started = Instant::now();
    let waiting = testing::scenario::start(&client, post(Some(&session), &tool_call(2)));
    let doomed = server.clone();
    server.on(move |seen| {
        let is_new = seen.what() == "tools/call" && seen.session() == Some("secret-session-2");
        is_new.then(|| {
            doomed.restart();
            reply(404, None, "gone again")
        })
    });
    // then it does not wait for another 8.
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 404);
    assert!(
        started.elapsed() <= Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(trigger.await.unwrap().status, 404);
}

/// J5, E11: nor does an inner service that is never ready for the replay. The caller's own answer
/// tells of the cookies of the new session all the same.
#[tokio::test(start_paused = true)]
async fn j5_the_wait_for_a_service_to_be_ready_for_the_replay_counts() {
    // Given a service that takes a call and a handshake, and nothing more,
    let (mut inner, scene) = mocked::by_hand(SessionRecoveryLayer::new()).await;
    scene.server.restart();
    mocked::replace(&scene.server, "initialize", |_, mut own| {
        let cookie = "route=b".parse().unwrap();
        own.headers_mut().insert("set-cookie", cookie);
        own
    });
    inner.allow(3);
    let call = post(Some(&scene.session), &tool_call(1));
    let started = Instant::now();
    let call = scene.spawn(mocked::with_headers(call, &[("cookie", "route=a")]));
    for _ in 0..3 {
        mocked::serve(&mut inner, &scene.server).await;
    }

    // then the caller has its own answer in time,
    let answer = soon(call).await.unwrap();
    let not_ready = mocked::refused(Refusal::NotReady);
    assert_eq!((answer.status, answer.outcome()), (404, not_ready));
    assert_eq!(answer.header("set-cookie"), Some("route=b"));
    assert_eq!(started.elapsed(), Duration::from_secs(10));

    // and whoever comes when the service is ready again is served in the new session.
    inner.allow(1);
    let next = scene.spawn_call(2);
    mocked::serve(&mut inner, &scene.server).await;
    let answer = soon(next).await.unwrap();
    assert_eq!((answer.status, answer.recovery), (200, None));
}

/// J3, A5: an epoch that was replaced is not gone back to, since its id may be another's by now.
#[tokio::test(start_paused = true)]
async fn j3_a_request_that_waited_in_vain_is_sent_in_the_epoch_that_was_not_replaced() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    // Given a request that waits for a recovery, and is not polled when that is over,
    server.restart();
    let gate = hold(&server, "initialize");
    let trigger = start(&client, post(Some(&session), &tool_call(1)));
    settle().await;
    let waiting = client.clone().oneshot(post(Some(&session), &tool_call(2)));
    let mut waiting = std::pin::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    gate.open();
    assert_eq!(trigger.await.unwrap().status, 200);
    let current = server.live();
    assert_eq!(current.len(), 1);

    // when the session is lost again and its time is up before it looks,
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.restart();
    hang(&server, "initialize");
    let again = start(&client, post(Some(&session), &tool_call(3)));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let response = waiting.await.unwrap();

    // then it goes where the session was last.
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let sent = server.all("tools/call");
    let own = sent.iter().find(|seen| seen.message()["id"] == 2).unwrap();
    assert_eq!(own.session(), Some(&*current[0]));
    assert_eq!(again.await.unwrap().status, 404);
}
