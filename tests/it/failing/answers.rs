//! What callers get when a recovery fails (section J). How often one is tried is in `budget.rs`.

use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use testing::scenario::{
    Broken, CHALLENGE, Door, Events, answer, broken_handshakes, fail, hang, heal, is, start,
};
use testing::*;
use tower::ServiceExt;

/// Forgets the sessions, and answers each call to one of them in a way of its own, once the door
/// is open.
fn restart(server: &Server) -> Door {
    server.restart();
    let behind = server.clone();
    Door::then(server, is("tools/call"), move |seen| {
        if behind.live().iter().any(|id| Some(&**id) == seen.session()) {
            return behind.default_answer(seen);
        }
        let id = seen.message()["id"].to_string();
        let value = |text: String| text.parse::<HeaderValue>().unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", value(format!("sum-{id}")));
        let body = Script::new()
            .data(format!("call {id} "))
            .data("is lost")
            .trailers(trailers);
        let mut own = http::Response::new(body.boxed());
        *own.status_mut() = http::StatusCode::NOT_FOUND;
        own.headers_mut().insert("x-call", value(id));
        own.headers_mut().append("set-cookie", value("a=1".into()));
        own.headers_mut().append("set-cookie", value("b=2".into()));
        own
    })
}

/// Sends calls 1 to 3 so that all of them find the session dead.
async fn three_calls(client: &Client, session: &str, door: Door) -> [Answer; 3] {
    let calls = [1, 2, 3].map(|id| start(client, post(Some(session), &tool_call(id))));
    settle().await;
    door.open();
    let [one, two, three] = calls.map(|call| async { call.await.unwrap() });
    tokio::join!(one, two, three).into()
}

/// Whether this is what [`restart`] made the server answer to this call, intact.
#[track_caller]
fn assert_own_404(answer: &Answer, call: u64, context: &str) {
    assert_eq!(answer.status, 404, "{context}");
    assert_eq!(answer.text(), format!("call {call} is lost"), "{context}");
    assert_eq!(answer.header("x-call"), Some(&*call.to_string()));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"], "{context}");
    assert_eq!(answer.headers.len(), 3, "{context}: {:?}", answer.headers);
    let trailers = answer.trailers.as_ref().expect(context);
    assert_eq!(trailers["x-checksum"], format!("sum-{call}"), "{context}");
    assert_eq!(answer.body_error, None, "{context}");
}

/// J1: every request that met the dead session gets the 401 or 403 of the handshake, challenge
/// and all.
#[tokio::test]
async fn j1_a_challenge_reaches_everyone_who_met_the_dead_session() {
    for status in [401, 403] {
        for what in ["initialize", "notifications/initialized"] {
            // Given a server that has forgotten a session and now asks for other credentials,
            let server = Server::new(Profile::TypeScript);
            let client = client(
                &server,
                SessionRecoveryLayer::new()
                    .recovery_pause(std::time::Duration::ZERO, std::time::Duration::ZERO),
            );
            let session = handshake(&client).await;
            let door = restart(&server);
            answer(&server, what, move |_| {
                let mut denied = reply(status, Some("application/problem+json"), "{\"who\":0}");
                let headers = denied.headers_mut();
                headers.insert("www-authenticate", CHALLENGE.parse().unwrap());
                headers.append("www-authenticate", "Basic".parse().unwrap());
                headers.insert("content-length", 9.into());
                // As Python servers do, whatever they answer.
                headers.insert(SESSION_ID, "dead-on-arrival".parse().unwrap());
                denied
            });

            // when several requests find the session dead at the same time,
            let answers = three_calls(&client, &session, door).await;

            // then the one handshake's answer is theirs,
            let context = format!("{status} to {what}");
            for answer in &answers {
                assert_eq!(answer.status, status, "{context}");
                let challenges = answer.headers.get_all("www-authenticate");
                let challenges: Vec<_> = challenges.iter().collect();
                assert_eq!(challenges, [CHALLENGE, "Basic"], "{context}");
                let content_type = answer.header("content-type");
                assert_eq!(content_type, Some("application/problem+json"), "{context}");
                assert_eq!(answer.text(), "{\"who\":0}", "{context}");
                assert_eq!(answer.header("content-length"), Some("9"), "{context}");
                let code = http::StatusCode::from_u16(status).unwrap();
                let outcome = Some(Outcome::Failed(Failure::Denied(code)));
                assert_eq!(answer.outcome(), outcome, "{context}");
                // without an id that some clients would adopt (rule C2).
                let id = answer.session();
                assert!(id.is_none_or(|id| id == session), "{context}: {id:?}");
            }
            assert_eq!(server.count("initialize"), 2, "{context}");

            // And with fresh credentials the next request recovers.
            heal(&server);
            let after = send_call(&client, &session, 4).await;
            assert_eq!(after.outcome(), Some(Outcome::Replayed), "{context}");
        }
    }
}

