//! A5: the ids that callers go by are the layer's own name space. Servers that count their sessions,
//! and have been restarted, hand out the id of one caller's session to another.

use std::time::Duration;

use http::Request;
use mcp_session_recovery::{
    Failure, Outcome, Refusal, RequestBody, SessionRecoveryLayer, Sessions,
};
use serde_json::json;
use testing::scenario::{Door, Events, answer, fail, is, slow, start};
use testing::streams::{Fed, Stream};
use testing::whose::*;
use testing::*;
use tower::{Layer, ServiceExt, service_fn};

fn counting(layer: SessionRecoveryLayer) -> (Server, Client) {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let client = client(&server, layer);
    (server, client)
}

/// Ada goes by "1" and Bob by "2". The server was restarted, and Bob's session is "1" there now.
async fn bob_has_adas_id() -> (Server, User, User) {
    let (server, client) = counting(SessionRecoveryLayer::new());
    let ada = User::connect(&client, "Ada").await;
    let bob = User::connect(&client, "Bob").await;
    assert_eq!((&*ada.session, &*bob.session), ("1", "2"));
    server.restart();
    let recovered = bob.call(1).await;
    assert_eq!(recovered.outcome(), Some(Outcome::Replayed));
    assert_eq!(server.last("tools/call").session(), Some("1"));
    (server, ada, bob)
}

/// What was carried out in Bob's session, but for Bob's own call.
fn in_bobs(server: &Server) -> Vec<String> {
    let carried_out = server.carried_out().into_iter();
    carried_out
        .filter(|(name, message)| {
            name == "Bob" && message["method"] != "notifications/initialized" && message["id"] != 1
        })
        .map(|(_, message)| message.to_string())
        .collect()
}

/// A5: everyone's calls are carried out in their own session, whoever recovers first and whatever
/// the server calls it, and so do they end.
#[tokio::test(start_paused = true)]
async fn a5_servers_that_count_mix_up_nobody() {
    // Given three callers of a server that counts, the third of whom is handed out the number of the
    // second one after a restart,
    let (server, ada, bob) = bob_has_adas_id().await;
    let carol = User::connect(&ada.client, "Carol").await;
    assert_eq!(
        server.last("notifications/initialized").session(),
        Some("2")
    );
    assert!(!["1", "2"].contains(&&*carol.session), "{}", carol.session);

    // when all of them go on, through more restarts, in any order,
    let everyone = [&ada, &bob, &carol];
    let mut id = 10;
    for round in 0..6 {
        for turn in 0..6 {
            let user = everyone[(turn * (round + 1) + round) % 3];
            id += 1;
            // then each call is carried out in the caller's own session,
            let answer = user.call(id).await;
            assert_eq!(answer.status, 200, "{} {id}", user.name);
            assert_eq!(answer.session(), Some(&*user.session));
            assert_eq!(server.whose_was(id).as_deref(), Some(user.name));
        }
        server.restart();
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    for (number, user) in everyone.iter().enumerate() {
        user.call(100 + number as u64).await;
    }

    // and ending one ends that one.
    assert_eq!(bob.delete().await.status, 200);
    assert_eq!(server.carried_out().last().unwrap().0, "Bob");
    for (number, user) in [&ada, &carol].into_iter().enumerate() {
        let answer = user.call(200 + number as u64).await;
        assert_eq!(
            (answer.status, answer.recovery),
            (200, None),
            "{}",
            user.name
        );
    }
    assert_eq!(bob.call(300).await.status, 404);
    assert_eq!(server.whose_was(300), None);
}

/// A5: who lost the id to another is recovered at the next call, before the call is sent.
#[tokio::test(start_paused = true)]
async fn a5_a_session_whose_id_went_to_another_is_recovered_before_its_next_request() {
    let (server, ada, _) = bob_has_adas_id().await;
    let answer = ada.call(2).await;
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::Waited))
    );
    assert_eq!(server.whose_was(2).as_deref(), Some("Ada"));
    assert_eq!(server.count("tools/call"), 3, "Bob's two and this one");
    assert_eq!(in_bobs(&server), [""; 0]);
}

