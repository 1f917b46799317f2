//! Rules E1 to E4: one recovery, whoever finds out, waits or gives up.

use std::{
    cell::Cell,
    sync::{Arc, Once},
    time::Duration,
};

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::mocked::*;
use testing::*;
use tokio::sync::Barrier;
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt};
use tower_test::mock;

/// E1.
#[tokio::test(start_paused = true)]
async fn e1_64_requests_that_find_the_session_dead_at_once_make_one_handshake() {
    // Given a server that has forgotten the session, and says so to nobody before all have asked,
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let scene = lost(layer).await;
    let (barrier, server) = (Arc::new(Barrier::new(64)), scene.server.clone());
    scene.server.on_async({
        let session = scene.session.clone();
        move |seen| {
            let (barrier, server, seen) = (barrier.clone(), server.clone(), seen.clone());
            (seen.session() == Some(&session)).then(|| -> Answering {
                Box::pin(async move {
                    barrier.wait().await;
                    Ok(server.default_answer(&seen))
                })
            })
        }
    });

    // when 64 calls are made at once,
    let calls: Vec<_> = (0..64).map(|n| scene.spawn_call(n)).collect();
    let answers = join(calls).await;

    // then there is one handshake, each is sent once more, and each gets its own answer.
    assert!(answers.iter().map(echoed).eq(0..64));
    assert!(
        answers
            .iter()
            .all(|answer| answer.outcome() == Some(Outcome::Replayed))
    );
    assert_eq!(scene.server.count("initialize"), 2);
    assert_eq!(scene.server.count("notifications/initialized"), 2);
    assert_eq!(scene.server.count("tools/call"), 128);
    assert!(
        calls_outside(&scene.server, &scene.session)
            .into_iter()
            .eq(0..64)
    );
    let events = events.all();
    assert_eq!((events.len(), events[0].waited()), (1, 64));
}

/// E1: clients reconnect their streams as they call, so the first to find out is any of them.
#[tokio::test(start_paused = true)]
async fn e1_streams_and_calls_that_find_the_session_dead_share_the_handshake() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    let requests = [
        get(&scene.session, None),
        post(Some(&scene.session), &tool_call(1)),
        get(&scene.session, None),
        post(
            Some(&scene.session),
            &json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
        ),
    ];
    let client = &scene.client;
    let heads = soon(futures::future::join_all(
        requests.map(|request| client.clone().oneshot(request)),
    ))
    .await;
    let statuses: Vec<_> = heads
        .iter()
        .map(|head| head.as_ref().unwrap().status().as_u16())
        .collect();
    assert_eq!(statuses, [200, 200, 200, 202]);
    assert_eq!(scene.server.count("initialize"), 2);
}

/// E1: one for each epoch, not one for ever; and none for an epoch that is replaced already.
#[tokio::test(start_paused = true)]
async fn e1_each_epoch_has_its_own_recovery_and_a_late_404_has_none() {
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let scene = live(layer).await;
    for epoch in 1..=5 {
        scene.server.restart();
        // Given a request whose 404 is long on its way,
        let gate = hold(&scene.server, "tools/call");
        let late = scene.spawn_call(1);
        settle().await;

        // when others have found the session dead before,
        let first = scene.send(post(Some(&scene.session), &ping(2))).await;
        assert_eq!(first.recovery.unwrap().epoch(), epoch);
        gate.open();

        // then it is sent again in the session that there is by now.
        let late = join([late]).await.remove(0);
        assert_eq!((echoed(&late), late.recovery.unwrap().epoch()), (1, epoch));
        assert_eq!(scene.server.count("initialize") as u64, epoch + 1);
    }
    assert_eq!(
        events
            .all()
            .iter()
            .map(|event| event.epoch())
            .collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
}

/// E1: nobody is forgotten and nobody wakes too late, on any number of threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e1_on_many_threads_every_call_is_answered_and_every_restart_costs_one_handshake() {
    let scene = Arc::new(live(SessionRecoveryLayer::new()).await);
    for round in 1..=20 {
        scene.server.restart();
        let calls: Vec<_> = (0..64).map(|n| scene.spawn_call(n)).collect();
        assert!(join(calls).await.iter().map(echoed).eq(0..64));
        assert_eq!(scene.server.count("initialize"), 1 + round);
    }
}

