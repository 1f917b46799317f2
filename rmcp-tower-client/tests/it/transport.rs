//! rmcp's transport over this client: startup, expired sessions, subscriptions, with rmcp's server
//! and with scripted ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::TokioExecutor,
};
use mcp_session_recovery::SessionRecovery;
use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceError,
    model::{
        CallToolRequestParams, ClientConfig, ErrorCode, ListToolsRequest, ProtocolVersion,
        RequestMetaObject, ServerCapabilities, ServerConfig, ServerNotification,
        SubscriptionFilter,
    },
    service::{
        ClientInitializeError, ClientLifecycleMode, ClientServiceExt, PeerRequestOptions,
        RequestContext, SubscriptionContext, SubscriptionEnd,
    },
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
        streamable_http_server::{
            StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
        },
    },
};
use rmcp_tower_client::{Error, TowerClient};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};
use tower::ServiceBuilder;

use crate::support::{
    Scripted, answer, at, connect, handshake, http, json, serve, soon, sse, tower, unfinished,
};

/// How a subscription ends.
#[derive(Clone, Copy, PartialEq)]
pub enum Ending {
    ByServer,
    ByClient,
}

#[derive(Clone)]
pub struct Handler {
    pub ended: Arc<Notify>,
    ending: Ending,
}

#[tool_router]
impl Handler {
    #[tool(description = "Answers")]
    async fn answer(&self) -> String {
        "answered".to_owned()
    }

    #[tool(description = "Answers when nobody waits for it any more")]
    async fn hang(&self, context: RequestContext<RoleServer>) -> String {
        context.ct.cancelled().await;
        self.ended.notify_one();
        "too late".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed();
        ServerConfig::new(capabilities.build())
    }

    fn accepted_subscription_filter(
        &self,
        filter: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(filter.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        context.sink().notify_tool_list_changed().await.unwrap();
        if self.ending == Ending::ByClient {
            context.cancelled().await;
            self.ended.notify_one();
        }
        Ok(())
    }
}

/// rmcp's server.
pub struct Server {
    pub uri: Arc<str>,
    pub sessions: Arc<LocalSessionManager>,
    pub handler: Handler,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Ending::ByClient, |config| config).await
    }

    async fn with(
        ending: Ending,
        config: impl FnOnce(StreamableHttpServerConfig) -> StreamableHttpServerConfig,
    ) -> Self {
        let sessions = Arc::<LocalSessionManager>::default();
        let ended = Arc::default();
        let handler = Handler { ended, ending };
        let made = handler.clone();
        let config = config(StreamableHttpServerConfig::default());
        let mcp = StreamableHttpService::new(move || Ok(made.clone()), sessions.clone(), config);
        let (uri, serving) = serve(axum::Router::new().route_service("/mcp", mcp)).await;
        Self {
            uri,
            sessions,
            handler,
            serving,
        }
    }

    /// Ends every session and its streams.
    pub async fn forget(&self) {
        self.sessions.sessions.write().await.clear();
    }

    pub async fn session(&self) -> Option<Arc<str>> {
        self.sessions.sessions.read().await.keys().next().cloned()
    }
}

fn transport(uri: &Arc<str>) -> StreamableHttpClientTransport<TowerClient<crate::support::Http>> {
    StreamableHttpClientTransport::with_client(tower(), at(uri))
}

fn discover(version: ProtocolVersion) -> ClientLifecycleMode {
    ClientLifecycleMode::Discover {
        preferred_versions: vec![version],
    }
}

fn auto() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28, ProtocolVersion::V_2025_11_25],
        legacy_version: Some(ProtocolVersion::V_2025_11_25),
    }
}

fn transport_error(error: &ServiceError) -> &StreamableHttpError<Error> {
    let ServiceError::TransportSend(error) = error else {
        panic!("{error:?}");
    };
    error.error.downcast_ref().unwrap()
}

#[tokio::test]
async fn a_session_begins_works_and_ends() {
    let server = Server::start().await;
    let client = connect(http(), at(&server.uri)).await.unwrap();
    for _ in 0..3 {
        let called = client.call_tool(CallToolRequestParams::new("answer"));
        let content = json!(soon(called).await.unwrap().content);
        assert_eq!(content[0]["text"], "answered");
    }
    assert!(server.session().await.is_some());
    client.cancel().await.unwrap();
    assert!(server.session().await.is_none());
}

