//! An rmcp client over a tower stack with the session layer in it, and rmcp's own recovery off.
//!
//! It recovers where rmcp by itself does not: with a server that answers 400 instead of 404, and with
//! a call whose stream is resumed in a session that is gone.
//!
//! ```console
//! $ cargo run -p rmcp-tower-client --example rmcp_transport
//! $ cargo run -p rmcp-tower-client --example rmcp_transport -- --without-layer
//! ```

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{Router, extract::Request, http::StatusCode, middleware, response::IntoResponse};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcp_session_recovery::SessionRecoveryLayer;
use rmcp::{
    RoleClient, ServerHandler, ServiceExt,
    model::CallToolRequestParams,
    service::RunningService,
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::StreamableHttpClientTransportConfig,
        streamable_http_server::{StreamableHttpService, session::local::LocalSessionManager},
    },
};
use rmcp_tower_client::TowerClient;
use tokio::{net::TcpListener, time::timeout};
use tower::Layer;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type RmcpClient = RunningService<RoleClient, ()>;

async fn connect(url: &str, with_layer: bool) -> Result<RmcpClient, BoxError> {
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    if !with_layer {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let transport = StreamableHttpClientTransport::with_client(TowerClient::new(http), config);
        return Ok(().serve(transport).await?);
    }
    let http = Client::builder(TokioExecutor::new()).build_http();
    let layer = SessionRecoveryLayer::new().on_recovery(|event| println!("    {event:?}"));
    let stack = layer.layer(http);
    // One of the two recovers, not both.
    let config = config.reinit_on_expired_session(false);
    let transport = StreamableHttpClientTransport::with_client(TowerClient::new(stack), config);
    Ok(().serve(transport).await?)
}

/// What a caller gets from a tool: an answer, an error, or (in eight seconds) nothing at all.
async fn call(client: &RmcpClient, tool: &'static str) -> Option<bool> {
    let calling = client.call_tool(CallToolRequestParams::new(tool));
    let outcome = timeout(Duration::from_secs(8), calling).await.ok();
    match &outcome {
        Some(Ok(_)) => println!("  the caller of {tool} gets the answer"),
        Some(Err(error)) => println!("  the caller of {tool} gets {error}"),
        None => println!("  the caller of {tool} gets nothing"),
    }
    outcome.map(|outcome| outcome.is_ok())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let with_layer = std::env::args().all(|argument| argument != "--without-layer");

    println!("a server that answers 400 to a session that it does not know");
    let (url, sessions) = serve(true).await?;
    let client = connect(&url, with_layer).await?;
    call(&client, "count").await;
    println!("  the server forgets every session");
    sessions.sessions.write().await.clear();
    let again = call(&client, "count").await;
    assert_eq!(again == Some(true), with_layer, "the layer recovers it");
    drop(client);

    println!("a call that is under way when its session ends, in a stream that can be resumed");
    let (url, sessions) = serve(false).await?;
    let client = connect(&url, with_layer).await?;
    let ending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        println!("  the server ends every session");
        sessions.sessions.write().await.clear();
    };
    let (lost, ()) = tokio::join!(call(&client, "wait"), ending);
    assert_eq!(
        lost == Some(false),
        with_layer,
        "the layer says that the answer is lost"
    );
    call(&client, "count").await;
    Ok(())
}

#[derive(Clone)]
struct Handler;

#[tool_router]
impl Handler {
    #[tool(description = "Counts to one")]
    async fn count(&self) -> String {
        "one".to_owned()
    }

    #[tool(description = "Takes an hour")]
    async fn wait(&self) -> String {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        "an hour has passed".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Handler {}

/// rmcp's server, and its sessions.
async fn serve(says_400: bool) -> Result<(String, Arc<LocalSessionManager>), BoxError> {
    let sessions = Arc::<LocalSessionManager>::default();
    let mcp = StreamableHttpService::new(|| Ok(Handler), sessions.clone(), Default::default());
    let mut router = Router::new().route_service("/mcp", mcp);
    if says_400 {
        router = router.layer(middleware::from_fn(answer_400));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, sessions))
}

/// As the TypeScript SDK does with one transport for a process.
async fn answer_400(request: Request, next: middleware::Next) -> axum::response::Response {
    let response = next.run(request).await;
    if response.status() != StatusCode::NOT_FOUND {
        return response;
    }
    let error = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#;
    let json = [("content-type", "application/json")];
    (StatusCode::BAD_REQUEST, json, error).into_response()
}
