//! An MCP server and a client on rmcp, as programs: this test binary, started again. They speak
//! what those of README.md do.

// What belongs to sessions is deprecated in rmcp.
#![allow(deprecated)]

use std::{
    io::{BufRead, Write, stdin, stdout},
    process::exit,
    sync::{Arc, Mutex},
    time::Duration,
};

use rmcp::{
    ClientHandler, ErrorData, Peer, RoleClient, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult,
        PaginatedRequestParams, ResourceUpdatedNotificationParam, ServerCapabilities, ServerConfig,
        SubscribeRequestParams,
    },
    service::{NotificationContext, RequestContext, ServiceError},
    transport::{
        StreamableHttpClientTransport,
        streamable_http_server::{
            StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
        },
    },
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const COUNTER: &str = "test://counter";

/// What `INTEROP_RMCP` asks for: `server --port N --standby` or `client URL`.
pub fn run() {
    let Ok(wanted) = std::env::var("INTEROP_RMCP") else {
        return;
    };
    let wanted: Vec<_> = wanted.split(' ').collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match wanted[..] {
        ["server", "--port", port, "--standby"] => {
            runtime.block_on(serve(port.parse().expect("a port")));
        }
        ["client", url] => runtime.block_on(call(url.to_owned())),
        _ => panic!("{wanted:?}"),
    }
    exit(0);
}

/// The lines on standard input; the end of it ends the receiver.
fn lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

async fn serve(port: u16) {
    let mut lines = lines();
    let handler = Handler::default();
    let mcp = StreamableHttpService::new(
        move || Ok(handler.clone()),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let router = axum::Router::new().route_service("/mcp", mcp);
    say("standing by");
    if lines.recv().await.is_none() {
        return;
    }
    // tokio's allows a port that was in use a moment ago to be used again.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("a free port");
    say(&format!("listening on http://127.0.0.1:{port}/mcp"));
    tokio::select! {
        served = axum::serve(listener, router) => served.expect("it serves"),
        _ = lines.recv() => {}
    }
}

fn say(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[derive(Clone, Default)]
struct Handler {
    subscribers: Arc<Mutex<Vec<Peer<RoleServer>>>>,
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .build();
        ServerConfig::new(capabilities)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::default())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let args = request.arguments.unwrap_or_default();
        let text = match &*request.name {
            "echo" => args["text"].as_str().unwrap_or_default().to_owned(),
            "slow" => {
                let seconds = args["seconds"].as_f64().unwrap_or_default();
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                "done".to_owned()
            }
            _ => {
                let subscribers = self.subscribers.lock().unwrap().clone();
                for subscriber in subscribers {
                    let updated = ResourceUpdatedNotificationParam::new(COUNTER);
                    let _ = subscriber.notify_resource_updated(updated).await;
                }
                "touched".to_owned()
            }
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscribers.lock().unwrap().push(context.peer);
        Ok(())
    }
}

/// Says what its user sees.
#[derive(Clone)]
struct User;

impl ClientHandler for User {
    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _: NotificationContext<RoleClient>,
    ) {
        let params = json!({"uri": params.uri});
        emit(
            json!({"event": "notification", "method": "notifications/resources/updated", "params": params}),
        );
    }
}

fn emit(event: Value) {
    say(&event.to_string());
}

fn emit_error(id: &Value, error: &ServiceError) {
    let (code, message, data) = match error {
        ServiceError::McpError(error) => (
            json!(error.code.0),
            error.message.to_string(),
            json!(error.data),
        ),
        error => (Value::Null, error.to_string(), Value::Null),
    };
    let kind = format!("{error:?}");
    let kind = kind.split(['(', ' ', '{']).next().unwrap_or_default();
    emit(
        json!({"event": "error", "id": id, "type": kind, "code": code, "message": message, "data": data}),
    );
}

async fn call(url: String) {
    let mut lines = lines();
    let transport = StreamableHttpClientTransport::from_uri(url);
    let client = match User.serve(transport).await {
        Ok(client) => client,
        Err(error) => {
            emit(
                json!({"event": "error", "id": null, "type": "connect", "message": error.to_string()}),
            );
            exit(1);
        }
    };
    emit(json!({"event": "connected"}));
    while let Some(line) = lines.recv().await {
        let command: Value = serde_json::from_str(&line).expect("JSON");
        let peer = client.peer().clone();
        match command["do"].as_str() {
            Some("call") => drop(tokio::spawn(call_tool(peer, command))),
            Some("subscribe") => {
                let uri = command["uri"].as_str().unwrap_or_default();
                match peer.subscribe(SubscribeRequestParams::new(uri)).await {
                    Ok(_) => emit(json!({"event": "result", "id": command["id"]})),
                    Err(error) => emit_error(&command["id"], &error),
                }
            }
            _ => break,
        }
    }
    let _ = client.cancel().await;
    emit(json!({"event": "closed"}));
}

async fn call_tool(peer: Peer<RoleClient>, command: Value) {
    let tool = command["tool"].as_str().unwrap_or_default().to_owned();
    let arguments = command["args"].as_object().cloned().unwrap_or_default();
    let params = CallToolRequestParams::new(tool).with_arguments(arguments);
    match peer.call_tool(params).await {
        Ok(result) => {
            let result = json!(result);
            let text = &result["content"][0]["text"];
            emit(json!({"event": "result", "id": command["id"], "text": text}));
        }
        Err(error) => emit_error(&command["id"], &error),
    }
}
