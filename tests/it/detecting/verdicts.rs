//! Which answers show that a session is dead: rules D1 to D3. When an answer counts at all
//! (D6, D7) is in `triggering.rs`.

use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use mcp_session_recovery::{
    Classify, HttpAnswer as Judged, Outcome, SessionRecoveryLayer, Sessions, Strict, Verdict,
};
use serde_json::{Value, json};
use testing::*;
use tower::ServiceExt;

const FIRST: &str = "secret-session-1";

/// A server that lives and answers every request of the first session, once its handshake is
/// done, as told.
async fn answers(
    layer: SessionRecoveryLayer,
    reply: impl Fn(&Seen) -> Option<Reply> + Send + 'static,
) -> (Server, Client) {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, layer);
    assert_eq!(handshake(&client).await, FIRST);
    server.on(move |seen| reply(seen).filter(|_| seen.session() == Some(FIRST)));
    (server, client)
}

/// What arrived after the caller's own handshake.
fn log(server: &Server) -> Vec<String> {
    server.log().split_off(2)
}

/// What arrives when a request is sent, found to have met a dead session, and sent again.
fn recovered(what: &str) -> [String; 4] {
    [what, "initialize", "notifications/initialized", what].map(str::to_owned)
}

/// An answer, and what it says of the session.
struct Case {
    status: u16,
    content_type: Option<&'static str>,
    body: String,
    verdict: Verdict,
}

fn json_case(status: u16, body: Value, verdict: Verdict) -> Case {
    Case {
        status,
        content_type: Some("application/json"),
        body: body.to_string(),
        verdict,
    }
}

fn event_case(status: u16, body: Value, verdict: Verdict) -> Case {
    Case {
        content_type: Some("text/event-stream"),
        body: format!(": hello\n\ndata: {body}\n\n"),
        ..json_case(status, body, verdict)
    }
}

fn text_case(status: u16, body: &str, verdict: Verdict) -> Case {
    Case {
        status,
        content_type: Some("text/plain"),
        body: body.to_owned(),
        verdict,
    }
}

fn error(id: Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id})
}

/// Answers to `tools/call` with the id 7.
fn cases() -> Vec<Case> {
    let unknown = "Bad Request: No valid session ID provided";
    let fresh = "Bad Request: Server not initialized";
    let terminated = "Session error: Session service terminated";
    let mut cases = vec![
        // Method not found: of this request, or not.
        json_case(
            404,
            error(json!(7), -32601, "Method not found"),
            Verdict::Alive,
        ),
        event_case(
            404,
            error(json!(7), -32601, "Method not found"),
            Verdict::Alive,
        ),
        event_case(
            404,
            error(json!(8), -32601, "Method not found"),
            Verdict::Expired,
        ),
        json_case(
            404,
            error(Value::Null, -32601, "Method not found"),
            Verdict::Expired,
        ),
        json_case(
            404,
            error(json!(8), -32601, "Method not found"),
            Verdict::Expired,
        ),
        json_case(
            404,
            error(json!("7"), -32601, "Method not found"),
            Verdict::Expired,
        ),
        json_case(404, json!({"error": {"code": -32601}}), Verdict::Expired),
        json_case(
            404,
            error(json!(7), -32001, "Session not found"),
            Verdict::Expired,
        ),
        json_case(
            404,
            error(json!(7), -32602, "Session not found"),
            Verdict::Expired,
        ),
        json_case(
            404,
            json!({"id": 7, "result": {"code": -32601}}),
            Verdict::Expired,
        ),
        json_case(404, json!({"id": 7, "code": -32601}), Verdict::Expired),
        // Servers that say 400.
        json_case(400, error(Value::Null, -32000, unknown), Verdict::Expired),
        json_case(400, error(Value::Null, -32000, fresh), Verdict::Expired),
        json_case(400, error(json!(7), -32000, unknown), Verdict::Expired),
        json_case(
            400,
            json!({"error": {"message": unknown}}),
            Verdict::Expired,
        ),
        json_case(
            400,
            error(json!(7), -32602, "Invalid arguments"),
            Verdict::Alive,
        ),
        json_case(
            400,
            error(
                Value::Null,
                -32600,
                "Invalid Request: Server already initialized",
            ),
            Verdict::Alive,
        ),
        json_case(
            400,
            json!({"error": {"message": "no", "data": unknown}}),
            Verdict::Unsure,
        ),
        json_case(400, json!({"message": unknown}), Verdict::Unsure),
        text_case(400, unknown, Verdict::Unsure),
        text_case(400, "", Verdict::Alive),
        // Servers that say 500.
        text_case(500, terminated, Verdict::Expired),
        json_case(500, json!({"error": terminated}), Verdict::Expired),
        text_case(500, "Internal Server Error", Verdict::Alive),
        text_case(500, "Session not found", Verdict::Unsure),
        text_case(500, unknown, Verdict::Unsure),
        text_case(400, terminated, Verdict::Unsure),
        // Errors within a 200 are the method's.
        json_case(
            200,
            error(json!(7), -32001, "Session not found"),
            Verdict::Alive,
        ),
        json_case(200, error(Value::Null, -32000, unknown), Verdict::Alive),
    ];
    for status in [
        401, 403, 405, 406, 409, 410, 413, 429, 502, 503, 504, 302, 304,
    ] {
        let verdict = match status {
            401 | 403 | 410 | 503 => Verdict::Unsure,
            _ => Verdict::Alive,
        };
        for body in ["Session not found", unknown, terminated] {
            cases.push(json_case(status, error(Value::Null, -32001, body), verdict));
        }
    }
    cases
}

