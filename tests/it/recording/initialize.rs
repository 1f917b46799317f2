//! What is recorded of a handshake as it passes: rules B1, B2, B4 and B5. What is read of its
//! answer (B3) is in `result.rs`.

use std::sync::Arc;

use futures::FutureExt;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, SessionRecoveryLayer, Sessions};
use serde_json::{Value, json};
use testing::busy::busy;
use testing::scenario::{Door, answer, is, start};
use testing::transcript::frames;
use testing::whose::Ids;
use testing::*;
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// What the server negotiates in these tests, unlike what is proposed, so that it can be seen
/// whether the layer knows it: it proposes what was negotiated (rule E5), if it does.
const NEGOTIATED: &str = "2025-06-18";

fn sessions(layer: SessionRecoveryLayer, server: &Server) -> (Client, Sessions) {
    let sessions = Sessions::new();
    (client(server, layer.sessions(sessions.clone())), sessions)
}

fn with_id(mut reply: Reply, id: &str) -> Reply {
    reply.headers_mut().insert(SESSION_ID, id.parse().unwrap());
    reply
}

fn with_body(request: Request<CallerBody>, body: CallerBody) -> Request<CallerBody> {
    request.map(|_| body)
}

/// Answers every session-less POST like an `initialize`, with an id.
fn assigns_always(server: &Server) {
    server.on(|seen| {
        let result = json!({"jsonrpc": "2.0", "id": seen.message()["id"], "result": {}});
        (seen.session().is_none()).then(|| with_id(json_reply(200, &result), "assigned"))
    });
}

