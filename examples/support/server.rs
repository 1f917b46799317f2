//! A real MCP server: rmcp with axum, stateful, on a free loopback port.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    serve::{Listener, ListenerExt},
};
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    model::{
        Implementation, ProgressNotificationParam, RequestMetaObject,
        ResourceUpdatedNotificationParam, ServerCapabilities, ServerConfig, SubscribeRequestParams,
    },
    service::RequestContext,
    tool, tool_handler, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use tokio::net::{TcpListener, TcpStream};

/// The one resource that can be subscribed to.
pub const RESOURCE: &str = "demo://count";

/// After what time clients are told to resume broken streams.
const RETRY: Duration = Duration::from_millis(100);

/// A running server. It stops when this is dropped.
pub struct Server {
    url: String,
    sessions: Arc<LocalSessionManager>,
    shared: Arc<Shared>,
    /// Sessions that are forgotten but whose streams are still open.
    forgotten: Mutex<Vec<Box<dyn Send>>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    count: AtomicU64,
    subscribers: Mutex<Vec<Peer<RoleServer>>>,
}

impl Server {
    /// Starts a server that speaks plain HTTP.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(|router, _| router).await
    }

    /// Starts one where another one has been, and knows nothing of its sessions.
    pub async fn start_again(url: &str) -> io::Result<Self> {
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
        let listener = TcpListener::bind(address).await?;
        let listener = listener.tap_io(without_delay);
        Ok(Self::serve(url.to_owned(), listener, |router, _| router))
    }

    /// Starts one with something around it: an authorization, say.
    pub async fn start_with(
        wrap: impl FnOnce(Router, Arc<LocalSessionManager>) -> Router,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        Ok(Self::serve(url, listener.tap_io(without_delay), wrap))
    }

    pub(super) fn serve<L>(
        url: String,
        listener: L,
        wrap: impl FnOnce(Router, Arc<LocalSessionManager>) -> Router,
    ) -> Self
    where
        L: Listener<Addr = SocketAddr>,
    {
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.sse_retry = Some(RETRY);
        let sessions = Arc::new(sessions);
        let shared = Arc::new(Shared::default());
        let handler = Handler(shared.clone());
        let mcp = StreamableHttpService::new(
            move || Ok(handler.clone()),
            sessions.clone(),
            StreamableHttpServerConfig::default().with_sse_retry(Some(RETRY)),
        );
        let router = wrap(Router::new().route_service("/mcp", mcp), sessions.clone());
        let task = tokio::spawn(async move {
            // It serves until the task is aborted.
            let _ = axum::serve(listener, router).await;
        });
        Self {
            url,
            sessions,
            shared,
            forgotten: Mutex::default(),
            task,
        }
    }

    /// Where its MCP endpoint is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Forgets every session, and leaves the streams open that belong to them: so it looks behind a
    /// gateway or a load balancer.
    pub async fn forget_sessions(&self) {
        let sessions: HashMap<_, _> = std::mem::take(&mut *self.sessions.sessions.write().await);
        self.forgotten.lock().unwrap().push(Box::new(sessions));
        self.shared.subscribers.lock().unwrap().clear();
    }

    /// Ends every session and its streams: so it looks after an idle timeout or a restart.
    pub async fn end_sessions(&self) {
        self.forget_sessions().await;
        self.forgotten.lock().unwrap().clear();
    }

    /// Sends `notifications/resources/updated` to whoever has subscribed. Tells how many have.
    pub async fn change_resource(&self) -> usize {
        let subscribers = self.shared.subscribers.lock().unwrap().clone();
        for subscriber in &subscribers {
            let updated = ResourceUpdatedNotificationParam::new(RESOURCE);
            // One that has left is not told.
            let _ = subscriber.notify_resource_updated(updated).await;
        }
        subscribers.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Handler(Arc<Shared>);

#[tool_router]
impl Handler {
    #[tool(description = "Counts how often it has been called")]
    async fn count(&self) -> String {
        match self.0.count.fetch_add(1, Ordering::Relaxed) {
            0 => "called once".to_owned(),
            before => format!("called {} times", before + 1),
        }
    }

    #[tool(description = "Tells of its progress in three steps, if asked to")]
    async fn steps(&self, meta: RequestMetaObject, peer: Peer<RoleServer>) -> String {
        for step in 1..=3 {
            if let Some(token) = meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, step.into()).with_total(3.0);
                // One that has left is not told.
                let _ = peer.notify_progress(progress).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        "done".to_owned()
    }

    #[tool(description = "Takes an hour")]
    async fn wait(&self) -> String {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        "an hour has passed".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("example", "1.0.0"))
    }

    async fn subscribe(
        &self,
        _: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.subscribers.lock().unwrap().push(context.peer);
        Ok(())
    }
}

/// An event is sent when it happens.
pub(super) fn without_delay(stream: &mut TcpStream) {
    // If that is not possible, it is slower.
    let _ = stream.set_nodelay(true);
}
