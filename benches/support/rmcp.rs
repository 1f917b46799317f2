//! An rmcp server on loopback, and an rmcp client over any tower stack.

#![allow(unreachable_pub)]

use std::{
    collections::HashMap,
    fmt::Debug,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::{Router, middleware};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use rmcp::{
    RoleClient, ServerHandler, ServiceExt,
    model::{ClientJsonRpcMessage, ServerCapabilities, ServerConfig},
    service::RunningService,
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{
            SseError, StreamableHttpClient, StreamableHttpClientTransportConfig,
            StreamableHttpError, StreamableHttpPostResponse,
        },
        streamable_http_server::{StreamableHttpService, session::local::LocalSessionManager},
    },
};
use sse_stream::{Sse, SseStream};
use tower::{Service, ServiceExt as _};

use testing::benching::{self, SESSION_ID, drain, runtime};

#[derive(Clone, Default)]
struct Echo;

#[tool_router]
impl Echo {
    #[tool(description = "Says hello")]
    async fn echo(&self) -> String {
        "hello".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// A server that forgets its sessions when told to.
pub struct RmcpServer {
    pub url: String,
    pub requests: Arc<AtomicUsize>,
    sessions: Arc<LocalSessionManager>,
    /// Forgotten, but their streams are open still, as behind a load balancer.
    forgotten: Mutex<Vec<Box<dyn Send>>>,
}

impl RmcpServer {
    /// On a thread of its own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let sessions = Arc::new(LocalSessionManager::default());
        let requests = Arc::new(AtomicUsize::new(0));
        let (manager, seen) = (sessions.clone(), requests.clone());
        std::thread::spawn(move || {
            let mcp = StreamableHttpService::new(|| Ok(Echo), manager, Default::default());
            let count = middleware::from_fn(move |request, next: middleware::Next| {
                seen.fetch_add(1, Relaxed);
                next.run(request)
            });
            let router = Router::new().route_service("/mcp", mcp).layer(count);
            runtime().block_on(async {
                use axum::serve::ListenerExt;
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let listener = listener.tap_io(|socket| socket.set_nodelay(true).unwrap());
                axum::serve(listener, router).await.unwrap();
            });
        });
        Self {
            url,
            requests,
            sessions,
            forgotten: Mutex::default(),
        }
    }

    pub async fn forget_sessions(&self) {
        let sessions = std::mem::take(&mut *self.sessions.sessions.write().await);
        self.forgotten.lock().unwrap().push(Box::new(sessions));
    }
}

pub type RmcpClient = RunningService<RoleClient, ()>;

/// A client over `stack`; `recovers` says whether rmcp's own recovery is on.
pub async fn rmcp_client<S>(url: &str, stack: S, recovers: bool) -> RmcpClient
where
    TowerClient<S>: StreamableHttpClient + Sync,
{
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    let config = config.reinit_on_expired_session(recovers);
    let transport = StreamableHttpClientTransport::with_client(TowerClient(stack), config);
    ().serve(transport).await.unwrap()
}

/// A tower HTTP client that rmcp can use.
#[derive(Clone)]
pub struct TowerClient<S>(S);

type Error = StreamableHttpError<io::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

fn request(
    method: Method,
    uri: &str,
    session: Option<&str>,
    headers: Headers,
    body: Vec<u8>,
) -> Request<Full<Bytes>> {
    let session = session.map(|id| HeaderValue::try_from(id).unwrap());
    let mut request = benching::request(method, uri, session.as_ref(), body);
    request.headers_mut().remove("mcp-protocol-version");
    request.headers_mut().extend(headers);
    request
}

fn refused(status: StatusCode) -> Error {
    StreamableHttpError::UnexpectedServerResponse(status.to_string().into())
}

impl<S> TowerClient<S> {
    async fn send<R>(&self, request: Request<Full<Bytes>>) -> Response<R>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: Debug> + Clone,
    {
        self.0.clone().oneshot(request).await.unwrap()
    }
}

impl<S, R> StreamableHttpClient for TowerClient<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: Debug + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    R: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + 'static,
{
    type Error = io::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Error> {
        let in_session = session.is_some();
        let message = serde_json::to_vec(&message).unwrap();
        let request = request(Method::POST, &uri, session.as_deref(), headers, message);
        let response = self.send(request).await;
        let id = response.headers().get(SESSION_ID);
        let id = id.map(|id| id.to_str().unwrap().to_owned());
        let content_type = response.headers().get("content-type").cloned();
        match response.status() {
            StatusCode::NOT_FOUND if in_session => {
                drain(response.into_body()).await;
                Err(StreamableHttpError::SessionExpired)
            }
            StatusCode::ACCEPTED => {
                drain(response.into_body()).await;
                Ok(StreamableHttpPostResponse::Accepted)
            }
            status if !status.is_success() => Err(refused(status)),
            _ if content_type.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream")) => {
                Ok(StreamableHttpPostResponse::Sse(
                    events(response.into_body()),
                    id,
                ))
            }
            _ => {
                let body = response
                    .into_body()
                    .collect()
                    .await
                    .ok()
                    .unwrap()
                    .to_bytes();
                let message = serde_json::from_slice(&body).unwrap();
                Ok(StreamableHttpPostResponse::Json(message, id))
            }
        }
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<Events, Error> {
        let mut request = request(Method::GET, &uri, session.as_deref(), headers, Vec::new());
        if let Some(id) = last_event_id {
            let id = HeaderValue::try_from(id).unwrap();
            request.headers_mut().insert("last-event-id", id);
        }
        let response = self.send(request).await;
        match response.status() {
            StatusCode::OK => Ok(events(response.into_body())),
            status => Err(refused(status)),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<(), Error> {
        let request = request(Method::DELETE, &uri, Some(&session), headers, Vec::new());
        drain(self.send(request).await.into_body()).await;
        Ok(())
    }
}

fn events<R>(body: R) -> Events
where
    R: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + 'static,
{
    SseStream::new(body).boxed()
}
