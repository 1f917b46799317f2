//! Rules K2, I2, N1, N5 and N6: services of one process that share their sessions, with and without a
//! store.

use std::time::Duration;

use mcp_session_recovery::{SessionRecoveryLayer, Sessions};
use testing::mocked::*;
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
};

/// N1: without a store nothing is different.
#[tokio::test(start_paused = true)]
async fn k2_n1_a_flush_where_there_is_no_store_keeps_no_session_from_making_room() {
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().max_sessions(1);
    let scene = live(layer.sessions(sessions.clone())).await;
    let mut session = scene.session.clone();
    for _ in 0..3 {
        // Given a session that has moved on, and has been changed after a flush,
        scene.server.restart();
        let call = post(Some(&session), &tool_call(1));
        assert_eq!(echoed(&scene.send(call).await), 1);
        sessions.flush().await.unwrap();
        let subscribe = change("resources/subscribe", "file:///a");
        scene.send(post(Some(&session), &subscribe)).await;
        // when another takes its place, then it is ended.
        session = handshake(&scene.client).await;
        settle().await;
        assert_eq!(sessions.len(), 1);
        assert_eq!(scene.server.live(), [session.clone()]);
    }
}

/// N1, I2.
#[tokio::test(start_paused = true)]
async fn i2_n1_what_a_store_holds_is_not_ended_to_make_room_for_another_services_session() {
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    // Given a session that has moved on, and is stored,
    let scene = lost(store.layer().sessions(sessions.clone()).max_sessions(1)).await;
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    // when one of a service without a store takes its place,
    let layer = SessionRecoveryLayer::new().max_sessions(1);
    let other = scene.in_another_process(layer.sessions(sessions));
    handshake(&other.client).await;
    settle().await;
    // then it goes on.
    assert_eq!(scene.server.count("DELETE"), 0);
    assert_eq!(scene.call(2).await.outcome(), None);
}

/// I1.
#[tokio::test(start_paused = true)]
async fn n6_a_session_ends_in_every_store_whichever_service_it_is_ended_through() {
    for stores in [0, 1, 2] {
        // Given a session in a store, and another service of its sessions, with none, or one of its own,
        let store = FaultyStore::new();
        let other = FaultyStore::new();
        let sessions = Sessions::new();
        let scene = live(store.layer().sessions(sessions.clone())).await;
        settle().await;
        let layer = match stores {
            0 => SessionRecoveryLayer::new(),
            1 => store.layer(),
            _ => other.layer(),
        };
        let ending = scene.in_another_process(layer.sessions(sessions));
        assert_eq!(echoed(&ending.call(1).await), 1);
        settle().await;
        // when it is ended through that, then it is nowhere any more.
        assert_eq!(ending.send(delete(&scene.session)).await.status, 200);
        settle().await;
        for store in [&store, &other] {
            let values = store.values().await;
            let left = values.iter().any(|it| it.contains("initialize"));
            assert!(!left, "{stores}");
        }
        assert_eq!(scene.call(2).await.status, 404);
    }
}

/// N1: what waits for the writer of a service whose runtime has ended is written by way of another.
#[test]
fn n5_a_service_whose_runtime_has_ended_keeps_no_other_from_writing() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    // Given a session that was to be written by a service whose runtime has ended,
    store.set(Mode::Down);
    let first = runtime();
    let server = Server::new(Profile::TypeScript);
    let layer = store.layer().sessions(sessions.clone());
    let ended = client(&server, layer.clone());
    let session = first.block_on(handshake(&ended));
    drop(first);
    // when it changes by way of another service, and the store is back,
    store.set(Mode::Works);
    runtime().block_on(async {
        let client = client(&server, layer);
        let subscribe = change("resources/subscribe", "file:///a");
        let answer = send(&client, post(Some(&session), &subscribe)).await;
        assert_eq!(answer.status, 200);
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    // then it is written.
    assert_eq!(store.len(), 1);
    drop(ended);
}

/// N3, H1: what the store turns out to have otherwise is seen to by any of them.
#[tokio::test(start_paused = true)]
async fn n6_n3_a_service_that_has_recorded_no_session_sees_to_what_its_store_holds() {
    for is_ended in [true, false] {
        // Given a session that one service has recorded, and another process has gone on with,
        let store = FaultyStore::new();
        let own = store.another_way();
        let sessions = Sessions::new();
        let first = live(own.layer().sessions(sessions.clone())).await;
        settle().await;
        let scene = first.in_another_process(own.layer().sessions(sessions));
        let other = first.in_another_process(store.layer());
        assert_eq!(echoed(&other.call(1).await), 1);
        settle().await;
        if !is_ended {
            own.set(Mode::Down);
        }
        scene.server.restart();
        assert_eq!(echoed(&other.call(2).await), 2);
        settle().await;
        if is_ended {
            // when another service is told to end it, then it ends there, too.
            assert_eq!(scene.send(delete(&scene.session)).await.status, 404);
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(scene.server.live().is_empty());
            continue;
        }
        // when another service has gone on by itself, and changed it, and the store is back,
        assert_eq!(echoed(&scene.call(3).await), 3);
        let subscribe = change("resources/subscribe", "file:///a");
        scene.send(post(Some(&scene.session), &subscribe)).await;
        own.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(100)).await;
        // then they are in one session, which has that.
        let live = scene.server.live();
        assert_eq!(live.len(), 1);
        assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
    }
}

/// D4, N3, H1: also where it is the writer of a service that only watches which finds that out.
#[tokio::test(start_paused = true)]
async fn n3_d4_what_a_service_that_only_watches_writes_gives_way_by_way_of_another() {
    for is_ended in [false, true] {
        // Given two services of one process, one of which only watches, and has something to write,
        let store = FaultyStore::new();
        let own = store.another_way();
        let sessions = Sessions::new();
        let layer = own.layer().sessions(sessions);
        let scene = live(layer.clone()).await;
        settle().await;
        let watching = scene.in_another_process(layer.reinitialize(false));
        let other = scene.in_another_process(store.layer());
        own.set(Mode::Down);
        let subscribe = change("resources/subscribe", "file:///a");
        watching.send(post(Some(&scene.session), &subscribe)).await;
        // when the session moves on by itself, and ends or moves on in another process,
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        assert_eq!(echoed(&other.call(2).await), 2);
        settle().await;
        if is_ended {
            assert_eq!(other.send(delete(&scene.session)).await.status, 200);
        }
        own.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(50)).await;
        // then they are in one session, which has that, or in none.
        let live = scene.server.live();
        assert_eq!(live.len(), usize::from(!is_ended), "ended: {is_ended}");
        for session in live {
            assert_eq!(scene.server.subscriptions(&session), ["file:///a"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn n1_n3_what_a_service_without_a_store_recovers_is_told_to_the_store_of_the_table() {
    // Given two services that share their sessions, of which one has a store,
    let (server, store) = (Server::new(Profile::TypeScriptJson), FaultyStore::new());
    let table = Sessions::new();
    let with = client(&server, store.layer().sessions(table.clone()));
    let without = client(&server, SessionRecoveryLayer::new().sessions(table.clone()));
    let session = handshake(&with).await;
    table.flush().await.unwrap();
    // when the other one recovers a session,
    server.restart();
    let answer = send(&without, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.status, 200);
    table.flush().await.unwrap();
    // then the next process goes on in that.
    let next = client(&server, store.layer());
    let answer = send(&next, post(Some(&session), &tool_call(2))).await;
    assert_eq!((answer.status, answer.outcome()), (200, None));
    assert_eq!(server.count("initialize"), 2);
}
