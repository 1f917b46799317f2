//! A5, I3: between the answer to a handshake's `initialize` and the publication of its epoch, the
//! server has said whose an id is, and no record has it yet.

use std::time::Duration;

use mcp_session_recovery::{Failure, Outcome, Refusal, SessionRecoveryLayer, Sessions};
use serde_json::json;
use testing::mocked::with_id_of;
use testing::scenario::{Door, answer, hang, heal, is, slow, start};
use testing::whose::*;
use testing::*;
use tower::ServiceExt;

/// Ada goes by "1" and Bob by "2", on a server that counts.
async fn ada_and_bob() -> (Server, User, User) {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let client = client(&server, SessionRecoveryLayer::new());
    let ada = User::connect(&client, "Ada").await;
    let bob = User::connect(&client, "Bob").await;
    assert_eq!((&*ada.session, &*bob.session), ("1", "2"));
    (server, ada, bob)
}

fn calling(user: &User, id: u64) -> tokio::task::JoinHandle<Answer> {
    let call = post(Some(&user.session), &tool_call(id));
    start(&user.client, with_token(call, Some(user.name)))
}

/// What was carried out in a session that `name` made, but for what makes it.
fn in_session_of(server: &Server, name: &str) -> Vec<String> {
    let carried_out = server.carried_out().into_iter();
    let messages = carried_out.filter(|(of, _)| of == name);
    messages
        .map(|(_, message)| message.to_string())
        .filter(|message| !message.contains("notifications/initialized"))
        .collect()
}

/// A5: who has the id that a handshake was just given is recovered before its next request.
#[tokio::test(start_paused = true)]
async fn a5_the_id_of_a_handshake_under_way_is_nobody_elses() {
    // Given Bob's recovery, which was given Ada's "1" and is not through yet,
    let (server, ada, bob) = ada_and_bob().await;
    server.restart();
    let door = Door::before(&server, is("notifications/initialized"));
    let bobs = calling(&bob, 1);
    settle().await;
    assert_eq!(
        server.last("notifications/initialized").session(),
        Some("1")
    );

    // when Ada calls,
    let adas = calling(&ada, 2);
    settle().await;
    // then nothing of hers is sent to "1",
    assert_eq!(in_session_of(&server, "Bob"), [""; 0]);
    door.open();

    // and both end in their own.
    assert_eq!(bobs.await.unwrap().status, 200);
    let answer = adas.await.unwrap();
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::Waited))
    );
    assert_eq!(server.whose_was(1).as_deref(), Some("Bob"));
    assert_eq!(server.whose_was(2).as_deref(), Some("Ada"));
}

/// A5: an id that is handed out once more while its handshake is under way.
#[tokio::test(start_paused = true)]
async fn a5_a_handshake_whose_id_is_handed_out_again_has_made_nothing() {
    // Given Ada's recovery, given "1", on a server that restarts once more and gives "1" to Carol,
    let (server, ada, _) = ada_and_bob().await;
    server.restart();
    server.set_ids(Ids::Unique);
    ada.call(1).await;
    server.set_ids(Ids::Counting);
    server.restart();
    let door = Door::then(&server, is("notifications/initialized"), |_| {
        reply(202, None, "")
    });
    let adas = calling(&ada, 2);
    settle().await;
    server.restart();
    let carols = start(
        &ada.client,
        with_token(post(None, &initialize_as("Carol")), Some("Carol")),
    );
    let carols = carols.await.unwrap();
    assert_eq!(carols.status, 200);

    // when Ada's handshake is through, then her call is not carried out in Carol's session,
    door.open();
    let answer = adas.await.unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(in_session_of(&server, "Carol"), [""; 0]);

    // nor is Carol's ended; and both are served after the pause.
    settle().await;
    assert_eq!(server.count("DELETE"), 0);
    heal(&server);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(ada.call(3).await.status, 200);
    assert_eq!(server.whose_was(3).as_deref(), Some("Ada"));
}

