//! A gateway: axum in front, many users, one MCP server behind. The session layer is told whose each
//! request is, so that nobody gets anywhere with the session id of somebody else.
//!
//! ```console
//! $ cargo run --example gateway --features gateway
//! ```
//!
//! That shows what it is for, with a server of its own. In front of another one, and with as many
//! replicas as you like, which share the sessions:
//!
//! ```console
//! $ cargo run --example gateway --features gateway,store -- \
//!     --upstream http://127.0.0.1:4101/mcp --store redis://127.0.0.1
//! ```
//!
//! From the outside in: tower-http's authorization finds out who the user is and notes it in the
//! request's extensions; the session layer takes the principal from there; below it, the request gets
//! the credentials that the server wants of that user. So the recovery's own requests get them, too.

mod support;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::any,
};
use clap::Parser;
use http::{HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mcp_session_recovery::{
    Principal, RequestBody, SessionRecovery, SessionRecoveryLayer, Sessions,
};
use serde_json::json;
use tokio::{net::TcpListener, sync::RwLock, time::timeout};
use tower::{ServiceBuilder, ServiceExt, util::MapRequest};
use tower_http::auth::AsyncRequireAuthorizationLayer;

use support::{BoxError, Caller, HttpClient, Server};

const SESSION_ID: &str = "mcp-session-id";

/// Who the user is, as the gateway's authorization has found out.
#[derive(Clone)]
struct User(String);

/// What goes to the server.
type Outgoing = http::Request<RequestBody<Body>>;
type HyperClient = Client<HttpConnector, RequestBody<Body>>;
type Upstream = SessionRecovery<MapRequest<HyperClient, fn(Outgoing) -> Outgoing>>;

#[derive(Clone)]
struct Gateway {
    upstream: Upstream,
    endpoint: Uri,
}

impl Gateway {
    fn new(endpoint: Uri, layer: SessionRecoveryLayer) -> Self {
        let upstream = ServiceBuilder::new()
            .layer(layer.principal(principal))
            .map_request(with_credentials as fn(_) -> _)
            .service(Client::builder(TokioExecutor::new()).build_http());
        Self { upstream, endpoint }
    }

    fn router(self) -> Router {
        Router::new()
            .route("/mcp", any(forward))
            .with_state(self)
            .layer(AsyncRequireAuthorizationLayer::new(authorize))
    }
}

/// Whose request it is. What matters: it comes from what was verified, and stays the same when the
/// user's token is refreshed.
fn principal(request: &Parts) -> Option<Principal> {
    let User(name) = request.extensions.get()?;
    Some(Principal::from(name.as_str()))
}

/// Lets users in, and nobody else. A real gateway looks at a signature here.
async fn authorize(mut request: Request) -> Result<Request, Response> {
    let token = request.headers().get(header::AUTHORIZATION);
    let name = token.and_then(|it| it.to_str().ok()?.strip_prefix("Bearer gateway-"));
    match name.map(str::to_owned) {
        Some(name) => {
            request.extensions_mut().insert(User(name));
            Ok(request)
        }
        None => Err(StatusCode::UNAUTHORIZED.into_response()),
    }
}

/// What the server wants to see of the user. The gateway's own token is none of its business.
fn with_credentials(mut request: Outgoing) -> Outgoing {
    let token = request
        .extensions()
        .get::<User>()
        .and_then(|User(name)| HeaderValue::from_str(&format!("Bearer server-{name}")).ok());
    if let Some(mut token) = token {
        token.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, token);
    }
    request
}

async fn forward(State(gateway): State<Gateway>, mut request: Request) -> Response {
    *request.uri_mut() = gateway.endpoint;
    let headers = request.headers_mut();
    for name in [
        header::AUTHORIZATION,
        header::HOST,
        header::CONNECTION,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    match gateway.upstream.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// What guards the server: a session is for whoever made it, and 404 for everybody else, as the
/// Python SDK with a token verifier has it.
#[derive(Clone, Default)]
struct Guard {
    owners: Arc<Mutex<HashMap<HeaderValue, Option<HeaderValue>>>>,
    /// Handshakes wait while this is held.
    handshakes: Arc<RwLock<()>>,
}

async fn guard(State(guard): State<Guard>, request: Request, next: middleware::Next) -> Response {
    let who = request.headers().get(header::AUTHORIZATION).cloned();
    match request.headers().get(SESSION_ID) {
        Some(id) => {
            let owner = guard.owners.lock().unwrap().get(id).cloned();
            if owner.is_some_and(|owner| owner != who) {
                return (StatusCode::NOT_FOUND, "Not Found: Session not found").into_response();
            }
            next.run(request).await
        }
        None => {
            let _turn = guard.handshakes.read().await;
            let response = next.run(request).await;
            if let Some(id) = response.headers().get(SESSION_ID) {
                guard.owners.lock().unwrap().insert(id.clone(), who);
            }
            response
        }
    }
}

/// What somebody gets who presents a session id: through the gateway, and of the server itself.
async fn present(
    client: &impl HttpClient,
    [gateway, server]: [&str; 2],
    name: &str,
    id: &HeaderValue,
) -> Result<[(StatusCode, String); 2], BoxError> {
    let mut answers = Vec::new();
    for (url, token) in [(gateway, "gateway"), (server, "server")] {
        let message = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "count"},
        });
        let request = http::Request::post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .header(header::AUTHORIZATION, format!("Bearer {token}-{name}"))
            .header(SESSION_ID, id)
            .body(message.to_string().into())?;
        let response = client.send(request).await?;
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        let body = body.map_err(Into::into)?.to_bytes();
        answers.push((status, String::from_utf8_lossy(&body).into_owned()));
    }
    answers
        .try_into()
        .map_err(|_| BoxError::from("two requests, two answers"))
}

