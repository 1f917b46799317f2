//! Media types, as far as MCP knows them.

use http::{HeaderMap, HeaderValue, header};

pub(crate) const JSON: &str = "application/json";
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Whether the body is of that media type, with whatever parameters (RFC 9110, 8.3.1).
pub(crate) fn is(headers: &HeaderMap, media_type: &str) -> bool {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|&byte| byte == b';').next());
    essence.is_some_and(|essence| {
        let essence = essence.trim_ascii();
        essence.eq_ignore_ascii_case(media_type.as_bytes())
    })
}

/// The header as text, for an error to show.
pub(crate) fn of(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    value.map(|value| String::from_utf8_lossy(value).into_owned())
}
