//! An MCP client as simple as can be, over any HTTP service. It knows nothing of session loss.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::Recovery;
use serde_json::{Value, json};
use sse_core::{SseDecoder, SseEvent};
use tower::{Service, ServiceExt};

use super::BoxError;

const SESSION_ID: &str = "mcp-session-id";
const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// What sends a caller's requests: any tower HTTP client.
pub trait HttpClient: Clone + Send + 'static {
    type Body: Body<Data: Send, Error: Into<BoxError> + Send> + Send + 'static;

    fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Response<Self::Body>, BoxError>> + Send;
}

impl<S, R> HttpClient for S
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data: Send, Error: Into<BoxError> + Send> + Send + 'static,
{
    type Body = R;

    fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Response<R>, BoxError>> + Send {
        let sending = self.clone().oneshot(request);
        async { sending.await.map_err(Into::into) }
    }
}

/// A caller with its session.
#[derive(Clone)]
pub struct Caller<C> {
    client: C,
    url: Uri,
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    initialized: Value,
    /// Shared by clones, since no two requests of a session may have the same.
    ids: Arc<AtomicU64>,
    headers: http::HeaderMap,
}

/// What a caller was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// The JSON-RPC message, if there was one.
    pub message: Option<Value>,
    /// The body, where it was not a JSON-RPC message.
    pub text: String,
    /// What the layer did about it.
    pub recovery: Option<Recovery>,
}

impl Answer {
    /// The result, or what went wrong.
    pub fn result(&self) -> Result<&Value, String> {
        match &self.message {
            Some(message) if message["result"].is_object() => Ok(&message["result"]),
            Some(message) if message["error"].is_object() => {
                Err(format!("{}: {}", self.status, message["error"]["message"]))
            }
            _ => Err(format!("{}: {}", self.status, self.text)),
        }
    }

    /// The text that a tool gave, or what went wrong.
    pub fn text(&self) -> Result<&str, String> {
        let text = self.result()?["content"][0]["text"].as_str();
        text.ok_or_else(|| "no text in the result".to_owned())
    }
}

impl<C: HttpClient> Caller<C> {
    /// Opens a session: `initialize`, then `notifications/initialized`.
    pub async fn connect(client: C, url: &str) -> Result<Self, BoxError> {
        Self::connect_with(client, url, http::HeaderMap::new()).await
    }

    /// The same with headers of its own on every request.
    pub async fn connect_with(
        client: C,
        url: &str,
        headers: http::HeaderMap,
    ) -> Result<Self, BoxError> {
        let mut caller = Self {
            client,
            url: url.parse()?,
            session: None,
            version: None,
            initialized: Value::Null,
            ids: Arc::default(),
            headers,
        };
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "example", "version": "1.0.0"},
        });
        let initialize = caller.request("initialize", params);
        let response = caller.send(Method::POST, Some(&initialize)).await?;
        let session = response.headers().get(SESSION_ID).cloned();
        let answer = read(response).await?;
        let result = answer.result()?;
        caller.session = session;
        caller.version = result["protocolVersion"]
            .as_str()
            .map(HeaderValue::from_str)
            .transpose()?;
        caller.initialized = result.clone();

        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let response = caller.send(Method::POST, Some(&initialized)).await?;
        match response.status() {
            status if status.is_success() => Ok(caller),
            status => Err(format!("the server refused the session: {status}").into()),
        }
    }

    /// The server's `InitializeResult`.
    pub fn server(&self) -> &Value {
        &self.initialized
    }

    /// Makes a request and waits for its answer.
    pub async fn ask(&self, method: &str, params: Value) -> Result<Answer, BoxError> {
        let request = self.request(method, params);
        read(self.send(Method::POST, Some(&request)).await?).await
    }

    /// Calls a tool.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Answer, BoxError> {
        let params = json!({"name": tool, "arguments": arguments});
        self.ask("tools/call", params).await
    }

    /// Opens a listening stream.
    pub async fn listen(&self) -> Result<Response<C::Body>, BoxError> {
        self.send(Method::GET, None).await
    }

    /// Ends the session.
    pub async fn leave(self) -> Result<StatusCode, BoxError> {
        Ok(self.send(Method::DELETE, None).await?.status())
    }

    /// A JSON-RPC request with an id of its own.
    pub fn request(&self, method: &str, params: Value) -> Value {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    }

    async fn send(
        &self,
        method: Method,
        message: Option<&Value>,
    ) -> Result<Response<C::Body>, BoxError> {
        let body = message.map(Value::to_string).unwrap_or_default();
        self.client
            .send(self.head(method).map(|()| Full::from(body)))
            .await
    }

    /// A request of this session without a body.
    pub fn head(&self, method: Method) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        let accept = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(header::ACCEPT, accept);
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
        }
        for (name, value) in [
            (SESSION_ID, &self.session),
            (PROTOCOL_VERSION, &self.version),
        ] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        request
    }
}

/// Reads a response up to its JSON-RPC answer.
async fn read<R>(response: Response<R>) -> Result<Answer, BoxError>
where
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let status = response.status();
    let recovery = response.extensions().get().copied();
    let (mut message, mut text) = (None, String::new());
    if is_event_stream(&response) {
        let mut messages = Messages::new(response.into_body());
        while let Some(next) = messages.next().await? {
            if next.get("method").is_none() {
                message = Some(next);
                break;
            }
        }
    } else {
        let body = response.into_body().collect().await.map_err(Into::into)?;
        let body = body.to_bytes();
        message = serde_json::from_slice(&body).ok();
        text = String::from_utf8_lossy(&body).trim().to_owned();
    }
    Ok(Answer {
        status,
        message,
        text,
        recovery,
    })
}

/// Whether a response brings an event stream.
pub fn is_event_stream<R>(response: &Response<R>) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"))
}

/// The JSON-RPC messages in an event stream, as they arrive.
pub struct Messages<R> {
    body: Pin<Box<R>>,
    decoder: SseDecoder,
    arrived: VecDeque<Value>,
}

impl<R> Messages<R>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    pub fn new(body: R) -> Self {
        Self {
            body: Box::pin(body),
            decoder: SseDecoder::new(),
            arrived: VecDeque::new(),
        }
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Value>, BoxError> {
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let Ok(mut data) = frame.map_err(Into::into)?.into_data() else {
                continue;
            };
            while data.has_remaining() {
                match self.decoder.next(&mut data) {
                    Some(Ok(SseEvent::Message(event))) if !event.data.is_empty() => {
                        self.arrived.push_back(serde_json::from_str(&event.data)?);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return Err("an event is too large".into()),
                    None => break,
                }
            }
        }
    }
}
