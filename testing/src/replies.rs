//! What a server answers.

use std::fmt;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use serde_json::Value;

use crate::{Feed, Script};

pub type TestBody = BoxBody<Bytes, TestError>;
pub type Reply = Response<TestBody>;

/// The error of a test server's bodies and of [`failing`] services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestError(pub &'static str);

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for TestError {}

pub fn reply(status: u16, content_type: Option<&str>, body: &str) -> Reply {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let mut reply = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *reply.status_mut() = StatusCode::from_u16(status).unwrap();
    if let Some(content_type) = content_type {
        reply
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
    }
    reply
}

pub fn json_reply(status: u16, body: &Value) -> Reply {
    reply(status, Some("application/json"), &body.to_string())
}

/// An event stream that ends by itself.
pub fn sse(events: &str) -> Reply {
    reply(200, Some("text/event-stream"), events)
}

/// An event stream in which nothing ever happens.
pub fn pending_sse() -> Reply {
    stream(Script::new().pending())
}

/// A 200 with an event stream that goes as scripted.
pub fn stream(script: Script) -> Reply {
    let mut reply = Response::new(script.boxed());
    reply
        .headers_mut()
        .insert("content-type", "text/event-stream".parse().unwrap());
    reply
}

/// A 200 with an event stream that is fed from a test.
pub fn fed_stream(feed: Feed) -> Reply {
    let mut reply = Response::new(BodyExt::boxed(feed));
    reply
        .headers_mut()
        .insert("content-type", "text/event-stream".parse().unwrap());
    reply
}
