//! Rules I2, I3 and N1: what becomes of sessions that the table has no room for, or has forgotten.

use std::time::Duration;

use mcp_session_recovery::{Outcome, Sessions};
use testing::mocked::*;
use testing::streams::{Stream, feed_all, never_answer};
use testing::whose::with_token;
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    given_away::by_user,
    outliving::restarted,
};

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
    const WAITING: usize = 256;
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

/// H1: also if it is found before that.
#[tokio::test(start_paused = true)]
async fn n1_h1_a_session_that_is_found_again_has_what_was_not_written_of_it() {
    let time = Duration::from_millis(50);
    for mode in [Mode::Slow(time), Mode::Refuses(time), Mode::Down] {
        // Given a session that has made room, with a change that the store is slow to hear of,
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(1)).await;
        settle().await;
        store.set(mode);
        let subscribe = change("resources/subscribe", "file:///a");
        scene.send(post(Some(&scene.session), &subscribe)).await;
        handshake(&scene.client).await;
        // when it is found again, and recovered at once,
        scene.server.restart();
        assert_eq!(echoed(&scene.call(1).await), 1);
        // then the change is there.
        let live = scene.server.live();
        assert_eq!(
            scene.server.subscriptions(&live[0]),
            ["file:///a"],
            "{mode:?}"
        );
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

/// H1, N3: what has made room may find that another process has gone on.
#[tokio::test(start_paused = true)]
async fn n1_h1_what_was_not_written_of_a_session_that_made_room_is_told_to_another_processs_epoch()
{
    // Given a session with a change of which the store could not be told, and which has made room,
    let store = FaultyStore::new();
    let own = store.another_way();
    let scene = live(own.layer().max_sessions(1)).await;
    settle().await;
    own.set(Mode::Down);
    let subscribe = change("resources/subscribe", "file:///a");
    scene.send(post(Some(&scene.session), &subscribe)).await;
    handshake(&scene.client).await;
    // when another process has recovered it, and the store is back,
    let other = scene.in_another_process(store.layer());
    scene.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    own.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(60)).await;
    // then that has it, and nothing more is written.
    let live = scene.server.live();
    assert_eq!(live.len(), 1);
    assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
    let loads = store.loads() + own.loads();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.loads() + own.loads(), loads);
    // And the next process knows it.
    scene.server.restart();
    let next = scene.in_another_process(store.layer());
    assert_eq!(echoed(&next.call(2).await), 2);
    let live = scene.server.live();
    assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
}

/// I1, I2, A5: nothing is answered by the layer that the server would have answered.
#[tokio::test(start_paused = true)]
async fn n1_i1_a_request_whose_session_makes_room_before_it_is_sent_reaches_the_server() {
    for epoch in [0, 1] {
        for (is_found, is_delete) in [(false, false), (true, false), (false, true), (true, true)] {
            // Given a request whose body is yet to come,
            let case = format!("epoch {epoch}, found {is_found}, DELETE {is_delete}");
            let store = FaultyStore::new();
            let scene = live(store.layer().max_sessions(1)).await;
            settle().await;
            if epoch > 0 {
                scene.server.restart();
                assert_eq!(echoed(&scene.call(1).await), 1);
                settle().await;
            }
            let (feeder, body) = feed();
            let mut request = posting(&scene.session, body);
            if is_delete {
                *request.method_mut() = http::Method::DELETE;
            }
            let sending = scene.spawn(request);
            settle().await;
            // when its session makes room, and may be found again,
            handshake(&scene.client).await;
            settle().await;
            if is_found {
                let ping = post(Some(&scene.session), &ping(2));
                assert_eq!(scene.send(ping).await.status, 200, "{case}");
                settle().await;
            }
            // then it reaches the server when that is there.
            feeder.data(tool_call(7).to_string());
            drop(feeder);
            assert_eq!(soon(sending).await.unwrap().status, 200, "{case}");
            settle().await;
            let live = scene.server.live().len();
            assert_eq!(live, 2 - usize::from(is_delete), "{case}");
            let expected = if is_delete { 404 } else { 200 };
            assert_eq!(scene.call(8).await.status, expected, "{case}");
        }
    }
}

