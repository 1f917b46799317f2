//! A scripted server, rmcp's own client to compare with, and a real server.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Display,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract,
    response::Response,
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mcp_session_recovery::RequestBody;
use rmcp::{
    RoleClient,
    model::{ClientConfig, ClientJsonRpcMessage, ServerJsonRpcMessage},
    service::{ClientLifecycleMode, ClientServiceExt, RunningService},
    transport::{
        StreamableHttpClientTransport,
        common::client_side_sse::FixedInterval,
        streamable_http_client::{
            SseError, StreamableHttpClient, StreamableHttpClientTransportConfig,
            StreamableHttpError, StreamableHttpPostResponse, StreamableHttpResponseLimits,
        },
    },
};
use rmcp_tower_client::TowerClient;
use serde_json::{Value, json};
use sse_stream::Sse;
use tokio::{net::TcpListener, task::JoinHandle};

pub type Http = Client<HttpConnector, Full<Bytes>>;

pub fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The layer gives what is beneath it a body type of its own.
pub fn http_for_the_layer() -> Client<HttpConnector, RequestBody<Full<Bytes>>> {
    Client::builder(TokioExecutor::new()).build_http()
}

pub fn tower() -> TowerClient<Http> {
    TowerClient::new(http())
}

/// rmcp's own client, which leaves redirects to us as a tower stack does.
pub fn theirs() -> reqwest::Client {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    client.build().unwrap()
}

/// On a real clock nothing waits for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, future)
        .await
        .expect("this never ends")
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub message: Value,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    /// The JSON-RPC method, or else the HTTP method.
    pub fn what(&self) -> String {
        let method = self.message["method"].as_str();
        method.unwrap_or(self.method.as_str()).to_owned()
    }
}

/// A server that answers as it is told.
pub struct Scripted {
    pub uri: Arc<str>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    serving: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Scripted {
    pub async fn start(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        let handler = async move |request: extract::Request| {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let request = Seen {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                headers: parts.headers,
                message: serde_json::from_slice(&body).unwrap_or_default(),
            };
            log.lock().unwrap().push(request.clone());
            answer(&request)
        };
        let handler = move |request| {
            let handler = handler.clone();
            async move { handler(request).await }
        };
        let (uri, serving) = serve(Router::new().fallback(handler)).await;
        Self { uri, seen, serving }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.seen().iter().map(Seen::what).collect()
    }
}

pub async fn serve(router: Router) -> (Arc<str>, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let uri = format!("http://{}/mcp", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (uri.into(), serving)
}

/// An answer to be given, of a status, with headers and a body.
pub fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        response.headers_mut().insert(*name, value);
    }
    response
}

pub fn json(status: u16, body: impl Into<Body>) -> Response {
    answer(status, &[("content-type", "application/json")], body)
}

pub fn sse(body: impl Into<Body>) -> Response {
    answer(200, &[("content-type", "text/event-stream")], body)
}

/// The beginning of a body whose rest never comes.
pub fn unfinished(beginning: impl Into<Bytes>) -> Body {
    let beginning = stream::iter([Ok::<_, Infallible>(beginning.into())]);
    Body::from_stream(beginning.chain(stream::pending()))
}

/// The beginning of a body that breaks.
pub fn broken(beginning: impl Into<Bytes>) -> Body {
    let beginning = stream::iter([Ok(beginning.into())]);
    let broken = stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::other("broken"))
    });
    Body::from_stream(beginning.chain(broken))
}

pub fn message(message: Value) -> ClientJsonRpcMessage {
    serde_json::from_value(message).unwrap()
}

pub fn ping() -> ClientJsonRpcMessage {
    message(json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}))
}

