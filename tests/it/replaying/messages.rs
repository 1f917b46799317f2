//! Rules F1, F2, F3, F5 and F6: what is sent again, and what is not.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, Refusal, SessionRecoveryLayer};
use serde_json::{Value, json};
use testing::mocked::*;
use testing::scenario::{Door, is, start};
use testing::*;
use tower::ServiceExt;

/// F1.
#[tokio::test(start_paused = true)]
async fn f1_a_replay_that_meets_a_dead_session_again_is_the_end_of_it() {
    // Given a server that knows no session for longer than a handshake, and says it differently
    // each time,
    for profile in Profile::ALL {
        let scene = live(SessionRecoveryLayer::new()).await;
        let mut nth = 0;
        scene.server.on(move |seen| {
            (seen.what() == "tools/call").then(|| {
                nth += 1;
                let mut unknown = profile.unknown_session(&seen.message()["id"]);
                unknown.headers_mut().insert("x-nth", nth.into());
                unknown
            })
        });

        // when a call is made, then it is sent twice, and the second answer is the caller's.
        let answer = scene.call(1).await;
        assert_eq!(
            (answer.header("x-nth"), answer.outcome()),
            (Some("2"), Some(Outcome::Replayed)),
            "{profile:?}"
        );
        let unknown = read_reply(profile.unknown_session(&json!(1))).await;
        assert_eq!((answer.status, answer.body), unknown, "{profile:?}");
        assert_eq!(
            (
                scene.server.count("tools/call"),
                scene.server.count("initialize")
            ),
            (2, 2),
            "{profile:?}"
        );
    }
}

async fn read_reply(reply: Reply) -> (u16, Bytes) {
    let status = reply.status().as_u16();
    (
        status,
        reply.into_body().collect().await.unwrap().to_bytes(),
    )
}

/// F1: what the replay brings is the caller's, whatever it is.
#[tokio::test(start_paused = true)]
async fn f1_what_the_replay_is_answered_is_what_the_caller_gets() {
    for (code, body) in [
        (202, ""),
        (400, "bad"),
        (401, "who?"),
        (429, "later"),
        (500, "oops"),
    ] {
        let scene = lost(SessionRecoveryLayer::new()).await;
        let dead = scene.session.clone();
        scene.server.on(move |seen| {
            (seen.what() == "tools/call" && seen.session() != Some(&dead))
                .then(|| reply(code, Some("text/plain"), body))
        });
        let answer = scene.call(1).await;
        assert_eq!(
            (answer.status, answer.text(), answer.outcome()),
            (code, body, Some(Outcome::Replayed))
        );
        assert_eq!(
            (
                scene.server.count("tools/call"),
                scene.server.count("initialize")
            ),
            (2, 2)
        );
    }
}

/// F2.
#[tokio::test(start_paused = true)]
async fn f2_a_response_never_gets_into_the_new_session() {
    let batch = json!([ping(8), response(7)]);
    let failed = json!({"jsonrpc": "2.0", "id": 7, "error": {"code": -1, "message": "declined"}});
    for (n, message) in [response(7), failed.clone(), batch, json!([failed])]
        .into_iter()
        .enumerate()
    {
        // Given a session in its second epoch, dead again,
        let scene = lost(SessionRecoveryLayer::new().replay_when(|_| true)).await;
        scene.call(1).await;
        let epoch_1 = scene
            .server
            .last("tools/call")
            .session()
            .unwrap()
            .to_owned();
        scene.server.restart();

        // when a response of the caller finds out, then the session is recovered and it is not
        // sent again;
        let answer = scene.send(post(Some(&scene.session), &message)).await;
        assert_eq!(
            (answer.status, answer.outcome()),
            (404, refused(Refusal::Response)),
            "{n}"
        );
        assert_eq!(
            answer.message()["error"]["message"],
            "Session not found",
            "{n}"
        );
        assert_eq!(scene.server.count("initialize"), 3, "{n}");
        assert_eq!(
            scene.server.count("POST") + scene.server.count("ping"),
            1,
            "{n}"
        );
        assert_eq!(echoed(&scene.call(2).await), 2);
        assert_eq!(scene.server.count("initialize"), 3, "{n}");

        // and when one arrives during a recovery, it waits, since only then is it certain that the
        // old session is not called as the new one is, and goes out into the old one.
        let epoch_2 = scene
            .server
            .last("tools/call")
            .session()
            .unwrap()
            .to_owned();
        scene.server.restart();
        let (gate, trigger) = scene.recovering().await;
        let late = scene.spawn(post(Some(&scene.session), &message));
        settle().await;
        gate.open();
        let answers = join([trigger, late]).await;
        assert_eq!(echoed(&answers[0]), 1);
        assert_eq!(
            (answers[1].status, answers[1].outcome()),
            (404, refused(Refusal::Response)),
            "{n}"
        );
        let responses = own(&scene.server)
            .into_iter()
            .filter(|seen| seen.message()["method"].is_null());
        let went: Vec<_> = responses
            .map(|seen| seen.session().unwrap().to_owned())
            .collect();
        assert_eq!(went, [epoch_1, epoch_2], "{n}");
    }
}

