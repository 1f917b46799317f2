//! Rules A5 and N1: an id that the server has given to somebody else is another's for whichever
//! process.

use std::time::Duration;

use mcp_session_recovery::Sessions;
use testing::busy::busy;
use testing::mocked::{Answering, Gate, echoed, hold, hold_answer, soon};
use testing::streams::{Stream, feed_all};
use testing::whose::{Ids, User, by_user, initialize_as, with_token};
use testing::*;
use tokio::task::JoinHandle;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
};

/// A server that counts its sessions, and from 1 again once it has restarted.
fn counting() -> Server {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    server
}

/// A user in another process.
fn moved(user: &User, process: &Client) -> User {
    User {
        client: process.clone(),
        ..user.clone()
    }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Calls, in the user's own session.
async fn calls(server: &Server, user: &User, id: u64) {
    let answer = user.call(id).await;
    assert_eq!(echoed(&answer), id);
    let whose = server.whose_was(id);
    assert_eq!(whose.as_deref(), Some(user.name), "call {id}");
    a_while().await;
}

#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_that_a_recovery_was_given_stays_anothers_in_the_next_process() {
    // Given two users, and a recovery of one that was given the id of the other,
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer());
    let bob = User::connect(&process, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    server.restart();
    calls(&server, &ada, 1).await;
    assert_eq!(server.last("tools/call").session(), Some(&*bob.session));
    // when the next process is called, then it is in the session of whoever calls.
    let next = client(&server, store.layer());
    calls(&server, &moved(&bob, &next), 2).await;
    calls(&server, &moved(&ada, &next), 3).await;
    // And nothing is known of an id that was left.
    let third = client(&server, store.layer());
    let handshakes = server.count("initialize");
    calls(&server, &moved(&bob, &third), 4).await;
    assert_eq!(server.count("initialize"), handshakes);
}

#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_that_a_caller_was_given_stays_anothers_in_the_next_process() {
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, by_user(store.layer()));
    let _first = User::connect(&process, "Eve").await;
    let bob = User::connect(&process, "Bob").await;
    a_while().await;
    server.restart();
    let _first = User::connect(&process, "Eve").await;
    let ada = User::connect(&process, "Ada").await;
    assert_eq!(ada.session, bob.session);
    a_while().await;

    let next = client(&server, by_user(store.layer()));
    calls(&server, &moved(&bob, &next), 1).await;
    calls(&server, &moved(&ada, &next), 2).await;
}