/// Counts the connections that a client makes.
fn counted<B>(connections: Arc<AtomicUsize>) -> Client<impl Connect + Clone + Sync, B>
where
    B: http_body::Body<Data: Send> + Send,
{
    let connector = ServiceBuilder::new()
        .map_request(move |uri: Uri| {
            connections.fetch_add(1, Ordering::SeqCst);
            uri
        })
        .service(HttpConnector::new());
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Each answer is read to its end, so that its connection serves the next call, with the session layer
/// below or not.
#[tokio::test]
async fn one_call_after_another_needs_no_new_connection() {
    let server = Server::start().await;
    for layered in [false, true] {
        let made = Arc::<AtomicUsize>::default();
        let client = if layered {
            connect(SessionRecovery::new(counted(made.clone())), at(&server.uri)).await
        } else {
            connect(counted(made.clone()), at(&server.uri)).await
        };
        let client = client.unwrap();
        // Given the connections that the handshake, the listening stream and a call have made,
        let call = || client.call_tool(CallToolRequestParams::new("answer"));
        soon(call()).await.unwrap();
        let before = made.load(Ordering::SeqCst);

        // when calls follow one another, then hardly one is made: a connection is back in the pool a
        // moment after its answer's end.
        for _ in 0..20 {
            soon(call()).await.unwrap();
        }
        let more = made.load(Ordering::SeqCst) - before;
        assert!(more <= 2, "{more} of 20, {layered}");
        client.cancel().await.unwrap();
    }
}

#[tokio::test]
async fn an_expired_session_is_made_anew_by_rmcp() {
    let server = Server::start().await;
    let client = connect(http(), at(&server.uri)).await.unwrap();
    client.list_tools(None).await.unwrap();
    let old = server.session().await;
    server.forget().await;
    soon(client.list_tools(None)).await.unwrap();
    assert_ne!(server.session().await, old);
}

#[tokio::test]
async fn an_expired_session_is_an_error_where_rmcp_is_told_to_leave_it() {
    let server = Server::start().await;
    let config = at(&server.uri).reinit_on_expired_session(false);
    let client = connect(http(), config).await.unwrap();
    server.forget().await;
    let error = soon(client.list_tools(None)).await.unwrap_err();
    let error = transport_error(&error);
    assert!(
        matches!(error, StreamableHttpError::SessionExpired),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_error_to_initialize_is_told() {
    let error = |id: &Value| {
        let error = json!({"code": -32602, "message": "Unsupported protocol version"});
        json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string()
    };
    for way in ["json", "refused", "events", "open"] {
        let server = Scripted::start(move |seen| {
            let error = error(&seen.message["id"]);
            match way {
                "json" => json(200, error),
                "refused" => json(400, error),
                "events" => sse(format!("data: {error}\n\n")),
                _ => sse(unfinished(format!("data: {error}\n\n"))),
            }
        })
        .await;
        let mode = ClientLifecycleMode::Initialize;
        let started = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), mode);
        match soon(started).await {
            Err(ClientInitializeError::JsonRpcError(error)) => {
                assert_eq!(error.code, ErrorCode::INVALID_PARAMS);
            }
            other => panic!("{way}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_error_to_the_second_initialize_fails_the_call() {
    for over_events in [false, true] {
        let begun = std::sync::atomic::AtomicBool::new(false);
        let server = Scripted::start(move |seen| match &*seen.what() {
            "initialize" if begun.swap(true, std::sync::atomic::Ordering::SeqCst) => {
                let error = json!({"code": -32602, "message": "no"});
                let error = json!({"jsonrpc": "2.0", "id": seen.message["id"], "error": error});
                match over_events {
                    true => sse(unfinished(format!("data: {error}\n\n"))),
                    false => json(200, error.to_string()),
                }
            }
            "GET" => answer(405, &[], ""),
            "tools/list" => answer(404, &[], ""),
            _ => handshake(seen, Some("one")).unwrap(),
        })
        .await;
        let client = connect(http(), at(&server.uri)).await.unwrap();
        let error = soon(client.list_tools(None)).await.unwrap_err();
        let error = transport_error(&error);
        let failed = matches!(error, StreamableHttpError::ReinitializationFailed(_));
        assert!(failed, "{error:?}");
        let posts: Vec<_> = server
            .asked()
            .into_iter()
            .filter(|what| what != "GET")
            .collect();
        let expected = [
            "initialize",
            "notifications/initialized",
            "tools/list",
            "initialize",
        ];
        assert_eq!(posts, expected);
    }
}

#[tokio::test]
async fn a_challenge_in_the_middle_of_a_session_reaches_the_caller() {
    let server = Scripted::start(|seen| match &*seen.what() {
        "GET" => answer(405, &[], ""),
        "tools/list" => answer(401, &[("www-authenticate", "Bearer realm=\"x\"")], ""),
        _ => handshake(seen, Some("one")).unwrap(),
    })
    .await;
    let client = connect(http(), at(&server.uri)).await.unwrap();
    let error = soon(client.list_tools(None)).await.unwrap_err();
    match transport_error(&error) {
        StreamableHttpError::AuthRequired(error) => {
            assert_eq!(error.www_authenticate_header, "Bearer realm=\"x\"");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_revision_without_sessions_works() {
    for as_json in [false, true] {
        let server = Server::with(Ending::ByClient, |config| {
            config
                .with_legacy_session_mode(false)
                .with_json_response(as_json)
        })
        .await;
        let mode = discover(ProtocolVersion::V_2026_07_28);
        let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), mode);
        let client = soon(client).await.unwrap();
        let called = client.call_tool(CallToolRequestParams::new("answer"));
        let content = json!(soon(called).await.unwrap().content);
        assert_eq!(content[0]["text"], "answered");
    }
}

#[tokio::test]
async fn an_older_server_is_recognized() {
    for (status, content_type, body) in [
        (
            422,
            "text/plain",
            "Unexpected message, expect initialize request",
        ),
        (
            400,
            "application/json",
            r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"?"}}"#,
        ),
        (404, "", ""),
    ] {
        let server = Scripted::start(move |seen| match &*seen.what() {
            "server/discover" => answer(status, &[("content-type", content_type)], body),
            "GET" => answer(405, &[], ""),
            _ => handshake(seen, None).unwrap(),
        })
        .await;
        let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), auto());
        soon(client).await.unwrap().cancel().await.unwrap();
        let expected = ["server/discover", "initialize", "notifications/initialized"];
        assert_eq!(server.asked(), expected);
    }
}

#[tokio::test]
async fn a_server_of_another_version_is_asked_again() {
    let refused = std::sync::atomic::AtomicBool::new(false);
    let server = Scripted::start(move |seen| {
        assert_eq!(seen.what(), "server/discover");
        if !refused.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let error = json!({
                "code": -32022, "message": "Unsupported protocol version",
                "data": {"supported": ["2025-11-25"]},
            });
            // As the Python SDK refuses.
            let error = json!({"jsonrpc": "2.0", "id": "server-error", "error": error});
            return json(400, error.to_string());
        }
        let result = json!({
            "resultType": "complete", "supportedVersions": ["2025-11-25"], "capabilities": {},
            "ttlMs": 0, "cacheScope": "private",
        });
        let response = json!({"jsonrpc": "2.0", "id": seen.message["id"], "result": result});
        json(200, response.to_string())
    })
    .await;
    let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), auto());
    soon(client).await.unwrap();
    assert_eq!(server.asked(), ["server/discover", "server/discover"]);
}

