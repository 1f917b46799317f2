//! A caller with the layer, and what it is answered.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use mcp_session_recovery::{
    Recovery, RequestBody, ResponseBody, SessionRecovery, SessionRecoveryLayer,
};
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};

use crate::{
    CallerBody, Reply, SESSION_ID, Server, ServerService, TestError, initialize, initialized, post,
};

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
