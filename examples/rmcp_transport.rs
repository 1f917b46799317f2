//! rmcp's `StreamableHttpClient` over any tower stack, with the layer in it and rmcp's own recovery
//! off: so an rmcp client gets everything that the layer does.
//!
//! It recovers where rmcp by itself does not: with a server that answers 400 instead of 404, and with
//! a stream that is resumed (GET with `Last-Event-ID`) in a session that is gone.
//!
//! ```console
//! $ cargo run --example rmcp_transport --features client
//! $ cargo run --example rmcp_transport --features client -- --without-layer    # rmcp's own recovery instead
//! ```

mod support;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, extract, middleware, response::IntoResponse};
use bytes::{Buf, Bytes};
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcp_session_recovery::SessionRecoveryLayer;
use rmcp::{
    ErrorData, RoleClient, ServiceExt,
    model::{
        CallToolRequestParams, ClientJsonRpcMessage, ClientRequest, JsonRpcError,
        ServerJsonRpcMessage,
    },
    service::RunningService,
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{
            AuthRequiredError, InsufficientScopeError, SseError, StreamableHttpClient,
            StreamableHttpClientTransportConfig, StreamableHttpError, StreamableHttpPostResponse,
            StreamableHttpResponseLimits,
        },
    },
};
use serde_json::json;
use sse_core::{SseDecoder, SseEvent};
use sse_stream::Sse;
use tokio::time::timeout;
use tower::{Layer, Service, ServiceExt as _};

use support::{BoxError, Server, Wire};

/// A tower HTTP client that rmcp can use.
#[derive(Clone)]
struct TowerClient<S>(S);

/// What the stack failed with.
#[derive(Debug)]
struct HttpError(BoxError);

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for HttpError {}

type Error = StreamableHttpError<HttpError>;
type Events = BoxStream<'static, Result<Sse, SseError>>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// What rmcp gives with every request.
struct Target {
    uri: Arc<str>,
    session: Option<Arc<str>>,
    token: Option<String>,
    headers: Headers,
}

impl Target {
    fn request(self, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(&*self.uri)
            .header(header::ACCEPT, "text/event-stream, application/json");
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", &**session);
        }
        if let Some(token) = &self.token {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(client)?;
            bearer.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let mut request = request.body(Full::new(body)).map_err(client)?;
        request.headers_mut().extend(self.headers);
        Ok(request)
    }
}

fn client(error: impl Into<BoxError>) -> Error {
    StreamableHttpError::Client(HttpError(error.into()))
}

impl<S, R> StreamableHttpClient for TowerClient<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Error = HttpError;

    fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse, Error>> + Send + '_ {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session, token, headers, limits)
    }

    fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse, Error>> + Send + '_ {
        let in_session = session.is_some();
        let target = Target {
            uri,
            session,
            token,
            headers,
        };
        let service = self.0.clone();
        async move {
            let body = serde_json::to_vec(&message)?;
            let mut request = target.request(Method::POST, body.into())?;
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            let response = service.oneshot(request).await.map_err(client)?;
            answer(response, &message, in_session, limits).await
        }
    }

    fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        token: Option<String>,
        headers: Headers,
    ) -> impl Future<Output = Result<Events, Error>> + Send + '_ {
        let limit = StreamableHttpResponseLimits::default().max_sse_event_size;
        self.get_stream_with_max_sse_event_size(uri, session, last_event_id, token, headers, limit)
    }

    fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        token: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> impl Future<Output = Result<Events, Error>> + Send + '_ {
        let target = Target {
            uri,
            session,
            token,
            headers,
        };
        let service = self.0.clone();
        async move {
            let mut request = target.request(Method::GET, Bytes::new())?;
            if let Some(id) = last_event_id {
                let id = HeaderValue::from_str(&id).map_err(client)?;
                request.headers_mut().insert("last-event-id", id);
            }
            let response = service.oneshot(request).await.map_err(client)?;
            match response.status() {
                status if status.is_success() && is(&response, "text/event-stream") => {
                    Ok(events(response.into_body(), limit))
                }
                StatusCode::METHOD_NOT_ALLOWED => Err(StreamableHttpError::ServerDoesNotSupportSse),
                status => Err(refused(status, response.headers(), "")),
            }
        }
    }

    fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        token: Option<String>,
        headers: Headers,
    ) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        let session = Some(session);
        let target = Target {
            uri,
            session,
            token,
            headers,
        };
        let service = self.0.clone();
        async move {
            let request = target.request(Method::DELETE, Bytes::new())?;
            let response = service.oneshot(request).await.map_err(client)?;
            match response.status() {
                status if status.is_success() => Ok(()),
                // The server keeps sessions until they expire.
                StatusCode::METHOD_NOT_ALLOWED => Ok(()),
                status => Err(refused(status, response.headers(), "")),
            }
        }
    }
}

