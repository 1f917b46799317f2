//! Test servers that behave as real ones do around session loss, and a caller to talk to them.
//!
//! The profiles are those that were measured on real servers; what a test needs beyond them it
//! scripts with [`Server::on`].

#[cfg(feature = "benching")]
pub mod benching;
mod bodies;
pub mod logs;
pub mod loopback;
pub mod mocked;
pub mod scenario;
pub mod streams;
pub mod transcript;
pub mod whose;

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use mcp_session_recovery::{
    Recovery, RequestBody, ResponseBody, SessionRecovery, SessionRecoveryLayer,
};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt};

pub use self::bodies::{Feed, Feeder, Script, Step, feed};

pub const URI: &str = "http://mcp.test/mcp";
pub const SESSION_ID: &str = "mcp-session-id";
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
pub const LAST_EVENT_ID: &str = "last-event-id";
pub const VERSION: &str = "2025-11-25";

pub type TestBody = BoxBody<Bytes, TestError>;
pub type Reply = Response<TestBody>;

/// The error of a test server's bodies and of [`failing`] services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestError(pub &'static str);

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for TestError {}

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// TypeScript SDK 1.x and 2.x with a session map.
    TypeScript,
    /// The same with `enableJsonResponse`.
    TypeScriptJson,
    /// TypeScript with one transport per process: 400 `Server not initialized`.
    TypeScriptSingle,
    /// `@modelcontextprotocol/server-everything`: 400 `No valid session ID provided`.
    Everything,
    /// Python SDK 1.x.
    Python1,
    /// Python SDK 2.x and fastmcp 4.
    Python2,
    /// rmcp.
    Rmcp,
    /// C#: 404 with the request's own id.
    CSharp,
    /// Go: 404 text; any session-less POST mints a session.
    Go,
    /// Java servlet: 404 with something that is no JSON-RPC.
    Java,
    /// Kotlin.
    Kotlin,
    /// PHP.
    Php,
    /// Ruby.
    Ruby,
    /// A 404 with nothing in it at all.
    Bare,
    /// A proxy's 404 page.
    Html,
}

impl Profile {
    pub const ALL: [Profile; 15] = [
        Profile::TypeScript,
        Profile::TypeScriptJson,
        Profile::TypeScriptSingle,
        Profile::Everything,
        Profile::Python1,
        Profile::Python2,
        Profile::Rmcp,
        Profile::CSharp,
        Profile::Go,
        Profile::Java,
        Profile::Kotlin,
        Profile::Php,
        Profile::Ruby,
        Profile::Bare,
        Profile::Html,
    ];

