//! A caller of the wrapped service.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, response::Parts};
use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, Recovery, SessionRecovery};
use serde_json::json;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::{Feed, PROTOCOL_VERSION, SESSION_ID, ServerService, TestError, VERSION, settle, soon};

pub fn request(method: Method, session: Option<&HeaderValue>, body: Feed) -> Request<Feed> {
    let mut request = Request::builder()
        .method(&method)
        .uri("http://mcp.test/mcp")
        .header("accept", "application/json, text/event-stream");
    if method == Method::POST {
        request = request.header("content-type", "application/json");
    }
    if let Some(session) = session {
        request = request
            .header(SESSION_ID, session)
            .header(PROTOCOL_VERSION, VERSION);
    }
    request.body(body).expect("a request")
}

pub fn post(session: Option<&HeaderValue>, message: impl ToString) -> Request<Feed> {
    request(Method::POST, session, Feed::text(message.to_string()))
}

pub fn get(session: &HeaderValue) -> Request<Feed> {
    request(Method::GET, Some(session), Feed::of([]))
}

pub fn initialize() -> Request<Feed> {
    let params = json!({"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {}});
    let method = "initialize";
    post(
        None,
        json!({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}),
    )
}

/// The session id in an answer.
pub fn session_of(head: &Parts) -> Option<HeaderValue> {
    head.headers.get(SESSION_ID).cloned()
}

/// An answer, whose body a task of its own reads: nothing is read unless the body wakes it.
pub struct Answer {
    pub head: Parts,
    read: Arc<Mutex<Read>>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Read {
    chunks: Vec<Bytes>,
    end: Option<Result<Option<HeaderMap>, TestError>>,
}

/// Sends a request and begins to read the answer.
pub async fn send(
    client: &SessionRecovery<ServerService>,
    request: Request<Feed>,
) -> Result<Answer, TestError> {
    let response = soon(client.clone().oneshot(request)).await?;
    let (head, mut body) = response.into_parts();
    let read = Arc::<Mutex<Read>>::default();
    let reading = read.clone();
    let reader = tokio::spawn(async move {
        let mut trailers = None;
        let end = loop {
            match body.frame().await {
                None => break Ok(trailers),
                Some(Err(broken)) => break Err(broken),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        assert!(trailers.is_none(), "data after trailers");
                        reading.lock().unwrap().chunks.push(chunk);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
            }
        };
        reading.lock().unwrap().end = Some(end);
    });
    settle().await;
    Ok(Answer { head, read, reader })
}

impl Answer {
    /// The chunks so far.
    pub fn chunks(&self) -> Vec<Bytes> {
        self.read.lock().unwrap().chunks.clone()
    }

    /// How the body ended, if it has.
    pub fn end(&self) -> Option<Result<Option<HeaderMap>, TestError>> {
        self.read.lock().unwrap().end.clone()
    }

    pub fn outcome(&self) -> Option<Outcome> {
        let recovery = self.head.extensions.get::<Recovery>();
        recovery.map(|recovery| recovery.outcome())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