async fn send_call(client: &Client, session: &str, id: u64) -> Answer {
    send(client, post(Some(session), &tool_call(id))).await
}

/// J2, E7, J4: however the handshake fails, each request gets its own 404, nothing of the attempt
/// stays on the server, and the next request tries again.
#[tokio::test(start_paused = true)]
async fn j2_each_request_gets_its_own_404_intact() {
    for Broken {
        failure,
        script,
        half_open,
    } in broken_handshakes()
    {
        if matches!(failure, Failure::Denied(_)) {
            continue;
        }
        // Given a server that has forgotten a session and makes no new one,
        let server = Server::new(Profile::TypeScript);
        let (layer, events) = Events::of(SessionRecoveryLayer::new());
        let client = client(&server, layer);
        let session = handshake(&client).await;
        let door = restart(&server);
        script(&server);

        // when several requests find that out at the same time,
        let answers = three_calls(&client, &session, door).await;

        // then each gets its own answer after one attempt,
        let context = format!("{failure:?}, {half_open:?}");
        for (answer, id) in answers.iter().zip(1..) {
            assert_own_404(answer, id, &context);
            let recovery = answer.recovery.expect(&context);
            assert_eq!(recovery.outcome(), Outcome::Failed(failure), "{context}");
            assert_eq!(recovery.epoch(), 0, "{context}");
        }
        assert_eq!(server.count("initialize"), 2, "{context}");
        assert_eq!(server.count("tools/call"), 3, "{context}");
        assert_eq!(events.outcomes(), [Err(failure)], "{context}");
        // the session that was begun is ended,
        settle().await;
        let ended: Vec<_> = server.all("DELETE");
        let ended: Vec<_> = ended.iter().filter_map(Seen::session).collect();
        assert_eq!(ended, Vec::from_iter(half_open), "{context}");
        assert_eq!(server.live(), [""; 0], "{context}");

        // and once the server has come to its senses, nothing is left of it.
        heal(&server);
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        let after = send_call(&client, &session, 4).await;
        assert_eq!(after.status, 200, "{context}");
        let recovery = after.recovery.expect(&context);
        assert_eq!(recovery.outcome(), Outcome::Replayed, "{context}");
        assert_eq!(recovery.epoch(), 1, "{context}");
        assert_eq!(events.outcomes(), [Err(failure), Ok(())], "{context}");
    }
}

/// J2, D7, F6: an error of the inner service on the caller's own request is the caller's, as it
/// came, on the first sending and on the replay.
#[tokio::test]
async fn j2_the_inner_services_error_is_passed_on_unchanged() {
    // Given a session,
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;

    // when a request fails in the transport,
    fail(&server, "tools/call", "reset by peer");
    let request = || post(Some(&session), &tool_call(1));
    let failed = client.clone().oneshot(request()).await;

    // then that is what the caller gets, and no recovery.
    assert_eq!(failed.err(), Some(TestError("reset by peer")));
    assert_eq!(server.count("initialize"), 1);

    // When it is the replay that fails, the server may have done the work: it is not repeated.
    server.restart();
    let (behind, mut first) = (server.clone(), true);
    server.on(move |seen| {
        let first = seen.what() == "tools/call" && std::mem::take(&mut first);
        first.then(|| behind.default_answer(seen))
    });
    let failed = client.clone().oneshot(request()).await;
    assert_eq!(failed.err(), Some(TestError("reset by peer")));
    assert_eq!(server.count("initialize"), 2);
    assert_eq!(server.count("tools/call"), 3);
}