#[tokio::test]
async fn a_busy_server_is_not_taken_for_an_older_one() {
    let server = Scripted::start(|_| answer(429, &[("retry-after", "7")], "")).await;
    let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), auto());
    soon(client).await.unwrap_err();
    assert_eq!(server.asked(), ["server/discover"]);
}

#[tokio::test]
async fn a_subscription_is_a_post_that_goes_on() {
    let server = Server::with(Ending::ByClient, |config| config.with_json_response(true)).await;
    let mode = discover(ProtocolVersion::V_2026_07_28);
    let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), mode);
    let client = soon(client).await.unwrap();
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let mut subscription = soon(client.listen(filter)).await.unwrap();
    let changed = soon(subscription.next()).await.unwrap();
    assert!(matches!(
        changed,
        Some(ServerNotification::ToolListChangedNotification(_))
    ));
    // A request of another version in between does not disturb it.
    let mut meta = RequestMetaObject::new();
    meta.set_protocol_version(ProtocolVersion::V_2025_11_25);
    let options = PeerRequestOptions::no_options().with_meta(meta);
    let list = ListToolsRequest {
        method: Default::default(),
        params: None,
        extensions: Default::default(),
    };
    let sent = client
        .send_request_with_option(list.into(), options)
        .await
        .unwrap();
    soon(sent.await_response()).await.unwrap();
    // To cancel it is to close it.
    subscription.cancel().await.unwrap();
    soon(server.handler.ended.notified()).await;
}