/// Lets the session die, and gives the version that the layer proposes then.
async fn proposed_in_recovery(client: &Client, server: &Server, session: &str) -> Value {
    server.restart();
    let answer = send(client, post(Some(session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    server.last("initialize").message()["params"]["protocolVersion"].clone()
}

/// B1, B2: which requests may make a session.
#[tokio::test]
async fn only_a_post_of_json_that_may_be_an_initialize_is_recorded() {
    let whole = initialize().to_string();
    let escaped = whole.replace("initialize", "initi\\u0061lize");
    let spaced = format!("\n {whole}\n");
    let long = whole.len();
    for (headers, method, body, limit, is_recorded) in [
        (&[][..], Method::POST, &whole, long, true),
        (&[], Method::POST, &spaced, long + 3, true),
        (
            &[("mcp-method", "initialize")],
            Method::POST,
            &whole,
            long,
            true,
        ),
        (
            &[("content-type", "Application/JSON; charset=utf-8")],
            Method::POST,
            &whole,
            long,
            true,
        ),
        (&[("mcp-method", "ping")], Method::POST, &whole, long, false),
        (
            &[("content-type", "text/plain")],
            Method::POST,
            &whole,
            long,
            false,
        ),
        (
            &[("content-type", "application/json")],
            Method::PUT,
            &whole,
            long,
            false,
        ),
        // JSON is parsed where the bytes are found, and nowhere else.
        (&[], Method::POST, &escaped, 2 * long, false),
        // K1.
        (&[], Method::POST, &whole, long - 1, false),
    ] {
        // Given a server that assigns an id to whatever comes,
        let server = Server::new(Profile::TypeScript);
        assigns_always(&server);
        let layer = SessionRecoveryLayer::new().max_body_bytes(limit);
        let (client, sessions) = sessions(layer, &server);

        // when a request without an id is sent,
        let mut request = request(method.clone(), None, body.clone());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let answer = send(&client, request).await;

        // then it makes a session only if it initializes one. It arrives whole in any case.
        let case = format!("{method} {headers:?} {body} {limit}");
        assert_eq!((answer.status, answer.session()), (200, Some("assigned")));
        assert_eq!(sessions.len(), usize::from(is_recorded), "{case}");
        assert_eq!(server.seen()[0].body, body.as_bytes(), "{case}");
    }
}

/// B1: a candidate's body is taken whole before the inner service is called, which may answer
/// before it has read it.
#[tokio::test]
async fn b1_a_candidate_goes_out_once_its_body_has_ended() {
    // Given an `initialize` whose body takes its time,
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let (feeder, feed) = feed();
    let sending = start(
        &client,
        with_body(post(None, &initialize()), BodyExt::boxed(feed)),
    );
    let body = initialize().to_string();
    let (begin, end) = body.split_at(body.find("ialize").unwrap());
    feeder.data(begin);
    settle().await;
    assert_eq!(server.log(), [""; 0]);

    // when it ends,
    feeder.data(end);
    drop(feeder);

    // then the request is sent, and its session recorded.
    assert_eq!(sending.await.unwrap().status, 200);
    assert_eq!((server.count("initialize"), sessions.len()), (1, 1));
}

/// B1: what turns out to be no `initialize`, frame for frame.
#[tokio::test]
async fn b1_a_body_that_was_looked_at_arrives_as_it_was_cut() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    for (limit, text) in [
        (1024, "initialize"),
        (1024, "tools/call"),
        (10, "initialize"),
    ] {
        let script = || {
            let script = Script::new().data("{\"method\":\"").data(text).yields();
            script.data("\"}").trailers(trailers.clone())
        };
        let (service, mut handle) = tower_test::mock::pair();
        let layer = SessionRecoveryLayer::new().max_body_bytes(limit);
        let client: Client<_> = tower::Layer::layer(&layer, service);
        let request = with_body(post(None, &json!({})), script().boxed());
        let sending = tokio::spawn(async move { send(&client, request).await });

        let (seen, respond) = handle.next_request().await.unwrap();
        assert_eq!(frames(seen.into_body()), frames(script()));
        respond.send_response(reply(400, None, "no"));
        assert_eq!(sending.await.unwrap().status, 400);
    }
}

/// B1, K1, B5: what is not kept cannot be repeated, so it makes no session, with a known id or none.
#[tokio::test]
async fn b1_an_initialize_over_the_limit_passes_whole_and_makes_no_session() {
    for attaches_its_old_id in [false, true] {
        for tells_its_size in [false, true] {
            // Given an `initialize` that is larger than what is kept,
            let context = format!("old id: {attaches_its_old_id}, size: {tells_its_size}");
            let (server, sessions) = (Server::new(Profile::TypeScriptJson), Sessions::new());
            let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
            let old = handshake(&client(&server, layer.clone())).await;
            let message = initialize().to_string();
            let client = client(&server, layer.max_body_bytes(message.len() - 1));
            assigns_always(&server);
            server.on(|seen| {
                let assigns = seen.what() == "initialize" && seen.session().is_some();
                let result = json!({"jsonrpc": "2.0", "id": 0, "result": {}});
                assigns.then(|| with_id(json_reply(200, &result), "assigned"))
            });
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
            let (begin, end) = message.split_at(message.find("ialize").unwrap());
            let mut request = post(attaches_its_old_id.then_some(old.as_str()), &initialize());
            if !tells_its_size {
                let script = Script::new().data(begin).yields().data(end);
                request = with_body(request, script.trailers(trailers.clone()).boxed());
            }

            // when it is sent,
            let answer = send(&client, request).await;

            // then the server gets all of it, and the caller the server's answer,
            let seen = server.last("initialize");
            assert_eq!(seen.body, message, "{context}");
            assert_eq!(seen.body_error, None, "{context}");
            let sent = (!tells_its_size).then_some(trailers);
            assert_eq!(seen.trailers, sent, "{context}");
            assert_eq!((answer.status, answer.session()), (200, Some("assigned")));
            let reported = Some(Outcome::NotRecorded);
            assert_eq!(answer.outcome(), reported, "{context}");
            // and nothing is known of the new session: its loss is the caller's to see.
            assert_eq!(sessions.len(), 1, "{context}");
            let (log, lost) = (server.log().len(), tool_call(1));
            let after = send(&client, post(Some("assigned"), &lost)).await;
            assert_eq!((after.status, after.recovery), (404, None), "{context}");
            assert_eq!(server.log()[log..], ["tools/call"], "{context}");
        }
    }
}

/// B4, B5: only a session that there is now is said not to be recorded.
#[tokio::test]
async fn b4_a_large_initialize_in_a_session_is_reported_where_it_makes_another() {
    let message = initialize().to_string();
    for (limits_what_is_kept, assigned) in
        [(false, "other"), (false, ""), (true, "other"), (true, "")]
    {
        // Given a session whose caller initializes again, with more than is remembered,
        let layer = SessionRecoveryLayer::new();
        let (server, sessions) = (Server::new(Profile::TypeScriptJson), Sessions::new());
        let session = handshake(&client(&server, layer.clone().sessions(sessions.clone()))).await;
        let limited = match limits_what_is_kept {
            true => layer.max_body_bytes(message.len() - 1),
            false => layer.max_initialize_bytes(message.len() - 1),
        };
        let client = client(&server, limited.sessions(sessions));
        let id = if assigned.is_empty() {
            session.clone()
        } else {
            assigned.to_owned()
        };
        answer(&server, "initialize", move |_| {
            let result = json!({"jsonrpc": "2.0", "id": 0, "result": {}});
            with_id(json_reply(200, &result), &id)
        });

        // when the server answers with an id, then it is reported if that is another.
        let answer = send(&client, post(Some(&session), &initialize())).await;
        let reported = (!assigned.is_empty()).then_some(Outcome::NotRecorded);
        assert_eq!(answer.outcome(), reported, "{limits_what_is_kept}");
    }
}

/// B1: a body that breaks breaks for the server, too, and makes no session.
#[tokio::test]
async fn b1_an_initialize_that_broke_half_way_is_not_recorded() {
    let server = Server::new(Profile::TypeScript);
    assigns_always(&server);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let script = Script::new().data(initialize().to_string()).error("broken");

    let answer = send(
        &client,
        with_body(post(None, &initialize()), script.boxed()),
    )
    .await;

    assert_eq!((answer.status, sessions.len()), (200, 0));
    let seen = &server.seen()[0];
    assert_eq!(seen.body_error.as_deref(), Some("broken"));
    assert_eq!(seen.body, initialize().to_string().as_bytes());
}

/// B1: a caller that gives up while it sends leaves nothing behind.
#[tokio::test]
async fn b1_an_initialize_that_the_caller_dropped_half_way_is_not_sent() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let (feeder, feed) = feed();
    feeder.data(initialize().to_string());
    let request = with_body(post(None, &initialize()), BodyExt::boxed(feed));

    assert!(client.oneshot(request).now_or_never().is_none());

    settle().await;
    assert!(feeder.is_dropped() && sessions.is_empty() && server.seen().is_empty());
}

/// B2: an id is learned from a 2xx alone.
#[tokio::test]
async fn b2_only_a_2xx_with_an_id_makes_a_session() {
    for (status, id, is_recorded) in [
        (200, true, true),
        (201, true, true),
        (202, true, true),
        (200, false, false),
        (302, true, false),
        (400, true, false),
        (401, true, false),
        (404, true, false),
        (503, true, false),
    ] {
        // Given a server that answers `initialize` so,
        let server = Server::new(Profile::TypeScript);
        let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
        answer(&server, "initialize", move |_| {
            let reply = json_reply(status, &json!({"jsonrpc": "2.0", "id": 0, "result": {}}));
            match id {
                true => with_id(reply, "assigned"),
                false => reply,
            }
        });

        // when the caller initializes,
        let answer = send(&client, post(None, &initialize())).await;

        // then the answer passes as it is, nothing else is sent,
        let assigned = id.then_some("assigned");
        assert_eq!((answer.status, answer.session()), (status, assigned));
        assert_eq!((answer.recovery, server.seen().len()), (None, 1));
        // and a session that was not made is not recovered.
        assert_eq!(sessions.len(), usize::from(is_recorded), "{status}");
        if !is_recorded {
            let answer = send(&client, post(Some("assigned"), &tool_call(1))).await;
            assert_eq!((answer.status, answer.recovery), (404, None), "{status}");
            assert_eq!(server.count("initialize"), 1, "{status}");
        }
    }
}

/// B2: an id in the answer to any other message is not learned.
#[tokio::test]
async fn b2_only_one_request_to_initialize_makes_a_session() {
    let mut notification = initialize();
    notification.as_object_mut().unwrap().remove("id");
    for message in [
        tool_call(1),
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "initialize"}}),
        json!({"jsonrpc": "2.0", "id": 1, "result": {"method": "initialize"}}),
        json!([initialize()]),
        json!("initialize"),
        initialized(),
        notification,
    ] {
        let server = Server::new(Profile::TypeScript);
        assigns_always(&server);
        let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);

        let answer = send(&client, post(None, &message)).await;

        assert_eq!((answer.status, answer.session()), (200, Some("assigned")));
        assert!(sessions.is_empty(), "{message}");
    }
}