/// When a response arrives whose body ends after a recovery.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrives {
    Before,
    During,
    After,
}

/// F2: what it answers was asked in the epoch that it arrived in.
#[tokio::test(start_paused = true)]
async fn f2_a_response_with_a_late_body_is_one_of_the_epoch_that_it_arrived_in() {
    for arrives in [Arrives::Before, Arrives::During, Arrives::After] {
        // Given a response, of which there is only the beginning when the session is recovered,
        let scene = live(SessionRecoveryLayer::new()).await;
        let (feeder, body) = feed();
        let text = response(77).to_string();
        feeder.data(&text[..10]);
        let mut request = Some(posting(&scene.session, body));
        let mut sending = None;
        let mut arrive = |when| {
            if when == arrives {
                sending = request.take().map(|request| scene.spawn(request));
            }
        };
        arrive(Arrives::Before);
        settle().await;
        scene.server.restart();
        let (gate, trigger) = scene.recovering().await;
        arrive(Arrives::During);
        settle().await;
        gate.open();
        assert_eq!(echoed(&join([trigger]).await[0]), 1);
        arrive(Arrives::After);
        settle().await;
        // when it ends, then it is carried out in the new one only if that is what it answers.
        feeder.data(&text[10..]);
        drop(feeder);
        let answer = join(sending).await.remove(0);
        let is_new = arrives == Arrives::After;
        let expected = match is_new {
            true => (202, None),
            false => (404, refused(Refusal::Response)),
        };
        assert_eq!((answer.status, answer.outcome()), expected, "{arrives:?}");
        assert_eq!(scene.server.whose_was(77).is_some(), is_new, "{arrives:?}");
        assert_eq!(scene.server.count("initialize"), 2, "{arrives:?}");
    }
}

/// F2, F4: a response that is too large to be kept is one all the same.
#[tokio::test(start_paused = true)]
async fn f2_a_large_response_that_arrives_during_a_recovery_stays_out_of_the_new_session() {
    let scene = lost(SessionRecoveryLayer::new().max_body_bytes(200)).await;
    let (gate, trigger) = scene.recovering().await;
    let big = json!({"jsonrpc": "2.0", "id": 7, "result": {"content": "x".repeat(1000)}});
    let late = scene.spawn(post(Some(&scene.session), &big));
    settle().await;
    gate.open();
    let answers = join([trigger, late]).await;
    assert_eq!(answers[1].status, 404);
    let went = scene.server.all("POST");
    assert!(
        went.iter()
            .all(|seen| seen.session() == Some(&*scene.session)),
        "{went:?}"
    );
}

