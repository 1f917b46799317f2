//! What answers to a POST come to: as with rmcp's own client, answer by answer.

use serde_json::json;

use crate::support::{
    Post, Scripted, answer, broken, discover, initialized, json, message, outcome, ping, post, sse,
    unfinished,
};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
const ERROR: &str =
    r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}"#;
const NO_ID: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"refused"}}"#;

/// What becomes of a POST whose answer has that status, content type and body.
async fn answered(post: Post, status: u16, content_type: &str, body: &'static str) -> String {
    let content_type = content_type.to_owned();
    let server = Scripted::start(move |_| match &*content_type {
        "" => answer(status, &[], body),
        content_type => answer(status, &[("content-type", content_type)], body),
    })
    .await;
    post.to(&server).await
}

#[tokio::test]
async fn media_types_are_told_by_their_essence() {
    for (content_type, expected) in [
        ("application/json", "json 1 {}"),
        ("application/json; charset=utf-8", "json 1 {}"),
        ("Application/JSON", "json 1 {}"),
        ("application/json \t; charset=utf-8", "json 1 {}"),
        (
            "application/jsonx",
            "Unexpected content type: Some(\"application/jsonx\")",
        ),
        (
            "application/json-seq",
            "Unexpected content type: Some(\"application/json-seq\")",
        ),
        (
            "application/json, text/event-stream",
            "Unexpected content type: Some(\"application/json, text/event-stream\")",
        ),
        (
            "text/event-streaming",
            "Unexpected content type: Some(\"text/event-streaming\")",
        ),
        ("", "Unexpected content type: None"),
    ] {
        assert_eq!(
            answered(post(ping()), 200, content_type, RESULT).await,
            expected
        );
    }
    for content_type in ["text/event-stream", "Text/Event-Stream; charset=utf-8"] {
        let events = "id: 1\ndata: a\ndata: b\n\n: a comment\n\nid: 2\n\ndata: c";
        let expected = "events [#1 a\nb, #2 ]";
        assert_eq!(
            answered(post(ping()), 200, content_type, events).await,
            expected
        );
    }
}

#[tokio::test]
async fn the_session_of_an_answer_is_told() {
    let session = ("mcp-session-id", "its id");
    let server = Scripted::start(move |_| {
        answer(
            200,
            &[("content-type", "application/json"), session],
            RESULT,
        )
    })
    .await;
    assert_eq!(post(ping()).to(&server).await, "json 1 {} in its id");
    let server = Scripted::start(move |_| {
        answer(
            200,
            &[("content-type", "text/event-stream"), session],
            "data: a\n\n",
        )
    })
    .await;
    assert_eq!(post(ping()).to(&server).await, "events [a] in its id");
}

#[tokio::test]
async fn any_success_accepts_what_awaits_no_response() {
    let reply = || message(json!({"jsonrpc": "2.0", "id": 5, "result": {}}));
    for (status, content_type, body) in [
        (202, "", ""),
        (204, "", ""),
        (200, "", ""),
        (200, "application/json", ""),
        (200, "application/json", "{}"),
        (200, "application/json", "nothing"),
        (201, "text/html", "<html>"),
        (200, "", "ok"),
    ] {
        assert_eq!(
            answered(post(initialized()), status, content_type, body).await,
            "accepted"
        );
        assert_eq!(
            answered(post(reply()), status, content_type, body).await,
            "accepted"
        );
    }
    let chunked = Scripted::start(|_| answer(200, &[], unfinished(""))).await;
    assert_eq!(post(initialized()).to(&chunked).await, "accepted");
    assert_eq!(
        answered(post(initialized()), 200, "application/json", RESULT).await,
        "json 1 {}"
    );
    assert_eq!(
        answered(post(initialized()), 500, "", "").await,
        "status 500"
    );
    let refused = answered(post(initialized()), 400, "text/plain", "no").await;
    assert_eq!(refused, "HTTP 400 Bad Request: no".to_unexpected());
}