/// B2: nor is what is too large to be looked at taken for an `initialize` that was not recorded,
/// where it begins as something else.
#[tokio::test]
async fn b2_a_large_message_that_is_no_initialize_is_not_reported() {
    for (method, outcome) in [
        ("tools/call", None),
        ("initialize", Some(Outcome::NotRecorded)),
    ] {
        let server = Server::new(Profile::TypeScript);
        assigns_always(&server);
        let client = client(&server, SessionRecoveryLayer::new().max_body_bytes(100));
        let text = "initialize".repeat(100);
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"text":"{text}"}}}}"#
        );
        let answer = send(&client, request(Method::POST, None, body)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.outcome(), outcome, "{method}");
    }
}

/// B2: Python puts an id that is dead already on its 400, Go mints one for whatever comes. A
/// client that probes with `server/discover` meets both.
#[tokio::test]
async fn b2_a_probe_before_initialize_makes_no_session_and_the_initialize_does() {
    for (profile, status) in [(Profile::Python2, 400), (Profile::Go, 200)] {
        for version in [None, Some("2026-07-28")] {
            // Given a server that puts an id on its answer to a probe,
            let server = Server::new(profile);
            let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
            let probe = json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover"});
            let mut request = post(None, &probe);
            if let Some(version) = version {
                let version = version.parse().unwrap();
                request.headers_mut().insert(PROTOCOL_VERSION, version);
            }
            let probed = send(&client, request).await;
            assert_eq!(probed.status, status);
            assert!(sessions.is_empty());
            let dead = probed.session().unwrap().to_owned();

            // when the caller initializes, and the session dies,
            let mut message = initialize();
            message["id"] = json!(2);
            let session = send(&client, post(None, &message)).await;
            let session = session.session().unwrap();
            server.restart();

            // then that one is recovered and the other is nobody's.
            let answer = send(&client, post(Some(session), &tool_call(3))).await;
            assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{profile:?}");
            let answer = send(&client, post(Some(&dead), &tool_call(4))).await;
            assert_eq!((answer.status, answer.recovery), (404, None), "{profile:?}");
            assert_eq!((server.count("initialize"), sessions.len()), (2, 1));
        }
    }
}

