//! A bearer token that expires together with the session. An auth layer below the session layer
//! refreshes the token when it meets 401, the session layer recovers the session when it meets 404;
//! in either order, each once, and the caller notices neither.
//!
//! ```console
//! $ cargo run --example auth
//! ```
//!
//! Below, because then the recovery's own requests carry the token, too, and a token that has expired
//! meanwhile is no failed recovery.

mod support;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{Router, extract, middleware, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcp_session_recovery::SessionRecoveryLayer;
use rmcp::transport::streamable_http_server::session::{
    SessionManager, local::LocalSessionManager,
};
use serde_json::json;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use support::{BoxError, Caller, Server, Wire};

/// Where tokens come from. One is good until the next is issued.
#[derive(Clone, Default)]
struct Issuer {
    valid: Arc<AtomicU64>,
    refreshed: Arc<AtomicU64>,
}

impl Issuer {
    fn is_valid(&self, authorization: Option<&HeaderValue>) -> bool {
        let token = format!("Bearer token-{}", self.valid.load(Ordering::SeqCst));
        authorization.is_some_and(|it| it.as_bytes() == token.as_bytes())
    }

    fn expire(&self) {
        self.valid.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a while, as it does with a real one.
    async fn refresh(&self) -> Result<HeaderValue, BoxError> {
        tokio::task::yield_now().await;
        self.refreshed.fetch_add(1, Ordering::SeqCst);
        let token = format!("Bearer token-{}", self.valid.load(Ordering::SeqCst));
        let mut token = HeaderValue::from_str(&token)?;
        token.set_sensitive(true);
        Ok(token)
    }
}

/// Adds a bearer token to every request, and a new one to a request that was answered 401.
#[derive(Clone)]
struct AuthLayer {
    issuer: Issuer,
    token: Arc<tokio::sync::Mutex<Option<HeaderValue>>>,
}

impl AuthLayer {
    fn new(issuer: Issuer) -> Self {
        let token = Arc::default();
        Self { issuer, token }
    }

    /// A token other than `refused`. However many requests were refused, it is asked for once.
    async fn token(&self, refused: Option<&HeaderValue>) -> Result<HeaderValue, BoxError> {
        let mut token = self.token.lock().await;
        match &*token {
            Some(token) if Some(token) != refused => Ok(token.clone()),
            _ => Ok(token.insert(self.issuer.refresh().await?).clone()),
        }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        let layer = self.clone();
        Auth { inner, layer }
    }
}

#[derive(Clone)]
struct Auth<S> {
    inner: S,
    layer: AuthLayer,
}

/// What is kept of a request to send it twice.
const MAX_BODY: usize = 1024 * 1024;

impl<S, B, R> Service<Request<B>> for Auth<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    R: Send,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The inner service is made ready when there is a token to send.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { inner, layer } = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
            let mut refused = None;
            loop {
                let token = layer.token(refused.as_ref()).await?;
                parts.headers.insert(header::AUTHORIZATION, token.clone());
                let request = Request::from_parts(parts.clone(), Full::new(body.clone()));
                let response = inner.clone().oneshot(request).await.map_err(Into::into)?;
                if response.status() != StatusCode::UNAUTHORIZED || refused.is_some() {
                    return Ok(response);
                }
                refused = Some(token);
            }
        })
    }
}

/// Whether the server asks for the token or for the session first.
#[derive(Clone, Copy, Debug)]
enum First {
    Token,
    Session,
}

/// Lets in who has a valid token.
fn guarded(
    router: Router,
    sessions: Arc<LocalSessionManager>,
    issuer: Issuer,
    first: First,
) -> Router {
    router.layer(middleware::from_fn(
        move |request: extract::Request, next: middleware::Next| {
            let (sessions, issuer) = (sessions.clone(), issuer.clone());
            async move {
                let headers = request.headers();
                let session = headers
                    .get("mcp-session-id")
                    .and_then(|it| it.to_str().ok());
                if let (First::Session, Some(id)) = (first, session) {
                    if !matches!(sessions.has_session(&id.into()).await, Ok(true)) {
                        return StatusCode::NOT_FOUND.into_response();
                    }
                }
                match issuer.is_valid(request.headers().get(header::AUTHORIZATION)) {
                    true => next.run(request).await,
                    false => StatusCode::UNAUTHORIZED.into_response(),
                }
            }
        },
    ))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    for first in [First::Token, First::Session] {
        let what = format!("{first:?}").to_lowercase();
        println!("the server looks at the {what} first");
        let issuer = Issuer::default();
        let wire = Arc::new(Mutex::new(Vec::new()));
        let server =
            Server::start_with(|router, sessions| guarded(router, sessions, issuer.clone(), first))
                .await?;
        let seen = wire.clone();
        let client = ServiceBuilder::new()
            .layer(SessionRecoveryLayer::new())
            .layer(AuthLayer::new(issuer.clone()))
            .layer(Wire::new(move |exchange| {
                println!("    {}", exchange.line());
                seen.lock().unwrap().push(exchange);
            }))
            .service(Client::builder(TokioExecutor::new()).build_http());
        let caller = Caller::connect(client, server.url()).await?;

        println!("  token and session expire");
        issuer.expire();
        server.forget_sessions().await;
        let refreshed = issuer.refreshed.load(Ordering::SeqCst);
        wire.lock().unwrap().clear();
        let answer = caller.call("count", json!({})).await?;
        println!("  the caller gets {:?}", answer.text()?);

        assert_eq!(issuer.refreshed.load(Ordering::SeqCst) - refreshed, 1);
        let wire = std::mem::take(&mut *wire.lock().unwrap());
        let opened = wire.iter().filter(|it| it.opened.is_some()).count();
        let refused = |status| wire.iter().filter(|it| it.status == Some(status)).count();
        assert_eq!((opened, refused(StatusCode::NOT_FOUND)), (1, 1));
        assert_eq!(refused(StatusCode::UNAUTHORIZED), 1);
        println!("  one refresh, one handshake");
    }
    Ok(())
}