/// A5, J1, J2: nor does a recovery that fails let its requests into the session of another, who has
/// the id now. What the server would say to an id that it does not know is 404.
#[tokio::test(start_paused = true)]
async fn a5_a_recovery_that_fails_lets_nobody_into_the_session_of_another() {
    type Break = fn(&Server);
    let broken: [(Break, u16, Failure); 4] = [
        (
            |server| fail(server, "initialize", "refused"),
            404,
            Failure::Transport,
        ),
        (
            |server| answer(server, "initialize", |_| reply(503, None, "")),
            404,
            Failure::Refused(http::StatusCode::SERVICE_UNAVAILABLE),
        ),
        (
            |server| answer(server, "initialize", |_| reply(401, None, "")),
            401,
            Failure::Denied(http::StatusCode::UNAUTHORIZED),
        ),
        (
            |server| testing::scenario::hang(server, "initialize"),
            404,
            Failure::TimedOut,
        ),
    ];
    for (script, status, failure) in broken {
        let (server, ada, bob) = bob_has_adas_id().await;
        script(&server);
        let answer = ada.call(2).await;
        assert_eq!(answer.status, status, "{failure}");
        assert_eq!(answer.outcome(), Some(Outcome::Failed(failure)));
        // In the pause as well.
        let session = Some(&*ada.session);
        let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
        for request in [
            post(session, &tool_call(3)),
            post(session, &response),
            post(session, &initialized()),
            get(&ada.session, None),
            get(&ada.session, Some("7")),
            request(http::Method::PUT, session, "{}"),
        ] {
            let answer = ada.send(request).await;
            assert!(answer.status >= 400, "{failure}");
        }
        assert_eq!(in_bobs(&server), [""; 0], "{failure}");
        let alive = bob.call(4).await;
        assert_eq!((alive.status, alive.recovery), (200, None));
    }
}

/// A5, D7, I1: to end a session that is gone no handshake is made, and nobody else's is ended.
#[tokio::test(start_paused = true)]
async fn a5_a_delete_of_a_session_whose_id_went_to_another_ends_nothing() {
    let (server, ada, bob) = bob_has_adas_id().await;
    let handshakes = server.count("initialize");
    let ended = ada.delete().await;
    assert_eq!(ended.status, 404);
    assert_eq!(server.count("initialize"), handshakes);
    assert_eq!(in_bobs(&server), [""; 0]);
    assert_eq!(bob.call(2).await.status, 200);
    // I1: it is forgotten.
    let after = ada.call(3).await;
    assert_eq!(after.recovery, None);
}

/// A5, D7: what is no POST and no GET starts no recovery either.
#[tokio::test(start_paused = true)]
async fn a5_other_methods_start_no_recovery_of_a_session_whose_id_went_to_another() {
    let (server, ada, _) = bob_has_adas_id().await;
    let handshakes = server.count("initialize");
    for method in [http::Method::HEAD, http::Method::OPTIONS, http::Method::PUT] {
        let answer = ada.send(request(method, Some(&ada.session), "")).await;
        assert_eq!(answer.status, 404);
    }
    assert_eq!(server.count("initialize"), handshakes);
    assert_eq!(in_bobs(&server), [""; 0]);
}

/// A5, D7: nor does any request with `reinitialize(false)`. The layer tells of it, where the server
/// cannot be asked.
#[tokio::test(start_paused = true)]
async fn a5_d7_without_reinitializing_an_id_that_went_to_another_is_only_told() {
    let layer = by_user(SessionRecoveryLayer::new());
    let (layer, events) = Events::of(layer.reinitialize(false));
    // Given Ada, whose "1" the server has given to Bob, which the layer has seen,
    let (server, client) = counting(layer);
    let ada = User::connect(&client, "Ada").await;
    server.restart();
    let bob = User::connect(&client, "Bob").await;
    assert_eq!((&*ada.session, &*bob.session), ("1", "1"));
    let before = server.log();

    // when she goes on, in whatever way,
    let id = &*ada.session;
    let late = Script::new().yields().data(tool_call(2).to_string());
    for request in [
        post(Some(id), &tool_call(2)),
        mocked::posting(id, late),
        post(Some(id), &initialized()),
        post(Some(id), &json!({"jsonrpc": "2.0", "id": 3, "result": {}})),
        get(id, None),
        get(id, Some("7")),
        request(http::Method::HEAD, Some(id), ""),
    ] {
        let answer = ada.send(request).await;
        // then nothing is sent to anybody.
        assert_eq!(
            (answer.status, answer.outcome()),
            (404, Some(Outcome::Detected))
        );
    }
    assert_eq!(server.log(), before);
    assert!(events.all().is_empty());

    // She may begin anew, and Bob has noticed nothing.
    let mut ada = ada;
    ada.initialize().await;
    assert_eq!(ada.call(4).await.status, 200);
    assert_eq!(server.whose_was(4).as_deref(), Some("Ada"));
    assert_eq!(bob.call(5).await.recovery, None);
    assert_eq!(server.whose_was(5).as_deref(), Some("Bob"));
}

