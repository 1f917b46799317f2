//! Rules N3 and N4: processes that share a store go on in the same epochs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mcp_session_recovery::{Classify, HttpAnswer, Outcome, RecoveryEvent, Verdict};
use testing::mocked::*;
use testing::whose::with_token;
use testing::*;

use super::faulty::{FaultyStore, Mode};

/// Two processes over one store that both know a session.
pub(super) async fn two(store: &FaultyStore) -> (Scene, Scene) {
    two_over(store, store).await
}

/// The same, each over a store of its own that leads to the same.
pub(super) async fn two_over(store: &FaultyStore, others: &FaultyStore) -> (Scene, Scene) {
    let one = live(store.layer()).await;
    settle().await;
    let other = one.in_another_process(others.layer());
    assert_eq!(echoed(&other.call(1).await), 1);
    (one, other)
}

/// Asks for a change of the session's state.
pub(super) fn change(method: &str, what: &str) -> serde_json::Value {
    let params = serde_json::json!({"uri": what, "level": what});
    serde_json::json!({"jsonrpc": "2.0", "id": 9, "method": method, "params": params})
}

#[tokio::test(start_paused = true)]
async fn n4_an_epoch_of_another_process_is_adopted_without_a_handshake() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    for epoch in 1..=4 {
        one.server.restart();
        assert_eq!(echoed(&one.call(1).await), 1);
        let answer = other.call(2).await;
        assert_eq!(echoed(&answer), 2);
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        assert_eq!(answer.recovery.unwrap().epoch(), epoch);
        assert_eq!(one.server.count("initialize") as u64, 1 + epoch);
    }
    assert_eq!(one.server.live().len(), 1);
    assert_eq!(one.server.count("DELETE"), 0);
}

/// M2, H2: a recovery that another process has made is told as one, with what it changed.
#[tokio::test(start_paused = true)]
async fn n4_what_is_adopted_is_told() {
    let store = FaultyStore::new();
    let one = live(store.layer()).await;
    settle().await;
    let (layer, events) = Events::of(store.layer());
    let other = one.in_another_process(layer);
    assert_eq!(echoed(&other.call(1).await), 1);
    // Given a server that comes back as another release, and a process that has gone on in it,
    for (epoch, name, changed) in [(1, "next", true), (2, "next", false)] {
        one.server.restart();
        let info = serde_json::json!({"name": name, "version": "2"});
        one.server.set_server_info(info);
        assert_eq!(echoed(&one.call(1).await), 1);
        settle().await;
        // when the other one follows, then it tells where to, and what is different there.
        assert_eq!(echoed(&other.call(2).await), 2);
        settle().await;
        let event = events.all().pop().unwrap();
        assert_eq!((event.result(), event.epoch()), (Ok(()), epoch));
        assert_eq!(event.changes().server_info(), changed);
        assert!(!event.changes().capabilities());
    }
}

#[tokio::test(start_paused = true)]
async fn n4_an_epoch_that_has_expired_in_its_turn_is_not_adopted() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    one.server.restart();
    let answer = other.call(2).await;
    assert_eq!(echoed(&answer), 2);
    assert_eq!(answer.recovery.unwrap().epoch(), 2);
    assert_eq!(echoed(&one.call(3).await), 3);
    assert_eq!(one.server.count("initialize"), 3);
    assert_eq!(one.server.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn n3_of_two_that_recover_the_same_epoch_one_publishes_and_the_other_follows() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    one.server.restart();
    // Given two recoveries that have both got as far as their handshake,
    let gate = hold(&one.server, "initialize");
    let calls = [one.spawn_call(1), other.spawn_call(2)];
    settle().await;
    assert_eq!(one.server.count("initialize"), 3);

    // when both are answered,
    gate.open();
    let answers = join(calls).await;
    settle().await;

    // then both calls are, in one session, and the other one is ended.
    assert!(answers.iter().map(echoed).eq([1, 2]));
    assert_eq!(one.server.count("DELETE"), 1);
    let live = one.server.live();
    assert_eq!(live.len(), 1);
    let replayed = one.server.all("tools/call");
    let sessions: Vec<_> = replayed.iter().rev().take(2).map(Seen::session).collect();
    assert_eq!(sessions, [Some(&*live[0]), Some(&*live[0])]);
    assert_eq!(echoed(&one.call(3).await), 3);
    assert_eq!(echoed(&other.call(4).await), 4);
    assert_eq!(one.server.count("initialize"), 3);
}

