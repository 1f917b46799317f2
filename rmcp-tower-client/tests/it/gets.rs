//! What answers to a GET and a DELETE come to: as with rmcp's own client, answer by answer.

use crate::support::{Scripted, answer, broken, delete, get, sse, unfinished};

#[tokio::test]
async fn a_get_needs_an_event_stream() {
    for (content_type, expected) in [
        ("text/event-stream", "events [a]"),
        ("text/event-stream; charset=utf-8", "events [a]"),
        ("Text/Event-Stream \t;x", "events [a]"),
        ("application/json", "events [a]"),
        (
            "text/event-streaming",
            "Unexpected content type: Some(\"text/event-streaming\")",
        ),
        (
            "application/jsonx",
            "Unexpected content type: Some(\"application/jsonx\")",
        ),
        ("", "Unexpected content type: None"),
    ] {
        let server = Scripted::start(move |_| match content_type {
            "" => answer(200, &[], "data: a\n\n"),
            content_type => answer(200, &[("content-type", content_type)], "data: a\n\n"),
        })
        .await;
        assert_eq!(get(&server, None).await, expected);
    }
}

#[tokio::test]
async fn a_get_says_where_to_go_on() {
    let server = Scripted::start(|seen| {
        let after = seen.header("last-event-id").unwrap_or("nothing").to_owned();
        sse(format!("id: {after}\n\n"))
    })
    .await;
    assert_eq!(get(&server, Some("7")).await, "events [#7 ]");
    assert_eq!(get(&server, None).await, "events [#nothing ]");
    assert_eq!(get(&server, Some("no\nheader")).await, "client error");
    for seen in server.seen() {
        assert_eq!(seen.header("mcp-session-id"), Some("a session"));
        assert_eq!(
            seen.header("accept"),
            Some("text/event-stream, application/json")
        );
    }
}

#[tokio::test]
async fn a_get_that_is_refused_says_why() {
    let challenge = ("www-authenticate", "Bearer scope=a");
    for (status, headers, expected) in [
        (405, None, "Server does not support SSE"),
        (401, Some(challenge), "auth required: Bearer scope=a"),
        (403, Some(challenge), "insufficient scope a: Bearer scope=a"),
        (401, None, "client error"),
        (403, None, "client error"),
        (404, None, "client error"),
        (400, Some(challenge), "client error"),
        (429, Some(("retry-after", "3")), "status 429 after 3"),
        (503, Some(("retry-after", "3")), "status 503 after 3"),
        (500, None, "status 500"),
        (
            302,
            Some(("location", "/")),
            "Unexpected content type: None",
        ),
    ] {
        let headers: Vec<_> = headers.into_iter().collect();
        let server = Scripted::start(move |_| answer(status, &headers, unfinished("<html>"))).await;
        assert_eq!(get(&server, None).await, expected, "{status}");
    }
}

#[tokio::test]
async fn a_listening_stream_that_breaks_gives_what_came_before() {
    let server = Scripted::start(|_| sse(broken("retry: 5\nid: 1\ndata: a\n\n"))).await;
    assert_eq!(get(&server, None).await, "events [#1 a, broken]");
}

#[tokio::test]
async fn a_session_that_cannot_be_ended_is_left() {
    for (status, expected) in [
        (200, "deleted"),
        (202, "deleted"),
        (204, "deleted"),
        (405, "deleted"),
        (404, "client error"),
        (401, "client error"),
        (500, "client error"),
    ] {
        let server = Scripted::start(move |_| answer(status, &[], "")).await;
        assert_eq!(delete(&server).await, expected, "{status}");
    }
}
