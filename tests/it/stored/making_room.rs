//! Rules I2, I3 and N1: what becomes of sessions that the table has no room for, or has forgotten.

use std::time::Duration;

use mcp_session_recovery::{Outcome, Sessions};
use serde_json::json;
use testing::mocked::*;
use testing::scenario::slow;
use testing::streams::{Stream, feed_all};
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    outliving::restarted,
};

/// How many sessions that make room may wait for a store.
const WAITING: usize = 256;

/// I2: whoever has it may go on with it, once the store does.
#[tokio::test(start_paused = true)]
async fn i2_n1_a_session_goes_on_in_the_store_when_the_table_is_full() {
    for mode in [Mode::Works, Mode::Down, Mode::Hangs, Mode::Full] {
        // Given a session that has moved on, of which the store knows or cannot be told,
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(1)).await;
        settle().await;
        store.set(mode);
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        settle().await;
        // when another takes its place in the table, then it is not ended, but goes on,
        handshake(&scene.client).await;
        settle().await;
        assert_eq!(scene.call(2).await.outcome(), None, "{mode:?}");
        // for the next process, too, when the store is back.
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let scene = restarted(scene, &store);
        assert_eq!(scene.call(3).await.outcome(), None, "{mode:?}");
        assert_eq!(scene.server.count("DELETE"), 0, "{mode:?}");
        assert_eq!(scene.server.count("initialize"), 3, "{mode:?}");
    }
}

/// I2, K2: so many are there beyond the limit.
#[tokio::test(start_paused = true)]
async fn k_n5_so_many_sessions_wait_for_a_store_beyond_the_limit_of_the_table() {
    // Given as many sessions as may wait for a store that is away, and one for which there is room, which
    // has moved on,
    let store = FaultyStore::new();
    store.set(Mode::Down);
    let sessions = Sessions::new();
    let scene = live(store.layer().max_sessions(1).sessions(sessions.clone())).await;
    let mut last = String::new();
    for _ in 0..WAITING {
        last = handshake(&scene.client).await;
    }
    let known = scene.server.live().len();
    scene.server.restart();
    let call = |id: u64| scene.send(post(Some(&last), &tool_call(id)));
    assert_eq!(echoed(&call(1).await), 1);
    assert_eq!(sessions.len(), 1);
    // when there is another, then that makes room for it, and is ended.
    handshake(&scene.client).await;
    settle().await;
    assert_eq!((known, sessions.len()), (WAITING + 1, 1));
    assert_eq!(scene.server.count("DELETE"), 1);
    assert_eq!(call(2).await.status, 404);
    // Those that wait go on.
    assert_eq!(echoed(&scene.call(3).await), 3);

    // When they have been written, they make room, but for one that has been used since.
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(sessions.len(), 1);
    let loads = store.loads();
    assert_eq!(scene.call(4).await.outcome(), None);
    assert_eq!(store.loads(), loads);
    assert_eq!(scene.server.count("DELETE"), 1);
}

/// I2, G6: what has made room while it was in use, and is found again, is as it was before.
#[tokio::test(start_paused = true)]
async fn i2_n1_what_is_under_way_in_a_session_that_is_found_again_is_not_lost() {
    for is_found in [false, true] {
        // Given as many sessions as may wait for a store that is away, and one that has moved on since it was
        // written, with a call under way in it,
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(2)).await;
        settle().await;
        store.set(Mode::Down);
        for _ in 0..WAITING + 1 {
            handshake(&scene.client).await;
            assert_eq!(scene.call(0).await.outcome(), None);
        }
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        slow(&scene.server, "resources/read", Duration::from_secs(40));
        let read = json!({"jsonrpc": "2.0", "id": 2, "method": "resources/read"});
        let reading = scene.spawn(post(Some(&scene.session), &read));
        settle().await;
        // which makes room for others,
        for _ in 0..2 {
            handshake(&scene.client).await;
        }
        settle().await;
        // when the store is back, and it is found there or not,
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(5)).await;
        if is_found {
            assert_eq!(scene.call(3).await.outcome(), None);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        // then the call is answered, or told lost, and the session is left, or ended.
        let lost = (!is_found).then_some(Outcome::AnswerLost);
        assert_eq!(reading.await.unwrap().outcome(), lost);
        let deletes = scene.server.all("DELETE");
        let last = scene.server.last("resources/read");
        let own = deletes.iter().filter(|it| it.session() == last.session());
        assert_eq!(own.count(), usize::from(!is_found));
        if is_found {
            assert_eq!(scene.call(4).await.outcome(), None);
        }
    }
}

