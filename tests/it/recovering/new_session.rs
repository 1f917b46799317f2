//! Rules E8 to E10 and C1: what a recovery makes, when it may be used, and how long it may take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::mocked::*;
use testing::*;
use tokio::time::Instant;

/// E4, E10: readiness that never comes ends like any other recovery that takes too long.
#[tokio::test(start_paused = true)]
async fn e10_an_inner_service_that_is_never_ready_again_fails_the_recovery_in_time() {
    let (mut inner, scene) = by_hand(SessionRecoveryLayer::new()).await;
    scene.server.restart();
    inner.allow(1);
    let started = Instant::now();
    let call = scene.spawn_call(1);
    serve(&mut inner, &scene.server).await;
    let answer = join([call]).await.remove(0);
    assert_eq!(
        (answer.status, failure(&answer)),
        (404, Some(Failure::TimedOut))
    );
    assert_eq!(started.elapsed(), Duration::from_secs(10));
}

/// E8, C1: from a session with an id to one without, and back.
#[tokio::test(start_paused = true)]
async fn e8_a_new_session_may_have_no_id_and_the_one_after_it_may_have_one_again() {
    // Given a server that was replaced by one that keeps no sessions,
    let scene = lost(SessionRecoveryLayer::new()).await;
    let stateless = Arc::new(AtomicBool::new(true));
    let (is_stateless, server) = (stateless.clone(), scene.server.clone());
    scene.server.on(move |seen| {
        let dead = Profile::Everything.unknown_session(&json!(null));
        match is_stateless.load(Ordering::Relaxed) {
            // An id that it does not know of, nor ever gave, is refused like any other.
            true if seen.session().is_some() => Some(reply(404, None, "")),
            true if seen.what() == "initialize" => {
                let mut own = server.default_answer(seen);
                own.headers_mut().remove(SESSION_ID);
                Some(own)
            }
            true if seen.what() == "notifications/initialized" => Some(reply(202, None, "")),
            true => {
                let id = seen.message()["id"].clone();
                Some(json_reply(
                    200,
                    &json!({"jsonrpc": "2.0", "id": id, "result": {}}),
                ))
            }
            false => (seen.session().is_none() && seen.what() != "initialize").then_some(dead),
        }
    });

    // when the caller goes on, then nothing that it sends carries an id,
    for n in 1..4 {
        let answer = scene.call(n).await;
        assert_eq!(
            (answer.status, answer.message()["id"].as_u64()),
            (200, Some(n))
        );
        assert_eq!(answer.outcome(), (n == 1).then_some(Outcome::Replayed));
        assert_eq!(scene.server.last("tools/call").session(), None);
        assert_eq!(
            scene.server.last("tools/call").header(PROTOCOL_VERSION),
            Some(VERSION)
        );
    }
    assert_eq!(
        scene.server.last("notifications/initialized").session(),
        None
    );
    assert_eq!(
        (
            scene.server.count("initialize"),
            scene.server.count("tools/call")
        ),
        (2, 4)
    );

    // and when the server keeps sessions again, what it sends carries the new one's.
    stateless.store(false, Ordering::Relaxed);
    let answer = scene.call(4).await;
    assert_eq!(
        (echoed(&answer), answer.outcome()),
        (4, Some(Outcome::Replayed))
    );
    assert_eq!(answer.session(), Some(&*scene.session));
    let new = scene.server.last("tools/call");
    assert!(
        scene
            .server
            .live()
            .contains(&new.session().unwrap().to_owned())
    );
    assert_eq!(
        scene.server.last("notifications/initialized").session(),
        new.session()
    );
    let answer = scene.call(5).await;
    assert_eq!((echoed(&answer), answer.recovery), (5, None));
}

/// E8, C1: the handshake may end in another version, which all that follows is sent with.
#[tokio::test(start_paused = true)]
async fn c1_another_negotiated_version_is_what_the_new_session_is_spoken_to_with() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    for (version, n) in [("2025-06-18", 1), ("2025-03-26", 2), (VERSION, 3)] {
        // Given a server that has forgotten the session and negotiates another version,
        scene.server.restart();
        scene.server.set_version(version);
        // when the caller, who knows of no other, sends the one it was given,
        let request = post(Some(&scene.session), &tool_call(n));
        assert_eq!(request.headers()[PROTOCOL_VERSION], VERSION);
        let answer = scene.send(request).await;
        // then the replay has the new one, as has what follows it.
        assert_eq!(
            (echoed(&answer), answer.outcome()),
            (n, Some(Outcome::Replayed))
        );
        scene.head(get(&scene.session, None)).await;
        for what in ["notifications/initialized", "tools/call", "GET"] {
            assert_eq!(
                scene.server.last(what).header(PROTOCOL_VERSION),
                Some(version),
                "{what}"
            );
        }
    }
}