/// N3, N5: however many epochs have been published on either side.
#[tokio::test(start_paused = true)]
async fn n3_epochs_that_were_published_without_the_store_give_way_to_the_one_in_it() {
    for mode in [Mode::Down, Mode::Hangs, Mode::Full] {
        for alone in 1..=3 {
            // Given a process that has recovered without the store, and then one with it,
            let store = FaultyStore::new();
            let others = store.another_way();
            let (one, other) = two_over(&store, &others).await;
            others.set(mode);
            for _ in 0..alone {
                one.server.restart();
                assert_eq!(echoed(&other.call(1).await), 1);
            }
            assert_eq!(echoed(&one.call(1).await), 1);
            assert_eq!(one.server.live().len(), 2);
            let agreed = one.server.last("tools/call").session().unwrap().to_owned();

            // when the store is there again,
            others.set(Mode::Works);
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(echoed(&other.call(2).await), 2);

            // then both go on in what is in it, and nothing else is left on the server.
            tokio::time::sleep(Duration::from_secs(60)).await;
            for scene in [&one, &other] {
                assert_eq!(echoed(&scene.call(3).await), 3);
                let seen = one.server.last("tools/call");
                assert_eq!(seen.session(), Some(&*agreed), "{mode:?} {alone}");
            }
            assert_eq!(one.server.live(), [agreed], "{mode:?} {alone}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn n3_epochs_that_were_published_while_the_store_was_away_come_together() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    store.set(Mode::Down);
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    assert_eq!(echoed(&other.call(2).await), 2);
    assert_eq!(one.server.live().len(), 2);

    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(20)).await;
    one.server.restart();
    assert_eq!(echoed(&other.call(3).await), 3);
    assert_eq!(echoed(&one.call(4).await), 4);
    settle().await;
    assert_eq!(one.server.live().len(), 1);
}

/// Without any further loss: what is left over is ended, and no answer is lost by that.
#[tokio::test(start_paused = true)]
async fn n3_of_two_epochs_that_were_published_while_the_store_was_away_one_is_left() {
    for first in [0, 1] {
        // Given two processes, each in an epoch of its own making,
        let store = FaultyStore::new();
        let (one, other) = two(&store).await;
        store.set(Mode::Hangs);
        one.server.restart();
        assert_eq!(echoed(&one.call(1).await), 1);
        assert_eq!(echoed(&other.call(2).await), 2);
        // and a call under way in each,
        let gate = hold(&one.server, "resources/read");
        let read = serde_json::json!({"jsonrpc": "2.0", "id": 7, "method": "resources/read"});
        let running = [&one, &other].map(|scene| scene.spawn(post(Some(&scene.session), &read)));
        settle().await;

        // when the store is back, and either is called,
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let scenes = [&one, &other];
        assert_eq!(echoed(&scenes[first].call(3).await), 3);
        assert_eq!(echoed(&scenes[1 - first].call(4).await), 4);

        // then both go on in one of them,
        let calls = one.server.all("tools/call");
        let sessions: Vec<_> = calls.iter().rev().take(2).map(Seen::session).collect();
        assert_eq!(sessions[0], sessions[1], "{first} {:?}", one.server.log());
        // the other is there until what runs in it has been answered,
        assert_eq!(one.server.live().len(), 2);
        gate.open();
        for answer in join(running).await {
            assert_eq!(answer.status, 200);
        }
        // and is ended then.
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(one.server.live(), [sessions[0].unwrap()]);
        assert_eq!(one.server.count("initialize"), 3);
        assert_eq!(echoed(&one.call(5).await), 5);
        assert_eq!(echoed(&other.call(6).await), 6);
    }
}

/// Nor does anybody have to call for that.
#[tokio::test(start_paused = true)]
async fn n3_what_another_process_made_is_gone_on_in_without_a_request() {
    // Given two processes, each in an epoch of its own making,
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    store.set(Mode::Hangs);
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    assert_eq!(echoed(&other.call(2).await), 2);
    assert_eq!(one.server.live().len(), 2);

    // when the store is back and nobody calls,
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(60)).await;

    // then one of them is left, in which both go on.
    let live = one.server.live();
    assert_eq!(live.len(), 1, "{:?}", one.server.log());
    for scene in [&one, &other] {
        assert_eq!(echoed(&scene.call(3).await), 3);
        assert_eq!(one.server.last("tools/call").session(), Some(&*live[0]));
    }
    assert_eq!(one.server.count("initialize"), 3);
}

/// However many there were before it.
#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_lives_counts_for_later_than_one_that_has_expired() {
    // Given a process that has published two epochs without the store, the last of which has come
    // to it since, and has expired,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    for way in [&store, &others] {
        way.set(Mode::Down);
    }
    for _ in 0..2 {
        one.server.restart();
        assert_eq!(echoed(&one.call(1).await), 1);
    }
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    one.server.restart();
    // and another in the first of its own, which lives,
    assert_eq!(echoed(&other.call(2).await), 2);
    let live = one.server.live();

    // when the store is there for that one, too,
    others.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(60)).await;

    // then both go on in the one that lives.
    assert_eq!(echoed(&one.call(3).await), 3);
    assert_eq!(echoed(&other.call(4).await), 4);
    assert_eq!(one.server.live(), live);
    assert_eq!(one.server.count("initialize"), 4);
}