/// K2: those that are found make room for each other.
#[tokio::test(start_paused = true)]
async fn k2_n1_the_table_does_not_grow_beyond_its_limit_by_what_is_found() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    let mut callers = vec![scene.session.clone()];
    for _ in 0..4 {
        callers.push(handshake(&scene.client).await);
    }
    settle().await;
    let sessions = Sessions::new();
    let layer = store.layer().max_sessions(2).sessions(sessions.clone());
    let client = mocked(&scene.server, layer);
    for (number, session) in callers.iter().enumerate() {
        let call = post(Some(session), &tool_call(number as u64));
        assert_eq!(echoed(&send(&client, call).await), number as u64);
        assert_eq!(sessions.len(), 2.min(number + 1));
    }
}

/// I2: so may one that this process has found in the store, whether it can be written to or only read.
#[tokio::test(start_paused = true)]
async fn i2_n1_a_session_that_was_found_is_not_ended_when_the_table_is_full() {
    for mode in [Mode::Works, Mode::Full] {
        let store = FaultyStore::new();
        let scene = lost(store.layer()).await;
        assert_eq!(echoed(&scene.call(1).await), 1);
        settle().await;
        let own = store.another_way();
        own.set(mode);
        let scene = scene.in_another_process(own.layer().max_sessions(1));
        assert_eq!(echoed(&scene.call(2).await), 2);
        handshake(&scene.client).await;
        settle().await;
        assert_eq!(scene.server.count("DELETE"), 0, "{mode:?}");
    }
}

/// I3: nor is what a recovery made that the table has no more room for.
#[tokio::test(start_paused = true)]
async fn i3_n3_another_process_goes_on_in_what_a_recovery_made_for_a_session_without_room() {
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(1)).await;
    settle().await;
    scene.server.restart();
    // Given a recovery that has got as far as its last step,
    let gate = hold(&scene.server, "notifications/initialized");
    let call = scene.spawn_call(1);
    settle().await;
    // when another session takes the place of its own,
    send(&scene.client, post(None, &initialize())).await;
    gate.open();
    soon(call).await.unwrap();
    settle().await;
    // then what it made is there for the next process.
    assert_eq!(scene.server.count("DELETE"), 0);
    let scene = restarted(scene, &store);
    assert_eq!(echoed(&scene.call(2).await), 2);
    assert_eq!(scene.server.count("initialize"), 3);
}

/// I2.
#[tokio::test(start_paused = true)]
async fn n1_what_the_table_has_no_room_for_is_found_in_the_store() {
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, store.layer().max_sessions(1));
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(handshake(&client).await);
        settle().await;
    }
    server.restart();
    for round in 0..2 {
        for session in &sessions {
            let answer = send(&client, post(Some(session), &tool_call(round))).await;
            assert_eq!(echoed(&answer), round);
            settle().await;
        }
    }
    assert_eq!(server.live().len(), 3);
    assert_eq!(server.count("DELETE"), 0);
}

/// I3: the same while it is being recovered.
#[tokio::test(start_paused = true)]
async fn i3_n5_what_is_made_for_a_forgotten_session_is_ended_unless_the_store_holds_it() {
    for (mode, is_held) in [
        (Mode::Works, true),
        (Mode::Down, false),
        (Mode::Hangs, false),
    ] {
        let store = FaultyStore::new();
        let sessions = Sessions::new();
        let scene = lost(store.layer().sessions(sessions.clone())).await;
        settle().await;
        // Given a recovery that waits for its handshake,
        let (gate, call) = scene.recovering().await;
        // when all is forgotten, and the store holds what that has made or cannot be told of it,
        store.set(mode);
        sessions.forget_all();
        gate.open();
        join([call]).await;
        settle().await;
        // then that is there for the next request, or is ended.
        assert_eq!(scene.server.live().len(), usize::from(is_held), "{mode:?}");
        store.set(Mode::Works);
        assert_eq!(echoed(&scene.call(2).await), 2, "{mode:?}");
        let made = if is_held { 2 } else { 3 };
        assert_eq!(scene.server.count("initialize"), made, "{mode:?}");
    }
}

