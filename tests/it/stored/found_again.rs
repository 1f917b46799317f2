//! Rules E1, G1, H1, I1 and N1: sessions that have made room and are used all the same, or found again.

use std::time::Duration;

use mcp_session_recovery::{Outcome, Sessions};
use testing::mocked::*;
use testing::streams::{Stream, feed_all, never_answer};
use testing::whose::{Ids, User, by_user, with_token};
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
};

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

/// A5: also if the server has given its id away since.
#[tokio::test(start_paused = true)]
async fn n1_a5_what_the_store_did_not_hold_is_asked_for_again_once_it_is_written() {
    for (ids, id) in [(Ids::Counting, "2"), (Ids::Unique, "secret-session-2")] {
        for is_asked_before in [true, false] {
            let case = format!("{ids:?}, asked before: {is_asked_before}");
            // Given an id of before the server's restart, which nobody finds,
            let store = FaultyStore::new();
            let server = Server::new(Profile::TypeScriptJson);
            server.set_ids(ids);
            let client = client(&server, by_user(store.layer().max_sessions(1)));
            User::connect(&client, "Eve").await;
            if is_asked_before {
                let stale = with_token(post(Some(id), &tool_call(1)), Some("Ada"));
                assert_eq!(send(&client, stale).await.status, 404, "{case}");
            }
            // and a session that is called by it, moves on and makes room, all within a second,
            let ada = User::connect(&client, "Ada").await;
            assert_eq!(ada.session, id);
            settle().await;
            server.restart();
            assert_eq!(echoed(&ada.call(2).await), 2, "{case}");
            settle().await;
            User::connect(&client, "Bob").await;
            settle().await;
            // when it is used, then it is found.
            assert_eq!(echoed(&ada.call(3).await), 3, "{case}");
            assert_eq!(server.whose_was(3).as_deref(), Some("Ada"), "{case}");
        }
    }
}

/// G1: what is open goes on also if it moves just then.
#[tokio::test(start_paused = true)]
async fn n1_g1_a_stream_whose_session_makes_room_while_it_moves_goes_on() {
    for room in [1, 10] {
        // Given a listening stream, whose GET in the new session has yet to be answered,
        let store = FaultyStore::new();
        let scene = live(by_user(store.layer().max_sessions(room))).await;
        settle().await;
        let gets = feed_all(&scene.server, "GET");
        let mut listening = Stream::open(&scene.client, get(&scene.session, None)).await;
        scene.server.restart();
        let gate = hold_answer(&scene.server, "GET");
        assert_eq!(echoed(&scene.call(1).await), 1);
        settle().await;
        assert_eq!(scene.server.count("GET"), 2);
        // when the session makes room,
        let other = with_token(post(None, &initialize()), Some("other"));
        assert_eq!(scene.send(other).await.status, 200);
        settle().await;
        gate.open();
        // then the stream goes on when it has been.
        listening.now().await;
        assert!(listening.is_open(), "room for {room}");
        drop(gets);
    }
}