/// F3.
#[tokio::test(start_paused = true)]
async fn f3_the_callers_own_initialized_is_not_sent_twice() {
    // Given a server that forgets a session as soon as it has made it,
    let server = Server::new(Profile::Python2);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let opened = send(&client, post(None, &initialize())).await;
    let session = opened.session().unwrap().to_owned();
    server.restart();
    replace(&server, "notifications/initialized", |_, mut own| {
        own.headers_mut().insert("x-own", "1".parse().unwrap());
        own
    });

    // when the caller goes on with its handshake,
    let answer = send(&client, post(Some(&session), &initialized())).await;

    // then the one of the recovery stands for the caller's: so does its answer, under its id.
    assert_eq!(
        (answer.status, answer.outcome()),
        (202, Some(Outcome::Initialized))
    );
    assert_eq!(
        (answer.header("content-type"), answer.header("x-own")),
        (Some("application/json"), Some("1"))
    );
    assert_eq!((answer.session(), answer.body.len()), (Some(&*session), 0));
    assert_eq!(
        server.log(),
        [
            "initialize",
            "notifications/initialized",
            "initialize",
            "notifications/initialized"
        ]
    );
    let sent = server.all("notifications/initialized");
    assert_ne!(sent[0].session(), sent[1].session());

    // And when it arrives while another request's recovery is under way,
    tokio::time::advance(std::time::Duration::from_millis(100)).await;
    server.restart();
    let scene = Scene {
        server,
        client,
        session,
    };
    let (gate, trigger) = scene.recovering().await;
    let late = scene.spawn(post(Some(&scene.session), &initialized()));
    settle().await;
    gate.open();
    let answers = join([trigger, late]).await;
    assert_eq!((echoed(&answers[0]), answers[1].status), (1, 202));
    assert_eq!(answers[1].outcome(), Some(Outcome::Initialized));
    assert_eq!(answers[1].session(), Some(&*scene.session));
    assert_eq!(scene.server.count("notifications/initialized"), 3);

    // Nor is it sent when it arrives after that.
    let answer = send(&scene.client, post(Some(&scene.session), &initialized())).await;
    assert_eq!(
        (answer.status, answer.outcome()),
        (202, Some(Outcome::Initialized))
    );
    assert_eq!(scene.server.count("notifications/initialized"), 3);
}

/// F3, C4: however long it is, up to 8 KiB, and however it is written.
#[tokio::test(start_paused = true)]
async fn f3_an_initialized_that_is_long_or_escaped_is_not_sent_twice() {
    // Given a session that has moved on,
    let scene = lost(SessionRecoveryLayer::new()).await;
    scene.call(1).await;
    assert_eq!(scene.server.count("notifications/initialized"), 2);
    let long = |bytes: usize| {
        let mut message = initialized();
        message["params"] = json!({"_meta": {"trace": ""}});
        let rest = bytes - message.to_string().len();
        message["params"]["_meta"]["trace"] = json!("x".repeat(rest));
        message.to_string()
    };
    let escaped = r#"{"jsonrpc":"2.0","method":"notifications/initi\u0061lized"}"#;
    for (body, sent) in [
        (long(300), false),
        (long(1024), false),
        (escaped.to_owned(), false),
        (long(1025), true),
    ] {
        // when the caller ends its handshake late, then the server does not hear of it.
        let before = scene.server.count("notifications/initialized");
        let request = request(Method::POST, Some(&scene.session), body);
        let answer = scene.send(request).await;
        let expected = (!sent).then_some(Outcome::Initialized);
        assert_eq!((answer.status, answer.outcome()), (202, expected));
        let after = scene.server.count("notifications/initialized");
        assert_eq!(after - before, usize::from(sent));
    }
}