/// A5, G4, K6: what needs no session waits for none.
#[tokio::test(start_paused = true)]
async fn a5_g4_what_an_earlier_session_has_lost_is_told_in_a_pause() {
    // Given Ada, whose call has a stream that broke off, and whose recovery is of no use, because Bob is
    // given its id while it is under way,
    let (server, ada, bob) = ada_and_bob().await;
    server.on(|seen| {
        let is_it = seen.what() == "tools/call" && seen.message()["id"] == 7;
        is_it.then(|| sse("id: e7\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n"))
    });
    assert_eq!(ada.call(7).await.status, 200);
    server.restart();
    let door = Door::before(&server, is("notifications/initialized"));
    let adas = calling(&ada, 8);
    settle().await;
    server.restart();
    let bobs = calling(&bob, 9);
    settle().await;
    door.open();
    adas.await.unwrap();
    bobs.await.unwrap();
    // when she resumes the stream before there is another recovery, then she is told that it is lost.
    let seen = server.seen().len();
    let resume = with_token(get(&ada.session, Some("e7")), Some("Ada"));
    let answer = send(&ada.client, resume).await;
    assert_eq!(server.seen().len(), seen);
    assert_eq!(answer.outcome(), Some(Outcome::AnswerLost));
    assert_eq!(
        answer.messages(),
        [testing::streams::lost(7, "session_expired")]
    );
    // Her next call has to wait for the pause.
    let paused = Outcome::Failed(Failure::Paused);
    assert_eq!(ada.call(10).await.outcome(), Some(paused));
}

/// A5, E7: a handshake that fails half way, with the very id that the session had.
#[tokio::test(start_paused = true)]
async fn a5_e7_a_half_open_session_is_not_used_because_it_has_the_old_ones_id() {
    let (server, ada, _) = ada_and_bob().await;
    server.restart();
    answer(&server, "notifications/initialized", |_| {
        reply(500, None, "")
    });
    let failed = ada.call(1).await;
    let refused = Failure::NotAccepted(http::StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(failed.outcome(), Some(Outcome::Failed(refused)));
    // In the pause her requests go nowhere,
    assert_eq!(ada.call(2).await.status, 404);
    heal(&server);
    tokio::time::sleep(Duration::from_secs(20)).await;
    // and after it into a session that is open.
    let answer = ada.call(3).await;
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::Waited))
    );
    let opened = server
        .log()
        .iter()
        .rposition(|it| it.starts_with("initialize"));
    let called = server
        .log()
        .iter()
        .rposition(|it| it.starts_with("tools/call"));
    assert!(opened < called);
    assert_eq!(server.whose_was(2), None);
}

/// A5, I3: a handshake that fails half way with the id that the session had is ended, too.
#[tokio::test(start_paused = true)]
async fn a5_i3_a_half_open_session_with_the_old_ones_id_is_ended() {
    // Given a server that counts, has restarted, and accepts no session,
    let (server, ada, _) = ada_and_bob().await;
    server.restart();
    answer(&server, "notifications/initialized", |_| {
        reply(500, None, "")
    });

    // when Ada's recovery is given the "1" that she had and fails,
    assert_eq!(ada.call(1).await.status, 404);
    settle().await;

    // then nothing of it stays on the server,
    assert_eq!(server.count("DELETE"), 1);
    assert_eq!(server.last("DELETE").session(), Some("1"));

    // and the next is not ended with it.
    heal(&server);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(ada.call(2).await.status, 200);
    settle().await;
    assert_eq!(server.count("DELETE"), 1);
}