#[tokio::test]
async fn a_request_needs_a_response() {
    for body in ["", "{}", "<html>", "[]"] {
        assert_eq!(
            answered(post(ping()), 200, "application/json", body).await,
            "not understood"
        );
    }
    assert_eq!(
        answered(post(ping()), 200, "text/plain", "ok").await,
        "Unexpected content type: Some(\"text/plain\")"
    );
    assert_eq!(answered(post(ping()), 202, "", "").await, "accepted");
    let broken = Scripted::start(|_| json(200, broken("{\"jsonrpc\""))).await;
    assert_eq!(post(ping()).to(&broken).await, "client error");
}

#[tokio::test]
async fn a_404_in_a_session_is_its_end() {
    for (content_type, body) in [
        ("", ""),
        ("text/html", "<html>"),
        ("application/json", ERROR),
    ] {
        let expired = "Session expired (HTTP 404)";
        assert_eq!(
            answered(post(ping()).in_session(), 404, content_type, body).await,
            expired
        );
        assert_eq!(
            answered(post(initialized()).in_session(), 404, content_type, body).await,
            expired
        );
    }
    let unexpected = "HTTP 404 Not Found: nothing here".to_unexpected();
    assert_eq!(
        answered(post(ping()), 404, "text/plain", "nothing here").await,
        unexpected
    );
    let no_such_method = "json 1 -32601 no such method";
    assert_eq!(
        answered(post(ping()), 404, "application/json", ERROR).await,
        no_such_method
    );
}

#[tokio::test]
async fn the_json_rpc_error_of_a_refusal_is_the_answer() {
    for status in [400, 405, 409, 500, 503] {
        let expected = "json 1 -32601 no such method";
        assert_eq!(
            answered(
                post(ping()),
                status,
                "Application/JSON; charset=utf-8",
                ERROR
            )
            .await,
            expected
        );
        // rmcp's own leaves it with its id, and its caller waiting.
        let server = Scripted::start(move |_| json(status, NO_ID)).await;
        let ours = outcome(&post(ping()).in_session(), &server).await;
        assert_eq!(ours, "json 1 -32000 refused");
    }
    // Whatever it is labelled, a result is no refusal, and a rate limit is no answer.
    let result = format!("HTTP 400 Bad Request: {RESULT}").to_unexpected();
    assert_eq!(
        answered(post(ping()), 400, "application/json", RESULT).await,
        result
    );
    assert_eq!(
        answered(post(ping()), 429, "application/json", ERROR).await,
        "status 429"
    );
    let plain = format!("HTTP 400 Bad Request: {ERROR}").to_unexpected();
    assert_eq!(
        answered(post(ping()), 400, "text/plain", ERROR).await,
        plain
    );
    let garbage = "HTTP 400 Bad Request: {no".to_unexpected();
    assert_eq!(
        answered(post(ping()), 400, "application/json", "{no").await,
        garbage
    );
}

#[tokio::test]
async fn a_busy_or_broken_server_is_told_by_its_status() {
    for (after, expected) in [
        ("30", " after 30"),
        (
            "Wed, 25 Nov 2026 16:00:00 GMT",
            " after Wed, 25 Nov 2026 16:00:00 GMT",
        ),
        ("", " after "),
    ] {
        for status in [429, 500, 502, 503] {
            let after = after.to_owned();
            let server = Scripted::start(move |_| {
                // Its body is not waited for.
                answer(status, &[("retry-after", &after)], unfinished("<html>"))
            })
            .await;
            assert_eq!(
                post(ping()).to(&server).await,
                format!("status {status}{expected}")
            );
        }
    }
    let long = "9".repeat(129);
    let server = Scripted::start(move |_| answer(503, &[("retry-after", &long)], "")).await;
    assert_eq!(post(ping()).to(&server).await, "status 503");
    for body in ["", "{}", RESULT, "[", "null"] {
        assert_eq!(
            answered(post(ping()), 502, "application/json", body).await,
            "status 502"
        );
    }
    let broken = Scripted::start(|_| json(500, broken("{\"jsonrpc\""))).await;
    assert_eq!(post(ping()).to(&broken).await, "status 500");
}