    /// The answer to a message of a session that the server does not know.
    pub fn unknown_session(self, id: &Value) -> Reply {
        let rpc = |status, code: i64, message: &str, id: Value| {
            json_reply(
                status,
                &json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id}),
            )
        };
        match self {
            Profile::TypeScript | Profile::TypeScriptJson => {
                rpc(404, -32001, "Session not found", Value::Null)
            }
            Profile::TypeScriptSingle => rpc(
                400,
                -32000,
                "Bad Request: Server not initialized",
                Value::Null,
            ),
            Profile::Everything => json_reply(
                400,
                &json!({"jsonrpc": "2.0", "error": {"code": -32000, "message": "Bad Request: No valid session ID provided"}}),
            ),
            Profile::Python1 => rpc(404, -32600, "Session not found", json!("server-error")),
            Profile::Python2 => rpc(404, -32600, "Session not found", Value::Null),
            Profile::Rmcp => reply(404, None, "Not Found: Session not found"),
            Profile::CSharp => rpc(404, -32001, "Session not found", id.clone()),
            Profile::Go => reply(
                404,
                Some("text/plain; charset=utf-8"),
                "session not found\n",
            ),
            Profile::Java => json_reply(
                404,
                &json!({"code": -32603, "message": "Session not found", "data": null}),
            ),
            Profile::Kotlin => rpc(404, -32000, "Session not found", Value::Null),
            Profile::Php => rpc(404, -32600, "Session not found or has expired.", json!("")),
            Profile::Ruby => rpc(404, -32600, "Session not found", Value::Null),
            Profile::Bare => reply(404, None, ""),
            Profile::Html => reply(404, Some("text/html"), "<html><h1>Not Found</h1></html>"),
        }
    }

    /// A JSON-RPC message as the answer to a request.
    pub fn answer(self, message: &Value) -> Reply {
        let id = &message["id"];
        let result = &message["result"];
        match self {
            Profile::TypeScriptJson | Profile::Java => json_reply(200, message),
            // The id comes last.
            Profile::TypeScript | Profile::TypeScriptSingle => sse(&format!(
                "event: message\ndata: {{\"result\":{result},\"jsonrpc\":\"2.0\",\"id\":{id}}}\n\n"
            )),
            Profile::Everything => sse(&format!(
                "id: p_1\nretry: 1500\ndata: \n\nevent: message\nid: p_2\ndata: {{\"result\":{result},\"jsonrpc\":\"2.0\",\"id\":{id}}}\n\n"
            )),
            Profile::Python1 | Profile::Python2 => {
                sse(&format!("event: message\r\ndata: {message}\r\n\r\n"))
            }
            Profile::Rmcp => sse(&format!(
                "data: \nid: 0\nretry: 3000\n\ndata: {message}\nid: 1\n\n"
            )),
            _ => sse(&format!("event: message\ndata: {message}\n\n")),
        }
    }

    fn accepted(self) -> Reply {
        match self {
            Profile::Python1 | Profile::Python2 => reply(202, Some("application/json"), ""),
            Profile::Rmcp => reply(202, None, ""),
            Profile::Go => reply(202, Some("text/plain"), "Accepted"),
            Profile::CSharp => json_reply(202, &Value::Null),
            _ => reply(202, None, ""),
        }
    }

    fn deleted(self) -> Reply {
        match self {
            Profile::Rmcp => reply(202, None, ""),
            Profile::Go => reply(204, None, ""),
            _ => reply(200, None, ""),
        }
    }

    fn echoes_id(self) -> bool {
        !matches!(self, Profile::Rmcp)
    }
}

/// A request as it arrived at a test server.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The chunks that it came in.
    pub frames: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
    pub extensions: http::Extensions,
    /// The error that the body ended with.
    pub body_error: Option<String>,
}