/// A5, I1: where a server that counts has one session, what a handshake leaves half-open is called as the
/// session was. It may be everybody's, and the layer does not end it; its caller may.
#[tokio::test(start_paused = true)]
async fn a5_i1_j3_a_delete_ends_what_a_handshake_of_its_own_session_has_left_half_open() {
    for waits in [true, false] {
        // Given Ada alone, on a server that has restarted and accepts no session,
        let server = Server::new(Profile::TypeScriptJson);
        server.set_ids(Ids::Counting);
        let sessions = Sessions::new();
        let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
        let ada = User::connect(&client(&server, layer), "Ada").await;
        server.restart();
        let door = Door::then(&server, is("notifications/initialized"), |_| {
            reply(500, None, "")
        });

        // when she ends her session while it is recovered, or after that has failed,
        let call = calling(&ada, 1);
        settle().await;
        let delete = || with_token(delete(&ada.session), Some("Ada"));
        let waiting = waits.then(|| start(&ada.client, delete()));
        settle().await;
        door.open();
        assert_eq!(call.await.unwrap().status, 404);
        let answer = match waiting {
            Some(waiting) => waiting.await.unwrap(),
            None => send(&ada.client, delete()).await,
        };

        // then it ends on the server, too.
        assert_eq!(answer.status, 200, "{waits}");
        settle().await;
        assert_eq!(server.count("DELETE"), 1);
        assert_eq!(server.live(), [""; 0]);
        assert!(sessions.is_empty());
    }
}

/// A5, I1: but not if the id went on to another, nor if another shares it.
#[tokio::test(start_paused = true)]
async fn a5_i1_a_delete_does_not_end_what_was_half_open_and_is_anothers_by_now() {
    for ids in [Ids::Counting, Ids::Constant] {
        // Given Ada, whose handshake has left the id that she had half-open,
        let server = Server::new(Profile::TypeScriptJson);
        server.set_ids(ids);
        let client = client(&server, by_user(SessionRecoveryLayer::new()));
        let ada = User::connect(&client, "Ada").await;
        server.restart();
        answer(&server, "notifications/initialized", |_| {
            reply(500, None, "")
        });
        assert_eq!(ada.call(1).await.status, 404);
        heal(&server);
        // when Bob is given it, then hers ends nothing.
        server.restart();
        let bob = User::connect(&client, "Bob").await;
        ada.delete().await;
        assert_eq!(server.count("DELETE"), 0, "{ids:?}");
        assert_eq!(bob.call(2).await.status, 200, "{ids:?}");
    }
}

/// A5, F2: a response that stays in an old session of its caller is not sent under an id that was
/// given away, though the one to whom it was given never used it.
#[tokio::test(start_paused = true)]
async fn a5_f2_a_response_is_not_sent_under_an_id_that_was_given_away_and_let_go() {
    // Given Bob, whose recovery was given Ada's "1" and failed,
    let (server, ada, bob) = ada_and_bob().await;
    server.restart();
    answer(&server, "notifications/initialized", |_| {
        reply(500, None, "")
    });
    answer(&server, "DELETE", |_| reply(405, None, ""));
    assert_eq!(bob.call(1).await.status, 404);
    // so that "1" is on the server, and nobody's.
    heal(&server);
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    let answer = ada.send(post(Some("1"), &response)).await;
    let refused = Outcome::NotReplayed(Refusal::Response);
    assert_eq!((answer.status, answer.outcome()), (404, Some(refused)));
    assert_eq!(in_session_of(&server, "Bob"), [""; 0]);
}

/// A5, F2: an id that went to another after the recovery, before what waited for that is sent, and that
/// he has let go of by then: his handshake has failed, or he is not recorded any more.
#[tokio::test(start_paused = true)]
async fn a5_f2_a_response_is_not_sent_under_an_id_that_was_given_away_after_the_recovery() {
    for to_caller in [false, true] {
        // Given Bob's recovery, which was given Ada's "1", and a response of his that waits for it,
        let server = Server::new(Profile::TypeScriptJson);
        server.set_ids(Ids::Counting);
        let layer = by_user(SessionRecoveryLayer::new().max_sessions(2));
        let client = client(&server, layer);
        let ada = User::connect(&client, "Ada").await;
        let bob = User::connect(&client, "Bob").await;
        server.restart();
        let door = Door::before(&server, is("notifications/initialized"));
        let bobs = calling(&bob, 1);
        settle().await;
        let response = json!({"jsonrpc": "2.0", "id": 9, "result": {"of": "Bob"}});
        let response = with_token(post(Some(&bob.session), &response), Some("Bob"));
        let mut response = tokio_test::task::spawn(client.clone().oneshot(response));
        assert!(response.poll().is_pending());
        door.open();
        assert_eq!(bobs.await.unwrap().status, 200);

        // when that is through, and Bob's "2" goes to
        match to_caller {
            // a caller whom the table forgets,
            true => {
                let carol = User::connect(&client, "Carol").await;
                assert_eq!(carol.session, "2");
                bob.call(2).await;
                User::connect(&client, "Dave").await;
                bob.call(3).await;
                User::connect(&client, "Eve").await;
            }
            // or to a handshake of Ada's that fails, and whose session stays,
            false => {
                let fails = |seen: &Seen| {
                    let is_adas = seen.header("authorization") == Some("Bearer Ada");
                    is_adas && ["notifications/initialized", "DELETE"].contains(&&*seen.what())
                };
                server.on(move |seen| fails(seen).then(|| reply(503, None, "")));
                assert_eq!(ada.call(2).await.status, 404);
                let half_open = server.last("notifications/initialized");
                assert_eq!(half_open.session(), Some("2"));
            }
        }

        // then it is not sent to "2".
        let answer = response.await.unwrap();
        assert_eq!(answer.status(), 404);
        let mut carried_out = server.carried_out().into_iter();
        assert!(carried_out.all(|(_, it)| it["result"]["of"] != "Bob"));
    }
}

