//! How much is read of an answer, and what becomes of one that is larger.

use rmcp::transport::streamable_http_client::StreamableHttpResponseLimits;

use crate::support::{
    Scripted, answer, discover, initialized, json, outcome, ping, post, sse, unfinished,
};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
const ERROR: &str =
    r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no such method"}}"#;
const HUGE: usize = 1 << 30;

/// The same with a length that is told, and without.
async fn both(status: u16, content_type: &'static str, body: &'static str) -> [Scripted; 2] {
    let headers = [("content-type", content_type)];
    let told = Scripted::start(move |_| answer(status, &headers, body)).await;
    let chunked = Scripted::start(move |_| {
        let chunks = body.as_bytes().chunks(5).map(Ok::<_, std::io::Error>);
        let body = axum::body::Body::from_stream(futures_util::stream::iter(chunks));
        answer(status, &headers, body)
    })
    .await;
    [told, chunked]
}

#[test]
fn the_limits_are_rmcps() {
    let limits = StreamableHttpResponseLimits::default();
    assert_eq!(limits.max_sse_event_size, 16 << 20);
    assert_eq!(limits.max_json_response_size, 16 << 20);
    assert_eq!(limits.max_error_response_size, 64 << 10);
}

#[tokio::test]
async fn json_is_read_whole_or_not_at_all() {
    let too_large = "HTTP response body exceeded the maximum size of";
    for server in both(200, "application/json", RESULT).await {
        let exactly = post(ping()).limits(RESULT.len(), 0, 0);
        assert_eq!(exactly.to(&server).await, "json 1 {}");
        let less = RESULT.len() - 1;
        let over = post(ping()).limits(less, HUGE, HUGE).to(&server).await;
        assert_eq!(over, format!("{too_large} {less} bytes"));
        let over = post(initialized())
            .limits(less, HUGE, HUGE)
            .to(&server)
            .await;
        assert_eq!(over, format!("{too_large} {less} bytes"));
    }
    for status in [400, 409] {
        for server in both(status, "application/json", ERROR).await {
            let exactly = post(ping()).limits(ERROR.len(), 0, 0);
            assert_eq!(exactly.to(&server).await, "json 1 -32601 no such method");
            let over = post(ping()).limits(9, HUGE, HUGE).to(&server).await;
            assert_eq!(over, format!("{too_large} 9 bytes"));
            let over = post(discover()).limits(9, HUGE, HUGE).to(&server).await;
            assert_eq!(over, format!("{too_large} 9 bytes"));
        }
    }
    for server in both(502, "application/json", ERROR).await {
        assert_eq!(
            post(ping()).limits(9, HUGE, HUGE).to(&server).await,
            "status 502"
        );
    }
}

#[tokio::test]
async fn a_length_over_the_limit_is_enough() {
    let server = Scripted::start(|_| {
        let headers = [
            ("content-type", "application/json"),
            ("content-length", "1000"),
        ];
        answer(200, &headers, unfinished(""))
    })
    .await;
    let over = "HTTP response body exceeded the maximum size of 999 bytes";
    assert_eq!(post(ping()).limits(999, 0, 0).to(&server).await, over);
}

#[tokio::test]
async fn of_a_text_as_much_is_read_as_is_shown() {
    let server = Scripted::start(|_| {
        answer(
            400,
            &[("content-type", "text/plain")],
            unfinished("1234567890"),
        )
    })
    .await;
    for (limit, shown) in [(10, "1234567890"), (4, "1234"), (0, "")] {
        let expected = format!("unexpected server response: HTTP 400 Bad Request: {shown}");
        assert_eq!(
            post(ping()).limits(HUGE, limit, HUGE).to(&server).await,
            expected
        );
        let older = outcome(&post(discover()).limits(0, limit, 0), &server).await;
        assert!(
            older.starts_with("json 1 -32600 ") && older.ends_with(shown),
            "{older}"
        );
    }
    for status in [401, 403] {
        let server = Scripted::start(move |_| json(status, unfinished("{\"jsonrpc\""))).await;
        let denied = post(ping()).limits(HUGE, 3, HUGE).to(&server).await;
        assert!(denied.ends_with(": {\"j"), "{denied}");
    }
    // It is bytes that are counted.
    for server in both(400, "text/plain", "é").await {
        let expected = "unexpected server response: HTTP 400 Bad Request: \u{fffd}";
        assert_eq!(
            post(ping()).limits(HUGE, 1, HUGE).to(&server).await,
            expected
        );
    }
}

