//! The session layer under this client: what rmcp recovers from by itself and what it does not, with
//! its own recovery off.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request, middleware::Next, response::IntoResponse};
use http::StatusCode;
use mcp_session_recovery::{RecoveryEvent, SessionRecoveryLayer};
use rmcp::{
    RoleClient, ServiceError,
    model::{CallToolRequestParams, ClientConfig},
    service::RunningService,
    transport::streamable_http_client::StreamableHttpError,
};
use rmcp_tower_client::Error;
use serde_json::json;
use tower::Layer;

use crate::{
    support::{
        Scripted, Seen, answer, at, connect, handshake, http_for_the_layer, json as answered,
        serve, soon, sse,
    },
    transport::Server,
};

type Client = RunningService<RoleClient, ClientConfig>;
type Events = Arc<Mutex<Vec<RecoveryEvent>>>;

async fn connect_recovering(uri: &Arc<str>) -> (Client, Events) {
    let events = Events::default();
    let told = events.clone();
    let layer = SessionRecoveryLayer::new()
        .on_recovery(move |event| told.lock().unwrap().push(event.clone()));
    // One of the two recovers, not both.
    let config = at(uri).reinit_on_expired_session(false);
    let client = connect(layer.layer(http_for_the_layer()), config).await;
    (client.unwrap(), events)
}

async fn call(client: &Client, tool: &'static str) -> Result<String, ServiceError> {
    let called = soon(client.call_tool(CallToolRequestParams::new(tool))).await?;
    Ok(json!(called.content)[0]["text"]
        .as_str()
        .unwrap()
        .to_owned())
}

#[tokio::test]
async fn calls_are_answered_however_often_the_server_forgets() {
    let server = Server::start().await;
    let (client, events) = connect_recovering(&server.uri).await;
    for recoveries in 1..=3 {
        assert_eq!(call(&client, "answer").await.unwrap(), "answered");
        server.forget().await;
        assert_eq!(call(&client, "answer").await.unwrap(), "answered");
        let events = events.lock().unwrap();
        assert_eq!(events.len(), recoveries);
        assert!(events.iter().all(|event| event.result().is_ok()));
    }
    client.cancel().await.unwrap();
    assert_eq!(
        server.session().await,
        None,
        "the last session is ended, too"
    );
}

#[tokio::test]
async fn a_server_that_says_400_is_recovered_from() {
    let server = Server::start().await;
    let upstream = server.uri.clone();
    let router = Router::new().fallback(move |request: Request| forward(upstream.clone(), request));
    let router = router.layer(axum::middleware::from_fn(|request: Request, next: Next| async {
        match next.run(request).await {
            response if response.status() == StatusCode::NOT_FOUND => {
                let error = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#;
                answered(400, error)
            }
            response => response,
        }
    }));
    let (uri, serving) = serve(router).await;
    let (client, events) = connect_recovering(&uri).await;
    assert_eq!(call(&client, "answer").await.unwrap(), "answered");
    server.forget().await;
    assert_eq!(call(&client, "answer").await.unwrap(), "answered");
    assert_eq!(events.lock().unwrap().len(), 1);
    serving.abort();
}

async fn forward(upstream: Arc<str>, request: Request) -> axum::response::Response {
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    parts.uri = upstream.parse().unwrap();
    parts.headers.remove("host");
    let request = Request::from_parts(parts, http_body_util::Full::new(body));
    let response = crate::support::http().request(request).await.unwrap();
    response.into_response()
}

#[tokio::test]
async fn many_calls_at_once_share_one_recovery() {
    let server = Server::start().await;
    let (client, events) = connect_recovering(&server.uri).await;
    server.forget().await;
    let calls = (0..16).map(|_| call(&client, "answer"));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), "answered");
    }
    assert_eq!(events.lock().unwrap().len(), 1);
}