/// N3: nor does who knows the session write over that, or go on as if it were not so.
#[tokio::test(start_paused = true)]
async fn a5_n3_that_an_id_is_anothers_is_learned_by_who_writes_the_record() {
    // Given a user who is known to two processes,
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer());
    let bob = User::connect(&process, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    a_while().await;
    let layer = store.layer().session_ttl(Duration::from_secs(240));
    let others = moved(&bob, &client(&server, layer));
    calls(&server, &others, 1).await;
    // when one of them finds his id given away, and the other writes his record once more,
    server.restart();
    calls(&server, &ada, 2).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    // then that one knows, and so does a third.
    let third = moved(&bob, &client(&server, store.layer()));
    calls(&server, &others, 3).await;
    calls(&server, &third, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a5_n4_an_epoch_whose_id_was_given_away_is_not_adopted() {
    // Given a process that has not heard of a user's recovery, whose epoch has expired since,
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer());
    let _first = User::connect(&process, "Eve").await;
    let ada = User::connect(&process, "Ada").await;
    let bob = User::connect(&process, "Bob").await;
    a_while().await;
    let others = moved(&ada, &client(&server, store.layer()));
    calls(&server, &others, 1).await;
    server.restart();
    calls(&server, &ada, 2).await;
    server.restart();
    calls(&server, &bob, 3).await;
    // when it is called there, then what another has by now is not gone on in.
    calls(&server, &others, 4).await;
}

/// A process that knows a user, and another one that knows only another, who is recovered and given the
/// id of the first.
async fn apart(server: &Server, store: &FaultyStore, is_found_before: bool) -> [User; 2] {
    let [process, next] = [(); 2].map(|()| client(server, store.layer()));
    let bob = User::connect(&next, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    a_while().await;
    let others = moved(&ada, &next);
    if is_found_before {
        calls(server, &others, 1).await;
    }
    server.restart();
    calls(server, &ada, 2).await;
    assert_eq!(server.last("tools/call").session(), Some(&*bob.session));
    [bob, others]
}

/// Nobody knows which of the two came later. That of one process comes to be another's where it is
/// found, or adopted (N4), and is from there on for all.
#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_of_two_sessions_is_neithers_where_they_meet() {
    for is_found_before in [false, true] {
        for in_a_third in [false, true] {
            let (server, store) = (counting(), FaultyStore::new());
            let [mut bob, ada] = apart(&server, &store, is_found_before).await;
            calls(&server, &ada, 3).await;
            if in_a_third {
                bob = moved(&bob, &client(&server, store.layer()));
            }
            calls(&server, &bob, 4).await;
            calls(&server, &ada, 5).await;
        }
    }
}

/// N4: also of an epoch that is adopted, and that is this process's own to give away.
#[tokio::test(start_paused = true)]
async fn a5_n4_an_epoch_is_not_adopted_with_an_id_that_is_anothers_here() {
    // Given a process that recovered Ada, and is restarted with its server, so that another one recovers Bob
    // and is given the same id,
    let (server, store) = (counting(), FaultyStore::new());
    let [process, next] = [(); 2].map(|()| client(&server, store.layer()));
    let bob = User::connect(&process, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    // (The server has handed out a third id, so that nobody is ever "2" again.)
    let _third = User::connect(&process, "Eve").await;
    a_while().await;
    let others = moved(&ada, &next);
    calls(&server, &others, 1).await;
    server.restart();
    calls(&server, &others, 2).await;
    server.restart();
    calls(&server, &bob, 3).await;
    assert_eq!(server.last("tools/call").session(), Some("1"));
    // when Ada comes back to that, then she is not taken into his session.
    for call in 4..8 {
        calls(&server, if call % 2 == 0 { &ada } else { &bob }, call).await;
    }
}

/// A user's session that has made room while it is listening, and been recovered, if it is called, by another
/// process, where somebody else is given its id after that.
async fn found_again(is_called: bool) -> (Server, FaultyStore, User, Stream, String) {
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer().max_sessions(1));
    let other = client(&server, store.layer());
    let bob = User::connect(&other, "Bob").await;
    let ada = stored(&process, "Ada").await;
    let stream = Stream::open(&process, get(&ada.session, None)).await;
    let eve = moved(&stored(&process, "Eve").await, &other);
    a_while().await;
    let others = moved(&ada, &other);
    calls(&server, &others, 1).await;
    server.restart();
    match is_called {
        true => calls(&server, &others, 2).await,
        false => calls(&server, &eve, 2).await,
    }
    calls(&server, &bob, 3).await;
    let bobs = server.last("tools/call").session().unwrap().to_owned();
    assert_eq!(bobs, ada.session);
    // What is read is known before it is written.
    store.set(Mode::Late(Duration::from_millis(2)));
    (server, store, ada, stream, bobs)
}

/// N1, I1: what is read of a session that is in use is known, too.
#[tokio::test(start_paused = true)]
async fn a5_n1_what_is_found_again_goes_on_in_no_epoch_that_the_store_knows_to_be_over() {
    for is_called in [true, false] {
        for ends in [false, true] {
            let (server, _store, ada, _stream, bobs) = found_again(is_called).await;
            match ends {
                true => drop(ada.delete().await),
                false => calls(&server, &ada, 4).await,
            }
            a_while().await;
            assert!(server.live().contains(&bobs), "{is_called}, {ends}");
        }
    }
}

/// D7, N1: who only watches is not kept from where the store says that the session is.
#[tokio::test(start_paused = true)]
async fn d7_n1_a_service_that_only_watches_goes_on_where_the_store_says() {
    for is_in_use in [false, true] {
        // Given a session that has made room in such a service, and may be in use there,
        let (server, store) = (Server::new(Profile::TypeScriptJson), FaultyStore::new());
        let watching = store.layer().reinitialize(false).max_sessions(1);
        let watching = client(&server, watching);
        let ada = stored(&watching, "Ada").await;
        let _feeders = feed_all(&server, "GET");
        let _stream = match is_in_use {
            true => Some(Stream::open(&watching, get(&ada.session, None)).await),
            false => None,
        };
        stored(&watching, "Eve").await;
        // when another process has gone on, though it did not have to, then it goes on there.
        let other = moved(&ada, &client(&server, store.layer()));
        let mut is_first = true;
        server.on(move |seen| {
            let is_stray = seen.what() == "tools/call" && std::mem::take(&mut is_first);
            is_stray.then(|| reply(404, None, ""))
        });
        calls(&server, &other, 1).await;
        for call in 2..4 {
            calls(&server, &ada, call).await;
        }
    }
}

/// B5: also while another service looks for it in the store.
#[tokio::test(start_paused = true)]
async fn b5_n1_who_renews_a_session_that_is_looked_for_goes_on_by_its_id() {
    for is_looked_for in [false, true] {
        // Given two services of one process, one of which is slow to find a session of a server with one id
        // for all, that the other one has found,
        let (server, store) = (Server::new(Profile::TypeScriptSingle), FaultyStore::new());
        server.set_ids(Ids::Constant);
        let slow = store.another_way();
        slow.set(Mode::Slow(Duration::from_millis(200)));
        let ada = stored(&client(&server, store.layer()), "Ada").await;
        let sessions = Sessions::new();
        let [one, other] = [&store, &slow].map(|store| {
            let layer = store.layer().sessions(sessions.clone());
            moved(&ada, &client(&server, layer))
        });
        let looking = is_looked_for.then(|| tokio::spawn(async move { other.call(1).await }));
        settle().await;
        assert_eq!(one.call(2).await.status, 200);
        // when it is renewed, then its caller goes by the same id.
        let renewed = one
            .send(post(Some(&ada.session), &initialize_as("Ada")))
            .await;
        assert_eq!(renewed.session(), Some(&*ada.session));
        if let Some(looking) = looking {
            assert_eq!(looking.await.unwrap().status, 200);
        }
    }
}

/// F2: a response is not sent to a session that is over.
#[tokio::test(start_paused = true)]
async fn a5_f2_a_response_enters_no_session_that_the_store_knows_to_be_over() {
    let (server, _store, ada, _stream, _bobs) = found_again(true).await;
    let response = serde_json::json!({"jsonrpc": "2.0", "id": 77, "result": {}});
    ada.send(post(Some(&ada.session), &response)).await;
    assert_eq!(server.whose_was(77), None);
}

/// That two have expired does not say that the id is nobody's: a third who is found with it has, too.
#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_of_three_sessions_is_noones() {
    for is_adopted in [false, true] {
        // Given three users, each of whom was "1" at some time, the last of them rightly so, and each in a
        // process of its own,
        let (server, store) = (counting(), FaultyStore::new());
        let process = || client(&server, store.layer());
        let (first, next) = (process(), process());
        let [ada, bob, eve] = [
            stored(&first, "Ada").await,
            stored(&first, "Bob").await,
            stored(&first, "Eve").await,
        ];
        let here = |user: &User| moved(user, &next);
        if is_adopted {
            calls(&server, &here(&ada), 0).await;
        }
        server.restart();
        calls(&server, &moved(&bob, &process()), 1).await;
        server.restart();
        calls(&server, &moved(&eve, &process()), 2).await;
        // when all of them come to one process, then each is in a session of its own there.
        for (user, call) in [&eve, &bob, &ada, &eve, &bob, &ada].into_iter().zip(3..) {
            calls(&server, &here(user), call).await;
        }
    }
}