/// J4: it takes no attempt to find that, so that no pause follows.
#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_stays_is_recovered_as_soon_as_it_expires() {
    // Given a process in an epoch that lives, while the store has another, which has expired,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    others.set(Mode::Down);
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    one.server.restart();
    assert_eq!(echoed(&other.call(2).await), 2);
    // when it has just found out about that one,
    others.set(Mode::Works);
    soon(async {
        while one.server.count("ping") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    settle().await;
    // then its own is recovered nevertheless.
    one.server.restart();
    assert_eq!(echoed(&other.call(3).await), 3);
    assert_eq!(one.server.count("initialize"), 4);
}

/// Nothing is given up for a record that is gone again.
#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_lives_is_kept_where_the_store_has_no_other() {
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    store.set(Mode::Hangs);
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    assert_eq!(echoed(&other.call(2).await), 2);
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    store.lose_all().await;
    for call in 0..3 {
        assert_eq!(echoed(&one.call(call).await), call);
        assert_eq!(echoed(&other.call(call).await), call);
    }
    assert_eq!(one.server.count("initialize"), 3);
}

/// N4: before a handshake the store is asked, and the server is not.
#[tokio::test(start_paused = true)]
async fn n4_where_nobody_was_first_the_session_is_recovered_without_a_ping() {
    let store = FaultyStore::new();
    let (one, _other) = two(&store).await;
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    assert_eq!(one.server.count("initialize"), 2);
    assert_eq!(one.server.count("ping"), 0);
}

/// N5: also where the store could not say so before the handshake.
#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_was_first_and_has_expired_already_is_not_gone_on_in() {
    for is_away in [true, false] {
        // Given an epoch that another process publishes while this one makes a handshake,
        let store = FaultyStore::new();
        let others = store.another_way();
        let (one, other) = two_over(&store, &others).await;
        one.server.restart();
        let first = async || assert_eq!(echoed(&one.call(1).await), 1);
        if is_away {
            // or has published before, which a question in vain did not tell,
            first().await;
            one.server.restart();
            others.set(Mode::Down);
        }
        let (gate, call) = other.recovering().await;
        others.set(Mode::Works);
        if !is_away {
            let server = one.server.clone();
            let answer = move |seen: &Seen| server.default_answer(seen);
            one.server
                .on(move |seen| (seen.what() == "initialize").then(|| answer(seen)));
            first().await;
            // and that has expired in its turn,
            one.server.restart();
        }

        // when the handshake is answered, then what it made is what both go on in.
        gate.open();
        let answer = join([call]).await.remove(0);
        assert_eq!(
            (echoed(&answer), answer.outcome()),
            (1, Some(Outcome::Replayed))
        );
        assert_eq!(answer.recovery.unwrap().epoch(), 2, "{is_away}");
        assert_eq!(echoed(&one.call(2).await), 2);
        assert_eq!(one.server.live().len(), 1);
        assert_eq!(one.server.count("initialize"), 3);
    }
}

