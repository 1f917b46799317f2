//! What a status other than 2xx is to rmcp.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use rmcp::{
    ErrorData,
    model::{ClientJsonRpcMessage, ClientRequest, JsonRpcRequest, ServerJsonRpcMessage},
    transport::streamable_http_client::{
        AuthRequiredError, HttpStatusError, InsufficientScopeError, StreamableHttpError,
        StreamableHttpPostResponse,
    },
};

use crate::Error;

/// What a client can act on to get access: a 401 or 403 with a challenge (RFC 9110, 11.6.1).
pub(crate) fn challenge(
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), StreamableHttpError<Error>> {
    if !is_denied(status) {
        return Ok(());
    }
    let Some(challenge) = headers.get(header::WWW_AUTHENTICATE) else {
        return Ok(());
    };
    let Ok(challenge) = challenge.to_str() else {
        let error = "the challenge of the server is not text";
        return Err(StreamableHttpError::UnexpectedServerResponse(error.into()));
    };
    Err(if status == StatusCode::UNAUTHORIZED {
        StreamableHttpError::AuthRequired(AuthRequiredError::new(challenge.to_owned()))
    } else {
        let scope = scope(challenge).map(str::to_owned);
        let error = InsufficientScopeError::new(challenge.to_owned(), scope);
        StreamableHttpError::InsufficientScope(error)
    })
}

pub(crate) fn is_denied(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The scope that a challenge asks for (RFC 6750, 3).
fn scope(challenge: &str) -> Option<&str> {
    const NAME: &str = "scope=";
    let start = challenge.to_ascii_lowercase().find(NAME)? + NAME.len();
    let value = &challenge[start..];
    match value.strip_prefix('"') {
        Some(quoted) => Some(quoted.split_once('"')?.0),
        None => {
            let ends = |c: char| c == ',' || c == ';' || c.is_whitespace();
            value.split(ends).next().filter(|scope| !scope.is_empty())
        }
    }
}

/// A server that is busy or broken: what is known of it without its body.
pub(crate) fn unavailable(status: StatusCode, headers: &HeaderMap) -> Option<HttpStatusError> {
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let retry_after = headers.get(header::RETRY_AFTER).map(HeaderValue::as_bytes);
    // One that is too long is left out by rmcp.
    let retry_after = retry_after.and_then(|value| str::from_utf8(value).ok());
    Some(HttpStatusError::new(
        status.as_u16(),
        retry_after.map(str::to_owned),
    ))
}

/// A server that refuses `server/discover` is an older one, or speaks another version: rmcp tells
/// which by the JSON-RPC error. What stands in front of a server often refuses without one.
pub(crate) fn of_discovery(
    message: &ClientJsonRpcMessage,
    in_session: bool,
    status: StatusCode,
    body: &str,
) -> Option<StreamableHttpPostResponse> {
    let ClientJsonRpcMessage::Request(JsonRpcRequest { id, request, .. }) = message else {
        return None;
    };
    let is_discovery = matches!(request, ClientRequest::DiscoverRequest(_));
    if in_session || !is_discovery || !status.is_client_error() || is_denied(status) {
        return None;
    }
    let error = json_rpc_error(body).unwrap_or_else(|| {
        let message = format!("server/discover was refused with HTTP {status}: {body}");
        ErrorData::invalid_request(message, None)
    });
    let error = ServerJsonRpcMessage::error(error, Some(id.clone()));
    Some(StreamableHttpPostResponse::Json(error, None))
}

fn json_rpc_error(body: &str) -> Option<ErrorData> {
    match serde_json::from_str(body) {
        Ok(ServerJsonRpcMessage::Error(error)) => Some(error.error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::scope;

    #[test]
    fn the_scope_of_a_challenge_is_found_however_it_is_written() {
        for (challenge, expected) in [
            (
                r#"Bearer error="insufficient_scope", scope="a:read b""#,
                Some("a:read b"),
            ),
            ("Bearer scope=a:read, error=\"x\"", Some("a:read")),
            ("Bearer SCOPE=a", Some("a")),
            ("Bearer scope=", None),
            (r#"Bearer scope="a"#, None),
            ("Bearer", None),
        ] {
            assert_eq!(scope(challenge), expected, "{challenge}");
        }
    }
}