/// I3: nor is it ended in that one's place.
#[tokio::test(start_paused = true)]
async fn i3_a5_what_two_sessions_had_is_not_ended_with_a_third() {
    // Given Ada, who is "1" rightly so, and Bob and Eve, whom other processes have had as "1" before,
    let (server, store) = (counting(), FaultyStore::new());
    let process = || client(&server, store.layer());
    let here = process();
    let [ada, bob, eve] = [
        stored(&here, "Ada").await,
        stored(&here, "Bob").await,
        stored(&here, "Eve").await,
    ];
    server.restart();
    calls(&server, &moved(&bob, &process()), 1).await;
    server.restart();
    calls(&server, &moved(&eve, &process()), 2).await;
    server.restart();
    calls(&server, &ada, 3).await;
    // when Bob meets her there, and Eve ends, then hers is not ended.
    let gate = hold_answer(&server, "tools/list");
    let listing = tokio::spawn({
        let ada = ada.clone();
        let list = serde_json::json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
        async move { ada.send(post(Some(&ada.session), &list)).await }
    });
    settle().await;
    calls(&server, &bob, 4).await;
    eve.delete().await;
    a_while().await;
    assert!(server.live().contains(&ada.session));
    gate.open();
    assert_eq!(soon(listing).await.unwrap().status, 200);
}

