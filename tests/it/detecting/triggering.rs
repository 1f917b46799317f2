//! When an answer that shows a session dead counts, and when not: rules D6 and D7.

use http::{Method, Request};
use mcp_session_recovery::{HttpAnswer as Judged, Outcome, SessionRecoveryLayer, Verdict};
use serde_json::{Value, json};
use testing::scenario::{Door, answer, fail, start};
use testing::*;
use tokio_test::assert_pending;
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

fn error(id: Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id})
}

async fn read_plain(reply: Reply) -> (u16, http::HeaderMap, bytes::Bytes) {
    use http_body_util::BodyExt;
    let (head, body) = reply.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, body)
}

/// D6: an answer from an epoch that has been replaced already. Each way for a request to be late:
/// one or two epochs, a POST or a GET, which nobody needs to ask the server about now.
#[tokio::test(start_paused = true)]
async fn d6_a_late_404_is_sent_again_in_the_current_epoch_without_a_handshake() {
    for (recoveries, is_get) in [(1, false), (2, false), (1, true), (2, true)] {
        // Given a request under way in the first epoch,
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new());
        assert_eq!(handshake(&client).await, FIRST);
        let late = move |seen: &Seen| seen.message()["id"] == 9 || seen.method == Method::GET;
        let held = move |seen: &Seen| late(seen) && seen.session() == Some(FIRST);
        let door = Door::then(&server, held, |_| reply(404, None, "gone"));
        server.on(|seen| {
            let replayed = seen.method == Method::GET && seen.session() != Some(FIRST);
            replayed.then(|| sse(": welcome\n\n"))
        });
        let request = match is_get {
            true => get(FIRST, None),
            false => post(Some(FIRST), &tool_call(9)),
        };
        // Not looked at before its answer is there: a GET would be sent anew (rule G1).
        let mut under_way = tokio_test::task::spawn(client.clone().oneshot(request));
        assert_pending!(under_way.poll());
        settle().await;

        // when its 404 comes after the session has moved on,
        for _ in 0..recoveries {
            server.restart();
            let other = send(&client, post(Some(FIRST), &tool_call(1))).await;
            assert_eq!(other.outcome(), Some(Outcome::Replayed));
        }
        let before = server.log().len();
        door.open();
        let seen = read(under_way.await.unwrap()).await;

        // then all that is sent is the request, in the epoch that is there.
        assert_eq!(
            (seen.status, seen.outcome()),
            (200, Some(Outcome::Replayed))
        );
        assert_eq!(
            seen.recovery.map(|recovery| recovery.epoch()),
            Some(recoveries)
        );
        let sent = server.seen().split_off(before);
        assert_eq!(sent.len(), 1, "{recoveries} {is_get}");
        assert!(late(&sent[0]));
        assert_eq!(sent[0].session(), Some(server.live()[0].as_str()));
        assert_eq!(server.count("initialize"), recoveries as usize + 1);
    }
}

/// D6, with a look-alike: it does not become an expiry because the session has moved on.
#[tokio::test]
async fn d6_a_late_answer_that_is_no_expiry_passes() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    assert_eq!(handshake(&client).await, FIRST);
    let held = |seen: &Seen| seen.message()["id"] == 9;
    let refusal = error(json!(9), -32601, "Method not found");
    let refused = refusal.clone();
    let door = Door::then(&server, held, move |_| json_reply(404, &refused));
    let under_way = start(&client, post(Some(FIRST), &tool_call(9)));
    settle().await;
    server.restart();
    send(&client, post(Some(FIRST), &tool_call(1))).await;
    let before = server.log().len();
    door.open();

    let seen = under_way.await.unwrap();

    assert_eq!((seen.status, seen.recovery), (404, None));
    assert_eq!(seen.message(), refusal);
    assert_eq!(server.log().len(), before);
}

