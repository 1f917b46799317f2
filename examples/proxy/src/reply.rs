//! Answers to clients.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::BoxError;

/// How much of a refused request is read on, and how long, for its client to see the answer: one
/// that is still sending when the connection is closed sees an error instead.
const MAX_READ_ON: usize = 64 * 1024 * 1024;
const MAX_TIME_READ_ON: Duration = Duration::from_secs(5);

pub type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Reads what comes of a request that is refused.
pub async fn read_on(body: Incoming) {
    let mut body = Limited::new(body, MAX_READ_ON);
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(MAX_TIME_READ_ON, reading).await;
}

/// An answer of the proxy's own: one line of text.
pub fn say(status: StatusCode, line: &str) -> Reply {
    let mut reply = Response::new(boxed(format!("{line}\n")));
    *reply.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, text);
    reply
}

pub fn boxed(body: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, BoxError> {
    let body = Full::from(body.into());
    body.map_err(|never| match never {}).boxed_unsync()
}