/// A user whose session the store knows.
async fn stored(client: &Client, name: &'static str) -> User {
    let user = User::connect(client, name).await;
    settle().await;
    user
}

/// A user's change of state that is under way, and what lets its answer through.
fn change_late(server: &Server, user: &User) -> (Gate, JoinHandle<Answer>) {
    let gate = hold_answer(server, "resources/subscribe");
    let subscribe = change("resources/subscribe", "file:///a");
    let user = user.clone();
    let changing =
        tokio::spawn(async move { user.send(post(Some(&user.session), &subscribe)).await });
    (gate, changing)
}

/// I2, H1: a session that has made room, and another that was given its id later, and made room as well.
#[tokio::test(start_paused = true)]
async fn a5_i2_what_made_room_does_not_come_back_in_the_place_of_a_later_session() {
    // Given A with a change under way, which has made room, and B, who was given its id after that, and
    // has made room, too,
    let store = FaultyStore::new();
    let server = counting();
    let client = client(&server, store.layer().max_sessions(1));
    let a = stored(&client, "A").await;
    let (gate, changing) = change_late(&server, &a);
    settle().await;
    stored(&client, "C").await;
    server.restart();
    let b = stored(&client, "B").await;
    stored(&client, "D").await;
    assert_eq!((&*a.session, &*b.session), ("1", "1"));
    // when A's answer is there, and all is lost,
    gate.open();
    assert_eq!(soon(changing).await.unwrap().status, 200);
    settle().await;
    // then B is B, before and after that.
    for call in [50, 51] {
        assert_eq!(b.call(call).await.status, 200);
        assert_eq!(server.whose_was(call).as_deref(), Some("B"));
        server.restart();
    }
}

/// I1: a server with one id for everybody, as far as anybody knows.
#[tokio::test(start_paused = true)]
async fn a5_i2_a_session_that_comes_back_is_nobody_elses_than_its_own() {
    for makes_room in [false, true] {
        // Given A, whose id is the only one that the server has ever given, and who may have made room
        // for somebody elsewhere and come back,
        let store = FaultyStore::new();
        let server = counting();
        let client = client(&server, store.layer().max_sessions(1));
        let a = stored(&client, "A").await;
        if makes_room {
            let (gate, changing) = change_late(&server, &a);
            settle().await;
            let elsewhere = loopback::to("http://other.test/mcp", post(None, &initialize_as("C")));
            assert_eq!(send(&client, elsewhere).await.status, 200);
            settle().await;
            gate.open();
            assert_eq!(soon(changing).await.unwrap().status, 200);
            assert_eq!(a.call(1).await.status, 200);
        }
        // when a recovery leaves a session half-open, then its caller may end it.
        server.restart();
        server
            .on(|seen| (seen.what() == "notifications/initialized").then(|| reply(500, None, "")));
        assert_eq!(a.call(2).await.status, 404);
        settle().await;
        assert_eq!((server.live().len(), server.count("DELETE")), (1, 0));
        a.delete().await;
        settle().await;
        assert!(server.live().is_empty(), "made room: {makes_room}");
    }
}

