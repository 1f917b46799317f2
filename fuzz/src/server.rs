//! A server as the inner service.

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use mcp_session_recovery::RequestBody;
use serde_json::Value;
use tower::util::BoxCloneSyncService;

use crate::{Broken, SESSION_ID, Wire};

/// A request as it arrived.
#[derive(Debug)]
pub struct Seen {
    pub method: Method,
    pub headers: HeaderMap,
    pub frames: Vec<Bytes>,
    /// How its body ended: with trailers or not, or broken.
    pub end: Result<Option<HeaderMap>, Broken>,
}

impl Seen {
    async fn read(request: Request<RequestBody<Wire>>) -> Self {
        let (head, mut body) = request.into_parts();
        let (mut frames, mut end) = (Vec::new(), Ok(None));
        while let Some(frame) = body.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => frames.push(data),
                Ok(Err(frame)) => end = Ok(frame.into_trailers().ok()),
                Err(broken) => {
                    end = Err(broken);
                    break;
                }
            }
        }
        Self {
            method: head.method,
            headers: head.headers,
            frames,
            end,
        }
    }

    /// The JSON-RPC message, or null.
    pub fn message(&self) -> Value {
        serde_json::from_slice(&self.frames.concat()).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }

    pub fn session(&self) -> Option<&[u8]> {
        self.header(SESSION_ID)
    }
}

/// What a server does about a request.
pub enum Acts {
    Answers(Response<Wire>),
    AnswersLate(Response<Wire>, Duration),
    /// The transport fails.
    Fails,
    /// No answer ever comes.
    Hangs,
}

impl From<Response<Wire>> for Acts {
    fn from(reply: Response<Wire>) -> Self {
        Self::Answers(reply)
    }
}

pub type Service = BoxCloneSyncService<Request<RequestBody<Wire>>, Response<Wire>, Broken>;

/// A server that reads each request to its end and then does as `acts` says.
pub fn serve(acts: impl Fn(Seen) -> Acts + Send + Sync + 'static) -> Service {
    let acts = Arc::new(acts);
    BoxCloneSyncService::new(tower::service_fn(move |request| {
        let acts = acts.clone();
        async move {
            match acts(Seen::read(request).await) {
                Acts::Answers(reply) => Ok(reply),
                Acts::AnswersLate(reply, after) => {
                    tokio::time::sleep(after).await;
                    Ok(reply)
                }
                Acts::Fails => Err(Broken),
                Acts::Hangs => pending().await,
            }
        }
    }))
}

pub fn reply(status: u16, content_type: &'static str, body: Wire) -> Response<Wire> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(body)
        .expect("a response")
}

pub fn json_reply(status: u16, message: &Value) -> Response<Wire> {
    reply(status, "application/json", Wire::text(message.to_string()))
}