/// What a response to a POST is to rmcp.
async fn answer<R>(
    response: Response<R>,
    message: &ClientJsonRpcMessage,
    in_session: bool,
    limits: StreamableHttpResponseLimits,
) -> Result<StreamableHttpPostResponse, Error>
where
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let status = response.status();
    let session = response.headers().get("mcp-session-id");
    let session = session.and_then(|id| Some(id.to_str().ok()?.to_owned()));
    if status.is_success() && is(&response, "text/event-stream") {
        let events = events(response.into_body(), limits.max_sse_event_size);
        return Ok(StreamableHttpPostResponse::Sse(events, session));
    }
    let ClientJsonRpcMessage::Request(request) = message else {
        // Nobody waits for an answer.
        return match status {
            status if status.is_success() => Ok(StreamableHttpPostResponse::Accepted),
            StatusCode::NOT_FOUND if in_session => Err(StreamableHttpError::SessionExpired),
            status => Err(refused(status, response.headers(), "")),
        };
    };

    let headers = response.headers().clone();
    let body = Limited::new(response.into_body(), limits.max_json_response_size);
    let body = body.collect().await.map_err(client)?.to_bytes();
    let refused = || {
        let prefix = &body[..body.len().min(limits.max_error_response_size)];
        Err(refused(status, &headers, &String::from_utf8_lossy(prefix)))
    };
    let error = match serde_json::from_slice(&body) {
        Ok(message) if status.is_success() => {
            return Ok(StreamableHttpPostResponse::Json(message, session));
        }
        Ok(ServerJsonRpcMessage::Error(error)) => Some(error),
        _ => None,
    };
    let is_its_own = |error: &JsonRpcError| error.id.as_ref() == Some(&request.id);
    let mut error = match (status, error) {
        (StatusCode::NOT_FOUND, error) if in_session && !error.as_ref().is_some_and(is_its_own) => {
            return Err(StreamableHttpError::SessionExpired);
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => return refused(),
        (_, Some(error)) => error,
        // Whoever refuses this one is an older server, which is what rmcp wants to know.
        _ if status.is_client_error()
            && matches!(request.request, ClientRequest::DiscoverRequest(_)) =>
        {
            JsonRpcError::new(None, ErrorData::invalid_request(status.to_string(), None))
        }
        _ => return refused(),
    };
    // Whatever id it has: HTTP says which request it answers. (rmcp's own client leaves the id as it
    // is, and the caller waits for an answer with the right one.)
    error.id = Some(request.id.clone());
    let error = ServerJsonRpcMessage::Error(error);
    Ok(StreamableHttpPostResponse::Json(error, session))
}

fn refused(status: StatusCode, headers: &HeaderMap, body: &str) -> Error {
    let challenge = headers.get(header::WWW_AUTHENTICATE);
    match (status, challenge.and_then(|it| it.to_str().ok())) {
        (StatusCode::UNAUTHORIZED, Some(challenge)) => {
            StreamableHttpError::AuthRequired(AuthRequiredError::new(challenge.to_owned()))
        }
        (StatusCode::FORBIDDEN, Some(challenge)) => StreamableHttpError::InsufficientScope(
            InsufficientScopeError::new(challenge.to_owned(), None),
        ),
        _ => StreamableHttpError::UnexpectedServerResponse(format!("{status}: {body}").into()),
    }
}