/// I3, E1: the session of a request under way that makes room is recovered for it.
#[tokio::test(start_paused = true)]
async fn n1_e1_a_request_whose_session_has_made_room_is_recovered() {
    for is_found in [false, true] {
        // Given a call under way, whose session has made room, and may have been found again,
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(1)).await;
        settle().await;
        let gate = hold(&scene.server, "tools/call");
        let call = scene.spawn_call(1);
        settle().await;
        let other = handshake(&scene.client).await;
        settle().await;
        if is_found {
            for session in [&scene.session, &other] {
                let ping = post(Some(session), &ping(2));
                assert_eq!(scene.send(ping).await.status, 200);
                settle().await;
            }
        }
        // when the server has lost it,
        scene.server.restart();
        gate.open();
        // then the call is answered in the new one.
        let answer = soon(call).await.unwrap();
        assert_eq!(echoed(&answer), 1);
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    }
}

/// H1: a change may be accepted after its session has made room, and been found again and recovered.
#[tokio::test(start_paused = true)]
async fn n1_h1_a_change_that_is_accepted_late_is_told_to_whoever_has_found_the_session() {
    for is_lost in [false, true] {
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(1)).await;
        settle().await;
        // Given a change whose answer is on its way while its session makes room,
        let gate = hold_answer(&scene.server, "resources/subscribe");
        let subscribe = change("resources/subscribe", "file:///a");
        let subscribing = scene.spawn(post(Some(&scene.session), &subscribe));
        settle().await;
        handshake(&scene.client).await;
        settle().await;
        // and is found again, and recovered if the server has lost it,
        if is_lost {
            scene.server.restart();
        }
        assert_eq!(echoed(&scene.call(1).await), 1);
        settle().await;
        // when it comes, then the session has it, now and after the next loss.
        gate.open();
        assert_eq!(soon(subscribing).await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_secs(30)).await;
        for _ in 0..2 {
            let live = scene.server.live();
            let of = |it: &&String| !scene.server.subscriptions(it).is_empty();
            assert_eq!(live.iter().filter(of).count(), 1, "{is_lost}");
            scene.server.restart();
            assert_eq!(echoed(&scene.call(2).await), 2);
        }
    }
}

/// G1, G6: what is open in a session that makes room stays with it when it is found again.
#[tokio::test(start_paused = true)]
async fn n1_g1_what_is_open_in_a_session_that_makes_room_goes_on_when_it_is_found_again() {
    // Given a session with a listening stream and a call that waits, which has made room,
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(1)).await;
    settle().await;
    let gets = feed_all(&scene.server, "GET");
    let listening = Stream::open(&scene.client, get(&scene.session, None)).await;
    never_answer(&scene.server, "tools/slow");
    let slow = serde_json::json!({"jsonrpc": "2.0", "id": 7, "method": "tools/slow"});
    let waiting = scene.spawn(post(Some(&scene.session), &slow));
    settle().await;
    handshake(&scene.client).await;
    settle().await;
    // when it is found again, and recovered,
    assert_eq!(scene.call(1).await.outcome(), None);
    settle().await;
    scene.server.restart();
    assert_eq!(scene.call(2).await.outcome(), Some(Outcome::Replayed));
    tokio::time::sleep(Duration::from_secs(40)).await;
    // then the stream is one of the new session, and the call is told that no answer will come.
    assert_eq!(gets.count(), 2);
    assert!(listening.is_open());
    let answer = soon(waiting).await.unwrap();
    assert_eq!(answer.outcome(), Some(Outcome::AnswerLost));
}