impl Seen {
    /// The JSON-RPC message, or null.
    pub fn message(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The JSON-RPC method, or the HTTP method where there is none.
    pub fn what(&self) -> String {
        match self.message()["method"].as_str() {
            Some(method) => method.to_owned(),
            None => self.method.to_string(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn session(&self) -> Option<&str> {
        self.header(SESSION_ID)
    }
}

type Hook = Box<
    dyn FnMut(&Seen) -> Option<Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>>
        + Send,
>;

/// An in-process server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    profile: Profile,
    state: Mutex<State>,
    /// Locked while they are asked, so a hook must not add one.
    hooks: Mutex<Vec<Hook>>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    live: HashSet<String>,
    minted: usize,
    version: Option<String>,
    server_info: Option<Value>,
    capabilities: Option<Value>,
    levels: HashMap<String, Value>,
    subscriptions: HashMap<String, Vec<String>>,
    whose: whose::Whose,
}

impl Server {
    pub fn new(profile: Profile) -> Self {
        Self(Arc::new(Inner {
            profile,
            state: Mutex::default(),
            hooks: Mutex::default(),
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Forgets every session, as a restart does.
    pub fn restart(&self) {
        let mut state = self.state();
        state.live.clear();
        state.levels.clear();
        state.subscriptions.clear();
        state.whose.restart();
    }

    /// Answers with this version from now on, whatever is proposed.
    pub fn set_version(&self, version: &str) {
        self.state().version = Some(version.to_owned());
    }

    pub fn set_server_info(&self, info: Value) {
        self.state().server_info = Some(info);
    }

    pub fn set_capabilities(&self, capabilities: Value) {
        self.state().capabilities = Some(capabilities);
    }

    /// Lets `hook` answer any request that it wants to. The latest one is asked first.
    pub fn on(&self, mut hook: impl FnMut(&Seen) -> Option<Reply> + Send + 'static) {
        self.on_async(move |seen| {
            let reply = hook(seen)?;
            Some(Box::pin(async move { Ok(reply) }))
        });
    }

    /// The same with an answer that takes its time, or is an error of the transport.
    pub fn on_async(
        &self,
        hook: impl FnMut(
            &Seen,
        )
            -> Option<Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>>
        + Send
        + 'static,
    ) {
        self.0.hooks.lock().unwrap().push(Box::new(hook));
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// What arrived so far, by JSON-RPC method or else HTTP method.
    pub fn log(&self) -> Vec<String> {
        self.state().seen.iter().map(Seen::what).collect()
    }

    /// How often something arrived.
    pub fn count(&self, what: &str) -> usize {
        self.log().iter().filter(|seen| *seen == what).count()
    }

    /// The requests of one kind.
    pub fn all(&self, what: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.what() == what)
            .collect()
    }

    pub fn last(&self, what: &str) -> Seen {
        self.all(what)
            .pop()
            .unwrap_or_else(|| panic!("no {what} arrived"))
    }

    /// The ids of the sessions that live on the server.
    pub fn live(&self) -> Vec<String> {
        self.state().live.iter().cloned().collect()
    }

    pub fn subscriptions(&self, session: &str) -> Vec<String> {
        self.state()
            .subscriptions
            .get(session)
            .cloned()
            .unwrap_or_default()
    }

    pub fn level(&self, session: &str) -> Option<Value> {
        self.state().levels.get(session).cloned()
    }

    /// Answers one request as the profile does.
    async fn answer(self, seen: Seen) -> Result<Reply, TestError> {
        self.state().seen.push(seen.clone());
        let hooked = {
            let mut hooks = self.0.hooks.lock().unwrap();
            hooks.iter_mut().rev().find_map(|hook| hook(&seen))
        };
        match hooked {
            Some(reply) => reply.await,
            None => Ok(self.default_answer(&seen)),
        }
    }

    /// What the profile answers.
    pub fn default_answer(&self, seen: &Seen) -> Reply {
        let profile = self.0.profile;
        let message = seen.message();
        let id = message["id"].clone();
        let method = message["method"].as_str().unwrap_or_default();
        let mut state = self.state();

        let Some(session) = seen.session().map(str::to_owned) else {
            if seen.method != Method::POST {
                return reply(400, None, "no session");
            }
            if method == "initialize" {
                return state.initialize(profile, seen);
            }
            let mut refused = json_reply(
                400,
                &json!({"jsonrpc": "2.0", "error": {"code": -32600, "message": "Missing session ID"}, "id": "server-error"}),
            );
            if matches!(profile, Profile::Python1 | Profile::Python2) {
                // Already dead.
                let minted = state.mint();
                state.live.remove(&minted);
                refused
                    .headers_mut()
                    .insert(SESSION_ID, minted.parse().unwrap());
            }
            if profile == Profile::Go {
                let minted = state.mint();
                let mut answer =
                    json_reply(200, &json!({"jsonrpc": "2.0", "result": {}, "id": id}));
                answer
                    .headers_mut()
                    .insert(SESSION_ID, minted.parse().unwrap());
                return answer;
            }
            return refused;
        };
        if profile == Profile::TypeScriptSingle && method == "initialize" {
            return state.initialize(profile, seen);
        }
        if !state.live.contains(&session) || state.whose.is_strangers(&session, seen) {
            if profile == Profile::Rmcp && seen.method == Method::DELETE {
                return profile.deleted();
            }
            return profile.unknown_session(&id);
        }
        state.whose.note(&session, seen);
        let mut answer = match (&seen.method, method) {
            (&Method::DELETE, _) => {
                state.live.remove(&session);
                return profile.deleted();
            }
            (&Method::GET, _) => pending_sse(),
            (_, "") => profile.accepted(),
            (_, method) if method.starts_with("notifications/") => profile.accepted(),
            (_, method) => {
                let params = &message["params"];
                match method {
                    "logging/setLevel" => {
                        state
                            .levels
                            .insert(session.clone(), params["level"].clone());
                    }
                    "resources/subscribe" => state
                        .subscriptions
                        .entry(session.clone())
                        .or_default()
                        .push(params["uri"].as_str().unwrap().to_owned()),
                    _ => {}
                }
                let result = json!({"echo": params, "method": method});
                profile.answer(&json!({"jsonrpc": "2.0", "result": result, "id": id}))
            }
        };
        if profile.echoes_id() {
            answer
                .headers_mut()
                .insert(SESSION_ID, session.parse().unwrap());
        }
        answer
    }

    /// The server as a service.
    pub fn service(&self) -> ServerService {
        ServerService(self.clone())
    }
}

impl State {
    fn mint(&mut self) -> String {
        self.minted += 1;
        let id = self.whose.mint(self.minted);
        self.live.insert(id.clone());
        id
    }

    fn initialize(&mut self, profile: Profile, seen: &Seen) -> Reply {
        let message = &seen.message();
        let id = self.mint();
        self.whose.open(&id, seen);
        let proposed = message["params"]["protocolVersion"].clone();
        let version = match &self.version {
            Some(version) => json!(version),
            None if proposed == "2026-07-28" => json!(VERSION),
            None => proposed,
        };
        let result = json!({
            "protocolVersion": version,
            "capabilities": self.capabilities.clone().unwrap_or(json!({"tools": {"listChanged": true}, "logging": {}})),
            "serverInfo": self.server_info.clone().unwrap_or(json!({"name": "test", "version": "1"})),
        });
        let mut answer =
            profile.answer(&json!({"jsonrpc": "2.0", "result": result, "id": message["id"]}));
        answer.headers_mut().insert(SESSION_ID, id.parse().unwrap());
        answer
    }
}

/// A [`Server`] as a tower service.
#[derive(Clone)]
pub struct ServerService(Server);

impl<B> Service<Request<B>> for ServerService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Display,
{
    type Response = Reply;
    type Error = TestError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TestError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (mut frames, mut trailers, mut body_error) = (Vec::<Bytes>::new(), None, None);
            let mut body = std::pin::pin!(body);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => frames.push(data),
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    },
                    Err(error) => {
                        body_error = Some(error.to_string());
                        break;
                    }
                }
            }
            let seen = Seen {
                method: parts.method,
                uri: parts.uri.to_string(),
                headers: parts.headers,
                body: match &*frames {
                    [whole] => whole.clone(),
                    frames => frames.concat().into(),
                },
                frames,
                trailers,
                extensions: parts.extensions,
                body_error,
            };
            server.answer(seen).await
        })
    }
}

// Replies.

pub fn reply(status: u16, content_type: Option<&str>, body: &str) -> Reply {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let mut reply = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    if let Some(content_type) = content_type {
        reply
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
    }
    reply
}

pub fn json_reply(status: u16, body: &Value) -> Reply {
    reply(status, Some("application/json"), &body.to_string())
}

/// An event stream that ends by itself.
pub fn sse(events: &str) -> Reply {
    reply(200, Some("text/event-stream"), events)
}

/// An event stream in which nothing ever happens.
pub fn pending_sse() -> Reply {
    stream(Script::new().pending())
}

/// A 200 with an event stream that goes as scripted.
pub fn stream(script: Script) -> Reply {
    let mut reply = Response::new(script.boxed());
    reply
        .headers_mut()
        .insert("content-type", "text/event-stream".parse().unwrap());
    reply
}

/// A 200 with an event stream that is fed from a test.
pub fn fed_stream(feed: Feed) -> Reply {
    let mut reply = Response::new(BodyExt::boxed(feed));
    reply
        .headers_mut()
        .insert("content-type", "text/event-stream".parse().unwrap());
    reply
}

// The caller.

pub type CallerBody = BoxBody<Bytes, TestError>;

pub fn full(body: impl Into<Bytes>) -> CallerBody {
    Full::new(body.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

pub fn request(
    method: Method,
    session: Option<&str>,
    body: impl Into<Bytes>,
) -> Request<CallerBody> {
    let post = method == Method::POST;
    let mut request = Request::builder()
        .method(method)
        .uri(URI)
        .header("accept", "application/json, text/event-stream")
        .header("authorization", "Bearer secret-token");
    if post {
        request = request.header("content-type", "application/json");
    }
    if let Some(session) = session {
        request = request
            .header(SESSION_ID, session)
            .header(PROTOCOL_VERSION, VERSION);
    }
    request.body(full(body)).unwrap()
}

pub fn post(session: Option<&str>, message: &Value) -> Request<CallerBody> {
    request(Method::POST, session, message.to_string())
}

pub fn get(session: &str, last_event_id: Option<&str>) -> Request<CallerBody> {
    let mut request = request(Method::GET, Some(session), "");
    if let Some(id) = last_event_id {
        request
            .headers_mut()
            .insert(LAST_EVENT_ID, id.parse().unwrap());
    }
    request
}

pub fn delete(session: &str) -> Request<CallerBody> {
    request(Method::DELETE, Some(session), "")
}

pub fn initialize() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "caller", "version": "1"}},
    })
}