/// E2.
#[tokio::test(start_paused = true)]
async fn e2_a_leader_that_gives_up_neither_stops_the_recovery_nor_harms_those_who_wait() {
    // Given a recovery under way, others that found the session dead, and others that came later,
    let scene = lost(SessionRecoveryLayer::new()).await;
    let dead = hold(&scene.server, "tools/call");
    let joining: Vec<_> = (10..13).map(|n| scene.spawn_call(n)).collect();
    settle().await;
    let gate = hold(&scene.server, "initialize");
    let leader = scene.spawn(post(Some(&scene.session), &ping(9)));
    settle().await;
    dead.open();
    settle().await;
    let waiting: Vec<_> = (20..23).map(|n| scene.spawn_call(n)).collect();
    settle().await;

    // when the one that started it is dropped,
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    settle().await;
    gate.open();

    // then the others are served as if it had stayed.
    let joining = join(joining).await;
    assert!(joining.iter().map(echoed).eq(10..13));
    assert!(
        joining
            .iter()
            .all(|answer| answer.outcome() == Some(Outcome::Replayed))
    );
    let waiting = join(waiting).await;
    assert!(waiting.iter().map(echoed).eq(20..23));
    assert!(
        waiting
            .iter()
            .all(|answer| answer.outcome() == Some(Outcome::Waited))
    );
    assert_eq!(scene.server.count("initialize"), 2);
}

/// E2.
#[tokio::test(start_paused = true)]
async fn e2_a_recovery_that_everybody_has_given_up_on_still_ends() {
    for held in ["initialize", "notifications/initialized"] {
        // Given a recovery under way for one that found the session dead and one that came later,
        let (layer, events) = Events::of(SessionRecoveryLayer::new());
        let scene = lost(layer).await;
        let gate = hold(&scene.server, held);
        let tasks = [scene.spawn_call(1), {
            settle().await;
            scene.spawn_call(2)
        }];
        settle().await;

        // when both are dropped,
        tasks.iter().for_each(|task| task.abort());
        settle().await;
        gate.open();
        settle().await;

        // then the new session is there for whoever comes next, and nothing of theirs is sent.
        assert_eq!(events.outcomes(), [Ok(())], "{held}");
        let answer = scene.call(3).await;
        assert_eq!((echoed(&answer), answer.recovery), (3, None), "{held}");
        assert_eq!(calls_outside(&scene.server, &scene.session), [3], "{held}");
        assert_eq!(scene.server.count("initialize"), 2, "{held}");
    }
}

/// E2: wherever it stops, it leaves nothing that would keep the next one waiting.
#[tokio::test(start_paused = true)]
async fn e2_a_caller_may_give_up_at_any_step() {
    let mut steps = 0;
    for polls in 1.. {
        // Given a server that takes a while for everything,
        let scene = lost(SessionRecoveryLayer::new()).await;
        let server = scene.server.clone();
        scene.server.on_async(move |seen| {
            let (server, seen) = (server.clone(), seen.clone());
            Some(Box::pin(async move {
                settle().await;
                Ok(server.default_answer(&seen))
            }))
        });

        // when a caller gives up after so many polls,
        let mut call = scene.poll_by_hand(post(Some(&scene.session), &tool_call(1)));
        let mut done = false;
        for _ in 0..polls {
            done = call.poll().is_ready();
            if done {
                break;
            }
            soon(async {
                while !call.is_woken() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
        }
        drop(call);

        // then the next one is served, and there was one handshake.
        let next = scene.call(2).await;
        assert_eq!(echoed(&next), 2, "after {polls} polls");
        assert_eq!(scene.server.count("initialize"), 2, "after {polls} polls");
        if done {
            break;
        }
        steps = polls;
    }
    assert!(steps >= 3, "{steps} steps");
}

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Notes panics of this thread, those too that tokio catches.
fn watch_for_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = PANICKED.try_with(|panicked| panicked.set(true));
            before(info);
        }));
    });
}