/// N3: nor is it forgotten again if the recovery that has found it fails.
#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_a_recovery_in_vain_has_found_is_later_than_ones_own_still() {
    // Given a process that has recovered while it could not reach the store, where another has made
    // more epochs, which have all expired,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    others.set(Mode::Down);
    one.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    for call in 0..3 {
        assert_eq!(echoed(&one.call(call).await), call);
        settle().await;
        one.server.restart();
    }

    // when it can reach the store again, and a recovery fails,
    others.set(Mode::Works);
    let fails = AtomicBool::new(true);
    one.server.on(move |seen| {
        let fails = seen.what() == "initialize" && fails.swap(false, Ordering::Relaxed);
        fails.then(|| reply(503, None, ""))
    });
    assert_eq!(other.call(2).await.status, 404);
    tokio::time::sleep(Duration::from_secs(20)).await;

    // then the next one is of use to both.
    assert_eq!(echoed(&other.call(3).await), 3);
    settle().await;
    assert_eq!(echoed(&one.call(4).await), 4);
    assert_eq!(one.server.count("initialize"), 1 + 1 + 3 + 1 + 1);
    assert_eq!(one.server.live().len(), 1);
}

/// N5: however often the store is asked, it has its time once.
#[tokio::test(start_paused = true)]
async fn n5_a_store_that_is_asked_again_about_an_epoch_costs_no_more_time() {
    // Given a slow store, and an epoch that another process publishes while this one makes a
    // handshake, and that has expired by then,
    let store = FaultyStore::new();
    let others = store.another_way();
    let (one, other) = two_over(&store, &others).await;
    one.server.restart();
    let slow = Duration::from_millis(70);
    others.set(Mode::Slow(slow));
    let started = tokio::time::Instant::now();
    let gate = hold(&one.server, "initialize");
    let call = other.spawn_call(1);
    tokio::time::sleep(slow).await;
    settle().await;
    let server = one.server.clone();
    let answer = move |seen: &Seen| server.default_answer(seen);
    one.server
        .on(move |seen| (seen.what() == "initialize").then(|| answer(seen)));
    assert_eq!(echoed(&one.call(1).await), 1);
    one.server.restart();

    // when this one proposes its own, then the call waits for the store no longer than it may.
    gate.open();
    assert_eq!(echoed(&join([call]).await[0]), 1);
    let elapsed = started.elapsed();
    assert!(elapsed <= Duration::from_millis(250), "{elapsed:?}");
    // What that could not tell in time is seen to later.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(echoed(&one.call(2).await), 2);
    assert_eq!(one.server.live().len(), 1);
}

/// Nor does it take a store that answers as fast as a request can wait.
#[tokio::test(start_paused = true)]
async fn n3_a_store_that_is_slow_keeps_processes_apart_until_it_has_answered() {
    for millis in [400, 2000] {
        // Given two processes, each in an epoch of its own, since the store was too slow for one,
        let store = FaultyStore::new();
        let others = store.another_way();
        let (one, other) = two_over(&store, &others).await;
        others.set(Mode::Slow(Duration::from_millis(millis)));
        one.server.restart();
        assert_eq!(echoed(&one.call(1).await), 1);
        let agreed = one.server.live();
        assert_eq!(echoed(&other.call(2).await), 2);
        assert_eq!(one.server.live().len(), 2);

        // when it has had its time, slow as it is, then both are in one,
        tokio::time::sleep(Duration::from_secs(20)).await;
        for scene in [&other, &one] {
            assert_eq!(echoed(&scene.call(3).await), 3);
            let seen = one.server.last("tools/call");
            assert_eq!(seen.session(), Some(&*agreed[0]), "{millis}");
        }
        // and the other one is ended.
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(one.server.live(), agreed);
    }
}