pub fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

pub fn tool_call(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {"n": id}}})
}

/// A service with the layer around it.
pub type Client<S = ServerService> = SessionRecovery<S>;

pub fn client(server: &Server, layer: SessionRecoveryLayer) -> Client {
    layer.layer(server.service())
}

/// A response with its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub recovery: Option<Recovery>,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// The error that the body ended with.
    pub body_error: Option<TestError>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn session(&self) -> Option<&str> {
        self.header(SESSION_ID)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn outcome(&self) -> Option<mcp_session_recovery::Outcome> {
        self.recovery.map(|recovery| recovery.outcome())
    }

    /// The JSON-RPC messages in the body, JSON or event stream.
    pub fn messages(&self) -> Vec<Value> {
        match self.header("content-type") {
            Some(content_type) if content_type.starts_with("text/event-stream") => {
                events(&self.body)
            }
            _ => serde_json::from_slice(&self.body).into_iter().collect(),
        }
    }

    /// The one message with an id of the caller's.
    pub fn message(&self) -> Value {
        let mut messages = self.messages();
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.remove(0)
    }
}

/// The JSON messages in an event stream, as a client would read them: events of another type than
/// `message`, and empty ones, are passed over.
pub fn events(stream: &[u8]) -> Vec<Value> {
    let mut decoder = sse_core::SseDecoder::with_limit(std::num::NonZeroUsize::MAX);
    let mut rest = stream;
    let mut messages = Vec::new();
    while let Some(event) = decoder.next(&mut rest) {
        if let Ok(sse_core::SseEvent::Message(event)) = event {
            if event.event == "message" && !event.data.is_empty() {
                messages.push(serde_json::from_str(&event.data).expect("JSON in an event"));
            }
        }
    }
    messages
}