/// E9.
#[tokio::test(start_paused = true)]
async fn e9_nothing_is_sent_in_a_new_session_before_its_state_is_restored() {
    // Given a session with state, dead, and a server that takes its time to restore it,
    let scene = live(SessionRecoveryLayer::new()).await;
    scene.send(post(Some(&scene.session), &set_level())).await;
    scene.server.restart();
    let gate = hold(&scene.server, "logging/setLevel");

    // when requests find it dead, and others arrive before it is restored,
    let trigger = scene.spawn_call(1);
    settle().await;
    let waiting = scene.spawn_call(2);
    settle().await;

    // then they wait for that.
    assert_eq!(scene.server.log().last().unwrap(), "logging/setLevel");
    assert_eq!(calls_outside(&scene.server, &scene.session), [0; 0]);
    assert!(!trigger.is_finished() && !waiting.is_finished());
    gate.open();
    assert!(join([trigger, waiting]).await.iter().map(echoed).eq([1, 2]));
    let new = scene.server.last("tools/call");
    assert_eq!(
        scene.server.level(new.session().unwrap()),
        Some(json!("info"))
    );
}

/// E10, K5: the time is for all of it, and not for each step.
#[tokio::test(start_paused = true)]
async fn e10_a_recovery_that_takes_too_long_fails_in_time_and_its_session_is_ended() {
    let seconds = Duration::from_secs;
    // The seconds that the head of initialize, its result and the answer to initialized take.
    for (limit, takes, ended) in [
        (None, [u64::MAX, 0, 0], false),
        (None, [0, u64::MAX, 0], true),
        (None, [0, 0, u64::MAX], true),
        (None, [4, 4, 4], true),
        (Some(3), [0, 2, 2], true),
        (Some(3), [4, 0, 0], false),
    ] {
        // Given a server that takes longer than a recovery may,
        let layer = SessionRecoveryLayer::new();
        let scene = lost(match limit {
            Some(limit) => layer.recovery_timeout(seconds(limit)),
            None => layer,
        })
        .await;
        let server = scene.server.clone();
        scene.server.on_async(move |seen| {
            let (server, seen, what) = (server.clone(), seen.clone(), seen.what());
            Some(Box::pin(async move {
                let mut answer = server.default_answer(&seen);
                match &*what {
                    "initialize" => {
                        tokio::time::sleep(seconds(takes[0])).await;
                        let body = std::mem::replace(answer.body_mut(), full(""));
                        let (feeder, feed) = feed();
                        tokio::spawn(async move {
                            let body = body.collect().await.unwrap();
                            tokio::time::sleep(seconds(takes[1])).await;
                            feeder.data(body.to_bytes());
                        });
                        *answer.body_mut() = BodyExt::boxed(feed);
                    }
                    "notifications/initialized" => tokio::time::sleep(seconds(takes[2])).await,
                    _ => {}
                }
                Ok(answer)
            }))
        });
        let started = Instant::now();

        // when a request finds the session dead,
        let answer = scene.call(1).await;

        // then it has its own 404 when the time is up, and no session is left on the server.
        assert_eq!(
            (answer.status, failure(&answer)),
            (404, Some(Failure::TimedOut)),
            "{takes:?}"
        );
        assert_eq!(started.elapsed(), seconds(limit.unwrap_or(10)), "{takes:?}");
        settle().await;
        assert_eq!(
            scene.server.count("DELETE"),
            usize::from(ended),
            "{takes:?}"
        );
        assert_eq!(
            calls_outside(&scene.server, &scene.session),
            [0; 0],
            "{takes:?}"
        );
        if ended {
            assert_eq!(scene.server.live(), [""; 0], "{takes:?}");
        }
    }
}

/// E10: state that is not restored in time costs the state, not the session.
#[tokio::test(start_paused = true)]
async fn e10_a_server_that_never_answers_the_restoring_of_state_delays_the_caller_no_longer_than_that()
 {
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let scene = live(layer).await;
    scene.send(post(Some(&scene.session), &set_level())).await;
    scene.server.restart();
    let _never = hold(&scene.server, "logging/setLevel");
    let started = Instant::now();
    let answer = scene.call(1).await;
    assert_eq!(
        (echoed(&answer), answer.outcome()),
        (1, Some(Outcome::Replayed))
    );
    assert!(started.elapsed() <= Duration::from_secs(10));
    assert_eq!(events.all()[0].not_restored(), ["logging/setLevel"]);
}
