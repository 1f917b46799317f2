//! Rules N6 and I1: the end of a session is the end in every process.

use std::time::Duration;

use testing::mocked::*;
use testing::whose::Ids;
use testing::*;

use super::{
    agreeing::{change, two, two_over},
    faulty::{FaultyStore, Mode},
    outliving::restarted,
};

/// Longer than the mark of a session that has ended stays.
const LATER: Duration = Duration::from_secs(61);

async fn ended(scene: &Scene) {
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn n6_a_delete_removes_the_record() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    assert_eq!(store.len(), 1);
    ended(&scene).await;
    // What is left for a while holds nothing of the session,
    let left = store.values().await;
    assert!(left.iter().all(|it| !it.contains("initialize")), "{left:?}");
    tokio::time::sleep(LATER).await;
    assert_eq!(store.len(), 0);
    // and nobody brings it back.
    let scene = restarted(scene, &store);
    assert_eq!(scene.call(1).await.status, 404);
    assert_eq!(scene.server.count("initialize"), 1);
}

/// I1: a process that did not see the last recovery ends what that made.
#[tokio::test(start_paused = true)]
async fn n6_a_delete_ends_the_session_that_another_process_has_gone_on_to() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    one.server.restart();
    assert_eq!(echoed(&other.call(2).await), 2);
    one.send(delete(&one.session)).await;
    settle().await;
    assert!(one.server.live().is_empty());
    tokio::time::sleep(LATER).await;
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn n6_another_process_does_not_recover_a_session_that_has_ended() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    ended(&one).await;
    for call in 0..3 {
        let answer = other.call(call).await;
        assert_eq!(answer.status, 404);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(one.server.count("initialize"), 1);
    tokio::time::sleep(LATER).await;
    assert_eq!(store.len(), 0);
}

/// I1: nor does it end once more what has ended, when its id may be another's.
#[tokio::test(start_paused = true)]
async fn n6_a_recovery_that_finds_the_mark_ends_nothing_that_has_ended() {
    // Given two processes that have both gone on in a later epoch,
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    assert_eq!(echoed(&other.call(2).await), 2);
    // when one ends it, and the other finds it expired,
    ended(&one).await;
    assert_eq!(other.call(3).await.status, 404);
    settle().await;
    // then nothing more is sent.
    assert_eq!(one.server.count("DELETE"), 1);
}

/// N6, I3: whoever finds the mark lets go of the session, also in an epoch that no mark knows of.
#[tokio::test(start_paused = true)]
async fn n6_an_epoch_that_was_published_without_the_store_ends_with_the_session() {
    // Given a process that has recovered while it could not reach the store,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    others.set(Mode::Down);
    one.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    assert_eq!(one.server.live().len(), 1);

    // when another one ends the session, and the store is there again,
    one.send(delete(&one.session)).await;
    others.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(10)).await;

    // then the next request finds no session, and none is left on the server.
    assert_eq!(other.call(2).await.status, 404);
    settle().await;
    assert!(one.server.live().is_empty());
    assert_eq!(one.server.count("initialize"), 2);
}

/// N5, I3: a mark that could not be put ends, once it can be, what another process went on in.
#[tokio::test(start_paused = true)]
async fn n6_a_mark_that_comes_late_ends_the_epoch_that_it_replaces() {
    for mode in [Mode::Down, Mode::Hangs] {
        // Given a session that has ended in a process that cannot reach the store, where another
        // one has gone on from there,
        let store = FaultyStore::new();
        let others = store.another_way();
        let (one, other) = two_over(&store, &others).await;
        one.server.restart();
        assert_eq!(echoed(&other.call(1).await), 1);
        settle().await;
        store.set(mode);
        let status = one.send(delete(&one.session)).await.status;
        assert_eq!((status, one.server.live().len()), (404, 1));

        // when the store is there again, then that epoch is ended, without anybody's request,
        tokio::time::sleep(Duration::from_secs(5)).await;
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(one.server.live().is_empty(), "{mode:?}");
        let deleted = one.server.last("DELETE");
        assert_eq!(deleted.header("authorization"), Some("Bearer secret-token"));
        // and does not come back.
        assert_eq!(other.call(2).await.status, 404);
        assert_eq!(one.server.count("initialize"), 2);
    }
}

/// I3: also if that has no answer of the store itself.
#[tokio::test(start_paused = true)]
async fn n6_a_mark_that_is_found_during_a_recovery_ends_what_that_publishes() {
    let slow = Mode::Slow(Duration::from_millis(400));
    let wait = async |millis| tokio::time::sleep(Duration::from_millis(millis)).await;
    // Given a process that is at writing a change,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    others.set(slow);
    other.send(post(Some(&other.session), &set_level())).await;
    settle().await;
    // and recovers the session, which has ended in another one,
    others.set(Mode::Works);
    one.server.restart();
    let (gate, call) = other.recovering().await;
    one.send(delete(&one.session)).await;

    // when the change meets the mark while the recovery waits for the store in vain,
    others.set(slow);
    wait(300).await;
    gate.open();
    wait(10).await;
    others.set(Mode::Works);
    wait(40_000).await;

    // then the session has ended there, too.
    assert_eq!(join([call]).await[0].status, 404);
    assert!(one.server.live().is_empty(), "{:?}", one.server.log());
    assert_eq!(other.call(2).await.status, 404);
}