pub async fn read<R>(response: Response<ResponseBody<R>>) -> Answer
where
    R: Body<Data = Bytes, Error = TestError>,
{
    let (head, body) = response.into_parts();
    let (mut data, mut trailers, mut body_error) = (Vec::new(), None, None);
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Err(error) => {
                body_error = Some(error);
                break;
            }
        }
    }
    Answer {
        status: head.status.as_u16(),
        recovery: head.extensions.get().copied(),
        headers: head.headers,
        body: data.into(),
        trailers,
        body_error,
    }
}

/// Sends a request through a service and reads the answer.
pub async fn send<S>(client: &SessionRecovery<S>, request: Request<CallerBody>) -> Answer
where
    S: Service<Request<RequestBody<CallerBody>>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    read(client.clone().oneshot(request).await.expect("an answer")).await
}

/// The caller's own handshake. Gives the caller's session id.
pub async fn handshake<S>(client: &SessionRecovery<S>) -> String
where
    S: Service<Request<RequestBody<CallerBody>>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    let answer = send(client, post(None, &initialize())).await;
    assert_eq!(answer.status, 200);
    let session = answer.session().expect("a session id").to_owned();
    let accepted = send(client, post(Some(&session), &initialized())).await;
    assert_eq!(accepted.status, 202);
    session
}

/// Lets everything that can happen now happen, on tokio's paused clock or not.
pub async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}