#[tokio::test]
async fn a_subscription_ends_as_its_stream_says() {
    let filter = || SubscriptionFilter::builder().tools_list_changed().build();
    let server = Server::with(Ending::ByServer, |config| config).await;
    let mode = discover(ProtocolVersion::V_2026_07_28);
    let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), mode);
    let client = soon(client).await.unwrap();
    let mut subscription = soon(client.listen(filter())).await.unwrap();
    assert!(soon(subscription.next()).await.unwrap().is_some());
    assert!(soon(subscription.next()).await.unwrap().is_none());
    assert!(matches!(
        subscription.end(),
        Some(SubscriptionEnd::Graceful(_))
    ));
}

#[tokio::test]
async fn a_request_that_is_given_up_is_given_up_at_the_server() {
    let server = Server::with(Ending::ByClient, |config| {
        config.with_legacy_session_mode(false)
    })
    .await;
    let mode = discover(ProtocolVersion::V_2026_07_28);
    let client = ClientConfig::default().serve_with_lifecycle(transport(&server.uri), mode);
    let client = Arc::new(soon(client).await.unwrap());
    let calling = client.clone();
    let call =
        tokio::spawn(async move { calling.call_tool(CallToolRequestParams::new("hang")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    call.abort();
    soon(server.handler.ended.notified()).await;
}

#[tokio::test]
async fn a_result_of_any_size_is_read_if_that_is_wanted() {
    let server = Scripted::start(|seen| match &*seen.what() {
        "GET" => answer(405, &[], ""),
        "tools/call" => {
            let content = json!([{"type": "text", "text": "x".repeat(17 << 20)}]);
            let result = json!({"content": content});
            json(
                200,
                json!({"jsonrpc": "2.0", "id": seen.message["id"], "result": result}).to_string(),
            )
        }
        _ => handshake(seen, None).unwrap(),
    })
    .await;
    let call = || CallToolRequestParams::new("large");
    let client = connect(http(), at(&server.uri)).await.unwrap();
    let error = soon(client.call_tool(call())).await.unwrap_err();
    let error = transport_error(&error);
    assert!(
        matches!(error, StreamableHttpError::ResponseBodyTooLarge { .. }),
        "{error:?}"
    );
    let config: StreamableHttpClientTransportConfig =
        at(&server.uri).max_json_response_size(32 << 20);
    let client = connect(http(), config).await.unwrap();
    soon(client.call_tool(call())).await.unwrap();
}

/// With rmcp's own client it is not answered at all.
#[tokio::test]
async fn an_error_that_names_no_request_answers_the_one_that_was_sent() {
    for (status, id) in [(400, "null"), (500, "\"server-error\""), (200, "null")] {
        let error =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32000,"message":"no"}}}}"#);
        let server = Scripted::start(move |seen| match &*seen.what() {
            "GET" => answer(405, &[], ""),
            "tools/list" => json(status, error.clone()),
            _ => handshake(seen, Some("one")).unwrap(),
        })
        .await;
        let client = connect(http(), at(&server.uri)).await.unwrap();
        match soon(client.list_tools(None)).await {
            Err(ServiceError::McpError(error)) => assert_eq!(error.code.0, -32000),
            other => panic!("{other:?}"),
        }
    }
}