/// H1: what waited for the store when the session made room is written all the same.
#[tokio::test(start_paused = true)]
async fn n5_what_was_not_written_of_a_session_that_made_room_is_written_still() {
    // Given a session with a change of which the store could not be told,
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(1)).await;
    settle().await;
    store.set(Mode::Down);
    let subscribe = change("resources/subscribe", "file:///a");
    scene.send(post(Some(&scene.session), &subscribe)).await;
    settle().await;
    // when another takes its place, and the store is back,
    handshake(&scene.client).await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    // then the change is there for whoever finds it.
    let scene = restarted(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    let live = scene.server.live();
    assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
}

/// I2: before the store has heard of it at all.
#[tokio::test(start_paused = true)]
async fn n1_i2_a_session_that_makes_room_at_once_is_written_all_the_same() {
    for mode in [
        Mode::Works,
        Mode::Slow(Duration::from_millis(100)),
        Mode::Down,
    ] {
        // Given sessions each of which takes the place of the one before,
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(1)).await;
        store.set(mode);
        let mut sessions = vec![scene.session.clone()];
        for _ in 0..3 {
            sessions.push(handshake(&scene.client).await);
        }
        // and a change whose answer comes after that,
        let gate = hold(&scene.server, "resources/subscribe");
        let subscribe = change("resources/subscribe", "file:///a");
        let changing = scene.spawn(post(sessions.last().map(|it| &**it), &subscribe));
        settle().await;
        sessions.push(handshake(&scene.client).await);
        gate.open();
        assert_eq!(soon(changing).await.unwrap().status, 200);
        // when the store has had its time,
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        // then each of them is found, and what was changed.
        scene.server.restart();
        for session in &sessions {
            let answer = scene.send(post(Some(session), &tool_call(1))).await;
            assert_eq!(echoed(&answer), 1, "{mode:?}");
        }
        let live = scene.server.live();
        let changed = live
            .iter()
            .filter(|it| !scene.server.subscriptions(it).is_empty());
        assert_eq!(changed.count(), 1, "{mode:?}");
    }
}