/// A5, B5: an `initialize` that carries an id which is another's by now.
#[tokio::test(start_paused = true)]
async fn a5_an_initialize_in_a_session_whose_id_went_to_another_makes_one_of_its_own() {
    let (server, mut ada, bob) = bob_has_adas_id().await;
    let message = initialize_as("Ada");
    let made = ada.send(post(Some(&ada.session), &message)).await;
    assert_eq!(made.status, 200);
    ada.session = made.session().unwrap().to_owned();
    assert_eq!(ada.call(2).await.status, 200);
    assert_eq!(server.whose_was(2).as_deref(), Some("Ada"));
    assert_eq!(in_bobs(&server), [""; 0]);
    assert_eq!(bob.call(3).await.status, 200);
    assert_eq!(server.whose_was(3).as_deref(), Some("Bob"));
}

/// A5, B4, B5: who renews a session goes on by its own id, and whoever else had the id that the
/// server hands out for that is still on record.
#[tokio::test(start_paused = true)]
async fn a5_b4_who_renews_a_session_pushes_nobody_out() {
    // Given Bob, whose session is "1" on the server, as Ada's was,
    let (server, ada, bob) = bob_has_adas_id().await;
    // when he initializes in it, on a server that counts from 1 again and looks at no id there,
    server.restart();
    let behind = server.clone();
    answer(&server, "initialize", move |seen| {
        let mut seen = seen.clone();
        seen.headers.remove(SESSION_ID);
        behind.default_answer(&seen)
    });
    let renewal = post(Some(&bob.session), &initialize_as("Bob"));
    let made = bob.send(renewal).await;
    assert_eq!((made.status, made.session()), (200, Some("2")));
    // then both go on in sessions of their own.
    assert_eq!(ada.call(2).await.status, 200);
    assert_eq!(server.whose_was(2).as_deref(), Some("Ada"));
    assert_eq!(bob.call(3).await.status, 200);
    assert_eq!(server.whose_was(3).as_deref(), Some("Bob"));
    assert_eq!(in_bobs(&server).len(), 1);
}

/// A5, F2: a response to a question of the old session, which waits for the new one, is not sent
/// under an id that is another's by now.
#[tokio::test(start_paused = true)]
async fn a5_a_response_is_not_let_into_the_session_of_another() {
    let (server, ada, _) = bob_has_adas_id().await;
    let door = Door::before(&server, is("initialize"));
    let leading = start(
        &ada.client,
        with_token(post(Some("1"), &tool_call(2)), Some("Ada")),
    );
    settle().await;
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {"of": "Ada"}});
    let answering = start(
        &ada.client,
        with_token(post(Some("1"), &response), Some("Ada")),
    );
    settle().await;
    door.open();
    assert_eq!(leading.await.unwrap().status, 200);
    let answer = answering.await.unwrap();
    let refused = Outcome::NotReplayed(Refusal::Response);
    assert_eq!((answer.status, answer.outcome()), (404, Some(refused)));
    assert_eq!(in_bobs(&server), [""; 0]);
}