/// I1: what the caller has ended is not ended once more, when its id may be another's.
#[tokio::test(start_paused = true)]
async fn n6_a_change_that_was_not_written_ends_nothing_that_has_ended() {
    // Given a session with a change that could not be written, which its caller ends,
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    store.set(Mode::Down);
    scene.send(post(Some(&scene.session), &set_level())).await;
    settle().await;
    // although there is a request under way,
    let gate = hold(&scene.server, "tools/call");
    let call = scene.spawn_call(2);
    settle().await;
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);

    // when the store is there again,
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;

    // then nothing more is sent.
    assert_eq!(scene.server.count("DELETE"), 1);
    gate.open();
    assert_eq!(join([call]).await[0].status, 404);
    assert_eq!(scene.server.count("DELETE"), 1);
}

#[tokio::test(start_paused = true)]
async fn n6_a_recovery_of_another_process_does_not_bring_back_what_has_ended() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    one.server.restart();
    // Given a recovery that waits for its handshake,
    let (gate, call) = other.recovering().await;

    // when the session is ended in the other process,
    one.send(delete(&one.session)).await;
    settle().await;
    gate.open();

    // then the call gets its own 404, and what the handshake has made is ended.
    assert_eq!(join([call]).await[0].status, 404);
    settle().await;
    assert!(one.server.live().is_empty());
    assert_eq!(one.call(2).await.status, 404);
    assert_eq!(other.call(3).await.status, 404);
    assert_eq!(one.server.count("initialize"), 2);
    tokio::time::sleep(LATER).await;
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn n6_what_another_process_writes_late_does_not_bring_back_what_has_ended() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    // Given a change that the other process could not write,
    let subscribe = change("resources/subscribe", "file:///a");
    store.set(Mode::Down);
    other.send(post(Some(&other.session), &subscribe)).await;
    settle().await;
    store.set(Mode::Works);
    // when the session ends before it is tried again,
    ended(&one).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    // then it stays away.
    let left = store.values().await;
    assert!(left.iter().all(|it| !it.contains("initialize")), "{left:?}");
    tokio::time::sleep(LATER).await;
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn n6_an_end_that_could_not_be_written_ends_nobody_elses_session() {
    // Given a server with one id for all, and a store that is away when the first session ends,
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    server.on(|seen| {
        Some(match seen.what().as_str() {
            "initialize" => {
                let mut answer = Profile::TypeScript.answer(&seen.message());
                let id = "one-for-all".parse().unwrap();
                answer.headers_mut().insert("mcp-session-id", id);
                answer
            }
            "DELETE" => reply(200, None, ""),
            _ => reply(202, None, ""),
        })
    });
    let client = mocked(&server, store.layer());
    let session = handshake(&client).await;
    settle().await;
    store.set(Mode::Down);
    assert_eq!(send(&client, delete(&session)).await.status, 200);

    // when the next caller is given the same one, and the store is back,
    assert_eq!(handshake(&client).await, session);
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;

    // then that is stored.
    let left = store.values().await;
    assert!(left[0].contains("initialize"), "{left:?}");
}

/// Until the store has been told, the process knows by itself.
#[tokio::test(start_paused = true)]
async fn n6_a_session_that_is_being_ended_is_not_found_in_the_store() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.set(Mode::Slow(Duration::from_millis(200)));
    scene.send(delete(&scene.session)).await;
    let answer = scene.call(1).await;
    assert_eq!((answer.status, answer.recovery), (404, None));
    assert_eq!(scene.server.count("initialize"), 1);
}

/// But no longer: the server may hand out its id to another.
#[tokio::test(start_paused = true)]
async fn n6_an_id_that_was_ended_may_be_that_of_another_process_later() {
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let [one, other] = [(); 2].map(|()| mocked(&server, store.layer()));
    let session = handshake(&one).await;
    settle().await;
    send(&one, delete(&session)).await;
    settle().await;
    server.restart();
    assert_eq!(handshake(&other).await, session);
    settle().await;
    // Given an answer that tells the process so once it has forgotten that there was nothing,
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.restart();
    let call = post(Some(&session), &tool_call(1));
    assert_eq!(echoed(&send(&one, call).await), 1);
}

/// The mark is that of the first who ended the session.
#[tokio::test(start_paused = true)]
async fn n6_a_session_that_is_ended_twice_is_marked_once() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    ended(&one).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(other.send(delete(&other.session)).await.status, 404);
    settle().await;
    assert_eq!(store.len(), 1);
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn n6_a_record_that_cannot_be_read_goes_with_its_session() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.spoil().await;
    ended(&scene).await;
    tokio::time::sleep(LATER).await;
    assert_eq!(store.len(), 0);
}