/// J3: requests that waited for a recovery that fails are sent then, each once, in the session
/// that they were made for, and the server's answer is theirs, be it good or bad. None of them
/// starts another recovery.
#[tokio::test]
async fn j3_those_who_waited_are_sent_in_the_old_session() {
    for status in [404, 503] {
        // Given a recovery from epoch 1 under way, which will fail,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        send_call(&client, &session, 1).await;
        let old = server.live().remove(0);
        restart(&server).open();
        let door = Door::then(&server, is("initialize"), move |_| {
            reply(status, None, "denied")
        });
        let trigger = start(&client, post(Some(&session), &tool_call(2)));
        settle().await;
        let before = server.seen().len();

        // when requests arrive, and it fails,
        let list = serde_json::json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list"});
        let waiting = [
            start(&client, post(Some(&session), &tool_call(3))),
            start(&client, post(Some(&session), &list)),
            start(&client, request(Method::DELETE, Some(&session), "")),
        ];
        // One of them a server behind the same load balancer can answer.
        let result = serde_json::json!({"jsonrpc": "2.0", "id": 4, "result": {"tools": []}});
        let listed = result.clone();
        answer(&server, "tools/list", move |_| json_reply(200, &listed));
        settle().await;
        assert_eq!(server.seen().len(), before);
        door.open();

        // then that is when they are sent.
        let [called, listed, ended] = waiting.map(|waiting| async { waiting.await.unwrap() });
        let (called, listed, ended) = tokio::join!(called, listed, ended);
        assert_own_404(&called, 3, "waited");
        assert_eq!((listed.status, listed.message()), (200, result));
        assert_eq!(ended.status, 404);
        for answer in [&called, &listed, &ended, &trigger.await.unwrap()] {
            let failed = matches!(answer.outcome(), Some(Outcome::Failed(_)));
            assert!(failed, "{:?}", answer.outcome());
        }
        let late = server.seen().split_off(before);
        let mut what: Vec<_> = late.iter().map(Seen::what).collect();
        what.sort();
        assert_eq!(what, ["DELETE", "tools/call", "tools/list"]);
        assert!(late.iter().all(|seen| seen.session() == Some(&old)));
    }
}

/// J3: a recovery whose runtime shuts down has failed; nobody waits for it in vain.
#[test]
fn j3_nobody_waits_for_a_recovery_that_nobody_runs() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (theirs, ours) = (runtime(), runtime());
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = ours.block_on(handshake(&client));
    restart(&server).open();
    // Given a recovery that another runtime runs,
    hang(&server, "initialize");
    let trigger = client.clone();
    let call = post(Some(&session), &tool_call(1));
    theirs.block_on(async {
        tokio::spawn(async move { send(&trigger, call).await });
        settle().await;
    });
    assert_eq!(server.count("initialize"), 2);
    ours.block_on(async {
        let waiting = start(&client, post(Some(&session), &tool_call(2)));
        settle().await;
        assert!(!waiting.is_finished());

        // when that shuts down,
        theirs.shutdown_background();

        // then who waited goes on.
        let answer = waiting.await.unwrap();
        assert_own_404(&answer, 2, "cancelled");
        let cancelled = Outcome::Failed(Failure::Cancelled);
        assert_eq!(answer.outcome(), Some(cancelled));
        // Nor is that the end: the next one to run is as good as any.
        heal(&server);
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        let after = send_call(&client, &session, 3).await;
        assert_eq!(after.outcome(), Some(Outcome::Replayed));
    });
}

/// J4: a request that was sent before a recovery failed shares its fate: one loss, one attempt.
#[tokio::test]
async fn j4_an_answer_that_comes_after_the_failure_starts_no_other_attempt() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    restart(&server).open();
    answer(&server, "initialize", |_| reply(503, None, ""));
    let door = Door::before(&server, is("tools/list"));
    let list = serde_json::json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let slow = start(&client, post(Some(&session), &list));
    settle().await;
    send_call(&client, &session, 1).await;
    assert_eq!(server.count("initialize"), 2);

    door.open();

    let refused = Failure::Refused(http::StatusCode::SERVICE_UNAVAILABLE);
    let outcome = slow.await.unwrap().outcome();
    assert_eq!(outcome, Some(Outcome::Failed(refused)));
    assert_eq!(server.count("initialize"), 2);
}