/// A5, G4: a stream of a session that is gone is not asked for in the session of another, whom the
/// server calls as the caller is called.
#[tokio::test(start_paused = true)]
async fn a5_an_unknown_last_event_id_is_not_sent_to_the_session_of_another() {
    // Given Bob, who goes by "2", which is Ada's on the server,
    let (server, ada, bob) = bob_has_adas_id().await;
    ada.call(2).await;
    assert_eq!(server.last("tools/call").session(), Some("2"));
    // when he asks to resume what a dead session of his had, and that turns out while he waits,
    server.restart();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let asked = server.count("GET");
    let answer = bob.send(get(&bob.session, Some("unknown"))).await;
    // then his GET went to his own session alone.
    let refused = Outcome::NotReplayed(Refusal::LastEventId);
    assert_eq!((answer.status, answer.outcome()), (404, Some(refused)));
    assert_eq!(server.count("GET"), asked + 1);

    // The same for one that waits for the recovery.
    server.restart();
    tokio::time::sleep(Duration::from_secs(20)).await;
    ada.call(3).await;
    ada.call(4).await;
    let door = Door::before(&server, is("initialize"));
    let leading = start(
        &bob.client,
        with_token(post(Some("2"), &tool_call(5)), Some("Bob")),
    );
    settle().await;
    let resuming = start(
        &bob.client,
        with_token(get("2", Some("unknown")), Some("Bob")),
    );
    settle().await;
    door.open();
    assert_eq!(leading.await.unwrap().status, 200);
    let answer = resuming.await.unwrap();
    assert_eq!(answer.status, 404);
    let in_adas = server.carried_out().into_iter();
    let gets = in_adas.filter(|(name, message)| name == "Ada" && message["method"] == "GET");
    assert_eq!(gets.count(), 0);
}

/// A5, C1, C2: an id of the layer's making is translated from epoch 0 on, in both directions, and in
/// every kind of request.
#[tokio::test(start_paused = true)]
async fn a5_an_id_of_the_layers_making_is_translated_from_the_first_epoch_on() {
    let (server, _, bob) = bob_has_adas_id().await;
    let carol = User::connect(&bob.client, "Carol").await;
    let made = carol.session.as_str();
    assert_eq!(made.len(), 36);
    let upstream = Some("2");
    let accepted = server.last("notifications/initialized");
    assert_eq!(accepted.session(), upstream);
    assert_eq!(accepted.header(PROTOCOL_VERSION), Some(VERSION));
    assert!(accepted.headers[SESSION_ID].is_sensitive(), "L2");
    let answer = carol.call(2).await;
    assert_eq!((answer.session(), answer.recovery), (Some(made), None));
    let listening = tower::ServiceExt::oneshot(carol.client.clone(), get(made, None)).await;
    assert_eq!(listening.unwrap().headers()[SESSION_ID], made);
    assert_eq!(server.last("GET").session(), upstream);
    assert_eq!(carol.delete().await.status, 200);
    assert_eq!(server.last("DELETE").session(), upstream);
    // Bob's is where it was.
    let answer = bob.call(3).await;
    assert_eq!((answer.status, answer.recovery), (200, None));
}

/// A5, I2: the server's session behind an id of the layer's making can be named by nobody else, so
/// it is ended when it is forgotten.
#[tokio::test(start_paused = true)]
async fn a5_an_evicted_session_with_an_id_of_the_layers_making_is_ended() {
    let (server, client) = counting(SessionRecoveryLayer::new().max_sessions(2));
    let bob = User::connect(&client, "Bob").await;
    server.restart();
    server.set_ids(Ids::Unique);
    bob.call(1).await;
    server.set_ids(Ids::Counting);
    server.restart();
    let carol = User::connect(&client, "Carol").await;
    assert_ne!(carol.session, "1");
    server.set_ids(Ids::Unique);
    bob.call(2).await;
    let _dave = User::connect(&client, "Dave").await;
    settle().await;
    let ended = server.last("DELETE");
    assert_eq!(ended.session(), Some("1"));
    assert_eq!(ended.header("authorization"), Some("Bearer Carol"));
}