/// E2: a task can be stopped by its runtime, whatever step it is at.
#[test]
fn e2_a_runtime_that_shuts_down_in_the_middle_fails_the_recovery_and_nobody_hangs() {
    watch_for_panics();
    for held in [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
    ] {
        // Given a recovery that runs in one runtime, and those who wait for it,
        let first = runtime();
        let (scene, gate, waiting) = first.block_on(async {
            let scene = lost_with_a_log_level().await;
            let gate = hold(&scene.server, held);
            let call = |n| scene.poll_by_hand(post(Some(&scene.session), &tool_call(n)));
            let mut waiting = [call(1), call(2)];
            for call in &mut waiting {
                assert_pending!(call.poll());
                settle().await;
                assert_pending!(call.poll());
            }
            tokio::spawn(call(3).into_inner());
            settle().await;
            assert_eq!(scene.server.log().last().unwrap(), held);
            (scene, gate, waiting)
        });

        // when that runtime is shut down,
        drop(first);

        // then they are woken and go on wherever they are polled: one with the 404 that it has,
        // one with the 404 that it gets.
        assert!(!PANICKED.get(), "{held}");
        assert!(waiting.iter().all(task::Spawn::is_woken), "{held}");
        runtime().block_on(async {
            for call in waiting {
                let answer = read(soon(call).await.unwrap()).await;
                let got = (answer.status, failure(&answer));
                assert_eq!(got, (404, Some(Failure::Cancelled)), "{held}");
            }
            // The session recovers in the runtime that there is.
            gate.open();
            tokio::time::advance(Duration::from_millis(100)).await;
            let answer = scene.call(4).await;
            assert_eq!(
                (echoed(&answer), answer.outcome()),
                (4, Some(Outcome::Replayed))
            );
        });
        assert!(!PANICKED.get(), "{held}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// A session that the server has forgotten, log level and all. Without a mock, which would need a
/// runtime of its own.
async fn lost_with_a_log_level() -> Scene<Client> {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let scene = Scene {
        server,
        client,
        session,
    };
    assert_eq!(
        scene
            .send(post(Some(&scene.session), &set_level()))
            .await
            .status,
        200
    );
    scene.server.restart();
    scene
}

/// E3.
#[tokio::test(start_paused = true)]
async fn e3_requests_that_arrive_during_a_recovery_wait_for_it_and_are_sent_once() {
    // Given a recovery under way,
    let scene = lost(SessionRecoveryLayer::new()).await;
    let (gate, trigger) = scene.recovering().await;
    let before = scene.server.log();

    // when more requests arrive,
    let calls: Vec<_> = (2..20).map(|n| scene.spawn_call(n)).collect();
    let mut stream = scene.poll_by_hand(get(&scene.session, None));
    assert_pending!(stream.poll());
    settle().await;

    // then none of them is sent to the dead session,
    assert_eq!(scene.server.log(), before);
    // and all of them, once, to the new one.
    gate.open();
    let calls = join(calls).await;
    assert!(calls.iter().map(echoed).eq(2..20));
    assert!(
        calls
            .iter()
            .all(|answer| answer.outcome() == Some(Outcome::Waited))
    );
    assert!(
        calls
            .iter()
            .all(|answer| answer.session() == Some(&*scene.session))
    );
    assert_eq!(soon(stream).await.unwrap().status(), 200);
    assert_eq!(echoed(&join([trigger]).await[0]), 1);
    assert!(
        calls_outside(&scene.server, &scene.session)
            .into_iter()
            .eq(1..20)
    );
    assert_eq!(scene.server.count("tools/call"), 20);
    assert_eq!(
        (scene.server.count("GET"), scene.server.count("initialize")),
        (1, 2)
    );
}

/// E3: that a request was under way before the recovery began makes no difference, if its body was
/// not.
#[tokio::test(start_paused = true)]
async fn e3_a_request_whose_body_comes_during_a_recovery_waits_like_any_other() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    let (feeder, fed) = feed();
    let late = scene.spawn(posting(&scene.session, fed));
    settle().await;
    let (gate, trigger) = scene.recovering().await;
    feeder.data(tool_call(2).to_string());
    drop(feeder);
    settle().await;
    assert_eq!(scene.server.count("tools/call"), 1);
    gate.open();
    let answers = join([trigger, late]).await;
    assert_eq!(
        (echoed(&answers[1]), answers[1].outcome()),
        (2, Some(Outcome::Waited))
    );
    assert_eq!(calls_outside(&scene.server, &scene.session), [1, 2]);
    assert_eq!(scene.server.count("tools/call"), 3);
}

/// E4: one step at a time, each through a service that was made ready for it.
#[tokio::test(start_paused = true)]
async fn e4_each_step_of_a_recovery_waits_until_the_inner_service_is_ready() {
    // Given an inner service that is ready for one request at a time, when it is told to,
    let (service, mut inner) = mock::pair::<Sent, Reply>();
    let server = Server::new(Profile::TypeScript);
    let client = SessionRecoveryLayer::new().layer(service);
    inner.allow(0);
    let mut step = async |what: &str| {
        settle().await;
        assert!(
            inner.poll_request().is_pending(),
            "{what} was sent too early"
        );
        inner.allow(1);
        let (request, answer) = soon(inner.next_request()).await.unwrap();
        answer.send_response(server.service().oneshot(request).await.unwrap());
        assert_eq!(server.log().last().unwrap(), what);
    };

    // when a session dies,
    let ours = client.clone();
    let opening = tokio::spawn(async move { handshake(&ours).await });
    step("initialize").await;
    step("notifications/initialized").await;
    let session = opening.await.unwrap();
    let (ours, id) = (client.clone(), session.clone());
    let set_level = tokio::spawn(async move { send(&ours, post(Some(&id), &set_level())).await });
    step("logging/setLevel").await;
    set_level.await.unwrap();
    server.restart();
    let call =
        tokio::spawn(async move { send(&client, post(Some(&session), &tool_call(1))).await });

    // then no step is taken before the service is ready for it.
    for what in [
        "tools/call",
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "tools/call",
    ] {
        step(what).await;
    }
    assert_eq!(echoed(&join([call]).await[0]), 1);
}