/// D1, D2, D9: what is no expiry comes back as it came, and the session goes on.
#[tokio::test]
async fn d2_the_default_tells_expiry_from_its_look_alikes() {
    for case in cases() {
        // Given a server that answers a call so,
        let (status, content_type, body) = (case.status, case.content_type, case.body.clone());
        let (server, client) = answers(SessionRecoveryLayer::new(), move |seen| {
            let refused = seen.message()["id"] == 7;
            refused.then(|| {
                let mut reply = reply(status, content_type, &body);
                reply
                    .headers_mut()
                    .insert("x-server", "it".parse().unwrap());
                reply
            })
        })
        .await;
        let what = format!("{} {}", case.status, case.body);

        // when the caller calls,
        let seen = send(&client, post(Some(FIRST), &tool_call(7))).await;

        // then it is sent again in a new session if the old one has expired,
        if case.verdict == Verdict::Expired {
            assert_eq!(seen.outcome(), Some(Outcome::Replayed), "{what}");
            assert_eq!(log(&server), recovered("tools/call"), "{what}");
            continue;
        }
        // and gets that answer if it has not, whole.
        assert_eq!((seen.status, seen.recovery), (case.status, None), "{what}");
        assert_eq!(
            (seen.text(), seen.header("x-server")),
            (case.body.as_str(), Some("it"))
        );
        assert_eq!(seen.header("content-type"), case.content_type, "{what}");
        let again = send(&client, post(Some(FIRST), &tool_call(8))).await;
        assert_eq!((again.status, again.recovery), (200, None), "{what}");
        // The server is asked where the answer leaves it open.
        match case.verdict {
            Verdict::Unsure => {
                assert_eq!(log(&server), ["tools/call", "ping", "tools/call"], "{what}");
            }
            _ => assert_eq!(log(&server), ["tools/call", "tools/call"], "{what}"),
        }
    }
}