/// B4: a caller may have several sessions.
#[tokio::test]
async fn b4_another_initialize_makes_another_session() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let mut ids = Vec::new();
    for number in [0, 1] {
        let mut message = initialize();
        message["params"]["clientInfo"]["name"] = json!(number);
        let answer = send(&client, post(None, &message)).await;
        ids.push(answer.session().unwrap().to_owned());
    }
    assert_eq!(sessions.len(), 2);
    server.restart();

    for number in [1, 0] {
        let answer = send(&client, post(Some(&ids[number]), &tool_call(1))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        assert_eq!(answer.session(), Some(ids[number].as_str()));
        let sent = server.last("initialize").message();
        assert_eq!(sent["params"]["clientInfo"]["name"], number);
    }
}

/// A5: servers that count their sessions hand out the same ids again after a restart.
#[tokio::test]
async fn a5_a_new_session_is_not_called_by_an_id_that_another_caller_goes_by() {
    // Given a session in its second epoch,
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let session = handshake(&client).await;
    server.restart();
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));

    // when a caller initializes anew, and is handed out the same id,
    let mut reply = Some(with_id(
        json_reply(200, &json!({"id": 0, "result": {}})),
        &session,
    ));
    server.on(move |_| reply.take());
    let mut message = initialize();
    message["params"]["clientInfo"]["name"] = json!("new");
    let made = send(&client, post(None, &message)).await;
    let other = made.session().unwrap().to_owned();

    // then the new session goes by one of the layer's making, translated from its first epoch on,
    assert_ne!(other, session);
    assert_eq!(sessions.len(), 2);
    let answer = send(&client, post(Some(&other), &tool_call(2))).await;
    assert_eq!(
        server.all("tools/call")[2].session(),
        Some(session.as_str())
    );
    // what is repeated when it expires is its own handshake,
    assert_eq!(answer.recovery.map(|recovery| recovery.epoch()), Some(1));
    let sent = server.last("initialize").message();
    assert_eq!(sent["params"]["clientInfo"]["name"], "new");
    assert_eq!(answer.session(), Some(other.as_str()));

    // and the old one is where it was.
    let answer = send(&client, post(Some(&session), &tool_call(3))).await;
    assert_eq!((answer.status, answer.recovery), (200, None));
}