/// A5: who ends a session ends no other that the server has given its id to.
#[tokio::test(start_paused = true)]
async fn n6_the_end_of_a_session_is_not_that_of_another_with_its_id() {
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let [one, other] = [(); 2].map(|()| mocked(&server, store.layer()));
    let session = handshake(&one).await;
    settle().await;
    server.restart();
    assert_eq!(handshake(&other).await, session);
    settle().await;
    send(&one, delete(&session)).await;
    settle().await;
    let call = post(Some(&session), &tool_call(1));
    assert_eq!(echoed(&send(&other, call).await), 1);
}

/// I1: what has ended has ended, also if the table found it again meanwhile.
#[tokio::test(start_paused = true)]
async fn n6_a_session_that_is_found_again_while_it_is_being_ended_has_ended() {
    // Given a session that is being ended,
    let store = FaultyStore::new();
    let scene = live(store.layer().max_sessions(1)).await;
    settle().await;
    let gate = hold(&scene.server, "DELETE");
    let ending = scene.spawn(delete(&scene.session));
    settle().await;
    // which another takes the place of, and which is found in the store, and recovered,
    handshake(&scene.client).await;
    settle().await;
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    // when its end is answered,
    gate.open();
    assert_eq!(join([ending]).await[0].status, 404);
    settle().await;
    // then there is no such session any more, nor what the recovery made.
    assert!(scene.server.live().is_empty(), "{:?}", scene.server.log());
    assert_eq!(scene.call(2).await.status, 404);
    assert_eq!(scene.server.count("initialize"), 3);
    let scene = restarted(scene, &store);
    assert_eq!(scene.call(3).await.status, 404);
}

/// Not by what a process writes because it has used the session before.
#[tokio::test(start_paused = true)]
async fn n6_a_use_before_the_end_does_not_bring_the_session_back_after_it() {
    // Given a session that two processes have used, and one has ended,
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(echoed(&other.call(1).await), 1);
    ended(&one).await;
    // when the other tells the store what it has used, a long time after the mark,
    for _ in 0..24 {
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        assert_eq!(store.len(), 0);
    }
    // then nobody finds it.
    let third = one.in_another_process(store.layer());
    assert_eq!(third.call(3).await.status, 404);
}

/// I1: also of a mark that the store has not said that it has.
#[tokio::test(start_paused = true)]
async fn n6_a_mark_whose_answer_is_lost_ends_the_epoch_that_it_replaces() {
    // Given a session that another process has gone on in,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    one.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    settle().await;
    // when it is ended, and the store does as it is told but says so too late,
    store.set(Mode::Late(Duration::from_millis(600)));
    assert_eq!(one.send(delete(&one.session)).await.status, 404);
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(20)).await;
    // then it has ended there, too.
    assert!(one.server.live().is_empty(), "{:?}", one.server.log());
    assert_eq!(other.call(2).await.status, 404);
}

/// I2: also of one that has made room, and is being written still.
#[tokio::test(start_paused = true)]
async fn n6_a_session_that_made_room_is_ended_although_it_is_not_written_yet() {
    for mode in [Mode::Slow(Duration::from_millis(100)), Mode::Down] {
        // Given a session whose place another has taken before the store has heard of it,
        let store = FaultyStore::new();
        store.set(mode);
        let scene = live(store.layer().max_sessions(1)).await;
        handshake(&scene.client).await;
        // when it is ended,
        assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
        // then it is not found once it could have been written.
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let next = scene.in_another_process(store.layer());
        assert_eq!(next.call(1).await.status, 404, "{mode:?}");
        assert_eq!(scene.call(2).await.status, 404, "{mode:?}");
    }
}

/// Where there is no room for a mark, what was being written does not stay either.
#[tokio::test(start_paused = true)]
async fn n6_what_lands_in_a_full_store_after_the_end_is_let_go_of() {
    let store = FaultyStore::new();
    store.set(Mode::Slow(Duration::from_millis(200)));
    let scene = live(store.layer()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.set(Mode::Full);
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(store.len(), 0);
}

/// I1: what the store says may be older than the end.
#[tokio::test(start_paused = true)]
async fn n6_a_session_is_not_found_by_what_the_store_was_asked_before_it_ended() {
    // It ends before or after the store is asked.
    for asked in [0, 40, 80, 120, 160, 200] {
        // Given a session that has made room, and a call under way,
        let store = FaultyStore::new();
        let scene = live(store.layer().max_sessions(1)).await;
        settle().await;
        let gate = hold(&scene.server, "DELETE");
        let ending = scene.spawn(delete(&scene.session));
        settle().await;
        handshake(&scene.client).await;
        settle().await;
        // when it is asked for while it ends, in a store that says late what it holds,
        store.set(Mode::Late(Duration::from_millis(150)));
        let begun = std::time::Duration::from_millis(100);
        let call = {
            let client = scene.client.clone();
            let call = post(Some(&scene.session), &tool_call(1));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(asked)).await;
                send(&client, call).await
            })
        };
        tokio::time::sleep(begun).await;
        gate.open();
        assert_eq!(soon(ending).await.unwrap().status, 200);
        // then it has ended.
        assert_eq!(soon(call).await.unwrap().status, 404, "asked at {asked}");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(scene.call(2).await.status, 404);
        assert_eq!(scene.server.live().len(), 1);
        assert_eq!(scene.server.count("initialize"), 2);
    }
}