fn is<R>(response: &Response<R>, media_type: &str) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let essence = content_type.and_then(|it| it.to_str().ok()?.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

/// The events in a body, none of them larger than `limit`.
fn events<R>(body: R, limit: usize) -> Events
where
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    struct Stream<R> {
        body: Pin<Box<R>>,
        decoder: SseDecoder,
        last_id: Option<Arc<str>>,
        arrived: VecDeque<Sse>,
    }

    let stream = Stream {
        body: Box::pin(body),
        decoder: SseDecoder::with_limit(limit.max(1).try_into().expect("it is not zero")),
        last_id: None,
        arrived: VecDeque::new(),
    };
    stream::try_unfold(stream, |mut stream| async move {
        loop {
            if let Some(event) = stream.arrived.pop_front() {
                return Ok(Some((event, stream)));
            }
            let Some(frame) = stream.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| SseError::Body(error.into()))?;
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            while data.has_remaining() {
                let event = stream.decoder.next(&mut data);
                // An event that sets an id and has no data is there to be resumed from.
                let id = stream.decoder.last_event_id();
                if id != stream.last_id.as_ref() {
                    stream.last_id = id.cloned();
                    let id = id.map(|id| id.to_string());
                    stream.arrived.push_back(Sse {
                        id,
                        ..Sse::default()
                    });
                }
                match event {
                    Some(Ok(SseEvent::Message(message))) => {
                        let data = Sse::default().event(message.event).data(message.data);
                        stream.arrived.push_back(data);
                    }
                    Some(Ok(SseEvent::Retry(retry))) => {
                        stream.arrived.push_back(Sse::default().retry(retry.into()));
                    }
                    Some(Err(error)) => return Err(SseError::Body(error.into())),
                    None => break,
                }
            }
        }
    })
    .boxed()
}

type RmcpClient = RunningService<RoleClient, ()>;

/// An rmcp client over the stack that the example is about.
async fn connect(url: &str, with_layer: bool) -> Result<RmcpClient, BoxError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let wire = Wire::new(|exchange| println!("      {}", exchange.line())).layer(http);
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    if !with_layer {
        let transport = StreamableHttpClientTransport::with_client(TowerClient(wire), config);
        return Ok(().serve(transport).await?);
    }
    // One of the two recovers, not both.
    let config = config.reinit_on_expired_session(false);
    let stack = SessionRecoveryLayer::new().layer(wire);
    let transport = StreamableHttpClientTransport::with_client(TowerClient(stack), config);
    Ok(().serve(transport).await?)
}

/// What a caller gets from a tool: a result, an error, or (in eight seconds) nothing at all.
async fn call(client: &RmcpClient, tool: &'static str) -> Result<Option<String>, String> {
    let started = Instant::now();
    let calling = client.call_tool(CallToolRequestParams::new(tool));
    let outcome = match timeout(Duration::from_secs(8), calling).await {
        Ok(Ok(result)) => Ok(Some(json!(result.content)[0]["text"].to_string())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Ok(None),
    };
    let gets = match &outcome {
        Ok(Some(text)) => text,
        Ok(None) => "nothing",
        Err(error) => error,
    };
    let after = started.elapsed().as_millis();
    println!("    the caller gets {gets}, after {after} ms");
    outcome
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let with_layer = std::env::args().all(|argument| argument != "--without-layer");

    println!("a server that answers 400 to a session that it does not know");
    let server = Server::start_with(|router, _| answers_400(router)).await?;
    let client = connect(server.url(), with_layer).await?;
    let _ = call(&client, "count").await;
    println!("  the server forgets every session");
    server.forget_sessions().await;
    let again = call(&client, "count").await;
    client.cancel().await?;
    assert!(
        !with_layer || matches!(again, Ok(Some(_))),
        "the layer recovers it"
    );

    println!("a call that is under way when its session ends, in a stream that can be resumed");
    let server = Server::start().await?;
    let client = connect(server.url(), with_layer).await?;
    let ending = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        println!("  the server ends every session");
        server.end_sessions().await;
    };
    let (lost, ()) = tokio::join!(call(&client, "wait"), ending);
    let _ = call(&client, "count").await;
    client.cancel().await?;
    assert!(
        !with_layer || lost.is_err(),
        "the layer says that the answer is lost"
    );
    Ok(())
}

/// As the TypeScript SDK does with one transport for a process.
fn answers_400(router: Router) -> Router {
    router.layer(middleware::from_fn(
        |request: extract::Request, next: middleware::Next| async {
            match next.run(request).await {
                response if response.status() == StatusCode::NOT_FOUND => {
                    let json = [(header::CONTENT_TYPE, "application/json")];
                    let error = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#;
                    (StatusCode::BAD_REQUEST, json, error).into_response()
                }
                response => response,
            }
        },
    ))
}
