//! Rules I2, N1 and N5: sessions that have made room, and wait to be written.

use std::time::Duration;

use mcp_session_recovery::Sessions;
use testing::mocked::*;
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
};

/// A session that the store holds, in a process with room for so many that has a way of its own to it.
async fn stored(room: usize) -> (FaultyStore, FaultyStore, Scene) {
    let store = FaultyStore::new();
    let own = store.another_way();
    let scene = live(own.layer().max_sessions(room)).await;
    settle().await;
    (store, own, scene)
}

fn subscribe(scene: &Scene, what: &str) -> http::Request<CallerBody> {
    let change = change("resources/subscribe", what);
    post(Some(&scene.session), &change)
}

/// I3: also where the store hears of nothing until the recovery is over.
#[tokio::test(start_paused = true)]
async fn n5_i3_what_made_room_while_it_was_recovered_is_written_when_the_store_is_back() {
    // Given a session that is being recovered, and that no store has ever heard of,
    let store = FaultyStore::new();
    store.set(Mode::Down);
    let scene = live(store.layer().max_sessions(1)).await;
    scene.server.restart();
    let gate = hold(&scene.server, "notifications/initialized");
    let call = scene.spawn_call(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // when another takes its place, so that nothing comes of the recovery,
    scene.send(post(None, &initialize())).await;
    gate.open();
    soon(call).await.unwrap();
    // then the next process knows it, once the store is back.
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let next = scene.in_another_process(store.layer());
    assert_eq!(echoed(&next.call(2).await), 2);
}

/// I3, N3: a session that is forgotten since too many wait, between its recovery's proposal and the word
/// that the store has it, and is found again meanwhile.
#[tokio::test(start_paused = true)]
async fn n3_i3_what_the_store_has_of_a_recovery_is_not_ended_whatever_becomes_of_the_session() {
    for waiting in [1, 258] {
        // Given so many sessions that wait for another store, and one with a change under way that is
        // being recovered, and whose store has that already and is slow to say so,
        let sessions = Sessions::new();
        let (away, store) = (FaultyStore::new(), FaultyStore::new());
        away.set(Mode::Down);
        let layer = |store: &FaultyStore| {
            let layer = store.layer().sessions(sessions.clone()).max_sessions(1);
            layer.store_timeout(Duration::from_secs(10))
        };
        let others = live(layer(&away)).await;
        for _ in 1..waiting {
            handshake(&others.client).await;
        }
        let mut scene = others.in_another_process(layer(&store));
        scene.session = handshake(&scene.client).await;
        settle().await;
        let gate = hold_answer(&scene.server, "resources/subscribe");
        let changing = scene.spawn(subscribe(&scene, "file:///a"));
        settle().await;
        scene.server.restart();
        store.set(Mode::Late(Duration::from_secs(3)));
        let call = scene.spawn_call(1);
        tokio::time::sleep(Duration::from_secs(4)).await;
        // when there is one more session, and the change is made, too,
        handshake(&others.client).await;
        let is_forgotten = waiting > 1;
        let status = if is_forgotten { 404 } else { 200 };
        assert_eq!(soon(call).await.unwrap().status, status);
        store.set(Mode::Works);
        gate.open();
        assert_eq!(soon(changing).await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // then the next process goes on in what the recovery made.
        let next = scene.in_another_process(store.layer());
        assert_eq!(next.call(2).await.outcome(), None, "{waiting}");
        assert_eq!(scene.server.count("DELETE"), 0, "{waiting}");
        assert_eq!(scene.server.live().len(), 2, "{waiting}");
    }
}

/// Six sessions that have moved on while the store was away, in a process with room for no more. That
/// is back for longer than it takes to be sure, and slow, so that it does not know all of them yet.
async fn being_written() -> (FaultyStore, Scene, Vec<String>) {
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(6)).await;
    let mut sessions = vec![scene.session.clone()];
    for _ in 1..6 {
        sessions.push(handshake(&scene.client).await);
    }
    settle().await;
    store.set(Mode::Down);
    scene.server.restart();
    for session in &sessions {
        let call = post(Some(session), &tool_call(1));
        assert_eq!(echoed(&scene.send(call).await), 1);
    }
    store.set(Mode::Slow(Duration::from_secs(3)));
    tokio::time::sleep(Duration::from_secs(13)).await;
    (store, scene, sessions)
}

/// I2: what is written soon is somebody's to go on in, also if it takes a store long to be through.
#[tokio::test(start_paused = true)]
async fn i2_n5_what_waits_for_its_turn_to_be_written_is_not_ended() {
    // Given sessions that are about to be written,
    let (store, scene, sessions) = being_written().await;
    let made = scene.server.live();
    // when others take their places,
    for _ in 0..6 {
        handshake(&scene.client).await;
    }
    settle().await;
    // then none of them is ended, and each is gone on in by the next process.
    assert_eq!(scene.server.count("DELETE"), 0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.set(Mode::Works);
    let next = scene.in_another_process(store.layer());
    for session in &sessions {
        let call = post(Some(session), &tool_call(2));
        assert_eq!(echoed(&next.send(call).await), 2);
        let seen = scene.server.last("tools/call");
        assert!(made.iter().any(|it| seen.session() == Some(it)));
    }
}

/// I2, K9: nobody can go on with what is too large for a record, however much is to be written of it.
#[tokio::test(start_paused = true)]
async fn i2_n5_what_no_store_takes_is_ended_when_it_makes_room() {
    // Given a session that no store takes, and that has moved on,
    let store = FaultyStore::new();
    let layer = store.layer().max_sessions(2);
    let layer = layer
        .max_initialize_bytes(usize::MAX)
        .max_body_bytes(usize::MAX);
    let other = live(layer).await;
    let mut large = initialize();
    large["params"]["clientInfo"]["title"] = "x".repeat(2 * 1024 * 1024).into();
    let made = other.send(post(None, &large)).await;
    let scene = Scene {
        session: made.session().unwrap().to_owned(),
        client: other.client.clone(),
        server: other.server.clone(),
    };
    scene.server.restart();
    for scene in [&other, &scene] {
        assert_eq!(echoed(&scene.call(1).await), 1);
    }
    settle().await;
    let made = scene
        .server
        .last("tools/call")
        .session()
        .unwrap()
        .to_owned();
    // with a change that waits for what is written before it,
    let gate = hold(&scene.server, "resources/subscribe");
    let changing = scene.spawn(subscribe(&scene, "file:///a"));
    settle().await;
    store.set(Mode::Hangs);
    other.send(post(Some(&other.session), &set_level())).await;
    settle().await;
    gate.open();
    assert_eq!(soon(changing).await.unwrap().status, 200);
    // when another takes its place, then it is ended.
    handshake(&scene.client).await;
    settle().await;
    assert!(!scene.server.live().contains(&made));
}

/// I2, N5: it stays, and is tried again and again.
#[tokio::test(start_paused = true)]
async fn i2_n5_what_has_made_room_is_tried_at_the_writers_pace() {
    let refuses = Mode::Refuses(Duration::from_millis(200));
    for mode in [Mode::Down, refuses] {
        // Given a session that has moved on without the store,
        let (store, own, scene) = stored(1).await;
        own.set(mode);
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        // when another takes its place, and the store stays away,
        handshake(&scene.client).await;
        let saves = own.saves();
        tokio::time::sleep(Duration::from_secs(60)).await;
        // then it and the other are tried to be written after longer and longer pauses,
        let tried = own.saves() - saves;
        assert!(tried < 2 * 14, "{mode:?}: {tried}");
        // until they are.
        own.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(store.len(), 2, "{mode:?}");
        assert_eq!(scene.server.count("DELETE"), 0, "{mode:?}");
    }
}

/// I2, H1: each of many that wait.
#[tokio::test(start_paused = true)]
async fn n1_h1_all_that_have_made_room_are_found_again_with_what_was_not_written_of_them() {
    // Given sessions that have made room, each with a change of which the store could not be told,
    let (_, own, scene) = stored(1).await;
    let mut sessions = vec![scene.session.clone()];
    for _ in 0..2 {
        sessions.push(handshake(&scene.client).await);
        settle().await;
    }
    let scenes: Vec<_> = sessions
        .into_iter()
        .map(|session| Scene {
            session,
            client: scene.client.clone(),
            server: scene.server.clone(),
        })
        .collect();
    own.set(Mode::Full);
    for scene in &scenes {
        let answer = scene.send(subscribe(scene, "file:///a")).await;
        assert_eq!(answer.status, 200);
    }
    handshake(&scene.client).await;
    own.set(Mode::Down);
    // when they are found again, and recovered at once,
    scene.server.restart();
    for scene in &scenes {
        assert_eq!(echoed(&scene.call(1).await), 1);
        // then the change is there.
        let session = scene
            .server
            .last("tools/call")
            .session()
            .unwrap()
            .to_owned();
        assert_eq!(scene.server.subscriptions(&session), ["file:///a"]);
    }
}

/// H1, N3: what others have changed since is not written over.
#[tokio::test(start_paused = true)]
async fn n3_h1_what_is_found_again_is_written_into_what_others_have_changed() {
    // Given a session that has made room, with a change of which the store could not be told,
    let (store, own, scene) = stored(1).await;
    own.set(Mode::Down);
    scene.send(subscribe(&scene, "file:///a")).await;
    handshake(&scene.client).await;
    // and another process that has changed it, too,
    let other = scene.in_another_process(store.layer());
    other.send(subscribe(&scene, "file:///b")).await;
    settle().await;
    // when it is found again, and written,
    assert_eq!(echoed(&scene.call(1).await), 1);
    own.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    // then both changes are there for whoever recovers it.
    scene.server.restart();
    let next = scene.in_another_process(store.layer());
    assert_eq!(echoed(&next.call(2).await), 2);
    let live = scene.server.live();
    let kept = scene.server.subscriptions(&live[0]);
    assert_eq!(kept, ["file:///a", "file:///b"]);
}

/// H1: also by a process that has only read it so far.
#[tokio::test(start_paused = true)]
async fn n3_h1_what_was_found_is_written_into_what_others_have_changed() {
    // Given a process that has found a session, and can write nothing of it,
    let store = FaultyStore::new();
    let own = store.another_way();
    own.set(Mode::Full);
    let other = live(store.layer()).await;
    settle().await;
    let scene = other.in_another_process(own.layer());
    scene.send(subscribe(&scene, "file:///a")).await;
    // when it can, after another has changed it,
    other.send(subscribe(&other, "file:///b")).await;
    settle().await;
    own.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    // then both changes are there for whoever recovers it.
    other.server.restart();
    let next = other.in_another_process(store.layer());
    assert_eq!(echoed(&next.call(1).await), 1);
    let live = other.server.live();
    let kept = other.server.subscriptions(&live[0]);
    assert_eq!(kept, ["file:///a", "file:///b"]);
}

/// I2, N3: what another process has gone on from is looked at once, and not again and again.
#[tokio::test(start_paused = true)]
async fn n3_i2_what_has_made_room_gives_way_to_what_the_store_holds() {
    // Given a session that has moved on without the store, and then in another process with it,
    let (store, own, scene) = stored(1).await;
    let other = scene.in_another_process(store.layer());
    own.set(Mode::Down);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    assert_eq!(echoed(&other.call(2).await), 2);
    let agreed = scene
        .server
        .last("tools/call")
        .session()
        .unwrap()
        .to_owned();
    // when another takes its place, and the store is back,
    let another = handshake(&scene.client).await;
    own.set(Mode::Works);
    let before = own.saves();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // then the store is told of it once, and what is left is what the store holds.
    let told = own.saves() - before;
    assert!(told < 6, "{told}");
    let live = scene.server.live();
    assert!(live.len() == 2 && live.contains(&another) && live.contains(&agreed));
}