/// D2: the request's own id, whatever it is, and whatever asks for it.
#[tokio::test]
async fn d2_method_not_found_is_known_by_the_requests_own_id() {
    for (asked, answered, expired) in [
        (r#""id":"a-1","#, r#""a-1""#, false),
        (r#""id":"a-1","#, r#""a\u002d1""#, false),
        (r#""id":"a-1","#, r#""a-2""#, true),
        (
            r#""id":12345678901234567890,"#,
            "12345678901234567890",
            false,
        ),
        (r#""id":0,"#, "0", false),
        (r#""id":0,"#, "null", true),
        // A notification has no id to answer to.
        ("", "null", true),
        ("", "0", true),
    ] {
        let refusal = format!(
            r#"{{"jsonrpc":"2.0","id":{answered},"error":{{"code":-32601,"message":"no"}}}}"#
        );
        let (server, client) = answers(SessionRecoveryLayer::new(), move |_| {
            Some(reply(404, Some("application/json"), &refusal))
        })
        .await;
        let body = format!(r#"{{"jsonrpc":"2.0",{asked}"method":"x/y"}}"#);

        let seen = send(&client, request(Method::POST, Some(FIRST), body)).await;

        let wanted = if expired {
            recovered("x/y").to_vec()
        } else {
            vec!["x/y".to_owned()]
        };
        assert_eq!(log(&server), wanted, "{asked} {answered}");
        assert_eq!(seen.recovery.is_some(), expired, "{asked} {answered}");
    }
}

/// D2: every measured server's word for it, in answer to each kind of message.
#[tokio::test]
async fn d2_every_server_profile_is_understood() {
    let batch = json!([tool_call(1), tool_call(2)]);
    let messages = [
        (tool_call(7), "tools/call", true),
        (
            json!({"jsonrpc": "2.0", "method": "notifications/x"}),
            "notifications/x",
            true,
        ),
        (
            json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
            "POST",
            false,
        ),
        (batch, "POST", true),
    ];
    for (profile, (message, what, replayed)) in Profile::ALL
        .into_iter()
        .flat_map(|profile| messages.clone().map(|message| (profile, message)))
    {
        let server = Server::new(profile);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();

        let seen = send(&client, post(Some(&session), &message)).await;

        let wanted = if replayed { 4 } else { 3 };
        assert_eq!(
            log(&server),
            recovered(what)[..wanted],
            "{profile:?} {what}"
        );
        assert_eq!(seen.recovery.map(|recovery| recovery.epoch()), Some(1));
        assert_eq!(
            (seen.status < 300, seen.recovery.is_some()),
            (replayed, true)
        );
    }
}

/// D3: 404 and nothing else, whatever its body, and to a GET as well.
#[tokio::test]
async fn d3_strict_goes_by_404_alone() {
    for case in cases() {
        for method in [Method::POST, Method::GET] {
            let (status, content_type, body) = (case.status, case.content_type, case.body.clone());
            let layer = SessionRecoveryLayer::new().classify(Strict);
            let (server, client) =
                answers(layer, move |_| Some(reply(status, content_type, &body))).await;
            let (what, request) = match method {
                Method::POST => ("tools/call", post(Some(FIRST), &tool_call(7))),
                _ => ("GET", get(FIRST, None)),
            };

            let response = client.oneshot(request).await.unwrap();

            let case = format!("{method} {} {}", case.status, case.body);
            if status == 404 {
                assert_eq!(response.status(), 200, "{case}");
                assert_eq!(log(&server), recovered(what), "{case}");
            } else {
                assert_eq!(response.status(), status, "{case}");
                assert_eq!(log(&server), [what], "{case}");
            }
        }
    }
}

/// D1: what a closure is told, and that it is obeyed.
#[tokio::test]
async fn d1_a_closure_decides() {
    for (status, verdict) in [
        (410, Verdict::Expired),
        (503, Verdict::Expired),
        (404, Verdict::Alive),
        (400, Verdict::Alive),
    ] {
        // Given a classifier of the user's own,
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = told.clone();
        let layer = SessionRecoveryLayer::new().classify(move |answer: &Judged<'_>| {
            let message = answer.message();
            telling.lock().unwrap().push((
                answer.method().clone(),
                answer.status().as_u16(),
                answer.headers()["x-gateway"].clone(),
                answer.body().to_vec(),
                message
                    .as_ref()
                    .and_then(|message| message.method().map(str::to_owned)),
                message.and_then(|message| message.id().map(str::to_owned)),
            ));
            verdict
        });
        let (server, client) = answers(layer, move |seen| {
            (seen.message()["id"] != 1).then(|| {
                let mut reply = reply(status, None, "gone");
                reply
                    .headers_mut()
                    .insert("x-gateway", "it".parse().unwrap());
                reply
            })
        })
        .await;

        // when an answer comes that may be about the session,
        let seen = send(&client, post(Some(FIRST), &tool_call(7))).await;

        // then it is asked, and its word is final;
        let expired = verdict == Verdict::Expired;
        assert_eq!(seen.outcome(), expired.then_some(Outcome::Replayed));
        assert_eq!(seen.status, if expired { 200 } else { status });
        assert_eq!(log(&server).len(), if expired { 4 } else { 1 });
        let asked = (
            Method::POST,
            status,
            "it".parse().unwrap(),
            b"gone".to_vec(),
            Some("tools/call".to_owned()),
            Some("7".to_owned()),
        );
        assert_eq!(*told.lock().unwrap(), [asked]);

        // about an answer of success it is not.
        send(&client, post(Some(FIRST), &tool_call(1))).await;
        assert_eq!(told.lock().unwrap().len(), 1);
    }
}

/// D1: an answer that cannot be about the session is not held up to be read.
#[tokio::test]
async fn d1_answers_that_are_not_suspected_are_not_waited_for() {
    for status in [200, 202, 204, 206, 301, 405, 406, 409, 429, 502, 504] {
        for request in [post(Some(FIRST), &tool_call(7)), get(FIRST, None)] {
            let (server, client) = answers(SessionRecoveryLayer::new(), move |_| {
                let mut reply = stream(Script::new().data("begun").pending());
                reply
                    .headers_mut()
                    .insert("content-type", "text/plain".parse().unwrap());
                *reply.status_mut() = StatusCode::from_u16(status).unwrap();
                Some(reply)
            })
            .await;

            let mut sending = tokio_test::task::spawn(client.oneshot(request));

            let std::task::Poll::Ready(Ok(response)) = sending.poll() else {
                panic!("{status} was waited for");
            };
            assert_eq!(response.status(), status);
            assert_eq!(server.seen().len(), 3);
        }
    }
}

/// D1: with `reinitialize(false)` the layer tells, and does nothing.
#[tokio::test]
async fn d1_detection_alone_touches_nothing_and_sends_nothing() {
    for profile in Profile::ALL {
        // Given a layer that is only to watch,
        let server = Server::new(profile);
        let client = client(&server, SessionRecoveryLayer::new().reinitialize(false));
        let session = handshake(&client).await;
        server.restart();

        for number in [1, 2] {
            // when a call meets a dead session,
            let seen = send(&client, post(Some(&session), &tool_call(7))).await;

            // then the caller has the server's own answer, and a note on it.
            let wanted = read_plain(profile.unknown_session(&json!(7))).await;
            assert_eq!(
                (seen.status, &seen.body),
                (wanted.0, &wanted.2),
                "{profile:?}"
            );
            assert_eq!(seen.headers, wanted.1, "{profile:?}");
            assert_eq!(seen.outcome(), Some(Outcome::Detected), "{profile:?}");
            assert_eq!(seen.recovery.map(|recovery| recovery.epoch()), Some(0));
            assert_eq!(server.seen().len(), 2 + number, "{profile:?}");
        }
    }
}

async fn read_plain(reply: Reply) -> (u16, http::HeaderMap, bytes::Bytes) {
    use http_body_util::BodyExt;
    let (head, body) = reply.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, body)
}

/// D1: which answers are read for a verdict is up to the classifier, too.
#[tokio::test]
async fn d1_a_classifier_says_which_answers_it_wants_to_see() {
    struct Redirected;
    impl Classify for Redirected {
        fn classify(&self, answer: &Judged<'_>) -> Verdict {
            assert_eq!(answer.status(), 302);
            Verdict::Expired
        }

        fn examines(&self, status: StatusCode) -> bool {
            status == 302
        }
    }
    for (status, expired) in [(302, true), (404, false), (400, false)] {
        let layer = SessionRecoveryLayer::new().classify(Redirected);
        let (server, client) = answers(layer, move |_| Some(reply(status, None, "gone"))).await;

        let seen = send(&client, post(Some(FIRST), &tool_call(7))).await;

        assert_eq!(seen.outcome(), expired.then_some(Outcome::Replayed));
        assert_eq!(seen.status, if expired { 200 } else { status });
        assert_eq!(log(&server).len(), if expired { 4 } else { 1 });
    }
}

/// D2, B2: an id on a 404 means nothing, whosever it is.
#[tokio::test]
async fn d2_a_404_that_carries_an_id_is_an_expiry_like_any_other() {
    for id in [FIRST, "secret-other"] {
        for reinitialize in [true, false] {
            let sessions = Sessions::new();
            let layer = SessionRecoveryLayer::new().reinitialize(reinitialize);
            let (server, client) = answers(layer.sessions(sessions.clone()), move |_| {
                let mut gone = reply(404, None, "gone");
                gone.headers_mut().insert(SESSION_ID, id.parse().unwrap());
                Some(gone)
            })
            .await;

            let seen = send(&client, post(Some(FIRST), &tool_call(7))).await;

            if reinitialize {
                assert_eq!(seen.outcome(), Some(Outcome::Replayed), "{id}");
                assert_eq!(seen.session(), Some(FIRST), "{id}");
                assert_eq!(log(&server), recovered("tools/call"), "{id}");
            } else {
                assert_eq!((seen.status, seen.session()), (404, Some(id)));
                assert_eq!(log(&server), ["tools/call"], "{id}");
            }
            assert_eq!(sessions.len(), 1, "{id}");
        }
    }
}
