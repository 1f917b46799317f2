//! The caller keeps its id and its version, the server sees its own: rules C1 to C3.

use http::{HeaderMap, Method, Request};
use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::{Door, answer, is, start};
use testing::*;
use tower::ServiceExt;

/// How many kinds [`request_of`] knows.
const KINDS: usize = 5;

/// A request of a kind that callers send in a session.
fn request_of(kind: usize, session: &str) -> Request<CallerBody> {
    let requests: [_; KINDS] = [
        post(Some(session), &tool_call(7)),
        post(
            Some(session),
            &json!({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
        ),
        post(
            Some(session),
            &json!({"jsonrpc": "2.0", "id": "s-1", "result": {}}),
        ),
        get(session, None),
        delete(session),
    ];
    requests.into_iter().nth(kind).unwrap()
}

fn set_version(request: &mut Request<CallerBody>, version: Option<&str>) {
    let headers = request.headers_mut();
    match version {
        Some(version) => headers.insert(PROTOCOL_VERSION, version.parse().unwrap()),
        None => headers.remove(PROTOCOL_VERSION),
    };
}

/// Moves the session to its next epoch. Gives the upstream id.
async fn recover(client: &Client, server: &Server, session: &str) -> String {
    server.restart();
    let answer = send(client, post(Some(session), &tool_call(1))).await;
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::Replayed))
    );
    let upstream = server.live().remove(0);
    assert_ne!(upstream, session);
    upstream
}

/// Puts this id on every answer.
fn echo(server: &Server, id: &str) {
    let (behind, id) = (server.clone(), id.to_owned());
    server.on(move |seen| {
        let mut reply = behind.default_answer(seen);
        reply.headers_mut().insert(SESSION_ID, id.parse().unwrap());
        Some(reply)
    });
}

/// The head of an answer whose body may never end.
async fn head(client: &Client, request: Request<CallerBody>) -> (u16, HeaderMap) {
    let response = client.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

fn without_id(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(SESSION_ID);
    headers
}

/// C1, C2: out with the current epoch's id, back with the caller's.
#[tokio::test]
async fn every_request_goes_out_with_the_epochs_id_and_comes_back_with_the_callers() {
    for (recoveries, kind) in (1..=2).flat_map(|n| (0..KINDS).map(move |kind| (n, kind))) {
        // Given a session in a later epoch,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let mut upstream = String::new();
        for _ in 0..recoveries {
            upstream = recover(&client, &server, &session).await;
        }
        echo(&server, &upstream);

        // when the caller sends a request with its own id,
        let request = request_of(kind, &session);
        let sent = request.headers().clone();
        let (status, headers) = head(&client, request).await;

        // then the server sees the epoch's, and everything else as it was,
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.session(), Some(upstream.as_str()), "{kind}");
        assert_eq!(without_id(seen.headers), without_id(sent), "{kind}");

        // and the caller its own in the answer.
        assert!((200..300).contains(&status), "{kind}");
        assert_eq!(headers[SESSION_ID], session.as_str(), "{kind}");
    }
}

/// C1: the version of an earlier epoch becomes the current one's.
#[tokio::test]
async fn c1_only_the_version_of_an_earlier_epoch_is_replaced() {
    let epochs = ["2025-11-25", "2025-06-18", "2025-03-26", "2025-11-25"];
    let cases: [(usize, Option<&str>, Option<&str>); 13] = [
        (1, Some(epochs[0]), Some(epochs[1])),
        (1, Some(epochs[1]), Some(epochs[1])),
        // The version of a later epoch, which this one cannot know.
        (1, Some(epochs[2]), Some(epochs[2])),
        (1, Some("2024-11-05"), Some("2024-11-05")),
        (1, Some("none of them"), Some("none of them")),
        (1, None, None),
        (2, Some(epochs[0]), Some(epochs[2])),
        (2, Some(epochs[1]), Some(epochs[2])),
        (2, Some(epochs[2]), Some(epochs[2])),
        (3, Some(epochs[0]), Some(epochs[0])),
        (3, Some(epochs[1]), Some(epochs[0])),
        (3, Some(epochs[2]), Some(epochs[0])),
        (3, None, None),
    ];
    for (recoveries, sent, wanted) in cases {
        for kind in 0..KINDS {
            let server = Server::new(Profile::TypeScript);
            let client = client(&server, SessionRecoveryLayer::new());
            server.set_version(epochs[0]);
            let session = handshake(&client).await;
            for version in &epochs[1..=recoveries] {
                server.set_version(version);
                recover(&client, &server, &session).await;
            }

            let mut request = request_of(kind, &session);
            set_version(&mut request, sent);
            head(&client, request).await;

            let seen = server.seen().pop().unwrap();
            let case = format!("{kind} {sent:?} in epoch {recoveries}");
            assert_eq!(seen.header(PROTOCOL_VERSION), wanted, "{case}");
        }
    }
}