/// A5, H1: what is restored is not told to somebody else's session.
#[tokio::test(start_paused = true)]
async fn a5_h1_nobody_is_told_what_another_had_subscribed_to() {
    let (server, ada, _) = ada_and_bob().await;
    for number in 0..40 {
        let uri = format!("test://{number}");
        let subscribe = json!({"jsonrpc": "2.0", "id": number, "method": "resources/subscribe",
            "params": {"uri": uri}});
        assert_eq!(ada.send(post(Some("1"), &subscribe)).await.status, 200);
    }
    server.restart();
    let before = server.count("resources/subscribe");
    let door = Door::before(&server, is("resources/subscribe"));
    let adas = calling(&ada, 50);
    settle().await;
    assert_eq!(server.count("resources/subscribe"), before + 16);
    // While she is restored, the server restarts, and gives her id to Carol.
    server.restart();
    let message = initialize_as("Carol");
    let carol = start(&ada.client, with_token(post(None, &message), Some("Carol")));
    assert_eq!(carol.await.unwrap().status, 200);
    door.open();
    assert_eq!(adas.await.unwrap().status, 404);
    assert_eq!(server.count("resources/subscribe"), before + 16);
}

/// A5, I1: what waited for a session that has ended does not enter the one that has its id since.
#[tokio::test(start_paused = true)]
async fn a5_i1_nothing_of_an_ended_session_enters_the_one_that_has_its_id() {
    // Given a call of Ada's that was recovered into "1" and is not polled any further,
    let (server, ada, bob) = ada_and_bob().await;
    ada.delete().await;
    server.restart();
    let call = with_token(post(Some("2"), &tool_call(1)), Some("Bob"));
    let calls = tower::ServiceExt::oneshot(bob.client.clone(), call);
    let mut calls = std::pin::pin!(calls);
    assert!(futures::poll!(calls.as_mut()).is_pending());
    settle().await;
    // when its session is ended, and the server gives "1" to Carol,
    assert_eq!(bob.delete().await.status, 200);
    server.restart();
    let carol = User::connect(&bob.client, "Carol").await;
    // then it is not carried out in hers.
    let answer = calls.await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(in_session_of(&server, "Carol"), [""; 0]);
    assert_eq!(carol.call(2).await.status, 200);
}

/// A5, K6: a server that counts has no one id for all. That two callers had the same id in turn is no
/// attempt without use: a session that was shown to live is recovered at once when it is lost again.
#[tokio::test(start_paused = true)]
async fn a5_k6_servers_that_count_are_not_paused_for_a_collision() {
    let (server, ada, bob) = ada_and_bob().await;
    server.restart();
    assert_eq!(bob.call(1).await.status, 200);
    assert_eq!(server.last("tools/call").session(), Some("1"));
    // Given Ada, who had "1" before, and is given it while Bob goes by it as well,
    server.restart();
    assert_eq!(ada.call(2).await.status, 200);
    assert_eq!(server.last("tools/call").session(), Some("1"));
    // when that is lost, then it is recovered without a pause.
    server.restart();
    assert_eq!(ada.call(3).await.status, 200);
    assert_eq!(server.whose_was(3).as_deref(), Some("Ada"));
}