/// D7: requests whose answer never starts a recovery, even if the classifier would.
#[tokio::test]
async fn d7_a_delete_an_initialize_and_a_request_without_the_header_never_trigger() {
    let requests: [fn() -> Request<CallerBody>; 6] = [
        || delete(FIRST),
        || post(Some(FIRST), &initialize()),
        || post(None, &initialize()),
        || post(None, &tool_call(7)),
        || request(Method::GET, None, ""),
        || request(Method::DELETE, None, ""),
    ];
    for profile in Profile::ALL {
        for (number, request) in requests.iter().enumerate() {
            for eager in [false, true] {
                // Given a server that answers everything as if it knew no session,
                let mut layer = SessionRecoveryLayer::new();
                if eager {
                    layer = layer.classify(|_: &Judged<'_>| Verdict::Expired);
                }
                let (server, client) = answers(layer, |_| None).await;
                server.on(move |_| Some(profile.unknown_session(&json!(0))));

                // when such a request is sent,
                let seen = send(&client, request()).await;

                // then it has its answer, and the server had one request.
                let wanted = read_plain(profile.unknown_session(&json!(0))).await;
                let case = format!("{profile:?} {number} {eager}");
                assert_eq!((seen.status, seen.recovery), (wanted.0, None), "{case}");
                assert_eq!(
                    (&seen.headers, &seen.body),
                    (&wanted.1, &wanted.2),
                    "{case}"
                );
                assert_eq!(server.seen().len(), 3, "{case}");
            }
        }
    }
}

/// D7, K1: nor does an `initialize` that is too large to be kept, wherever it says so.
#[tokio::test(start_paused = true)]
async fn d7_a_large_initialize_never_triggers() {
    let text = "x".repeat(5_000);
    for body in [
        format!(r#"{{"id":0,"method":"initialize","params":{{"text":"{text}"}},"jsonrpc":"2.0"}}"#),
        format!(r#"{{"id":0,"params":{{"text":"{text}"}},"method":"initialize","jsonrpc":"2.0"}}"#),
    ] {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new().max_body_bytes(1_000));
        let session = handshake(&client).await;
        server.restart();
        answer(&server, "initialize", |_| reply(404, None, "gone"));
        let request = request(Method::POST, Some(&session), body);
        let own = send(&client, request).await;
        assert_eq!((own.status, own.recovery), (404, None));
        assert_eq!(log(&server), ["initialize"]);
    }
}

/// D7: the server may have done the work.
#[tokio::test]
async fn d7_a_transport_error_is_the_callers_and_triggers_nothing() {
    for (what, request) in [
        ("tools/call", post(Some(FIRST), &tool_call(7))),
        ("GET", get(FIRST, None)),
        ("DELETE", delete(FIRST)),
        ("initialize", post(Some(FIRST), &initialize())),
    ] {
        let (server, client) = answers(SessionRecoveryLayer::new(), |_| None).await;
        fail(&server, what, "connection reset");

        let seen = client.clone().oneshot(request).await;

        assert_eq!(seen.err(), Some(TestError("connection reset")), "{what}");
        settle().await;
        assert_eq!(log(&server), [what]);
        // The session is none the worse for it.
        answer(&server, what, |_| reply(200, None, "here again"));
        let again = send(&client, post(Some(FIRST), &tool_call(8))).await;
        assert_eq!((again.status, again.recovery), (200, None), "{what}");
    }
}

/// Its id is known by its beginning, or by its end.
#[tokio::test(start_paused = true)]
async fn d2_a_large_request_of_an_unknown_method_replaces_no_session() {
    let x = "x".repeat(2_000);
    for (text, is_known) in [
        (
            format!(r#"{{"jsonrpc":"2.0","id":9,"method":"x","params":["{x}"]}}"#),
            true,
        ),
        (
            format!(r#"{{"method":"x","params":["{x}"],"jsonrpc":"2.0","id":9}}"#),
            true,
        ),
        (
            format!(r#"{{"jsonrpc":"2.0","id":8,"method":"x","params":["{x}"]}}"#),
            false,
        ),
    ] {
        // Given a live session on a server that knows neither the method nor what it was asked,
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new().max_body_bytes(1_000));
        let session = handshake(&client).await;
        let refusal = error(json!(9), -32601, "Method not found");
        server.on(move |seen| (seen.what() == "x").then(|| json_reply(404, &refusal)));
        // when a request over the limit is answered so, then that is about the method, if it is its answer.
        let answer = send(&client, request(Method::POST, Some(&session), text)).await;
        assert_eq!(answer.status, 404);
        assert_eq!(server.count("initialize") == 1, is_known);
    }
}