/// D8: what a server says to a stranger proves nothing of an epoch that another process has made.
#[tokio::test(start_paused = true)]
async fn n4_a_stranger_replaces_no_epoch_that_its_owner_lives_in() {
    // Given a process that does not know yet that another one has gone on,
    let store = FaultyStore::new();
    let (one, other) = two(&store).await;
    one.server.only_to_owners();
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    let owners = one.server.live();

    // when a stranger names the session to it,
    let strange = with_token(post(Some(&one.session), &tool_call(2)), Some("other"));
    assert_eq!(other.send(strange).await.status, 404);
    settle().await;

    // then the owner's lives, and its owner is answered there by both.
    assert_eq!(one.server.count("initialize"), 2);
    assert_eq!(one.server.live(), owners);
    for scene in [&other, &one] {
        assert_eq!(echoed(&scene.call(3).await), 3);
        assert_eq!(one.server.last("tools/call").session(), Some(&*owners[0]));
    }
    assert_eq!(one.server.count("initialize"), 2);
}

/// D8: nor does it prove anything of one whose owner's credentials are no longer good.
#[tokio::test(start_paused = true)]
async fn n4_an_epoch_is_asked_about_with_ones_own_credentials_where_the_owners_are_denied() {
    for status in [401, 403] {
        // Given an epoch that another process has made, and that has expired in its turn,
        let store = FaultyStore::new();
        let (one, other) = two(&store).await;
        one.server.restart();
        assert_eq!(echoed(&one.call(1).await), 1);
        settle().await;
        one.server.restart();
        // and a server that takes another token by now,
        one.server.on(move |seen| {
            let is_good = seen.header("authorization") == Some("Bearer new");
            (!is_good).then(|| reply(status, None, ""))
        });

        // when a request comes with that, then it is not told that the session is lost.
        let call = with_token(post(Some(&one.session), &tool_call(2)), Some("new"));
        assert_eq!(echoed(&other.send(call).await), 2, "{status}");
        assert_eq!(one.server.count("initialize"), 3);
    }
}

/// I3, M2: of one session under two numbers none is ended, and whoever follows counts on.
#[tokio::test(start_paused = true)]
async fn n3_a_session_that_is_gone_on_in_is_not_ended_for_the_epoch_that_gives_way() {
    // Given a process that has published two epochs without the store, and one that has published
    // one with it, and a server that has one session for both,
    let store = FaultyStore::new();
    let others = store.another_way();
    let one = live(store.layer()).await;
    settle().await;
    let (layer, events) = Events::of(others.layer().max_sessions(1));
    let other = one.in_another_process(layer);
    assert_eq!(echoed(&other.call(0).await), 0);
    others.set(Mode::Down);
    one.server.restart();
    assert_eq!(echoed(&other.call(1).await), 1);
    one.server.restart();
    let (server, mut left) = (one.server.clone(), 2);
    replace(&one.server, "initialize", move |_, mut reply| {
        if left > 0 {
            left -= 1;
            let made = reply.headers()[SESSION_ID].to_str().unwrap();
            server.rename(made, "shared");
            let shared = "shared".parse().unwrap();
            reply.headers_mut().insert(SESSION_ID, shared);
        }
        reply
    });
    assert_eq!(echoed(&other.call(2).await), 2);
    assert_eq!(echoed(&one.call(3).await), 3);
    assert_eq!(one.server.live(), ["shared"]);

    // when the store is there again, and the first has followed, and has no more room for it,
    others.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let epochs: Vec<_> = events.all().iter().map(RecoveryEvent::epoch).collect();
    assert_eq!(epochs, [1, 2, 3]);
    handshake(&other.client).await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    // then the other still goes on in it.
    assert!(one.server.live().contains(&"shared".to_owned()));
    assert_eq!(echoed(&one.call(4).await), 4);
    assert_eq!(one.server.last("tools/call").session(), Some("shared"));
}