#[tokio::test]
async fn a_challenge_is_told_with_its_scope() {
    let challenge = r#"Bearer error="insufficient_scope", scope="files:read files:write""#;
    for (status, expected) in [
        (401, format!("auth required: {challenge}")),
        (
            403,
            format!("insufficient scope files:read files:write: {challenge}"),
        ),
    ] {
        let server =
            Scripted::start(move |_| answer(status, &[("www-authenticate", challenge)], ERROR))
                .await;
        assert_eq!(post(ping()).in_session().to(&server).await, expected);
        assert_eq!(post(initialized()).to(&server).await, expected);
        assert_eq!(post(discover()).to(&server).await, expected);
    }
    let server = Scripted::start(|_| {
        let mut response = answer(401, &[], "");
        let value = http::HeaderValue::from_bytes(b"Bearer \xff").unwrap();
        response.headers_mut().insert("www-authenticate", value);
        response
    })
    .await;
    assert_eq!(post(ping()).to(&server).await, "not understood");
}

#[tokio::test]
async fn denied_access_without_a_challenge_keeps_its_status() {
    for (status, text) in [(401, "401 Unauthorized"), (403, "403 Forbidden")] {
        let expected = format!("HTTP {text}: {ERROR}").to_unexpected();
        assert_eq!(
            answered(post(ping()), status, "application/json", ERROR).await,
            expected
        );
        assert_eq!(
            answered(post(discover()), status, "application/json", ERROR).await,
            expected
        );
        let expected = format!("HTTP {text}: no").to_unexpected();
        assert_eq!(
            answered(post(ping()), status, "text/plain", "no").await,
            expected
        );
    }
}

#[tokio::test]
async fn whoever_refuses_discovery_is_an_older_server() {
    let expected = "json 1 -32601 no such method";
    assert_eq!(
        answered(post(discover()), 400, "application/json", ERROR).await,
        expected
    );
    assert_eq!(
        answered(post(discover()), 404, "application/json", NO_ID).await,
        "json 1 -32000 refused"
    );
    for (status, content_type, body) in [
        (400, "text/plain", "what?"),
        (404, "", ""),
        (405, "application/json", "{}"),
        (406, "application/json", RESULT),
    ] {
        let server =
            Scripted::start(move |_| answer(status, &[("content-type", content_type)], body)).await;
        let ours = outcome(&post(discover()), &server).await;
        assert!(ours.starts_with("json 1 -32600 "), "{ours}");
    }
    // But not a busy one, nor one that has a session.
    assert_eq!(
        answered(post(discover()), 429, "application/json", ERROR).await,
        "status 429"
    );
    assert_eq!(
        answered(post(discover()), 500, "text/plain", "").await,
        "status 500"
    );
    let refused = "HTTP 400 Bad Request: what?".to_unexpected();
    assert_eq!(
        answered(post(discover()).in_session(), 400, "text/plain", "what?").await,
        refused
    );
}

#[tokio::test]
async fn a_refusal_that_breaks_off_is_still_one() {
    for content_type in ["text/plain", "application/json"] {
        let server =
            Scripted::start(move |_| answer(400, &[("content-type", content_type)], broken("{")))
                .await;
        let outcome = outcome(&post(ping()), &server).await;
        assert!(
            outcome.starts_with("unexpected server response: HTTP 400 Bad Request: "),
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn an_event_stream_that_breaks_gives_what_came_before() {
    let server = Scripted::start(|_| sse(broken("data: a\n\ndata: b\n"))).await;
    assert_eq!(post(ping()).to(&server).await, "events [a, broken]");
    let server = Scripted::start(|_| sse("data: a\n\nno field\n\n")).await;
    assert_eq!(post(ping()).to(&server).await, "events [broken]");
}

trait ToUnexpected {
    fn to_unexpected(&self) -> String;
}

impl ToUnexpected for str {
    fn to_unexpected(&self) -> String {
        format!("unexpected server response: {self}")
    }
}
