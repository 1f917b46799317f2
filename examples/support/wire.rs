//! A look at the wire: a tiny layer to be put *below* the session layer.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};

use super::BoxError;

const SESSION_ID: &str = "mcp-session-id";

/// Shows every exchange, once its response head has come. It holds request bodies whole to read
/// them, which is fine for an example and not for much else.
#[derive(Clone)]
pub struct Wire {
    ordinals: Arc<Ordinals>,
    show: Arc<dyn Fn(Exchange) + Send + Sync>,
}

/// One exchange. Session ids are secrets: a session is told by when it was first seen.
#[derive(Debug)]
pub struct Exchange {
    pub method: Method,
    /// The JSON-RPC method, or else what the request is for.
    pub what: String,
    /// The session that the request belonged to.
    pub session: Option<String>,
    /// The session that the response made.
    pub opened: Option<String>,
    /// Nothing if there was no response.
    pub status: Option<StatusCode>,
}

impl Exchange {
    /// The exchange in one line of columns.
    pub fn line(&self) -> String {
        let session = match (&self.session, &self.opened) {
            (_, Some(opened)) => format!("opens the {opened}"),
            (Some(session), None) => session.clone(),
            (None, None) => "none".to_owned(),
        };
        let status = self.status.map(|status| status.as_u16().to_string());
        format!(
            "{:<6} {:<27} {:<17} {}",
            self.method.as_str(),
            self.what,
            session,
            status.as_deref().unwrap_or("no response"),
        )
    }
}

impl Wire {
    pub fn new(show: impl Fn(Exchange) + Send + Sync + 'static) -> Self {
        Self {
            ordinals: Arc::default(),
            show: Arc::new(show),
        }
    }
}

impl<S> Layer<S> for Wire {
    type Service = OnTheWire<S>;

    fn layer(&self, inner: S) -> OnTheWire<S> {
        let wire = self.clone();
        OnTheWire { inner, wire }
    }
}

#[derive(Clone)]
pub struct OnTheWire<S> {
    inner: S,
    wire: Wire,
}

impl<S, B, R> Service<Request<B>> for OnTheWire<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The inner service is made ready once the body has been read.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { inner, wire } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let message: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut exchange = Exchange {
                method: parts.method.clone(),
                what: what(&parts, &message),
                session: wire.ordinals.of(&parts.headers),
                opened: None,
                status: None,
            };
            let answered = inner
                .oneshot(Request::from_parts(parts, Full::new(body)))
                .await
                .map_err(Into::into);
            if let Ok(response) = &answered {
                exchange.status = Some(response.status());
                let initialize = exchange.what == "initialize";
                exchange.opened = wire.ordinals.of(response.headers()).filter(|_| initialize);
            }
            (wire.show)(exchange);
            answered
        })
    }
}

fn what(request: &http::request::Parts, message: &Value) -> String {
    let resumes = request.headers.contains_key("last-event-id");
    let what = match message["method"].as_str() {
        Some(method) => method,
        None if request.method == Method::GET && resumes => "(resumes a stream)",
        None if request.method == Method::GET => "(listening stream)",
        None if request.method == Method::DELETE => "(end of the session)",
        None => "(a response)",
    };
    what.to_owned()
}

/// Numbers sessions in the order in which they are first seen.
#[derive(Default)]
pub struct Ordinals(Mutex<HashMap<Vec<u8>, usize>>);

impl Ordinals {
    fn of(&self, headers: &HeaderMap) -> Option<String> {
        let id = headers.get(SESSION_ID)?.as_bytes().to_owned();
        let mut seen = self.0.lock().unwrap();
        let next = seen.len();
        Some(match *seen.entry(id).or_insert(next) {
            0 => "first".to_owned(),
            1 => "second".to_owned(),
            2 => "third".to_owned(),
            number => format!("{}th", number + 1),
        })
    }
}
