//! A call whose connection broke after it was sent.
//!
//! Whether it was executed nobody can tell, so it is not sent again. To some clients (Python's
//! SDK 1.x) a 502 is the end of the whole session; a JSON-RPC error is the end of one call.

use http::{HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};

/// The answer to a POST of JSON-RPC requests that will not be answered. `None` if there is none of
/// them in `body`, or an `initialize`: then there is no session to be kept alive.
pub fn answer(method: &Method, body: &[u8]) -> Option<Response<String>> {
    if *method != Method::POST {
        return None;
    }
    let body = match serde_json::from_slice(body).ok()? {
        Value::Array(batch) => {
            let errors: Vec<_> = batch.iter().filter_map(error).collect();
            (!errors.is_empty()).then_some(Value::Array(errors))
        }
        message => error(&message),
    }?;
    let mut response = Response::new(body.to_string());
    *response.status_mut() = StatusCode::OK;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Some(response)
}

/// The same that the layer says in a stream that ends without its answer.
fn error(message: &Value) -> Option<Value> {
    let (id, method) = (message.get("id")?, message.get("method")?);
    if method == "initialize" || id.is_null() {
        return None;
    }
    let error = json!({
        "code": -32000,
        "message": "The response was lost; the request may have been executed",
        "data": { "reason": "connection_lost" },
    });
    Some(json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}
