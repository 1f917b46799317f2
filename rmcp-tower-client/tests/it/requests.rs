//! What is sent: the headers of rmcp's configuration, and nothing that they must not replace.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, HeaderValue};
use rmcp::transport::streamable_http_client::{StreamableHttpClient, StreamableHttpError};
use serde_json::json;

use crate::support::{
    Scripted, answer, at, connect, handshake, headers, http, json, ping, theirs, tower,
};

type Headers = HashMap<HeaderName, HeaderValue>;

#[tokio::test]
async fn a_request_has_the_headers_that_rmcps_own_has() {
    let server = Scripted::start(|_| json(200, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#)).await;
    async fn all<C: StreamableHttpClient>(client: C, uri: &Arc<str>) {
        let token = || Some("a token".to_owned());
        let custom = || {
            headers(&[
                ("x-tenant", "one"),
                ("mcp-protocol-version", "2025-11-25"),
                ("mcp-method", "ping"),
            ])
        };
        let session = Arc::<str>::from("a session");
        let (uri, other) = (uri.clone(), session.clone());
        client
            .post_message(
                uri.clone(),
                ping(),
                Some(session.clone()),
                token(),
                custom(),
            )
            .await
            .unwrap();
        client
            .post_message(uri.clone(), ping(), None, None, Headers::new())
            .await
            .unwrap();
        let typed = headers(&[
            ("content-type", "application/json; charset=utf-8"),
            ("authorization", "Basic x"),
        ]);
        client
            .post_message(uri.clone(), ping(), None, token(), typed)
            .await
            .unwrap();
        let last = Some("7".to_owned());
        drop(
            client
                .get_stream(uri.clone(), Some(session), last, token(), custom())
                .await
                .unwrap(),
        );
        drop(
            client
                .get_stream(uri.clone(), None, None, None, Headers::new())
                .await
                .unwrap(),
        );
        client
            .delete_session(uri, other, token(), custom())
            .await
            .unwrap();
    }
    all(tower(), &server.uri).await;
    let ours = std::mem::take(&mut *server.seen.lock().unwrap());
    all(theirs(), &server.uri).await;
    let theirs = server.seen();
    assert_eq!(ours.len(), 6);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.method, theirs.method);
        assert_eq!(ours.message, theirs.message);
        let of = |headers: &http::HeaderMap| {
            let mut headers: Vec<_> = headers
                .iter()
                // What reqwest adds to a request without any, and hyper to one without a body.
                .filter(|(name, value)| *value != "*/*" && **name != "content-length")
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            headers.sort();
            headers
        };
        assert_eq!(of(&ours.headers), of(&theirs.headers));
    }
}

#[tokio::test]
async fn what_the_transport_decides_about_cannot_be_replaced() {
    let server = Scripted::start(|_| answer(202, &[], "")).await;
    for name in ["accept", "mcp-session-id", "last-event-id"] {
        let custom = || headers(&[(name, "mine")]);
        let conflicts = |error| {
            let conflict =
                matches!(&error, StreamableHttpError::ReservedHeaderConflict(it) if it == name);
            assert!(conflict, "{error:?}");
        };
        let (client, uri) = (tower(), || server.uri.clone());
        let posted = client
            .post_message(uri(), ping(), None, None, custom())
            .await;
        conflicts(posted.unwrap_err());
        let got = client.get_stream(uri(), None, None, None, custom()).await;
        conflicts(got.err().unwrap());
        let deleted = client
            .delete_session(uri(), "a session".into(), None, custom())
            .await;
        conflicts(deleted.unwrap_err());
    }
    assert_eq!(server.asked(), [""; 0]);
}

#[tokio::test]
async fn what_is_no_header_or_uri_is_an_error() {
    let (client, good) = (tower(), Arc::<str>::from("http://localhost:1/mcp"));
    let bad = client
        .post_message("http://a b/".into(), ping(), None, None, Headers::new())
        .await;
    assert!(
        matches!(bad, Err(StreamableHttpError::Client(_))),
        "{bad:?}"
    );
    let (session, token) = (Some("a\nb".into()), Some("a\nb".to_owned()));
    let bad = client
        .post_message(good.clone(), ping(), session, None, Headers::new())
        .await;
    let error = bad.unwrap_err().to_string();
    assert_eq!(
        error,
        "Client error: the request cannot be made: failed to parse header value"
    );
    let bad = client
        .post_message(good, ping(), None, token, Headers::new())
        .await;
    assert!(
        matches!(bad, Err(StreamableHttpError::Client(_))),
        "{bad:?}"
    );
}

#[tokio::test]
async fn the_negotiated_version_and_the_configured_headers_go_with_every_request() {
    let server = Scripted::start(|seen| match handshake(seen, Some("its id")) {
        Some(answer) => answer,
        None if seen.method == "GET" => answer(405, &[], ""),
        None => {
            let result =
                json!({"jsonrpc": "2.0", "id": seen.message["id"], "result": {"tools": []}});
            json(200, result.to_string())
        }
    })
    .await;
    let config = at(&server.uri)
        .auth_header("a token")
        .custom_headers(headers(&[("x-tenant", "one")]));
    let client = connect(http(), config).await.unwrap();
    client.list_tools(None).await.unwrap();
    client.cancel().await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].what(), "initialize");
    for name in ["mcp-session-id", "mcp-protocol-version"] {
        assert_eq!(seen[0].header(name), None);
    }
    for seen in &seen {
        assert_eq!(
            seen.header("authorization"),
            Some("Bearer a token"),
            "{seen:?}"
        );
        assert_eq!(seen.header("x-tenant"), Some("one"), "{seen:?}");
    }
    for seen in &seen[1..] {
        assert_eq!(seen.header("mcp-session-id"), Some("its id"), "{seen:?}");
        assert_eq!(
            seen.header("mcp-protocol-version"),
            Some("2025-11-25"),
            "{seen:?}"
        );
    }
    let asked = server.asked();
    for what in ["notifications/initialized", "GET", "tools/list", "DELETE"] {
        assert_eq!(
            asked.iter().filter(|asked| *asked == what).count(),
            1,
            "{asked:?}"
        );
    }
}