/// N3: the record says whose it is.
#[tokio::test(start_paused = true)]
async fn a5_n3_a_record_of_a_later_session_is_not_what_made_room_under_its_key() {
    // Given A, which goes by "2" and is "1" on the server, with a change under way,
    let store = FaultyStore::new();
    let server = counting();
    let one = client(&server, store.layer().max_sessions(1));
    let other = client(&server, store.layer());
    User::connect(&other, "X").await;
    let a = stored(&one, "A").await;
    server.restart();
    assert_eq!(a.call(40).await.status, 200);
    settle().await;
    let (gate, changing) = change_late(&server, &a);
    settle().await;
    // and B, who is given "2" by way of another process,
    let mut b = stored(&other, "B").await;
    assert_eq!(b.session, "2");
    // when A has made room, and B comes to its process, then B is B.
    stored(&one, "C").await;
    b.client = one.clone();
    assert_eq!(b.call(50).await.status, 200);
    assert_eq!(server.whose_was(50).as_deref(), Some("B"));
    gate.open();
    assert_eq!(soon(changing).await.unwrap().status, 200);
}

/// A, who goes by "4", and is "1" on the server.
async fn renumbered(server: &Server, client: &Client) -> User {
    for name in ["X", "Y", "Z"] {
        User::connect(client, name).await;
    }
    let a = stored(client, "A").await;
    server.restart();
    assert_eq!(a.call(40).await.status, 200);
    settle().await;
    a
}

/// E1: what comes back has lost its session if the server has given its id away meanwhile.
#[tokio::test(start_paused = true)]
async fn a5_i2_what_comes_back_is_not_sent_under_an_id_that_was_given_away_meanwhile() {
    // Given A, which goes by "4" and is "1" on the server, and has made room with a change under way,
    let store = FaultyStore::new();
    let server = counting();
    let client = client(&server, store.layer().max_sessions(1));
    let a = renumbered(&server, &client).await;
    let (gate, changing) = change_late(&server, &a);
    settle().await;
    stored(&client, "C").await;
    // and B, who was given "1" after that, and has made room, too,
    server.restart();
    let b = stored(&client, "B").await;
    assert_eq!(b.session, "1");
    stored(&client, "D").await;
    // when A goes on, then it is A.
    gate.open();
    assert_eq!(soon(changing).await.unwrap().status, 200);
    settle().await;
    assert_eq!(a.call(60).await.status, 200);
    assert_eq!(server.whose_was(60).as_deref(), Some("A"));
}