/// C1: a server that became stateless is sent no id, until it hands one out again.
#[tokio::test]
async fn c1_in_a_session_without_an_id_the_header_is_removed() {
    for kind in 0..KINDS {
        // Given a server that makes sessions without an id now,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let behind = server.clone();
        answer(&server, "initialize", move |seen| {
            let mut reply = behind.default_answer(seen);
            reply.headers_mut().remove(SESSION_ID);
            reply
        });
        server.on(|seen| {
            let stateless = seen.session().is_none() && seen.what() != "initialize";
            stateless.then(|| reply(202, None, ""))
        });
        server.restart();
        let first = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(
            (first.status, first.outcome()),
            (202, Some(Outcome::Replayed))
        );

        // when the caller sends a request with its id,
        let request = request_of(kind, &session);
        let sent = request.headers().clone();
        let (status, headers) = head(&client, request).await;

        // then it goes out without, and nothing is put on the answer.
        let seen = server.seen().pop().unwrap();
        assert_eq!((status, seen.session()), (202, None), "{kind}");
        assert_eq!(seen.headers, without_id(sent), "{kind}");
        assert!(!headers.contains_key(SESSION_ID), "{kind}");
        if seen.method == Method::DELETE {
            continue; // The session is forgotten.
        }

        // The next session has one again.
        server.restart();
        let unknown = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#;
        let mut gone = Some(reply(400, Some("application/json"), unknown));
        server.on(move |seen| match seen.session() {
            // A 404 would say nothing, where there is no session to be found (rule D7).
            None if seen.what() == "tools/call" => gone.take(),
            _ => None,
        });
        let behind = server.clone();
        answer(&server, "initialize", move |seen| {
            behind.default_answer(seen)
        });
        let back = send(&client, post(Some(&session), &tool_call(2))).await;
        assert_eq!(back.outcome(), Some(Outcome::Replayed), "{kind}");
        assert_eq!(back.session(), Some(session.as_str()), "{kind}");
        assert_eq!(
            server.last("tools/call").session(),
            Some(server.live()[0].as_str())
        );
    }
}

/// C2: refusals and failures carry the caller's id, too; any other id is none of the layer's.
#[tokio::test]
async fn c2_the_epochs_id_alone_is_replaced_whatever_the_status() {
    for status in [200, 202, 400, 404, 409, 500, 503] {
        for (put, wanted) in [
            (Some("upstream"), Some("caller")),
            (Some("caller"), Some("caller")),
            (Some("secret-other"), Some("secret-other")),
            (None, None),
        ] {
            // Given a session in a later epoch,
            let server = Server::new(Profile::TypeScript);
            let client = client(&server, SessionRecoveryLayer::new());
            let session = handshake(&client).await;
            let upstream = recover(&client, &server, &session).await;
            let id = |of: &str| match of {
                "upstream" => upstream.clone(),
                "caller" => session.clone(),
                other => other.to_owned(),
            };

            // when an answer carries an id, be it one that no recovery helps against,
            let echoed = put.map(id);
            answer(&server, "tools/call", move |_| {
                let mut reply = json_reply(status, &json!({}));
                if let Some(id) = &echoed {
                    reply.headers_mut().insert(SESSION_ID, id.parse().unwrap());
                }
                reply
            });
            answer(&server, "initialize", |_| reply(503, None, ""));
            let seen = send(&client, post(Some(&session), &tool_call(2))).await;

            // then the caller sees its own in place of the epoch's.
            assert_eq!(seen.status, status);
            let case = format!("{status} with {put:?}");
            assert_eq!(seen.session(), wanted.map(id).as_deref(), "{case}");
            assert_eq!(seen.recovery.is_some(), status == 404, "{case}");
        }
    }
}

