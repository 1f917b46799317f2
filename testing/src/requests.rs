//! What a caller sends.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use serde_json::{Value, json};

use crate::TestError;

pub const URI: &str = "http://mcp.test/mcp";
pub const SESSION_ID: &str = "mcp-session-id";
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
pub const LAST_EVENT_ID: &str = "last-event-id";
pub const VERSION: &str = "2025-11-25";

pub type CallerBody = BoxBody<Bytes, TestError>;

pub fn full(body: impl Into<Bytes>) -> CallerBody {
    Full::new(body.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

pub fn request(
    method: Method,
    session: Option<&str>,
    body: impl Into<Bytes>,
) -> Request<CallerBody> {
    let post = method == Method::POST;
    let mut request = Request::builder()
        .method(method)
        .uri(URI)
        .header("accept", "application/json, text/event-stream")
        .header("authorization", "Bearer secret-token");
    if post {
        request = request.header("content-type", "application/json");
    }
    if let Some(session) = session {
        request = request
            .header(SESSION_ID, session)
            .header(PROTOCOL_VERSION, VERSION);
    }
    request.body(full(body)).unwrap()
}

pub fn post(session: Option<&str>, message: &Value) -> Request<CallerBody> {
    request(Method::POST, session, message.to_string())
}

pub fn get(session: &str, last_event_id: Option<&str>) -> Request<CallerBody> {
    let mut request = request(Method::GET, Some(session), "");
    if let Some(id) = last_event_id {
        request
            .headers_mut()
            .insert(LAST_EVENT_ID, id.parse().unwrap());
    }
    request
}

pub fn delete(session: &str) -> Request<CallerBody> {
    request(Method::DELETE, Some(session), "")
}

pub fn initialize() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "caller", "version": "1"}},
    })
}

pub fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

pub fn tool_call(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {"n": id}}})
}