/// E1, A5: a failure that its caller sees late does not hide that the session was recovered since: the
/// call goes on in the new one, and not under an id that is another's.
#[tokio::test(start_paused = true)]
async fn e1_a_failure_that_is_seen_late_does_not_hide_a_recovery_that_has_succeeded_since() {
    // Given a call of Ada's whose recovery fails, and who does not look,
    let (server, ada, _) = ada_and_bob().await;
    server.restart();
    answer(&server, "initialize", |_| reply(503, None, ""));
    let call = with_token(post(Some("1"), &tool_call(1)), Some("Ada"));
    let mut call = std::pin::pin!(tower::ServiceExt::oneshot(ada.client.clone(), call));
    assert!(futures::poll!(call.as_mut()).is_pending());
    settle().await;
    heal(&server);
    // when another call of hers recovers the session after the pause,
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ada.call(2).await.status, 200);
    // then the first one is answered as well.
    assert_eq!(call.await.unwrap().status(), 200);
    assert_eq!(server.whose_was(1).as_deref(), Some("Ada"));
}

/// A5, I3: a handshake that fails does not end the session of somebody else, who was given its id
/// since.
#[tokio::test(start_paused = true)]
async fn a5_i3_a_handshake_that_fails_late_ends_nobody_elses_session() {
    // Given Bob's handshake, which was given "1" and hangs, on a server that restarts once more,
    let (server, ada, bob) = ada_and_bob().await;
    let carol = User::connect(&ada.client, "Carol").await;
    server.restart();
    hang(&server, "notifications/initialized");
    let bobs = calling(&bob, 1);
    settle().await;
    assert_eq!(
        server.last("notifications/initialized").session(),
        Some("1")
    );
    server.restart();
    heal(&server);
    // and Carol, who is given "1" then,
    assert_eq!(carol.call(2).await.status, 200);
    assert_eq!(server.last("tools/call").session(), Some("1"));
    // when Bob's time is up, then hers is not ended.
    assert_eq!(bobs.await.unwrap().status, 404);
    settle().await;
    assert_eq!(server.count("DELETE"), 0);
    let answer = carol.call(3).await;
    assert_eq!((answer.status, answer.recovery), (200, None));
}

/// A5, I3: nor does it once every session was forgotten: whose an id is, the server has said.
#[tokio::test(start_paused = true)]
async fn a5_i3_a_handshake_that_is_forgotten_ends_nobody_elses_session() {
    // Given Bob's handshake, which was given "1" and hangs, and Carol, who is given "1" since,
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    let client = client(&server, layer);
    let _ada = User::connect(&client, "Ada").await;
    let bob = User::connect(&client, "Bob").await;
    let carol = User::connect(&client, "Carol").await;
    server.restart();
    hang(&server, "notifications/initialized");
    let bobs = calling(&bob, 1);
    settle().await;
    server.restart();
    heal(&server);
    assert_eq!(carol.call(2).await.status, 200);
    assert_eq!(server.last("tools/call").session(), Some("1"));
    // when all sessions are forgotten, then hers is not ended.
    sessions.forget_all();
    assert_eq!(bobs.await.unwrap().status, 404);
    settle().await;
    assert_eq!(server.count("DELETE"), 0);
}

/// In the answer to a handshake, which succeeds or is refused after that. The answers are taken slowly.
fn ping_twice(server: &Server, succeeds: bool) {
    let behind = server.clone();
    answer(server, "initialize", move |seen| {
        let made = behind.default_answer(seen);
        let (head, _) = made.into_parts();
        let id = seen.message()["id"].clone();
        let result = json!({"protocolVersion": VERSION, "capabilities": {}});
        let error = json!({"code": -32603, "message": "no"});
        let messages = [
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
            json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}),
            match succeeds {
                true => json!({"jsonrpc": "2.0", "id": id, "result": result}),
                false => json!({"jsonrpc": "2.0", "id": id, "error": error}),
            },
        ];
        let mut reply = sse(&messages.map(|it| format!("data: {it}\n\n")).concat());
        reply
            .headers_mut()
            .insert(SESSION_ID, head.headers[SESSION_ID].clone());
        reply
    });
    slow(server, "POST", Duration::from_secs(5));
}