pub fn initialized() -> ClientJsonRpcMessage {
    message(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
}

pub fn discover() -> ClientJsonRpcMessage {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    message(json!({
        "jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta},
    }))
}

/// A request to be made of a client, whichever it is.
pub struct Post {
    pub message: ClientJsonRpcMessage,
    pub session: Option<&'static str>,
    pub limits: StreamableHttpResponseLimits,
}

pub fn post(message: ClientJsonRpcMessage) -> Post {
    Post {
        message,
        session: None,
        limits: StreamableHttpResponseLimits::default(),
    }
}

impl Post {
    pub fn in_session(mut self) -> Self {
        self.session = Some("a session");
        self
    }

    pub fn limits(mut self, json: usize, error: usize, event: usize) -> Self {
        self.limits.max_json_response_size = json;
        self.limits.max_error_response_size = error;
        self.limits.max_sse_event_size = event;
        self
    }

    async fn by<C: StreamableHttpClient>(&self, client: C, uri: &Arc<str>) -> String {
        let (message, session) = (self.message.clone(), self.session.map(Arc::from));
        let sent = client.post_message_with_response_limits(
            uri.clone(),
            message,
            session,
            None,
            HashMap::new(),
            self.limits,
        );
        match soon(sent).await {
            Ok(StreamableHttpPostResponse::Accepted) => "accepted".to_owned(),
            Ok(StreamableHttpPostResponse::Json(message, session)) => {
                format!("json {}{}", summary(&message), in_session(session))
            }
            Ok(StreamableHttpPostResponse::Sse(events, session)) => {
                format!("events {}{}", soon(all(events)).await, in_session(session))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => failure(error),
        }
    }

    /// What becomes of it: with this client, and with rmcp's own, it is the same.
    pub async fn to(self, server: &Scripted) -> String {
        let ours = self.by(tower(), &server.uri).await;
        let theirs = self.by(theirs(), &server.uri).await;
        assert_eq!(ours, theirs, "this client's, and rmcp's own");
        ours
    }
}

/// What becomes of it with this client, where rmcp's own has other words for it.
pub async fn outcome(post: &Post, server: &Scripted) -> String {
    post.by(tower(), &server.uri).await
}

/// What becomes of a GET, with this client and with rmcp's own.
pub async fn get(server: &Scripted, last_event_id: Option<&str>) -> String {
    async fn by<C: StreamableHttpClient>(client: C, uri: &Arc<str>, id: Option<&str>) -> String {
        let (session, id) = (Some("a session".into()), id.map(str::to_owned));
        let got = client.get_stream(uri.clone(), session, id, None, HashMap::new());
        match soon(got).await {
            Ok(events) => format!("events {}", soon(all(events)).await),
            Err(error) => failure(error),
        }
    }
    let ours = by(tower(), &server.uri, last_event_id).await;
    let theirs = by(theirs(), &server.uri, last_event_id).await;
    assert_eq!(ours, theirs, "this client's, and rmcp's own");
    ours
}

/// What becomes of a DELETE, with this client and with rmcp's own.
pub async fn delete(server: &Scripted) -> String {
    async fn by<C: StreamableHttpClient>(client: C, uri: &Arc<str>) -> String {
        let deleted = client.delete_session(uri.clone(), "a session".into(), None, HashMap::new());
        match soon(deleted).await {
            Ok(()) => "deleted".to_owned(),
            Err(error) => failure(error),
        }
    }
    let ours = by(tower(), &server.uri).await;
    let theirs = by(theirs(), &server.uri).await;
    assert_eq!(ours, theirs, "this client's, and rmcp's own");
    ours
}

fn in_session(session: Option<String>) -> String {
    session.map_or(String::new(), |session| format!(" in {session}"))
}

fn summary(message: &ServerJsonRpcMessage) -> String {
    let message = serde_json::to_value(message).unwrap();
    let (id, error) = (&message["id"], &message["error"]);
    match error {
        Value::Null => format!("{id} {}", message["result"]),
        error => format!(
            "{id} {} {}",
            error["code"],
            error["message"].as_str().unwrap()
        ),
    }
}

async fn all(mut events: BoxStream<'static, Result<Sse, SseError>>) -> String {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let id = event.id.map_or(String::new(), |id| format!("#{id} "));
                seen.push(format!("{id}{}", event.data.unwrap_or_default()));
            }
            Err(error) => {
                // Each has words of its own.
                let text = error.to_string();
                let too_large = text.contains("bytes");
                seen.push(if too_large { "too large" } else { "broken" }.to_owned());
                break;
            }
        }
    }
    format!("[{}]", seen.join(", "))
}

fn failure<E>(error: StreamableHttpError<E>) -> String
where
    E: std::error::Error + Display + Send + Sync + 'static,
{
    match error {
        // Each has words of its own.
        StreamableHttpError::Client(_) => "client error".to_owned(),
        StreamableHttpError::HttpStatus(error) => {
            let after = error.retry_after;
            format!(
                "status {}{}",
                error.status,
                after.map_or(String::new(), |it| format!(" after {it}"))
            )
        }
        StreamableHttpError::AuthRequired(error) => {
            format!("auth required: {}", error.www_authenticate_header)
        }
        StreamableHttpError::InsufficientScope(error) => {
            let scope = error.required_scope.unwrap_or_default();
            format!(
                "insufficient scope {scope}: {}",
                error.www_authenticate_header
            )
        }
        StreamableHttpError::UnexpectedServerResponse(text) if !text.starts_with("HTTP ") => {
            "not understood".to_owned()
        }
        other => other.to_string(),
    }
}

/// Custom headers for a request.
pub fn headers(headers: &[(&'static str, &'static str)]) -> HashMap<HeaderName, HeaderValue> {
    let header = |&(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    headers.iter().map(header).collect()
}

/// What an `initialize` is answered with.
pub fn initialize_result(id: &Value) -> String {
    let result = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {"listChanged": true}},
        "serverInfo": {"name": "scripted", "version": "1"},
    });
    json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()
}

/// What a handshake is answered with, in a session of that id if there is one.
pub fn handshake(seen: &Seen, session: Option<&str>) -> Option<Response> {
    match &*seen.what() {
        "initialize" => {
            let mut response = json(200, initialize_result(&seen.message["id"]));
            if let Some(session) = session {
                let session = HeaderValue::from_str(session).unwrap();
                response.headers_mut().insert("mcp-session-id", session);
            }
            Some(response)
        }
        "notifications/initialized" => Some(answer(202, &[], "")),
        "DELETE" => Some(answer(204, &[], "")),
        _ => None,
    }
}

/// An rmcp client over this one, in the way of the revisions with sessions.
pub async fn connect<S, R>(
    service: S,
    config: StreamableHttpClientTransportConfig,
) -> Result<RunningService<RoleClient, ClientConfig>, Box<dyn std::error::Error>>
where
    TowerClient<S>: StreamableHttpClient<Error = R>,
    S: Sync,
    R: std::error::Error + Send + Sync + 'static,
{
    let transport = StreamableHttpClientTransport::with_client(TowerClient::new(service), config);
    let mode = ClientLifecycleMode::Initialize;
    let client = ClientConfig::default().serve_with_lifecycle(transport, mode);
    Ok(soon(client).await?)
}

pub fn at(uri: &Arc<str>) -> StreamableHttpClientTransportConfig {
    let mut config = StreamableHttpClientTransportConfig::with_uri(uri.clone());
    let mut retry = FixedInterval::default();
    retry.duration = Duration::from_millis(5);
    config.retry_config = Arc::new(retry);
    config
}