/// A5, I3: a server with one id for all. The layer ends none that a live record names.
#[tokio::test(start_paused = true)]
async fn a5_one_id_for_all_and_the_layer_ends_nobodys_session() {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Constant);
    let sessions = Sessions::new();
    let client = client(
        &server,
        SessionRecoveryLayer::new().sessions(sessions.clone()),
    );
    let ada = User::connect(&client, "Ada").await;
    // A recovery that fails half way.
    server.restart();
    answer(&server, "notifications/initialized", |_| {
        reply(500, None, "")
    });
    assert_eq!(ada.call(1).await.status, 404);
    settle().await;
    assert_eq!(server.count("DELETE"), 0);
    testing::scenario::heal(&server);
    tokio::time::sleep(Duration::from_secs(20)).await;
    server.restart();
    let answer = ada.call(2).await;
    assert_eq!((answer.status, answer.session()), (200, Some("constant")));
    settle().await;
    assert_eq!(server.count("DELETE"), 0);

    // B4: a second `initialize` answered with the same id is the one to repeat.
    let _second = User::connect(&client, "Eve").await;
    assert_eq!(sessions.len(), 1);
    server.restart();
    assert_eq!(ada.call(3).await.status, 200);
    assert_eq!(server.whose_was(3).as_deref(), Some("Eve"));
}

/// A5, F2: a server with one id for all. A response for the old session does not enter the new one.
/// G1: nor does a stream end since another caller begins, be it answered late or opened anew.
#[tokio::test(start_paused = true)]
async fn a5_g1_one_id_for_all_and_streams_go_on() {
    for is_opened_anew in [false, true] {
        // Given a GET of Ada's, or of the layer's own for her, whose head is late,
        let server = Server::new(Profile::TypeScript);
        server.set_ids(Ids::Constant);
        // (Without principals Bob would take her place.)
        let layer = by_user(SessionRecoveryLayer::new());
        let ada = User::connect(&client(&server, layer), "Ada").await;
        let fed = Fed::default();
        let (gets, late) = (fed.clone(), fed.clone());
        let opening = {
            let listen = with_token(get(&ada.session, None), Some("Ada"));
            let client = ada.client.clone();
            async move { Stream::open(&client, listen).await }
        };
        let (opening, door) = match is_opened_anew {
            true => {
                server.on(move |seen| (seen.what() == "GET").then(|| gets.add()));
                let stream = opening.await;
                let door = Door::then(&server, is("GET"), move |_| late.add());
                server.restart();
                assert_eq!(ada.call(1).await.status, 200);
                (tokio::spawn(async { stream }), door)
            }
            false => {
                let door = Door::then(&server, is("GET"), move |_| late.add());
                (tokio::spawn(opening), door)
            }
        };
        settle().await;
        // when another caller begins meanwhile, then it brings what there is.
        User::connect(&ada.client, "Bob").await;
        door.open();
        settle().await;
        let last = usize::from(is_opened_anew);
        fed.data(last, "data: {}\n\n");
        let mut stream = opening.await.unwrap();
        let read = stream.now().await;
        assert!(read.ends_with("data: {}\n\n"), "{is_opened_anew}: {read}");
        assert!(stream.is_open());
    }
}

#[tokio::test(start_paused = true)]
async fn a5_one_id_for_all_and_no_response_enters_the_new_session() {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Constant);
    let client = client(&server, SessionRecoveryLayer::new());
    let ada = User::connect(&client, "Ada").await;
    server.restart();
    let door = Door::before(&server, is("initialize"));
    let leading = start(&client, post(Some(&ada.session), &tool_call(1)));
    settle().await;
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {"of": "the old one"}});
    let answering = start(&client, post(Some(&ada.session), &response));
    settle().await;
    door.open();
    assert_eq!(leading.await.unwrap().status, 200);
    let refused = Outcome::NotReplayed(Refusal::Response);
    assert_eq!(answering.await.unwrap().outcome(), Some(refused));
    assert!(
        server
            .carried_out()
            .iter()
            .all(|(_, it)| it["result"].is_null())
    );
}