#[tokio::test]
async fn of_json_that_is_no_error_the_beginning_is_shown() {
    for server in both(400, "application/json", RESULT).await {
        let expected = "unexpected server response: HTTP 400 Bad Request: {\"jso";
        assert_eq!(
            post(ping()).limits(HUGE, 5, HUGE).to(&server).await,
            expected
        );
        // What would be a JSON-RPC error if it were read further is none.
        let older = outcome(&post(discover()).limits(HUGE, 5, HUGE), &server).await;
        assert!(
            older.starts_with("json 1 -32600 ") && older.ends_with("{\"jso"),
            "{older}"
        );
    }
}

#[tokio::test]
async fn what_needs_no_body_is_not_limited() {
    let challenge = ("www-authenticate", "Bearer");
    let length = ("content-length", "1000");
    for (status, headers, expected) in [
        (401, vec![challenge, length], "auth required: Bearer"),
        (403, vec![challenge, length], "insufficient scope : Bearer"),
        (404, vec![length], "Session expired (HTTP 404)"),
        (202, vec![length], "accepted"),
        (429, vec![length], "status 429"),
    ] {
        let server = Scripted::start(move |_| answer(status, &headers, unfinished(""))).await;
        assert_eq!(
            post(ping()).in_session().limits(0, 0, 0).to(&server).await,
            expected
        );
    }
}

#[tokio::test]
async fn each_event_has_its_own_limit() {
    for (events, limit, expected) in [
        // Fields count with their line ends, comments only while they are read.
        ("data: 12\n\ndata: 34\n\n", 9, "events [12, 34]"),
        ("data: 12\n\ndata: 345\n\n", 9, "events [12, too large]"),
        ("data: 12\r\n\r\ndata: 34\r\n\r\n", 9, "events [12, 34]"),
        ("data: 12\r\rdata: 34\r\r", 9, "events [12, 34]"),
        ("data: 1\ndata: 2\n\n", 16, "events [1\n2]"),
        ("data: 1\ndata: 2\n\n", 15, "events [too large]"),
        ("data: 1\r\ndata: 2\r\n\r\n", 16, "events [1\n2]"),
        ("data: 1\r\ndata: 2\r\n\r\n", 15, "events [too large]"),
        (": 234567\n: 234567\ndata: 1\n\n", 8, "events [1]"),
        (": 2345678\ndata: 1\n\n", 8, "events [too large]"),
        ("id: 1\nevent: message\nretry: 1\n\n", 31, "events [#1 ]"),
        (
            "id: 1\nevent: message\nretry: 1\n\n",
            29,
            "events [too large]",
        ),
        ("data: this never ends", 16, "events [too large]"),
        ("data: a\n\n", 0, "events [too large]"),
        ("\n\n\r\n", 0, "events []"),
    ] {
        for server in both(200, "text/event-stream", events).await {
            let limited = post(ping()).limits(0, 0, limit);
            let outcome = limited.to(&server).await;
            // In one chunk nothing is seen of what comes before.
            let before = expected.replace("12, too", "too");
            assert!(
                [expected, &*before].contains(&&*outcome),
                "{events:?}: {outcome}"
            );
        }
    }
    let server = Scripted::start(|_| sse(unfinished("data: too large for it\n"))).await;
    assert_eq!(
        post(ping()).limits(0, 0, 16).to(&server).await,
        "events [too large]"
    );
}