/// The call would wait for an hour, and rmcp's own recovery would send it twice.
#[tokio::test]
async fn a_call_whose_session_ends_under_it_is_told_that_its_answer_is_lost() {
    let calls = Arc::new(Mutex::new(0));
    let (counted, session) = (calls.clone(), Arc::new(Mutex::new(1)));
    let current = session.clone();
    let server = Scripted::start(move |seen| {
        let now = format!("session {}", current.lock().unwrap());
        let known = seen.header("mcp-session-id").is_none_or(|id| id == now);
        match &*seen.what() {
            _ if !known => answer(404, &[], ""),
            "tools/call" => {
                *counted.lock().unwrap() += 1;
                sse("id: 1\nretry: 5\n\n")
            }
            "GET" if seen.header("last-event-id").is_none() => answer(405, &[], ""),
            // Nothing yet.
            "GET" => sse("id: 2\n\n"),
            _ => handshake(seen, Some(&now)).unwrap(),
        }
    })
    .await;
    let (client, events) = connect_recovering(&server.uri).await;
    let lose = async {
        while *calls.lock().unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        *session.lock().unwrap() += 1;
    };
    let (called, ()) = tokio::join!(call(&client, "anything"), lose);
    match called {
        Err(ServiceError::McpError(error)) => {
            assert_eq!(error.data.unwrap()["reason"], "session_expired");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(*calls.lock().unwrap(), 1, "it is not sent again");
    assert_eq!(events.lock().unwrap().len(), 1);
}

/// A call whose answer has not begun when its session is replaced (rule G6). rmcp's own recovery is
/// on, and would send the call again if it were told that the session has expired.
#[tokio::test]
async fn g6_a_call_without_a_response_head_is_executed_once_whoever_else_recovers() {
    for own_recovery in [true, false] {
        // Given a call that is being carried out,
        let (calls, session) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(1)));
        let (stop, listening) = tokio::sync::watch::channel(());
        let (counted, current) = (calls.clone(), session.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (counted, current) = (counted.clone(), current.clone());
            let mut listening = listening.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                let seen = Seen {
                    method: parts.method,
                    path: String::new(),
                    headers: parts.headers,
                    message: serde_json::from_slice(&body).unwrap_or_default(),
                };
                let now = format!("session {}", current.lock().unwrap());
                if seen.header("mcp-session-id").is_some_and(|id| id != now) {
                    return answer(404, &[], "");
                }
                match &*seen.what() {
                    "tools/call" => {
                        *counted.lock().unwrap() += 1;
                        std::future::pending().await
                    }
                    "GET" => {
                        listening.mark_unchanged();
                        let until_lost = futures_util::stream::once(async move {
                            let _ = listening.changed().await;
                            Ok::<_, std::convert::Infallible>(axum::body::Bytes::new())
                        });
                        sse(axum::body::Body::from_stream(until_lost))
                    }
                    "ping" => answered(
                        200,
                        json!({"jsonrpc": "2.0", "id": seen.message["id"], "result": {}})
                            .to_string(),
                    ),
                    _ => handshake(&seen, Some(&now)).unwrap(),
                }
            }
        });
        let (uri, serving) = serve(router).await;
        let layer = SessionRecoveryLayer::new().orphan_timeout(Duration::from_millis(200));
        let config = at(&uri).reinit_on_expired_session(own_recovery);
        let client = connect(layer.layer(http_for_the_layer()), config)
            .await
            .unwrap();

        // when its session is lost, and the listening stream finds it out,
        let lose = async {
            while *calls.lock().unwrap() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            *session.lock().unwrap() += 1;
            stop.send(()).unwrap();
        };
        let (called, ()) = tokio::join!(call(&client, "pay"), lose);

        // then the user is told, and it is not carried out again.
        let Err(ServiceError::McpError(error)) = called else {
            panic!("{called:?}");
        };
        assert_eq!(error.code.0, -32000);
        assert_eq!(error.data.unwrap()["reason"], "session_expired");
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(*calls.lock().unwrap(), 1, "own recovery: {own_recovery}");
        serving.abort();
    }
}

#[tokio::test]
async fn a_session_that_cannot_be_made_anew_is_expired() {
    let begun = Mutex::new(false);
    let server = Scripted::start(move |seen| match &*seen.what() {
        "GET" => answer(405, &[], ""),
        "initialize" if std::mem::replace(&mut *begun.lock().unwrap(), true) => {
            answer(500, &[], "")
        }
        "tools/call" => answer(404, &[], "gone"),
        _ => handshake(seen, Some("one")).unwrap(),
    })
    .await;
    let (client, events) = connect_recovering(&server.uri).await;
    let Err(ServiceError::TransportSend(error)) = call(&client, "anything").await else {
        panic!()
    };
    let error = error.error.downcast_ref::<StreamableHttpError<Error>>();
    assert!(
        matches!(error, Some(StreamableHttpError::SessionExpired)),
        "{error:?}"
    );
    assert!(events.lock().unwrap()[0].result().is_err());
}

#[tokio::test]
async fn a_listening_stream_outlives_its_session() {
    let server = Server::start().await;
    let (client, events) = connect_recovering(&server.uri).await;
    for _ in 0..2 {
        server.forget().await;
        assert_eq!(call(&client, "answer").await.unwrap(), "answered");
    }
    // Whichever came first, the call or the stream that was reopened: each session was made once.
    assert_eq!(events.lock().unwrap().len(), 2);
}