/// F5.
#[tokio::test(start_paused = true)]
async fn f5_what_the_user_refuses_is_not_sent_again() {
    let named = |id: u64, name: &str| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name}});
    let delete = named(2, "delete");
    let raw = |text: &str| text.as_bytes().to_vec();
    for (body, asked, replayed) in [
        (
            raw(&named(1, "echo").to_string()),
            vec!["tools/call echo"],
            true,
        ),
        (raw(&delete.to_string()), vec!["tools/call delete"], false),
        (raw(&ping(3).to_string()), vec!["ping "], true),
        (
            raw(r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#),
            vec!["notifications/cancelled "],
            true,
        ),
        // A batch is sent again if each of its messages may be.
        (
            raw(&json!([ping(1), named(2, "echo")]).to_string()),
            vec!["ping ", "tools/call echo"],
            true,
        ),
        (
            raw(&json!([ping(1), delete]).to_string()),
            vec!["ping ", "tools/call delete"],
            false,
        ),
        // What is no Unicode is read as lenient servers read it.
        (
            [
                br#"{"id":1,"method":"tools/call","params":{"name":"delete","x":""#,
                &b"\xff\"}}"[..],
            ]
            .concat(),
            vec!["tools/call delete"],
            false,
        ),
        // Not asked about what is no message.
        (raw("{"), vec![], true),
        (raw(""), vec![], true),
    ] {
        // Given a user who lets nothing be deleted twice,
        let asked_for = Arc::new(Mutex::new(Vec::new()));
        let asking = asked_for.clone();
        let layer = SessionRecoveryLayer::new().replay_when(move |message| {
            let params: Value = message
                .params()
                .map_or(Value::Null, |params| serde_json::from_str(params).unwrap());
            let name = params["name"].as_str().unwrap_or_default().to_owned();
            asking
                .lock()
                .unwrap()
                .push(format!("{} {name}", message.method().unwrap()));
            name != "delete"
        });
        let scene = live(layer).await;
        scene.call(0).await;
        assert_eq!(*asked_for.lock().unwrap(), [""; 0], "asked without need");
        scene.server.restart();

        // when a message finds the session dead,
        let name = String::from_utf8_lossy(&body).into_owned();
        let answer = scene
            .send(request(Method::POST, Some(&scene.session), body))
            .await;

        // then the user has the say about that, and the session is recovered all the same.
        assert_eq!(*asked_for.lock().unwrap(), asked, "{name}");
        match replayed {
            true => assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{name}"),
            false => assert_eq!(
                (answer.status, answer.outcome()),
                (404, refused(Refusal::ReplayWhen)),
                "{name}"
            ),
        }
        assert_eq!(
            own(&scene.server).len(),
            if replayed { 3 } else { 2 },
            "{name}"
        );
        assert_eq!(scene.server.count("initialize"), 2, "{name}");
    }
}

/// F5, E3: what waited has not been sent yet, so nobody is asked; nor about a GET.
#[tokio::test(start_paused = true)]
async fn f5_nobody_is_asked_about_a_request_that_waited_or_has_no_message() {
    let scene = lost(SessionRecoveryLayer::new().replay_when(|_| false)).await;
    let (gate, trigger) = scene.recovering().await;
    let late = scene.spawn_call(2);
    settle().await;
    gate.open();
    let answers = join([trigger, late]).await;
    assert_eq!(answers[0].outcome(), refused(Refusal::ReplayWhen));
    assert_eq!(
        (echoed(&answers[1]), answers[1].outcome()),
        (2, Some(Outcome::Waited))
    );
    scene.server.restart();
    assert_eq!(scene.head(get(&scene.session, None)).await.status(), 200);
}