/// B4, B5: who initializes in a session that makes room meanwhile.
#[tokio::test(start_paused = true)]
async fn b5_i2_a_session_that_makes_room_while_it_is_renewed_is_renewed() {
    // Given A, which goes by "4" and is "1" on the server, and initializes in that again,
    let store = FaultyStore::new();
    let server = counting();
    let client = client(&server, store.layer().max_sessions(1));
    let a = renumbered(&server, &client).await;
    let (sender, opened) = tokio::sync::watch::channel(false);
    server.on_async(move |seen| {
        let renews = seen.what() == "initialize" && seen.session().is_some();
        let (id, mut opened) = (seen.message()["id"].clone(), opened.clone());
        renews.then(|| {
            Box::pin(async move {
                let _ = opened.wait_for(|open| *open).await;
                let result = serde_json::json!({
                    "protocolVersion": "2025-11-25", "capabilities": {},
                    "serverInfo": {"name": "counts", "version": "1"},
                });
                let result = serde_json::json!({"jsonrpc": "2.0", "id": id, "result": result});
                let mut reply = json_reply(200, &result);
                reply.headers_mut().insert(SESSION_ID, "1".parse().unwrap());
                Ok(reply)
            }) as Answering
        })
    });
    let renewing = tokio::spawn({
        let (client, request) = (client.clone(), post(Some(&a.session), &initialize_as("A2")));
        async move { send(&client, with_token(request, Some("A"))).await }
    });
    settle().await;
    // when it has made room by the time that the server has answered with the same,
    stored(&client, "C").await;
    sender.send_replace(true);
    let renewed = soon(renewing).await.unwrap();
    assert_eq!((renewed.status, renewed.session()), (200, Some("4")));
    settle().await;
    // then it is the new one that is recovered.
    server.restart();
    assert_eq!(a.call(60).await.status, 200);
    assert_eq!(server.whose_was(60).as_deref(), Some("A2"));
}

/// N6: nor is the record of a later session taken for that.
#[tokio::test(start_paused = true)]
async fn n6_a5_a_session_that_ends_before_it_is_stored_leaves_a_later_one_under_its_key() {
    for is_away in [false, true] {
        // Given A, who ends before the store of that process has heard of it,
        let store = FaultyStore::new();
        let own = store.another_way();
        let server = counting();
        let [process, other] = [&own, &store].map(|store| client(&server, store.layer()));
        if is_away {
            own.set(Mode::Down);
        }
        let a = stored(&process, "A").await;
        assert_eq!(a.delete().await.status, 200);
        a_while().await;
        // when B is given A's id in another process, and the store is back,
        server.restart();
        let b = stored(&other, "B").await;
        assert_eq!(b.session, a.session);
        own.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        // then B is there for the next one.
        server.restart();
        calls(&server, &moved(&b, &client(&server, store.layer())), 1).await;
    }
}