/// A5, K6: a server with one id for all is not fought. Its callers share what it does not tell apart,
/// and there is one handshake in each pause.
#[tokio::test(start_paused = true)]
async fn a5_k6_one_id_for_all_costs_one_handshake_in_each_pause() {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Constant);
    let layer = by_user(SessionRecoveryLayer::new());
    let client = client(&server, layer);
    let users = [
        User::connect(&client, "Ada").await,
        User::connect(&client, "Bob").await,
        User::connect(&client, "Carol").await,
    ];
    let before = server.count("initialize");
    // For a minute, each of them calls every tenth of a second.
    for id in 0..600 {
        for user in &users {
            let answer = user.call(id).await;
            assert_eq!(answer.status, 200, "{} {id}", user.name);
            assert_eq!(answer.session(), Some("constant"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let handshakes = server.count("initialize") - before;
    assert!(handshakes <= 3 * 13, "{handshakes}");
}

/// A5, F7: a server with one id for all. Whoever finds the session lost has it back, also when all do so at
/// once.
#[tokio::test(start_paused = true)]
async fn a5_one_id_for_all_and_whoever_recovers_at_once_is_answered() {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Constant);
    let client = client(&server, by_user(SessionRecoveryLayer::new()));
    let users = [
        User::connect(&client, "Ada").await,
        User::connect(&client, "Bob").await,
        User::connect(&client, "Carol").await,
    ];
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..3 {
        server.restart();
        let door = Door::before(&server, is("notifications/initialized"));
        let calls = users.each_ref().map(|user| user.spawn_call(1));
        settle().await;
        door.open();
        for (call, user) in calls.into_iter().zip(&users) {
            let answer = call.await.unwrap();
            assert_eq!(answer.status, 200, "{} {:?}", user.name, answer.outcome());
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// A5: of two handshakes that are given one id, the later has it, whichever is published last.
#[tokio::test(start_paused = true)]
async fn a5_who_is_given_an_id_first_and_published_last_does_not_keep_it() {
    // Given a server that has called everybody 1 so far, and Ada's handshake, which takes its time,
    let (server, client) = counting(by_user(SessionRecoveryLayer::new()));
    let ada = User::connect(&client, "Ada").await;
    server.restart();
    let bob = User::connect(&client, "Bob").await;
    server.restart();
    let door = Door::before(&server, |seen| {
        seen.what() == "notifications/initialized"
            && seen.header("authorization") == Some("Bearer Ada")
    });
    let adas = ada.spawn_call(1);
    settle().await;
    // when Bob's is given the same id meanwhile, and after that it is known that the server counts,
    server.restart();
    let bobs = bob.spawn_call(2);
    settle().await;
    door.open();
    bobs.await.unwrap();
    adas.await.unwrap();
    let zoe = User::connect(&client, "Zoe").await;
    assert_eq!(zoe.session, "2");
    tokio::time::sleep(Duration::from_secs(60)).await;
    // then each is in a session of his own.
    for id in 10..20 {
        for user in [&ada, &bob] {
            assert_eq!(user.call(id).await.status, 200);
            let whose = server.whose_was(id);
            assert_eq!(whose.as_deref(), Some(user.name), "{id}");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// A5, B4, K9: also an id that the server has given to somebody who is not recorded is his.
#[tokio::test(start_paused = true)]
async fn a5_k9_an_id_that_was_given_to_who_is_not_recorded_is_his() {
    for has_moved_on in [false, true] {
        for (ends, is_same) in [(false, false), (true, false), (false, true)] {
            // Given Ada, and a server that has given her id to Bob, whose initialize is too large,
            let layer = SessionRecoveryLayer::new().max_initialize_bytes(1_000);
            let (server, client) = counting(by_user(layer));
            let ada = User::connect(&client, "Ada").await;
            let _carol = User::connect(&client, "Carol").await;
            if has_moved_on {
                server.restart();
                server.count_on_from(6);
                assert_eq!(ada.call(1).await.status, 200);
            }
            server.restart();
            server.count_on_from(if has_moved_on { 6 } else { 0 });
            let mut initialize = initialize_as("Bob");
            initialize["params"]["clientInfo"]["title"] = json!("x".repeat(1_000));
            let token = if is_same { "Ada" } else { "Bob" };
            let initialize = with_token(post(None, &initialize), Some(token));
            let answer = send(&client, initialize).await;
            assert_eq!(answer.outcome(), Some(Outcome::NotRecorded));
            let bobs = answer.session().unwrap().to_owned();
            assert_eq!(bobs, if has_moved_on { "7" } else { "1" });
            // when she calls or ends hers, then that is not his;
            if ends {
                send(&client, with_token(delete(&ada.session), Some("Ada"))).await;
            } else if !is_same || has_moved_on {
                assert_eq!(ada.call(2).await.status, 200);
                assert_eq!(server.whose_was(2).as_deref(), Some("Ada"));
            }
            // and his calls enter his own.
            let call = with_token(post(Some(&bobs), &tool_call(3)), Some(token));
            assert_eq!(send(&client, call).await.status, 200);
            assert_eq!(server.whose_was(3).as_deref(), Some("Bob"));
        }
    }
}

/// A5, I3: a server with one id for all. A handshake that is forgotten ends nobody's session.
#[tokio::test(start_paused = true)]
async fn a5_i3_one_id_for_all_and_a_forgotten_handshake_ends_nobodys_session() {
    // Given Ada's handshake under way,
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Constant);
    let client = client(&server, SessionRecoveryLayer::new());
    let ada = User::connect(&client, "Ada").await;
    server.restart();
    let door = Door::before(&server, is("initialize"));
    let adas = start(
        &client,
        with_token(post(Some(&ada.session), &tool_call(1)), Some("Ada")),
    );
    settle().await;
    // when Bob is given the one id meanwhile,
    let bob = tokio::spawn({
        let client = client.clone();
        async move { User::connect(&client, "Bob").await }
    });
    settle().await;
    door.open();
    let bob = bob.await.unwrap();
    adas.await.unwrap();
    settle().await;
    // then nobody's session is ended.
    assert_eq!(server.count("DELETE"), 0);
    assert_eq!(bob.call(2).await.status, 200);
}

/// G2: a GET whose event id nobody knows goes out with the caller's id, unless that is another's; also if
/// he is not recorded any more.
#[tokio::test(start_paused = true)]
async fn a5_g2_a_get_is_not_sent_under_an_id_that_was_given_away_and_let_go() {
    // Given Bob, who was given Ada's id, and whose session stays on the server when he has ended it,
    let (server, ada, bob) = bob_has_adas_id().await;
    server.on(|seen| (seen.method == http::Method::DELETE).then(|| reply(200, None, "")));
    let ended = with_token(delete(&bob.session), Some("Bob"));
    assert_eq!(send(&bob.client, ended).await.status, 200);
    // and Ada, whose own is lost once more,
    assert_eq!(ada.call(2).await.status, 200);
    let lost = server.last("tools/call").session().unwrap().to_owned();
    server.on(move |seen| (seen.session() == Some(&*lost)).then(|| reply(404, None, "")));
    let door = Door::before(&server, is("initialize"));
    let call = post(Some(&ada.session), &tool_call(3));
    let call = start(&ada.client, with_token(call, Some("Ada")));
    settle().await;

    // when a GET of hers waits for that which asks to resume from an unknown id,
    let resume = with_token(get(&ada.session, Some("unknown")), Some("Ada"));
    let resume = start(&ada.client, resume);
    settle().await;
    door.open();

    // then it is told that there is no such session, and nothing comes to Bob's.
    assert_eq!(call.await.unwrap().status, 200);
    let answer = tokio::time::timeout(Duration::from_secs(60), resume).await;
    let answer = answer.expect("no stream of Bob's").unwrap();
    let refused = Outcome::NotReplayed(Refusal::LastEventId);
    assert_eq!((answer.status, answer.outcome()), (404, Some(refused)));
    assert_eq!(server.count("GET"), 0);
}

/// Bob, whose session was thought to be of a server with one id for all, and Carol, since whom it is known
/// to count. It was restarted, and the next session is called as Bob's.
async fn bob_was_thought_to_share() -> (Server, User, User) {
    let (server, client) = counting(by_user(SessionRecoveryLayer::new()));
    let _ada = User::connect(&client, "Ada").await;
    server.restart();
    let bob = User::connect(&client, "Bob").await;
    server.restart();
    assert_eq!(bob.call(1).await.status, 200);
    let carol = User::connect(&client, "Carol").await;
    assert_eq!(bob.call(2).await.status, 200);
    tokio::time::sleep(Duration::from_secs(60)).await;
    server.restart();
    (server, bob, carol)
}

/// A5, E6: what a recovery is given is its own.
#[tokio::test(start_paused = true)]
async fn a5_e6_the_id_of_who_was_thought_to_share_it_is_initialized_by_who_is_given_it() {
    let (server, bob, carol) = bob_was_thought_to_share().await;
    let initialized = server.count("notifications/initialized");
    for (user, id) in [(&carol, 3), (&bob, 4)] {
        assert_eq!(user.call(id).await.status, 200);
        assert_eq!(server.whose_was(id).as_deref(), Some(user.name));
    }
    assert_eq!(server.count("notifications/initialized"), initialized + 2);
}

/// A5, I3: so is what is left of it where that fails.
#[tokio::test(start_paused = true)]
async fn a5_i3_who_was_thought_to_share_an_id_does_not_get_into_what_is_left_half_open_under_it() {
    let (server, bob, carol) = bob_was_thought_to_share().await;
    // Given a recovery of Carol's that was given Bob's id, and has failed,
    fail(&server, "notifications/initialized", "down");
    assert_eq!(carol.call(3).await.status, 404);
    settle().await;
    // when his fails, too, then he does not get into that,
    fail(&server, "initialize", "down");
    bob.call(4).await;
    assert_eq!(server.whose_was(4), None);
    // and it is ended.
    assert_eq!(server.live(), [""; 0]);
}

/// A5, I1, J3: a server that has handed out one id so far may turn out to count.
#[tokio::test(start_paused = true)]
async fn a5_who_was_thought_to_share_an_id_has_lost_it_once_the_server_is_known_to_count() {
    for is_known_before in [true, false] {
        for ends in [true, false] {
            // Given a server that was restarted twice, so that it has called everybody 1,
            let (server, client) = counting(by_user(SessionRecoveryLayer::new()));
            let _ada = User::connect(&client, "Ada").await;
            server.restart();
            let bob = User::connect(&client, "Bob").await;
            server.restart();
            assert_eq!(bob.call(1).await.status, 200);
            // and which has given Bob's id to Dave, and another one to Carol since,
            let carol = async || {
                let carol = User::connect(&client, "Carol").await;
                assert_eq!(
                    server.last("notifications/initialized").session(),
                    Some("2")
                );
                carol
            };
            if is_known_before {
                carol().await;
                assert_eq!(bob.call(2).await.status, 200);
                tokio::time::sleep(Duration::from_secs(60)).await;
                server.restart();
            } else {
                server.restart();
            }
            let dave = User::connect(&client, "Dave").await;
            assert_eq!(
                server.last("notifications/initialized").session(),
                Some("1")
            );
            if !is_known_before {
                carol().await;
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            // when Bob ends his session, or cannot be recovered,
            let before = server.carried_out().len();
            if ends {
                bob.delete().await;
            } else {
                fail(&server, "initialize", "down");
                assert_eq!(bob.call(3).await.status, 404);
            }
            // then nothing of that is done in Dave's.
            let context = format!("{is_known_before} {ends}");
            assert_eq!(server.carried_out().len(), before, "{context}");
            assert_eq!(dave.call(4).await.status, 200, "{context}");
            assert_eq!(server.whose_was(4).as_deref(), Some("Dave"));
        }
    }
}

/// A5: callers of two replicas that both count, which a balancer tells apart by their users, take ids from each
/// other, and come to rest all the same.
#[tokio::test(start_paused = true)]
async fn a5_callers_of_two_replicas_that_count_come_to_rest() {
    // Given four callers of two replicas,
    let replicas = [(); 2].map(|()| {
        let server = Server::new(Profile::TypeScriptJson);
        server.set_ids(Ids::Counting);
        slow(&server, "initialize", Duration::from_millis(20));
        server
    });
    let behind = replicas.clone();
    let balancer = service_fn(move |request: Request<RequestBody<CallerBody>>| {
        let user = request.headers()["authorization"].as_bytes();
        let replica = usize::from(user.ends_with(b"Carol") || user.ends_with(b"Dan"));
        behind[replica].service().oneshot(request)
    });
    let client = by_user(SessionRecoveryLayer::new()).layer(balancer);
    let mut users = Vec::new();
    for name in ["Ada", "Bob", "Carol", "Dan"] {
        users.push(User::connect(&client, name).await);
    }
    // when both are restarted, and all callers call at once, again and again,
    replicas.iter().for_each(Server::restart);
    let mut answered = 0;
    for round in 0..4 {
        let calls: Vec<_> = users
            .iter()
            .map(|user| user.spawn_call(10 + round))
            .collect();
        answered = 0;
        for call in calls {
            answered += usize::from(call.await.unwrap().status == 200);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    // then all of them are answered in the end.
    assert_eq!(answered, users.len());
}