/// B5: the session that the old id named lives or is dead, and in its first epoch or a later one.
#[tokio::test]
async fn b5_an_initialize_with_a_known_id_that_is_answered_with_another_makes_a_session() {
    for (recoveries, dead) in [(0, false), (0, true), (1, false), (1, true)] {
        // Given a caller that attaches its old id to an `initialize`,
        let server = Server::new(Profile::TypeScript);
        let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
        let old = handshake(&client).await;
        for _ in 0..recoveries {
            server.restart();
            send(&client, post(Some(&old), &tool_call(1))).await;
        }
        if dead {
            server.restart();
        }
        let mut reply = json_reply(
            200,
            &json!({"id": 0, "result": {"protocolVersion": NEGOTIATED}}),
        );
        reply = with_id(reply, "assigned");
        let mut reply = Some(reply);
        server.on(move |_| reply.take());
        let mut message = initialize();
        message["params"]["clientInfo"]["name"] = json!("new");

        // when the server answers with a new id,
        let answer = send(&client, post(Some(&old), &message)).await;

        // then that is the caller's, and is recovered like any other, with nothing of the old one.
        assert_eq!(
            (answer.session(), answer.recovery),
            (Some("assigned"), None)
        );
        assert_eq!(sessions.len(), 2, "{recoveries} {dead}");
        let proposed = proposed_in_recovery(&client, &server, "assigned").await;
        assert_eq!(proposed, NEGOTIATED);
        let sent = server.last("initialize");
        assert_eq!(sent.message()["params"]["clientInfo"]["name"], "new");
        assert_eq!(
            (sent.session(), sent.header(PROTOCOL_VERSION)),
            (None, None)
        );

        // The old one is still there, too.
        let answer = send(&client, post(Some(&old), &tool_call(2))).await;
        assert_eq!((answer.status, answer.session()), (200, Some(old.as_str())));
    }
}

/// B4, B5: some servers initialize a live session again and keep its id.
#[tokio::test]
async fn b5_an_initialize_that_is_answered_with_the_same_id_is_the_one_to_repeat() {
    for recoveries in [0, 1] {
        let server = Server::new(Profile::Python1);
        let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
        let session = handshake(&client).await;
        for _ in 0..recoveries {
            server.restart();
            send(&client, post(Some(&session), &tool_call(1))).await;
        }

        // The profile answers any request to a live session, under its id.
        let mut message = initialize();
        message["params"]["clientInfo"]["name"] = json!("again");
        let answer = send(&client, post(Some(&session), &message)).await;

        assert_eq!(
            (answer.status, answer.session()),
            (200, Some(session.as_str()))
        );
        assert_eq!((answer.recovery, sessions.len()), (None, 1));
        let before = server.count("initialize");
        server.restart();
        let answer = send(&client, post(Some(&session), &tool_call(2))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        let epoch = answer.recovery.map(|recovery| recovery.epoch());
        assert_eq!(epoch, Some(1));
        assert_eq!(server.count("initialize"), before + 1);
        let sent = server.last("initialize").message();
        assert_eq!(sent["params"]["clientInfo"]["name"], "again");
    }
}

/// B5, A5: two of them at once renew one session, and neither takes it from the other.
#[tokio::test(start_paused = true)]
async fn b5_two_initializes_at_once_that_are_answered_with_the_same_id_renew_one_session() {
    for recoveries in 0..3 {
        let server = Server::new(Profile::Python1);
        let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
        let session = handshake(&client).await;
        for _ in 0..recoveries {
            server.restart();
            send(&client, post(Some(&session), &tool_call(1))).await;
        }
        let live = server.live();

        // When a caller initializes twice in its live session before either is answered,
        let door = Door::before(&server, is("initialize"));
        let both = [1, 2].map(|_| start(&client, post(Some(&session), &initialize())));
        settle().await;
        door.open();
        for answer in both {
            let answer = answer.await.unwrap();
            assert_eq!((answer.status, answer.session()), (200, Some(&*session)));
        }

        // then it goes on in that, by its own id.
        let before = server.count("initialize");
        let answer = send(&client, post(Some(&session), &tool_call(2))).await;
        assert_eq!((answer.status, answer.recovery), (200, None));
        assert_eq!(server.count("initialize"), before);
        assert_eq!((server.live(), sessions.len()), (live, 1));
    }
}

/// B5 is for an `initialize` alone: an id on the answer to anything else is not learned, and that
/// answer is looked after like any other (G5).
#[tokio::test]
async fn b5_an_id_on_the_answer_to_another_message_makes_no_session() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let session = handshake(&client).await;
    answer(&server, "tools/call", |_| {
        with_id(sse(": none\n\n"), "assigned")
    });
    let message = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "initialize"},
    });

    let answer = send(&client, post(Some(&session), &message)).await;

    assert_eq!((answer.session(), sessions.len()), (Some("assigned"), 1));
    assert_eq!(answer.message()["error"]["data"]["reason"], "stream_ended");
}