/// K10: there may be no room for the session that it is in.
#[tokio::test(start_paused = true)]
async fn k10_n5_a_change_that_comes_late_may_find_no_room() {
    const WAITING: usize = 256;
    // Given a session that holds more than any other, and has made room with a change under way,
    let store = FaultyStore::new();
    let layer = store.layer().max_sessions_bytes(1);
    let scene = live(by_user(layer)).await;
    let subscribe = |uri: &str| {
        let subscribe = change("resources/subscribe", &uri.repeat(4000));
        post(Some(&scene.session), &subscribe)
    };
    scene.send(subscribe("x")).await;
    settle().await;
    let gate = hold(&scene.server, "resources/subscribe");
    let subscribing = scene.spawn(subscribe("y"));
    settle().await;
    // and as many others as may wait for a store that is away,
    store.set(Mode::Down);
    for number in 0..WAITING + 9 {
        let request = with_token(post(None, &initialize()), Some(&number.to_string()));
        assert_eq!(scene.send(request).await.status, 200);
    }
    // when its answer is there, then its caller has that.
    gate.open();
    assert_eq!(soon(subscribing).await.unwrap().status, 200);
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

/// I1, N6: what has made room and ended is not recorded once more for what was under way.
#[tokio::test(start_paused = true)]
async fn n6_i1_a_session_that_ends_after_it_has_made_room_is_not_recovered() {
    // Given a call and a DELETE under way, whose session has made room,
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(1)).await;
    settle().await;
    let [answers, ends] = ["tools/call", "DELETE"].map(|what| hold(&scene.server, what));
    let call = scene.spawn_call(1);
    let ending = scene.spawn(delete(&scene.session));
    settle().await;
    handshake(&scene.client).await;
    settle().await;
    // when it has ended, and the call finds that,
    ends.open();
    assert_eq!(soon(ending).await.unwrap().status, 200);
    answers.open();
    // then that is its answer.
    assert_eq!(soon(call).await.unwrap().status, 404);
    assert_eq!(scene.server.count("initialize"), 2);
}

/// K10: a session that holds more than there is room for beside another is found, and makes room again.
#[tokio::test(start_paused = true)]
async fn k10_n1_a_session_for_which_there_is_no_room_has_its_own_answers() {
    // Given a session that holds more than the only other, of another principal,
    let store = FaultyStore::new();
    let layer = store.layer().max_sessions_bytes(1);
    let scene = live(by_user(layer)).await;
    let subscribe = change("resources/subscribe", &"x".repeat(4000));
    scene.send(post(Some(&scene.session), &subscribe)).await;
    settle().await;
    let other = with_token(post(None, &initialize()), Some("other"));
    scene.send(other).await;
    settle().await;
    // when it is used, and lost,
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    scene.server.restart();
    // then its caller hears of that, or it is recovered.
    assert!([200, 404].contains(&scene.call(2).await.status));
}

/// N1: also one that is the first to make room, since it holds most.
#[tokio::test(start_paused = true)]
async fn k10_n1_a_session_that_makes_room_by_its_bytes_at_once_is_written_and_recovered() {
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let layer = store.layer().sessions(sessions.clone());
    let layer = layer.max_sessions_bytes(50_000);
    let scene = live(by_user(layer)).await;
    settle().await;
    // Given a session that is larger than there is room for beside the other,
    let mut large = initialize();
    large["params"]["clientInfo"]["title"] = "x".repeat(60_000).into();
    let made = scene.send(with_token(post(None, &large), Some("other")));
    let large = made.await.session().unwrap().to_owned();
    settle().await;
    assert_eq!((sessions.len(), store.len()), (1, 2));
    // when it is used, and lost,
    for id in 0..3 {
        // then it is found, and recovered.
        let call = with_token(post(Some(&large), &tool_call(id)), Some("other"));
        assert_eq!(echoed(&scene.send(call).await), id);
        settle().await;
        assert_eq!(sessions.len(), 1);
        scene.server.restart();
    }
    assert_eq!(scene.server.count("initialize"), 4);
}