/// I2, I3: what made room while it was recovered is in the epoch that it was in.
#[tokio::test(start_paused = true)]
async fn n1_i2_a_session_that_makes_room_while_it_is_recovered_is_written() {
    // Given a session that the store could not be told of before it is recovered,
    let store = FaultyStore::new();
    let own = store.another_way();
    own.set(Mode::Down);
    let scene = live(own.layer().max_sessions(1)).await;
    scene.server.restart();
    let other = scene.in_another_process(store.layer());
    let others = handshake(&other.client).await;
    let gate = hold(&scene.server, "initialize");
    let call = scene.spawn_call(1);
    settle().await;
    own.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // when another takes its place, and the recovery has nothing to recover,
    let found = scene.send(post(Some(&others), &tool_call(2))).await;
    assert_eq!(echoed(&found), 2);
    gate.open();
    join([call]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    // then the next process knows it.
    let next = scene.in_another_process(store.layer());
    assert_eq!(echoed(&next.call(3).await), 3);
}

/// I2: what is forgotten on purpose is not ended, whatever the store says of what was being written.
#[tokio::test(start_paused = true)]
async fn n1_a_session_that_is_forgotten_on_purpose_is_not_ended_where_it_could_not_be_written() {
    for mode in [Mode::Refuses(Duration::from_millis(200)), Mode::Down] {
        // Given a session in a later epoch, with a change that is being written in vain,
        let store = FaultyStore::new();
        let sessions = Sessions::new();
        let scene = live(store.layer().sessions(sessions.clone())).await;
        settle().await;
        store.set(mode);
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        let subscribe = change("resources/subscribe", "file:///a");
        let gate = hold(&scene.server, "resources/subscribe");
        let late = scene.spawn(post(Some(&scene.session), &subscribe));
        tokio::time::sleep(Duration::from_millis(50)).await;
        // when all is forgotten, before or after its answer,
        sessions.forget_all();
        gate.open();
        assert_eq!(soon(late).await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // then nothing is sent to the server.
        assert_eq!(scene.server.count("DELETE"), 0, "{mode:?}");
        assert_eq!(scene.server.live().len(), 1);
    }
}

/// N3: once it is written, the store knows more of it than a process that has forgotten it.
#[tokio::test(start_paused = true)]
async fn n1_what_has_been_written_is_found_in_the_store_also_while_somebody_listens() {
    // Given a session with an open stream, which has made room, and has been written after that,
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(1)).await;
    settle().await;
    store.set(Mode::Down);
    let _gets = feed_all(&scene.server, "GET");
    let listening = Stream::open(&scene.client, get(&scene.session, None)).await;
    let subscribe = change("resources/subscribe", "file:///a");
    scene.send(post(Some(&scene.session), &subscribe)).await;
    settle().await;
    handshake(&scene.client).await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    // when another process has ended it, and the mark has gone,
    let other = scene.in_another_process(store.layer());
    assert_eq!(other.send(delete(&scene.session)).await.status, 200);
    tokio::time::sleep(Duration::from_secs(100)).await;
    // then nobody brings it back.
    assert_eq!(scene.call(1).await.status, 404);
    assert_eq!(scene.server.count("initialize"), 2);
    assert!(listening.is_open());
}

/// I2, N1: what makes room for a session that was found may be in no store itself.
#[tokio::test(start_paused = true)]
async fn i2_n5_what_makes_room_for_a_found_session_goes_on() {
    for mode in [Mode::Works, Mode::Full] {
        // Given a session that another process has stored,
        let store = FaultyStore::new();
        let other = live(store.layer()).await;
        settle().await;
        // and one that has moved on, in a process with room for one, which can write or only read,
        let own = store.another_way();
        own.set(mode);
        let scene = Scene {
            client: mocked(&other.server, own.layer().max_sessions(1)),
            server: other.server.clone(),
            session: String::new(),
        };
        let session = handshake(&scene.client).await;
        let scene = Scene { session, ..scene };
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        settle().await;
        // when that process finds the other, then its own goes on all the same.
        let call = post(Some(&other.session), &tool_call(2));
        assert_eq!(echoed(&scene.send(call).await), 2);
        settle().await;
        assert_eq!(scene.call(3).await.outcome(), None, "{mode:?}");
        assert_eq!(scene.server.live().len(), 2, "{mode:?}");
    }
}

/// I3, E1: a session that is being recovered waits for that, too.
#[tokio::test(start_paused = true)]
async fn n1_i3_a_recovery_is_not_in_vain_since_its_session_is_to_make_room() {
    // Given a session that is being recovered, for a call,
    let store = FaultyStore::new();
    let scene = lost(store.layer().max_sessions(1)).await;
    let gate = hold(&scene.server, "notifications/initialized");
    let call = scene.spawn_call(1);
    settle().await;
    // when another is to take its place,
    scene.send(post(None, &initialize())).await;
    settle().await;
    gate.open();
    // then the call goes on in what that makes, which nobody has to find in the store.
    assert_eq!(echoed(&soon(call).await.unwrap()), 1);
    settle().await;
    assert_eq!(scene.server.count("ping"), 0);
    assert_eq!(scene.server.count("initialize"), 3);
    assert_eq!(scene.server.count("DELETE"), 0);
}

/// N1: what is forgotten on purpose is not written any more, in whatever epoch.
#[tokio::test(start_paused = true)]
async fn n1_n3_what_is_forgotten_in_a_recovery_is_not_written_over_what_that_has_stored() {
    // Given a session whose change waits for a recovery to be written,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    settle().await;
    let answers = hold_answer(&scene.server, "resources/subscribe");
    let subscribe = change("resources/subscribe", "file:///a");
    let subscribing = scene.spawn(post(Some(&scene.session), &subscribe));
    settle().await;
    scene.server.restart();
    let (gate, call) = scene.recovering().await;
    answers.open();
    assert_eq!(soon(subscribing).await.unwrap().status, 200);
    // when all is forgotten before it has come to an end,
    store.set(Mode::Late(Duration::from_millis(20)));
    gate.open();
    tokio::time::sleep(Duration::from_millis(50)).await;
    sessions.forget_all();
    join([call]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    store.set(Mode::Works);
    // then what the recovery has stored is what the next request finds.
    let handshakes = scene.server.count("initialize");
    assert_eq!(echoed(&scene.call(2).await), 2);
    assert_eq!(scene.server.count("initialize"), handshakes);
    assert_eq!(scene.server.live().len(), 1);
}