/// C1, C2: an answer is the epoch's that its request was sent in.
#[tokio::test]
async fn c2_an_answer_from_an_epoch_that_is_gone_carries_the_callers_id() {
    for recoveries in [0, 1] {
        // Given a call that is under way,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        for _ in 0..recoveries {
            recover(&client, &server, &session).await;
        }
        let upstream = server.live().remove(0);
        let echoed = upstream.clone();
        let door = Door::then(&server, is("tools/slow"), move |_| {
            let mut reply = json_reply(200, &json!({}));
            let id = echoed.parse().unwrap();
            reply.headers_mut().insert(SESSION_ID, id);
            reply
        });
        let slow = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/slow"});
        let under_way = start(&client, post(Some(&session), &slow));
        settle().await;
        assert_eq!(server.last("tools/slow").session(), Some(upstream.as_str()));

        // when the session moves on and the call is answered after all,
        recover(&client, &server, &session).await;
        door.open();

        // then the caller sees its own id.
        let answer = under_way.await.unwrap();
        assert_eq!((answer.status, answer.recovery), (200, None));
        assert_eq!(answer.session(), Some(session.as_str()), "{recoveries}");
    }
}

/// C3: the caller's own session is the server's.
#[tokio::test]
async fn c3_in_the_first_epoch_nothing_is_translated() {
    for (kind, version) in (0..KINDS).flat_map(|kind| {
        [None, Some(VERSION), Some("2025-03-26"), Some("none")].map(|version| (kind, version))
    }) {
        for id in [None, Some("secret-session-1"), Some("secret-other")] {
            let server = Server::new(Profile::Rmcp);
            let client = client(&server, SessionRecoveryLayer::new());
            let session = handshake(&client).await;
            if let Some(id) = id {
                echo(&server, id);
            }

            let mut request = request_of(kind, &session);
            set_version(&mut request, version);
            let sent = request.headers().clone();
            let (status, headers) = head(&client, request).await;

            let seen = server.seen().pop().unwrap();
            assert_eq!(seen.headers, sent, "{kind} {version:?}");
            assert!((200..300).contains(&status), "{kind} {version:?}");
            let seen = headers.get(SESSION_ID).map(|id| id.to_str().unwrap());
            assert_eq!(seen, id, "{kind} {version:?}");
        }
    }
}

/// C1, C2: some put the header on twice, and no value of it says anything else.
#[tokio::test]
async fn every_value_of_the_session_header_is_translated() {
    // Given a session in another epoch, and a server that says its id twice,
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let upstream = recover(&client, &server, &session).await;
    let (behind, id) = (server.clone(), upstream.clone());
    server.on(move |seen| {
        let mut reply = behind.default_answer(seen);
        for _ in 0..2 {
            reply.headers_mut().append(SESSION_ID, id.parse().unwrap());
        }
        Some(reply)
    });

    // when a caller does so, too,
    let mut request = post(Some(&session), &tool_call(2));
    let twice = session.parse().unwrap();
    request.headers_mut().append(SESSION_ID, twice);
    let (status, headers) = head(&client, request).await;

    // then each side sees its own alone.
    assert_eq!(status, 200);
    let told: Vec<_> = headers.get_all(SESSION_ID).iter().collect();
    assert!(
        told.len() > 1 && told.iter().all(|id| **id == session),
        "{told:?}"
    );
    let seen = server.last("tools/call");
    let sent: Vec<_> = seen.headers.get_all(SESSION_ID).iter().collect();
    assert_eq!(sent, [&upstream, &upstream]);
}