/// B2, B5: nor is an id learned that comes with a refusal.
#[tokio::test]
async fn b5_an_initialize_with_a_known_id_that_is_refused_makes_no_session() {
    let server = Server::new(Profile::TypeScript);
    let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
    let session = handshake(&client).await;
    answer(&server, "initialize", |_| {
        with_id(reply(400, None, "no"), "assigned")
    });

    let answer = send(&client, post(Some(&session), &initialize())).await;

    assert_eq!(
        (answer.status, answer.recovery, sessions.len()),
        (400, None, 1)
    );
    let answer = send(&client, post(Some("assigned"), &tool_call(1))).await;
    assert_eq!((answer.status, answer.recovery), (404, None));
}

/// C1: it may be long until the inner service is ready.
#[tokio::test(start_paused = true)]
async fn c1_b5_an_initialize_that_waits_to_be_sent_is_one_of_the_epoch_that_there_is_then() {
    for waits_for_service in [true, false] {
        // Given an `initialize` in a session, which waits for its body, and then may wait for the service,
        let server = Server::new(Profile::TypeScriptJson);
        let (client, load) = busy(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let (feeder, body) = feed();
        let text = initialize().to_string();
        feeder.data(&text[..5]);
        let renew = with_body(post(Some(&session), &initialize()), BodyExt::boxed(body));
        let renewing = tokio::spawn({
            let client = client.clone();
            async move { send(&client, renew).await }
        });
        let mut feeder = Some(feeder);
        let mut end_body = || feeder.take().map(|feeder| feeder.data(&text[5..]));
        settle().await;
        if waits_for_service {
            load.keep_waiting(1);
            end_body();
            settle().await;
            assert!(load.is_waited_for());
        }
        // when the session is recovered meanwhile,
        server.restart();
        let call = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(call.outcome(), Some(Outcome::Replayed));
        end_body();
        // then it goes out under the new id.
        assert_eq!(renewing.await.unwrap().status, 200, "{waits_for_service}");
        let sent = server.last("initialize");
        assert_eq!(sent.session(), server.last("tools/call").session());
    }
}

/// B5, C2: what is assigned is the new session's, also if it is what the epoch is called in which the
/// `initialize` was sent: that is gone.
#[tokio::test(start_paused = true)]
async fn b5_an_id_that_was_assigned_while_the_session_was_recovered_is_told_as_it_is() {
    for too_large in [false, true] {
        // Given a session that its caller calls 5 and the server 1, and that it has lost,
        let server = Server::new(Profile::TypeScriptSingle);
        server.set_ids(Ids::Counting);
        server.count_on_from(4);
        let (client, sessions) = sessions(SessionRecoveryLayer::new(), &server);
        let session = handshake(&client).await;
        server.restart();
        send(&client, post(Some(&session), &tool_call(1))).await;
        server.restart();

        // when the caller initializes in it while it is recovered, and is assigned 1, and the recovery 2,
        let recovery = Door::before(&server, |seen| {
            seen.what() == "initialize" && seen.session().is_none()
        });
        let call = start(&client, post(Some(&session), &tool_call(2)));
        settle().await;
        let (behind, renewal) = (server.clone(), Arc::new(Semaphore::new(0)));
        let opened = renewal.clone();
        server.on_async(move |seen| {
            let renews = seen.what() == "initialize" && seen.session().is_some();
            let (opened, reply) = (opened.clone(), renews.then(|| behind.default_answer(seen))?);
            Some(Box::pin(async move {
                opened.acquire().await.unwrap().forget();
                Ok(reply)
            }))
        });
        let mut message = initialize();
        message["params"]["clientInfo"]["name"] = json!("again");
        if too_large {
            message["params"]["_meta"] = json!("x".repeat(70_000));
        }
        let renewing = start(&client, post(Some(&session), &message));
        settle().await;
        recovery.open();
        assert_eq!(call.await.unwrap().outcome(), Some(Outcome::Replayed));
        renewal.add_permits(1);
        let answer = renewing.await.unwrap();

        // then the caller goes on in each session by its id.
        assert_eq!((answer.status, answer.session()), (200, Some("1")));
        assert_eq!(sessions.len(), if too_large { 1 } else { 2 });
        for (id, call, whose) in [("1", 3, "again"), (&*session, 4, "caller")] {
            let answer = send(&client, post(Some(id), &tool_call(call))).await;
            assert_eq!((answer.status, answer.recovery), (200, None), "{id}");
            assert_eq!(server.whose_was(call).as_deref(), Some(whose), "{id}");
        }
    }
}