/// B4, N6: what has the key of a session that no store has heard of is an earlier one's.
#[tokio::test(start_paused = true)]
async fn n6_a5_a_session_that_ends_before_it_is_stored_leaves_no_earlier_one_under_its_key() {
    for renews in [false, true] {
        // Given A, whom the store knows, and B, who is given A's id, and ends that while the store is away,
        let store = FaultyStore::new();
        let server = counting();
        let process = client(&server, store.layer());
        stored(&process, "A").await;
        server.restart();
        store.set(Mode::Down);
        let mut b = stored(&process, "B").await;
        assert_eq!(b.session, "1");
        assert_eq!(b.delete().await.status, 200);
        // and may be given it once more,
        if renews {
            server.restart();
            b = stored(&process, "C").await;
            assert_eq!(b.session, "1");
        }
        // when the store is back, then nobody is found under it, or who has it now.
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let stored = store.values().await.concat();
        assert!(!stored.contains(r#""A""#) && !stored.contains(r#""B""#));
        assert_eq!(stored.contains(r#""C""#), renews);
        server.restart();
        let next = moved(&b, &client(&server, store.layer()));
        for user in [b, next] {
            assert_eq!(user.call(1).await.status, if renews { 200 } else { 404 });
            assert_eq!(server.whose_was(1).as_deref(), renews.then_some("C"));
        }
    }
}

/// What waits for the inner service when the session has been recovered.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// A request that is sent again.
    Replay,
    /// One that has come during the recovery.
    Late,
}

/// E1, E3: whose the session's id is, is looked at when the service is ready.
#[tokio::test(start_paused = true)]
async fn a5_e3_what_waits_for_the_service_enters_no_session_that_was_given_its_id_meanwhile() {
    for waits in [Waits::Replay, Waits::Late] {
        for (room, is_given_away) in [(1, true), (10, true), (1, false)] {
            let case = format!("{waits:?}, room for {room}, given away {is_given_away}");
            // Given Ada's call, which is to be sent in her new session when the service is ready,
            let (server, store) = (counting(), FaultyStore::new());
            let (client, load) = busy(&server, by_user(store.layer().max_sessions(room)));
            User::connect(&client, "Eve").await;
            let ada = User::connect(&client, "Ada").await;
            settle().await;
            server.restart();
            load.keep_waiting_after(&server, "notifications/initialized", 1);
            let gate = hold(&server, "initialize");
            let mut calling = ada.spawn_call(1);
            settle().await;
            if let Waits::Late = waits {
                let trigger = std::mem::replace(&mut calling, ada.spawn_call(2));
                settle().await;
                trigger.abort();
            }
            gate.open();
            settle().await;
            assert!(load.is_waited_for(), "{case}");
            assert_eq!(server.live(), ["1"], "{case}");
            // when that makes room, and its id is given away,
            User::connect(&client, "Carol").await;
            settle().await;
            if is_given_away {
                server.restart();
                assert_eq!(User::connect(&client, "Bob").await.session, "1");
            }
            // then it is carried out in a session of hers.
            let id = match waits {
                Waits::Replay => 1,
                Waits::Late => 2,
            };
            assert_eq!(echoed(&soon(calling).await.unwrap()), id, "{case}");
            assert_eq!(server.whose_was(id).as_deref(), Some("Ada"), "{case}");
        }
    }
}

/// N1: who is looked for, and who is given the same id then, are two.
#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_that_is_looked_for_in_the_store_is_given_to_no_new_caller() {
    for is_slow in [true, false] {
        // Given Ada, who goes by "2" and is "1" on the server, and comes to a new process, whose store
        // takes its time,
        let (server, store) = (counting(), FaultyStore::new());
        let process = client(&server, store.layer());
        User::connect(&process, "Eve").await;
        let ada = stored(&process, "Ada").await;
        server.restart();
        calls(&server, &ada, 1).await;
        let next = client(&server, store.layer());
        let ada = moved(&ada, &next);
        if is_slow {
            store.set(Mode::Late(Duration::from_millis(100)));
        }
        let calling = ada.spawn_call(2);
        settle().await;
        // when the server gives "2" to Bob there meanwhile,
        let bob = User::connect(&next, "Bob").await;
        assert_eq!(
            server.last("notifications/initialized").session(),
            Some("2")
        );
        // then she is answered in her own session, and he in his.
        assert_eq!(echoed(&soon(calling).await.unwrap()), 2);
        assert_eq!(server.whose_was(2).as_deref(), Some("Ada"), "{is_slow}");
        store.set(Mode::Works);
        calls(&server, &bob, 3).await;
        calls(&server, &ada, 4).await;
    }
}

/// B4, I3: nobody can name what was made for a session whose id another one has by now.
#[tokio::test(start_paused = true)]
async fn i3_b4_what_a_recovery_made_for_a_session_that_is_replaced_meanwhile_is_ended() {
    for is_replaced in [true, false] {
        // Given Ada's recovery, which the store has, and has yet to say so,
        let (server, store) = (counting(), FaultyStore::new());
        let client = client(&server, store.layer());
        User::connect(&client, "Eve").await;
        let ada = stored(&client, "Ada").await;
        server.restart();
        let gate = hold(&server, "initialize");
        let calling = ada.spawn_call(1);
        settle().await;
        store.set(Mode::Late(Duration::from_millis(100)));
        gate.open();
        settle().await;
        store.set(Mode::Works);
        assert_eq!(server.live(), ["1"]);
        // when the server gives the id that she goes by to Bob, who takes her place,
        if is_replaced {
            assert_eq!(User::connect(&client, "Bob").await.session, ada.session);
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        // then what was made for her is ended.
        let expected = if is_replaced { (404, "2") } else { (200, "1") };
        assert_eq!(soon(calling).await.unwrap().status, expected.0);
        assert_eq!(server.live(), [expected.1]);
    }
}