/// N4: what the store has held all the time is no epoch of another process's.
#[tokio::test(start_paused = true)]
async fn n4_an_epoch_that_is_in_the_store_still_is_not_asked_about_again() {
    // Given a process that can only read the store, which holds the epoch before its own,
    let store = FaultyStore::new();
    let one = live(store.layer()).await;
    settle().await;
    store.set(Mode::Full);
    one.server.restart();
    assert_eq!(echoed(&one.call(1).await), 1);
    // when that has expired, too, then it makes the next one, and asks no server about the first,
    one.server.restart();
    let answer = one.call(2).await;
    assert_eq!(echoed(&answer), 2);
    assert_eq!(answer.recovery.unwrap().epoch(), 2);
    assert_eq!(one.server.count("ping"), 0);
    // nor when it is written.
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(store.values().await[0].contains("\"epoch\":2"));
    assert_eq!(one.server.count("ping"), 0);
}

/// Takes every answer for that of a server that has lost the session.
struct Pessimist;

impl Classify for Pessimist {
    fn classify(&self, _: &HttpAnswer<'_>) -> Verdict {
        Verdict::Expired
    }

    fn examines(&self, _: http::StatusCode) -> bool {
        true
    }
}

/// D1: also where nobody but the layer has sent what is answered.
#[tokio::test(start_paused = true)]
async fn n4_an_epoch_in_which_a_ping_is_answered_lives_whatever_is_made_of_answers() {
    let store = FaultyStore::new();
    let one = live(store.layer().classify(Pessimist)).await;
    settle().await;
    let other = one.in_another_process(store.layer().classify(Pessimist));
    assert_eq!(echoed(&other.call(1).await), 1);
    one.server.restart();
    assert_eq!(echoed(&one.call(2).await), 2);
    assert_eq!(echoed(&other.call(3).await), 3);
    assert_eq!(one.server.count("initialize"), 2);
}

/// D4: nor what it has changed itself.
#[tokio::test(start_paused = true)]
async fn d4_n3_a_service_that_only_watches_asks_nothing_of_what_another_process_has_made() {
    for reinitializes in [true, false] {
        // Given a change that is made by way of a process of which the store has not heard,
        let store = FaultyStore::new();
        let own = store.another_way();
        let scene = live(store.layer()).await;
        settle().await;
        let watching = scene.in_another_process(own.layer().reinitialize(reinitializes));
        assert_eq!(watching.call(1).await.status, 200);
        settle().await;
        own.set(Mode::Down);
        let subscribe = change("resources/subscribe", "file:///a");
        let changed = watching.send(post(Some(&scene.session), &subscribe)).await;
        assert_eq!(changed.status, 200);
        settle().await;
        own.set(Mode::Works);
        // when another one goes on, then one that only watches says nothing about that.
        scene.server.restart();
        assert_eq!(echoed(&scene.call(2).await), 2);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let asks = ["ping", "resources/subscribe"].map(|what| scene.server.count(what));
        assert_eq!(asks == [0, 1], !reinitializes, "{asks:?}");
    }
}

/// N3: what is older than something that the store has said meanwhile is no answer.
#[tokio::test(start_paused = true)]
async fn n4_what_the_store_says_out_of_order_is_asked_for_again() {
    for is_late in [true, false] {
        // Given a process that does not know that another one has moved on, and that has a change to write,
        // which was accepted before that,
        let store = FaultyStore::new();
        let (one, other) = two(&store).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let gate = hold_answer(&one.server, "resources/subscribe");
        let subscribe = change("resources/subscribe", "file:///a");
        let changing = one.spawn(post(Some(&one.session), &subscribe));
        settle().await;
        one.server.restart();
        assert_eq!(echoed(&other.call(2).await), 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let late = |millis| {
            if is_late {
                store.set(Mode::Late(Duration::from_millis(millis)));
            }
        };
        late(50);
        gate.open();
        assert_eq!(join([changing]).await[0].status, 200);
        settle().await;
        // when its recovery asks the store, and is answered after what the writer asks later,
        late(100);
        let calling = one.spawn_call(3);
        settle().await;
        store.set(Mode::Works);
        // then it goes on in what there is.
        assert_eq!(echoed(&join([calling]).await[0]), 3);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(one.server.count("initialize"), 2, "late: {is_late}");
        assert_eq!(one.server.live().len(), 1, "late: {is_late}");
    }
}