/// F6: the server may have done the work.
#[tokio::test(start_paused = true)]
async fn f6_nothing_is_sent_again_after_a_transport_error_or_a_truncated_answer() {
    type Instead = fn() -> Result<Reply, TestError>;
    fn cut(code: u16, content_type: &'static str) -> Result<Reply, TestError> {
        let mut reply = reply(code, Some(content_type), "");
        *reply.body_mut() = Script::new().data("{\"jsonrpc\"").error("reset").boxed();
        Ok(reply)
    }
    let answers: [Instead; 6] = [
        || Err(TestError("reset")),
        || cut(200, "application/json"),
        || cut(404, "application/json"),
        || cut(404, "text/plain"),
        || cut(400, "application/json"),
        || cut(500, "application/json"),
    ];
    for (n, instead) in answers.into_iter().enumerate() {
        // Given a server that is gone in the middle of an answer, to the request itself or to its
        // replay,
        for in_replay in [false, true] {
            let scene = lost(SessionRecoveryLayer::new()).await;
            let dead = scene.session.clone();
            scene.server.on_async(move |seen| {
                let now =
                    (seen.session() != Some(&dead)) == in_replay && seen.what() == "tools/call";
                now.then(|| -> Answering { Box::pin(async move { instead() }) })
            });

            // when a call is made, then what came of it is all that the caller gets.
            let request = post(Some(&scene.session), &tool_call(1));
            match soon(scene.client.clone().oneshot(request)).await {
                Err(error) => assert_eq!((n, error.downcast_ref()), (0, Some(&TestError("reset")))),
                Ok(response) => {
                    let answer = read(response).await;
                    assert_eq!(
                        (answer.text(), &answer.body_error),
                        ("{\"jsonrpc\"", &Some(TestError("reset")))
                    );
                }
            }
            let times = if in_replay { 2 } else { 1 };
            assert_eq!(
                (
                    scene.server.count("tools/call"),
                    scene.server.count("initialize")
                ),
                (times, times),
                "{n}"
            );
        }
    }
}

/// C2, F2: an answer that is given back after the session has moved on is translated by the epoch
/// that it was given in.
#[tokio::test(start_paused = true)]
async fn c2_an_answer_that_is_given_back_shows_no_id_but_the_callers() {
    let server = Server::new(Profile::Python1);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    assert_eq!(
        send(&client, post(Some(&session), &tool_call(1)))
            .await
            .status,
        200
    );
    let upstream = server.last("tools/call").session().unwrap().to_owned();
    server.restart();
    // A server that says in its 404 which session it does not know.
    let unknown = upstream.clone();
    server.on(move |seen| {
        (seen.session() == Some(&*unknown)).then(|| {
            let mut reply = reply(404, None, "Session not found");
            let id = unknown.parse().unwrap();
            reply.headers_mut().insert(SESSION_ID, id);
            reply
        })
    });
    let result = json!({"jsonrpc": "2.0", "id": 7, "result": {}});

    let answer = send(&client, post(Some(&session), &result)).await;

    assert_eq!(
        (answer.status, answer.outcome()),
        (404, refused(Refusal::Response))
    );
    assert_eq!(answer.session(), Some(&*session));
}

/// F2, E3: a response over K1 that waited is not let into the new session, whatever is in it.
#[tokio::test(start_paused = true)]
async fn f2_a_large_response_that_waited_does_not_enter_the_new_session() {
    let pad = "p".repeat(4096);
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": pad}});
    for (message, enters) in [
        (request.to_string(), true),
        (
            format!(r#"{{"result":{{"method":"no","x":"{pad}"}},"id":1}}"#),
            false,
        ),
        (format!(r#"[{request},{{"id":1,"result":{{}}}}]"#), false),
    ] {
        // Given a recovery under way,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new().max_body_bytes(1024));
        let session = handshake(&client).await;
        server.restart();
        let door = Door::before(&server, is("initialize"));
        let trigger = start(&client, post(Some(&session), &tool_call(1)));
        settle().await;
        // when the message arrives,
        let body = full(message.clone());
        let late = start(&client, request_with(&session, body));
        settle().await;
        door.open();
        assert_eq!(trigger.await.unwrap().status, 200);
        late.await.unwrap();
        // then it goes where it belongs.
        let seen = server.seen();
        let seen = seen.iter().find(|seen| seen.body.len() > 1024).unwrap();
        assert_eq!(
            seen.session() != Some(&*session),
            enters,
            "{}",
            &message[..40]
        );
    }
}

fn request_with(session: &str, body: CallerBody) -> http::Request<CallerBody> {
    post(Some(session), &json!({})).map(|_| body)
}