fn answered_pings(server: &Server) -> usize {
    let is_answer = |seen: &&Seen| seen.message()["result"].is_object();
    server.seen().iter().filter(is_answer).count()
}

/// E7: nor does anybody say whose the id is once it is given up.
#[tokio::test(start_paused = true)]
async fn a5_e6_a_ping_of_a_handshake_that_was_given_up_is_not_answered() {
    for succeeds in [true, false] {
        // Given a handshake in which the server pinged twice, and is slow to take the answers,
        let (server, _, bob) = ada_and_bob().await;
        server.restart();
        ping_twice(&server, succeeds);
        // when that fails,
        let status = if succeeds { 200 } else { 404 };
        assert_eq!(bob.call(1).await.status, status);
        // then no answer is sent under its id any more.
        let before = answered_pings(&server);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(answered_pings(&server) - before, usize::from(succeeds));
    }
}

/// A5, E6: what is left to say to a server that pinged twice is not said to somebody else's session.
#[tokio::test(start_paused = true)]
async fn a5_e6_a_ping_is_not_answered_in_the_session_of_another() {
    for restarts in [false, true] {
        // Given Bob's recovery, in which the server pinged twice, and is slow to take the answers,
        let (server, ada, bob) = ada_and_bob().await;
        server.restart();
        ping_twice(&server, true);
        assert_eq!(bob.call(1).await.status, 200);
        assert_eq!(server.last("tools/call").session(), Some("1"));
        let answered = || answered_pings(&server);
        assert_eq!(answered(), 1);
        // when Ada is given Bob's id meanwhile,
        if restarts {
            server.restart();
            heal(&server);
            assert_eq!(ada.call(2).await.status, 200);
            assert_eq!(server.last("tools/call").session(), Some("1"));
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        // then the second answer is not sent.
        assert_eq!(answered(), if restarts { 1 } else { 2 });
    }
}

/// B4: that the server tells its sessions apart is known as long as there is one.
#[tokio::test(start_paused = true)]
async fn a5_b4_an_endpoint_whose_only_session_is_replaced_tells_its_sessions_apart() {
    for is_only in [true, false] {
        // Given Ada's session, the only one of its server by now, whose recovery was given "1" and waits for
        // the result,
        let (server, ada, bob) = ada_and_bob().await;
        if is_only {
            assert_eq!(bob.delete().await.status, 200);
        }
        server.restart();
        let (feeder, body) = feed();
        let (mut body, behind) = (Some(body), server.clone());
        server.on(move |seen| {
            let body = body.take_if(|_| seen.what() == "initialize")?;
            Some(with_id_of(&behind.default_answer(seen), fed_stream(body)))
        });
        let adas = calling(&ada, 1);
        settle().await;
        let id = server.last("initialize").message()["id"].clone();
        // when the server gives "1" to Carol, whose session takes the place of that one,
        server.restart();
        let carol = User::connect(&ada.client, "Carol").await;
        assert_eq!(carol.session, "1");
        let info = json!({"name": "counts", "version": "1"});
        let result = json!({"protocolVersion": VERSION, "capabilities": {}, "serverInfo": info});
        let result = json!({"jsonrpc": "2.0", "id": id, "result": result});
        feeder.data(format!("data: {result}\n\n"));
        adas.await.unwrap();
        settle().await;
        // then nothing of Ada's enters it.
        assert_eq!(server.whose_was(1), None, "{is_only}");
        let carried_out = server.carried_out();
        let in_carols = carried_out.iter().filter(|(name, _)| name == "Carol");
        assert_eq!(in_carols.count(), 1, "{is_only}: {carried_out:?}");
    }
}