/// Ada has a session. At every moment of its life Eve presents its id.
async fn demonstrate() -> Result<(), BoxError> {
    let guarding = Guard::default();
    let with = guarding.clone();
    let server =
        Server::start_with(|router, _| router.layer(middleware::from_fn_with_state(with, guard)))
            .await?;
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    let gateway = Gateway::new(server.url().parse()?, layer);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    let serving = tokio::spawn(async move { axum::serve(listener, gateway.router()).await });

    let client = Client::builder(TokioExecutor::new()).build_http();
    let as_user = |name: &str| {
        let token = HeaderValue::from_str(&format!("Bearer gateway-{name}"));
        token.map(|token| http::HeaderMap::from_iter([(header::AUTHORIZATION, token)]))
    };
    let ada = Caller::connect_with(client.clone(), &url, as_user("ada")?).await?;
    let id = ada.head(Method::POST).headers()[SESSION_ID].clone();
    let urls = [url.as_str(), server.url()];
    let eve_presents = async |moment: &str| -> Result<(), BoxError> {
        let [through, bare] = present(&client, urls, "eve", &id).await?;
        println!("{moment:<24} Eve gets {} {:?}", through.0, through.1);
        assert_eq!(through, bare, "{moment}: what the server says by itself");
        assert_eq!(through.0, StatusCode::NOT_FOUND);
        Ok(())
    };
    let ada_calls = async || -> Result<(), BoxError> {
        let answer = ada.call("count", json!({})).await?;
        println!("{:<24} Ada gets {:?}", "", answer.text()?);
        Ok(())
    };

    eve_presents("in the first epoch").await?;
    ada_calls().await?;

    server.forget_sessions().await;
    eve_presents("expired").await?;

    let held = guarding.handshakes.write().await;
    let calling = tokio::spawn({
        let ada = ada.clone();
        async move {
            ada.call("count", json!({}))
                .await?
                .text()
                .map(str::to_owned)
                .map_err(BoxError::from)
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    eve_presents("during the recovery").await?;
    drop(held);
    println!("{:<24} Ada gets {:?}", "", calling.await??);

    eve_presents("in the second epoch").await?;
    ada_calls().await?;
    assert_eq!(sessions.len(), 1);

    assert!(ada.clone().leave().await?.is_success());
    eve_presents("ended").await?;

    let ada = Caller::connect_with(client.clone(), &url, as_user("ada")?).await?;
    server.forget_sessions().await;
    ada.call("count", json!({})).await?.text()?;
    sessions.forget_all();
    let id = ada.head(Method::POST).headers()[SESSION_ID].clone();
    let [through, bare] = present(&client, urls, "eve", &id).await?;
    println!(
        "{:<24} Eve gets {} {:?}",
        "forgotten by the gateway", through.0, through.1
    );
    assert_eq!(through, bare);

    let denied = Caller::connect(client, &url).await;
    println!(
        "{:<24} {}",
        "without a token",
        denied.err().ok_or("nobody is let in")?
    );
    serving.abort();
    Ok(())
}

/// A gateway for several users.
#[derive(Parser)]
struct Options {
    /// The server behind the gateway. Without one, it shows what it is for
    #[arg(long)]
    upstream: Option<Uri>,

    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:4400")]
    listen: SocketAddr,

    /// The Redis or Valkey that replicas of the gateway share, redis://HOST[:PORT][/DB]
    #[cfg(feature = "store")]
    #[arg(long, requires = "upstream")]
    store: Option<String>,
}

async fn serve(endpoint: Uri, options: &Options) -> Result<(), BoxError> {
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    #[cfg(feature = "store")]
    let layer = match &options.store {
        Some(url) => layer.store(mcp_session_recovery::store::RedisStore::connect(url)?),
        None => layer,
    };
    let gateway = Gateway::new(endpoint, layer);
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on http://{}/mcp", listener.local_addr()?);

    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let serving = axum::serve(listener, gateway.clone().router());
    let serving = serving.with_graceful_shutdown(async move {
        stop().await;
        let _ = stopping.send(());
    });
    let serving = tokio::spawn(async move { serving.await });
    let _ = stopped.await;
    // A listening stream does not end by itself.
    let _ = timeout(Duration::from_secs(1), serving).await;
    // The other replicas, and the next process in this one's place, go on with what is stored.
    #[cfg(feature = "store")]
    sessions.flush().await?;
    drop(gateway);
    Ok(())
}

/// Waits until the gateway is told to stop.
async fn stop() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => drop(terminated.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = interrupted => {}
        () = terminated => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    match options.upstream.clone() {
        Some(endpoint) => serve(endpoint, &options).await,
        None => demonstrate().await,
    }
}

#[cfg(test)]
mod tests {
    /// A4: with a real server and tower-http's authorization.
    #[tokio::test]
    async fn a4_anothers_session_id_gets_nobody_anywhere() {
        super::demonstrate().await.unwrap();
    }
}
